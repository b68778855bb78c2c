//! Pairs of sockets: the pump's, which is non-blocking and raises no signals, and the program's.

use std::{io, os::fd::OwnedFd};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair};

/// A flag for sends: if the other side has closed its socket, the program gets an error instead of a signal.
#[cfg(not(target_vendor = "apple"))]
pub(super) const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
/// On these systems it is an option of the socket: [`pair`].
#[cfg(target_vendor = "apple")]
pub(super) const NO_SIGNAL: SendFlags = SendFlags::empty();

/// Creates a pair of sockets with datagram boundaries, in which closing one end is visible at the other.
pub(super) fn datagrams() -> io::Result<(OwnedFd, OwnedFd)> {
    // The only such Unix socket of Apple's systems.
    pair(if cfg!(target_vendor = "apple") { SocketType::DGRAM } else { SocketType::SEQPACKET })
}

pub(super) fn pair(kind: SocketType) -> io::Result<(OwnedFd, OwnedFd)> {
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
