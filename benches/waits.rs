//! How long packets wait while another thread changes or reads a large configuration: the longest round of the thread
//! that moves them, and the one that 999 of 1000 do not exceed.
//!
//! `cargo bench --bench waits`, or with `-- 3 10000 30000` for other numbers of rounds, peers and allowed IPs. Whatever
//! else the machine does counts as well, so each figure is that of the best round.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::{
    env,
    hint::black_box,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use ipnet::{IpNet, Ipv4Net};
use wg_embed::{
    bind::{Bind, mem::MemNetwork},
    config::{AllowedIpUpdate, PeerUpdate, Update},
    device::{Device, Inbound, Options, Outbound},
    key::{PrivateKey, PublicKey},
    random::SystemRandom,
    tun::mem::{MemHandle, MemTun},
    uapi::get_text,
};

/// The other end makes a new session this often, which takes us a handshake.
const HANDSHAKES: Duration = Duration::from_millis(50);

/// A device and what its thread works in.
struct End {
    device: Device,
    tun: MemHandle,
    key: PrivateKey,
    buffers: Mutex<(Outbound, Inbound)>,
}

impl End {
    fn new(net: &MemNetwork, n: u8) -> Self {
        let (tun, handle) = MemTun::new("bench", 1420);
        let bind: Arc<dyn Bind> = net.bind([192, 0, 2, n].into());
        let device = Device::new(Arc::new(tun), bind, Options { max_peers: usize::MAX, ..Options::default() });
        let key = PrivateKey::generate_with(&SystemRandom);
        let private_key = Some(Some(key.clone()));
        device.apply(Update { private_key, listen_port: Some(7), ..Update::default() }).unwrap();
        device.up().unwrap();
        Self { device, tun: handle, key, buffers: Mutex::default() }
    }

    /// One round of the thread that moves packets. Returns how long it took.
    fn round(&self) -> Duration {
        let (outbound, inbound) = &mut *self.buffers.lock().unwrap();
        let begin = Instant::now();
        self.device.outbound(outbound).unwrap();
        self.device.inbound(inbound).unwrap();
        self.device.run_timers();
        begin.elapsed()
    }
}

/// Two ends between which packets pass. The first one is configured.
struct Pair {
    near: End,
    far: End,
    /// The key that the near end has at other times.
    other_key: PrivateKey,
}

fn packet(to: Ipv4Addr) -> [u8; 64] {
    let mut packet = [0; 64];
    packet[..4].copy_from_slice(&[0x45, 0, 0, 64]);
    packet[12..16].copy_from_slice(&[10, 255, 0, 1]);
    packet[16..20].copy_from_slice(&to.octets());
    packet
}

fn peer(key: PublicKey, prefixes: impl Iterator<Item = Ipv4Net>) -> PeerUpdate {
    let give = |prefix| AllowedIpUpdate::add(IpNet::V4(prefix));
    let mut peer = PeerUpdate::new(key);
    peer.allowed_ips = prefixes.map(give).collect();
    peer
}

/// One of many peers: its number makes its key and its prefix.
fn one_of_many(n: u32) -> PeerUpdate {
    let mut key = [7; 32];
    key[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b1).to_le_bytes());
    peer(PublicKey::from_bytes(key), [Ipv4Addr::from(0x0a00_0000 + n).into()].into_iter())
}

fn hosts(from: u32, n: u32) -> impl Iterator<Item = Ipv4Net> {
    (0..n).map(move |i| Ipv4Net::from(Ipv4Addr::from(0x0b00_0000 + from + i)))
}

impl Pair {
    fn new() -> Self {
        let net = MemNetwork::new();
        let pair = Self {
            near: End::new(&net, 1),
            far: End::new(&net, 2),
            other_key: PrivateKey::generate_with(&SystemRandom),
        };
        for (key, inner) in [(&pair.near.key, 1), (&pair.other_key, 2)] {
            let mut near = peer(key.public_key(), [Ipv4Addr::new(10, 255, 0, inner).into()].into_iter());
            near.endpoint = Some(SocketAddr::from(([192, 0, 2, 1], 7)).into());
            pair.far.device.apply(Update { peers: vec![near], ..Update::default() }).unwrap();
        }
        pair.near.device.apply(Update { peers: vec![pair.far_peer()], ..Update::default() }).unwrap();
        pair
    }

    fn far_peer(&self) -> PeerUpdate {
        let mut far = peer(self.far.key.public_key(), [Ipv4Addr::new(10, 255, 1, 1).into()].into_iter());
        far.endpoint = Some(SocketAddr::from(([192, 0, 2, 2], 7)).into());
        far
    }

    /// Lets packets pass until `is_over`: both ways, and some that no peer wants. Returns how long each round took.
    fn pass_packets(&self, is_over: &AtomicBool) -> Vec<Duration> {
        let mut rounds = Vec::new();
        let mut handshake = Instant::now();
        while !is_over.load(SeqCst) {
            if handshake.elapsed() > HANDSHAKES {
                handshake = Instant::now();
                self.far.device.down();
                self.far.device.up().unwrap();
            }
            self.far.tun.inject(&packet(Ipv4Addr::new(10, 255, 0, 1)));
            self.far.round();
            for to in [Ipv4Addr::new(10, 255, 1, 1), Ipv4Addr::new(198, 51, 100, 1)] {
                self.near.tun.inject(&packet(to));
            }
            rounds.push(self.near.round());
            drop(self.near.tun.take_written());
            drop(self.far.tun.take_written());
        }
        rounds
    }

    fn apply(&self, peers: Vec<PeerUpdate>, replace_peers: bool) {
        self.near.device.apply(Update { peers, replace_peers, ..Update::default() }).unwrap();
    }

    fn set_key(&self, key: &PrivateKey) {
        self.near.device.apply(Update { private_key: Some(Some(key.clone())), ..Update::default() }).unwrap();
    }
}

/// What was measured while something was done.
#[derive(Clone, Copy)]
struct Measured {
    longest: Duration,
    p999: Duration,
    took: Duration,
}

fn measure(pair: &Pair, work: impl FnOnce()) -> Measured {
    let is_over = AtomicBool::new(false);
    let (mut rounds, took) = thread::scope(|s| {
        let packets = s.spawn(|| pair.pass_packets(&is_over));
        thread::sleep(Duration::from_millis(20));
        let begin = Instant::now();
        work();
        let took = begin.elapsed();
        thread::sleep(Duration::from_millis(5));
        is_over.store(true, SeqCst);
        (packets.join().unwrap(), took)
    });
    rounds.sort_unstable();
    Measured { longest: rounds[rounds.len() - 1], p999: rounds[rounds.len() * 999 / 1000], took }
}

/// What is done, by name, to a pair that `peers` others and `prefixes` of one of them are added to and taken away from.
fn work(pair: &Pair, peers: u32, prefixes: u32) -> Vec<(&'static str, Measured)> {
    let device = &pair.near.device;
    let owner = |key: u8, from: u32| {
        let mut owner = peer(PublicKey::from_bytes([key; 32]), hosts(from, prefixes));
        owner.replace_allowed_ips = true;
        vec![owner]
    };
    let many = |from: u32| {
        let mut all = vec![pair.far_peer()];
        all.extend((from..from + peers).map(one_of_many));
        all
    };
    // What `wg syncconf` sends: some go, some change, some come.
    let mut changed = many(peers);
    for (n, peer) in changed.iter_mut().enumerate().skip(1) {
        match n % 4 {
            0 => *peer = PeerUpdate { remove: true, ..PeerUpdate::new(peer.public_key) },
            1 => *peer = one_of_many(2 * peers + n as u32),
            _ => peer.replace_allowed_ips = true,
        }
    }
    let (first, second, third) = (owner(1, 0), owner(1, prefixes), owner(2, prefixes));
    let (some, others) = (many(0), many(peers));
    vec![
        ("nothing", measure(pair, || thread::sleep(Duration::from_secs(1)))),
        ("give a peer the allowed IPs", measure(pair, || pair.apply(first, false))),
        ("replace them", measure(pair, || pair.apply(second, false))),
        ("give them to another peer", measure(pair, || pair.apply(third, false))),
        ("replace all peers", measure(pair, || pair.apply(some, true))),
        ("replace all peers by others", measure(pair, || pair.apply(others, true))),
        ("add, change and remove peers", measure(pair, || pair.apply(changed, false))),
        ("change the private key", measure(pair, || pair.set_key(&pair.other_key))),
        ("change it back", measure(pair, || pair.set_key(&pair.near.key))),
        ("read it all back", measure(pair, || drop(black_box(get_text(device.snapshot()))))),
        ("ask for the memory", measure(pair, || _ = black_box(device.memory_usage()))),
        ("ask for all statistics", measure(pair, || _ = black_box(device.all_peer_stats().count()))),
        ("fresh sockets", measure(pair, || device.rebind().unwrap())),
        ("remove the peers", measure(pair, || pair.apply(vec![pair.far_peer()], true))),
        ("trim", measure(pair, || device.trim())),
    ]
}

fn main() {
    // cargo passes --bench.
    let mut numbers = env::args().skip(1).filter_map(|a| a.parse::<u32>().ok());
    let rounds = numbers.next().unwrap_or(5);
    let (peers, prefixes) = (numbers.next().unwrap_or(50_000), numbers.next().unwrap_or(150_000));
    let mut best = Vec::<(&str, Measured)>::new();
    for _ in 0..rounds {
        let pair = Pair::new();
        let all = work(&pair, peers, prefixes);
        if best.is_empty() {
            best.clone_from(&all);
        }
        for ((_, best), (_, one)) in best.iter_mut().zip(all) {
            best.longest = best.longest.min(one.longest);
            best.p999 = best.p999.min(one.p999);
            best.took = best.took.min(one.took);
        }
    }
    println!("{peers} peers, {prefixes} allowed IPs, the best of {rounds} rounds\n");
    println!(
        "| while another thread does this | took, ms | longest wait, ms | 99.9th percentile, ms |\n|---|---|---|---|"
    );
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    for (name, Measured { longest, p999, took }) in best {
        println!("| {name} | {:.1} | {:.2} | {:.2} |", ms(took), ms(longest), ms(p999));
    }
}
