//! Packets to one peer leave in the order in which they came, also while two threads send: here whatever another thread
//! might do happens in the middle of a send, every time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;

use std::{
    sync::{Arc, Mutex, OnceLock, Weak},
    time::Duration,
};

use common::{
    Node, World,
    around::{Around, Changed},
    ipv4,
};
use wg_embed::{
    bind::{Bind, SendReport, Transmit, mem::MemBind},
    device::{Options, Outbound},
};

/// What happens in the middle of the next sends of data, first ones first.
type Meanwhile = Mutex<Vec<Box<dyn FnOnce() + Send>>>;

/// A bind that another thread comes in between of.
struct Interrupted {
    bind: Arc<MemBind>,
    meanwhile: Arc<Meanwhile>,
}

impl Around for Interrupted {
    fn inner(&self) -> &MemBind {
        &self.bind
    }

    fn send(&self, batch: &[Transmit<'_>]) -> SendReport {
        if batch.iter().any(|transmit| transmit.contents[0] == 4) {
            let next = self.meanwhile.lock().unwrap().pop();
            if let Some(next) = next {
                next();
            }
        }
        self.bind.send(batch)
    }
}

/// Two nodes that know each other; sends of the first are interrupted.
fn interrupted_pair(world: &World) -> (Arc<Node>, Node, Arc<Meanwhile>) {
    let meanwhile = Arc::<Meanwhile>::default();
    let interrupted = |bind| Arc::new(Changed(Interrupted { bind, meanwhile: meanwhile.clone() })) as Arc<dyn Bind>;
    let (a, b) = (world.node_of(1, Options::default(), interrupted), world.node(2));
    a.add_peer(&b, |_| {});
    b.add_peer(&a, |_| {});
    (Arc::new(a), b, meanwhile)
}

/// Hands numbered packets to the interface.
fn inject(from: &Node, to: &Node, numbers: std::ops::Range<u8>) {
    for n in numbers {
        let mut packet = ipv4(from.inner, to.inner, 100);
        packet[20] = n;
        assert!(from.tun.inject(&packet));
    }
}

fn numbers(node: &Node) -> Vec<u8> {
    node.received().iter().map(|packet| packet[20]).collect()
}

/// What another thread does: it reads these packets from the interface and sends them.
fn more(a: &Arc<Node>, numbers: std::ops::Range<u8>) -> Box<dyn FnOnce() + Send> {
    let node: Weak<Node> = Arc::downgrade(a);
    Box::new(move || {
        let node = node.upgrade().unwrap();
        for n in numbers {
            let mut packet = ipv4(node.inner, [10, 0, 0, 2].into(), 100);
            packet[20] = n;
            assert!(node.tun.inject(&packet));
        }
        while node.device.outbound(&mut Outbound::new()).unwrap() > 0 {}
    })
}

/// Stages five packets, and lets the session be made while `interruptions` come in between, five packets each.
fn staged_then(interruptions: u8) -> (World, Arc<Node>, Node) {
    let world = World::new();
    let (a, b, meanwhile) = interrupted_pair(&world);
    let rounds = (0..interruptions).rev().map(|n| more(&a, 5 + 5 * n..10 + 5 * n));
    meanwhile.lock().unwrap().extend(rounds);
    inject(&a, &b, 0..5);
    world.settle(&[&a, &b]);
    (world, a, b)
}

#[test]
fn what_was_staged_is_not_overtaken() {
    let (_world, _a, b) = staged_then(1);
    assert_eq!(numbers(&b), (0..10).collect::<Vec<_>>());
}

/// The other thread stages whenever this one sends: this one does not go on for ever, and nothing is left behind.
#[test]
fn a_thread_that_is_kept_busy_leaves_the_rest_to_the_timers() {
    let (world, a, b) = staged_then(7);
    let first = numbers(&b);
    assert!((10..40).contains(&first.len()), "{first:?}");
    assert_eq!(first, (0..first.len() as u8).collect::<Vec<_>>());
    let mut rest = first;
    while rest.len() < 40 {
        let next = a.device.next_deadline().expect("something is left to do");
        assert!(next <= world.now(), "it is not left for later");
        a.device.run_timers();
        world.settle(&[&a, &b]);
        rest.extend(numbers(&b));
    }
    assert_eq!(rest, (0..40).collect::<Vec<_>>());
}

/// The thread that serves the TUN takes over what is left, if it comes first.
#[test]
fn packets_that_come_later_take_along_what_is_left() {
    let (world, a, b) = staged_then(4);
    let mut all = numbers(&b);
    assert!(all.len() < 25, "something is left: {all:?}");
    inject(&a, &b, 25..30);
    world.settle(&[&a, &b]);
    all.extend(numbers(&b));
    assert_eq!(all, (0..30).collect::<Vec<_>>());
}

/// Keepalives, configuration and timers send what is staged as well: one of them in the middle of another changes no
/// order and loses nothing.
#[test]
fn whoever_else_sends_what_is_staged_comes_behind() {
    let world = World::new();
    let (a, b, meanwhile) = interrupted_pair(&world);
    let key = OnceLock::from(b.public());
    let node = Arc::downgrade(&a);
    let configure = Box::new(move || {
        let node = node.upgrade().unwrap();
        let mut peer = wg_embed::config::PeerUpdate::new(*key.get().unwrap());
        peer.persistent_keepalive = Some(25);
        node.apply(wg_embed::config::Update { peers: vec![peer], ..Default::default() });
        node.device.run_timers();
    });
    meanwhile.lock().unwrap().extend([configure, more(&a, 5..10)]);
    inject(&a, &b, 0..5);
    world.settle(&[&a, &b]);
    assert_eq!(numbers(&b), (0..10).collect::<Vec<_>>());
    world.clock.advance(Duration::from_secs(1));
    inject(&a, &b, 10..12);
    world.settle(&[&a, &b]);
    assert_eq!(numbers(&b), [10, 11]);
}
