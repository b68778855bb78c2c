//! UDP sockets, and intercepted flows.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use crate::{
    notify::Notify,
    stack::{
        Shared,
        udp::{self, Datagram, Flow, Socket},
    },
};

/// A UDP socket inside the tunnel, bound to a port, and optionally connected to one address. Any thread may use it.
///
/// At most 1 MiB of datagrams wait in it (less with a smaller `receive_buffer`), and a quarter of the stack's memory in
/// all sockets and flows; more are dropped.
///
/// ```
/// use std::time::Duration;
/// # mod tunnels { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/tunnels.rs")); }
/// # fn main() -> std::io::Result<()> {
/// # let (a, b) = tunnels::pair(|_| {});
/// // The stacks of two tunnels that are each other's peers.
/// # let (client, server) = (a.stack.clone(), b.stack.clone());
/// let socket = server.bind_udp("10.0.0.2:53".parse().unwrap(), None)?;
/// client.dial_udp("10.0.0.2:53", Duration::from_secs(60))?.try_send(b"hello", None)?;
///
/// let mut buffer = [0; 1500];
/// let (len, from) = socket.recv(&mut buffer, Some(Duration::from_secs(60)))?;
/// assert_eq!((&buffer[..len], from.ip().to_string().as_str()), (&b"hello"[..], "10.0.0.1"));
/// # Ok(())
/// # }
/// ```
pub struct UdpSocket {
    pub(crate) shared: Arc<Shared>,
    socket: Socket,
}

impl UdpSocket {
    pub(crate) const fn new(shared: Arc<Shared>, socket: Socket) -> Self {
        Self { shared, socket }
    }

    /// Returns its own address and port (the address is unspecified if it is bound to all of the stack's).
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.socket.local
    }

    /// Returns the address it is connected to.
    #[must_use]
    pub const fn peer_addr(&self) -> Option<SocketAddr> {
        self.socket.peer
    }

    /// Sends one datagram, in fragments if it is larger than the path's MTU. For a connected socket `to` is `None`.
    ///
    /// # Errors
    /// `WouldBlock` if the stack's queue is full: the socket has no queue of its own. `InvalidInput` for a datagram
    /// larger than 65,507 bytes (IPv6: 65,487), with EMSGSIZE as its cause, and for an invalid destination address.
    /// `NotConnected` without an address. `AddrNotAvailable` without an own address of the family. `ConnectionAborted`
    /// after the stack was closed.
    pub fn try_send(&self, data: &[u8], to: Option<SocketAddr>) -> io::Result<usize> {
        self.socket.send(&self.shared, data, to)?;
        Ok(data.len())
    }

    /// Returns the next datagram, truncated to `buf`, its full length, and its sender.
    ///
    /// # Errors
    /// `WouldBlock`. A connected socket returns an ICMP error once: `ConnectionRefused`, `HostUnreachable`,
    /// `NetworkUnreachable`. `AddrNotAvailable` if its address is no longer the stack's; `ConnectionAborted` after the
    /// stack was closed.
    pub fn try_recv(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.try_recv_to(buf).map(|(length, from, _)| (length, from))
    }

    /// Receives like [`try_recv`](Self::try_recv), and also returns the address that the datagram was sent to: for a
    /// socket that is bound to all of the stack's addresses, and replies from that address by
    /// [`Netstack::send_datagram`](crate::Netstack::send_datagram).
    ///
    /// # Errors
    /// As [`try_recv`](Self::try_recv).
    pub fn try_recv_to(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr, SocketAddr)> {
        if let Some(error) = self.socket.mailbox.take_error() {
            return Err(error.into());
        }
        let datagram = self.socket.mailbox.pop(&self.shared)?;
        Ok((copy(&datagram, buf), datagram.from, datagram.to))
    }

    /// Receives like [`try_recv`](Self::try_recv), but waits.
    ///
    /// # Errors
    /// `TimedOut` instead of `WouldBlock`.
    pub fn recv(&self, buf: &mut [u8], timeout: Option<Duration>) -> io::Result<(usize, SocketAddr)> {
        let until = timeout.and_then(|timeout| std::time::Instant::now().checked_add(timeout));
        loop {
            match self.try_recv(buf) {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            let left = until.map(|until| until.saturating_duration_since(std::time::Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.socket.mailbox.wait(left);
        }
    }

    /// Returns whether a datagram (or an error) waits.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.socket.mailbox.is_readable()
    }

    /// Replaces the notifier of datagrams, of errors and of room.
    pub fn set_notify(&self, notify: Option<Arc<dyn Notify>>) {
        self.socket.mailbox.set_notify(notify);
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        if !self.shared.is_forked() {
            self.socket.release(&self.shared);
        }
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSocket")
            .field("local", &self.local_addr())
            .field("peer", &self.peer_addr())
            .finish_non_exhaustive()
    }
}

/// A UDP port of the stack that is reserved without a socket: see
/// [`Netstack::reserve_udp`](crate::Netstack::reserve_udp). Dropping it releases the port.
pub struct UdpPort {
    shared: Arc<Shared>,
    local: SocketAddr,
}

impl UdpPort {
    pub(crate) const fn new(shared: Arc<Shared>, local: SocketAddr) -> Self {
        Self { shared, local }
    }

    /// Returns the address and port (the address is unspecified for the port of all of the stack's addresses).
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

impl Drop for UdpPort {
    fn drop(&mut self) {
        if !self.shared.is_forked() {
            udp::give_back(&self.shared, self.local);
        }
    }
}

impl fmt::Debug for UdpPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpPort").field("local", &self.local).finish_non_exhaustive()
    }
}

/// Copies as much of a datagram as fits, and returns its full length.
fn copy(datagram: &Datagram, buf: &mut [u8]) -> usize {
    let len = datagram.data.len().min(buf.len());
    buf[..len].copy_from_slice(&datagram.data[..len]);
    datagram.data.len()
}

/// An intercepted flow: all datagrams between one address of a peer and one destination, which may be any address.
/// Dropping it ends it: the next datagram is a new flow. Datagrams wait in it as in a [`UdpSocket`].
pub struct UdpFlow {
    pub(crate) shared: Arc<Shared>,
    flow: Arc<Flow>,
}

impl UdpFlow {
    pub(crate) const fn new(shared: Arc<Shared>, flow: Arc<Flow>) -> Self {
        Self { shared, flow }
    }

    /// Returns the peer's address and port.
    #[must_use]
    pub fn source(&self) -> SocketAddr {
        self.flow.tuple.remote()
    }

    /// Returns the destination of the peer's datagrams, which is the source of replies.
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        self.flow.tuple.local()
    }

    /// Returns the next datagram, truncated to `buf`, and its full length. `Ok(None)`: the flow has ended (no traffic
    /// for the time limit, replaced by other flows, or the stack was closed).
    ///
    /// # Errors
    /// `WouldBlock`.
    pub fn try_recv(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        Ok(self.next()?.map(|datagram| copy(&datagram, buf)))
    }

    /// Receives in place like [`try_recv`](Self::try_recv). `take` is called without a lock.
    pub fn try_recv_with(&self, take: &mut dyn FnMut(&[u8])) -> io::Result<Option<()>> {
        Ok(self.next()?.map(|datagram| take(&datagram.data)))
    }

    fn next(&self) -> io::Result<Option<Datagram>> {
        match self.flow.mailbox.pop(&self.shared) {
            Err(err) if err.kind() != io::ErrorKind::WouldBlock => Ok(None),
            result => result.map(Some),
        }
    }

    /// Returns the last ICMP error about a reply, once: `ConnectionRefused`, `HostUnreachable` or `NetworkUnreachable`.
    /// The notifier is called for it as for a datagram; the flow continues.
    #[must_use]
    pub fn take_error(&self) -> Option<io::Error> {
        self.flow.mailbox.take_error().map(io::Error::from)
    }

    /// Replies with one datagram.
    ///
    /// # Errors
    /// As [`UdpSocket::try_send`]; `BrokenPipe` after the flow has ended.
    pub fn try_send(&self, data: &[u8]) -> io::Result<usize> {
        self.flow.send(&self.shared, data)?;
        Ok(data.len())
    }

    /// Responds with ICMP port unreachable, within the rate limit of ICMP errors, and ends.
    pub fn refuse(self) {
        self.flow.refuse(&self.shared);
    }

    /// Replaces the notifier of datagrams, of errors, of room, and of the end.
    pub fn set_notify(&self, notify: Option<Arc<dyn Notify>>) {
        self.flow.mailbox.set_notify(notify);
    }
}

impl Drop for UdpFlow {
    fn drop(&mut self) {
        if !self.shared.is_forked() {
            self.flow.release(&self.shared);
        }
    }
}

impl fmt::Debug for UdpFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpFlow")
            .field("source", &self.source())
            .field("destination", &self.destination())
            .finish_non_exhaustive()
    }
}
