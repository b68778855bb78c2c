//! Segmentation and receive offload of a TUN with a virtio-net header: pure functions over bytes.
//!
//! [`split`] cuts one large packet of the kernel into the packets of its flow, [`coalesce`] finds packets that can be
//! written as one. Both validate their input: inconsistent packets are [`Malformed`], or passed on unchanged.

pub mod checksum;
pub mod coalesce;
pub mod split;

/// Length of the header before each packet.
pub const VNET_HEADER_LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

const TCP: u8 = 6;
const UDP: u8 = 17;
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
const TCP_MIN_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

/// TCP flags that belong only to the last segment of a large packet.
const FIN_PSH: u8 = 0x01 | 0x08;
/// The TCP flag that belongs only to the first segment of a large packet.
const CWR: u8 = 0x80;

/// An error for an inconsistent header or packet, which is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The contents of a large packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gso {
    /// Not large: one packet.
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP over either, each datagram with its own header (USO).
    Udp,
}

/// The virtio-net header of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// The checksum field holds the sum of the pseudo header only; see `csum_start` and `csum_offset`.
    pub needs_csum: bool,
    /// The kind of large packet.
    pub gso: Gso,
    /// The TCP flow uses ECN: CWR may be set on the first segment.
    pub ecn: bool,
    /// Length of all headers: a hint only.
    pub header_len: u16,
    /// Payload bytes of each segment except the last.
    pub segment: u16,
    /// The offset of the bytes that the checksum covers.
    pub csum_start: u16,
    /// The offset of the checksum field from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// Reads a header, which is in the host's byte order.
    ///
    /// # Errors
    /// If it is too short or has a type that was not enabled.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let (bytes, _) = bytes.split_first_chunk::<VNET_HEADER_LEN>().ok_or(Malformed)?;
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Ok(Self {
            needs_csum: bytes[0] & NEEDS_CSUM != 0,
            gso: match bytes[1] & !GSO_ECN {
                GSO_NONE => Gso::None,
                GSO_TCPV4 => Gso::TcpV4,
                GSO_TCPV6 => Gso::TcpV6,
                GSO_UDP_L4 => Gso::Udp,
                _ => return Err(Malformed),
            },
            ecn: bytes[1] & GSO_ECN != 0,
            header_len: word(2),
            segment: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        })
    }

    /// Returns the header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; VNET_HEADER_LEN] {
        let gso = match self.gso {
            Gso::None => GSO_NONE,
            Gso::TcpV4 => GSO_TCPV4,
            Gso::TcpV6 => GSO_TCPV6,
            Gso::Udp => GSO_UDP_L4,
        };
        let mut bytes = [0; VNET_HEADER_LEN];
        bytes[0] = if self.needs_csum { NEEDS_CSUM } else { 0 };
        bytes[1] = gso | if self.ecn { GSO_ECN } else { 0 };
        for (at, word) in [self.header_len, self.segment, self.csum_start, self.csum_offset].into_iter().enumerate() {
            bytes[2 + 2 * at..4 + 2 * at].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from(get16(bytes, at)) << 16 | u32::from(get16(bytes, at + 2))
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Converts a length that was checked to be at most [`MAX_PACKET`](super::MAX_PACKET).
fn len16(len: usize) -> u16 {
    debug_assert!(len <= super::MAX_PACKET);
    len as u16
}

/// Sets the checksum of the IPv4 header `ip`.
fn set_ipv4_checksum(ip: &mut [u8]) {
    ip[10..12].fill(0);
    let sum = checksum::Sum::default().bytes(ip).finish();
    ip[10..12].copy_from_slice(&sum);
}

#[cfg(test)]
mod tests;
