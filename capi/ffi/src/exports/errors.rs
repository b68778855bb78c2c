//! The text of an error.

use std::ffi::c_char;

use crate::plumbing::result::last_text;

/// Returns the text of the last wg_ call that failed on this thread, in English and for people to read; empty if none
/// has. It never contains a key. It is cut off after 1023 bytes.
///
/// Memory: the text is the library's. It is valid until the next wg_ call that fails on this thread, or the thread ends.
/// Errors: none; never NULL.
/// Threads: any, also inside a callback. Each thread has its own text.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_last_error() -> *const c_char {
    last_text()
}
