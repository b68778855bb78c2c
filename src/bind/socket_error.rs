//! The meaning of socket errors for the socket.

use std::io;

/// A code for errors that are not from the system.
pub(super) const UNKNOWN: i32 = -1;

/// Returns whether an error means that the socket has become unusable: it does not exist, or was shut down by the
/// system (Android does this to sockets of a network that has disappeared, Apple's systems to those of an app that was
/// suspended).
pub(super) fn ends(code: i32) -> bool {
    #[cfg(not(windows))]
    return matches!(code, libc::EBADF | libc::ENOTSOCK | libc::ENOTCONN | libc::ECONNABORTED | libc::EPIPE);
    // Of winsock2.h: WSA_INVALID_HANDLE, WSAEBADF, WSAENOTSOCK, WSAECONNABORTED, WSAENOTCONN, WSAESHUTDOWN.
    #[cfg(windows)]
    return matches!(code, 6 | 10009 | 10038 | 10053 | 10057 | 10058);
}

/// Returns whether an error means that a descriptor is not a socket.
pub(super) fn is_no_socket(err: &io::Error) -> bool {
    #[cfg(not(windows))]
    const NO_SOCKET: i32 = libc::ENOTSOCK;
    /// Of winsock2.h: `WSAENOTSOCK`.
    #[cfg(windows)]
    const NO_SOCKET: i32 = 10038;
    err.raw_os_error() == Some(NO_SOCKET)
}

/// Returns whether an error means that a datagram was too large for its slot. Only Windows reports this as an error.
pub(super) fn is_too_large(code: i32) -> bool {
    const WSAEMSGSIZE: i32 = 10040;
    cfg!(windows) && code == WSAEMSGSIZE
}
