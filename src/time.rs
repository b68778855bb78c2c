//! Time as an argument: a clock that counts sleep, and a manual clock.

#[cfg(feature = "test-util")]
mod manual;

use std::{
    ops::Add,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

#[cfg(feature = "test-util")]
pub use manual::ManualClock;

/// A point in time, in nanoseconds since the machine was booted, including time spent suspended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// Creates a point in time `ns` nanoseconds after boot.
    #[must_use]
    pub const fn from_nanos(ns: u64) -> Self {
        Self(ns)
    }

    /// Returns the nanoseconds since boot.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the time since `earlier`; zero if `earlier` is not before it.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    /// Adds a duration, saturating at the end of time (584 years).
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// A source of time for a device.
pub trait Clock: Send + Sync {
    /// Returns the time since boot, including sleep. It never goes back.
    fn now(&self) -> Instant;
    /// Returns the wall-clock time since 1970-01-01 UTC; zero if the clock is set before that.
    fn wall(&self) -> Duration;
    /// Returns the processor time of the calling thread, which measures the cost of work independently of other load.
    /// Without such a clock it is `now`.
    fn worked(&self) -> Instant {
        self.now()
    }
    /// Returns for how long the machine has been suspended since boot, to a millisecond. It is always zero on systems
    /// that cannot tell or suspend frequently. When it grows, the keys of sessions are forgotten: docs/adr/0009.
    fn slept(&self) -> Duration {
        Duration::ZERO
    }
}

/// The operating system's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        boot::now()
    }

    fn wall(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    fn worked(&self) -> Instant {
        boot::read(libc::CLOCK_THREAD_CPUTIME_ID)
    }

    #[cfg(target_os = "linux")]
    fn slept(&self) -> Duration {
        suspend::slept()
    }
}

/// Linux, Android and Apple: the clock that counts sleep; see clock_gettime(2) and, on Apple, clock_gettime(3).
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
#[allow(unsafe_code)]
mod boot {
    use super::Instant;

    /// Since Linux 2.6.39.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const CLOCK: libc::clockid_t = libc::CLOCK_BOOTTIME;
    /// Since macOS 10.12 and iOS 10. Unlike `CLOCK_UPTIME_RAW` it continues while the machine sleeps.
    #[cfg(target_vendor = "apple")]
    const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC_RAW;

    pub(super) fn now() -> Instant {
        read(CLOCK)
    }

    pub(super) fn read(clock: libc::clockid_t) -> Instant {
        let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `ts` is a live timespec that `clock_gettime` fills; every supported system has the clock.
        unsafe { libc::clock_gettime(clock, &raw mut ts) };
        // Neither field is negative on a clock that starts at boot.
        Instant((ts.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(ts.tv_nsec as u64))
    }
}

/// Linux except Android, where the machine is suspended all the time.
#[cfg(target_os = "linux")]
mod suspend {
    use super::{Duration, boot};
    use std::{path::Path, sync::OnceLock};

    /// Both clocks must be read within this time, or are read again: the thread may have been interrupted in between.
    const NEAR: Duration = Duration::from_millis(1);
    /// The maximum number of attempts.
    const TRIES: usize = 4;

    pub(super) fn slept() -> Duration {
        static BY_ITSELF: OnceLock<bool> = OnceLock::new();
        // The kernel's WireGuard tests CONFIG_PM_AUTOSLEEP.
        if *BY_ITSELF.get_or_init(|| Path::new("/sys/power/autosleep").exists()) {
            return Duration::ZERO;
        }
        let mut slept = Duration::ZERO;
        for _ in 0..TRIES {
            let before = boot::read(libc::CLOCK_MONOTONIC);
            let now = boot::now();
            let after = boot::read(libc::CLOCK_MONOTONIC);
            // Never more than the true value; the rest is found at the next reading.
            slept = slept.max(now.since(after));
            if after.since(before) < NEAR {
                break;
            }
        }
        slept
    }
}

/// Other systems: the standard library's monotonic clock, counted from its first use. On Windows it counts sleep.
#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
mod boot {
    use super::Instant;
    use std::sync::OnceLock;

    pub(super) fn now() -> Instant {
        static START: OnceLock<std::time::Instant> = OnceLock::new();
        let start = START.get_or_init(std::time::Instant::now);
        // One second in, so that "never" (zero) is always in the past.
        Instant(1_000_000_000) + start.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_saturate() {
        let (a, b) = (Instant::from_nanos(5), Instant::from_nanos(9));
        assert_eq!(b.since(a), Duration::from_nanos(4));
        assert_eq!(a.since(b), Duration::ZERO);
        assert_eq!(Instant::from_nanos(u64::MAX) + Duration::from_secs(1), Instant::from_nanos(u64::MAX));
    }

    #[test]
    fn the_system_clock_moves_forward() {
        let a = SystemClock.now();
        assert!(a > Instant::default());
        assert!(SystemClock.now() >= a);
        assert!(SystemClock.wall() > Duration::from_secs(1_600_000_000));
    }

    #[test]
    fn a_machine_that_is_awake_does_not_sleep() {
        let before = SystemClock.slept();
        std::thread::yield_now();
        let after = SystemClock.slept();
        assert!(before.abs_diff(after) < Duration::from_millis(100), "{before:?} {after:?}");
    }

    #[test]
    fn the_manual_clock_turns_both_faces() {
        let c = ManualClock::new();
        let (n, w) = (c.now(), c.wall());
        c.advance(Duration::from_secs(3));
        assert_eq!(c.now().since(n), Duration::from_secs(3));
        assert_eq!(c.wall() - w, Duration::from_secs(3));
        c.set_wall(Duration::from_secs(7));
        assert_eq!(c.wall(), Duration::from_secs(7));
    }
}
