//! The HTTP proxy between a client and a target: who gets which headers.

use std::io::{Read, Write};

use wg_embed_netstack::{TcpListener, TcpStream};

use crate::harness::{PATIENCE, Proxy, World, connect, exchange};

const HTTP: &str = "[http]\nBindAddress = 127.0.0.1:0\n";

fn start() -> (World, Proxy, TcpListener) {
    let world = World::new();
    let proxy = world.proxy(HTTP);
    let listener = world.stack.listen_tcp("10.9.0.1:81".parse().unwrap(), 4).unwrap();
    (world, proxy, listener)
}

/// Accepts a connection, and reads a request.
fn request(listener: &TcpListener) -> (TcpStream, String) {
    let target = listener.accept(Some(PATIENCE)).unwrap();
    target.set_read_timeout(Some(PATIENCE));
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        (&target).read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    (target, String::from_utf8(head).unwrap())
}

#[test]
fn headers_of_one_hop_go_no_further() {
    let (_world, proxy, listener) = start();
    let mut client = connect(proxy.port(0));
    client
        .write_all(b"GET http://10.9.0.1:81/path HTTP/1.1\r\nHost: x\r\nConnection: X-A\r\nX-A: 1\r\nB: 2\r\n\r\n")
        .unwrap();
    let (target, head) = request(&listener);
    assert_eq!(head, "GET /path HTTP/1.1\r\nHost: 10.9.0.1:81\r\nB: 2\r\nConnection: close\r\n\r\n");
    let answer = [
        "HTTP/1.1 103 Early Hints\r\nLink: y\r\n\r\nHTTP/1.1 200 OK\r\nConnection: keep-alive, X-C\r\n",
        "X-C: 3\r\nKeep-Alive: timeout=5\r\nContent-Length: 9\r\n\r\nthe ",
    ];
    for part in answer {
        (&target).write_all(part.as_bytes()).unwrap();
    }
    let mut expected = String::from("HTTP/1.1 103 Early Hints\r\nLink: y\r\n\r\nHTTP/1.1 200 OK\r\n");
    expected.push_str("Content-Length: 9\r\nConnection: close\r\n\r\nthe ");
    let mut got = vec![0; expected.len()];
    client.read_exact(&mut got).unwrap();
    assert_eq!(String::from_utf8(got).unwrap(), expected);
    (&target).write_all(b"body!").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    // The target keeps the connection: a request for another one ends it, and does not reach this one.
    client.write_all(b"GET http://10.9.0.1:80/ HTTP/1.1\r\nProxy-Authorization: secret\r\n\r\n").unwrap();
    let mut rest = Vec::new();
    let _ = client.read_to_end(&mut rest); // a reset, perhaps
    let _ = (&target).read_to_end(&mut rest);
    assert_eq!(rest, b"");
}

#[test]
fn a_client_may_end_its_side_and_wait() {
    let (_world, proxy, listener) = start();
    let port = proxy.port(0);
    let client = std::thread::spawn(move || exchange(connect(port), b"GET http://10.9.0.1:81/ HTTP/1.0\r\n\r\n"));
    let (target, _) = request(&listener);
    (&target).write_all(b"HTTP/1.0 200 OK\r\n\r\nbody").unwrap();
    drop(target);
    assert_eq!(client.join().unwrap(), b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nbody");
}

#[test]
fn another_request_before_the_answer_ends_it() {
    let (_world, proxy, listener) = start();
    let mut client = connect(proxy.port(0));
    client.write_all(b"GET http://10.9.0.1:81/ HTTP/1.1\r\n\r\n").unwrap();
    let (target, _) = request(&listener);
    client.write_all(b"GET http://10.9.0.1:80/ HTTP/1.1\r\n\r\n").unwrap();
    let mut rest = Vec::new();
    let _ = client.read_to_end(&mut rest); // a reset, perhaps
    let _ = (&target).read_to_end(&mut rest);
    assert_eq!(rest, b"");
}

#[test]
fn what_is_no_answer_is_a_bad_gateway() {
    let (_world, proxy, listener) = start();
    let long = format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(20_000));
    for answer in ["", "HTTP/1.1 200 OK\r\nA: b\r\n", "nonsense\r\n\r\n", &long] {
        let mut client = connect(proxy.port(0));
        client.write_all(b"GET http://10.9.0.1:81/ HTTP/1.1\r\n\r\n").unwrap();
        let (target, _) = request(&listener);
        (&target).write_all(answer.as_bytes()).unwrap();
        drop(target);
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 502 "), "{answer}: {text}");
    }
}
