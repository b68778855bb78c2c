//! Bytes of all sizes around the borders of segments and buffers, both ways.

use crate::{
    common::pattern,
    link::{Link, MTU, WAYS},
    netns::as_root,
    sockets::{End, assert_same, exchange, read_all, write_and_end},
};

/// Sizes around the borders of a full segment, of what a window without scale has, and of buffers.
fn sizes(family: usize) -> Vec<usize> {
    const TCP_WITH_TIMESTAMPS: usize = 32;
    let segment = usize::from(MTU) - [20, 40][family] - TCP_WITH_TIMESTAMPS;
    let mut sizes = vec![0, 1, (4 << 20) + 1];
    for border in [segment, 2 * segment, 4096, 64 << 10, 1 << 20] {
        sizes.extend(border - 1..=border + 1);
    }
    sizes
}

#[test]
fn every_byte_arrives_both_ways_at_once() {
    as_root(|| {
        let link = Link::new();
        for way in WAYS {
            for size in sizes(way.0) {
                let (ours, theirs) = link.connect(way);
                exchange(&ours, &theirs, &pattern(size), &pattern(size + 1));
            }
        }
        link.await_nothing();
    });
}

#[test]
fn every_byte_arrives_one_way_after_the_other() {
    as_root(|| {
        let link = Link::new();
        for way in WAYS {
            for size in sizes(way.0).into_iter().filter(|size| *size <= 1 << 20) {
                let (ours, theirs) = link.connect(way);
                let ends: [&dyn End; 2] = [&ours, &theirs];
                for (from, to) in [(0, 1), (1, 0)] {
                    let data = pattern(size);
                    std::thread::scope(|scope| {
                        scope.spawn(|| write_and_end(ends[from], &data));
                        assert_same("the other side", &read_all(ends[to]).unwrap(), &data);
                    });
                }
            }
        }
        link.await_nothing();
    });
}

#[test]
fn small_writes_are_put_together_in_order() {
    use std::io::Write;
    as_root(|| {
        let link = Link::new();
        let data = pattern(200_000);
        for way in WAYS {
            let (ours, theirs) = link.connect(way);
            theirs.set_nodelay(way.1).unwrap();
            ours.set_nodelay(way.1);
            let ends: [&dyn End; 2] = [&ours, &theirs];
            std::thread::scope(|scope| {
                for end in ends {
                    let data = &data;
                    scope.spawn(move || {
                        // Of 1 to 1000 bytes.
                        let (mut rest, mut writer) = (&data[..], end.writer());
                        let mut size = 1;
                        while !rest.is_empty() {
                            let (some, others) = rest.split_at(size.min(rest.len()));
                            writer.write_all(some).unwrap();
                            rest = others;
                            size = size * 7 % 1000 + 1;
                        }
                        end.end().unwrap();
                    });
                    scope.spawn(move || assert_same("small writes", &read_all(end).unwrap(), data));
                }
            });
        }
        link.await_nothing();
    });
}
