//! What is done at the end of a scope, whatever happens: threads that wait for a test must not do so for ever if it
//! fails.
#![allow(dead_code, unreachable_pub, reason = "each test crate uses a part of it")]

use std::sync::atomic::{AtomicBool, Ordering};

/// Calls its function when it is dropped.
#[must_use]
pub struct AtEnd<F: FnMut()>(pub F);

impl<F: FnMut()> Drop for AtEnd<F> {
    fn drop(&mut self) {
        self.0();
    }
}

/// Sets a flag at the end.
pub fn set_at_end(flag: &AtomicBool) -> AtEnd<impl FnMut()> {
    AtEnd(|| flag.store(true, Ordering::SeqCst))
}
