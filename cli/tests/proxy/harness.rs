//! A network in this process, and a proxy that is connected to it.

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use wg_embed::{
    bind::udp::UdpBind,
    config::{AllowedIpUpdate, PeerUpdate, Update},
    device::{Options as TunnelOptions, Tunnel},
    key::PrivateKey,
    random::SystemRandom,
    sync::lock,
};
use wg_embed_netstack::{Netstack, Options};

pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// The network: 10.9.0.1 and fd00::1 with echoes at ports 7 and 443, DNS, a web server at port 80, and at port 19 a
/// server that ends first and then reads. Names that begin with "slow" have no answer. The proxy has 10.9.0.2 and
/// fd00::2.
pub(crate) struct World {
    pub(crate) stack: Netstack,
    tunnel: Tunnel,
    key: PrivateKey,
    peer: PrivateKey,
    directory: PathBuf,
    /// What the server at port 19 has read, each connection to its end.
    pub(crate) read: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_addresses(&[])
    }

    /// These addresses are on the proxy's side, too.
    pub(crate) fn with_addresses(others: &[IpAddr]) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("wg-embed-proxy-{}-{number}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let addresses = vec!["10.9.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let stack = Netstack::new(Options { addresses, ..Options::default() }).unwrap();
        let bind = Arc::new(UdpBind::new().unwrap());
        let tunnel = Tunnel::start(stack.tun(), bind, TunnelOptions::default()).unwrap();
        let [key, peer] = [(); 2].map(|()| PrivateKey::generate_with(&SystemRandom));
        let mut update = PeerUpdate::new(peer.public_key());
        let allow = |text: &str| AllowedIpUpdate::add(text.parse().unwrap());
        update.allowed_ips = vec![allow("10.9.0.2/32"), allow("fd00::2/128")];
        update
            .allowed_ips
            .extend(others.iter().map(|ip| allow(&format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 }))));
        let update = Update {
            private_key: Some(Some(key.clone())),
            listen_port: Some(0),
            peers: vec![update],
            ..Update::default()
        };
        tunnel.device().apply(update).unwrap();
        tunnel.device().up().unwrap();
        let read = Arc::default();
        serve(&stack, &read);
        Self { stack, tunnel, key, peer, directory, read }
    }

    pub(crate) fn directory(&self) -> &std::path::Path {
        &self.directory
    }

    /// Writes the proxy's configuration.
    pub(crate) fn write(&self, services: &str, interface: &str) {
        let text = format!(
            "[Interface]\nAddress = 10.9.0.2/24, fd00::2\nPrivateKey = {}\n{interface}[Peer]\nPublicKey = {}\n\
             Endpoint = 127.0.0.1:{}\nPersistentKeepalive = 1\n{services}",
            self.peer.to_base64().as_str(),
            self.key.public_key(),
            self.tunnel.device().listen_port()
        );
        fs::write(self.directory.join("proxy.conf"), text).unwrap();
    }

    /// Starts a proxy.
    pub(crate) fn start(&self, services: &str) -> Proxy {
        self.write(services, "");
        Proxy::start(&mut Proxy::command(self))
    }

    /// Starts a proxy, and waits until its tunnel works.
    pub(crate) fn proxy(&self, services: &str) -> Proxy {
        let proxy = self.start(services);
        self.wait_for_tunnel();
        proxy
    }

    /// Starts a proxy with what was written, and waits until its tunnel works.
    pub(crate) fn proxy_as_written(&self) -> Proxy {
        let proxy = Proxy::start(&mut Proxy::command(self));
        self.wait_for_tunnel();
        proxy
    }

    /// Starts a proxy that serves information, at the address of [`Proxy::info`].
    pub(crate) fn proxy_with_info(&self, services: &str, interface: &str) -> Proxy {
        self.write(services, interface);
        let proxy = Proxy::start(Proxy::command(self).args(["-i", "127.0.0.1:0"]));
        self.wait_for_tunnel();
        proxy
    }

    pub(crate) fn wait_for_tunnel(&self) {
        let address = "10.9.0.2".parse().unwrap();
        wait("the tunnel", || self.stack.ping(address, 8, Duration::from_millis(500)).is_ok());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stack.close();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Serves until the stack is closed.
fn serve(stack: &Netstack, all: &Arc<Mutex<Vec<Vec<u8>>>>) {
    let everywhere = |port: u16| std::net::SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port);
    for port in [7, 443] {
        let echo = stack.listen_tcp(everywhere(port), 16).unwrap();
        thread::spawn(move || {
            while let Ok(stream) = echo.accept(None) {
                thread::spawn(move || {
                    let mut buf = [0; 16 << 10];
                    while let Ok(length) = (&stream).read(&mut buf) {
                        if length == 0 || (&stream).write_all(&buf[..length]).is_err() {
                            break;
                        }
                    }
                    let _ = stream.shutdown(Shutdown::Write);
                });
            }
        });
    }
    let first = stack.listen_tcp(everywhere(19), 16).unwrap();
    let all = all.clone();
    thread::spawn(move || {
        while let Ok(stream) = first.accept(None) {
            let all = all.clone();
            thread::spawn(move || {
                let _ = (&stream).write_all(b"bye");
                let _ = stream.shutdown(Shutdown::Write);
                let mut read = Vec::new();
                let _ = (&stream).read_to_end(&mut read);
                lock(&all).push(read);
            });
        }
    });
    let dns = stack.bind_udp(everywhere(53), None).unwrap();
    thread::spawn(move || {
        let mut buf = [0; 2048];
        while let Ok((length, from)) = dns.recv(&mut buf, None) {
            if !buf[13..length].to_ascii_lowercase().starts_with(b"slow") {
                let _ = dns.try_send(&answer(&buf[..length]), Some(from));
            }
        }
    });
    let web = stack.listen_tcp(everywhere(80), 16).unwrap();
    thread::spawn(move || {
        while let Ok(stream) = web.accept(None) {
            let mut head = Vec::new();
            let mut buf = [0; 1024];
            while !head.ends_with(b"\r\n\r\n")
                && let Ok(length) = (&stream).read(&mut buf)
                && length > 0
            {
                head.extend(&buf[..length]);
            }
            let _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n");
            let _ = stream.shutdown(Shutdown::Write);
        }
    });
    let udp = stack.bind_udp(everywhere(7), None).unwrap();
    thread::spawn(move || {
        let mut buf = [0; 2048];
        while let Ok((length, from)) = udp.recv(&mut buf, None) {
            let _ = udp.try_send(&buf[..length], Some(from));
        }
    });
}

/// The DNS answer for each name: 10.9.0.1, and no IPv6 address.
fn answer(query: &[u8]) -> Vec<u8> {
    let mut end = 12;
    while query[end] != 0 {
        end += 1 + usize::from(query[end]);
    }
    let question = &query[12..end + 5];
    let is_a = query[end + 2] == 1;
    let counts = [0, 1, 0, u8::from(is_a), 0, 0, 0, 0];
    let record: &[u8] = if is_a { &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 9, 0, 1] } else { &[] };
    [&query[..2], &[0x81, 0x80], &counts, question, record].concat()
}

/// A running proxy, which is killed at the end.
pub(crate) struct Proxy {
    pub(crate) child: Child,
    /// What it has logged: everything.
    log: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub(crate) fn command(world: &World) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wg-embed"));
        command.arg("proxy").arg("-c").arg(world.directory.join("proxy.conf"));
        command
    }

    pub(crate) fn start(command: &mut Command) -> Self {
        command.env("LOG_LEVEL", "debug").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = Arc::<Mutex<Vec<String>>>::default();
        let (lines, seen) = (BufReader::new(child.stderr.take().unwrap()).lines(), log.clone());
        thread::spawn(move || lines.map_while(Result::ok).for_each(|line| lock(&seen).push(line)));
        Self { child, log }
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    pub(crate) fn log(&self) -> Vec<String> {
        lock(&self.log).clone()
    }

    /// Waits for a line of the log that has this text.
    pub(crate) fn wait_for_log(&self, text: &str) {
        wait(text, || self.log().iter().any(|line| line.contains(text)));
    }

    /// The port of a service, counted from the first one that has a port on this side; those of a reload come after
    /// those before. It waits until there is one.
    pub(crate) fn port(&self, number: usize) -> u16 {
        self.served("serving [", number)
    }

    /// The port where information is served.
    pub(crate) fn info(&self) -> u16 {
        self.served("serving information", 0)
    }

    fn served(&self, what: &str, number: usize) -> u16 {
        let mut port = None;
        wait("a port", || {
            let log = self.log();
            let addresses = log.iter().filter(|line| line.contains(what)).filter_map(|line| {
                let (_, address) = line.rsplit_once(" at ")?;
                address.parse::<SocketAddr>().ok()
            });
            port = addresses.map(|address| address.port()).nth(number);
            port.is_some()
        });
        port.unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the proxy's log:\n{}", self.log().join("\n"));
        }
    }
}

/// A port that was free a moment ago: for a program that cannot report which one it has taken. The system does not
/// choose ports below 32768 for others.
pub(crate) fn free_port() -> u16 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(61).wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + (number % 20_000) as u16;
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(_) => return port,
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => panic!("127.0.0.1:{port}: {error}"),
        }
    }
}

/// Sends bytes, half-closes, and reads to the end.
pub(crate) fn exchange(mut stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

/// A section of a service that passes all connections to the echo.
pub(crate) const ECHO: &str = "[TCPClientTunnel]\nBindAddress = 127.0.0.1:0\nTarget = 10.9.0.1:7\n";

/// Connects, as soon as there is a listener.
pub(crate) fn connect(port: u16) -> TcpStream {
    let mut stream = None;
    wait("a listener", || {
        stream = TcpStream::connect(("127.0.0.1", port)).ok();
        stream.is_some()
    });
    let stream = stream.unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Waits for a condition.
pub(crate) fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "{what} did not come");
        thread::sleep(Duration::from_millis(20));
    }
}
