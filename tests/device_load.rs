//! Handshakes take a bounded share of the time: when they take more, senders must show a cookie. The time that one
//! takes is the test's to say: the hand-turned clock goes on whenever randomness is asked for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use common::{Node, World, kind, raw::Raw};
use wg_embed::{
    random::{Random, SystemRandom},
    time::ManualClock,
};

/// Each key that is made costs so much time, and each cookie reply.
struct Costly {
    clock: Arc<ManualClock>,
    key_micros: AtomicU64,
    reply_micros: AtomicU64,
}

impl Random for Costly {
    fn fill(&self, out: &mut [u8]) {
        let micros = match out.len() {
            24 => self.reply_micros.load(Relaxed),
            32 => self.key_micros.load(Relaxed),
            _ => 0,
        };
        self.clock.advance(Duration::from_micros(micros));
        SystemRandom.fill(out);
    }
}

/// A node whose handshakes take so long, and what will begin them.
fn node(world: &World, micros: u64, raws: u8) -> (Node, Arc<Costly>, Vec<Raw>) {
    let random = Arc::new(Costly {
        clock: world.clock.clone(),
        key_micros: AtomicU64::new(micros),
        reply_micros: AtomicU64::new(0),
    });
    let node = world.node_with(1, random.clone());
    let raws = (0..raws).map(|n| Raw::new(&node, 10 + n)).collect::<Vec<_>>();
    raws.iter().for_each(|raw| raw.introduce(&node));
    (node, random, raws)
}

/// One initiation each `every`, each from another peer. Returns the types of the answers.
fn answers(world: &World, node: &Node, raws: &mut [Raw], every: Duration) -> Vec<u8> {
    for raw in raws {
        let message = raw.initiation(world);
        raw.send(world, &message);
        while node.receive() > 0 {}
        world.clock.advance(every);
    }
    world.sent().iter().map(|datagram| kind(&datagram.payload)).collect()
}

#[test]
fn handshakes_that_take_little_time_are_answered() {
    let world = World::new();
    let (node, _, mut raws) = node(&world, 1000, 200);
    // At most two keys a handshake: a tenth.
    let answers = answers(&world, &node, &mut raws, Duration::from_millis(20));
    assert_eq!(answers, vec![2; 200]);
    assert_eq!(node.stat("handshake_cookie_sent"), 0);
}

#[test]
fn handshakes_that_take_too_much_time_are_answered_with_cookies_until_they_do_not() {
    let world = World::new();
    let (node, random, mut raws) = node(&world, 1000, 200);
    let seen = answers(&world, &node, &mut raws[..100], Duration::from_millis(2));
    let computed = seen.iter().take_while(|kind| **kind == 2).count();
    assert!((5..60).contains(&computed), "{computed} at a third of the time or more");
    assert!(seen[computed..].iter().all(|kind| *kind == 3), "{seen:?}");
    // A sender that shows the cookie is served.
    let raw = &mut raws[100];
    let message = raw.initiation(&world);
    raw.send(&world, &message);
    world.settle(&[&node]);
    let heard = raw.heard(&world);
    let reply: &[u8; 64] = heard[0].as_slice().try_into().expect("a cookie reply");
    assert!(raw.stamper.take_reply(reply, &raw.node, world.now()));
    world.clock.advance(Duration::from_millis(20));
    let message = raw.initiation(&world);
    raw.send(&world, &message);
    world.settle(&[&node]);
    assert_eq!(raw.heard(&world)[0][0], 2);
    // It is over a second after it has become less.
    random.key_micros.store(100, Relaxed);
    world.clock.advance(Duration::from_millis(1200));
    let seen = answers(&world, &node, &mut raws[101..], Duration::from_millis(20));
    assert_eq!(seen, vec![2; 99]);
}

#[test]
fn cookies_take_little_time_and_those_who_have_one_are_served() {
    let world = World::new();
    let (node, random, mut raws) = node(&world, 1000, 201);
    let (honest, others) = raws.split_first_mut().unwrap();
    assert_eq!(answers(&world, &node, &mut others[..100], Duration::ZERO).last(), Some(&3), "under load");
    let ask = |honest: &mut Raw| {
        let message = honest.initiation(&world);
        honest.send(&world, &message);
        world.settle(&[&node]);
        honest.heard(&world).remove(0)
    };
    let reply = ask(honest);
    honest.take_cookie(&world, &reply);
    random.reply_micros.store(1000, Relaxed);
    // A thousand in half a second, and as long as the cookies take.
    let refused = node.stat("handshake_rate_limited");
    let seen: Vec<_> = (0..5).flat_map(|_| answers(&world, &node, others, Duration::from_micros(500))).collect();
    assert!(seen.iter().all(|kind| *kind == 3) && (15..100).contains(&seen.len()), "{} of 1000", seen.len());
    assert_eq!(node.stat("handshake_rate_limited") - refused, 1000 - seen.len() as u64);
    assert_eq!(ask(honest)[0], 2);
}
