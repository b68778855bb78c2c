//! The sockets of both families on one port: opening, reopening, closing, and operations on all of them.
//!
//! Waiting for them is left to the owner of the pair, in whose polls they are registered.

use super::{
    SocketHook, UdpStats,
    routes::Routes,
    socket::{self, Socket, SocketOptions, unless_missing},
};
use crate::{
    bind::{
        BATCH, Endpoint, Family, RecvBatch, SendReport, SourceCheck, Transmit,
        counters::Counters,
        interface,
        outgoing::{Origin, Outgoing},
        socket_error::is_no_socket,
        system::SavedOptions,
    },
    sync,
};
use mio::{Interest, Registry, Token};
use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, RwLock, RwLockWriteGuard,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

/// The tokens of events of a pair's sockets, by family.
const SOCKETS: [Token; 2] = [Token(1), Token(5)];

/// The number of attempts to open both families on a port that the system chose for the first of them.
const PORT_TRIES: usize = 100;

/// How long to wait for a port that was just released.
const PORT_PATIENCE: Duration = Duration::from_millis(50);

const BOTH: [Family; 2] = [Family::V4, Family::V6];

/// The open sockets: one or two on one port; fewer, if a family could not be reopened.
pub(super) struct Sockets {
    pub(super) port: u16,
    pub(super) each: Vec<Socket>,
    /// The families whose socket was closed so that a new one can take its port.
    gaps: [bool; 2],
    /// The options of an adopted socket, which cannot be replaced.
    adopted: Option<SavedOptions>,
    /// The family that receives first the next time.
    turn: AtomicUsize,
}

impl Sockets {
    fn new(port: u16, each: Vec<Socket>) -> Self {
        Self { port, each, gaps: [false; 2], adopted: None, turn: AtomicUsize::new(0) }
    }

    fn family(&self, family: Family) -> Option<&Socket> {
        self.each.iter().find(|socket| socket.family == family)
    }
}

/// How a family's datagrams leave.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::bind) struct Egress {
    /// The index of the interface that its socket is bound to, or 0 if the routes decide.
    pub(in crate::bind) interface: u32,
    /// Whether all of them are dropped instead.
    pub(in crate::bind) blackhole: bool,
}

/// The settings of new sockets.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    pub(super) mark: u32,
    egress: [Egress; 2],
}

/// The sockets of both families.
pub(in crate::bind) struct Pair {
    /// The registries of the sockets of each family.
    registries: [Arc<Registry>; 2],
    /// Locked for reading while sending and receiving, which block for no longer than the patience of the options; for
    /// writing to replace the sockets.
    sockets: RwLock<Option<Sockets>>,
    /// Held during all operations that create or change sockets, so that these are sequential.
    wanted: Mutex<Wanted>,
    pub(in crate::bind) hook: Option<SocketHook>,
    pub(in crate::bind) options: SocketOptions,
    counters: Counters,
}

impl Pair {
    pub(in crate::bind) fn new(registries: [Arc<Registry>; 2]) -> Self {
        Self {
            registries,
            sockets: RwLock::new(None),
            wanted: Mutex::default(),
            hook: None,
            options: SocketOptions::default(),
            counters: Counters::default(),
        }
    }

    /// Returns one of the registries of the sockets.
    pub(in crate::bind) const fn registry(&self) -> &Arc<Registry> {
        &self.registries[0]
    }

    /// Opens or reopens; see [`Bind::open`](crate::bind::Bind::open). Datagrams that arrived before the sockets were in
    /// place have used up their event on the old ones, so wake the waiting thread.
    pub(in crate::bind) fn open(&self, port: u16) -> io::Result<u16> {
        self.open_as(&self.wanted(), port)
    }

    /// Does the same as [`open`](Self::open), with sockets of another mark. If it fails, the old mark remains.
    pub(in crate::bind) fn open_marked(&self, port: u16, mark: u32) -> io::Result<u16> {
        let mut current = self.wanted();
        let opened = self.open_as(&Wanted { mark, ..*current }, port)?;
        current.mark = mark;
        Ok(opened)
    }

    /// Does the same as [`open`](Self::open), if it is open; returns `None` otherwise.
    pub(in crate::bind) fn reopen(&self, port: u16) -> Option<io::Result<u16>> {
        let wanted = self.wanted();
        match self.with_sockets(|sockets| sockets.adopted.is_some())? {
            true => Some(Err(io::ErrorKind::Unsupported.into())),
            false => Some(self.open_as(&wanted, port)),
        }
    }

    fn open_as(&self, wanted: &Wanted, port: u16) -> io::Result<u16> {
        if port != 0 && self.port() == Some(port) {
            self.reopen_port(port, wanted)?;
        } else {
            self.replace(Some(self.make(self.options.families(), port, wanted)?));
        }
        Ok(self.port().unwrap_or(port))
    }

    /// Opens with an existing bound socket. When the pair is closed, or if this fails, the socket's options are
    /// restored.
    pub(in crate::bind) fn adopt(&self, socket: socket2::Socket) -> io::Result<u16> {
        let wanted = self.wanted();
        let not_one = || io::Error::new(io::ErrorKind::InvalidInput, "it is not a UDP socket, or not bound");
        let kind = socket.r#type().map_err(|err| if is_no_socket(&err) { not_one() } else { err })?;
        let datagrams = kind == socket2::Type::DGRAM;
        let address = socket.local_addr()?.as_socket().filter(|address| datagrams && address.port() != 0);
        let address = address.ok_or_else(not_one)?;
        let family = Family::of(address);
        let adopted = SavedOptions::new(&socket)?;
        socket::prepare(&socket, wanted.mark)?;
        let socket = Socket::set_up(socket, family, None, Egress::default(), self.options)?;
        socket.set_egress(wanted.egress[family as usize])?;
        let socket = self.register(socket)?;
        self.replace(Some(Sockets { adopted: Some(adopted), ..Sockets::new(address.port(), vec![socket]) }));
        Ok(address.port())
    }

    pub(in crate::bind) fn close(&self) {
        let _order = self.wanted();
        self.replace(None);
    }

    /// See [`Bind::set_mark`](crate::bind::Bind::set_mark).
    pub(in crate::bind) fn set_mark(&self, mark: u32) -> io::Result<()> {
        let mut wanted = self.wanted();
        if wanted.mark == mark {
            return Ok(()); // This takes no permission.
        }
        let set = |sockets: &Sockets, mark| sockets.each.iter().try_for_each(|socket| socket.set_mark(mark));
        let result = self.with_sockets(|sockets| {
            set(sockets, mark).inspect_err(|_| {
                if let Err(err) = set(sockets, wanted.mark) {
                    tracing::debug!(%err, "cannot go back to the old mark");
                }
            })
        });
        result.unwrap_or(Ok(()))?;
        wanted.mark = mark;
        Ok(())
    }

    /// Sets how a family's datagrams leave, now and after reopening. If that fails, nothing has changed. The caller
    /// must wake the receiver, as the sockets may be new.
    ///
    /// # Errors
    /// `Unsupported` if the family has no socket, unless no family has one now; `NotFound` if there is no such
    /// interface; errors of the system.
    pub(in crate::bind) fn set_egress(&self, family: Family, egress: Egress) -> io::Result<()> {
        let mut current = self.wanted();
        if self.families().is_some_and(|has| !has[family as usize]) {
            let text = format!("there is no {family} socket");
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        let mut wanted = *current;
        wanted.egress[family as usize] = egress;
        let own = self.with_sockets(|sockets| sockets.adopted.is_none()).unwrap_or(false);
        let set = self.with_socket(family, |socket| socket.set_egress(egress));
        match set.unwrap_or_else(|| interface::check(egress.interface)) {
            // On Linux any program may bind a socket to an interface, but not rebind it to another one.
            Err(err) if err.kind() == io::ErrorKind::PermissionDenied && own => {
                self.open_as(&wanted, self.port().unwrap_or(0))?;
            }
            set => set?,
        }
        *current = wanted;
        Ok(())
    }

    /// Returns which families have a socket, or will have one again. `None` if it is not open.
    pub(in crate::bind) fn families(&self) -> Option<[bool; 2]> {
        self.with_sockets(|open| BOTH.map(|family| open.family(family).is_some() || open.gaps[family as usize]))
    }

    pub(in crate::bind) fn port(&self) -> Option<u16> {
        self.with_sockets(|sockets| sockets.port)
    }

    /// Returns whether several datagrams of a family can be sent as one message.
    pub(in crate::bind) fn joins(&self, family: Family) -> bool {
        self.with_socket(family, Socket::joins).unwrap_or(false)
    }

    #[cfg(unix)]
    pub(in crate::bind) fn fd(&self, family: Family) -> Option<std::os::fd::RawFd> {
        use std::os::fd::AsRawFd;
        self.with_socket(family, |socket| socket.io.as_raw_fd())
    }

    pub(in crate::bind) fn stats(&self) -> UdpStats {
        self.counters.read()
    }

    /// Reports an event of a poll with this token. A token of others is ignored.
    pub(super) fn set_ready(&self, token: Token) {
        for family in BOTH {
            if SOCKETS[family as usize] == token {
                self.with_socket(family, Socket::set_ready);
            }
        }
    }

    /// Returns whether no datagrams were left in any socket when it was last received from, and no event has been
    /// reported since.
    pub(super) fn is_drained(&self) -> bool {
        self.with_sockets(|sockets| !sockets.each.iter().any(Socket::is_ready)).unwrap_or(true)
    }

    /// Fills free slots of `batch` with received datagrams: of both families, or only of those that are `ready`.
    /// Returns their number, and whether there may be more although none were received.
    ///
    /// # Errors
    /// If a socket was lost. That is returned once; from then on its family receives nothing.
    pub(in crate::bind) fn recv(&self, batch: &mut RecvBatch, ready: bool) -> io::Result<(usize, bool)> {
        let before = batch.len();
        self.with_sockets(|sockets| {
            // The families alternate in who is first, or else a busy one could fill every batch.
            let turn = sockets.turn.fetch_add(1, Relaxed);
            let mut more = false;
            for i in 0..sockets.each.len() {
                let socket = &sockets.each[(turn + i) % sockets.each.len()];
                if !ready || socket.is_ready() {
                    // A loss is checked below, so that received datagrams are returned first.
                    more |= socket.recv(batch, &self.counters).unwrap_or(false);
                }
            }
            match batch.len() - before {
                0 => sockets.each.iter().find_map(Socket::take_loss).map_or(Ok((0, more)), Err),
                count => Ok((count, false)),
            }
        })
        .unwrap_or(Ok((0, false)))
    }

    /// Fills free slots of `batch` with received datagrams of one family; returns true if there may be more although
    /// none were received, and `None` if the family has no socket.
    ///
    /// # Errors
    /// If the socket is lost.
    pub(in crate::bind) fn recv_of(&self, family: Family, batch: &mut RecvBatch) -> Option<io::Result<bool>> {
        self.with_socket(family, |socket| socket.recv(batch, &self.counters))
    }

    /// Sends up to [`BATCH`] transmits; `origins` is empty or has the origin of each. Returns whether a socket was lost
    /// by that: the receiver, to which the loss is reported, must then be woken.
    pub(in crate::bind) fn send(&self, batch: &[Transmit<'_>], origins: &[Origin], report: &mut SendReport) -> bool {
        let (batch, rest) = batch.split_at(batch.len().min(BATCH));
        report.dropped += rest.iter().map(Transmit::datagrams).sum::<usize>();
        let open = sync::read(&self.sockets);
        let mut lost = false;
        for family in BOTH {
            let mut outgoing =
                Outgoing::new(batch, origins, family, report).with_patience(self.options.driver.patience);
            match open.as_ref().and_then(|sockets| sockets.family(family)) {
                Some(socket) => lost |= socket.send(&mut outgoing, &self.counters),
                // That is independent of routes, unlike a family that the host does not have.
                None if open.as_ref().is_some_and(|sockets| sockets.gaps[family as usize]) => outgoing.abandon(),
                None => outgoing.no_socket(),
            }
            if outgoing.overflowed() > 0 {
                self.counters.send_full.fetch_add(outgoing.overflowed() as u64, Relaxed);
            }
        }
        lost
    }

    /// See [`Bind::check_source`](crate::bind::Bind::check_source).
    pub(super) fn check_source(&self, routes: &Routes, endpoint: &Endpoint, was: SourceCheck) -> SourceCheck {
        let check = |socket: &Socket| routes.check_source(&socket.io, endpoint, was);
        self.with_socket(Family::of(endpoint.dst), check).unwrap_or(was)
    }

    fn with_sockets<R>(&self, act: impl FnOnce(&Sockets) -> R) -> Option<R> {
        sync::read(&self.sockets).as_ref().map(act)
    }

    fn with_socket<R>(&self, family: Family, act: impl FnOnce(&Socket) -> R) -> Option<R> {
        self.with_sockets(|sockets| sockets.family(family).map(act)).flatten()
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        sync::lock(&self.wanted)
    }

    /// Creates sockets, not yet bound, of those families that the host has.
    fn make_bare(&self, families: &[Family], wanted: &Wanted) -> io::Result<Vec<(Family, socket2::Socket)>> {
        of_families(families, |family| Ok(self.make_one(*family, wanted)?.map(|socket| (*family, socket))))
    }

    fn make_one(&self, family: Family, wanted: &Wanted) -> io::Result<Option<socket2::Socket>> {
        socket::make(family, wanted.mark, wanted.egress[family as usize].interface, self.hook.as_ref())
    }

    /// Binds bare sockets to one port and registers them.
    fn bind_all(&self, bare: Vec<(Family, socket2::Socket)>, mut port: u16, wanted: &Wanted) -> io::Result<Sockets> {
        let each = of_families(bare, |(family, socket)| {
            let bound = self.bind_one(socket, family, port, wanted)?;
            port = bound.as_ref().map_or(Ok(port), |bound| bound.io.local_addr().map(|address| address.port()))?;
            Ok(bound)
        })?;
        Ok(Sockets::new(port, each))
    }

    /// Binds a bare socket and registers it. Returns `None` if the host does not have the family.
    fn bind_one(
        &self,
        bare: socket2::Socket,
        family: Family,
        port: u16,
        wanted: &Wanted,
    ) -> io::Result<Option<Socket>> {
        let egress = wanted.egress[family as usize];
        let bound = Socket::set_up(bare, family, Some(port), egress, self.options);
        // If a configured address is missing, that is an error.
        let bound = if self.options.local.is_some() { Some(bound?) } else { unless_missing(bound)? };
        bound.map(|bound| self.register(bound)).transpose()
    }

    fn register(&self, mut socket: Socket) -> io::Result<Socket> {
        self.registries[socket.family as usize].register(
            &mut socket.io,
            SOCKETS[socket.family as usize],
            Interest::READABLE,
        )?;
        Ok(socket)
    }

    /// Creates sockets of those `families` that the host has, on `port` or on one that is free in all of them.
    pub(super) fn make(&self, families: &[Family], port: u16, wanted: &Wanted) -> io::Result<Sockets> {
        for _ in 1..PORT_TRIES {
            match self.bind_all(self.make_bare(families, wanted)?, port, wanted) {
                Err(err) if port == 0 && err.kind() == io::ErrorKind::AddrInUse => {}
                result => return result,
            }
        }
        self.bind_all(self.make_bare(families, wanted)?, port, wanted)
    }

    /// Opens new sockets on the port of the open ones. If the system lets only sockets of one user share a port, they
    /// do so for a moment: then there is no gap, and the old ones remain if the new ones fail. Otherwise an old one is
    /// closed before the new one takes its port, since a port that can be shared by any user could be taken by one.
    fn reopen_port(&self, port: u16, wanted: &Wanted) -> io::Result<()> {
        let new = self.make_bare(self.options.families(), wanted)?.into_iter();
        let (ours, others): (Vec<_>, Vec<_>) = new.partition(|(family, _)| self.with_socket(*family, |_| ()).is_some());
        // First the families whose port none of our own sockets has: if it is in use, no socket has been closed.
        let all = others.into_iter().chain(ours);
        let reopened = of_families(all, |(family, bare)| self.reopen_one(bare, family, port, wanted));
        let reopened = reopened.map(|each| self.replace(Some(Sockets::new(port, each))));
        self.with_sockets(|open| open.each.iter().for_each(Socket::stop_sharing_port));
        reopened
    }

    fn reopen_one(
        &self,
        bare: socket2::Socket,
        family: Family,
        port: u16,
        wanted: &Wanted,
    ) -> io::Result<Option<Socket>> {
        let shared = self.with_socket(family, |old| old.share_port_with(&bare));
        let mut bound = self.bind_one(bare, family, port, wanted);
        if is_in_use(&bound) && shared == Some(false) {
            self.close_family(family);
            // The system may need a moment to release the port, and a child process that is just being started may
            // still have it.
            let deadline = Instant::now() + PORT_PATIENCE;
            loop {
                bound = match self.make_one(family, wanted)? {
                    Some(bare) => self.bind_one(bare, family, port, wanted),
                    None => Ok(None),
                };
                if !is_in_use(&bound) || Instant::now() >= deadline {
                    break;
                }
                thread::sleep(Duration::from_millis(1));
            }
        }
        bound
    }

    /// Closes the socket of one family. The port remains the one to reopen.
    fn close_family(&self, family: Family) {
        let closed = self.write().as_mut().and_then(|open| {
            let at = open.each.iter().position(|socket| socket.family == family)?;
            open.gaps[family as usize] = true;
            Some(open.each.swap_remove(at))
        });
        closed.into_iter().for_each(|socket| self.discard(socket));
    }

    /// Replaces the open sockets by `new`, and closes them.
    pub(super) fn replace(&self, new: Option<Sockets>) {
        let old = std::mem::replace(&mut *self.write(), new);
        old.into_iter().flat_map(|sockets| sockets.each).for_each(|socket| self.discard(socket));
    }

    fn discard(&self, mut socket: Socket) {
        if let Err(err) = self.registries[socket.family as usize].deregister(&mut socket.io) {
            tracing::debug!(%err, "cannot deregister a socket");
        }
    }

    fn write(&self) -> RwLockWriteGuard<'_, Option<Sockets>> {
        sync::write(&self.sockets)
    }
}

fn is_in_use<T>(bound: &io::Result<T>) -> bool {
    bound.as_ref().is_err_and(|err| err.kind() == io::ErrorKind::AddrInUse)
}

/// Calls `make` for each item and collects the results, without those whose family the host does not have.
fn of_families<I: IntoIterator, T>(items: I, make: impl FnMut(I::Item) -> io::Result<Option<T>>) -> io::Result<Vec<T>> {
    let made: Vec<T> = items.into_iter().map(make).filter_map(Result::transpose).collect::<io::Result<_>>()?;
    if made.is_empty() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "this host has neither IPv4 nor IPv6"));
    }
    Ok(made)
}
