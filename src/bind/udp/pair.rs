//! The sockets of both families on one port: opening, reopening and closing them, and what is asked of all of them.
//!
//! Who waits for them is somebody else's business: they are registered where the maker of the pair says.

use super::{
    Counters, SocketHook, UdpStats,
    socket::{self, Lent, Options, Socket, unless_missing},
};
use crate::bind::{
    BATCH, Family, RecvBatch, SendReport, Transmit, interface,
    outgoing::{Origin, Outgoing},
};
use mio::{Interest, Registry, Token};
use std::{
    io,
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// What the events of a pair's sockets carry.
pub(in crate::bind) const SOCKET: Token = Token(1);

/// How often both families are tried on a port that the system chose for the first of them.
const PORT_TRIES: usize = 100;

const BOTH: [Family; 2] = [Family::V4, Family::V6];

/// What is open: one or two sockets on one port.
pub(super) struct Sockets {
    pub(super) port: u16,
    pub(super) each: Vec<Socket>,
    /// What came from outside, and cannot be replaced, goes back as it was.
    lent: Option<Lent>,
    /// Whose turn it is to receive first.
    turn: AtomicUsize,
}

impl Sockets {
    fn family(&self, family: Family) -> Option<&Socket> {
        self.each.iter().find(|socket| socket.family == family)
    }
}

/// The way out that a family was given.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::bind) struct Way {
    /// The index of the interface that it is tied to, or 0 for what the routes say.
    pub(in crate::bind) interface: u32,
    /// Whether everything is dropped instead.
    pub(in crate::bind) blackhole: bool,
}

/// What new sockets are to be like.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    pub(super) mark: u32,
    ways: [Way; 2],
}

/// The sockets of both families.
pub(in crate::bind) struct Pair {
    /// Where the sockets of each family are registered.
    registries: [Registry; 2],
    /// Read while sending and receiving, which blocks for no longer than the patience of the options; written to swap
    /// them.
    sockets: RwLock<Option<Sockets>>,
    /// Held throughout everything that makes or changes sockets, so that it happens one after another.
    wanted: Mutex<Wanted>,
    pub(in crate::bind) hook: Option<SocketHook>,
    pub(in crate::bind) options: Options,
    counters: Counters,
}

impl Pair {
    pub(in crate::bind) fn new(registries: [Registry; 2]) -> Self {
        Self {
            registries,
            sockets: RwLock::new(None),
            wanted: Mutex::default(),
            hook: None,
            options: Options::default(),
            counters: Counters::default(),
        }
    }

    /// One of the places where the sockets are registered.
    pub(in crate::bind) const fn registry(&self) -> &Registry {
        &self.registries[0]
    }

    /// Opens, or reopens; see [`Bind::open`](crate::bind::Bind::open). Whatever arrived before the sockets were in
    /// place has spent its event on the old ones, so wake who waits.
    pub(in crate::bind) fn open(&self, port: u16) -> io::Result<u16> {
        self.open_as(&self.wanted(), port)
    }

    /// As [`open`](Self::open), if it is open. `None` if it is not.
    pub(in crate::bind) fn reopen(&self, port: u16) -> Option<io::Result<u16>> {
        let wanted = self.wanted();
        match self.with_sockets(|sockets| sockets.lent.is_some())? {
            true => Some(Err(io::ErrorKind::Unsupported.into())),
            false => Some(self.open_as(&wanted, port)),
        }
    }

    fn open_as(&self, wanted: &Wanted, port: u16) -> io::Result<u16> {
        if port != 0 && self.port() == Some(port) {
            self.renew(port, wanted)?;
        } else {
            self.replace(Some(self.make(&BOTH, port, wanted)?));
        }
        Ok(self.port().unwrap_or(port))
    }

    /// Opens with a socket that exists and is bound. When it is closed, or if this fails, the socket is as it was before.
    pub(in crate::bind) fn adopt(&self, socket: socket2::Socket) -> io::Result<u16> {
        let wanted = self.wanted();
        let datagrams = socket.r#type()? == socket2::Type::DGRAM;
        let address = socket.local_addr()?.as_socket().filter(|address| datagrams && address.port() != 0);
        let not_one = || io::Error::new(io::ErrorKind::InvalidInput, "it is not a UDP socket, or not bound");
        let address = address.ok_or_else(not_one)?;
        let family = Family::of(address);
        let lent = Lent::new(&socket)?;
        socket::prepare(&socket, wanted.mark)?;
        let socket = self.register(Socket::set_up(socket, family, None, self.options)?, &wanted)?;
        let sockets = Sockets { port: address.port(), each: vec![socket], lent: Some(lent), turn: AtomicUsize::new(0) };
        self.replace(Some(sockets));
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
            return Ok(()); // For this, nobody needs permission.
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

    /// Gives a family a way out, now and when it is reopened. If it fails, the old way stays. Wake who waits: the
    /// sockets may be fresh ones.
    pub(in crate::bind) fn set_way(&self, family: Family, way: Way) -> io::Result<()> {
        let mut current = self.wanted();
        let mut wanted = *current;
        wanted.ways[family as usize] = way;
        let own = self.with_sockets(|sockets| sockets.lent.is_none()).unwrap_or(false);
        let set = self.with_socket(family, |socket| socket.set_way(way));
        match set.unwrap_or_else(|| interface::check(way.interface)) {
            // On Linux everybody may tie a socket, but not everybody may tie it anew.
            Err(err) if err.kind() == io::ErrorKind::PermissionDenied && own => {
                self.open_as(&wanted, self.port().unwrap_or(0))?;
            }
            set => set?,
        }
        *current = wanted;
        Ok(())
    }

    /// Which families have a socket. `None` if it is not open.
    pub(in crate::bind) fn families(&self) -> Option<[bool; 2]> {
        self.with_sockets(|sockets| BOTH.map(|family| sockets.family(family).is_some()))
    }

    pub(in crate::bind) fn port(&self) -> Option<u16> {
        self.with_sockets(|sockets| sockets.port)
    }

    /// Whether several datagrams of a family can leave as one message.
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

    /// Fills free slots of `batch` with what came for both families.
    pub(in crate::bind) fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
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

    /// Fills free slots of `batch` with what came for one family. `None` if it has no socket.
    pub(in crate::bind) fn recv_of(&self, family: Family, batch: &mut RecvBatch) -> Option<io::Result<()>> {
        self.with_socket(family, |socket| socket.recv(batch, &self.counters))
    }

    /// Sends up to [`BATCH`] transmits; `origins` is empty or says how each was made.
    pub(in crate::bind) fn send(&self, batch: &[Transmit<'_>], origins: &[Origin], report: &mut SendReport) {
        let (batch, rest) = batch.split_at(batch.len().min(BATCH));
        report.dropped += rest.iter().map(Transmit::datagrams).sum::<usize>();
        let open = self.sockets.read().unwrap_or_else(PoisonError::into_inner);
        for family in BOTH {
            let mut outgoing = Outgoing::new(batch, origins, family, report).with_patience(self.options.patience);
            match open.as_ref().and_then(|sockets| sockets.family(family)) {
                Some(socket) => socket.send(&mut outgoing, &self.counters),
                None => outgoing.no_socket(),
            }
            if outgoing.overflowed() > 0 {
                self.counters.send_full.fetch_add(outgoing.overflowed() as u64, Relaxed);
            }
        }
    }

    fn with_sockets<R>(&self, act: impl FnOnce(&Sockets) -> R) -> Option<R> {
        self.sockets.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(act)
    }

    fn with_socket<R>(&self, family: Family, act: impl FnOnce(&Socket) -> R) -> Option<R> {
        self.with_sockets(|sockets| sockets.family(family).map(act)).flatten()
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// New sockets, not bound yet. Of those families that the host has.
    fn make_bare(&self, families: &[Family], mark: u32) -> io::Result<Vec<(Family, socket2::Socket)>> {
        of_families(families, |family| {
            let socket = socket::make(*family, mark, self.hook.as_ref())?;
            Ok(socket.map(|socket| (*family, socket)))
        })
    }

    /// Binds bare sockets to one port and registers them.
    fn bind_all(&self, bare: Vec<(Family, socket2::Socket)>, mut port: u16, wanted: &Wanted) -> io::Result<Sockets> {
        let each = of_families(bare, |(family, socket)| {
            let Some(socket) = unless_missing(Socket::set_up(socket, family, Some(port), self.options))? else {
                return Ok(None);
            };
            port = socket.io.local_addr()?.port();
            self.register(socket, wanted).map(Some)
        })?;
        Ok(Sockets { port, each, lent: None, turn: AtomicUsize::new(0) })
    }

    fn register(&self, mut socket: Socket, wanted: &Wanted) -> io::Result<Socket> {
        socket.set_way(wanted.ways[socket.family as usize])?;
        self.registries[socket.family as usize].register(&mut socket.io, SOCKET, Interest::READABLE)?;
        Ok(socket)
    }

    /// Sockets of those `families` that the host has, on `port` or on one that is free in all of them.
    pub(super) fn make(&self, families: &[Family], port: u16, wanted: &Wanted) -> io::Result<Sockets> {
        for _ in 1..PORT_TRIES {
            match self.bind_all(self.make_bare(families, wanted.mark)?, port, wanted) {
                Err(err) if port == 0 && err.kind() == io::ErrorKind::AddrInUse => {}
                result => return result,
            }
        }
        self.bind_all(self.make_bare(families, wanted.mark)?, port, wanted)
    }

    /// Fresh sockets on the port of those that are open. The port is shared for the moment in which both are, so that
    /// there is no moment without, and the old ones stay if the fresh ones fail. (To close the old ones first would not
    /// do: a child process that is just being started may still hold their port.)
    fn renew(&self, port: u16, wanted: &Wanted) -> io::Result<()> {
        let fresh = self.make_bare(&BOTH, wanted.mark)?;
        let share_old = |share| self.with_sockets(|old| old.each.iter().for_each(|socket| socket.share_port(share)));
        share_old(true);
        fresh.iter().for_each(|(_, socket)| socket::share_port(socket, true));
        let renewed = self.bind_all(fresh, port, wanted).map(|new| self.replace(Some(new)));
        share_old(false);
        renewed
    }

    /// Puts `new` in the place of what is open, and closes that.
    pub(super) fn replace(&self, new: Option<Sockets>) {
        let old = std::mem::replace(&mut *self.write(), new);
        for mut socket in old.into_iter().flat_map(|sockets| sockets.each) {
            if let Err(err) = self.registries[socket.family as usize].deregister(&mut socket.io) {
                tracing::debug!(%err, "cannot deregister a socket");
            }
        }
    }

    fn write(&self) -> RwLockWriteGuard<'_, Option<Sockets>> {
        self.sockets.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What `make` makes of each item, without those for which it says that the host has no such family.
fn of_families<I: IntoIterator, T>(items: I, make: impl FnMut(I::Item) -> io::Result<Option<T>>) -> io::Result<Vec<T>> {
    let made: Vec<T> = items.into_iter().map(make).filter_map(Result::transpose).collect::<io::Result<_>>()?;
    if made.is_empty() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "this host has neither IPv4 nor IPv6"));
    }
    Ok(made)
}
