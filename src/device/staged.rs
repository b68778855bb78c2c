//! Packets that wait for a session, and the memory that all of them together may take.

use std::{
    ops::{Deref, DerefMut},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::noise::message::DATA_OVERHEAD;

/// What a packet that waits takes on top of the bytes of its message, at most: places in a queue, which doubles when it is
/// full and begins with four, and the keepalive that may wait in front of it.
pub const STAGED_OVERHEAD: usize = 4 * size_of::<StagedMessage>() + DATA_OVERHEAD;

/// Bytes that may still be taken, by all peers of a device.
#[derive(Debug)]
pub(super) struct Budget {
    left: AtomicUsize,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(bytes) })
    }

    /// Copies a packet, with the space that a data message needs around it. `None` if it would take too much.
    pub(super) fn stage(self: &Arc<Self>, message: &[u8]) -> Option<StagedMessage> {
        let size = message.len() + STAGED_OVERHEAD;
        let take = |left: usize| left.checked_sub(size);
        #[allow(deprecated, reason = "Rust 1.88 does not have its new name, try_update")]
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.ok()?;
        Some(StagedMessage { bytes: message.into(), budget: Some(self.clone()) })
    }
}

/// A packet that waits to be sealed. Gives its bytes back to the budget when it is dropped.
#[derive(Debug)]
pub(super) struct StagedMessage {
    bytes: Box<[u8]>,
    budget: Option<Arc<Budget>>,
}

impl StagedMessage {
    /// An empty packet. It is taken from no budget, for it is what begins a handshake; a peer has at most one.
    pub(super) fn keepalive() -> Self {
        Self { bytes: Box::new([0; DATA_OVERHEAD]), budget: None }
    }
}

impl Drop for StagedMessage {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.left.fetch_add(self.bytes.len() + STAGED_OVERHEAD, Ordering::Relaxed);
        }
    }
}

impl Deref for StagedMessage {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for StagedMessage {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_can_be_taken_again() {
        let budget = Budget::new(100 + 2 * STAGED_OVERHEAD);
        let first = budget.stage(&[1; 60]);
        assert!(first.as_deref().is_some_and(|m| *m == [1; 60]));
        assert!(budget.stage(&[0; 41]).is_none());
        let second = budget.stage(&[0; 40]);
        assert!(second.is_some() && budget.stage(&[0; 1]).is_none());
        assert_eq!(StagedMessage::keepalive().len(), 32);
        drop((first, second));
        assert_eq!(budget.left.load(Ordering::Relaxed), 100 + 2 * STAGED_OVERHEAD);
    }
}
