//! An HTTP proxy that is spoken to over TLS.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use crate::harness::{PATIENCE, Proxy, World, connect};

fn files() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/proxy/tls")
}

/// Starts a proxy that speaks TLS.
fn serve(world: &World) -> Proxy {
    for name in ["cert.pem", "key.pem"] {
        std::fs::copy(files().join(name), world.directory().join(name)).unwrap();
    }
    world.proxy("[http]\nBindAddress = 127.0.0.1:0\nCertFile = cert.pem\nKeyFile = key.pem\n")
}

type Client = StreamOwned<ClientConnection, TcpStream>;

fn client(port: u16) -> Client {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(files().join("cert.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let socket = connect(port);
    let name = ServerName::try_from("proxy.test").unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), socket)
}

#[test]
fn tunnels_and_errors_over_tls() {
    let world = World::new();
    let proxy = serve(&world);
    let port = proxy.port(0);
    let mut tunnel = client(port);
    tunnel.write_all(b"CONNECT 10.9.0.1:7 HTTP/1.1\r\n\r\n").unwrap();
    let mut head = [0; 39];
    tunnel.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 Connection established\r\n\r\n");
    // More than all buffers hold.
    let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n >> 8) as u8 ^ n as u8).collect();
    let mut answer = Vec::new();
    let mut buf = vec![0; 1 << 16];
    for part in data.chunks(50_000) {
        tunnel.write_all(part).unwrap();
        while answer.len() + 400_000 < data.len()
            && answer.len() + 100_000 < part.as_ptr() as usize - data.as_ptr() as usize
        {
            let length = tunnel.read(&mut buf).unwrap();
            answer.extend(&buf[..length]);
        }
    }
    tunnel.conn.send_close_notify();
    tunnel.flush().unwrap();
    tunnel.read_to_end(&mut answer).unwrap();
    assert!(answer == data, "{} bytes came back", answer.len());
    let mut refused = client(port);
    refused.write_all(b"BREW / HTTP/1.1\r\n\r\n").unwrap();
    let mut text = String::new();
    refused.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 405 "), "{text}");
    // Without TLS there is an alert, and an end.
    let mut plain = connect(port);
    plain.write_all(b"CONNECT 10.9.0.1:7 HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

/// What the tunnel has sent last waits in the session when the client does not read.
#[test]
fn a_download_has_its_end() {
    let world = World::new();
    let proxy = serve(&world);
    let port = proxy.port(0);
    let listener = world.stack.listen_tcp("10.9.0.1:81".parse().unwrap(), 1).unwrap();
    let server = std::thread::spawn(move || {
        while let Ok(server) = listener.accept(Some(PATIENCE)) {
            let mut size = String::new();
            (&server).read_to_string(&mut size).unwrap();
            let Ok(size) = size.parse() else { return };
            (&server).write_all(&vec![b'x'; size]).unwrap();
            server.shutdown(Shutdown::Write).unwrap();
        }
    });
    // Where the end falls among the fills of the socket's buffer is different for each.
    for size in (0..24).map(|n| 5_000_000 + n * 48_000) {
        assert_eq!(download(client(port), size), size);
    }
    drop(ask(client(port), "end"));
    server.join().unwrap();
}

/// Requests this many bytes and reads them slowly. Returns how many arrived before the end.
fn download(client: Client, size: usize) -> usize {
    let mut client = ask(client, &size.to_string());
    let mut buf = vec![0; 32 << 10];
    let mut came = 0;
    loop {
        match client.read(&mut buf) {
            Ok(0) => return came,
            Ok(length) => came += length,
            Err(error) => panic!("after {came} of {size}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sends a text to the server of the downloads.
fn ask(mut client: Client, text: &str) -> Client {
    client.write_all(b"CONNECT 10.9.0.1:81 HTTP/1.1\r\n\r\n").unwrap();
    client.read_exact(&mut [0; 39]).unwrap();
    client.write_all(text.as_bytes()).unwrap();
    client.conn.send_close_notify();
    client.flush().unwrap();
    client
}

/// An end of TLS, and not of TCP alone: that would be an error of the client's.
#[test]
fn a_signal_ends_sessions() {
    let world = World::new();
    let mut proxy = serve(&world);
    let mut tunnel = client(proxy.port(0));
    tunnel.write_all(b"CONNECT 10.9.0.1:7 HTTP/1.1\r\n\r\n").unwrap();
    tunnel.read_exact(&mut [0; 39]).unwrap();
    let mut talking = client(proxy.port(0));
    talking.write_all(b"CONNECT 10.9.0.1").unwrap();
    while talking.conn.is_handshaking() {
        talking.conn.complete_io(&mut talking.sock).unwrap();
    }
    proxy.signal("TERM");
    assert_eq!(tunnel.read(&mut [0]).unwrap(), 0);
    assert_eq!(talking.read(&mut [0]).unwrap(), 0);
    assert!(proxy.child.wait().unwrap().success());
}

#[test]
fn files_are_checked_with_the_configuration() {
    let world = World::new();
    std::fs::copy(files().join("cert.pem"), world.directory().join("cert.pem")).unwrap();
    std::fs::write(world.directory().join("key.pem"), "secret").unwrap();
    for (keys, error) in [
        ("CertFile = cert.pem\n", "KeyFile: missing"),
        ("KeyFile = key.pem\n", "CertFile: missing"),
        ("CertFile = cert.pem\nKeyFile = key.pem\n", "CertFile: the key"),
        ("CertFile = cert.pem\nKeyFile = nothing.pem\n", "KeyFile: cannot be read"),
    ] {
        world.write(&format!("[http]\nBindAddress = 127.0.0.1:1\n{keys}"), "");
        let output = Proxy::command(&world).arg("-n").output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && errors.contains(error), "{errors}");
        assert!(!errors.contains("secret"), "{errors}");
    }
}
