//! System functions of FreeBSD and OpenBSD that the socket libraries do not have.
#![allow(unsafe_code)]

use socket2::SockRef;
use std::{io, os::fd::AsRawFd};

/// A mark for firewalls.
#[cfg(target_os = "freebsd")]
const MARK: libc::c_int = libc::SO_USER_COOKIE;
/// A routing table.
#[cfg(target_os = "openbsd")]
const MARK: libc::c_int = libc::SO_RTABLE;

/// Sets the mark of outgoing packets.
pub(super) fn set_mark(socket: &SockRef<'_>, mark: u32) -> io::Result<()> {
    let len = size_of_val(&mark) as libc::socklen_t;
    // SAFETY: the value is four live bytes, and their number is given.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, MARK, (&raw const mark).cast(), len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
