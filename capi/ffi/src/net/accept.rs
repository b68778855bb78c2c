//! Connections of a listening descriptor.

use std::io;

use super::{Listening, Net, above_standard_or_reset, intercept::connection, wait::Limit};
use crate::{
    plumbing::fd::check_open,
    types::net::{WG_NET_TCP, wg_net_connection_t},
};
use wg_embed::{
    error::{Error, ErrorKind, Result},
    sync,
};
use wg_embed_netstack::pump::{self, AsRawFd, BorrowedFd, FdId, OwnedFd};

fn ended() -> Error {
    Error::new(ErrorKind::Closed, "the listener has ended")
}

impl Net {
    /// Returns the listener of a descriptor of the app, if it is one.
    pub(super) fn listening(&self, fd: BorrowedFd<'_>) -> Result<Option<Listening>> {
        let id = FdId::of(fd).map_err(|err| Error::io("cannot inspect the descriptor", err))?;
        let listeners = sync::lock(&self.listeners);
        if let Some(inbox) = listeners.inboxes.iter().find(|inbox| inbox.is(id)) {
            return Ok(Some(Listening::Inbox(inbox.clone())));
        }
        if listeners.ended.contains(&id) {
            return Err(ended());
        }
        Ok(listeners.of_pump.iter().find(|(other, _)| *other == id).map(|(_, at)| Listening::OfPump(*at)))
    }

    /// Accepts the next connection of a listener: returns its descriptor and its addresses.
    ///
    /// # Safety
    /// `listener` is not closed during the call.
    pub(crate) unsafe fn accept(&self, listener: i32, limit: Limit) -> Result<(OwnedFd, wg_net_connection_t)> {
        // SAFETY: the caller's contract is the same.
        let listener = unsafe { check_open(listener) }?;
        self.check_open()?;
        let Some(listening) = self.listening(listener)? else {
            let text = format!("descriptor {} does not listen in this network", listener.as_raw_fd());
            return Err(Error::invalid(text));
        };
        loop {
            match self.accept_now(&listening, listener) {
                Ok(Some(accepted)) => return Ok(accepted),
                Ok(None) => {}
                // The end of all connections may be seen before that of the tunnel.
                Err(err) => return Err(self.check_open().err().unwrap_or(err)),
            }
            if limit.is_over() {
                return Err(Error::new(ErrorKind::TimedOut, "no connection arrived within the time limit"));
            }
            // Closing it during the call is not allowed, but would make this loop endless.
            let closed = |_| Error::invalid("the listener was closed while a thread waited for it");
            pump::wait(listener, limit.left()).map_err(closed)?;
        }
    }

    fn accept_now(
        &self,
        listening: &Listening,
        listener: BorrowedFd<'_>,
    ) -> Result<Option<(OwnedFd, wg_net_connection_t)>> {
        let accepted = match listening {
            Listening::Inbox(inbox) => match inbox.pop(listener) {
                Ok(arrived) => return Ok(Some((self.descriptor(arrived.link)?, arrived.connection))),
                Err(err) => Err(err),
            },
            Listening::OfPump(_) => pump::accept(listener),
        };
        match accepted {
            Ok(accepted) => {
                let number = |pump: &_| above_standard_or_reset(pump, accepted.descriptor);
                let fd = self.with_pump("cannot make a descriptor", number)?;
                Ok(Some((fd, connection(WG_NET_TCP, accepted.local, accepted.peer))))
            }
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(err) if err.raw_os_error().is_none() => Err(ended()),
            Err(err) => Err(Error::io("cannot accept a connection", err)),
        }
    }
}
