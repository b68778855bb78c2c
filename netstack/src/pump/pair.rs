//! Pairs of sockets.
//!
//! A reset has to be told from an end. Of a Unix stream socket the system makes ECONNRESET only if its other end is
//! closed with bytes in it that were not read. So on Linux our end always keeps one: [`stream`] puts one there first,
//! and
//! [`read`] leaves the last byte in place after it has looked at it. An end without a reset takes it out ([`finish`]).

use std::{
    io::{self, IoSliceMut},
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair},
};

/// With a send: a program whose socket was closed by its other side gets an error, and no signal.
#[cfg(not(target_vendor = "apple"))]
pub(super) const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
/// There the socket itself says so: [`prepare`].
#[cfg(target_vendor = "apple")]
pub(super) const NO_SIGNAL: SendFlags = SendFlags::empty();

/// Makes a socket one that the pump can use: it neither blocks nor makes signals.
pub(super) fn prepare(socket: &OwnedFd) -> io::Result<()> {
    #[cfg(target_vendor = "apple")]
    rustix::net::sockopt::set_socket_nosigpipe(socket, true)?;
    Ok(rustix::io::ioctl_fionbio(socket, true)?)
}

/// Whether a byte is kept.
const KEEPS: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// A pair of stream sockets: ours, which does not block, and the program's.
pub(super) fn stream() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, app) = pair(SocketType::STREAM)?;
    if KEEPS {
        send(&app, &[0], SendFlags::empty())?;
    }
    Ok((ours, app))
}

/// A pair of sockets that keep borders, and of which one sees that the other was closed.
pub(super) fn datagrams() -> io::Result<(OwnedFd, OwnedFd)> {
    // Apple's systems have no such Unix socket but this one.
    pair(if cfg!(target_vendor = "apple") { SocketType::DGRAM } else { SocketType::SEQPACKET })
}

fn pair(kind: SocketType) -> io::Result<(OwnedFd, OwnedFd)> {
    #[cfg(not(target_vendor = "apple"))]
    let (ours, app) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    #[cfg(target_vendor = "apple")]
    let (ours, app) = {
        let (ours, app) = socketpair(AddressFamily::UNIX, kind, SocketFlags::empty(), None)?;
        for end in [&ours, &app] {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
        }
        (ours, app)
    };
    prepare(&ours)?;
    Ok((ours, app))
}

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    Bytes(usize),
    /// There is nothing now.
    Nothing,
    /// The program has ended this direction.
    End,
    /// The program has closed its end with data that it had not read.
    Reset,
}

/// How many bytes there are to read at our end of [`stream`], as far as the system says: it takes the byte that is kept
/// for one that there is to read.
pub(super) fn waiting(ours: &OwnedFd) -> usize {
    if !KEEPS {
        return usize::MAX;
    }
    let waiting = rustix::io::ioctl_fionread(ours).unwrap_or(0);
    usize::try_from(waiting).unwrap_or(usize::MAX).saturating_sub(1)
}

/// Reads from our end of [`stream`], where that many bytes wait, into `first`, then `second`.
pub(super) fn read(ours: &OwnedFd, first: &mut [u8], second: &mut [u8], waiting: usize) -> Read {
    if !KEEPS {
        return read_socket(ours, first, second);
    }
    let most = waiting.min(first.len() + second.len());
    if most == 0 {
        return Read::Nothing;
    }
    // The byte that was kept, and all but the last of the new ones.
    let one = first.len().min(most - 1);
    let two = most - 1 - one;
    let mut kept = [0];
    let taken = {
        let mut parts =
            [IoSliceMut::new(&mut kept), IoSliceMut::new(&mut first[..one]), IoSliceMut::new(&mut second[..two])];
        match rustix::io::readv(ours, &mut parts) {
            Ok(taken @ 1..) => taken - 1,
            Ok(0) => return Read::End,
            Err(Errno::AGAIN | Errno::INTR) => return Read::Nothing,
            Err(_) => return Read::Reset,
        }
    };
    let last = if taken < first.len() { &mut first[taken..=taken] } else { &mut second[taken - one..=taken - one] };
    match recv(ours, last, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((1.., _)) => Read::Bytes(taken + 1),
        _ => Read::Reset,
    }
}

/// Reads from any stream socket.
pub(super) fn read_socket(socket: &OwnedFd, first: &mut [u8], second: &mut [u8]) -> Read {
    match rustix::io::readv(socket, &mut [IoSliceMut::new(first), IoSliceMut::new(second)]) {
        Ok(0) => Read::End,
        Ok(bytes) => Read::Bytes(bytes),
        Err(Errno::AGAIN | Errno::INTR) => Read::Nothing,
        Err(_) => Read::Reset,
    }
}

/// Before our end of [`stream`] is closed: the other one sees an end, and no reset.
pub(super) fn finish(ours: &OwnedFd) {
    if KEEPS {
        let _ = recv(ours, &mut [0; 1][..], RecvFlags::DONTWAIT);
    }
}

/// Before a socket is closed: its other side sees a reset.
pub(super) fn reset_on_close(socket: &OwnedFd) {
    let none = Some(std::time::Duration::ZERO);
    if let Err(err) = rustix::net::sockopt::set_socket_linger(socket.as_fd(), none) {
        tracing::debug!(%err, "a socket is closed without a reset");
    }
}
