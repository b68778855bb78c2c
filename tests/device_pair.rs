//! Two whole devices over an in-memory network, under a clock turned by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;

use common::World;
use std::time::Duration;
use wg_embed::device::Event;

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
