//! Two whole devices over an in-memory network, under a clock turned by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;

use common::World;
use std::time::Duration;
use wg_embed::{
    bind::mem::Action,
    device::{Event, FIXED_MEMORY, Options, STAGED_OVERHEAD},
    tun::{Tun, mem::MemTun},
};

#[test]
fn packets_find_their_way_after_one_handshake() {
    let world = World::new();
    let (a, b) = world.pair();
    let sent: Vec<_> = (0..5).map(|i| a.send_to(&b, 100 + i)).collect();
    world.settle(&[&a, &b]);
    assert_eq!(b.received(), sent);
    assert_eq!(world.sent_types(), [1, 2, 4, 4, 4, 4, 4]);
    let back = b.send_to(&a, 1420);
    world.settle(&[&a, &b]);
    assert_eq!(a.received(), [back]);
    assert_eq!(*a.events.lock().unwrap(), [Event::HandshakeCompleted(b.public())]);
    assert_eq!(*b.events.lock().unwrap(), [Event::HandshakeCompleted(a.public())]);
}

#[test]
fn an_idle_pair_sends_one_keepalive_and_then_nothing() {
    let world = World::new();
    let (a, b) = world.pair();
    a.send_to(&b, 100);
    world.pass(Duration::from_secs(600), &[&a, &b]);
    assert_eq!(world.sent_types(), [1, 2, 4, 0]);
    assert_eq!(a.device.indices() + b.device.indices(), 0, "old keys are wiped");
}

#[test]
fn at_the_memory_limit_packets_are_dropped_and_counted_and_the_tunnel_still_comes_up() {
    let world = World::new();
    // Two packets on top of the fixed buffers, and of the queue that this TUN has.
    let memory = FIXED_MEMORY + MemTun::new("", 1420).0.queue_limit() + 2 * (1452 + STAGED_OVERHEAD);
    let a = world.node_of(1, Options { memory, ..Options::default() }, |bind| bind);
    let (b, c) = (world.node(2), world.node(3));
    for (from, to) in [(&a, &b), (&b, &a), (&a, &c), (&c, &a)] {
        from.add_peer(to, |_| {});
    }
    world.net.set_filter(|_| Action::Drop);
    (0..5).for_each(|_| drop(a.send_to(&b, 1420)));
    world.settle(&[&a, &b, &c]);
    a.send_to(&c, 1420);
    world.settle(&[&a, &b, &c]);
    assert_eq!(a.stat("out_memory_full"), 4);
    assert_eq!(world.sent_types(), [1, 1], "each peer is asked for a session");
    world.net.clear_filter();
    world.pass(Duration::from_secs(6), &[&a, &b, &c]);
    assert_eq!((b.received().len(), c.received().len()), (1, 1), "the one that held more has made room");
    a.send_to(&c, 1420);
    world.settle(&[&a, &b, &c]);
    assert_eq!(c.received().len(), 1, "the session is there, and the memory free again");
}

/// Keepalives come to the nanosecond here, so two ends whose handshakes cross once would cross for ever.
#[test]
fn ends_that_begin_in_the_same_moment_do_not_undo_each_other_for_ever() {
    for seconds in [1, 4, 5, 6, 25] {
        let world = World::new();
        let (a, b) = world.pair();
        world.net.set_filter(|_| Action::Drop);
        for (from, to) in [(&a, &b), (&b, &a)] {
            from.change_peer(to, |p| p.persistent_keepalive = Some(seconds));
        }
        world.pass(Duration::from_secs(180), &[&a, &b]);
        world.net.clear_filter();
        // Three tries for each, and the longest silence after giving up.
        world.pass(Duration::from_secs(if seconds == 25 { 45 } else { 20 }), &[&a, &b]);
        let known = |e: &Event| matches!(e, Event::HandshakeCompleted(_));
        assert!(a.events.lock().unwrap().iter().any(known), "keepalives every {seconds} s");
        assert!(b.events.lock().unwrap().iter().any(known), "keepalives every {seconds} s");
    }
}
