//! The wait of a descriptor's [`Tun`](super::Tun): one poll over the descriptor, a waker, and an optional second
//! source.

use mio::{Events, Interest, Poll, Registry, Token, Waker, unix::SourceFd};
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    sync::Mutex,
    time::Duration,
};

use crate::sync;

const PACKETS: Token = Token(0);
const WAKER: Token = Token(1);
const CHANGES: Token = Token(2);

/// Waits for packets, changes and wake-ups. It has no periodic tick: without a reason, no thread wakes.
///
/// mio is edge-triggered: a descriptor that still has packets does not wake the thread again. So everything must have
/// been read until it would block before the next wait.
#[derive(Debug)]
pub(super) struct Waiter {
    poll: Mutex<(Poll, Events)>,
    registry: Registry,
    waker: Waker,
    /// The descriptor of the poll itself, for other polls.
    fd: RawFd,
}

impl Waiter {
    pub(super) fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let waker = Waker::new(&registry, WAKER)?;
        let fd = poll.as_raw_fd();
        // Room for all of them at once, also while a descriptor is replaced: then there are two of each kind.
        Ok(Self { poll: Mutex::new((poll, Events::with_capacity(8))), registry, waker, fd })
    }

    /// Waits for packets from `fd`, which must stay open until [`remove`](Self::remove), or as long as this lives.
    pub(super) fn add_packets(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.registry.register(&mut SourceFd(&fd.as_raw_fd()), PACKETS, Interest::READABLE)
    }

    /// Also waits for changes from `fd`.
    #[allow(dead_code, reason = "not every system reports changes through a descriptor")]
    pub(super) fn add_changes(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.registry.register(&mut SourceFd(&fd.as_raw_fd()), CHANGES, Interest::READABLE)
    }

    /// Stops waiting for `fd`. Closing it is not enough if it has duplicates, as in a child process before it executes
    /// another program.
    pub(super) fn remove(&self, fd: BorrowedFd<'_>) {
        if let Err(err) = self.registry.deregister(&mut SourceFd(&fd.as_raw_fd())) {
            tracing::debug!(%err, "a descriptor was not waited for any more");
        }
    }

    /// Waits, and returns whether there may be changes. It may return without a reason.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        // The lock is held during the wait: only one thread waits, and no other takes it.
        let mut guard = sync::lock(&self.poll);
        let (poll, events) = &mut *guard;
        match poll.poll(events, timeout) {
            Ok(()) => Ok(events.iter().any(|e| e.token() == CHANGES)),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// Implements [`Tun::register`](super::Tun::register): a poll can be polled itself.
    pub(super) fn register(&self, registry: &Registry, token: Token) -> io::Result<bool> {
        registry.register(&mut SourceFd(&self.fd), token, Interest::READABLE).map(|()| true)
    }

    /// Implements [`Tun::deregister`](super::Tun::deregister).
    pub(super) fn deregister(&self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut SourceFd(&self.fd))
    }

    /// Ends the current or the next wait.
    pub(super) fn wake(&self) {
        if let Err(err) = self.waker.wake() {
            tracing::error!(%err, "cannot wake the thread that reads packets");
        }
    }
}
