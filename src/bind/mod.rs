//! UDP in batches: an IPv4 and an IPv6 socket on one port, segmentation offload, and replies from the address that the
//! peer sent to.
//!
//! The trait [`Bind`] is for tunnels, with one implementation for each kind of socket. One thread receives (`wait`,
//! `recv`); any thread may send, rebind or wake it at the same time.
//!
//! [`BatchUdp`] is for use without a tunnel: the same sockets with calls that block until datagrams arrive, for any
//! number of threads.

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
#[cfg(feature = "test-util")]
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

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use crate::{poll::Registered, reserve::zeroed};

/// The maximum number of transmits in one [`Bind::send`].
pub const BATCH: usize = 128;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Returns the family of an address.
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
///
/// ```
/// use wg_embed::bind::{Endpoint, Transmit};
///
/// let to = Endpoint::parse("192.0.2.1:51820")?;
/// let batch = Transmit::new(to, b"aabbc").with_segments(2);
/// assert_eq!(batch.segments().collect::<Vec<_>>(), [&b"aa"[..], b"bb", b"c"]);
/// # Ok::<(), wg_embed::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Transmit<'a> {
    /// The destination.
    pub to: Endpoint,
    /// The datagrams, back to back. Empty contents are one empty datagram.
    pub contents: &'a [u8],
    /// The size of each datagram except the last. `contents.len()`, or 0, for a single one.
    pub segment_size: usize,
    /// The IPv4 TOS or IPv6 traffic class byte of the outer header.
    pub tos: u8,
}

impl<'a> Transmit<'a> {
    /// Creates a single datagram, with a TOS byte of 0.
    #[must_use]
    pub const fn new(to: Endpoint, contents: &'a [u8]) -> Self {
        Self { to, contents, segment_size: 0, tos: 0 }
    }

    /// Sets [`segment_size`](Self::segment_size), in bytes: the contents are datagrams of that size.
    #[must_use]
    pub const fn with_segments(self, segment_size: usize) -> Self {
        Self { segment_size, ..self }
    }

    /// Sets the [`tos`](Self::tos) byte.
    #[must_use]
    pub const fn with_tos(self, tos: u8) -> Self {
        Self { tos, ..self }
    }

    /// Returns the number of datagrams.
    #[must_use]
    pub fn datagrams(&self) -> usize {
        self.contents.len().div_ceil(self.size()).max(1)
    }

    /// Returns the datagrams, one by one.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let (contents, size) = (self.contents, self.size());
        (0..self.datagrams()).map(move |i| &contents[i * size..contents.len().min((i + 1) * size)])
    }

    /// Returns the size of a segment; a `segment_size` of 0 means a single datagram.
    fn size(&self) -> usize {
        match self.segment_size {
            0 => self.contents.len().max(1),
            size => size,
        }
    }
}

/// The result of sending a batch of transmits. A [`Bind`] begins with the default and sets what it knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SendReport {
    /// Datagrams that the operating system accepted.
    pub sent: usize,
    /// Datagrams that could not be sent.
    pub dropped: usize,
    /// Bit `i` is set if transmit `i` of the batch was dropped, wholly or in part.
    pub dropped_mask: u128,
    /// Bit `i` is set if transmit `i` had a source address that is no longer a local one. It was then sent without it,
    /// and the caller should forget the address.
    pub stale_source_mask: u128,
    /// Bit `i` is set if transmit `i` was dropped because its address is unreachable: there is no route, or no socket
    /// of its family.
    pub unreachable_mask: u128,
    /// Whether GSO was disabled on a socket, because the system or the path does not support it. The datagrams were
    /// sent without it, and count as sent.
    pub gso_disabled: bool,
    /// The error of the first refused datagram: an `errno`, or on Windows a Winsock error.
    pub error: Option<i32>,
}

/// The result of checking a source address against the routes; see [`Bind::check_source`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceCheck {
    /// Whether to send from it. Otherwise the system chooses one.
    pub keep: bool,
    /// Whether at this or an earlier check, datagrams from this address left through the interface by which the peer's
    /// arrived.
    pub returns: bool,
}

impl Default for SourceCheck {
    /// Returns the state of an unchecked address, which is used.
    fn default() -> Self {
        Self { keep: true, returns: false }
    }
}

/// The properties of the datagrams in one slot of a [`RecvBatch`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RecvMeta {
    /// The sender, and our address that it sent to.
    pub from: Endpoint,
    /// Bytes in the slot. 0 stands for a datagram that was empty or too large for a slot, to be ignored.
    pub len: usize,
    /// The size of each datagram in the slot except the last, which may be shorter. Never 0.
    pub segment_size: usize,
    /// The TOS or traffic class byte of the outer header; 0 if the system does not report it.
    pub tos: u8,
}

impl RecvMeta {
    /// Creates the properties of a single datagram of `len` bytes, whose TOS byte is unknown.
    #[must_use]
    pub const fn new(from: Endpoint, len: usize) -> Self {
        Self { from, len, segment_size: if len == 0 { 1 } else { len }, tos: 0 }
    }
}

/// A fixed buffer for one [`Bind::recv`].
///
/// A slot holds one datagram, or several of one sender that the system has coalesced (GRO).
#[derive(Debug)]
pub struct RecvBatch {
    buffer: Box<[u8]>,
    slot_len: usize,
    metas: Vec<RecvMeta>,
}

impl RecvBatch {
    /// Creates a buffer with `slots` slots of `slot_len` bytes. GRO needs slots of 65,535 bytes.
    ///
    /// # Panics
    /// If there is no memory for it.
    #[must_use]
    #[allow(clippy::panic, reason = "documented")]
    pub fn new(slots: usize, slot_len: usize) -> Self {
        Self::try_new(slots, slot_len).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Creates a buffer like [`new`](Self::new), but reports a lack of memory.
    ///
    /// # Errors
    /// `OutOfMemory` if there is no memory for it.
    pub fn try_new(slots: usize, slot_len: usize) -> io::Result<Self> {
        let mut metas = Vec::new();
        metas.try_reserve_exact(slots)?;
        let len = slots.checked_mul(slot_len).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { buffer: zeroed(len)?, slot_len, metas })
    }

    /// Creates a buffer without slots, and without memory.
    pub(crate) fn without_memory() -> Self {
        Self { buffer: Box::default(), slot_len: 1, metas: Vec::new() }
    }

    /// Returns the total number of slots.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.buffer.len() / self.slot_len
    }

    /// Returns the size of a slot, in bytes.
    #[must_use]
    pub const fn slot_len(&self) -> usize {
        self.slot_len
    }

    /// Returns the number of filled slots.
    #[must_use]
    pub fn len(&self) -> usize {
        self.metas.len()
    }

    /// Returns whether no slot is filled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.metas.is_empty()
    }

    /// Empties every slot.
    pub fn clear(&mut self) {
        self.metas.clear();
    }

    /// For a [`Bind`]: returns the empty slots, to receive into. Call [`push`](Self::push) for each filled one, in
    /// order.
    pub fn free_slots(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.buffer.chunks_exact_mut(self.slot_len).skip(self.metas.len())
    }

    /// For a [`Bind`]: marks the next slot as filled.
    pub fn push(&mut self, meta: RecvMeta) {
        debug_assert!(meta.len <= self.slot_len && meta.segment_size > 0 && self.metas.len() < self.slots());
        self.metas.push(meta);
    }

    /// For a [`Bind`]: passes the free slots to `fill`, which returns the properties of the datagrams it put there,
    /// until it returns `None` or no slot is left. Returns the number of filled slots.
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

    /// Returns the filled slots.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&RecvMeta, &mut [u8])> {
        self.metas.iter().zip(self.buffer.chunks_exact_mut(self.slot_len)).map(|(m, slot)| (m, &mut slot[..m.len]))
    }

    /// Returns the whole buffer like [`buffer`](Self::buffer), to change received datagrams in place.
    pub fn buffer_mut(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    /// Returns its memory in bytes.
    #[must_use]
    pub const fn memory(&self) -> usize {
        self.buffer.len() + self.metas.capacity() * size_of::<RecvMeta>()
    }

    /// Returns the whole buffer; the filled part of slot `i` begins at `i * slot_len()`.
    #[must_use]
    pub fn buffer(&self) -> &[u8] {
        &self.buffer
    }
}

/// The reason for the end of a [`Bind::wait`]. None is set if the time limit has passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Woken {
    /// A datagram may be received, or `wake` was called.
    pub own: bool,
    /// Which tokens of [`Bind::registry`] are ready.
    pub registered: Registered<bool>,
}

/// A pair of UDP sockets on one port, or a substitute for it.
pub trait Bind: Send + Sync {
    /// Opens or reopens the sockets, and returns the port. 0 lets the system choose one port for both families. The
    /// current port gets new sockets. It is not an error if this host lacks one family. If it fails, the old sockets
    /// remain open, except on systems where two sockets cannot share the current port: there an old socket may have
    /// been closed. It is then called again with that port. Functions that are called in here, such as a hook of
    /// the app, must not change the configuration of the bind's device: a change of the port on another thread may wait
    /// for this one.
    ///
    /// # Errors
    /// `AddrInUse` and other errors of the system.
    fn open(&self, port: u16) -> io::Result<u16>;

    /// Closes the sockets. A closed bind receives nothing and drops outgoing datagrams. Idempotent.
    fn close(&self);

    /// Sets the mark of packets sent from now on, which also applies after reopening (`SO_MARK` on Linux and Android,
    /// `SO_USER_COOKIE` on FreeBSD, `SO_RTABLE` on OpenBSD; no effect elsewhere).
    ///
    /// # Errors
    /// Errors of the system, usually missing permission; the old mark then remains.
    fn set_mark(&self, mark: u32) -> io::Result<()>;

    /// Combines [`open`](Self::open) and [`set_mark`](Self::set_mark). If it fails, nothing has changed, and until it
    /// succeeds nothing is sent with the new mark. `old_port` is the open port, if any.
    ///
    /// A bind that may refuse a mark should implement this itself: the default opens the sockets first, and opens the
    /// old port again if the mark is refused.
    ///
    /// # Errors
    /// As these two; `NotConnected` if the old port could not be opened again: the bind is then closed.
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

    /// Waits until datagrams may be received, an event source registered with [`registry`](Self::registry) is ready,
    /// [`wake`](Self::wake) is called, or `timeout` has passed. It may be called only after `recv` has returned 0, or
    /// while [`is_drained`](Self::is_drained) returns true. A wake since the last wait ends the wait at once. The wait
    /// should count time during which the machine sleeps, as the tunnel's deadline does; otherwise the deadline is late
    /// by that time. It may also return without a reason.
    ///
    /// # Errors
    /// Errors of the system; they end the tunnel.
    fn wait(&self, timeout: Option<Duration>) -> io::Result<Woken>;

    /// Returns a registry and the tokens for a [`Tun`](crate::Tun), which then also ends `wait`, so that one thread can
    /// wait for both. `None`, the default, if this is not supported.
    fn registry(&self) -> Option<(&Arc<mio::Registry>, Registered<mio::Token>)> {
        None
    }

    /// Ends the current or the next `wait`. Any thread may call it.
    fn wake(&self);

    /// Fills free slots of `batch` without waiting and returns how many it filled; 0 if there is no datagram (or no
    /// free slot). Errors that concern single datagrams (such as ICMP errors) are skipped, however many there are.
    ///
    /// # Errors
    /// If a socket has become unusable, once: from then on until the next `open` it receives nothing, and does not end
    /// `wait`. The receiver should open new sockets.
    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize>;

    /// Returns whether the last `recv` found that no datagrams were left, although it may have returned some: calling
    /// it again is then unnecessary. It is called on the thread that receives. False, the default, if that is unknown.
    fn is_drained(&self) -> bool {
        false
    }

    /// Sends up to [`BATCH`] transmits, in order, without waiting: the sending thread may also be the receiving one.
    /// Datagrams that cannot be sent now are dropped and reported.
    fn send(&self, batch: &[Transmit<'_>]) -> SendReport;

    /// Returns a number that changes when routes, rules, addresses or interfaces may have changed. The call is cheap. A
    /// bind without such notifications never changes it.
    fn routes(&self) -> u64 {
        0
    }

    /// Checks whether the source address of an endpoint still matches the current routes. It is to be called once for
    /// each new endpoint and whenever [`routes`](Self::routes) has changed, with the previous result. A reply leaves
    /// from the address that the peer sent to, unless the route to the peer has changed: an address of the interface by
    /// which datagrams used to leave would then be wrong.
    fn check_source(&self, endpoint: &Endpoint, was: SourceCheck) -> SourceCheck {
        let _ = endpoint;
        was
    }

    /// Returns the scope id of an IPv6 zone; `None` if it has none. For a bind without interface names, a zone is a
    /// number.
    fn zone_index(&self, zone: &str) -> Option<u32> {
        zone.parse().ok().filter(|index| *index != 0)
    }

    /// Returns names and values of the bind's own counters, in addition to the reports of `send`.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// Returns the current memory of datagrams that wait to be received, in bytes.
    fn memory(&self) -> usize {
        0
    }

    /// Releases memory that is not needed until datagrams are received.
    fn trim(&self) {}

    /// Returns the maximum of [`memory`](Self::memory). A device has so much less for staged packets.
    fn queue_limit(&self) -> usize {
        0
    }
}
