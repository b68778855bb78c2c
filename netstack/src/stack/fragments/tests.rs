use super::*;
use crate::stack::packet::{IPV6_HEADER, UDP};
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr};

const V4: (IpAddr, IpAddr) = (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)));
const V6: (IpAddr, IpAddr) =
    (IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)));

fn at(seconds: u64) -> Instant {
    Instant::from_nanos(seconds * 1_000_000_000)
}

/// A fragment as it arrives.
fn fragment((source, destination): (IpAddr, IpAddr), id: u32, offset: usize, more: bool, data: &[u8]) -> Vec<u8> {
    let header = IpHeader::new(source, destination, UDP);
    let mut packet = vec![0; header_len(source)];
    if source.is_ipv4() {
        let fragment = Some(Fragment { identification: id, offset, more });
        IpHeader { fragment, ..header }.emit(&mut packet, data.len());
    } else {
        IpHeader { protocol: FRAGMENT_HEADER, ..header }.emit(&mut packet, 8 + data.len());
        packet.extend([UDP, 0]);
        packet.extend((offset as u16 | u16::from(more)).to_be_bytes());
        packet.extend(id.to_be_bytes());
    }
    packet.extend(data);
    packet
}

fn give(reassembler: &mut Reassembler, bytes: &[u8], now: Instant) -> Verdict {
    reassembler.receive(&Packet::parse(bytes).unwrap(), now)
}

/// The payload of a whole packet.
fn payload(verdict: Verdict) -> Vec<u8> {
    let Verdict::Whole(whole) = verdict else { panic!("not whole: {verdict:?}") };
    let packet = Packet::parse(&whole).unwrap();
    assert_eq!((packet.fragment, packet.protocol, packet.hop_limit), (None, UDP, 64));
    packet.payload().to_vec()
}

fn is_empty(reassembler: &Reassembler) -> bool {
    reassembler.memory == 0
        && reassembler.packets.is_empty()
        && reassembler.order.is_empty()
        && reassembler.sources.is_empty()
}

#[test]
fn overlaps_drop_the_packet_and_what_comes_of_it_later() {
    for addresses in [V4, V6] {
        let mut reassembler = Reassembler::new();
        let part = |offset, more, data: &[u8]| fragment(addresses, 7, offset, more, data);
        assert_eq!(give(&mut reassembler, &part(0, true, &[1; 16]), at(0)), Verdict::Waits);
        assert_eq!(give(&mut reassembler, &part(0, true, &[1; 16]), at(0)), Verdict::Waits, "a repetition");
        assert_eq!(give(&mut reassembler, &part(8, true, &[1; 16]), at(0)), Verdict::Overlap);
        assert_eq!(give(&mut reassembler, &part(16, false, &[1; 4]), at(0)), Verdict::Overlap);
        assert_eq!(reassembler.memory(), PACKET_OVERHEAD);
        // Another one is not touched by that.
        assert_eq!(give(&mut reassembler, &fragment(addresses, 8, 8, false, b"end"), at(0)), Verdict::Waits);
        let whole = give(&mut reassembler, &fragment(addresses, 8, 0, true, b"12345678"), at(0));
        assert_eq!(payload(whole), b"12345678end");
        while reassembler.expire(at(61)).is_some() {}
        assert!(is_empty(&reassembler));
    }
}

#[test]
fn ends_that_contradict_each_other_are_overlaps() {
    let cases: [[(usize, bool, usize); 2]; 4] = [
        [(8, false, 8), (16, false, 8)],
        [(8, false, 8), (16, true, 8)],
        [(16, true, 8), (8, false, 4)],
        [(8, false, 8), (8, true, 8)],
    ];
    for [first, second] in cases {
        let mut reassembler = Reassembler::new();
        let part = |(offset, more, len): (usize, bool, usize)| fragment(V4, 7, offset, more, &vec![0; len]);
        assert_eq!(give(&mut reassembler, &part(first), at(0)), Verdict::Waits);
        assert_eq!(give(&mut reassembler, &part(second), at(0)), Verdict::Overlap, "{first:?} {second:?}");
    }
}

#[test]
fn impossible_fragments_are_malformed() {
    let mut reassembler = Reassembler::new();
    for (offset, more, len) in [(0, true, 7), (8, true, 0), (8, false, 0), (65_528, false, 8), (65_512, false, 8)] {
        let bytes = fragment(V4, 7, offset, more, &vec![0; len]);
        assert_eq!(give(&mut reassembler, &bytes, at(0)), Verdict::Malformed, "{offset} {len}");
    }
    assert!(is_empty(&reassembler));
}

#[test]
fn the_largest_packet_is_put_together() {
    for (addresses, most) in [(V4, 65_515), (V6, 65_535)] {
        let data: Vec<u8> = (0..most).map(|n| (n / 7) as u8).collect();
        let mut reassembler = Reassembler::new();
        let chunks: Vec<_> = data.chunks(552).enumerate().collect();
        let mut last = Verdict::Waits;
        for (n, chunk) in chunks.iter().rev() {
            assert_eq!(last, Verdict::Waits);
            let bytes = fragment(addresses, 1, n * 552, n + 1 < chunks.len(), chunk);
            last = give(&mut reassembler, &bytes, at(0));
        }
        let start = header_len(addresses.0);
        let Verdict::Whole(whole) = last else { panic!("not whole") };
        assert!(whole[start..] == data[..] && is_empty(&reassembler));
    }
}

#[test]
fn packets_are_forgotten_in_time_and_the_first_fragment_is_returned() {
    for (addresses, timeout) in [(V4, 30), (V6, 60)] {
        let mut reassembler = Reassembler::new();
        give(&mut reassembler, &fragment(addresses, 7, 0, true, &[9; 8]), at(1));
        give(&mut reassembler, &fragment(addresses, 8, 8, true, &[9; 8]), at(1));
        // Later fragments do not prolong it.
        give(&mut reassembler, &fragment(addresses, 7, 16, true, &[9; 8]), at(20));
        assert_eq!(reassembler.next_timeout(), Some(at(1 + timeout)));
        assert!(reassembler.expire(at(timeout)).is_none());
        let first = reassembler.expire(at(1 + timeout)).unwrap();
        assert_eq!(first.fragments, 2);
        assert_eq!(first.first.unwrap(), fragment(addresses, 7, 0, true, &[9; 8]));
        assert!(reassembler.expire(at(1 + timeout)).unwrap().first.is_none());
        assert!(is_empty(&reassembler) && reassembler.next_timeout().is_none());
    }
}

#[test]
fn one_source_takes_its_share_and_keeps_no_other_out() {
    let mut reassembler = Reassembler::new();
    give(&mut reassembler, &fragment(V4, 1, 0, true, &[0; 1000]), at(0));
    let flood = (IpAddr::from([10, 0, 0, 9]), V4.1);
    for id in 0..1000 {
        assert_eq!(give(&mut reassembler, &fragment(flood, id, 0, true, &[0; 1000]), at(0)), Verdict::Waits);
        assert!(reassembler.memory() <= MAX_MEMORY_OF_SOURCE + 2000);
    }
    assert!(reassembler.take_evicted() > 700);
    let whole = give(&mut reassembler, &fragment(V4, 1, 1000, false, &[1]), at(1));
    assert_eq!(payload(whole).len(), 1001);
    // Many sources: the oldest packets make room.
    for n in 0..5000_u32 {
        let from = (IpAddr::from((0x0a01_0000 + n).to_be_bytes()), V4.1);
        assert_eq!(give(&mut reassembler, &fragment(from, 1, 0, true, &[0; 1000]), at(2)), Verdict::Waits);
        assert!(reassembler.memory() <= MAX_MEMORY);
    }
}

#[test]
fn many_tiny_fragments_of_one_packet_are_refused() {
    let mut reassembler = Reassembler::new();
    let mut give = |n: usize| give(&mut reassembler, &fragment(V4, 1, n * 16, true, &[0; 8]), at(0));
    assert!((0..MAX_FRAGMENTS).all(|n| give(n) == Verdict::Waits));
    assert_eq!(give(MAX_FRAGMENTS), Verdict::NoRoom);
}

proptest! {
    #[test]
    fn any_order_and_repetitions_make_the_same_packet(
        data in prop::collection::vec(any::<u8>(), 9..5000),
        size in 1_usize..100,
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..50),
        v6 in any::<bool>(),
    ) {
        let addresses = if v6 { V6 } else { V4 };
        let size = (size * 8).max(data.len().div_ceil(200).next_multiple_of(8));
        let count = data.len().div_ceil(size);
        prop_assume!(count > 1);
        let parts: Vec<_> = data
            .chunks(size)
            .enumerate()
            .map(|(n, chunk)| fragment(addresses, 3, n * size, n + 1 < count, chunk))
            .collect();
        // Some at random, several times perhaps; then the rest.
        let mut reassembler = Reassembler::new();
        let picked = order.iter().map(|index| index.index(count)).chain((0..count).rev());
        let mut whole = None;
        for n in picked {
            match give(&mut reassembler, &parts[n], at(0)) {
                Verdict::Waits => {}
                verdict => {
                    whole = Some(payload(verdict));
                    break;
                }
            }
        }
        prop_assert_eq!(whole, Some(data));
        prop_assert!(is_empty(&reassembler));
    }

    #[test]
    fn whatever_comes_memory_is_bounded_and_overlaps_never_pass(
        fragments in prop::collection::vec((0_u32..4, 0_usize..40, any::<bool>(), 1_usize..9, any::<u8>()), 0..300),
        v6 in any::<bool>(),
    ) {
        let addresses = if v6 { V6 } else { V4 };
        let mut reassembler = Reassembler::new();
        for (n, (id, offset, more, len, byte)) in fragments.into_iter().enumerate() {
            let bytes = fragment(addresses, id, offset * 8, more, &vec![byte; len * 8]);
            if let Verdict::Whole(whole) = give(&mut reassembler, &bytes, at(n as u64)) {
                let packet = Packet::parse(&whole).unwrap();
                prop_assert!(packet.fragment.is_none() && packet.payload.start <= IPV6_HEADER);
            }
            while reassembler.expire(at(n as u64)).is_some() {}
            prop_assert!(reassembler.memory() <= MAX_MEMORY_OF_SOURCE);
            let sum: usize = reassembler.packets.values().map(|partial| partial.memory).sum();
            prop_assert_eq!(sum, reassembler.memory());
        }
        while reassembler.expire(at(1000)).is_some() {}
        prop_assert!(is_empty(&reassembler));
    }
}
