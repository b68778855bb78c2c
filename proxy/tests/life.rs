//! How a proxy begins and ends.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

use std::{
    fs,
    io::{ErrorKind, Read},
    net::{TcpListener, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::mpsc,
    time::Duration,
};

use wg_embed_netstack::{Netstack, Options as StackOptions};
use wg_embed_proxy::{Address, Connections, Kind, Options, Proxy, Service};

const PATIENCE: Duration = Duration::from_secs(300);

fn stack() -> Netstack {
    Netstack::new(StackOptions { addresses: vec!["10.0.0.1".parse().unwrap()], ..StackOptions::default() }).unwrap()
}

fn socks5(at: Address) -> Service {
    Service::new(Kind::Socks5 { at, login: None, bind: true })
}

fn loopback() -> Address {
    Address::Tcp(([127, 0, 0, 1], 0).into())
}

fn port(address: Option<Address>) -> u16 {
    match address {
        Some(Address::Tcp(at)) => at.port(),
        other => panic!("{other:?}"),
    }
}

/// A client, and its connection is served.
fn client(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    std::io::Write::write_all(&mut stream, &[5, 1, 0]).unwrap();
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [5, 0]);
    stream
}

fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// A new directory for sockets, which is removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("wg-embed-proxy-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_file_that_is_no_socket_stays() {
    let directory = Directory::new("precious");
    let [file, link] = ["notes", "link"].map(|name| directory.0.join(name));
    fs::write(&file, "precious").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let stack = stack();
    let proxy = Proxy::start(&stack, Options::default()).unwrap();
    for path in [&file, &link] {
        let error = proxy.add(socks5(Address::Unix(path.clone()))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert_eq!(fs::read_to_string(path).unwrap(), "precious");
    }
}

#[test]
fn sockets_of_others_stay() {
    let directory = Directory::new("sockets");
    let [live, stale] = ["live", "stale"].map(|name| directory.0.join(name));
    let _listener = UnixListener::bind(&live).unwrap();
    drop(UnixListener::bind(&stale).unwrap());
    let stack = stack();
    let proxy = Proxy::start(&stack, Options::default()).unwrap();
    let error = proxy.add(socks5(Address::Unix(live.clone()))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    let id = proxy.add(socks5(Address::Unix(stale.clone()))).unwrap();
    // Another process's socket takes the name: it is not ours to remove.
    fs::remove_file(&stale).unwrap();
    let _other = UnixListener::bind(&stale).unwrap();
    proxy.remove(id, Connections::End).unwrap();
    assert!(UnixStream::connect(&stale).is_ok() && UnixStream::connect(&live).is_ok());
}

#[test]
fn a_port_is_known_and_free_again() {
    let stack = stack();
    let proxy = Proxy::start(&stack, Options::default()).unwrap();
    let id = proxy.add(socks5(loopback())).unwrap();
    let port = port(proxy.address(id));
    let mut one = client(port);
    assert_eq!((proxy.stats().open, proxy.service_stats(id).unwrap().accepted), (1, 1));
    proxy.remove(id, Connections::End).unwrap();
    assert!(is_closed(&mut one));
    assert!(TcpListener::bind(("127.0.0.1", port)).is_ok());
    assert_eq!(proxy.stats().open, 0);
    assert!(proxy.remove(id, Connections::End).is_err());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = proxy.add(socks5(Address::Tcp(taken.local_addr().unwrap()))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
}

#[test]
fn services_are_replaced_and_connections_go_on() {
    let stack = stack();
    let proxy = Proxy::start(&stack, Options::default()).unwrap();
    let id = proxy.add(socks5(loopback())).unwrap();
    let at_before = proxy.address(id);
    let mut one = client(port(at_before.clone()));
    let http = Service::new(Kind::Http { at: loopback(), login: None });
    assert!(proxy.replace(vec![http.clone()]).unwrap().is_empty());
    assert_eq!(proxy.services(), [(id, http.clone())]);
    assert_eq!((proxy.address(id), proxy.service_stats(id).unwrap().open), (at_before, 1));
    let kept = proxy.services()[0].0;
    assert!(proxy.replace(vec![http, socks5(loopback())]).unwrap().is_empty());
    assert_eq!(proxy.services()[0].0, kept);
    // It still speaks: an unknown command is answered.
    std::io::Write::write_all(&mut one, b"\x05\x09\0\x01\x01\x01\x01\x01\0\x01").unwrap();
    let mut answer = [0; 10];
    one.read_exact(&mut answer).unwrap();
    assert_eq!(answer[1], 7);
}

/// A service that cannot take the place of another one leaves it as it is.
#[test]
#[cfg(feature = "tls")]
fn what_cannot_be_changed_goes_on() {
    let stack = stack();
    let proxy = Proxy::start(&stack, Options::default()).unwrap();
    let before = socks5(loopback());
    let id = proxy.add(before.clone()).unwrap();
    let bad = Service::new(Kind::Https { at: loopback(), login: None, tls: wg_embed_proxy::Tls::new(b"", b"") });
    let failed = proxy.replace(vec![bad.clone()]).unwrap();
    assert!(matches!(&failed[..], [(service, error)] if *service == bad && error.kind() == ErrorKind::InvalidInput));
    assert_eq!(proxy.services(), [(id, before)]);
    client(port(proxy.address(id)));
}

#[test]
fn closing_it_resets_no_connection() {
    let stack = stack();
    let proxy = Proxy::start(&stack, Options::default()).unwrap();
    let id = proxy.add(socks5(loopback())).unwrap();
    let port = port(proxy.address(id));
    let mut one = client(port);
    proxy.close();
    assert_eq!(one.read(&mut [0]).unwrap(), 0);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn a_connected_socket_ends_with_a_reason() {
    let stack = stack();
    let proxy = Proxy::start(&stack, Options::default()).unwrap();
    let (tell, told) = mpsc::channel();
    let connect = |target: &str| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let tell = tell.clone();
        proxy.connect(theirs, target, move |outcome| tell.send(outcome).unwrap()).unwrap();
        ours
    };
    let mut bad = connect("nowhere");
    assert_eq!(bad.read(&mut [0]).unwrap(), 0);
    assert_eq!(told.recv().unwrap().unwrap_err().kind(), ErrorKind::InvalidInput);
    // No peer answers: it ends with the proxy.
    let _waiting = connect("10.0.0.2:1");
    drop(proxy);
    assert_eq!(told.recv().unwrap().unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn dropping_it_leaves_nothing() {
    let path = std::env::temp_dir().join(format!("wg-embed-proxy-life-{}", std::process::id()));
    let stack = stack();
    let (tell, told) = mpsc::channel();
    let proxy = Proxy::start_with(&stack, Options::default(), move || tell.send(()).unwrap()).unwrap();
    let id = proxy.add(socks5(loopback())).unwrap();
    proxy.add(socks5(Address::Unix(path.clone()))).unwrap();
    let mut one = client(port(proxy.address(id)));
    assert!(path.exists());
    drop(proxy);
    told.try_recv().unwrap();
    assert!(is_closed(&mut one) && !path.exists());
}

#[test]
fn it_ends_with_its_stack() {
    let stack = stack();
    let (tell, told) = mpsc::channel();
    let proxy = Proxy::start_with(&stack, Options::default(), move || tell.send(()).unwrap()).unwrap();
    let id = proxy.add(socks5(loopback())).unwrap();
    let mut one = client(port(proxy.address(id)));
    stack.close();
    told.recv_timeout(PATIENCE).unwrap();
    assert!(is_closed(&mut one) && proxy.has_ended());
    let error = proxy.add(socks5(loopback())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    // A stack that is closed already is no different.
    let (tell, told) = mpsc::channel();
    let _late = Proxy::start_with(&stack, Options::default(), move || tell.send(()).unwrap()).unwrap();
    told.recv_timeout(PATIENCE).unwrap();
}
