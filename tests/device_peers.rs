//! Adding, changing and removing peers of a device that is at work.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use common::{
    Node, PORT, World, give, ipv4,
    raw::{Raw, seal},
};
use ipnet::IpNet;
use proptest::prelude::*;
use wg_embed::{
    ErrorKind,
    bind::mem::{Action, MemNetwork},
    config::{AllowedIpUpdate, PeerUpdate, Update},
    device::{Device, Event, Inbound, Options, Outbound},
    key::{PrivateKey, PublicKey},
    random::{Random, SystemRandom},
    time::ManualClock,
    tun::mem::MemTun,
};

fn remove(key: PublicKey) -> Update {
    let mut peer = PeerUpdate::new(key);
    peer.remove = true;
    Update { peers: vec![peer], ..Update::default() }
}

/// Nothing is left of any peer: no index, no deadline, no route.
fn assert_empty(node: &Node) {
    assert_eq!(node.device.indices(), 0);
    assert_eq!(node.device.next_deadline(), None);
    assert_eq!(node.device.snapshot().peers.flatten().count(), 0);
    let before = node.stat("out_no_peer");
    for last in 0..=255 {
        assert!(node.tun.inject(&ipv4(node.inner, IpAddr::from([10, 0, 0, last]), 60)));
    }
    while node.step() > 0 {}
    assert_eq!(node.stat("out_no_peer") - before, 256);
}

/// A node and a peer of it, in each state that a peer can be in.
fn each_state(check: impl Fn(&World, &Node, &Node)) {
    for state in 0..6 {
        let world = World::new();
        let (a, b) = world.pair();
        match state {
            0 => {}
            // An initiation is not answered.
            1 => {
                world.net.set_filter(|_| Action::Drop);
                a.send_to(&b, 100);
                world.pass(Duration::from_secs(12), &[&a, &b]);
            }
            // A response is not confirmed.
            2 => {
                world.net.set_filter(|d| if d.payload[0] == 4 { Action::Drop } else { Action::Deliver });
                b.send_to(&a, 100);
                world.settle(&[&a, &b]);
                a.send_to(&b, 100);
                world.settle(&[&a]);
            }
            // One session; and three, with a handshake under way.
            _ => {
                a.send_to(&b, 100);
                world.settle(&[&a, &b]);
                if state > 3 {
                    world.clock.advance(Duration::from_secs(121));
                    a.send_to(&b, 100);
                    world.settle(&[&a, &b]);
                    world.clock.advance(Duration::from_secs(121));
                    if state == 5 {
                        world.net.set_filter(|_| Action::Drop);
                    }
                    a.send_to(&b, 100);
                    world.settle(&[&a, &b]);
                }
            }
        }
        world.net.clear_filter();
        let _ = (a.received(), b.received());
        check(&world, &a, &b);
    }
}

#[test]
fn a_removed_peer_leaves_nothing_behind() {
    each_state(|world, a, b| {
        a.apply(remove(b.public()));
        assert_empty(a);
        let _ = world.sent();
        world.pass(Duration::from_secs(600), &[a]);
        assert_eq!(world.sent_types(), []);
        // What no peer wants was answered.
        let _ = a.received();
        b.send_to(a, 100);
        world.settle(&[a, b]);
        assert_eq!(a.received(), Vec::<Vec<u8>>::new(), "its packets are not taken any more");
        a.add_peer(b, |_| {});
        world.clock.advance(Duration::from_secs(200));
        let packet = a.send_to(b, 100);
        world.pass(Duration::from_secs(20), &[a, b]);
        assert_eq!(b.received(), [packet], "it can come back");
    });
}

#[test]
fn a_peer_is_removed_once_by_its_key_alone() {
    each_state(|_, a, b| {
        let gone = |key| a.device.remove_peer(&key).unwrap_err().kind();
        assert_eq!(gone(a.public()), ErrorKind::NotFound, "it is no peer of itself");
        a.device.remove_peer(&b.public()).unwrap();
        assert_empty(a);
        assert_eq!(gone(b.public()), ErrorKind::NotFound);
    });
}

#[test]
fn a_peer_whose_session_is_dropped_begins_again() {
    each_state(|world, a, b| {
        let (prefixes, endpoint) = (a.peer(&b.public()).allowed_ips, a.peer(&b.public()).endpoint);
        a.device.drop_session(Some(&b.public())).unwrap();
        assert_eq!(a.device.indices(), 0);
        assert_eq!((a.peer(&b.public()).allowed_ips, a.peer(&b.public()).endpoint), (prefixes, endpoint));
        world.settle(&[a, b]);
        let _ = b.received();
        let packet = a.send_to(b, 100);
        world.pass(Duration::from_secs(20), &[a, b]);
        assert_eq!(b.received(), [packet]);
    });
}

#[test]
fn replacing_all_peers_ends_their_sessions() {
    each_state(|world, a, b| {
        let key = b.public();
        let mut again = PeerUpdate::new(key);
        again.endpoint = Some(SocketAddr::new(b.address, PORT).into());
        again.allowed_ips = vec![give("10.0.0.2/32")];
        a.apply(Update { replace_peers: true, peers: vec![again], ..Update::default() });
        assert_eq!((a.device.indices(), a.device.next_deadline()), (0, None));
        assert_eq!(a.peer(&key).tx_bytes, 0);
        let packet = a.send_to(b, 100);
        world.pass(Duration::from_secs(20), &[a, b]);
        assert!(b.received().contains(&packet));
        a.apply(Update { replace_peers: true, ..Update::default() });
        assert_empty(a);
    });
}

#[test]
fn any_other_change_keeps_what_is_under_way() {
    each_state(|world, a, b| {
        let (indices, tx) = (a.device.indices(), a.peer(&b.public()).tx_bytes);
        a.change_peer(b, |p| {
            p.update_only = true;
            p.endpoint = Some(SocketAddr::new(b.address, PORT).into());
            p.replace_allowed_ips = true;
            p.allowed_ips = vec![give("10.0.0.2/32")];
            p.preshared_key = Some(Default::default());
        });
        assert_eq!((a.device.indices(), a.peer(&b.public()).tx_bytes >= tx), (indices, true));
        let packet = a.send_to(b, 200);
        world.pass(Duration::from_secs(20), &[a, b]);
        assert!(b.received().contains(&packet));
    });
}

#[test]
fn a_peer_that_is_not_there_is_only_created_if_it_may_be() {
    let world = World::new();
    let a = world.node(1);
    let key = PrivateKey::generate_with(&SystemRandom).public_key();
    for (update_only, removed) in [(true, false), (false, true), (true, true)] {
        let mut peer = PeerUpdate::new(key);
        peer.allowed_ips = vec![give("10.0.0.0/8")];
        (peer.update_only, peer.remove) = (update_only, removed);
        a.apply(Update { peers: vec![peer], ..Update::default() });
        assert_empty(&a);
    }
}

#[test]
fn the_private_key_may_come_last() {
    let world = World::new();
    let (a, b) = (world.node(1), world.node(2));
    a.apply(Update { private_key: Some(None), ..Update::default() });
    a.add_peer(&b, |p| p.persistent_keepalive = Some(10));
    b.add_peer(&a, |_| {});
    let waiting = a.send_to(&b, 100);
    b.send_to(&a, 100);
    world.pass(Duration::from_secs(60), &[&a]);
    assert!(!world.sent().iter().any(|d| d.from.ip() == a.address), "there is no key to begin with");
    world.settle(&[&a, &b]);
    assert_eq!(a.stat("handshake_refused"), 1);

    world.clock.advance(Duration::from_secs(10));
    a.apply(Update { private_key: Some(Some(a.private.clone())), ..Update::default() });
    let packet = a.send_to(&b, 101);
    world.settle(&[&a, &b]);
    let received = b.received();
    assert!(received.ends_with(&[packet]) && received.contains(&waiting), "what waited is sent too");

    // Taken away again: nothing is sent, nothing begun; what comes in on the old session still does.
    a.apply(Update { private_key: Some(None), ..Update::default() });
    let _ = world.sent();
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(world.sent_types(), []);
    let packet = b.send_to(&a, 100);
    world.settle(&[&a, &b]);
    assert!(a.received().contains(&packet));
    a.apply(Update { private_key: Some(Some(a.private.clone())), ..Update::default() });
    world.clock.advance(Duration::from_secs(1));
    let packet = a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert!(b.received().contains(&packet));
}

#[test]
fn nobody_is_a_peer_of_itself() {
    let world = World::new();
    let (a, b) = world.pair();
    let mut own = PeerUpdate::new(a.public());
    own.allowed_ips = vec![give("10.0.0.0/8")];
    a.apply(Update { peers: vec![own], ..Update::default() });
    assert_eq!(a.device.snapshot().peers.flatten().map(|p| p.public_key).collect::<Vec<_>>(), [b.public()]);
    // A peer whose key becomes the interface's own goes away, with what it had.
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    a.apply(Update { private_key: Some(Some(b.private.clone())), ..Update::default() });
    assert_empty(&a);
    // The same key again changes nothing.
    b.apply(Update { private_key: Some(Some(b.private.clone())), ..Update::default() });
    assert_eq!(b.device.indices(), 1);
}

#[test]
fn the_limit_on_peers_holds_at_each_step_of_an_update() {
    let net = MemNetwork::new();
    let (tun, _handle) = MemTun::new("wg0", 1420);
    let options = Options { max_peers: 3, clock: Arc::new(ManualClock::new()), ..Options::default() };
    let device = Device::new(Arc::new(tun), net.bind("192.0.2.1".parse().unwrap()), options);
    let key = |n: u8| PublicKey::from_bytes([n; 32]);
    let add = |n| PeerUpdate::new(key(n));
    let drop = |n| PeerUpdate { remove: true, ..add(n) };
    let only = |n| PeerUpdate { update_only: true, ..add(n) };
    let apply = |replace_peers, peers| device.apply(Update { replace_peers, peers, ..Update::default() });
    let there = || device.snapshot().peers.flatten().map(|p| p.public_key.as_bytes()[0]).collect::<Vec<_>>();

    apply(false, vec![add(1), add(2), add(3), add(1), only(9), drop(8)]).unwrap();
    assert_eq!(there(), [1, 2, 3]);
    assert_eq!(apply(false, vec![drop(1), add(4), add(5)]).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(there(), [1, 2, 3], "nothing has changed");
    assert_eq!(apply(false, vec![add(4), drop(1)]).unwrap_err().kind(), ErrorKind::Invalid);
    apply(false, vec![drop(1), add(4), drop(4), only(4), add(5)]).unwrap();
    assert_eq!(there(), [2, 3, 5]);
    apply(true, vec![add(6), add(7), add(8), only(2)]).unwrap();
    assert_eq!(there(), [6, 7, 8]);
    assert!(apply(true, vec![add(6), add(7), add(8), add(9)]).is_err());
}

#[test]
fn an_expired_session_is_told_of_once_and_a_failed_handshake_is_none() {
    let world = World::new();
    let (a, b) = world.pair();
    world.net.set_filter(|_| Action::Drop);
    a.send_to(&b, 100);
    world.pass(Duration::from_secs(1000), &[&a, &b]);
    assert_eq!(*a.events.lock().unwrap(), [Event::HandshakeFailed(b.public())]);
    world.net.clear_filter();
    a.send_to(&b, 100);
    world.pass(Duration::from_secs(1000), &[&a, &b]);
    let key = b.public();
    let expected = [Event::HandshakeFailed(key), Event::HandshakeCompleted(key), Event::SessionExpired(key)];
    assert_eq!(*a.events.lock().unwrap(), expected);
}

#[test]
fn every_datagram_and_packet_is_in_one_counter() {
    let world = World::new();
    let b = world.node(2);
    let mut raw = Raw::new(&b, 1);
    raw.introduce(&b);
    let session = raw.connect(&world, &b);
    let send = |datagram: &[u8]| {
        raw.send(&world, datagram);
        world.settle(&[&b]);
    };
    let packet = ipv4(raw.inner, b.inner, 100);
    send(&[]);
    send(&[9; 40]);
    send(&vec![0; 70_000]);
    let mut unknown = seal(&session, 1, &packet);
    unknown[4] ^= 1;
    send(&unknown);
    let mut damaged = seal(&session, 1, &packet);
    damaged[30] ^= 1;
    send(&damaged);
    send(&seal(&session, 1, &packet));
    send(&seal(&session, 1, &packet));
    send(&seal(&session, 2, &[0x70; 40]));
    send(&seal(&session, 3, &ipv4("10.9.9.9".parse().unwrap(), b.inner, 100)));
    send(&[[2u8, 0, 0, 0].as_slice(), &[0; 88]].concat());
    send(&[[3u8, 0, 0, 0].as_slice(), &[0; 60]].concat());
    world.clock.advance(Duration::from_secs(180));
    send(&seal(&session, 4, &packet));
    b.bind.set_send_blocked(true);
    b.tun.inject(&ipv4(b.inner, raw.inner, 100));
    world.settle(&[&b]);

    let expected = HashMap::from([
        ("in_malformed", 3),
        ("in_unknown_index", 1),
        ("in_not_authentic", 1),
        ("in_replayed", 1),
        ("in_malformed_inner", 1),
        ("in_wrong_source", 1),
        ("in_expired", 1),
        ("handshake_bad_mac", 1),
        ("cookie_refused", 1),
        ("out_send_failed", 1),
    ]);
    for (name, value) in b.device.stats().iter() {
        assert_eq!(value, expected.get(name).copied().unwrap_or(0), "{name}");
    }
    assert_eq!(b.received().len(), 1);
    let of_raw = b.peer(raw.identity.public());
    // Initiation, keepalive, the packet; response.
    assert_eq!((of_raw.rx_bytes, of_raw.tx_bytes), (148 + 32 + 112 + 32, 92));
}

/// What can happen to a device with many peers.
#[derive(Clone, Debug)]
enum Step {
    Add(u16),
    Remove(u16),
    Give(u16, u8),
    Take(u16, u8),
    ReplaceIps(u16, Vec<u8>),
    Psk(u16),
    Send(u8),
    Junk(u8, u16),
    Wait(u32),
    Key,
    Up(bool),
    Few,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let peer = || 0u16..2000;
    let step = prop_oneof![
        3 => peer().prop_map(Step::Add),
        2 => peer().prop_map(Step::Remove),
        5 => (peer(), any::<u8>()).prop_map(|(p, n)| Step::Give(p, n)),
        2 => (peer(), any::<u8>()).prop_map(|(p, n)| Step::Take(p, n)),
        1 => (peer(), prop::collection::vec(any::<u8>(), 0..5)).prop_map(|(p, n)| Step::ReplaceIps(p, n)),
        1 => peer().prop_map(Step::Psk),
        5 => any::<u8>().prop_map(Step::Send),
        2 => (any::<u8>(), 0u16..200).prop_map(|(t, n)| Step::Junk(t, n)),
        2 => (0u32..20_000).prop_map(Step::Wait),
        1 => Just(Step::Key),
        1 => any::<bool>().prop_map(Step::Up),
    ];
    prop::collection::vec(step, 1..400).prop_map(|mut steps| {
        // Rarely, as it undoes so much.
        if steps.len() > 200 {
            steps.insert(150, Step::Few);
        }
        steps
    })
}

fn peer_key(n: u16) -> PublicKey {
    let mut bytes = [9; 32];
    bytes[..2].copy_from_slice(&n.to_le_bytes());
    PublicKey::from_bytes(bytes)
}

/// 10.0.0.0/8 cut in pieces that overlap.
fn prefix(n: u8) -> IpNet {
    let len = 9 + n % 16;
    IpNet::new(IpAddr::from([10, n.rotate_left(3), n, 0]), len).unwrap().trunc()
}

fn peer_update(n: u16) -> PeerUpdate {
    let mut peer = PeerUpdate::new(peer_key(n));
    peer.endpoint = Some(SocketAddr::new(IpAddr::from([192, 0, 2, 200]), n).into());
    peer
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn two_thousand_peers_and_anything_that_can_happen(steps in steps()) {
        let world = World::new();
        let node = world.node(1);
        let all = (0..2000).map(peer_update).collect::<Vec<_>>();
        node.apply(Update { peers: all, ..Update::default() });
        let mut there: HashSet<u16> = (0..2000).collect();
        let mut owner: HashMap<IpNet, u16> = HashMap::new();
        let one = |peer| node.apply(Update { peers: vec![peer], ..Update::default() });
        for step in steps {
            match step {
                Step::Add(n) => {
                    one(peer_update(n));
                    there.insert(n);
                }
                Step::Remove(n) => {
                    node.apply(remove(peer_key(n)));
                    there.remove(&n);
                    owner.retain(|_, o| *o != n);
                }
                Step::Give(n, p) => {
                    one(PeerUpdate { allowed_ips: vec![AllowedIpUpdate::add(prefix(p))], ..peer_update(n) });
                    there.insert(n);
                    owner.insert(prefix(p), n);
                }
                Step::Take(n, p) => {
                    let allowed_ips = vec![AllowedIpUpdate::remove(prefix(p))];
                    one(PeerUpdate { allowed_ips, update_only: true, ..peer_update(n) });
                    if owner.get(&prefix(p)) == Some(&n) {
                        owner.remove(&prefix(p));
                    }
                }
                Step::ReplaceIps(n, ps) => {
                    let allowed_ips = ps.iter().map(|p| AllowedIpUpdate::add(prefix(*p))).collect();
                    one(PeerUpdate { allowed_ips, replace_allowed_ips: true, ..peer_update(n) });
                    there.insert(n);
                    owner.retain(|_, o| *o != n);
                    owner.extend(ps.iter().map(|p| (prefix(*p), n)));
                }
                Step::Psk(n) => {
                    let mut psk = [0; 32];
                    SystemRandom.fill(&mut psk);
                    let preshared_key = Some(Box::new(wg_embed::key::PresharedKey::from_bytes(psk)));
                    one(PeerUpdate { preshared_key, persistent_keepalive: Some(n % 30), update_only: true, ..peer_update(n) });
                }
                Step::Send(p) => {
                    node.tun.inject(&ipv4(node.inner, prefix(p).addr(), 100));
                }
                Step::Junk(kind, len) => {
                    let mut datagram = vec![kind; usize::from(len)];
                    for (at, byte) in datagram.iter_mut().enumerate().take(4) {
                        *byte = if at == 0 { kind % 6 } else { 0 };
                    }
                    world.net.inject("203.0.113.1:1".parse().unwrap(), SocketAddr::new(node.address, PORT), &datagram, 0);
                }
                Step::Wait(ms) => world.pass(Duration::from_millis(ms.into()), &[&node]),
                Step::Key => {
                    let key = PrivateKey::generate_with(&SystemRandom);
                    node.apply(Update { private_key: Some(Some(key)), ..Update::default() });
                }
                Step::Up(up) => {
                    node.tun.set_up(up);
                    node.device.handle_tun_events();
                }
                Step::Few => {
                    node.apply(Update { replace_peers: true, peers: (0..50).map(peer_update).collect(), ..Update::default() });
                    there = (0..50).collect();
                    owner.clear();
                }
            }
            world.settle(&[&node]);
            prop_assert!(node.device.indices() <= 4 * there.len());
        }
        let mut listed = HashMap::new();
        let mut peers = HashSet::new();
        for peer in node.device.snapshot().peers.flatten() {
            let bytes = peer.public_key.as_bytes();
            let n = u16::from_le_bytes([bytes[0], bytes[1]]);
            prop_assert!(peers.insert(n));
            for prefix in peer.allowed_ips {
                prop_assert_eq!(listed.insert(prefix, n), None, "two owners");
            }
        }
        prop_assert_eq!(peers, there);
        prop_assert_eq!(listed, owner);
        for n in 0..2000 {
            node.apply(remove(peer_key(n)));
        }
        node.tun.set_up(true);
        node.device.handle_tun_events();
        assert_empty(&node);
    }
}

/// Handshakes of one key, on a thread of their own, while that key is taken away and another set.
#[test]
fn a_key_that_changes_during_a_handshake_spoils_nothing() {
    let world = World::new();
    let node = world.node(2);
    let keys = [node.private.clone(), PrivateKey::generate_with(&SystemRandom)];
    let mut inbound = Inbound::new();
    let private = PrivateKey::generate_with(&SystemRandom);
    for round in 0..200 {
        world.clock.advance(Duration::from_secs(1));
        let mut raw = Raw::with_key(&node, 1, private.clone());
        node.apply(Update { private_key: Some(Some(keys[0].clone())), replace_peers: true, ..Update::default() });
        raw.introduce(&node);
        let initiation = raw.initiation(&world);
        raw.send(&world, &initiation);
        std::thread::scope(|scope| {
            scope.spawn(|| while node.device.inbound(&mut inbound).unwrap() > 0 {});
            std::thread::sleep(Duration::from_micros(round * 37 % 500));
            node.apply(Update { private_key: Some(Some(keys[1].clone())), ..Update::default() });
        });
        let _ = world.sent();
        assert!(node.device.current_session(raw.identity.public()).is_none());

        world.clock.advance(Duration::from_secs(1));
        raw.node = keys[1].public_key();
        raw.handshake = wg_embed::noise::handshake::Handshake::new(raw.node);
        raw.connect(&world, &node);
        assert!(node.device.current_session(raw.identity.public()).is_some(), "round {round}");
    }
}

/// A peer comes and goes, and the interface goes down and up, while packets for the peer come from the TUN.
#[test]
fn a_peer_that_is_removed_at_the_wrong_moment_leaves_nothing_behind() {
    let world = World::new();
    let (a, b) = (world.node(1), world.node(2));
    let mut outbound = Outbound::new();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut left = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                a.send_to(&b, 100);
                a.device.outbound(&mut outbound).unwrap();
            }
        });
        for i in 0..5000 {
            a.add_peer(&b, |_| {});
            for _ in 0..i % 500 {
                std::hint::spin_loop();
            }
            a.apply(remove(b.public()));
            if i % 2 == 0 {
                a.add_peer(&b, |_| {});
                a.device.down();
                left += a.device.indices();
                a.apply(remove(b.public()));
                a.device.up().unwrap();
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(left, 0, "after going down");
    while a.step() > 0 {}
    assert_empty(&a);
}
