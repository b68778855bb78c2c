//! Whether the TUN is served: not during a pause, nor until sockets have been checked after it.

use std::sync::{
    Condvar, Mutex,
    atomic::{AtomicBool, Ordering},
};

use super::lock;
use crate::sync;

/// A condition that threads test, and that some of them sleep for.
#[derive(Default)]
pub(super) struct Gate {
    is_closed: AtomicBool,
    waiting: Mutex<()>,
    changed: Condvar,
}

impl Gate {
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }

    pub(super) fn open(&self) {
        self.is_closed.store(false, Ordering::Release);
        self.tell();
    }

    /// Makes the threads that sleep test their conditions.
    pub(super) fn tell(&self) {
        // Locked, so that it does not come between the test and the sleep of another thread.
        let _waiting = lock(&self.waiting);
        self.changed.notify_all();
    }

    /// Sleeps until it is open, or `is_over`, whose change is followed by [`tell`](Self::tell).
    pub(super) fn wait(&self, is_over: impl Fn() -> bool) {
        let mut waiting = lock(&self.waiting);
        while self.is_closed() && !is_over() {
            waiting = sync::wait(&self.changed, waiting);
        }
    }
}
