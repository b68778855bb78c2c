//! The packet that an ICMP error concerns: its beginning, as quoted by the error.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::stack::packet::{IPV4_HEADER, IPV6_HEADER};

/// A packet that the stack may have sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quoted<'a> {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    /// The length of the whole packet according to its header.
    pub(super) len: usize,
    /// The beginning of the TCP, UDP or ICMP header.
    pub(super) transport: &'a [u8; 8],
}

impl<'a> Quoted<'a> {
    /// Parses the quote. Returns `None` if it is too short, not the beginning of a packet, or not one that the stack
    /// sends.
    pub(super) fn parse(bytes: &'a [u8], is_v4: bool) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 if is_v4 => Self::parse_v4(bytes),
            6 if !is_v4 => Self::parse_v6(bytes),
            _ => None,
        }
    }

    fn parse_v4(bytes: &'a [u8]) -> Option<Self> {
        let header = bytes.first_chunk::<IPV4_HEADER>()?;
        let start = usize::from(header[0] & 15) * 4;
        let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
        if start < IPV4_HEADER || offset > 0 {
            return None;
        }
        Some(Self {
            source: Ipv4Addr::from([header[12], header[13], header[14], header[15]]).into(),
            destination: Ipv4Addr::from([header[16], header[17], header[18], header[19]]).into(),
            protocol: header[9],
            len: usize::from(u16::from_be_bytes([header[2], header[3]])),
            transport: bytes.get(start..)?.first_chunk()?,
        })
    }

    /// Parses IPv6. The only extension header that the stack sends is that of fragments.
    fn parse_v6(bytes: &'a [u8]) -> Option<Self> {
        const FRAGMENT: u8 = 44;
        let (header, mut rest) = bytes.split_first_chunk::<IPV6_HEADER>()?;
        let mut protocol = header[6];
        if protocol == FRAGMENT {
            let (fragment, behind) = rest.split_first_chunk::<8>()?;
            if u16::from_be_bytes([fragment[2], fragment[3]]) & 0xfff8 != 0 {
                return None;
            }
            (protocol, rest) = (fragment[0], behind);
        }
        let (addresses, _) = header[8..].as_chunks::<16>();
        let address = |octets: &[u8; 16]| IpAddr::V6(Ipv6Addr::from(*octets));
        Some(Self {
            source: addresses.first().map(address)?,
            destination: addresses.get(1).map(address)?,
            protocol,
            len: IPV6_HEADER + usize::from(u16::from_be_bytes([header[4], header[5]])),
            transport: rest.first_chunk()?,
        })
    }

    /// Returns the source and its port.
    pub(super) const fn local(&self) -> SocketAddr {
        SocketAddr::new(self.source, u16::from_be_bytes([self.transport[0], self.transport[1]]))
    }

    /// Returns the destination and its port.
    pub(super) const fn remote(&self) -> SocketAddr {
        SocketAddr::new(self.destination, u16::from_be_bytes([self.transport[2], self.transport[3]]))
    }

    /// Returns TCP's sequence number.
    pub(super) const fn second_word(&self) -> u32 {
        u32::from_be_bytes([self.transport[4], self.transport[5], self.transport[6], self.transport[7]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::packet::{IpHeader, TCP, UDP, header_len};
    use proptest::prelude::*;

    const TRANSPORT: [u8; 8] = [0, 80, 0xff, 0xfe, 1, 2, 3, 4];

    fn packet(addresses: [&str; 2], protocol: u8, behind: &[u8]) -> Vec<u8> {
        let [source, destination] = addresses.map(|address| address.parse::<IpAddr>().unwrap());
        let mut packet = vec![0; header_len(source)];
        IpHeader::new(source, destination, protocol).emit(&mut packet, 1000);
        packet.extend(behind);
        packet
    }

    #[test]
    fn cut_packets_are_parsed() {
        let v4 = packet(["10.0.0.1", "10.0.0.2"], TCP, &TRANSPORT);
        let quoted = Quoted::parse(&v4, true).unwrap();
        assert_eq!(
            (quoted.local(), quoted.remote()),
            ("10.0.0.1:80".parse().unwrap(), "10.0.0.2:65534".parse().unwrap())
        );
        assert_eq!((quoted.protocol, quoted.len, quoted.second_word()), (TCP, 1020, 0x0102_0304));
        assert!(Quoted::parse(&v4, false).is_none() && Quoted::parse(&v4[..27], true).is_none());
        let first_fragment: Vec<u8> = [UDP, 0, 0, 1, 0, 0, 0, 9].into_iter().chain(TRANSPORT).collect();
        let v6 = packet(["fd00::1", "fd00::2"], 44, &first_fragment);
        let quoted = Quoted::parse(&v6, false).unwrap();
        assert_eq!((quoted.local(), quoted.protocol), ("[fd00::1]:80".parse().unwrap(), UDP));
        let later: Vec<u8> = [UDP, 0, 0, 9, 0, 0, 0, 9].into_iter().chain(TRANSPORT).collect();
        assert!(Quoted::parse(&packet(["fd00::1", "fd00::2"], 44, &later), false).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_do_no_harm(mut bytes in prop::collection::vec(any::<u8>(), 0..100), v4 in any::<bool>()) {
            if let Some(first) = bytes.first_mut() {
                *first = *first & 15 | if v4 { 0x40 } else { 0x60 };
            }
            let _ = Quoted::parse(&bytes, v4);
        }
    }
}
