//! The common memory budget of a stack's buffers.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use super::waiter::Waiter;
use crate::tcp::{Budget, LEAST_MEMORY};

/// A number of bytes, and how many of them are in use.
pub(crate) struct Memory {
    limit: AtomicUsize,
    used: AtomicUsize,
    /// Whether connections wait for memory: the reading thread is notified when there is enough for one.
    is_wanted: AtomicBool,
    waiter: Arc<Waiter>,
}

impl Memory {
    pub(super) const fn new(limit: usize, waiter: Arc<Waiter>) -> Self {
        Self { limit: AtomicUsize::new(limit), used: AtomicUsize::new(0), is_wanted: AtomicBool::new(false), waiter }
    }

    /// Sets whether connections wait for memory.
    pub(super) fn set_wanted(&self, is_wanted: bool) {
        self.is_wanted.store(is_wanted, Ordering::SeqCst);
        // It may have been released just before.
        self.tell();
    }

    /// Returns whether a connection waits, and there is enough memory for it.
    pub(super) fn can_feed(&self) -> bool {
        // `set_wanted`, `set_limit` and `give` each write one of these values and then read all: the last one sees all
        // of them.
        let is_wanted = self.is_wanted.load(Ordering::SeqCst);
        is_wanted && self.limit().saturating_sub(self.used.load(Ordering::SeqCst)) >= LEAST_MEMORY
    }

    fn tell(&self) {
        if self.can_feed() {
            self.waiter.signal();
        }
    }

    /// Returns the limit in bytes.
    pub(super) fn limit(&self) -> usize {
        self.limit.load(Ordering::SeqCst)
    }

    /// Replaces the limit. If more bytes are in use, no others are taken until enough have been released.
    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::SeqCst);
        self.tell();
    }

    /// Returns the bytes in use.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns whether so little is left that no new connection should be started.
    pub(crate) fn is_short(&self) -> bool {
        /// A buffer of a new connection, and one more.
        const LEAST: usize = 4096;
        self.limit().saturating_sub(self.used()) <= LEAST.max(self.limit() / 4096)
    }

    fn add(&self, bytes: usize, held: usize) -> bool {
        let add = |used: usize| {
            let free = self.limit().saturating_sub(used);
            (bytes <= free && held.saturating_add(bytes) <= free).then(|| used + bytes)
        };
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }
}

impl Budget for Memory {
    fn take(&self, bytes: usize) -> bool {
        self.add(bytes, 0)
    }

    /// Reserves bytes for a growing buffer, which may be at most as large as the rest of the budget: so of many growing
    /// buffers each gets the same share, and there is always some memory left for one more.
    fn grow(&self, held: usize, bytes: usize) -> bool {
        self.add(bytes, held)
    }

    fn is_over(&self, held: usize) -> bool {
        held > self.limit().saturating_sub(self.used())
    }

    fn give(&self, bytes: usize) {
        let before = self.used.fetch_sub(bytes, Ordering::SeqCst);
        debug_assert!(before >= bytes, "more was given back than taken");
        self.tell();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn buffers_that_take_what_they_can_leave_some_for_others() {
        let memory = Memory::new(1 << 20, Arc::new(Waiter::new().unwrap()));
        let mut buffers = [0; 10];
        for round in 0..10_000 {
            let buffer = &mut buffers[round % 10];
            if memory.grow(*buffer, 1000) {
                *buffer += 1000;
            }
        }
        assert_eq!(memory.used(), buffers.iter().sum());
        assert!(buffers.iter().all(|buffer| (90_000..=100_000).contains(buffer)), "{buffers:?}");
        assert!(memory.grow(0, 80_000) && !memory.is_short());
        assert!(memory.take((1 << 20) - memory.used()) && !memory.take(1) && memory.is_short());
        memory.give(1 << 20);
        assert_eq!(memory.used(), 0);
    }
}
