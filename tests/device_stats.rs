//! What a device says about itself in numbers: what passed, what was dropped and why, its peers, its memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;

use std::{collections::HashSet, time::Duration};

use common::{Node, World, ipv4};
use wg_embed::{
    bind::{Bind, mem::Action},
    config::{PeerUpdate, Update},
    device::Totals,
    key::PrivateKey,
    random::SystemRandom,
};

fn counter(node: &Node, name: &str) -> u64 {
    node.device.counters().iter().find(|c| c.0 == name).unwrap_or_else(|| panic!("no counter {name}")).1
}

/// What a node says of its only peer.
fn only_peer(node: &Node) -> wg_embed::device::PeerStats {
    let mut all = node.device.all_peer_stats();
    let peer = all.next().unwrap();
    assert_eq!(all.next(), None);
    assert_eq!(node.device.peer_stats(&peer.public_key), Some(peer));
    peer
}

/// `[peers, rx_packets, tx_packets, rx_dropped, tx_dropped]`
fn packets(t: Totals) -> [u64; 5] {
    [t.peers as u64, t.rx_packets, t.tx_packets, t.rx_dropped, t.tx_dropped]
}

#[test]
fn packets_that_pass_are_counted_on_both_sides() {
    let world = World::new();
    let (a, b) = world.pair();
    assert_eq!(packets(a.device.totals()), [1, 0, 0, 0, 0]);
    (0..7).for_each(|_| drop(a.send_to(&b, 100)));
    world.settle(&[&a, &b]);
    (0..3).for_each(|_| drop(b.send_to(&a, 1420)));
    world.settle(&[&a, &b]);
    assert_eq!(packets(a.device.totals()), [1, 3, 7, 0, 0]);
    assert_eq!(packets(b.device.totals()), [1, 7, 3, 0, 0]);
    for (from, to) in [(&a, &b), (&b, &a)] {
        let (sent, received) = (from.device.totals(), to.device.totals());
        assert_eq!((sent.tx_bytes, sent.rx_bytes), (received.rx_bytes, received.tx_bytes));
        let peer = only_peer(from);
        assert_eq!((peer.tx_bytes, peer.rx_bytes), (sent.tx_bytes, sent.rx_bytes));
    }
    assert_eq!(a.device.totals().tx_bytes, 148 + 7 * (112 + 32));
    assert_eq!(b.device.totals().tx_bytes, 92 + 3 * (1420 + 32));
    // Keepalives are bytes, but no packets.
    world.pass(Duration::from_secs(60), &[&a, &b]);
    let after = (a.device.totals(), b.device.totals());
    assert_eq!((after.0.tx_bytes, packets(after.0)), (148 + 7 * 144 + 32, [1, 3, 7, 0, 0]));
    assert_eq!(after.1.rx_bytes, after.0.tx_bytes);
    a.apply(Update { replace_peers: true, ..Update::default() });
    let mut gone = after.0;
    gone.peers = 0;
    assert_eq!(a.device.totals(), gone, "what a peer did stays in the sums");
}

#[test]
fn packets_that_do_not_pass_are_in_the_sum_of_their_way() {
    let world = World::new();
    let (a, b) = world.pair();
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    // Out: nobody has this address; this is no packet; the sockets are closed.
    assert!(a.tun.inject(&ipv4(a.inner, "10.9.9.9".parse().unwrap(), 60)));
    assert!(a.tun.inject(&[0; 40]));
    world.settle(&[&a, &b]);
    a.bind.close();
    a.send_to(&b, 100);
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(["out_no_peer", "out_malformed", "out_send_failed"].map(|name| counter(&a, name)), [1, 1, 2]);
    assert_eq!(packets(a.device.totals()), [1, 0, 1, 0, 4]);
    assert_eq!(a.device.totals().tx_bytes, 148 + 144);
    // In: a replay.
    a.bind.open(common::PORT).unwrap();
    world.net.set_filter(|_| Action::Duplicate);
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!((counter(&b, "in_replayed"), packets(b.device.totals())), (1, [1, 2, 0, 1, 0]));
}

#[test]
fn counters_have_names_of_their_own() {
    let world = World::new();
    let node = world.node(1);
    let all = node.device.counters();
    let names: HashSet<_> = all.iter().map(|c| c.0).collect();
    assert_eq!(names.len(), all.len());
    // The C ABI has room for 39 bytes.
    assert!(names.iter().all(|name| (4..40).contains(&name.len()) && name.is_ascii()));
}

#[test]
fn a_peer_tells_its_state() {
    let world = World::new();
    let (a, b) = world.pair();
    assert_eq!(a.device.peer_stats(&PrivateKey::generate_with(&SystemRandom).public_key()), None);
    let new = only_peer(&a);
    assert_eq!((new.public_key, new.endpoint), (b.public(), Some((b.address, common::PORT).into())));
    assert_eq!((new.has_session, new.staged_packets, new.next_deadline), (false, 0, None));
    assert_eq!((new.last_handshake, new.persistent_keepalive), (Duration::ZERO, 0));
    world.net.set_filter(|_| Action::Drop);
    (0..4).for_each(|_| drop(a.send_to(&b, 100)));
    world.settle(&[&a, &b]);
    let waiting = only_peer(&a);
    assert_eq!((waiting.has_session, waiting.staged_packets), (false, 4));
    let retry = waiting.next_deadline.unwrap().as_millis();
    assert!((5000..5334).contains(&retry), "{retry}");
    world.net.clear_filter();
    world.pass(Duration::from_secs(6), &[&a, &b]);
    let ready = only_peer(&a);
    assert_eq!((ready.has_session, ready.staged_packets), (true, 0));
    assert!(ready.last_handshake > Duration::from_secs(1_700_000_000));
    a.change_peer(&b, |p| p.persistent_keepalive = Some(9));
    assert_eq!((only_peer(&a).persistent_keepalive, only_peer(&a).next_deadline), (9, Some(Duration::from_secs(9))));
    a.change_peer(&b, |p| p.persistent_keepalive = Some(0));
    // A session that is too old is none, though its keys are not wiped yet.
    world.clock.advance(Duration::from_secs(180));
    assert!(!only_peer(&a).has_session && a.device.indices() > 0);
    let responder = PeerUpdate::new(b.public());
    a.apply(Update { peers: vec![PeerUpdate { remove: true, ..responder }], ..Update::default() });
    assert_eq!((a.device.peer_stats(&b.public()), a.device.all_peer_stats().count()), (None, 0));
}

#[test]
fn sessions_are_in_the_memory_of_peers() {
    let world = World::new();
    let (a, b) = world.pair();
    a.device.trim();
    let before = a.device.memory_usage();
    assert_eq!((before.buffers, before.staged, before.total()), (0, 0, before.peers));
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    let with = a.device.memory_usage().peers - before.peers;
    assert!((900..2500).contains(&with), "one session takes {with}");
    world.pass(Duration::from_secs(600), &[&a, &b]);
    a.device.trim();
    let after = a.device.memory_usage();
    assert_eq!(after, before);
}
