//! A machine that was suspended has no sessions when it wakes, as with the kernel's WireGuard.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;

use std::time::Duration;

use common::{Node, World};
use wg_embed::device::Event;

const SECOND: Duration = Duration::from_secs(1);

fn connected(world: &World) -> (Node, Node) {
    let (a, b) = world.pair();
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    world.clock.advance(10 * SECOND);
    world.pass(SECOND, &[&a, &b]);
    assert_eq!(b.received().len(), 1);
    a.events.lock().unwrap().clear();
    world.sent();
    (a, b)
}

#[test]
fn sessions_are_forgotten_and_made_again_when_something_is_sent() {
    let world = World::new();
    let (a, b) = connected(&world);
    world.clock.sleep(20 * SECOND);
    a.device.run_timers();
    assert_eq!((a.device.indices(), a.device.current_session(&b.public()).is_none()), (0, true));
    assert_eq!(*a.events.lock().unwrap(), [Event::SessionExpired(b.public())]);
    let packet = a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!((world.sent_types(), b.received()), (vec![1, 2, 4], vec![packet]));
    // Once.
    a.events.lock().unwrap().clear();
    a.device.run_timers();
    assert!(a.device.current_session(&b.public()).is_some());
    assert_eq!(*a.events.lock().unwrap(), []);
}

#[test]
fn time_that_the_machine_was_awake_changes_nothing() {
    let world = World::new();
    let (a, b) = connected(&world);
    for (awake, asleep) in [(20 * SECOND, Duration::ZERO), (SECOND, SECOND / 100)] {
        world.clock.advance(awake);
        world.clock.sleep(asleep);
        a.device.run_timers();
        assert!(a.device.current_session(&b.public()).is_some());
    }
}

#[test]
fn persistent_keepalives_and_handshakes_under_way_go_on() {
    let world = World::new();
    let (a, b) = connected(&world);
    a.change_peer(&b, |peer| peer.persistent_keepalive = Some(15));
    world.settle(&[&a, &b]);
    world.sent();
    world.clock.sleep(20 * SECOND);
    a.device.run_timers();
    a.device.run_timers();
    world.settle(&[&a, &b]);
    assert_eq!(world.sent_types(), [1, 2, 0], "the keepalive that came due makes a session");
    // What waits for an answer is tried again.
    let (c, d) = (world.node(3), world.node(4));
    c.add_peer(&d, |_| {});
    d.add_peer(&c, |_| {});
    c.send_to(&d, 100);
    c.step();
    world.clock.sleep(20 * SECOND);
    d.device.run_timers();
    c.device.run_timers();
    world.pass(10 * SECOND, &[&c, &d]);
    assert_eq!(d.received().len(), 1);
}

/// Threads that are kept busy come to no wait, and functions of the app's use sessions on its own threads.
#[test]
fn whatever_comes_first_forgets_them() {
    let world = World::new();
    let (a, b) = connected(&world);
    // A packet that was in the TUN already.
    world.clock.sleep(20 * SECOND);
    a.send_to(&b, 100);
    a.step();
    assert_eq!(world.sent_types(), [1]);
    world.settle(&[&a, &b]);
    assert_eq!(b.received().len(), 1);
    // A datagram that was in the socket already.
    b.send_to(&a, 100);
    b.step();
    assert_eq!(world.sent_types().last(), Some(&4));
    world.clock.sleep(20 * SECOND);
    a.receive();
    assert_eq!((a.received().len(), a.stat("in_unknown_index"), a.device.indices()), (0, 1, 0));
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(b.received().len(), 1);
    world.sent();
    // A configuration that has something sent at once.
    world.clock.sleep(20 * SECOND);
    a.events.lock().unwrap().clear();
    a.change_peer(&b, |peer| peer.persistent_keepalive = Some(15));
    assert_eq!(world.sent_types(), [1]);
    assert_eq!(*a.events.lock().unwrap(), [Event::SessionExpired(b.public())]);
}

/// An initiation from before is not completed with a response that had arrived by then.
#[test]
fn a_handshake_under_way_is_forgotten_with_the_rest() {
    let world = World::new();
    let (a, b) = world.pair();
    a.send_to(&b, 100);
    a.step();
    b.receive();
    assert_eq!(world.sent_types(), [1, 2]);
    world.clock.sleep(20 * SECOND);
    a.receive();
    assert!(a.device.current_session(&b.public()).is_none());
    world.pass(10 * SECOND, &[&a, &b]);
    assert_eq!(b.received().len(), 1);
}
