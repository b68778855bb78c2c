//! What services do at their ends and limits.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixListener,
    process::Command,
};

use socket2::{Domain, Socket, Type};
use wg_embed::sync::lock;

use crate::harness::{self, ECHO, PATIENCE, World, connect, exchange};

/// An address of this machine that packets in a tunnel may have.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("198.51.100.1:9").ok()?;
    let address = socket.local_addr().unwrap().ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[test]
fn the_other_side_may_end_first() {
    let world = World::new();
    let path = world.directory().join("socket");
    let proxy = world.proxy(&format!(
        "[Socks5]\nBindAddress = 127.0.0.1:0\n[http]\nBindAddress = 127.0.0.1:0\n\
         [TCPClientTunnel]\nBindAddress = 127.0.0.1:0\nTarget = 10.9.0.1:19\n\
         [TCPClientTunnel]\nBindAddress = unix:{}\nTarget = 10.9.0.1:19\n",
        path.display()
    ));
    let [socks, http, tunnel] = [0, 1, 2].map(|n| proxy.port(n));
    let cases = [
        (socks, &b"\x05\x01\0\x05\x01\0\x01\x0a\x09\0\x01\0\x13"[..], 12),
        (http, b"CONNECT 10.9.0.1:19 HTTP/1.1\r\n\r\n", 39),
        (tunnel, b"", 0),
    ];
    for (n, (port, request, answer)) in cases.into_iter().enumerate() {
        let mut stream = connect(port);
        stream.write_all(request).unwrap();
        let mut text = Vec::new();
        stream.read_to_end(&mut text).unwrap();
        assert_eq!(&text[answer..], b"bye");
        stream.write_all(format!("late {n}").as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    }
    let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    stream.write_all(b"late 3").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    for n in 0..4 {
        let expected = format!("late {n}").into_bytes();
        harness::wait("what was sent late", || lock(&world.read).contains(&expected));
    }
}

#[test]
fn resets_pass_both_ways() {
    let world = World::new();
    let listener = world.stack.listen_tcp("10.9.0.1:9".parse().unwrap(), 8).unwrap();
    let proxy = world.proxy(
        "[Socks5]\nBindAddress = 127.0.0.1:0\n[http]\nBindAddress = 127.0.0.1:0\n\
         [TCPClientTunnel]\nBindAddress = 127.0.0.1:0\nTarget = 10.9.0.1:9\n",
    );
    let [socks, http, tunnel] = [0, 1, 2].map(|n| proxy.port(n));
    // What comes with the request is sent first.
    let cases = [
        (socks, &b"\x05\x01\0\x05\x01\0\x01\x0a\x09\0\x01\0\x09first, "[..], 12),
        (http, b"CONNECT 10.9.0.1:9 HTTP/1.1\r\n\r\nfirst, ", 39),
        (tunnel, b"first, ", 0),
    ];
    for (port, request, answer) in cases {
        for by_client in [false, true] {
            let mut client = connect(port);
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.write_all(request).unwrap();
            client.read_exact(&mut vec![0; answer]).unwrap();
            client.write_all(b"then").unwrap();
            let server = listener.accept(Some(PATIENCE)).unwrap();
            server.set_read_timeout(Some(PATIENCE));
            let mut read = [0; 11];
            (&server).read_exact(&mut read).unwrap();
            assert_eq!(&read, b"first, then");
            (&server).write_all(b"answer").unwrap();
            client.peek(&mut read).unwrap();
            let end = if by_client {
                drop(client); // with data that it has not read
                (&server).read(&mut read)
            } else {
                client.read_exact(&mut read[..6]).unwrap();
                assert_eq!(&read[..6], b"answer");
                server.reset();
                client.read(&mut read)
            };
            assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
    }
}

#[test]
fn a_port_without_its_target_refuses() {
    let world = World::new();
    let path = world.directory().join("target");
    let listener = UnixListener::bind(&path).unwrap();
    // A socket that does not listen keeps its port from others, and refuses.
    let silent = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    silent.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let _proxy = world.proxy(&format!(
        "[TCPServerTunnel]\nListenPort = 80\nTarget = {}\n\
         [TCPServerTunnel]\nListenPort = 81\nTarget = unix:{}\n",
        silent.local_addr().unwrap().as_socket().unwrap(),
        path.display()
    ));
    let refused = |port: u16| world.stack.dial_tcp(&format!("10.9.0.2:{port}"), PATIENCE).unwrap_err().kind();
    assert_eq!(refused(80), ErrorKind::ConnectionRefused);
    assert_eq!(refused(82), ErrorKind::ConnectionRefused, "no service has it");
    let stream = world.stack.dial_tcp("10.9.0.2:81", PATIENCE).unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    (&stream).write_all(b"over a file").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    accepted.read_to_string(&mut text).unwrap();
    assert_eq!(text, "over a file");
    accepted.write_all(b"answer").unwrap();
    drop(accepted);
    let mut text = String::new();
    stream.set_read_timeout(Some(PATIENCE));
    (&stream).read_to_string(&mut text).unwrap();
    assert_eq!(text, "answer");
}

#[test]
fn any_destination_that_is_allowed() {
    let Some(own) = own_address() else {
        eprintln!("skipped: this machine has no address but loopback");
        return;
    };
    let world = World::with_addresses(&[own]);
    let [allowed, other] = [(); 2].map(|()| TcpListener::bind((own, 0)).unwrap());
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let udp = UdpSocket::bind((own, 0)).unwrap();
    udp.set_read_timeout(Some(PATIENCE)).unwrap();
    let _proxy = world.proxy(&format!(
        "[TCPServerTunnel]\nListenPort = any\nAllow = 10.0.0.0/8, {own}:{}\n\
         [UDPServerTunnel]\nListenPort = Any\nAllow = {own}\n",
        port(&allowed)
    ));
    let stream = world.stack.dial_tcp(&format!("{own}:{}", port(&allowed)), PATIENCE).unwrap();
    let (mut accepted, _) = allowed.accept().unwrap();
    accepted.write_all(b"from this side").unwrap();
    drop(accepted);
    stream.set_read_timeout(Some(PATIENCE));
    let mut text = String::new();
    (&stream).read_to_string(&mut text).unwrap();
    assert_eq!(text, "from this side");
    let refused = world.stack.dial_tcp(&format!("{own}:{}", port(&other)), PATIENCE).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let peer = world.stack.dial_udp(&udp.local_addr().unwrap().to_string(), PATIENCE).unwrap();
    peer.try_send(b"question", None).unwrap();
    let mut buf = [0; 100];
    let (length, from) = udp.recv_from(&mut buf).unwrap();
    assert_eq!(&buf[..length], b"question");
    udp.send_to(b"answer", from).unwrap();
    let (length, _) = peer.recv(&mut buf, Some(PATIENCE)).unwrap();
    assert_eq!(&buf[..length], b"answer");
}

#[test]
fn flows_end_after_the_time_that_was_asked_for() {
    let Some(own) = own_address() else {
        eprintln!("skipped: this machine has no address but loopback");
        return;
    };
    let world = World::with_addresses(&[own]);
    let udp = UdpSocket::bind((own, 0)).unwrap();
    udp.set_read_timeout(Some(PATIENCE)).unwrap();
    let _proxy = world.proxy(&format!("[UDPServerTunnel]\nListenPort = any\nAllow = {own}\nInactivityTimeout = 1\n"));
    let peer = world.stack.dial_udp(&udp.local_addr().unwrap().to_string(), PATIENCE).unwrap();
    let source = || {
        peer.try_send(b"x", None).unwrap();
        udp.recv_from(&mut [0; 10]).unwrap().1
    };
    let first = source();
    // A flow that goes on keeps its port: each datagram would make an idle time of a minute begin again.
    harness::wait("another flow", || {
        std::thread::sleep(std::time::Duration::from_secs(3));
        source() != first
    });
}

#[test]
fn a_slow_name_delays_nobody_else() {
    let world = World::new();
    world.write("[Socks5]\nBindAddress = 127.0.0.1:0\n", "DNS = 10.9.0.1\n");
    let proxy = world.proxy_as_written();
    let port = proxy.port(0);
    let mut slow: Vec<TcpStream> = (0..20).map(|_| connect(port)).collect();
    for stream in &mut slow {
        stream.write_all(b"\x05\x01\0\x05\x01\0\x03\x09slow.test\0\x07").unwrap();
    }
    let mut quick = connect(port);
    quick.write_all(b"\x05\x01\0\x05\x01\0\x01\x0a\x09\0\x01\0\x07ping").unwrap();
    let mut answer = [0; 16];
    quick.read_exact(&mut answer).unwrap();
    assert_eq!(&answer[12..], b"ping");
    for stream in &mut slow {
        stream.set_nonblocking(true).unwrap();
        let mut methods = [0; 100];
        let length = stream.read(&mut methods).unwrap_or(0);
        assert!(length <= 2, "it still waits");
    }
}

#[test]
fn an_endpoint_may_be_a_name() {
    let world = World::new();
    world.write(ECHO, "");
    let file = world.directory().join("proxy.conf");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("Endpoint = 127.0.0.1:"));
    fs::write(&file, text.replace("Endpoint = 127.0.0.1:", "Endpoint = localhost:")).unwrap();
    let proxy = world.proxy_as_written();
    assert_eq!(exchange(connect(proxy.port(0)), b"named"), b"named");
}

#[test]
fn passwords_of_curl_are_checked() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("skipped: curl is not installed");
        return;
    }
    let world = World::new();
    let proxy = world.proxy("[Socks5]\nBindAddress = 127.0.0.1:0\nUsername = me\nPassword = pw\n");
    let port = proxy.port(0);
    let curl = |user: &str| {
        let proxy = format!("socks5h://{user}127.0.0.1:{port}");
        let run = Command::new("curl").args(["-sS", "-m", "60", "-x", &proxy, "http://10.9.0.1/"]).output().unwrap();
        (run.status.code(), String::from_utf8_lossy(&run.stdout).into_owned())
    };
    assert_eq!(curl("me:pw@"), (Some(0), "hello\n".into()));
    assert_eq!(curl("me:no@").0, Some(97));
    assert_eq!(curl("").0, Some(97));
}

#[test]
fn without_dns_servers_the_system_is_asked() {
    let world = World::new();
    let local = TcpListener::bind("127.0.0.1:0").unwrap();
    // The system knows more forms of an address than one: these are 10.9.0.1, and for the stack they are names.
    let proxy = world.proxy(&format!(
        "[Socks5]\nBindAddress = 127.0.0.1:0\n\
         [UDPProxyTunnel]\nBindAddress = 127.0.0.1:0\nTarget = 10.589825:7\n\
         [TCPServerTunnel]\nListenPort = 80\nTarget = 127.1:{}\n",
        local.local_addr().unwrap().port()
    ));
    let (mut stream, udp) = (connect(proxy.port(0)), proxy.port(1));
    stream.write_all(b"\x05\x01\0\x05\x01\0\x03\x0610.9.1\0\x07named").unwrap();
    let mut answer = [0; 17];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!((answer[3], &answer[12..]), (0, &b"named"[..]));
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    // The only datagram waits for the address.
    client.send_to(b"by name", ("127.0.0.1", udp)).unwrap();
    let length = client.recv(&mut answer).unwrap();
    assert_eq!(&answer[..length], b"by name");
    let stream = world.stack.dial_tcp("10.9.0.2:80", PATIENCE);
    // The stack has IPv4 and IPv6 addresses, and so may the target.
    assert!(stream.is_ok(), "{stream:?}");
    drop(local.accept().unwrap());
}

#[test]
fn nothing_is_left_of_many_connections() {
    let world = World::new();
    let proxy = world.proxy(ECHO);
    let port = proxy.port(0);
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", proxy.child.id())).map_or(0, Iterator::count);
    assert_eq!(exchange(connect(port), b"first"), b"first");
    let before = descriptors();
    for round in 0..40 {
        let open: Vec<_> = (0..25).map(|_| connect(port)).collect();
        for (n, mut stream) in open.into_iter().enumerate() {
            match (n + round) % 3 {
                0 => assert_eq!(exchange(stream, b"whole"), b"whole"),
                1 => stream.write_all(b"cut").unwrap(),
                _ => drop(stream),
            }
        }
    }
    if before > 0 {
        harness::wait("the end of the descriptors", || descriptors() <= before);
    }
    assert_eq!(exchange(connect(port), b"last"), b"last");
}

/// A client that asks one of several addresses has its answers from that one.
#[test]
fn datagrams_are_answered_from_where_they_went() {
    let second = "10.9.0.3".parse().unwrap();
    let world = World::with_addresses(&[second]);
    let local = UdpSocket::bind("127.0.0.1:0").unwrap();
    local.set_read_timeout(Some(PATIENCE)).unwrap();
    let services = format!("[UDPServerTunnel]\nListenPort = 53\nTarget = {}\n", local.local_addr().unwrap());
    world.write(&services, "Address = 10.9.0.3\n");
    let _proxy = world.proxy_as_written();
    // The same source for both.
    let client = world.stack.bind_udp("10.9.0.1:0".parse().unwrap(), None).unwrap();
    let mut buf = [0; 100];
    for to in ["10.9.0.3:53", "10.9.0.2:53"].map(|text| text.parse::<SocketAddr>().unwrap()) {
        client.try_send(b"question", Some(to)).unwrap();
        let (_, from) = local.recv_from(&mut buf).unwrap();
        local.send_to(b"answer", from).unwrap();
        let (length, from) = client.recv(&mut buf, Some(PATIENCE)).unwrap();
        assert_eq!((&buf[..length], from), (&b"answer"[..], to));
    }
}

/// With no descriptor left a service goes on as soon as there is one again.
#[test]
#[cfg(target_os = "linux")]
fn a_lack_of_descriptors_passes() {
    let world = World::new();
    world.write(ECHO, "");
    let command = harness::Proxy::command(&world);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""]).arg(command.get_program()).args(command.get_args());
    let proxy = harness::Proxy::start(&mut limited);
    world.wait_for_tunnel();
    let port = proxy.port(0);
    let clients: Vec<_> = (0..100).map(|_| connect(port)).collect();
    proxy.wait_for_log("cannot accept a connection");
    assert_eq!(exchange(clients[0].try_clone().unwrap(), b"one of the first"), b"one of the first");
    drop(clients);
    assert_eq!(exchange(connect(port), b"afterwards"), b"afterwards");
}
