//! Connections as ordinary descriptors: one thread copies between them and the stack.
//!
//! | file | contents |
//! |---|---|
//! | `thread` | the thread, which gives each descriptor its turn |
//! | `relay`, `stream` | a TCP connection and a stream socket, and how a reset is passed on |
//! | `datagram` | UDP and a socket with datagram boundaries |
//! | `listener` | connections that are passed on as descriptors |
//! | `signal` | a descriptor that is readable while something waits |
//! | `watch` | a socket that is watched for its end |
//! | `pair` | pairs of sockets |
//! | `fd_id` | the identity of an open file |
//!
//! On Windows a descriptor is a SOCKET, and pairs of sockets are connected over loopback. The files in `windows` take
//! the place of those of the same name.

mod datagram;
#[cfg_attr(windows, path = "windows/fd_id.rs")]
mod fd_id;
#[cfg_attr(windows, path = "windows/listener.rs")]
mod listener;
#[cfg_attr(windows, path = "windows/pair.rs")]
mod pair;
mod relay;
mod signal;
#[cfg_attr(windows, path = "windows/stream.rs")]
mod stream;
mod thread;
mod watch;

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

use self::{datagram::Datagrams, pair::DatagramSocket, thread::Worker, watch::Watch};
use crate::{TcpListener, TcpStream, UdpFlow, UdpSocket};

/// A thread, `wg-netpump`, that copies between descriptors and connections. It is started with the first descriptor,
/// and sleeps while nothing can be copied. Dropping the pump closes all of its descriptors and resets their
/// connections.
///
/// Any thread may use it. The descriptors that it returns belong to the caller: close them to end the connections. They
/// are blocking and close-on-exec. On Windows they are SOCKETs, and child processes do not inherit them.
pub struct Pump {
    worker: Worker,
}

impl Pump {
    /// Creates a pump without descriptors.
    ///
    /// # Errors
    /// Errors of the system: the pump needs two descriptors of its own.
    pub fn new() -> io::Result<Self> {
        Ok(Self { worker: Worker::new()? })
    }

    /// Returns one end of a pair of stream sockets for `stream`: `read`, `write`, `shutdown` and `poll` work as on any
    /// connected socket. Half closes are passed on in both directions. The descriptor is read only as fast as the peer
    /// accepts data.
    ///
    /// Closing it sends the written data, and then a FIN; if data were left unread, a RST once the written data have
    /// arrived. If none are acknowledged for the stack's `linger`, the connection is reset, and the rest is lost. If
    /// the peer resets the connection, or it fails, writing fails, and reading ends with ECONNRESET after the received
    /// data on Linux and Android; on Apple's systems, and after the peer's FIN, reading ends.
    ///
    /// Unless `stream` has keepalive already, the peer is probed after 300 s without traffic, and the connection fails
    /// if nine probes, 30 s apart, are not answered.
    ///
    /// On Windows it is a TCP socket that is connected over loopback, with the semantics of any: a reset, in either
    /// direction, may discard data that were not read yet; SO_LINGER with 0 seconds makes closing a reset; and for a
    /// few minutes after the socket was closed the peer can send data without an answer.
    ///
    /// # Errors
    /// Errors of the system; the connection is then reset.
    pub fn tcp_descriptor(&self, stream: TcpStream) -> io::Result<OwnedFd> {
        let addresses = (stream.local_addr(), stream.peer_addr());
        let (ours, app) = stream::pair().inspect_err(|_| relay::give_up(&stream))?;
        self.worker.add(Box::new(relay::join(ours, stream)), Some((app.as_fd(), addresses)))?;
        Ok(app)
    }

    /// Returns one end of a pair of sockets with datagram boundaries, for a connected UDP socket.
    ///
    /// One datagram is one `write`, `send`, `read` or `recv`. An empty one is read as 0, like the end, but without
    /// POLLHUP of `poll`. A datagram that is too large is dropped (EMSGSIZE is returned only beyond the system's own
    /// buffer), and so are those that arrive while the descriptor and the UDP socket are full:
    /// [`Netstack::drops`](crate::Netstack::drops) counts both. ICMP errors are not passed on.
    ///
    /// On Windows it is a UDP socket that is connected over loopback. A datagram that finds the program's buffer full
    /// is not counted. The end is one empty datagram, after which sending fails with WSAESHUTDOWN. The pump notices
    /// within two seconds that the socket was closed.
    ///
    /// # Errors
    /// Errors of the system.
    pub fn udp_descriptor(&self, socket: UdpSocket) -> io::Result<OwnedFd> {
        let addresses = socket.peer_addr().map(|peer| (socket.local_addr(), peer));
        self.datagrams(Datagrams::of_socket(socket), addresses)
    }

    /// Returns a descriptor for an intercepted flow, as [`udp_descriptor`](Self::udp_descriptor) does. When the flow
    /// ends, so does reading.
    ///
    /// # Errors
    /// Errors of the system.
    pub fn flow_descriptor(&self, flow: UdpFlow) -> io::Result<OwnedFd> {
        let addresses = (flow.destination(), flow.source());
        self.datagrams(Datagrams::of_flow(flow), Some(addresses))
    }

    fn datagrams(
        &self,
        make: impl FnOnce(DatagramSocket) -> Datagrams,
        addresses: Option<(SocketAddr, SocketAddr)>,
    ) -> io::Result<OwnedFd> {
        let (ours, app) = pair::datagrams()?;
        self.worker.add(Box::new(make(ours)), addresses.map(|addresses| (app.as_fd(), addresses)))?;
        Ok(app)
    }

    /// Returns a descriptor that is readable when a connection waits, which [`accept`] receives. A few connections are
    /// accepted in advance; the others wait in `listener`. Closing the descriptor closes the listener, and resets
    /// connections that wait (those that were accepted in advance are closed on Apple's systems).
    ///
    /// # Errors
    /// Errors of the system.
    pub fn listener_descriptor(&self, listener: TcpListener) -> io::Result<OwnedFd> {
        listener::descriptor(&self.worker, listener)
    }

    /// Calls `closed` on the pump's thread when the other end of `socket`, a connected socket, was closed or shut down
    /// for writing, unless the pump ends first. The pump keeps `socket` until then, and does not read from it.
    ///
    /// # Errors
    /// Errors of the system.
    pub fn watch(&self, socket: Arc<OwnedFd>, closed: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        self.worker.add(Box::new(Watch::new(socket, closed)?), None)
    }

    /// Returns the local and the remote address of a connection or flow, by a descriptor that this pump (or [`accept`])
    /// returned, or by a duplicate of it.
    ///
    /// # Errors
    /// `NotFound` if it is not such a descriptor, or the connection has ended.
    pub fn addresses(&self, descriptor: BorrowedFd<'_>) -> io::Result<(SocketAddr, SocketAddr)> {
        self.worker.addresses(descriptor)
    }

    /// Resets the connection of such a descriptor, or ends the flow: unsent data are discarded, and the peer gets a
    /// RST. The descriptor is then as after a reset by the peer, and still belongs to its owner. The reset may happen
    /// slightly later.
    ///
    /// # Errors
    /// As [`addresses`](Self::addresses).
    pub fn reset(&self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.worker.reset(descriptor)
    }

    /// Returns the pump's ends of the descriptors that it has returned, and the sockets that it watches. A child of
    /// `fork()` inherits copies of them and must close them, so that the other ends see the pump's closing. Call it
    /// before the fork: it takes the pump's lock, which another thread may hold for ever in the child.
    #[must_use]
    pub fn descriptors(&self) -> Vec<RawFd> {
        self.worker.descriptors()
    }

    /// Returns the number of descriptors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.worker.len()
    }

    /// Returns whether it has no descriptors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Pump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pump").field("len", &self.len()).finish()
    }
}

/// Waits until `descriptor` is readable, at its end, or the time has passed (`None`: no limit). It may return earlier.
///
/// # Errors
/// `InvalidInput` if the descriptor is not open.
pub fn wait(descriptor: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<()> {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let mut fds = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
    // That always fits.
    let timeout = timeout.and_then(|timeout| timeout.min(DAY).try_into().ok());
    match poll(&mut fds, timeout.as_ref()) {
        // Windows does not report it as an event.
        Err(Errno::NOTSOCK) => Err(io::ErrorKind::InvalidInput.into()),
        Ok(_) if fds[0].revents().contains(PollFlags::NVAL) => Err(io::ErrorKind::InvalidInput.into()),
        // The caller tries again after a signal.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A connection that was received from a listener's descriptor.
#[derive(Debug)]
pub struct Accepted {
    /// The descriptor, as from [`Pump::tcp_descriptor`].
    pub descriptor: OwnedFd,
    /// The address of this side.
    pub local: SocketAddr,
    /// The address of the other side.
    pub peer: SocketAddr,
}

pub use fd_id::FdId;
pub use listener::accept;
pub use pair::pair;
pub use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
pub use signal::Signal;
