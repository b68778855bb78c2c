//! Packets made by hand: whatever may come into a router, alone, in runs, or large with a virtio-net header.

use crate::{
    packet::{DESTINATION, FRAGMENT, HOP_BY_HOP, ICMP, ICMPV6, ROUTING, TCP, UDP, put, sum, word},
    sockets::Dice,
};

const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP: u8 = 5;
const GSO_ECN: u8 = 0x80;

const FIN: u8 = 1;
const PSH: u8 = 8;
const ACK: u8 = 0x10;
const CWR: u8 = 0x80;

/// What is written to `in0` at a time.
#[derive(Clone)]
pub(crate) struct Shot {
    vnet: [u8; 10],
    packet: Vec<u8>,
}

impl Shot {
    /// The packet, which may pass `hops` more kernels than it would.
    pub(crate) fn bytes(&self, hops: u8) -> Vec<u8> {
        let mut packet = self.packet.clone();
        if packet[0] >> 4 == 4 {
            packet[8] += hops;
            let len = usize::from(packet[0] & 15) * 4;
            put(&mut packet, 10, 0);
            let sum = !sum(0, &packet[..len]);
            put(&mut packet, 10, sum);
        } else {
            packet[7] += hops;
        }
        [&self.vnet[..], &packet].concat()
    }
}

/// What the packets of a flow have in common.
struct Flow {
    number: u8,
    v6: bool,
    tos: u8,
    ttl: u8,
    dont_fragment: bool,
    id: u16,
    /// IPv4 options; or IPv6 extension headers, each with its type, without the type of what is behind it.
    options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
    /// Acknowledgement, window and options of TCP.
    ack: u32,
    window: u16,
    tcp_options: Vec<u8>,
}

impl Flow {
    fn new(number: u8, dice: &mut Dice) -> Self {
        let v6 = dice.once_in(2);
        let extended = dice.once_in(4);
        let options: [&[u8]; 4] =
            [&[1; 4], &[0x82, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[7, 7, 8, 10, 9, 9, 9, 0], &[148, 4, 0, 0]];
        let all = vec![
            (HOP_BY_HOP, vec![0, 0, 1, 4, 0, 0, 0, 0]),
            (DESTINATION, vec![0, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            (ROUTING, segment_routing(number)),
            (DESTINATION, vec![0, 0, 0x1e, 4, 7, 7, 7, 7]),
        ];
        let mut extensions: Vec<_> = all.into_iter().filter(|_| v6 && extended && dice.once_in(2)).collect();
        if extensions.iter().all(|e| e.0 != ROUTING) {
            extensions.truncate(2);
        }
        let tcp_options: [&[u8]; 4] = [&[], &[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8], &[1, 1, 1, 0], &[30; 40]];
        Self {
            number,
            v6,
            // Often the same as that of other flows.
            tos: dice.pick(&[0, 0, 0, 0, 1, 2, 3, 0xb8, 0xbb]),
            ttl: dice.pick(&[2, 64, 64, 64, 200]),
            dont_fragment: dice.once_in(2),
            id: dice.next() as u16,
            options: if extended && !v6 { dice.pick(&options).to_vec() } else { Vec::new() },
            extensions,
            ack: dice.next() as u32,
            window: dice.next() as u16,
            tcp_options: dice.pick(&tcp_options).to_vec(),
        }
    }

    /// Bytes in front of TCP or UDP.
    fn ip_len(&self) -> usize {
        if self.v6 { 40 + self.extensions.iter().map(|e| e.1.len()).sum::<usize>() } else { 20 + self.options.len() }
    }

    fn tcp_len(&self) -> usize {
        20 + self.tcp_options.len()
    }

    fn addresses(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for n in [1, 2] {
            if self.v6 {
                bytes.extend([0xfd, n, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, self.number]);
            } else {
                bytes.extend([10, n, 7, self.number]);
            }
        }
        bytes
    }

    /// Headers in front of `len` bytes of a protocol. The IPv4 checksum is made at last.
    fn ip(&self, protocol: u8, len: usize, index: u16) -> Vec<u8> {
        let mut bytes = vec![0; if self.v6 { 40 } else { 20 }];
        if self.v6 {
            bytes[0] = 0x60 | self.tos >> 4;
            bytes[1] = self.tos << 4 | 3;
            put(&mut bytes, 4, (self.ip_len() - 40 + len) as u16);
            bytes[7] = self.ttl;
            bytes[8..40].copy_from_slice(&self.addresses());
            let mut next = 6;
            for (kind, text) in &self.extensions {
                bytes[next] = *kind;
                next = bytes.len();
                bytes.extend_from_slice(text);
            }
            bytes[next] = protocol;
        } else {
            bytes[0] = 0x40 | (self.ip_len() / 4) as u8;
            bytes[1] = self.tos;
            put(&mut bytes, 2, (self.ip_len() + len) as u16);
            put(&mut bytes, 4, self.id.wrapping_add(index));
            bytes[6] = if self.dont_fragment { 0x40 } else { 0 };
            bytes[8] = self.ttl;
            bytes[9] = protocol;
            bytes[12..20].copy_from_slice(&self.addresses());
            bytes.extend_from_slice(&self.options);
        }
        bytes
    }

    /// The sum of the pseudo header.
    fn pseudo(&self, protocol: u8, len: usize) -> u16 {
        let mut addresses = self.addresses();
        if let Some((_, routing)) = self.extensions.iter().find(|e| e.0 == ROUTING) {
            addresses[16..].copy_from_slice(&routing[8..24]);
        }
        sum(sum(0, &addresses), &[[0, protocol], (len as u16).to_be_bytes()].concat())
    }

    /// A whole packet of TCP or UDP; its checksum field holds the pseudo header's sum only, if it is `partial`.
    fn packet(&self, l4: &[u8], payload: &[u8], index: u16, partial: bool) -> Vec<u8> {
        let (protocol, field) = if l4.len() == 8 { (UDP, 6) } else { (TCP, 16) };
        let len = l4.len() + payload.len();
        let mut bytes = self.ip(protocol, len, index);
        let at = bytes.len();
        bytes.extend_from_slice(l4);
        bytes.extend_from_slice(payload);
        let pseudo = self.pseudo(protocol, len);
        put(&mut bytes, at + field, 0);
        let whole = match !sum(pseudo, &bytes[at..]) {
            0 => 0xffff,
            sum => sum,
        };
        put(&mut bytes, at + field, if partial { pseudo } else { whole });
        bytes
    }

    fn tcp(&self, sequence: u32, flags: u8) -> Vec<u8> {
        let mut l4 = vec![0; 20];
        put(&mut l4, 0, 4000);
        put(&mut l4, 2, 443);
        l4[4..8].copy_from_slice(&sequence.to_be_bytes());
        l4[8..12].copy_from_slice(&self.ack.to_be_bytes());
        l4[12] = (self.tcp_len() as u8 / 4) << 4;
        l4[13] = flags;
        put(&mut l4, 14, self.window);
        l4.extend_from_slice(&self.tcp_options);
        l4
    }

    fn udp(&self, payload: usize) -> Vec<u8> {
        let mut l4 = vec![0; 8];
        put(&mut l4, 0, 4000);
        put(&mut l4, 2, 443);
        put(&mut l4, 4, (8 + payload) as u16);
        l4
    }

    /// A virtio-net header: the checksum is to be completed, and `gso` and `segment` say what is to be cut.
    fn vnet(&self, tcp: bool, gso: u8, segment: usize) -> [u8; 10] {
        let (len, field) = if tcp { (self.tcp_len(), 16) } else { (8, 6) };
        let mut header = [1, gso, 0, 0, 0, 0, 0, 0, 0, 0];
        for (at, value) in [(2, self.ip_len() + len), (4, segment), (6, self.ip_len()), (8, field)] {
            header[at..at + 2].copy_from_slice(&(value as u16).to_ne_bytes());
        }
        header
    }
}

/// A segment routing header, on whose way the flow is.
fn segment_routing(number: u8) -> Vec<u8> {
    let mut bytes = vec![0, 4, 4, 1, 1, 0, 0, 0];
    bytes.extend([0xfd, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, number]);
    bytes.extend([0xfd, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, number]);
    bytes
}

fn plain(packet: Vec<u8>) -> Shot {
    Shot { vnet: [0; 10], packet }
}

/// A round of packets of several flows, mixed.
pub(crate) fn shots(dice: &mut Dice, mtu: usize) -> Vec<Shot> {
    let kinds = [large_tcp, large_udp, tcp_run, udp_run, fragments, others];
    let mut flows: Vec<_> = (2..14)
        .map(|number| {
            let flow = Flow::new(number, dice);
            let kind = dice.pick(&kinds);
            kind(&flow, dice, mtu).into_iter()
        })
        .collect();
    let mut mixed = Vec::new();
    while !flows.is_empty() {
        let which = dice.range(0, flows.len() - 1);
        let before = mixed.len();
        mixed.extend(flows[which].by_ref().take(dice.pick(&[1, 1, 2, 40])));
        if mixed.len() == before {
            flows.remove(which);
        }
    }
    mixed
}

/// A payload and the size to cut it to.
fn cut(dice: &mut Dice, headers: usize, mtu: usize) -> (usize, usize) {
    let largest = mtu - headers;
    let segment = if dice.once_in(2) { largest } else { dice.range(40, largest) };
    let most = (65_535 - headers).min(60 * segment);
    (dice.range(segment + 1, most), segment)
}

fn large_tcp(flow: &Flow, dice: &mut Dice, mtu: usize) -> Vec<Shot> {
    let mut sequence = dice.next() as u32;
    (0..dice.range(1, 3))
        .map(|_| {
            let (len, segment) = cut(dice, flow.ip_len() + flow.tcp_len(), mtu);
            let flags = ACK | dice.pick(&[0, 0, PSH, FIN, PSH | FIN, 0x40, 0x20, CWR, CWR | PSH]);
            let ecn = if flags & CWR != 0 { GSO_ECN } else { 0 };
            let gso = if flow.v6 { GSO_TCPV6 } else { GSO_TCPV4 } | ecn;
            let packet = flow.packet(&flow.tcp(sequence, flags), dice.bytes(len), 0, true);
            sequence = sequence.wrapping_add(len as u32);
            Shot { vnet: flow.vnet(true, gso, segment), packet }
        })
        .collect()
}

fn large_udp(flow: &Flow, dice: &mut Dice, mtu: usize) -> Vec<Shot> {
    (0..dice.range(1, 3))
        .map(|_| {
            let (len, segment) = cut(dice, flow.ip_len() + 8, mtu);
            let packet = flow.packet(&flow.udp(len), dice.bytes(len), 0, true);
            Shot { vnet: flow.vnet(false, GSO_UDP, segment), packet }
        })
        .collect()
}

/// What may happen to one packet of a run.
fn disturb(packet: &mut [u8], l4: usize, tcp: bool, dice: &mut Dice) {
    let v6 = packet[0] >> 4 == 6;
    let field = l4 + if tcp { 16 } else { 6 };
    let options = tcp && packet.len() > l4 + 28 && packet[l4 + 12] >> 4 >= 7;
    // Behind the IP header, with the checksum updated.
    let mut change = |at: usize, by: u16| {
        let (old, sum_was) = (word(packet, at), word(packet, field));
        put(packet, at, old ^ by);
        let new = !sum(0, &[!sum_was, !old, old ^ by].map(u16::to_be_bytes).concat());
        put(packet, field, if new == 0 { 0xffff } else { new });
    };
    match dice.range(0, 14) {
        // ECN and other bits of TOS, time to live, flow label, identification, "don't fragment".
        0 if v6 => packet[1] ^= 0x30,
        0 => packet[1] ^= 3,
        1 if v6 => packet[7] -= 1,
        1 => packet[8] -= 1,
        2 if v6 => packet[2] ^= 1,
        2 => packet[5] ^= 0x55,
        3 if !v6 => packet[6] ^= 0x40,
        4 => packet[1] ^= 0x40,
        // A wrong checksum.
        5 => packet[field] ^= 0x11,
        // No checksum.
        6 if !v6 && !tcp => put(packet, field, 0),
        // Sequence, acknowledgement, header length and flags, window, urgent pointer.
        7 if tcp => change(l4 + 6, 1),
        8 if tcp => change(l4 + 10, 1),
        9 if tcp => change(l4 + 12, dice.pick(&[1, 2, 4, 8, 0x20, 0x40, 0x80, 0x100, 0x200])),
        10 if tcp => change(l4 + 14, 1),
        11 if tcp => change(l4 + 18, 1),
        // The options, of which the time goes on in the middle of runs.
        13 if options => change(l4 + 24, 1),
        // The UDP length says less than there is.
        12 if !tcp => packet[l4 + 5] ^= 1,
        _ => {}
    }
}

/// The size of most packets of a run; often the same as those of other runs have.
fn run_size(dice: &mut Dice, most: usize) -> usize {
    let any = dice.range(1, most);
    dice.pick(&[500, 500, most, any])
}

fn tcp_run(flow: &Flow, dice: &mut Dice, mtu: usize) -> Vec<Shot> {
    let headers = flow.ip_len() + flow.tcp_len();
    let size = run_size(dice, mtu - headers);
    let mut sequence = dice.next() as u32;
    (0..dice.range(5, 80) as u16)
        .map(|index| {
            let len = if dice.once_in(12) { dice.range(0, mtu - headers) } else { size };
            let flags = ACK | if dice.once_in(12) { PSH } else { 0 };
            let partial = dice.once_in(8);
            let mut packet = flow.packet(&flow.tcp(sequence, flags), dice.bytes(len), index, partial);
            sequence = sequence.wrapping_add(len as u32);
            if partial {
                return Shot { vnet: flow.vnet(true, 0, 0), packet };
            }
            if dice.once_in(8) {
                disturb(&mut packet, flow.ip_len(), true, dice);
            }
            plain(packet)
        })
        .collect()
}

fn udp_run(flow: &Flow, dice: &mut Dice, mtu: usize) -> Vec<Shot> {
    let headers = flow.ip_len() + 8;
    let size = run_size(dice, mtu - headers);
    (0..dice.range(5, 80) as u16)
        .map(|index| {
            let len = if dice.once_in(12) { dice.range(0, mtu - headers) } else { size };
            let partial = dice.once_in(8);
            let mut packet = flow.packet(&flow.udp(len), dice.bytes(len), index, partial);
            if partial {
                return Shot { vnet: flow.vnet(false, 0, 0), packet };
            }
            if dice.once_in(8) {
                disturb(&mut packet, flow.ip_len(), false, dice);
            }
            plain(packet)
        })
        .collect()
}

/// A datagram in fragments, and a whole one of the same flow before and behind it.
fn fragments(flow: &Flow, dice: &mut Dice, mtu: usize) -> Vec<Shot> {
    let mut all = Vec::new();
    for _ in 0..dice.range(1, 3) {
        all.push(plain(flow.packet(&flow.udp(100), dice.bytes(100), 0, false)));
        let len = dice.range(2000, 20_000);
        let whole = flow.packet(&flow.udp(len), dice.bytes(len), 0, false);
        let text = &whole[flow.ip_len()..];
        let id = (dice.next() as u32).to_be_bytes();
        let room = (mtu - flow.ip_len() - 8) / 8 * 8;
        for (i, part) in text.chunks(room).enumerate() {
            let at = i * room;
            let more = at + part.len() < text.len();
            if flow.v6 {
                let header =
                    [[UDP, 0], (at as u16 | u16::from(more)).to_be_bytes(), [id[0], id[1]], [id[2], id[3]]].concat();
                all.push(plain([flow.ip(FRAGMENT, part.len() + 8, 0), header, part.to_vec()].concat()));
            } else {
                let mut packet = [flow.ip(UDP, part.len(), 0), part.to_vec()].concat();
                put(&mut packet, 6, (at / 8) as u16 | if more { 0x2000 } else { 0 });
                all.push(plain(packet));
            }
        }
        all.push(plain(flow.packet(&flow.udp(100), dice.bytes(100), 1, false)));
    }
    all
}

/// ICMP, with and without a quoted packet, and protocols of which nobody here knows anything.
fn others(flow: &Flow, dice: &mut Dice, mtu: usize) -> Vec<Shot> {
    (0..dice.range(5, 30))
        .map(|_| {
            let len = dice.range(0, mtu - flow.ip_len() - 8);
            let quoted = flow.packet(&flow.udp(500), dice.bytes(500), 9, false);
            let echo = dice.bytes(len).to_vec();
            let (protocol, mut l4) = match (dice.range(0, 2), flow.v6) {
                // Echo requests, "port unreachable", "too large" or "fragmentation needed".
                (0, false) => (ICMP, [vec![8, 0, 0, 0, 1, 2, 3, 4], echo].concat()),
                (0, true) => (ICMPV6, [vec![128, 0, 0, 0, 1, 2, 3, 4], echo].concat()),
                (1, false) => (ICMP, [vec![3, dice.pick(&[3, 4]), 0, 0, 0, 0, 5, 0], quoted].concat()),
                (1, true) => (ICMPV6, [vec![dice.pick(&[1, 2]), 0, 0, 0, 0, 0, 5, 0], quoted].concat()),
                _ => (dice.pick(&[47, 50, 132, 136, 253]), echo),
            };
            if matches!(protocol, ICMP | ICMPV6) {
                let before = if flow.v6 { flow.pseudo(protocol, l4.len()) } else { 0 };
                let sum = !sum(before, &l4);
                put(&mut l4, 2, sum);
            }
            plain([flow.ip(protocol, l4.len(), 0), l4].concat())
        })
        .collect()
}
