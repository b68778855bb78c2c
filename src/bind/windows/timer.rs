//! A timer for a poll that is exact, and that counts sleep.
//!
//! The time limit of a poll is up to a clock tick late (16 ms), and does not count sleep since Windows 8. A waitable
//! timer can do one of both: for a duration with high resolution, which does not count sleep either, or for a time of
//! the wall clock, which continues during sleep, but may be set. So there are two, and the first to expire ends the
//! wait. If the wall clock is set forward, the wait ends too early, once; if it is set back, the other timer is in
//! time.
#![allow(unsafe_code)]

use crate::{bind::driver, sync::event};
use mio::{Poll, Token, Waker};
use std::{
    ffi::c_void,
    io,
    os::windows::io::{AsHandle, AsRawHandle},
    panic::catch_unwind,
    ptr,
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{AcqRel, Release},
        },
    },
    time::{Duration, SystemTime},
};
use windows_sys::Win32::{
    Foundation::{HANDLE, INVALID_HANDLE_VALUE},
    System::Threading::{
        INFINITE, RegisterWaitForSingleObject, UnregisterWaitEx, WT_EXECUTEDEFAULT, WT_EXECUTEINWAITTHREAD,
    },
};

/// A wait up to this long does not count sleep. It is then late by at most this time.
const SHORT: Duration = Duration::from_secs(1);

/// Both timers, which wake the poll's waker.
pub(in crate::bind) struct BootTimer {
    /// Measures a duration.
    exact: Alarm,
    /// Waits for a time of the wall clock.
    counts_sleep: Alarm,
    target: Arc<Target>,
}

impl driver::Timer for BootTimer {
    /// The time limit of a poll is not exact.
    const NEAR: Duration = Duration::ZERO;

    /// Windows has no timers with a token.
    fn new(_: &Poll, _: Token, waker: &Arc<Waker>) -> io::Result<Self> {
        let target = Arc::new(Target { waker: waker.clone(), has_expired: AtomicBool::new(false) });
        let exact = Alarm::new(event::Timer::new()?, target.clone())?;
        let counts_sleep = Alarm::new(event::Timer::coarse()?, target.clone())?;
        Ok(Self { exact, counts_sleep, target })
    }

    fn set(&self, after: Option<Duration>) -> io::Result<()> {
        let Some(after) = after else {
            self.exact.timer.stop()?;
            return self.counts_sleep.timer.stop();
        };
        self.exact.timer.set(after)?;
        if after <= SHORT {
            // The other one keeps an earlier setting, which ends a wait too early, once.
            return Ok(());
        }
        // A time too far in the future to be represented is no limit.
        match SystemTime::now().checked_add(after) {
            Some(time) => self.counts_sleep.timer.set_at(time),
            None => self.counts_sleep.timer.stop(),
        }
    }

    fn take_expired(&self) -> bool {
        self.target.has_expired.swap(false, AcqRel)
    }
}

/// What an expired timer does.
struct Target {
    waker: Arc<Waker>,
    has_expired: AtomicBool,
}

impl Target {
    fn expired(&self) {
        self.has_expired.store(true, Release);
        if let Err(error) = self.waker.wake() {
            tracing::error!(%error, "cannot wake the thread whose deadline has come");
        }
    }
}

/// A timer that a thread of the system's pool waits for.
struct Alarm {
    wait: HANDLE,
    timer: event::Timer,
    /// The system's pointer to it is in use until the wait is unregistered.
    _target: Arc<Target>,
}

// SAFETY: a registered wait belongs to the process, not to a thread.
unsafe impl Send for Alarm {}
// SAFETY: as above.
unsafe impl Sync for Alarm {}

impl Alarm {
    /// It must not be dropped inside a call of the target.
    fn new(timer: event::Timer, target: Arc<Target>) -> io::Result<Self> {
        let (object, context, mut wait) = (timer.as_handle().as_raw_handle(), Arc::as_ptr(&target), ptr::null_mut());
        // The function does not block, so it needs no other thread than the one that waits.
        let flags = WT_EXECUTEDEFAULT | WT_EXECUTEINWAITTHREAD;
        // SAFETY: one handle is written; the timer and the target live until the wait is unregistered.
        let done = unsafe {
            RegisterWaitForSingleObject(&raw mut wait, object, Some(expired), context.cast(), INFINITE, flags)
        };
        if done == 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { wait, timer, _target: target })
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: it is registered, and this is not one of its calls. The call waits for those that are in progress.
        unsafe { UnregisterWaitEx(self.wait, INVALID_HANDLE_VALUE) };
    }
}

unsafe extern "system" fn expired(context: *mut c_void, _: bool) {
    // SAFETY: the context is that of the registration, whose target lives until it is unregistered.
    let target = unsafe { &*context.cast::<Target>() };
    // A panic must not reach the system.
    let _ = catch_unwind(|| target.expired());
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::bind::driver::Timer;
    use mio::Events;
    use std::time::Instant;

    const WAKE: Token = Token(7);
    /// Longer than anything takes, on however slow a machine.
    const PATIENCE: Duration = Duration::from_secs(300);
    const SECOND: Duration = Duration::from_secs(1);

    /// A poll with a timer.
    struct Clock {
        poll: Poll,
        timer: BootTimer,
    }

    impl Clock {
        fn new() -> Self {
            let poll = Poll::new().unwrap();
            let waker = Arc::new(Waker::new(poll.registry(), WAKE).unwrap());
            let timer = BootTimer::new(&poll, Token(0), &waker).unwrap();
            Self { poll, timer }
        }

        /// Waits, and returns whether a timer has ended the wait, and not the time limit.
        fn wait(&mut self, limit: Duration) -> bool {
            let mut events = Events::with_capacity(4);
            self.poll.poll(&mut events, Some(limit)).unwrap();
            let woken = events.iter().any(|event| event.token() == WAKE);
            assert!(self.timer.take_expired() || !woken);
            woken
        }

        /// Sets the timer, changes it by `change`, and returns whether it expires all the same. Where other programs
        /// delay the change until the timer may have expired, this is tried again.
        fn expires_after(&mut self, set: Duration, change: impl Fn(&BootTimer)) -> bool {
            loop {
                let begun = Instant::now();
                self.timer.set(Some(set)).unwrap();
                change(&self.timer);
                let is_in_time = begun.elapsed() < set / 2;
                let has_expired = self.wait(set + SECOND);
                if is_in_time {
                    return has_expired;
                }
                while self.wait(Duration::ZERO) {}
            }
        }
    }

    /// A busy machine may delay one wait, but hardly all of them.
    #[test]
    fn a_wait_is_exact_to_a_millisecond() {
        const WAIT: Duration = Duration::from_millis(3);
        let mut clock = Clock::new();
        let start = Instant::now();
        loop {
            let begun = Instant::now();
            clock.timer.set(Some(WAIT)).unwrap();
            assert!(clock.wait(PATIENCE));
            let waited = begun.elapsed();
            assert!(waited + Duration::from_millis(1) >= WAIT, "it is early: {waited:?}");
            if waited < WAIT + Duration::from_millis(1) {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "it is late: {waited:?}");
        }
    }

    /// The machine that runs the tests stays awake; but this timer alone ends the wait.
    #[test]
    fn the_timer_that_counts_sleep_ends_a_wait() {
        let mut clock = Clock::new();
        let stop_exact = |timer: &BootTimer| timer.exact.timer.stop().unwrap();
        clock.timer.set(Some(SHORT + SECOND / 2)).unwrap();
        stop_exact(&clock.timer);
        assert!(clock.wait(PATIENCE));
        // It is a new clock, as a delay above may have let both expire.
        assert!(!Clock::new().expires_after(SHORT, stop_exact), "it is not used for a short wait");
    }

    #[test]
    fn the_last_setting_counts() {
        let mut clock = Clock::new();
        clock.timer.set(Some(Duration::MAX)).unwrap();
        clock.timer.set(Some(Duration::from_millis(1))).unwrap();
        assert!(clock.wait(PATIENCE));
        assert!(!clock.expires_after(2 * SECOND, |timer| timer.set(None).unwrap()), "it was stopped");
    }

    #[test]
    fn a_timer_that_expires_may_be_dropped() {
        let poll = Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), WAKE).unwrap());
        for _ in 0..200 {
            let timer = BootTimer::new(&poll, Token(0), &waker).unwrap();
            timer.set(Some(Duration::from_nanos(100))).unwrap();
        }
        assert_eq!(Arc::strong_count(&waker), 1);
    }
}
