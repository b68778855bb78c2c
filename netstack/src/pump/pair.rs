//! Pairs of sockets: ours, which does not block and makes no signals, and the program's.

use std::{io, os::fd::OwnedFd};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair};

/// With a send: a program whose socket was closed by its other side gets an error, and no signal.
#[cfg(not(target_vendor = "apple"))]
pub(super) const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
/// There the socket itself says so: [`pair`].
#[cfg(target_vendor = "apple")]
pub(super) const NO_SIGNAL: SendFlags = SendFlags::empty();

/// A pair of sockets that keep borders, and of which one sees that the other was closed.
pub(super) fn datagrams() -> io::Result<(OwnedFd, OwnedFd)> {
    // Apple's systems have no such Unix socket but this one.
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
