//! How connections of descriptors end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    io::{ErrorKind, Read, Write},
    net::Shutdown,
    thread,
    time::Duration,
};

use common::{
    World, kind, pattern,
    pumps::{pumps, read_all, stream, until},
};
use wg_embed_netstack::pump::{self, AsFd, Pump};

#[test]
fn what_was_written_arrives_after_a_close() {
    let pumps = pumps();
    let (mut client, server) = pumps.connect(80);
    let data = pattern(3 << 20);
    let writer = thread::spawn({
        let data = data.clone();
        move || client.write_all(&data).map(|()| drop(client))
    });
    assert!(read_all(&server).unwrap() == data);
    writer.join().unwrap().unwrap();
    // On Windows it may still be read for all that the pump knows.
    if cfg!(windows) {
        server.shutdown(Shutdown::Write).unwrap();
    }
    until("the descriptor is gone", || pumps.pump_a.is_empty());
}

#[cfg(not(target_vendor = "apple"))]
#[test]
fn a_reset_by_the_peer_is_no_end() {
    let pumps = pumps();
    // Before anything was written, after something, and after what the program has not read yet.
    for (n, written) in [&b""[..], b"some"].into_iter().enumerate() {
        for (m, waiting) in [&b""[..], b"data"].into_iter().enumerate() {
            let (mut client, server) = pumps.connect(80 + 2 * n as u16 + m as u16);
            client.write_all(written).unwrap();
            let mut buf = vec![0; written.len()];
            (&server).read_exact(&mut buf).unwrap();
            (&server).write_all(waiting).unwrap();
            until("it has arrived", || server.unacknowledged() == 0);
            let mut got = vec![0; waiting.len()];
            client.read_exact(&mut got).unwrap();
            server.reset();
            check_reset(&client, &format!("{written:?} {waiting:?}"));
        }
    }
    until("all is over", || pumps.pump_a.is_empty());
}

#[cfg(not(target_vendor = "apple"))]
#[test]
fn a_program_that_leaves_data_unread_resets_the_connection() {
    let pumps = pumps();
    let (client, server) = pumps.connect(80);
    (&server).write_all(b"never read").unwrap();
    until("it has arrived", || rustix_readable(&client));
    drop(client);
    assert_eq!(kind(read_all(&server)), ErrorKind::ConnectionReset);
    // And one that is gone when data come.
    let (client, server) = pumps.connect(81);
    drop(client);
    assert_eq!(read_all(&server).unwrap(), b"");
    until("the answer to data is a reset", || (&server).write_all(b"more").is_err());
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[test]
fn what_was_written_arrives_before_the_reset() {
    let pumps = pumps();
    let (mut client, server) = pumps.connect(80);
    (&server).write_all(b"never read").unwrap();
    until("it has arrived", || rustix_readable(&client));
    // More than fits into the buffers between: the rest waits in the descriptor when that is closed.
    client.set_nonblocking(true).unwrap();
    let data = pattern(64 << 20);
    let mut written = 0;
    let mut last = std::time::Instant::now();
    while last.elapsed() < Duration::from_secs(1) {
        match client.write(&data[written..][..64 << 10]) {
            Ok(bytes) => {
                written += bytes;
                last = std::time::Instant::now();
            }
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
    drop(client);
    let mut got = Vec::new();
    assert_eq!(kind((&server).read_to_end(&mut got)), ErrorKind::ConnectionReset);
    assert!(got == data[..written], "{} of {written} bytes", got.len());
    until("the descriptor is gone", || pumps.pump_a.is_empty());
}

/// Writes until the other side takes nothing more, and returns how many bytes it has taken.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn fill(from: &wg_embed_netstack::TcpStream) -> usize {
    let (mut written, mut last) = (0, std::time::Instant::now());
    while last.elapsed() < Duration::from_secs(1) {
        match from.try_write(&[7; 4096]) {
            Ok(bytes) => (written, last) = (written + bytes, std::time::Instant::now()),
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
    written - from.unacknowledged()
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[test]
fn what_arrived_before_a_reset_is_read_whatever_the_program_writes() {
    let pumps = pumps();
    let (client, server) = pumps.connect(80);
    let arrived = fill(&server);
    server.reset();
    // Until the reset has arrived; what is written before is lost.
    until("writing fails", || (&client).write_all(b"x").is_err_and(|err| err.kind() == ErrorKind::BrokenPipe));
    let mut got = Vec::new();
    assert_eq!(kind((&client).read_to_end(&mut got)), ErrorKind::ConnectionReset);
    assert!(got.len() >= arrived, "{} of {arrived} bytes", got.len());
    until("it is over", || pumps.pump_a.is_empty());
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[test]
fn what_was_written_before_a_shutdown_arrives_whatever_is_not_read() {
    let pumps = pumps();
    let (client, server) = pumps.connect(80);
    fill(&server);
    (&client).write_all(b"bye").unwrap();
    client.shutdown(Shutdown::Both).unwrap();
    let mut got = [0; 3];
    (&server).read_exact(&mut got).unwrap();
    assert_eq!(&got, b"bye");
    until("it is reset", || server.try_write(b"more").is_err_and(|err| err.kind() == ErrorKind::ConnectionReset));
    until("it is over", || pumps.pump_a.is_empty());
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[test]
fn a_failure_after_the_end_is_seen_by_poll() {
    let pumps = pumps();
    let (client, server) = pumps.connect(80);
    (&server).write_all(b"all").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&client).unwrap(), b"all");
    server.reset();
    let mut waiting = [rustix::event::PollFd::new(&client, rustix::event::PollFlags::empty())];
    let limit = rustix::event::Timespec { tv_sec: 300, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut waiting, Some(&limit)).unwrap(), 1);
    assert!(waiting[0].revents().contains(rustix::event::PollFlags::HUP));
    // As for the kernel's sockets.
    assert_eq!(read_all(&client).unwrap(), b"");
    assert_eq!(kind((&client).write(b"x")), ErrorKind::BrokenPipe);
    until("it is over", || pumps.pump_a.is_empty());
}

#[test]
fn a_peer_that_is_gone_ends_an_idle_connection() {
    let second = Duration::from_secs(1);
    for (own, idle, probes) in [(None, 300 * second, 9 * 30 * second), (Some(10 * second), 10 * second, 9 * second)] {
        let world = World::new();
        let (client, _server) = world.connect();
        client.set_keepalive(own);
        let pump = Pump::new().unwrap();
        let client = stream(pump.tcp_descriptor(client).unwrap());
        // It answers.
        world.pass_coarsely(2 * (idle + probes));
        world.path.lock().unwrap().loss = 1000;
        // The last probe may have been answered so long ago.
        world.pass_coarsely(probes - second);
        assert_eq!(world.a.stack.stats().connections, 1);
        world.pass_coarsely(idle + 2 * second);
        until("it is over", || pump.is_empty());
        assert!(!read_all(&client).is_ok_and(|bytes| !bytes.is_empty()));
    }
}

#[cfg(not(target_vendor = "apple"))]
#[test]
fn a_listener_that_is_closed_resets_what_waits() {
    let pumps = pumps();
    let at = "10.0.0.2:80".parse().unwrap();
    let listener = pumps.b.stack.listen_tcp(at, 256).unwrap();
    let listener = pumps.pump_b.listener_descriptor(listener).unwrap();
    // More than are accepted in advance.
    let clients: Vec<_> =
        (0..50).map(|_| pumps.a.stack.dial_tcp("10.0.0.2:80", common::pumps::LIMIT).unwrap()).collect();
    drop(common::pumps::accept_one(&listener));
    drop(listener);
    let resets = clients.iter().filter(|client| {
        client.set_read_timeout(Some(common::pumps::LIMIT));
        read_all(*client).is_err_and(|err| err.kind() == ErrorKind::ConnectionReset)
    });
    // The one that was accepted was closed.
    assert_eq!(resets.count(), 49);
}

#[cfg(not(target_vendor = "apple"))]
fn rustix_readable(stream: &common::pumps::Stream) -> bool {
    rustix::io::ioctl_fionread(stream).unwrap() > 0
}

/// Checks that a connection was reset, and has not ended. Wine takes the error away from a reader that waits for it.
fn check_reset(mut client: &common::pumps::Stream, context: &str) {
    match read_all(client) {
        Ok(bytes) => assert!(cfg!(windows) && bytes.is_empty(), "{context}"),
        Err(err) => assert_eq!(err.kind(), ErrorKind::ConnectionReset, "{context}"),
    }
    assert!(client.write_all(b"more").is_err(), "{context}");
}

#[test]
fn a_program_resets_a_connection() {
    let pumps = pumps();
    let (mut client, server) = pumps.connect(80);
    client.write_all(b"before").unwrap();
    let mut read = [0; 6];
    (&server).read_exact(&mut read).unwrap();
    pumps.pump_a.reset(client.as_fd()).unwrap();
    assert_eq!(kind(read_all(&server)), ErrorKind::ConnectionReset);
    if cfg!(not(target_vendor = "apple")) {
        check_reset(&client, "by the program");
    }
    until("it is over", || pumps.pump_a.is_empty());
    assert_eq!(kind(pumps.pump_a.reset(client.as_fd())), ErrorKind::NotFound);
    assert_eq!(kind(pumps.pump_a.reset(pump::pair().unwrap().0.as_fd())), ErrorKind::NotFound);
}
