//! The deadlines of all peers and of the device itself, in one ordered set: there is no tick, and an idle device
//! sleeps.

use std::sync::{Arc, Mutex};

use super::{lock, peer::Peer, ranking::Ranking};
use crate::time::Instant;

#[derive(Default)]
struct Inner {
    /// By deadline.
    peers: Ranking,
    /// The device's own.
    own: Option<Instant>,
    /// The time until which the thread that runs the timers sleeps; `None` while it is awake.
    asleep_until: Option<Instant>,
}

/// The times at which peers' timers must run.
#[derive(Default)]
pub(super) struct Deadlines {
    inner: Mutex<Inner>,
}

impl Deadlines {
    /// Moves a peer's deadline from `from` to `to`. Returns true if the sleeper must be woken for it.
    #[must_use]
    pub(super) fn set(&self, peer: &Arc<Peer>, from: Option<Instant>, to: Instant) -> bool {
        let mut inner = lock(&self.inner);
        if let Some(from) = from {
            inner.peers.remove(from.as_nanos(), peer);
        }
        inner.peers.insert(to.as_nanos(), peer);
        // Once woken for an earlier deadline, it finds later ones itself.
        inner.asleep_until.take_if(|until| to < *until).is_some()
    }

    /// Removes a peer's deadline.
    pub(super) fn remove(&self, peer: &Peer, at: Instant) {
        lock(&self.inner).peers.remove(at.as_nanos(), peer);
    }

    /// Sets the device's own deadline. Returns true if the sleeper must be woken for it.
    pub(super) fn set_own(&self, at: Option<Instant>) -> bool {
        let mut inner = lock(&self.inner);
        inner.own = at;
        at.is_some_and(|at| inner.asleep_until.take_if(|until| at < *until).is_some())
    }

    /// Removes the device's own deadline if it has passed; returns whether it did.
    pub(super) fn pop_own(&self, now: Instant) -> bool {
        lock(&self.inner).own.take_if(|at| *at <= now).is_some()
    }

    /// Removes and returns the next peer whose deadline has passed, and the deadline.
    pub(super) fn pop(&self, now: Instant) -> Option<(Instant, Arc<Peer>)> {
        let mut inner = lock(&self.inner);
        inner.asleep_until = None;
        let (at, peer) = inner.peers.pop_lowest(now.as_nanos())?;
        Some((Instant::from_nanos(at), peer))
    }

    #[cfg(test)]
    pub(super) fn is_unused(&self) -> bool {
        self.inner.try_lock().is_ok()
    }

    /// Returns the memory of the set in bytes.
    pub(super) fn memory(&self) -> usize {
        lock(&self.inner).peers.memory()
    }

    /// Returns the next deadline. From now on, until `pop` is called, `set` requests waking for an earlier one.
    pub(super) fn sleep(&self) -> Option<Instant> {
        let mut inner = lock(&self.inner);
        let peers = inner.peers.lowest().map(Instant::from_nanos);
        let first = peers.into_iter().chain(inner.own).min();
        inner.asleep_until = Some(first.unwrap_or(Instant::from_nanos(u64::MAX)));
        first
    }
}
