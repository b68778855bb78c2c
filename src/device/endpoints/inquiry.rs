//! When a name is looked up: once, and after a failure again, but not too often.

use std::time::Duration;

use crate::{device::backoff::Backoff, time::Instant};

/// A failed look-up is repeated after this at first, and each time after twice as long.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// But at least this often, while somebody wants to know.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::device) enum Taken {
    /// Nobody waits for it any more.
    Stale,
    Good,
    /// It is no answer, and there was none before it either.
    StillBad,
    /// It is no answer, for the first time.
    Bad,
}

/// How it stands with one name.
#[derive(Debug)]
pub(in crate::device) struct Inquiry {
    /// The number of the look-up that is under way.
    open: Option<u64>,
    settled: bool,
    failed: bool,
    backoff: Backoff,
    not_before: Instant,
}

impl Inquiry {
    /// One that has not begun.
    pub(in crate::device) const fn new() -> Self {
        Self {
            open: None,
            settled: false,
            failed: false,
            backoff: Backoff::new(FIRST_RETRY, LAST_RETRY),
            not_before: Instant::from_nanos(0),
        }
    }

    /// Whether an answer is missing that nobody is looking for.
    pub(in crate::device) const fn is_lacking(&self) -> bool {
        !self.settled && self.open.is_none()
    }

    /// When it may be looked up again.
    pub(in crate::device) const fn not_before(&self) -> Instant {
        self.not_before
    }

    /// A look-up of this number begins. Answers to earlier ones do not count any more.
    pub(in crate::device) fn ask(&mut self, number: u64) {
        self.open = Some(number);
    }

    /// The look-up under way is of no interest any more.
    pub(in crate::device) fn give_up(&mut self) {
        self.open = None;
    }

    /// A look-up has ended.
    pub(in crate::device) fn take(&mut self, number: u64, good: bool, now: Instant) -> Taken {
        if self.open.take_if(|open| *open == number).is_none() {
            return Taken::Stale;
        }
        if good {
            *self = Self { settled: true, ..Self::new() };
            return Taken::Good;
        }
        self.settled = false;
        self.not_before = now + self.backoff.failed();
        if std::mem::replace(&mut self.failed, true) { Taken::StillBad } else { Taken::Bad }
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
        for (number, (wait, taken)) in (1..).zip([(1, Taken::Bad), (2, Taken::StillBad), (4, Taken::StillBad)]) {
            inquiry.ask(number);
            assert!(!inquiry.is_lacking());
            assert_eq!(inquiry.take(number, false, START), taken);
            assert_eq!(inquiry.not_before(), START + Duration::from_secs(wait));
            assert!(inquiry.is_lacking());
        }
        inquiry.ask(9);
        assert_eq!(inquiry.take(9, true, START), Taken::Good);
        assert!(!inquiry.is_lacking());
        inquiry.ask(10);
        assert_eq!(inquiry.take(10, false, START), Taken::Bad);
        assert_eq!(inquiry.not_before(), START + Duration::from_secs(1));
    }

    #[test]
    fn only_the_look_up_that_began_last_counts() {
        let mut inquiry = Inquiry::new();
        assert_eq!(inquiry.take(1, true, START), Taken::Stale);
        inquiry.ask(1);
        inquiry.ask(2);
        assert_eq!(inquiry.take(1, true, START), Taken::Stale);
        assert_eq!(inquiry.take(2, true, START), Taken::Good);
        assert_eq!(inquiry.take(2, true, START), Taken::Stale);
        inquiry.ask(3);
        inquiry.give_up();
        assert_eq!(inquiry.take(3, false, START), Taken::Stale);
    }
}
