//! Splits a large packet into segments (TSO and USO), and completes checksums.

use super::{
    CWR, FIN_PSH, Gso, IPV4_HEADER, IPV6_HEADER, Malformed, TCP, TCP_CHECKSUM, TCP_MIN_HEADER, UDP, UDP_CHECKSUM,
    UDP_HEADER, VnetHeader, checksum::Sum, get16, get32, len16, put16, set_ipv4_checksum,
};
use crate::tun::{MAX_PACKET, PacketArena};

/// The processing of a packet on its way into the arena.
#[derive(Clone, Copy, Debug)]
enum Work {
    /// One packet, unchanged.
    Copy,
    /// One packet; the bytes from `start` are summed into `field`.
    Checksum { start: usize, field: usize },
    /// Segments of `size` payload bytes.
    Segments(Segments),
}

#[derive(Clone, Copy, Debug)]
struct Segments {
    tcp: bool,
    /// The start and the end of the TCP or UDP header.
    l4: usize,
    headers: usize,
    size: usize,
    /// The pseudo header without its length.
    pseudo: Sum,
}

/// The longest headers that are replaced in place: those of TCP over IPv4 or IPv6, with all options of IPv4 and TCP.
const MAX_HEADERS: usize = 120;

/// A packet of the kernel that is being moved into an arena, possibly in several rounds.
#[derive(Clone, Copy, Debug)]
pub struct Split {
    work: Work,
    /// Completed payload bytes and segments.
    offset: usize,
    index: u16,
}

impl Split {
    /// For a complete packet, which is copied unchanged.
    pub(in crate::tun) const WHOLE: Self = Self { work: Work::Copy, offset: 0, index: 0 };

    /// Examines a packet and its header.
    ///
    /// # Errors
    /// If these are inconsistent.
    pub fn new(header: &VnetHeader, packet: &[u8]) -> Result<Self, Malformed> {
        if packet.is_empty() || packet.len() > MAX_PACKET {
            return Err(Malformed);
        }
        let start = usize::from(header.csum_start);
        let field = start + usize::from(header.csum_offset);
        let work = if header.gso != Gso::None {
            Work::Segments(Segments::new(header, packet)?)
        } else if !header.needs_csum {
            return Ok(Self::WHOLE);
        } else if field + 2 <= packet.len() {
            Work::Checksum { start, field }
        } else {
            return Err(Malformed);
        };
        Ok(Self { work, offset: 0, index: 0 })
    }

    /// Processes a packet of `len` bytes, the one passed to [`new`](Self::new), in the room of the arena that it was
    /// read into. Returns false if there is no room for all of its segments: nothing has changed then, and the packet
    /// is to be moved by [`fill`](Self::fill).
    #[cfg_attr(not(any(target_os = "linux", target_os = "android")), allow(dead_code))]
    pub(in crate::tun) fn in_place(&self, len: usize, arena: &mut PacketArena) -> bool {
        match self.work {
            Work::Copy => arena.commit(len),
            Work::Checksum { start, field } => {
                let Some(packet) = arena.reserve(len) else {
                    return false;
                };
                complete(packet, start, field);
                arena.commit(len);
            }
            Work::Segments(segments) => {
                let mut buffer = [0; MAX_HEADERS];
                let (Some(room), Some(headers)) = (arena.reserve(len), buffer.get_mut(..segments.headers)) else {
                    return false;
                };
                headers.copy_from_slice(&room[..segments.headers]);
                let payload = len - segments.headers;
                return arena.spread(len, segments.headers, segments.size, |i, head, body| {
                    head.copy_from_slice(headers);
                    let offset = i * segments.size;
                    // A packet has at most 65,535 bytes.
                    segments.fix(head, body, offset, i as u16, offset + body.len() == payload);
                });
            }
        }
        true
    }

    /// Moves the rest of `packet`, the one passed to [`new`](Self::new), into the arena. Returns false if there was no
    /// room for all of it: call it again with an arena that has room.
    pub fn fill(&mut self, packet: &[u8], arena: &mut PacketArena) -> bool {
        match self.work {
            Work::Copy => arena.push(packet),
            Work::Checksum { start, field } => {
                let Some(room) = arena.reserve(packet.len()) else {
                    return false;
                };
                room.copy_from_slice(packet);
                complete(room, start, field);
                arena.commit(packet.len());
                true
            }
            Work::Segments(segments) => {
                let (headers, payload) = packet.split_at(segments.headers);
                while self.offset < payload.len() {
                    let end = payload.len().min(self.offset + segments.size);
                    let len = segments.headers + end - self.offset;
                    let Some(room) = arena.reserve(len) else {
                        return false;
                    };
                    let (head, body) = room.split_at_mut(segments.headers);
                    head.copy_from_slice(headers);
                    body.copy_from_slice(&payload[self.offset..end]);
                    segments.fix(head, body, self.offset, self.index, end == payload.len());
                    arena.commit(len);
                    self.offset = end;
                    self.index = self.index.wrapping_add(1);
                }
                true
            }
        }
    }
}

impl Segments {
    fn new(header: &VnetHeader, packet: &[u8]) -> Result<Self, Malformed> {
        let l4 = usize::from(header.csum_start);
        let tcp = header.gso != Gso::Udp;
        let protocol = match packet[0] >> 4 {
            4 if header.gso != Gso::TcpV6 => ipv4_protocol(packet, l4),
            6 if header.gso != Gso::TcpV4 => ipv6_protocol(packet, l4),
            _ => None,
        };
        let (min_header, field) = if tcp { (TCP_MIN_HEADER, TCP_CHECKSUM) } else { (UDP_HEADER, UDP_CHECKSUM) };
        let size = usize::from(header.segment);
        if protocol != Some(if tcp { TCP } else { UDP })
            || !header.needs_csum
            || usize::from(header.csum_offset) != field
            || size == 0
            || packet.len() < l4 + min_header
        {
            return Err(Malformed);
        }
        let header_len = if tcp { usize::from(packet[l4 + 12] >> 4) * 4 } else { UDP_HEADER };
        let headers = l4 + header_len;
        if header_len < min_header || headers >= packet.len() {
            return Err(Malformed);
        }
        // The field holds the sum of the pseudo header with the large packet's length. Subtracting that length is also
        // right for IPv6 with a routing header, where the destination is not the one in the IP header.
        let pseudo = Sum::default().bytes(&packet[l4 + field..l4 + field + 2]).number(!len16(packet.len() - l4));
        Ok(Self { tcp, l4, headers, size, pseudo })
    }

    /// Changes the large packet's headers to those of one segment.
    fn fix(&self, head: &mut [u8], body: &[u8], offset: usize, index: u16, last: bool) {
        let len = head.len() + body.len();
        let l4_len = len16(len - self.l4);
        let (ip, l4) = head.split_at_mut(self.l4);
        if ip[0] >> 4 == 4 {
            put16(ip, 2, len16(len));
            let id = get16(ip, 4).wrapping_add(index);
            put16(ip, 4, id);
            set_ipv4_checksum(ip);
        } else {
            put16(ip, 4, len16(len - IPV6_HEADER));
        }
        let field = if self.tcp {
            // A packet has at most 65,535 bytes.
            let sequence = get32(l4, 4).wrapping_add(offset as u32);
            l4[4..8].copy_from_slice(&sequence.to_be_bytes());
            if !last {
                l4[13] &= !FIN_PSH;
            }
            if index != 0 {
                l4[13] &= !CWR;
            }
            TCP_CHECKSUM
        } else {
            put16(l4, 4, l4_len);
            UDP_CHECKSUM
        };
        l4[field..field + 2].fill(0);
        // All headers have an even length.
        let sum = self.pseudo.number(l4_len).bytes(l4).bytes(body).finish_nonzero();
        l4[field..field + 2].copy_from_slice(&sum);
    }
}

/// Completes the checksum of the bytes from `start`.
fn complete(packet: &mut [u8], start: usize, field: usize) {
    let sum = Sum::default().bytes(&packet[start..]).finish_nonzero();
    packet[field..field + 2].copy_from_slice(&sum);
}

/// Returns the protocol behind an IPv4 header of `l4` bytes, if it is valid and the packet is not a fragment.
fn ipv4_protocol(packet: &[u8], l4: usize) -> Option<u8> {
    let fits = packet.len() > IPV4_HEADER && l4 >= IPV4_HEADER && usize::from(packet[0] & 0xf) * 4 == l4;
    (fits && get16(packet, 6) & 0x3fff == 0).then(|| packet[9])
}

/// Returns the protocol behind an IPv6 header with extensions, if these end at `l4` and the packet is not a fragment.
fn ipv6_protocol(packet: &[u8], l4: usize) -> Option<u8> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    if packet.len() <= IPV6_HEADER {
        return None;
    }
    let (mut next, mut at) = (packet[6], IPV6_HEADER);
    while at < l4 {
        let extension = packet.get(at..at + 2)?;
        at += match next {
            HOP_BY_HOP | ROUTING | DESTINATION => (usize::from(extension[1]) + 1) * 8,
            AUTHENTICATION => (usize::from(extension[1]) + 2) * 4,
            _ => return None,
        };
        next = extension[0];
    }
    (at == l4).then_some(next)
}
