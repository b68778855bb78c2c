//! What a pump does without descriptors, and in a child of `fork()`. Alone in its process: its limits are changed.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unsafe_code)]

mod common;

use std::{
    io::{Read, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream,
    },
    thread,
    time::{Duration, Instant},
};

use common::{kind, tunnels};
use wg_embed_netstack::pump::{Pump, accept};

const LIMIT: Duration = Duration::from_secs(300);

/// Replaces how many descriptors the process may have, and returns how many it might have before.
fn limit_descriptors(most: libc::rlim_t) -> libc::rlim_t {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is live.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
    let before = std::mem::replace(&mut limit.rlim_cur, most);
    // SAFETY: as above.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    before
}

#[test]
fn connections_wait_for_descriptors() {
    const CLIENTS: usize = 5;
    let (a, b) = tunnels::pair(|_| {});
    let pump = Pump::new().unwrap();
    let at = "10.0.0.2:80".parse().unwrap();
    let listener = pump.listener_descriptor(b.stack.listen_tcp(at, 16).unwrap()).unwrap();
    // The lowest number that is free is the first that is too high.
    let free = listener.try_clone().unwrap().as_raw_fd();
    let before = limit_descriptors(free as libc::rlim_t);
    let clients: Vec<_> = (0..CLIENTS).map(|_| a.stack.dial_tcp("10.0.0.2:80", LIMIT).unwrap()).collect();
    for client in &clients {
        client.set_read_timeout(Some(LIMIT));
        (&*client).write_all(b"x").unwrap();
    }
    let end = Instant::now() + LIMIT;
    while clients.iter().any(|client| client.unacknowledged() > 0) {
        assert!(Instant::now() < end, "what was written has not arrived");
        thread::sleep(Duration::from_millis(5));
    }
    // A few tries of the pump.
    thread::sleep(Duration::from_millis(300));
    limit_descriptors(before);
    for _ in &clients {
        let mut stream = UnixStream::from(accept(listener.as_fd()).unwrap().descriptor);
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        stream.write_all(&byte).unwrap();
    }
    for mut client in &clients {
        client.read_exact(&mut [0]).unwrap();
    }

    // One that the program has no descriptor for is reset.
    let mut client = a.stack.dial_tcp("10.0.0.2:80", LIMIT).unwrap();
    client.set_read_timeout(Some(LIMIT));
    let mut waiting = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: `waiting` is live, and one.
    assert_eq!(unsafe { libc::poll(&raw mut waiting, 1, 60_000) }, 1);
    limit_descriptors(free as libc::rlim_t);
    let err = accept(listener.as_fd()).unwrap_err();
    limit_descriptors(before);
    assert_eq!(err.raw_os_error(), Some(libc::EMFILE));
    assert_eq!(kind(client.read(&mut [0])), std::io::ErrorKind::ConnectionReset);
    // And so is one that the pump has none for.
    let direct = b.stack.listen_tcp("10.0.0.2:81".parse().unwrap(), 16).unwrap();
    let mut client = a.stack.dial_tcp("10.0.0.2:81", LIMIT).unwrap();
    client.set_read_timeout(Some(LIMIT));
    let server = direct.accept(Some(LIMIT)).unwrap();
    limit_descriptors(free as libc::rlim_t);
    let err = pump.tcp_descriptor(server).unwrap_err();
    limit_descriptors(before);
    assert_eq!(err.raw_os_error(), Some(libc::EMFILE));
    assert_eq!(kind(client.read(&mut [0])), std::io::ErrorKind::ConnectionReset);

    // In a child of `fork()` the pump has no thread: it takes nothing, and dropping it does not wait.
    let socket = a.stack.bind_udp("0.0.0.0:0".parse().unwrap(), Some("10.0.0.2:9".parse().unwrap())).unwrap();
    // SAFETY: the child uses nothing that another thread of this process had locked, for they wait, and ends.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let refused = pump.udp_descriptor(socket).is_err_and(|err| err.kind() == std::io::ErrorKind::Unsupported);
        drop(pump);
        // SAFETY: takes no pointers.
        unsafe { libc::_exit(if refused { 0 } else { 1 }) };
    }
    let (mut status, end) = (0, Instant::now() + LIMIT);
    // SAFETY: `status` is live.
    while unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } == 0 {
        if Instant::now() >= end {
            // SAFETY: the child was not waited for yet, so its number is its own.
            unsafe { libc::kill(child, libc::SIGKILL) };
            panic!("the child hangs");
        }
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(status, 0);
    let descriptor = pump.udp_descriptor(socket).unwrap();
    assert_eq!(kind(pump.addresses(listener.as_fd())), std::io::ErrorKind::NotFound);
    assert!(pump.addresses(descriptor.as_fd()).is_ok());
}
