//! The system's TCP and Unix sockets.

use std::{
    cell::Cell,
    ffi::c_int,
    io::{self, ErrorKind, IoSlice, IoSliceMut, Read},
    net::{IpAddr, Shutdown, SocketAddr},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    time::Duration,
};

use mio::{Interest, Registry, Token, event::Source, net, unix::SourceFd};
use socket2::{SockRef, TcpKeepalive};
use wg_embed::{ErrorKind as Kind, ipc};
use wg_embed_netstack::{Delivery, TcpStream};

use crate::{service::Address, tls};

/// The time without traffic after which the other side of a connection is probed.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(300);

/// A program that uses the library may not ignore SIGPIPE.
#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: c_int = libc::MSG_NOSIGNAL;
/// A socket option has this effect, which the standard library sets.
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: c_int = 0;

/// More bytes, or the end, follow at once.
#[cfg(any(target_os = "linux", target_os = "android"))]
const MORE: c_int = libc::MSG_MORE;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const MORE: c_int = 0;

/// A connection from a client, or to a target on this side.
pub(crate) enum Socket {
    Tcp(net::TcpStream),
    Unix(net::UnixStream),
    Tls(tls::Session),
    Watched(Watched),
}

/// A socket of a program that wants the reason for its end: a Unix socket has no resets.
pub(crate) struct Watched {
    socket: net::UnixStream,
    failure: Cell<Option<io::Error>>,
    /// The delivery of the connection in the tunnel, once there is one.
    delivery: Cell<Option<Delivery>>,
    ended: Option<Ended>,
}

/// A function that is called when a [`Watched`] socket is closed.
type Ended = Box<dyn FnOnce(io::Result<Delivery>) + Send>;

impl Watched {
    pub(crate) fn new(socket: UnixStream, ended: Ended) -> Self {
        let socket = net::UnixStream::from_std(socket);
        Self { socket, failure: Cell::default(), delivery: Cell::default(), ended: Some(ended) }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Its other side gets its end first.
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Some(ended) = self.ended.take() {
            let delivery = || self.delivery.take().ok_or_else(|| ErrorKind::ConnectionAborted.into());
            ended(self.failure.take().map_or_else(delivery, Err));
        }
    }
}

impl Socket {
    pub(crate) fn register(&mut self, registry: &Registry, token: usize) -> io::Result<()> {
        registry.register(self.source(), Token(token), Interest::READABLE | Interest::WRITABLE)
    }

    /// Adds TLS to the socket, if there is an acceptor.
    pub(crate) fn with_tls(self, acceptor: Option<&tls::Acceptor>) -> io::Result<Self> {
        match (self, acceptor) {
            (Self::Tcp(socket), Some(acceptor)) => acceptor.accept(socket).map(Self::Tls),
            (Self::Unix(_) | Self::Watched(_), Some(_)) => Err(ErrorKind::Unsupported.into()),
            (socket, _) => Ok(socket),
        }
    }

    pub(crate) fn read(&mut self, parts: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read_vectored(parts),
            Self::Unix(socket) | Self::Watched(Watched { socket, .. }) => socket.read_vectored(parts),
            Self::Tls(session) => session.read(parts),
        }
    }

    /// Returns whether a read of `length` bytes into room for `room` has emptied the socket, so that further bytes are
    /// another event. A read of a Unix socket may end early, at a message with descriptors.
    pub(crate) const fn is_drained_by(&self, length: usize, room: usize) -> bool {
        matches!(self, Self::Tcp(_)) && length < room
    }

    pub(crate) fn write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.send(parts, 0)
    }

    /// Does the same as [`write`](Self::write) for the last bytes: if all of them are accepted,
    /// [`end`](Self::end) must follow, so that the end is in the same segment.
    pub(crate) fn write_last(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.send(parts, MORE)
    }

    /// `flags` are for TCP.
    fn send(&mut self, parts: &[IoSlice<'_>], flags: c_int) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => SockRef::from(&*socket).send_vectored_with_flags(parts, NO_SIGNAL | flags),
            Self::Unix(socket) | Self::Watched(Watched { socket, .. }) => {
                SockRef::from(&*socket).send_vectored_with_flags(parts, NO_SIGNAL)
            }
            Self::Tls(session) => session.write(parts),
        }
    }

    /// Sends bytes from the socket's own buffer. Returns whether it is empty.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        match self {
            Self::Tcp(_) | Self::Unix(_) | Self::Watched(_) => Ok(true),
            Self::Tls(session) => session.flush(),
        }
    }

    /// Starts to connect to a target on this side.
    pub(crate) fn connect(to: &Address) -> io::Result<Self> {
        Ok(match to {
            Address::Tcp(to) => Self::Tcp(net::TcpStream::connect(*to)?),
            Address::Unix(path) => Self::Unix(net::UnixStream::connect(path)?),
        })
    }

    /// Returns the addresses of this side and of the other one.
    pub(crate) fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        match self {
            Self::Tcp(socket) => Ok((socket.local_addr()?, socket.peer_addr()?)),
            Self::Unix(_) | Self::Watched(_) => Err(ErrorKind::Unsupported.into()),
            Self::Tls(socket) => socket.addresses(),
        }
    }

    /// Returns whether a connection that was started is established.
    pub(crate) fn is_connected(&self) -> io::Result<bool> {
        if let Some(error) = self.error() {
            return Err(error);
        }
        let Self::Tcp(socket) = self else {
            return Ok(true);
        };
        match socket.peer_addr() {
            Ok(_) => {
                prepare(socket);
                Ok(true)
            }
            Err(e) if e.kind() == ErrorKind::NotConnected => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Reports that its connection in the tunnel is established.
    pub(crate) fn connected(&self, connection: &TcpStream) {
        if let Self::Watched(watched) = self {
            watched.delivery.set(Some(connection.delivery()));
        }
    }

    /// Ends the direction to the other side.
    pub(crate) fn end(&mut self) {
        // The other side may already have closed it.
        let _ = match self {
            Self::Tcp(socket) => socket.shutdown(Shutdown::Write),
            Self::Unix(socket) | Self::Watched(Watched { socket, .. }) => socket.shutdown(Shutdown::Write),
            Self::Tls(session) => {
                session.end();
                Ok(())
            }
        };
    }

    /// Takes the pending error, if any.
    pub(crate) fn error(&self) -> Option<io::Error> {
        match self {
            Self::Tcp(socket) => socket.take_error(),
            Self::Unix(socket) | Self::Watched(Watched { socket, .. }) => socket.take_error(),
            Self::Tls(session) => session.socket.take_error(),
        }
        .unwrap_or_else(Some)
    }

    /// Makes closing it a reset, if it supports resets.
    pub(crate) fn reset_on_close(&self) {
        self.fail(&ErrorKind::ConnectionReset.into());
    }

    /// Does the same as [`reset_on_close`](Self::reset_on_close); `error` is the reason for a [`Watched`] socket.
    pub(crate) fn fail(&self, error: &io::Error) {
        match self {
            Self::Tcp(socket) | Self::Tls(tls::Session { socket, .. }) => {
                if let Err(error) = SockRef::from(socket).set_linger(Some(Duration::ZERO)) {
                    tracing::debug!(%error, "a socket is closed without a reset");
                }
            }
            Self::Watched(watched) => watched.failure.set(Some(io::Error::new(error.kind(), error.to_string()))),
            Self::Unix(_) => {}
        }
    }

    /// Returns the address of its client, if it has one.
    pub(crate) fn client(&self) -> Option<IpAddr> {
        self.addresses().ok().map(|(_, peer)| peer.ip().to_canonical())
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(socket) => socket,
            Self::Unix(socket) | Self::Watched(Watched { socket, .. }) => socket,
            Self::Tls(session) => &mut session.socket,
        }
    }
}

/// Sends small parts at once, and detects a connection whose other side no longer exists. Options that cannot be set
/// have the system's defaults.
fn prepare(socket: &impl AsFd) {
    let socket = SockRef::from(socket);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
    let set = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&keepalive));
    if let Err(error) = set {
        tracing::debug!(%error, "a socket has the system's options");
    }
}

/// Lets clients' sockets send the ACK of a request with the response to it.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn answer_soon(listener: &impl AsFd) {
    if let Err(error) = SockRef::from(listener).set_tcp_quickack(false) {
        tracing::debug!(%error, "requests are acknowledged at once");
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn answer_soon(_: &impl AsFd) {}

/// Whether accepted sockets have their listener's options, so that no client needs system calls for them. Where an
/// emulation of Linux differs, accepted sockets have the system's defaults.
const INHERITS_OPTIONS: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// A listener for clients. Dropping it removes its file, if that is still the same.
pub(crate) enum Listener {
    Tcp(net::TcpListener),
    Unix(ipc::Listener, PathBuf),
}

impl Listener {
    pub(crate) fn bind(at: &Address) -> io::Result<Self> {
        match at {
            Address::Tcp(at) => {
                let socket = net::TcpListener::bind(*at)?;
                if INHERITS_OPTIONS {
                    prepare(&socket);
                }
                answer_soon(&socket);
                Ok(Self::Tcp(socket))
            }
            Address::Unix(path) => {
                let listener = ipc::Listener::claim_path(path).map_err(|error| {
                    let kind = match error.kind() {
                        Kind::Exists | Kind::AddrInUse | Kind::Busy => ErrorKind::AddrInUse,
                        Kind::Invalid => ErrorKind::InvalidInput,
                        Kind::Permission => ErrorKind::PermissionDenied,
                        Kind::NotFound => ErrorKind::NotFound,
                        _ => ErrorKind::Other,
                    };
                    io::Error::new(kind, error)
                })?;
                listener.socket().set_nonblocking(true)?;
                Ok(Self::Unix(listener, path.clone()))
            }
        }
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: usize) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => registry.register(socket, Token(token), Interest::READABLE),
            Self::Unix(listener, _) => {
                registry.register(&mut SourceFd(&listener.socket().as_raw_fd()), Token(token), Interest::READABLE)
            }
        }
    }

    /// Returns its address, with the actual port.
    pub(crate) fn address(&self) -> io::Result<Address> {
        Ok(match self {
            Self::Tcp(socket) => Address::Tcp(socket.local_addr()?),
            Self::Unix(_, path) => Address::Unix(path.clone()),
        })
    }

    pub(crate) fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(socket) => {
                let (socket, _) = socket.accept()?;
                if !INHERITS_OPTIONS {
                    prepare(&socket);
                }
                Ok(Socket::Tcp(socket))
            }
            Self::Unix(listener, _) => {
                let (socket, _) = listener.socket().accept()?;
                socket.set_nonblocking(true)?;
                Ok(Socket::Unix(net::UnixStream::from_std(socket)))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn those_who_have_gone_are_noticed() {
        let listener = Listener::bind(&Address::Tcp(([127, 0, 0, 1], 0).into())).unwrap();
        let dialled = Socket::connect(&listener.address().unwrap()).unwrap();
        let retry = |step: &dyn Fn() -> bool| {
            (0..6000).any(|_| {
                let done = step();
                std::thread::sleep(Duration::from_millis(if done { 0 } else { 10 }));
                done
            })
        };
        assert!(retry(&|| dialled.is_connected().unwrap()));
        let accepted = std::cell::OnceCell::new();
        assert!(retry(&|| listener.accept().is_ok_and(|socket| accepted.set(socket).is_ok())));
        for socket in [&dialled, accepted.get().unwrap()] {
            let Socket::Tcp(socket) = socket else { panic!("it is TCP") };
            assert!(SockRef::from(socket).keepalive().unwrap() && socket.nodelay().unwrap());
            assert_eq!(SockRef::from(socket).tcp_keepalive_time().unwrap(), KEEPALIVE);
        }
    }
}
