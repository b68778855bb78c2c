//! What other implementations get wrong, held up against ours: one test for each row, A to AB, of the list that
//! `boringtun_deviations.rs` shows on boringtun itself. Each would fail if ours behaved as the row says of theirs; what
//! is right is what the Linux kernel does.
//!
//! Whole devices, a clock turned by hand, a network in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;
#[path = "common/snow_noise.rs"]
mod snow_noise;

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

/// Theirs: when 90 s of tries are over, a persistent keepalive never begins anew, so that a tunnel does not come back
/// unless this side sends; and its first try comes after a whole interval.
#[test]
fn row_a_keepalives_and_packets_revive_a_tunnel_that_was_given_up() {
    let world = World::new();
    let (a, b) = (world.node(1), world.node(2));
    b.add_peer(&a, |_| {});
    b.device.down();
    a.add_peer(&b, |p| p.persistent_keepalive = Some(25));

    let tries = times(&world.watch(Duration::from_secs(115), &[&a]), &a, INITIATION);
    assert_eq!(tries.len(), 20);
    assert_eq!(tries[0], Duration::ZERO);
    assert_eq!(*a.events.lock().unwrap(), [Event::HandshakeFailed(b.public())]);
    let tries = times(&world.watch(Duration::from_secs(600), &[&a]), &a, INITIATION);
    assert!(tries.len() > 80, "it goes on trying: {}", tries.len());

    b.device.up().unwrap();
    world.pass(Duration::from_secs(32), &[&a, &b]);
    assert!(a.events.lock().unwrap().contains(&Event::HandshakeCompleted(b.public())), "only a keepalive was there");

    // Without a keepalive it is quiet, until there is a packet.
    let world = World::new();
    let (a, b) = world.pair();
    cut(&world);
    a.send_to(&b, 100);
    world.pass(Duration::from_secs(115), &[&a, &b]);
    let _ = world.sent();
    world.pass(Duration::from_secs(100), &[&a, &b]);
    assert_eq!(world.sent_types(), []);
    world.net.clear_filter();
    let packet = a.send_to(&b, 200);
    world.settle(&[&a, &b]);
    assert_eq!(b.received(), [packet]);
}

/// Theirs: a packet after 15 s of silence causes a handshake at once, as the time is counted from what was received
/// last and not from what was sent.
#[test]
fn row_b_a_packet_after_silence_causes_no_handshake() {
    let world = World::new();
    let (a, b) = connected(&world);
    world.watch(Duration::from_secs(60), &[&a, &b]);
    a.send_to(&b, 100);
    let seen = world.watch(Duration::from_secs(40), &[&a, &b]);
    assert_eq!(times(&seen, &a, INITIATION), []);
    assert_eq!(times(&seen, &b, KEEPALIVE), [Duration::from_secs(10)]);

    // If nothing comes back, there is one 15 s after the packet.
    cut(&world);
    a.send_to(&b, 100);
    let seen = world.watch(Duration::from_secs(16), &[&a, &b]);
    let tries = times(&seen, &a, INITIATION);
    assert!(tries.len() == 1 && (15 * SECOND..=15 * SECOND + JITTER).contains(&tries[0]), "{tries:?}");
}

/// Theirs: the keepalive that answers data goes out at the first tick after it.
#[test]
fn row_c_data_is_answered_by_a_keepalive_after_ten_seconds() {
    let world = World::new();
    let (a, b) = connected(&world);
    world.watch(Duration::from_secs(20), &[&a, &b]);
    a.send_to(&b, 100);
    let seen = world.watch(Duration::from_secs(30), &[&a, &b]);
    assert_eq!(times(&seen, &b, KEEPALIVE), [Duration::from_secs(10)]);
    // Not at all if something else was sent meanwhile.
    a.send_to(&b, 100);
    world.watch(Duration::from_secs(9), &[&a, &b]);
    b.send_to(&a, 100);
    assert_eq!(times(&world.watch(Duration::from_secs(9), &[&a, &b]), &b, KEEPALIVE), []);
}

/// Theirs: no jitter, so that peers that begin together go on colliding.
#[test]
fn row_d_retries_have_jitter() {
    let world = World::new();
    let nodes: Vec<Node> = (10..26).map(|n| world.node(n)).collect();
    let nobody = world.node(1);
    cut(&world);
    for node in &nodes {
        node.add_peer(&nobody, |_| {});
        node.send_to(&nobody, 100);
    }
    let all: Vec<&Node> = nodes.iter().collect();
    let seen = world.watch(Duration::from_secs(60), &all);
    let mut waits = Vec::new();
    for node in &nodes {
        let tries = times(&seen, node, INITIATION);
        assert_eq!(tries[0], Duration::ZERO);
        waits.extend(tries.windows(2).map(|w| w[1] - w[0]));
    }
    assert!(waits.len() >= 16 * 11);
    assert!(waits.iter().all(|w| (RETRY..=RETRY + JITTER).contains(w)));
    let (min, max) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
    assert!(*max - *min > JITTER / 2, "{min:?} to {max:?}");
    assert!(waits.iter().collect::<HashSet<_>>().len() > waits.len() / 2, "the same few times");
}

/// Theirs: a persistent keepalive each interval, however much else is sent.
#[test]
fn row_e_persistent_keepalives_only_fill_silence() {
    let world = World::new();
    let (a, b) = world.pair();
    a.change_peer(&b, |p| p.persistent_keepalive = Some(25));
    world.settle(&[&a, &b]);
    let _ = world.sent();
    let mut seen = Vec::new();
    for _ in 0..60 {
        a.send_to(&b, 100);
        b.send_to(&a, 100);
        seen.append(&mut world.watch(SECOND, &[&a, &b]));
    }
    assert_eq!((times(&seen, &a, KEEPALIVE), times(&seen, &a, DATA).len()), (vec![], 60));
    // The last packets were sent a second ago. The first answers them, the others are the persistent ones.
    let seen = world.watch(Duration::from_secs(55), &[&a, &b]);
    assert_eq!(times(&seen, &a, KEEPALIVE), [9, 34].map(Duration::from_secs));
}

/// Theirs: a responder's waiting packets cause an initiation, change their order and are not sent upon confirmation.
#[test]
fn row_f_a_responders_packets_wait_for_confirmation_and_keep_their_order() {
    let world = World::new();
    let (a, b) = world.pair();
    cut(&world);
    let mut waiting: Vec<_> = (0..3).map(|i| b.send_to(&a, 100 + i)).collect();
    world.settle(&[&a, &b]);
    assert_eq!(world.sent_types(), [INITIATION]);

    // The confirmation is lost: only initiation and response arrive.
    world.net.set_filter(|d| if matches!(d.payload[0], 1 | 2) { Action::Deliver } else { Action::Drop });
    a.send_to(&b, 200);
    world.settle(&[&a, &b]);
    assert_eq!(world.sent_types(), [INITIATION, RESPONSE, DATA]);
    waiting.push(b.send_to(&a, 103));
    assert_eq!(world.watch(SECOND, &[&a, &b]), [], "neither a packet nor an initiation");

    world.net.clear_filter();
    a.send_to(&b, 201);
    world.settle(&[&a, &b]);
    assert_eq!(world.sent_types(), [DATA; 5]);
    assert_eq!(a.received(), waiting);
}

/// Theirs: an IPv4 packet that says it is 0, 7 or 19 bytes long is written, cut to that length.
#[test]
fn row_g_packets_with_an_impossible_length_are_dropped() {
    let world = World::new();
    let b = world.node(2);
    let mut raw = Raw::new(&b, 1);
    raw.introduce(&b);
    let session = raw.connect(&world, &b);
    let mut counter = 0;
    let mut send = |packet: &[u8]| {
        counter += 1;
        raw.send(&world, &seal(&session, counter, packet));
        world.settle(&[&b]);
    };
    for len in [0, 7, 19, 1000] {
        let mut packet = ipv4(raw.inner, b.inner, 100);
        packet[2..4].copy_from_slice(&u16::to_be_bytes(len));
        send(&packet);
    }
    let mut v6 = vec![0; 48];
    (v6[0], v6[5]) = (0x60, 200);
    send(&v6);
    send(&[0x45; 10]);
    send(&[0x60; 39]);
    send(&[0x50; 64]);
    assert_eq!(b.stat("in_malformed_inner"), 8);
    assert_eq!(b.received(), Vec::<Vec<u8>>::new());
    let good = ipv4(raw.inner, b.inner, 100);
    send(&good);
    assert_eq!(b.received(), [good]);
}

/// Theirs: after eight unanswered responses data goes out on keys that nobody has confirmed.
#[test]
fn row_h_unconfirmed_keys_carry_no_data() {
    let world = World::new();
    let b = world.node(2);
    let mut raw = Raw::new(&b, 1);
    raw.introduce(&b);
    let to_raw = ipv4(b.inner, raw.inner, 112);

    // The first session of all, while a packet waits (its own initiation is lost).
    assert!(b.tun.inject(&to_raw));
    world.settle(&[&b]);
    assert_eq!(kinds(&raw.heard(&world)), [INITIATION]);
    let live = raw.shake(&world, &b);
    world.settle(&[&b]);
    assert_eq!(raw.heard(&world), Vec::<Vec<u8>>::new(), "nothing before it is confirmed");
    raw.send(&world, &seal(&live, 0, &[]));
    world.settle(&[&b]);
    let heard: Vec<_> = raw.heard(&world).iter().map(|m| open(&live, m)).collect();
    assert_eq!(heard, [Some(to_raw.clone())]);

    // Real ones, replayed ones and damaged ones.
    let mut last = None;
    for n in 1..=20 {
        world.clock.advance(APART);
        let initiation = raw.initiation(&world);
        raw.send(&world, &initiation);
        raw.send(&world, &initiation);
        let mut damaged = initiation.clone();
        damaged[100] ^= 1;
        MacStamper::default().stamp(&mut damaged, &raw.node, world.now());
        raw.send(&world, &damaged);
        world.settle(&[&b]);
        last = raw.heard(&world).into_iter().find(|m| kind(m) == RESPONSE);
        assert!(last.is_some());

        assert!(b.tun.inject(&to_raw));
        raw.send(&world, &seal(&live, n, &ipv4(raw.inner, b.inner, 100)));
        world.settle(&[&b]);
        let sent: Vec<_> = raw.heard(&world).iter().map(|m| open(&live, m)).collect();
        assert_eq!(sent, [Some(to_raw.clone())], "after {n} responses");
        assert_eq!(b.received().len(), 1);
    }
    assert_eq!(b.stat("handshake_refused"), 40);
    assert!(b.device.indices() <= 3, "{}", b.device.indices());

    let new = raw.take_response(&world, &last.unwrap());
    raw.send(&world, &seal(&new, 0, &[]));
    world.settle(&[&b]);
    assert!(b.tun.inject(&to_raw));
    world.settle(&[&b]);
    assert_eq!(raw.heard(&world).iter().map(|m| open(&new, m)).collect::<Vec<_>>(), [Some(to_raw)]);
}

/// Theirs: no padding, and counters of inner bytes only.
#[test]
fn row_i_packets_are_padded_and_datagrams_counted() {
    let world = World::new();
    let (a, b) = world.pair();
    let mut sent = Vec::new();
    for len in [20, 21, 32, 33, 1408, 1409, 1416, 1420] {
        a.send_to(&b, len);
        world.settle(&[&a, &b]);
        sent.append(&mut world.sent());
    }
    let data: Vec<usize> = sent.iter().filter(|d| d.payload[0] == DATA).map(|d| d.payload.len()).collect();
    assert_eq!(data, [32, 32, 32, 48, 1408, 1420, 1420, 1420].map(|padded| padded + 32));
    a.tun.set_mtu(1500);
    a.device.handle_tun_events();
    a.send_to(&b, 1409);
    world.settle(&[&a, &b]);
    let after = world.sent();
    assert_eq!(after[0].payload.len(), 1424 + 32, "bounded by the MTU of now");
    sent.extend(after);

    b.send_to(&a, 50);
    sent.extend(world.watch(Duration::from_secs(20), &[&a, &b]).into_iter().map(|(_, d)| d));
    assert!(sent.iter().any(|d| kind(&d.payload) == KEEPALIVE));
    let total = |node: &Node| -> u64 {
        sent.iter().filter(|d| d.from.ip() == node.address).map(|d| d.payload.len() as u64).sum()
    };
    let (of_a, of_b) = (a.peer(&b.public()), b.peer(&a.public()));
    assert_eq!((of_a.tx_bytes, of_a.rx_bytes), (total(&a), total(&b)));
    assert_eq!((of_b.tx_bytes, of_b.rx_bytes), (total(&b), total(&a)));
}

/// Theirs: no limit on messages, neither to ask for a new session nor to stop using this one.
#[test]
fn row_j_sessions_end_by_messages_too() {
    let world = World::new();
    let (a, b) = connected(&world);
    let wind = |counter| a.device.current_session(&b.public()).unwrap().set_counter(counter);

    wind(REKEY_AFTER_MESSAGES - 1);
    world.clock.advance(RETRY);
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(world.sent_types(), [DATA], "the last one before");
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(world.sent_types(), [DATA, INITIATION, RESPONSE, KEEPALIVE]);

    wind(REJECT_AFTER_MESSAGES - 2);
    world.clock.advance(RETRY);
    let _ = b.received();
    let packets: Vec<_> = (0..3).map(|i| a.send_to(&b, 100 + i)).collect();
    world.settle(&[&a, &b]);
    let sent = world.sent();
    assert_eq!(sent.iter().map(|d| kind(&d.payload)).collect::<Vec<_>>(), [INITIATION, RESPONSE, DATA, DATA, DATA]);
    assert_eq!(sent[2].payload[8..16], [0; 8], "on the new session");
    assert_eq!(b.received(), packets);

    // The receiving side.
    let b = world.node(3);
    let mut raw = Raw::new(&b, 4);
    raw.introduce(&b);
    let session = raw.connect(&world, &b);
    let taken = |counter| {
        raw.send(&world, &seal(&session, counter, &ipv4(raw.inner, b.inner, 100)));
        world.settle(&[&b]);
        b.received().len() == 1
    };
    assert!(!taken(u64::MAX) && !taken(REJECT_AFTER_MESSAGES));
    assert!(taken(REJECT_AFTER_MESSAGES - 1));
    assert!(!taken(REJECT_AFTER_MESSAGES - 2), "it has reached its end");
}

/// Theirs: a window of 1024, and an overflow by a counter near the end of the numbers.
#[test]
fn row_k_the_replay_window_is_wide_and_does_not_overflow() {
    let world = World::new();
    let b = world.node(2);
    let mut raw = Raw::new(&b, 1);
    raw.introduce(&b);
    let session = raw.connect(&world, &b);
    let taken = |counter| {
        raw.send(&world, &seal(&session, counter, &ipv4(raw.inner, b.inner, 100)));
        world.settle(&[&b]);
        b.received().len() == 1
    };
    assert_eq!(WINDOW, 8128);
    assert!(taken(20_000) && !taken(20_000));
    assert!(taken(20_000 - WINDOW) && !taken(20_000 - WINDOW - 1));
    for end in [u64::MAX, u64::MAX - 1, u64::MAX - 1023, REJECT_AFTER_MESSAGES] {
        assert!(!taken(end));
    }
    assert!(taken(20_000 - WINDOW + 1) && taken(20_001), "the window is where it was");
    assert_eq!(b.stat("in_replayed"), 6);
}

/// Theirs: only a tick ends a session; a machine that has slept for ten minutes sends on with it and takes from it.
#[test]
fn row_l_a_session_dies_of_age_without_any_timer() {
    for nap in [180, 600, 100_000].map(Duration::from_secs) {
        let world = World::new();
        let (a, b) = connected(&world);
        world.clock.advance(nap - ms(1));
        let before = nap == Duration::from_secs(180);
        let packet = before.then(|| a.send_to(&b, 100));
        a.step();
        // On its way for a millisecond: what was sealed in time comes too late.
        let initiated = |types: Vec<u8>| types == [DATA, INITIATION] || types == [INITIATION];
        world.clock.advance(ms(1));
        if packet.is_some() {
            assert!(initiated(world.sent_types()), "still used, and renewed");
            world.net.set_filter(|_| Action::Drop);
            b.step();
            assert_eq!((b.received().len(), b.stat("in_expired")), (0, 1));
            world.net.clear_filter();
            world.clock.advance(RETRY);
            let _ = world.sent();
        }
        let packet = a.send_to(&b, 150);
        world.settle(&[&a, &b]);
        assert_eq!(world.sent_types(), [INITIATION, RESPONSE, DATA]);
        assert_eq!(b.received(), [packet], "the first packet is not lost");
    }
}

/// Theirs: one packet is enough for a new session every 120 s, for as long as the tunnel idles.
#[test]
fn row_m_an_idle_tunnel_does_not_rekey() {
    let world = World::new();
    let (a, b) = world.pair();
    a.send_to(&b, 100);
    let seen = world.watch(Duration::from_secs(3600), &[&a, &b]);
    assert_eq!(times(&seen, &a, INITIATION), [Duration::ZERO]);
    assert_eq!(times(&seen, &b, INITIATION), []);
    assert_eq!(seen.len(), 4, "initiation, response, data, keepalive");
}

/// Theirs: no limit for a peer, one counter for all, and none with a cookie.
#[test]
fn row_n_a_flood_costs_its_sender_and_nobody_else() {
    let world = World::new();
    let b = world.node(2);
    let mut raw = Raw::new(&b, 1);
    raw.introduce(&b);

    // One peer: 20 ms.
    for _ in 0..100 {
        let initiation = raw.initiation(&world);
        raw.send(&world, &initiation);
        world.settle(&[&b]);
        world.clock.advance(ms(1));
    }
    assert_eq!(kinds(&raw.heard(&world)), [RESPONSE; 5]);
    assert_eq!(b.stat("handshake_refused"), 95);

    // Strangers from many addresses: soon each must show that it receives at its address. The honest peer does.
    world.clock.advance(SECOND);
    flood(&world, &b, 600);
    let initiation = raw.initiation(&world);
    raw.send(&world, &initiation);
    world.settle(&[&b]);
    let heard = raw.heard(&world);
    assert_eq!(kinds(&heard), [COOKIE_REPLY]);
    assert!(b.stat("handshake_refused") < 95 + 128, "what was computed for strangers");
    assert!(b.stat("handshake_cookie_sent") > 400);
    raw.take_cookie(&world, &heard[0]);
    flood(&world, &b, 600);
    let initiation = raw.initiation(&world);
    raw.send(&world, &initiation);
    world.settle(&[&b]);
    assert_eq!(kinds(&raw.heard(&world)), [RESPONSE]);

    // Somebody with a cookie: five at once and twenty a second.
    let mut greedy = Raw::new(&b, 9);
    let initiation = greedy.initiation(&world);
    greedy.send(&world, &initiation);
    world.settle(&[&b]);
    let heard = greedy.heard(&world);
    assert_eq!(kinds(&heard), [COOKIE_REPLY]);
    greedy.take_cookie(&world, &heard[0]);
    let computed = b.stat("handshake_refused");
    for _ in 0..40 {
        let initiation = greedy.initiation(&world);
        greedy.send(&world, &initiation);
    }
    world.settle(&[&b]);
    assert_eq!(b.stat("handshake_refused") - computed, 5, "of somebody unknown");
    for _ in 0..90 {
        world.clock.advance(ms(10));
        let initiation = greedy.initiation(&world);
        greedy.send(&world, &initiation);
        world.settle(&[&b]);
    }
    assert_eq!(b.stat("handshake_refused") - computed, 5 + 18);
    assert_eq!(b.stat("handshake_rate_limited"), 35 + 72);
    // Another address is not concerned by that.
    let initiation = raw.initiation(&world);
    raw.send(&world, &initiation);
    world.settle(&[&b]);
    assert_eq!(kinds(&raw.heard(&world)), [RESPONSE]);

    // What waits is bounded.
    flood(&world, &b, 4000);
    world.settle(&[&b]);
    assert!(b.stat("handshake_queue_full") > 0);
}

/// Theirs: a cookie is for an address without its port, and its secret lives longer than 120 s.
#[test]
fn row_o_a_cookie_is_for_address_and_port_and_two_minutes() {
    let world = World::new();
    let b = world.node(2);
    let mut raw = Raw::new(&b, 1);
    raw.introduce(&b);
    load(&world, &b);
    // Under load since now, so the secret is as old.
    let born = world.now();
    let initiation = raw.initiation(&world);
    raw.send(&world, &initiation);
    world.settle(&[&b]);
    let heard = raw.heard(&world);
    assert_eq!(kinds(&heard), [COOKIE_REPLY]);
    raw.take_cookie(&world, &heard[0]);

    let home = raw.at;
    let neighbour = SocketAddr::new(home.ip(), home.port() + 1);
    let mut answer = |from: SocketAddr, after: Duration| {
        world.clock.advance_to(born + after);
        load(&world, &b);
        let mut initiation = raw.initiation(&world);
        // As a sender does that does not stop using its cookie in time.
        raw.stamper.stamp(&mut initiation, &raw.node, born);
        assert_ne!(initiation[132..], [0; 16]);
        world.net.inject(from, raw.node_at, &initiation, 0);
        world.settle(&[&b]);
        world.sent().iter().find(|d| d.to == from).map(|d| kind(&d.payload))
    };
    assert_eq!(answer(neighbour, SECOND), Some(COOKIE_REPLY));
    assert_eq!(answer(SocketAddr::new("192.0.2.77".parse().unwrap(), PORT), SECOND), Some(COOKIE_REPLY));
    assert_eq!(answer(home, SECOND), Some(RESPONSE));
    assert_eq!(answer(home, ms(119_999)), Some(RESPONSE));
    assert_eq!(answer(home, ms(120_000)), Some(COOKIE_REPLY));
}

/// Theirs: 540 s after the last session everything is forgotten, with it a handshake that began just before and the
/// packet that waits for it.
///
/// The kernel wipes the keys of that handshake too, but the packet waits on and so does the timer that tries again.
#[test]
fn row_p_wiping_old_keys_does_not_end_a_young_handshake() {
    for late_response in [false, true] {
        let world = World::new();
        let (a, b) = connected(&world);
        world.pass(Duration::from_secs(538), &[&a, &b]);
        let _ = world.sent();
        world.net.set_filter(move |d| match d.payload[0] {
            2 if late_response => Action::Hold,
            1 if late_response => Action::Deliver,
            _ => Action::Drop,
        });
        let packet = a.send_to(&b, 100);
        let seen = world.watch(Duration::from_secs(3), &[&a, &b]);
        assert_eq!(times(&seen, &a, INITIATION), [Duration::ZERO]);
        assert!(a.events.lock().unwrap().contains(&Event::SessionExpired(b.public())));
        assert_eq!(a.device.indices(), 0);

        world.net.clear_filter();
        world.net.release();
        let seen = world.watch(RETRY, &[&a, &b]);
        let again = times(&seen, &a, INITIATION);
        assert!(again.len() == 1 && (2 * SECOND..=2 * SECOND + JITTER).contains(&again[0]), "{again:?}");
        assert_eq!(b.received(), [packet]);
        assert_eq!(a.stat("out_unstaged"), 0);
    }
}

/// Theirs: a cookie reply, which is not authenticated by a session, counts as a sign of life.
#[test]
fn row_q_a_cookie_reply_is_no_sign_of_life() {
    let world = World::new();
    let (a, b) = world.pair();
    let elsewhere: SocketAddr = "203.0.113.5:7".parse().unwrap();
    let home = a.peer(&b.public()).endpoint;
    cut(&world);
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    let initiation = world.sent().remove(0);
    let mut checker = CookieChecker::new(&b.public());
    let reply = checker.reply(&initiation.payload, initiation.from, world.now(), &SystemRandom);
    world.net.inject(elsewhere, initiation.from, &reply, 0);
    world.settle(&[&a]);
    assert_eq!(a.stat("cookie_refused"), 0, "it is a good one");
    let of_b = a.peer(&b.public());
    assert_eq!((of_b.endpoint, of_b.rx_bytes), (home.clone(), 0));
    assert_eq!(*a.events.lock().unwrap(), []);
    let retry = world.watch(RETRY + JITTER, &[&a]);
    assert_eq!(retry.len(), 1, "as if nothing had come");
    assert!(retry[0].0 >= RETRY);
    assert_ne!(retry[0].1.payload[132..], [0; 16], "with mac2");

    // On a session: unanswered data leads to a handshake in spite of it.
    let world = World::new();
    let (a, b) = world.pair();
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    let initiation = world.sent().remove(0);
    world.pass(Duration::from_secs(20), &[&a, &b]);
    cut(&world);
    a.send_to(&b, 100);
    world.watch(SECOND, &[&a, &b]);
    let rx = a.peer(&b.public()).rx_bytes;
    let reply = CookieChecker::new(&b.public()).reply(&initiation.payload, elsewhere, world.now(), &SystemRandom);
    world.net.inject(elsewhere, initiation.from, &reply, 0);
    let tries = times(&world.watch(15 * SECOND, &[&a, &b]), &a, INITIATION);
    assert_eq!(a.stat("cookie_refused"), 0);
    assert!(tries.len() == 1 && (14 * SECOND..=14 * SECOND + JITTER).contains(&tries[0]), "{tries:?}");
    assert_eq!((a.peer(&b.public()).endpoint, a.peer(&b.public()).rx_bytes), (home, rx));
}

/// Theirs: indices count up behind a fixed prefix.
#[test]
fn row_r_indices_are_random() {
    let world = World::new();
    let b = world.node(2);
    let mut raw = Raw::new(&b, 1);
    raw.introduce(&b);
    let mut indices = Vec::new();
    for _ in 0..150 {
        world.clock.advance(APART);
        let initiation = raw.initiation(&world);
        raw.send(&world, &initiation);
        world.settle(&[&b]);
        indices.extend(raw.heard(&world).iter().map(|m| sender_index(m)));
    }
    assert_eq!(indices.len(), 150);
    let (c, d) = (world.node(3), world.node(4));
    cut(&world);
    for (from, to) in [(&c, &d), (&d, &c)] {
        from.add_peer(to, |_| {});
        from.send_to(to, 100);
    }
    let seen = world.watch(Duration::from_secs(90), &[&c, &d]);
    indices.extend(seen.iter().map(|(_, m)| sender_index(&m.payload)));
    assert!(indices.len() > 180);

    for byte in 0..4 {
        // Of 180 random bytes about 129 differ.
        let distinct = indices.iter().map(|i| i.to_be_bytes()[byte]).collect::<HashSet<_>>().len();
        assert!(distinct > 90, "byte {byte} has {distinct} values");
    }
    let near = indices.windows(2).filter(|w| w[0].abs_diff(w[1]) < 1 << 16).count();
    assert!(near <= 2, "{near} neighbours");
}

/// An initiation to `node` by another implementation, made with these keys; and what takes the response.
fn foreign_initiation(
    world: &World,
    node: &Node,
    private: &[u8; 32],
    ephemeral: &[u8; 32],
    sent: (u64, u32),
) -> (Vec<u8>, snow::HandshakeState) {
    let remote = node.public();
    let builder = noise().local_private_key(private).unwrap().remote_public_key(remote.as_bytes()).unwrap();
    let mut state = builder.fixed_ephemeral_key_for_testing_only(ephemeral).build_initiator().unwrap();
    let mut payload = sent.0.to_be_bytes().to_vec();
    payload.extend(sent.1.to_be_bytes());
    let mut message = vec![0; INITIATION_LEN];
    message[0] = INITIATION;
    assert_eq!(state.write_message(&payload, &mut message[8..]).unwrap(), 108);
    MacStamper::default().stamp(&mut message, &node.public(), world.now());
    (message, state)
}

/// Theirs: a key of low order is used, so that the secret is known to everybody.
#[test]
fn row_s_keys_of_low_order_are_refused_in_every_place() {
    let world = World::new();
    let b = world.node(2);
    let zero = PublicKey::from_bytes([0; 32]);
    let good = [7; 32];
    let stranger = Raw::with_key(&b, 1, PrivateKey::from_bytes(good));
    stranger.introduce(&b);
    let mut low = PeerUpdate::new(zero);
    low.endpoint = Some("192.0.2.66:1".parse::<SocketAddr>().unwrap().into());
    low.allowed_ips =
        vec![wg_embed::config::AllowedIpUpdate { prefix: IpAddr::from([10, 0, 0, 66]).into(), remove: false }];
    b.apply(Update { peers: vec![low], ..Update::default() });

    let secs = KERNEL_EPOCH + world.clock.wall().as_secs();
    let answers = |private, ephemeral, n| {
        let (message, _) = foreign_initiation(&world, &b, private, ephemeral, (secs + n, 0));
        world.clock.advance(APART);
        stranger.send(&world, &message);
        world.settle(&[&b]);
        kinds(&stranger.heard(&world))
    };
    assert_eq!(answers(&good, &LOW_ORDER, 1), [], "es, by the ephemeral");
    assert_eq!(answers(&LOW_ORDER, &good, 2), [], "ss, by the static");
    assert_eq!(b.stat("handshake_refused"), 2);
    assert_eq!(answers(&good, &good, 3), [RESPONSE], "what is refused is the low order");

    // Towards such a peer: no initiation can be made.
    assert!(b.tun.inject(&ipv4(b.inner, IpAddr::from([10, 0, 0, 66]), 100)));
    assert_eq!(world.watch(Duration::from_secs(10), &[&b]), []);

    // In a response.
    let world = World::new();
    let a = world.node(1);
    let responder = Raw::with_key(&a, 2, PrivateKey::from_bytes(good));
    responder.introduce(&a);
    for (ephemeral, expected) in [(&LOW_ORDER, vec![]), (&good, vec![DATA])] {
        world.clock.advance(Duration::from_secs(20));
        assert!(a.tun.inject(&ipv4(a.inner, responder.inner, 100)));
        world.settle(&[&a]);
        let initiation = responder.heard(&world).pop().unwrap();
        let builder = noise().local_private_key(&good).unwrap();
        let mut state = builder.fixed_ephemeral_key_for_testing_only(ephemeral).build_responder().unwrap();
        state.read_message(&initiation[8..116], &mut [0; 12]).unwrap();
        let mut response = [&[RESPONSE, 0, 0, 0, 1, 2, 3, 4], &initiation[4..8], &[0; 80]].concat();
        assert_eq!(state.write_message(&[], &mut response[12..]).unwrap(), 48);
        MacStamper::default().stamp(&mut response, &a.public(), world.now());
        let refused = a.stat("handshake_refused");
        responder.send(&world, &response);
        world.settle(&[&a]);
        assert_eq!(a.stat("handshake_refused") - refused, u64::from(*ephemeral == LOW_ORDER));
        // Two packets wait by then.
        let mut sent = kinds(&responder.heard(&world));
        sent.dedup();
        assert_eq!(sent, expected);
    }
}

/// Theirs: time stamps 27 s ahead of everybody else's, exact to the nanosecond.
#[test]
fn row_t_time_stamps_are_the_kernels() {
    let world = World::new();
    let (a, b) = (world.node(1), world.node(2));
    let key = *a.private.as_bytes();
    a.add_peer(&b, |_| {});
    b.add_peer(&a, |_| {});
    let mut last = (0, 0);
    let mut stamp = |world: &World| {
        world.clock.advance(RETRY);
        a.send_to(&b, 100);
        a.step();
        let sent = world.sent();
        let initiation = sent.iter().find(|d| d.payload[0] == INITIATION).expect("an initiation");
        let stamp = timestamp(&initiation.payload, b.private.as_bytes());
        assert!(stamp > last, "always later");
        last = stamp;
        stamp
    };
    cut(&world);
    world.clock.advance(Duration::from_nanos(123_456_789));
    let (secs, nanos) = stamp(&world);
    let wall = world.clock.wall();
    assert_eq!(secs, KERNEL_EPOCH + wall.as_secs());
    assert_eq!((nanos % (1 << 24), wall.subsec_nanos() - nanos < 1 << 24), (0, true), "only the coarse time");
    // A wall clock that is set back, even to before 1970.
    for wall in [wall - Duration::from_secs(86_400), Duration::ZERO] {
        world.clock.set_wall(wall);
        stamp(&world);
    }
    world.clock.set_wall(wall + Duration::from_secs(3600));
    assert_eq!(stamp(&world).0, KERNEL_EPOCH + wall.as_secs() + 3605);

    // The machine changes from another implementation to ours and back, with its key.
    let world = World::new();
    let b = world.node(2);
    b.add_peer(&a, |_| {});
    let foreign = |n: u8| {
        let wall = world.clock.wall();
        let sent = (KERNEL_EPOCH + wall.as_secs(), wall.subsec_nanos() >> 24 << 24);
        let (message, _) = foreign_initiation(&world, &b, &key, &[n; 32], sent);
        world.net.inject(SocketAddr::new(a.address, PORT), SocketAddr::new(b.address, PORT), &message, 0);
        world.settle(&[&b]);
        world.sent_types()
    };
    assert_eq!(foreign(1), [RESPONSE]);
    world.clock.advance(APART);
    let mut ours = Raw::with_key(&b, 1, PrivateKey::from_bytes(key));
    ours.shake(&world, &b);
    world.clock.advance(APART);
    assert_eq!(foreign(2), [RESPONSE]);
}

/// Theirs: a peer must be made anew for another preshared key or keepalive, and so forgets its session and the newest
/// time stamp.
#[test]
fn row_u_edits_keep_the_session_and_the_newest_time_stamp() {
    let world = World::new();
    let (a, b) = world.pair();
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    let initiation = world.sent().remove(0);
    world.clock.advance(SECOND);

    let psk = PresharedKey::generate(&SystemRandom);
    let refused = b.stat("handshake_refused");
    for (from, to) in [(&a, &b), (&b, &a)] {
        from.change_peer(to, |p| p.preshared_key = Some(Box::new(psk.clone())));
        a.send_to(&b, 100);
        b.send_to(&a, 100);
        world.settle(&[&a, &b]);
        assert_eq!(world.sent_types(), [DATA, DATA], "on the session that is there");
        // The new preshared key has no part in an initiation.
        world.net.inject(initiation.from, initiation.to, &initiation.payload, 0);
        world.settle(&[&a, &b]);
        assert_eq!(world.sent_types(), []);
    }
    assert_eq!(b.stat("handshake_refused") - refused, 2);
    a.change_peer(&b, |p| p.persistent_keepalive = Some(25));
    world.settle(&[&a, &b]);
    assert_eq!(world.sent_types(), [KEEPALIVE]);

    // The next handshake has it.
    world.clock.advance(Duration::from_secs(180));
    let _ = b.received();
    let packet = a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(b.received(), [packet]);
    b.change_peer(&a, |p| p.preshared_key = Some(Box::new(PresharedKey::default())));
    world.clock.advance(Duration::from_secs(180));
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(b.received(), Vec::<Vec<u8>>::new(), "one side alone has it");
}

/// Theirs: a new private key leaves the handshake under way in place, which goes on with both keys mixed.
#[test]
fn row_v_a_new_private_key_ends_the_handshake_under_way() {
    let world = World::new();
    let (a, b) = world.pair();
    let waiting = a.send_to(&b, 100);
    a.step();
    b.step();
    let response = world.sent().pop().unwrap();
    assert_eq!(kind(&response.payload), RESPONSE);

    let key = PrivateKey::generate(&SystemRandom);
    let public = key.public_key();
    a.apply(Update { private_key: Some(Some(key)), ..Update::default() });
    world.settle(&[&a]);
    assert_eq!((world.sent_types(), a.stat("handshake_bad_mac")), (vec![], 1), "the response is to the old key");
    // Even if it is made to look like one to the new key.
    let mut again = response.payload.clone();
    MacStamper::default().stamp(&mut again, &public, world.now());
    world.net.inject(response.from, response.to, &again, 0);
    world.settle(&[&a]);
    assert_eq!((world.sent_types(), a.stat("handshake_refused")), (vec![], 1));

    // The next packet begins anew at once, under the new key alone.
    cut(&world);
    let packet = a.send_to(&b, 101);
    let seen = world.watch(Duration::from_secs(6), &[&a]);
    assert_eq!(times(&seen, &a, INITIATION)[0], Duration::ZERO);
    let identity = Identity::new(b.private.clone());
    let mut expected = Handshake::new(public);
    for (at, initiation) in seen {
        let message: [u8; INITIATION_LEN] = initiation.payload.try_into().unwrap();
        let opened = OpenedInitiation::open(&message, &identity).unwrap();
        assert_eq!(opened.remote, public);
        let now = world.now() + at;
        assert!(expected.consume_initiation(opened, &message, &identity, now), "static-static is the new key's");
    }
    world.net.clear_filter();
    let mut renamed = PeerUpdate::new(public);
    renamed.allowed_ips = vec![wg_embed::config::AllowedIpUpdate { prefix: a.inner.into(), remove: false }];
    b.apply(Update { replace_peers: true, peers: vec![renamed], ..Update::default() });
    world.pass(RETRY, &[&a, &b]);
    assert_eq!(b.received(), [waiting, packet]);
}

/// Theirs: keys stay in memory that is given back. What is left there is looked at in `wiped.rs`; here, that no key type
/// loses its promise.
#[test]
fn row_w_keys_are_wiped_when_they_are_dropped() {
    fn wiped<T: zeroize::ZeroizeOnDrop>() {}
    wiped::<PrivateKey>();
    wiped::<PresharedKey>();
}

/// Theirs: the same multiplication and the same MAC twice for each initiation, because what finds out the sender hands
/// nothing on.
#[test]
fn row_x_an_initiation_is_computed_once() {
    let (a, b) = (PrivateKey::generate(&SystemRandom), PrivateKey::generate(&SystemRandom));
    let (a, b) = (Identity::new(a), Identity::new(b));
    let wall = Duration::from_secs(1_700_000_000);
    let mut message = Handshake::new(*b.public()).create_initiation(&a, 1, wall, &SystemRandom).unwrap();
    let opened = OpenedInitiation::open(&message, &b).unwrap();
    // Ephemeral and static are gone from the message: the second step has them from the first, with all that was computed
    // from them.
    message[..88].fill(0);
    let mut handshake = Handshake::new(*a.public());
    assert!(handshake.consume_initiation(opened, &message, &b, Instant::default()));
    assert!(handshake.create_response(2, &SystemRandom).is_some());

    // A wrong mac1 ends it before any multiplication: not even the time stamp is noted.
    let world = World::new();
    let b = world.node(2);
    let mut raw = Raw::new(&b, 1);
    raw.introduce(&b);
    let good = raw.initiation(&world);
    let mut bad = good.clone();
    bad[116] ^= 1;
    raw.send(&world, &bad);
    world.settle(&[&b]);
    assert_eq!((b.stat("handshake_bad_mac"), b.stat("handshake_refused")), (1, 0));
    raw.send(&world, &good);
    world.settle(&[&b]);
    assert_eq!(kinds(&raw.heard(&world)), [RESPONSE]);
}

/// Theirs: one thread at a time for all data of a peer, from one buffer to another.
#[test]
fn row_y_a_session_is_used_by_many_threads_at_once_and_in_place() {
    fn shared<T: Send + Sync>() {}
    shared::<Session>();
    shared::<Device>();

    const THREADS: usize = 4;
    const EACH: usize = 500;
    let world = World::new();
    let node = world.node(2);
    let mut raw = Raw::new(&node, 1);
    raw.introduce(&node);
    let ours = raw.shake(&world, &node);
    // The node's half: confirmed, so that it is the current one.
    raw.send(&world, &seal(&ours, 0, &[]));
    world.settle(&[&node]);
    let theirs = node.device.current_session(raw.identity.public()).unwrap();

    let sealed: Vec<Vec<u8>> = thread::scope(|scope| {
        let seal = |thread: usize| {
            let session = &theirs;
            move || {
                let one = |i: usize| {
                    let mut message = vec![0; 16 + 64 + 16];
                    message[16..80].fill(thread as u8);
                    message[16..24].copy_from_slice(&(i as u64).to_le_bytes());
                    session.seal(session.take_counters(1).unwrap(), &mut message);
                    message
                };
                (0..EACH).map(one).collect::<Vec<_>>()
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|t| scope.spawn(seal(t))).collect();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    let accepted = Mutex::new(HashSet::new());
    let twice: Vec<_> = sealed.iter().chain(&sealed).cloned().collect();
    thread::scope(|scope| {
        for part in twice.chunks(EACH / 2) {
            let (ours, accepted) = (&ours, &accepted);
            scope.spawn(move || {
                for message in part {
                    let mut message = message.clone();
                    let counter = u64::from_le_bytes(message[8..16].try_into().unwrap());
                    assert_eq!(ours.open(counter, &mut message[16..]), Some(64));
                    ours.accept(
                        &mut [counter],
                        |c| *c,
                        |_| {
                            assert!(accepted.lock().unwrap().insert(message[16..80].to_vec()), "opened twice");
                        },
                    );
                }
            });
        }
    });
    assert_eq!(accepted.lock().unwrap().len(), THREADS * EACH);
}

/// Theirs: a panic for a small buffer and for a clock that steps back; a full queue drops what is newest; keepalives wait
/// in it.
#[test]
fn row_z_nothing_panics_and_the_newest_packets_are_kept() {
    // Any length, of any type.
    let world = World::new();
    let (a, b) = connected(&world);
    for kind in 0..6 {
        for len in 0..160 {
            let mut datagram = vec![0; len];
            if let Some(first) = datagram.first_mut() {
                *first = kind;
            }
            world.net.inject("203.0.113.1:1".parse().unwrap(), SocketAddr::new(b.address, PORT), &datagram, 0);
        }
        for len in 0..60 {
            a.tun.inject(&vec![0x45 | kind << 5; len]);
        }
        world.settle(&[&a, &b]);
    }
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(b.received().len(), 1);

    // A clock that steps back. The addition wraps round.
    let back = |by: Duration| world.clock.advance(Duration::from_nanos((by.as_nanos() as u64).wrapping_neg()));
    for by in [10, 500] {
        let before = world.now();
        back(Duration::from_secs(by));
        assert!(world.now() < before);
        for _ in 0..3 {
            a.send_to(&b, 100);
            b.send_to(&a, 100);
            world.settle(&[&a, &b]);
            a.device.run_timers();
            b.device.run_timers();
            world.clock.advance(SECOND);
        }
        assert_eq!((a.received().len(), b.received().len()), (3, 3));
    }

    // 140 packets for a peer that is away, and keepalives that fall due meanwhile.
    let world = World::new();
    let (a, b) = world.pair();
    cut(&world);
    a.change_peer(&b, |p| p.persistent_keepalive = Some(1));
    let packets: Vec<_> = (0..140).map(|i| a.send_to(&b, 100 + i)).collect();
    world.pass(Duration::from_secs(12), &[&a, &b]);
    assert_eq!(a.stat("out_stage_full"), 12, "the first keepalive is one of them");
    world.net.clear_filter();
    let _ = world.sent();
    let seen = world.watch(RETRY + JITTER, &[&a, &b]);
    assert_eq!(b.received(), packets[11..], "the newest 129, oldest first");
    let first = times(&seen, &a, DATA)[0];
    assert!(times(&seen, &a, KEEPALIVE).iter().all(|at| *at > first), "no keepalive among them");
}

/// Theirs: only a tick ends the state of being under load.
#[test]
fn row_aa_load_ends_by_itself() {
    let world = World::new();
    let b = world.node(2);
    let mut raw = Raw::new(&b, 1);
    raw.introduce(&b);
    let mut answer = |wait: Duration| {
        world.clock.advance(wait);
        let initiation = raw.initiation(&world);
        raw.send(&world, &initiation);
        world.settle(&[&b]);
        kinds(&raw.heard(&world))
    };
    load(&world, &b);
    assert_eq!(answer(Duration::ZERO), [COOKIE_REPLY]);
    assert_eq!(answer(ms(999)), [COOKIE_REPLY]);
    assert_eq!(answer(ms(1)), [RESPONSE], "without any timer");
}

/// Theirs: changing a peer that is there panics.
#[test]
fn row_ab_a_live_peer_can_be_changed() {
    let world = World::new();
    let (a, b) = connected(&world);
    let others: IpAddr = "10.9.0.1".parse().unwrap();
    let prefix = |prefix: &str, remove| wg_embed::config::AllowedIpUpdate { prefix: prefix.parse().unwrap(), remove };
    type Change<'a> = Box<dyn Fn(&mut PeerUpdate) + 'a>;
    let changes: Vec<Change<'_>> = vec![
        Box::new(|_| {}),
        Box::new(|p| p.update_only = true),
        Box::new(|p| p.preshared_key = Some(Box::new(PresharedKey::generate(&SystemRandom)))),
        Box::new(|p| p.endpoint = Some(SocketAddr::new(b.address, PORT).into())),
        Box::new(move |p| p.allowed_ips = vec![prefix("10.9.0.0/16", false)]),
        Box::new(move |p| {
            p.replace_allowed_ips = true;
            p.allowed_ips = vec![prefix("10.0.0.0/24", false), prefix("10.9.0.0/16", false)];
        }),
        Box::new(move |p| p.allowed_ips = vec![prefix("10.9.0.0/16", true)]),
        Box::new(|p| p.persistent_keepalive = Some(65_535)),
        Box::new(|p| p.persistent_keepalive = Some(0)),
    ];
    for (i, change) in changes.iter().enumerate() {
        for node in [&a, &b] {
            let other = if std::ptr::eq(node, &a) { &b } else { &a };
            if i != 3 {
                node.change_peer(other, change);
            }
        }
        if i == 3 {
            a.change_peer(&b, change);
        }
        let (there, back) = (a.send_to(&b, 100 + i), b.send_to(&a, 100 + i));
        world.settle(&[&a, &b]);
        assert_eq!((b.received(), a.received()), (vec![there], vec![back]), "change {i}");
        let sent = world.sent_types();
        assert!(sent.iter().all(|t| matches!(*t, DATA | KEEPALIVE)), "change {i}: {sent:?}");
    }
    assert!(a.peer(&b.public()).allowed_ips.iter().all(|p| !p.contains(&others)));

    // A peer that moves is followed, until it is said where it is.
    let home = SocketAddr::new(a.address, PORT);
    let moved: IpAddr = "198.51.100.7".parse().unwrap();
    a.bind.set_address(moved);
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(b.peer(&a.public()).endpoint, Some(SocketAddr::new(moved, PORT).into()));
    assert_eq!(
        *b.events.lock().unwrap().last().unwrap(),
        Event::EndpointChanged(a.public(), SocketAddr::new(moved, PORT))
    );
    b.change_peer(&a, |p| p.endpoint = Some(home.into()));
    let _ = world.sent();
    b.send_to(&a, 100);
    world.settle(&[&b]);
    assert_eq!(world.sent().iter().map(|d| (d.to, kind(&d.payload))).collect::<Vec<_>>(), [(home, DATA)]);
}
