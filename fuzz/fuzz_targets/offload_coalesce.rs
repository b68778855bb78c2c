//! Packets for a TUN with offloads: each is written once, those of a flow in their order, and what was merged is, cut
//! again, the same packets.
//!
//! The input is a byte for options and a row of records. A record makes a packet of its own bytes, or one that follows
//! an earlier packet in its flow.
#![no_main]

use std::collections::HashMap;

use libfuzzer_sys::fuzz_target;
use wg_embed::tun::{
    PacketArena, PacketList,
    offload::{
        VnetHeader,
        coalesce::{Group, MAX_MERGED, Merging, coalesce},
        split::Split,
    },
};
use wg_embed_fuzz::{
    Input,
    plain::{TCP, UDP, get16, join, put16, set_checksum, set_ipv4_checksum},
};

const MAX_PACKETS: usize = 200;

/// Where the TCP or UDP header of a packet without options begins, and its protocol.
fn transport(packet: &[u8]) -> Option<(usize, u8)> {
    let (l4, protocol) = match packet.first()? >> 4 {
        4 => (20, *packet.get(9)?),
        6 => (40, *packet.get(6)?),
        _ => return None,
    };
    let header = match protocol {
        TCP => 20,
        UDP => 8,
        _ => return None,
    };
    (packet.len() >= l4 + header).then_some((l4, protocol))
}

/// Makes lengths and checksums good, as far as the packet has any.
fn repair(packet: &mut [u8]) {
    let Some((l4, protocol)) = transport(packet) else { return };
    let len = packet.len();
    if protocol == UDP {
        put16(packet, l4 + 4, (len - l4) as u16);
    }
    if l4 == 20 {
        packet[0] = 0x45;
        put16(packet, 2, len as u16);
        set_ipv4_checksum(packet, l4);
    } else {
        put16(packet, 4, (len - l4) as u16);
    }
    set_checksum(packet, l4, protocol);
}

/// Makes the packet that follows another one in its flow.
fn follow(packet: &[u8], payload: &[u8], flags: u8) -> Option<Vec<u8>> {
    let (l4, protocol) = transport(packet)?;
    let headers = l4 + if protocol == TCP { usize::from(packet[l4 + 12] >> 4).max(5) * 4 } else { 8 };
    let mut next = packet.get(..headers)?.to_vec();
    if protocol == TCP {
        let sequence = u32::from_be_bytes(packet[l4 + 4..l4 + 8].try_into().unwrap());
        let sequence = sequence.wrapping_add((packet.len() - headers) as u32);
        next[l4 + 4..l4 + 8].copy_from_slice(&sequence.to_be_bytes());
        next[l4 + 13] |= flags & 0x09;
    }
    if l4 == 20 {
        put16(&mut next, 4, get16(packet, 4).wrapping_add(1));
    }
    next.extend_from_slice(payload);
    repair(&mut next);
    Some(next)
}

fn read_packets(mut input: Input<'_>) -> Vec<Vec<u8>> {
    let mut packets: Vec<Vec<u8>> = Vec::new();
    while let Some(kind) = input.next_byte() {
        let len = usize::from(input.byte());
        let bytes = input.bytes(len);
        match kind & 3 {
            0 => packets.push(bytes.to_vec()),
            1 => {
                let mut packet = bytes.to_vec();
                repair(&mut packet);
                packets.push(packet);
            }
            _ => {
                let mut last = packets.iter().rev().nth(usize::from(kind >> 2 & 3)).cloned();
                for _ in 0..=kind >> 4 & 7 {
                    last = last.and_then(|last| follow(&last, bytes, kind >> 4));
                    packets.extend(last.clone());
                }
            }
        }
        if packets.len() >= MAX_PACKETS {
            break;
        }
    }
    packets
}

fn cut(vnet: &VnetHeader, large: &[u8]) -> Vec<Vec<u8>> {
    let mut arena = PacketArena::new(1 << 17, MAX_MERGED, |len, _| len.next_multiple_of(16));
    arena.clear(1420);
    let mut split = Split::new(vnet, large).unwrap();
    assert!(split.fill(large, &mut arena));
    arena.slots().iter().map(|slot| arena.packet(*slot).to_vec()).collect()
}

fuzz_target!(|input: &[u8]| {
    let Some((options, rest)) = input.split_first() else { return };
    let merging = Merging { tcp: options & 1 == 0, udp: options & 2 == 0 };
    let packets = read_packets(Input(rest));
    let (buffer, ranges) = join(&packets);
    let list = PacketList { buffer: &buffer, ranges: &ranges };
    let mut order: Vec<usize> = Vec::new();
    coalesce(list, merging, |group| match group {
        Group::One(number) => order.push(number),
        Group::Merged { vnet, headers, packets: numbers } => {
            assert!((2..=MAX_MERGED).contains(&numbers.len()));
            let numbers = numbers.iter().map(|number| *number as usize);
            let mut large = headers.to_vec();
            numbers.clone().for_each(|number| large.extend_from_slice(&packets[number][headers.len()..]));
            assert!(large.len() <= 65_535);
            let again = cut(&vnet, &large);
            assert_eq!(again.len(), numbers.len());
            for (again, number) in again.iter().zip(numbers.clone()) {
                let packet = &packets[number];
                let (_, protocol) = transport(packet).unwrap();
                assert!(if protocol == TCP { merging.tcp } else { merging.udp });
                // With "don't fragment" the identification, and the checksum with it, may differ.
                let ignored = if packet[0] == 0x45 && packet[6] & 0x40 != 0 { [4..6, 10..12] } else { [0..0, 0..0] };
                let mut packet = packet.clone();
                ignored.into_iter().for_each(|range| packet[range.clone()].copy_from_slice(&again[range]));
                assert_eq!(*again, packet);
            }
            order.extend(numbers);
        }
    });
    let mut sorted = order.clone();
    sorted.sort_unstable();
    assert!(sorted.into_iter().eq(0..packets.len()), "each packet once");
    let mut newest = HashMap::new();
    for number in order {
        let packet = &packets[number];
        let flow = transport(packet).map(|(l4, protocol)| {
            let addresses = if l4 == 20 { &packet[12..20] } else { &packet[8..40] };
            (protocol, addresses, &packet[l4..l4 + 4])
        });
        if let Some(before) = newest.insert(flow, number) {
            assert!(before < number, "overtaken within a flow");
        }
    }
});
