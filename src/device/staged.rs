//! Packets that wait for a session, and their common memory limit.
//!
//! At the limit, the peer that holds most loses its oldest packet to one that holds less, and each peer may hold one
//! packet in any case: silent peers do not displace the first packets of others.

use std::{
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex,
        atomic::{AtomicIsize, Ordering},
    },
};

use super::{
    lock,
    peer::{Peer, State},
    ranking::Ranking,
};
use crate::{noise::message::DATA_OVERHEAD, reserve, sync::try_lock};

/// The maximum overhead of a staged packet beyond the bytes of its message: slots in a queue, which doubles when it is
/// full and begins with four, and the keepalive that may wait before it.
pub const STAGED_OVERHEAD: usize = 4 * size_of::<StagedMessage>() + DATA_OVERHEAD;

/// The bytes that are left, for all peers of a device.
pub(super) struct Budget {
    /// Negative if peers hold their one packet beyond it, or peers were removed.
    left: AtomicIsize,
    /// Peers by the bytes that they hold. A peer may hold less by now: that is corrected when the entry is used, so
    /// that sending staged packets costs nothing here.
    holders: Mutex<Ranking>,
}

const fn signed(bytes: usize) -> isize {
    if bytes > isize::MAX as usize { isize::MAX } else { bytes as isize }
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicIsize::new(signed(bytes)), holders: Mutex::default() })
    }

    /// Adds bytes, for a new peer.
    pub(super) fn grow(&self, bytes: usize) {
        self.left.fetch_add(signed(bytes), Ordering::Relaxed);
    }

    /// Removes these bytes, if that is at most half of what is left: the rest is for packets. Returns whether it did.
    pub(super) fn take(&self, bytes: usize) -> bool {
        let take = |left: isize| (left / 2 >= signed(bytes)).then(|| left.saturating_sub(signed(bytes)));
        #[allow(deprecated, reason = "Rust 1.89 does not have its new name, try_update")]
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Removes these bytes.
    pub(super) fn shrink(&self, bytes: usize) {
        self.left.fetch_sub(signed(bytes), Ordering::Relaxed);
    }

    /// Copies a packet, with the space around it that a data message needs. Returns `None` if it would exceed the
    /// limit, unless it `must` be staged; or if there is no memory.
    pub(super) fn stage(self: &Arc<Self>, message: &[u8], must: bool) -> Option<StagedMessage> {
        let size = signed(size_of_staged(message));
        let take = |left: isize| (must || left >= size).then(|| left.saturating_sub(size));
        #[allow(deprecated, reason = "Rust 1.89 does not have its new name, try_update")]
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.ok()?;
        let mut bytes = Vec::new();
        if reserve::is_low() || bytes.try_reserve_exact(message.len()).is_err() {
            self.grow(size_of_staged(message));
            return None;
        }
        bytes.extend_from_slice(message);
        Some(StagedMessage { bytes: bytes.into_boxed_slice(), budget: Some(self.clone()) })
    }

    /// Lists a peer under the bytes that it holds; to be called when these have grown, before its lock is released.
    pub(super) fn list(&self, peer: &Arc<Peer>, state: &mut State) {
        let holds = state.staged_size();
        let listed = std::mem::replace(&mut state.listed_size, holds);
        if listed == holds {
            return;
        }
        let mut holders = lock(&self.holders);
        holders.remove(listed as u64, peer);
        if holds > 0 {
            holders.insert(holds as u64, peer);
        }
    }

    /// Makes the peer that holds most drop its oldest packet, if it then still holds at least `least`: as much as
    /// `own`, which is locked, is about to hold. Returns whether it did.
    pub(super) fn make_room(&self, own: &Arc<Peer>, least: usize) -> bool {
        loop {
            let Some((listed, peer)) = self.largest(least) else {
                return false;
            };
            // A thread never waits for two peers' locks at once.
            let state = if Arc::ptr_eq(&peer, own) { None } else { try_lock(&peer.state) };
            let Some(mut state) = state else {
                return false;
            };
            if state.staged_size() < listed {
                self.list(&peer, &mut state);
                continue;
            }
            let oldest = state.staged().front().map_or(0, StagedMessage::size);
            if state.staged_size() - oldest < least {
                return false;
            }
            state.drop_oldest();
            self.list(&peer, &mut state);
            return true;
        }
    }

    /// Returns the peer that holds most, by the list, if that is more than `least`.
    fn largest(&self, least: usize) -> Option<(usize, Arc<Peer>)> {
        let (size, peer) = lock(&self.holders).highest(least as u64)?;
        Some((size as usize, peer))
    }

    #[cfg(test)]
    pub(super) fn is_unused(&self) -> bool {
        self.holders.try_lock().is_ok()
    }

    /// Returns the memory of the list in bytes.
    pub(super) fn memory(&self) -> usize {
        lock(&self.holders).memory()
    }
}

/// Returns the bytes of the budget for a staged message.
pub(super) const fn size_of_staged(message: &[u8]) -> usize {
    message.len() + STAGED_OVERHEAD
}

/// A packet that waits to be sealed. When it is dropped, its bytes are returned to the budget.
pub(super) struct StagedMessage {
    bytes: Box<[u8]>,
    budget: Option<Arc<Budget>>,
}

impl StagedMessage {
    /// Creates an empty packet. It uses no budget, since it begins a handshake; a peer has at most one.
    pub(super) fn keepalive() -> Self {
        Self { bytes: Box::new([0; DATA_OVERHEAD]), budget: None }
    }

    /// Returns its bytes in the budget.
    pub(super) fn size(&self) -> usize {
        self.budget.as_ref().map_or(0, |_| size_of_staged(&self.bytes))
    }
}

impl Drop for StagedMessage {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.grow(self.size());
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
        let first = budget.stage(&[1; 60], false);
        assert!(first.as_deref().is_some_and(|m| *m == [1; 60]));
        assert!(budget.stage(&[0; 41], false).is_none());
        let second = budget.stage(&[0; 40], false);
        assert!(second.is_some() && budget.stage(&[0; 1], false).is_none());
        let third = budget.stage(&[0; 1], true);
        assert!(third.is_some() && budget.left.load(Ordering::Relaxed) < 0);
        assert_eq!((StagedMessage::keepalive().len(), StagedMessage::keepalive().size()), (32, 0));
        drop((first, second, third));
        assert_eq!(budget.left.load(Ordering::Relaxed), signed(100 + 2 * STAGED_OVERHEAD));
    }
}
