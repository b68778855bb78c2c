//! Conformance: cutting and merging are each other's inverse, and every packet is judged by a checksum of its own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::{
    coalesce::{Group, MAX_MERGED, Merging, coalesce},
    split::Split,
    *,
};
use crate::tun::{PacketArena, PacketList};
use proptest::prelude::*;

/// RFC 1071 by the letter, over the parts as if they were one text.
pub(super) fn naive_sum(parts: &[&[u8]]) -> u16 {
    let mut text = parts.concat();
    if text.len() % 2 == 1 {
        text.push(0);
    }
    let mut sum = 0_u32;
    for word in text.chunks(2) {
        sum += u32::from(word[0]) << 8 | u32::from(word[1]);
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn naive_pseudo(packet: &[u8], l4: usize, protocol: u8) -> Vec<u8> {
    let len = (packet.len() - l4) as u16;
    let addresses = if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] };
    [addresses, &[0, protocol], &len.to_be_bytes()].concat()
}

/// Panics unless all lengths and checksums of a packet are right.
fn check(packet: &[u8], l4: usize, tcp: bool) {
    if packet[0] >> 4 == 4 {
        assert_eq!(usize::from(get16(packet, 2)), packet.len());
        assert_eq!(naive_sum(&[&packet[..l4]]), 0xffff, "IPv4 header checksum");
    } else {
        assert_eq!(usize::from(get16(packet, 4)) + 40, packet.len());
    }
    if !tcp {
        assert_eq!(usize::from(get16(packet, l4 + 4)), packet.len() - l4);
        assert_ne!(get16(packet, l4 + 6), 0, "no checksum");
    }
    let pseudo = naive_pseudo(packet, l4, if tcp { 6 } else { 17 });
    assert_eq!(naive_sum(&[&pseudo, &packet[l4..]]), 0xffff, "checksum of the payload");
}

#[derive(Clone, Debug)]
struct Flow {
    v6: bool,
    tcp: bool,
    /// IPv4 options, or IPv6 extension headers, in units of their own.
    ip_extra: usize,
    tcp_options: usize,
    flags: u8,
    tos: u8,
    dont_fragment: bool,
    id: u16,
    sequence: u32,
    segment: u16,
    payload: Vec<u8>,
}

impl Flow {
    fn l4(&self) -> usize {
        if self.v6 { 40 + 8 * self.ip_extra } else { 20 + 4 * self.ip_extra }
    }

    fn headers(&self) -> usize {
        self.l4() + if self.tcp { 20 + 4 * self.tcp_options } else { 8 }
    }

    /// The large packet as the kernel hands it over.
    fn large(&self) -> (VnetHeader, Vec<u8>) {
        let (l4, headers) = (self.l4(), self.headers());
        let protocol = if self.tcp { 6 } else { 17 };
        let mut p = vec![0; headers];
        let len = headers + self.payload.len();
        if self.v6 {
            p[0] = 0x60 | self.tos >> 4;
            p[1] = self.tos << 4 | 5;
            put16(&mut p, 4, (len - 40) as u16);
            p[6] = if self.ip_extra == 0 { protocol } else { 60 };
            p[7] = 61;
            (8..40).for_each(|i| p[i] = i as u8);
            for i in 0..self.ip_extra {
                p[40 + 8 * i] = if i + 1 == self.ip_extra { protocol } else { 60 };
            }
        } else {
            p[0] = 0x40 | (l4 / 4) as u8;
            p[1] = self.tos;
            put16(&mut p, 2, len as u16);
            put16(&mut p, 4, self.id);
            p[6] = if self.dont_fragment { 0x40 } else { 0 };
            p[8] = 61;
            p[9] = protocol;
            (12..20).for_each(|i| p[i] = i as u8);
            (20..l4).for_each(|i| p[i] = 1);
            let sum = !naive_sum(&[&p[..l4]]);
            put16(&mut p, 10, sum);
        }
        put16(&mut p, l4, 4433);
        put16(&mut p, l4 + 2, 50_000);
        if self.tcp {
            p[l4 + 4..l4 + 8].copy_from_slice(&self.sequence.to_be_bytes());
            put16(&mut p, l4 + 8, 77);
            p[l4 + 12] = (((headers - l4) / 4) << 4) as u8;
            p[l4 + 13] = self.flags;
            put16(&mut p, l4 + 14, 501);
            (l4 + 20..headers).for_each(|i| p[i] = i as u8);
        } else {
            put16(&mut p, l4 + 4, (len - l4) as u16);
        }
        p.extend_from_slice(&self.payload);
        let field = if self.tcp { 16 } else { 6 };
        let sum = naive_sum(&[&naive_pseudo(&p, l4, protocol)]);
        put16(&mut p, l4 + field, sum);
        let vnet = VnetHeader {
            needs_csum: true,
            gso: match (self.tcp, self.v6) {
                (true, false) => Gso::TcpV4,
                (true, true) => Gso::TcpV6,
                (false, _) => Gso::Udp,
            },
            ecn: false,
            header_len: headers as u16,
            segment: self.segment,
            csum_start: l4 as u16,
            csum_offset: field as u16,
        };
        (vnet, p)
    }
}

prop_compose! {
    fn flow()(
        (v6, tcp, dont_fragment) in any::<(bool, bool, bool)>(),
        ip_extra in prop_oneof![3 => Just(0_usize), 1 => 0_usize..6],
        tcp_options in 0_usize..11,
        flags in prop::sample::select(vec![0x10_u8, 0x18, 0x11, 0x19, 0x50, 0x90, 0xd8]),
        tos in any::<u8>(),
        id in any::<u16>(),
        sequence in any::<u32>(),
        segment in 1_u16..2000,
        count in 1_usize..80,
        tail in any::<u16>(),
        seed in any::<u8>(),
    ) -> Flow {
        let size = usize::from(segment);
        let len = ((count - 1) * size + usize::from(tail) % size + 1).min(65_535 - 200);
        let payload = (0..len).map(|i| ((i * 31) >> 3) as u8 ^ seed).collect();
        Flow { v6, tcp, ip_extra, tcp_options, flags, tos, dont_fragment, id, sequence, segment, payload }
    }
}

fn arena(bytes: usize) -> PacketArena {
    let mut arena = PacketArena::new(bytes, 128, |len, _| len.next_multiple_of(16));
    arena.clear(1420);
    arena
}

/// All segments, through an arena that takes `bytes` a round.
fn split_all(vnet: &VnetHeader, packet: &[u8], bytes: usize) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut arena = arena(bytes);
    let mut split = Split::new(vnet, packet)?;
    let mut all = Vec::new();
    loop {
        let done = split.fill(packet, &mut arena);
        all.extend(arena.slots().iter().map(|&slot| arena.packet(slot).to_vec()));
        if done {
            return Ok(all);
        }
        assert!(!arena.slots().is_empty(), "no progress");
        arena.clear(1420);
    }
}

/// What would be written, each with the numbers of the packets in it.
fn coalesce_all(packets: &[Vec<u8>], udp: bool) -> Vec<(VnetHeader, Vec<u8>, Vec<usize>)> {
    let buffer = packets.concat();
    let mut at = 0;
    let ranges: Vec<_> = packets
        .iter()
        .map(|p| {
            at += p.len();
            at - p.len()..at
        })
        .collect();
    let list = PacketList { buffer: &buffer, ranges: &ranges };
    let mut all = Vec::new();
    coalesce(list, Merging { tcp: true, udp }, |group| {
        all.push(match group {
            Group::One(i) => (VnetHeader::default(), list.get(i).to_vec(), vec![i]),
            Group::Merged { vnet, headers, packets } => {
                let mut large = headers.to_vec();
                for &i in packets {
                    large.extend_from_slice(&list.get(i as usize)[headers.len()..]);
                }
                (vnet, large, packets.iter().map(|&i| i as usize).collect())
            }
        });
    });
    all
}

fn segments_of(flow: &Flow) -> Vec<Vec<u8>> {
    let (vnet, large) = flow.large();
    split_all(&vnet, &large, 1 << 20).unwrap()
}

fn plain_flow() -> Flow {
    Flow {
        v6: false,
        tcp: true,
        ip_extra: 0,
        tcp_options: 3,
        flags: 0x10,
        tos: 0,
        dont_fragment: true,
        id: 7,
        sequence: 1000,
        segment: 100,
        payload: vec![9; 450],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_segment_is_a_correct_packet(flow in flow(), room in 2200_usize..20_000) {
        let (vnet, large) = flow.large();
        let segments = split_all(&vnet, &large, room).unwrap();
        let (l4, headers) = (flow.l4(), flow.headers());
        let last = segments.len() - 1;
        let mut payload = Vec::new();
        for (i, s) in segments.iter().enumerate() {
            check(s, l4, flow.tcp);
            prop_assert_eq!(s.len() - headers == usize::from(flow.segment), i < last || s.len() - headers == usize::from(flow.segment));
            if !flow.v6 {
                prop_assert_eq!(get16(s, 4), flow.id.wrapping_add(i as u16));
            }
            if flow.tcp {
                prop_assert_eq!(get32(s, l4 + 4), flow.sequence.wrapping_add(payload.len() as u32));
                let mut flags = flow.flags;
                if i != last { flags &= !0x09 }
                if i != 0 { flags &= !0x80 }
                prop_assert_eq!(s[l4 + 13], flags);
                prop_assert_eq!(&s[l4 + 20..headers], &large[l4 + 20..headers]);
            }
            payload.extend_from_slice(&s[headers..]);
        }
        prop_assert_eq!(payload, flow.payload);
    }

    #[test]
    fn what_was_cut_is_put_together_again(flow in flow()) {
        let (vnet, large) = flow.large();
        let segments = segments_of(&flow);
        let groups = coalesce_all(&segments, true);
        // CWR never merges, nor do IP options; else only the limit keeps the large packet from coming back as it was.
        let whole = flow.ip_extra == 0 && (!flow.tcp || flow.flags & 0x80 == 0);
        if whole && segments.len() <= MAX_MERGED && segments.len() > 1 {
            prop_assert_eq!(groups.len(), 1);
            prop_assert_eq!(groups[0].0, vnet);
            prop_assert_eq!(&groups[0].1, &large);
        } else if flow.ip_extra > 0 {
            prop_assert_eq!(groups.len(), segments.len());
        }
        // In any case cutting gives the very same packets.
        let mut again = Vec::new();
        for (vnet, large, _) in &groups {
            again.extend(split_all(vnet, large, 1 << 20).unwrap());
        }
        prop_assert_eq!(again, segments);
    }

    #[test]
    fn flows_that_are_mixed_keep_their_order(a in flow(), b in flow(), mut picks in prop::collection::vec(any::<bool>(), 200), noise in 0_usize..40) {
        let (mut a, mut b) = (segments_of(&a).into_iter(), {
            let l4 = b.l4();
            let mut all = segments_of(&b);
            // Another source port, and the checksum with it.
            for s in &mut all {
                let (old, new) = (get16(s, l4), 4444_u16);
                put16(s, l4, new);
                let field = l4 + if b.tcp { 16 } else { 6 };
                let sum = naive_sum(&[&(!get16(s, field)).to_be_bytes(), &(!old).to_be_bytes(), &new.to_be_bytes()]);
                put16(s, field, if sum == 0xffff { 0xffff } else { !sum });
            }
            all.into_iter()
        });
        let mut mixed = Vec::new();
        while let Some(packet) = match picks.pop() {
            Some(true) => a.next().or_else(|| b.next()),
            _ => b.next().or_else(|| a.next()),
        } {
            mixed.push(packet);
            if mixed.len() == noise {
                mixed.push(vec![0x45; 10]);
            }
        }
        let groups = coalesce_all(&mixed, true);
        let mut seen = vec![false; mixed.len()];
        let mut last = std::collections::HashMap::new();
        for (vnet, large, numbers) in &groups {
            prop_assert_eq!(split_all(vnet, large, 1 << 20).unwrap(), numbers.iter().map(|&i| mixed[i].clone()).collect::<Vec<_>>());
            for &i in numbers {
                prop_assert!(!std::mem::replace(&mut seen[i], true), "written twice");
                let l4 = if mixed[i][0] >> 4 == 4 { usize::from(mixed[i][0] & 15) * 4 } else { 40 };
                let key = (mixed[i][0] >> 4, mixed[i].get(l4..l4 + 4).map(<[u8]>::to_vec));
                if let Some(before) = last.insert(key, i) {
                    prop_assert!(before < i, "overtaken within a flow");
                }
            }
        }
        prop_assert!(seen.iter().all(|&s| s), "lost");
    }

    #[test]
    fn damage_from_the_kernel_never_panics(
        flow in flow(),
        header in prop::array::uniform10(any::<u8>()),
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        keep_header in any::<bool>(),
        keep_len in any::<bool>(),
    ) {
        let (vnet, mut large) = flow.large();
        for (at, value) in hits {
            let at = at.index(flow.headers());
            large[at] = value;
        }
        if !keep_len {
            large.truncate(cut.index(large.len() + 1));
        }
        let vnet = if keep_header { Ok(vnet) } else { VnetHeader::parse(&header) };
        if let Ok(vnet) = vnet {
            // As in use, but with a limit: a segment size of one byte makes 65,000 packets.
            if let Ok(mut split) = Split::new(&vnet, &large) {
                let mut arena = arena(70_000);
                for _ in 0..4 {
                    arena.clear(1420);
                    if split.fill(&large, &mut arena) {
                        break;
                    }
                }
            }
        }
    }

    #[test]
    fn damage_from_a_peer_passes_as_it_is(
        flow in flow(),
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1_u8..), 1..6),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..3),
    ) {
        let mut packets = segments_of(&flow);
        for (which, at, value) in hits {
            let packet = which.get(&packets).len();
            let which = which.index(packets.len());
            packets[which][at.index(packet.min(80))] ^= value;
        }
        for (which, at) in cuts {
            let which = which.index(packets.len());
            let len = packets[which].len();
            packets[which].truncate(at.index(len + 1));
        }
        let mut count = 0;
        for (vnet, large, numbers) in coalesce_all(&packets, true) {
            count += numbers.len();
            if numbers.len() == 1 {
                prop_assert_eq!(&large, &packets[numbers[0]]);
            } else if large[0] >> 4 == 6 || large[6] & 0x40 == 0 {
                // With "don't fragment" the identification may differ.
                let again = split_all(&vnet, &large, 1 << 20).unwrap();
                prop_assert_eq!(again, numbers.iter().map(|&i| packets[i].clone()).collect::<Vec<_>>());
            }
        }
        prop_assert_eq!(count, packets.len());
    }

    #[test]
    fn headers_survive_the_way_there_and_back(bytes in prop::array::uniform10(any::<u8>())) {
        if let Ok(header) = VnetHeader::parse(&bytes) {
            prop_assert_eq!(VnetHeader::parse(&header.encode()), Ok(header));
        }
    }
}

#[test]
fn a_checksum_is_completed() {
    for (tcp, v6) in [(true, false), (false, false), (true, true), (false, true)] {
        let flow = Flow { tcp, v6, payload: vec![3; 77], ..plain_flow() };
        let (vnet, packet) = flow.large();
        let vnet = VnetHeader { gso: Gso::None, ..vnet };
        let done = split_all(&vnet, &packet, 4096).unwrap();
        check(&done[0], flow.l4(), tcp);
        assert_eq!(done.len(), 1);

        let outside = VnetHeader { csum_start: packet.len() as u16 - vnet.csum_offset - 1, ..vnet };
        assert_eq!(split_all(&outside, &packet, 4096), Err(Malformed));
    }
}

#[test]
fn contradictions_are_malformed() {
    let (vnet, packet) = plain_flow().large();
    let bad = |change: fn(&mut VnetHeader, &mut Vec<u8>)| {
        let (mut vnet, mut packet) = (vnet, packet.clone());
        change(&mut vnet, &mut packet);
        assert_eq!(Split::new(&vnet, &packet).err(), Some(Malformed));
    };
    assert!(Split::new(&vnet, &packet).is_ok());
    bad(|h, _| h.segment = 0);
    bad(|h, _| h.needs_csum = false);
    bad(|h, _| h.gso = Gso::TcpV6);
    bad(|h, _| h.gso = Gso::Udp);
    bad(|h, _| h.csum_start = 24);
    bad(|h, _| h.csum_offset = 6);
    bad(|_, p| p[9] = 17);
    bad(|_, p| p[6] = 0x20);
    bad(|_, p| p[32] = 0x40);
    bad(|_, p| {
        p[32] = 0xf0;
        p.truncate(79);
    });
    bad(|_, p| p.truncate(52));
    bad(|_, p| p.truncate(10));
    bad(|_, p| p.clear());
    assert_eq!(VnetHeader::parse(&[0; 9]), Err(Malformed));
    assert_eq!(VnetHeader::parse(&[0, 3, 0, 0, 0, 0, 0, 0, 0, 0]), Err(Malformed));
}

/// Changes the second packet of five, and says how the packets are grouped then.
fn grouped(flow: &Flow, udp: bool, change: fn(&mut Vec<u8>)) -> Vec<Vec<usize>> {
    let mut packets = segments_of(flow);
    assert_eq!(packets.len(), 5);
    change(&mut packets[1]);
    let packet = &mut packets[1];
    let l4 = flow.l4();
    // A change of the IP header leaves its checksum right; that of the payload is the test's affair.
    if packet[0] == 0x45 {
        put16(packet, 10, 0);
        let sum = !naive_sum(&[&packet[..l4]]);
        put16(packet, 10, sum);
    }
    coalesce_all(&packets, udp).into_iter().map(|(.., numbers)| numbers).collect()
}

/// Makes the checksum of a TCP packet right.
fn mend(packet: &mut [u8]) {
    put16(packet, 36, 0);
    let sum = !naive_sum(&[&naive_pseudo(packet, 20, 6), &packet[20..]]);
    put16(packet, 36, sum);
}

#[test]
fn what_differs_is_not_merged() {
    let flow = plain_flow();
    let alone = vec![vec![0], vec![1], vec![2, 3, 4]];
    assert_eq!(grouped(&flow, true, |_| ()), [[0, 1, 2, 3, 4]]);
    // A wrong checksum, of either kind, is left to the receiver.
    assert_eq!(grouped(&flow, true, |p| p[70] ^= 1), alone);
    // Type of service, time to live, "don't fragment", acknowledgement, window, options, sequence.
    assert_eq!(grouped(&flow, true, |p| p[1] ^= 1), alone);
    assert_eq!(grouped(&flow, true, |p| p[8] -= 1), alone);
    assert_eq!(grouped(&flow, true, |p| p[6] = 0), alone);
    for change in [
        |p: &mut Vec<u8>| p[28] ^= 1,
        |p: &mut Vec<u8>| p[34] ^= 1,
        |p: &mut Vec<u8>| p[45] ^= 1,
        |p: &mut Vec<u8>| p[24] ^= 1,
    ] {
        let mut packets = segments_of(&flow);
        change(&mut packets[1]);
        mend(&mut packets[1]);
        let groups: Vec<_> = coalesce_all(&packets, true).into_iter().map(|(.., n)| n).collect();
        assert_eq!(groups, alone);
    }
    // PSH ends a run, CWR and SYN are alone.
    for (flag, expected) in [
        (0x08, vec![vec![0, 1], vec![2, 3, 4]]),
        (0x01, vec![vec![0, 1], vec![2, 3, 4]]),
        (0x80, alone.clone()),
        (0x02, alone.clone()),
        (0x20, alone.clone()),
    ] {
        let mut packets = segments_of(&flow);
        packets[1][33] |= flag;
        mend(&mut packets[1]);
        let groups: Vec<_> = coalesce_all(&packets, true).into_iter().map(|(.., n)| n).collect();
        assert_eq!(groups, expected, "{flag:#x}");
    }
    // Without "don't fragment" the identification counts.
    let fragmentable = Flow { dont_fragment: false, ..flow.clone() };
    assert_eq!(grouped(&fragmentable, true, |_| ()), [[0, 1, 2, 3, 4]]);
    assert_eq!(grouped(&fragmentable, true, |p| p[5] ^= 0x40), alone);
    assert_eq!(grouped(&flow, true, |p| p[5] ^= 0x40), [[0, 1, 2, 3, 4]]);
    // A pure acknowledgement between data: the flow's order is kept.
    assert_eq!(
        grouped(&flow, true, |p| {
            p.truncate(52);
            put16(p, 2, 52);
            mend(p);
        }),
        alone
    );
}

#[test]
fn udp_is_merged_only_where_the_kernel_takes_it() {
    let flow = Flow { tcp: false, ..plain_flow() };
    assert_eq!(grouped(&flow, true, |_| ()), [[0, 1, 2, 3, 4]]);
    assert_eq!(grouped(&flow, false, |_| ()).len(), 5);
    // No checksum is passed as none.
    assert_eq!(grouped(&flow, true, |p| put16(p, 26, 0)), [vec![0], vec![1], vec![2, 3, 4]]);
}

#[test]
fn no_more_is_merged_than_fits() {
    let flow = Flow { segment: 10, payload: vec![1; 10 * 100], ..plain_flow() };
    let groups = coalesce_all(&segments_of(&flow), true);
    assert_eq!(groups.iter().map(|g| g.2.len()).collect::<Vec<_>>(), [64, 36]);

    let mut large = segments_of(&Flow { segment: 9000, payload: vec![1; 63_000], ..plain_flow() });
    let more = segments_of(&Flow { segment: 9000, sequence: 64_000, payload: vec![1; 18_000], ..plain_flow() });
    large.extend(more);
    let groups = coalesce_all(&large, true);
    assert_eq!(groups.iter().map(|g| g.2.len()).collect::<Vec<_>>(), [7, 2]);
}

#[test]
fn many_flows_at_once_are_all_written() {
    let mut packets = Vec::new();
    for round in 0..3 {
        for port in 0..20_u16 {
            let mut p = segments_of(&plain_flow())[round].clone();
            put16(&mut p, 20, port);
            mend(&mut p);
            packets.push(p);
        }
    }
    let groups = coalesce_all(&packets, true);
    assert_eq!(groups.iter().map(|g| g.2.len()).sum::<usize>(), 60);
}
