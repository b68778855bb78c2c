//! Peers ordered by a number: the deadline, or the bytes that a peer holds.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use super::{
    memory::{IN_ORDER, tree_memory},
    peer::Peer,
};

/// The position of a peer: its rank, and its own number, as several may have the same rank.
type Place = (u64, u64);

/// Peers by rank.
///
/// This is one type for all uses, since the code to insert and to remove is 2 KB each.
#[derive(Default)]
pub(super) struct Ranking(BTreeMap<Place, Weak<Peer>>);

impl Ranking {
    #[inline(never)]
    pub(super) fn insert(&mut self, rank: u64, peer: &Arc<Peer>) {
        self.0.insert((rank, peer.id()), Arc::downgrade(peer));
    }

    /// Removes the peer if it has this rank; otherwise a no-op.
    pub(super) fn remove(&mut self, rank: u64, peer: &Peer) {
        self.take(&(rank, peer.id()));
    }

    #[inline(never)]
    fn take(&mut self, place: &Place) -> Option<Weak<Peer>> {
        self.0.remove(place)
    }

    /// Returns the lowest rank.
    pub(super) fn lowest(&self) -> Option<u64> {
        self.0.first_key_value().map(|(place, _)| place.0)
    }

    /// Removes the first existing peer with a rank of at most `most`, and returns both.
    pub(super) fn pop_lowest(&mut self, most: u64) -> Option<(u64, Arc<Peer>)> {
        loop {
            let place = *self.0.first_key_value()?.0;
            if place.0 > most {
                return None;
            }
            if let Some(peer) = self.take(&place)?.upgrade() {
                return Some((place.0, peer));
            }
        }
    }

    /// Returns the last existing peer, if its rank is above `least`, and the rank.
    pub(super) fn highest(&mut self, least: u64) -> Option<(u64, Arc<Peer>)> {
        loop {
            let (place, peer) = self.0.last_key_value().map(|(place, peer)| (*place, peer.upgrade()))?;
            if place.0 <= least {
                return None;
            }
            match peer {
                Some(peer) => return Some((place.0, peer)),
                None => drop(self.take(&place)),
            }
        }
    }

    /// Returns its memory in bytes.
    pub(super) fn memory(&self) -> usize {
        tree_memory::<Place, Weak<Peer>>(self.0.len(), IN_ORDER)
    }
}
