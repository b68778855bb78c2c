//! The queue of outgoing packets (responses and datagrams), in bounded memory.

use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering},
};

use wg_embed::{queue::PacketQueue, sync::lock, tun::PacketArena};

/// The maximum memory of packets in the outbox, in bytes.
pub(super) const MAX_MEMORY: usize = 1 << 20;

/// A waiter for room in the outbox.
pub(crate) trait HasRoom: Send + Sync {
    /// Reports that there is room, or possibly is. Called on a tunnel's thread, without a lock held.
    fn has_room(&self);
}

/// Packets that are sent before all others.
pub(crate) struct Outbox {
    state: Mutex<State>,
    /// Whether [`read`](Outbox::read) has something to do, for reading without the lock. Changes under it.
    in_use: AtomicBool,
}

struct State {
    packets: PacketQueue<()>,
    waiting: Vec<Arc<dyn HasRoom>>,
}

impl Outbox {
    pub(crate) const fn new() -> Self {
        let state = State { packets: PacketQueue::within(MAX_MEMORY), waiting: Vec::new() };
        Self { state: Mutex::new(state), in_use: AtomicBool::new(false) }
    }

    /// Copies a packet to the queue. Returns false if there is no room for it. Use `Shared::send`, which also wakes the
    /// reading thread.
    pub(crate) fn push(&self, packet: &[u8]) -> bool {
        let mut state = self.lock();
        let pushed = state.packets.push((), packet);
        self.update(&state);
        pushed
    }

    /// Does the same as [`push`](Self::push); if there is no room, `waiter` is notified once when there is. A waiter
    /// waits at most once at a time, and must track whether it does.
    pub(crate) fn push_or_wait(&self, packet: &[u8], waiter: impl FnOnce() -> Option<Arc<dyn HasRoom>>) -> bool {
        let mut state = self.lock();
        let pushed = state.packets.push((), packet);
        if !pushed {
            state.waiting.extend(waiter());
        }
        self.update(&state);
        pushed
    }

    /// Does the same as [`push_or_wait`](Self::push_or_wait), for packets that are useless alone, at most 128 KiB: all
    /// or none. There is room for them while half of the outbox is free.
    pub(crate) fn push_all_or_wait(
        &self,
        packets: &[Vec<u8>],
        waiter: impl FnOnce() -> Option<Arc<dyn HasRoom>>,
    ) -> bool {
        let mut state = self.lock();
        let has_room = state.packets.is_half_free();
        let pushed = has_room && packets.iter().all(|packet| state.packets.push((), packet));
        if !has_room {
            state.waiting.extend(waiter());
        }
        self.update(&state);
        pushed
    }

    /// Returns whether [`read`](Self::read) has nothing to do: see [`Waiter`](super::waiter::Waiter).
    pub(super) fn is_idle(&self) -> bool {
        !self.lock().is_in_use()
    }

    /// Moves packets to `arena`, until `limit` bytes have been moved, there are no more, or there is no room. Returns
    /// the number of moved packets, of packets dropped since they are too large for any arena, and the waiters to
    /// notify of room.
    pub(super) fn read(&self, arena: &mut PacketArena, limit: usize) -> Read {
        let (mut read, mut bytes) = (Read::default(), 0);
        if !self.in_use.load(Ordering::Acquire) {
            return read;
        }
        let mut state = self.lock();
        while bytes < limit
            && let Some((_, len)) = state.packets.front()
        {
            if let Some(room) = arena.reserve(len) {
                state.packets.pop_into(room);
                arena.commit(len);
                bytes += len;
                read.moved += 1;
            } else if arena.slots().is_empty() {
                state.packets.pop_into(&mut []);
                read.dropped += 1;
            } else {
                read.full = true;
                break;
            }
        }
        if !state.waiting.is_empty() && state.packets.is_half_free() {
            read.waiting = std::mem::take(&mut state.waiting);
        }
        self.update(&state);
        read
    }

    /// Returns the waiters, to notify them that there will never be room again.
    pub(super) fn take_waiting(&self) -> Vec<Arc<dyn HasRoom>> {
        let mut state = self.lock();
        let waiting = std::mem::take(&mut state.waiting);
        self.update(&state);
        waiting
    }

    /// Returns its memory in bytes.
    pub(super) fn memory(&self) -> usize {
        self.lock().packets.memory()
    }

    /// Releases unused memory.
    pub(super) fn trim(&self) {
        self.lock().packets.trim();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Updates the flag, before the lock is released.
    fn update(&self, state: &State) {
        self.in_use.store(state.is_in_use(), Ordering::Release);
    }
}

impl State {
    fn is_in_use(&self) -> bool {
        !self.packets.is_empty() || !self.waiting.is_empty()
    }
}

/// The result of [`Outbox::read`].
#[derive(Default)]
pub(super) struct Read {
    pub(super) moved: usize,
    pub(super) dropped: u64,
    /// Whether there are more packets, but no room for them.
    pub(super) full: bool,
    pub(super) waiting: Vec<Arc<dyn HasRoom>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Told(AtomicUsize);

    impl HasRoom for Told {
        fn has_room(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn it_is_bounded_and_tells_of_room_once_half_of_it_is_free() {
        let outbox = Outbox::new();
        let told = Arc::new(Told(AtomicUsize::new(0)));
        let waiter = told.clone();
        let mut packets = 0;
        while outbox.push(&[7; 1000]) {
            packets += 1;
        }
        assert!(packets * 1000 <= MAX_MEMORY && outbox.memory() <= MAX_MEMORY && packets > 500);
        assert!(!outbox.push_or_wait(&[8; 1000], || Some(waiter)));
        let mut arena = PacketArena::new(1 << 17, 128, |len, _| len.next_multiple_of(16));
        let mut read = 0;
        while !outbox.is_idle() {
            arena.clear(1420);
            let round = outbox.read(&mut arena, usize::MAX);
            read += round.moved;
            assert!(round.waiting.is_empty() || read >= packets / 2 - 1);
            round.waiting.iter().for_each(|waiter| waiter.has_room());
        }
        assert_eq!((read, told.0.load(Ordering::Relaxed)), (packets, 1));
    }
}
