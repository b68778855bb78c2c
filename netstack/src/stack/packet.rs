//! IP packets: received ones are parsed within their bounds, sent ones get their header and checksum.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use wg_embed::tun::offload::checksum::Sum;

/// Protocol numbers.
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

pub(crate) const IPV4_HEADER: usize = 20;
pub(crate) const IPV6_HEADER: usize = 40;

/// The hop limit of all packets that the stack sends.
pub(crate) const HOP_LIMIT: u8 = 64;

/// The maximum number of IPv6 extension headers; a packet with more is malformed.
const MAX_EXTENSIONS: usize = 8;

/// A received packet. Its bytes end where its header states, and all ranges lie within them.
#[derive(Clone, Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// The protocol of the payload, behind IPv6 extension headers. For a fragment it is the value in its header, even
    /// if the payload is not the beginning of that protocol's header.
    pub(crate) protocol: u8,
    /// The part behind the IP header and the extension headers.
    pub(crate) payload: Range<usize>,
    pub(crate) hop_limit: u8,
    /// DSCP and, in the two low bits, ECN.
    pub(crate) traffic_class: u8,
    /// `None` for whole packets, including atomic fragments (RFC 6946).
    pub(crate) fragment: Option<Fragment>,
}

/// The position of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) identification: u32,
    /// In bytes of the fragmented part.
    pub(crate) offset: usize,
    /// Whether there are further fragments behind it.
    pub(crate) more: bool,
}

/// The reason why a packet was not parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Neither IPv4 nor IPv6, truncated, or with inconsistent lengths.
    Header,
    /// The IPv4 header's checksum is wrong.
    Checksum,
    /// Extension headers that exceed the packet, or too many of them.
    Extensions,
}

impl<'a> Packet<'a> {
    /// Parses a packet. Bytes behind the length in its header are removed.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        match bytes.first().map(|first| first >> 4) {
            Some(4) => Self::parse_v4(bytes),
            Some(6) => Self::parse_v6(bytes),
            _ => Err(Malformed::Header),
        }
    }

    /// Returns the source and destination of a packet, which may be truncated after its header.
    pub(crate) fn addresses(bytes: &[u8]) -> Result<(IpAddr, IpAddr), Malformed> {
        if let Some(header) = bytes.first_chunk::<IPV6_HEADER>()
            && header[0] >> 4 == 6
        {
            return Ok((address_v6(&header[8..24]), address_v6(&header[24..40])));
        }
        let header = bytes.first_chunk::<IPV4_HEADER>().ok_or(Malformed::Header)?;
        let address = |at: usize| Ipv4Addr::from([header[at], header[at + 1], header[at + 2], header[at + 3]]).into();
        Ok((address(12), address(16)))
    }

    fn parse_v4(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let header = bytes.first_chunk::<IPV4_HEADER>().ok_or(Malformed::Header)?;
        let start = usize::from(header[0] & 15) * 4;
        let end = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if start < IPV4_HEADER || start > end || end > bytes.len() {
            return Err(Malformed::Header);
        }
        let bytes = &bytes[..end];
        if !Sum::default().bytes(&bytes[..start]).is_valid() {
            return Err(Malformed::Checksum);
        }
        let place = u16::from_be_bytes([header[6], header[7]]);
        let (offset, more) = (usize::from(place & 0x1fff) * 8, place & 0x2000 != 0);
        let fragment = (offset > 0 || more).then(|| Fragment {
            identification: u32::from(u16::from_be_bytes([header[4], header[5]])),
            offset,
            more,
        });
        Ok(Self {
            bytes,
            source: Ipv4Addr::from([header[12], header[13], header[14], header[15]]).into(),
            destination: Ipv4Addr::from([header[16], header[17], header[18], header[19]]).into(),
            protocol: header[9],
            payload: start..end,
            hop_limit: header[8],
            traffic_class: header[1],
            fragment,
        })
    }

    fn parse_v6(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, _) = bytes.split_first_chunk::<IPV6_HEADER>().ok_or(Malformed::Header)?;
        let end = IPV6_HEADER + usize::from(u16::from_be_bytes([header[4], header[5]]));
        let bytes = bytes.get(..end).ok_or(Malformed::Header)?;
        let mut packet = Self {
            bytes,
            source: address_v6(&header[8..24]),
            destination: address_v6(&header[24..40]),
            protocol: header[6],
            payload: IPV6_HEADER..end,
            hop_limit: header[7],
            traffic_class: header[0] << 4 | header[1] >> 4,
            fragment: None,
        };
        packet.skip_extensions().ok_or(Malformed::Extensions)?;
        Ok(packet)
    }

    /// Skips extension headers; returns `None` if they are invalid.
    fn skip_extensions(&mut self) -> Option<()> {
        const HOP_BY_HOP: u8 = 0;
        const ROUTING: u8 = 43;
        const FRAGMENT: u8 = 44;
        const AUTHENTICATION: u8 = 51;
        const DESTINATION: u8 = 60;
        for _ in 0..=MAX_EXTENSIONS {
            let rest = &self.bytes[self.payload.clone()];
            let len = match self.protocol {
                HOP_BY_HOP | ROUTING | DESTINATION => 8 * (usize::from(*rest.get(1)?) + 1),
                AUTHENTICATION => 4 * (usize::from(*rest.get(1)?) + 2),
                FRAGMENT => 8,
                _ => return Some(()),
            };
            let header = rest.get(..len)?;
            if self.protocol == FRAGMENT {
                let place = u16::from_be_bytes([header[2], header[3]]);
                let (offset, more) = (usize::from(place & 0xfff8), place & 1 != 0);
                let identification = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                self.fragment = (offset > 0 || more).then_some(Fragment { identification, offset, more });
            }
            self.protocol = header[0];
            self.payload.start += len;
            // The following bytes are a part of a larger whole.
            if self.fragment.is_some() {
                return Some(());
            }
        }
        None
    }

    /// Returns the part behind the headers.
    pub(crate) fn payload(&self) -> &'a [u8] {
        &self.bytes[self.payload.clone()]
    }

    /// Returns whether the payload, which has the checksum of TCP, UDP and `ICMPv6`, is intact.
    pub(crate) fn has_valid_checksum(&self) -> bool {
        pseudo_header(self.source, self.destination, self.protocol, self.payload.len()).bytes(self.payload()).is_valid()
    }
}

fn address_v6(bytes: &[u8]) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(bytes);
    Ipv6Addr::from(octets).into()
}

/// Returns whether an address is that of one host, from which packets may come and to which responses may be sent.
pub(crate) const fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !(address.is_multicast()
                || address.is_broadcast()
                || address.is_loopback()
                || address.is_unspecified()
                || address.octets()[0] >= 240)
        }
        // IPv4 addresses in IPv6 form are for programs, not for packets.
        IpAddr::V6(address) => {
            !(address.is_multicast()
                || address.is_loopback()
                || address.is_unspecified()
                || address.to_ipv4_mapped().is_some())
        }
    }
}

/// Returns the sum of the pseudo header of TCP, UDP and `ICMPv6`. Both addresses are of one family, and `len` is at
/// most that of the largest packet.
pub(crate) fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> Sum {
    let sum = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            Sum::default().word(source.octets()).word(destination.octets())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            Sum::default().bytes(&source.octets()).bytes(&destination.octets())
        }
        _ => Sum::default(),
    };
    sum.number(u16::from(protocol)).number(len as u16)
}

/// Returns the length of the IP header (without options) of packets to `address`.
pub(crate) const fn header_len(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(_) => IPV4_HEADER,
        IpAddr::V6(_) => IPV6_HEADER,
    }
}

/// The header of an outgoing packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IpHeader {
    /// Both addresses are of one family.
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) hop_limit: u8,
    pub(crate) traffic_class: u8,
    /// IPv4 only: offset in bytes, and whether more follow. `None`: a whole packet, with "don't fragment" set.
    pub(crate) fragment: Option<Fragment>,
}

impl IpHeader {
    /// Creates the header of a whole packet.
    pub(crate) const fn new(source: IpAddr, destination: IpAddr, protocol: u8) -> Self {
        Self { source, destination, protocol, hop_limit: HOP_LIMIT, traffic_class: 0, fragment: None }
    }

    /// Writes the header to the first [`header_len`] bytes of `out`, which must be long enough, for a payload of
    /// `payload` bytes. A packet is at most 65,535 bytes long, as is an IPv6 payload.
    pub(crate) fn emit(&self, out: &mut [u8], payload: usize) {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => self.emit_v4(out, payload, source, destination),
            (IpAddr::V6(source), IpAddr::V6(destination)) => self.emit_v6(out, payload, source, destination),
            _ => debug_assert!(false, "addresses of two families"),
        }
    }

    fn emit_v4(&self, out: &mut [u8], payload: usize, source: Ipv4Addr, destination: Ipv4Addr) {
        const DONT_FRAGMENT: u16 = 0x4000;
        const MORE: u16 = 0x2000;
        let out = &mut out[..IPV4_HEADER];
        out.fill(0);
        (out[0], out[1]) = (0x45, self.traffic_class);
        out[2..4].copy_from_slice(&((IPV4_HEADER + payload) as u16).to_be_bytes());
        // A packet that is never fragmented may have any identification (RFC 6864).
        let place = match self.fragment {
            None => DONT_FRAGMENT,
            Some(fragment) => {
                out[4..6].copy_from_slice(&(fragment.identification as u16).to_be_bytes());
                (fragment.offset / 8) as u16 | if fragment.more { MORE } else { 0 }
            }
        };
        out[6..8].copy_from_slice(&place.to_be_bytes());
        (out[8], out[9]) = (self.hop_limit, self.protocol);
        out[12..16].copy_from_slice(&source.octets());
        out[16..20].copy_from_slice(&destination.octets());
        let sum = Sum::default().bytes(out).finish();
        out[10..12].copy_from_slice(&sum);
    }

    fn emit_v6(&self, out: &mut [u8], payload: usize, source: Ipv6Addr, destination: Ipv6Addr) {
        let out = &mut out[..IPV6_HEADER];
        (out[0], out[1]) = (0x60 | self.traffic_class >> 4, self.traffic_class << 4);
        (out[2], out[3]) = (0, 0);
        out[4..6].copy_from_slice(&(payload as u16).to_be_bytes());
        (out[6], out[7]) = (self.protocol, self.hop_limit);
        out[8..24].copy_from_slice(&source.octets());
        out[24..40].copy_from_slice(&destination.octets());
    }
}

/// The IP headers of all whole packets from one address to another, except for parts that depend on the length.
#[derive(Clone, Copy)]
pub(super) struct Headers {
    version: Version,
    /// The sum of the pseudo header without the length.
    pseudo: Sum,
}

#[derive(Clone, Copy)]
enum Version {
    /// The header without length and checksum, and its sum.
    V4([u8; IPV4_HEADER], Sum),
    V6([u8; IPV6_HEADER]),
}

impl Headers {
    /// Creates the headers; both addresses are of one family.
    pub(super) fn new(source: IpAddr, destination: IpAddr, protocol: u8) -> Self {
        let header = IpHeader::new(source, destination, protocol);
        let version = if source.is_ipv4() {
            let mut out = [0; IPV4_HEADER];
            header.emit(&mut out, 0);
            out[2..4].fill(0);
            out[10..12].fill(0);
            Version::V4(out, Sum::default().bytes(&out))
        } else {
            let mut out = [0; IPV6_HEADER];
            header.emit(&mut out, 0);
            Version::V6(out)
        };
        Self { version, pseudo: pseudo_header(source, destination, protocol, 0) }
    }

    /// Returns the length of the header.
    pub(super) const fn len(&self) -> usize {
        match self.version {
            Version::V4(..) => IPV4_HEADER,
            Version::V6(_) => IPV6_HEADER,
        }
    }

    /// Writes a header like [`IpHeader::emit`]; returns the sum of the pseudo header.
    pub(super) fn emit(&self, out: &mut [u8], payload: usize) -> Sum {
        match &self.version {
            Version::V4(header, sum) => {
                let out = &mut out[..IPV4_HEADER];
                out.copy_from_slice(header);
                let len = (IPV4_HEADER + payload) as u16;
                out[2..4].copy_from_slice(&len.to_be_bytes());
                out[10..12].copy_from_slice(&sum.number(len).finish());
            }
            Version::V6(header) => {
                let out = &mut out[..IPV6_HEADER];
                out.copy_from_slice(header);
                out[4..6].copy_from_slice(&(payload as u16).to_be_bytes());
            }
        }
        self.pseudo.number(payload as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const V4: (IpAddr, IpAddr) = (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)));
    const V6: (IpAddr, IpAddr) = (
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)),
    );

    fn build(header: IpHeader, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0xaa; header_len(header.source)];
        header.emit(&mut packet, payload.len());
        packet.extend(payload);
        packet
    }

    #[test]
    fn what_is_built_is_parsed() {
        for (source, destination) in [V4, V6] {
            let header = IpHeader { traffic_class: 0xb9, ..IpHeader::new(source, destination, UDP) };
            let mut bytes = build(header, b"payload");
            bytes.extend([1, 2, 3]);
            let packet = Packet::parse(&bytes).unwrap();
            assert_eq!((packet.source, packet.destination, packet.protocol), (source, destination, UDP));
            assert_eq!((packet.payload(), packet.hop_limit, packet.traffic_class), (&b"payload"[..], 64, 0xb9));
            assert_eq!((packet.fragment, packet.bytes.len()), (None, bytes.len() - 3));
        }
    }

    #[test]
    fn fragments_are_told() {
        let fragment = Fragment { identification: 0x1234, offset: 1480, more: true };
        let bytes = build(IpHeader { fragment: Some(fragment), ..IpHeader::new(V4.0, V4.1, UDP) }, &[0; 8]);
        assert_eq!(Packet::parse(&bytes).unwrap().fragment, Some(fragment));
        let bytes = build(IpHeader::new(V6.0, V6.1, 44), &[UDP, 0, 0x05, 0xc9, 0, 0, 0x12, 0x34, 60, 60]);
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!((packet.fragment, packet.protocol, packet.payload()), (Some(fragment), UDP, &[60, 60][..]));
        let atomic = build(IpHeader::new(V6.0, V6.1, 44), &[UDP, 0, 0, 0, 0, 0, 0x12, 0x34, 7, 7]);
        let packet = Packet::parse(&atomic).unwrap();
        assert_eq!((packet.fragment, packet.payload()), (None, &[7, 7][..]));
    }

    #[test]
    fn extension_headers_are_skipped_within_bounds() {
        let options = [60, 0, 1, 4, 0, 0, 0, 0, UDP, 0, 1, 4, 0, 0, 0, 0, 9];
        let packet = build(IpHeader::new(V6.0, V6.1, 0), &options);
        let parsed = Packet::parse(&packet).unwrap();
        assert_eq!((parsed.protocol, parsed.payload()), (UDP, &[9][..]));
        for cut in 1..16 {
            let packet = build(IpHeader::new(V6.0, V6.1, 0), &options[..cut]);
            assert_eq!(Packet::parse(&packet).err(), Some(Malformed::Extensions), "{cut}");
        }
        let endless: Vec<u8> = [60, 0, 1, 4, 0, 0, 0, 0].repeat(20);
        let packet = build(IpHeader::new(V6.0, V6.1, 60), &endless);
        assert_eq!(Packet::parse(&packet).err(), Some(Malformed::Extensions));
    }

    #[test]
    fn malformed_packets_are_told_apart() {
        let good = build(IpHeader::new(V4.0, V4.1, UDP), b"x");
        let mut wrong = good.clone();
        wrong[8] ^= 1;
        assert_eq!(Packet::parse(&wrong).err(), Some(Malformed::Checksum));
        assert_eq!(Packet::parse(&good[..20]).err(), Some(Malformed::Header));
        assert_eq!(Packet::parse(&[]).err(), Some(Malformed::Header));
        assert_eq!(Packet::parse(&[0x50; 40]).err(), Some(Malformed::Header));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_within_bounds(mut bytes in prop::collection::vec(any::<u8>(), 0..200), v6 in any::<bool>()) {
            if let Some(first) = bytes.first_mut() {
                *first = if v6 { 0x60 } else { 0x45 };
            }
            if v6 && bytes.len() >= 40 {
                let len = bytes.len() as u16 - 40;
                bytes[4..6].copy_from_slice(&len.to_be_bytes());
                bytes[6] = [0, 43, 44, 51, 60, 6][usize::from(bytes[6] % 6)];
            }
            if let Ok(packet) = Packet::parse(&bytes) {
                prop_assert!(packet.payload.end <= packet.bytes.len() && packet.payload.start <= packet.payload.end);
                let _ = packet.has_valid_checksum();
            }
        }
    }
}
