//! The peers of a device, by public key, in the order in which they came.
//!
//! They are in trees, which change by a node at a time. A hash table moves all of its entries when it grows, and whoever
//! looks something up would wait for that.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, RwLock},
};

use super::{memory::tree_memory, peer::Peer, read, write};
use crate::key::PublicKey;

/// Peers that are listed under one lock.
const SLICE: usize = 128;

#[derive(Default)]
struct Trees {
    by_key: BTreeMap<PublicKey, Arc<Peer>>,
    /// By number, which only grows: a stable order for reading the state back.
    by_id: BTreeMap<u64, Arc<Peer>>,
    next_id: u64,
}

/// All peers. The lock is held for a bounded number of them at a time.
#[derive(Default)]
pub(super) struct Peers {
    trees: RwLock<Trees>,
}

impl Peers {
    pub(super) fn len(&self) -> usize {
        read(&self.trees).by_key.len()
    }

    pub(super) fn contains(&self, key: &PublicKey) -> bool {
        read(&self.trees).by_key.contains_key(key)
    }

    pub(super) fn get(&self, key: &PublicKey) -> Option<Arc<Peer>> {
        read(&self.trees).by_key.get(key).cloned()
    }

    /// Adds a peer that is not there yet; its handshakes are made with our key of this number.
    pub(super) fn insert(&self, key: PublicKey, own_key: u32) -> Arc<Peer> {
        let mut trees = write(&self.trees);
        let peer = Arc::new(Peer::new(trees.next_id, key, own_key));
        trees.next_id += 1;
        trees.by_id.insert(peer.id(), peer.clone());
        trees.by_key.insert(key, peer.clone());
        peer
    }

    pub(super) fn remove(&self, key: &PublicKey) -> Option<Arc<Peer>> {
        let mut trees = write(&self.trees);
        let peer = trees.by_key.remove(key)?;
        trees.by_id.remove(&peer.id())
    }

    /// Takes out every peer.
    pub(super) fn drain(&self) -> impl Iterator<Item = Arc<Peer>> + use<> {
        let (by_key, by_id) = {
            let mut trees = write(&self.trees);
            (std::mem::take(&mut trees.by_key), std::mem::take(&mut trees.by_id))
        };
        // Freed without the lock, as the other one is.
        drop(by_key);
        by_id.into_values()
    }

    /// The number of the next peer that comes.
    pub(super) fn next_id(&self) -> u64 {
        read(&self.trees).next_id
    }

    /// The first peer whose number is in `ids`.
    pub(super) fn first_in(&self, ids: Range<u64>) -> Option<Arc<Peer>> {
        read(&self.trees).by_id.range(ids).next().map(|(_, peer)| peer.clone())
    }

    /// The peers, oldest first. Those that come or go while they are listed may be among them, or not.
    pub(super) fn list(&self) -> Vec<Arc<Peer>> {
        let mut all = Vec::with_capacity(self.len());
        let mut next = 0;
        loop {
            let before = all.len();
            all.extend(read(&self.trees).by_id.range(next..).take(SLICE).map(|(_, peer)| peer.clone()));
            let Some(last) = all[before..].last() else { return all };
            next = Peer::id(last) + 1;
        }
    }

    /// Bytes that the trees take, without the peers.
    pub(super) fn memory(&self) -> usize {
        let len = self.len();
        tree_memory::<PublicKey, Arc<Peer>>(len) + tree_memory::<u64, Arc<Peer>>(len)
    }
}
