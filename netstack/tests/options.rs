//! A stack with options at the ends of their ranges.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Shutdown},
    thread,
    time::Duration,
};

use common::{kind, pattern, tunnels};
use wg_embed_netstack::{Netstack, Options};

const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn any_size_of_buffers_carries_data() {
    for (receive_buffer, send_buffer) in [(0, 0), (1, 1), (100, 1 << 20), (1 << 20, 100), (usize::MAX, usize::MAX)] {
        let (a, b) = tunnels::pair(|options| {
            (options.receive_buffer, options.send_buffer) = (receive_buffer, send_buffer);
            options.linger = Duration::MAX;
        });
        let listener = b.stack.listen_tcp("10.0.0.2:80".parse().unwrap(), 4).unwrap();
        let client = a.stack.dial_tcp("10.0.0.2:80", LIMIT).unwrap();
        let server = listener.accept(Some(LIMIT)).unwrap();
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(LIMIT));
            stream.set_write_timeout(Some(LIMIT));
        }
        let data = pattern(20_000);
        thread::scope(|scope| {
            scope.spawn(|| {
                (&client).write_all(&data).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
            });
            let mut got = Vec::new();
            (&server).read_to_end(&mut got).unwrap();
            assert!(got == data, "{receive_buffer} and {send_buffer} bytes");
        });
    }
}

#[test]
fn without_memory_or_connections_there_is_an_error() {
    for (memory, max_connections) in [(0, 10), (256 << 20, 0)] {
        let (a, b) = tunnels::pair(|options| (options.memory, options.max_connections) = (memory, max_connections));
        let _listener = b.stack.listen_tcp("10.0.0.2:80".parse().unwrap(), 4).unwrap();
        let err = kind(a.stack.dial_tcp("10.0.0.2:80", LIMIT));
        assert_eq!(err, ErrorKind::OutOfMemory, "{memory} {max_connections}");
        assert!(a.stack.ping("10.0.0.2".parse().unwrap(), 8, LIMIT).is_ok(), "what needs no memory works");
    }
}

#[test]
fn addresses_are_those_of_hosts() {
    let stack = |address: &str, mtu| {
        let addresses: Vec<IpAddr> = vec![address.parse().unwrap(); 2];
        Netstack::new(Options { addresses, mtu, ..Options::default() })
    };
    for address in ["224.0.0.1", "ff02::1", "0.0.0.0", "::", "127.0.0.1", "::1", "255.255.255.255", "::ffff:224.0.0.1"]
    {
        assert_eq!(kind(stack(address, 1420)), ErrorKind::InvalidInput, "{address}");
    }
    for (address, mtu) in [("10.0.0.1", 575), ("fd00::1", 1279), ("10.0.0.1", 0)] {
        assert_eq!(kind(stack(address, mtu)), ErrorKind::InvalidInput, "{address} {mtu}");
    }
    // One twice is one.
    for (address, mtu) in [("10.0.0.1", 576), ("fd00::1", 1280), ("10.0.0.1", 65_535)] {
        assert!(stack(address, mtu).is_ok(), "{address} {mtu}");
    }
}

#[test]
fn the_memory_can_be_replaced() {
    let stack = Netstack::new(Options { addresses: vec!["10.0.0.1".parse().unwrap()], ..Options::default() }).unwrap();
    let to = "10.0.0.2:80".parse().unwrap();
    let first = stack.start_tcp(to).unwrap();
    stack.set_memory(0);
    assert_eq!(stack.options().memory, 0);
    assert_eq!(stack.start_tcp(to).unwrap_err().kind(), ErrorKind::OutOfMemory);
    stack.set_memory(1 << 20);
    assert!(stack.start_tcp(to).is_ok());
    drop(first);
}
