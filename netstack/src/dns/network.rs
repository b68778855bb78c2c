//! What look-ups and dials need of a stack.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use wg_embed::{random::Random, time::Instant};

use super::resolver::Resolver;
use crate::{notify::Notify, task::Waker};

/// A stack as look-ups and dials see it. Cloning it is cheap and gives the same one.
pub(crate) trait Network: Clone + Send + Sync + 'static {
    /// A connected UDP socket.
    type Udp: Datagrams;
    /// A TCP connection.
    type Tcp: Stream;
    /// A deadline. Dropping it takes it back.
    type Alarm: Send + 'static;

    /// Whether this is a child of `fork()`: other threads, which do not exist here, may have held any of the locks.
    fn is_forked(&self) -> bool {
        false
    }
    /// Returns the time.
    fn now(&self) -> Instant;
    /// Returns where randomness comes from.
    fn random(&self) -> &dyn Random;
    /// Wakes `waker`'s task at `at`.
    fn alarm(&self, at: Instant, waker: &Waker) -> Self::Alarm;
    /// Returns what look-ups share.
    fn resolver(&self) -> &Resolver<Self>;
    /// Returns the DNS servers.
    fn servers(&self) -> Vec<IpAddr>;
    /// Whether the stack has an address of the family.
    fn has_family(&self, ipv6: bool) -> bool;
    /// A socket with a port of its own that nobody can predict, connected to `to`.
    fn udp(&self, to: SocketAddr) -> io::Result<Self::Udp>;
    /// Begins to connect to `to`.
    fn tcp(&self, to: SocketAddr) -> io::Result<Self::Tcp>;
}

/// As [`UdpSocket`](crate::UdpSocket), connected.
pub(crate) trait Datagrams: Send + Sync + 'static {
    fn try_send(&self, data: &[u8]) -> io::Result<()>;
    fn try_recv(&self, buf: &mut [u8]) -> io::Result<usize>;
    fn set_notify(&self, notify: Option<Arc<dyn Notify>>);
}

/// As [`TcpStream`](crate::TcpStream).
pub(crate) trait Stream: Send + Sync + 'static {
    /// `WouldBlock` until the handshake is over; then `Ok`, or why it failed.
    fn connected(&self) -> io::Result<()>;
    fn try_read(&self, buf: &mut [u8]) -> io::Result<usize>;
    fn try_write(&self, data: &[u8]) -> io::Result<usize>;
    fn set_notify(&self, notify: Option<Arc<dyn Notify>>);
    fn reset(&self);
}

/// Whether an error of a socket is that of a closed stack.
pub(crate) fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::NotConnected)
}

/// When a machine goes on by itself: one alarm, that is only replaced when the time changes.
pub(crate) struct Deadline<N: Network>(Option<(Instant, N::Alarm)>);

impl<N: Network> Deadline<N> {
    /// None.
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    /// Replaces it. The end of time never comes.
    pub(crate) fn set(&mut self, net: &N, at: Option<Instant>, waker: &Waker) {
        let at = at.filter(|at| at.as_nanos() < u64::MAX);
        if self.0.as_ref().map(|(at, _)| *at) != at {
            self.0 = at.map(|at| (at, net.alarm(at, waker)));
        }
    }
}
