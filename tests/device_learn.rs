//! Addresses that are learned from what peers send.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;

use std::net::IpAddr;

use common::{Node, World, give, ipv4, ipv6};
use wg_embed::device::Options;

/// A hub that learns up to `limit` addresses of each peer, and two peers, the first of which has the default routes.
fn learning(world: &World, limit: usize) -> (Node, Node, Node) {
    let options = Options { learned_addresses: limit, clock: world.clock.clone(), ..Options::default() };
    let hub = world.node_of(1, options, |bind| bind);
    let (b, c) = (world.node(2), world.node(3));
    for leaf in [&b, &c] {
        hub.add_peer(leaf, |p| p.allowed_ips.clear());
        leaf.add_peer(&hub, |p| p.allowed_ips = vec![give("0.0.0.0/0"), give("::/0")]);
    }
    hub.change_peer(&b, |p| p.allowed_ips = vec![give("0.0.0.0/0"), give("::/0")]);
    (hub, b, c)
}

fn at(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn answers_go_to_the_peer_that_was_heard_last_at_an_address() {
    let world = World::new();
    let (hub, b, c) = learning(&world, 4);
    let all = [&hub, &b, &c];
    let heard = |from: &Node, source: &str| {
        assert!(from.tun.inject(&ipv4(at(source), hub.inner, 100)));
        world.settle(&all);
        hub.received().len()
    };
    let answered = |to: &str| {
        assert!(hub.tun.inject(&ipv4(hub.inner, at(to), 100)));
        world.settle(&all);
        (b.received().len(), c.received().len())
    };
    assert_eq!((heard(&b, "10.7.0.1"), heard(&c, "10.7.0.2")), (1, 1));
    assert_eq!((answered("10.7.0.1"), answered("10.7.0.2"), answered("10.7.0.3")), ((1, 0), (0, 1), (1, 0)));
    assert_eq!(heard(&c, "10.7.0.1"), 1);
    assert_eq!(answered("10.7.0.1"), (0, 1), "it has moved");
    assert_eq!(heard(&b, "10.7.0.1"), 1);
    assert_eq!(answered("10.7.0.1"), (1, 0), "and back");
    assert_eq!(hub.stat("in_wrong_source"), 0);
    let (peer, endpoint) = hub.device.peer_at(at("10.7.0.2")).unwrap();
    assert_eq!((peer, endpoint.map(|e| e.ip())), (c.public(), Some(c.address)));

    assert!(c.tun.inject(&ipv6(at("fd00::7"), at("fd00::1"), 100)));
    world.settle(&all);
    assert_eq!(hub.received().len(), 1);
    assert_eq!(hub.device.peer_at(at("fd00::7")).map(|(peer, _)| peer), Some(c.public()));
}

#[test]
fn at_the_limit_the_oldest_address_is_forgotten() {
    let world = World::new();
    let (hub, b, c) = learning(&world, 2);
    for host in 1..=5u8 {
        assert!(c.tun.inject(&ipv4(IpAddr::from([10, 7, 0, host]), hub.inner, 100)));
        world.settle(&[&hub, &b, &c]);
    }
    assert_eq!(hub.received().len(), 5);
    let learned: Vec<_> = hub.peer(&c.public()).allowed_ips.iter().map(ToString::to_string).collect();
    assert_eq!(learned, ["10.7.0.4/32", "10.7.0.5/32"]);
    assert_eq!(hub.peer(&b.public()).allowed_ips.len(), 2, "the default routes stay");
}

#[test]
fn nothing_is_learned_unless_it_was_asked_for() {
    let world = World::new();
    let (hub, b, c) = learning(&world, 0);
    assert!(c.tun.inject(&ipv4(at("10.7.0.2"), hub.inner, 100)));
    world.settle(&[&hub, &b, &c]);
    assert_eq!((hub.received().len(), hub.stat("in_wrong_source")), (0, 1));
}
