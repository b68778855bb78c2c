//! Echo both ways, and what ICMP says about TCP connections.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{io::ErrorKind, net::IpAddr, sync::Arc, time::Duration};

use common::{
    A, A6, B, B6, Told, World, kind,
    packets::{icmp, ip, parse_icmp},
    pattern, read_all,
};
use smoltcp::wire::IpProtocol;
use wg_embed_netstack::{Intercept, InterceptOptions, TcpStream, UdpFlow};

fn host(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn pings_of_all_sizes_are_answered_and_timed() {
    let world = World::new();
    world.path.lock().unwrap().delay = Duration::from_millis(20);
    for (to, most) in [(B, 65_507), (B6, 65_487)] {
        for size in [0, 1, 56, 1392, 1393, 9000, most] {
            let ping = world.a.stack.start_ping(host(to), size).unwrap();
            let told = Told::new();
            ping.set_notify(Some(told.clone()));
            assert_eq!(kind(ping.try_reply()), ErrorKind::WouldBlock);
            world.pass(Duration::from_millis(50));
            assert_eq!(ping.try_reply().unwrap(), Duration::from_millis(40), "{size}");
            assert_eq!((told.times(), ping.try_reply().is_ok()), (1, true));
        }
        assert_eq!(kind(world.a.stack.start_ping(host(to), most + 1)), ErrorKind::InvalidInput);
    }
    assert!(world.a.stack.drops().iter().chain(&world.b.stack.drops()).all(|(_, count)| *count == 0));
}

#[test]
fn replies_and_errors_that_are_not_for_the_request_do_not_count() {
    let world = World::new();
    for (to, from, reply, unreachable) in [(B, A, 0, (3, 1)), (B6, A6, 129, (1, 3))] {
        let ping = world.a.stack.start_ping(host(to), 100).unwrap();
        let request = world.a.take().remove(0);
        let (_, _, _, data) = parse_icmp(&request);
        let start = if from == A { 20 } else { 40 };
        let rest: [u8; 4] = request[start + 4..start + 8].try_into().unwrap();
        let answer = |source: &str, rest: [u8; 4], data: &[u8]| {
            world.a.give(&[icmp(host(source), host(from), (reply, 0), rest, data)]);
            ping.try_reply().is_ok()
        };
        let [i0, i1, s0, s1] = rest;
        let other = if from == A { "10.0.0.3" } else { "fd00::3" };
        assert!(!answer(other, rest, &data) && !answer(to, [i0, !i1, s0, s1], &data));
        assert!(!answer(to, [i0, i1, s0, !s1], &data) && !answer(to, rest, &data[1..]));
        assert!(!answer(to, rest, &[0; 100]));
        let mut wrong = icmp(host(to), host(from), (reply, 0), rest, &data);
        *wrong.last_mut().unwrap() ^= 1;
        world.a.give(&[wrong]);
        assert!(answer(to, rest, &data), "the true one");
        // An error about another request, and about this one.
        let ping = world.a.stack.start_ping(host(to), 100).unwrap();
        let request = world.a.take().remove(0);
        let mut other = request.clone();
        other[start + 7] ^= 1;
        let router = if from == A { "10.9.9.9" } else { "fd00::9" };
        world.a.give(&[icmp(host(router), host(from), unreachable, [0; 4], &other)]);
        assert_eq!(kind(ping.try_reply()), ErrorKind::WouldBlock);
        world.a.give(&[icmp(host(router), host(from), unreachable, [0; 4], &request)]);
        assert_eq!(kind(ping.try_reply()), ErrorKind::HostUnreachable);
    }
    assert_eq!(kind(world.a.stack.start_ping(host("224.0.0.1"), 1)), ErrorKind::InvalidInput);
    assert_eq!(kind(world.a.stack.ping(host(B), 1, Duration::from_millis(1))), ErrorKind::TimedOut);
    let ping = world.a.stack.start_ping(host(B), 1).unwrap();
    world.a.stack.close();
    assert_eq!(kind(ping.try_reply()), ErrorKind::ConnectionAborted);
}

struct Nothing;

impl Intercept for Nothing {
    fn connected(&self, _: TcpStream) {}
    fn flow(&self, _: UdpFlow) {}
}

#[test]
fn echo_to_other_addresses_is_answered_where_that_is_asked_for() {
    let world = World::new();
    let answers = |to: &str| {
        let ping = world.a.stack.start_ping(host(to), 56).unwrap();
        world.settle();
        ping.try_reply().is_ok()
    };
    assert!(answers(B) && answers(B6) && !answers("8.8.8.8"));
    world.b.stack.intercept(InterceptOptions::default(), Some(Arc::new(Nothing)));
    assert!(answers(B) && answers("8.8.8.8") && answers("2001:db8::1"));
    let options = InterceptOptions { answer_echo: false, ..InterceptOptions::default() };
    world.b.stack.intercept(options, Some(Arc::new(Nothing)));
    assert!(answers(B) && !answers("8.8.8.8"));
    assert_eq!(world.b.drops("icmp_echo"), 1);
}

#[test]
fn an_answer_is_the_request_with_addresses_exchanged() {
    let world = World::new();
    let mut request = icmp(host(A), host(B), (8, 0), [0x12, 0x34, 0, 1], b"hello, world");
    request[1] = 0x20;
    // The header's sum with the other traffic class.
    let sum = u16::from_be_bytes([request[10], request[11]]) - 0x20;
    request[10..12].copy_from_slice(&sum.to_be_bytes());
    world.b.give(&[request]);
    let reply = world.b.take().remove(0);
    let (from, to, message, data) = parse_icmp(&reply);
    assert_eq!((from, to, message, &data[..]), (host(B), host(A), (0, 0), &b"hello, world"[..]));
    assert_eq!((reply[1], &reply[24..28]), (0x20, &[0x12, 0x34, 0, 1][..]));
    // Neither answered: one that was sent to all, and what is no echo.
    world.b.give(&[
        icmp(host(A), host("255.255.255.255"), (8, 0), [0; 4], b""),
        icmp(host(A), host(B), (13, 0), [0; 4], &[0; 12]),
        ip(host(A), host(B), IpProtocol::Icmp, &[8, 0, 0]),
    ]);
    assert_eq!(world.b.take(), Vec::<Vec<u8>>::new());
    assert_eq!((world.b.drops("icmp_unknown"), world.b.drops("icmp_malformed")), (1, 1));
}

#[test]
fn a_connection_that_is_dialled_fails_with_what_icmp_says() {
    let world = World::new();
    for (to, from, message, error) in [
        (B, A, (3, 0), ErrorKind::NetworkUnreachable),
        (B, A, (3, 1), ErrorKind::HostUnreachable),
        (B, A, (3, 3), ErrorKind::ConnectionRefused),
        (B6, A6, (1, 4), ErrorKind::ConnectionRefused),
    ] {
        let stream = world.a.stack.start_tcp((host(to), 80).into()).unwrap();
        let syn = world.a.take().remove(0);
        let start = if from == A { 20 } else { 40 };
        let mut forged = syn.clone();
        forged[start + 4] ^= 0x80;
        world.a.give(&[icmp(host(to), host(from), message, [0; 4], &forged)]);
        assert_eq!(kind(stream.wait_established(Some(Duration::ZERO))), ErrorKind::TimedOut, "{message:?}");
        world.a.give(&[icmp(host(to), host(from), message, [0; 4], &syn[..start + 8])]);
        assert_eq!(kind(stream.wait_established(Some(Duration::ZERO))), error, "{message:?}");
    }
}

#[test]
fn a_connection_uses_smaller_segments_on_a_smaller_path() {
    let world = World::new();
    for (to, from, message, rest, mtu) in [(B, A, (3, 4), [0, 0, 3, 232], 1000), (B6, A6, (2, 0), [0, 0, 5, 0], 1280)] {
        let (client, server) = world.connect_to(to, 80);
        let data = pattern(100_000);
        client.try_write(&data).unwrap();
        let first = world.a.take();
        let largest = first.iter().max_by_key(|packet| packet.len()).unwrap();
        assert!(largest.len() > mtu);
        world.a.give(&[icmp(host(to), host(from), message, rest, largest)]);
        let mut received = Vec::new();
        let mut sent = 0;
        world.until(Duration::from_secs(60), || {
            received.extend(read_all(&server).0);
            sent += 1;
            received.len() == data.len()
        });
        assert!(received == data && sent > 0);
        client.try_write(&data).unwrap();
        assert!(world.a.take().iter().all(|packet| packet.len() <= mtu));
    }
}
