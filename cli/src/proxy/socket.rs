//! The system's sockets: of TCP, and of files.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::Shutdown,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream},
    },
    path::{Path, PathBuf},
};

use mio::{Interest, Registry, Token, event::Source, net};

use super::config::Address;

/// A connection of a client.
pub(super) enum Socket {
    Tcp(net::TcpStream),
    Unix(net::UnixStream),
}

impl Socket {
    pub(super) fn register(&mut self, registry: &Registry, token: usize) -> io::Result<()> {
        registry.register(self.source(), Token(token), Interest::READABLE | Interest::WRITABLE)
    }

    /// The descriptor, without an event loop.
    pub(super) fn release(mut self, registry: &Registry) -> io::Result<OwnedFd> {
        registry.deregister(self.source())?;
        Ok(match self {
            Self::Tcp(socket) => socket.into(),
            Self::Unix(socket) => socket.into(),
        })
    }

    pub(super) fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read(buf),
            Self::Unix(socket) => socket.read(buf),
        }
    }

    pub(super) fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write(buf),
            Self::Unix(socket) => socket.write(buf),
        }
    }

    pub(super) fn end(&self) {
        // It is closed next, and the other side may have closed it already.
        let _ = match self {
            Self::Tcp(socket) => socket.shutdown(Shutdown::Write),
            Self::Unix(socket) => socket.shutdown(Shutdown::Write),
        };
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(socket) => socket,
            Self::Unix(socket) => socket,
        }
    }
}

/// Where clients connect. Dropping it removes its file.
pub(super) enum Listener {
    Tcp(net::TcpListener),
    Unix(net::UnixListener, PathBuf),
}

impl Listener {
    pub(super) fn bind(at: &Address) -> io::Result<Self> {
        match at {
            Address::Tcp(at) => net::TcpListener::bind(*at).map(Self::Tcp),
            Address::Unix(path) => {
                let socket = bind_file(path)?;
                socket.set_nonblocking(true)?;
                Ok(Self::Unix(net::UnixListener::from_std(socket), path.clone()))
            }
        }
    }

    pub(super) fn register(&mut self, registry: &Registry, token: usize) -> io::Result<()> {
        let source: &mut dyn Source = match self {
            Self::Tcp(socket) => socket,
            Self::Unix(socket, _) => socket,
        };
        registry.register(source, Token(token), Interest::READABLE)
    }

    pub(super) fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(socket) => {
                let (socket, _) = socket.accept()?;
                // What is not possible is only slower.
                let _ = socket.set_nodelay(true);
                Ok(Socket::Tcp(socket))
            }
            Self::Unix(socket, _) => Ok(Socket::Unix(socket.accept()?.0)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Replaces a socket file that no process listens on.
fn bind_file(path: &Path) -> io::Result<StdUnixListener> {
    match StdUnixListener::bind(path) {
        Err(e) if e.kind() == ErrorKind::AddrInUse => match StdUnixStream::connect(path) {
            Err(refused) if refused.kind() == ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)?;
                StdUnixListener::bind(path)
            }
            _ => Err(e),
        },
        result => result,
    }
}
