//! How a device grows with its peers: time to configure, memory, and what a packet, an idle round and reading it all
//! back cost then.
//!
//! `cargo bench --bench many_peers`, or with `-- 1000 10000` for other numbers. Each number runs in a process of its
//! own, so that memory is measured separately.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::{
    env, fs,
    hint::black_box,
    net::Ipv4Addr,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::Ipv4Net;
use wg_embed::{
    bind::mem::MemNetwork,
    config::{AllowedIpUpdate, PeerUpdate, Update},
    device::{Device, Options, Outbound},
    key::{PrivateKey, PublicKey},
    random::{Random, SystemRandom},
    tun::mem::MemTun,
};

/// Packets that are routed for the figure of one.
const PACKETS: u32 = 64_000;

fn update(number: u32) -> Update {
    let peer = |i: u32| {
        let mut key = [0; 32];
        SystemRandom.fill(&mut key);
        let mut peer = PeerUpdate::new(PublicKey::from_bytes(key));
        peer.allowed_ips.push(AllowedIpUpdate::add(Ipv4Net::from(address(i)).into()));
        peer
    };
    let key = PrivateKey::generate_with(&SystemRandom);
    Update { private_key: Some(Some(key)), peers: (0..number).map(peer).collect(), ..Update::default() }
}

fn address(i: u32) -> Ipv4Addr {
    (0x0a00_0000 + i).into()
}

/// Resident memory in KiB; 0 where the system does not tell.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn timed<R>(f: impl FnOnce() -> R) -> (R, Duration) {
    let start = Instant::now();
    let result = f();
    (result, start.elapsed())
}

fn measure(number: u32) {
    let (tun, handle) = MemTun::new("bench", 1420);
    let bind = MemNetwork::new().bind("192.0.2.1".parse().unwrap());
    let options = Options { max_peers: number as usize, ..Options::default() };
    let device = Device::new(Arc::new(tun), bind, options);
    device.up().unwrap();
    // In parts, so that the changes count little as memory. Making the keys is in the time, a microsecond each.
    let before = resident();
    let (_, configure) = timed(|| {
        for i in (0..number).step_by(1000) {
            let mut part = update(1000.min(number - i));
            part.private_key = part.private_key.filter(|_| i == 0);
            for (n, peer) in (i..).zip(&mut part.peers) {
                peer.allowed_ips[0].prefix = Ipv4Net::from(address(n)).into();
            }
            device.apply(part).unwrap();
        }
    });
    let memory = resident().saturating_sub(before) * 1024 / number as usize;

    // No peer has an endpoint, so a packet is read, routed, and dropped at its peer.
    let mut out = Outbound::new();
    let mut packet = [0; 64];
    packet[..4].copy_from_slice(&[0x45, 0, 0, 64]);
    let mut target = 1u32;
    let mut routing = Duration::ZERO;
    for _ in 0..PACKETS / 64 {
        for _ in 0..64 {
            target = target.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            packet[16..20].copy_from_slice(&address(target % number).octets());
            assert!(handle.inject(&packet));
        }
        let (n, took) = timed(|| device.outbound(&mut out).unwrap());
        assert_eq!(n, 64);
        routing += took;
    }
    let ((), idle) = timed(|| (0..1000).for_each(|_| device.run_timers()));
    let (read, get) = timed(|| device.snapshot().peers.flatten().map(black_box).count());
    assert_eq!(read, number as usize);
    println!(
        "| {number} | {:.3} | {memory} | {:.0} | {:.0} | {:.3} |",
        configure.as_secs_f64(),
        routing.as_nanos() as f64 / f64::from(PACKETS),
        idle.as_nanos() as f64 / 1000.0,
        get.as_secs_f64()
    );
}

fn main() {
    // cargo passes --bench.
    let mut numbers: Vec<u32> = env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    if env::var_os("MANY_PEERS_CHILD").is_some() {
        return numbers.into_iter().for_each(measure);
    }
    if numbers.is_empty() {
        numbers = vec![1_000, 10_000, 100_000, 1_000_000];
    }
    println!("| peers | configure, s | bytes a peer | a packet, ns | an idle round, ns | read back, s |");
    println!("|---|---|---|---|---|---|");
    for number in numbers {
        let mut child = Command::new(env::current_exe().unwrap());
        let status = child.arg(number.to_string()).env("MANY_PEERS_CHILD", "1").status().unwrap();
        assert!(status.success());
    }
}
