//! Makes the modes of the daemon's files independent of its caller.
#![allow(unsafe_code)]

/// Sets the umask so that new files have the requested modes, except for write permission of others.
pub(crate) fn set() {
    // SAFETY: umask(2) takes a number, and cannot fail.
    unsafe { libc::umask(0o022) };
}
