//! The interface goes down and up, and its sockets change.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;

use std::{io, time::Duration};

use common::{PORT, World, ipv4, kind};
use wg_embed::{ErrorKind, bind::mem::Action, config::Update, device::Event};

fn update() -> Update {
    Update::default()
}

#[test]
fn down_forgets_sessions_and_up_begins_anew() {
    for keepalive in [0, 25] {
        let world = World::new();
        let (a, b) = world.pair();
        a.change_peer(&b, |p| p.persistent_keepalive = Some(keepalive));
        a.send_to(&b, 100);
        world.settle(&[&a, &b]);
        a.tun.set_up(false);
        a.device.handle_tun_events();
        assert_eq!((a.device.indices(), a.device.next_deadline(), a.bind.port()), (0, None, None));
        let _ = (world.sent(), b.received());
        b.send_to(&a, 100);
        world.pass(Duration::from_secs(3), &[&a, &b]);
        assert_eq!(a.received(), Vec::<Vec<u8>>::new());
        assert!(world.sent().iter().all(|d| d.from.ip() == b.address));

        a.tun.set_up(true);
        a.device.handle_tun_events();
        world.settle(&[&a, &b]);
        assert_eq!(a.bind.port(), Some(PORT));
        let begun = if keepalive == 0 { vec![] } else { vec![1, 2, 0] };
        assert_eq!(world.sent_types(), begun, "the 5 s after the last handshake are forgotten");
        world.clock.advance(Duration::from_secs(1));
        let packet = a.send_to(&b, 100);
        world.settle(&[&a, &b]);
        assert_eq!(b.received(), [packet]);
        let of_b = a.peer(&b.public());
        assert!(of_b.tx_bytes > 0 && of_b.persistent_keepalive == keepalive, "the configuration stays");
    }
}

#[test]
fn staged_packets_are_dropped_and_counted_when_it_goes_down() {
    let world = World::new();
    let (a, b) = world.pair();
    world.net.set_filter(|_| Action::Drop);
    for _ in 0..5 {
        a.send_to(&b, 100);
    }
    world.settle(&[&a, &b]);
    a.device.down();
    assert_eq!(a.stat("out_unstaged"), 5);
    a.send_to(&b, 100);
    world.settle(&[&a]);
    assert_eq!(a.stat("out_unstaged"), 6, "a straggler");
    world.net.clear_filter();
    a.device.up().unwrap();
    world.pass(Duration::from_secs(20), &[&a, &b]);
    assert_eq!(b.received(), Vec::<Vec<u8>>::new());
}

#[test]
fn down_and_up_twice_is_once() {
    let world = World::new();
    let (a, b) = world.pair();
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    a.device.up().unwrap();
    assert_eq!((a.device.indices(), a.bind.opens()), (1, 1), "it was up");
    a.device.down();
    a.device.down();
    a.device.up().unwrap();
    assert_eq!(a.bind.opens(), 2);
}

#[test]
fn a_message_that_is_under_way_while_it_goes_down_makes_no_session() {
    let world = World::new();
    let (a, b) = world.pair();
    world.net.set_filter(|d| if d.payload[0] == 2 { Action::Hold } else { Action::Deliver });
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    a.device.down();
    a.device.up().unwrap();
    world.net.clear_filter();
    world.net.release();
    world.settle(&[&a, &b]);
    assert_eq!((a.device.indices(), a.stat("handshake_refused")), (0, 1), "the response to a forgotten initiation");
}

#[test]
fn a_port_that_is_taken_leaves_it_down() {
    let world = World::new();
    let (a, b) = world.pair();
    a.device.down();
    a.bind.set_open_error(Some(io::ErrorKind::AddrInUse));
    assert_eq!(a.device.up().unwrap_err().kind(), ErrorKind::AddrInUse);
    // The first event of an interface is that it is up.
    a.device.handle_tun_events();
    assert!(matches!(a.events.lock().unwrap().as_slice(), [Event::SocketsLost(_)]));
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!((world.sent_types(), a.stat("out_unstaged")), (vec![], 1));
    a.bind.set_open_error(None);
    a.device.up().unwrap();
    let packet = a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(b.received(), [packet]);
}

#[test]
fn sockets_change_together_or_not_at_all() {
    let world = World::new();
    let (a, b) = world.pair();
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    let state = || {
        let interface = a.device.snapshot().interface;
        (interface.listen_port, interface.fwmark, a.bind.port(), a.bind.mark())
    };
    a.apply(Update { fwmark: Some(3), listen_port: Some(4000), ..update() });
    assert_eq!(state(), (4000, 3, Some(4000), 3));
    a.bind.set_open_error(Some(io::ErrorKind::PermissionDenied));
    let failing = Update { fwmark: Some(5), listen_port: Some(5000), replace_peers: true, ..update() };
    assert_eq!(a.device.apply(failing).unwrap_err().kind(), ErrorKind::Permission);
    assert_eq!(state(), (4000, 3, Some(4000), 3));
    assert_eq!(a.device.snapshot().peers.flatten().count(), 1);
    a.apply(Update { listen_port: Some(4000), ..update() });
    assert_eq!(state(), (4000, 3, Some(4000), 3), "the same port is not opened again");
    a.bind.set_open_error(None);
    a.apply(Update { listen_port: Some(0), ..update() });
    let port = a.bind.port().unwrap();
    assert_eq!(state(), (port, 3, Some(port), 3));
    assert_ne!(port, 4000);

    let packet = a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert!(b.received().contains(&packet), "the session lives through all that");
    assert_eq!(world.sent_types().iter().filter(|t| **t == 1).count(), 1);
    // While it is down a port is only noted.
    a.device.down();
    a.apply(Update { listen_port: Some(6000), ..update() });
    assert_eq!(state(), (6000, 3, None, 3));
    a.device.up().unwrap();
    assert_eq!(state(), (6000, 3, Some(6000), 3));
}

#[test]
fn datagrams_of_no_use_do_not_hide_those_behind_them() {
    let world = World::new();
    let (a, b) = world.pair();
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    let _ = b.received();
    let to = std::net::SocketAddr::new(b.address, PORT);
    for _ in 0..100 {
        world.net.inject("203.0.113.1:1".parse().unwrap(), to, &[], 0);
    }
    let packet = a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!((b.received(), b.stat("in_malformed")), (vec![packet], 100));
}

#[test]
fn a_full_socket_loses_packets_and_counts_them() {
    let world = World::new();
    let (a, b) = world.pair();
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    let tx = a.peer(&b.public()).tx_bytes;
    a.bind.set_send_blocked(true);
    for _ in 0..3 {
        assert!(a.tun.inject(&ipv4(a.inner, b.inner, 100)));
    }
    world.settle(&[&a, &b]);
    assert_eq!((a.stat("out_send_failed"), a.peer(&b.public()).tx_bytes), (3, tx));
    // What was not sent needs no answer: no handshake after 15 s.
    let _ = world.sent();
    world.pass(Duration::from_secs(16), &[&a, &b]);
    assert!(!world.sent_types().contains(&1));
}

#[test]
fn what_is_wanted_during_a_pause_takes_effect_after_it() {
    let world = World::new();
    let (a, _b) = world.pair();
    let is_up_after = |during: &dyn Fn()| {
        a.device.pause();
        during();
        assert_eq!((a.bind.port(), a.device.next_deadline()), (None, None), "it is paused");
        a.device.resume().unwrap();
        a.bind.port().is_some()
    };
    assert!(is_up_after(&|| {}));
    assert!(!is_up_after(&|| a.device.down()));
    assert!(!is_up_after(&|| {}), "it was down before");
    assert!(is_up_after(&|| a.device.up().unwrap()));
    assert!(!is_up_after(&|| {
        a.device.up().unwrap();
        a.device.down();
    }));
    assert!(is_up_after(&|| a.device.keep_up().unwrap()));
    // So do events of the TUN.
    a.device.handle_tun_events();
    let set = |up| {
        a.tun.set_up(up);
        a.device.handle_tun_events();
    };
    assert!(!is_up_after(&|| set(false)));
    assert!(is_up_after(&|| set(true)));
    let opens = a.bind.opens();
    assert!(!is_up_after(&|| [false, true, false].into_iter().for_each(set)));
    assert_eq!(a.bind.opens(), opens, "no socket is opened for what is over");
}

#[test]
fn what_cannot_be_brought_up_is_not_wanted_up() {
    let world = World::new();
    let (a, _b) = world.pair();
    a.device.down();
    a.bind.set_open_error(Some(io::ErrorKind::AddrInUse));
    a.device.up().unwrap_err();
    a.bind.set_open_error(None);
    a.device.pause();
    a.device.resume().unwrap();
    a.device.rebind().unwrap();
    a.apply(Update { listen_port: Some(7000), ..update() });
    assert_eq!((a.bind.port(), a.device.next_deadline()), (None, None));
}

/// Sessions that there were before a pause are made after it, however long it takes to open a socket; those that were
/// forgotten by taking it down are not.
#[test]
fn what_had_a_session_before_a_pause_has_one_when_the_sockets_open() {
    for (paused_again, taken_down, sessions) in [(false, false, 1), (true, false, 1), (false, true, 0)] {
        let world = World::new();
        let (a, b) = world.pair();
        a.add_peer(&world.node(3), |_| {});
        a.send_to(&b, 100);
        world.settle(&[&a, &b]);
        world.pass(Duration::from_secs(10), &[&a, &b]);
        assert!(a.device.pause());
        a.bind.set_open_error(Some(io::ErrorKind::AddrInUse));
        a.device.resume().unwrap_err();
        if paused_again {
            assert!(a.device.pause());
            a.device.resume().unwrap_err();
        }
        a.bind.set_open_error(None);
        world.sent();
        if taken_down {
            a.device.down();
            a.device.up().unwrap();
        }
        let seen = world.watch(Duration::from_secs(60), &[&a, &b]);
        let initiations = seen.iter().filter(|(_, d)| d.from.ip() == a.address && kind(&d.payload) == 1).count();
        assert_eq!((a.bind.port(), initiations), (Some(PORT), sessions));
        assert_eq!(a.device.current_session(&b.public()).is_some(), sessions == 1);
    }
}
