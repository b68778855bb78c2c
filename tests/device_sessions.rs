//! Handshakes and the end of sessions when the app wants them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;

use std::{net::IpAddr, sync::Mutex, time::Duration};

use common::{Node, PORT, World, kind, times};
use wg_embed::{
    ErrorKind,
    bind::mem::{Action, Datagram},
    config::{PeerUpdate, Update},
    device::{Event, Options},
    key::{PrivateKey, PublicKey},
    random::SystemRandom,
};

const SECOND: Duration = Duration::from_secs(1);
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);

/// Two nodes with a session that is ten seconds old, and nothing to do.
fn connected(world: &World) -> (Node, Node) {
    let (a, b) = world.pair();
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    world.pass(20 * SECOND, &[&a, &b]);
    assert_eq!(b.received().len(), 1);
    world.sent();
    a.events.lock().unwrap().clear();
    (a, b)
}

fn inject(world: &World, datagrams: &[Datagram]) {
    for d in datagrams {
        world.net.inject(d.from, d.to, &d.payload, 0);
    }
}

fn check_both_ways(world: &World, a: &Node, b: &Node) {
    for (from, to) in [(a, b), (b, a)] {
        let packet = from.send_to(to, 100);
        world.settle(&[a, b]);
        assert_eq!(to.received(), [packet]);
    }
}

#[test]
fn a_forced_handshake_replaces_a_session_without_a_loss() {
    let world = World::new();
    let (a, b) = connected(&world);
    let old = a.device.current_session(&b.public()).unwrap();
    a.device.force_handshake(Some(&b.public())).unwrap();
    assert_eq!(world.sent_types(), [1]);
    // Sent with the session that there is, and received after the new one was made.
    a.send_to(&b, 100);
    a.step();
    assert_eq!(world.sent_types(), [4]);
    world.settle(&[&a, &b]);
    assert_eq!(b.received().len(), 1);
    let new = a.device.current_session(&b.public()).unwrap();
    assert!(new.local_index() != old.local_index() && new.is_initiator());
    assert_eq!(*a.events.lock().unwrap(), [Event::HandshakeCompleted(b.public())]);
    check_both_ways(&world, &a, &b);
    assert_eq!(a.stat("in_unknown_index") + b.stat("in_unknown_index"), 0);
}

/// However often it is asked for, and whether or not the peer answers.
#[test]
fn initiations_stay_five_seconds_apart() {
    for answers in [true, false] {
        let world = World::new();
        let (a, b) = world.pair();
        if !answers {
            world.net.set_filter(|_| Action::Drop);
        }
        let mut initiations = Vec::new();
        for n in 0..600 {
            a.device.force_handshake(Some(&b.public())).unwrap();
            let seen = world.watch(SECOND / 10, &[&a, &b]);
            initiations.extend(times(&seen, &a, 1).iter().map(|at| n * SECOND / 10 + *at));
        }
        assert!(initiations.len() >= 11, "it goes on: {initiations:?}");
        assert!(initiations.windows(2).all(|pair| pair[1] - pair[0] >= REKEY_TIMEOUT), "{initiations:?}");
    }
}

/// We have just answered: a response counts as an initiation does.
#[test]
fn after_a_response_there_is_no_initiation_for_five_seconds() {
    let world = World::new();
    let (a, b) = world.pair();
    b.send_to(&a, 100);
    world.settle(&[&a, &b]);
    world.sent();
    a.device.force_handshake(None).unwrap();
    world.settle(&[&a, &b]);
    assert_eq!(world.sent_types(), []);
    world.clock.advance(REKEY_TIMEOUT);
    a.device.force_handshake(None).unwrap();
    assert_eq!(world.sent_types(), [1]);
}

/// The 20 tries of one that is not answered begin with the call.
#[test]
fn a_forced_handshake_has_all_its_tries() {
    let world = World::new();
    let (a, b) = connected(&world);
    world.net.set_filter(|_| Action::Drop);
    a.device.force_handshake(Some(&b.public())).unwrap();
    let seen = world.watch(200 * SECOND, &[&a, &b]);
    assert_eq!(times(&seen, &a, 1).len(), 20);
    assert!(a.events.lock().unwrap().contains(&Event::HandshakeFailed(b.public())));
}

#[test]
fn without_a_peer_all_that_can_be_reached_are_meant() {
    let world = World::new();
    let (a, others) = (world.node(1), [world.node(2), world.node(3)]);
    others.iter().for_each(|other| a.add_peer(other, |_| {}));
    let nowhere = PrivateKey::generate_with(&SystemRandom).public_key();
    a.apply(Update { peers: vec![PeerUpdate::new(nowhere)], ..Update::default() });
    a.device.force_handshake(None).unwrap();
    let to: Vec<IpAddr> = world.sent().iter().map(|d| d.to.ip()).collect();
    assert_eq!(to, others.each_ref().map(|other| other.address));
}

#[test]
fn what_cannot_begin_is_refused() {
    let world = World::new();
    let (a, b) = world.pair();
    let unknown = PrivateKey::generate_with(&SystemRandom).public_key();
    let refused = |peer: Option<&PublicKey>, reason: &str| {
        let error = a.device.force_handshake(peer).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains(reason), "{error}");
    };
    refused(Some(&unknown), "there is no peer");
    assert_eq!(a.device.drop_session(Some(&unknown)).unwrap_err().kind(), ErrorKind::NotFound);
    a.apply(Update { peers: vec![PeerUpdate::new(unknown)], ..Update::default() });
    refused(Some(&unknown), "has no endpoint");
    a.apply(Update { private_key: Some(None), ..Update::default() });
    refused(None, "no private key");
    refused(Some(&b.public()), "no private key");
    a.device.drop_session(None).unwrap();
    assert_eq!(world.sent_types(), []);
}

#[test]
fn during_a_pause_it_is_put_off() {
    let world = World::new();
    let (a, b) = world.pair();
    a.device.pause();
    a.device.force_handshake(Some(&b.public())).unwrap();
    world.pass(60 * SECOND, &[&a, &b]);
    assert_eq!(world.sent_types(), []);
    a.device.resume().unwrap();
    world.settle(&[&a, &b]);
    assert_eq!(world.sent_types(), [1, 2, 0]);
    // Dropped in a pause, a session is not made again after it.
    a.device.pause();
    a.device.drop_session(Some(&b.public())).unwrap();
    a.device.resume().unwrap();
    world.settle(&[&a, &b]);
    assert_eq!(world.sent_types(), []);
}

/// Whatever becomes of the interface before it comes up.
#[test]
fn what_is_put_off_is_not_lost() {
    type Step = fn(&Node);
    let down: Step = |a| a.device.down();
    let up: Step = |a| a.device.up().unwrap();
    let pause: Step = |a| assert!(a.device.pause());
    let resume: Step = |a| a.device.resume().unwrap();
    let ways: [&[Step]; 5] =
        [&[up], &[pause, resume, up], &[pause, down, resume, up], &[pause, up, resume], &[down, up]];
    for (n, way) in ways.into_iter().enumerate() {
        for is_dropped in [false, true] {
            let world = World::new();
            let (a, b) = world.pair();
            a.device.down();
            a.device.force_handshake(None).unwrap();
            if is_dropped {
                a.device.drop_session(None).unwrap();
            }
            way.iter().for_each(|step| step(&a));
            world.settle(&[&a, &b]);
            let expected: &[u8] = if is_dropped { &[] } else { &[1, 2, 0] };
            assert_eq!(world.sent_types(), expected, "way {n}");
            // Once.
            a.device.down();
            a.device.up().unwrap();
            world.settle(&[&a, &b]);
            assert_eq!(world.sent_types(), []);
        }
    }
}

#[test]
fn a_host_name_is_looked_up_first() {
    for is_down in [false, true] {
        a_host_name_is_looked_up_before_a_handshake(is_down);
    }
}

fn a_host_name_is_looked_up_before_a_handshake(is_down: bool) {
    let world = World::new();
    let answer = std::sync::Arc::new(Mutex::new(Vec::new()));
    let given = answer.clone();
    let resolve: wg_embed::device::Resolve = Box::new(move |_| Ok(given.lock().unwrap().clone()));
    let a = world.node_of(1, Options { resolve: Some(resolve), ..Options::default() }, |bind| bind);
    let b = world.node(2);
    b.add_peer(&a, |_| {});
    a.add_peer(&b, |peer| peer.endpoint = Some(format!("b.example:{PORT}").parse().unwrap()));
    world.pass(SECOND, &[&a, &b]);
    if is_down {
        a.device.down();
    }
    a.device.force_handshake(Some(&b.public())).unwrap();
    a.device.up().unwrap();
    world.pass(60 * SECOND, &[&a, &b]);
    assert_eq!(world.sent_types(), [], "there is no address");
    answer.lock().unwrap().push(b.address);
    world.pass(600 * SECOND, &[&a, &b]);
    assert_eq!(world.sent_types()[..2], [1, 2]);
    assert!(a.events.lock().unwrap().contains(&Event::HandshakeCompleted(b.public())));
}

#[test]
fn nothing_of_a_dropped_session_is_accepted() {
    let world = World::new();
    let (a, b) = world.pair();
    // A session that the other side has begun, and one of ours.
    b.send_to(&a, 100);
    world.settle(&[&a, &b]);
    world.clock.advance(REKEY_TIMEOUT);
    a.device.force_handshake(None).unwrap();
    world.settle(&[&a, &b]);
    b.send_to(&a, 100);
    world.settle(&[&a, &b]);
    assert_eq!(a.received().len(), 2);
    let old: Vec<_> = world.sent().into_iter().filter(|d| d.to.ip() == a.address).collect();
    assert_eq!(old.iter().map(|d| kind(&d.payload)).collect::<Vec<_>>(), [1, 4, 2, 4]);
    a.events.lock().unwrap().clear();

    a.device.drop_session(Some(&b.public())).unwrap();
    assert_eq!((a.device.indices(), a.device.current_session(&b.public()).is_none()), (0, true));
    assert_eq!(*a.events.lock().unwrap(), [Event::SessionExpired(b.public())]);
    a.device.drop_session(Some(&b.public())).unwrap();
    assert_eq!(a.events.lock().unwrap().len(), 1, "there was none any more");

    // What was on its way, again: and what the other side still sends, from elsewhere as well.
    let before = (a.peer(&b.public()).rx_bytes, a.peer(&b.public()).endpoint);
    inject(&world, &old);
    b.send_to(&a, 200);
    b.step();
    let mut fresh = world.sent().into_iter().find(|d| kind(&d.payload) == 4).unwrap();
    fresh.from.set_port(7);
    inject(&world, &[fresh]);
    while a.step() > 0 {}
    assert_eq!(a.received(), Vec::<Vec<u8>>::new());
    assert_eq!((a.peer(&b.public()).rx_bytes, a.peer(&b.public()).endpoint), before);
    assert_eq!(a.device.indices(), 0);
    assert_eq!(world.sent_types(), [], "nor answered");

    // No deadline of it is left, and the next packet makes a session at once.
    assert_eq!(a.device.next_deadline(), None);
    world.pass(4 * SECOND, &[&a]);
    assert_eq!(world.sent_types(), []);
    check_both_ways(&world, &a, &b);
    world.settle(&[&a, &b]);
}

/// The other side, which is not told, finds out by itself.
#[test]
fn the_other_side_makes_a_new_session_when_nothing_comes_back() {
    let world = World::new();
    let (a, b) = connected(&world);
    a.device.drop_session(None).unwrap();
    b.send_to(&a, 100);
    let seen = world.watch(20 * SECOND, &[&a, &b]);
    let begun = times(&seen, &b, 1);
    assert!(begun.len() == 1 && (15 * SECOND..16 * SECOND).contains(&begun[0]), "{begun:?}");
    check_both_ways(&world, &a, &b);
}

#[test]
fn a_handshake_under_way_is_forgotten_with_what_waits_for_it() {
    let world = World::new();
    let (a, b) = world.pair();
    a.send_to(&b, 100);
    a.step();
    b.step();
    // The response is on its way.
    a.device.drop_session(Some(&b.public())).unwrap();
    assert_eq!((a.device.indices(), a.stat("out_unstaged")), (0, 1));
    assert_eq!(*a.events.lock().unwrap(), [], "there was no session");
    world.settle(&[&a, &b]);
    assert_eq!(a.device.indices(), 0, "the response is of no use");
    world.pass(60 * SECOND, &[&a]);
    assert_eq!(world.sent_types(), [1, 2], "and nothing tries again");
    assert_eq!(b.received(), Vec::<Vec<u8>>::new());
    check_both_ways(&world, &a, &b);
}

/// What the node sends from here on is what one sends that was just configured.
#[test]
fn a_peer_without_sessions_is_as_if_it_had_just_been_configured() {
    for keepalive in [0, 25] {
        let sent = |dropped: bool| {
            let world = World::new();
            let (a, b) = if dropped {
                let (a, b) = connected(&world);
                a.change_peer(&b, |peer| peer.persistent_keepalive = Some(keepalive));
                world.pass(7 * SECOND, &[&a, &b]);
                world.sent();
                // The other side has forgotten as well, so that all is ours to do.
                b.device.drop_session(None).unwrap();
                a.device.drop_session(None).unwrap();
                (a, b)
            } else {
                let (a, b) = (world.node(1), world.node(2));
                b.add_peer(&a, |_| {});
                a.add_peer(&b, |peer| peer.persistent_keepalive = Some(keepalive));
                (a, b)
            };
            let seen = world.watch(100 * SECOND, &[&a, &b]);
            seen.iter().map(|(at, d)| (*at, d.from, kind(&d.payload))).collect::<Vec<_>>()
        };
        let fresh = sent(false);
        assert_eq!(fresh.is_empty(), keepalive == 0);
        assert_eq!(sent(true), fresh, "keepalive {keepalive}");
    }
}

#[test]
fn without_a_peer_all_sessions_are_dropped() {
    let world = World::new();
    let (a, others) = (world.node(1), [world.node(2), world.node(3)]);
    for other in &others {
        a.add_peer(other, |_| {});
        other.add_peer(&a, |_| {});
        a.send_to(other, 100);
    }
    world.settle(&[&a, &others[0], &others[1]]);
    assert_eq!(a.device.indices(), 2);
    a.device.drop_session(None).unwrap();
    assert_eq!(a.device.indices(), 0);
    a.device.force_handshake(None).unwrap();
    world.settle(&[&a, &others[0], &others[1]]);
    assert_eq!(a.device.indices(), 2, "the five seconds do not count");
}
