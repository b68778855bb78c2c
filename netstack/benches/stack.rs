//! What two stacks in one thread cost, without a tunnel: bulk data, a round trip among many connections, an idle
//! connection's memory. `cargo bench -p wg-embed-netstack --bench stack`, or with the names of some: `-- bulk 100`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a benchmark may fail loudly")]

use std::{ops::Range, sync::Arc, time::Duration};

use wg_embed::{
    time::{Clock, Instant, SystemClock},
    tun::{PacketArena, PacketList, Tun},
};
use wg_embed_netstack::{Netstack, Options, TcpStream};

struct Node {
    stack: Netstack,
    tun: Arc<dyn Tun>,
    arena: PacketArena,
    ranges: Vec<Range<usize>>,
}

impl Node {
    fn new(address: &str) -> Self {
        let addresses = vec![address.parse().unwrap()];
        let stack = Netstack::new(Options { addresses, ..Options::default() }).unwrap();
        let tun = stack.tun();
        let arena = PacketArena::new(512 << 10, 256, |len, _| len.next_multiple_of(16));
        Self { stack, tun, arena, ranges: Vec::new() }
    }

    /// Moves what there is to the other one; returns how many packets that were.
    fn pass_to(&mut self, other: &Self) -> usize {
        self.arena.clear(self.tun.mtu());
        let read = self.tun.read(&mut self.arena).unwrap();
        if read > 0 {
            self.ranges.clear();
            self.ranges.extend(self.arena.slots().iter().map(|slot| slot.start..slot.start + slot.len));
            other.tun.write(PacketList { buffer: self.arena.bytes(), ranges: &self.ranges });
        }
        read
    }
}

/// Processor time: the machine may have other things to do.
fn worked_since(began: Instant) -> Duration {
    SystemClock.worked().since(began)
}

fn settle(a: &mut Node, b: &mut Node) {
    while a.pass_to(b) + b.pass_to(a) > 0 {}
}

fn connect(a: &mut Node, b: &mut Node, port: u16, count: usize) -> Vec<(TcpStream, TcpStream)> {
    let at = format!("10.0.0.2:{port}").parse().unwrap();
    let listener = b.stack.listen_tcp(at, 1000).unwrap();
    let mut all = Vec::new();
    while all.len() < count {
        let count = 500.min(count - all.len());
        let mut clients: Vec<_> = (0..count).map(|_| a.stack.start_tcp(at).unwrap()).collect();
        settle(a, b);
        // They may have come in another order.
        let mut servers: Vec<_> = clients.iter().map(|_| listener.try_accept().unwrap()).collect();
        clients.sort_by_key(|client| client.local_addr().port());
        servers.sort_by_key(|server| server.peer_addr().port());
        all.extend(clients.into_iter().zip(servers));
    }
    all
}

fn bulk(a: &mut Node, b: &mut Node) {
    const BYTES: usize = 4 << 30;
    let (client, server) = connect(a, b, 1, 1).pop().unwrap();
    let data = vec![7; 256 << 10];
    let mut buffer = vec![0; 256 << 10];
    let (mut read, mut packets) = (0, 0);
    let began = SystemClock.worked();
    while read < BYTES {
        while client.try_write(&data).is_ok() {}
        packets += a.pass_to(b);
        while let Ok(n) = server.try_read(&mut buffer) {
            read += n;
        }
        packets += b.pass_to(a);
    }
    let time = worked_since(began).as_secs_f64();
    let gigabytes = read as f64 / 1e9;
    println!(
        "bulk: {:.1} Gbit/s, {:.3} s/GB for both sides together, {:.0} ns a packet",
        gigabytes * 8.0 / time,
        time / gigabytes,
        time * 1e9 / packets as f64
    );
}

fn round_trips(a: &mut Node, b: &mut Node, port: u16, count: usize) {
    let before = resident();
    let all = connect(a, b, port, count);
    if count > 1 {
        println!("{count} idle connections: {} bytes each side", (resident() - before) / count / 2);
    }
    let mut buffer = [0; 64];
    let rounds = 200_000.max(count * 4);
    let began = SystemClock.worked();
    for n in 0..rounds {
        let (client, server) = &all[n * 7919 % count];
        client.try_write(&[1; 64]).unwrap();
        // Now and then, delayed ACKs of others are ahead of it.
        while server.try_read(&mut buffer).is_err() {
            a.pass_to(b);
        }
        server.try_write(&buffer).unwrap();
        while client.try_read(&mut buffer).is_err() {
            b.pass_to(a);
        }
    }
    let each = worked_since(began) / rounds as u32;
    println!("64-byte round trip, {count} connections: {:.2} us", each.as_secs_f64() * 1e6);
}

fn connections(a: &mut Node, b: &mut Node) {
    const COUNT: u32 = 20_000;
    let at = "10.0.0.2:3".parse().unwrap();
    let listener = b.stack.listen_tcp(at, 1000).unwrap();
    let began = SystemClock.worked();
    for _ in 0..COUNT {
        let client = a.stack.start_tcp(at).unwrap();
        settle(a, b);
        drop((listener.try_accept().unwrap(), client));
        settle(a, b);
    }
    println!("connection, made and closed: {:.1} us", (worked_since(began) / COUNT).as_secs_f64() * 1e6);
}

/// Bytes of memory that the process has.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

fn main() {
    // What `cargo test` runs is not a measurement.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let names: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let runs = |name: &str| names.is_empty() || names.iter().any(|given| given == name);
    let pair = || (Node::new("10.0.0.1"), Node::new("10.0.0.2"));
    let (mut a, mut b) = pair();
    if runs("bulk") {
        bulk(&mut a, &mut b);
    }
    if runs("connections") {
        connections(&mut a, &mut b);
    }
    for count in [1, 100, 10_000].into_iter().filter(|count| runs(&count.to_string())) {
        let (mut a, mut b) = pair();
        round_trips(&mut a, &mut b, 2, count);
    }
}
