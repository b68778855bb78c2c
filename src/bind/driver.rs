//! The contract between the sockets of a bind (`udp/`) and the drivers of the operating systems, which are independent
//! of each other.
//!
//! A new system gets a file beside `linux.rs`, which `system.rs` selects. `fallback.rs` compiles on all systems and has
//! all items; the new file replaces those that its system can improve:
//!
//! | item | purpose |
//! |---|---|
//! | `set_up` ([`SetUp`]) | sets the options that the driver needs, binds the socket, and returns its driver |
//! | [`Drive`] | sends and receives batches with one socket, without waiting beyond [`DriverOptions::patience`] |
//! | `BootTimer` ([`Timer`]) | ends a poll in time, also if the machine has slept |
//! | `RouteWatch` ([`Watch`]) | reports changes of the routes, and checks source addresses against them |
//! | `SavedOptions` | stores the options of an adopted socket, and restores them when it is dropped |
//! | `set_mark` | sets the mark of a socket's packets; a no-op without marks |
//! | `share_port`, `stop_sharing_port` | share a port between two sockets of one user; false if unsupported |
//!
//! Functions that the socket library has for all systems are in `udp/socket.rs`; the index of an interface, and binding
//! a socket to one, in `interface.rs`. A driver leaves the choice of datagrams for a message, and the reaction to a
//! refusal, to [`Outgoing`], and translates errors of its system to [`Refusal`](super::outgoing::Refusal). The errors
//! that end a socket are listed in `socket_error.rs`.

use super::{Endpoint, Family, RecvBatch, SourceCheck, counters::Counters, outgoing::Outgoing};
use mio::{Poll, Registry, Token, Waker, net::UdpSocket};
use socket2::{SockAddr, Socket};
use std::{io, sync::Arc, time::Duration};

/// The requested size of socket buffers, as far as the system allows it. At 3 Gbit/s they last for 10 ms in which the
/// receiving thread does not run; larger buffers would only add delay.
pub(super) const BUFFER: usize = 4 << 20;

/// Options of a driver.
#[derive(Clone, Copy, Debug)]
pub(super) struct DriverOptions {
    /// Whether to use GSO and GRO.
    pub(super) offload: bool,
    /// Whether the endpoints of received datagrams name the interface.
    pub(super) interfaces: bool,
    /// How long a send waits for a full socket buffer to drain. Zero for a tunnel, whose sending thread may also be the
    /// receiving one.
    pub(super) patience: Duration,
}

impl Default for DriverOptions {
    fn default() -> Self {
        Self { offload: true, interfaces: true, patience: Duration::ZERO }
    }
}

/// A function that sets up a socket, and binds it to the address if there is one.
pub(super) type SetUp = fn(&Socket, Option<&SockAddr>, Family, DriverOptions) -> io::Result<Box<dyn Drive>>;

/// Sends and receives datagrams with a socket. It is used through a pointer, so that programs that do not use the
/// portable driver do not link it, which saves 14 KB on systems with another driver.
pub(super) trait Drive: Send + Sync {
    /// Sends until nothing is left.
    fn send(&self, socket: &UdpSocket, outgoing: &mut Outgoing<'_>, counters: &Counters);

    /// Receives available datagrams into the free slots. Returns whether the socket was found empty after the last one;
    /// a driver that cannot know this returns false.
    ///
    /// # Errors
    /// The first error of the system, if nothing was received; `WouldBlock` if there is no datagram.
    fn recv(&self, socket: &UdpSocket, batch: &mut RecvBatch, counters: &Counters) -> io::Result<bool>;

    /// Returns whether several datagrams can be sent as one message.
    fn joins(&self) -> bool;
}

/// A timer in a poll that counts sleep. It does not wake the machine.
pub(super) trait Timer: Sized {
    /// Deadlines up to this far away are left to the time limit of the poll: they are then late by at most this time if
    /// the machine sleeps. Most waits under load are shorter.
    const NEAR: Duration = Duration::from_secs(1);

    /// Creates a timer that wakes `poll` with `token`, or by its `waker`.
    fn new(poll: &Poll, token: Token, waker: &Arc<Waker>) -> io::Result<Self>;

    /// Sets the timer to expire once, after this time, or stops it. An earlier setting is replaced.
    fn set(&self, after: Option<Duration>) -> io::Result<()>;

    /// Returns whether it has expired since the last call; false if it wakes the poll with its token.
    fn take_expired(&self) -> bool {
        false
    }
}

/// Reports changes of the routes.
pub(super) trait Watch: Sized {
    /// Identifies a network.
    type Network: Copy + PartialEq;

    /// Returns the network that sockets of the calling thread are in.
    fn network() -> Self::Network;

    /// Creates a watch that wakes a poll with `token` after a change in the network that sockets of the calling thread
    /// are in.
    fn new(registry: &Registry, token: Token) -> io::Result<Self>;

    /// Discards the reported changes, so that the next one wakes the poll again. Returns whether there were any.
    fn drain(&self) -> bool;

    /// See [`Bind::check_source`](super::Bind::check_source).
    fn check_source(&self, socket: &UdpSocket, endpoint: &Endpoint, was: SourceCheck) -> SourceCheck;
}
