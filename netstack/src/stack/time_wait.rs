//! Connections in TIME-WAIT: a few words each, limited in number.

use std::{collections::BTreeMap, time::Duration};

use wg_embed::time::Instant;

use super::tuple::{FourTuple, Map};
use crate::tcp::TimeWait;

/// The duration of TIME-WAIT: twice the maximum lifetime of a segment.
pub(super) const TIME_WAIT: Duration = Duration::from_secs(60);

/// The time after which addresses and ports may be reused for a new outgoing connection, if there are no others: its
/// timestamps and sequence numbers are then higher (RFC 6191).
pub(super) const REUSE_AFTER: Duration = Duration::from_secs(1);

struct Entry {
    state: TimeWait,
    until: Instant,
    id: u64,
}

/// The table.
pub(super) struct TimeWaits {
    entries: Map<Entry>,
    /// In the order of their ends; as many as `entries`.
    ends: BTreeMap<(Instant, u64), FourTuple>,
    last_id: u64,
    max: usize,
}

impl TimeWaits {
    pub(super) fn new(max: usize) -> Self {
        Self { entries: Map::default(), ends: BTreeMap::new(), last_id: 0, max }
    }

    /// Replaces the maximum number; excess entries are removed as new ones are added.
    pub(super) const fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds a connection, which replaces the oldest if necessary.
    pub(super) fn insert(&mut self, tuple: FourTuple, state: TimeWait, now: Instant) {
        self.remove(&tuple);
        while self.entries.len() >= self.max
            && let Some((_, oldest)) = self.ends.pop_first()
        {
            self.entries.remove(&oldest);
        }
        self.last_id += 1;
        let (until, id) = (now + TIME_WAIT, self.last_id);
        self.entries.insert(tuple, Entry { state, until, id });
        self.ends.insert((until, id), tuple);
    }

    pub(super) fn get(&self, tuple: &FourTuple) -> Option<&TimeWait> {
        self.entries.get(tuple).map(|entry| &entry.state)
    }

    /// Restarts the time.
    pub(super) fn restart(&mut self, tuple: &FourTuple, now: Instant) {
        if let Some(entry) = self.entries.get_mut(tuple) {
            self.ends.remove(&(entry.until, entry.id));
            entry.until = now + TIME_WAIT;
            self.ends.insert((entry.until, entry.id), *tuple);
        }
    }

    pub(super) fn remove(&mut self, tuple: &FourTuple) {
        if let Some(entry) = self.entries.remove(tuple) {
            self.ends.remove(&(entry.until, entry.id));
        }
    }

    /// Returns whether a new outgoing connection must not use these addresses and ports.
    pub(super) fn blocks(&self, tuple: &FourTuple) -> bool {
        self.entries.contains_key(tuple)
    }

    /// Returns whether there is one, and it is old enough for a new connection.
    pub(super) fn is_reusable(&self, tuple: &FourTuple, now: Instant) -> bool {
        self.entries
            .get(tuple)
            .is_some_and(|entry| entry.state.timestamps.is_some() && now + TIME_WAIT >= entry.until + REUSE_AFTER)
    }

    /// Removes those whose time has passed.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(end) = self.ends.first_entry().filter(|end| end.key().0 <= now) {
            self.entries.remove(&end.remove());
        }
        if self.entries.is_empty() {
            self.clear();
        }
    }

    /// Returns the time of the next end.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.ends.first_key_value().map(|(end, _)| end.0)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: TimeWait = TimeWait { seq: 1, ack: 2, timestamps: None };

    fn tuple(port: u16) -> FourTuple {
        FourTuple::new(([10, 0, 0, 1], port).into(), ([10, 0, 0, 2], 80).into())
    }

    #[test]
    fn there_is_one_end_for_each_connection_whatever_comes_and_goes() {
        let mut table = TimeWaits::new(4);
        let mut now = Instant::from_nanos(1);
        for round in 0..10_000 {
            table.insert(tuple(round % 3), STATE, now);
            table.restart(&tuple(round % 2), now + Duration::from_secs(1));
            if round % 5 == 0 {
                table.remove(&tuple(round % 3));
            }
            assert_eq!(table.entries.len(), table.ends.len());
            now = now + Duration::from_millis(u64::from(round % 2));
        }
        for port in 0..10 {
            table.insert(tuple(port), STATE, now);
        }
        assert_eq!((table.len(), table.ends.len()), (4, 4), "the oldest have made room");
        assert!(table.blocks(&tuple(9)) && !table.blocks(&tuple(0)));
        // A FIN that comes again makes it last, however often it came before.
        let later = now + Duration::from_secs(50);
        table.restart(&tuple(9), later);
        table.expire(now + TIME_WAIT);
        assert_eq!((table.len(), table.next_end()), (1, Some(later + TIME_WAIT)));
        table.expire(later + TIME_WAIT);
        assert_eq!((table.len(), table.next_end()), (0, None));
    }
}
