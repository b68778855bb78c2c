//! The signal mask of threads.
#![allow(unsafe_code)]

use std::{mem::MaybeUninit, ptr};

/// Signals that a thread causes by its own instructions. If they were blocked, they would end the process without the
/// host's handler.
const SYNCHRONOUS: [libc::c_int; 6] =
    [libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGSEGV, libc::SIGSYS, libc::SIGTRAP];

/// Runs `body` with all other signals blocked on this thread, and then restores the mask.
pub(super) fn blocked<R>(body: impl FnOnce() -> R) -> R {
    struct Mask(libc::sigset_t);
    impl Drop for Mask {
        fn drop(&mut self) {
            // SAFETY: the set lives; the old one is not requested. It fails only for an unknown first argument.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
        }
    }
    let mut all = MaybeUninit::uninit();
    // SAFETY: sigfillset(3) fills the set that it is given.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    for signal in SYNCHRONOUS {
        // SAFETY: the set was just filled.
        unsafe { libc::sigdelset(all.as_mut_ptr(), signal) };
    }
    let mut before = MaybeUninit::uninit();
    // SAFETY: both sets live; the second is written.
    let failed = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), before.as_mut_ptr()) } != 0;
    // SAFETY: it was written, as the call has succeeded.
    let _mask = (!failed).then(|| Mask(unsafe { before.assume_init() }));
    body()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::thread::{Owner, spawn};
    use std::sync::mpsc;

    /// Which signals this thread has blocked.
    fn mask() -> Vec<bool> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: without a new mask, the current one is written.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), set.as_mut_ptr()) };
        // SAFETY: it was just written; the signals exist.
        (1..32).map(|signal| unsafe { libc::sigismember(set.as_ptr(), signal) } == 1).collect()
    }

    #[test]
    fn a_thread_takes_only_the_signals_that_it_causes() {
        let ours = mask();
        let (tell, told) = mpsc::channel();
        spawn("test", Owner::unique(), move || tell.send(mask()).unwrap()).unwrap().join().unwrap();
        let theirs = told.recv().unwrap();
        assert_eq!(mask(), ours);
        for signal in 1..32 {
            // Those cannot be blocked.
            let never = [libc::SIGKILL, libc::SIGSTOP].contains(&signal) || SYNCHRONOUS.contains(&signal);
            assert!(theirs[signal as usize - 1] != never, "signal {signal}");
        }
    }
}
