//! Memory that C gives back.

use std::{ffi::c_void, ptr::NonNull};

use crate::plumbing::{guard::guard_anywhere, text::free_text};

/// Frees what a wg_ function returned for the caller to own, and overwrites it first: it may hold keys.
///
/// Memory: takes `memory`; NULL does nothing. Memory that is not from this library must not come here, and memory from
/// here must not go to free().
/// Requires: `memory` is NULL, or a wg_ function said that it is for wg_free(), and it was not freed yet.
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
