//! What other implementations get wrong, held up against ours: one test for each row, A to AB, of the list that
//! `boringtun_deviations/` shows on boringtun itself. Each would fail if ours behaved as the row says of theirs; what
//! is right is what the Linux kernel does.
//!
//! Whole devices, a clock turned by hand, a network in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

#[path = "../common/mod.rs"]
mod common;
mod handshakes;
mod packets;
#[path = "../common/snow_noise.rs"]
mod snow_noise;
mod timing;

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::Mutex,
    thread,
    time::Duration,
};

use common::{
    Node, PORT, World, ipv4, kind,
    raw::{Raw, open, seal},
    times,
};
use snow_noise::{LOW_ORDER, noise, timestamp};
use wg_embed::{
    bind::mem::Action,
    config::{PeerUpdate, Update},
    device::{Device, Event},
    key::{PresharedKey, PrivateKey, PublicKey},
    noise::{
        REJECT_AFTER_MESSAGES, REKEY_AFTER_MESSAGES,
        cookie::{CookieChecker, MacStamper},
        handshake::{Handshake, Identity, OpenedInitiation},
        message::{INITIATION_LEN, sender_index},
        replay::WINDOW,
        session::Session,
    },
    random::SystemRandom,
    time::{Clock, Instant},
};

const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const COOKIE_REPLY: u8 = 3;
const DATA: u8 = 4;
const KEEPALIVE: u8 = 0;

const SECOND: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_secs(5);
const JITTER: Duration = Duration::from_millis(333);
/// Between two initiations of one peer there are at least 20 ms.
const APART: Duration = Duration::from_millis(50);

/// The second that the kernel and wireguard-go write for 1970-01-01.
const KERNEL_EPOCH: u64 = (1 << 62) + 10;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn kinds(messages: &[Vec<u8>]) -> Vec<u8> {
    messages.iter().map(|m| kind(m)).collect()
}

/// Two nodes with a confirmed session of this moment, and an empty log.
fn connected(world: &World) -> (Node, Node) {
    let (a, b) = world.pair();
    connect(world, &a, &b);
    (a, b)
}

fn connect(world: &World, a: &Node, b: &Node) {
    a.send_to(b, 100);
    world.settle(&[a, b]);
    assert_eq!(b.received().len(), 1);
    assert_eq!(world.sent_types(), [INITIATION, RESPONSE, DATA]);
}

/// Loses everything that is sent.
fn cut(world: &World) {
    world.net.set_filter(|_| Action::Drop);
}

/// Initiations that are none, from as many addresses, each with the right mac1.
fn flood(world: &World, node: &Node, n: u16) {
    for i in 0..n {
        let from = SocketAddr::new(IpAddr::from([198, 51, i.to_be_bytes()[0], i.to_be_bytes()[1]]), 1000);
        world.net.inject(from, SocketAddr::new(node.address, PORT), &junk(node, world.now()), 0);
    }
}

fn junk(node: &Node, now: Instant) -> [u8; INITIATION_LEN] {
    let mut message = [0x5a; INITIATION_LEN];
    message[..4].copy_from_slice(&[INITIATION, 0, 0, 0]);
    MacStamper::default().stamp(&mut message, &node.public(), now);
    message
}

/// Brings a node under load; it is for a second after.
fn load(world: &World, node: &Node) {
    flood(world, node, 600);
    world.settle(&[node]);
    let _ = world.sent();
}
