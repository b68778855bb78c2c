//! The turns of a TCP connection and its stream socket.

use std::{sync::Arc, time::Duration};

use mio::event;
use rustix::fd::BorrowedFd;

use super::{
    stream::Ours,
    thread::{Outcome, Scratch, Source},
};
use crate::{
    Notify, TcpStream,
    copy::{Event, Relay},
};

/// The idle time after which a peer is probed: a program has no socket option for it.
const KEEPALIVE: Duration = Duration::from_secs(300);

/// Joins our end of a pair and a connection.
pub(super) fn join(ours: Ours, stream: TcpStream) -> Relay<Ours> {
    stream.set_default_keepalive(KEEPALIVE);
    Relay::new(ours, stream, false)
}

/// Resets a connection for which there is no descriptor.
pub(super) fn give_up(stream: &TcpStream) {
    // In a child of `fork()` another thread may have held its lock.
    if !stream.is_forked() {
        stream.reset();
    }
}

impl Source for Relay<Ours> {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.side.descriptor()
    }

    fn source(&mut self) -> &mut dyn event::Source {
        self.side.source()
    }

    fn set_notify(&self, notify: Arc<dyn Notify>) {
        self.set_notify(notify);
    }

    fn turn(&mut self, event: Event, _scratch: &mut Scratch) -> Outcome {
        self.turn(event).into()
    }

    fn end(&mut self) {
        self.reset();
    }
}
