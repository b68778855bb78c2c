//! A look-up against a DNS server that others have written.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;
#[path = "common/dns_server.rs"]
mod dns_server;
#[path = "../../tests/common/skip.rs"]
mod skip;

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::{B, World};
use dns_server::DnsServer;
use wg_embed_netstack::dns::Family;

const LIMIT: Duration = Duration::from_secs(300);

/// A dnsmasq on a port of the loopback interface, for the time of a test.
struct Dnsmasq(Child, SocketAddr);

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Dnsmasq {
    /// `None` if it is not installed.
    fn start() -> Option<Self> {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let port = format!("--port={}", free.port());
        let mut command = Command::new("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
        ]);
        command.args(["--pid-file=", "--user=", "--group=", "--listen-address=127.0.0.1", &port]);
        command.args(["--local=/example/", "--local-ttl=60", "--host-record=www.example,192.0.2.1,2001:db8::1"]);
        command.args(["--cname=alias.example,www.example", "--host-record=four.example,192.0.2.4"]);
        command.args((0..200).map(|n| format!("--host-record=many.example,198.51.100.{n}")));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = match command.spawn() {
            Err(e) if e.kind() == ErrorKind::NotFound => return None,
            child => child.unwrap(),
        };
        let this = Self(child, free);
        let end = Instant::now() + LIMIT;
        while TcpStream::connect(free).is_err() {
            assert!(Instant::now() < end, "dnsmasq does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        Some(this)
    }

    /// Its answer to a query.
    fn ask(&self, query: &[u8], tcp: bool) -> Vec<u8> {
        if tcp {
            let mut stream = TcpStream::connect(self.1).unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            stream.write_all(&[&u16::try_from(query.len()).unwrap().to_be_bytes(), query].concat()).unwrap();
            let mut len = [0; 2];
            stream.read_exact(&mut len).unwrap();
            let mut answer = vec![0; usize::from(u16::from_be_bytes(len))];
            stream.read_exact(&mut answer).unwrap();
            answer
        } else {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            socket.connect(self.1).unwrap();
            socket.send(query).unwrap();
            let mut answer = vec![0; 4096];
            let len = socket.recv(&mut answer).unwrap();
            answer.truncate(len);
            answer
        }
    }
}

#[test]
fn dnsmasq_is_understood() {
    let Some(dnsmasq) = Dnsmasq::start() else {
        skip::skipped("dnsmasq is not installed");
        return;
    };
    let world = World::with(|a| a.dns = vec![B.parse().unwrap()], |_| {});
    let mut server = DnsServer::new(&world.b.stack);
    let mut resolve = |name: &str, family| {
        let lookup = world.a.stack.start_resolve(name, family, LIMIT).unwrap();
        let mut outcome = None;
        world.until(LIMIT, || {
            server.step(&mut |query, tcp| Some(dnsmasq.ask(query, tcp)));
            outcome = Some(lookup.try_finish().map_err(|e| e.kind()));
            outcome != Some(Err(ErrorKind::WouldBlock))
        });
        (outcome.unwrap(), server.tcp_queries.len())
    };
    let ips = |texts: &[&str]| Ok(texts.iter().map(|text| text.parse::<IpAddr>().unwrap()).collect::<Vec<_>>());
    assert_eq!(resolve("www.example", Family::Any), (ips(&["2001:db8::1", "192.0.2.1"]), 0));
    assert_eq!(resolve("Alias.Example.", Family::PreferIpv4), (ips(&["192.0.2.1", "2001:db8::1"]), 0));
    assert_eq!(resolve("four.example", Family::Any), (ips(&["192.0.2.4"]), 0));
    assert_eq!(resolve("four.example", Family::Ipv6), (Err(ErrorKind::NotFound), 0));
    assert_eq!(resolve("no.example", Family::Any), (Err(ErrorKind::NotFound), 0));
    // Nobody is there to be asked: it refuses.
    assert_eq!(resolve("www.example.org", Family::Any), (Err(ErrorKind::Other), 0));
    let (many, over_tcp) = resolve("many.example", Family::Ipv4);
    assert_eq!((many.unwrap().len(), over_tcp), (32, 1));
}
