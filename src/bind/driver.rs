//! The contract between the sockets of a bind (`udp/`) and the files of an operating system, which know nothing of each
//! other.
//!
//! A new system gets a file beside `linux.rs`, and `system.rs` chooses it. `fallback.rs` compiles everywhere and has
//! all of these; the new file provides those that its system can do better:
//!
//! | item | what it does |
//! |---|---|
//! | `set_up` ([`SetUp`]) | sets the options that the driver needs, binds the socket, and returns its driver |
//! | [`Drive`] | sends and receives batches with one socket, without waiting beyond [`DriverOptions::patience`] |
//! | `BootTimer` ([`Timer`]) | rings in a poll although the machine has slept |
//! | `RouteWatch` ([`Watch`]) | reports changes of the routes, and checks source addresses against them |
//! | `SavedOptions` | keeps the options of an adopted socket, and restores them when it is dropped |
//! | `set_mark` | marks what a socket sends; a no-op without marks |
//! | `share_port`, `stop_sharing_port` | let a socket have the port of the one it replaces; false where others could |
//!
//! What the socket library can do for all systems is in `udp/socket.rs`; what index an interface has, and how a socket
//! is bound to one, in `interface.rs`. A driver leaves to [`Outgoing`] which datagrams go together and what follows
//! from a refusal, and translates errors of its system into [`Refusal`](super::outgoing::Refusal). The errors that end
//! a socket are listed in `socket_error.rs`.

use super::{Endpoint, Family, RecvBatch, SourceCheck, counters::Counters, outgoing::Outgoing};
use mio::{Poll, Registry, Token, net::UdpSocket};
use socket2::{SockAddr, Socket};
use std::{io, time::Duration};

/// The socket buffers that are asked for, as far as the system allows. At 3 Gbit/s they bridge 10 ms in which the
/// receiving thread does not run; more would only make datagrams older.
pub(super) const BUFFER: usize = 4 << 20;

/// What is asked of a driver.
#[derive(Clone, Copy, Debug)]
pub(super) struct DriverOptions {
    /// Whether to use GSO and GRO.
    pub(super) offload: bool,
    /// Whether the endpoints of what is received name the interface.
    pub(super) interfaces: bool,
    /// How long sending waits for a full socket buffer to drain. Zero for a tunnel: the thread that sends is the one
    /// that receives.
    pub(super) patience: Duration,
}

impl Default for DriverOptions {
    fn default() -> Self {
        Self { offload: true, interfaces: true, patience: Duration::ZERO }
    }
}

/// Sets up a socket, and binds it to the address if there is one.
pub(super) type SetUp = fn(&Socket, Option<&SockAddr>, Family, DriverOptions) -> io::Result<Box<dyn Drive>>;

/// How datagrams pass a socket. Used through a pointer, so that programs that do not use the portable driver do not
/// link it: where there is another driver, that saves 14 KB.
pub(super) trait Drive: Send + Sync {
    /// Sends until nothing is left.
    fn send(&self, socket: &UdpSocket, outgoing: &mut Outgoing<'_>, counters: &Counters);

    /// Receives into the free slots what is there.
    ///
    /// # Errors
    /// The first one that the system reports, if nothing was received; `WouldBlock` if there is nothing.
    fn recv(&self, socket: &UdpSocket, batch: &mut RecvBatch, counters: &Counters) -> io::Result<()>;

    /// Whether several datagrams can leave as one message.
    fn joins(&self) -> bool;
}

/// A timer that rings in a poll, and for which time goes on while the machine sleeps. It does not wake the machine.
pub(super) trait Timer: Sized {
    /// Rings in `poll` as `token`.
    fn new(poll: &Poll, token: Token) -> io::Result<Self>;

    /// Will ring once, after this time, or not at all. What was set before is forgotten.
    fn set(&self, after: Option<Duration>) -> io::Result<()>;
}

/// Reports changes of the routes.
pub(super) trait Watch: Sized {
    /// Identifies a network.
    type Network: Copy + PartialEq;

    /// The network that sockets of the calling thread are in.
    fn network() -> Self::Network;

    /// Rings in a poll as `token` when something has changed, in the network that sockets of the calling thread are in.
    fn new(registry: &Registry, token: Token) -> io::Result<Self>;

    /// Takes in what was reported, so that it rings again. Returns whether there was anything.
    fn drain(&self) -> bool;

    /// See [`Bind::check_source`](super::Bind::check_source).
    fn check_source(&self, socket: &UdpSocket, endpoint: &Endpoint, was: SourceCheck) -> SourceCheck;
}
