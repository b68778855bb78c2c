//! Release of memory that was passed to C.

use std::{ffi::c_void, ptr::NonNull};

use crate::plumbing::{guard::guard_anywhere, text::free_text};

/// Frees memory that a wg_ function returned, and overwrites it first, as it may contain keys.
///
/// Memory: takes ownership of `memory`; NULL is a no-op. Memory from other sources must not be passed here, and memory
/// from this library must not be passed to free().
/// Requires: `memory` is NULL, or was returned by a wg_ function for wg_free(), and has not been freed.
/// Errors: none.
/// Threads: any, also inside a callback.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_free(memory: *mut c_void) {
    let _ = guard_anywhere(|| {
        let Some(body) = NonNull::new(memory.cast()) else {
            return Ok(());
        };
        // SAFETY: the caller passes what this library gave it, once.
        unsafe { free_text(body) };
        Ok(())
    });
}
