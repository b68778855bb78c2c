//! `pthread_cancel()` of a caller: it takes effect when the call has returned.
//!
//! Cancelling unwinds a thread's stack. It must not pass through frames of Rust with values to drop. So a thread cannot
//! be cancelled inside a wg_ function, callbacks included, except where it waits without limit: there it is in poll(),
//! called from frames without such values.

pub(crate) use system::Uncancelled;

#[cfg(unix)]
pub(crate) use waiting::wait;

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
    pub(crate) struct Uncancelled {
        before: c_int,
    }

    impl Uncancelled {
        pub(crate) fn new() -> Self {
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

/// cbindgen:ignore
#[cfg(unix)]
mod waiting {
    use std::ffi::c_int;

    unsafe extern "C-unwind" {
        /// poll(2) under another name: under its own it is a function that never unwinds, for the whole program.
        #[cfg_attr(target_vendor = "apple", link_name = "\u{1}_poll")]
        #[cfg_attr(not(target_vendor = "apple"), link_name = "\u{1}poll")]
        fn poll_or_unwind(fds: *mut libc::pollfd, count: libc::nfds_t, timeout: c_int) -> c_int;
    }

    /// Waits until a descriptor is readable, a signal arrives, or the time limit has passed (in milliseconds; negative
    /// for no limit). A cancelled thread ends here. Neither this frame nor its callers may have values to drop.
    pub(crate) fn wait(fd: c_int, timeout: c_int) {
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: it writes to one `pollfd`, which lives. The callers up to C are plain frames, which may be unwound,
        // and of an ABI that allows it.
        unsafe { poll_or_unwind(&raw mut poll, 1, timeout) };
    }
}

#[cfg(not(all(unix, not(target_os = "android"))))]
mod system {
    /// There is no cancellation here.
    #[must_use]
    pub(crate) struct Uncancelled;

    impl Uncancelled {
        pub(crate) fn new() -> Self {
            Self
        }
    }
}
