//! Binds in memory, some of whose calls a test replaces.

use std::{io, sync::Arc, time::Duration};

use wg_embed::bind::{Bind, Endpoint, RecvBatch, SendReport, SourceCheck, Transmit, Woken, mem::MemBind};

/// Calls that are made in place of those of a bind in memory. Those that are not written are the bind's own.
pub trait Replace: Send + Sync {
    fn bind(&self) -> &MemBind;

    fn open(&self, port: u16) -> io::Result<u16> {
        self.bind().open(port)
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<Woken> {
        self.bind().wait(timeout)
    }

    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        self.bind().recv(batch)
    }

    fn send(&self, batch: &[Transmit<'_>]) -> SendReport {
        self.bind().send(batch)
    }
}

/// The bind with these calls.
pub struct Replaced<R>(pub Arc<R>);

impl<R: Replace> Bind for Replaced<R> {
    fn open(&self, port: u16) -> io::Result<u16> {
        self.0.open(port)
    }

    fn close(&self) {
        self.0.bind().close();
    }

    fn set_mark(&self, mark: u32) -> io::Result<()> {
        self.0.bind().set_mark(mark)
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<Woken> {
        self.0.wait(timeout)
    }

    fn wake(&self) {
        self.0.bind().wake();
    }

    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        self.0.recv(batch)
    }

    fn send(&self, batch: &[Transmit<'_>]) -> SendReport {
        self.0.send(batch)
    }

    fn routes(&self) -> u64 {
        self.0.bind().routes()
    }

    fn check_source(&self, endpoint: &Endpoint, was: SourceCheck) -> SourceCheck {
        self.0.bind().check_source(endpoint, was)
    }

    fn zone_index(&self, zone: &str) -> Option<u32> {
        self.0.bind().zone_index(zone)
    }
}
