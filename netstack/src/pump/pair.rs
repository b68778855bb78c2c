//! Pairs of sockets: the pump's, which is non-blocking and raises no signals, and the program's.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use mio::{Interest, Registry, Token, event, unix::SourceFd};
use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair},
};

/// A flag for sends: if the other side has closed its socket, the program gets an error instead of a signal.
#[cfg(not(target_vendor = "apple"))]
pub(super) const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
/// On these systems it is an option of the socket: [`pair`].
#[cfg(target_vendor = "apple")]
pub(super) const NO_SIGNAL: SendFlags = SendFlags::empty();

/// A flag for receiving from the program's end, which may be blocking.
pub(super) const NO_WAIT: RecvFlags = RecvFlags::DONTWAIT;

/// Creates a connected pair of stream sockets: the first one is non-blocking, the second one blocking. Both are
/// close-on-exec.
///
/// # Errors
/// Errors of the system.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    pair_of(SocketType::STREAM)
}

/// Creates a pair of sockets with datagram boundaries, in which closing one end is visible at the other.
pub(super) fn datagrams() -> io::Result<(DatagramSocket, OwnedFd)> {
    // The only such Unix socket of Apple's systems.
    let (ours, app) = pair_of(if cfg!(target_vendor = "apple") { SocketType::DGRAM } else { SocketType::SEQPACKET })?;
    Ok((Socket(ours), app))
}

fn pair_of(kind: SocketType) -> io::Result<(OwnedFd, OwnedFd)> {
    #[cfg(not(target_vendor = "apple"))]
    let (ours, app) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    #[cfg(target_vendor = "apple")]
    let (ours, app) = {
        let (ours, app) = socketpair(AddressFamily::UNIX, kind, SocketFlags::empty(), None)?;
        for end in [&ours, &app] {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
        }
        rustix::net::sockopt::set_socket_nosigpipe(&ours, true)?;
        (ours, app)
    };
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, app))
}

/// A socket that the pump's thread waits for.
pub(super) struct Socket<T = OwnedFd>(pub(super) T);

/// A program's own socket.
pub(super) type Watched = Socket<Arc<OwnedFd>>;

/// Prepares a program's own socket for the thread.
#[allow(clippy::unnecessary_wraps)] // As on Windows.
pub(super) fn watched(socket: Arc<OwnedFd>) -> io::Result<Watched> {
    Ok(Socket(socket))
}

impl<T: AsFd> AsFd for Socket<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl<T: AsFd> event::Source for Socket<T> {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.as_fd().as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.as_fd().as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.as_fd().as_raw_fd()).deregister(registry)
    }
}

/// Our end of a pair with datagram boundaries.
pub(super) type DatagramSocket = Socket;

impl Socket {
    /// Receives a datagram; 0 also at the end.
    pub(super) fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        let (_, length) = recv(self, buf, NO_WAIT)?;
        Ok(length)
    }

    /// Returns whether no bytes wait.
    pub(super) fn is_empty(&self) -> bool {
        rustix::io::ioctl_fionread(self).unwrap_or(0) == 0
    }

    /// Sends a datagram. `WouldBlock` if there is no room.
    pub(super) fn send(&self, datagram: &[u8]) -> io::Result<()> {
        match send(self, datagram, NO_SIGNAL | SendFlags::DONTWAIT) {
            Err(Errno::NOBUFS) => Err(io::ErrorKind::WouldBlock.into()),
            sent => Ok(sent.map(drop)?),
        }
    }

    /// Returns whether the program has closed its end, if the system does not report that by an event.
    pub(super) fn is_abandoned(&self) -> Option<bool> {
        None
    }
}

/// Returns whether there may be an error to take.
pub(super) fn is_failure(event: &event::Event) -> bool {
    event.is_error()
}
