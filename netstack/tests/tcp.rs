//! Connections between two stacks: they begin, carry data, and end, each way they can.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    io::{ErrorKind, Read, Write},
    net::Shutdown,
    sync::Arc,
    thread,
    time::Duration,
};

use common::{A, B, B6, Told, World, kind, read_all};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_connection_is_made_and_echoes() {
    for host in [B, B6] {
        let world = World::new();
        let (client, server) = world.connect_to(host, 80);
        assert_eq!((client.peer_addr(), client.local_addr()), (server.local_addr(), server.peer_addr()));
        assert_eq!(client.peer_addr(), std::net::SocketAddr::new(host.parse().unwrap(), 80));
        assert!(client.local_addr().port() >= 32_768);
        assert_eq!(kind(client.try_read(&mut [0; 9])), ErrorKind::WouldBlock);
        assert_eq!(client.try_write(b"hello").unwrap(), 5);
        world.settle();
        let (data, end) = read_all(&server);
        assert!(data == b"hello" && end.is_none());
        assert_eq!(server.try_write(&data).unwrap(), 5);
        world.settle();
        assert_eq!(read_all(&client).0, b"hello");
        world.pass(SECOND);
        assert_eq!((client.unacknowledged(), server.unacknowledged()), (0, 0));
    }
}

#[test]
fn what_nobody_listens_to_is_refused() {
    let world = World::new();
    let client = world.a.stack.start_tcp((B.parse::<std::net::IpAddr>().unwrap(), 81).into()).unwrap();
    let told = Told::new();
    client.set_notify(Some(told.clone()));
    world.settle();
    assert_eq!(kind(client.try_read(&mut [0; 9])), ErrorKind::ConnectionRefused);
    assert_eq!(kind(client.wait_established(None)), ErrorKind::ConnectionRefused);
    assert!(!client.is_established() && told.times() == 1);
    drop(client);
    assert!(world.a.is_empty() && world.b.is_empty());
    assert_eq!(world.b.drops("tcp_unknown"), 1);
}

#[test]
fn dialling_needs_an_address_of_the_family() {
    let world = World::with(|a| a.addresses.truncate(1), |_| {});
    let dial = |to: &str| kind(world.a.stack.start_tcp(to.parse().unwrap()));
    assert_eq!(dial("[fd00::2]:80"), ErrorKind::AddrNotAvailable);
    for invalid in ["10.0.0.2:0", "0.0.0.0:80", "224.0.0.1:80", "255.255.255.255:80"] {
        assert_eq!(dial(invalid), ErrorKind::InvalidInput, "{invalid}");
    }
    assert!(world.a.stack.start_tcp("[::ffff:10.0.0.2]:80".parse().unwrap()).is_ok(), "a mapped address is IPv4");
}

#[test]
fn each_side_may_end_its_direction_first() {
    for client_first in [true, false] {
        let world = World::new();
        let (client, server) = world.connect();
        let (first, second) = if client_first { (client, server) } else { (server, client) };
        first.try_write(b"question").unwrap();
        first.shutdown(Shutdown::Write).unwrap();
        assert_eq!(kind(first.try_write(b"x")), ErrorKind::BrokenPipe);
        world.settle();
        let (data, end) = read_all(&second);
        assert!(data == b"question" && end.unwrap().is_ok());
        assert!(second.readiness().read_closed && second.readiness().writable);
        // The other direction goes on.
        for _ in 0..3 {
            second.try_write(b"answer").unwrap();
            world.pass(SECOND);
            assert_eq!(read_all(&first).0, b"answer");
        }
        second.shutdown(Shutdown::Write).unwrap();
        world.settle();
        assert!(read_all(&first).1.unwrap().is_ok());
        drop((first, second));
        world.settle();
        let (ours, theirs) = (world.a.stack.stats(), world.b.stack.stats());
        assert_eq!((ours.connections, theirs.connections), (0, 0));
        assert_eq!(ours.time_wait + theirs.time_wait, 1, "of the side that has ended first");
        world.pass_coarsely(62 * SECOND);
        assert!(world.a.is_empty() && world.b.is_empty());
    }
}

#[test]
fn a_reset_reaches_the_other_side() {
    for client_resets in [true, false] {
        let world = World::new();
        let (client, server) = world.connect();
        let (one, other) = if client_resets { (client, server) } else { (server, client) };
        let told = Told::new();
        other.set_notify(Some(told.clone()));
        assert_eq!(kind(other.try_read(&mut [0; 9])), ErrorKind::WouldBlock);
        let before = told.times();
        one.reset();
        world.settle();
        assert!(told.times() > before);
        assert_eq!(kind(other.try_read(&mut [0; 9])), ErrorKind::ConnectionReset);
        assert!(other.try_write(b"x").is_err());
        drop((one, other));
        world.settle();
        assert!(world.a.is_empty() && world.b.is_empty(), "no TIME-WAIT after a reset");
    }
}

#[test]
fn a_dropped_stream_delivers_what_was_written() {
    let world = World::new();
    let (client, server) = world.connect();
    let data = common::pattern(300_000);
    let mut written = 0;
    let mut received = Vec::new();
    world.until(10 * SECOND, || {
        received.extend(read_all(&server).0);
        written += client.try_write(&data[written..]).unwrap_or(0);
        written == data.len()
    });
    assert!(received.len() < data.len() && client.unacknowledged() > 0);
    drop(client);
    world.until(10 * SECOND, || {
        let (data, end) = read_all(&server);
        received.extend(data);
        end.is_some_and(|end| end.is_ok())
    });
    assert!(received == data);
}

/// What was written and not read is lost in a reset, whether it comes before or after the other side's end.
#[test]
fn a_dropped_stream_can_be_asked_whether_all_was_delivered() {
    let data = vec![1; 1 << 20];
    for (ends_first, loses) in [(false, false), (false, true), (true, false), (true, true)] {
        let world = World::new();
        let (client, server) = world.connect();
        if ends_first {
            server.shutdown(Shutdown::Write).unwrap();
            world.settle();
        }
        while client.try_write(&data).is_ok() {}
        let delivery = client.delivery();
        drop(client);
        world.settle();
        assert!(delivery.outcome().is_none(), "the other side does not read");
        if loses {
            server.reset();
            world.settle();
            assert_eq!(delivery.outcome().unwrap().unwrap_err().kind(), ErrorKind::ConnectionReset);
        } else {
            world.until(10 * SECOND, || read_all(&server).1.is_some());
            world.settle();
            delivery.outcome().unwrap().unwrap();
            server.reset();
            world.settle();
            delivery.outcome().unwrap().unwrap();
        }
    }
    let world = World::with(|a| a.linger = Duration::from_secs(5), |_| {});
    let (client, _server) = world.connect();
    while client.try_write(&data).is_ok() {}
    let delivery = client.delivery();
    drop(client);
    world.pass_coarsely(6 * SECOND);
    assert_eq!(delivery.outcome().unwrap().unwrap_err().kind(), ErrorKind::ConnectionAborted);
}

#[test]
fn a_stream_dropped_with_unread_data_resets() {
    let world = World::new();
    let (client, server) = world.connect();
    client.try_write(b"never read").unwrap();
    world.settle();
    drop(server);
    world.settle();
    assert_eq!(kind(client.try_read(&mut [0; 9])), ErrorKind::ConnectionReset);
    drop(client);
    assert!(world.a.is_empty() && world.b.is_empty());
}

#[test]
fn a_dropped_stream_does_not_linger_for_ever() {
    let world = World::with(|a| a.linger = Duration::from_secs(5), |_| {});
    let (client, server) = world.connect();
    // The other side does not read: the data stay.
    let data = vec![1; 1 << 20];
    while client.try_write(&data).is_ok() {}
    drop(client);
    world.pass_coarsely(4 * SECOND);
    assert_eq!(world.a.stack.stats().connections, 1);
    assert!(world.a.stack.stats().memory > 0, "its buffers count");
    world.pass_coarsely(2 * SECOND);
    assert!(world.a.is_empty());
    let (_, end) = read_all(&server);
    assert_eq!(kind(end.unwrap()), ErrorKind::ConnectionReset);
}

#[test]
fn a_dropped_stream_lingers_as_long_as_the_other_side_takes_data() {
    let options = |a: &mut wg_embed_netstack::Options| {
        (a.linger, a.send_buffer) = (Duration::from_secs(5), 1 << 20);
    };
    let world = World::with(options, |b| b.receive_buffer = 64 << 10);
    let (client, server) = world.connect();
    let (data, mut buffer) = (vec![1; 1 << 20], vec![0; 8 << 10]);
    let (mut written, mut taken, mut times) = (0, 0, 0);
    while let Ok(count) = client.try_write(&data) {
        written += count;
    }
    drop(client);
    while taken < written {
        world.pass_coarsely(4 * SECOND);
        (taken, times) = (taken + server.try_read(&mut buffer).unwrap(), times + 1);
    }
    assert!(times > 4, "{written} bytes took only {times} reads");
    // All has arrived: it waits longer for the other side's end, which sees no reset.
    world.pass_coarsely(30 * SECOND);
    assert_eq!(world.a.stack.stats().connections, 1);
    assert_eq!(server.try_read(&mut buffer).unwrap(), 0);
    world.pass_coarsely(40 * SECOND);
    assert!(world.a.is_empty());
}

#[test]
fn a_stream_that_ends_with_a_reset_does_not_linger_while_it_is_held() {
    let world = World::with(|a| a.linger = Duration::from_secs(5), |_| {});
    let (client, server) = world.connect();
    let data = vec![1; 1 << 20];
    while client.try_write(&data).is_ok() {}
    client.close_with_reset();
    world.pass_coarsely(4 * SECOND);
    assert_eq!(world.a.stack.stats().connections, 1);
    // Dropping it does not begin the time again.
    drop(client);
    world.pass_coarsely(2 * SECOND);
    assert!(world.a.is_empty());
    assert_eq!(kind(read_all(&server).1.unwrap()), ErrorKind::ConnectionReset);
    let (client, _server) = world.connect();
    while client.try_write(&data).is_ok() {}
    client.close_with_reset();
    world.pass_coarsely(6 * SECOND);
    assert_eq!(world.a.stack.stats().connections, 0);
}

#[test]
fn blocking_calls_wait_and_time_out() {
    let world = Arc::new(World::new());
    let (client, server) = world.connect();
    client.set_read_timeout(Some(Duration::from_millis(1)));
    assert_eq!(kind((&client).read(&mut [0; 9])), ErrorKind::TimedOut);
    client.set_read_timeout(None);
    let reader = thread::spawn(move || {
        let mut data = Vec::new();
        (&client).read_to_end(&mut data).map(|_| data)
    });
    (&server).write_all(b"some bytes").unwrap();
    drop(server);
    let mover = world.clone();
    while !reader.is_finished() {
        mover.step();
        thread::yield_now();
    }
    assert_eq!(reader.join().unwrap().unwrap(), b"some bytes");
}

#[test]
fn closing_the_stack_ends_everything_and_wakes_everybody() {
    let world = Arc::new(World::new());
    let (client, server) = world.connect();
    let listener = world.a.stack.listen_tcp("0.0.0.0:0".parse().unwrap(), 8).unwrap();
    let dialled = world.a.stack.start_tcp("10.0.0.9:80".parse().unwrap()).unwrap();
    let told = Told::new();
    client.set_notify(Some(told.clone()));
    let told_before = told.times();
    let stack = world.a.stack.clone();
    let client = Arc::new(client);
    let reader = client.clone();
    thread::scope(|scope| {
        let read = scope.spawn(|| kind((&*reader).read(&mut [0; 9])));
        let accept = scope.spawn(|| kind(listener.accept(None)));
        let establish = scope.spawn(|| kind(dialled.wait_established(None)));
        stack.close();
        let errors = [read.join().unwrap(), accept.join().unwrap(), establish.join().unwrap()];
        assert_eq!(errors, [ErrorKind::ConnectionAborted; 3]);
    });
    assert!(told.times() > told_before);
    for error in [kind(client.try_write(b"x")), kind(client.try_read(&mut [0; 9])), kind(listener.try_accept())] {
        assert_eq!(error, ErrorKind::ConnectionAborted);
    }
    assert!(client.readiness().readable && client.readiness().write_closed);
    assert_eq!(kind(stack.start_tcp("10.0.0.2:80".parse().unwrap())), ErrorKind::NotConnected);
    assert_eq!(kind(stack.listen_tcp("0.0.0.0:0".parse().unwrap(), 1)), ErrorKind::NotConnected);
    // The other side hears of it, then the tunnel's end ends.
    world.settle();
    assert_eq!(kind(server.try_read(&mut [0; 9])), ErrorKind::ConnectionReset);
    let mut arena = wg_embed::tun::PacketArena::new(1 << 17, 64, |len, _| len);
    assert!(world.a.tun.read(&mut arena).is_err());
    drop((client, reader, dialled));
    assert!(world.a.is_empty());
}

#[test]
fn addresses_that_go_take_their_connections_along() {
    let world = World::new();
    let (client, server) = world.connect();
    let (client6, server6) = world.connect_to(B6, 81);
    world.a.stack.set_addresses(vec!["fd00::1".parse().unwrap()]).unwrap();
    world.settle();
    assert!(client.try_read(&mut [0; 9]).is_err());
    assert_eq!(kind(server.try_read(&mut [0; 9])), ErrorKind::ConnectionReset);
    client6.try_write(b"on").unwrap();
    world.settle();
    assert_eq!(read_all(&server6).0, b"on");
    assert_eq!(world.a.stack.options().addresses.len(), 1);
}

#[test]
fn a_new_mtu_limits_new_connections() {
    let world = World::new();
    world.a.stack.set_mtu(1280).unwrap();
    assert_eq!(world.a.tun.mtu(), 1280);
    assert!(world.a.stack.set_mtu(1279).is_err(), "it has an IPv6 address");
    let (client, server) = world.connect();
    server.try_write(&[7; 20_000]).unwrap();
    client.try_write(&[7; 20_000]).unwrap();
    let longest = std::iter::from_fn(|| {
        let packets = [world.a.take(), world.b.take()];
        world.b.give(&packets[0]);
        world.a.give(&packets[1]);
        packets.iter().flatten().map(Vec::len).max()
    });
    assert_eq!(longest.max(), Some(1280));
}

#[test]
fn a_port_is_used_again_after_time_wait_and_before() {
    let world = World::new();
    let listener = world.b.stack.listen_tcp("10.0.0.2:80".parse().unwrap(), 8).unwrap();
    let connect = || {
        let client = world.a.stack.start_tcp("10.0.0.2:80".parse().unwrap()).unwrap();
        world.settle();
        (client.local_addr().port(), client, listener.try_accept().unwrap())
    };
    let mut ports = std::collections::HashSet::new();
    for _ in 0..500 {
        let (port, client, server) = connect();
        drop(client);
        world.settle();
        drop(server);
        world.settle();
        assert!(ports.insert(port), "{port} is in TIME-WAIT");
    }
    assert_eq!(world.a.stack.stats().time_wait, 500);
    assert_eq!(world.a.stack.stats().connections, 0);
    world.pass_coarsely(62 * SECOND);
    assert!(world.a.is_empty() && world.b.is_empty());
}

#[test]
fn listeners_are_told_apart() {
    let world = World::new();
    let stack = &world.b.stack;
    let at = |at: &str| at.parse::<std::net::SocketAddr>().unwrap();
    let all = stack.listen_tcp(at("[::]:80"), 8).unwrap();
    let one = stack.listen_tcp(at("10.0.0.2:80"), 8).unwrap();
    assert_eq!(kind(stack.listen_tcp(at("0.0.0.0:80"), 8)), ErrorKind::AddrInUse);
    assert_eq!(kind(stack.listen_tcp(at("10.0.0.2:80"), 8)), ErrorKind::AddrInUse);
    assert_eq!(kind(stack.listen_tcp(at("10.0.0.3:80"), 8)), ErrorKind::AddrNotAvailable);
    let free = stack.listen_tcp(at("0.0.0.0:0"), 8).unwrap();
    assert!(free.local_addr().port() >= 32_768);
    let told = Told::new();
    one.set_notify(Some(told.clone()));
    let v4 = world.a.stack.start_tcp(at("10.0.0.2:80")).unwrap();
    let v6 = world.a.stack.start_tcp(at("[fd00::2]:80")).unwrap();
    world.settle();
    assert_eq!(told.times(), 1);
    assert_eq!(one.try_accept().unwrap().peer_addr(), v4.local_addr());
    assert_eq!(all.try_accept().unwrap().peer_addr(), v6.local_addr());
    assert_eq!(kind(all.try_accept()), ErrorKind::WouldBlock);
    drop(one);
    let v4 = world.a.stack.start_tcp(at("10.0.0.2:80")).unwrap();
    world.settle();
    assert_eq!(all.try_accept().unwrap().peer_addr(), v4.local_addr());
}

#[test]
fn a_backlog_is_a_limit_and_a_dropped_listener_resets() {
    let world = World::new();
    let listener = world.b.stack.listen_tcp("10.0.0.2:80".parse().unwrap(), 2).unwrap();
    let clients: Vec<_> = (0..4).map(|_| world.a.stack.start_tcp("10.0.0.2:80".parse().unwrap()).unwrap()).collect();
    world.settle();
    assert_eq!(world.b.stack.stats().connections, 2);
    assert!(world.b.drops("tcp_backlog_full") > 0);
    let first = [listener.try_accept().unwrap(), listener.try_accept().unwrap()];
    // Those who were not let in try again.
    world.pass(10 * SECOND);
    let second = listener.try_accept().unwrap();
    assert_eq!(world.b.stack.stats().connections, 4);
    drop(listener);
    world.pass(SECOND);
    let reset = clients
        .iter()
        .filter(|client| client.try_read(&mut [0; 9]).is_err_and(|err| err.kind() == ErrorKind::ConnectionReset));
    assert_eq!(reset.count(), 1, "the one that nobody has accepted");
    drop((first, second, A));
}

#[test]
fn notifications_come_once_after_would_block() {
    let world = World::new();
    let (client, server) = world.connect();
    let told = Told::new();
    server.set_notify(Some(told.clone()));
    let before = told.times();
    for _ in 0..3 {
        client.try_write(b"x").unwrap();
        world.settle();
    }
    assert_eq!(told.times(), before + 1);
    assert_eq!(read_all(&server).0, b"xxx");
    client.try_write(b"x").unwrap();
    world.settle();
    assert_eq!(told.times(), before + 2);
}

#[test]
fn times_of_nothing_and_of_for_ever_are_times() {
    let world = World::new();
    let (client, server) = world.connect();
    for stream in [&client, &server] {
        stream.set_keepalive(Some(Duration::ZERO));
        stream.set_user_timeout(Some(Duration::MAX));
    }
    assert_eq!(client.try_write(b"in flight").unwrap(), 9);
    world.pass(Duration::from_secs(5));
    assert_eq!(read_all(&server).0, b"in flight");
    // Probes that nobody answers.
    world.path.lock().unwrap().loss = 1000;
    world.pass(Duration::from_secs(30));
    assert!(client.is_established() && !client.readiness().read_closed);
}
