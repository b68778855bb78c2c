//! A ring buffer that grows as needed, within the stack's budget.

use std::sync::Arc;

use super::Budget;

/// The smallest allocation.
pub(crate) const SMALLEST: usize = 2048;

/// A ring buffer. Its memory counts in the budget from the allocation to the release.
pub(super) struct Ring {
    bytes: Vec<u8>,
    head: usize,
    len: usize,
    budget: Arc<dyn Budget>,
}

impl Ring {
    pub(super) fn new(budget: Arc<dyn Budget>) -> Self {
        Self { bytes: Vec::new(), head: 0, len: 0, budget }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) const fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Makes the ring large enough for `needed` bytes, if the budget permits. It grows by doubling, but not beyond
    /// `limit` unless necessary.
    pub(super) fn reserve(&mut self, needed: usize, limit: usize) -> bool {
        let old = self.bytes.len();
        if needed <= old {
            return true;
        }
        let wanted = needed.max(2 * old).next_power_of_two().max(SMALLEST).min(limit).max(needed);
        let new = if self.budget.grow(old, wanted - old) {
            wanted
        } else if self.budget.grow(old, needed - old) {
            needed
        } else {
            return false;
        };
        if self.head == 0 && old > 0 {
            self.bytes.resize(new, 0);
            return true;
        }
        let mut bytes = vec![0; new];
        // All of it: data that arrived out of order are behind `len`.
        let (front, back) = self.bytes.split_at(self.head);
        bytes[..back.len()].copy_from_slice(back);
        bytes[back.len()..old].copy_from_slice(front);
        self.bytes = bytes;
        self.head = 0;
        true
    }

    /// Returns the amount of room for a writer of an unknown number of bytes: it is doubled when more than half of it
    /// is used, so that a few bytes do not need a large buffer.
    pub(super) fn offer(&self, least: usize, most: usize) -> usize {
        let (free, all) = (self.bytes.len() - self.len, self.bytes.len());
        if free > all / 2 { free.min(most) } else { all.clamp(least, most) }
    }

    /// Releases the memory.
    pub(super) fn release(&mut self) {
        if !self.bytes.is_empty() {
            self.budget.give(self.bytes.len());
            self.bytes = Vec::new();
        }
        self.head = 0;
        self.len = 0;
    }

    /// Returns the position of the byte `offset` after the first one. `offset` is at most the capacity.
    fn position(&self, offset: usize) -> usize {
        let at = self.head + offset;
        if at >= self.bytes.len() { at - self.bytes.len() } else { at }
    }

    /// Returns `len` bytes from `offset` on, in two parts, limited to the contents of the ring.
    pub(super) fn slices(&self, offset: usize, len: usize) -> (&[u8], &[u8]) {
        let offset = offset.min(self.len);
        let len = len.min(self.len - offset);
        if len == 0 {
            return (&[], &[]);
        }
        let start = self.position(offset);
        let first = len.min(self.bytes.len() - start);
        (&self.bytes[start..start + first], &self.bytes[..len - first])
    }

    /// Returns free room for at most `len` bytes, in two parts.
    pub(super) fn room(&mut self, len: usize) -> (&mut [u8], &mut [u8]) {
        let len = len.min(self.bytes.len() - self.len);
        if len == 0 {
            return (&mut [], &mut []);
        }
        let start = self.position(self.len);
        let first = len.min(self.bytes.len() - start);
        let (front, back) = self.bytes.split_at_mut(start);
        (&mut back[..first], &mut front[..len - first])
    }

    /// Stores `data` from `offset` on, which may be behind the end; the caller has reserved the room.
    pub(super) fn store(&mut self, offset: usize, data: &[u8]) {
        if data.is_empty() || offset + data.len() > self.bytes.len() {
            debug_assert!(data.is_empty(), "the caller reserves room");
            return;
        }
        let start = self.position(offset);
        let (first, second) = data.split_at(data.len().min(self.bytes.len() - start));
        self.bytes[start..start + first.len()].copy_from_slice(first);
        self.bytes[..second.len()].copy_from_slice(second);
    }

    /// Adds the next `len` bytes of the room to the contents.
    pub(super) fn commit(&mut self, len: usize) {
        self.len = (self.len + len).min(self.bytes.len());
    }

    /// Drops `len` bytes from the front. With `rewind` an empty ring starts again at the beginning of its memory, which
    /// keeps it in the cache, or releases it if others need memory; not permitted while there are data behind the end.
    pub(super) fn consume(&mut self, len: usize, rewind: bool) {
        let len = len.min(self.len);
        self.head = self.position(len);
        self.len -= len;
        if self.len == 0 && rewind {
            self.head = 0;
            if self.budget.is_over(self.bytes.len()) {
                self.release();
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.release();
    }
}
