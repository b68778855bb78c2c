//! The deadlines of entries: at most one for each.

use std::{
    collections::{BTreeSet, HashMap},
    time::Instant,
};

#[derive(Default)]
pub(crate) struct Deadlines {
    order: BTreeSet<(Instant, usize)>,
    times: HashMap<usize, Instant>,
}

impl Deadlines {
    /// Sets a deadline, replacing the previous one.
    pub(crate) fn set(&mut self, token: usize, at: Instant) {
        self.clear(token);
        self.times.insert(token, at);
        self.order.insert((at, token));
    }

    pub(crate) fn clear(&mut self, token: usize) {
        if let Some(at) = self.times.remove(&token) {
            self.order.remove(&(at, token));
        }
    }

    pub(crate) fn first(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes an entry that is due.
    pub(crate) fn due(&mut self, now: Instant) -> Option<usize> {
        let (_, token) = self.order.first().copied().filter(|(at, _)| *at <= now)?;
        self.clear(token);
        Some(token)
    }
}
