//! Peers in the order of a number that each of them has: its deadline, or the bytes that it holds.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use super::{memory::tree_memory, peer::Peer};

/// A peer's place: its rank, and its own number, as several may have the same rank.
type Place = (u64, u64);

/// Peers by rank.
///
/// One type for all of them, and not a tree of each one's own: what inserts and what removes are 2 KB each.
#[derive(Default)]
pub(super) struct Ranking(BTreeMap<Place, Weak<Peer>>);

impl Ranking {
    #[inline(never)]
    pub(super) fn insert(&mut self, rank: u64, peer: &Arc<Peer>) {
        self.0.insert((rank, peer.id()), Arc::downgrade(peer));
    }

    /// Takes out the peer that has this rank. Nothing happens if it has another one, or none.
    pub(super) fn remove(&mut self, rank: u64, peer: &Peer) {
        self.take(&(rank, peer.id()));
    }

    #[inline(never)]
    fn take(&mut self, place: &Place) -> Option<Weak<Peer>> {
        self.0.remove(place)
    }

    /// The lowest rank.
    pub(super) fn lowest(&self) -> Option<u64> {
        self.0.first_key_value().map(|(place, _)| place.0)
    }

    /// Takes out the first peer that is still there and has a rank of at most `most`, and returns both.
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

    /// The last peer that is still there, if its rank is above `least`, and the rank.
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

    /// Bytes that it takes.
    pub(super) fn memory(&self) -> usize {
        tree_memory::<Place, Weak<Peer>>(self.0.len())
    }
}
