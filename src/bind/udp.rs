//! [`UdpBind`]: a pair of UDP sockets of the operating system, for a tunnel.
//!
//! This file waits for the sockets, if necessary until a deadline (`udp/deadline.rs`); `udp/pair.rs` opens, reopens and
//! closes them. A driver sends and receives batches: `linux.rs` on Linux and Android, `fallback.rs` elsewhere (selected
//! by `system.rs`), by the contract in `driver.rs`.

mod deadline;
mod health;
pub(super) mod pair;
mod routes;
mod socket;

use super::{Bind, Endpoint, RecvBatch, SendReport, SourceCheck, Transmit, Woken, endpoint};
use deadline::Deadline;
use mio::{Events, Poll, Registry, Token, Waker};
use pair::{Egress, Pair};
use routes::{Quiet, Routes};
use std::{
    fmt, io,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicBool,
            Ordering::{AcqRel, Release},
        },
    },
    time::Duration,
};

use crate::{poll::Registered, sync};

pub use super::counters::UdpStats;
pub(super) use socket::SocketOptions;

const WAKE: Token = Token(0);
const TUN_PACKETS: Token = Token(2);
const TUN_OTHER: Token = Token(6);
const TIMER: Token = Token(3);
const ROUTES: Token = Token(4);

/// The socket that a [`SocketHook`] borrows.
#[cfg(not(windows))]
pub type BorrowedSocket<'a> = std::os::fd::BorrowedFd<'a>;
/// The socket that a [`SocketHook`] borrows.
#[cfg(windows)]
pub type BorrowedSocket<'a> = std::os::windows::io::BorrowedSocket<'a>;

/// A function that is called with each new socket before anything is sent on it, for example to keep it out of the
/// tunnel (Android's `VpnService.protect`). If it fails, so does the `open` that created the socket. It runs on the
/// thread that called `open`, and must not open, close or change the bind itself.
pub type SocketHook = Box<dyn Fn(BorrowedSocket<'_>, super::Family) -> io::Result<()> + Send + Sync>;

struct Poller {
    poll: Poll,
    events: Events,
    deadline: Deadline,
    quiet: Quiet,
}

/// A pair of UDP sockets on one port.
pub struct UdpBind {
    /// Held only by the thread that waits.
    poller: Mutex<Poller>,
    waker: Arc<Waker>,
    pair: Pair,
    routes: Routes,
    /// Whether nothing was received since the last wait: the sockets without an event are then empty.
    has_waited: AtomicBool,
}

impl UdpBind {
    /// Creates a bind, not yet open.
    ///
    /// # Errors
    /// Usually if the system has no more file descriptors.
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = Arc::new(poll.registry().try_clone()?);
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        let deadline = Deadline::new(&poll, TIMER, &waker);
        Ok(Self {
            waker,
            pair: Pair::new([registry.clone(), registry]),
            routes: Routes::new(),
            has_waited: AtomicBool::new(false),
            poller: Mutex::new(Poller { poll, events: Events::with_capacity(8), deadline, quiet: Quiet::default() }),
        })
    }

    /// Sets the hook that is called with each new socket before anything is sent on it.
    #[must_use]
    pub fn with_socket_hook(mut self, hook: SocketHook) -> Self {
        self.pair.hook = Some(hook);
        self
    }

    /// Sets whether to use GSO and GRO if the system has them, as is the default.
    #[must_use]
    pub fn with_offload(mut self, offload: bool) -> Self {
        self.pair.options.driver.offload = offload;
        self
    }

    /// Binds only to this address, and therefore to a port of one family. An IPv6 socket receives no IPv4, even on
    /// `::`.
    #[must_use]
    pub fn with_address(mut self, address: IpAddr) -> Self {
        self.pair.options.local = Some(address);
        self
    }

    /// Uses the portable driver on Linux and Android as well. It sends and receives the same datagrams, but carries
    /// only the ECN bits of the TOS byte, never fragments, is slower, and always needs slots of 65,535 bytes to
    /// receive into.
    #[must_use]
    pub fn with_portable_driver(mut self) -> Self {
        self.pair.options = self.pair.options.portable();
        self
    }

    /// Returns the counters.
    #[must_use]
    pub fn stats(&self) -> UdpStats {
        self.pair.stats()
    }

    /// Binds one family to one interface; see [`BatchUdp::set_interface`](super::BatchUdp::set_interface).
    ///
    /// While it is not open, this applies to the next sockets.
    ///
    /// # Errors
    /// `NotFound` if there is no such interface; `Unsupported` if it is open without a socket of the family, or the
    /// system does not support this; and errors of the system. Nothing has changed then.
    pub fn set_interface(&self, family: super::Family, index: u32, blackhole: bool) -> io::Result<()> {
        let set = self.pair.set_egress(family, Egress { interface: index, blackhole });
        self.routes.changed();
        self.wake();
        set
    }

    /// Returns whether a family has a socket; false for both if it is not open.
    #[must_use]
    pub fn has(&self, family: super::Family) -> bool {
        self.pair.families().is_some_and(|has| has[family as usize])
    }

    /// Returns the IPv4 socket. The bind keeps its ownership, and closes it in the next `open` or `close`.
    #[cfg(unix)]
    #[must_use]
    pub fn fd4(&self) -> Option<std::os::fd::RawFd> {
        self.pair.fd(super::Family::V4)
    }

    /// Returns the IPv6 socket. The bind keeps its ownership, and closes it in the next `open` or `close`.
    #[cfg(unix)]
    #[must_use]
    pub fn fd6(&self) -> Option<std::os::fd::RawFd> {
        self.pair.fd(super::Family::V6)
    }
}

impl UdpBind {
    fn opened(&self, opened: io::Result<u16>) -> io::Result<u16> {
        if opened.is_ok() {
            self.routes.opened(self.pair.registry(), ROUTES);
        }
        // Datagrams that arrived before the sockets were in place have used up their event on the old ones.
        self.wake();
        opened
    }
}

impl Bind for UdpBind {
    /// Datagrams in the old sockets that were not received are lost.
    fn open(&self, port: u16) -> io::Result<u16> {
        self.opened(self.pair.open(port))
    }

    fn open_marked(&self, port: u16, mark: u32, _: Option<u16>) -> io::Result<u16> {
        self.opened(self.pair.open_marked(port, mark))
    }

    fn close(&self) {
        self.pair.close();
        self.routes.closed();
        self.wake();
    }

    fn set_mark(&self, mark: u32) -> io::Result<()> {
        let set = self.pair.set_mark(mark);
        self.routes.changed();
        set
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<Woken> {
        let mut poller = sync::lock(&self.poller);
        let Poller { poll, events, deadline, quiet } = &mut *poller;
        let timeout = self.routes.before_wait(poll.registry(), ROUTES, quiet, timeout);
        deadline.before_wait(timeout);
        match poll.poll(events, timeout) {
            Err(err) if err.kind() != io::ErrorKind::Interrupted => return Err(err),
            Err(_) => return Ok(Woken::default()),
            Ok(()) => {}
        }
        let mut woken = Woken::default();
        for event in &*events {
            match event.token() {
                TUN_PACKETS => woken.registered.packets = true,
                TUN_OTHER => woken.registered.other = true,
                TIMER => deadline.rang(),
                ROUTES => self.routes.rang(quiet),
                token => {
                    self.pair.set_ready(token);
                    woken.own = true;
                }
            }
        }
        // Release: a thread that observes it also observes the events above.
        self.has_waited.store(true, Release);
        Ok(woken)
    }

    fn registry(&self) -> Option<(&Arc<Registry>, Registered<Token>)> {
        Some((self.pair.registry(), Registered { packets: TUN_PACKETS, other: TUN_OTHER }))
    }

    fn wake(&self) {
        if let Err(err) = self.waker.wake() {
            tracing::debug!(%err, "cannot wake the receiver");
        }
    }

    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        // Without a wait in between, all of them: a program may poll, and a busy socket does not displace another.
        let ready = self.has_waited.swap(false, AcqRel);
        let (count, more) = self.pair.recv(batch, ready)?;
        if more {
            self.wake();
        }
        Ok(count)
    }

    fn is_drained(&self) -> bool {
        self.pair.is_drained()
    }

    fn send(&self, batch: &[Transmit<'_>]) -> SendReport {
        let mut report = SendReport::default();
        if self.pair.send(batch, &[], &mut report) {
            self.wake();
        }
        report
    }

    fn routes(&self) -> u64 {
        self.routes.number()
    }

    fn check_source(&self, endpoint: &Endpoint, was: SourceCheck) -> SourceCheck {
        self.pair.check_source(&self.routes, endpoint, was)
    }

    fn zone_index(&self, zone: &str) -> Option<u32> {
        endpoint::zone_index(zone)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let UdpStats { gso_refused, gso_disabled, send_full, truncated, recv_errors } = self.stats();
        vec![
            ("udp_gso_refused", gso_refused),
            ("udp_gso_disabled", gso_disabled),
            ("udp_send_full", send_full),
            ("udp_truncated", truncated),
            ("udp_recv_errors", recv_errors),
        ]
    }
}

impl fmt::Debug for UdpBind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpBind").field("port", &self.pair.port()).field("stats", &self.stats()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
