//! Packets inside a tunnel, in both directions: what passes, where it goes and what changes is decided by a plain
//! reading of the IP header.
//!
//! The input is a row of records: a byte for direction and options, a byte for a length, and a packet.
#![no_main]

use std::{
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use libfuzzer_sys::fuzz_target;
use wg_embed::{
    AllowedIpUpdate, Options, PeerUpdate, PrivateKey, Update,
    ipnet::IpNet,
    noise::{
        message::{DATA_OVERHEAD, padded_len},
        session::Session,
    },
};
use wg_embed_fuzz::{
    Input, Numbers,
    common::{
        MTU, Node, World, kind,
        raw::{Raw, open, seal},
    },
    plain::{put16, set_ipv4_checksum, sum},
};

/// The prefixes of the peer that the packets are exchanged with; the longest one counts.
const OURS: [&str; 4] = ["10.0.0.0/8", "10.1.2.0/24", "fd00::/16", "fd00:1::1/128"];
/// Those of another one, which has no endpoint.
const OTHERS: [&str; 3] = ["10.1.0.0/16", "10.1.2.3/32", "fd00:1::/32"];

static KEYS: LazyLock<[PrivateKey; 3]> = LazyLock::new(|| {
    let random = Numbers::new(6);
    [(); 3].map(|()| PrivateKey::generate_with(&random))
});

/// Returns whether an address belongs to the first peer; `None` if it belongs to none.
fn is_ours(address: IpAddr) -> Option<bool> {
    let longest = |prefixes: &[&str]| {
        let prefixes = prefixes.iter().map(|prefix| prefix.parse::<IpNet>().unwrap());
        prefixes.filter(|prefix| prefix.contains(&address)).map(|prefix| prefix.prefix_len() + 1).max()
    };
    let (ours, others) = (longest(&OURS), longest(&OTHERS));
    (ours.is_some() || others.is_some()).then_some(ours > others)
}

/// The required fields of an IP packet.
struct Fields {
    source: IpAddr,
    destination: IpAddr,
    len: usize,
    tos: u8,
}

fn fields(packet: &[u8]) -> Option<Fields> {
    let v4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
    let v6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
    let number = |at: usize| usize::from(packet[at]) << 8 | usize::from(packet[at + 1]);
    match packet.first()? >> 4 {
        4 if packet.len() >= 20 && number(2) >= 20 => {
            Some(Fields { source: v4(12), destination: v4(16), len: number(2), tos: packet[1] })
        }
        6 if packet.len() >= 40 => {
            Some(Fields { source: v6(8), destination: v6(24), len: 40 + number(4), tos: (number(0) >> 4) as u8 })
        }
        _ => None,
    }
}

/// Returns the two bits for ECN after the tunnel, from those inside and outside (RFC 6040, figure 4).
fn ecn_after(inner: u8, outer: u8) -> u8 {
    match (inner, outer) {
        (0, _) => 0,
        (3, _) | (_, 3) => 3,
        (_, 1) => 1,
        (inner, _) => inner,
    }
}

/// Gives a packet the length, and a header checksum, that fit; and an address that has an owner.
fn repair(packet: &mut [u8], options: u8) {
    let last = options >> 4 & 3;
    let len = packet.len();
    match packet.first().map(|first| first >> 4) {
        Some(4) if len >= 20 => {
            put16(packet, 2, len as u16);
            for (at, net) in [(12, options), (16, options >> 2)] {
                packet[at..at + 4].copy_from_slice(&[10, net & 1, 2, last]);
            }
            set_ipv4_checksum(packet, 20);
        }
        Some(6) if len >= 40 => {
            put16(packet, 4, (len - 40) as u16);
            for (at, net) in [(8, options), (24, options >> 2)] {
                packet[at..at + 16].fill(0);
                (packet[at], packet[at + 3], packet[at + 15]) = (0xfd, net & 1, last);
            }
        }
        _ => {}
    }
}

struct Tunnel {
    world: World,
    node: Node,
    raw: Raw,
    session: Arc<Session>,
    counter: u64,
}

impl Tunnel {
    fn new() -> Self {
        let world = World::new();
        let options = Options { random: Arc::new(Numbers::new(7)), ..Options::default() };
        let node = world.node_with_key(1, KEYS[0].clone(), options, |bind| bind);
        let mut raw = Raw::with_key(&node, 2, KEYS[1].clone());
        raw.random = Arc::new(Numbers::new(8));
        for (key, prefixes, endpoint) in [(&KEYS[1], &OURS[..], Some(raw.at)), (&KEYS[2], &OTHERS[..], None)] {
            let mut peer = PeerUpdate::new(key.public_key());
            peer.endpoint = endpoint.map(Into::into);
            peer.allowed_ips = prefixes.iter().map(|text| AllowedIpUpdate::add(text.parse().unwrap())).collect();
            node.apply(Update { peers: vec![peer], ..Update::default() });
        }
        let session = raw.connect(&world, &node);
        let _ = world.sent();
        Self { world, node, raw, session, counter: 1 }
    }

    /// The peer sends a packet.
    fn receive(&mut self, packet: &[u8], outer: u8) {
        let message = seal(&self.session, self.counter, packet);
        self.counter += 1;
        self.world.net.inject(self.raw.at, self.raw.node_at, &message, outer);
        self.node.receive();
        let padded = [packet, &[0; 15]].concat();
        let padded = &padded[..packet.len().next_multiple_of(16)];
        let passes = fields(padded).filter(|f| f.len <= padded.len() && is_ours(f.source) == Some(true));
        let received = self.node.received();
        let Some(Fields { len, tos, .. }) = passes else {
            return assert!(received.is_empty());
        };
        let [received] = &received[..] else { panic!("{} packets", received.len()) };
        assert_eq!(fields(received).unwrap().tos, tos & !3 | ecn_after(tos & 3, outer & 3));
        let mut expected = padded[..len].to_vec();
        expected[..2].copy_from_slice(&received[..2]);
        if packet[0] >> 4 == 4 {
            // A wrong checksum stays as wrong as it was. Zero has two forms.
            assert_eq!(sum(&[&padded[..20]]) % 0xffff, sum(&[&received[..20]]) % 0xffff);
            expected[10..12].copy_from_slice(&received[10..12]);
        } else {
            assert_eq!(received[1] & 0xf, padded[1] & 0xf, "the flow label");
        }
        assert_eq!(*received, expected);
    }

    /// The interface has a packet to send.
    fn send(&self, packet: &[u8]) {
        self.node.tun.inject(packet);
        self.node.step();
        let sent: Vec<_> = self.world.sent().into_iter().filter(|datagram| kind(&datagram.payload) == 4).collect();
        let answers = self.node.received();
        let fields = fields(packet);
        let owner = fields.as_ref().and_then(|fields| is_ours(fields.destination));
        if owner == Some(true) {
            let [sent] = &sent[..] else { panic!("{} datagrams", sent.len()) };
            assert_eq!(Some(sent.tos), fields.map(|fields| fields.tos & 3));
            assert_eq!(sent.payload.len(), DATA_OVERHEAD + padded_len(packet.len(), MTU.into()));
            let opened = open(&self.session, &sent.payload).unwrap();
            assert_eq!((&opened[..packet.len()], sent.to), (packet, self.raw.at));
            assert!(opened[packet.len()..].iter().all(|byte| *byte == 0));
            return assert!(answers.is_empty());
        }
        assert!(sent.is_empty() && answers.len() <= 1);
        if let Some(answer) = answers.first() {
            self.check_answer(answer, packet);
        }
    }

    /// An ICMP error goes to the sender and quotes the packet, and its checksums are right.
    fn check_answer(&self, answer: &[u8], packet: &[u8]) {
        let (to, from) = (fields(answer).unwrap(), fields(packet).unwrap());
        assert_eq!((to.source, to.destination, to.len), (from.destination, from.source, answer.len()));
        let (start, pseudo) = if answer[0] >> 4 == 4 {
            assert_eq!(sum(&[&answer[..20]]), 0xffff);
            (20, vec![])
        } else {
            (40, [&answer[8..40], &[0, 58], &answer[4..6]].concat())
        };
        assert_eq!(sum(&[&pseudo, &answer[start..]]), 0xffff);
        assert_eq!(answer[start + 8..], packet[..answer.len() - start - 8]);
    }
}

fuzz_target!(|input: &[u8]| {
    let mut input = Input(input);
    let mut tunnel = Tunnel::new();
    while let Some(kind) = input.next_byte() {
        let options = input.byte();
        let len = usize::from(kind >> 4) << 8 | usize::from(input.byte());
        let mut packet = input.bytes(len.min(MTU.into())).to_vec();
        if packet.is_empty() {
            continue;
        }
        if kind & 1 == 0 {
            repair(&mut packet, options);
        }
        if kind & 2 == 0 { tunnel.receive(&packet, kind >> 2) } else { tunnel.send(&packet) }
    }
});
