//! The codes of C, and the text of the last failure.

use std::{cell::Cell, ffi::c_char};

use crate::plumbing::text::fixed_text;
use wg_embed::error::{Error, ErrorKind};
use wg_result_t::*;

/// Result of a call. Values are fixed and never reused. Later versions may add values: treat an unknown one as a
/// failure. wg_last_error() has the text.
///
/// Since: 0.1.0
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum wg_result_t {
    /// Success. Output parameters are written only in this case.
    WG_OK = 0,
    /// A required pointer was NULL.
    WG_ERR_NULL = -1,
    /// A value is malformed or out of range.
    WG_ERR_INVALID = -2,
    /// A line or message does not have the form that its protocol requires.
    WG_ERR_PROTOCOL = -3,
    /// Not supported on this platform, or in this version.
    WG_ERR_UNSUPPORTED = -4,
    /// A documented limit on size or number was exceeded.
    WG_ERR_TOO_LARGE = -5,
    /// No object of this kind has this handle, or it no longer exists.
    WG_ERR_UNKNOWN_HANDLE = -10,
    /// The tunnel has ended by itself, and keeps its handle until wg_turn_off(); or the bind was closed during the
    /// call.
    WG_ERR_CLOSED = -11,
    /// The function cannot be called inside a callback.
    WG_ERR_BUSY = -12,
    /// The time limit of the call has passed; the operation continues. Only functions with a time limit return it.
    WG_ERR_TIMED_OUT = -13,
    /// The tunnel or bind belongs to the parent of this process (fork()). Nothing was changed.
    WG_ERR_FORKED = -14,
    /// The operating system reported an error that has no code of its own.
    WG_ERR_IO = -20,
    /// The operating system refused for lack of permission.
    WG_ERR_PERMISSION = -21,
    /// The port is in use by another socket.
    WG_ERR_ADDR_IN_USE = -22,
    /// A file, interface, device node or peer does not exist.
    WG_ERR_NOT_FOUND = -23,
    /// An object of this name already exists.
    WG_ERR_EXISTS = -24,
    /// The other side refused the connection.
    WG_ERR_REFUSED = -25,
    /// The other side is unreachable.
    WG_ERR_UNREACHABLE = -26,
    /// Threads, file descriptors or memory are exhausted.
    WG_ERR_RESOURCES = -30,
    /// A bug in this library was caught. From then on the tunnel or bind refuses every call except wg_turn_off() or
    /// wg_udp_close().
    WG_ERR_PANIC = -40,
}

impl wg_result_t {
    /// The code of a kind of error.
    const fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Null => WG_ERR_NULL,
            ErrorKind::Invalid => WG_ERR_INVALID,
            ErrorKind::Protocol => WG_ERR_PROTOCOL,
            ErrorKind::Unsupported => WG_ERR_UNSUPPORTED,
            ErrorKind::TooLarge => WG_ERR_TOO_LARGE,
            ErrorKind::UnknownHandle => WG_ERR_UNKNOWN_HANDLE,
            ErrorKind::Closed => WG_ERR_CLOSED,
            ErrorKind::Busy => WG_ERR_BUSY,
            ErrorKind::TimedOut => WG_ERR_TIMED_OUT,
            ErrorKind::Forked => WG_ERR_FORKED,
            ErrorKind::Permission => WG_ERR_PERMISSION,
            ErrorKind::AddrInUse => WG_ERR_ADDR_IN_USE,
            ErrorKind::NotFound => WG_ERR_NOT_FOUND,
            ErrorKind::Exists => WG_ERR_EXISTS,
            ErrorKind::Refused => WG_ERR_REFUSED,
            ErrorKind::Unreachable => WG_ERR_UNREACHABLE,
            ErrorKind::Resources => WG_ERR_RESOURCES,
            ErrorKind::Panic => WG_ERR_PANIC,
            // `Io`. A kind that is not above does not pass the check below.
            _ => WG_ERR_IO,
        }
    }
}

// cbindgen needs the numbers above as literals; `ErrorKind` has the table. Here they are held together.
const _: () = {
    let mut i = 0;
    while i < ErrorKind::ALL.len() {
        let kind = ErrorKind::ALL[i];
        assert!(wg_result_t::of(kind) as i32 == kind.code(), "a wg_result_t differs from the table in error.rs");
        i += 1;
    }
};

/// The size of the text of a failure.
const TEXT_LEN: usize = 1024;

thread_local! {
    /// An array, which needs no destructor: calls may still fail while a thread ends, and an allocation would leak
    /// then.
    static LAST: Cell<[c_char; TEXT_LEN]> = const { Cell::new([0; TEXT_LEN]) };
}

/// The text of the last failure of this thread.
pub(crate) fn last_text() -> *const c_char {
    LAST.try_with(|last| last.as_ptr().cast::<c_char>().cast_const()).unwrap_or(c"".as_ptr())
}

/// Keeps the text of `error` for this thread, and returns its code.
pub(crate) fn fail(error: &Error) -> wg_result_t {
    // On some systems a thread that is just ending has no place for text any more.
    let _ = LAST.try_with(|last| last.set(fixed_text(&error.to_string())));
    wg_result_t::of(error.kind())
}
