//! Ends a poll in time, also if the machine slept.
//!
//! Deadlines count sleep ([`time::Instant`](crate::time::Instant)), but the time limit of a poll does not: after an
//! hour of sleep it ends the poll an hour late. On Windows it is also up to 16 ms late without sleep. So the poll also
//! has a timer that counts sleep and is exact, if the system has one (docs/adr/0007). Usually both end the same wait at
//! the same time.

use crate::bind::{driver::Timer, system::BootTimer};
use mio::{Poll, Token, Waker};
use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

/// Deadlines at most this far apart are considered equal: the caller read the clock slightly earlier.
const SLACK: Duration = Duration::from_millis(1);

/// The timer of a poll.
pub(super) struct Deadline<T = BootTimer> {
    /// `None` if there is none. Deadlines are then late by the duration of a sleep.
    timer: Option<T>,
    /// The time that it is set for, on the clock that does not count sleep. After a sleep the same deadline has another
    /// time on it, so the timer is set again. (On Windows this clock counts sleep, as does the timer.)
    set_for: Option<Instant>,
}

impl<T: Timer> Deadline<T> {
    pub(super) fn new(poll: &Poll, token: Token, waker: &Arc<Waker>) -> Self {
        Self { timer: usable(T::new(poll, token, waker)), set_for: None }
    }

    /// Sets the timer before a wait with this limit. The timer is not changed unless it would expire at the wrong time:
    /// deadlines change seldom, and waiting again for the same one costs no system call.
    pub(super) fn before_wait(&mut self, timeout: Option<Duration>) {
        self.before_wait_at(Instant::now, timeout);
    }

    /// Reports that the timer has expired.
    pub(super) fn rang(&mut self) {
        self.set_for = None;
    }

    fn before_wait_at(&mut self, now: impl Fn() -> Instant, timeout: Option<Duration>) {
        let Some(timer) = &self.timer else {
            return;
        };
        if timer.take_expired() {
            self.set_for = None;
        }
        let due = match timeout {
            Some(timeout) if timeout <= T::NEAR => return,
            // A time too far in the future to be represented is no limit.
            Some(timeout) => now().checked_add(timeout),
            None => None,
        };
        let is_set = match (self.set_for, due) {
            (Some(set_for), Some(due)) => set_for.max(due) - set_for.min(due) <= SLACK,
            (set_for, due) => set_for == due,
        };
        if !is_set {
            let set = timer.set(due.and(timeout));
            self.set_for = due;
            if usable(set).is_none() {
                self.timer = None;
            }
        }
    }
}

fn usable<R>(result: io::Result<R>) -> Option<R> {
    result.inspect_err(|err| tracing::debug!(%err, "deadlines are late after the machine has slept")).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    const SECOND: Duration = Duration::from_secs(1);

    /// Notes what it was set to.
    #[derive(Default)]
    struct Notes {
        set: RefCell<Vec<Option<Duration>>>,
        is_broken: bool,
    }

    impl Timer for Notes {
        fn new(_: &Poll, _: Token, _: &Arc<Waker>) -> io::Result<Self> {
            Ok(Self::default())
        }

        fn set(&self, after: Option<Duration>) -> io::Result<()> {
            self.set.borrow_mut().push(after);
            if self.is_broken { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
        }
    }

    fn deadline() -> Deadline<Notes> {
        let poll = Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), Token(1)).unwrap());
        Deadline::new(&poll, Token(0), &waker)
    }

    /// What the timer was set to by waits, each at some time after the first and for some time.
    fn settings(
        deadline: &mut Deadline<Notes>,
        waits: impl IntoIterator<Item = (Duration, Option<Duration>)>,
    ) -> Vec<Option<Duration>> {
        let start = Instant::now();
        for (at, timeout) in waits {
            deadline.before_wait_at(|| start + at, timeout);
        }
        deadline.timer.as_ref().map(|timer| timer.set.take()).unwrap_or_default()
    }

    #[test]
    fn one_deadline_is_set_once_however_often_it_is_waited_for() {
        let mut deadline = deadline();
        // The caller's look at the clock is up to 0.3 ms old.
        let waits = (0..9_000_u32).map(|ms| {
            let at = Duration::from_millis(ms.into());
            (at + Duration::from_micros(u64::from(ms % 4) * 100), Some(10 * SECOND - at))
        });
        assert_eq!(settings(&mut deadline, waits), [Some(10 * SECOND)]);
    }

    #[test]
    fn waits_that_are_short_or_without_end_set_nothing() {
        let mut deadline = deadline();
        let waits = [Some(Duration::ZERO), None, Some(Notes::NEAR), None].map(|timeout| (SECOND, timeout));
        assert!(settings(&mut deadline, waits).is_empty());
        let far = [(SECOND, Some(9 * SECOND)), (2 * SECOND, Some(SECOND / 2)), (3 * SECOND, Some(7 * SECOND))];
        assert_eq!(settings(&mut deadline, far), [Some(9 * SECOND)], "a short wait between leaves it as it is");
    }

    #[test]
    fn another_deadline_takes_the_place_of_the_one_before() {
        let mut deadline = deadline();
        let timeouts = [Some(9 * SECOND), Some(5 * SECOND), Some(20 * SECOND), None, None, Some(Duration::MAX)];
        let set = settings(&mut deadline, timeouts.map(|timeout| (SECOND, timeout)));
        assert_eq!(set, [Some(9 * SECOND), Some(5 * SECOND), Some(20 * SECOND), None]);
    }

    /// Three seconds before the deadline the machine sleeps for one.
    #[test]
    fn after_sleep_the_same_deadline_is_set_again() {
        let mut deadline = deadline();
        let waits = [(0, 10), (7, 3), (7, 2)].map(|(at, left)| (at * SECOND, Some(left * SECOND)));
        assert_eq!(settings(&mut deadline, waits), [Some(10 * SECOND), Some(2 * SECOND)]);
    }

    #[test]
    fn a_timer_that_has_rung_is_set_again() {
        let mut deadline = deadline();
        assert_eq!(settings(&mut deadline, [(SECOND, Some(9 * SECOND))]).len(), 1);
        deadline.rang();
        assert!(settings(&mut deadline, [(SECOND, None)]).is_empty());
        assert_eq!(settings(&mut deadline, [(SECOND, Some(9 * SECOND))]).len(), 1);
    }

    #[test]
    fn a_timer_that_does_not_work_is_given_up() {
        let mut deadline = deadline();
        deadline.timer = Some(Notes { is_broken: true, ..Notes::default() });
        settings(&mut deadline, [(SECOND, Some(9 * SECOND)), (SECOND, Some(5 * SECOND))]);
        assert!(deadline.timer.is_none());
    }
}
