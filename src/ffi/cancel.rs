//! `pthread_cancel()` of a caller: it takes effect when the call has returned.
//!
//! Cancelling unwinds a thread's stack. That must not pass through Rust's frames, which would end the process. So a thread
//! cannot be cancelled while it is in a wg_ function, callbacks included. A function that waits for as long as the caller
//! likes looks now and then, in a frame that can be unwound.

pub(super) use system::{Uncancelled, between_tests, test};

/// cbindgen:ignore
// Android's libc has no cancellation.
#[cfg(all(unix, not(target_os = "android")))]
mod system {
    use std::{ffi::c_int, ptr};

    #[cfg(target_vendor = "apple")]
    const DISABLE: c_int = 0;
    #[cfg(not(target_vendor = "apple"))]
    const DISABLE: c_int = 1;

    /// How long a thread waits, in milliseconds, before it looks whether it is cancelled: nothing tells it earlier.
    const BETWEEN_TESTS: c_int = 1000;

    unsafe extern "C" {
        fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
    }
    unsafe extern "C-unwind" {
        fn pthread_testcancel();
    }

    /// How much of a time limit, in milliseconds and negative for none, may pass until [`test()`] is to be called.
    pub(in super::super) fn between_tests(limit: c_int) -> c_int {
        if (0..BETWEEN_TESTS).contains(&limit) { limit } else { BETWEEN_TESTS }
    }

    /// Ends the thread here if it is cancelled. Neither this frame nor its callers may have anything to drop.
    pub(in super::super) fn test() {
        // SAFETY: the callers up to C are plain frames, which may be unwound, and of an ABI that allows it.
        unsafe { pthread_testcancel() }
    }

    /// Keeps this thread from being cancelled until it is dropped.
    #[must_use]
    pub(in super::super) struct Uncancelled {
        before: c_int,
    }

    impl Uncancelled {
        pub(in super::super) fn new() -> Self {
            let mut before = 0;
            // SAFETY: the old state is written to a number that lives; the new one exists.
            unsafe { pthread_setcancelstate(DISABLE, &raw mut before) };
            Self { before }
        }
    }

    impl Drop for Uncancelled {
        fn drop(&mut self) {
            // SAFETY: the state is one that this function gave.
            unsafe { pthread_setcancelstate(self.before, ptr::null_mut()) };
        }
    }
}

#[cfg(not(all(unix, not(target_os = "android"))))]
mod system {
    pub(in super::super) fn between_tests(limit: i32) -> i32 {
        limit
    }

    pub(in super::super) fn test() {}

    /// There is nothing to be kept from.
    #[must_use]
    pub(in super::super) struct Uncancelled;

    impl Uncancelled {
        pub(in super::super) fn new() -> Self {
            Self
        }
    }
}
