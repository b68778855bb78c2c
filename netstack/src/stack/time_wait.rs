//! Connections in TIME-WAIT: some words each, bounded in number.

use std::{collections::VecDeque, time::Duration};

use wg_embed::time::Instant;

use super::tuple::{FourTuple, Map};
use crate::tcp::TimeWait;

/// How long a connection is remembered: twice the time that a segment may live.
pub(super) const TIME_WAIT: Duration = Duration::from_secs(60);

/// After this, addresses and ports may be used again for a new connection that is dialled, if there are no others: its
/// time stamps and sequence numbers are higher by then (RFC 6191).
pub(super) const REUSE_AFTER: Duration = Duration::from_secs(1);

struct Entry {
    state: TimeWait,
    until: Instant,
}

/// The table.
pub(super) struct TimeWaits {
    entries: Map<Entry>,
    /// In the order of their ends. An entry whose end has moved, or that is gone, is discarded when its turn comes.
    ends: VecDeque<(Instant, FourTuple)>,
    max: usize,
}

impl TimeWaits {
    pub(super) fn new(max: usize) -> Self {
        Self { entries: Map::default(), ends: VecDeque::new(), max }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Remembers a connection; the oldest makes room.
    pub(super) fn insert(&mut self, tuple: FourTuple, state: TimeWait, now: Instant) {
        while self.entries.len() >= self.max
            && let Some((end, oldest)) = self.ends.pop_front()
        {
            if self.entries.get(&oldest).is_some_and(|entry| entry.until == end) {
                self.entries.remove(&oldest);
            }
        }
        let until = now + TIME_WAIT;
        self.entries.insert(tuple, Entry { state, until });
        self.ends.push_back((until, tuple));
    }

    pub(super) fn get(&self, tuple: &FourTuple) -> Option<&TimeWait> {
        self.entries.get(tuple).map(|entry| &entry.state)
    }

    /// Lets the time begin again.
    pub(super) fn restart(&mut self, tuple: &FourTuple, now: Instant) {
        // At most one stale end for each connection: a peer could send its FIN very often.
        let has_room = self.ends.len() < self.entries.len() * 2 + 16;
        let until = now + TIME_WAIT;
        if let Some(entry) = self.entries.get_mut(tuple)
            && entry.until != until
            && has_room
        {
            entry.until = until;
            self.ends.push_back((until, *tuple));
        }
    }

    pub(super) fn remove(&mut self, tuple: &FourTuple) {
        self.entries.remove(tuple);
    }

    /// Whether a new connection must not be dialled with these addresses and ports.
    pub(super) fn blocks(&self, tuple: &FourTuple) -> bool {
        self.entries.contains_key(tuple)
    }

    /// Whether there is one, and it is old enough for a new connection.
    pub(super) fn is_reusable(&self, tuple: &FourTuple, now: Instant) -> bool {
        self.entries
            .get(tuple)
            .is_some_and(|entry| entry.state.timestamps.is_some() && now + TIME_WAIT >= entry.until + REUSE_AFTER)
    }

    /// Removes those whose time has come.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((end, tuple)) = self.ends.front().copied().filter(|(end, _)| *end <= now) {
            self.ends.pop_front();
            if self.entries.get(&tuple).is_some_and(|entry| entry.until == end) {
                self.entries.remove(&tuple);
            }
        }
        if self.entries.is_empty() {
            *self = Self::new(self.max);
        }
    }

    /// When the next one may end.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.ends.front().map(|(end, _)| *end)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.max);
    }
}
