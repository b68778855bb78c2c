//! The functions of a stack that look-ups and dials need.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use wg_embed::{random::Random, time::Instant};

use super::resolver::Resolver;
use crate::{notify::Notify, task::Waker};

/// A stack, as used by look-ups and dials. Cloning it is cheap and returns the same stack.
pub(crate) trait Network: Clone + Send + Sync + 'static {
    /// A connected UDP socket.
    type Udp: Datagrams;
    /// A TCP connection.
    type Tcp: Stream;
    /// A deadline. Dropping it cancels it.
    type Alarm: Send + 'static;

    /// Returns whether this is a child of `fork()`: other threads, which do not exist here, may have held any of the
    /// locks.
    fn is_forked(&self) -> bool {
        false
    }
    /// Returns the time.
    fn now(&self) -> Instant;
    /// Returns the source of randomness.
    fn random(&self) -> &dyn Random;
    /// Wakes the task of `waker` at `at`.
    fn alarm(&self, at: Instant, waker: &Waker) -> Self::Alarm;
    /// Returns the state shared by look-ups.
    fn resolver(&self) -> &Resolver<Self>;
    /// Returns the DNS servers.
    fn servers(&self) -> Vec<IpAddr>;
    /// Returns whether the stack has an address of the family.
    fn has_family(&self, ipv6: bool) -> bool;
    /// Returns a socket with an unpredictable port of its own, connected to `to`.
    fn udp(&self, to: SocketAddr) -> io::Result<Self::Udp>;
    /// Starts a connection to `to`.
    fn tcp(&self, to: SocketAddr) -> io::Result<Self::Tcp>;
}

/// A connected [`UdpSocket`](crate::UdpSocket).
pub(crate) trait Datagrams: Send + Sync + 'static {
    fn try_send(&self, data: &[u8]) -> io::Result<()>;
    fn try_recv(&self, buf: &mut [u8]) -> io::Result<usize>;
    fn set_notify(&self, notify: Option<Arc<dyn Notify>>);
}

/// A [`TcpStream`](crate::TcpStream).
pub(crate) trait Stream: Send + Sync + 'static {
    /// Returns `WouldBlock` during the handshake; then `Ok`, or the error.
    fn connected(&self) -> io::Result<()>;
    fn try_read(&self, buf: &mut [u8]) -> io::Result<usize>;
    fn try_write(&self, data: &[u8]) -> io::Result<usize>;
    fn set_notify(&self, notify: Option<Arc<dyn Notify>>);
    fn reset(&self);
}

/// Returns whether an error of a socket means that the stack was closed.
pub(crate) fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::NotConnected)
}

/// The time at which a task continues by itself: one alarm, which is replaced only when the time changes.
pub(crate) struct Deadline<N: Network>(Option<(Instant, N::Alarm)>);

impl<N: Network> Deadline<N> {
    /// Creates an unset deadline.
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    /// Sets or clears the deadline. Times that cannot be represented are ignored.
    pub(crate) fn set(&mut self, net: &N, at: Option<Instant>, waker: &Waker) {
        let at = at.filter(|at| at.as_nanos() < u64::MAX);
        if self.0.as_ref().map(|(at, _)| *at) != at {
            self.0 = at.map(|at| (at, net.alarm(at, waker)));
        }
    }
}
