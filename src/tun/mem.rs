//! A [`Tun`](super::Tun) in memory: for tests, and for programs that poll for inner packets.
//!
//! [`MemTun::new`] returns the tunnel's end and a [`MemHandle`] for the other side. Both queues are bounded; packets
//! that do not fit are dropped and counted, as in a network interface.
//!
//! ```
//! use wg_embed::tun::{PacketArena, Tun, mem::MemTun};
//!
//! let (tun, handle) = MemTun::new("mem0", 1420);
//! assert!(handle.inject(&[0x45; 20]));
//! // A tunnel reads from it; here it is read directly.
//! let mut arena = PacketArena::new(4096, 8, |len, _| len.next_multiple_of(16));
//! assert_eq!(tun.read(&mut arena)?, 1);
//! # Ok::<(), std::io::Error>(())
//! ```

use super::{
    PacketList,
    callback::{CallbackTun, PacketInlet, PacketSink},
};
use crate::queue::{Monitor, PacketQueue};
use std::{sync::Arc, time::Duration};

/// The maximum number of packets in each direction.
pub const MAX_QUEUED_PACKETS: usize = 1024;

/// The maximum number of bytes in each direction.
pub const MAX_QUEUED_BYTES: usize = 2 << 20;

/// The tunnel's end.
pub type MemTun = CallbackTun<Written>;

impl MemTun {
    /// Creates an interface that is up, and the handle for its other side. The first event is
    /// [`TunEvent::Up`](super::TunEvent::Up).
    #[must_use]
    pub fn new(name: &str, mtu: u16) -> (Self, MemHandle) {
        let written = Written(Arc::new(Monitor::new(State { queue: new_queue(), dropped: 0, removed: false })));
        let tun = Self::with_sink(name, mtu, new_queue(), written.clone());
        let handle = MemHandle { inlet: tun.inlet(), written };
        (tun, handle)
    }
}

const fn new_queue() -> PacketQueue<()> {
    PacketQueue::new(MAX_QUEUED_PACKETS, MAX_QUEUED_BYTES)
}

/// Packets written by the tunnel, until they are taken.
#[derive(Clone, Debug)]
pub struct Written(Arc<Monitor<State>>);

#[derive(Debug)]
struct State {
    queue: PacketQueue<()>,
    dropped: u64,
    removed: bool,
}

impl PacketSink for Written {
    fn write(&self, packets: PacketList<'_>) -> usize {
        self.0.change(|state| {
            let taken = packets.iter().filter(|packet| state.queue.push((), packet)).count();
            state.dropped += (packets.ranges.len() - taken) as u64;
            taken
        })
    }
}

/// The other side of a [`MemTun`].
#[derive(Clone, Debug)]
pub struct MemHandle {
    inlet: PacketInlet,
    written: Written,
}

impl MemHandle {
    /// Adds a packet for the tunnel to send. Returns false if it was dropped: the queue is full, the interface is down
    /// or removed.
    pub fn inject(&self, packet: &[u8]) -> bool {
        self.inlet.inject([packet]) == 1
    }

    /// Returns all packets that the tunnel has written.
    #[must_use]
    pub fn take_written(&self) -> Vec<Vec<u8>> {
        self.wait_written(Duration::ZERO)
    }

    /// Returns all packets that the tunnel has written; waits for the first one, for at most `timeout`.
    #[must_use]
    pub fn wait_written(&self, timeout: Duration) -> Vec<Vec<u8>> {
        let mut state = self.written.0.wait(Some(timeout), |state| state.removed || !state.queue.is_empty());
        let next = || {
            let mut packet = vec![0; state.queue.front()?.1];
            state.queue.pop_into(&mut packet).map(|()| packet)
        };
        std::iter::from_fn(next).collect()
    }

    /// Changes the MTU; a different one is reported to the tunnel.
    pub fn set_mtu(&self, mtu: u16) {
        self.inlet.set_mtu(mtu);
    }

    /// Brings the interface up or down; a change is reported to the tunnel.
    pub fn set_up(&self, up: bool) {
        self.inlet.set_up(up);
    }

    /// Removes the interface: the tunnel's next `wait` or `read` fails.
    pub fn remove(&self) {
        self.inlet.remove();
        self.written.0.change(|state| state.removed = true);
    }

    /// Returns the number of packets that were dropped on their way to and from the tunnel.
    #[must_use]
    pub fn dropped(&self) -> (u64, u64) {
        (self.inlet.dropped(), self.written.0.lock().dropped)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tun::{PacketArena, Tun, TunEvent};
    use std::{thread, time::Instant};

    const SECOND: Duration = Duration::from_secs(1);

    fn arena(bytes: usize) -> PacketArena {
        let mut arena = PacketArena::new(bytes, 64, |len, _| len.next_multiple_of(16));
        arena.clear(1420);
        arena
    }

    #[test]
    fn packets_pass_in_order_both_ways() {
        let (tun, handle) = MemTun::new("mem0", 1420);
        assert!(handle.inject(&[1; 20]) && handle.inject(&[2; 30]));
        tun.wait(None).unwrap();
        let mut arena = arena(4096);
        assert_eq!(tun.read(&mut arena).unwrap(), 2);
        let read: Vec<_> = arena.slots().iter().map(|&s| arena.packet(s).to_vec()).collect();
        assert_eq!(read, [vec![1; 20], vec![2; 30]]);
        assert_eq!(tun.read(&mut arena).unwrap(), 0);

        let ranges = [0..2, 2..5];
        let list = PacketList { buffer: &[1, 2, 3, 4, 5], ranges: &ranges };
        assert_eq!(tun.write(list), 2);
        assert_eq!(handle.take_written(), [vec![1, 2], vec![3, 4, 5]]);
        assert!(handle.take_written().is_empty());
    }

    #[test]
    fn a_full_arena_keeps_the_rest_and_an_impossible_packet_does_not_block() {
        let (tun, handle) = MemTun::new("mem0", 1420);
        for len in [100, 100, 5000, 100] {
            assert!(handle.inject(&vec![7; len]));
        }
        let mut arena = arena(200);
        for _ in 0..3 {
            arena.clear(1420);
            assert_eq!(tun.read(&mut arena).unwrap(), 1);
        }
        assert_eq!(handle.dropped(), (1, 0));
    }

    #[test]
    fn queues_are_bounded() {
        let (tun, handle) = MemTun::new("mem0", 1420);
        let taken = (0..MAX_QUEUED_PACKETS + 3).filter(|_| handle.inject(&[0; 20])).count();
        assert_eq!(taken, MAX_QUEUED_PACKETS);
        let big = vec![0; 60_000];
        let ranges = vec![0..big.len(); 40];
        let list = PacketList { buffer: &big, ranges: &ranges };
        assert_eq!(tun.write(list), MAX_QUEUED_BYTES / 60_000);
        assert_eq!(handle.dropped(), (3, 40 - (MAX_QUEUED_BYTES / 60_000) as u64));
    }

    #[test]
    fn a_wake_is_not_lost_and_ends_one_wait_only() {
        let (tun, _handle) = MemTun::new("mem0", 1420);
        assert_eq!(tun.event(), Some(TunEvent::Up));
        tun.wake();
        tun.wait(None).unwrap();
        let start = Instant::now();
        tun.wait(Some(Duration::from_millis(20))).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(20));
        thread::scope(|s| {
            s.spawn(|| {
                thread::sleep(Duration::from_millis(20));
                tun.wake();
            });
            tun.wait(None).unwrap();
        });
    }

    #[test]
    fn events_are_told_once_and_in_order() {
        let (tun, handle) = MemTun::new("mem0", 1420);
        handle.set_up(true);
        handle.set_mtu(1280);
        handle.set_mtu(1280);
        handle.set_up(false);
        assert!(!handle.inject(&[0; 20]), "a down interface has no packets");
        assert_eq!(tun.mtu(), 1280);
        let told: Vec<_> = std::iter::from_fn(|| tun.event()).collect();
        assert_eq!(told, [TunEvent::Up, TunEvent::Mtu(1280), TunEvent::Down]);
    }

    #[test]
    fn removal_ends_both_sides() {
        let (tun, handle) = MemTun::new("mem0", 1420);
        thread::scope(|s| {
            let waiter = s.spawn(|| handle.wait_written(SECOND));
            handle.remove();
            assert!(waiter.join().unwrap().is_empty());
        });
        assert!(tun.wait(None).is_err());
        assert!(tun.read(&mut arena(4096)).is_err());
        assert!(!handle.inject(&[0; 20]));
    }
}
