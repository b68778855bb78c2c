//! Datagrams of a device that its system routes into the device's own TUN.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use common::{MTU, Node, PORT, World, give};
use wg_embed::{
    bind::mem::{Action, Datagram},
    device::Event,
};

/// A datagram as the system writes it into a TUN: a packet, or several fragments.
fn packets(datagram: &Datagram, id: u32) -> Vec<Vec<u8>> {
    let mut udp = Vec::new();
    udp.extend(datagram.from.port().to_be_bytes());
    udp.extend(datagram.to.port().to_be_bytes());
    udp.extend((8 + datagram.payload.len() as u16).to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(&datagram.payload);
    let v6 = datagram.to.is_ipv6();
    let room = usize::from(MTU) - if v6 { 48 } else { 20 };
    let pieces = if udp.len() <= room { vec![&udp[..]] } else { udp.chunks(room & !7).collect() };
    let count = pieces.len();
    let mut offset = 0;
    let mut out = Vec::new();
    for (i, piece) in pieces.into_iter().enumerate() {
        let more = i + 1 < count;
        let (src, dst) = (datagram.from.ip(), datagram.to.ip());
        let packet = if v6 {
            let header = if count > 1 { 48 } else { 40 };
            let mut packet = common::ipv6(src, dst, header + piece.len());
            packet[6] = 17;
            if count > 1 {
                packet[6] = 44;
                packet[40..48].fill(0);
                packet[40] = 17;
                packet[42..44].copy_from_slice(&((offset as u16) | u16::from(more)).to_be_bytes());
                packet[44..48].copy_from_slice(&id.to_be_bytes());
            }
            packet[header..].copy_from_slice(piece);
            packet
        } else {
            let mut packet = common::ipv4(src, dst, 20 + piece.len());
            packet[9] = 17;
            packet[4..6].copy_from_slice(&(id as u16).to_be_bytes());
            let flags = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
            packet[6..8].copy_from_slice(&flags.to_be_bytes());
            packet[20..].copy_from_slice(piece);
            packet
        };
        offset += piece.len();
        out.push(packet);
    }
    out
}

/// Lets the system of `node` route what it sends to these addresses into its TUN, until nothing comes any more. Returns
/// how many datagrams that were.
fn goes_round(world: &World, node: &Node, inside: &[IpAddr]) -> usize {
    let mut count = 0;
    loop {
        world.settle(&[node]);
        let back: Vec<_> = world.sent().into_iter().filter(|d| inside.contains(&d.to.ip())).collect();
        if back.is_empty() {
            return count;
        }
        for datagram in back {
            count += 1;
            assert!(count < 50, "it goes round and round");
            packets(&datagram, count as u32).iter().for_each(|packet| assert!(node.tun.inject(packet)));
        }
    }
}

fn loops(node: &Node) -> Vec<Event> {
    node.events.lock().unwrap().iter().filter(|event| matches!(event, Event::RoutingLoop(..))).cloned().collect()
}

/// `a` sends everything to `b`, which has an IPv6 address, too.
fn full_tunnel(world: &World, v6: bool) -> (Node, Node, SocketAddr) {
    let (a, b) = world.pair();
    a.bind.add_address("2001:db8::1".parse().unwrap());
    b.bind.add_address("2001:db8::2".parse().unwrap());
    let at = SocketAddr::new(if v6 { "2001:db8::2".parse().unwrap() } else { b.address }, PORT);
    a.change_peer(&b, |peer| {
        peer.endpoint = Some(at.into());
        peer.allowed_ips = vec![give("0.0.0.0/0"), give("::/0")];
    });
    (a, b, at)
}

#[test]
fn a_handshake_that_comes_back_is_dropped_and_told_once() {
    for v6 in [false, true] {
        let world = World::new();
        let (a, b, at) = full_tunnel(&world, v6);
        world.net.set_filter(|_| Action::Drop);
        a.send_to(&b, 100);
        for tries in 1..4 {
            assert_eq!(goes_round(&world, &a, &[at.ip()]), 1);
            assert_eq!(a.stat("out_routing_loop"), tries);
            world.clock.advance(Duration::from_secs(6));
            a.device.run_timers();
        }
        assert_eq!(loops(&a), [Event::RoutingLoop(b.public(), at)]);
    }
}

#[test]
fn data_that_comes_back_is_dropped_whole_or_in_fragments() {
    for v6 in [false, true] {
        for len in [60, 1420] {
            let world = World::new();
            let (a, b, at) = full_tunnel(&world, v6);
            a.send_to(&b, 100);
            world.settle(&[&a, &b]);
            let _ = world.sent();
            world.net.set_filter(|_| Action::Drop);
            for _ in 0..3 {
                a.send_to(&b, len);
            }
            assert_eq!(goes_round(&world, &a, &[at.ip()]), 3);
            assert_eq!(a.stat("out_routing_loop"), if len == 60 { 3 } else { 6 }, "both halves of each");
            // Another endpoint that is no better.
            let other = SocketAddr::new(at.ip(), 7);
            a.change_peer(&b, |peer| peer.endpoint = Some(other.into()));
            a.send_to(&b, 100);
            assert_eq!(goes_round(&world, &a, &[at.ip()]), 1);
            assert_eq!(loops(&a), [at, other].map(|at| Event::RoutingLoop(b.public(), at)));
        }
    }
}

#[test]
fn what_only_resembles_our_datagrams_passes() {
    let world = World::new();
    let (a, b, at) = full_tunnel(&world, false);
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    let ours = world.sent().into_iter().rfind(|d| d.from.ip() == a.address).unwrap();
    let _ = b.received();
    let mut alike = vec![];
    // To another port, from another WireGuard (other indices), no message at all, a fragment of something else.
    alike.push(packets(&Datagram { to: SocketAddr::new(at.ip(), 53), ..ours.clone() }, 1));
    for kind in [1, 2, 4, 9] {
        let mut other = ours.clone();
        other.payload[0] = kind;
        other.payload[4] ^= 1;
        alike.push(packets(&other, 1));
    }
    let mut large = ours.clone();
    large.payload = vec![7; 2000];
    alike.push(packets(&large, 1));
    let alike: Vec<_> = alike.concat();
    for packet in &alike {
        assert!(a.tun.inject(packet));
        world.settle(&[&a, &b]);
    }
    assert_eq!(a.stat("out_routing_loop"), 0);
    assert_eq!(b.stat("in_wrong_source"), alike.len() as u64, "all of them reach b");
    assert!(loops(&a).is_empty());
}

/// `c` is reached through `b`, as with the kernel's WireGuard: its datagrams come in through the TUN, and are `b`'s
/// packets.
#[test]
fn a_peer_may_be_reached_through_another() {
    let world = World::new();
    let (a, b, c) = (world.node(1), world.node(2), world.node(3));
    a.add_peer(&b, |peer| peer.allowed_ips = vec![give("192.0.2.3/32")]);
    // So b's endpoint is an allowed IP of c, but no route leads there.
    a.add_peer(&c, |peer| peer.allowed_ips = vec![give("0.0.0.0/0")]);
    b.add_peer(&a, |_| {});
    let to_c = c.address;
    world.net.set_filter(move |d| if d.to.ip() == to_c { Action::Drop } else { Action::Deliver });
    for _ in 0..5 {
        a.send_to(&c, 100);
        world.settle(&[&a, &b]);
        let outer: Vec<_> = world.sent().into_iter().filter(|d| d.to.ip() == c.address).collect();
        for datagram in outer {
            packets(&datagram, 1).iter().for_each(|packet| assert!(a.tun.inject(packet)));
        }
        world.settle(&[&a, &b]);
        world.clock.advance(Duration::from_secs(6));
        a.device.run_timers();
    }
    assert_eq!(a.stat("out_routing_loop"), 0);
    assert!(a.stat("out_no_peer") == 0 && loops(&a).is_empty());
    assert!(b.peer(&a.public()).rx_bytes > 148, "b was given them");
}

/// Each of two peers is reached through the other.
#[test]
fn two_peers_that_carry_each_other_are_a_loop() {
    let world = World::new();
    let (a, b, c) = (world.node(1), world.node(2), world.node(3));
    a.add_peer(&b, |peer| peer.allowed_ips = vec![give("10.0.0.2/32"), give("192.0.2.3/32")]);
    a.add_peer(&c, |peer| peer.allowed_ips = vec![give("10.0.0.3/32"), give("192.0.2.2/32")]);
    b.add_peer(&a, |_| {});
    c.add_peer(&a, |_| {});
    // Sessions first, before the routes are what they are.
    a.send_to(&b, 100);
    a.send_to(&c, 100);
    world.settle(&[&a, &b, &c]);
    let _ = world.sent();
    world.net.set_filter(|_| Action::Drop);
    for _ in 0..3 {
        a.send_to(&b, 100);
        a.send_to(&c, 100);
        assert!(goes_round(&world, &a, &[b.address, c.address]) <= 6);
    }
    assert!(a.stat("out_routing_loop") >= 6);
    assert!((1..=2).contains(&loops(&a).len()));
}
