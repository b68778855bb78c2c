//! The peers of a device, by public key, and in the order of their creation.

use std::{
    collections::{HashMap, TryReserveError},
    ops::Range,
    sync::{Arc, RwLock},
};

use super::{memory::table_memory, peer::Peer, read, work, write};
use crate::key::PublicKey;

/// The number of slots that are visited under one lock.
const SLICE: usize = 128;

/// Holes in the list of a small number of peers are ignored.
const HOLES: usize = 64;

/// The tables of peers. Neither grows by itself, as it would move all its entries while the lock is held.
#[derive(Default)]
struct Tables {
    by_key: HashMap<PublicKey, Arc<Peer>>,
    /// By number, which only grows: a stable order for reading the state. A removed peer leaves a hole.
    by_id: Vec<(u64, Option<Arc<Peer>>)>,
    next_id: u64,
}

impl Tables {
    fn is_full(&self) -> bool {
        self.by_key.len() == self.by_key.capacity() || self.by_id.len() == self.by_id.capacity()
    }

    fn place(&self, id: u64) -> usize {
        self.by_id.partition_point(|(other, _)| *other < id)
    }
}

/// All peers. The lock is held for a bounded number of them at a time.
///
/// One thread at a time adds, removes or trims: the device's `sets` is held for it.
#[derive(Default)]
pub(super) struct Peers {
    tables: RwLock<Tables>,
}

impl Peers {
    pub(super) fn len(&self) -> usize {
        read(&self.tables).by_key.len()
    }

    pub(super) fn contains(&self, key: &PublicKey) -> bool {
        read(&self.tables).by_key.contains_key(key)
    }

    pub(super) fn get(&self, key: &PublicKey) -> Option<Arc<Peer>> {
        read(&self.tables).by_key.get(key).cloned()
    }

    /// Adds a new peer; its handshakes use our key of this number. `expected` peers are being added, including this
    /// one.
    pub(super) fn insert(&self, key: PublicKey, own_key: u32, expected: usize) -> Arc<Peer> {
        let (is_full, len) = {
            let tables = read(&self.tables);
            (tables.is_full(), tables.by_key.len())
        };
        if is_full {
            // `Device::hold_for` has reserved the memory for this.
            let _ = self.rebuild(if len == 0 { expected } else { 2 * len });
        }
        let mut tables = write(&self.tables);
        work(if tables.is_full() { tables.by_id.len() } else { 1 });
        let peer = Arc::new(Peer::new(tables.next_id, key, own_key));
        tables.next_id += 1;
        tables.by_id.push((peer.id(), Some(peer.clone())));
        tables.by_key.insert(key, peer.clone());
        peer
    }

    pub(super) fn remove(&self, key: &PublicKey) -> Option<Arc<Peer>> {
        let (peer, has_many_holes) = {
            let mut tables = write(&self.tables);
            let peer = tables.by_key.remove(key)?;
            let at = tables.place(peer.id());
            tables.by_id[at].1 = None;
            (peer, tables.by_id.len() > 2 * tables.by_key.len() + HOLES)
        };
        if has_many_holes {
            // Without memory for it the holes remain.
            let _ = self.rebuild(self.len());
        }
        Some(peer)
    }

    /// Removes and returns every peer.
    pub(super) fn drain(&self) -> impl Iterator<Item = Arc<Peer>> + use<> {
        let (by_key, by_id) = {
            let mut tables = write(&self.tables);
            (std::mem::take(&mut tables.by_key), std::mem::take(&mut tables.by_id))
        };
        // Freed without the lock, like the other one.
        work(by_key.len());
        drop(by_key);
        by_id.into_iter().filter_map(|(_, peer)| peer)
    }

    /// Rebuilds the tables with room for this number of peers. They are filled without the lock, for which handshakes
    /// wait.
    fn rebuild(&self, capacity: usize) -> Result<(), TryReserveError> {
        let (mut by_key, mut by_id) = (HashMap::new(), Vec::new());
        by_key.try_reserve(capacity)?;
        by_id.try_reserve_exact(capacity)?;
        for peer in self.list() {
            by_key.insert(*peer.key(), peer.clone());
            by_id.push((peer.id(), Some(peer)));
        }
        {
            let mut tables = write(&self.tables);
            std::mem::swap(&mut tables.by_key, &mut by_key);
            std::mem::swap(&mut tables.by_id, &mut by_id);
        }
        drop((by_key, by_id));
        Ok(())
    }

    /// Returns roughly how much more memory the tables need if this number of peers is added.
    pub(super) fn memory_for(&self, new: usize) -> usize {
        let len = self.len();
        let capacity = if len == 0 { new } else { 2 * (len + new) }.next_power_of_two();
        // They may double in size more than once.
        2 * (table_memory::<PublicKey, Arc<Peer>>(capacity) + capacity * size_of::<(u64, Option<Arc<Peer>>)>())
    }

    /// Releases memory that the tables do not need.
    pub(super) fn trim(&self) {
        let (len, capacity) = {
            let by_key = &read(&self.tables).by_key;
            (by_key.len(), by_key.capacity())
        };
        if len < capacity / 2 {
            // Without memory for smaller ones they remain as they are.
            let _ = self.rebuild(len);
        }
    }

    /// Returns the number of the next new peer.
    pub(super) fn next_id(&self) -> u64 {
        read(&self.tables).next_id
    }

    /// Calls `each` with the peers in a slice of the list from this number on. Returns the start of the next slice.
    fn slice(&self, from: u64, mut each: impl FnMut(&Arc<Peer>)) -> Option<u64> {
        let tables = read(&self.tables);
        let rest = &tables.by_id[tables.place(from)..];
        let slice = &rest[..rest.len().min(SLICE)];
        work(slice.len());
        let (last, _) = slice.last()?;
        slice.iter().filter_map(|(_, peer)| peer.as_ref()).for_each(&mut each);
        Some(last + 1)
    }

    /// Returns the first peer whose number is in `ids`.
    pub(super) fn first_in(&self, ids: Range<u64>) -> Option<Arc<Peer>> {
        let mut from = ids.start;
        loop {
            let mut first = None;
            let next = self.slice(from, |peer| {
                first.get_or_insert_with(|| peer.clone());
            });
            if first.is_some() {
                return first.filter(|peer| peer.id() < ids.end);
            }
            from = next?;
        }
    }

    /// Returns the peers, oldest first. Those that are added or removed during the iteration may or may not be
    /// included.
    pub(super) fn list(&self) -> impl Iterator<Item = Arc<Peer>> + '_ {
        let mut slice = [const { None }; SLICE];
        let (mut at, mut from) = (0, Some(0));
        std::iter::from_fn(move || {
            loop {
                if let Some(peer) = slice.get_mut(at).and_then(Option::take) {
                    at += 1;
                    return Some(peer);
                }
                let mut places = slice.iter_mut();
                from = self.slice(from?, |peer| {
                    if let Some(place) = places.next() {
                        *place = Some(peer.clone());
                    }
                });
                at = 0;
            }
        })
    }

    #[cfg(test)]
    pub(super) fn is_unused(&self) -> bool {
        self.tables.try_write().is_ok()
    }

    /// Returns the memory of the tables in bytes, without the peers.
    pub(super) fn memory(&self) -> usize {
        let tables = read(&self.tables);
        table_memory::<PublicKey, Arc<Peer>>(tables.by_key.capacity())
            + tables.by_id.capacity() * size_of::<(u64, Option<Arc<Peer>>)>()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(n: u8) -> PublicKey {
        PublicKey::from_bytes([n; 32])
    }

    proptest! {
        /// Against a plain list.
        #[test]
        fn the_order_is_that_in_which_they_came(steps in prop::collection::vec((0_u8..=255, 0_u8..8), 0..600)) {
            let (peers, mut model) = (Peers::default(), Vec::<u8>::new());
            for (n, step) in steps {
                match step {
                    0..4 if model.contains(&n) => prop_assert!(peers.get(&key(n)).is_some()),
                    0..4 => {
                        peers.insert(key(n), 0, 1 + usize::from(n % 7));
                        model.push(n);
                    }
                    4..7 => {
                        let is_there = model.contains(&n);
                        model.retain(|other| *other != n);
                        prop_assert_eq!(peers.remove(&key(n)).is_some(), is_there);
                    }
                    _ if n < 250 => peers.trim(),
                    _ => prop_assert_eq!(peers.drain().count(), std::mem::take(&mut model).len()),
                }
                let listed: Vec<_> = peers.list().collect();
                prop_assert_eq!(listed.len(), peers.len());
                prop_assert!(listed.iter().map(|peer| *peer.key()).eq(model.iter().map(|n| key(*n))));
                let (mut one_by_one, mut from) = (0, 0);
                while let Some(peer) = peers.first_in(from..peers.next_id()) {
                    prop_assert!(Arc::ptr_eq(&peer, &listed[one_by_one]));
                    (one_by_one, from) = (one_by_one + 1, peer.id() + 1);
                }
                prop_assert_eq!(one_by_one, listed.len());
                prop_assert!(peers.first_in(0..0).is_none());
            }
            prop_assert!(model.iter().all(|n| peers.contains(&key(*n))));
        }
    }
}
