//! Binds around one of the network in memory, of which a test changes some functions.

use std::{io, ops::Deref, time::Duration};

use wg_embed::bind::{Bind, RecvBatch, SendReport, Transmit, Woken, mem::MemBind};

/// The functions that a test may change.
pub trait Around: Send + Sync {
    fn inner(&self) -> &MemBind;

    fn open(&self, port: u16) -> io::Result<u16> {
        self.inner().open(port)
    }

    fn set_mark(&self, mark: u32) -> io::Result<()> {
        self.inner().set_mark(mark)
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<Woken> {
        self.inner().wait(timeout)
    }

    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        self.inner().recv(batch)
    }

    fn send(&self, batch: &[Transmit<'_>]) -> SendReport {
        self.inner().send(batch)
    }
}

/// The bind with these functions.
pub struct Changed<T>(pub T);

impl<T> Deref for Changed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Around> Bind for Changed<T> {
    fn open(&self, port: u16) -> io::Result<u16> {
        self.0.open(port)
    }

    fn close(&self) {
        self.0.inner().close();
    }

    fn set_mark(&self, mark: u32) -> io::Result<()> {
        self.0.set_mark(mark)
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<Woken> {
        self.0.wait(timeout)
    }

    fn wake(&self) {
        self.0.inner().wake();
    }

    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        self.0.recv(batch)
    }

    fn send(&self, batch: &[Transmit<'_>]) -> SendReport {
        self.0.send(batch)
    }
}
