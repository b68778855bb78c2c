//! `wg-embed proxy` against a network in this process, over loopback and without root.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod harness;
mod https;
mod services;
mod socks5;
mod wireproxy;

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixStream,
    process::{Command, Stdio},
};

use harness::{PATIENCE, Proxy, World, connect, free_port};

/// Sends bytes, half-closes, and reads to the end.
pub(crate) fn exchange(mut stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

fn request(port: u16, text: &str) -> String {
    String::from_utf8(exchange(connect(port), text.as_bytes())).unwrap()
}

#[test]
fn socks5_reaches_both_families_and_refuses() {
    let world = World::new();
    let port = free_port();
    let _proxy = world.proxy(&format!("[Socks5]\nBindAddress = 127.0.0.1:{port}\nUsername = me\nPassword = pw\n"));
    let open = |target: &[u8]| {
        let mut stream = connect(port);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
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
    let (port, locked) = (free_port(), free_port());
    let _proxy = world.proxy(&format!(
        "[http]\nBindAddress = 127.0.0.1:{port}\n\
         [http]\nBindAddress = 127.0.0.1:{locked}\nUsername = me\nPassword = pw\n"
    ));
    let mut tunnel = connect(port);
    tunnel.set_read_timeout(Some(PATIENCE)).unwrap();
    tunnel.write_all(b"CONNECT 10.9.0.1:7 HTTP/1.1\r\n\r\nearly").unwrap();
    let mut head = [0; 39 + 5];
    tunnel.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 Connection established\r\n\r\nearly");
    assert_eq!(exchange(tunnel, b"more"), b"more");
    // The echo of the request is what the target got.
    let get = "GET http://10.9.0.1:7/path HTTP/1.1\r\nHost: x\r\nProxy-Connection: y\r\n\r\n";
    let mut stream = connect(port);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(get.as_bytes()).unwrap();
    let expected = b"GET /path HTTP/1.1\r\nHost: 10.9.0.1:7\r\nConnection: close\r\n\r\n";
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(got, expected);
    // The target keeps the connection: a request for another one ends it, and does not reach this one.
    stream.write_all(b"GET http://10.9.0.1:80/ HTTP/1.1\r\nProxy-Authorization: secret\r\n\r\n").unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest); // a reset, perhaps
    assert_eq!(rest, b"");
    assert!(request(port, "POST http://10.9.0.1/ HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    assert!(request(locked, "CONNECT 10.9.0.1:7 HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 407 "));
    let wrong = "CONNECT 10.9.0.1:7 HTTP/1.1\r\nProxy-Authorization: Basic bWU6bm8=\r\n\r\n";
    assert!(request(locked, wrong).starts_with("HTTP/1.1 401 "));
    let mut refused = connect(port);
    refused.set_read_timeout(Some(PATIENCE)).unwrap();
    refused.write_all(b"CONNECT 10.9.0.1:9 HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    refused.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}

#[test]
fn tcp_tunnels_go_both_ways_and_through_files() {
    let world = World::new();
    let (port, path) = (free_port(), world.directory().join("socket"));
    let local = TcpListener::bind("127.0.0.1:0").unwrap();
    let _proxy = world.proxy(&format!(
        "[TCPClientTunnel]\nBindAddress = 127.0.0.1:{port}\nTarget = 10.9.0.1:7\n\
         [TCPClientTunnel]\nBindAddress = unix:{}\nTarget = [fd00::1]:7\n\
         [TCPServerTunnel]\nListenPort = 80\nTarget = localhost:{}\n",
        path.display(),
        local.local_addr().unwrap().port()
    ));
    assert_eq!(exchange(connect(port), b"hello"), b"hello");
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
    let port = free_port();
    let local = UdpSocket::bind("127.0.0.1:0").unwrap();
    local.set_read_timeout(Some(PATIENCE)).unwrap();
    let _proxy = world.proxy(&format!(
        "[UDPProxyTunnel]\nBindAddress = 127.0.0.1:{port}\nTarget = 10.9.0.1:7\nInactivityTimeout = 60\n\
         [UDPServerTunnel]\nListenPort = 53\nTarget = {}\n",
        local.local_addr().unwrap()
    ));
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
fn standard_input_and_output_are_a_connection() {
    let world = World::new();
    let mut proxy = world.start("[STDIOTunnel]\nTarget = 10.9.0.1:7\n");
    let mut input = proxy.child.stdin.take().unwrap();
    input.write_all(b"over stdin").unwrap();
    drop(input);
    let mut output = String::new();
    proxy.child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert_eq!(output, "over stdin");
    assert!(proxy.child.wait().unwrap().success());
}

#[test]
fn metrics_hide_keys_and_readiness_follows_pings() {
    let world = World::new();
    let (port, info) = (free_port(), free_port());
    let proxy = world.proxy_with_info(
        &format!("[TCPClientTunnel]\nBindAddress = 127.0.0.1:{port}\nTarget = 10.9.0.1:7\n"),
        "CheckAlive = 10.9.0.1\nCheckAliveInterval = 1\n",
        info,
    );
    let metrics = request(info, "GET /metrics HTTP/1.1\r\n\r\n");
    assert!(metrics.starts_with("HTTP/1.1 200 ") && metrics.contains("private_key=REDACTED\n"), "{metrics}");
    assert!(request(info, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    harness::wait("an answer to a ping", || {
        let ready = request(info, "GET /readyz HTTP/1.1\r\n\r\n");
        ready.starts_with("HTTP/1.1 200 ") && ready.contains("{\"10.9.0.1\":") && !ready.contains(":0}")
    });
    drop(proxy);
}

#[test]
fn a_reload_keeps_connections_and_changes_services() {
    let world = World::new();
    let (first, second) = (free_port(), free_port());
    let service = |port| format!("[TCPClientTunnel]\nBindAddress = 127.0.0.1:{port}\nTarget = 10.9.0.1:7\n");
    world.write(&service(first), "");
    let mut proxy = Proxy::start(Proxy::command(&world).stderr(Stdio::piped()));
    world.wait_for_tunnel();
    let errors = std::io::BufReader::new(proxy.child.stderr.take().unwrap());
    let mut old = connect(first);
    old.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut echo = |bytes: &[u8; 4]| {
        old.write_all(bytes).unwrap();
        let mut answer = [0; 4];
        old.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, bytes);
    };
    echo(b"befo");
    world.write(&service(second), "");
    proxy.signal("HUP");
    assert_eq!(exchange(connect(second), b"new"), b"new");
    harness::wait("the end of the old listener", || TcpStream::connect(("127.0.0.1", first)).is_err());
    echo(b"aftr");
    // A bad file changes nothing.
    world.write("[Nothing]\n", "");
    proxy.signal("HUP");
    let mut lines = std::io::BufRead::lines(errors).map(Result::unwrap);
    assert!(lines.any(|line| line.contains("the configuration stays as it was")));
    echo(b"last");
    assert_eq!(exchange(connect(second), b"still"), b"still");
}

#[test]
fn connections_are_limited() {
    let world = World::new();
    let port = free_port();
    let service = format!("[TCPClientTunnel]\nBindAddress = 127.0.0.1:{port}\nTarget = 10.9.0.1:7\n");
    let _proxy = world.proxy(&format!("{service}[Limits]\nMaxConnections = 1\n"));
    // The connection that waited for the listener is gone when another one is served.
    let echoes = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = [0; 1];
        stream.write_all(b"x").is_ok() && stream.read(&mut answer).is_ok_and(|length| length == 1)
    };
    let mut one = connect(port);
    harness::wait("a first connection", || {
        let served = echoes(&mut one);
        if !served {
            one = connect(port);
        }
        served
    });
    assert!(!echoes(&mut connect(port)), "one is the limit");
    drop(one);
    harness::wait("room for another", || echoes(&mut connect(port)));
}

#[test]
fn names_are_looked_up_in_the_tunnel() {
    let world = World::new();
    let (port, sni) = (free_port(), free_port());
    let services = format!(
        "[TCPClientTunnel]\nBindAddress = 127.0.0.1:{port}\nTarget = name.test:7\n\
         [SNI]\nBindAddress = 127.0.0.1:{sni}\n"
    );
    world.write(&services, "DNS = 10.9.0.1\n");
    let _proxy = world.proxy_as_written();
    assert_eq!(exchange(connect(port), b"by name"), b"by name");
    let part = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
    let names = part(&[&[0][..], &part(b"www.test")].concat());
    let extensions = part(&[&[0, 0][..], &part(&names)].concat());
    let body = [&[3; 34][..], &[0, 0, 2, 0x13, 1, 1, 0], &extensions].concat();
    let hello = part(&[&[1, 0][..], &part(&body)].concat());
    let hello = [&[22, 3, 1][..], &hello].concat();
    let mut stream = connect(sni);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
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
    let (socks, http) = (free_port(), free_port());
    let _proxy =
        world.proxy(&format!("[Socks5]\nBindAddress = 127.0.0.1:{socks}\n[http]\nBindAddress = 127.0.0.1:{http}\n"));
    for proxy in [format!("socks5h://127.0.0.1:{socks}"), format!("http://127.0.0.1:{http}")] {
        let limit = PATIENCE.as_secs().to_string();
        let run = Command::new("curl").args(["-sS", "-m", &limit, "-x", &proxy, "http://10.9.0.1/"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&run.stdout), "hello\n", "{proxy}: {run:?}");
    }
}
