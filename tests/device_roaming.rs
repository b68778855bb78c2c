//! Peers that move.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;

use std::net::{IpAddr, SocketAddr};

use common::{
    Node, PORT, World, ipv4,
    raw::{Raw, seal},
};
use wg_embed::{config::Update, device::Event, key::PublicKey};

fn endpoint(node: &Node, peer: &PublicKey) -> SocketAddr {
    node.peer(peer).endpoint.unwrap().addr
}

#[test]
fn a_peer_is_answered_where_it_was_heard_last() {
    let world = World::new();
    let (a, b) = world.pair();
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    // Another address, then another port, then another family.
    a.bind.set_address("198.51.100.9".parse().unwrap());
    for (i, expected) in ["198.51.100.9:51820", "198.51.100.9:4000", "[2001:db8::9]:4000"].into_iter().enumerate() {
        match i {
            1 => a.apply(Update { listen_port: Some(4000), ..Update::default() }),
            2 => {
                a.bind.set_address("2001:db8::9".parse().unwrap());
                b.bind.add_address("2001:db8::2".parse().unwrap());
                a.change_peer(&b, |p| p.endpoint = Some("[2001:db8::2]:51820".parse::<SocketAddr>().unwrap().into()));
            }
            _ => {}
        }
        a.send_to(&b, 100);
        world.settle(&[&a, &b]);
        let expected: SocketAddr = expected.parse().unwrap();
        assert_eq!(endpoint(&b, &a.public()), expected);
        assert_eq!(b.events.lock().unwrap().last(), Some(&Event::EndpointChanged(a.public(), expected)));
        let back = b.send_to(&a, 100);
        world.settle(&[&a, &b]);
        assert_eq!(a.received(), [back]);
    }
    assert!(!world.sent_types()[3..].contains(&1), "the session stays");
    assert_eq!(b.events.lock().unwrap().len(), 4);
}

#[test]
fn only_what_is_new_and_authentic_moves_a_peer() {
    let world = World::new();
    let b = world.node(2);
    let mut raw = Raw::new(&b, 1);
    raw.introduce(&b);
    let session = raw.connect(&world, &b);
    let thief: SocketAddr = "203.0.113.6:6".parse().unwrap();
    let from = |at: SocketAddr, datagram: &[u8]| {
        world.net.inject(at, raw.node_at, datagram, 0);
        world.settle(&[&b]);
        endpoint(&b, raw.identity.public())
    };
    let packet = seal(&session, 1, &ipv4(raw.inner, b.inner, 100));
    let mut damaged = packet.clone();
    damaged[20] ^= 1;
    assert_eq!(from(thief, &damaged), raw.at, "damaged");
    assert_eq!(from(raw.at, &packet), raw.at);
    assert_eq!(from(thief, &packet), raw.at, "replayed");
    let keepalive = seal(&session, 2, &[]);
    assert_eq!(from(thief, &keepalive), thief, "a keepalive is as good as a packet");
    assert_eq!(
        from(raw.at, &seal(&session, 3, &ipv4("10.9.9.9".parse().unwrap(), b.inner, 100))),
        raw.at,
        "so is this"
    );

    world.clock.advance(std::time::Duration::from_secs(1));
    let home = raw.at;
    let node_at = raw.node_at;
    let initiation = raw.initiation(&world);
    let from = |at: SocketAddr, datagram: &[u8]| {
        world.net.inject(at, node_at, datagram, 0);
        world.settle(&[&b]);
        endpoint(&b, raw.identity.public())
    };
    let mut damaged = initiation.clone();
    damaged[110] ^= 1;
    assert_eq!(from(thief, &damaged), home);
    assert_eq!(from(home, &initiation), home);
    assert_eq!(from(thief, &initiation), home, "a replayed initiation");
    world.clock.advance(std::time::Duration::from_secs(1));
    let initiation = raw.initiation(&world);
    world.net.inject(thief, node_at, &initiation, 0);
    world.settle(&[&b]);
    assert_eq!(endpoint(&b, raw.identity.public()), thief, "a new one");
}

#[test]
fn both_ends_may_move_one_after_the_other() {
    let world = World::new();
    let (a, b) = world.pair();
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    let _ = b.received();
    for i in 0..10u8 {
        let (mover, other) = if i % 2 == 0 { (&a, &b) } else { (&b, &a) };
        mover.bind.set_address(IpAddr::from([198, 51, 100, i]));
        let packet = mover.send_to(other, 100);
        world.settle(&[&a, &b]);
        assert_eq!(other.received(), [packet]);
        assert_eq!(endpoint(other, &mover.public()), SocketAddr::new(IpAddr::from([198, 51, 100, i]), PORT));
    }
}

#[test]
fn answers_leave_from_the_address_that_was_spoken_to() {
    let world = World::new();
    let (a, b) = world.pair();
    let second: IpAddr = "192.0.2.102".parse().unwrap();
    b.bind.add_address(second);
    a.change_peer(&b, |p| p.endpoint = Some(SocketAddr::new(second, PORT).into()));
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    let source = || {
        let _ = world.sent();
        b.send_to(&a, 100);
        b.step();
        world.sent()[0].from.ip()
    };
    assert_eq!(source(), second);
    b.apply(Update { fwmark: Some(7), ..Update::default() });
    assert_eq!(source(), b.address, "another mark, perhaps another route");
    // The other end has followed; it is told to come back.
    world.settle(&[&a]);
    a.change_peer(&b, |p| p.endpoint = Some(SocketAddr::new(second, PORT).into()));
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(source(), second);
    b.apply(Update { listen_port: Some(7), ..Update::default() });
    assert_eq!(source(), b.address);
}

/// A server with two addresses, one of which goes out of use while it stays an address of the server.
#[test]
fn the_source_address_is_checked_once_for_each_change_of_the_routes() {
    let world = World::new();
    let (a, b) = world.pair();
    let second: IpAddr = "192.0.2.102".parse().unwrap();
    b.bind.add_address(second);
    a.change_peer(&b, |p| p.endpoint = Some(SocketAddr::new(second, PORT).into()));
    b.bind.change_routes(&[]);
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    let sources = |n: usize| {
        let _ = world.sent();
        for _ in 0..n {
            b.send_to(&a, 100);
            b.step();
        }
        world.sent().iter().map(|datagram| datagram.from.ip()).collect::<Vec<_>>()
    };
    assert_eq!(sources(3), [second; 3]);
    let checks = b.bind.checks();
    assert_eq!(sources(3), [second; 3]);
    assert_eq!(b.bind.checks(), checks, "nothing has changed");
    b.bind.change_routes(&[second]);
    assert_eq!(sources(3), [b.address; 3]);
    assert_eq!(b.bind.checks(), checks + 1);
    b.bind.change_routes(&[]);
    assert_eq!(sources(2), [second; 2], "back again");
    assert_eq!(b.bind.checks(), checks + 2);
}
