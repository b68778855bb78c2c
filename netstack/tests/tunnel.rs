//! Two stacks behind two real tunnels, with their threads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    io::{Read, Write},
    net::Shutdown,
    thread,
    time::Duration,
};

use common::{pattern, tunnels};
use wg_embed::EndReason;

const LIMIT: Option<Duration> = Some(Duration::from_secs(300));

#[test]
fn bytes_go_both_ways_at_once() {
    let (a, b) = tunnels::pair(|_| {});
    for (n, host) in ["10.0.0.2", "[fd00::2]"].into_iter().enumerate() {
        let at = format!("{host}:{}", 80 + n).parse().unwrap();
        let listener = b.stack.listen_tcp(at, 8).unwrap();
        let client = a.stack.start_tcp(at).unwrap();
        client.wait_established(LIMIT).unwrap();
        let server = listener.accept(LIMIT).unwrap();
        let data = pattern(8 << 20);
        thread::scope(|scope| {
            for stream in [&client, &server] {
                let data = &data;
                scope.spawn(move || {
                    let mut stream = stream;
                    stream.write_all(data).unwrap();
                    stream.shutdown(Shutdown::Write).unwrap();
                });
                scope.spawn(move || {
                    let mut received = Vec::new();
                    let mut stream = stream;
                    stream.set_read_timeout(LIMIT);
                    stream.read_to_end(&mut received).unwrap();
                    assert!(received == *data);
                });
            }
        });
    }
}

#[test]
fn a_destination_without_a_peer_fails_at_once() {
    let (a, _b) = tunnels::pair(|_| {});
    let client = a.stack.start_tcp("192.168.77.1:80".parse().unwrap()).unwrap();
    let error = common::kind(client.wait_established(LIMIT));
    assert_eq!(error, std::io::ErrorKind::HostUnreachable);
}

#[test]
fn the_tunnel_ends_with_its_stack() {
    let (a, b) = tunnels::pair(|_| {});
    let listener = b.stack.listen_tcp("10.0.0.2:80".parse().unwrap(), 8).unwrap();
    let client = a.stack.start_tcp("10.0.0.2:80".parse().unwrap()).unwrap();
    client.wait_established(LIMIT).unwrap();
    let server = listener.accept(LIMIT).unwrap();
    a.stack.close();
    // It says so when it has sent its last words.
    assert!(matches!(a.tunnel.wait(), EndReason::Failed { .. }));
    server.set_read_timeout(LIMIT);
    assert_eq!(common::kind((&server).read(&mut [0; 9])), std::io::ErrorKind::ConnectionReset);
}
