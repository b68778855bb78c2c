//! Coalesces packets of one flow (GRO), so that the kernel accepts them as one.
//!
//! Packets are merged only if [`split`](super::split) would produce exactly these packets: consecutive TCP or UDP
//! payloads of one size (the last may be shorter) behind equal headers, with verified checksums. Packets of one flow
//! never overtake each other; those of different flows may.

use super::{
    FIN_PSH, Gso, IPV4_HEADER, IPV6_HEADER, TCP, TCP_CHECKSUM, TCP_MIN_HEADER, UDP, UDP_CHECKSUM, UDP_HEADER,
    VnetHeader, checksum::Sum, get16, get32, len16, put16, set_ipv4_checksum,
};
use crate::tun::{MAX_PACKET, PacketList};
use std::array;

/// The maximum number of packets merged into one. Older kernels accept no more UDP datagrams.
pub const MAX_MERGED: usize = 64;

/// The longest headers that are merged: IPv6, and TCP with options.
const MAX_HEADERS: usize = IPV6_HEADER + 60;

/// The number of flows that may be interleaved and are still merged.
const FLOWS: usize = 8;

/// A packet to write.
#[derive(Clone, Copy, Debug)]
pub enum Group<'a> {
    /// The packet of this number, unchanged.
    One(usize),
    /// Several packets as one.
    Merged {
        /// The header for the kernel.
        vnet: VnetHeader,
        /// The headers of the large packet, which are as long as those of each packet.
        headers: &'a [u8],
        /// The numbers of the packets whose payloads follow.
        packets: &'a [u32],
    },
}

/// The protocols whose packets are merged.
#[derive(Clone, Copy, Debug)]
pub struct Merging {
    /// TCP, over IPv4 and IPv6.
    pub tcp: bool,
    /// UDP, over IPv4 and IPv6.
    pub udp: bool,
}

/// Groups packets, and passes each group to `emit`. Packets of protocols that are not in `merging` are passed one by
/// one.
pub fn coalesce(packets: PacketList<'_>, merging: Merging, mut emit: impl FnMut(Group<'_>)) {
    let mut runs = Runs::new(packets);
    for (i, number) in (0..packets.ranges.len()).zip(0_u32..) {
        let packet = packets.get(i);
        let Some(segment) = Segment::parse(packet) else {
            // It may belong to any flow: a fragment, for example.
            runs.flush(&mut emit);
            emit(Group::One(i));
            continue;
        };
        let run = runs.find(&segment, packet);
        let wanted = if segment.tcp { merging.tcp } else { merging.udp };
        let mergeable = wanted && segment.is_mergeable(packet);
        if let Some(at) = run {
            if mergeable && runs.append(at, number, &segment, packet) {
                if runs.open[at].closed {
                    runs.close(at, &mut emit);
                }
                continue;
            }
            runs.close(at, &mut emit);
        }
        if mergeable && !segment.ends_run() {
            runs.start(number, segment, &mut emit);
        } else {
            emit(Group::One(i));
        }
    }
    runs.flush(&mut emit);
}

/// A TCP or UDP packet with valid lengths.
#[derive(Clone, Copy, Debug, Default)]
struct Segment {
    tcp: bool,
    /// The start and end of the TCP or UDP header, and the length of its payload.
    l4: usize,
    headers: usize,
    payload: usize,
    /// TCP flags; 0 for UDP.
    flags: u8,
}

impl Segment {
    fn parse(packet: &[u8]) -> Option<Self> {
        let (l4, protocol) = match packet.first()? {
            // Without options. Only "don't fragment" may be set.
            0x45 if packet.len() > IPV4_HEADER
                && usize::from(get16(packet, 2)) == packet.len()
                && get16(packet, 6) & !0x4000 == 0 =>
            {
                (IPV4_HEADER, packet[9])
            }
            0x60..=0x6f
                if packet.len() > IPV6_HEADER && usize::from(get16(packet, 4)) == packet.len() - IPV6_HEADER =>
            {
                (IPV6_HEADER, packet[6])
            }
            _ => return None,
        };
        let (tcp, min_header) = match protocol {
            TCP => (true, TCP_MIN_HEADER),
            UDP => (false, UDP_HEADER),
            _ => return None,
        };
        if packet.len() > MAX_PACKET || packet.len() < l4 + min_header {
            return None;
        }
        let header_len = if tcp { usize::from(packet[l4 + 12] >> 4) * 4 } else { UDP_HEADER };
        let headers = l4 + header_len;
        if header_len < min_header
            || headers > packet.len()
            || (!tcp && usize::from(get16(packet, l4 + 4)) != packet.len() - l4)
        {
            return None;
        }
        Some(Self { tcp, l4, headers, payload: packet.len() - headers, flags: if tcp { packet[l4 + 13] } else { 0 } })
    }

    /// Returns whether it can be part of a large packet at all.
    fn is_mergeable(&self, packet: &[u8]) -> bool {
        const ACK: u8 = 0x10;
        const ECE: u8 = 0x40;
        let flags_fit = !self.tcp || (self.flags & ACK != 0 && self.flags & !(ACK | ECE | FIN_PSH) == 0);
        self.payload > 0 && flags_fit && self.has_valid_checksums(packet)
    }

    fn has_valid_checksums(&self, packet: &[u8]) -> bool {
        let (ip, l4) = packet.split_at(self.l4);
        if !self.is_v6() && !Sum::default().bytes(ip).is_valid() {
            return false;
        }
        // UDP packets without a checksum would get one.
        (self.tcp || get16(l4, UDP_CHECKSUM) != 0) && self.pseudo_header(ip, l4.len()).bytes(l4).is_valid()
    }

    fn pseudo_header(&self, ip: &[u8], len: usize) -> Sum {
        let addresses = if self.is_v6() { &ip[8..40] } else { &ip[12..20] };
        Sum::default().pseudo_header(addresses, if self.tcp { TCP } else { UDP }, len16(len))
    }

    fn is_v6(&self) -> bool {
        self.l4 == IPV6_HEADER
    }

    /// Returns whether nothing may be appended behind these flags.
    fn ends_run(&self) -> bool {
        self.flags & FIN_PSH != 0
    }
}

/// Packets that are being merged.
#[derive(Clone, Copy, Debug)]
struct Run {
    packets: [u32; MAX_MERGED],
    count: usize,
    /// The first packet.
    first: Segment,
    /// All payload bytes.
    payload: usize,
    /// FIN and PSH of the last packet.
    flags: u8,
    closed: bool,
}

struct Runs<'a> {
    list: PacketList<'a>,
    /// The first `len` are in use, oldest first.
    open: [Run; FLOWS],
    len: usize,
}

impl<'a> Runs<'a> {
    fn new(list: PacketList<'a>) -> Self {
        let empty =
            Run { packets: [0; MAX_MERGED], count: 0, first: Segment::default(), payload: 0, flags: 0, closed: false };
        Self { list, open: array::from_fn(|_| empty), len: 0 }
    }

    fn first(&self, run: &Run) -> &'a [u8] {
        self.list.get(run.packets[0] as usize)
    }

    /// Returns the run of the packet's flow.
    fn find(&self, segment: &Segment, packet: &[u8]) -> Option<usize> {
        self.open[..self.len].iter().position(|run| {
            let first = self.first(run);
            let addresses = if segment.is_v6() { 8..40 } else { 12..20 };
            let ports = segment.l4..segment.l4 + 4;
            run.first.tcp == segment.tcp
                && run.first.l4 == segment.l4
                && first[ports.clone()] == packet[ports]
                && first[addresses.clone()] == packet[addresses]
        })
    }

    fn start(&mut self, number: u32, segment: Segment, emit: &mut impl FnMut(Group<'_>)) {
        if self.len == FLOWS {
            self.close(0, emit);
        }
        let run = &mut self.open[self.len];
        run.packets[0] = number;
        run.count = 1;
        run.first = segment;
        run.payload = segment.payload;
        run.flags = 0;
        run.closed = false;
        self.len += 1;
    }

    /// Adds a packet of the same flow to a run, if it continues the run.
    fn append(&mut self, at: usize, number: u32, segment: &Segment, packet: &[u8]) -> bool {
        let run = &self.open[at];
        let first = self.first(run);
        if run.count == MAX_MERGED
            || segment.headers != run.first.headers
            || segment.payload > run.first.payload
            || segment.headers + run.payload + segment.payload > MAX_PACKET
            || !same_ip_header(first, packet, segment, run.count)
            || (segment.tcp && !continues_tcp(first, packet, segment, run.payload))
        {
            return false;
        }
        let run = &mut self.open[at];
        run.packets[run.count] = number;
        run.count += 1;
        run.payload += segment.payload;
        run.flags = segment.flags & FIN_PSH;
        run.closed = segment.ends_run() || segment.payload < run.first.payload || run.count == MAX_MERGED;
        true
    }

    /// Emits one run.
    fn close(&mut self, at: usize, emit: &mut impl FnMut(Group<'_>)) {
        let run = &self.open[at];
        let packets = &run.packets[..run.count];
        if let [only] = *packets {
            emit(Group::One(only as usize));
        } else {
            let (vnet, headers) = run.merged(self.first(run));
            emit(Group::Merged { vnet, headers: &headers[..run.first.headers], packets });
        }
        self.open[at..self.len].rotate_left(1);
        self.len -= 1;
    }

    /// Emits all runs.
    fn flush(&mut self, emit: &mut impl FnMut(Group<'_>)) {
        while self.len > 0 {
            self.close(0, emit);
        }
    }
}

impl Run {
    /// Returns the headers of the large packet, made from those of its first packet.
    fn merged(&self, first: &[u8]) -> (VnetHeader, [u8; MAX_HEADERS]) {
        let Segment { tcp, l4, headers, .. } = self.first;
        let mut bytes = [0; MAX_HEADERS];
        bytes[..headers].copy_from_slice(&first[..headers]);
        let len = headers + self.payload;
        let (ip, rest) = bytes.split_at_mut(l4);
        if self.first.is_v6() {
            put16(ip, 4, len16(len - IPV6_HEADER));
        } else {
            put16(ip, 2, len16(len));
            set_ipv4_checksum(ip);
        }
        let field = if tcp {
            rest[13] |= self.flags;
            TCP_CHECKSUM
        } else {
            put16(rest, 4, len16(len - l4));
            UDP_CHECKSUM
        };
        let sum = self.first.pseudo_header(ip, len - l4).partial();
        rest[field..field + 2].copy_from_slice(&sum);
        let vnet = VnetHeader {
            needs_csum: true,
            gso: match (tcp, self.first.is_v6()) {
                (true, false) => Gso::TcpV4,
                (true, true) => Gso::TcpV6,
                (false, _) => Gso::Udp,
            },
            ecn: false,
            header_len: len16(headers),
            segment: len16(self.first.payload),
            csum_start: len16(l4),
            csum_offset: len16(field),
        };
        (vnet, bytes)
    }
}

/// Returns whether a packet has the IP header that splitting would produce as number `index` behind `first`.
fn same_ip_header(first: &[u8], packet: &[u8], segment: &Segment, index: usize) -> bool {
    if segment.is_v6() {
        // Traffic class, flow label and hop limit.
        return first[..4] == packet[..4] && first[7] == packet[7];
    }
    // With "don't fragment" the identification has no meaning (RFC 6864).
    let id_fits = get16(packet, 6) != 0 || get16(packet, 4) == get16(first, 4).wrapping_add(len16(index));
    // Type of service, "don't fragment" and time to live.
    id_fits && first[1] == packet[1] && first[6] == packet[6] && first[8] == packet[8]
}

/// Returns whether a TCP packet directly follows `payload` bytes that began with `first`, and is otherwise equal.
fn continues_tcp(first: &[u8], packet: &[u8], segment: &Segment, payload: usize) -> bool {
    let (a, b) = (&first[segment.l4..segment.headers], &packet[segment.l4..segment.headers]);
    // A packet has at most 65,535 bytes.
    get32(b, 4) == get32(a, 4).wrapping_add(payload as u32)
        // Acknowledgement and header length.
        && a[8..13] == b[8..13]
        && (a[13] ^ b[13]) & !FIN_PSH == 0
        // Window.
        && a[14..16] == b[14..16]
        // Urgent pointer and options.
        && a[18..] == b[18..]
}
