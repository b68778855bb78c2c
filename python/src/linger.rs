//! Connections that their program has let go of, and that still have something to send or an end to wait for.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use wg_embed::sync::lock;

/// How long a connection that its program has closed still waits for the other side to take more, or to close.
pub(crate) const LINGER: Duration = Duration::from_secs(60);

/// A connection that its program has let go of and that is not over.
pub(crate) trait Lingering: Send + Sync {
    /// How much the stack has not taken yet; 0 when only the other side's end is waited for.
    fn unsent(&self) -> usize;
    /// Ends it.
    fn give_up(&self);
}

struct Lingerer {
    connection: Arc<dyn Lingering>,
    /// What was unsent when it was looked at last.
    unsent: usize,
    /// When it is ended, unless it gets on: a peer may acknowledge probes and take nothing for ever.
    until: Instant,
}

/// All of one event loop, by their keys. No function of a connection is called with the lock held.
#[derive(Default)]
pub(crate) struct Lingerers(Mutex<HashMap<usize, Lingerer>>);

impl Lingerers {
    pub(crate) fn insert(&self, key: usize, connection: Arc<dyn Lingering>) {
        let lingerer = Lingerer { unsent: connection.unsent(), connection, until: Instant::now() + LINGER };
        lock(&self.0).insert(key, lingerer);
    }

    pub(crate) fn remove(&self, key: usize) {
        let removed = lock(&self.0).remove(&key);
        drop(removed);
    }

    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }

    /// Ends those that have not got on for [`LINGER`]. Returns whether there are others.
    pub(crate) fn sweep(&self) -> bool {
        let now = Instant::now();
        let all: Vec<_> = lock(&self.0).iter().map(|(key, one)| (*key, one.connection.clone())).collect();
        for (key, connection) in all {
            let unsent = connection.unsent();
            let is_late = lock(&self.0).get_mut(&key).is_some_and(|lingerer| {
                if std::mem::replace(&mut lingerer.unsent, unsent) != unsent {
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

    /// Ends all.
    pub(crate) fn end(&self) {
        let all = std::mem::take(&mut *lock(&self.0));
        all.values().for_each(|lingerer| lingerer.connection.give_up());
    }
}
