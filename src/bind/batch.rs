//! [`BatchUdp`]: UDP in batches, on its own.
//!
//! | file | what it answers |
//! |---|---|
//! | `batch/inbox.rs` | who receives, and what has come but was not taken yet |
//! | `batch/join.rs` | which datagrams leave together |

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

/// How long one [`BatchUdp::send`] waits for a full socket buffer to drain, in all.
const PATIENCE: Duration = Duration::from_millis(5);

/// How a [`BatchUdp`] is to be. [`open`](Self::open) or [`adopt`](Self::adopt) makes it.
#[must_use]
pub struct BatchOptions {
    mark: u32,
    hook: Option<SocketHook>,
    sockets: SocketOptions,
}

/// A datagram that was received.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Who sent it, and which of our addresses it came to, through which interface. An answer to this endpoint leaves
    /// from there.
    pub from: Endpoint,
    /// What it carries.
    pub contents: &'a [u8],
    /// The outer header's TOS or traffic class byte; 0 where the system does not report it.
    pub tos: u8,
}

/// An IPv4 and an IPv6 UDP socket on one port, for programs that want batches, segmentation offload and answers from
/// the right address, and no tunnel.
///
/// Any thread may call anything at any time: several may receive, for one family or for both, while others send, change
/// something, or close it. Every call that is under way when it is closed returns soon.
///
/// ```
/// use std::time::Duration;
/// use wg_embed::bind::{BatchUdp, Endpoint, Family, Transmit};
/// # fn main() -> wg_embed::error::Result<()> {
/// let (ping, pong) = (BatchUdp::open(0)?, BatchUdp::open(0)?);
/// let second = Some(Duration::from_secs(1));
///
/// let to = Endpoint::parse(&format!("127.0.0.1:{}", pong.port().unwrap_or(0)))?;
/// ping.send(&[Transmit { to, contents: b"ping", segment_size: 0, tos: 0 }])?;
///
/// let mut from = None;
/// pong.receive(Family::V4, 1, second, |datagram| from = Some(datagram.from))?;
/// let to = from.expect("a datagram came");
/// pong.send(&[Transmit { to, contents: b"pong", segment_size: 0, tos: 0 }])?;
///
/// let count = ping.receive(Family::V4, 1, second, |datagram| assert_eq!(datagram.contents, b"pong"))?;
/// assert_eq!(count, 1);
/// # Ok(())
/// # }
/// ```
pub struct BatchUdp {
    pair: Pair,
    inboxes: [Inbox; 2],
    /// Buffers for joined datagrams: as many as threads have been sending at once.
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
    /// The usual: no mark, offload where the system has it, answers through the interface that they were asked through.
    pub fn new() -> Self {
        Self::default()
    }

    /// Marks what is sent. See [`BatchUdp::set_mark`].
    pub fn with_mark(mut self, mark: u32) -> Self {
        self.mark = mark;
        self
    }

    /// Passes each new socket to `hook` before anything is sent on it.
    pub fn with_socket_hook(mut self, hook: SocketHook) -> Self {
        self.hook = Some(hook);
        self
    }

    /// Whether to use GSO and GRO where the system has them.
    pub fn with_offload(mut self, offload: bool) -> Self {
        self.sockets.driver.offload = offload;
        self
    }

    /// Whether answers leave through the interface that they were asked through, and not only from the same address.
    /// Only on Linux and Android.
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

    /// Opens both families on `port`, or on one that the system chooses if it is 0. One family missing on this host is
    /// fine.
    ///
    /// # Errors
    /// `AddrInUse` if the port is taken, `Permission` for a mark without it, what the hook returned, and other errors
    /// of the system.
    pub fn open(self, port: u16) -> Result<BatchUdp> {
        let udp = self.make()?;
        udp.pair.open(port).map_err(|err| cannot_open(port, err))?;
        Ok(udp)
    }

    /// Takes over a socket that exists and is bound, IPv4 or IPv6. The other family is missing then. The hook is not
    /// called. Until the bind is closed, the socket is non-blocking, its buffers are larger, and it has GRO and other
    /// options of ours; then, or if this fails, they are restored, for duplicates of the socket as well. With GRO, what
    /// has come but was not received by then is lost.
    ///
    /// # Errors
    /// `Invalid` for a socket that is not UDP or not bound, `Permission` for a mark without it, and other errors of the
    /// system.
    pub fn adopt(self, socket: UdpSocket) -> Result<BatchUdp> {
        let udp = self.make()?;
        udp.pair.adopt(socket.into()).map_err(|err| Error::io("cannot use this socket", err))?;
        Ok(udp)
    }

    fn make(self) -> Result<BatchUdp> {
        let make = || {
            let inboxes = [Inbox::new(Family::V4)?, Inbox::new(Family::V6)?];
            let mut pair = Pair::new([inboxes[0].registry()?, inboxes[1].registry()?]);
            pair.hook = self.hook;
            pair.options = self.sockets;
            pair.set_mark(self.mark)?;
            Ok(BatchUdp { pair, inboxes, buffers: Mutex::default() })
        };
        make().map_err(|err| Error::io("cannot wait for UDP sockets", err))
    }
}

impl BatchUdp {
    /// The most transmits that one [`send`](Self::send) takes.
    pub const BATCH_SIZE: usize = BATCH;

    /// As [`BatchOptions::open`], with the usual options.
    ///
    /// # Errors
    /// As there.
    pub fn open(port: u16) -> Result<Self> {
        BatchOptions::new().open(port)
    }

    /// Replaces the sockets that are open by new ones, for example after the network has changed, and returns the port.
    /// 0 lets the system choose another port. Threads that receive go on receiving. If it fails, what was open stays
    /// open; but where no two sockets may have the same port (not Linux or Android, or as another user than before),
    /// one that was in the way is closed: reopen again then.
    ///
    /// # Errors
    /// As [`BatchOptions::open`]; `Unsupported` if the socket was adopted; `Closed`.
    pub fn reopen(&self, port: u16) -> Result<u16> {
        let opened = self.pair.reopen(port).ok_or_else(closed)?;
        // Whatever arrived before the sockets were in place has spent its event on the old ones.
        self.wake();
        opened.map_err(|err| cannot_open(port, err))
    }

    /// Closes the sockets, for good. When it returns, the port is free. What has come but was not taken is lost.
    /// Idempotent.
    pub fn close(&self) {
        self.pair.close();
        self.wake();
    }

    /// The port; `None` if it is closed.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.pair.port()
    }

    /// Whether there is a socket of this family.
    #[must_use]
    pub fn has(&self, family: Family) -> bool {
        self.pair.families().is_some_and(|has| has[family as usize])
    }

    /// Marks packets sent from now on, across reopening (`SO_MARK` on Linux and Android, `SO_USER_COOKIE` on FreeBSD,
    /// `SO_RTABLE` on OpenBSD; nothing elsewhere).
    ///
    /// # Errors
    /// `Permission`; the old mark then stays. `Closed`.
    pub fn set_mark(&self, mark: u32) -> Result<()> {
        self.check_open()?;
        self.pair.set_mark(mark).map_err(|err| Error::io("cannot set the mark", err))
    }

    /// Binds one family to the interface with this index, regardless of routes and endpoints, across reopening; 0
    /// unbinds it. On Windows that holds only for what is sent. As long as there is a `blackhole`, what that family
    /// sends is dropped, and that is no error.
    ///
    /// Where binding to another interface takes permission that we do not have (Linux), new sockets take the place of
    /// the old ones, as with [`reopen`](Self::reopen).
    ///
    /// # Errors
    /// `NotFound` if there is no such interface; `Unsupported` if the family has no socket, or the system cannot do
    /// this (Linux since 5.7, Apple systems and Windows can); `Permission`; `Closed`. Nothing has changed then.
    pub fn set_interface(&self, family: Family, index: u32, blackhole: bool) -> Result<()> {
        check(&self.pair, family)?;
        let set = self.pair.set_egress(family, Egress { interface: index, blackhole });
        self.wake();
        set.map_err(|err| Error::io(format!("cannot bind {family} to an interface"), err))
    }

    /// The descriptor of a family's socket, if it has one. It stays ours, and is closed by [`reopen`](Self::reopen) and
    /// [`close`](Self::close).
    #[cfg(unix)]
    #[must_use]
    pub fn fd(&self, family: Family) -> Option<std::os::fd::RawFd> {
        self.pair.fd(family)
    }

    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> UdpStats {
        self.pair.stats()
    }

    /// Sends up to [`BATCH_SIZE`](Self::BATCH_SIZE) transmits, in order. Neighbours of one size to one endpoint leave
    /// together where the system can cut them apart again (GSO). It waits only if the socket's buffer is full, and
    /// for 5 ms at most.
    ///
    /// The report says what the system took. A datagram that it refuses costs no other. Forget the source of every
    /// endpoint that the report calls stale ([`Endpoint::clear_source`]): it is not ours any more.
    ///
    /// # Errors
    /// Nothing was sent then: `TooLarge` for more than the batch size; `Invalid` if a source address is not of the
    /// family of its destination; `Unsupported` if there is no socket for a destination's family; `Closed`, also if
    /// it is closed during the call, when some may have left.
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

    /// Waits until datagrams have come for one family, and hands up to `max` of them to `take`, one by one and in
    /// order. It does not wait for more than there is. Returns how many it handed over; 0 if `timeout` has passed
    /// without any.
    ///
    /// Several threads may receive for one family; each datagram goes to one of them. While `take` runs, the others
    /// of its family wait, so it should copy and return; it must not receive from the same bind.
    ///
    /// # Errors
    /// `Closed`, for every thread that is in it, as soon as it is closed; `Invalid` if `max` is 0; `Unsupported` if the
    /// family has no socket; `Io` if the socket cannot be used any more.
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

    /// As [`receive`](Self::receive), but what there is: for a thread that waits elsewhere, for
    /// [`inbox_fd`](Self::inbox_fd). If there is nothing and it `will_wait`, it counts as waiting until
    /// [`has_waited`](Self::has_waited).
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

    /// A thread that waited elsewhere does so no longer.
    #[cfg(unix)]
    #[doc(hidden)] // Only the C functions have frames that a thread can be cancelled in.
    pub fn has_waited(&self, family: Family) {
        self.inboxes[family as usize].has_waited();
    }

    /// Becomes readable when it is time to [`receive_now`](Self::receive_now). It is this value's, and lives as long.
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

/// That there is something to receive from, or to send to.
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
    Error::invalid("there is room for no datagram")
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the bind is closed")
}

fn cannot_open(port: u16, err: std::io::Error) -> Error {
    Error::io(format!("cannot open UDP port {port}"), err)
}
