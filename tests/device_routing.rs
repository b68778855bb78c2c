//! Which peer a packet goes to and may come from, and what of it is changed on the way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;

use std::net::IpAddr;

use common::{Node, World, give, ipv4, ipv6, kind, set_tos, take};
use wg_embed::bind::mem::Action;

fn v6(node: &Node) -> IpAddr {
    let IpAddr::V4(inner) = node.inner else { panic!("inner addresses are IPv4") };
    IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(inner.octets()[3])])
}

/// Three nodes; the first knows the other two, and they know it.
fn star(world: &World) -> (Node, Node, Node) {
    let (hub, b, c) = (world.node(1), world.node(2), world.node(3));
    for leaf in [&b, &c] {
        hub.add_peer(leaf, |_| {});
        leaf.add_peer(&hub, |p| p.allowed_ips = vec![give("0.0.0.0/0"), give("::/0")]);
    }
    (hub, b, c)
}

#[test]
fn a_prefix_moves_between_live_peers() {
    let world = World::new();
    let (hub, b, c) = star(&world);
    let there: IpAddr = "10.7.1.1".parse().unwrap();
    let packet = ipv4(hub.inner, there, 100);
    let answer = ipv4(there, hub.inner, 100);
    let deliver = || {
        let unrouted = hub.stat("out_no_peer");
        assert!(hub.tun.inject(&packet));
        world.settle(&[&hub, &b, &c]);
        let refused = hub.stat("in_wrong_source");
        for leaf in [&b, &c] {
            assert!(leaf.tun.inject(&answer));
        }
        world.settle(&[&hub, &b, &c]);
        // Whoever gets the packets is also who may send them, and nobody else.
        let nobody = hub.stat("out_no_peer") - unrouted;
        // A packet that nobody gets is answered by ICMP.
        let answered = hub.received().len() - nobody as usize;
        assert_eq!((answered as u64, hub.stat("in_wrong_source") - refused), (1 - nobody, 1 + nobody));
        (b.received().len(), c.received().len())
    };
    assert_eq!(deliver(), (0, 0));
    hub.change_peer(&b, |p| p.allowed_ips = vec![give("10.7.0.0/16")]);
    assert_eq!(deliver(), (1, 0));
    hub.change_peer(&c, |p| p.allowed_ips = vec![give("10.7.1.0/24")]);
    assert_eq!(deliver(), (0, 1), "the longer prefix");
    hub.change_peer(&c, |p| p.allowed_ips = vec![give("10.7.0.0/16"), take("10.7.1.0/24")]);
    assert_eq!(deliver(), (0, 1), "taken over");
    hub.change_peer(&b, |p| p.allowed_ips = vec![take("10.7.0.0/16")]);
    assert_eq!(deliver(), (0, 1), "it was not b's any more");
    hub.change_peer(&c, |p| p.replace_allowed_ips = true);
    assert_eq!(deliver(), (0, 0));
    hub.change_peer(&b, |p| p.allowed_ips = vec![give("0.0.0.0/0")]);
    assert_eq!(deliver(), (1, 0), "the default route");
    let handshakes = world.sent_types().iter().filter(|t| **t == 1).count();
    assert_eq!(handshakes, 2, "no session was lost on the way");
}

#[test]
fn a_packet_with_somebody_elses_address_is_dropped_and_counted() {
    let world = World::new();
    let (hub, b, c) = star(&world);
    c.send_to(&hub, 100);
    world.settle(&[&hub, &b, &c]);
    assert_eq!(hub.received().len(), 1);
    let rx = hub.peer(&b.public()).rx_bytes;
    for source in [c.inner, hub.inner, "10.0.0.99".parse().unwrap()] {
        assert!(b.tun.inject(&ipv4(source, hub.inner, 100)));
    }
    assert!(b.tun.inject(&ipv6(v6(&b), v6(&hub), 100)));
    world.settle(&[&hub, &b, &c]);
    assert_eq!((hub.received().len(), hub.stat("in_wrong_source")), (0, 4));
    assert_eq!(
        hub.peer(&b.public()).rx_bytes - rx,
        148,
        "but for the initiation, what is dropped is not counted as traffic"
    );
}

#[test]
fn what_is_no_packet_for_anybody_is_counted() {
    let world = World::new();
    let (a, b) = world.pair();
    for packet in [vec![], vec![0x45; 19], vec![0x60; 39], vec![0x50; 60], ipv4(a.inner, b.inner, 19)] {
        a.tun.inject(&packet);
    }
    for packet in [ipv4(a.inner, "10.9.9.9".parse().unwrap(), 60), ipv6(v6(&a), v6(&b), 60)] {
        assert!(a.tun.inject(&packet));
    }
    a.change_peer(&b, |p| p.remove = true);
    a.add_peer(&b, |p| p.endpoint = None);
    a.send_to(&b, 60);
    world.settle(&[&a, &b]);
    assert_eq!((a.stat("out_malformed"), a.stat("out_no_peer"), a.stat("out_no_endpoint")), (5, 2, 1));
    assert_eq!(world.sent_types(), []);
}

#[test]
fn congestion_marks_pass_and_other_bits_do_not() {
    let world = World::new();
    let (a, b) = world.pair();
    a.change_peer(&b, |p| p.allowed_ips = vec![give("fd00::2/128")]);
    b.change_peer(&a, |p| p.allowed_ips = vec![give("fd00::1/128")]);
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    let handshake: Vec<_> = world.sent().iter().map(|d| (kind(&d.payload), d.tos)).collect();
    assert_eq!(handshake, [(1, 0x88), (2, 0x88), (4, 0)]);
    let _ = b.received();

    for (from, to) in [(&a, &b), (&b, &a)] {
        for family in [4, 6] {
            for inner in 0..4u8 {
                for outer in 0..4u8 {
                    let make = |tos| {
                        let mut packet = match family {
                            4 => ipv4(from.inner, to.inner, 100),
                            _ => ipv6(v6(from), v6(to), 100),
                        };
                        set_tos(&mut packet, tos);
                        packet
                    };
                    // A router on the way puts `outer` there.
                    world.net.set_filter(move |d| {
                        d.tos = d.tos & !3 | outer;
                        Action::Deliver
                    });
                    assert!(from.tun.inject(&make(0xb8 | inner)));
                    world.settle(&[&a, &b]);
                    let sent = world.sent();
                    assert_eq!(sent.iter().map(|d| d.tos).collect::<Vec<_>>(), [inner], "no DSCP outside");
                    let expected = match (inner, outer) {
                        (1 | 2, 3) => 3,
                        (2, 1) => 1,
                        _ => inner,
                    };
                    assert_eq!(to.received(), [make(0xb8 | expected)], "{inner} in {outer}, IPv{family}");
                }
            }
        }
    }
}

#[test]
fn both_families_pass_in_one_run_of_packets() {
    let world = World::new();
    let (a, b) = world.pair();
    a.change_peer(&b, |p| p.allowed_ips = vec![give("fd00::2/128")]);
    b.change_peer(&a, |p| p.allowed_ips = vec![give("fd00::1/128")]);
    let packets: Vec<_> = (0..300)
        .map(|i| match i % 3 {
            0 => ipv6(v6(&a), v6(&b), 40 + i * 4),
            _ => ipv4(a.inner, b.inner, 20 + i * 4),
        })
        .collect();
    a.send_to(&b, 60);
    world.settle(&[&a, &b]);
    let _ = b.received();
    for packet in &packets {
        assert!(a.tun.inject(packet));
    }
    world.settle(&[&a, &b]);
    assert_eq!(b.received(), packets);
}

#[test]
fn the_mtu_bounds_padding_from_the_next_packet_on() {
    let world = World::new();
    let (a, b) = world.pair();
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    let _ = world.sent();
    for (mtu, len, padded) in [(1280, 1279, 1280), (1500, 1279, 1280), (1281, 1281, 1281), (9000, 8999, 9000)] {
        a.tun.set_mtu(mtu);
        a.device.handle_tun_events();
        assert_eq!(a.device.mtu(), mtu);
        a.send_to(&b, len);
        world.settle(&[&a, &b]);
        assert_eq!(world.sent().iter().map(|d| d.payload.len()).collect::<Vec<_>>(), [padded + 32], "{len} at {mtu}");
    }
}
