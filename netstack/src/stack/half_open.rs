//! Connections of which only the SYN has arrived: bounded in number, shared fairly among those who dial.
//!
//! If the table is full, a source that has fewer than another takes one's place from it: the oldest. So a flood from
//! one source keeps nobody else out, and one from many has to be faster than a handshake takes.

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

/// The most half-open connections: some 2 MB.
pub(super) const MAX_HALF_OPEN: usize = 8192;

/// A half-open connection.
pub(super) struct Entry {
    pub(super) half: HalfOpen,
    /// What it is for; `None` is the one that intercepts.
    pub(super) listener: Option<Arc<Listening>>,
    /// The SYN-ACK is held back until the program has decided.
    pub(super) held: bool,
    id: u64,
    deadline: Instant,
}

impl Entry {
    /// Tells it from an earlier one of the same addresses and ports.
    pub(super) const fn id(&self) -> u64 {
        self.id
    }

    /// Whether someone would take the connection.
    pub(super) fn is_wanted(&self) -> bool {
        self.listener.as_ref().is_none_or(|listener| !listener.is_closed())
    }
}

/// How a source stands: how many it has, and how old the oldest is.
type Rank = (usize, Reverse<u64>, Source);

/// The table.
pub(super) struct HalfOpens {
    entries: Map<Entry>,
    /// Of each source, from the oldest on.
    by_source: BTreeMap<(Source, u64), FourTuple>,
    counts: HashMap<Source, usize>,
    ranks: BTreeSet<Rank>,
    deadlines: BTreeMap<(Instant, u64), FourTuple>,
    last_id: u64,
    max: usize,
}

impl HalfOpens {
    pub(super) fn new(max: usize) -> Self {
        Self {
            entries: Map::default(),
            by_source: BTreeMap::new(),
            counts: HashMap::new(),
            ranks: BTreeSet::new(),
            deadlines: BTreeMap::new(),
            last_id: 0,
            max,
        }
    }

    /// Replaces how many there may be; those that are too many stay.
    pub(super) const fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes a half-open connection whose deadline is this, and returns its number; `None` if there is no room for
    /// another one of this source, or there is one of the same addresses and ports.
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
            let count = self.counts.get(&source).copied().unwrap_or(0);
            let (most, _, victim) = *self.ranks.last()?;
            // One is taken away only from a source that has more than this one will have, or as many but older ones.
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

    /// Removes those that `gone` is true for.
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

    /// The earliest deadline.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first_key_value().map(|(key, _)| key.0)
    }

    /// One whose deadline has come; it stays.
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

    /// After a flood the memory is given back.
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
