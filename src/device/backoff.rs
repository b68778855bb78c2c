//! Delays before failed operations are retried.

use std::time::Duration;

/// Delays that double, from a first to a last one.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    next: Duration,
    last: Duration,
}

impl Backoff {
    pub(super) const fn new(first: Duration, last: Duration) -> Self {
        Self { next: first, last }
    }

    /// Reports another failure and returns the delay.
    pub(super) fn failed(&mut self) -> Duration {
        let now = self.next;
        self.next = self.last.min(2 * now);
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_last() {
        let seconds = |n| Duration::from_secs(n);
        let mut backoff = Backoff::new(seconds(1), seconds(60));
        let waits: Vec<_> = (0..8).map(|_| backoff.failed()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60].map(seconds));
    }
}
