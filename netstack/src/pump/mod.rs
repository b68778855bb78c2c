//! Connections as ordinary descriptors: one thread copies between them and the stack.
//!
//! | file | what it has |
//! |---|---|
//! | `thread` | the thread: which descriptor can go on |
//! | `stream` | a TCP connection and a stream socket, and how a reset passes through that |
//! | `datagram` | UDP and a socket that keeps borders |
//! | `listener` | connections that are handed over as descriptors |
//! | `watch` | a socket that is watched for its end |
//! | `pair` | pairs of sockets |
//! | `fd_id` | what a descriptor stands for |

mod datagram;
mod fd_id;
mod listener;
mod pair;
mod stream;
mod thread;
mod watch;

use std::{
    fmt, io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
    sync::Arc,
};

use self::{datagram::Datagrams, listener::Listener, thread::Worker, watch::Watch};
use crate::{TcpListener, TcpStream, UdpFlow, UdpSocket, copy::Relay};

/// One thread, `wg-netpump`, that copies between descriptors and connections. It is started with the first descriptor,
/// and sleeps while nothing can be copied. Dropping the pump closes all of its descriptors and resets their
/// connections.
///
/// Any thread may use it. A descriptor that it returns is the caller's: close it to end the connection. It is blocking,
/// and closed when another program is executed.
pub struct Pump {
    worker: Worker,
}

impl Pump {
    /// A pump without descriptors.
    ///
    /// # Errors
    /// As the system says: it needs two descriptors of its own.
    pub fn new() -> io::Result<Self> {
        Ok(Self { worker: Worker::new()? })
    }

    /// Returns one end of a pair of stream sockets for `stream`: `read`, `write`, `shutdown` and `poll` are as on any
    /// connected socket. Half closes pass both ways. What the peer does not take is not read from the descriptor.
    ///
    /// Closing it sends what was written, and then a FIN; if data were left unread, a RST once what was written has
    /// arrived. If the peer resets the connection, or it fails, reading ends with ECONNRESET after what had arrived on
    /// Linux and Android; elsewhere reading ends.
    ///
    /// # Errors
    /// As the system says; the connection is reset then.
    pub fn tcp_descriptor(&self, stream: TcpStream) -> io::Result<OwnedFd> {
        let addresses = (stream.local_addr(), stream.peer_addr());
        let (ours, app) = stream::pair()?;
        self.worker.add(Box::new(Relay::new(ours, stream, false)), Some((app.as_fd(), addresses)))?;
        Ok(app)
    }

    /// Returns one end of a pair of sockets that keep the borders of datagrams, for a connected UDP socket.
    ///
    /// One datagram is one `write`, `send`, `read` or `recv`. One of no bytes reads as 0, like the end, but `poll` has
    /// no POLLHUP then. One that is too large is dropped (EMSGSIZE is only for what the system's own buffer does not
    /// take), and so are those that arrive while the descriptor and the UDP socket are full:
    /// [`Netstack::drops`](crate::Netstack::drops) counts both. ICMP errors are not passed on.
    ///
    /// # Errors
    /// As the system says.
    pub fn udp_descriptor(&self, socket: UdpSocket) -> io::Result<OwnedFd> {
        let addresses = socket.peer_addr().map(|peer| (socket.local_addr(), peer));
        self.datagrams(Datagrams::of_socket(socket), addresses)
    }

    /// As [`udp_descriptor`](Self::udp_descriptor), for an intercepted flow. When the flow ends, reading does.
    ///
    /// # Errors
    /// As the system says.
    pub fn flow_descriptor(&self, flow: UdpFlow) -> io::Result<OwnedFd> {
        let addresses = (flow.destination(), flow.source());
        self.datagrams(Datagrams::of_flow(flow), Some(addresses))
    }

    fn datagrams(
        &self,
        make: impl FnOnce(OwnedFd) -> Datagrams,
        addresses: Option<(SocketAddr, SocketAddr)>,
    ) -> io::Result<OwnedFd> {
        let (ours, app) = pair::datagrams()?;
        self.worker.add(Box::new(make(ours)), addresses.map(|addresses| (app.as_fd(), addresses)))?;
        Ok(app)
    }

    /// Returns a descriptor that is readable when a connection waits: [`accept`] takes it. Closing the descriptor ends
    /// the listener. A few connections are accepted ahead of the program; the others wait in `listener`.
    ///
    /// # Errors
    /// As the system says.
    pub fn listener_descriptor(&self, listener: TcpListener) -> io::Result<OwnedFd> {
        let (ours, app) = pair::datagrams()?;
        // A few hundred bytes each: what waits in the pair is bounded by this.
        rustix::net::sockopt::set_socket_send_buffer_size(&ours, 4096)?;
        self.worker.add(Box::new(Listener::new(listener, ours, self.worker.handle())), None)?;
        Ok(app)
    }

    /// Calls `closed` on the pump's thread when the other end of `socket`, a connected socket, was closed or shut down
    /// for writing, unless the pump ends before. The pump keeps `socket` until then; what is in it is not read.
    ///
    /// # Errors
    /// As the system says.
    pub fn watch(&self, socket: Arc<OwnedFd>, closed: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        self.worker.add(Box::new(Watch::new(socket, closed)), None)
    }

    /// The addresses of this and of the other side of a connection or flow, by a descriptor that this pump returned (or
    /// [`accept`] did), or by a duplicate of it.
    ///
    /// # Errors
    /// `NotFound` if it is none, or the connection has ended.
    pub fn addresses(&self, descriptor: BorrowedFd<'_>) -> io::Result<(SocketAddr, SocketAddr)> {
        self.worker.addresses(descriptor)
    }

    /// Resets the connection of such a descriptor, or ends the flow: what was not sent is given up, and the peer gets a
    /// RST. The descriptor is as after a reset by the peer, and still its owner's. It may happen a little later.
    ///
    /// # Errors
    /// As [`addresses`](Self::addresses).
    pub fn reset(&self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.worker.reset(descriptor)
    }

    /// Its own ends of the descriptors that it has returned, and the sockets that it watches. A child of `fork()`
    /// has copies of them, and closes them so that the other ends see when the pump does. Call it before the fork: it
    /// takes the pump's lock, which another thread may hold for ever in the child.
    #[must_use]
    pub fn descriptors(&self) -> Vec<RawFd> {
        self.worker.descriptors()
    }

    /// How many descriptors it copies for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.worker.len()
    }

    /// Whether it has none.
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

pub use fd_id::FdId;
pub use listener::{Accepted, accept};
