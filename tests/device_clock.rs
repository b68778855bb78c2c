//! What takes its time in the middle of something: an app that opens, sends, looks up or is told. No reading of the
//! clock from before counts afterwards.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{
    Node, World,
    around::{Around, Changed},
    kind,
};
use wg_embed::{
    bind::{Bind, SendReport, Transmit, mem::MemBind},
    config::{PeerUpdate, Update},
    device::Options,
    time::{Clock, Instant, ManualClock},
};

const SECOND: Duration = Duration::from_secs(1);
/// Shortly before a session is over.
const OLD: Duration = Duration::from_secs(177);
/// The age at which it is over.
const OVER: Duration = Duration::from_secs(180);

/// A bind whose calls take five seconds while it is slow; it notes when each data message was given to it.
struct Slow {
    inner: Arc<MemBind>,
    clock: Arc<ManualClock>,
    opens_slowly: AtomicBool,
    sends_slowly: AtomicBool,
    data: Mutex<Vec<Instant>>,
}

impl Slow {
    fn pass(&self, is_slow: &AtomicBool) {
        if is_slow.load(Ordering::Relaxed) {
            self.clock.advance(5 * SECOND);
        }
    }
}

impl Around for Slow {
    fn inner(&self) -> &MemBind {
        &self.inner
    }

    fn open(&self, port: u16) -> io::Result<u16> {
        self.pass(&self.opens_slowly);
        self.inner.open(port)
    }
    fn send(&self, batch: &[Transmit<'_>]) -> SendReport {
        if batch.iter().any(|transmit| transmit.contents[0] == 4) {
            self.data.lock().unwrap().push(self.clock.now());
        }
        let report = self.inner.send(batch);
        self.pass(&self.sends_slowly);
        report
    }
}

/// What it is called, what is done, and which messages that sends.
type Case<'a> = (&'a str, &'a dyn Fn(&Old), &'a [u8]);

/// A node with sessions with two others, all of which are old.
struct Old {
    world: World,
    node: Node,
    others: [Node; 2],
    bind: Arc<Changed<Slow>>,
    born: Instant,
}

fn old() -> Old {
    let world = World::new();
    let slow = Mutex::new(None);
    let clock = world.clock.clone();
    let node = world.node_of(1, Options::default(), |inner| {
        let (opens_slowly, sends_slowly) = (AtomicBool::new(false), AtomicBool::new(false));
        let bind = Arc::new(Changed(Slow { inner, clock, opens_slowly, sends_slowly, data: Mutex::default() }));
        *slow.lock().unwrap() = Some(bind.clone());
        bind
    });
    let bind = slow.into_inner().unwrap().unwrap();
    let others = [world.node(2), world.node(3)];
    for other in &others {
        node.add_peer(other, |_| {});
        other.add_peer(&node, |_| {});
        node.send_to(other, 100);
    }
    let born = world.now();
    world.settle(&[&node, &others[0], &others[1]]);
    world.clock.advance(OLD);
    world.sent();
    bind.data.lock().unwrap().clear();
    Old { world, node, others, bind, born }
}

impl Old {
    fn keepalives(&self, seconds: u16, listen_port: Option<u16>) {
        let peers = self.others.iter().map(|other| {
            let mut peer = PeerUpdate::new(other.public());
            peer.persistent_keepalive = Some(seconds);
            peer
        });
        self.node.apply(Update { listen_port, peers: peers.collect(), ..Update::default() });
    }

    /// No data message was sent with a session that was over. Returns what was sent.
    fn check(&self, what: &str) -> Vec<u8> {
        for at in self.bind.data.lock().unwrap().iter() {
            assert!(at.since(self.born) < OVER, "{what}: {:?} old", at.since(self.born));
        }
        self.world.sent().iter().filter(|d| d.from.ip() == self.node.address).map(|d| kind(&d.payload)).collect()
    }
}

#[test]
fn sockets_that_are_opened_slowly() {
    let leave_it_to_the_timers = |old: &Old| {
        old.node.device.rebind_soon();
        // A round ends when it has lasted long.
        (0..4).for_each(|_| old.node.device.run_timers());
    };
    let pause = |old: &Old| {
        old.node.device.pause();
        old.node.device.resume().unwrap();
    };
    let cases: [Case<'_>; 4] = [
        ("rebind", &|old| old.node.device.rebind().unwrap(), &[]),
        ("network_changed", &|old| old.node.device.network_changed().unwrap(), &[]),
        // Which find that nothing has come back.
        ("rebind_soon", &leave_it_to_the_timers, &[1, 1]),
        ("pause", &pause, &[1, 1]),
    ];
    for (what, act, expected) in cases {
        let old = old();
        old.bind.opens_slowly.store(true, Ordering::Relaxed);
        act(&old);
        assert!(old.world.now().since(old.born) >= OVER);
        assert_eq!(old.check(what), expected, "{what}");
    }
}

#[test]
fn one_set_opens_a_port_and_turns_keepalives_on() {
    let old = old();
    old.bind.opens_slowly.store(true, Ordering::Relaxed);
    old.keepalives(25, Some(7000));
    assert_eq!(old.check("set"), [1, 1]);
}

/// What comes after the first send is not sent with a session that is over by then, in one round or in one call.
#[test]
fn datagrams_that_are_sent_slowly() {
    let send_to_both = |old: &Old| {
        old.others.iter().for_each(|other| drop(old.node.send_to(other, 100)));
        old.node.step();
    };
    // No two of which can leave together.
    let send_many = |old: &Old| {
        (0..40).for_each(|n| drop(old.node.send_to(&old.others[0], 100 + 16 * n)));
        old.node.step();
    };
    let turn_keepalives_on = |old: &Old| old.keepalives(1, None);
    let cases: [Case<'_>; 4] = [
        ("packets to two", &send_to_both, &[4, 1, 1]),
        ("many packets to one", &send_many, &[]),
        ("rebind", &|old| old.node.device.rebind().unwrap(), &[0, 1]),
        ("keepalives", &turn_keepalives_on, &[0, 1, 1]),
    ];
    for (what, act, expected) in cases {
        let old = old();
        old.bind.sends_slowly.store(true, Ordering::Relaxed);
        act(&old);
        let sent = old.check(what);
        assert!(expected.is_empty() || sent == expected, "{what}: {sent:?}");
    }
}
