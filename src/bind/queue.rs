//! A queue of received datagrams, which are taken out as from a socket with GRO.

use super::{Endpoint, RecvMeta};
use crate::queue::PacketQueue;

/// The maximum number of datagrams in a slot, as in the kernel.
const MAX_SEGMENTS: usize = 64;

/// The origin of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) from: Endpoint,
    pub(super) tos: u8,
}

/// A queue of waiting datagrams.
pub(super) type DatagramQueue = PacketQueue<Origin>;

impl DatagramQueue {
    /// Moves the next datagram to `slot`; with `gro`, also following datagrams that can share the slot with it: those
    /// of the same origin and size, and one that is shorter. A datagram that is too large for a slot is returned as
    /// empty.
    pub(super) fn receive(&mut self, slot: &mut [u8], gro: bool) -> Option<RecvMeta> {
        let (origin, size) = self.front().map(|(origin, size)| (*origin, size))?;
        let mut len = 0;
        if size > slot.len() {
            self.pop_into(&mut []);
        } else {
            self.pop_into(slot);
            len = size;
        }
        let most = if gro { slot.len().min(MAX_SEGMENTS * size) } else { 0 };
        // Nothing may follow a shorter one.
        while len > 0 && len % size == 0 {
            match self.front() {
                Some((next, more)) if *next == origin && (1..=size).contains(&more) && len + more <= most => {
                    self.pop_into(&mut slot[len..]);
                    len += more;
                }
                _ => break,
            }
        }
        Some(RecvMeta { from: origin.from, len, segment_size: size.min(len).max(1), tos: origin.tos })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn origin(port: u16, tos: u8) -> Origin {
        Origin { from: Endpoint::new(([192, 0, 2, 1], port).into()), tos }
    }

    /// What comes out: sizes of slots and of their segments.
    fn slots(queue: &mut DatagramQueue, slot: usize, gro: bool) -> Vec<(usize, usize)> {
        let mut slot = vec![0; slot];
        let mut next = || queue.receive(&mut slot, gro).map(|meta| (meta.len, meta.segment_size));
        std::iter::from_fn(&mut next).collect()
    }

    fn queue(datagrams: &[(u16, u8, usize)]) -> DatagramQueue {
        let mut queue = DatagramQueue::new(1000, 100_000);
        for (port, tos, len) in datagrams {
            assert!(queue.push(origin(*port, *tos), &vec![0; *len]));
        }
        queue
    }

    #[test]
    fn only_what_belongs_together_shares_a_slot() {
        let all =
            [(1, 0, 20), (1, 0, 20), (1, 0, 5), (1, 0, 20), (2, 0, 20), (2, 1, 20), (2, 1, 21), (2, 1, 0), (2, 1, 5)];
        let apart: Vec<_> = all.iter().map(|(_, _, len)| (*len, (*len).max(1))).collect();
        assert_eq!(slots(&mut queue(&all), 100, false), apart);
        let joined = [(45, 20), (20, 20), (20, 20), (20, 20), (21, 21), (0, 1), (5, 5)];
        assert_eq!(slots(&mut queue(&all), 100, true), joined);
    }

    #[test]
    fn a_slot_has_an_end_and_so_has_a_run() {
        assert_eq!(slots(&mut queue(&[(1, 0, 40); 5]), 100, true), [(80, 40), (80, 40), (40, 40)]);
        assert_eq!(slots(&mut queue(&[(1, 0, 101), (1, 0, 100), (1, 0, 1)]), 100, true), [(0, 1), (100, 100), (1, 1)]);
        assert_eq!(slots(&mut queue(&[(1, 0, 1); 70]), 100, true), [(64, 1), (6, 1)]);
    }

    #[test]
    fn bytes_and_origin_come_along() {
        let mut queue = DatagramQueue::new(10, 100);
        for datagram in [b"ab", b"cd", b"ef"] {
            assert!(queue.push(origin(7, 3), datagram));
        }
        let mut slot = [0; 8];
        let meta = queue.receive(&mut slot, true).unwrap();
        assert_eq!((meta.from, meta.tos, &slot[..meta.len]), (origin(7, 3).from, 3, &b"abcdef"[..]));
        assert!(queue.receive(&mut slot, true).is_none());
    }
}
