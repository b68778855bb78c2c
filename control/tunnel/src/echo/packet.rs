//! Echo requests and replies as packets.

use std::net::IpAddr;

use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr,
    },
};

/// The nonce is also the identifier, which programs that wait for their own replies check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Echo {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) nonce: u64,
}

const HOP_LIMIT: u8 = 64;

impl Echo {
    /// Returns the request as a packet; `None` if the addresses have different families.
    pub(super) fn request(&self) -> Option<Vec<u8>> {
        let data = self.nonce.to_be_bytes();
        let (ident, seq_no) = (self.nonce as u16, 1);
        let caps = ChecksumCapabilities::default();
        match (self.from, self.to) {
            (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
                let icmp = Icmpv4Repr::EchoRequest { ident, seq_no, data: &data };
                let payload_len = icmp.buffer_len();
                let next_header = IpProtocol::Icmp;
                let ip = Ipv4Repr { src_addr, dst_addr, next_header, payload_len, hop_limit: HOP_LIMIT };
                let mut bytes = vec![0; ip.buffer_len() + payload_len];
                let mut packet = Ipv4Packet::new_unchecked(&mut bytes[..]);
                ip.emit(&mut packet, &caps);
                icmp.emit(&mut Icmpv4Packet::new_unchecked(packet.payload_mut()), &caps);
                Some(bytes)
            }
            (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
                let icmp = Icmpv6Repr::EchoRequest { ident, seq_no, data: &data };
                let payload_len = icmp.buffer_len();
                let next_header = IpProtocol::Icmpv6;
                let ip = Ipv6Repr { src_addr, dst_addr, next_header, payload_len, hop_limit: HOP_LIMIT };
                let mut bytes = vec![0; ip.buffer_len() + payload_len];
                let mut packet = Ipv6Packet::new_unchecked(&mut bytes[..]);
                ip.emit(&mut packet);
                let mut inner = Icmpv6Packet::new_unchecked(packet.payload_mut());
                icmp.emit(&src_addr, &dst_addr, &mut inner, &caps);
                Some(bytes)
            }
            _ => None,
        }
    }

    /// Parses a packet that may be a reply to such a request. Its checksum is not checked, as the tunnel ensures its
    /// integrity.
    pub(super) fn reply(packet: &[u8]) -> Option<Self> {
        let caps = ChecksumCapabilities::ignored();
        let (from, to, data) = match packet.first()? >> 4 {
            4 => {
                let ip = Ipv4Packet::new_checked(packet).ok()?;
                let is_whole = !ip.more_frags() && ip.frag_offset() == 0;
                if ip.next_header() != IpProtocol::Icmp || !is_whole {
                    return None;
                }
                let icmp = Icmpv4Packet::new_checked(ip.payload()).ok()?;
                let Ok(Icmpv4Repr::EchoReply { data, .. }) = Icmpv4Repr::parse(&icmp, &caps) else { return None };
                (ip.src_addr().into(), ip.dst_addr().into(), <[u8; 8]>::try_from(data).ok()?)
            }
            6 => {
                let ip = Ipv6Packet::new_checked(packet).ok()?;
                if ip.next_header() != IpProtocol::Icmpv6 {
                    return None;
                }
                let icmp = Icmpv6Packet::new_checked(ip.payload()).ok()?;
                let (from, to) = (ip.src_addr(), ip.dst_addr());
                let Ok(Icmpv6Repr::EchoReply { data, .. }) = Icmpv6Repr::parse(&from, &to, &icmp, &caps) else {
                    return None;
                };
                (from.into(), to.into(), <[u8; 8]>::try_from(data).ok()?)
            }
            _ => return None,
        };
        Some(Self { from, to, nonce: u64::from_be_bytes(data) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;

    /// What a host answers; its checksum is not right.
    pub(crate) fn answer(request: &[u8]) -> Vec<u8> {
        let mut reply = request.to_vec();
        let (addresses, len) = if request[0] >> 4 == 4 { (12, 4) } else { (8, 16) };
        reply[addresses..addresses + 2 * len].rotate_left(len);
        reply[addresses + 2 * len] = if len == 4 { 0 } else { 129 };
        reply
    }

    fn echo(from: &str, to: &str) -> Echo {
        Echo { from: from.parse().unwrap(), to: to.parse().unwrap(), nonce: 0x0102_0304_0506_0708 }
    }

    #[test]
    fn a_reply_is_known_by_its_addresses_and_its_nonce() {
        for (from, to) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let request = echo(from, to).request().unwrap();
            assert_eq!(Echo::reply(&request), None);
            let reply = answer(&request);
            assert_eq!(Echo::reply(&reply), Some(echo(to, from)));
            for len in 0..reply.len() {
                assert_eq!(Echo::reply(&reply[..len]), None);
            }
        }
        assert_eq!(echo("10.0.0.1", "fd00::1").request(), None);
    }

    #[test]
    fn requests_are_what_hosts_answer() {
        // As computed by hand from RFC 791, 792 and 4443.
        let request = echo("10.0.0.1", "10.0.0.2").request().unwrap();
        assert_eq!(
            request,
            [
                0x45, 0, 0, 36, 0, 0, 0x40, 0, 64, 1, 0x26, 0xd7, 10, 0, 0, 1, 10, 0, 0, 2, 8, 0, 0xe0, 0xe2, 7, 8, 0,
                1, 1, 2, 3, 4, 5, 6, 7, 8
            ]
        );
        let request = echo("fd00::1", "fd00::2").request().unwrap();
        assert_eq!(request[..8], [0x60, 0, 0, 0, 0, 16, 58, 64]);
        assert_eq!((request.len(), request[40], request[41]), (56, 128, 0));
    }
}
