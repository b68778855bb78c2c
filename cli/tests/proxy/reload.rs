//! SIGHUP: what changes, and what goes on.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
};

use crate::harness::{ECHO, PATIENCE, Proxy, World, connect, exchange, wait};

/// Reads another configuration, and waits until that is done.
fn reload(world: &World, proxy: &Proxy, services: &str) {
    let count = || proxy.log().iter().filter(|line| line.contains("the configuration")).count();
    let before = count();
    world.write(services, "");
    proxy.signal("HUP");
    wait("the reload", || count() > before);
}

fn echo(stream: &mut TcpStream, bytes: &[u8; 4]) {
    stream.write_all(bytes).unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, bytes);
}

/// Whether a connection is served: otherwise it is closed.
fn is_served(port: u16) -> bool {
    let mut stream = connect(port);
    stream.write_all(b"x").is_ok() && stream.read(&mut [0]).is_ok_and(|length| length == 1)
}

#[test]
fn connections_go_on_and_services_change() {
    let world = World::new();
    let proxy = world.proxy(ECHO);
    let first = proxy.port(0);
    let mut old = connect(first);
    echo(&mut old, b"befo");
    reload(&world, &proxy, &ECHO.replace("127.0.0.1", "127.0.0.2"));
    let second = ("127.0.0.2", proxy.port(1));
    assert_eq!(exchange(TcpStream::connect(second).unwrap(), b"new"), b"new");
    assert!(TcpStream::connect(("127.0.0.1", first)).is_err());
    echo(&mut old, b"aftr");
    // A bad file changes nothing.
    reload(&world, &proxy, "[Nothing]\n");
    proxy.wait_for_log("the configuration is unchanged");
    echo(&mut old, b"last");
    assert_eq!(exchange(TcpStream::connect(second).unwrap(), b"still"), b"still");
}

/// The stack would refuse its MTU: nothing changes, not even the tunnel's own configuration.
#[test]
fn a_file_that_the_stack_refuses_changes_nothing() {
    let world = World::new();
    let proxy = world.proxy_with_info(ECHO, "");
    let metrics = || String::from_utf8(exchange(connect(proxy.info()), b"GET /metrics HTTP/1.1\r\n\r\n")).unwrap();
    let file = world.directory().join("proxy.conf");
    let text = fs::read_to_string(&file).unwrap();
    assert!(metrics().contains("\npersistent_keepalive_interval=1\n"));
    let bad = text.replace("Keepalive = 1", "Keepalive = 25").replace("[Peer]", "MTU = 1000\n[Peer]");
    fs::write(&file, bad).unwrap();
    proxy.signal("HUP");
    proxy.wait_for_log("the configuration is unchanged");
    assert!(metrics().contains("\npersistent_keepalive_interval=1\n"));
    let tested = Proxy::command(&world).arg("-n").output().unwrap();
    assert!(!tested.status.success(), "{tested:?}");
}

#[test]
fn limits_change_and_count_what_was_there_before() {
    let world = World::new();
    let proxy = world.proxy(ECHO);
    let port = proxy.port(0);
    let mut kept = connect(port);
    echo(&mut kept, b"kept");
    reload(&world, &proxy, &format!("{ECHO}MaxConnections = 1\n"));
    assert_eq!(proxy.port(1), port, "the listener is the same");
    assert!(!is_served(port), "one is the limit");
    echo(&mut kept, b"kept");
    reload(&world, &proxy, &format!("{ECHO}MaxConnections = 2\n"));
    assert!(is_served(port));
    reload(&world, &proxy, &format!("{ECHO}[Limits]\nMaxConnections = 1\nMemory = 8\n"));
    wait("the limit of all", || !is_served(port));
    drop(kept);
    wait("room", || is_served(port));
}

#[test]
fn logins_and_kinds_change_behind_the_same_listener() {
    let world = World::new();
    let service = |kind: &str, password: &str| {
        format!("[{kind}]\nBindAddress = 127.0.0.1:0\nUsername = me\nPassword = {password}\n")
    };
    let proxy = world.proxy(&service("Socks5", "old"));
    let port = proxy.port(0);
    let login = |password: &[u8; 3]| {
        let mut stream = connect(port);
        stream.write_all(&[b"\x05\x01\x02\x01\x02me\x03", &password[..]].concat()).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        answer[3] == 0
    };
    assert!(login(b"old") && !login(b"new"));
    reload(&world, &proxy, &service("Socks5", "new"));
    assert!(!login(b"old") && login(b"new"));
    reload(&world, &proxy, &service("http", "new"));
    let answer = exchange(connect(port), b"CONNECT 10.9.0.1:7 HTTP/1.1\r\n\r\n");
    assert!(answer.starts_with(b"HTTP/1.1 407 "));
}

#[test]
fn targets_in_the_tunnel_and_of_datagrams_change() {
    let world = World::new();
    let [tcp, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let [server, proxied] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    for socket in [&udp, &server, &proxied] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    let services = |tcp: &TcpListener, udp: &UdpSocket| {
        format!(
            "[TCPServerTunnel]\nListenPort = 80\nTarget = {}\n[UDPServerTunnel]\nListenPort = 53\nTarget = {}\n",
            tcp.local_addr().unwrap(),
            udp.local_addr().unwrap(),
        )
    };
    let proxy = world.proxy(&services(&tcp, &udp));
    let dial = || world.stack.dial_tcp("10.9.0.2:80", PATIENCE).unwrap();
    let first = dial();
    let (mut accepted, _) = tcp.accept().unwrap();
    let peer = world.stack.dial_udp("10.9.0.2:53", PATIENCE).unwrap();
    peer.try_send(b"one", None).unwrap();
    udp.recv_from(&mut [0; 10]).unwrap();
    reload(&world, &proxy, &services(&other, &server));
    let _second = dial();
    drop(other.accept().unwrap());
    peer.try_send(b"two", None).unwrap();
    let mut buf = [0; 10];
    let (length, from) = server.recv_from(&mut buf).unwrap();
    assert_eq!(&buf[..length], b"two");
    server.send_to(b"answer", from).unwrap();
    let (length, _) = peer.recv(&mut buf, Some(PATIENCE)).unwrap();
    assert_eq!(&buf[..length], b"answer");
    accepted.write_all(b"on").unwrap();
    first.set_read_timeout(Some(PATIENCE));
    (&first).read_exact(&mut [0; 2]).unwrap();
}

#[test]
fn standard_input_stays() {
    let world = World::new();
    let proxy = world.proxy(ECHO);
    reload(&world, &proxy, &format!("{ECHO}[STDIOTunnel]\nTarget = 10.9.0.1:7\n"));
    proxy.wait_for_log("cannot change [STDIOTunnel]");
    assert!(is_served(proxy.port(0)));
}

#[test]
fn an_endpoint_that_was_removed_is_not_used() {
    let world = World::new();
    let proxy = world.proxy_with_info(ECHO, "");
    let metrics = || exchange(connect(proxy.info()), b"GET /metrics HTTP/1.1\r\n\r\n");
    let has = |text: &str| String::from_utf8(metrics()).unwrap().contains(text);
    assert!(has("\nendpoint="));
    let file = world.directory().join("proxy.conf");
    let text = fs::read_to_string(&file).unwrap();
    let without: Vec<_> = text.lines().filter(|line| !line.starts_with("Endpoint")).collect();
    fs::write(&file, without.join("\n").replace("PersistentKeepalive = 1", "PersistentKeepalive = 0")).unwrap();
    proxy.signal("HUP");
    proxy.wait_for_log("the configuration was read again");
    wait("the peer without its sessions", || has("\npublic_key=") && has("\nlast_handshake_time_sec=0\n"));
}

#[test]
#[cfg(target_os = "linux")]
fn files_are_out_of_reach() {
    let world = World::new();
    let elsewhere = World::new();
    let proxy = world.proxy(ECHO);
    if proxy.log().iter().any(|line| line.contains("no Landlock")) {
        eprintln!("skipped: this kernel has no Landlock");
        return;
    }
    proxy.wait_for_log("files are out of reach");
    let status = fs::read_to_string(format!("/proc/{}/status", proxy.child.id())).unwrap();
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    // Its own directory can still be read; in another one there is no new socket.
    let path = elsewhere.directory().join("socket");
    let unix = format!("[TCPClientTunnel]\nBindAddress = unix:{}\nTarget = 10.9.0.1:7\n", path.display());
    reload(&world, &proxy, &format!("{ECHO}{unix}"));
    proxy.wait_for_log("Permission denied");
    assert!(is_served(proxy.port(0)) && !path.exists());
}
