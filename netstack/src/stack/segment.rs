//! TCP headers on the wire.

use std::net::IpAddr;

use super::{
    packet::{Headers, TCP, header_len as ip_header_len},
    tuple::FourTuple,
};
use crate::tcp::{Flags, Header, Segment};

const HEADER: usize = 20;
/// The maximum size of options.
const MAX_OPTIONS: usize = 40;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;

/// The parts of a received segment: where its header ends is known, but it is not yet parsed. A parsed one is larger,
/// and should be moved less.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    fixed: &'a [u8; HEADER],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Returns `None` if the header exceeds the segment.
    pub(super) fn of(bytes: &'a [u8]) -> Option<Self> {
        let fixed = bytes.first_chunk()?;
        let start = usize::from(bytes[12] >> 4) * 4;
        let options = bytes.get(HEADER..start)?;
        Some(Self { fixed, options, payload: &bytes[start..] })
    }

    /// Returns the source and the destination port.
    pub(super) fn ports(&self) -> (u16, u16) {
        (self.u16_at(0), self.u16_at(2))
    }

    /// Parses the header. Options behind an invalid one are ignored.
    pub(super) fn parse(&self) -> Segment<'a> {
        let has = |flag: u8| self.fixed[13] & flag != 0;
        let header = Header {
            seq: number(&self.fixed[4..]),
            ack: number(&self.fixed[8..]),
            flags: Flags { syn: has(SYN), fin: has(FIN), rst: has(RST), ack: has(ACK), psh: has(PSH) },
            window: self.u16_at(14),
            ..Header::default()
        };
        let mut segment = Segment { header, payload: self.payload };
        parse_options(self.options, &mut segment.header);
        segment
    }

    fn u16_at(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.fixed[at], self.fixed[at + 1]])
    }
}

fn parse_options(mut rest: &[u8], header: &mut Header) {
    // Only timestamps, in the usual alignment: most segments.
    if let [NOP, NOP, TIMESTAMPS, 10, values @ ..] = rest
        && values.len() == 8
    {
        header.timestamps = Some((number(values), number(&values[4..])));
        return;
    }
    while let [kind, tail @ ..] = rest {
        match *kind {
            END => return,
            NOP => {
                rest = tail;
                continue;
            }
            _ => {}
        }
        let Some(len) = tail.first().map(|len| usize::from(*len)).filter(|len| (2..=rest.len()).contains(len)) else {
            return;
        };
        let (option, next) = rest.split_at(len);
        rest = next;
        match (*kind, &option[2..]) {
            (MSS, [a, b]) if header.flags.syn => header.mss = Some(u16::from_be_bytes([*a, *b])),
            (WINDOW_SCALE, [shift]) if header.flags.syn => header.window_scale = Some(*shift),
            (SACK_PERMITTED, []) => header.sack_permitted = header.flags.syn,
            (TIMESTAMPS, values) if values.len() == 8 => {
                header.timestamps = Some((number(values), number(&values[4..])));
            }
            (SACK, blocks) if blocks.len().is_multiple_of(8) => {
                for (place, block) in header.sack.iter_mut().zip(blocks.chunks_exact(8)) {
                    *place = Some((number(block), number(&block[4..])));
                }
            }
            _ => {}
        }
    }
}

/// Returns the first four bytes as a number; 0 if there are fewer.
fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// The options of a header, padded.
struct Options {
    bytes: [u8; MAX_OPTIONS],
    len: usize,
}

impl Options {
    fn of(header: &Header) -> Self {
        let mut options = Self { bytes: [NOP; MAX_OPTIONS], len: 0 };
        if let Some(mss) = header.mss.filter(|_| header.flags.syn) {
            let [a, b] = mss.to_be_bytes();
            options.push(&[MSS, 4, a, b]);
        }
        if header.flags.syn && header.sack_permitted {
            options.push(&[NOP, NOP, SACK_PERMITTED, 2]);
        }
        if let Some((value, echo)) = header.timestamps {
            options.push(&[NOP, NOP, TIMESTAMPS, 10]);
            options.push(&value.to_be_bytes());
            options.push(&echo.to_be_bytes());
        }
        if let Some(shift) = header.window_scale.filter(|_| header.flags.syn) {
            options.push(&[NOP, WINDOW_SCALE, 3, shift]);
        }
        let room = (MAX_OPTIONS - options.len).saturating_sub(4) / 8;
        let blocks = header.sack.iter().flatten().count().min(room);
        if blocks > 0 {
            options.push(&[NOP, NOP, SACK, 2 + 8 * blocks as u8]);
            for (start, end) in header.sack.iter().flatten().take(blocks) {
                options.push(&start.to_be_bytes());
                options.push(&end.to_be_bytes());
            }
        }
        options
    }

    /// Appends an option. There is room for all of them together: 4 + 4 + 12 + 4 with SYN, and the number of SACK
    /// blocks is limited.
    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Returns the options of most segments, which have only timestamps.
fn only_timestamps(header: &Header) -> Option<[u8; 12]> {
    let (value, echo) = header.timestamps.filter(|_| !header.flags.syn && header.sack[0].is_none())?;
    let ([a, b, c, d], [e, f, g, h]) = (value.to_be_bytes(), echo.to_be_bytes());
    Some([NOP, NOP, TIMESTAMPS, 10, a, b, c, d, e, f, g, h])
}

/// Builds whole packets of one connection, from their common parts.
#[derive(Clone, Copy)]
pub(super) struct Builder {
    ip: Headers,
    ports: [u8; 4],
}

/// The maximum length of the headers of a packet without payload.
pub(super) const MAX_HEADERS: usize = 40 + HEADER + MAX_OPTIONS;

impl Builder {
    pub(super) fn new(tuple: &FourTuple) -> Self {
        let (local, remote) = (tuple.local(), tuple.remote());
        let ([a, b], [c, d]) = (local.port().to_be_bytes(), remote.port().to_be_bytes());
        Self { ip: Headers::new(local.ip(), remote.ip(), TCP), ports: [a, b, c, d] }
    }

    /// Builds a packet in the buffer that `room` returns for its length. Returns `None` if that has no room.
    pub(super) fn build<'a>(
        &self,
        header: &Header,
        first: &[u8],
        second: &[u8],
        room: impl FnOnce(usize) -> Option<&'a mut [u8]>,
    ) -> Option<usize> {
        let (usual, others);
        let options = if let Some(options) = only_timestamps(header) {
            usual = options;
            &usual[..]
        } else {
            others = Options::of(header);
            others.bytes()
        };
        let ip = self.ip.len();
        let tcp = HEADER + options.len();
        let payload = first.len() + second.len();
        let out = room(ip + tcp + payload)?;
        let sum = self.ip.emit(out, tcp + payload);
        let (head, data) = out[ip..].split_at_mut(tcp);
        head[0..4].copy_from_slice(&self.ports);
        head[4..8].copy_from_slice(&header.seq.to_be_bytes());
        head[8..12].copy_from_slice(&header.ack.to_be_bytes());
        (head[12], head[13]) = ((tcp as u8 / 4) << 4, flag_bits(header.flags));
        head[14..16].copy_from_slice(&header.window.to_be_bytes());
        head[16..20].fill(0);
        head[HEADER..].copy_from_slice(options);
        let (one, two) = data.split_at_mut(first.len());
        one.copy_from_slice(first);
        if !second.is_empty() {
            two.copy_from_slice(second);
        }
        let sum = sum.bytes(&out[ip..]).finish();
        out[ip + 16..ip + 18].copy_from_slice(&sum);
        Some(out.len())
    }

    /// Returns a packet without payload.
    pub(super) fn packet(&self, header: &Header) -> Vec<u8> {
        let mut packet = [0; MAX_HEADERS];
        let len = self.build(header, &[], &[], |len| packet.get_mut(..len)).unwrap_or(0);
        packet[..len].to_vec()
    }
}

const fn flag_bits(flags: Flags) -> u8 {
    (if flags.fin { FIN } else { 0 })
        | (if flags.syn { SYN } else { 0 })
        | (if flags.rst { RST } else { 0 })
        | (if flags.psh { PSH } else { 0 })
        | (if flags.ack { ACK } else { 0 })
}

/// Returns the RST that responds to a segment without a connection (RFC 9293, section 3.10.7.1); `None` for a RST.
pub(super) fn reset_for(segment: &Segment<'_>) -> Option<Header> {
    let header = &segment.header;
    if header.flags.rst {
        return None;
    }
    let flags = Flags { rst: true, ack: !header.flags.ack, ..Flags::default() };
    if header.flags.ack {
        return Some(Header { seq: header.ack, flags, ..Header::default() });
    }
    let len = segment.payload.len() as u32 + u32::from(header.flags.syn) + u32::from(header.flags.fin);
    Some(Header { ack: header.seq.wrapping_add(len), flags, ..Header::default() })
}

/// Returns the maximum length of segments, including their header, to `address` with this MTU.
pub(super) const fn max_segment(mtu: u16, address: IpAddr) -> usize {
    (mtu as usize).saturating_sub(ip_header_len(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::packet::Packet;
    use proptest::prelude::*;

    fn tuple(v6: bool) -> FourTuple {
        let (local, remote) = if v6 { ("[fd00::1]:80", "[fd00::2]:9") } else { ("10.0.0.1:80", "10.0.0.2:9") };
        FourTuple::new(local.parse().unwrap(), remote.parse().unwrap())
    }

    fn round_trip(header: &Header, first: &[u8], second: &[u8], v6: bool) -> Header {
        let mut bytes = vec![0; 2000];
        let len = Builder::new(&tuple(v6)).build(header, first, second, |len| bytes.get_mut(..len)).unwrap();
        let packet = Packet::parse(&bytes[..len]).unwrap();
        assert!(packet.has_valid_checksum());
        let parts = Parts::of(packet.payload()).unwrap();
        let segment = parts.parse();
        assert_eq!((parts.ports(), segment.payload), ((80, 9), &[first, second].concat()[..]));
        segment.header
    }

    #[test]
    fn headers_come_back() {
        let syn = Header {
            seq: 1,
            flags: Flags { syn: true, ..Flags::default() },
            window: 65535,
            mss: Some(1380),
            window_scale: Some(7),
            sack_permitted: true,
            timestamps: Some((5, 0)),
            ..Header::default()
        };
        let data = Header {
            seq: u32::MAX,
            ack: 77,
            flags: Flags { ack: true, psh: true, ..Flags::default() },
            timestamps: Some((5, 6)),
            sack: [Some((1, 2)), Some((3, 4)), Some((5, 6)), None],
            ..Header::default()
        };
        let without = Header { timestamps: None, sack: [Some((1, 2)); 4], ..data };
        for v6 in [false, true] {
            for header in [syn, data, without] {
                assert_eq!(round_trip(&header, b"abc", b"de", v6), header);
            }
        }
        let four = Header { sack: [Some((1, 2)); 4], ..data };
        assert_eq!(round_trip(&four, &[], &[], true).sack, [Some((1, 2)), Some((1, 2)), Some((1, 2)), None]);
    }

    #[test]
    fn a_reset_answers_all_but_resets() {
        let segment =
            |flags, payload| Segment { header: Header { seq: 10, ack: 20, flags, ..Header::default() }, payload };
        let ack = Flags { ack: true, ..Flags::default() };
        let reset = reset_for(&segment(ack, b"abc")).unwrap();
        assert_eq!((reset.seq, reset.flags), (20, Flags { rst: true, ..Flags::default() }));
        let syn = Flags { syn: true, ..Flags::default() };
        let reset = reset_for(&segment(syn, b"abc")).unwrap();
        assert_eq!((reset.seq, reset.ack, reset.flags), (0, 14, Flags { rst: true, ack: true, ..Flags::default() }));
        assert_eq!(reset_for(&segment(Flags { rst: true, ..ack }, b"")), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_within_bounds(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Some(parts) = Parts::of(&bytes) {
                prop_assert!(parts.parse().payload.len() <= bytes.len() - HEADER);
            }
        }
    }
}
