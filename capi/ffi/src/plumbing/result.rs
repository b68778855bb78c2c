//! The codes that C sees, and the text that goes with the last of them.

use std::{cell::Cell, ffi::c_char};

use crate::plumbing::text::fixed_text;
use wg_embed::error::{Error, ErrorKind};
use wg_result_t::*;

/// What a call came to. Values are fixed for ever and never reused; a later version may add some, so treat one you do
/// not know as a failure. wg_last_error() has the text.
///
/// Since: 0.1.0
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum wg_result_t {
    /// Success; the only value for which out parameters are written.
    WG_OK = 0,
    /// A required pointer was NULL.
    WG_ERR_NULL = -1,
    /// A value is malformed or out of its range.
    WG_ERR_INVALID = -2,
    /// A line or message does not have the shape its protocol asks for.
    WG_ERR_PROTOCOL = -3,
    /// What was asked for does not exist on this platform, or in this version.
    WG_ERR_UNSUPPORTED = -4,
    /// A documented limit on size or number was passed.
    WG_ERR_TOO_LARGE = -5,
    /// Nothing of this kind has this handle (any more).
    WG_ERR_UNKNOWN_HANDLE = -10,
    /// The tunnel has ended by itself, and keeps its handle until wg_turn_off(); or the bind was closed during the
    /// call.
    WG_ERR_CLOSED = -11,
    /// The call cannot be made now: it was made from inside a callback.
    WG_ERR_BUSY = -12,
    /// The time limit of the call has passed; what it has begun goes on. Only from functions that have a time limit.
    WG_ERR_TIMED_OUT = -13,
    /// The tunnel or bind belongs to the process that this one was forked from. Nothing was touched.
    WG_ERR_FORKED = -14,
    /// The operating system reported a failure that has no code of its own.
    WG_ERR_IO = -20,
    /// The operating system refused for lack of permission.
    WG_ERR_PERMISSION = -21,
    /// The port is taken by another socket.
    WG_ERR_ADDR_IN_USE = -22,
    /// A file, interface, device node or peer does not exist.
    WG_ERR_NOT_FOUND = -23,
    /// Something of this name exists already.
    WG_ERR_EXISTS = -24,
    /// The other side has refused the connection.
    WG_ERR_REFUSED = -25,
    /// There is no way to the other side.
    WG_ERR_UNREACHABLE = -26,
    /// Threads, file descriptors or memory have run out.
    WG_ERR_RESOURCES = -30,
    /// A bug in this library was caught. The tunnel or bind refuses everything but wg_turn_off() or wg_udp_close()
    /// from then on.
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

/// Room for the text of a failure.
const TEXT_LEN: usize = 1024;

thread_local! {
    /// An array, which needs no destructor: a thread may still fail while it ends, and what it then made would leak.
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
