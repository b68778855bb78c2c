//! Connections that their program has dropped, and that still have data to send or wait for the end of the other side.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use wg_embed::sync::lock;

/// The time without progress after which such a connection is ended.
pub(crate) const LINGER: Duration = Duration::from_secs(60);

/// A connection that its program has dropped and that has not ended.
pub(crate) trait Lingering: Send + Sync {
    /// The number of bytes that the other side has not acknowledged yet; 0 while only its end is awaited.
    fn undelivered(&self) -> usize;
    /// Ends it.
    fn give_up(&self);
}

struct Lingerer {
    connection: Arc<dyn Lingering>,
    /// The number of undelivered bytes at the last check.
    undelivered: usize,
    /// The time at which it is ended without progress: a peer may acknowledge probes and never accept data.
    until: Instant,
}

/// All such connections of one event loop, by key. No function of a connection is called while the lock is held.
#[derive(Default)]
pub(crate) struct Lingerers(Mutex<HashMap<usize, Lingerer>>);

impl Lingerers {
    pub(crate) fn insert(&self, key: usize, connection: Arc<dyn Lingering>) {
        let undelivered = connection.undelivered();
        let lingerer = Lingerer { undelivered, connection, until: Instant::now() + LINGER };
        lock(&self.0).insert(key, lingerer);
    }

    pub(crate) fn remove(&self, key: usize) {
        let removed = lock(&self.0).remove(&key);
        drop(removed);
    }

    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }

    /// Ends connections without progress for [`LINGER`]. Returns whether others are left.
    pub(crate) fn sweep(&self) -> bool {
        let now = Instant::now();
        let all: Vec<_> = lock(&self.0).iter().map(|(key, one)| (*key, one.connection.clone())).collect();
        for (key, connection) in all {
            let undelivered = connection.undelivered();
            let is_late = lock(&self.0).get_mut(&key).is_some_and(|lingerer| {
                if std::mem::replace(&mut lingerer.undelivered, undelivered) != undelivered {
                    lingerer.until = now + LINGER;
                }
                lingerer.until <= now
            });
            if is_late {
                connection.give_up();
            }
        }
        !self.is_empty()
    }

    /// Ends all connections.
    pub(crate) fn end(&self) {
        let all = std::mem::take(&mut *lock(&self.0));
        all.values().for_each(|lingerer| lingerer.connection.give_up());
    }
}
