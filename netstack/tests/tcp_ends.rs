//! What is left of connections: TIME-WAIT, resets, the end of a stack.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{
    World,
    packets::at,
    segments::{ACK, FIN, Peer, RST, SYN, Tcp},
};
use wg_embed_netstack::{Intercept, InterceptOptions, PendingTcp, TcpListener, TcpStream, UdpFlow};

const SECOND: Duration = Duration::from_secs(1);

/// A peer of `world.b`'s port 80, whose connection is in TIME-WAIT there after `bytes` were sent to it.
fn in_time_wait(world: &World, bytes: usize) -> (Peer, TcpListener) {
    let listener = world.b.stack.listen_tcp(at("10.0.0.2:80"), 1).unwrap();
    let mut peer = Peer::new("10.0.0.1:1000", "10.0.0.2:80", 5000);
    peer.connect(&world.b);
    let server = listener.try_accept().unwrap();
    let data = vec![1; bytes];
    let mut written = 0;
    while written < bytes || server.unacknowledged() > 0 {
        written += server.try_write(&data[written..]).unwrap_or(0);
        let segments = peer.hear(&world.b);
        peer.take(&segments);
        let segments = peer.poke(&world.b, ACK, &[]);
        peer.take(&segments);
    }
    drop(server);
    let fin = peer.hear(&world.b);
    assert_eq!(fin.last().map(|tcp| tcp.flags & FIN), Some(FIN), "{fin:?}");
    peer.take(&fin);
    peer.send(&world.b, FIN | ACK, &[]);
    assert_eq!((world.b.stack.stats().time_wait, world.b.stack.stats().connections), (1, 0));
    (peer, listener)
}

fn flags(answers: &[Tcp]) -> Vec<u8> {
    answers.iter().map(|tcp| tcp.flags).collect()
}

#[test]
fn only_a_syn_that_is_accepted_ends_time_wait() {
    let world = World::new();
    let (mut peer, listener) = in_time_wait(&world, 0);
    let last = peer.ack;
    let time_wait = || world.b.stack.stats().time_wait;
    // RFC 1337, and what no connection begins with.
    for (nothing, offset) in [(RST, 0), (RST | ACK, 0), (SYN | FIN, 100_000), (SYN | RST, 100_000)] {
        let probe = Peer { seq: peer.seq.wrapping_add(offset), ..peer.clone() };
        assert_eq!(probe.poke(&world.b, nothing, &[]), [], "{nothing:x}");
        assert_eq!(time_wait(), 1, "{nothing:x}");
    }
    // An old SYN, and a FIN again.
    for (flag, offset) in [(SYN, -1000_i32), (FIN | ACK, -1)] {
        let old = Peer { seq: peer.seq.wrapping_add_signed(offset), ..peer.clone() };
        let answers = old.poke(&world.b, flag, &[]);
        assert_eq!((flags(&answers), answers[0].ack, time_wait()), (vec![ACK], peer.seq, 1));
    }
    peer.seq = peer.seq.wrapping_add(100_000);
    // The backlog is full.
    Peer::new("10.0.0.1:7", "10.0.0.2:80", 1).connect(&world.b);
    assert_eq!((peer.poke(&world.b, SYN, &[]), time_wait()), (vec![], 1));
    drop(listener.try_accept().unwrap());
    // Nobody listens.
    drop(listener);
    drop(world.b.take());
    assert_eq!((flags(&peer.poke(&world.b, SYN, &[])), time_wait()), (vec![RST | ACK], 1));
    let listener = world.b.stack.listen_tcp(at("10.0.0.2:80"), 1).unwrap();
    let answers = peer.send(&world.b, SYN, &[]);
    assert_eq!((flags(&answers), time_wait()), (vec![SYN | ACK], 0));
    assert!(answers[0].seq.wrapping_sub(last) < 1 << 31);
    peer.send(&world.b, ACK, &[]);
    assert!(listener.try_accept().is_ok());
}

/// Holds connections back.
#[derive(Default)]
struct Holds(Mutex<Vec<PendingTcp>>);

impl Intercept for Holds {
    fn dialled(&self, pending: PendingTcp) {
        self.0.lock().unwrap().push(pending);
    }

    fn connected(&self, _: TcpStream) {}

    fn flow(&self, _: UdpFlow) {}
}

#[test]
fn a_syn_that_is_held_back_ends_time_wait_when_it_is_accepted() {
    let world = World::new();
    let (mut peer, listener) = in_time_wait(&world, 0);
    drop(listener);
    let holds = Arc::new(Holds::default());
    world.b.stack.intercept(InterceptOptions::default(), Some(holds.clone()));
    peer.seq = peer.seq.wrapping_add(100_000);
    assert_eq!(peer.poke(&world.b, SYN, &[]), []);
    assert_eq!((world.b.stack.stats().time_wait, world.b.stack.stats().half_open), (1, 1));
    let pending = holds.0.lock().unwrap().pop().unwrap();
    pending.refuse();
    assert_eq!(flags(&peer.hear(&world.b)), [RST | ACK]);
    assert_eq!((world.b.stack.stats().time_wait, world.b.stack.stats().half_open), (1, 0));
    peer.poke(&world.b, SYN, &[]);
    let pending = holds.0.lock().unwrap().pop().unwrap();
    pending.accept();
    assert_eq!(flags(&peer.hear(&world.b)), [SYN | ACK]);
    assert_eq!((world.b.stack.stats().time_wait, world.b.stack.stats().half_open), (0, 1));
}

#[test]
fn a_successor_begins_beyond_what_was_sent() {
    const SENT: usize = 3_000_000;
    // Faster than the clock of first sequence numbers: no time passes.
    let world = World::new();
    let (mut peer, _listener) = in_time_wait(&world, SENT);
    let last = peer.ack;
    peer.seq = peer.seq.wrapping_add(100_000);
    let answers = peer.send(&world.b, SYN, &[]);
    assert_eq!(flags(&answers), [SYN | ACK]);
    let ahead = answers[0].seq.wrapping_sub(last);
    assert!((1..1 << 20).contains(&ahead), "{ahead}");
}

#[test]
fn a_closed_stack_resets_half_open_connections() {
    let world = World::new();
    let _listener = world.b.stack.listen_tcp(at("10.0.0.2:80"), 8).unwrap();
    let mut peer = Peer::new("10.0.0.1:1000", "10.0.0.2:80", 5000);
    let answer = peer.send(&world.b, SYN, &[]).remove(0);
    let holds = Arc::new(Holds::default());
    world.b.stack.intercept(InterceptOptions::default(), Some(holds));
    let held = Peer::new("10.0.0.1:1001", "10.9.9.9:9", 7000);
    assert_eq!(held.poke(&world.b, SYN, &[]), []);
    world.b.stack.close();
    let packets: Vec<_> = world.b.take().iter().filter_map(|packet| Tcp::parse(packet)).collect();
    let reset = |peer: &Peer| packets.iter().find(|tcp| tcp.to == peer.from).cloned().expect("a RST");
    let known = reset(&peer);
    // It fits a peer that has the SYN-ACK, and one that has not.
    assert_eq!((known.flags, known.seq, known.ack), (RST | ACK, answer.seq.wrapping_add(1), 5001));
    assert_eq!((reset(&held).flags, reset(&held).ack), (RST | ACK, 7001));
    assert!(world.b.is_empty());
}

#[test]
fn a_dropped_listener_sends_no_more_syn_acks() {
    let world = World::new();
    let listener = world.b.stack.listen_tcp(at("10.0.0.2:80"), 8).unwrap();
    let mut peer = Peer::new("10.0.0.1:1000", "10.0.0.2:80", 5000);
    peer.send(&world.b, SYN, &[]);
    world.clock.advance(SECOND);
    assert_eq!(flags(&peer.hear(&world.b)), [SYN | ACK], "again");
    drop(listener);
    world.clock.advance(2 * SECOND);
    assert_eq!(peer.hear(&world.b), []);
    assert_eq!(world.b.stack.stats().half_open, 0);
    assert_eq!(flags(&peer.poke(&world.b, ACK, &[])), [RST]);
}

#[test]
fn a_syn_again_is_for_the_listener_that_is_there_now() {
    let world = World::new();
    let listener = world.b.stack.listen_tcp(at("10.0.0.2:80"), 8).unwrap();
    let mut peer = Peer::new("10.0.0.1:1000", "10.0.0.2:80", 5000);
    assert_eq!(flags(&peer.poke(&world.b, SYN, &[])), [SYN | ACK]);
    drop(listener);
    let listener = world.b.stack.listen_tcp(at("10.0.0.2:80"), 8).unwrap();
    // The first SYN-ACK was lost.
    peer.connect(&world.b);
    assert!(listener.try_accept().is_ok());
    let mut peer = Peer::new("10.0.0.1:1001", "10.0.0.2:80", 5000);
    peer.poke(&world.b, SYN, &[]);
    drop(listener);
    assert_eq!(flags(&peer.poke(&world.b, SYN, &[])), [RST | ACK]);
    assert_eq!(world.b.stack.stats().half_open, 0);
    peer.ack = 1;
    assert_eq!(flags(&peer.poke(&world.b, ACK, &[])), [RST]);
}

#[test]
fn dialled_ports_differ_and_are_found_when_most_are_taken() {
    let world = World::with(|a| a.max_connections = 100_000, |_| {});
    let mut ports = std::collections::HashSet::new();
    let mut streams = Vec::new();
    for _ in 0..32_000 {
        let stream = world.a.stack.start_tcp(at("10.0.0.2:80")).unwrap();
        assert!(ports.insert(stream.local_addr().port()));
        streams.push(stream);
    }
    // Those to another destination are others.
    assert!(world.a.stack.start_tcp(at("10.0.0.2:81")).is_ok());
}
