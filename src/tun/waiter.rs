//! The wait of a descriptor's [`Tun`](super::Tun): one poll over the descriptor, a waker, and an optional second
//! source. The descriptor can be moved to another poll, so that a thread needs one call to learn of packets there.

use mio::{Events, Interest, Poll, Registry, Token, Waker, unix::SourceFd};
use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::{poll::Registered, sync};

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
    packets: Mutex<Packets>,
}

/// The descriptors that packets are read from, and the poll that waits for them.
#[derive(Debug, Default)]
struct Packets {
    /// Two while one replaces the other.
    fds: Vec<RawFd>,
    /// Another poll, and their token there; `None` if they are in that of the [`Waiter`].
    elsewhere: Option<(Arc<Registry>, Token)>,
}

impl Waiter {
    pub(super) fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let waker = Waker::new(&registry, WAKER)?;
        let fd = poll.as_raw_fd();
        // Room for all of them at once, also while a descriptor is replaced: then there are two of each kind.
        let poll = Mutex::new((poll, Events::with_capacity(8)));
        Ok(Self { poll, registry, waker, fd, packets: Mutex::default() })
    }

    /// Waits for packets from `fd`, which must stay open until [`remove_packets`](Self::remove_packets), or as long as
    /// this lives.
    pub(super) fn add_packets(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let mut packets = sync::lock(&self.packets);
        let (registry, token) = self.place(packets.elsewhere.as_ref());
        registry.register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)?;
        packets.fds.push(fd.as_raw_fd());
        Ok(())
    }

    /// Stops waiting for packets from `fd`. Closing it is not enough if it has duplicates, as in a child process before
    /// it executes another program.
    pub(super) fn remove_packets(&self, fd: BorrowedFd<'_>) {
        let mut packets = sync::lock(&self.packets);
        packets.fds.retain(|other| *other != fd.as_raw_fd());
        remove(self.place(packets.elsewhere.as_ref()).0, fd.as_raw_fd());
    }

    /// Also waits for changes from `fd`, until [`remove_changes`](Self::remove_changes).
    #[allow(dead_code, reason = "not every system reports changes through a descriptor")]
    pub(super) fn add_changes(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.registry.register(&mut SourceFd(&fd.as_raw_fd()), CHANGES, Interest::READABLE)
    }

    /// Stops waiting for changes from `fd`.
    #[allow(dead_code, reason = "not every system reports changes through a descriptor")]
    pub(super) fn remove_changes(&self, fd: BorrowedFd<'_>) {
        remove(&self.registry, fd.as_raw_fd());
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

    /// Implements [`Tun::register`](super::Tun::register): packets are waited for in that poll, and everything else by
    /// polling this poll there.
    pub(super) fn register(&self, registry: &Arc<Registry>, tokens: Registered<Token>) -> io::Result<bool> {
        registry.register(&mut SourceFd(&self.fd), tokens.other, Interest::READABLE)?;
        if let Err(err) = self.move_packets(Some((registry.clone(), tokens.packets))) {
            remove(registry, self.fd);
            return Err(err);
        }
        Ok(true)
    }

    /// Implements [`Tun::deregister`](super::Tun::deregister).
    pub(super) fn deregister(&self, registry: &Registry) -> io::Result<()> {
        self.move_packets(None)?;
        registry.deregister(&mut SourceFd(&self.fd))
    }

    /// Waits for packets in another poll, or in this one again. Packets that wait already are an event there. If it
    /// fails, nothing has changed.
    fn move_packets(&self, to: Option<(Arc<Registry>, Token)>) -> io::Result<()> {
        let mut packets = sync::lock(&self.packets);
        let (registry, token) = self.place(to.as_ref());
        for (i, fd) in packets.fds.iter().enumerate() {
            if let Err(err) = registry.register(&mut SourceFd(fd), token, Interest::READABLE) {
                packets.fds[..i].iter().for_each(|fd| remove(registry, *fd));
                return Err(err);
            }
        }
        let from = mem::replace(&mut packets.elsewhere, to);
        let (registry, _) = self.place(from.as_ref());
        packets.fds.iter().for_each(|fd| remove(registry, *fd));
        Ok(())
    }

    fn place<'a>(&'a self, elsewhere: Option<&'a (Arc<Registry>, Token)>) -> (&'a Registry, Token) {
        elsewhere.map_or((&self.registry, PACKETS), |(registry, token)| (registry, *token))
    }

    /// Ends the current or the next wait.
    pub(super) fn wake(&self) {
        if let Err(err) = self.waker.wake() {
            tracing::error!(%err, "cannot wake the thread that reads packets");
        }
    }
}

fn remove(registry: &Registry, fd: RawFd) {
    if let Err(err) = registry.deregister(&mut SourceFd(&fd)) {
        tracing::debug!(%err, "a descriptor was not waited for any more");
    }
}
