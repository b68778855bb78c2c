//! Queues for packets between threads: a bounded queue, and a lock with notification.
//!
//! They serve tunnel ends without a descriptor: an app's own, and those in memory.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::sync;

/// A bounded queue of packets, each with additional data.
///
/// The bytes are in one ring: once the ring is large enough, packets cause no allocations.
pub struct PacketQueue<T> {
    bytes: VecDeque<u8>,
    packets: VecDeque<(T, usize)>,
    max_packets: usize,
    max_bytes: usize,
}

impl<T> PacketQueue<T> {
    /// Creates a queue for at most `max_packets` packets with at most `max_bytes` bytes.
    #[must_use]
    pub const fn new(max_packets: usize, max_bytes: usize) -> Self {
        Self { bytes: VecDeque::new(), packets: VecDeque::new(), max_packets, max_bytes }
    }

    /// Creates a queue that never takes more than `memory` bytes, including the additional data.
    #[must_use]
    pub const fn within(memory: usize) -> Self {
        let index = memory / 8;
        Self::new(index / size_of::<(T, usize)>(), memory - index)
    }

    /// Returns the number of packets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Returns whether the queue is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Returns whether at least half of the queue is free.
    #[must_use]
    pub fn is_half_free(&self) -> bool {
        self.packets.len() <= self.max_packets / 2 && self.bytes.len() <= self.max_bytes / 2
    }

    /// Appends a copy of a packet. Returns false if there is no room or no memory for it.
    pub fn push(&mut self, about: T, packet: &[u8]) -> bool {
        if self.packets.len() == self.max_packets || packet.len() > self.max_bytes - self.bytes.len() {
            return false;
        }
        let has_room =
            grow(&mut self.packets, 1, self.max_packets) && grow(&mut self.bytes, packet.len(), self.max_bytes);
        if !has_room {
            return false;
        }
        self.bytes.extend(packet);
        self.packets.push_back((about, packet.len()));
        true
    }

    /// Returns the additional data and the length of the oldest packet.
    #[must_use]
    pub fn front(&self) -> Option<(&T, usize)> {
        self.packets.front().map(|(about, len)| (about, *len))
    }

    /// Removes the oldest packet and copies it to the beginning of `room`, truncated if necessary.
    pub fn pop_into(&mut self, room: &mut [u8]) -> Option<T> {
        let (about, len) = self.packets.pop_front()?;
        let copied = len.min(room.len());
        let (front, back) = self.bytes.as_slices();
        let split = copied.min(front.len());
        room[..split].copy_from_slice(&front[..split]);
        room[split..copied].copy_from_slice(&back[..copied - split]);
        self.bytes.drain(..len);
        Some(about)
    }

    /// Returns the maximum memory of the queue in bytes, saturating at `usize::MAX`.
    #[must_use]
    pub const fn max_memory(&self) -> usize {
        self.max_bytes.saturating_add(self.max_packets.saturating_mul(size_of::<(T, usize)>()))
    }

    /// Returns the current memory of the queue in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.bytes.capacity() + self.packets.capacity() * size_of::<(T, usize)>()
    }

    /// Releases unused memory.
    pub fn trim(&mut self) {
        self.bytes.shrink_to_fit();
        self.packets.shrink_to_fit();
    }

    /// Drops all packets.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.packets.clear();
    }
}

// Without the bytes of packets: they are the user's.
impl<T> fmt::Debug for PacketQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacketQueue")
            .field("packets", &self.packets.len())
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// Makes room for `more` elements: by doubling, as collections do, but never beyond `most` in total. Returns false if
/// there is no memory for it.
fn grow<X>(ring: &mut VecDeque<X>, more: usize, most: usize) -> bool {
    let needed = ring.len() + more;
    needed <= ring.capacity()
        || ring.try_reserve_exact(needed.max(ring.capacity().saturating_mul(2).min(most)) - ring.len()).is_ok()
}

/// A value that is shared by threads, which can wait for changes of it.
#[derive(Debug, Default)]
pub struct Monitor<S> {
    value: Mutex<S>,
    changed: Condvar,
    /// The number of waiting threads; changed under the lock. A notification costs a system call even if no thread
    /// waits.
    waiting: AtomicUsize,
}

impl<S> Monitor<S> {
    /// Creates a monitor without waiting threads.
    #[must_use]
    pub const fn new(value: S) -> Self {
        Self { value: Mutex::new(value), changed: Condvar::new(), waiting: AtomicUsize::new(0) }
    }

    /// Locks the value. Changes do not wake waiting threads.
    pub fn lock(&self) -> MutexGuard<'_, S> {
        sync::lock(&self.value)
    }

    /// Changes the value and wakes waiting threads.
    pub fn change<R>(&self, act: impl FnOnce(&mut S) -> R) -> R {
        let result = act(&mut self.lock());
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.changed.notify_all();
        }
        result
    }

    /// Waits until the value is `ready`, or until `timeout` has passed.
    pub fn wait(&self, timeout: Option<Duration>, ready: impl Fn(&S) -> bool) -> MutexGuard<'_, S> {
        let value = self.lock();
        if ready(&value) {
            return value;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let value = wait_until(&self.changed, value, timeout, ready);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        value
    }
}

/// Waits on `condvar` until `ready` or until `timeout` has passed.
pub fn wait_until<'a, S>(
    condvar: &Condvar,
    mut guard: MutexGuard<'a, S>,
    timeout: Option<Duration>,
    ready: impl Fn(&S) -> bool,
) -> MutexGuard<'a, S> {
    // A time too far in the future to be represented is no limit.
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    while !ready(&guard) {
        guard = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            None => sync::wait(condvar, guard),
            Some(Duration::ZERO) => break,
            Some(left) => sync::wait_timeout(condvar, guard, left),
        };
    }
    guard
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::thread;

    fn pop<T>(queue: &mut PacketQueue<T>) -> Option<(T, Vec<u8>)> {
        let mut packet = vec![0; queue.front()?.1];
        Some((queue.pop_into(&mut packet)?, packet))
    }

    #[test]
    fn packets_come_out_as_they_went_in_wherever_the_ring_ends() {
        let mut queue = PacketQueue::new(8, 100);
        let packet = |n: u32| vec![n as u8; n as usize * 7 % 40];
        let (mut pushed, mut popped) = (0, 0);
        while popped < 1000 {
            while queue.push(pushed, &packet(pushed)) {
                pushed += 1;
            }
            assert!(!queue.is_empty() && queue.len() <= 8);
            for _ in 0..1 + popped % 3 {
                if let Some(got) = pop(&mut queue) {
                    assert_eq!(got, (popped, packet(popped)));
                    popped += 1;
                }
            }
        }
        queue.clear();
        assert!(queue.is_empty() && pop(&mut queue).is_none());
    }

    #[test]
    fn both_limits_hold_and_memory_stays_within_them() {
        let mut queue = PacketQueue::new(3, 100);
        assert!(queue.push((), &[0; 60]) && !queue.push((), &[0; 41]) && queue.push((), &[0; 40]));
        assert!(queue.push((), &[]) && !queue.push((), &[]));
        let half_free = std::iter::from_fn(|| pop(&mut queue).map(|_| queue.is_half_free()));
        assert_eq!(half_free.collect::<Vec<_>>(), [false, true, true], "3 packets, 2, 1 and none; 100 bytes, 40, none");

        const MEMORY: usize = 100_000;
        for len in [0, 1, 20, 1420, 65_535] {
            let mut queue = PacketQueue::within(MEMORY);
            let mut count = 0;
            while queue.push([0_u64; 4], &vec![0; len]) {
                count += 1;
            }
            let (bytes, packets) = (queue.bytes.capacity(), queue.packets.capacity());
            assert!(count > 0 && bytes <= queue.max_bytes && packets <= queue.max_packets, "{count} of {len} bytes");
            assert!((count * len..=queue.max_memory()).contains(&queue.memory()), "{count} of {len} bytes");
            assert!(queue.max_memory() <= MEMORY);
            queue.clear();
            queue.trim();
            assert_eq!(queue.memory(), 0);
        }
    }

    #[test]
    fn what_does_not_fit_the_room_is_cut_off_and_gone() {
        let mut queue = PacketQueue::new(9, 9);
        assert!(queue.push(1, b"abc") && queue.push(2, b"def"));
        let mut room = [0; 2];
        assert_eq!((queue.pop_into(&mut room), room), (Some(1), *b"ab"));
        assert_eq!(pop(&mut queue), Some((2, b"def".to_vec())));
    }

    #[test]
    fn a_change_ends_a_wait_and_so_does_time() {
        let monitor = Monitor::new(0);
        let start = Instant::now();
        assert_eq!(*monitor.wait(Some(Duration::from_millis(20)), |n| *n > 0), 0);
        assert!(start.elapsed() >= Duration::from_millis(20));
        thread::scope(|s| {
            let waiting = s.spawn(|| *monitor.wait(None, |n| *n == 100));
            while monitor.waiting.load(Ordering::Relaxed) == 0 {
                thread::yield_now();
            }
            for _ in 0..100 {
                monitor.change(|n| *n += 1);
            }
            assert_eq!(waiting.join().unwrap(), 100);
        });
        assert_eq!(*monitor.wait(None, |n| *n == 100), 100);
        assert_eq!(monitor.waiting.load(Ordering::Relaxed), 0);
    }
}
