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
    a.device.notice_sleep();
    assert_eq!((a.device.indices(), a.device.current_session(&b.public()).is_none()), (0, true));
    assert_eq!(*a.events.lock().unwrap(), [Event::SessionExpired(b.public())]);
    let packet = a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!((world.sent_types(), b.received()), (vec![1, 2, 4], vec![packet]));
    // Once.
    a.events.lock().unwrap().clear();
    a.device.notice_sleep();
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
        a.device.notice_sleep();
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
    a.device.notice_sleep();
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
    d.device.notice_sleep();
    c.device.notice_sleep();
    world.pass(10 * SECOND, &[&c, &d]);
    assert_eq!(d.received().len(), 1);
}
