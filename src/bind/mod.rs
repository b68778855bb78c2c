//! UDP in batches: an IPv4 and an IPv6 socket on one port, segmentation offload, and answers that leave from the
//! address they were asked at.
//!
//! For a tunnel there is a trait, [`Bind`], with one implementation per kind of socket. One thread receives (`wait`,
//! `recv`); any thread may send, rebind or wake it at the same time.
//!
//! Without a tunnel there is [`BatchUdp`]: the same sockets on their own, with calls that block until something comes,
//! for any number of threads.

#[cfg(target_vendor = "apple")]
mod apple;
mod batch;
#[cfg(any(target_os = "freebsd", target_os = "openbsd"))]
mod bsd;
pub mod callback;
mod counters;
mod driver;
mod endpoint;
mod fallback;
mod interface;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux;
pub mod mem;
mod outgoing;
mod plain;
mod queue;
mod socket_error;
mod system;
pub mod udp;
#[cfg(windows)]
mod windows;

pub use batch::{BatchOptions, BatchUdp, Received};
pub use endpoint::{DstBytes, Endpoint};
pub use udp::UdpBind;

use std::{fmt, io, net::SocketAddr, time::Duration};

use crate::reserve::zeroed;

/// The largest number of transmits in one [`Bind::send`].
pub const BATCH: usize = 128;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub const fn of(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(_) => Self::V4,
            SocketAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// One or more datagrams of equal size (the last may be shorter) to one endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Transmit<'a> {
    /// Where to.
    pub to: Endpoint,
    /// The datagrams, back to back. One that is empty is a datagram as well.
    pub contents: &'a [u8],
    /// The size of each datagram but the last. Equal to `contents.len()`, or 0, for a single one.
    pub segment_size: usize,
    /// The IPv4 TOS or IPv6 traffic class byte of the outer header.
    pub tos: u8,
}

impl<'a> Transmit<'a> {
    /// How many datagrams this is.
    #[must_use]
    pub fn datagrams(&self) -> usize {
        self.contents.len().div_ceil(self.size()).max(1)
    }

    /// The datagrams, one by one.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let (contents, size) = (self.contents, self.size());
        (0..self.datagrams()).map(move |i| &contents[i * size..contents.len().min((i + 1) * size)])
    }

    /// `segment_size`, where 0 stands for a single datagram.
    fn size(&self) -> usize {
        match self.segment_size {
            0 => self.contents.len().max(1),
            size => size,
        }
    }
}

/// What became of a batch of transmits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendReport {
    /// Datagrams that the operating system took.
    pub sent: usize,
    /// Datagrams that could not be sent.
    pub dropped: usize,
    /// Bit `i` is set if transmit `i` of the batch was dropped, wholly or in part.
    pub dropped_mask: u128,
    /// Bit `i` is set if transmit `i` had a source address that is not ours any more. It was then sent without, and the
    /// caller should forget the address.
    pub stale_source_mask: u128,
    /// Bit `i` is set if transmit `i` was dropped because nothing can be sent to its address from here: there is no
    /// route, or no socket of its family.
    pub unreachable_mask: u128,
    /// Whether GSO was given up on a socket, because the system or the way out cannot do it. What was to be sent with
    /// it was sent without, and counts as any other.
    pub gso_disabled: bool,
    /// What the system said of the first datagram that it refused: an `errno`, or on Windows an error of Winsock.
    pub error: Option<i32>,
}

/// How a source address fits the routes; see [`Bind::check_source`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceCheck {
    /// Whether to send from it. Otherwise the system is to choose one.
    pub keep: bool,
    /// Whether what is sent from it has left, at this check or at one before, through the interface that the peer
    /// reached us through.
    pub returns: bool,
}

impl Default for SourceCheck {
    /// An address that was not checked yet: it is used.
    fn default() -> Self {
        Self { keep: true, returns: false }
    }
}

/// What was received with one slot of a [`RecvBatch`].
#[derive(Clone, Copy, Debug)]
pub struct RecvMeta {
    /// Who sent it and which of our addresses it came to.
    pub from: Endpoint,
    /// Bytes in the slot. 0 stands for a datagram that was empty or too large for a slot, and is of no use.
    pub len: usize,
    /// Size of each datagram in the slot but the last, which may be shorter. Never 0.
    pub segment_size: usize,
    /// The outer header's TOS or traffic class byte; 0 where the system does not report it.
    pub tos: u8,
}

/// Fixed room for what one [`Bind::recv`] receives.
///
/// A slot holds one datagram, or several of one sender that the system has put together (GRO).
#[derive(Debug)]
pub struct RecvBatch {
    buffer: Box<[u8]>,
    slot_len: usize,
    metas: Vec<RecvMeta>,
}

impl RecvBatch {
    /// Room for `slots` slots of `slot_len` bytes. GRO needs slots of 65,535 bytes.
    ///
    /// # Panics
    /// If there is no memory for it.
    #[must_use]
    #[allow(clippy::panic, reason = "documented")]
    pub fn new(slots: usize, slot_len: usize) -> Self {
        Self::try_new(slots, slot_len).unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`new`](Self::new).
    ///
    /// # Errors
    /// `OutOfMemory` if there is no memory for it.
    pub fn try_new(slots: usize, slot_len: usize) -> io::Result<Self> {
        let mut metas = Vec::new();
        metas.try_reserve_exact(slots)?;
        let len = slots.checked_mul(slot_len).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { buffer: zeroed(len)?, slot_len, metas })
    }

    /// How many slots there are in all.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.buffer.len() / self.slot_len
    }

    /// The size of a slot, in bytes.
    #[must_use]
    pub const fn slot_len(&self) -> usize {
        self.slot_len
    }

    /// How many slots are filled.
    #[must_use]
    pub fn len(&self) -> usize {
        self.metas.len()
    }

    /// Whether no slot is filled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.metas.is_empty()
    }

    /// Empties every slot.
    pub fn clear(&mut self) {
        self.metas.clear();
    }

    /// For a [`Bind`]: the slots that are still empty, to receive into. Follow with [`push`](Self::push) for each
    /// filled one, in order.
    pub fn free_slots(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.buffer.chunks_exact_mut(self.slot_len).skip(self.metas.len())
    }

    /// For a [`Bind`]: marks the next slot as filled.
    pub fn push(&mut self, meta: RecvMeta) {
        debug_assert!(meta.len <= self.slot_len && meta.segment_size > 0 && self.metas.len() < self.slots());
        self.metas.push(meta);
    }

    /// For a [`Bind`]: offers the free slots to `fill`, which returns what it put there, until there is no more of
    /// either. Returns how many it filled.
    pub fn fill(&mut self, mut fill: impl FnMut(&mut [u8]) -> Option<RecvMeta>) -> usize {
        let before = self.metas.len();
        for slot in self.buffer.chunks_exact_mut(self.slot_len).skip(before) {
            match fill(slot) {
                Some(meta) => self.metas.push(meta),
                None => break,
            }
        }
        self.metas.len() - before
    }

    /// The filled slots.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&RecvMeta, &mut [u8])> {
        self.metas.iter().zip(self.buffer.chunks_exact_mut(self.slot_len)).map(|(m, slot)| (m, &mut slot[..m.len]))
    }

    /// As [`buffer`](Self::buffer), to change what was received in place.
    pub fn buffer_mut(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub const fn memory(&self) -> usize {
        self.buffer.len() + self.metas.capacity() * size_of::<RecvMeta>()
    }

    /// The whole buffer; the filled part of slot `i` begins at `i * slot_len()`.
    #[must_use]
    pub fn buffer(&self) -> &[u8] {
        &self.buffer
    }
}

/// What ended a [`Bind::wait`]. Neither is set if it was the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Woken {
    /// Something may be received, or `wake` was called.
    pub own: bool,
    /// What is registered with [`Bind::registry`] is ready.
    pub registered: bool,
}

/// A pair of UDP sockets on one port, or something that acts like it.
pub trait Bind: Send + Sync {
    /// Opens, or reopens, and returns the port. 0 lets the system choose; both families then share the port it chose.
    /// The port that is open already gets new sockets. One family missing on this host is fine. If it fails, what was
    /// open stays open; only where the system lets no two sockets have the port that is open already, an old one may be
    /// closed by then. It is then opened again with that port. What is called in here, such as a hook of the app, must
    /// not change the configuration of the device whose bind this is: a change of the port on another thread may wait
    /// for this one.
    ///
    /// # Errors
    /// `AddrInUse` and other errors of the system.
    fn open(&self, port: u16) -> io::Result<u16>;

    /// Closes the sockets. A bind that is not open receives nothing and drops what is sent. Idempotent.
    fn close(&self);

    /// Marks packets sent from now on, across reopening (`SO_MARK` on Linux and Android, `SO_USER_COOKIE` on
    /// FreeBSD, `SO_RTABLE` on OpenBSD; nothing elsewhere).
    ///
    /// # Errors
    /// Errors of the system, for lack of permission mostly; the old mark then stays.
    fn set_mark(&self, mark: u32) -> io::Result<()>;

    /// Does what [`open`](Self::open) and [`set_mark`](Self::set_mark) do, together. If it fails nothing has changed,
    /// and until it has succeeded nothing is sent with the new mark. `old_port` is the port that is open, if one is.
    ///
    /// A bind that may refuse a mark should implement this itself: otherwise the sockets are opened first, and if the
    /// mark is refused then, the old port is opened again.
    ///
    /// # Errors
    /// As those two; `NotConnected` if the old port could not be opened again: then the bind is closed.
    fn open_marked(&self, port: u16, mark: u32, old_port: Option<u16>) -> io::Result<u16> {
        let opened = self.open(port)?;
        let Err(refused) = self.set_mark(mark) else { return Ok(opened) };
        let back = old_port.map(|port| self.open(port));
        if !matches!(back, Some(Ok(_))) {
            self.close();
        }
        Err(match back {
            Some(Err(err)) => io::Error::new(io::ErrorKind::NotConnected, format!("{refused}; the old port: {err}")),
            _ => refused,
        })
    }

    /// Waits until something may be received, something that is registered with [`registry`](Self::registry) is ready,
    /// [`wake`](Self::wake) is called, or `timeout` has passed. Only after `recv` has returned 0. A wake that came
    /// since the last wait ends the wait at once. Time during which the machine sleeps should count, as it does for the
    /// deadline that the tunnel waits for; if it does not, the deadline comes late by as much. May also return without
    /// a reason.
    ///
    /// # Errors
    /// Errors of the system; the tunnel cannot go on then.
    fn wait(&self, timeout: Option<Duration>) -> io::Result<Woken>;

    /// Where something else may register, with that token, to end `wait` as well, so that one thread can wait for both.
    /// `None`, the default, if nothing can.
    fn registry(&self) -> Option<(&mio::Registry, mio::Token)> {
        None
    }

    /// Ends the current or the next `wait`. Any thread may call it.
    fn wake(&self);

    /// Fills free slots of `batch` without waiting and returns how many it filled; 0 means there is nothing now (or no
    /// free slot). Errors of single datagrams (ICMP and the like) are passed over, however many there are.
    ///
    /// # Errors
    /// If a socket cannot be used any more, once: from then on until the next `open` nothing comes from it, and it ends
    /// no `wait`. The receiver should open new ones.
    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize>;

    /// Sends up to [`BATCH`] transmits, in order, without waiting: the thread that sends may be the one that receives.
    /// What cannot be sent now is dropped and reported.
    fn send(&self, batch: &[Transmit<'_>]) -> SendReport;

    /// A number that is another one once routes, rules, addresses or interfaces may have changed. It costs nothing to
    /// ask. A bind that does not notice such changes never changes it.
    fn routes(&self) -> u64 {
        0
    }

    /// Whether the source address of an endpoint is still the one to send from, by the routes as they are now. To be
    /// asked once for each new endpoint and whenever [`routes`](Self::routes) is another number, with the answer of the
    /// time before. An answer goes back to where it was asked, unless its way there is another one now: an address of
    /// the interface that it used to leave by would be wrong there.
    fn check_source(&self, endpoint: &Endpoint, was: SourceCheck) -> SourceCheck {
        let _ = endpoint;
        was
    }

    /// The scope id that an IPv6 zone names; `None` if it names none. Unless a bind knows the names of interfaces, a
    /// zone is a number.
    fn zone_index(&self, zone: &str) -> Option<u32> {
        zone.parse().ok().filter(|index| *index != 0)
    }

    /// Names and values of what it counts itself, in addition to what `send` reports.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// Bytes of memory that datagrams which wait to be received take now.
    fn memory(&self) -> usize {
        0
    }

    /// Gives back what memory it can do without until something is received.
    fn trim(&self) {}

    /// The most that [`memory`](Self::memory) may become. A device has so much less for packets that wait for a
    /// session.
    fn queue_limit(&self) -> usize {
        0
    }
}
