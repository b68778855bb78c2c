//! Clients that do not ask for anything, and those that are too many.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use wg_embed_netstack::{Netstack, Options as StackOptions};
use wg_embed_proxy::{Address, Kind, Limits, Options, Proxy, Service, Stats};

const PATIENCE: Duration = Duration::from_secs(300);

fn proxy() -> Proxy {
    let addresses = vec!["10.0.0.1".parse().unwrap()];
    let stack = Netstack::new(StackOptions { addresses, ..StackOptions::default() }).unwrap();
    Proxy::start(&stack, Options::default()).unwrap()
}

fn at() -> Address {
    Address::Tcp(([127, 0, 0, 1], 0).into())
}

/// Serves `kind`, and returns a function that connects.
fn serve(proxy: &Proxy, kind: Kind, limits: Limits) -> impl Fn() -> TcpStream {
    let id = proxy.add(Service { limits, ..Service::new(kind) }).unwrap();
    let Some(Address::Tcp(address)) = proxy.address(id) else { panic!("it has a port") };
    move || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }
}

fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Sends for as long as the other side takes it, and returns the answer.
fn flood(mut stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    let mut writer = stream.try_clone().unwrap();
    let bytes = bytes.to_vec();
    let thread = std::thread::spawn(move || {
        for _ in 0..100 {
            if writer.write_all(&bytes).is_err() {
                return;
            }
        }
    });
    let mut answer = vec![0; 500];
    let length = stream.read(&mut answer).unwrap_or(0);
    drop(stream);
    thread.join().unwrap();
    answer.truncate(length);
    answer
}

#[test]
fn heads_that_are_too_long() {
    let proxy = proxy();
    let http = serve(&proxy, Kind::Http { at: at(), login: None }, Limits::default());
    let mut one = http();
    one.write_all(b"GET http://a/ HTTP/1.1\r\n").unwrap();
    assert!(flood(one, &[b'x'; 1000]).starts_with(b"HTTP/1.1 431 "));
    let mut many = http();
    many.write_all(b"GET http://a/ HTTP/1.1\r\n").unwrap();
    many.write_all("A: b\r\n".repeat(200).as_bytes()).unwrap();
    many.write_all(b"\r\n").unwrap();
    assert!(rest(many).starts_with(b"HTTP/1.1 431 "));
    let sni = serve(&proxy, Kind::Sni { at: at() }, Limits::default());
    let mut one = sni();
    one.write_all(b"\x16\x03\x01\x40\x00\x01\xff\xff\xff").unwrap();
    assert_eq!(flood(one, &[0; 1000]), [21, 3, 3, 0, 2, 2, 50]);
}

#[test]
fn garbage_ends() {
    let proxy = proxy();
    let socks5 = serve(&proxy, Kind::Socks5 { at: at(), login: None, bind: true }, Limits::default());
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x04\x01\0\x50\x01\x01\x01\x01\0", b"\x05\x01\0\x04"] {
        let mut one = socks5();
        one.write_all(garbage).unwrap();
        let answer = rest(one);
        assert!(answer.is_empty() || answer == [5, 0], "{answer:?}");
    }
    let http = serve(&proxy, Kind::Http { at: at(), login: None }, Limits::default());
    let mut one = http();
    one.write_all(&[0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3]).unwrap();
    assert!(rest(one).starts_with(b"HTTP/1.1 400 "));
    let sni = serve(&proxy, Kind::Sni { at: at() }, Limits::default());
    let mut one = sni();
    one.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(rest(one), b"");
}

#[test]
fn slow_heads() {
    let proxy = proxy();
    let limits = Limits { head: Duration::from_secs(1), ..Limits::default() };
    let http = serve(&proxy, Kind::Http { at: at(), login: None }, limits);
    let mut slow = http();
    slow.write_all(b"GET http://a/ HTTP/1.1\r\n").unwrap();
    assert!(rest(slow).starts_with(b"HTTP/1.1 408 "));
    let socks5 = serve(&proxy, Kind::Socks5 { at: at(), login: None, bind: true }, limits);
    let mut slow = socks5();
    slow.write_all(b"\x05\x01\0\x05").unwrap();
    assert_eq!(rest(slow), [5, 0]);
    let silent = socks5();
    assert_eq!(rest(silent), b"");
}

#[test]
fn a_client_that_ends_during_the_dial_is_noticed() {
    const REQUEST: [u8; 10] = [5, 1, 0, 1, 10, 0, 0, 2, 0, 80];
    let proxy = proxy();
    let limits = Limits { dial: PATIENCE, ..Limits::default() };
    let socks5 = serve(&proxy, Kind::Socks5 { at: at(), login: None, bind: true }, limits);
    // Its bytes and its end at once.
    let mut one = socks5();
    one.write_all(&[&[5, 1, 0], &REQUEST[..]].concat()).unwrap();
    one.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(one), [5, 0]);
    // Each by itself.
    let mut one = socks5();
    let mut answer = [0; 2];
    one.write_all(&[5, 1, 0]).unwrap();
    one.read_exact(&mut answer).unwrap();
    for byte in REQUEST {
        one.write_all(&[byte]).unwrap();
    }
    one.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(one), b"");
}

#[test]
fn each_service_has_its_limit() {
    let proxy = proxy();
    let one = Limits { connections: 1, ..Limits::default() };
    let limited = serve(&proxy, Kind::Socks5 { at: at(), login: None, bind: true }, one);
    let other = serve(&proxy, Kind::Socks5 { at: at(), login: None, bind: true }, Limits::default());
    let served = |stream: &mut TcpStream| {
        let mut answer = [0; 2];
        stream.write_all(&[5, 1, 0]).is_ok() && stream.read_exact(&mut answer).is_ok()
    };
    let mut first = limited();
    assert!(served(&mut first));
    assert!(!served(&mut limited()), "one is the limit");
    assert!(served(&mut other()));
    let Stats { refused, .. } = proxy.stats();
    assert_eq!(refused, 1);
    // And all have one together.
    let mut second = other();
    assert!(served(&mut second));
    proxy.set_options(Options { connections: 1, ..Options::default() }).unwrap();
    let end = Instant::now() + PATIENCE;
    while served(&mut other()) {
        assert!(Instant::now() < end, "the limit did not come");
    }
}

#[test]
fn datagrams_make_room_for_connections() {
    let proxy = proxy();
    proxy.set_options(Options { connections: 2, ..Options::default() }).unwrap();
    let kind = Kind::UdpClient { at: ([127, 0, 0, 1], 0).into(), target: "10.0.0.2:9".into(), idle: None };
    let id = proxy.add(Service::new(kind)).unwrap();
    let Some(Address::Tcp(to)) = proxy.address(id) else { panic!("it has a port") };
    for n in 1..=5 {
        let source = UdpSocket::bind("127.0.0.1:0").unwrap();
        let end = Instant::now() + PATIENCE;
        while proxy.stats().accepted < n {
            assert!(Instant::now() < end, "session {n} did not come");
            source.send_to(b"x", to).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    assert!(proxy.stats().open <= 2, "{:?}", proxy.stats());
    let socks5 = serve(&proxy, Kind::Socks5 { at: at(), login: None, bind: true }, Limits::default());
    let served = |stream: &mut TcpStream| {
        let mut answer = [0; 2];
        stream.write_all(&[5, 1, 0]).is_ok() && stream.read_exact(&mut answer).is_ok()
    };
    let [mut first, mut second] = [socks5(), socks5()];
    assert!(served(&mut first) && served(&mut second));
    assert!(!served(&mut socks5()), "connections make no room");
    assert_eq!(proxy.service_stats(id).unwrap().open, 0);
}
