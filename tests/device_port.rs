//! A port that the system chose and that is dead after a change of networks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;

use std::time::Duration;

use common::{Node, PORT, World, kind};
use wg_embed::{
    bind::mem::{Action, Datagram},
    config::Update,
    device::Event,
};

const SECOND: Duration = Duration::from_secs(1);

/// A pair with a session. The first has this port, which becomes dead: nothing that it sends arrives.
fn dying(world: &World, listen_port: u16) -> (Node, Node, u16) {
    let (a, b) = world.pair();
    a.apply(Update { listen_port: Some(listen_port), ..Update::default() });
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    let port = a.bind.port().unwrap();
    a.events.lock().unwrap().clear();
    world.sent();
    let address = a.address;
    world.net.set_filter(move |d| {
        let is_dead = |at: std::net::SocketAddr| at.ip() == address && at.port() == port;
        if is_dead(d.from) || is_dead(d.to) { Action::Drop } else { Action::Deliver }
    });
    (a, b, port)
}

fn recovered(node: &Node) -> Vec<u16> {
    let events = std::mem::take(&mut *node.events.lock().unwrap());
    let port = |event: &Event| if let Event::SocketsRecovered(port) = event { Some(*port) } else { None };
    events.iter().filter_map(port).collect()
}

/// The ports that initiations were sent from.
fn initiated(seen: &[(Duration, Datagram)], from: &Node) -> Vec<u16> {
    let own = seen.iter().filter(|(_, d)| d.from.ip() == from.address && kind(&d.payload) == 1);
    own.map(|(_, d)| d.from.port()).collect()
}

#[test]
fn a_dead_port_is_left_at_the_third_retry_after_a_change() {
    let world = World::new();
    for change in [|a: &Node| a.device.network_changed().unwrap(), |a: &Node| a.device.rebind().unwrap()] {
        let (a, b, port) = dying(&world, 0);
        // Without a change the port is as good as any other.
        a.send_to(&b, 100);
        world.pass(60 * SECOND, &[&a, &b]);
        assert_eq!((a.bind.port(), recovered(&a)), (Some(port), vec![]));

        change(&a);
        world.pass(6 * SECOND, &[&a, &b]);
        world.sent();
        a.send_to(&b, 100);
        let seen = world.watch(30 * SECOND, &[&a, &b]);
        let new = a.bind.port().unwrap();
        assert_ne!(new, port);
        let from = initiated(&seen, &a);
        assert_eq!(from.iter().filter(|from| **from == new).count(), 1, "{from:?}");
        assert_eq!(from.last(), Some(&new));
        assert_eq!((recovered(&a), a.device.snapshot().interface.listen_port), (vec![new], new));
        assert!(!b.received().is_empty());
        world.net.clear_filter();
    }
}

/// While packets go on being sent, each of them may begin the handshake before it is retried by itself.
#[test]
fn traffic_does_not_hide_that_nothing_is_answered() {
    let world = World::new();
    let (a, b, port) = dying(&world, 0);
    a.device.network_changed().unwrap();
    for _ in 0..60 {
        a.send_to(&b, 100);
        world.pass(SECOND, &[&a, &b]);
    }
    assert_ne!(a.bind.port(), Some(port));
    assert_eq!(recovered(&a).len(), 1);
    assert!(!b.received().is_empty());
}

#[test]
fn it_is_left_once_for_each_change_and_never_if_it_was_asked_for() {
    let world = World::new();
    let (a, b, port) = dying(&world, 0);
    world.net.set_filter(|_| Action::Drop);
    let mut ports = vec![port];
    for _ in 0..3 {
        a.device.network_changed().unwrap();
        a.send_to(&b, 100);
        world.pass(90 * SECOND, &[&a, &b]);
        a.send_to(&b, 100);
        world.pass(90 * SECOND, &[&a, &b]);
        let told = recovered(&a);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(!ports.contains(&told[0]) && a.bind.port() == Some(told[0]));
        ports.push(told[0]);
    }
    // Named, it is insisted on.
    let fixed = *ports.last().unwrap();
    a.apply(Update { listen_port: Some(fixed), ..Update::default() });
    a.device.network_changed().unwrap();
    a.send_to(&b, 100);
    world.pass(90 * SECOND, &[&a, &b]);
    assert_eq!((a.bind.port(), recovered(&a)), (Some(fixed), vec![]));
    assert_ne!(fixed, PORT);
}

#[test]
fn a_port_that_leads_somewhere_stays() {
    let world = World::new();
    let (a, b, port) = dying(&world, 0);
    world.net.clear_filter();
    a.device.network_changed().unwrap();
    for _ in 0..120 {
        a.send_to(&b, 100);
        world.pass(5 * SECOND, &[&a, &b]);
    }
    assert_eq!((a.bind.port(), recovered(&a)), (Some(port), vec![]));
    // No other port is to be had: it stays as well, and the handshake goes on.
    world.net.set_filter(|_| Action::Drop);
    a.bind.set_open_error(None);
    a.device.network_changed().unwrap();
    a.bind.set_open_error(Some(std::io::ErrorKind::PermissionDenied));
    a.send_to(&b, 100);
    let seen = world.watch(60 * SECOND, &[&a, &b]);
    assert!(initiated(&seen, &a).len() > 8);
    assert_eq!((a.bind.port(), recovered(&a)), (Some(port), vec![]));
}

/// A pair whose port is about to be left, at the next look of the timers.
fn about_to_move(world: &World) -> (Node, Node, u16) {
    let (a, b, port) = dying(world, 0);
    world.net.set_filter(|_| Action::Drop);
    a.device.network_changed().unwrap();
    world.pass(6 * SECOND, &[&a, &b]);
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    while a.device.next_deadline().unwrap() > world.now() {
        world.clock.advance_to(a.device.next_deadline().unwrap());
        a.device.run_timers();
    }
    assert_eq!(a.bind.port(), Some(port));
    world.sent();
    (a, b, port)
}

/// New sockets were requested as well, which may be had on the same port.
#[test]
fn a_request_for_new_sockets_outlives_a_move_that_fails() {
    let world = World::new();
    let (a, b, port) = about_to_move(&world);
    a.device.rebind_soon();
    a.bind.set_open_error(Some(std::io::ErrorKind::PermissionDenied));
    a.device.run_timers();
    a.bind.set_open_error(None);
    world.pass(SECOND, &[&a, &b]);
    assert_eq!((a.bind.port(), recovered(&a)), (Some(port), vec![port]));
}

/// Whatever becomes of the sockets before another port is taken: the handshake goes on, on the port that was named
/// last.
#[test]
fn a_port_that_is_named_before_the_move_stays_and_the_handshake_goes_on() {
    let world = World::new();
    for other in [false, true] {
        let (a, b, port) = about_to_move(&world);
        let named = if other { 7777 } else { port };
        a.apply(Update { listen_port: Some(named), ..Update::default() });
        let seen = world.watch(80 * SECOND, &[&a, &b]);
        let from = initiated(&seen, &a);
        assert!(from.len() > 8 && from.iter().all(|port| *port == named), "{from:?}");
        assert_eq!((a.bind.port(), recovered(&a)), (Some(named), vec![]));
        world.net.clear_filter();
    }
}

#[test]
fn a_port_on_which_one_peer_is_heard_is_not_left_for_another() {
    let world = World::new();
    // Heard are data, and handshakes alone.
    for with_session in [true, false] {
        let (a, b, port) = dying(&world, 0);
        let lost = world.node(3);
        a.add_peer(&lost, |peer| peer.persistent_keepalive = Some(25));
        let gone = lost.address;
        world.net.set_filter(move |d| if d.to.ip() == gone { Action::Drop } else { Action::Deliver });
        if !with_session {
            a.device.down();
            a.device.up().unwrap();
        }
        a.device.network_changed().unwrap();
        a.send_to(&b, 100);
        world.settle(&[&a, &b]);
        if with_session {
            b.send_to(&a, 100);
        }
        let seen = world.watch(60 * SECOND, &[&a, &b]);
        assert!(initiated(&seen, &a).len() > 8);
        assert_eq!((a.bind.port(), recovered(&a)), (Some(port), vec![]));
        world.net.clear_filter();
    }
}
