//! The times of look-ups of a name: once, and again after a failure, but not too often.

use std::time::Duration;

use crate::{device::backoff::Backoff, time::Instant};

/// The delay before the first retry of a failed look-up; it doubles each time.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The maximum delay, while an address is needed.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// The result of a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::device) enum Outcome {
    /// The look-up is outdated.
    Stale,
    Found,
    /// There was no address, for the first time.
    Failed,
    /// There was no address, as in the previous look-up.
    FailedAgain,
}

/// The look-ups of one name.
#[derive(Debug)]
pub(in crate::device) struct Inquiry {
    /// The number of the look-up in progress.
    open: Option<u64>,
    settled: bool,
    failed: bool,
    backoff: Backoff,
    not_before: Instant,
}

impl Inquiry {
    /// Creates an inquiry without look-ups.
    pub(in crate::device) const fn new() -> Self {
        Self {
            open: None,
            settled: false,
            failed: false,
            backoff: Backoff::new(FIRST_RETRY, LAST_RETRY),
            not_before: Instant::from_nanos(0),
        }
    }

    /// Returns whether an answer is missing, and no look-up is in progress.
    pub(in crate::device) const fn is_lacking(&self) -> bool {
        !self.settled && self.open.is_none()
    }

    /// Returns the earliest time of the next look-up.
    pub(in crate::device) const fn not_before(&self) -> Instant {
        self.not_before
    }

    /// Starts a look-up with this number. Answers to earlier ones are then outdated.
    pub(in crate::device) fn ask(&mut self, number: u64) {
        self.open = Some(number);
    }

    /// Abandons the look-up in progress.
    pub(in crate::device) fn give_up(&mut self) {
        self.open = None;
    }

    /// Ends a look-up.
    pub(in crate::device) fn take(&mut self, number: u64, found: bool, now: Instant) -> Outcome {
        if self.open.take_if(|open| *open == number).is_none() {
            return Outcome::Stale;
        }
        if found {
            *self = Self { settled: true, ..Self::new() };
            return Outcome::Found;
        }
        self.settled = false;
        self.not_before = now + self.backoff.failed();
        if std::mem::replace(&mut self.failed, true) { Outcome::FailedAgain } else { Outcome::Failed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_nanos(1_000_000_000_000);

    #[test]
    fn failures_put_the_next_look_up_off_and_success_ends_them() {
        let mut inquiry = Inquiry::new();
        assert!(inquiry.is_lacking() && inquiry.not_before() < START);
        for (number, (wait, outcome)) in
            (1..).zip([(1, Outcome::Failed), (2, Outcome::FailedAgain), (4, Outcome::FailedAgain)])
        {
            inquiry.ask(number);
            assert!(!inquiry.is_lacking());
            assert_eq!(inquiry.take(number, false, START), outcome);
            assert_eq!(inquiry.not_before(), START + Duration::from_secs(wait));
            assert!(inquiry.is_lacking());
        }
        inquiry.ask(9);
        assert_eq!(inquiry.take(9, true, START), Outcome::Found);
        assert!(!inquiry.is_lacking());
        inquiry.ask(10);
        assert_eq!(inquiry.take(10, false, START), Outcome::Failed);
        assert_eq!(inquiry.not_before(), START + Duration::from_secs(1));
    }

    #[test]
    fn only_the_look_up_that_began_last_counts() {
        let mut inquiry = Inquiry::new();
        assert_eq!(inquiry.take(1, true, START), Outcome::Stale);
        inquiry.ask(1);
        inquiry.ask(2);
        assert_eq!(inquiry.take(1, true, START), Outcome::Stale);
        assert_eq!(inquiry.take(2, true, START), Outcome::Found);
        assert_eq!(inquiry.take(2, true, START), Outcome::Stale);
        inquiry.ask(3);
        inquiry.give_up();
        assert_eq!(inquiry.take(3, false, START), Outcome::Stale);
    }
}
