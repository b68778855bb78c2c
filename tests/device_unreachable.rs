//! The senders of packets that cannot be sent are told so, by ICMP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use common::{PORT, World, give, ipv4, ipv6};
use wg_embed::{
    Error, ErrorKind,
    bind::mem::Action,
    config::{HostPort, Update},
    device::{Event, Options, Resolve},
};

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Type and code of an answer, after a look at what it quotes and whom it is from and to.
fn kind(answer: &[u8], packet: &[u8]) -> [u8; 2] {
    let (header, addresses, half) = if packet[0] >> 4 == 4 { (20, 12, 4) } else { (40, 8, 16) };
    let swapped = [&packet[addresses + half..addresses + 2 * half], &packet[addresses..addresses + half]].concat();
    assert_eq!(answer[addresses..addresses + 2 * half], swapped);
    assert_eq!(answer[header + 8..], *packet);
    [answer[header], answer[header + 1]]
}

#[test]
fn what_no_peer_wants_is_answered() {
    let world = World::new();
    let (a, b) = world.pair();
    let packets = [
        ipv4(a.inner, address("10.9.9.9"), 61),
        ipv6(address("fd00::1"), address("fd00::9"), 77),
        ipv4(a.inner, address("10.9.9.8"), 60),
    ];
    // One that is wanted lies among them.
    for packet in [&packets[0], &ipv4(a.inner, b.inner, 99), &packets[1], &packets[2]] {
        assert!(a.tun.inject(packet));
    }
    world.settle(&[&a, &b]);
    let answers = a.received();
    let kinds: Vec<_> = answers.iter().zip(&packets).map(|(answer, packet)| kind(answer, packet)).collect();
    assert_eq!(kinds, [[3, 1], [1, 3], [3, 1]]);
    assert_eq!((answers.len(), a.stat("out_no_peer"), a.stat("unreachable_sent")), (3, 3, 3));
    assert_eq!((b.received().len(), b.stat("unreachable_sent")), (1, 0));
    assert_eq!(a.device.totals().tx_dropped, 3, "an answer is not dropped");
    // What the system should not have sent there.
    a.tun.inject(&ipv4(a.inner, address("224.0.0.251"), 60));
    world.settle(&[&a, &b]);
    assert_eq!((a.received().len(), a.stat("out_no_peer")), (0, 4));
}

#[test]
fn a_peer_without_an_endpoint_is_unreachable_until_it_has_one() {
    let world = World::new();
    let (a, b) = world.pair();
    a.change_peer(&b, |p| p.remove = true);
    a.add_peer(&b, |p| {
        p.endpoint = None;
        p.allowed_ips.push(give("fd00::2/128"));
    });
    let packets = [ipv4(a.inner, b.inner, 60), ipv6(address("fd00::1"), address("fd00::2"), 60)];
    for packet in &packets {
        assert!(a.tun.inject(packet));
    }
    world.settle(&[&a, &b]);
    let kinds: Vec<_> = a.received().iter().zip(&packets).map(|(answer, packet)| kind(answer, packet)).collect();
    assert_eq!((kinds, a.stat("out_no_endpoint")), (vec![[3, 1], [1, 3]], 2));
    // It is heard, and so has one.
    b.send_to(&a, 60);
    world.settle(&[&a, &b]);
    assert_eq!(a.received().len(), 1);
    a.send_to(&b, 60);
    world.settle(&[&a, &b]);
    assert_eq!((a.received().len(), b.received().len(), a.stat("unreachable_sent")), (0, 1, 2));
}

#[test]
fn answers_have_a_rate_over_all_senders() {
    let world = World::new();
    let (a, _b) = world.pair();
    let flood = |n: u8| {
        for i in 0..n {
            assert!(a.tun.inject(&ipv4(a.inner, IpAddr::from([10, 9, 9, i]), 60)));
        }
        world.settle(&[&a]);
        a.received().len()
    };
    world.clock.advance(Duration::from_secs(1));
    assert_eq!((flood(200), flood(200)), (50, 0));
    world.clock.advance(Duration::from_millis(1));
    assert_eq!((flood(200), flood(1)), (1, 0));
    world.clock.advance(Duration::from_millis(7));
    assert_eq!(flood(200), 7);
    world.clock.advance(Duration::from_secs(3));
    assert_eq!(flood(200), 50);
    assert_eq!((a.stat("out_no_peer"), a.stat("unreachable_sent")), (1001, 108));
}

#[test]
fn a_device_that_is_down_answers_nothing() {
    let world = World::new();
    let (a, _b) = world.pair();
    a.device.down();
    assert!(a.tun.inject(&ipv4(a.inner, address("10.9.9.9"), 60)));
    world.settle(&[&a]);
    assert_eq!((a.received().len(), a.stat("unreachable_sent")), (0, 0));
    a.device.up().unwrap();
    assert!(a.tun.inject(&ipv4(a.inner, address("10.9.9.9"), 60)));
    world.settle(&[&a]);
    assert_eq!(a.received().len(), 1);
}

/// The kernel has no pause. Here packets stay in the TUN, and their senders are told when it ends.
#[test]
fn what_waits_through_a_pause_is_answered_after_it() {
    let world = World::new();
    let (a, b) = world.pair();
    assert!(a.device.pause());
    let packet = ipv4(a.inner, address("10.9.9.9"), 60);
    assert!(a.tun.inject(&packet));
    a.send_to(&b, 60);
    world.settle(&[&a, &b]);
    assert_eq!((a.received().len(), a.stat("out_no_peer"), world.sent().len()), (0, 0, 0));
    a.device.resume().unwrap();
    world.settle(&[&a, &b]);
    let answers = a.received();
    assert_eq!((answers.len(), kind(&answers[0], &packet), b.received().len()), (1, [3, 1], 1));
}

/// One that the kernel's `wg_xmit` would stage is staged: its sender is told nothing, whatever becomes of it later.
#[test]
fn what_waits_for_a_handshake_is_not_answered() {
    let world = World::new();
    let (a, b) = world.pair();
    world.net.set_filter(|_| Action::Drop);
    a.send_to(&b, 60);
    world.pass(Duration::from_secs(120), &[&a, &b]);
    assert_eq!((a.stat("out_unstaged"), a.stat("unreachable_sent"), a.received().len()), (1, 0, 0));
    // Without a key of our own no handshake begins.
    a.apply(Update { private_key: Some(None), ..Update::default() });
    a.send_to(&b, 60);
    world.pass(Duration::from_secs(120), &[&a, &b]);
    assert_eq!((a.stat("out_no_endpoint"), a.stat("unreachable_sent"), a.received().len()), (0, 0, 0));
}

/// Names are not the kernel's: a peer that has one has an endpoint, which is only not known yet.
#[test]
fn a_peer_whose_name_is_not_resolved_yet_is_not_unreachable() {
    let world = World::new();
    let known = Arc::new(AtomicBool::new(false));
    let is_known = known.clone();
    let resolve: Resolve = Box::new(move |_| match is_known.load(Relaxed) {
        true => Ok(vec![address("192.0.2.2")]),
        false => Err(Error::new(ErrorKind::NotFound, "no such name")),
    });
    let a = world.node_of(1, Options { resolve: Some(resolve), ..Options::default() }, |bind| bind);
    let b = world.node(2);
    b.add_peer(&a, |_| {});
    let name: HostPort = format!("b.example:{PORT}").parse().unwrap();
    a.add_peer(&b, |peer| peer.endpoint = Some(name.into()));
    let packet = a.send_to(&b, 60);
    world.settle(&[&a, &b]);
    assert!(matches!(a.events.lock().unwrap()[..], [Event::ResolveFailed(..)]));
    assert_eq!((a.received().len(), a.stat("out_no_endpoint"), a.stat("unreachable_sent")), (0, 0, 0));
    known.store(true, Relaxed);
    world.pass(Duration::from_secs(60), &[&a, &b]);
    assert_eq!((a.received().len(), a.stat("unreachable_sent"), b.received()), (0, 0, vec![packet]));
}
