//! UDP sockets: who gets what, bounds, fragments, errors, ends.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::Arc,
    thread,
    time::Duration,
};

use common::{
    A, A6, B, B6, MTU, Told, World, kind,
    packets::{at, icmp, parse_icmp, parse_udp, udp},
    pattern,
};
use wg_embed_netstack::UdpSocket;

fn bind(world: &World, local: &str, peer: Option<&str>) -> io::Result<UdpSocket> {
    world.b.stack.bind_udp(at(local), peer.map(at))
}

/// Everything that waits.
fn drain(socket: &UdpSocket) -> Vec<(Vec<u8>, SocketAddr)> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 65_536];
    loop {
        match socket.try_recv(&mut buffer) {
            Ok((len, from)) => all.push((buffer[..len].to_vec(), from)),
            Err(err) => {
                assert_eq!(err.kind(), ErrorKind::WouldBlock);
                return all;
            }
        }
    }
}

#[test]
fn datagrams_of_all_sizes_pass_both_ways() {
    let world = World::new();
    let server = bind(&world, "[::]:5000", None).unwrap();
    for (host, most) in [(B, 65_507), (B6, 65_487)] {
        let to = SocketAddr::new(host.parse().unwrap(), 5000);
        let client = world.a.stack.bind_udp(at("[::]:0"), Some(to)).unwrap();
        let own = if to.is_ipv4() { A } else { A6 };
        assert_eq!(client.local_addr().ip().to_string(), own);
        let whole = usize::from(MTU) - if to.is_ipv4() { 28 } else { 48 };
        for size in [0, 1, 2, whole - 1, whole, whole + 1, 2 * whole, 9000, 65_000, most] {
            let data = pattern(size);
            assert_eq!(client.try_send(&data, None).unwrap(), size);
            world.settle();
            let received = drain(&server);
            assert!(received == [(data.clone(), client.local_addr())], "{size}");
            server.try_send(&data, Some(client.local_addr())).unwrap();
            world.settle();
            assert!(drain(&client) == [(data, to)], "{size}");
        }
        let err = client.try_send(&vec![0; most + 1], None).unwrap_err();
        let cause = err.get_ref().and_then(|cause| cause.downcast_ref::<io::Error>()).unwrap();
        assert_eq!((err.kind(), cause.raw_os_error()), (ErrorKind::InvalidInput, Some(libc::EMSGSIZE)));
    }
    // Larger than the buffer: cut, and the whole length is told.
    let client = world.a.stack.bind_udp(at("0.0.0.0:0"), None).unwrap();
    client.try_send(b"datagram", Some(at("10.0.0.2:5000"))).unwrap();
    world.settle();
    let mut buffer = [0; 4];
    assert_eq!(server.try_recv(&mut buffer).unwrap().0, 8);
    assert_eq!(&buffer, b"data");
    assert!(world.a.stack.drops().iter().chain(&world.b.stack.drops()).all(|(_, count)| *count == 0));
    assert!(world.a.is_empty() && world.b.is_empty());
}

#[test]
fn whole_datagrams_and_fragments_are_as_smoltcp_reads_them() {
    let world = World::new();
    for (from, to) in [("10.0.0.2:1000", "10.0.0.1:2000"), ("[fd00::2]:1000", "[fd00::1]:2000")] {
        // Its sum is 0, which is sent as 0xffff.
        for data in [&b"odd"[..], b"", b"even"] {
            world.b.stack.send_datagram(data, at(from), at(to)).unwrap();
            let packets = world.b.take();
            assert_eq!(packets.len(), 1);
            assert_eq!(parse_udp(&packets[0]), (at(from), at(to), data.to_vec()));
        }
        let sums = (0..=u16::MAX).filter(|n| {
            world.b.stack.send_datagram(&n.to_be_bytes(), at(from), at(to)).unwrap();
            let packets = world.b.take();
            parse_udp(&packets[0]);
            let sum = if packets[0][0] == 0x45 { &packets[0][26..28] } else { &packets[0][46..48] };
            sum == [0xff, 0xff]
        });
        assert_eq!(sums.take(1).count(), 1, "one of them is the sum that has two forms");
        world.b.stack.send_datagram(&pattern(4000), at(from), at(to)).unwrap();
        let fragments = world.b.take();
        assert_eq!(fragments.len(), 3);
        assert!(fragments.iter().all(|packet| packet.len() <= usize::from(MTU)));
        assert!(fragments[..2].iter().all(|packet| packet.len() > usize::from(MTU) - 8));
    }
}

#[test]
fn sockets_are_told_apart_by_address_port_and_peer() {
    let world = World::new();
    let all = bind(&world, "0.0.0.0:7", None).unwrap();
    let one = bind(&world, "10.0.0.2:7", None).unwrap();
    let connected = bind(&world, "10.0.0.2:7", Some("10.0.0.1:1000")).unwrap();
    let six = bind(&world, "[fd00::2]:7", None).unwrap();
    assert_eq!(kind(bind(&world, "10.0.0.2:7", None)), ErrorKind::AddrInUse);
    assert_eq!(kind(bind(&world, "[::]:7", None)), ErrorKind::AddrInUse);
    assert_eq!(kind(bind(&world, "0.0.0.0:7", Some("10.0.0.1:1000"))), ErrorKind::AddrInUse);
    assert_eq!(kind(bind(&world, "10.0.0.1:8", None)), ErrorKind::AddrNotAvailable);
    assert_eq!(kind(bind(&world, "10.0.0.2:8", Some("[fd00::1]:9"))), ErrorKind::InvalidInput);
    assert_eq!(kind(bind(&world, "10.0.0.2:8", Some("10.0.0.1:0"))), ErrorKind::InvalidInput);
    let got = |from: &str, to: &str| {
        world.b.give(&[udp(at(from), at(to), b"x")]);
        [&all, &one, &connected, &six].map(|socket| drain(socket).len())
    };
    assert_eq!(got("10.0.0.1:1000", "10.0.0.2:7"), [0, 0, 1, 0]);
    assert_eq!(got("10.0.0.1:1001", "10.0.0.2:7"), [0, 1, 0, 0]);
    assert_eq!(got("[fd00::1]:1000", "[fd00::2]:7"), [0, 0, 0, 1]);
    drop(one);
    drop(connected);
    world.b.give(&[udp(at("10.0.0.1:1000"), at("10.0.0.2:7"), b"x")]);
    assert_eq!((drain(&all).len(), world.b.drops("udp_no_socket")), (1, 0));
    assert_eq!(kind(all.try_send(b"x", None)), ErrorKind::NotConnected);
    assert_eq!(kind(all.try_send(b"x", Some(at("[fd00::1]:7")))), ErrorKind::AddrNotAvailable);
    assert_eq!(kind(six.try_send(b"x", Some(at("10.0.0.1:7")))), ErrorKind::InvalidInput);
    assert_eq!(kind(all.try_send(b"x", Some(at("127.0.0.1:7")))), ErrorKind::InvalidInput);
    // Free ports are all different.
    let many: Vec<_> = (0..500).map(|_| bind(&world, "0.0.0.0:0", None).unwrap().local_addr().port()).collect();
    assert!(many.iter().all(|port| *port >= 32_768));
    let held: Vec<_> = (0..500).map(|_| bind(&world, "0.0.0.0:0", None).unwrap()).collect();
    let mut ports: Vec<_> = held.iter().map(|socket| socket.local_addr().port()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 500);
}

#[test]
fn a_closed_port_refuses_once_and_within_the_rate() {
    let world = World::new();
    for to in ["10.0.0.2:9", "[fd00::2]:9"] {
        let client = world.a.stack.bind_udp(at("[::]:0"), Some(at(to))).unwrap();
        let told = Told::new();
        client.set_notify(Some(told.clone()));
        let before = told.times();
        client.try_send(b"anyone?", None).unwrap();
        world.settle();
        assert!(client.is_readable() && told.times() > before);
        assert_eq!(kind(client.try_recv(&mut [0; 9])), ErrorKind::ConnectionRefused);
        assert_eq!(kind(client.try_recv(&mut [0; 9])), ErrorKind::WouldBlock);
    }
    // One that is not connected learns nothing.
    let client = world.a.stack.bind_udp(at("0.0.0.0:0"), None).unwrap();
    for _ in 0..20 {
        client.try_send(&pattern(900), Some(at("10.0.0.2:9"))).unwrap();
    }
    world.b.give(&world.a.take());
    let answers = world.b.take();
    // The burst of six, of which one is used.
    assert_eq!((answers.len(), world.b.drops("icmp_rate")), (5, 15));
    let (from, to, message, quoted) = parse_icmp(&answers[0]);
    assert_eq!((from.to_string(), to.to_string(), message), (B.into(), A.into(), (3, 3)));
    assert_eq!((answers[0].len(), quoted[0]), (576, 0x45));
    world.a.give(&answers);
    assert_eq!(drain(&client), []);
    // No answers to those that are no host's, nor to wrong checksums.
    let before = world.b.drops("icmp_rate");
    let mut wrong = udp(at("10.0.0.1:5"), at("10.0.0.2:9"), b"x");
    wrong[28] ^= 1;
    let multicast = udp(at("10.0.0.1:5"), at("224.0.0.1:9"), b"x");
    let broadcast = udp(at("10.0.0.1:5"), at("255.255.255.255:9"), b"x");
    let nobody = udp(at("0.0.0.0:5"), at("10.0.0.2:9"), b"x");
    world.pass(Duration::from_secs(10));
    world.b.give(&[wrong, multicast, broadcast, nobody]);
    assert_eq!((world.b.take().len(), world.b.drops("icmp_rate")), (0, before));
}

#[test]
fn other_errors_and_forged_ones() {
    let world = World::new();
    let socket = bind(&world, "10.0.0.2:7", Some("10.0.0.1:9")).unwrap();
    let sent = udp(at("10.0.0.2:7"), at("10.0.0.1:9"), b"data");
    let router = "10.9.9.9".parse().unwrap();
    let own = B.parse().unwrap();
    for (message, error) in [
        ((3, 0), ErrorKind::NetworkUnreachable),
        ((3, 1), ErrorKind::HostUnreachable),
        ((3, 13), ErrorKind::HostUnreachable),
        ((3, 2), ErrorKind::ConnectionRefused),
        ((11, 0), ErrorKind::HostUnreachable),
    ] {
        world.b.give(&[icmp(router, own, message, [0; 4], &sent[..28])]);
        assert_eq!(kind(socket.try_recv(&mut [0; 9])), error, "{message:?}");
    }
    // The program was told of a datagram, and will read until nothing is left: the error comes before it has.
    let told = Told::new();
    socket.set_notify(Some(told.clone()));
    world.b.give(&[udp(at("10.0.0.1:9"), at("10.0.0.2:7"), b"answer")]);
    assert!(socket.try_recv(&mut [0; 9]).is_ok());
    let before = told.times();
    world.b.give(&[icmp(router, own, (3, 3), [0; 4], &sent[..28])]);
    assert_eq!(told.times(), before + 1);
    assert_eq!(kind(socket.try_recv(&mut [0; 9])), ErrorKind::ConnectionRefused);
    let other_port = udp(at("10.0.0.2:8"), at("10.0.0.1:9"), b"data");
    let other_peer = udp(at("10.0.0.2:7"), at("10.0.0.1:8"), b"data");
    let other_host = udp(at("10.0.0.3:7"), at("10.0.0.1:9"), b"data");
    for (quoted, message) in [(other_port, (3, 3)), (other_peer, (3, 3)), (other_host, (3, 3)), (sent.clone(), (5, 0))]
    {
        let before = world.b.drops("icmp_unknown");
        world.b.give(&[icmp(router, own, message, [0; 4], &quoted)]);
        assert_eq!(world.b.drops("icmp_unknown"), before + 1);
    }
    world.b.give(&[icmp(router, own, (3, 3), [0; 4], &sent[..27])]);
    assert_eq!(world.b.drops("icmp_malformed"), 1);
    assert_eq!(drain(&socket), []);
    assert_eq!(world.b.take(), Vec::<Vec<u8>>::new(), "errors are not answered");
}

#[test]
fn a_smaller_path_is_learned_and_forgotten() {
    let world = World::new();
    for (own, peer, too_big, smaller) in
        [(B, A, ((3, 4), [0, 0, 3, 232]), 1000), (B6, A6, ((2, 0), [0, 0, 5, 20]), 1300)]
    {
        let (local, remote) = (SocketAddr::new(own.parse().unwrap(), 7), SocketAddr::new(peer.parse().unwrap(), 9));
        let socket = world.b.stack.bind_udp(local, Some(remote)).unwrap();
        let sizes = |len: usize| {
            socket.try_send(&pattern(len), None).unwrap();
            world.b.take().iter().map(Vec::len).collect::<Vec<_>>()
        };
        let whole = usize::from(MTU);
        assert_eq!(sizes(1350).len(), 1);
        let sent = udp(local, remote, &pattern(1350));
        let (message, rest) = too_big;
        // Nothing that was sent by a socket of ours.
        let forged = udp(SocketAddr::new(local.ip(), 8), remote, &pattern(1350));
        world.b.give(&[icmp(remote.ip(), local.ip(), message, rest, &forged[..500])]);
        assert_eq!(sizes(1350).len(), 1);
        world.b.give(&[icmp(remote.ip(), local.ip(), message, rest, &sent[..500])]);
        let fragments = sizes(1350);
        assert!(fragments.len() == 2 && fragments.iter().all(|len| *len <= smaller), "{fragments:?}");
        assert_eq!(sizes(500).len(), 1);
        world.pass_coarsely(Duration::from_secs(601));
        assert_eq!(sizes(1350).len(), 1);
        // A larger one than the tunnel's, and one that no path has.
        world.b.give(&[icmp(remote.ip(), local.ip(), message, [0, 0, 0xff, 0], &sent[..500])]);
        assert_eq!(sizes(whole - 48), [if local.is_ipv4() { whole - 20 } else { whole }]);
        world.b.give(&[icmp(remote.ip(), local.ip(), message, [0, 0, 0, 1], &sent[..500])]);
        let fragments = sizes(1350);
        assert!(fragments.len() <= 3 && fragments.len() > 1, "{fragments:?}");
        assert_eq!(drain(&socket), []);
    }
}

#[test]
fn what_waits_is_bounded_in_each_socket_and_in_all() {
    let world = World::with(|_| {}, |options| options.memory = 8 << 20);
    let sockets: Vec<_> = (0..4).map(|n| bind(&world, &format!("10.0.0.2:{}", 100 + n), None).unwrap()).collect();
    let flood = |port: u16| {
        let packet = udp(at("10.0.0.1:5"), SocketAddr::new(B.parse().unwrap(), port), &pattern(1300));
        for _ in 0..20 {
            world.b.give(&vec![packet.clone(); 100]);
        }
    };
    flood(100);
    let one = world.b.stack.stats().memory;
    assert!(one > 900 << 10 && one <= 1 << 20, "{one}");
    assert!(world.b.drops("udp_queue_full") > 1000 && world.b.drops("udp_memory") == 0);
    (101..104).for_each(flood);
    assert!(world.b.drops("udp_memory") > 1000 && world.b.stack.stats().memory <= 2 << 20);
    // More memory is for datagrams, too.
    world.b.stack.set_memory(12 << 20);
    flood(103);
    let memory = world.b.stack.stats().memory;
    assert!(memory > 2 << 20 && memory <= 3 << 20, "{memory}");
    world.b.stack.set_memory(8 << 20);
    let before = world.b.drops("udp_memory");
    world.b.give(&[udp(at("10.0.0.1:5"), at("10.0.0.2:103"), b"x")]);
    assert_eq!(world.b.drops("udp_memory"), before + 1);
    (1..4).for_each(|n| drop(drain(&sockets[n])));
    // Others are not kept out by those that are full.
    drain(&sockets[0]);
    world.b.give(&[udp(at("10.0.0.1:5"), at("10.0.0.2:100"), b"x")]);
    assert_eq!(drain(&sockets[0]).len(), 1);
    drop(sockets);
    assert!(world.b.is_empty());
}

#[test]
fn a_full_queue_is_told_and_room_as_well() {
    let world = World::new();
    let socket = bind(&world, "10.0.0.2:7", Some("10.0.0.1:9")).unwrap();
    let told = Told::new();
    socket.set_notify(Some(told.clone()));
    for data in [pattern(1000), pattern(60_000)] {
        let before = told.times();
        let mut sent = 0;
        while socket.try_send(&data, None).is_ok() {
            sent += 1;
        }
        assert_eq!(kind(socket.try_send(&data, None)), ErrorKind::WouldBlock);
        assert_eq!((told.times(), world.b.drops("out_full")), (before, 0));
        let packets = world.b.take().len();
        assert!(packets >= sent && told.times() == before + 1, "told {} times", told.times() - before);
        socket.try_send(&data, None).unwrap();
        world.b.take();
    }
    // Without a socket the queue is full, too, but there is nobody to tell.
    while world.b.stack.send_datagram(&pattern(1000), at("10.0.0.2:1"), at("10.0.0.1:1")).is_ok() {}
    assert_eq!(world.b.drops("out_full"), 1);
}

#[test]
fn checksums_and_lengths() {
    let world = World::new();
    let socket = bind(&world, "[::]:7", None).unwrap();
    let (v4, v6) = (["10.0.0.1:5", "10.0.0.2:7"], ["[fd00::1]:5", "[fd00::2]:7"]);
    let give = |[from, to]: [&str; 2], change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = udp(at(from), at(to), b"data");
        change(&mut packet);
        world.b.give(&[packet]);
        drain(&socket).len()
    };
    assert_eq!((give(v4, &|_| {}), give(v6, &|_| {})), (1, 1));
    // None at all: with IPv4 alone.
    assert_eq!(give(v4, &|packet| packet[26..28].fill(0)), 1);
    assert_eq!((give(v6, &|packet| packet[46..48].fill(0)), world.b.drops("in_checksum")), (0, 1));
    assert_eq!((give(v4, &|packet| packet[31] ^= 1), world.b.drops("in_checksum")), (0, 2));
    // A length that leaves the packet, or is none.
    for len in [0, 7, 13, 255] {
        let before = world.b.drops("udp_malformed");
        assert_eq!(give(v6, &|packet| packet[45] = len), 0);
        assert_eq!(world.b.drops("udp_malformed"), before + 1, "{len}");
    }
}

#[test]
fn fragments_that_get_lost_are_forgotten_and_reported() {
    let world = World::new();
    let socket = bind(&world, "[::]:7", None).unwrap();
    for (to, timeout, message) in [("10.0.0.2:7", 30, (11, 1)), ("[fd00::2]:7", 60, (3, 1))] {
        let client = world.a.stack.bind_udp(at("[::]:0"), Some(at(to))).unwrap();
        client.try_send(&pattern(4000), None).unwrap();
        let mut fragments = world.a.take();
        assert_eq!(fragments.len(), 3);
        fragments.reverse();
        world.b.give(&fragments[..1]);
        world.b.give(&fragments[2..]);
        assert!(world.b.stack.stats().memory > 1000);
        world.clock.advance(Duration::from_secs(timeout) - Duration::from_millis(1));
        assert_eq!(world.b.take(), Vec::<Vec<u8>>::new());
        world.clock.advance(Duration::from_millis(1));
        let reports = world.b.take();
        assert_eq!((reports.len(), parse_icmp(&reports[0]).2), (1, message));
        assert!(world.b.is_empty());
        // All of them in another order, and the last one twice.
        client.try_send(&pattern(4000), None).unwrap();
        let mut fragments = world.a.take();
        fragments.reverse();
        fragments.insert(0, fragments[0].clone());
        world.b.give(&fragments);
        assert!(drain(&socket) == [(pattern(4000), client.local_addr())]);
        assert!(world.b.is_empty());
    }
    assert_eq!(world.b.drops("fragment_timeout"), 4);
}

#[test]
fn lost_late_and_repeated_fragments_never_make_another_datagram() {
    let world = World::new();
    let socket = bind(&world, "[::]:7", None).unwrap();
    *world.path.lock().unwrap() = common::Path {
        delay: Duration::from_millis(5),
        loss: 30,
        twice: 100,
        reordered: 300,
        late: Duration::from_millis(20),
    };
    let client = world.a.stack.bind_udp(at("0.0.0.0:0"), Some(at("10.0.0.2:7"))).unwrap();
    let mut received = 0;
    for round in 0..200 {
        client.try_send(&pattern(2000 + round * 37), None).unwrap();
        world.pass(Duration::from_millis(3));
        for (data, _) in drain(&socket) {
            assert!(data == pattern(data.len()));
            received += 1;
        }
    }
    assert!(received > 100, "{received}");
    world.pass_coarsely(Duration::from_secs(40));
    drain(&socket);
    assert!(world.b.is_empty());
}

#[test]
fn closing_ends_sockets_and_those_who_wait() {
    let world = World::new();
    let socket = Arc::new(bind(&world, "10.0.0.2:7", Some("10.0.0.1:9")).unwrap());
    let gone = bind(&world, "[fd00::2]:7", None).unwrap();
    assert_eq!(kind(socket.recv(&mut [0; 9], Some(Duration::from_millis(1)))), ErrorKind::TimedOut);
    world.b.stack.set_addresses(vec![B.parse().unwrap()]).unwrap();
    assert_eq!(kind(gone.try_recv(&mut [0; 9])), ErrorKind::AddrNotAvailable);
    assert_eq!(kind(gone.try_send(b"x", Some(at("[fd00::1]:9")))), ErrorKind::AddrNotAvailable);
    let waiting = socket.clone();
    let thread = thread::spawn(move || waiting.recv(&mut [0; 9], None));
    let told = Told::new();
    socket.set_notify(Some(told.clone()));
    let before = told.times();
    world.b.give(&[udp(at("10.0.0.1:9"), at("10.0.0.2:7"), b"x")]);
    assert_eq!(thread.join().unwrap().unwrap(), (1, at("10.0.0.1:9")));
    world.b.give(&[udp(at("10.0.0.1:9"), at("10.0.0.2:7"), b"x")]);
    let waiting = socket.clone();
    let thread = thread::spawn(move || {
        let _ = waiting.recv(&mut [0; 9], None);
        waiting.recv(&mut [0; 9], None)
    });
    world.b.stack.close();
    assert_eq!(kind(thread.join().unwrap()), ErrorKind::ConnectionAborted);
    assert!(told.times() > before);
    assert_eq!(kind(socket.try_send(b"x", None)), ErrorKind::ConnectionAborted);
    assert_eq!(kind(bind(&world, "10.0.0.2:9", None)), ErrorKind::NotConnected);
    let sent = world.b.stack.send_datagram(b"x", at("10.0.0.2:1"), at("10.0.0.1:1"));
    assert_eq!(kind(sent), ErrorKind::NotConnected);
    assert!(world.b.is_empty());
}

#[test]
fn a_port_is_taken_without_a_socket() {
    let world = World::new();
    let port = world.b.stack.reserve_udp(at("[::]:0")).unwrap();
    let taken = port.local_addr().port();
    assert_eq!(kind(bind(&world, &format!("[::]:{taken}"), None)), ErrorKind::AddrInUse);
    assert_eq!(kind(bind(&world, &format!("0.0.0.0:{taken}"), None)), ErrorKind::AddrInUse);
    assert_eq!(kind(world.b.stack.reserve_udp(at(&format!("[::]:{taken}")))), ErrorKind::AddrInUse);
    assert_eq!(kind(world.b.stack.reserve_udp(at("192.0.2.1:1"))), ErrorKind::AddrNotAvailable);
    // Whoever does not ask for a port gets another one, as long as there are any.
    let peer = format!("{A}:1");
    let others: Vec<_> = (0..32_767).map(|_| bind(&world, "0.0.0.0:0", Some(&peer)).unwrap()).collect();
    assert!(others.iter().all(|socket| socket.local_addr().port() != taken));
    assert_eq!(kind(bind(&world, "0.0.0.0:0", Some(&peer))), ErrorKind::AddrInUse);
    drop(port);
    assert_eq!(bind(&world, "[::]:0", None).unwrap().local_addr().port(), taken);
}
