//! The sizes of TCP segments: by the MTU, by the path, when one of them changes.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{
    A, A6, B, B6, World,
    packets::{at, icmp, udp},
    pattern, read_all,
    segments::{SYN, Tcp},
};
use wg_embed::time::{Clock, Instant};
use wg_embed_netstack::{Netstack, TcpStream};

/// Sends data over a path that loses some of it; all packets are `mtu` bytes long at most.
fn transfer(world: &World, from: &TcpStream, to: &TcpStream, mtu: usize) {
    let data = pattern(300_000);
    let (mut written, mut largest) = (0, 0);
    let mut received = Vec::new();
    let mut packets = 0_u32;
    while received.len() < data.len() {
        written += from.try_write(&data[written..]).unwrap_or(0);
        let (mut from_a, from_b) = (world.a.take(), world.b.take());
        largest = from_a.iter().map(Vec::len).fold(largest, usize::max);
        from_a.retain(|_| {
            packets += 1;
            !packets.is_multiple_of(20)
        });
        world.b.give(&from_a);
        world.a.give(&from_b);
        received.extend(read_all(to).0);
        world.clock.advance(Duration::from_millis(1));
        assert!(packets < 100_000);
    }
    assert!(received == data);
    assert_eq!(largest, mtu);
}

#[test]
fn a_smaller_mtu_limits_open_connections_and_a_larger_one_does_not() {
    for host in [B, B6] {
        let world = World::new();
        let (client, server) = world.connect_to(host, 80);
        transfer(&world, &client, &server, 1420);
        // Some of it is lost on its way when the MTU changes.
        client.try_write(&[7; 20_000]).unwrap();
        drop(world.a.take());
        world.a.stack.set_mtu(1300).unwrap();
        let mut received = 0;
        while received < 20_000 {
            world.clock.advance(Duration::from_millis(10));
            let packets = world.a.take();
            assert!(packets.iter().all(|packet| packet.len() <= 1300));
            world.b.give(&packets);
            world.a.give(&world.b.take());
            received += read_all(&server).0.len();
        }
        transfer(&world, &client, &server, 1300);
        world.a.stack.set_mtu(1420).unwrap();
        transfer(&world, &client, &server, 1300);
    }
}

/// The MSS that a SYN states.
fn mss(syn: &Tcp) -> u16 {
    assert_eq!((syn.flags & SYN, &syn.options[..2]), (SYN, &[2, 4][..]));
    u16::from_be_bytes([syn.options[2], syn.options[3]])
}

#[test]
fn what_one_connection_learns_of_a_path_others_know() {
    for (to, from, message, rest, mtu) in [(B, A, (3, 4), [0, 0, 5, 20], 1300), (B6, A6, (2, 0), [0, 0, 5, 20], 1300)] {
        let world = World::new();
        let (client, server) = world.connect_to(to, 80);
        let too_big = |packet: &[u8]| {
            let (to, from) = (to.parse().unwrap(), from.parse().unwrap());
            world.a.give(&[icmp(to, from, message, rest, packet)]);
        };
        client.try_write(&[1; 5000]).unwrap();
        let packets = world.a.take();
        let start = if to == B { 20 } else { 40 };
        // About something that was never sent: neither this connection nor others believe it.
        let mut forged = packets[0].clone();
        forged[start + 4] ^= 0x40;
        too_big(&forged);
        world.b.give(&packets);
        world.settle();
        assert_eq!(read_all(&server).0.len(), 5000);
        let (other, other_server) = world.connect_to(to, 81);
        transfer(&world, &other, &other_server, 1420);
        client.try_write(&[1; 5000]).unwrap();
        too_big(&world.a.take()[0]);
        world.pass(Duration::from_secs(3));
        assert_eq!(read_all(&server).0.len(), 5000);
        // The new one uses what is known, and still takes segments of the tunnel's MTU.
        let stream = world.a.stack.start_tcp((to.parse::<std::net::IpAddr>().unwrap(), 9).into()).unwrap();
        let syn = Tcp::parse(&world.a.take()[0]).unwrap();
        assert_eq!(usize::from(mss(&syn)), 1420 - start - 20);
        drop(stream);
        let (client, server) = world.connect_to(to, 82);
        transfer(&world, &client, &server, mtu);
        // So does one that is accepted.
        let listener = world.a.stack.listen_tcp((from.parse::<std::net::IpAddr>().unwrap(), 80).into(), 1).unwrap();
        let server = world.b.stack.start_tcp(listener.local_addr()).unwrap();
        world.settle();
        let client = listener.try_accept().unwrap();
        transfer(&world, &client, &server, mtu);
        // After ten minutes it is tried again.
        world.clock.advance(Duration::from_secs(601));
        let (client, server) = world.connect_to(to, 83);
        transfer(&world, &client, &server, 1420);
    }
}

/// A clock that makes the stack's MTU smaller when it is asked for the time.
struct Changing {
    clock: Arc<dyn Clock>,
    stack: OnceLock<Netstack>,
    /// How often it is asked until then; 0: never.
    left: AtomicUsize,
}

impl Clock for Changing {
    fn now(&self) -> Instant {
        if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) == Ok(1) {
            self.stack.get().unwrap().set_mtu(1300).unwrap();
        }
        self.clock.now()
    }

    fn wall(&self) -> Duration {
        self.clock.wall()
    }
}

#[test]
fn a_smaller_mtu_limits_connections_that_are_being_dialled() {
    let mut calls = 0;
    loop {
        calls += 1;
        let changing = OnceLock::new();
        let with_clock = |a: &mut wg_embed_netstack::Options| {
            let clock = Changing { clock: a.clock.clone(), stack: OnceLock::new(), left: AtomicUsize::new(0) };
            a.clock = changing.get_or_init(|| Arc::new(clock)).clone();
        };
        let world = World::with(with_clock, |_| {});
        let changing: &Arc<Changing> = changing.get().unwrap();
        assert!(changing.stack.set(world.a.stack.clone()).is_ok());
        // Something is known of the path: the time is asked for between a look at the MTU and the connection.
        let (local, remote) = (at("10.0.0.1:7"), at("10.0.0.2:9"));
        let socket = world.a.stack.bind_udp(local, Some(remote)).unwrap();
        let sent = udp(local, remote, &[0; 1380]);
        world.a.give(&[icmp(remote.ip(), local.ip(), (3, 4), [0, 0, 5, 120], &sent[..500])]);
        let listener = world.b.stack.listen_tcp(at("10.0.0.2:80"), 8).unwrap();
        changing.left.store(calls, Ordering::SeqCst);
        let client = world.a.stack.start_tcp(at("10.0.0.2:80")).unwrap();
        if changing.left.swap(0, Ordering::SeqCst) > 0 {
            break;
        }
        world.until(Duration::from_secs(60), || client.is_established() && listener.try_accept().is_ok());
        client.try_write(&[7; 20_000]).unwrap();
        let packets = world.a.take();
        assert!(packets.len() > 1 && packets.iter().all(|packet| packet.len() <= 1300), "after {calls} calls");
        drop(socket);
    }
    assert!(calls > 2);
}
