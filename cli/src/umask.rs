//! The modes of the files that the daemon makes do not depend on its caller.
#![allow(unsafe_code)]

/// From now on, the modes that are asked for are the modes of new files, unless others could write.
pub(crate) fn set() {
    // SAFETY: umask(2) takes a number, and cannot fail.
    unsafe { libc::umask(0o022) };
}
