//! Paths that are slow, lose, reorder, duplicate and damage packets. A relay does so: kernels without sch_netem, too.

use std::time::Duration;

use crate::{
    common::{Path, pattern},
    link::{Link, WAYS},
    netns::as_root,
    relay::Trouble,
    sockets::exchange,
};

const MS: Duration = Duration::from_millis(1);

/// Sends so many bytes each way, with each side as the one that dials.
fn arrives(trouble: Trouble, size: usize) {
    as_root(|| {
        let link = Link::new();
        for way in WAYS {
            link.set_trouble(trouble);
            let (ours, theirs) = link.connect(way);
            let before = link.relay().troubled();
            exchange(&ours, &theirs, &pattern(size), &pattern(size + 1));
            let troubled = link.relay().troubled() - before;
            let is_plain =
                (trouble.path.loss, trouble.path.twice, trouble.path.reordered, trouble.damaged) == (0, 0, 0, 0);
            assert_eq!(troubled == 0, is_plain, "{trouble:?}: {troubled}");
            // Those that have ended are left alone by what comes late.
            link.set_trouble(Trouble::default());
            drop((ours, theirs));
            link.await_nothing();
        }
    });
}

#[test]
fn a_long_path() {
    arrives(Trouble { path: Path { delay: 25 * MS, ..Path::default() }, damaged: 0 }, (2 << 20) + 1);
}

#[test]
fn a_path_that_loses() {
    arrives(Trouble { path: Path { delay: 2 * MS, loss: 20, ..Path::default() }, damaged: 0 }, (1 << 20) - 1);
}

#[test]
fn a_path_that_loses_much() {
    arrives(Trouble { path: Path { delay: MS, loss: 100, ..Path::default() }, damaged: 0 }, 100_001);
}

#[test]
fn a_path_that_reorders() {
    let path = Path { delay: MS, reordered: 100, late: 10 * MS, ..Path::default() };
    arrives(Trouble { path, damaged: 0 }, 1 << 20);
}

#[test]
fn a_path_that_duplicates() {
    arrives(Trouble { path: Path { delay: MS, twice: 200, ..Path::default() }, damaged: 0 }, 1 << 20);
}

#[test]
fn a_path_that_damages() {
    arrives(Trouble { path: Path { delay: MS, ..Path::default() }, damaged: 20 }, 500_000);
}

#[test]
fn a_path_with_every_trouble() {
    let path = Path { delay: 5 * MS, loss: 20, twice: 50, reordered: 100, late: 20 * MS };
    arrives(Trouble { path, damaged: 10 }, 300_000);
}
