//! What the tests share: two stacks in memory, joined by a simulated link under a clock that is turned by hand.
#![allow(clippy::unwrap_used, clippy::panic, dead_code, unreachable_pub, reason = "each test crate uses a part of it")]

pub mod packets;
pub mod pumps;
pub mod segments;
pub mod tunnels;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

pub use tunnels::{A, A6, B, B6};
use wg_embed::{
    random::Random,
    time::{Clock, Instant, ManualClock},
    tun::{PacketArena, PacketList, Tun},
};
use wg_embed_netstack::{Netstack, Notify, Options, TcpStream};

pub const MTU: u16 = 1420;

/// Numbers that are the same in each run.
pub struct Seeded(AtomicU64);

impl Seeded {
    pub const fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// SplitMix64.
    pub fn next(&self) -> u64 {
        let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// True `per_mille` times in a thousand.
    pub fn chance(&self, per_mille: u64) -> bool {
        self.next() % 1000 < per_mille
    }
}

impl Random for Seeded {
    fn fill(&self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_ne_bytes()[..chunk.len()]);
        }
    }
}

/// A stack and its tunnel's end.
pub struct Node {
    pub stack: Netstack,
    pub tun: Arc<dyn Tun>,
    arena: Mutex<PacketArena>,
}

impl Node {
    pub fn new(options: Options) -> Self {
        let stack = Netstack::new(options).unwrap();
        let tun = stack.tun();
        // As large as a tunnel's.
        let arena = PacketArena::new(512 << 10, 512, |len, mtu| len.next_multiple_of(16).min(mtu.max(len)));
        Self { stack, tun, arena: Mutex::new(arena) }
    }

    /// All packets that it has to send now.
    pub fn take(&self) -> Vec<Vec<u8>> {
        let mut arena = self.arena.lock().unwrap();
        let mut packets = Vec::new();
        loop {
            arena.clear(self.tun.mtu());
            match self.tun.read(&mut arena) {
                Ok(0) | Err(_) => return packets,
                Ok(_) => packets.extend(arena.slots().iter().map(|slot| arena.packet(*slot).to_vec())),
            }
        }
    }

    /// Gives it packets, all at once.
    pub fn give(&self, packets: &[Vec<u8>]) {
        let mut ranges = Vec::new();
        let mut buffer = Vec::new();
        for packet in packets {
            ranges.push(buffer.len()..buffer.len() + packet.len());
            buffer.extend(packet);
        }
        if !ranges.is_empty() {
            self.tun.write(PacketList { buffer: &buffer, ranges: &ranges });
        }
    }

    pub fn drops(&self, name: &str) -> u64 {
        let drops = self.stack.drops();
        drops.iter().find(|drop| drop.0 == name).unwrap_or_else(|| panic!("no counter {name}: {drops:?}")).1
    }

    /// Whether nothing is left: no connections in any table, no bytes.
    pub fn is_empty(&self) -> bool {
        let stats = self.stack.stats();
        (stats.connections, stats.half_open, stats.time_wait, stats.memory) == (0, 0, 0, 0)
    }
}

/// What happens to packets on their way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Path {
    pub delay: Duration,
    /// Of a thousand packets, so many are lost; so many come again; so many are late, by up to `late`.
    pub loss: u64,
    pub twice: u64,
    pub reordered: u64,
    pub late: Duration,
}

impl Path {
    /// How long each copy of a packet takes.
    pub fn copies(&self, chance: &Seeded) -> Vec<Duration> {
        let copies = if chance.chance(self.loss) { 0 } else { 1 + usize::from(chance.chance(self.twice)) };
        let time = |_| {
            let is_late = chance.chance(self.reordered);
            let late = if is_late { self.late.mul_f64((chance.next() % 1000) as f64 / 1000.0) } else { Duration::ZERO };
            self.delay + late
        };
        (0..copies).map(time).collect()
    }
}

/// When which packet arrives where (true: at `b`).
type OnTheWay = BTreeMap<(Instant, u64), (bool, Vec<u8>)>;

/// Two stacks, a path between them, a clock.
pub struct World {
    pub clock: Arc<ManualClock>,
    pub a: Node,
    pub b: Node,
    pub path: Mutex<Path>,
    chance: Seeded,
    on_the_way: Mutex<OnTheWay>,
    sent: AtomicU64,
}

impl World {
    pub fn new() -> Self {
        Self::with(|_| {}, |_| {})
    }

    /// With other options than the default ones.
    pub fn with(a: impl FnOnce(&mut Options), b: impl FnOnce(&mut Options)) -> Self {
        let clock = Arc::new(ManualClock::new());
        let options = |addresses: [&str; 2], seed| Options {
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            mtu: MTU,
            clock: clock.clone(),
            random: Arc::new(Seeded::new(seed)),
            ..Options::default()
        };
        let (mut for_a, mut for_b) = (options([A, A6], 1), options([B, B6], 2));
        a(&mut for_a);
        b(&mut for_b);
        Self {
            a: Node::new(for_a),
            b: Node::new(for_b),
            clock,
            path: Mutex::default(),
            chance: Seeded::new(3),
            on_the_way: Mutex::default(),
            sent: AtomicU64::new(0),
        }
    }

    fn send(&self, to_b: bool, packets: Vec<Vec<u8>>) {
        let path = *self.path.lock().unwrap();
        let now = self.clock.now();
        let mut on_the_way = self.on_the_way.lock().unwrap();
        for packet in packets {
            for late in path.copies(&self.chance) {
                let number = self.sent.fetch_add(1, Ordering::Relaxed);
                on_the_way.insert((now + late, number), (to_b, packet.clone()));
            }
        }
    }

    /// Delivers what arrives now; returns how many packets that were.
    fn deliver(&self) -> usize {
        let now = self.clock.now();
        let mut arrived = [Vec::new(), Vec::new()];
        let mut on_the_way = self.on_the_way.lock().unwrap();
        while let Some(entry) = on_the_way.first_entry().filter(|entry| entry.key().0 <= now) {
            let (to_b, packet) = entry.remove();
            arrived[usize::from(to_b)].push(packet);
        }
        drop(on_the_way);
        self.a.give(&arrived[0]);
        self.b.give(&arrived[1]);
        arrived.iter().map(Vec::len).sum()
    }

    /// One round at this time; returns how many packets moved.
    pub fn step(&self) -> usize {
        let (from_a, from_b) = (self.a.take(), self.b.take());
        let sent = from_a.len() + from_b.len();
        self.send(true, from_a);
        self.send(false, from_b);
        sent + self.deliver()
    }

    /// Moves packets until none moves at this time.
    pub fn settle(&self) {
        while self.step() > 0 {}
    }

    /// Lets time pass, a millisecond at a time, and calls `act` at each.
    pub fn pass_with(&self, time: Duration, mut act: impl FnMut()) {
        let end = self.clock.now() + time;
        self.settle();
        while self.clock.now() < end {
            let next = (self.clock.now() + Duration::from_millis(1)).min(end);
            let arrival = self.on_the_way.lock().unwrap().first_key_value().map_or(next, |(key, _)| key.0);
            self.clock.advance_to(next.min(arrival.max(self.clock.now() + Duration::from_nanos(1))));
            act();
            self.settle();
        }
    }

    pub fn pass(&self, time: Duration) {
        self.pass_with(time, || {});
    }

    /// Lets time pass in large steps: for what ends after minutes.
    pub fn pass_coarsely(&self, time: Duration) {
        let end = self.clock.now() + time;
        self.settle();
        while self.clock.now() < end {
            self.clock.advance_to((self.clock.now() + Duration::from_millis(250)).min(end));
            self.settle();
        }
    }

    /// Lets time pass until `done`, at most `limit` of it.
    pub fn until(&self, limit: Duration, mut done: impl FnMut() -> bool) {
        let end = self.clock.now() + limit;
        loop {
            self.settle();
            if done() {
                return;
            }
            assert!(self.clock.now() < end, "it did not come within {limit:?}");
            let next = self.clock.now() + Duration::from_millis(1);
            let arrival = self.on_the_way.lock().unwrap().first_key_value().map_or(next, |(key, _)| key.0);
            self.clock.advance_to(next.min(arrival.max(self.clock.now() + Duration::from_nanos(1))));
        }
    }

    /// A connection from `a` to a listener of `b` that exists for this alone.
    pub fn connect(&self) -> (TcpStream, TcpStream) {
        self.connect_to(B, 80)
    }

    pub fn connect_to(&self, host: &str, port: u16) -> (TcpStream, TcpStream) {
        let at = SocketAddr::new(host.parse().unwrap(), port);
        let listener = self.b.stack.listen_tcp(at, 8).unwrap();
        let client = self.a.stack.start_tcp(at).unwrap();
        let mut server = None;
        self.until(Duration::from_secs(60), || {
            server = server.take().or_else(|| listener.try_accept().ok());
            server.is_some() && client.is_established()
        });
        (client, server.unwrap())
    }
}

/// Counts notifications.
#[derive(Default)]
pub struct Told(AtomicUsize);

impl Told {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn times(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Notify for Told {
    fn notify(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Everything that can be read now; and whether the end or an error came.
pub fn read_all(stream: &TcpStream) -> (Vec<u8>, Option<io::Result<()>>) {
    let mut data = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.try_read(&mut buffer) {
            Ok(0) => return (data, Some(Ok(()))),
            Ok(n) => data.extend(&buffer[..n]),
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => return (data, None),
            Err(err) => return (data, Some(Err(err))),
        }
    }
}

/// The kind of the error.
pub fn kind<T>(result: io::Result<T>) -> io::ErrorKind {
    match result {
        Ok(_) => panic!("it did not fail"),
        Err(err) => err.kind(),
    }
}

/// Bytes in which each position can be told.
pub fn pattern(len: usize) -> Vec<u8> {
    let seed = Seeded::new(len as u64);
    let mut bytes = vec![0; len];
    seed.fill(&mut bytes);
    bytes
}
