//! Connections as descriptors, through two real tunnels.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, UdpSocket as SystemUdp},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use common::{
    kind, pattern,
    pumps::{LIMIT, Stream, accept_one, pumps, read_all, stream, until},
};
use wg_embed_netstack::{
    Intercept, InterceptOptions, TcpStream, UdpFlow,
    pump::{self, AsFd, AsRawFd, Pump, accept},
};

#[test]
fn every_byte_goes_both_ways_at_once() {
    let pumps = pumps();
    // Around the borders of one byte, one segment, a socket's buffer, and one turn.
    for (n, len) in [0, 1, 2, 1379, 1381, 65_535, 65_537, 262_143, 262_145, 9_000_001].into_iter().enumerate() {
        let (a, b) = pumps.connect_both(1000 + n as u16);
        let data = pattern(len);
        thread::scope(|scope| {
            for end in [&a, &b] {
                let data = &data;
                scope.spawn(move || {
                    let mut end = end;
                    end.write_all(data).unwrap();
                    end.shutdown(Shutdown::Write).unwrap();
                });
                scope.spawn(move || assert!(read_all(end).unwrap() == *data, "{len} bytes"));
            }
        });
    }
    until("all is over", || pumps.pump_a.is_empty() && pumps.pump_b.is_empty());
}

#[test]
fn one_direction_ends_before_the_other() {
    let pumps = pumps();
    let (mut client, server) = pumps.connect(80);
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&server).unwrap(), b"question");
    (&server).write_all(b"answer").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&client).unwrap(), b"answer");
    // The other way round.
    let (mut client, server) = pumps.connect(81);
    (&server).write_all(b"greeting").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&client).unwrap(), b"greeting");
    client.write_all(b"farewell").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&server).unwrap(), b"farewell");
}

#[test]
fn a_slow_reader_stops_the_writer() {
    let pumps = pumps();
    let (mut client, server) = pumps.connect(80);
    client.set_nonblocking(true).unwrap();
    let chunk = vec![7; 64 << 10];
    let mut written = 0;
    // Full when nothing was taken for a while.
    let mut last = Instant::now();
    while last.elapsed() < Duration::from_secs(2) {
        match client.write(&chunk) {
            Ok(bytes) => {
                written += bytes;
                last = Instant::now();
            }
            Err(err) => {
                assert_eq!(err.kind(), ErrorKind::WouldBlock);
                thread::sleep(Duration::from_millis(10));
            }
        }
        assert!(written < 64 << 20, "nothing stops the writer");
    }
    drop(client);
    assert_eq!(read_all(&server).unwrap().len(), written);
}

#[test]
fn several_threads_accept_each_connection_once() {
    const CLIENTS: usize = 200;
    let pumps = pumps();
    let at = "10.0.0.2:80".parse().unwrap();
    let listener = pumps.b.stack.listen_tcp(at, 256).unwrap();
    let listener = pumps.pump_b.listener_descriptor(listener).unwrap();
    let (accepted, taken) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..4 {
            let (listener, accepted, taken, pump) = (&listener, &accepted, &taken, &pumps.pump_b);
            scope.spawn(move || {
                while accepted.fetch_add(1, Ordering::Relaxed) < CLIENTS {
                    let connection = accept_one(listener);
                    assert_eq!(connection.local, at);
                    assert_eq!(
                        pump.addresses(connection.descriptor.as_fd()).unwrap(),
                        (connection.local, connection.peer)
                    );
                    let mut end = stream(connection.descriptor);
                    let mut buf = [0; 4];
                    end.read_exact(&mut buf).unwrap();
                    taken.lock().unwrap().push(buf);
                    end.write_all(&buf).unwrap();
                }
            });
        }
        for n in 0..CLIENTS as u32 {
            let client = pumps.a.stack.start_tcp(at).unwrap();
            client.wait_established(Some(LIMIT)).unwrap();
            client.set_read_timeout(Some(LIMIT));
            (&client).write_all(&n.to_be_bytes()).unwrap();
            let mut buf = [0; 4];
            (&client).read_exact(&mut buf).unwrap();
            assert_eq!(buf, n.to_be_bytes());
        }
    });
    let mut taken = taken.into_inner().unwrap();
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), CLIENTS);
    // Closing the descriptor ends the listener.
    drop(listener);
    until("dials are refused", || {
        let client = pumps.a.stack.start_tcp(at).unwrap();
        client.wait_established(Some(LIMIT)).is_err_and(|err| err.kind() == ErrorKind::ConnectionRefused)
    });
}

#[test]
fn datagrams_keep_their_borders() {
    let pumps = pumps();
    let at = "10.0.0.2:53".parse().unwrap();
    let server = pumps.b.stack.bind_udp(at, None).unwrap();
    let client = pumps.a.stack.bind_udp("0.0.0.0:0".parse().unwrap(), Some(at)).unwrap();
    // Any socket that keeps borders will do to use a descriptor with.
    let descriptor = SystemUdp::from(pumps.pump_a.udp_descriptor(client).unwrap());
    descriptor.set_read_timeout(Some(LIMIT)).unwrap();
    for len in [1, 2, 0, 1392, 1393, 9000, 65_507] {
        let data = pattern(len);
        descriptor.send(&data).unwrap();
        let mut buf = vec![0; 65_536];
        let (got, from) = server.recv(&mut buf, Some(LIMIT)).unwrap();
        assert!(buf[..got] == data, "{len} bytes");
        until("there is room", || server.try_send(&data, Some(from)).is_ok());
        let got = descriptor.recv(&mut buf).unwrap();
        assert!(buf[..got] == data, "{len} bytes back");
    }
    // Too long for any datagram: dropped and counted, and the next one is not.
    let unsendable = || pumps.a.stack.drops().into_iter().find(|drop| drop.0 == "out_unsendable").unwrap().1;
    assert_eq!(unsendable(), 0);
    if cfg!(windows) {
        // There the system itself refuses it.
        descriptor.send(&vec![0; 65_508]).unwrap_err();
    } else {
        descriptor.send(&vec![0; 65_508]).unwrap();
        until("it is counted", || unsendable() == 1);
    }
    descriptor.send(b"next").unwrap();
    let mut buf = [0; 16];
    assert_eq!(server.recv(&mut buf, Some(LIMIT)).unwrap().0, 4);
    // What was written before a close arrives, also behind a datagram of no bytes.
    descriptor.send(b"").unwrap();
    descriptor.send(b"last").unwrap();
    drop(descriptor);
    assert_eq!(server.recv(&mut buf, Some(LIMIT)).unwrap().0, 0);
    assert_eq!(server.recv(&mut buf, Some(LIMIT)).unwrap().0, 4);
    until("it is over", || pumps.pump_a.is_empty());
}

/// Makes descriptors of all flows.
struct Flows(Mutex<Vec<UdpFlow>>);

impl Intercept for Flows {
    fn connected(&self, _: TcpStream) {}

    fn flow(&self, flow: UdpFlow) {
        self.0.lock().unwrap().push(flow);
    }
}

#[test]
fn a_flow_ends_where_its_descriptor_does() {
    let pumps = pumps();
    let flows = Arc::new(Flows(Mutex::default()));
    pumps.b.stack.intercept(InterceptOptions::default(), Some(flows.clone()));
    let client = pumps.a.stack.bind_udp("0.0.0.0:0".parse().unwrap(), Some("10.0.0.2:99".parse().unwrap())).unwrap();
    client.try_send(b"hello", None).unwrap();
    until("there is a flow", || !flows.0.lock().unwrap().is_empty());
    let flow = flows.0.lock().unwrap().pop().unwrap();
    let descriptor = SystemUdp::from(pumps.pump_b.flow_descriptor(flow).unwrap());
    descriptor.set_read_timeout(Some(LIMIT)).unwrap();
    let mut buf = [0; 16];
    assert_eq!(descriptor.recv(&mut buf).unwrap(), 5);
    descriptor.send(b"HELLO").unwrap();
    assert_eq!(client.recv(&mut buf, Some(LIMIT)).unwrap().0, 5);
    assert_eq!(pumps.b.stack.stats().flows, 1);
    drop(descriptor);
    until("the flow has ended", || pumps.b.stack.stats().flows == 0);
}

#[test]
fn nothing_outlives_the_stack_or_the_pump() {
    let pumps = pumps();
    let (client, server) = pumps.connect_both(80);
    let listener = pumps.b.stack.listen_tcp("10.0.0.2:81".parse().unwrap(), 8).unwrap();
    let listener = pumps.pump_b.listener_descriptor(listener).unwrap();
    let socket = pumps.a.stack.bind_udp("0.0.0.0:0".parse().unwrap(), Some("10.0.0.2:82".parse().unwrap())).unwrap();
    let socket = SystemUdp::from(pumps.pump_a.udp_descriptor(socket).unwrap());
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    pumps.a.stack.close();
    assert!(!read_all(&client).is_ok_and(|bytes| !bytes.is_empty()));
    assert_eq!(socket.recv(&mut [0; 1]).unwrap(), 0);
    drop(pumps.pump_b);
    assert!(!read_all(&server).is_ok_and(|bytes| !bytes.is_empty()));
    assert_eq!(kind(accept(listener.as_fd())), ErrorKind::ConnectionAborted);
    // Something else, of the same length.
    let (ours, theirs) = pump::pair().unwrap();
    Stream::from(theirs).write_all(&[0; 36]).unwrap();
    assert_eq!(kind(accept(ours.as_fd())), ErrorKind::InvalidInput);
    until("all are gone", || pumps.pump_a.is_empty());
    assert_eq!(kind(pumps.pump_a.addresses(client.as_fd())), ErrorKind::NotFound);
}

/// A child of `fork()` closes them.
#[test]
fn the_ends_of_the_pump_are_known() {
    let pumps = pumps();
    let (client, server) = pumps.connect(80);
    let [ours] = pumps.pump_a.descriptors()[..] else { panic!("not one: {:?}", pumps.pump_a.descriptors()) };
    assert!(ours != client.as_raw_fd() && pumps.pump_b.descriptors().is_empty());
    drop((client, server));
    until("it is over", || pumps.pump_a.descriptors().is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn descriptors_are_given_back() {
    let pumps = pumps();
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let at = "10.0.0.2:80".parse().unwrap();
    let listener = pumps.b.stack.listen_tcp(at, 64).unwrap();
    let mut before = 0;
    for round in 0..300 {
        let client = pumps.a.stack.start_tcp(at).unwrap();
        client.wait_established(Some(LIMIT)).unwrap();
        let server = listener.accept(Some(LIMIT)).unwrap();
        let (client, server) = (
            stream(pumps.pump_a.tcp_descriptor(client).unwrap()),
            stream(pumps.pump_b.tcp_descriptor(server).unwrap()),
        );
        match round % 3 {
            0 => drop((client, server)),
            1 => {
                drop(client);
                assert_eq!(read_all(server).unwrap(), b"");
            }
            _ => {
                (&client).write_all(b"unread").unwrap();
                drop(client);
                drop(server);
            }
        }
        until("both are over", || pumps.pump_a.is_empty() && pumps.pump_b.is_empty());
        if round == 10 {
            before = open();
        }
    }
    // Tests beside this one have descriptors of their own, but no more than a few dozen.
    assert!(open() < before + 150, "{} descriptors, {before} before", open());
}

#[test]
fn a_connection_without_traffic_takes_no_buffers() {
    let pumps = pumps();
    let (client, server) = pumps.connect_both(80);
    assert_eq!((pumps.a.stack.stats().memory, pumps.b.stack.stats().memory), (0, 0));
    // One that only reads has none to send from.
    let mut client = client;
    (&server).write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    let memory = pumps.a.stack.stats().memory;
    assert!(memory <= 4096, "{memory}");
    drop(server);
}

#[test]
fn a_socket_is_watched_for_its_end() {
    let pump = Pump::new().unwrap();
    for by_shutdown in [false, true] {
        let (ours, theirs) = pump::pair().unwrap();
        let theirs = Stream::from(theirs);
        let (told, is_told) = mpsc::channel();
        pump.watch(Arc::new(ours), Box::new(move || told.send(()).unwrap())).unwrap();
        // Wine does not report an end behind unread bytes.
        if cfg!(not(windows)) {
            (&theirs).write_all(b"not read").unwrap();
        }
        assert!(is_told.try_recv().is_err());
        if by_shutdown {
            theirs.shutdown(Shutdown::Write).unwrap();
        } else {
            drop(theirs);
        }
        is_told.recv_timeout(LIMIT).unwrap();
        until("it is over", || pump.is_empty());
    }
}
