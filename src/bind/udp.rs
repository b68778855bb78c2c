//! [`UdpBind`]: a pair of UDP sockets of the operating system.
//!
//! This file knows what is the same everywhere: ports, reopening, waiting. How batches pass a socket is a matter of its
//! driver: `linux.rs` on Linux and Android, `fallback.rs` elsewhere.

#[cfg(not(any(target_os = "linux", target_os = "android")))]
use super::fallback::interface_index;
#[cfg(any(target_os = "linux", target_os = "android"))]
use super::linux::{self, interface_index};
use super::{BATCH, Bind, Family, RecvBatch, SendReport, Transmit, fallback, outgoing::Outgoing};
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use std::{
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
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

/// How datagrams pass a socket on this system.
#[derive(Debug)]
enum Driver {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    Linux(linux::Driver),
    Portable(fallback::Driver),
}

/// One socket, bound and registered with the poll.
#[derive(Debug)]
struct Socket {
    io: mio::net::UdpSocket,
    family: Family,
    driver: Driver,
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

impl Driver {
    /// Prepares the socket for its work and binds it.
    fn bind(socket: &socket2::Socket, family: Family, port: u16, offload: bool, portable: bool) -> io::Result<Self> {
        let any: SocketAddr = match family {
            Family::V4 => (Ipv4Addr::UNSPECIFIED, port).into(),
            Family::V6 => (Ipv6Addr::UNSPECIFIED, port).into(),
        };
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if !portable {
            let driver = linux::Driver::new(std::os::fd::AsFd::as_fd(socket), family, offload)?;
            socket.bind(&any.into())?;
            return Ok(Self::Linux(driver));
        }
        let _ = portable;
        socket.bind(&any.into())?;
        Ok(Self::Portable(fallback::Driver::new(socket, family, offload)?))
    }
}

impl Socket {
    fn send(&self, outgoing: &mut Outgoing<'_>, counters: &Counters) {
        match &self.driver {
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Driver::Linux(driver) => driver.send(std::os::fd::AsFd::as_fd(&self.io), outgoing, counters),
            Driver::Portable(driver) => driver.send(&self.io, outgoing, counters),
        }
    }

    fn recv(&self, batch: &mut RecvBatch, counters: &Counters) -> io::Result<()> {
        match &self.driver {
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Driver::Linux(driver) => driver.recv(std::os::fd::AsFd::as_fd(&self.io), batch, counters),
            Driver::Portable(driver) => driver.recv(&self.io, batch, counters),
        }
    }
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
            poller: Mutex::new(Poller {
                poll,
                events: Events::with_capacity(8),
            }),
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
    /// the ECN bits of the TOS byte, never fragments, and is slower.
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
        self.with_sockets(|sockets| sockets.family(family).map(|socket| socket.io.as_raw_fd()))
            .flatten()
    }

    fn with_sockets<R>(&self, act: impl FnOnce(&Sockets) -> R) -> Option<R> {
        self.sockets
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map(act)
    }

    /// A socket that is not bound yet, shown to the hook and marked. `None` if the host does not have the family.
    fn prepare(&self, family: Family, mark: u32) -> io::Result<Option<socket2::Socket>> {
        let domain = match family {
            Family::V4 => socket2::Domain::IPV4,
            Family::V6 => socket2::Domain::IPV6,
        };
        let made = socket2::Socket::new(domain, socket2::Type::DGRAM, Some(socket2::Protocol::UDP));
        let Some(socket) = unless_missing(made)? else {
            return Ok(None);
        };
        if let Some(hook) = &self.hook {
            #[cfg(not(windows))]
            hook(std::os::fd::AsFd::as_fd(&socket), family)?;
            #[cfg(windows)]
            hook(std::os::windows::io::AsSocket::as_socket(&socket), family)?;
        }
        socket.set_nonblocking(true)?;
        if family == Family::V6 {
            socket.set_only_v6(true)?;
        }
        if mark != 0 {
            mark_socket(socket2::SockRef::from(&socket), mark)?;
        }
        enlarge(BUFFER, |size| socket.set_recv_buffer_size(size));
        enlarge(BUFFER, |size| socket.set_send_buffer_size(size));
        Ok(Some(socket))
    }

    fn prepare_all(&self, families: &[Family], mark: u32) -> io::Result<Vec<(Family, socket2::Socket)>> {
        of_families(families, |family| {
            Ok(self.prepare(*family, mark)?.map(|socket| (*family, socket)))
        })
    }

    /// Binds prepared sockets to one port and registers them.
    fn bind_all(&self, fresh: Vec<(Family, socket2::Socket)>, mut port: u16) -> io::Result<Sockets> {
        let each = of_families(fresh, |(family, socket)| {
            let driver = Driver::bind(&socket, family, port, self.offload, self.portable);
            let Some(driver) = unless_missing(driver)? else {
                return Ok(None);
            };
            let mut io = mio::net::UdpSocket::from_std(socket.into());
            port = io.local_addr()?.port();
            self.registry.register(&mut io, SOCKET, Interest::READABLE)?;
            Ok(Some(Socket { io, family, driver }))
        })?;
        Ok(Sockets {
            port,
            each,
            turn: AtomicUsize::new(0),
        })
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

    /// New sockets on the port of those that are open, which have to go first. Senders wait meanwhile. If the new ones
    /// fail, the old ones are made anew.
    fn renew(&self, port: u16, mark: u32) -> io::Result<()> {
        let fresh = self.prepare_all(&BOTH, mark)?;
        let mut open = self.write();
        let had: Vec<Family> = open
            .iter()
            .flat_map(|old| &old.each)
            .map(|socket| socket.family)
            .collect();
        self.retire(open.take());
        let renewed = self.bind_all(fresh, port).map(|sockets| *open = Some(sockets));
        drop(open);
        if renewed.is_err() {
            match self.make(&had, port, mark) {
                Ok(sockets) => self.replace(Some(sockets)),
                Err(err) => tracing::debug!(%err, "cannot go back to the old port"),
            }
        }
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
    /// With the port that is open already, fresh sockets take over that port. Datagrams that the old ones have not
    /// delivered yet are lost, as with any reopening.
    fn open(&self, port: u16) -> io::Result<u16> {
        let mark = lock(&self.mark);
        let current = self.with_sockets(|sockets| sockets.port);
        if port != 0 && current == Some(port) {
            self.renew(port, *mark)?;
        } else {
            self.replace(Some(self.make(&BOTH, port, *mark)?));
        }
        // Whatever arrived before the sockets were in place has spent its event on the old ones.
        self.wake();
        Ok(self.with_sockets(|sockets| sockets.port).unwrap_or(port))
    }

    fn close(&self) {
        let _order = lock(&self.mark);
        self.replace(None);
        self.wake();
    }

    fn set_mark(&self, mark: u32) -> io::Result<()> {
        let mut current = lock(&self.mark);
        let set = |sockets: &Sockets, mark| {
            let mut each = sockets.each.iter();
            each.try_for_each(|socket| mark_socket(socket2::SockRef::from(&socket.io), mark))
        };
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

    fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        let mut poller = lock(&self.poller);
        let Poller { poll, events } = &mut *poller;
        match poll.poll(events, timeout) {
            Err(err) if err.kind() != io::ErrorKind::Interrupted => Err(err),
            _ => Ok(()),
        }
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
        let mut report = SendReport {
            dropped: rest.iter().map(Transmit::datagrams).sum(),
            ..SendReport::default()
        };
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
            Err(_) => interface_index(zone),
        }
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
    let made: Vec<T> = items
        .into_iter()
        .map(make)
        .filter_map(Result::transpose)
        .collect::<io::Result<_>>()?;
    if made.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this host has neither IPv4 nor IPv6",
        ));
    }
    Ok(made)
}

/// Asks for `size` bytes, and for less if that is refused (some systems cap it instead).
fn enlarge(mut size: usize, set: impl Fn(usize) -> io::Result<()>) {
    while set(size).is_err() && size > 1 << 16 {
        size /= 2;
    }
}

/// `None` if an attempt failed because the host does not have the address family.
fn unless_missing<T>(attempt: io::Result<T>) -> io::Result<Option<T>> {
    #[cfg(not(windows))]
    const NO_FAMILY: i32 = libc::EAFNOSUPPORT;
    #[cfg(windows)]
    const NO_FAMILY: i32 = 10047;
    match attempt {
        Err(err) if err.raw_os_error() == Some(NO_FAMILY) || err.kind() == io::ErrorKind::AddrNotAvailable => Ok(None),
        attempt => attempt.map(Some),
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn mark_socket(socket: socket2::SockRef<'_>, mark: u32) -> io::Result<()> {
    socket.set_mark(mark)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn mark_socket(_: socket2::SockRef<'_>, _: u32) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
