//! What a stream is made of.

use std::{
    io::{Read, Write},
    sync::Arc,
};

/// Ends blocked reads and writes.
pub trait Stop: Send + Sync {
    /// Makes every read and write of the transport return, those that wait and all later ones, with an error or the end
    /// of the stream. May be called on any thread, and again.
    fn stop(&self);
}

impl<F: Fn() + Send + Sync> Stop for F {
    fn stop(&self) {
        self();
    }
}

/// Two directions of bytes, and a way to end both.
pub struct Transport {
    /// What the other side sends. It is read on a thread of its own, and dropped at the end.
    pub reader: Box<dyn Read + Send>,
    /// What is sent to the other side. It is written to on a thread of its own, and dropped at the end.
    pub writer: Box<dyn Write + Send>,
    /// Ends both.
    pub stop: Arc<dyn Stop>,
}
