//! `pthread_cancel()` of a caller: it takes effect when the call has returned.
//!
//! Cancelling unwinds a thread's stack. That must not pass through Rust's frames, which would end the process. So a
//! thread cannot be cancelled while it is in a wg_ function, callbacks included. That holds for wg_bind_recv() as well:
//! no system interrupts the wait of a thread that has disabled cancellation, and to ask from time to time would keep a
//! processor from sleeping. A thread that is to be cancelled while it waits uses a poll() of its own, over
//! wg_bind_peek_fd().

pub(super) use system::Uncancelled;

/// cbindgen:ignore
// Android's libc has no cancellation.
#[cfg(all(unix, not(target_os = "android")))]
mod system {
    use std::{ffi::c_int, ptr};

    #[cfg(target_vendor = "apple")]
    const DISABLE: c_int = 0;
    #[cfg(not(target_vendor = "apple"))]
    const DISABLE: c_int = 1;

    unsafe extern "C" {
        fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
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
    /// There is nothing to be kept from.
    #[must_use]
    pub(in super::super) struct Uncancelled;

    impl Uncancelled {
        pub(in super::super) fn new() -> Self {
            Self
        }
    }
}
