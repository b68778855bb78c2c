//! IP packets as the test sees them: read and written by code of its own.

use std::net::{IpAddr, Ipv6Addr};

pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const DESTINATION: u8 = 60;

/// What a packet is, as far as the test cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) tos: u8,
    /// What is behind all IP headers, and where.
    pub(crate) protocol: u8,
    pub(crate) l4: usize,
    /// IPv4 options, or IPv6 extension headers other than that of fragments.
    pub(crate) extended: bool,
    pub(crate) routed: bool,
    pub(crate) fragment: bool,
}

impl Packet {
    /// Reads a packet whose lengths and checksums must all be right, or says what is not.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        let packet = Self::read_ip(bytes)?;
        if !packet.fragment {
            packet.check_l4(bytes)?;
        }
        Ok(packet)
    }

    /// The same without the checksum behind the IP headers.
    pub(crate) fn read_ip(bytes: &[u8]) -> Result<Self, String> {
        let (packet, len) = match bytes.first().map(|b| b >> 4) {
            Some(4) if bytes.len() >= 20 => Self::read_v4(bytes)?,
            Some(6) if bytes.len() >= 40 => Self::read_v6(bytes)?,
            _ => return Err("no IP header".into()),
        };
        if len != bytes.len() {
            return Err(format!("{} bytes, of which the header says {len}", bytes.len()));
        }
        Ok(packet)
    }

    fn read_v4(bytes: &[u8]) -> Result<(Self, usize), String> {
        let l4 = usize::from(bytes[0] & 15) * 4;
        if l4 < 20 || l4 > bytes.len() || sum(0, &bytes[..l4]) != 0xffff {
            return Err("the IPv4 header is wrong".into());
        }
        let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap());
        let packet = Self {
            src: address(12),
            dst: address(16),
            tos: bytes[1],
            protocol: bytes[9],
            l4,
            extended: l4 > 20,
            routed: false,
            fragment: word(bytes, 6) & 0x3fff != 0,
        };
        Ok((packet, word(bytes, 2).into()))
    }

    fn read_v6(bytes: &[u8]) -> Result<(Self, usize), String> {
        let address = |at: usize| bytes.get(at..at + 16).map(|b| Ipv6Addr::from(<[u8; 16]>::try_from(b).unwrap()));
        let mut packet = Self {
            src: address(8).unwrap().into(),
            dst: address(24).unwrap().into(),
            tos: bytes[0] << 4 | bytes[1] >> 4,
            protocol: bytes[6],
            l4: 40,
            extended: false,
            routed: false,
            fragment: false,
        };
        while let HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION = packet.protocol {
            let header = bytes.get(packet.l4..packet.l4 + 8).ok_or("an extension header is cut off")?;
            let len = if packet.protocol == FRAGMENT { 8 } else { 8 + usize::from(header[1]) * 8 };
            if packet.protocol == FRAGMENT {
                packet.fragment = true;
            } else {
                packet.extended = true;
            }
            if packet.protocol == ROUTING && header[3] > 0 {
                // The checksum is made with the last stop: of segment routing (type 4) that is the first in the list.
                let at = if header[2] == 4 { 8 } else { len - 16 };
                packet.dst = address(packet.l4 + at).ok_or("a routing header is cut off")?.into();
                packet.routed = true;
            }
            packet.protocol = header[0];
            packet.l4 += len;
            if packet.fragment {
                break;
            }
        }
        Ok((packet, 40 + usize::from(word(bytes, 4))))
    }

    fn check_l4(&self, bytes: &[u8]) -> Result<(), String> {
        let l4 = bytes.get(self.l4..).ok_or("an extension header is too long")?;
        let pseudo = match self.protocol {
            TCP if l4.len() >= 20 => self.pseudo_sum(l4.len()),
            UDP if l4.len() >= 8 => {
                if usize::from(word(l4, 4)) != l4.len() {
                    return Err("the UDP length is wrong".into());
                }
                match (word(l4, 6), self.src) {
                    (0, IpAddr::V4(_)) => return Ok(()),
                    (0, IpAddr::V6(_)) => return Err("UDP over IPv6 without a checksum".into()),
                    _ => self.pseudo_sum(l4.len()),
                }
            }
            ICMPV6 => self.pseudo_sum(l4.len()),
            ICMP => 0,
            TCP | UDP => return Err("the TCP or UDP header is cut off".into()),
            _ => return Ok(()),
        };
        match sum(pseudo, l4) {
            0xffff => Ok(()),
            _ => Err(format!("the checksum of protocol {} is wrong", self.protocol)),
        }
    }

    fn pseudo_sum(&self, len: usize) -> u16 {
        let addresses = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => [src.octets(), dst.octets()].concat(),
            (IpAddr::V6(src), IpAddr::V6(dst)) => [src.octets(), dst.octets()].concat(),
            _ => panic!("two families"),
        };
        let last = [[0, self.protocol], u16::try_from(len).unwrap().to_be_bytes()].concat();
        sum(sum(0, &addresses), &last)
    }
}

pub(crate) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// The sum of RFC 1071 of `bytes`, behind what was summed before.
pub(crate) fn sum(before: u16, bytes: &[u8]) -> u16 {
    // Modulo 2^16 - 1 the words of a longer number add up to the same.
    let mut total = u128::from(before);
    let chunks = bytes.chunks_exact(8);
    let mut last = [0; 8];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    for chunk in chunks {
        total += u128::from(u64::from_be_bytes(chunk.try_into().unwrap()));
    }
    total += u128::from(u64::from_be_bytes(last));
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}
