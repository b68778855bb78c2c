//! What an error that the system reports on a socket means for the socket.

/// For an error that is not the system's.
pub(super) const UNKNOWN: i32 = -1;

/// Whether an error of the system means that the socket cannot be used any more: it is not there, or was shut down by
/// the system (Android does that to the sockets of a network that is gone, Apple's systems to those of an app that was
/// suspended).
pub(super) fn ends(code: i32) -> bool {
    #[cfg(not(windows))]
    return matches!(code, libc::EBADF | libc::ENOTSOCK | libc::ENOTCONN | libc::ECONNABORTED | libc::EPIPE);
    // Of winsock2.h: WSA_INVALID_HANDLE, WSAEBADF, WSAENOTSOCK, WSAECONNABORTED, WSAENOTCONN, WSAESHUTDOWN.
    #[cfg(windows)]
    return matches!(code, 6 | 10009 | 10038 | 10053 | 10057 | 10058);
}

/// Whether an error means that a datagram was too large for its slot. Only Windows makes an error of that.
pub(super) fn is_too_large(code: i32) -> bool {
    const WSAEMSGSIZE: i32 = 10040;
    cfg!(windows) && code == WSAEMSGSIZE
}
