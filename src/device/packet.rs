//! The required fields of an inner IP packet: addresses, length, ECN.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
/// ECN, the low two bits of TOS and traffic class (RFC 3168).
const ECN_MASK: u8 = 3;
const ECT_1: u8 = 1;
const CE: u8 = 3;

/// The fields of a packet with a complete fixed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    /// The packet's length according to its header.
    pub(super) len: usize,
    /// The protocol behind the fixed header.
    pub(super) protocol: u8,
    /// TOS or traffic class.
    tos: u8,
}

impl Header {
    /// Reads the header; returns `None` if it is not IP, is truncated, or has a length smaller than its header.
    pub(super) fn parse(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => {
                let h = packet.first_chunk::<IPV4_HEADER>()?;
                let len = usize::from(u16::from_be_bytes([h[2], h[3]]));
                (len >= IPV4_HEADER).then(|| Self {
                    src: Ipv4Addr::new(h[12], h[13], h[14], h[15]).into(),
                    dst: Ipv4Addr::new(h[16], h[17], h[18], h[19]).into(),
                    len,
                    protocol: h[9],
                    tos: h[1],
                })
            }
            6 => {
                let h = packet.first_chunk::<IPV6_HEADER>()?;
                let address = |at: usize| -> Option<Ipv6Addr> {
                    Some(Ipv6Addr::from(<[u8; 16]>::try_from(h.get(at..at + 16)?).ok()?))
                };
                Some(Self {
                    src: address(8)?.into(),
                    dst: address(24)?.into(),
                    len: IPV6_HEADER + usize::from(u16::from_be_bytes([h[4], h[5]])),
                    protocol: h[6],
                    tos: h[0] << 4 | h[1] >> 4,
                })
            }
            _ => None,
        }
    }

    /// Returns the outer TOS byte for this packet: only its ECN field (RFC 6040, section 4.1, normal mode).
    pub(super) const fn outer_tos(&self) -> u8 {
        self.tos & ECN_MASK
    }

    /// Returns the inner ECN field after the tunnel, from inner and outer (RFC 6040, section 4.2). `None` if it does
    /// not change. A packet that is not ECN-capable is unchanged even if the outer header was marked, as in the kernel.
    const fn ecn_after(&self, outer: u8) -> Option<u8> {
        let inner = self.tos & ECN_MASK;
        match outer & ECN_MASK {
            _ if inner == 0 || inner == CE => None,
            CE => Some(CE),
            ECT_1 if inner != ECT_1 => Some(ECT_1),
            _ => None,
        }
    }

    /// Copies the outer header's ECN mark to `packet`, from which this header was read.
    pub(super) fn carry_ecn(&self, outer_tos: u8, packet: &mut [u8]) {
        let Some(ecn) = self.ecn_after(outer_tos) else { return };
        let tos = self.tos & !ECN_MASK | ecn;
        if self.src.is_ipv4() {
            let before = u16::from_be_bytes([packet[0], packet[1]]);
            packet[1] = tos;
            let after = u16::from_be_bytes([packet[0], packet[1]]);
            let sum = update_checksum(u16::from_be_bytes([packet[10], packet[11]]), before, after);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            packet[0] = packet[0] & 0xf0 | tos >> 4;
            packet[1] = packet[1] & 0x0f | tos << 4;
        }
    }
}

/// Returns an Internet checksum after one word has changed (RFC 1624, equation 3).
const fn update_checksum(sum: u16, before: u16, after: u16) -> u16 {
    let mut s = !sum as u32 + !before as u32 + after as u32;
    s = (s & 0xffff) + (s >> 16);
    s = (s & 0xffff) + (s >> 16);
    !(s as u16)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v4(tos: u8) -> Vec<u8> {
        let mut p = vec![0x45, tos, 0, 28, 1, 2, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 1, 0, 2, 0, 8, 0, 0];
        let sum = checksum(&p[..20]);
        p[10..12].copy_from_slice(&(!sum).to_be_bytes());
        p
    }

    fn v6(tos: u8) -> Vec<u8> {
        let mut p = vec![0; 48];
        p[0] = 0x60 | tos >> 4;
        p[1] = tos << 4 | 5;
        p[5] = 8;
        (p[23], p[39]) = (1, 2);
        p
    }

    fn checksum(bytes: &[u8]) -> u16 {
        let mut s: u32 = bytes.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        while s >> 16 != 0 {
            s = (s & 0xffff) + (s >> 16);
        }
        s as u16
    }

    #[test]
    fn reads_both_families() {
        let h = Header::parse(&v4(1)).unwrap();
        assert_eq!((h.src.to_string(), h.dst.to_string(), h.len), ("10.0.0.1".into(), "10.0.0.2".into(), 28));
        let h = Header::parse(&v6(2)).unwrap();
        assert_eq!((h.src.to_string(), h.dst.to_string(), h.len), ("::1".into(), "::2".into(), 48));
    }

    #[test]
    fn refuses_what_has_no_whole_header() {
        assert_eq!(Header::parse(&[]), None);
        assert_eq!(Header::parse(&v4(0)[..19]), None);
        assert_eq!(Header::parse(&v6(0)[..39]), None);
        assert_eq!(Header::parse(&[0x55; 60]), None);
        for len in [0, 7, 19] {
            let mut p = v4(0);
            p[3] = len;
            assert_eq!(Header::parse(&p), None, "says it is {len} bytes long");
        }
    }

    #[test]
    fn ecn_survives_the_tunnel() {
        // inner, outer, expected: RFC 6040, figure 4, but for (Not-ECT, CE), which the kernel delivers.
        let table = [
            (0, 3, 0),
            (0, 1, 0),
            (1, 0, 1),
            (1, 3, 3),
            (2, 0, 2),
            (2, 1, 1),
            (2, 2, 2),
            (2, 3, 3),
            (3, 0, 3),
            (3, 1, 3),
        ];
        for dscp in [0, 0xb8] {
            for (inner, outer, expected) in table {
                for mut p in [v4(dscp | inner), v6(dscp | inner)] {
                    let h = Header::parse(&p).unwrap();
                    assert_eq!(h.outer_tos(), inner);
                    h.carry_ecn(outer, &mut p);
                    assert_eq!(Header::parse(&p).unwrap().tos, dscp | expected, "{inner} in {outer}");
                    assert!(p[0] >> 4 == 6 && p[1] & 15 == 5 || checksum(&p[..20]) == 0xffff);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_packet_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Some(h) = Header::parse(&bytes) { prop_assert!(h.len >= 20); }
        }
    }
}
