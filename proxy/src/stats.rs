//! Statistics of services.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// Statistics of a service, or of all services of a proxy. All values except `open` never decrease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Current connections, or sessions of UDP.
    pub open: usize,
    /// Accepted connections.
    pub accepted: u64,
    /// Connections that were closed at once because of a limit.
    pub refused: u64,
    /// Connections whose target could not be connected.
    pub failed: u64,
    /// Bytes of connections and datagrams sent into the tunnel.
    pub sent: u64,
    /// Bytes of connections and datagrams received from the tunnel.
    pub received: u64,
}

/// The same values as they change.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    open: AtomicUsize,
    accepted: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Counters {
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(crate) fn read(&self) -> Stats {
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            open: self.open(),
            accepted: number(&self.accepted),
            refused: number(&self.refused),
            failed: number(&self.failed),
            sent: number(&self.sent),
            received: number(&self.received),
        }
    }
}

/// The counters of a service, and those of all.
#[derive(Clone, Debug)]
pub(crate) struct Both {
    pub(crate) service: Arc<Counters>,
    pub(crate) all: Arc<Counters>,
}

impl Both {
    fn add(&self, which: impl Fn(&Counters) -> &AtomicU64, number: u64) {
        for counters in [&self.service, &self.all] {
            which(counters).fetch_add(number, Ordering::Relaxed);
        }
    }

    pub(crate) fn refused(&self) {
        self.add(|counters| &counters.refused, 1);
    }
}

/// A connection's or session's place among those of its service, which is released when this is dropped.
#[derive(Debug)]
pub(crate) struct Place(Both);

impl Place {
    pub(crate) fn take(counters: &Both) -> Self {
        counters.add(|counters| &counters.accepted, 1);
        for counters in [&counters.service, &counters.all] {
            counters.open.fetch_add(1, Ordering::Relaxed);
        }
        Self(counters.clone())
    }

    pub(crate) fn failed(&self) {
        self.0.add(|counters| &counters.failed, 1);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.0.add(|counters| &counters.sent, bytes as u64);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.0.add(|counters| &counters.received, bytes as u64);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for counters in [&self.0.service, &self.0.all] {
            counters.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
