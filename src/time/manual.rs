//! A clock for tests, with the feature `test-util`.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{Clock, Instant};

/// A clock that moves only when a test moves it. Both of its times move together.
///
/// ```
/// use std::time::Duration;
/// use wg_embed::time::{Clock, ManualClock};
///
/// let clock = ManualClock::new();
/// let start = clock.now();
/// clock.advance(Duration::from_secs(3));
/// assert_eq!(clock.now().since(start), Duration::from_secs(3));
/// ```
#[derive(Debug)]
pub struct ManualClock {
    now: AtomicU64,
    wall_at_zero: AtomicU64,
    slept: AtomicU64,
}

impl ManualClock {
    /// Creates a clock at 1,000 s after boot, on 2024-01-01.
    #[must_use]
    pub fn new() -> Self {
        Self {
            now: AtomicU64::new(1_000_000_000_000),
            wall_at_zero: AtomicU64::new(1_704_067_200_000_000_000 - 1_000_000_000_000),
            slept: AtomicU64::new(0),
        }
    }

    /// Advances both times.
    pub fn advance(&self, by: Duration) {
        self.now.fetch_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Advances both times as if the machine had been suspended.
    pub fn sleep(&self, time: Duration) {
        self.slept.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::SeqCst);
        self.advance(time);
    }

    /// Advances to `at`, if that is in the future.
    pub fn advance_to(&self, at: Instant) {
        self.now.fetch_max(at.0, Ordering::SeqCst);
    }

    /// Sets only the wall clock, as a user or NTP would.
    pub fn set_wall(&self, wall: Duration) {
        let wall = u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX);
        self.wall_at_zero.store(wall.wrapping_sub(self.now.load(Ordering::SeqCst)), Ordering::SeqCst);
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        Instant(self.now.load(Ordering::SeqCst))
    }

    fn wall(&self) -> Duration {
        Duration::from_nanos(self.now.load(Ordering::SeqCst).wrapping_add(self.wall_at_zero.load(Ordering::SeqCst)))
    }

    fn slept(&self) -> Duration {
        Duration::from_nanos(self.slept.load(Ordering::SeqCst))
    }
}
