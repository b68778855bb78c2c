//! What a tunnel logs at INFO: the list in docs/C_API.md, and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;
#[path = "common/lines.rs"]
mod lines;

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use common::{Node, World};
use lines::Lines;
use tracing::Level;

const NOTHING: [&str; 0] = [];

fn up(node: &Node) -> String {
    node.device.up().unwrap();
    "INFO the interface is up".into()
}

fn first_handshake(with: &Node, at: &str) -> String {
    format!("INFO the first handshake with the peer is complete peer={} endpoint={at}", with.public())
}

fn moved(peer: &Node, to: &str) -> String {
    format!("INFO the peer has moved peer={} endpoint={to}", peer.public())
}

/// Sends a packet each way.
fn exchange(world: &World, a: &Node, b: &Node) {
    for (from, to) in [(a, b), (b, a)] {
        from.send_to(to, 100);
        world.settle(&[a, b]);
        assert_eq!(to.received().len(), 1);
    }
}

#[test]
fn the_life_of_a_tunnel_takes_a_handful_of_lines() {
    let world = World::new();
    let (a, b) = world.pair();
    [&a, &b].into_iter().for_each(|node| node.device.down());
    let lines = Lines::collect(Level::INFO);
    assert_eq!([up(&a), up(&b)].to_vec(), lines.take());
    exchange(&world, &a, &b);
    assert_eq!(lines.take(), [first_handshake(&b, "192.0.2.2:51820"), first_handshake(&a, "192.0.2.1:51820")]);

    // Sessions come and go: no line.
    for _ in 0..5 {
        world.pass(Duration::from_secs(150), &[&a, &b]);
        exchange(&world, &a, &b);
    }
    world.pass(Duration::from_secs(1000), &[&a, &b]);
    exchange(&world, &a, &b);
    assert!(world.sent_types().iter().filter(|kind| **kind == 1).count() > 5);
    assert_eq!(lines.take(), NOTHING);

    a.bind.set_address("198.51.100.9".parse().unwrap());
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(lines.take(), [moved(&a, "198.51.100.9:51820")]);

    a.device.pause();
    assert_eq!(lines.take(), ["INFO the interface is down"]);
    a.device.resume().unwrap();
    world.settle(&[&a, &b]);
    assert_eq!(lines.take(), ["INFO the interface is up"]);
    b.device.down();
    a.device.down();
    a.device.down();
    assert_eq!(lines.take(), ["INFO the interface is down"; 2]);
}

#[test]
fn a_peer_without_an_endpoint_is_found_by_its_first_handshake() {
    let world = World::new();
    let (a, b) = (world.node(1), world.node(2));
    a.add_peer(&b, |_| {});
    b.add_peer(&a, |peer| peer.endpoint = None);
    let lines = Lines::collect(Level::INFO);
    exchange(&world, &a, &b);
    assert_eq!(lines.take(), [first_handshake(&b, "192.0.2.2:51820"), first_handshake(&a, "192.0.2.1:51820")]);
    b.change_peer(&a, |peer| peer.endpoint = Some("192.0.2.7:7".parse::<SocketAddr>().unwrap().into()));
    assert_eq!(lines.take(), NOTHING, "who configures it knows it");
}

#[test]
fn a_peer_that_changes_between_two_addresses_takes_no_line_a_packet() {
    let world = World::new();
    let (a, b) = world.pair();
    exchange(&world, &a, &b);
    let lines = Lines::collect(Level::INFO);
    for n in 0..100 {
        a.bind.set_address([198, 51, 100, n % 2].into());
        a.send_to(&b, 100);
        world.pass(Duration::from_millis(50), &[&a, &b]);
    }
    assert_eq!(b.received().len(), 100);
    assert_eq!(lines.take(), [moved(&a, "198.51.100.0:51820")]);
}

#[test]
fn sockets_are_lost_and_recovered_once() {
    let world = World::new();
    let (a, _b) = world.pair();
    let lines = Lines::collect(Level::INFO);
    a.device.rebind().unwrap();
    assert_eq!(lines.take(), NOTHING, "nothing was lost");
    a.bind.set_open_error(Some(ErrorKind::AddrInUse));
    a.device.rebind().unwrap_err();
    world.pass(Duration::from_secs(60), &[&a]);
    let lost = lines.take();
    assert!(matches!(&lost[..], [line] if line.starts_with("WARN the sockets cannot be opened")), "{lost:?}");
    a.bind.set_open_error(None);
    world.pass(Duration::from_secs(60), &[&a]);
    assert_eq!(lines.take(), ["INFO the sockets are open again"]);

    // A tunnel that cannot come up at once has come up later.
    a.device.down();
    a.bind.set_open_error(Some(ErrorKind::AddrInUse));
    a.device.keep_up().unwrap_err();
    world.pass(Duration::from_secs(60), &[&a]);
    a.bind.set_open_error(None);
    world.pass(Duration::from_secs(60), &[&a]);
    let came_up = lines.take();
    let [down, lost, up] = &came_up[..] else { panic!("{came_up:?}") };
    assert!(lost.starts_with("WARN the sockets cannot be opened"), "{lost}");
    assert_eq!([&down[..], up], ["INFO the interface is down", "INFO the interface is up"]);
}
