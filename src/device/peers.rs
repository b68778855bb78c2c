//! The peers of a device, by public key, in the order in which they came.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    memory::{table_memory, tree_memory},
    peer::Peer,
    table::Table,
};
use crate::key::PublicKey;

/// All peers.
#[derive(Default)]
pub(super) struct Peers {
    by_key: HashMap<PublicKey, Arc<Peer>>,
    /// By number, which only grows: a stable order for reading the state back.
    by_id: BTreeMap<u64, Arc<Peer>>,
    next_id: u64,
}

impl Peers {
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn get(&self, key: &PublicKey) -> Option<&Arc<Peer>> {
        self.by_key.get(key)
    }

    /// Adds a peer that is not there yet.
    pub(super) fn insert(&mut self, key: PublicKey) -> Arc<Peer> {
        let peer = Arc::new(Peer::new(self.next_id, key));
        self.next_id += 1;
        self.by_id.insert(peer.id(), peer.clone());
        self.by_key.insert(key, peer.clone());
        peer
    }

    pub(super) fn remove(&mut self, key: &PublicKey) -> Option<Arc<Peer>> {
        let peer = self.by_key.remove(key)?;
        self.by_id.remove(&peer.id())
    }

    /// Takes out every peer.
    pub(super) fn drain(&mut self) -> Vec<Arc<Peer>> {
        self.by_key = HashMap::new();
        std::mem::take(&mut self.by_id).into_values().collect()
    }

    /// Bytes that the tables take, without the peers.
    pub(super) fn memory(&self) -> usize {
        table_memory::<PublicKey, Arc<Peer>>(self.by_key.capacity()) + tree_memory::<u64, Arc<Peer>>(self.by_id.len())
    }

    /// Gives back what the tables do not need now.
    pub(super) fn trim(&mut self) {
        self.by_key.shrink_to_fit();
    }
}

impl Table<Peers> {
    /// The peers now, oldest first; the lock is not held on.
    pub(super) fn list(&self) -> Vec<Arc<Peer>> {
        self.read().by_id.values().cloned().collect()
    }
}
