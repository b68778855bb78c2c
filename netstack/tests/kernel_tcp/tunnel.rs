//! The kernel's TCP behind a tunnel: its large packets are cut up and put together by the tunnel at its side.

use std::{
    io::ErrorKind,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
};

use wg_embed::bind::mem::Action;

use crate::{
    common::{Seeded, kind, pattern},
    kernel,
    link::{Link, WAYS},
    netns::as_root,
    sockets::{exchange, read_all, reset_by_close},
};

#[test]
fn every_byte_arrives_in_large_packets() {
    as_root(|| {
        const SIZE: usize = (4 << 20) + 1;
        /// What a packet of the tunnel's MTU holds, with timestamps.
        const SEGMENT: usize = 1368;
        let link = Link::tunnel();
        for way in WAYS {
            let before = (link.netns.sent(kernel::NAME), link.netns.received(kernel::NAME));
            let (ours, theirs) = link.connect(way);
            exchange(&ours, &theirs, &pattern(SIZE), &pattern(SIZE - 1));
            let sent = link.netns.sent(kernel::NAME) - before.0;
            let received = link.netns.received(kernel::NAME) - before.1;
            println!("{sent} packets sent, {received} received");
        }
        for way in WAYS {
            let before = link.netns.sent(kernel::NAME);
            let (ours, theirs) = link.connect(way);
            exchange(&ours, &theirs, &[], &pattern(SIZE));
            let sent = link.netns.sent(kernel::NAME) - before;
            // Fewer than segments, whatever else it sends: there are large ones.
            assert!(sent < (SIZE / SEGMENT) as u64, "the kernel sends {sent} packets");
        }
        for way in WAYS {
            for size in [0, 1, 1367, 1368, 1369, 65_535, 65_537, 1 << 20] {
                let (ours, theirs) = link.connect(way);
                exchange(&ours, &theirs, &pattern(size), &pattern(size + 1));
            }
        }
        link.await_nothing();
    });
}

#[test]
fn a_network_with_every_trouble() {
    as_root(|| {
        let link = Link::tunnel();
        let (ours, theirs) = link.connect(WAYS[0]);
        let chance = Seeded::new(5);
        link.network().set_filter(move |datagram| match chance.next() % 100 {
            0 | 1 => Action::Drop,
            2 | 3 => Action::Duplicate,
            4..10 => Action::Hold,
            10 => {
                let place = chance.next() as usize % datagram.payload.len();
                datagram.payload[place] ^= 1;
                Action::Deliver
            }
            _ => Action::Deliver,
        });
        exchange(&ours, &theirs, &pattern(500_000), &pattern(500_001));
        for way in WAYS {
            let (ours, theirs) = link.connect(way);
            exchange(&ours, &theirs, &pattern(300_000), &pattern(300_001));
        }
        link.network().clear_filter();
        link.network().release();
        drop((ours, theirs));
        link.await_nothing();
    });
}

#[test]
fn resets_and_many_connections_leave_nothing() {
    as_root(|| {
        let link = Link::tunnel();
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let n @ 0..1000 = next.fetch_add(1, Relaxed) {
                        let (ours, theirs) = link.connect(WAYS[n % 4]);
                        match n % 3 {
                            0 => exchange(&ours, &theirs, b"question", b"answer"),
                            1 => {
                                ours.reset();
                                assert_eq!(kind(read_all(&theirs)), ErrorKind::ConnectionReset);
                            }
                            _ => {
                                reset_by_close(theirs);
                                assert_eq!(kind(read_all(&ours)), ErrorKind::ConnectionReset);
                            }
                        }
                    }
                });
            }
        });
        link.await_nothing();
    });
}
