//! What the targets share: numbers that are the same in each run, the reader of inputs, plain definitions to compare
//! with, the devices of the tests, and packets in and out of a stack.

#[path = "../../tests/common/mod.rs"]
#[allow(clippy::new_without_default, reason = "it is public in this package only")]
pub mod common;
mod input;
pub mod plain;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Mutex,
};

use wg_embed::{
    random::Random,
    tun::{PacketArena, PacketList, Tun, offload::checksum::Sum},
};

pub use input::Input;

/// The MTU of all stacks.
pub const MTU: usize = 1420;

/// The same numbers in each run.
pub struct Numbers(Mutex<u64>);

impl Numbers {
    /// Those that begin with `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }
}

impl Random for Numbers {
    fn fill(&self, out: &mut [u8]) {
        let mut last = self.0.lock().unwrap();
        for byte in out {
            *last = last.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (*last >> 56) as u8;
        }
    }
}

/// An address and a port in text form.
#[must_use]
pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// An address in text form.
#[must_use]
pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Room for what a stack sends.
#[must_use]
pub fn arena() -> PacketArena {
    PacketArena::new(128 << 10, 128, |len, _| len.next_multiple_of(16))
}

/// Gives a stack one packet.
pub fn write(tun: &dyn Tun, packet: &[u8]) {
    tun.write(PacketList { buffer: packet, ranges: std::slice::from_ref(&(0..packet.len())) });
}

/// Takes everything that a stack sends, and calls `packet` with each.
pub fn read(tun: &dyn Tun, arena: &mut PacketArena, mut packet: impl FnMut(&[u8])) {
    loop {
        arena.clear(tun.mtu());
        match tun.read(arena) {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                for slot in arena.slots() {
                    let bytes = arena.packet(*slot);
                    assert!(bytes.len() <= MTU);
                    packet(bytes);
                }
            }
        }
    }
}

/// A packet whose lengths and checksums are not there yet: see [`repair`].
#[must_use]
pub fn packet(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
            header.extend(from.octets());
            header.extend(to.octets());
            header
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
            header.extend(from.octets());
            header.extend(to.octets());
            header
        }
        _ => panic!("two families"),
    };
    packet.extend_from_slice(payload);
    packet
}

/// Makes lengths and checksums of a packet good, as far as it has any.
pub fn repair(packet: &mut [u8]) {
    let Some(protocol) = repair_header(packet) else { return };
    let (start, addresses) = if packet[0] >> 4 == 4 { (20, 12..20) } else { (40, 8..40) };
    let place = start
        + match protocol {
            6 => 16,
            17 => 6,
            1 | 58 => 2,
            _ => return,
        };
    if place + 2 > packet.len() {
        return;
    }
    packet[place..place + 2].fill(0);
    let pseudo = if protocol == 1 {
        Sum::default()
    } else {
        Sum::default().pseudo_header(&packet[addresses], protocol, (packet.len() - start) as u16)
    };
    let sum = pseudo.bytes(&packet[start..]).finish();
    packet[place..place + 2].copy_from_slice(&sum);
}

/// Does so for the IP header alone. Returns the protocol; `None` if there is no whole header.
pub fn repair_header(packet: &mut [u8]) -> Option<u8> {
    let len = packet.len();
    match packet.first().map(|first| first >> 4) {
        Some(4) if len >= 20 => {
            packet[0] = 0x45;
            packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            packet[10..12].fill(0);
            let sum = Sum::default().bytes(&packet[..20]).finish();
            packet[10..12].copy_from_slice(&sum);
            Some(packet[9])
        }
        Some(6) if len >= 40 => {
            packet[4..6].copy_from_slice(&(len as u16 - 40).to_be_bytes());
            Some(packet[6])
        }
        _ => None,
    }
}
