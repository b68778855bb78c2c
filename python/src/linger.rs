//! Connections that their program has let go of, and that still have something to send or an end to wait for.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use wg_embed::sync::lock;

/// How long a connection that its program has closed still waits for the other side to close.
pub(crate) const LINGER: Duration = Duration::from_secs(60);

/// A connection that its program has let go of and that is not over.
pub(crate) trait Lingering: Send + Sync {
    /// Everything was sent, so that only the other side's end is waited for.
    fn is_flushed(&self) -> bool;
    /// Ends it.
    fn give_up(&self);
}

struct Lingerer {
    connection: Arc<dyn Lingering>,
    /// Set once everything was sent.
    until: Option<Instant>,
}

/// All of one event loop, by their keys. No function of a connection is called with the lock held.
#[derive(Default)]
pub(crate) struct Lingerers(Mutex<HashMap<usize, Lingerer>>);

impl Lingerers {
    pub(crate) fn insert(&self, key: usize, connection: Arc<dyn Lingering>) {
        lock(&self.0).insert(key, Lingerer { connection, until: None });
    }

    pub(crate) fn remove(&self, key: usize) {
        let removed = lock(&self.0).remove(&key);
        drop(removed);
    }

    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }

    /// Ends those that have waited for [`LINGER`]. Returns whether there are others.
    pub(crate) fn sweep(&self) -> bool {
        let now = Instant::now();
        let all: Vec<_> = lock(&self.0).iter().map(|(key, one)| (*key, one.connection.clone(), one.until)).collect();
        for (key, connection, until) in all {
            match until {
                Some(until) if until <= now => connection.give_up(),
                None if connection.is_flushed() => {
                    if let Some(lingerer) = lock(&self.0).get_mut(&key) {
                        lingerer.until = Some(now + LINGER);
                    }
                }
                _ => {}
            }
        }
        !self.is_empty()
    }

    /// Ends all.
    pub(crate) fn end(&self) {
        let all = std::mem::take(&mut *lock(&self.0));
        all.values().for_each(|lingerer| lingerer.connection.give_up());
    }
}
