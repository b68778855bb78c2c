//! What one packet costs: sealing, opening, finding its peer, cutting and putting together.
//!
//! `cargo bench --bench packets`
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::{hint::black_box, net::IpAddr, ops::Range, sync::Arc, sync::Mutex, time::Duration};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ipnet::Ipv4Net;
use wg_embed::{
    device::allowed_ips::{AllowedIps, Owner, PrefixList},
    key::PrivateKey,
    noise::{
        handshake::{Handshake, Identity, OpenedInitiation},
        message::padded_len,
        session::Session,
    },
    random::SystemRandom,
    time::Instant,
    tun::{
        PacketArena, PacketList,
        offload::{
            Gso, VNET_HEADER_LEN, VnetHeader,
            checksum::Sum,
            coalesce::{Merging, coalesce},
            split::Split,
        },
    },
};

/// The two ends of a session.
pub fn sessions() -> (Arc<Session>, Arc<Session>) {
    let [a, b] = [(); 2].map(|()| Identity::new(PrivateKey::generate_with(&SystemRandom)));
    let (mut to_b, mut to_a) = (Handshake::new(*b.public()), Handshake::new(*a.public()));
    let now = Instant::from_nanos(1);
    let first = to_b.create_initiation(&a, 1, Duration::from_secs(1), &SystemRandom).unwrap();
    assert!(to_a.consume_initiation(OpenedInitiation::open(&first, &b).unwrap(), &first, &b, now));
    let second = to_a.create_response(2, &SystemRandom).unwrap();
    assert!(to_b.consume_response(&second, &a));
    (to_b.begin_session(now).unwrap(), to_a.begin_session(now).unwrap())
}

fn seal_and_open(c: &mut Criterion) {
    let (a, b) = sessions();
    for size in [0, 64, 576, 1420, 8192] {
        let mut group = c.benchmark_group(format!("{size} bytes"));
        group.throughput(Throughput::Bytes(size as u64));
        let mut message = vec![7; 16 + size + 16];
        group.bench_function("seal", |t| {
            t.iter(|| {
                let counter = a.take_counters(1).unwrap();
                a.seal(counter, black_box(&mut message));
            });
        });
        let mut counter = 0;
        group.bench_function("open", |t| {
            t.iter_batched_ref(
                || {
                    counter += 1;
                    let mut sealed = vec![7; 16 + size + 16];
                    a.seal(counter, &mut sealed);
                    (counter, sealed)
                },
                |(counter, sealed)| {
                    assert!(b.open(*counter, &mut sealed[16..]).is_some());
                    b.accept(&mut [*counter], |c| *c, |_| ());
                },
                BatchSize::SmallInput,
            );
        });
        group.finish();
    }
}

#[derive(Clone, Default)]
struct Someone(Arc<Mutex<PrefixList>>);

impl Owner for Someone {
    fn with_list<R>(&self, f: impl FnOnce(&mut PrefixList) -> R) -> R {
        f(&mut self.0.lock().unwrap())
    }
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

fn allowed_ips(c: &mut Criterion) {
    let mut group = c.benchmark_group("allowed IPs");
    for number in [1u32, 100, 10_000, 100_000] {
        let mut table = AllowedIps::default();
        for i in 0..number {
            let prefix = Ipv4Net::new((0x0a00_0000 + i * 256).into(), 24).unwrap();
            table.insert(prefix.into(), &Someone::default());
        }
        let mut i = 0u32;
        group.bench_function(format!("look up in {number}"), |t| {
            t.iter(|| {
                i = i.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let address: IpAddr = IpAddr::V4((0x0a00_0000 + i % (number * 256)).into());
                assert!(table.lookup(black_box(address)).is_some());
            });
        });
    }
    group.finish();
}

/// A TCP packet of 46 segments of 1,380 bytes, as a TUN with segmentation offload hands it over.
fn large_packet() -> (VnetHeader, Vec<u8>) {
    let mut packet = vec![0x5a; 40 + 46 * 1380];
    let len = packet.len() as u16;
    packet[..20].copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet[20..40].copy_from_slice(&[0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    // Where the checksum goes, the kernel leaves the sum of the pseudo header.
    let pseudo = Sum::default().pseudo_header(&packet[12..20], 6, len - 20).partial();
    packet[36..38].copy_from_slice(&pseudo);
    let mut header = [0; VNET_HEADER_LEN];
    header[0] = 1; // needs a checksum
    header[1] = 1; // TCP over IPv4
    header[2..4].copy_from_slice(&40u16.to_ne_bytes());
    header[4..6].copy_from_slice(&1380u16.to_ne_bytes());
    header[6..8].copy_from_slice(&20u16.to_ne_bytes());
    header[8..10].copy_from_slice(&16u16.to_ne_bytes());
    let header = VnetHeader::parse(&header).unwrap();
    assert!(header.gso != Gso::None);
    (header, packet)
}

fn offload(c: &mut Criterion) {
    let (header, packet) = large_packet();
    let mut arena = PacketArena::new(192 * 1024, 128, padded_len);
    let mut group = c.benchmark_group("offload, 46 segments");
    group.throughput(Throughput::Bytes(packet.len() as u64));
    group.bench_function("split", |t| {
        t.iter(|| {
            arena.clear(1420);
            assert!(Split::new(&header, &packet).unwrap().fill(&packet, &mut arena));
        });
    });
    let ranges: Vec<Range<usize>> = arena.slots().iter().map(|s| s.start..s.start + s.len).collect();
    assert_eq!(ranges.len(), 46);
    group.bench_function("coalesce", |t| {
        t.iter(|| {
            let mut groups = 0;
            coalesce(PacketList { buffer: arena.bytes(), ranges: &ranges }, Merging { tcp: true, udp: true }, |_| {
                groups += 1
            });
            assert_eq!(groups, 1);
        });
    });
    group.finish();
}

criterion_group!(benches, seal_and_open, allowed_ips, offload);
criterion_main!(benches);
