//! Packets and checksums by the plain definitions, against which the optimized ones are judged.

use std::ops::Range;

/// TCP's protocol number.
pub const TCP: u8 = 6;
/// UDP's protocol number.
pub const UDP: u8 = 17;

/// Returns two bytes as a number.
#[must_use]
pub fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Writes a number as two bytes.
pub fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Returns the one's complement sum (RFC 1071) of the parts, as if they were one text.
#[must_use]
pub fn sum(parts: &[&[u8]]) -> u16 {
    let text = parts.concat();
    let mut sum = 0_u32;
    for word in text.chunks(2) {
        sum += u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or_default());
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Returns the pseudo header of the TCP or UDP packet whose header begins at `l4`.
#[must_use]
pub fn pseudo_header(packet: &[u8], l4: usize, protocol: u8) -> Vec<u8> {
    let addresses = if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] };
    [addresses, &[0, protocol], &((packet.len() - l4) as u16).to_be_bytes()].concat()
}

/// Sets the checksum of a TCP or UDP packet, never to zero.
pub fn set_checksum(packet: &mut [u8], l4: usize, protocol: u8) {
    let at = l4 + if protocol == TCP { 16 } else { 6 };
    put16(packet, at, 0);
    let found = !sum(&[&pseudo_header(packet, l4, protocol), &packet[l4..]]);
    put16(packet, at, if found == 0 { 0xffff } else { found });
}

/// Sets the checksum of an IPv4 header of `len` bytes.
pub fn set_ipv4_checksum(packet: &mut [u8], len: usize) {
    put16(packet, 10, 0);
    let found = !sum(&[&packet[..len]]);
    put16(packet, 10, found);
}

/// Returns packets back to back, and the range of each.
#[must_use]
pub fn join(packets: &[Vec<u8>]) -> (Vec<u8>, Vec<Range<usize>>) {
    let mut buffer = Vec::new();
    let ranges = packets.iter().map(|packet| {
        buffer.extend_from_slice(packet);
        buffer.len() - packet.len()..buffer.len()
    });
    let ranges = ranges.collect();
    (buffer, ranges)
}
