//! Connections that are held for wg_net_answer().

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::inbox::Link;
use wg_embed::sync;
use wg_embed_netstack::{PendingTcp, UdpFlow};

/// The largest number of held connections. Beyond it the oldest is refused.
const MOST: usize = 4096;

/// A connection that the app has not decided about.
pub(super) enum Dialled {
    Tcp(PendingTcp),
    Udp(UdpFlow),
}

impl Dialled {
    pub(super) fn destination(&self) -> SocketAddr {
        match self {
            Self::Tcp(pending) => pending.destination(),
            Self::Udp(flow) => flow.destination(),
        }
    }

    pub(super) fn source(&self) -> SocketAddr {
        match self {
            Self::Tcp(pending) => pending.source(),
            Self::Udp(flow) => flow.source(),
        }
    }

    /// Answers, but does not accept.
    pub(super) fn end(self, refuse: bool) {
        match (self, refuse) {
            (Self::Tcp(pending), true) => pending.refuse(),
            (Self::Tcp(pending), false) => pending.ignore(),
            (Self::Udp(flow), true) => flow.refuse(),
            (Self::Udp(flow), false) => drop(flow),
        }
    }

    /// Accepts. Datagrams are there at once, a TCP connection comes later.
    pub(super) fn accept(self) -> Option<Link> {
        match self {
            Self::Tcp(pending) => {
                pending.accept();
                None
            }
            Self::Udp(flow) => Some(Link::Udp(flow)),
        }
    }
}

/// Connections by number.
#[derive(Default)]
pub(super) struct Held {
    last_id: AtomicU64,
    /// By number, and so by age.
    waiting: Mutex<VecDeque<(u64, Instant, Dialled)>>,
}

impl Held {
    /// Returns a handle that was never used before.
    pub(super) fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Holds a connection for a time. Others whose time has passed are ignored.
    pub(super) fn keep(&self, id: u64, dialled: Dialled, hold: Duration) {
        let now = Instant::now();
        let mut over = Vec::new();
        let mut waiting = sync::lock(&self.waiting);
        while waiting.front().is_some_and(|(_, until, _)| *until <= now) {
            over.extend(waiting.pop_front());
        }
        let refused = if waiting.len() >= MOST { waiting.pop_front() } else { None };
        // Two threads may come here in another order than that of their numbers.
        let at = waiting.partition_point(|(other, ..)| *other < id);
        waiting.insert(at, (id, now + hold, dialled));
        drop(waiting);
        // Without the lock: the stack sends now.
        over.into_iter().for_each(|(.., dialled)| dialled.end(false));
        if let Some((.., dialled)) = refused {
            dialled.end(true);
        }
    }

    /// Removes a connection whose time has not passed.
    pub(super) fn take(&self, id: u64) -> Option<Dialled> {
        let mut waiting = sync::lock(&self.waiting);
        let at = waiting.binary_search_by_key(&id, |(id, ..)| *id).ok()?;
        let (_, until, dialled) = waiting.remove(at)?;
        drop(waiting);
        if until <= Instant::now() {
            dialled.end(false);
            return None;
        }
        Some(dialled)
    }

    /// Drops all of them.
    pub(super) fn clear(&self) {
        let waiting = std::mem::take(&mut *sync::lock(&self.waiting));
        drop(waiting);
    }
}
