//! SOCKS5 beside CONNECT: datagrams, and connections from the tunnel.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use crate::harness::{self, PATIENCE, World, connect};

/// Asks for `command` and `target`; returns the code and the address of the reply, which is IPv4.
fn ask(port: u16, command: u8, target: &[u8]) -> (u8, SocketAddr, TcpStream) {
    let mut stream = connect(port);
    stream.write_all(&[&[5, 1, 0, 5, command, 0], target].concat()).unwrap();
    let mut methods = [0; 2];
    stream.read_exact(&mut methods).unwrap();
    assert_eq!(methods, [5, 0]);
    let (code, at) = reply(&mut stream);
    (code, at, stream)
}

fn reply(stream: &mut TcpStream) -> (u8, SocketAddr) {
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!((reply[0], reply[2], reply[3]), (5, 0, 1));
    let address = <[u8; 4]>::try_from(&reply[4..8]).unwrap();
    (reply[1], (address, u16::from_be_bytes([reply[8], reply[9]])).into())
}

const ANY: &[u8] = b"\x01\0\0\0\0\0\0";

fn udp(timeout: Duration) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(timeout)).unwrap();
    socket
}

/// Sends a datagram until there is an answer, and returns it.
fn echo(client: &UdpSocket, to: SocketAddr, datagram: &[u8]) -> Vec<u8> {
    let mut answer = [0; 2048];
    let mut length = None;
    harness::wait("an answer", || {
        client.send_to(datagram, to).unwrap();
        length = client.recv(&mut answer).ok();
        length.is_some()
    });
    answer[..length.unwrap()].to_vec()
}

#[test]
fn datagrams_by_address_and_by_name() {
    let world = World::new();
    world.write("[Socks5]\nBindAddress = 127.0.0.1:0\n", "DNS = 10.9.0.1\n");
    let proxy = world.proxy_as_written();
    let port = proxy.port(0);
    let (code, at, control) = ask(port, 3, ANY);
    assert_eq!((code, at.ip()), (0, [127, 0, 0, 1].into()));
    assert_ne!(at.port(), port);
    let client = udp(Duration::from_secs(1));
    let v4 = b"\0\0\0\x01\x0a\x09\0\x01\0\x07hello";
    assert_eq!(echo(&client, at, v4), v4);
    let v6 = [&[0, 0, 0, 4, 0xfd][..], &[0; 14], &[1, 0, 7], b"over six"].concat();
    assert_eq!(echo(&client, at, &v6), v6);
    // The answer is from an address.
    assert_eq!(echo(&client, at, b"\0\0\0\x03\x09name.test\0\x07named"), b"\0\0\0\x01\x0a\x09\0\x01\0\x07named");
    let large = [&v4[..], &[b'x'; 1400]].concat();
    assert_eq!(echo(&client, at, &large), large);
    // Neither fragments, nor another port of the client's address, have answers: that of the last one comes next.
    client.send_to(b"\0\0\x01\x01\x0a\x09\0\x01\0\x07fragment", at).unwrap();
    udp(PATIENCE).send_to(b"\0\0\0\x01\x0a\x09\0\x01\0\x07stranger", at).unwrap();
    let last = b"\0\0\0\x01\x0a\x09\0\x01\0\x07last";
    client.send_to(last, at).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = [0; 100];
    loop {
        let length = client.recv(&mut answer).unwrap();
        if &answer[..length] == last {
            break;
        }
        // Echoes that were asked for again.
        let text = &answer[..length];
        assert!(!text.ends_with(b"fragment") && !text.ends_with(b"stranger"), "{text:?}");
    }
    // With the connection the port goes.
    drop(control);
    let late = udp(Duration::from_millis(50));
    late.connect(at).unwrap();
    harness::wait("the end of the port", || {
        let _ = late.send(v4);
        late.recv(&mut answer).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
    });
}

#[test]
fn the_port_that_a_client_names_is_the_only_one() {
    let world = World::new();
    let proxy = world.proxy("[Socks5]\nBindAddress = 127.0.0.1:0\n");
    let port = proxy.port(0);
    let client = udp(Duration::from_secs(1));
    let own = client.local_addr().unwrap().port().to_be_bytes();
    let (code, at, _control) = ask(port, 3, &[&[1, 127, 0, 0, 1][..], &own].concat());
    assert_eq!(code, 0);
    let stranger = udp(Duration::from_millis(200));
    let datagram = b"\0\0\0\x01\x0a\x09\0\x01\0\x07hello";
    stranger.send_to(datagram, at).unwrap();
    assert_eq!(echo(&client, at, datagram), datagram);
    assert!(stranger.recv(&mut [0; 100]).is_err());
}

#[test]
fn associations_count_as_connections() {
    let world = World::new();
    let proxy = world.proxy("[Socks5]\nBindAddress = 127.0.0.1:0\nMaxConnections = 2\n");
    let port = proxy.port(0);
    // One that was made while the listener was waited for may still be there.
    let mut kept = Vec::new();
    harness::wait("the limit", || {
        let mut stream = connect(port);
        let mut answer = [0; 12];
        let served = stream.write_all(&[&[5, 1, 0, 5, 3, 0][..], ANY].concat()).is_ok()
            && stream.read_exact(&mut answer).is_ok();
        if served {
            kept.push(stream);
        }
        !served
    });
    assert!(!kept.is_empty() && kept.len() <= 2, "{}", kept.len());
}

#[test]
fn one_connection_from_the_tunnel() {
    let world = World::new();
    let proxy = world.proxy("[Socks5]\nBindAddress = 127.0.0.1:0\n");
    let port = proxy.port(0);
    for from in [&b"\x01\x0a\x09\0\x01\0\0"[..], ANY] {
        let (code, at, mut client) = ask(port, 2, from);
        assert_eq!((code, at.ip()), (0, [10, 9, 0, 2].into()));
        let peer = world.stack.dial_tcp(&at.to_string(), PATIENCE).unwrap();
        assert_eq!(reply(&mut client), (0, peer.local_addr()));
        (&peer).write_all(b"from the tunnel").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "from the tunnel");
        client.write_all(b"answer").unwrap();
        drop(client);
        peer.set_read_timeout(Some(PATIENCE));
        let mut text = String::new();
        (&peer).read_to_string(&mut text).unwrap();
        assert_eq!(text, "answer");
    }
    // It is for another one: this one is reset, and the port still waits.
    let (code, at, _client) = ask(port, 2, b"\x01\x0a\x09\0\x07\0\0");
    assert_eq!(code, 0);
    let peer = world.stack.dial_tcp(&at.to_string(), PATIENCE).unwrap();
    peer.set_read_timeout(Some(PATIENCE));
    assert_eq!((&peer).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// The number of an interface, and a link-local address that it has.
#[cfg(target_os = "linux")]
fn link_local() -> Option<(std::net::Ipv6Addr, u32)> {
    let text = std::fs::read_to_string("/proc/net/if_inet6").ok()?;
    let mut found = text.lines().filter(|line| line.starts_with("fe80")).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let address = u128::from_str_radix(fields.next()?, 16).ok()?;
        Some((address.into(), u32::from_str_radix(fields.next()?, 16).ok()?))
    });
    found.find(|(address, scope)| UdpSocket::bind(std::net::SocketAddrV6::new(*address, 0, 0, *scope)).is_ok())
}

#[test]
#[cfg(target_os = "linux")]
fn datagrams_over_a_link_local_address() {
    let Some((address, scope)) = link_local() else {
        eprintln!("skipped: this machine has no link-local address");
        return;
    };
    let world = World::new();
    let proxy = world.proxy(&format!("[Socks5]\nBindAddress = [{address}%{scope}]:0\n"));
    let at = |port| std::net::SocketAddrV6::new(address, port, 0, scope);
    let mut control = TcpStream::connect(at(proxy.port(0))).unwrap();
    control.set_read_timeout(Some(PATIENCE)).unwrap();
    control.write_all(&[&[5, 1, 0, 5, 3, 0], ANY].concat()).unwrap();
    let mut answer = [0; 24];
    control.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..6], [5, 0, 5, 0, 0, 4]);
    assert_eq!(answer[6..22], address.octets());
    let client = UdpSocket::bind(at(0)).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let datagram = b"\0\0\0\x01\x0a\x09\0\x01\0\x07hello";
    assert_eq!(echo(&client, at(u16::from_be_bytes([answer[22], answer[23]])).into(), datagram), datagram);
}
