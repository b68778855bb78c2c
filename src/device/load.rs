//! How busy a tunnel's threads are, which decides whether another thread serves the TUN, and whether workers help.

use std::time::{Duration, Instant};

/// How long the threads are observed before the TUN is handed over: long compared to a handover (about 50 us), short
/// compared to what a user notices.
pub(super) const WINDOW: Duration = Duration::from_millis(20);

/// After a sleep of this length a single packet is a request or a reply, and none is expected behind it. Under load a
/// thread sleeps for less, if at all, and each sleep that another look would have spared costs more than the look.
pub(super) const QUIET: Duration = Duration::from_micros(30);

/// The number of rounds of a thread between two readings of the clock.
const ROUNDS: u32 = 32;

/// The time that a thread has slept.
#[derive(Default)]
pub(super) struct Idle {
    pub(super) before: Duration,
    /// The start of its sleep; `None` while it is awake.
    pub(super) since: Option<Instant>,
}

impl Idle {
    pub(super) fn total(&self, now: Instant) -> Duration {
        self.before + self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

/// How a thread spent a time.
pub(super) struct Spent {
    pub(super) passed: Duration,
    pub(super) slept: Duration,
    /// The time of the workers.
    pub(super) worked: Duration,
}

impl Spent {
    /// Returns whether the thread hardly sleeps any more.
    pub(super) fn is_busy(&self) -> bool {
        self.slept < self.passed / 20
    }

    /// Returns whether one thread could do all the work, with a fifth of the time left, or else it would soon need
    /// help again.
    pub(super) fn is_little(&self) -> bool {
        let busy = self.passed.saturating_sub(self.slept) + self.worked;
        busy < self.passed * 4 / 5
    }
}

/// The recent load of a thread.
pub(super) struct Load {
    began: Instant,
    rounds: u32,
    pub(super) slept: Duration,
    received: usize,
    sent: usize,
    /// The total time of the workers at the beginning.
    worked: Duration,
    /// Whether the last sleep was not a short one.
    pub(super) is_quiet: bool,
}

/// The load of a thread in the last [`WINDOW`].
pub(super) struct Window {
    pub(super) spent: Spent,
    received: usize,
    sent: usize,
}

impl Window {
    /// Returns whether the thread hardly sleeps any more, and a second one would help, that is, whether at least a
    /// fifth of the packets go in each direction.
    pub(super) fn is_too_much(&self) -> bool {
        self.spent.is_busy() && self.received.min(self.sent) > (self.received + self.sent) / 5
    }
}

impl Load {
    pub(super) fn new(worked: Duration) -> Self {
        Self { began: Instant::now(), rounds: 0, slept: Duration::ZERO, received: 0, sent: 0, worked, is_quiet: true }
    }

    /// Records a round. Returns the load if it has been observed for long enough, and begins again.
    pub(super) fn record(&mut self, received: usize, sent: usize, worked: impl FnOnce() -> Duration) -> Option<Window> {
        self.rounds += 1;
        self.received += received;
        self.sent += sent;
        if !self.rounds.is_multiple_of(ROUNDS) {
            return None;
        }
        let passed = self.began.elapsed();
        if passed < WINDOW {
            return None;
        }
        let worked = worked();
        let last = std::mem::replace(self, Self { is_quiet: self.is_quiet, ..Self::new(worked) });
        let spent = Spent { passed, slept: last.slept, worked: worked.saturating_sub(last.worked) };
        Some(Window { spent, received: last.received, sent: last.sent })
    }
}
