//! The two directions of a stream.

use std::{
    io::{Read, Write},
    sync::Arc,
};

/// Ends blocked reads and writes.
pub trait Stop: Send + Sync {
    /// Makes every read and write of the transport return, waiting and later ones, with an error or the end of the
    /// stream. May be called on any thread, and repeatedly.
    fn stop(&self);
}

impl<F: Fn() + Send + Sync> Stop for F {
    fn stop(&self) {
        self();
    }
}

/// Two directions of bytes, and a way to end both.
pub struct Transport {
    /// The direction from the other side. It is read on its own thread, and dropped at the end.
    pub reader: Box<dyn Read + Send>,
    /// The direction to the other side. It is written on its own thread, and dropped at the end.
    pub writer: Box<dyn Write + Send>,
    /// Ends both.
    pub stop: Arc<dyn Stop>,
}
