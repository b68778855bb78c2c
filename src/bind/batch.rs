//! [`BatchUdp`]: UDP in batches, without a tunnel.
//!
//! | file | contents |
//! |---|---|
//! | `batch/inbox.rs` | receiving: which thread receives, and datagrams that wait |
//! | `batch/join.rs` | sending: which datagrams leave as one |

mod inbox;
mod join;

use super::{
    BATCH, Endpoint, Family, SendReport, Transmit,
    udp::{
        SocketHook, SocketOptions, UdpStats,
        pair::{Egress, Pair},
    },
};
use crate::{
    error::{Error, ErrorKind, Result},
    reserve::zeroed,
    sync,
};
use inbox::Inbox;
use join::Window;
use std::{fmt, net::UdpSocket, sync::Mutex, time::Duration};

/// The total time that one [`BatchUdp::send`] waits for a full socket buffer to drain.
const PATIENCE: Duration = Duration::from_millis(5);

/// Options of a [`BatchUdp`], which [`open`](Self::open) or [`adopt`](Self::adopt) creates.
#[must_use]
pub struct BatchOptions {
    mark: u32,
    hook: Option<SocketHook>,
    sockets: SocketOptions,
}

/// A received datagram.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Received<'a> {
    /// The sender, our address that it sent to, and the interface of arrival. A reply to this endpoint leaves from
    /// there.
    pub from: Endpoint,
    /// The payload.
    pub contents: &'a [u8],
    /// The TOS or traffic class byte of the outer header; 0 if the system does not report it.
    pub tos: u8,
}

/// An IPv4 and an IPv6 UDP socket on one port, for programs that need batches, segmentation offload and replies from
/// the right address, but no tunnel.
///
/// All functions may be called on any thread at any time: several threads may receive, for one family or for both,
/// while others send, change settings, or close it. Every call in progress returns soon after it is closed.
///
/// ```
/// use std::time::Duration;
/// use wg_embed::bind::{BatchUdp, Endpoint, Family, Transmit};
/// # fn main() -> wg_embed::error::Result<()> {
/// let (ping, pong) = (BatchUdp::open(0)?, BatchUdp::open(0)?);
/// let second = Some(Duration::from_secs(1));
///
/// let to = Endpoint::parse(&format!("127.0.0.1:{}", pong.port().unwrap_or(0)))?;
/// ping.send(&[Transmit::new(to, b"ping")])?;
///
/// let mut from = None;
/// pong.receive(Family::V4, 1, second, |datagram| from = Some(datagram.from))?;
/// let to = from.expect("a datagram came");
/// pong.send(&[Transmit::new(to, b"pong")])?;
///
/// let count = ping.receive(Family::V4, 1, second, |datagram| assert_eq!(datagram.contents, b"pong"))?;
/// assert_eq!(count, 1);
/// # Ok(())
/// # }
/// ```
pub struct BatchUdp {
    pair: Pair,
    inboxes: [Inbox; 2],
    /// Buffers for joined datagrams: as many as threads have sent at the same time.
    buffers: Mutex<Vec<Box<[u8]>>>,
}

impl Default for BatchOptions {
    fn default() -> Self {
        let mut sockets = SocketOptions { any_interface: false, ..SocketOptions::default() };
        sockets.driver.patience = PATIENCE;
        Self { mark: 0, hook: None, sockets }
    }
}

impl BatchOptions {
    /// Creates the default options: no mark, offload if the system has it, replies through the interface of arrival.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the mark of outgoing packets. See [`BatchUdp::set_mark`].
    pub fn with_mark(mut self, mark: u32) -> Self {
        self.mark = mark;
        self
    }

    /// Sets the hook that is called with each new socket before anything is sent on it.
    pub fn with_socket_hook(mut self, hook: SocketHook) -> Self {
        self.hook = Some(hook);
        self
    }

    /// Sets whether to use GSO and GRO if the system has them.
    pub fn with_offload(mut self, offload: bool) -> Self {
        self.sockets.driver.offload = offload;
        self
    }

    /// Sets whether replies leave through the interface of arrival, and not only from the same address. Only on Linux
    /// and Android.
    pub fn with_sticky_interface(mut self, sticky: bool) -> Self {
        self.sockets.driver.interfaces = sticky;
        self
    }

    /// Uses the portable driver on Linux and Android as well; see
    /// [`UdpBind::with_portable_driver`](super::UdpBind::with_portable_driver).
    pub fn with_portable_driver(mut self) -> Self {
        self.sockets = self.sockets.portable();
        self
    }

    /// Opens both families on `port`; 0 lets the system choose one. It is not an error if this host lacks one family.
    ///
    /// # Errors
    /// `AddrInUse` if the port is in use, `Permission` if a mark is not permitted, the error of the hook, and other
    /// errors of the system.
    pub fn open(self, port: u16) -> Result<BatchUdp> {
        let udp = self.make()?;
        udp.pair.open(port).map_err(|err| cannot_open(port, err))?;
        Ok(udp)
    }

    /// Takes over an existing bound socket, IPv4 or IPv6; the other family is then missing. The hook is not called.
    /// Until the bind is closed, the socket is non-blocking, its buffers are larger, and GRO and other options are set;
    /// these are restored when it is closed, or if this call fails, for duplicates of the socket as well. With GRO,
    /// datagrams that have arrived but were not received by then are lost.
    ///
    /// # Errors
    /// `Invalid` for a socket that is not UDP or not bound, `Permission` if a mark is not permitted, and other errors
    /// of the system.
    pub fn adopt(self, socket: UdpSocket) -> Result<BatchUdp> {
        let udp = self.make()?;
        udp.pair.adopt(socket.into()).map_err(|err| Error::io("cannot use this socket", err))?;
        Ok(udp)
    }

    fn make(self) -> Result<BatchUdp> {
        let make = || {
            let inboxes = [Inbox::new(Family::V4)?, Inbox::new(Family::V6)?];
            let mut pair = Pair::new([inboxes[0].registry()?.into(), inboxes[1].registry()?.into()]);
            pair.hook = self.hook;
            pair.options = self.sockets;
            pair.set_mark(self.mark)?;
            Ok(BatchUdp { pair, inboxes, buffers: Mutex::default() })
        };
        make().map_err(|err| Error::io("cannot wait for UDP sockets", err))
    }
}

impl BatchUdp {
    /// The maximum number of transmits in one [`send`](Self::send).
    pub const BATCH_SIZE: usize = BATCH;

    /// Opens sockets with the default options, as [`BatchOptions::open`] does.
    ///
    /// # Errors
    /// As for [`BatchOptions::open`].
    pub fn open(port: u16) -> Result<Self> {
        BatchOptions::new().open(port)
    }

    /// Replaces the open sockets by new ones, for example after the network has changed, and returns the port. 0 lets
    /// the system choose another port. Threads that receive continue to do so. If it fails, the old sockets remain
    /// open; but if two sockets cannot share the port (systems other than Linux and Android, or after a change of the
    /// user), an old socket on that port may have been closed: reopen again in this case.
    ///
    /// # Errors
    /// As [`BatchOptions::open`]; `Unsupported` if the socket was adopted; `Closed`.
    pub fn reopen(&self, port: u16) -> Result<u16> {
        let opened = self.pair.reopen(port).ok_or_else(closed)?;
        // Datagrams that arrived before the sockets were in place have used up their event on the old ones.
        self.wake();
        opened.map_err(|err| cannot_open(port, err))
    }

    /// Closes the sockets permanently. When it returns, the port is free. Datagrams that were not received are lost.
    /// Idempotent.
    pub fn close(&self) {
        self.pair.close();
        self.wake();
    }

    /// Returns the port; `None` if it is closed.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.pair.port()
    }

    /// Returns whether there is a socket of this family.
    #[must_use]
    pub fn has(&self, family: Family) -> bool {
        self.pair.families().is_some_and(|has| has[family as usize])
    }

    /// Sets the mark of packets sent from now on, which also applies after reopening (`SO_MARK` on Linux and Android,
    /// `SO_USER_COOKIE` on FreeBSD, `SO_RTABLE` on OpenBSD; no effect elsewhere).
    ///
    /// # Errors
    /// `Permission`; the old mark then remains. `Closed`.
    pub fn set_mark(&self, mark: u32) -> Result<()> {
        self.check_open()?;
        self.pair.set_mark(mark).map_err(|err| Error::io("cannot set the mark", err))
    }

    /// Binds one family to the interface with this index, regardless of routes and endpoints, which also applies after
    /// reopening; 0 unbinds it. On Windows it applies only to sending. With `blackhole`, all datagrams of that family
    /// are dropped instead of sent, without an error.
    ///
    /// If binding to another interface requires a permission that the process does not have (Linux), new sockets
    /// replace the old ones, as with [`reopen`](Self::reopen).
    ///
    /// # Errors
    /// `NotFound` if there is no such interface; `Unsupported` if the family has no socket, or the system does not
    /// support this (Linux since 5.7, Apple systems and Windows do); `Permission`; `Closed`. Nothing has changed then.
    pub fn set_interface(&self, family: Family, index: u32, blackhole: bool) -> Result<()> {
        self.check_open()?;
        let set = self.pair.set_egress(family, Egress { interface: index, blackhole });
        self.wake();
        set.map_err(|err| Error::io(format!("cannot bind {family} to an interface"), err))
    }

    /// Returns the descriptor of a family's socket, if it has one. The bind keeps its ownership, and closes it in
    /// [`reopen`](Self::reopen) and [`close`](Self::close).
    #[cfg(unix)]
    #[must_use]
    pub fn fd(&self, family: Family) -> Option<std::os::fd::RawFd> {
        self.pair.fd(family)
    }

    /// Returns the counters.
    #[must_use]
    pub fn stats(&self) -> UdpStats {
        self.pair.stats()
    }

    /// Sends up to [`BATCH_SIZE`](Self::BATCH_SIZE) transmits, in order. Adjacent datagrams of one size to one endpoint
    /// are sent as one if the system can segment them (GSO). It waits only if the socket's buffer is full, and for at
    /// most 5 ms.
    ///
    /// The report has the result of each transmit. A refused datagram does not affect others. Forget the source of
    /// every endpoint that the report marks as stale ([`Endpoint::clear_source`]): it is no longer a local address.
    ///
    /// # Errors
    /// Nothing was sent in case of `TooLarge`, for more than the batch size; `Invalid`, if a source address is not of
    /// the family of its destination; and `Unsupported`, if there is no socket for a destination's family. `Closed`,
    /// also if it is closed during the call, when some may have been sent.
    pub fn send(&self, batch: &[Transmit<'_>]) -> Result<SendReport> {
        if batch.len() > BATCH {
            let text = format!("{} transmits are more than a batch, which is {BATCH}", batch.len());
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        let has = self.pair.families().ok_or_else(closed)?;
        for (i, Transmit { to, .. }) in batch.iter().enumerate() {
            let family = Family::of(to.dst);
            if to.src.is_some_and(|src| src.is_ipv4() != to.dst.is_ipv4()) {
                return Err(Error::invalid(format!("transmit {i} is {family}, and its source address is not")));
            }
            if !has[family as usize] {
                return Err(no_socket(family).at(format_args!("transmit {i}")));
            }
        }
        let mut report = SendReport::default();
        let lost = if (0..batch.len()).all(|i| join::run(&batch[i..]) == 1) {
            self.pair.send(batch, &[], &mut report)
        } else {
            self.send_joined(batch, &mut report)?
        };
        if lost {
            self.wake();
        }
        if report.dropped > 0 {
            self.check_open()?;
        }
        Ok(report)
    }

    /// Returns whether a socket was lost by that.
    fn send_joined(&self, batch: &[Transmit<'_>], report: &mut SendReport) -> Result<bool> {
        let buffers = || sync::lock(&self.buffers);
        let buffer = buffers().pop();
        let mut buffer =
            buffer.map_or_else(|| zeroed(join::ROOM), Ok).map_err(|e| Error::io("cannot join datagrams", e))?;
        let (mut next, mut lost) = (0, false);
        while next < batch.len() {
            let (window, count) = Window::fill(&batch[next..], next, |family| self.pair.joins(family), &mut buffer);
            lost |= self.pair.send(window.transmits(), window.origins(), report);
            next += count;
        }
        buffers().push(buffer);
        Ok(lost)
    }

    /// Waits until datagrams have arrived for one family, and passes up to `max` of them to `take`, one by one and in
    /// order. It returns as soon as there are any, with their number; 0 if `timeout` has passed without any.
    ///
    /// Several threads may receive for one family; each datagram is passed to one of them. While `take` runs, the
    /// others of its family wait, so it should only copy; it must not receive from the same bind.
    ///
    /// # Errors
    /// `Closed` in every waiting thread, as soon as it is closed; `Invalid` if `max` is 0; `Unsupported` if the family
    /// has no socket; `Io` if the socket has become unusable.
    pub fn receive(
        &self,
        family: Family,
        max: usize,
        timeout: Option<Duration>,
        mut take: impl FnMut(Received<'_>),
    ) -> Result<usize> {
        if max == 0 {
            return Err(no_room());
        }
        self.inboxes[family as usize].receive(&self.pair, max, timeout, &mut take)
    }

    /// Receives like [`receive`](Self::receive), but without waiting: for a thread that waits for
    /// [`inbox_fd`](Self::inbox_fd). If there are no datagrams and `will_wait` is set, the thread counts as waiting
    /// until [`has_waited`](Self::has_waited).
    #[cfg(unix)]
    #[doc(hidden)] // Only the C functions have frames that a thread can be cancelled in.
    pub fn receive_now(
        &self,
        family: Family,
        max: usize,
        has_waited: bool,
        will_wait: bool,
        mut take: impl FnMut(Received<'_>),
    ) -> Result<usize> {
        if max == 0 {
            return Err(no_room());
        }
        self.inboxes[family as usize].receive_now(&self.pair, max, has_waited, will_wait, &mut take)
    }

    /// Ends the waiting of a thread that waited elsewhere.
    #[cfg(unix)]
    #[doc(hidden)] // Only the C functions have frames that a thread can be cancelled in.
    pub fn has_waited(&self, family: Family) {
        self.inboxes[family as usize].has_waited();
    }

    /// Returns a descriptor that becomes readable when it is time to [`receive_now`](Self::receive_now). The bind owns
    /// it.
    #[cfg(unix)]
    #[doc(hidden)] // Only the C functions have frames that a thread can be cancelled in.
    pub fn inbox_fd(&self, family: Family) -> std::os::fd::RawFd {
        self.inboxes[family as usize].fd()
    }

    fn wake(&self) {
        self.inboxes.iter().for_each(Inbox::wake);
    }

    fn check_open(&self) -> Result<()> {
        self.pair.families().map(drop).ok_or_else(closed)
    }
}

impl fmt::Debug for BatchUdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchUdp").field("port", &self.port()).field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl fmt::Debug for BatchOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchOptions").field("mark", &self.mark).finish_non_exhaustive()
    }
}

/// Checks that there is a socket to receive from, or to send to.
fn check(pair: &Pair, family: Family) -> Result<()> {
    match pair.families() {
        None => Err(closed()),
        Some(has) if !has[family as usize] => Err(no_socket(family)),
        Some(_) => Ok(()),
    }
}

fn no_socket(family: Family) -> Error {
    Error::new(ErrorKind::Unsupported, format!("there is no {family} socket"))
}

fn no_room() -> Error {
    Error::invalid("there is no room for a datagram")
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the bind is closed")
}

fn cannot_open(port: u16, err: std::io::Error) -> Error {
    Error::io(format!("cannot open UDP port {port}"), err)
}
