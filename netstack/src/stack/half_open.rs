//! Connections of which only the SYN has arrived: limited in number, and shared fairly among sources.
//!
//! If the table is full, a source with fewer entries replaces the oldest one of a source with more. So a flood from one
//! source excludes nobody else, and one from many sources must be faster than a handshake.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use wg_embed::time::Instant;

use super::{
    listeners::Listening,
    tuple::{FourTuple, Map, Source},
};
use crate::tcp::HalfOpen;

/// The limits of the maximum number of half-open connections, which is otherwise that of open ones. The upper one takes
/// about 2 MB; below the lower one, sources could exclude each other.
const LEAST_HALF_OPEN: usize = 16;
const MOST_HALF_OPEN: usize = 8192;

/// A half-open connection.
pub(super) struct Entry {
    pub(super) half: HalfOpen,
    /// Its listener; `None` if it is intercepted.
    pub(super) listener: Option<Arc<Listening>>,
    /// Whether the SYN-ACK is delayed until the program has decided.
    pub(super) held: bool,
    id: u64,
    deadline: Instant,
}

impl Entry {
    /// Returns its number, which distinguishes it from an earlier one with the same addresses and ports.
    pub(super) const fn id(&self) -> u64 {
        self.id
    }

    /// Returns whether there is still a listener or handler for the connection.
    pub(super) fn is_wanted(&self) -> bool {
        self.listener.as_ref().is_none_or(|listener| !listener.is_closed())
    }
}

/// The rank of a source: its number of entries, and the age of the oldest.
type Rank = (usize, Reverse<u64>, Source);

/// The table.
pub(super) struct HalfOpens {
    entries: Map<Entry>,
    /// By source, the oldest first.
    by_source: BTreeMap<(Source, u64), FourTuple>,
    counts: HashMap<Source, usize>,
    ranks: BTreeSet<Rank>,
    deadlines: BTreeMap<(Instant, u64), FourTuple>,
    last_id: u64,
    max: usize,
}

impl HalfOpens {
    /// Creates the table for a maximum number of `open` connections.
    pub(super) fn new(open: usize) -> Self {
        Self {
            entries: Map::default(),
            by_source: BTreeMap::new(),
            counts: HashMap::new(),
            ranks: BTreeSet::new(),
            deadlines: BTreeMap::new(),
            last_id: 0,
            max: open.clamp(LEAST_HALF_OPEN, MOST_HALF_OPEN),
        }
    }

    /// Replaces the maximum number of `open` connections; existing entries are kept.
    pub(super) fn set_max(&mut self, open: usize) {
        self.max = open.clamp(LEAST_HALF_OPEN, MOST_HALF_OPEN);
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the number of entries of a source.
    pub(super) fn count(&self, source: Source) -> usize {
        self.counts.get(&source).copied().unwrap_or(0)
    }

    /// Adds a half-open connection with this deadline, and returns its number; `None` if there is no room for another
    /// one of this source, or there is one with the same addresses and ports.
    pub(super) fn insert(
        &mut self,
        tuple: FourTuple,
        half: HalfOpen,
        listener: Option<Arc<Listening>>,
        deadline: Instant,
    ) -> Option<u64> {
        if self.entries.contains_key(&tuple) {
            return None;
        }
        let source = tuple.source();
        if self.entries.len() >= self.max {
            let count = self.count(source);
            let (most, _, victim) = *self.ranks.last()?;
            // An entry is taken only from a source that has more than this one will have, or as many but older ones.
            if most <= count || (most == count + 1 && count > 0) {
                return None;
            }
            let oldest = self.by_source.range((victim, 0)..).next().map(|(_, tuple)| *tuple)?;
            self.remove(&oldest);
        }
        self.last_id += 1;
        let id = self.last_id;
        self.unrank(source);
        self.by_source.insert((source, id), tuple);
        *self.counts.entry(source).or_insert(0) += 1;
        self.rank(source);
        self.deadlines.insert((deadline, id), tuple);
        let held = listener.is_none();
        self.entries.insert(tuple, Entry { half, listener, held, id, deadline });
        Some(id)
    }

    pub(super) fn get_mut(&mut self, tuple: &FourTuple) -> Option<&mut Entry> {
        self.entries.get_mut(tuple)
    }

    pub(super) fn contains(&self, tuple: &FourTuple) -> bool {
        self.entries.contains_key(tuple)
    }

    pub(super) fn remove(&mut self, tuple: &FourTuple) -> Option<Entry> {
        let entry = self.entries.remove(tuple)?;
        let source = tuple.source();
        self.deadlines.remove(&(entry.deadline, entry.id));
        self.unrank(source);
        self.by_source.remove(&(source, entry.id));
        if let Some(count) = self.counts.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&source);
            }
        }
        self.rank(source);
        self.shrink();
        Some(entry)
    }

    /// Removes those for which `gone` returns true.
    pub(super) fn remove_where(&mut self, gone: impl Fn(&FourTuple, &Entry) -> bool) {
        let all: Vec<_> = self.entries.iter().filter(|(tuple, entry)| gone(tuple, entry)).map(|(t, _)| *t).collect();
        for tuple in all {
            self.remove(&tuple);
        }
    }

    /// Removes all, and returns them.
    pub(super) fn take_all(&mut self) -> Vec<(FourTuple, Entry)> {
        let entries = std::mem::take(&mut self.entries);
        *self = Self { last_id: self.last_id, ..Self::new(self.max) };
        entries.into_iter().collect()
    }

    /// Moves a deadline.
    pub(super) fn set_deadline(&mut self, tuple: &FourTuple, at: Instant) {
        if let Some(entry) = self.entries.get_mut(tuple)
            && entry.deadline != at
        {
            self.deadlines.remove(&(entry.deadline, entry.id));
            self.deadlines.insert((at, entry.id), *tuple);
            entry.deadline = at;
        }
    }

    /// Returns the earliest deadline.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first_key_value().map(|(key, _)| key.0)
    }

    /// Returns one whose deadline has passed, without removing it.
    pub(super) fn due(&self, now: Instant) -> Option<FourTuple> {
        self.deadlines.first_key_value().filter(|(key, _)| key.0 <= now).map(|(_, tuple)| *tuple)
    }

    fn rank_of(&self, source: Source) -> Option<Rank> {
        let count = *self.counts.get(&source)?;
        let ((_, oldest), _) = self.by_source.range((source, 0)..).next()?;
        Some((count, Reverse(*oldest), source))
    }

    fn unrank(&mut self, source: Source) {
        if let Some(rank) = self.rank_of(source) {
            self.ranks.remove(&rank);
        }
    }

    fn rank(&mut self, source: Source) {
        self.ranks.extend(self.rank_of(source));
    }

    /// Releases the memory after a flood.
    fn shrink(&mut self) {
        if self.entries.is_empty() && self.entries.capacity() > 64 {
            self.entries.shrink_to_fit();
            self.counts.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::{Config, Header};

    #[test]
    fn there_is_one_for_the_same_addresses_and_ports() {
        let now = Instant::from_nanos(1);
        let config = Config { max_segment: 1400, path_segment: 1400, receive_buffer: 4096, send_buffer: 4096 };
        let half = HalfOpen::new(&Header::default(), &config, 1, 2, now);
        let tuple = FourTuple::new(([10, 0, 0, 1], 80).into(), ([10, 0, 0, 2], 9).into());
        let mut table = HalfOpens::new(4);
        assert!(table.insert(tuple, half.clone(), None, now).is_some());
        assert!(table.insert(tuple, half, None, now).is_none());
        assert!(table.remove(&tuple).is_some() && table.remove(&tuple).is_none());
        assert_eq!((table.by_source.len(), table.deadlines.len(), table.ranks.len()), (0, 0, 0));
        assert!(table.counts.is_empty());
    }
}
