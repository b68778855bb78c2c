//! A packet and its virtio-net header from the kernel: what is not refused is cut into exactly the segments that a
//! plain reading of the headers gives, however much room there is.
//!
//! The input is two bytes for the room, a byte for options, the header of ten bytes, and the packet.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wg_embed::tun::{
    PacketArena,
    offload::{Gso, Malformed, VNET_HEADER_LEN, VnetHeader, split::Split},
};
use wg_embed_fuzz::{
    Input,
    plain::{TCP, UDP, get16, pseudo_header, put16, set_checksum, set_ipv4_checksum, sum},
};

/// Returns all segments, which pass through an arena of this size in bytes.
fn split(vnet: &VnetHeader, packet: &[u8], room: usize) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut arena = PacketArena::new(room, 64, |len, _| len.next_multiple_of(16));
    let mut split = Split::new(vnet, packet)?;
    let mut all = Vec::new();
    loop {
        arena.clear(1420);
        let is_done = split.fill(packet, &mut arena);
        all.extend(arena.slots().iter().map(|slot| arena.packet(*slot).to_vec()));
        if is_done {
            return Ok(all);
        }
        assert!(!arena.slots().is_empty(), "no progress");
    }
}

fn protocol(vnet: &VnetHeader) -> u8 {
    if vnet.gso == Gso::Udp { UDP } else { TCP }
}

/// Cuts a packet that was not refused; each checksum is computed from the segment alone.
fn plain_split(vnet: &VnetHeader, packet: &[u8]) -> Vec<Vec<u8>> {
    let (l4, is_tcp) = (usize::from(vnet.csum_start), protocol(vnet) == TCP);
    let headers = l4 + if is_tcp { usize::from(packet[l4 + 12] >> 4) * 4 } else { 8 };
    let bodies: Vec<_> = packet[headers..].chunks(vnet.segment.into()).collect();
    let mut offset = 0_u32;
    let mut all = Vec::new();
    for (number, body) in bodies.iter().enumerate() {
        let mut segment = [&packet[..headers], body].concat();
        let len = segment.len();
        if packet[0] >> 4 == 4 {
            put16(&mut segment, 2, len as u16);
            put16(&mut segment, 4, get16(packet, 4).wrapping_add(number as u16));
            set_ipv4_checksum(&mut segment, l4);
        } else {
            put16(&mut segment, 4, (len - 40) as u16);
        }
        if is_tcp {
            let sequence = u32::from_be_bytes(packet[l4 + 4..l4 + 8].try_into().unwrap()).wrapping_add(offset);
            segment[l4 + 4..l4 + 8].copy_from_slice(&sequence.to_be_bytes());
            // FIN and PSH are the last one's, CWR is the first one's.
            segment[l4 + 13] &= if number + 1 == bodies.len() { 0xff } else { !0x09 };
            segment[l4 + 13] &= if number == 0 { 0xff } else { !0x80 };
        } else {
            put16(&mut segment, l4 + 4, (len - l4) as u16);
        }
        set_checksum(&mut segment, l4, protocol(vnet));
        offset += body.len() as u32;
        all.push(segment);
    }
    all
}

/// Makes the field have the sum of the pseudo header, as the kernel leaves it.
fn prepare(vnet: &VnetHeader, packet: &mut [u8]) {
    let l4 = usize::from(vnet.csum_start);
    let partial = sum(&[&pseudo_header(packet, l4, protocol(vnet))]);
    put16(packet, l4 + usize::from(vnet.csum_offset), partial);
}

fuzz_target!(|input: &[u8]| {
    let mut input = Input(input);
    let (room, options) = (usize::from(input.word()), input.byte());
    let Ok(vnet) = VnetHeader::parse(input.bytes(VNET_HEADER_LEN)) else { return };
    assert_eq!(VnetHeader::parse(&vnet.encode()), Ok(vnet));
    let mut packet = input.0.to_vec();
    // Room for at least one packet.
    let room = packet.len() + 64 + room;
    let is_cut = vnet.gso != Gso::None;
    if options & 1 == 0 && is_cut && Split::new(&vnet, &packet).is_ok() {
        prepare(&vnet, &mut packet);
        return assert_eq!(split(&vnet, &packet, room), Ok(plain_split(&vnet, &packet)));
    }
    let Ok(segments) = split(&vnet, &packet, room) else { return };
    if is_cut {
        // The kernel's sum is wrong, and so are those of the segments; all else is right.
        let field = usize::from(vnet.csum_start + vnet.csum_offset);
        let without_sum = |mut segments: Vec<Vec<u8>>| {
            segments.iter_mut().for_each(|segment| put16(segment, field, 0));
            segments
        };
        assert_eq!(without_sum(segments), without_sum(plain_split(&vnet, &packet)));
    } else {
        if vnet.needs_csum {
            let start = usize::from(vnet.csum_start);
            let found = !sum(&[&packet[start..]]);
            put16(&mut packet, start + usize::from(vnet.csum_offset), if found == 0 { 0xffff } else { found });
        }
        assert_eq!(segments, [packet]);
    }
});
