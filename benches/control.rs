//! What a handshake and a configuration cost.
//!
//! `cargo bench --bench control`
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::{sync::Arc, time::Duration};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use wg_embed::{
    bind::mem::MemNetwork,
    config::{AllowedIpUpdate, PeerUpdate, Update},
    device::{Device, Options},
    key::{PrivateKey, PublicKey},
    noise::{
        cookie::{CookieChecker, MacStamper, Macs},
        handshake::{Handshake, Identity, OpenedInitiation},
    },
    random::{Random, SystemRandom},
    time::{Clock, Instant, SystemClock},
    tun::mem::MemTun,
    uapi,
};

fn handshake(c: &mut Criterion) {
    let [a, b] = [(); 2].map(|()| Identity::new(PrivateKey::generate_with(&SystemRandom)));
    let (mut to_b, mut to_a) = (Handshake::new(*b.public()), Handshake::new(*a.public()));
    let mut second = 1;
    let mut group = c.benchmark_group("handshake");
    let initiation = |to_b: &mut Handshake, second: &mut u64| {
        *second += 1;
        to_b.create_initiation(&a, 1, Duration::from_secs(*second), &SystemRandom).unwrap()
    };
    let answer = |to_a: &mut Handshake, first: &[u8; 148], second: u64| {
        let now = Instant::from_nanos(second * 1_000_000_000);
        let opened = OpenedInitiation::open(first, &b).unwrap();
        assert!(to_a.consume_initiation(opened, first, &b, now));
        let response = to_a.create_response(2, &SystemRandom).unwrap();
        (response, to_a.begin_session(now).unwrap())
    };
    group.bench_function("initiator begins", |t| t.iter(|| initiation(&mut to_b, &mut second)));
    group.bench_function("responder, all of it", |t| {
        t.iter_batched(
            || (initiation(&mut to_b, &mut second), second),
            |(first, second)| answer(&mut to_a, &first, second),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("both sides, all of it", |t| {
        t.iter(|| {
            let first = initiation(&mut to_b, &mut second);
            let (response, _) = answer(&mut to_a, &first, second);
            assert!(to_b.consume_response(&response, &a));
            to_b.begin_session(Instant::from_nanos(1)).unwrap()
        });
    });
    let mut checker = CookieChecker::new(b.public());
    let mut first = initiation(&mut to_b, &mut second);
    MacStamper::default().stamp(&mut first, b.public(), SystemClock.now());
    let from = "192.0.2.1:1".parse().unwrap();
    first[20] ^= 1;
    group.bench_function("a wrong mac1 is refused", |t| {
        let now = SystemClock.now();
        t.iter(|| assert_eq!(checker.check(&first, from, false, now, &SystemRandom), Macs::Invalid));
    });
    group.finish();
}

/// A configuration of `number` peers with one prefix each.
pub fn update(number: u32) -> Update {
    let peer = |i: u32| {
        let mut key = [0; 32];
        SystemRandom.fill(&mut key);
        let mut peer = PeerUpdate::new(PublicKey::from_bytes(key));
        let prefix = ipnet::Ipv4Net::from(std::net::Ipv4Addr::from(0x0a00_0000 + i));
        peer.allowed_ips.push(AllowedIpUpdate::add(prefix.into()));
        peer
    };
    let key = PrivateKey::generate_with(&SystemRandom);
    Update { private_key: Some(Some(key)), peers: (0..number).map(peer).collect(), ..Update::default() }
}

pub fn device() -> Device {
    let (tun, _) = MemTun::new("bench", 1420);
    let bind = MemNetwork::new().bind("192.0.2.1".parse().unwrap());
    Device::new(Arc::new(tun), bind, Options { max_peers: 2_000_000, ..Options::default() })
}

fn configuration(c: &mut Criterion) {
    let update = update(10_000);
    let text = uapi::set_text(&update).unwrap();
    let mut group = c.benchmark_group("10,000 peers");
    group.sample_size(20);
    group.bench_function("parse a set", |t| t.iter(|| uapi::parse_set(&text, uapi::Limits::default()).unwrap()));
    group.bench_function("apply", |t| {
        t.iter_batched(|| (device(), update.clone()), |(d, u)| d.apply(u).map(|()| d), BatchSize::PerIteration);
    });
    let device = device();
    device.apply(update).unwrap();
    group.bench_function("get", |t| t.iter(|| uapi::get_text(device.snapshot())));
    group.finish();
}

criterion_group!(benches, handshake, configuration);
criterion_main!(benches);
