//! What services do at their ends and limits.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixListener,
    process::{Command, Stdio},
};

use wg_embed::sync::lock;

use crate::harness::{self, PATIENCE, Proxy, World, connect, free_port};

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
    let [socks, http, tunnel] = [(); 3].map(|()| free_port());
    let path = world.directory().join("socket");
    let _proxy = world.proxy(&format!(
        "[Socks5]\nBindAddress = 127.0.0.1:{socks}\n[http]\nBindAddress = 127.0.0.1:{http}\n\
         [TCPClientTunnel]\nBindAddress = 127.0.0.1:{tunnel}\nTarget = 10.9.0.1:19\n\
         [TCPClientTunnel]\nBindAddress = unix:{}\nTarget = 10.9.0.1:19\n",
        path.display()
    ));
    let cases = [
        (socks, &b"\x05\x01\0\x05\x01\0\x01\x0a\x09\0\x01\0\x13"[..], 12),
        (http, b"CONNECT 10.9.0.1:19 HTTP/1.1\r\n\r\n", 39),
        (tunnel, b"", 0),
    ];
    for (n, (port, request, answer)) in cases.into_iter().enumerate() {
        let mut stream = connect(port);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
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
    let [socks, http, tunnel] = [(); 3].map(|()| free_port());
    let listener = world.stack.listen_tcp("10.9.0.1:9".parse().unwrap(), 8).unwrap();
    let _proxy = world.proxy(&format!(
        "[Socks5]\nBindAddress = 127.0.0.1:{socks}\n[http]\nBindAddress = 127.0.0.1:{http}\n\
         [TCPClientTunnel]\nBindAddress = 127.0.0.1:{tunnel}\nTarget = 10.9.0.1:9\n"
    ));
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
    let _proxy = world.proxy(&format!(
        "[TCPServerTunnel]\nListenPort = 80\nTarget = 127.0.0.1:{}\n\
         [TCPServerTunnel]\nListenPort = 81\nTarget = unix:{}\n",
        free_port(),
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
    let port = free_port();
    world.write(&format!("[Socks5]\nBindAddress = 127.0.0.1:{port}\n"), "DNS = 10.9.0.1\n");
    let _proxy = world.proxy_as_written();
    let mut slow: Vec<TcpStream> = (0..20).map(|_| connect(port)).collect();
    for stream in &mut slow {
        stream.write_all(b"\x05\x01\0\x05\x01\0\x03\x09slow.test\0\x07").unwrap();
    }
    let mut quick = connect(port);
    quick.set_read_timeout(Some(PATIENCE)).unwrap();
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
    let port = free_port();
    world.write(&format!("[TCPClientTunnel]\nBindAddress = 127.0.0.1:{port}\nTarget = 10.9.0.1:7\n"), "");
    let file = world.directory().join("proxy.conf");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("Endpoint = 127.0.0.1:"));
    fs::write(&file, text.replace("Endpoint = 127.0.0.1:", "Endpoint = localhost:")).unwrap();
    let _proxy = world.proxy_as_written();
    assert_eq!(crate::exchange(connect(port), b"named"), b"named");
}

#[test]
fn a_reload_changes_limits_and_not_standard_input() {
    let world = World::new();
    let port = free_port();
    let service = format!("[TCPClientTunnel]\nBindAddress = 127.0.0.1:{port}\nTarget = 10.9.0.1:7\n");
    world.write(&service, "");
    let mut command = Proxy::command(&world);
    let mut proxy = Proxy::start(command.stderr(Stdio::piped()));
    world.wait_for_tunnel();
    let mut errors = std::io::BufReader::new(proxy.child.stderr.take().unwrap());
    world.write(&format!("{service}[STDIOTunnel]\nTarget = 10.9.0.1:7\n"), "");
    proxy.signal("HUP");
    let mut line = String::new();
    std::io::BufRead::read_line(&mut errors, &mut line).unwrap();
    assert!(line.contains("cannot change [STDIOTunnel]"), "{line}");
    world.write(&format!("{service}[Limits]\nMaxConnections = 1\nMemory = 8\n"), "");
    proxy.signal("HUP");
    let one = connect(port);
    harness::wait("the limit", || {
        let mut two = connect(port);
        two.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = two.write_all(b"x");
        two.read(&mut [0]).map_or(true, |length| length == 0)
    });
    drop(one);
}

#[test]
#[cfg(target_os = "linux")]
fn files_are_out_of_reach() {
    let lsm = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    if !lsm.contains("landlock") {
        eprintln!("skipped: this kernel has no Landlock, or does not say so in /sys/kernel/security/lsm");
        return;
    }
    let world = World::new();
    let elsewhere = World::new();
    let port = free_port();
    let service = |port| format!("[TCPClientTunnel]\nBindAddress = 127.0.0.1:{port}\nTarget = 10.9.0.1:7\n");
    let proxy = world.proxy(&service(port));
    let status = fs::read_to_string(format!("/proc/{}/status", proxy.child.id())).unwrap();
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    // Its own directory can still be read; in another one there is no new socket.
    let (next, path) = (free_port(), elsewhere.directory().join("socket"));
    let unix = format!("[TCPClientTunnel]\nBindAddress = unix:{}\nTarget = 10.9.0.1:7\n", path.display());
    world.write(&(unix + &service(next)), "");
    proxy.signal("HUP");
    assert_eq!(crate::exchange(connect(next), b"reloaded"), b"reloaded");
    assert!(!path.exists());
}

#[test]
fn passwords_of_curl_are_checked() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("skipped: curl is not installed");
        return;
    }
    let world = World::new();
    let port = free_port();
    let _proxy = world.proxy(&format!("[Socks5]\nBindAddress = 127.0.0.1:{port}\nUsername = me\nPassword = pw\n"));
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
    let [socks, udp] = [(); 2].map(|()| free_port());
    // The system knows more forms of an address than one: this is 10.9.0.1, and for the stack it is a name.
    let _proxy = world.proxy(&format!(
        "[Socks5]\nBindAddress = 127.0.0.1:{socks}\n\
         [UDPProxyTunnel]\nBindAddress = 127.0.0.1:{udp}\nTarget = 10.9.1:7\n\
         [TCPServerTunnel]\nListenPort = 80\nTarget = 127.1:{}\n",
        local.local_addr().unwrap().port()
    ));
    let mut stream = connect(socks);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"\x05\x01\0\x05\x01\0\x03\x0610.9.1\0\x07named").unwrap();
    let mut answer = [0; 17];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!((answer[3], &answer[12..]), (0, &b"named"[..]));
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
    harness::wait("an answer", || {
        client.send_to(b"by name", ("127.0.0.1", udp)).unwrap();
        client.recv(&mut answer).is_ok_and(|length| &answer[..length] == b"by name")
    });
    let stream = world.stack.dial_tcp("10.9.0.2:80", PATIENCE);
    // The stack has IPv4 and IPv6 addresses, and so may the target.
    assert!(stream.is_ok(), "{stream:?}");
    drop(local.accept().unwrap());
}

#[test]
fn nothing_is_left_of_many_connections() {
    let world = World::new();
    let port = free_port();
    let service = format!("[TCPClientTunnel]\nBindAddress = 127.0.0.1:{port}\nTarget = 10.9.0.1:7\n");
    let proxy = world.proxy(&service);
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", proxy.child.id())).map_or(0, Iterator::count);
    assert_eq!(crate::exchange(connect(port), b"first"), b"first");
    let before = descriptors();
    for round in 0..40 {
        let open: Vec<_> = (0..25).map(|_| connect(port)).collect();
        for (n, mut stream) in open.into_iter().enumerate() {
            match (n + round) % 3 {
                0 => assert_eq!(crate::exchange(stream, b"whole"), b"whole"),
                1 => stream.write_all(b"cut").unwrap(),
                _ => drop(stream),
            }
        }
    }
    if before > 0 {
        harness::wait("the end of the descriptors", || descriptors() <= before);
    }
    assert_eq!(crate::exchange(connect(port), b"last"), b"last");
}
