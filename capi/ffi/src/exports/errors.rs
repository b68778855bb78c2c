//! The texts of errors.

use std::ffi::{CStr, c_char};

use crate::plumbing::result::last_text;
use wg_embed::error::ErrorKind;

/// Returns the error message of the last wg_ call that failed on this thread, in English; empty if there was none. It
/// never contains a key. It is truncated after 1023 bytes.
///
/// Memory: the text is borrowed, and valid until the next wg_ call that fails on this thread, or until the thread ends.
/// Errors: none; never NULL.
/// Threads: any, also inside a callback. Each thread has its own text.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_last_error() -> *const c_char {
    last_text()
}

/// Returns a short description of a code in English: "the port is taken by another socket". wg_last_error() has more
/// details of the last failure on a thread. For a number that is not a code there is a text as well.
///
/// Memory: the text is static.
/// Errors: none; never NULL.
/// Threads: any, also inside a callback.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_result_text(code: i32) -> *const c_char {
    let text = match code {
        0 => c"success",
        code => match ErrorKind::ALL.iter().find(|kind| kind.code() == code) {
            Some(kind) => text_of(*kind),
            None if code > 0 => c"success, with a number",
            None => c"an unknown error",
        },
    };
    text.as_ptr()
}

const fn text_of(kind: ErrorKind) -> &'static CStr {
    match kind {
        ErrorKind::Null => c"a required pointer is NULL",
        ErrorKind::Invalid => c"a value is malformed or out of its range",
        ErrorKind::Protocol => c"a line is not of the form key=value",
        ErrorKind::Unsupported => c"this platform or version of the library cannot do that",
        ErrorKind::TooLarge => c"a limit on size or number was passed",
        ErrorKind::UnknownHandle => c"there is nothing with this handle",
        ErrorKind::Closed => c"the tunnel or bind has ended",
        ErrorKind::Busy => c"the call cannot be made now",
        ErrorKind::TimedOut => c"the time limit has passed",
        ErrorKind::Forked => c"the handle belongs to the process that this one was forked from",
        ErrorKind::Permission => c"the system refused for lack of permission",
        ErrorKind::AddrInUse => c"the port is taken by another socket",
        ErrorKind::NotFound => c"a file, interface, device node or peer does not exist",
        ErrorKind::Exists => c"something of this name exists already",
        ErrorKind::Refused => c"the other side has refused the connection",
        ErrorKind::Unreachable => c"there is no way to the other side",
        ErrorKind::Resources => c"threads, file descriptors or memory have run out",
        ErrorKind::Panic => c"a bug in the library was caught",
        // `Io`; a test looks at all of them.
        _ => c"the system reported a failure",
    }
}
