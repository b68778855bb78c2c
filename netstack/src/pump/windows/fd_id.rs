//! The identity of a socket.

use std::{io, net::SocketAddr};

use rustix::fd::BorrowedFd;
use socket2::{SockRef, Type};

/// A socket of loopback, independent of handles: a program may have duplicated a handle, or closed it, so that its
/// value has another meaning. Once the socket is closed, its id may be reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FdId {
    is_stream: bool,
    local: SocketAddr,
    /// `None` after a reset.
    peer: Option<SocketAddr>,
}

impl FdId {
    /// Returns the id of `socket`.
    ///
    /// # Errors
    /// Errors of the system: it is not a socket, or not bound.
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let socket = SockRef::from(&socket);
        let address = |address: socket2::SockAddr| address.as_socket();
        let local = address(socket.local_addr()?).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { is_stream: socket.r#type()? == Type::STREAM, local, peer: socket.peer_addr().ok().and_then(address) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rustix::fd::{AsFd, OwnedFd};

    use super::*;
    use crate::pump::pair;

    #[test]
    fn duplicates_are_the_same_and_no_others() {
        let (one, other) = pair().unwrap();
        let id = |socket: &OwnedFd| FdId::of(socket.as_fd()).unwrap();
        assert_eq!(id(&one), id(&one.try_clone().unwrap()));
        assert_ne!(id(&one), id(&other));
    }
}
