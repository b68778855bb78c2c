//! The queue to which a packet is written, of an interface with several.
//!
//! Linux steers a flow to the queue on which its last packet was written; a flow of which none was, by its hash. If a
//! flow changes queues, its packets may overtake each other. So packets are written to the queue from which others of
//! their flow were read, and all first packets of a flow that begins here to the same queue.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use crate::tun::PacketArena;

/// The number of places for flows. Flows that share one may be moved to the same queue once.
const FLOWS: usize = 4096;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The last queue of each flow.
#[derive(Debug)]
pub(super) struct Steering {
    queues: usize,
    /// One more than the number of the queue; 0 if none is known.
    flows: Box<[AtomicU8]>,
}

impl Steering {
    pub(super) const MEMORY: usize = FLOWS;

    pub(super) fn new(queues: usize) -> Self {
        Self { queues, flows: (0..FLOWS).map(|_| AtomicU8::new(0)).collect() }
    }

    /// Records that these packets were read from a queue.
    pub(super) fn note(&self, queue: u8, arena: &PacketArena) {
        for slot in arena.slots() {
            let place = &self.flows[flow(arena.packet(*slot)) as usize % FLOWS];
            // Read first: a write for each packet would take the cache line from other threads.
            if place.load(Relaxed) != queue + 1 {
                place.store(queue + 1, Relaxed);
            }
        }
    }

    /// Returns the queue for a packet.
    pub(super) fn queue_of(&self, packet: &[u8]) -> usize {
        let flow = flow(packet);
        match self.flows[flow as usize % FLOWS].load(Relaxed) {
            0 => (flow >> 32) as usize % self.queues,
            known => usize::from(known) - 1,
        }
    }
}

/// Returns the hash of a packet's flow, the same in both directions. It is no finer than the kernel's
/// (`__skb_get_hash_symmetric`), which has no ports for fragments, nor for IPv6 packets with a flow label: what the
/// kernel takes for one flow must be written to one queue.
fn flow(packet: &[u8]) -> u64 {
    let word = |at: usize| packet[at..].first_chunk().map_or(0, |word| u128::from(u32::from_be_bytes(*word)));
    let address = |at: usize| packet[at..].first_chunk().map_or(0, |address| u128::from_be_bytes(*address));
    let (from, to, protocol, transport) = match packet.first().map_or(0, |byte| byte >> 4) {
        4 if packet.len() >= 20 => {
            let is_fragment = packet[6] & 0x3f != 0 || packet[7] != 0;
            (word(12), word(16), packet[9], (!is_fragment).then(|| usize::from(packet[0] & 15) * 4))
        }
        6 if packet.len() >= 40 => {
            let has_label = packet[1] & 0x0f != 0 || packet[2..4] != [0; 2];
            (address(8), address(24), packet[6], (!has_label).then_some(40))
        }
        _ => return 0,
    };
    let ports = match transport.filter(|_| matches!(protocol, TCP | UDP)).and_then(|at| packet.get(at..at + 4)) {
        Some(ports) => sorted([ports[0], ports[1]], [ports[2], ports[3]]),
        None => [[0; 2]; 2],
    };
    let ports = u32::from_be_bytes([ports[0][0], ports[0][1], ports[1][0], ports[1][1]]);
    let [low, high] = sorted(from, to);
    [low as u64, (low >> 64) as u64, high as u64, (high >> 64) as u64, u64::from(ports) << 8 | u64::from(protocol)]
        .into_iter()
        .fold(0, |hash, word| mixed(hash ^ word))
}

fn sorted<T: Ord>(a: T, b: T) -> [T; 2] {
    if a <= b { [a, b] } else { [b, a] }
}

/// Mixes all bits (the finalizer of SplitMix64, by Steele, Lea and Flood), so that no word cancels another.
const fn mixed(mut word: u64) -> u64 {
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (word ^ word >> 31).wrapping_add(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(from: u8, to: u8, protocol: u8, ports: [u8; 2]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, from, 10, 0, 0, to];
        packet.extend([0, ports[0], 0, ports[1], 0, 8, 0, 0]);
        packet
    }

    fn v6(label: u8, ports: [u8; 2]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, label, 0, 8, UDP, 64];
        packet.extend([[1; 16], [2; 16]].concat());
        packet.extend([0, ports[0], 0, ports[1], 0, 8, 0, 0]);
        packet
    }

    #[test]
    fn both_directions_of_a_flow_are_one() {
        assert_eq!(flow(&v4(1, 2, UDP, [3, 4])), flow(&v4(2, 1, UDP, [4, 3])));
        let others = [v4(1, 2, TCP, [3, 4]), v4(1, 2, UDP, [3, 5]), v4(1, 9, UDP, [3, 4]), v6(0, [3, 4])];
        assert!(others.iter().all(|other| flow(other) != flow(&v4(1, 2, UDP, [3, 4]))));
        assert_ne!(flow(&v6(0, [3, 4])), flow(&v6(0, [3, 5])));
    }

    #[test]
    fn it_is_no_finer_than_the_flow_of_the_kernel() {
        let fragment = |ports, at: usize| {
            let mut packet = v4(1, 2, UDP, ports);
            packet[at] = 0x20;
            packet
        };
        assert_eq!(flow(&fragment([3, 4], 6)), flow(&fragment([5, 6], 7)), "more fragments, or an offset");
        assert_eq!(flow(&v6(7, [3, 4])), flow(&v6(8, [5, 6])), "a flow label");
        assert_eq!(flow(&v4(1, 2, 1, [3, 4])), flow(&v4(1, 2, 1, [5, 6])), "no ports");
        assert_eq!(flow(&v4(1, 2, UDP, [3, 4])[..22]), flow(&v4(1, 2, UDP, [5, 6])[..23]), "truncated");
        assert_eq!((flow(&[]), flow(&[0x45; 19]), flow(&[0x60; 39])), (0, 0, 0));
    }

    #[test]
    fn flows_are_spread_and_stay_where_they_are_read() {
        let steering = Steering::new(3);
        let packets: Vec<_> = (0..100).map(|port| v4(1, 2, TCP, [port, 200])).collect();
        let queues: Vec<_> = packets.iter().map(|packet| steering.queue_of(packet)).collect();
        for queue in 0..3 {
            assert!(queues.iter().filter(|other| **other == queue).count() > 20, "{queues:?}");
        }
        let mut arena = PacketArena::new(4096, 100, |len, _| len);
        assert!(arena.push(&packets[7]));
        for queue in [2, 0, 1] {
            steering.note(queue, &arena);
            assert_eq!(steering.queue_of(&v4(2, 1, TCP, [200, 7])), usize::from(queue));
        }
    }
}
