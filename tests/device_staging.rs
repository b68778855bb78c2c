//! The memory for packets that wait is shared fairly: peers that never answer do not cost others their first packets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;

use std::net::{IpAddr, SocketAddr};

use common::{Node, World, give, ipv4};
use wg_embed::{
    config::{PeerUpdate, Update},
    device::{FIXED_MEMORY, Options},
    key::{PrivateKey, PublicKey},
    random::SystemRandom,
    tun::{Tun, mem::MemTun},
};

/// A node with so much memory for packets that wait, and so much more for each peer.
fn node(world: &World, memory: usize, memory_per_peer: usize) -> Node {
    let taken = FIXED_MEMORY + MemTun::new("", 1420).0.queue_limit();
    world.node_of(1, Options { memory: taken + memory, memory_per_peer, ..Options::default() }, |bind| bind)
}

/// A peer that never answers, at this inner address.
fn offline(node: &Node, inner: IpAddr) -> PublicKey {
    let mut peer = PeerUpdate::new(PrivateKey::generate_with(&SystemRandom).public_key());
    peer.endpoint = Some(SocketAddr::from(([198, 51, 100, 1], 1)).into());
    peer.allowed_ips = vec![give(&format!("{inner}/32"))];
    let key = peer.public_key;
    node.apply(Update { peers: vec![peer], ..Update::default() });
    key
}

/// So many peers that never answer, each of which is sent so many packets.
fn offline_peers(node: &Node, peers: usize, packets: usize, len: usize) -> Vec<PublicKey> {
    let one = |n: usize| {
        let inner = IpAddr::from([10, 1, (n >> 8) as u8, n as u8]);
        let key = offline(node, inner);
        for _ in 0..packets {
            assert!(node.tun.inject(&ipv4(node.inner, inner, len)));
            node.step();
        }
        key
    };
    (0..peers).map(one).collect()
}

fn staged(node: &Node, key: &PublicKey) -> usize {
    node.device.peer_stats(key).unwrap().staged_packets
}

#[test]
fn a_burst_to_another_peer_arrives_whole() {
    for (peers, packets, len) in [(20, 129, 1420), (300, 129, 84), (40, 20, 1420)] {
        let world = World::new();
        let (a, b) = (node(&world, 1 << 20, 0), world.node(2));
        a.add_peer(&b, |_| {});
        b.add_peer(&a, |_| {});
        offline_peers(&a, peers, packets, len);
        let full = a.stat("out_memory_full");
        let sent: Vec<_> = (0..10).map(|_| a.send_to(&b, len)).collect();
        world.settle(&[&a, &b]);
        assert_eq!(b.received(), sent, "{peers} peers, {packets} packets of {len} bytes");
        assert!(full > 0 || packets == 20, "there is room for all");
    }
}

#[test]
fn what_there_is_is_shared_by_all_in_equal_parts() {
    let world = World::new();
    let a = node(&world, 1 << 20, 0);
    let keys = offline_peers(&a, 60, 60, 1420);
    let held: Vec<_> = keys.iter().map(|key| staged(&a, key)).collect();
    let (least, most) = (held.iter().min().unwrap(), held.iter().max().unwrap());
    assert!(*least > 5 && most - least <= 2, "{held:?}");
    assert!(a.device.memory_usage().staged <= 1 << 20);
}

/// A peer that is sent more and more takes nothing from those that hold less than it does.
#[test]
fn one_that_is_sent_much_does_not_take_from_those_that_hold_less() {
    let world = World::new();
    let a = node(&world, 100_000, 0);
    let keys = offline_peers(&a, 10, 3, 1420);
    let greedy = offline_peers(&a, 1, 129, 1420);
    assert!(keys[1..].iter().all(|key| staged(&a, key) == 3), "the first has lost its address to the other");
    assert!(staged(&a, &greedy[0]) > 3);
}

#[test]
fn one_packet_of_each_peer_waits_whatever_the_limit() {
    let world = World::new();
    let a = node(&world, 0, 0);
    let keys = offline_peers(&a, 100, 5, 1420);
    assert!(keys.iter().all(|key| staged(&a, key) == 1));
    assert_eq!(a.stat("out_memory_full"), 400);
    // Also for a peer that is being looked for already, by an empty packet.
    let world = World::new();
    let (a, b) = (node(&world, 0, 0), world.node(2));
    a.add_peer(&b, |peer| peer.persistent_keepalive = Some(25));
    b.add_peer(&a, |_| {});
    let packet = a.send_to(&b, 1420);
    world.settle(&[&a, &b]);
    assert_eq!(b.received(), [packet]);
}

#[test]
fn the_limit_grows_with_the_peers_and_shrinks_with_them() {
    const EACH: usize = 10_000;
    let world = World::new();
    let a = node(&world, 0, EACH);
    let before = a.device.memory_usage().limit;
    let keys = offline_peers(&a, 50, 10, 1420);
    assert_eq!(a.device.memory_usage().limit, before + 50 * EACH);
    assert!(keys.iter().all(|key| staged(&a, key) >= 4), "{:?}", keys.iter().map(|key| staged(&a, key)));
    a.apply(Update { replace_peers: true, ..Update::default() });
    assert_eq!((a.device.memory_usage().limit, a.device.memory_usage().staged), (before, 0));
    let keys = offline_peers(&a, 1, 10, 1420);
    assert!((1..10).contains(&staged(&a, &keys[0])), "only its own share");
}

/// What the budget has noted about peers goes with them, and what they held can be used again.
#[test]
fn peers_that_come_and_go_leave_nothing_behind() {
    let world = World::new();
    let a = node(&world, 200_000, 0);
    let empty = a.device.memory_usage();
    for _ in 0..20 {
        offline_peers(&a, 30, 10, 1420);
        a.apply(Update { replace_peers: true, ..Update::default() });
        a.device.trim();
    }
    let after = a.device.memory_usage();
    assert_eq!((after.staged, after.peers), (empty.staged, empty.peers));
    let keys = offline_peers(&a, 1, 100, 1420);
    assert_eq!(staged(&a, &keys[0]), 100, "all of it is free");
}
