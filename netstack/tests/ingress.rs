//! Whatever arrives does no harm: no panic, and memory stays within its bounds.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{
    A, A6, B, B6, Node, World,
    packets::{at, icmp, ip, udp},
};
use proptest::prelude::*;
use smoltcp::wire::IpProtocol;
use wg_embed_netstack::{Intercept, InterceptOptions, TcpStream, UdpFlow};

/// Keeps some of what it gets.
#[derive(Default)]
struct Handler(Mutex<(Vec<TcpStream>, Vec<UdpFlow>)>);

impl Intercept for Handler {
    fn connected(&self, stream: TcpStream) {
        self.0.lock().unwrap().0.push(stream);
    }

    fn flow(&self, flow: UdpFlow) {
        self.0.lock().unwrap().1.push(flow);
    }
}

/// Packets that are right in parts: then something is changed.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let hosts = (any::<bool>(), 0_u8..4, 0_u8..3).prop_map(|(v6, from, to)| -> (IpAddr, IpAddr) {
        let (sources, destinations) = if v6 {
            ([A6, "fd00::7", "ff02::1", B6], [B6, "2001:db8::1", "ff02::1"])
        } else {
            ([A, "10.0.0.7", "0.0.0.0", B], [B, "8.8.8.8", "255.255.255.255"])
        };
        (sources[usize::from(from)].parse().unwrap(), destinations[usize::from(to)].parse().unwrap())
    });
    let protocol = prop_oneof![
        Just(IpProtocol::Tcp),
        Just(IpProtocol::Udp),
        Just(IpProtocol::Icmp),
        Just(IpProtocol::Icmpv6),
        Just(IpProtocol::Ipv6Frag),
        any::<u8>().prop_map(IpProtocol::from),
    ];
    let payload = prop::collection::vec(any::<u8>(), 0..120);
    let ports = (prop_oneof![Just(80_u16), Just(7), any::<u16>()], prop_oneof![Just(80_u16), Just(7), any::<u16>()]);
    let kind = (0_u8..5, any::<u8>(), any::<u8>(), any::<[u8; 4]>());
    let change = prop::option::of((any::<prop::sample::Index>(), any::<u8>()));
    (hosts, protocol, payload, ports, kind, change).prop_map(
        |((from, to), protocol, payload, (s, d), (kind, type_, code, rest), change)| {
            let mut packet = match kind {
                0 => ip(from, to, protocol, &payload),
                1 => udp((from, s).into(), (to, d).into(), &payload),
                2 => icmp(from, to, (type_, code), rest, &payload),
                3 => {
                    let quoted = udp((to, 7).into(), (from, d).into(), &payload);
                    icmp(from, to, (type_ % 13, code % 16), rest, &quoted)
                }
                // A fragment.
                _ => fragment(from, to, protocol, rest, &payload),
            };
            if let Some((index, byte)) = change {
                let at = index.index(packet.len());
                packet[at] = byte;
            }
            packet
        },
    )
}

fn fragment(from: IpAddr, to: IpAddr, protocol: IpProtocol, rest: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let place = u16::from(rest[0] % 8);
    let (more, id) = (rest[1] % 2, rest[2] % 4);
    let payload = if more == 1 { &payload[..payload.len() & !7] } else { payload };
    if from.is_ipv4() {
        let mut packet = ip(from, to, protocol, payload);
        packet[4..8].copy_from_slice(&[0, id, more << 5, place as u8]);
        packet[10..12].fill(0);
        let sum: u32 = packet[..20].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    } else {
        let mut inner = vec![u8::from(protocol), 0];
        inner.extend((place << 3 | u16::from(more)).to_be_bytes());
        inner.extend([0, 0, 0, id]);
        inner.extend(payload);
        ip(from, to, IpProtocol::Ipv6Frag, &inner)
    }
}

fn is_bounded(node: &Node, memory: usize) -> bool {
    let stats = node.stack.stats();
    stats.memory <= memory && stats.flows <= 16
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn any_packets_do_no_harm(
        rounds in prop::collection::vec((prop::collection::vec(packet(), 1..20), 0_u64..20_000), 1..20),
    ) {
        const MEMORY: usize = 1 << 20;
        let world = World::with(|_| {}, |options| options.memory = MEMORY);
        let listener = world.b.stack.listen_tcp(at("[::]:80"), 4).unwrap();
        let socket = world.b.stack.bind_udp(at("[::]:7"), None).unwrap();
        let connected = world.b.stack.bind_udp(at("10.0.0.2:7"), Some(at("10.0.0.1:9"))).unwrap();
        let ping = world.b.stack.start_ping(A.parse().unwrap(), 3000).unwrap();
        let handler = Arc::new(Handler::default());
        let options = InterceptOptions { max_flows: 16, ..InterceptOptions::default() };
        world.b.stack.intercept(options, Some(handler.clone()));
        for (packets, ms) in rounds {
            world.b.give(&packets);
            for packet in world.b.take() {
                prop_assert!(packet.len() <= 1420);
            }
            prop_assert!(is_bounded(&world.b, MEMORY));
            world.clock.advance(Duration::from_millis(ms));
        }
        world.b.take();
        world.b.stack.close();
        drop((listener, socket, connected, ping, std::mem::take(&mut *handler.0.lock().unwrap())));
        prop_assert!(world.b.stack.stats().memory == 0);
    }
}
