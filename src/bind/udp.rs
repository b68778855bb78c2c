//! [`UdpBind`]: a pair of UDP sockets of the operating system.
//!
//! This file knows what is the same everywhere: ports, reopening, waiting. How batches pass a socket is a matter of its
//! driver: `linux.rs` on Linux and Android, `fallback.rs` elsewhere; `udp/socket.rs` chooses.

mod socket;

use super::{BATCH, Bind, Family, RecvBatch, SendReport, Transmit, Woken, outgoing::Outgoing};
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use socket::{Socket, unless_missing};
use std::{
    fmt, io,
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

/// The socket buffers that are asked for, as far as the system allows. At 3 Gbit/s they bridge 10 ms in which the
/// receiving thread does not run; more would only make datagrams older.
pub(super) const BUFFER: usize = 4 << 20;

/// How often both families are tried on a port that the system chose for the first of them.
const PORT_TRIES: usize = 100;

const BOTH: [Family; 2] = [Family::V4, Family::V6];

const WAKE: Token = Token(0);
const SOCKET: Token = Token(1);
const JOINED: Token = Token(2);

/// A socket that is lent to a [`SocketHook`].
#[cfg(not(windows))]
pub type BorrowedSocket<'a> = std::os::fd::BorrowedFd<'a>;
/// A socket that is lent to a [`SocketHook`].
#[cfg(windows)]
pub type BorrowedSocket<'a> = std::os::windows::io::BorrowedSocket<'a>;

/// Is shown each new socket before its first byte, for example to keep it out of the tunnel (Android's
/// `VpnService.protect`). If it fails, so does the `open` that made the socket. It runs on the thread that called `open`,
/// and must not call `open`, `close` or `set_mark` itself.
pub type SocketHook = Box<dyn Fn(BorrowedSocket<'_>, Family) -> io::Result<()> + Send + Sync>;

/// Counts since the bind was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UdpStats {
    /// GSO sends that the system refused and that were sent again as single datagrams.
    pub gso_refused: u64,
    /// Sockets on which GSO was given up because the system or the way out cannot do it.
    pub gso_disabled: u64,
    /// Datagrams that were too large for their slot, and lost.
    pub truncated: u64,
    /// Errors that receiving met and passed over.
    pub recv_errors: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) gso_refused: AtomicU64,
    pub(super) gso_disabled: AtomicU64,
    pub(super) truncated: AtomicU64,
    pub(super) recv_errors: AtomicU64,
}

/// What is open: one or two sockets on one port.
#[derive(Debug)]
struct Sockets {
    port: u16,
    each: Vec<Socket>,
    /// Whose turn it is to receive first.
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Poller {
    poll: Poll,
    events: Events,
}

/// A pair of UDP sockets on one port.
pub struct UdpBind {
    /// Held by the thread that waits, and by nobody else.
    poller: Mutex<Poller>,
    registry: Registry,
    waker: Waker,
    /// Read while sending and receiving, which never blocks for longer than a few milliseconds; written to swap them.
    sockets: RwLock<Option<Sockets>>,
    /// The mark of new sockets. Held throughout `open`, `close` and `set_mark`, so that they happen one after another.
    mark: Mutex<u32>,
    hook: Option<SocketHook>,
    offload: bool,
    portable: bool,
    counters: Counters,
}

impl Sockets {
    fn family(&self, family: Family) -> Option<&Socket> {
        self.each.iter().find(|socket| socket.family == family)
    }
}

impl UdpBind {
    /// A bind that is not open yet.
    ///
    /// # Errors
    /// If the system has no more file descriptors, mostly.
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        Ok(Self {
            waker: Waker::new(&registry, WAKE)?,
            poller: Mutex::new(Poller { poll, events: Events::with_capacity(8) }),
            registry,
            sockets: RwLock::new(None),
            mark: Mutex::new(0),
            hook: None,
            offload: true,
            portable: false,
            counters: Counters::default(),
        })
    }

    /// Shows each new socket to `hook` first.
    #[must_use]
    pub fn with_socket_hook(mut self, hook: SocketHook) -> Self {
        self.hook = Some(hook);
        self
    }

    /// Whether to use GSO and GRO where the system has them. It does at first.
    #[must_use]
    pub fn with_offload(mut self, offload: bool) -> Self {
        self.offload = offload;
        self
    }

    /// Uses the portable driver on Linux and Android as well. It sends and receives the same datagrams, but carries only
    /// the ECN bits of the TOS byte, never fragments, is slower, and always needs slots of 65,535 bytes to receive into.
    #[must_use]
    pub fn with_portable_driver(mut self) -> Self {
        self.portable = true;
        self
    }

    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> UdpStats {
        UdpStats {
            gso_refused: self.counters.gso_refused.load(Relaxed),
            gso_disabled: self.counters.gso_disabled.load(Relaxed),
            truncated: self.counters.truncated.load(Relaxed),
            recv_errors: self.counters.recv_errors.load(Relaxed),
        }
    }

    /// The IPv4 socket. It stays the bind's, and is closed by the next `open` or `close`.
    #[cfg(unix)]
    #[must_use]
    pub fn fd4(&self) -> Option<std::os::fd::RawFd> {
        self.fd(Family::V4)
    }

    /// The IPv6 socket. It stays the bind's, and is closed by the next `open` or `close`.
    #[cfg(unix)]
    #[must_use]
    pub fn fd6(&self) -> Option<std::os::fd::RawFd> {
        self.fd(Family::V6)
    }

    #[cfg(unix)]
    fn fd(&self, family: Family) -> Option<std::os::fd::RawFd> {
        use std::os::fd::AsRawFd;
        self.with_sockets(|sockets| sockets.family(family).map(|socket| socket.io.as_raw_fd())).flatten()
    }

    fn with_sockets<R>(&self, act: impl FnOnce(&Sockets) -> R) -> Option<R> {
        self.sockets.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(act)
    }

    fn prepare_all(&self, families: &[Family], mark: u32) -> io::Result<Vec<(Family, socket2::Socket)>> {
        of_families(families, |family| {
            let socket = socket::prepare(*family, mark, self.hook.as_ref())?;
            Ok(socket.map(|socket| (*family, socket)))
        })
    }

    /// Binds prepared sockets to one port and registers them.
    fn bind_all(&self, fresh: Vec<(Family, socket2::Socket)>, mut port: u16) -> io::Result<Sockets> {
        let each = of_families(fresh, |(family, socket)| {
            let bound = Socket::bind(socket, family, port, self.offload, self.portable);
            let Some(mut socket) = unless_missing(bound)? else {
                return Ok(None);
            };
            port = socket.io.local_addr()?.port();
            self.registry.register(&mut socket.io, SOCKET, Interest::READABLE)?;
            Ok(Some(socket))
        })?;
        Ok(Sockets { port, each, turn: AtomicUsize::new(0) })
    }

    /// Sockets of those `families` that the host has, on `port` or on one that is free in all of them.
    fn make(&self, families: &[Family], port: u16, mark: u32) -> io::Result<Sockets> {
        for _ in 1..PORT_TRIES {
            match self.bind_all(self.prepare_all(families, mark)?, port) {
                Err(err) if port == 0 && err.kind() == io::ErrorKind::AddrInUse => {}
                result => return result,
            }
        }
        self.bind_all(self.prepare_all(families, mark)?, port)
    }

    /// Fresh sockets on the port of those that are open. The port is shared for the moment in which both are, so that
    /// there is no moment without, and the old ones stay if the fresh ones fail. (To close the old ones first would not
    /// do: a child process that is just being started may still hold their port.)
    fn renew(&self, port: u16, mark: u32) -> io::Result<()> {
        let fresh = self.prepare_all(&BOTH, mark)?;
        let share_old = |share| self.with_sockets(|old| old.each.iter().for_each(|socket| socket.share_port(share)));
        share_old(true);
        fresh.iter().for_each(|(_, socket)| socket::share_port(socket, true));
        let renewed = self.bind_all(fresh, port).map(|new| self.replace(Some(new)));
        share_old(false);
        renewed
    }

    /// Puts `new` in the place of what is open, and closes that.
    fn replace(&self, new: Option<Sockets>) {
        let old = std::mem::replace(&mut *self.write(), new);
        self.retire(old);
    }

    fn retire(&self, old: Option<Sockets>) {
        for mut socket in old.into_iter().flat_map(|sockets| sockets.each) {
            if let Err(err) = self.registry.deregister(&mut socket.io) {
                tracing::debug!(%err, "cannot deregister a socket");
            }
        }
    }

    fn write(&self) -> RwLockWriteGuard<'_, Option<Sockets>> {
        self.sockets.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bind for UdpBind {
    /// Datagrams that the old sockets have not delivered yet are lost.
    fn open(&self, port: u16) -> io::Result<u16> {
        let mark = lock(&self.mark);
        let current = self.with_sockets(|sockets| sockets.port);
        let opened = if port != 0 && current == Some(port) {
            self.renew(port, *mark)
        } else {
            self.make(&BOTH, port, *mark).map(|sockets| self.replace(Some(sockets)))
        };
        // Whatever arrived before the sockets were in place has spent its event on the old ones.
        self.wake();
        opened.map(|()| self.with_sockets(|sockets| sockets.port).unwrap_or(port))
    }

    fn close(&self) {
        let _order = lock(&self.mark);
        self.replace(None);
        self.wake();
    }

    fn set_mark(&self, mark: u32) -> io::Result<()> {
        let mut current = lock(&self.mark);
        if *current == mark {
            return Ok(()); // For this, nobody needs permission.
        }
        let set = |sockets: &Sockets, mark| sockets.each.iter().try_for_each(|socket| socket.set_mark(mark));
        let result = self.with_sockets(|sockets| {
            set(sockets, mark).inspect_err(|_| {
                if let Err(err) = set(sockets, *current) {
                    tracing::debug!(%err, "cannot go back to the old mark");
                }
            })
        });
        result.unwrap_or(Ok(()))?;
        *current = mark;
        Ok(())
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<Woken> {
        let mut poller = lock(&self.poller);
        let Poller { poll, events } = &mut *poller;
        match poll.poll(events, timeout) {
            Ok(()) => {
                let joined = events.iter().any(|event| event.token() == JOINED);
                Ok(Woken { own: events.iter().any(|event| event.token() != JOINED), joined })
            }
            Err(err) if err.kind() == io::ErrorKind::Interrupted => Ok(Woken::default()),
            Err(err) => Err(err),
        }
    }

    fn joint(&self) -> Option<(&Registry, Token)> {
        Some((&self.registry, JOINED))
    }

    fn wake(&self) {
        if let Err(err) = self.waker.wake() {
            tracing::debug!(%err, "cannot wake the receiver");
        }
    }

    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        let before = batch.len();
        self.with_sockets(|sockets| {
            // The families take turns in who comes first, or else a busy one could fill every batch.
            let turn = sockets.turn.fetch_add(1, Relaxed);
            for i in 0..sockets.each.len() {
                sockets.each[(turn + i) % sockets.each.len()].recv(batch, &self.counters)?;
            }
            Ok(batch.len() - before)
        })
        .unwrap_or(Ok(0))
    }

    fn send(&self, batch: &[Transmit<'_>]) -> SendReport {
        let (batch, rest) = batch.split_at(batch.len().min(BATCH));
        let mut report = SendReport { dropped: rest.iter().map(Transmit::datagrams).sum(), ..SendReport::default() };
        let open = self.sockets.read().unwrap_or_else(PoisonError::into_inner);
        for family in BOTH {
            let mut outgoing = Outgoing::new(batch, family, &mut report);
            match open.as_ref().and_then(|sockets| sockets.family(family)) {
                Some(socket) => socket.send(&mut outgoing, &self.counters),
                None => outgoing.abandon(),
            }
        }
        report
    }

    fn zone_index(&self, zone: &str) -> Option<u32> {
        match zone.parse() {
            Ok(index) => Some(index).filter(|index| *index != 0),
            Err(_) => socket::interface_index(zone),
        }
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let UdpStats { gso_refused, gso_disabled, truncated, recv_errors } = self.stats();
        vec![
            ("udp_gso_refused", gso_refused),
            ("udp_gso_disabled", gso_disabled),
            ("udp_truncated", truncated),
            ("udp_recv_errors", recv_errors),
        ]
    }
}

impl fmt::Debug for UdpBind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpBind")
            .field("port", &self.with_sockets(|sockets| sockets.port))
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What `make` makes of each item, without those for which it says that the host has no such family.
fn of_families<I: IntoIterator, T>(items: I, make: impl FnMut(I::Item) -> io::Result<Option<T>>) -> io::Result<Vec<T>> {
    let made: Vec<T> = items.into_iter().map(make).filter_map(Result::transpose).collect::<io::Result<_>>()?;
    if made.is_empty() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "this host has neither IPv4 nor IPv6"));
    }
    Ok(made)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
