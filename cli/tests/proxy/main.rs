//! `wg-embed proxy` against a network in this process, over loopback and without root.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod alone;
mod ends;
mod forwarding;
mod harness;
mod https;
mod reload;
mod services;
mod socks5;
mod wireproxy;

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixStream,
    process::Command,
};

use harness::{ECHO, PATIENCE, Proxy, World, connect, exchange, wait};

fn request(port: u16, text: &str) -> String {
    String::from_utf8(exchange(connect(port), text.as_bytes())).unwrap()
}

#[test]
fn socks5_reaches_both_families_and_refuses() {
    let world = World::new();
    let proxy = world.proxy("[Socks5]\nBindAddress = 127.0.0.1:0\nUsername = me\nPassword = pw\n");
    let port = proxy.port(0);
    let open = |target: &[u8]| {
        let mut stream = connect(port);
        stream.write_all(&[b"\x05\x01\x02\x01\x02me\x02pw\x05\x01\0", target].concat()).unwrap();
        let mut reply = [0; 14];
        stream.read_exact(&mut reply).unwrap();
        (reply[5], stream)
    };
    let v6 = [&[4, 0xfd][..], &[0; 14], &[1, 0, 7]].concat();
    for target in [&b"\x01\x0a\x09\0\x01\0\x07"[..], &v6] {
        let (code, stream) = open(target);
        assert_eq!(code, 0);
        let data = vec![b'x'; 300_000];
        let sender = stream.try_clone().unwrap();
        let sent = data.clone();
        let thread = std::thread::spawn(move || {
            (&sender).write_all(&sent).unwrap();
            sender.shutdown(Shutdown::Write).unwrap();
        });
        let mut answer = Vec::new();
        (&stream).read_to_end(&mut answer).unwrap();
        thread.join().unwrap();
        assert!(answer == data, "{} bytes came back", answer.len());
    }
    assert_eq!(open(b"\x01\x0a\x09\0\x01\0\x09").0, 5, "nothing listens there");
    let mut wrong = connect(port);
    wrong.write_all(b"\x05\x01\x02\x01\x02me\x02no").unwrap();
    let mut answer = Vec::new();
    wrong.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, [5, 2, 1, 1]);
}

#[test]
fn http_connects_gets_and_answers_with_statuses() {
    let world = World::new();
    let proxy = world
        .proxy("[http]\nBindAddress = 127.0.0.1:0\n[http]\nBindAddress = 127.0.0.1:0\nUsername = me\nPassword = pw\n");
    let (port, locked) = (proxy.port(0), proxy.port(1));
    let mut tunnel = connect(port);
    tunnel.write_all(b"CONNECT 10.9.0.1:7 HTTP/1.1\r\n\r\nearly").unwrap();
    let mut head = [0; 39 + 5];
    tunnel.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 Connection established\r\n\r\nearly");
    assert_eq!(exchange(tunnel, b"more"), b"more");
    assert!(request(port, "POST http://10.9.0.1/ HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    assert!(request(locked, "CONNECT 10.9.0.1:7 HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 407 "));
    let wrong = "CONNECT 10.9.0.1:7 HTTP/1.1\r\nProxy-Authorization: Basic bWU6bm8=\r\n\r\n";
    assert!(request(locked, wrong).starts_with("HTTP/1.1 401 "));
    let mut refused = connect(port);
    refused.write_all(b"CONNECT 10.9.0.1:9 HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    refused.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}

#[test]
fn tcp_tunnels_go_both_ways_and_through_files() {
    let world = World::new();
    let path = world.directory().join("socket");
    let local = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = world.proxy(&format!(
        "{ECHO}[TCPClientTunnel]\nBindAddress = unix:{}\nTarget = [fd00::1]:7\n\
         [TCPServerTunnel]\nListenPort = 80\nTarget = localhost:{}\n",
        path.display(),
        local.local_addr().unwrap().port()
    ));
    assert_eq!(exchange(connect(proxy.port(0)), b"hello"), b"hello");
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"file").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "file");
    for target in ["10.9.0.2:80", "[fd00::2]:80"] {
        let stream = world.stack.dial_tcp(target, PATIENCE).unwrap();
        (&stream).write_all(b"from the tunnel").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let (mut accepted, _) = local.accept().unwrap();
        let mut text = String::new();
        accepted.read_to_string(&mut text).unwrap();
        assert_eq!(text, "from the tunnel");
        accepted.write_all(b"answer").unwrap();
        drop(accepted);
        let mut text = String::new();
        stream.set_read_timeout(Some(PATIENCE));
        (&stream).read_to_string(&mut text).unwrap();
        assert_eq!(text, "answer");
    }
}

#[test]
fn udp_tunnels_go_both_ways() {
    let world = World::new();
    let local = UdpSocket::bind("127.0.0.1:0").unwrap();
    local.set_read_timeout(Some(PATIENCE)).unwrap();
    let proxy = world.proxy(&format!(
        "[UDPProxyTunnel]\nBindAddress = 127.0.0.1:0\nTarget = 10.9.0.1:7\nInactivityTimeout = 60\n\
         [UDPServerTunnel]\nListenPort = 53\nTarget = {}\n",
        local.local_addr().unwrap()
    ));
    let port = proxy.port(0);
    let mut buf = [0; 100];
    for text in ["one", "two"] {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.send_to(text.as_bytes(), ("127.0.0.1", port)).unwrap();
        let length = client.recv(&mut buf).unwrap();
        assert_eq!(&buf[..length], text.as_bytes());
    }
    let peer = world.stack.dial_udp("10.9.0.2:53", PATIENCE).unwrap();
    peer.try_send(b"question", None).unwrap();
    let (length, from) = local.recv_from(&mut buf).unwrap();
    assert_eq!(&buf[..length], b"question");
    local.send_to(b"answer", from).unwrap();
    let (length, _) = peer.recv(&mut buf, Some(PATIENCE)).unwrap();
    assert_eq!(&buf[..length], b"answer");
}

#[test]
fn metrics_hide_keys_and_readiness_follows_pings() {
    let world = World::new();
    let proxy = world.proxy_with_info(ECHO, "CheckAlive = 10.9.0.1\nCheckAliveInterval = 1\n");
    let info = proxy.info();
    let metrics = request(info, "GET /metrics HTTP/1.1\r\n\r\n");
    assert!(metrics.starts_with("HTTP/1.1 200 ") && metrics.contains("private_key=REDACTED\n"), "{metrics}");
    assert!(request(info, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    wait("an answer to a ping", || {
        let ready = request(info, "GET /readyz HTTP/1.1\r\n\r\n");
        ready.starts_with("HTTP/1.1 200 ") && ready.contains("{\"10.9.0.1\":") && !ready.contains(":0}")
    });
}

#[test]
fn connections_are_limited() {
    let world = World::new();
    let proxy = world.proxy(&format!("{ECHO}[Limits]\nMaxConnections = 1\n"));
    let port = proxy.port(0);
    // The connection that waited for the listener is gone when another one is served.
    let echoes = |stream: &mut TcpStream| {
        let mut answer = [0; 1];
        stream.write_all(b"x").is_ok() && stream.read(&mut answer).is_ok_and(|length| length == 1)
    };
    let mut one = connect(port);
    wait("a first connection", || {
        let served = echoes(&mut one);
        if !served {
            one = connect(port);
        }
        served
    });
    assert!(!echoes(&mut connect(port)), "one is the limit");
    drop(one);
    wait("room for another", || echoes(&mut connect(port)));
}

#[test]
fn names_are_looked_up_in_the_tunnel() {
    let world = World::new();
    let services = "[TCPClientTunnel]\nBindAddress = 127.0.0.1:0\nTarget = name.test:7\n\
                    [SNI]\nBindAddress = 127.0.0.1:0\n\
                    [UDPProxyTunnel]\nBindAddress = 127.0.0.1:0\nTarget = udp.test:7\n";
    world.write(services, "DNS = 10.9.0.1\n");
    let proxy = world.proxy_as_written();
    let [port, sni, udp] = [0, 1, 2].map(|n| proxy.port(n));
    assert_eq!(exchange(connect(port), b"by name"), b"by name");
    // The only datagram waits for the address.
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send_to(b"datagram", ("127.0.0.1", udp)).unwrap();
    let mut answer = [0; 100];
    let length = client.recv(&mut answer).unwrap();
    assert_eq!(&answer[..length], b"datagram");
    let part = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
    let names = part(&[&[0][..], &part(b"www.test")].concat());
    let extensions = part(&[&[0, 0][..], &part(&names)].concat());
    let body = [&[3; 34][..], &[0, 0, 2, 0x13, 1, 1, 0], &extensions].concat();
    let hello = part(&[&[1, 0][..], &part(&body)].concat());
    let hello = [&[22, 3, 1][..], &hello].concat();
    let mut stream = connect(sni);
    stream.write_all(&hello).unwrap();
    let mut echo = vec![0; hello.len()];
    stream.read_exact(&mut echo).unwrap();
    assert_eq!(echo, hello);
}

#[test]
fn configurations_are_tested() {
    let world = World::new();
    world.write("[Socks5]\nBindAddress = 127.0.0.1:1\n", "");
    let test = || Proxy::command(&world).arg("-n").output().unwrap();
    let output = test();
    assert!(output.status.success() && output.stdout == b"Config OK\n", "{output:?}");
    world.write("[Socks5]\nBindAddress = secret\n[SNI]\n", "");
    let output = test();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.contains("[socks5] BindAddress: not") && errors.contains("[sni] BindAddress: missing"), "{errors}");
    assert!(!errors.contains("secret"), "{errors}");
}

#[test]
fn curl_goes_through() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("skipped: curl is not installed");
        return;
    }
    let world = World::new();
    let proxy = world.proxy("[Socks5]\nBindAddress = 127.0.0.1:0\n[http]\nBindAddress = 127.0.0.1:0\n");
    let (socks, http) = (proxy.port(0), proxy.port(1));
    for proxy in [format!("socks5h://127.0.0.1:{socks}"), format!("http://127.0.0.1:{http}")] {
        let limit = PATIENCE.as_secs().to_string();
        let run = Command::new("curl").args(["-sS", "-m", &limit, "-x", &proxy, "http://10.9.0.1/"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&run.stdout), "hello\n", "{proxy}: {run:?}");
    }
}
