//! ICMP "destination unreachable" responses to packets that match no peer, or whose peer has no endpoint, as the
//! kernel's `wg_xmit` sends them. So a program gets an error at once instead of a long wait.
//!
//! The source of the response is the destination itself: a system drops packets that claim to be from its own address.

mod rate;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Device, lock, packet::Header, stats::count, try_lock};
use crate::tun::{PacketList, offload::checksum::Sum};
pub(super) use rate::AnswerRate;

/// The maximum length of responses (RFC 1812, section 4.3.2.3, and RFC 4443, section 2.4).
const MAX_V4: usize = 576;
const MAX_V6: usize = 1280;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
/// Type, code, checksum and four unused bytes.
const ICMP_HEADER: usize = 8;
const HOP_LIMIT: u8 = 64;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const HOST_UNREACHABLE: [u8; 2] = [3, 1];
const ADDRESS_UNREACHABLE: [u8; 2] = [1, 3];

impl Device {
    /// Responds to packets that cannot be sent, as far as the rate permits; not while the device is down, and not if
    /// another thread is responding or writing to the TUN: nothing waits for a response.
    #[cold]
    #[inline(never)]
    pub(super) fn answer_unreachable(&self, packets: &mut dyn Iterator<Item = &[u8]>) {
        if !lock(&self.config).link.is_up() {
            return;
        }
        let Some(mut rate) = try_lock(&self.answer_rate) else { return };
        let mut answer = [0; MAX_V6];
        for packet in packets {
            let now = self.clock.now();
            if !rate.has_any(now) {
                return;
            }
            let Some((sender, packet)) = answerable(packet) else { continue };
            if !rate.take(now, sender, |sender| self.tun.route_back(sender)) {
                continue;
            }
            let len = if sender.is_ipv4() { build_v4(packet, &mut answer) } else { build_v6(packet, &mut answer) };
            let whole = 0..len;
            if self.try_write_tun(PacketList { buffer: &answer, ranges: std::slice::from_ref(&whole) }) == 0 {
                return;
            }
            count(&self.stats.unreachable_sent, 1);
        }
    }
}

/// Returns the sender of `packet`, and the packet without trailing bytes; `None` if there must be no response (RFC
/// 1122, section 3.2.2, and RFC 4443, section 2.4).
fn answerable(packet: &[u8]) -> Option<(IpAddr, &[u8])> {
    let header = Header::parse(packet)?;
    let packet = packet.get(..header.len)?;
    let may_answer = match (header.src, header.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => is_host_v4(src) && is_host_v4(dst) && may_answer_v4(packet)?,
        (IpAddr::V6(src), IpAddr::V6(dst)) => is_host_v6(src) && is_host_v6(dst) && may_answer_v6(packet)?,
        _ => false,
    };
    may_answer.then_some((header.src, packet))
}

const fn is_host_v4(address: Ipv4Addr) -> bool {
    !(address.is_multicast() || address.is_broadcast() || address.is_loopback() || address.is_unspecified())
}

const fn is_host_v6(address: Ipv6Addr) -> bool {
    !(address.is_multicast() || address.is_loopback() || address.is_unspecified())
}

/// Returns whether a response is permitted; `None` if it is truncated.
fn may_answer_v4(packet: &[u8]) -> Option<bool> {
    let start = usize::from(packet[0] & 15) * 4;
    if start < IPV4_HEADER || start > packet.len() || u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff != 0 {
        return Some(false);
    }
    // Requests and replies; all others are errors, or unknown.
    Some(packet[9] != ICMP || matches!(packet.get(start)?, 0 | 8..=10 | 13..=18))
}

/// Returns whether a response is permitted; `None` if it is truncated.
fn may_answer_v6(packet: &[u8]) -> Option<bool> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    let (mut next, mut at) = (packet[6], IPV6_HEADER);
    loop {
        let extension = || packet.get(at..)?.first_chunk::<4>();
        let len = match next {
            ICMPV6 => return Some(*packet.get(at)? >= 128),
            HOP_BY_HOP | ROUTING | DESTINATION => 8 * (usize::from(extension()?[1]) + 1),
            AUTHENTICATION => 4 * (usize::from(extension()?[1]) + 2),
            FRAGMENT if u16::from_be_bytes([extension()?[2], extension()?[3]]) >> 3 != 0 => return Some(false),
            FRAGMENT => 8,
            _ => return Some(true),
        };
        next = extension()?[0];
        at += len;
    }
}

fn build_v4(packet: &[u8], answer: &mut [u8; MAX_V6]) -> usize {
    let quoted = packet.len().min(MAX_V4 - IPV4_HEADER - ICMP_HEADER);
    let len = IPV4_HEADER + ICMP_HEADER + quoted;
    let (ip, icmp) = answer[..len].split_at_mut(IPV4_HEADER);
    ip.fill(0);
    ip[0] = 0x45;
    // The precedence of network control, as required by RFC 1812, section 4.3.2.5.
    ip[1] = packet[1] & 0x1e | 0xc0;
    ip[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    ip[8] = HOP_LIMIT;
    ip[9] = ICMP;
    ip[12..16].copy_from_slice(&packet[16..20]);
    ip[16..20].copy_from_slice(&packet[12..16]);
    let sum = Sum::default().bytes(ip).finish();
    ip[10..12].copy_from_slice(&sum);
    fill_icmp(icmp, HOST_UNREACHABLE, &packet[..quoted], Sum::default());
    len
}

fn build_v6(packet: &[u8], answer: &mut [u8; MAX_V6]) -> usize {
    let quoted = packet.len().min(MAX_V6 - IPV6_HEADER - ICMP_HEADER);
    let payload = (ICMP_HEADER + quoted) as u16;
    let len = IPV6_HEADER + ICMP_HEADER + quoted;
    let (ip, icmp) = answer[..len].split_at_mut(IPV6_HEADER);
    ip.fill(0);
    ip[0] = 0x60;
    ip[4..6].copy_from_slice(&payload.to_be_bytes());
    ip[6] = ICMPV6;
    ip[7] = HOP_LIMIT;
    ip[8..24].copy_from_slice(&packet[24..40]);
    ip[24..40].copy_from_slice(&packet[8..24]);
    fill_icmp(icmp, ADDRESS_UNREACHABLE, &packet[..quoted], Sum::default().pseudo_header(&ip[8..], ICMPV6, payload));
    len
}

/// Fills in an ICMP message. `pseudo` is the sum of the bytes outside the message that the checksum covers.
fn fill_icmp(icmp: &mut [u8], kind: [u8; 2], quoted: &[u8], pseudo: Sum) {
    icmp[..2].copy_from_slice(&kind);
    icmp[2..ICMP_HEADER].fill(0);
    icmp[ICMP_HEADER..].copy_from_slice(quoted);
    let sum = pseudo.bytes(icmp).finish();
    icmp[2..4].copy_from_slice(&sum);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        bind::mem::MemNetwork,
        device::{Options, Outbound},
        tun::mem::MemTun,
    };
    use proptest::prelude::*;
    use std::sync::Arc;

    const UDP: u8 = 17;

    fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0xff, 0, 0, 1, 2, 0x40, 0, 9, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.extend(payload);
        let len = packet.len() as u16;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet
    }

    fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
        packet[6] = next;
        (packet[8], packet[23], packet[24], packet[39]) = (0xfd, 1, 0xfd, 2);
        packet.extend(payload);
        packet
    }

    fn answer(packet: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = [0xaa; MAX_V6];
        let (sender, packet) = answerable(packet)?;
        let len = if sender.is_ipv4() { build_v4(packet, &mut buffer) } else { build_v6(packet, &mut buffer) };
        Some(buffer[..len].to_vec())
    }

    #[test]
    fn answers_quote_what_fits_and_their_checksums_are_right() {
        for len in (0..40).chain([519, 520, 527, 528, 529, 1191, 1192, 1193, 1400, 9000]) {
            let payload: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            let packet = v4(UDP, &payload);
            let got = answer(&packet).unwrap();
            assert_eq!(got.len(), (28 + packet.len()).min(576));
            assert_eq!((got[0], got[1], &got[6..8], got[8], got[9]), (0x45, 0xde, &[0, 0][..], 64, ICMP));
            assert_eq!(usize::from(u16::from_be_bytes([got[2], got[3]])), got.len());
            assert_eq!(got[12..20], [10, 0, 0, 2, 10, 0, 0, 1]);
            assert_eq!((&got[20..22], &got[24..28]), (&HOST_UNREACHABLE[..], &[0; 4][..]));
            assert_eq!(got[28..], packet[..got.len() - 28]);
            assert!(Sum::default().bytes(&got[..20]).is_valid() && Sum::default().bytes(&got[20..]).is_valid());

            let packet = v6(UDP, &payload);
            let got = answer(&packet).unwrap();
            assert_eq!(got.len(), (48 + packet.len()).min(1280));
            assert_eq!((&got[..4], got[6], got[7]), (&[0x60, 0, 0, 0][..], ICMPV6, 64));
            let payload_len = u16::from_be_bytes([got[4], got[5]]);
            assert_eq!(usize::from(payload_len), got.len() - 40);
            assert_eq!((&got[8..24], &got[24..40]), (&packet[24..40], &packet[8..24]));
            assert_eq!((&got[40..42], &got[44..48]), (&ADDRESS_UNREACHABLE[..], &[0; 4][..]));
            assert_eq!(got[48..], packet[..got.len() - 48]);
            assert!(Sum::default().pseudo_header(&got[8..40], ICMPV6, payload_len).bytes(&got[40..]).is_valid());
        }
    }

    #[test]
    fn errors_are_not_answered() {
        for kind in 0..=255_u8 {
            let is_request = matches!(kind, 0 | 8 | 9 | 10 | 13..=18);
            assert_eq!(answer(&v4(ICMP, &[kind, 0, 0, 0])).is_some(), is_request, "type {kind}");
            assert_eq!(answer(&v6(ICMPV6, &[kind, 0, 0, 0])).is_some(), kind >= 128, "type {kind}");
            // Behind a hop-by-hop header of 8 bytes, a routing header of 16, a first fragment, AH, and options.
            let mut chain = vec![43, 0, 0, 0, 0, 0, 0, 0];
            chain.extend([44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            chain.extend([51, 0, 0, 1, 0, 0, 0, 9]);
            chain.extend([60, 4, 0, 0].into_iter().chain([0; 20]));
            chain.extend([ICMPV6, 0, 0, 0, 0, 0, 0, 0]);
            assert_eq!(answer(&v6(0, &chain)), None, "it ends before its type");
            assert_eq!(answer(&v6(0, &[&chain[..], &[kind]].concat())).is_some(), kind >= 128, "type {kind}");
        }
        assert_eq!((answer(&v4(ICMP, &[])), answer(&v6(ICMPV6, &[])), answer(&v6(0, &[UDP, 0]))), (None, None, None));
        // Options of IPv4 stand in front of the type.
        for (kind, is_answered) in [(8, true), (3, false)] {
            let mut packet = v4(ICMP, &[1, 1, 1, 1, kind]);
            packet[0] = 0x46;
            let got = answer(&packet);
            assert_eq!(got.is_some(), is_answered);
            assert!(got.is_none_or(|got| got[0] == 0x45 && got[28..] == packet));
        }
    }

    #[test]
    fn fragments_past_the_first_are_not_answered() {
        for (bits, is_answered) in [(0x2000_u16, true), (0x0001, false), (0x3fff, false)] {
            let mut packet = v4(UDP, &[0; 64]);
            packet[6..8].copy_from_slice(&bits.to_be_bytes());
            assert_eq!(answer(&packet).is_some(), is_answered);
        }
        for (bits, is_answered) in [(1_u16, true), (8, false), (0xfff9, false)] {
            let bits = bits.to_be_bytes();
            let packet = v6(44, &[UDP, 0, bits[0], bits[1], 0, 0, 0, 1, 0, 0, 0, 0]);
            assert_eq!(answer(&packet).is_some(), is_answered);
        }
    }

    #[test]
    fn only_hosts_are_told_and_only_of_hosts() {
        for address in [[224, 0, 0, 1], [239, 1, 2, 3], [255; 4], [127, 0, 0, 1], [0; 4]] {
            for at in [12, 16] {
                let mut packet = v4(UDP, &[0; 8]);
                packet[at..at + 4].copy_from_slice(&address);
                assert_eq!(answer(&packet), None, "{address:?} at {at}");
            }
        }
        for address in ["ff02::1", "ff0e::5", "::1", "::"] {
            for at in [8, 24] {
                let mut packet = v6(UDP, &[0; 8]);
                packet[at..at + 16].copy_from_slice(&address.parse::<Ipv6Addr>().unwrap().octets());
                assert_eq!(answer(&packet), None, "{address} at {at}");
            }
        }
    }

    #[test]
    fn what_is_malformed_is_not_answered() {
        assert_eq!((answer(&[]), answer(&[0x50; 60])), (None, None));
        for packet in [v4(UDP, &[0; 8]), v6(UDP, &[0; 8])] {
            assert!((0..packet.len()).all(|len| answer(&packet[..len]).is_none()), "shorter than it says");
            // What follows is no part of it.
            assert_eq!(answer(&[&packet[..], &[7; 9]].concat()), answer(&packet));
        }
        for ihl in [0x44, 0x4f] {
            let mut packet = v4(UDP, &[0; 8]);
            packet[0] = ihl;
            assert_eq!(answer(&packet), None);
        }
    }

    /// Nothing waits for another thread that writes packets of peers at this moment.
    #[test]
    fn while_another_thread_writes_there_is_no_answer() {
        let bind = MemNetwork::new().bind(Ipv4Addr::new(192, 0, 2, 1).into());
        let (tun, app) = MemTun::new("", 1420);
        let device = Device::new(Arc::new(tun), bind, Options::default());
        device.up().unwrap();
        let mut outbound = Outbound::new();
        let mut answers = || {
            assert!(app.inject(&v4(UDP, &[0; 8])));
            assert_eq!(device.outbound(&mut outbound).unwrap(), 1);
            app.take_written().len()
        };
        let writing = lock(&device.tun_writer);
        assert_eq!(answers(), 0);
        drop(writing);
        assert_eq!(answers(), 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_or_not(mut bytes in prop::collection::vec(any::<u8>(), 1..200), version: bool) {
            bytes[0] = if version { 0x40 } else { 0x60 } | bytes[0] & 15;
            if let Some(got) = answer(&bytes) { prop_assert_eq!(answer(&got), None); }
        }
    }
}
