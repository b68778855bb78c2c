//! The system calls of Unix for a control socket: waiting for clients and for the end of the socket's file, and
//! connections.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::{UnixDatagram, UnixStream},
    },
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, Waker, unix::SourceFd};

use super::{Listener, sys, watch::Watch};

const WAKE: Token = Token(0);
const LISTENER: Token = Token(1);
const FILE: Token = Token(2);

/// Ends the wait of an [`Incoming`].
pub(super) struct Wake(Waker);

impl Wake {
    pub(super) fn wake(&self) -> io::Result<()> {
        self.0.wake()
    }
}

/// Accepts clients.
pub(super) struct Incoming {
    poll: Poll,
    events: Events,
    listener: Listener,
    watch: Option<Watch>,
    /// A descriptor that is released for a connection when there is no other, so that one client can always be served.
    spare: Option<UnixDatagram>,
}

impl Incoming {
    pub(super) fn new(listener: Listener) -> io::Result<(Self, Wake)> {
        listener.socket().set_nonblocking(true)?;
        let watch = listener.path().map(Watch::new);
        let poll = Poll::new()?;
        let register = |fd: RawFd, token| poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE);
        register(listener.socket().as_raw_fd(), LISTENER)?;
        if let Some(fd) = watch.as_ref().and_then(Watch::fd) {
            register(fd.as_raw_fd(), FILE)?;
        }
        let wake = Wake(Waker::new(poll.registry(), WAKE)?);
        let spare = Some(UnixDatagram::unbound()?);
        Ok((Self { poll, events: Events::with_capacity(8), listener, watch, spare }, wake))
    }

    /// Waits for a client, for a change of the socket's file, for a wake-up, or until the time limit. Call it when
    /// [`accept`](Self::accept) would block, or no client can be accepted now.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let look = self.watch.as_ref().and_then(Watch::interval);
        match self.poll.poll(&mut self.events, [timeout, look].into_iter().flatten().min()) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => Err(e),
            _ => Ok(()),
        }
    }

    /// Accepts a client; `WouldBlock` if none waits.
    pub(super) fn accept(&mut self) -> io::Result<ClientStream> {
        self.listener.socket().accept().map(|(stream, _)| ClientStream { stream, idle: Duration::ZERO })
    }

    /// Returns whether a client waits to be accepted. This needs no descriptor.
    pub(super) fn client_waits(&self) -> bool {
        sys::client_waits(self.listener.socket())
    }

    /// Returns whether the socket's file is no longer the same, so that no more clients will connect.
    pub(super) fn is_gone(&self) -> bool {
        self.watch.as_ref().is_some_and(|watch| {
            watch.drain();
            self.listener.is_gone()
        })
    }

    /// Returns whether a descriptor is reserved.
    pub(super) const fn has_spare(&self) -> bool {
        self.spare.is_some()
    }

    /// Releases the reserved descriptor for the next connection. Returns false if no descriptor is reserved.
    pub(super) fn use_spare(&mut self) -> bool {
        self.spare.take().is_some()
    }

    /// Reserves a descriptor again, if one is available.
    pub(super) fn renew_spare(&mut self) {
        if self.spare.is_none() {
            self.spare = UnixDatagram::unbound().ok();
        }
    }
}

/// The interval at which a write checks for room. Linux wakes it only when most of the socket's buffer was read, which
/// takes a slow reader many seconds.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(250);

/// A connection to a client.
pub(super) struct ClientStream {
    stream: UnixStream,
    /// The time limit of a write that waits for the client.
    idle: Duration,
}

impl ClientStream {
    /// Makes reads and writes fail if the client does nothing for this long.
    pub(super) fn set_idle(&mut self, idle: Duration) -> io::Result<()> {
        self.idle = idle;
        // Some systems inherit this from the listener.
        self.stream.set_nonblocking(false)?;
        self.stream.set_read_timeout(Some(idle))?;
        self.stream.set_write_timeout(Some(idle.min(LOOK_FOR_ROOM)))
    }

    pub(super) fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        (&self.stream).read(into)
    }

    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let begun = Instant::now();
        loop {
            match (&self.stream).write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && begun.elapsed() < self.idle => {}
                outcome => return outcome,
            }
        }
    }

    /// Ends current and later reads and writes.
    pub(super) fn shut_down(&self) {
        // The client may have closed it first.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Returns whether the client has closed the connection.
    pub(super) fn has_hung_up(&self) -> bool {
        sys::has_hung_up(&self.stream)
    }
}

#[cfg(test)]
#[allow(clippy::panic, clippy::unwrap_used)]
mod tests;
