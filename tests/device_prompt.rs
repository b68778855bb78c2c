//! Answers that are there before `send` returns: a device has two threads, and the one that sends may be held up while
//! the other receives. Here this happens every time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{
    Node, World,
    around::{Around, Changed},
    times,
};
use wg_embed::{
    bind::{
        Bind, SendReport, Transmit,
        mem::{Action, MemBind},
    },
    device::Options,
};

const SECOND: Duration = Duration::from_secs(1);

/// What happens before the next `send` returns.
type Meanwhile = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// A bind whose `send` may return late.
struct Late {
    bind: Arc<MemBind>,
    meanwhile: Meanwhile,
}

impl Around for Late {
    fn inner(&self) -> &MemBind {
        &self.bind
    }

    fn send(&self, batch: &[Transmit<'_>]) -> SendReport {
        let report = self.bind.send(batch);
        let meanwhile = self.meanwhile.lock().unwrap().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        report
    }
}

/// Two nodes that know each other; the first one's `send` can be late.
fn late_pair(world: &World) -> (Arc<Node>, Arc<Node>, Meanwhile) {
    let meanwhile = Meanwhile::default();
    let late = |bind| Arc::new(Changed(Late { bind, meanwhile: meanwhile.clone() })) as Arc<dyn Bind>;
    let (a, b) = (world.node_of(1, Options::default(), late), world.node(2));
    a.add_peer(&b, |_| {});
    b.add_peer(&a, |_| {});
    (Arc::new(a), Arc::new(b), meanwhile)
}

/// Lets `a` send a packet that `b` answers, with a packet of its own if it has a session, before the `send` returns.
fn send_late(world: &World, a: &Arc<Node>, b: &Arc<Node>, meanwhile: &Meanwhile, answer: bool) {
    let (clock, here, there) = (world.clock.clone(), a.clone(), b.clone());
    *meanwhile.lock().unwrap() = Some(Box::new(move || {
        clock.advance(Duration::from_micros(50));
        if answer {
            there.send_to(&here, 100);
        }
        while there.step() > 0 {}
        clock.advance(Duration::from_micros(50));
        while here.receive() > 0 {}
    }));
    a.send_to(b, 100);
    world.settle(&[a, b]);
    assert!(meanwhile.lock().unwrap().is_none());
    assert_eq!(b.received().len(), 1);
    assert_eq!(a.received().len(), usize::from(answer));
}

#[test]
fn an_initiation_that_was_answered_meanwhile_is_not_retried() {
    let world = World::new();
    let (a, b, meanwhile) = late_pair(&world);
    send_late(&world, &a, &b, &meanwhile, false);
    assert_eq!(world.sent_types(), [1, 2, 4]);
    let seen = world.watch(60 * SECOND, &[&a, &b]);
    assert_eq!(times(&seen, &a, 1).len() + times(&seen, &b, 1).len(), 0);
}

#[test]
fn data_that_was_answered_meanwhile_is_not_missed_and_the_answer_is_acknowledged() {
    let world = World::new();
    let (a, b, meanwhile) = late_pair(&world);
    a.send_to(&b, 100);
    world.watch(20 * SECOND, &[&a, &b]);
    b.received();

    send_late(&world, &a, &b, &meanwhile, true);
    assert_eq!(world.sent_types(), [4, 4]);
    let seen = world.watch(60 * SECOND, &[&a, &b]);
    assert_eq!(times(&seen, &a, 1).len(), 0, "nothing is missing");
    assert_eq!(times(&seen, &b, 1).len(), 0, "b has been told that its packet arrived");
    assert_eq!(times(&seen, &a, 0).len(), 1);
}

/// Has `a` drop its session with `other` before the next `send` returns.
fn drop_late(a: &Arc<Node>, other: &Node, meanwhile: &Meanwhile) {
    let (here, key) = (a.clone(), other.public());
    *meanwhile.lock().unwrap() = Some(Box::new(move || here.device.drop_session(Some(&key)).unwrap()));
}

/// The session was dropped during a `send`, and `a` is as if it had just been configured: nothing is under way.
fn assert_dropped(world: &World, a: &Node, meanwhile: &Meanwhile) {
    assert!(meanwhile.lock().unwrap().is_none());
    assert_eq!((a.device.indices(), a.device.next_deadline()), (0, None));
    world.sent();
    world.pass(600 * SECOND, &[a]);
    assert_eq!(world.sent_types(), []);
}

#[test]
fn a_session_that_is_dropped_while_a_packet_is_sent_leaves_nothing_behind() {
    let world = World::new();
    let (a, b, meanwhile) = late_pair(&world);
    // A packet that waited for the session.
    a.send_to(&b, 100);
    a.step();
    b.step();
    drop_late(&a, &b, &meanwhile);
    a.step();
    assert_dropped(&world, &a, &meanwhile);

    // One that did not wait.
    a.send_to(&b, 100);
    world.watch(20 * SECOND, &[&a, &b]);
    drop_late(&a, &b, &meanwhile);
    a.send_to(&b, 100);
    a.step();
    assert_dropped(&world, &a, &meanwhile);

    // A keepalive.
    a.send_to(&b, 100);
    world.watch(20 * SECOND, &[&a, &b]);
    b.send_to(&a, 100);
    b.step();
    a.step();
    drop_late(&a, &b, &meanwhile);
    world.clock.advance(10 * SECOND);
    a.device.run_timers();
    assert_dropped(&world, &a, &meanwhile);
}

#[test]
fn a_handshake_that_is_dropped_while_its_message_is_sent_leaves_nothing_behind() {
    for is_initiator in [true, false] {
        let world = World::new();
        let (a, b, meanwhile) = late_pair(&world);
        let (from, to) = if is_initiator { (&a, &b) } else { (&b, &a) };
        from.send_to(to, 100);
        drop_late(&a, &b, &meanwhile);
        b.step();
        a.step();
        assert_dropped(&world, &a, &meanwhile);
    }
}

/// Datagrams of two peers come in at once. The first peer's lets a packet be sent, and by then the other's session is
/// dropped.
#[test]
fn what_was_decrypted_before_a_session_was_dropped_is_not_accepted_after_it() {
    let world = World::new();
    let (a, b, meanwhile) = late_pair(&world);
    let c = world.node(3);
    a.add_peer(&c, |_| {});
    c.add_peer(&a, |_| {});
    c.send_to(&a, 100);
    world.watch(20 * SECOND, &[&a, &b, &c]);
    // What comes from `b` next confirms a session, for which a packet waits.
    b.send_to(&a, 100);
    b.step();
    a.step();
    a.send_to(&b, 100);
    a.step();
    a.received();
    b.step();
    world.sent();
    // What comes from `c`, from another port.
    world.net.set_filter(|_| Action::Drop);
    c.send_to(&a, 100);
    c.send_to(&a, 200);
    c.step();
    world.net.clear_filter();
    for d in world.sent() {
        world.net.inject(SocketAddr::new(c.address, 7), d.to, &d.payload, 0);
    }

    drop_late(&a, &c, &meanwhile);
    let (before, unknown) = (a.peer(&c.public()), a.stat("in_unknown_index"));
    a.receive();
    assert_eq!(a.received().len(), 1, "that of the first peer");
    let after = a.peer(&c.public());
    assert_eq!((after.rx_bytes, after.endpoint), (before.rx_bytes, before.endpoint));
    assert_eq!(a.stat("in_unknown_index") - unknown, 2);
    a.device.drop_session(Some(&b.public())).unwrap();
    assert_dropped(&world, &a, &meanwhile);
}
