//! A program's own socket that is watched for its end.

use std::{io, sync::Arc};

use mio::event;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{
    pair::{self, Watched},
    thread::{Outcome, Scratch, Source},
};
use crate::{Notify, copy::Event};

/// A socket, and a function that is called when its other side has closed it.
pub(super) struct Watch {
    socket: Watched,
    closed: Option<Box<dyn FnOnce() + Send>>,
}

impl Watch {
    pub(super) fn new(socket: Arc<OwnedFd>, closed: Box<dyn FnOnce() + Send>) -> io::Result<Self> {
        Ok(Self { socket: pair::watched(socket)?, closed: Some(closed) })
    }
}

impl Source for Watch {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn source(&mut self) -> &mut dyn event::Source {
        &mut self.socket
    }

    fn set_notify(&self, _notify: Arc<dyn Notify>) {}

    fn turn(&mut self, event: Event, _scratch: &mut Scratch) -> Outcome {
        if !event.ended {
            return Outcome::Wait;
        }
        if let Some(closed) = self.closed.take() {
            closed();
        }
        Outcome::Done
    }

    fn end(&mut self) {}
}
