//! Receiver indices: random numbers by which the other side identifies our handshakes and sessions.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, RwLock},
};

use super::{
    memory::{RANDOM, tree_memory},
    peer::Peer,
    read, write,
};
use crate::{noise::session::Session, random::Random};

/// The object of an index.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) peer: Arc<Peer>,
    /// `None` for a handshake.
    pub(super) session: Option<Arc<Session>>,
}

/// All indices of a device. They are in a tree: a growing hash table moves all its entries, and packets would wait for
/// that.
#[derive(Default)]
pub(super) struct IndexTable {
    targets: RwLock<BTreeMap<u32, Target>>,
}

impl IndexTable {
    /// Assigns an unused index to a handshake of `peer`.
    pub(super) fn insert(&self, peer: &Arc<Peer>, random: &dyn Random) -> u32 {
        let mut targets = write(&self.targets);
        loop {
            let index = random.u32();
            if let Entry::Vacant(free) = targets.entry(index) {
                free.insert(Target { peer: peer.clone(), session: None });
                return index;
            }
        }
    }

    /// Replaces the handshake of `session`'s index by that session.
    pub(super) fn promote(&self, session: &Arc<Session>) {
        if let Some(target) = write(&self.targets).get_mut(&session.local_index()) {
            target.session = Some(session.clone());
        }
    }

    /// Frees indices.
    pub(super) fn remove(&self, indices: impl IntoIterator<Item = u32>) {
        let mut targets = None;
        for index in indices {
            targets.get_or_insert_with(|| write(&self.targets)).remove(&index);
        }
    }

    /// Returns the object of `index`.
    pub(super) fn get(&self, index: u32) -> Option<Target> {
        read(&self.targets).get(&index).cloned()
    }

    /// Returns the memory of the table in bytes.
    pub(super) fn memory(&self) -> usize {
        tree_memory::<u32, Target>(self.len(), RANDOM)
    }

    #[cfg(test)]
    pub(super) fn is_unused(&self) -> bool {
        self.targets.try_write().is_ok()
    }

    /// Returns the number of indices in use.
    pub(super) fn len(&self) -> usize {
        read(&self.targets).len()
    }
}
