//! Bounds: floods, many connections, slow readers, an idle stack.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::{
    B, Node, Told, World, kind, read_all,
    segments::{ACK, Peer, RST, SYN},
};
use wg_embed_netstack::{Options, TcpStream};

const SECOND: Duration = Duration::from_secs(1);

/// A SYN from `source` to port 80 of 10.0.0.2.
fn syn(source: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
    packet.extend(source.octets());
    packet.extend([10, 0, 0, 2]);
    packet.extend(port.to_be_bytes());
    packet.extend([0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    let sum = |bytes: &mut dyn Iterator<Item = [u8; 2]>| {
        let sum = bytes.map(|pair| u32::from(u16::from_be_bytes(pair))).sum::<u32>();
        let sum = (sum & 0xffff) + (sum >> 16);
        !((sum & 0xffff) + (sum >> 16)) as u16
    };
    let pairs = |bytes: &[u8]| bytes.chunks(2).map(|pair| [pair[0], pair[1]]).collect::<Vec<_>>();
    let ip = sum(&mut pairs(&packet[..20]).into_iter());
    packet[10..12].copy_from_slice(&ip.to_be_bytes());
    let tcp = sum(&mut pairs(&packet[12..]).into_iter().chain([[0, 6], [0, 20]]));
    packet[36..38].copy_from_slice(&tcp.to_be_bytes());
    packet
}

#[test]
fn the_number_of_connections_may_be_changed() {
    let world = World::new();
    let _listener = world.b.stack.listen_tcp("10.0.0.2:80".parse().unwrap(), 8).unwrap();
    let dial = || world.a.stack.start_tcp("10.0.0.2:80".parse().unwrap());
    world.a.stack.set_max_connections(1);
    assert_eq!(world.a.stack.options().max_connections, 1);
    let first = dial().unwrap();
    assert_eq!(dial().unwrap_err().kind(), ErrorKind::OutOfMemory);
    world.a.stack.set_max_connections(2);
    let second = dial().unwrap();
    world.a.stack.set_max_connections(0);
    world.settle();
    assert!(first.is_established() && second.is_established());
    assert!(dial().is_err());
}

#[test]
fn a_flood_of_syns_is_bounded_and_keeps_nobody_else_out() {
    let world = World::new();
    let listener = world.b.stack.listen_tcp("10.0.0.2:80".parse().unwrap(), 8).unwrap();
    // 100,000 from one source: from each port, again and again.
    for round in 0..100_000_u32 / 500 {
        let flood: Vec<_> =
            (0..500).map(|n| syn(Ipv4Addr::new(10, 9, 9, 9), 1000 + (round * 500 + n) as u16 % 60_000)).collect();
        world.b.give(&flood);
        drop(world.b.take());
    }
    let stats = world.b.stack.stats();
    assert!(stats.half_open <= 8192, "{stats:?}");
    assert_eq!((stats.connections, stats.memory), (0, 0));
    assert!(world.b.drops("tcp_half_open_full") > 10_000);
    // Someone else.
    let client = world.a.stack.start_tcp("10.0.0.2:80".parse().unwrap()).unwrap();
    world.settle();
    assert!(client.is_established() && listener.try_accept().is_ok());
    // From many sources, one SYN each.
    for round in 0..100_000_u32 / 500 {
        let flood: Vec<_> = (0..500).map(|n| syn(Ipv4Addr::from(0x0b00_0001 + round * 500 + n), 1000)).collect();
        world.b.give(&flood);
        drop(world.b.take());
    }
    assert!(world.b.stack.stats().half_open <= 8192);
    let client = world.a.stack.start_tcp("10.0.0.2:80".parse().unwrap()).unwrap();
    world.settle();
    assert!(client.is_established() && listener.try_accept().is_ok());
    // They end by themselves.
    drop(client);
    world.pass_coarsely(200 * SECOND);
    assert_eq!(world.b.stack.stats().half_open, 0);
}

/// Opens `count` connections, a hundred at a time.
fn open(world: &World, count: usize) -> Vec<(TcpStream, TcpStream)> {
    let listener = world.b.stack.listen_tcp("10.0.0.2:80".parse().unwrap(), 200).unwrap();
    let mut all = Vec::new();
    while all.len() < count {
        let clients: Vec<_> =
            (0..100).map(|_| world.a.stack.start_tcp("10.0.0.2:80".parse().unwrap()).unwrap()).collect();
        world.settle();
        all.extend(clients.into_iter().map(|client| (client, listener.try_accept().unwrap())));
    }
    all
}

#[test]
fn ten_thousand_connections_leave_nothing() {
    let world = World::new();
    let all = open(&world, 10_000);
    assert_eq!(world.a.stack.stats().connections, 10_000);
    assert_eq!(world.a.stack.stats().memory + world.b.stack.stats().memory, 0, "idle ones have no buffers");
    for (client, _) in &all {
        client.try_write(b"some data").unwrap();
    }
    world.settle();
    for (n, (client, server)) in all.into_iter().enumerate() {
        assert_eq!(read_all(&server).0, b"some data");
        match n % 4 {
            0 => client.reset(),
            1 => server.reset(),
            _ => {}
        }
        if n % 2 == 0 { drop((client, server)) } else { drop((server, client)) }
    }
    world.settle();
    assert_eq!((world.a.stack.stats().connections, world.b.stack.stats().connections), (0, 0));
    world.pass_coarsely(65 * SECOND);
    assert!(world.a.is_empty() && world.b.is_empty(), "{:?} {:?}", world.a.stack.stats(), world.b.stack.stats());
}

#[test]
fn the_number_of_connections_is_limited() {
    let world = World::with(|a| a.max_connections = 5, |b| b.max_connections = 3);
    let _listener = world.b.stack.listen_tcp("10.0.0.2:80".parse().unwrap(), 100).unwrap();
    let dial = || world.a.stack.start_tcp("10.0.0.2:80".parse().unwrap());
    let clients: Vec<_> = (0..5).map(|_| dial().unwrap()).collect();
    assert_eq!(kind(dial()), ErrorKind::OutOfMemory);
    world.settle();
    let refused = clients
        .iter()
        .filter(|client| client.try_read(&mut [0; 9]).is_err_and(|err| err.kind() == ErrorKind::ConnectionRefused));
    assert_eq!((refused.count(), world.b.drops("tcp_limit")), (2, 2));
}

#[test]
fn connections_that_are_never_completed_keep_nobody_out() {
    for max in [1, 3, 100] {
        let world = World::with(|_| {}, |b| b.max_connections = max);
        let flood: Vec<_> = (0..1000).map(|n| syn(Ipv4Addr::new(10, 9, 9, 9), 1000 + n)).collect();
        let others: Vec<_> = (0..1000).map(|n| syn(Ipv4Addr::from(0x0b00_0001_u32 + n), 1000)).collect();
        let _listener = world.b.stack.listen_tcp("10.0.0.2:80".parse().unwrap(), 100).unwrap();
        let _other = world.a.stack.listen_tcp("10.0.0.1:80".parse().unwrap(), 100).unwrap();
        for _ in 0..3 {
            world.b.give(&flood);
            world.b.give(&others[..10]);
            drop(world.b.take());
        }
        let client = world.a.stack.start_tcp("10.0.0.2:80".parse().unwrap()).unwrap();
        world.settle();
        assert!(client.is_established(), "{max}");
        client.reset();
        world.settle();
        // What the network dials itself does not depend on them at all.
        world.b.give(&flood);
        world.b.give(&others);
        drop(world.b.take());
        let client = world.b.stack.start_tcp("10.0.0.1:80".parse().unwrap()).unwrap();
        world.settle();
        assert!(client.is_established(), "{max}");
    }
}

#[test]
fn no_more_handshakes_are_completed_than_there_is_room_for() {
    let world = World::with(|_| {}, |b| b.max_connections = 3);
    let listener = world.b.stack.listen_tcp("10.0.0.2:80".parse().unwrap(), 100).unwrap();
    let mut peers: Vec<_> = (1..6).map(|n| Peer::new(&format!("10.0.1.{n}:1"), "10.0.0.2:80", 5000)).collect();
    for peer in &mut peers {
        assert_eq!(peer.send(&world.b, SYN, &[])[0].flags, SYN | ACK);
    }
    let answers: Vec<_> = peers.iter_mut().map(|peer| peer.send(&world.b, ACK, &[])).collect();
    let resets = answers.iter().flatten().filter(|tcp| tcp.flags & RST != 0).count();
    let stats = world.b.stack.stats();
    assert_eq!((stats.connections, stats.half_open, resets, world.b.drops("tcp_limit")), (3, 0, 2, 2));
    assert_eq!((0..5).filter(|_| listener.try_accept().is_ok()).count(), 3);
}

#[test]
fn a_slow_reader_bounds_memory() {
    const BUFFER: usize = 256 << 10;
    let world = World::with(|a| a.send_buffer = BUFFER, |b| b.receive_buffer = BUFFER);
    let (client, server) = world.connect();
    let data = vec![5; 1 << 20];
    let mut written = 0;
    world.pass_with(5 * SECOND, || {
        while let Ok(n) = client.try_write(&data) {
            written += n;
        }
    });
    let (ours, theirs) = (world.a.stack.stats().memory, world.b.stack.stats().memory);
    assert!(ours <= BUFFER && theirs <= BUFFER, "{ours} {theirs}");
    assert!((BUFFER / 2..=2 * BUFFER).contains(&written), "{written}");
    // Nothing was lost: it goes on when it is read.
    let mut read = 0;
    world.until(60 * SECOND, || {
        read += read_all(&server).0.len();
        while let Ok(n) = client.try_write(&data) {
            written += n;
        }
        read > 4 << 20
    });
}

#[test]
fn at_the_limit_of_memory_windows_shrink_and_all_go_on() {
    const LIMIT: usize = 1 << 20;
    let world = World::with(|_| {}, |b| b.memory = LIMIT);
    let listener = world.b.stack.listen_tcp("10.0.0.2:80".parse().unwrap(), 100).unwrap();
    let dial = || world.a.stack.start_tcp("10.0.0.2:80".parse().unwrap()).unwrap();
    let clients: Vec<_> = (0..32).map(|_| dial()).collect();
    world.settle();
    let servers: Vec<_> = clients.iter().map(|_| listener.try_accept().unwrap()).collect();
    let data = vec![5; 1 << 20];
    let write = || {
        for client in &clients {
            while client.try_write(&data).is_ok() {}
        }
    };
    world.pass_with(2 * SECOND, || {
        write();
        assert!(world.b.stack.stats().memory <= LIMIT);
    });
    let memory = world.b.stack.stats().memory;
    assert!(memory >= LIMIT / 2, "{memory}");
    // All of them go on when they are read.
    let mut read = vec![0; servers.len()];
    world.until(300 * SECOND, || {
        write();
        for (server, read) in servers.iter().zip(&mut read) {
            *read += read_all(server).0.len();
        }
        read.iter().all(|read| *read > 1 << 20)
    });
}

#[test]
fn writers_without_memory_are_told_when_there_is_some() {
    let world = World::with(|_| {}, |b| b.receive_buffer = 4096);
    let [hog, first, second] = [80, 81, 82].map(|port| world.connect_to(B, port));
    hog.0.try_write(&[5; 20_000]).unwrap();
    world.settle();
    let used = world.a.stack.stats().memory;
    world.a.stack.set_memory(used);
    let told = [&first, &second].map(|(stream, _)| {
        let told = Told::new();
        stream.set_notify(Some(told.clone()));
        assert_eq!(kind(stream.try_write(b"data")), ErrorKind::WouldBlock);
        told
    });
    let times = || [&told[0], &told[1]].map(|told| told.times());
    // Nobody tries in between.
    let before = times();
    world.pass(10 * SECOND);
    assert_eq!(times(), before);
    // Enough for one, which does not use it: it is the other one's turn.
    world.a.stack.set_memory(used + 2048);
    world.settle();
    assert_eq!(times(), [before[0] + 1, before[1]]);
    world.pass(5 * SECOND);
    assert_eq!(times(), [before[0] + 1, before[1] + 1]);
    second.0.try_write(b"data").unwrap();
    assert_eq!(kind(first.0.try_write(b"data")), ErrorKind::WouldBlock);
    hog.0.reset();
    world.settle();
    assert_eq!(times()[0], before[0] + 2);
    first.0.try_write(b"data").unwrap();
    // One that has ended waits no more.
    world.a.stack.set_memory(0);
    world.pass(5 * SECOND);
    assert_eq!(kind(first.0.try_write(b"data")), ErrorKind::WouldBlock);
    drop((first, second));
    world.pass_coarsely(120 * SECOND);
    world.a.stack.set_memory(1 << 20);
    world.settle();
    assert!(world.a.is_empty(), "{:?}", world.a.stack.stats());
}

#[test]
fn an_idle_stack_makes_no_wake_ups() {
    let options = |address: &str| Options { addresses: vec![address.parse::<IpAddr>().unwrap()], ..Options::default() };
    let (a, b) = (Arc::new(Node::new(options("10.0.0.1"))), Arc::new(Node::new(options(B))));
    let waits = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = [(a.clone(), b.clone()), (b.clone(), a.clone())]
        .into_iter()
        .map(|(node, other)| {
            let (waits, stop) = (waits.clone(), stop.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    other.give(&node.take());
                    node.tun.wait(None).unwrap();
                    waits.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let listener = b.stack.listen_tcp("10.0.0.2:80".parse().unwrap(), 8).unwrap();
    let client = a.stack.start_tcp("10.0.0.2:80".parse().unwrap()).unwrap();
    let server = listener.accept(Some(60 * SECOND)).unwrap();
    client.wait_established(Some(60 * SECOND)).unwrap();
    client.try_write(b"x").unwrap();
    std::io::Read::read_exact(&mut &server, &mut [0]).unwrap();
    // Until the last timers have run, and then none.
    let began = Instant::now();
    let mut before = waits.load(Ordering::SeqCst);
    loop {
        thread::sleep(Duration::from_millis(1500));
        let now = waits.load(Ordering::SeqCst);
        if now == before {
            break;
        }
        assert!(began.elapsed() < 60 * SECOND, "still {} wake-ups", now - before);
        before = now;
    }
    stop.store(true, Ordering::SeqCst);
    a.tun.wake();
    b.tun.wake();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    drop((client, server));
}
