//! A condition variable: for systems on which the tunnel's thread for the stack waits for nothing else.

use std::{io, time::Duration};

use mio::{Registry, Token};
use wg_embed::{poll::Registered, queue::Monitor, time::Instant};

#[derive(Default)]
struct State {
    woken: bool,
    /// The earliest deadline, by the standard library's clock.
    deadline: Option<std::time::Instant>,
    armed: Option<Instant>,
}

pub(super) struct Waiter(Monitor<State>);

impl Waiter {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Monitor::default()))
    }

    pub(super) fn wake(&self) {
        self.0.change(|state| state.woken = true);
    }

    pub(super) fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        let deadline = self.0.lock().deadline;
        let left = deadline.map(|at| at.saturating_duration_since(std::time::Instant::now()));
        let timeout = timeout.into_iter().chain(left).min();
        let mut state = self.0.wait(timeout, |state| state.woken || state.deadline != deadline);
        state.woken = false;
        // It fires once. It may be early by the stack's clock, which can be any clock: then it is set again.
        if state.deadline.is_some_and(|at| at <= std::time::Instant::now()) {
            (state.deadline, state.armed) = (None, None);
        }
        Ok(())
    }

    pub(super) fn set_deadline(&self, next: impl FnOnce() -> Option<Instant>, now: impl FnOnce() -> Instant) {
        self.0.change(|state| {
            let next = next();
            if state.armed != next {
                state.armed = next;
                state.deadline = next.and_then(|at| std::time::Instant::now().checked_add(at.since(now())));
            }
        });
    }

    pub(super) fn register(&self, _: &Registry, _: Registered<Token>) -> io::Result<bool> {
        Ok(false)
    }

    pub(super) fn deregister(&self, _: &Registry) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_nanos(1_000_000);
    const LIMIT: Option<Duration> = Some(Duration::from_secs(300));

    #[test]
    fn a_deadline_that_the_clock_has_not_reached_does_not_make_it_spin() {
        const LATER: Duration = Duration::from_millis(20);
        let waiter = Waiter::new().unwrap();
        // The stack's clock stands still.
        for _ in 0..3 {
            let began = std::time::Instant::now();
            waiter.set_deadline(|| Some(NOW + LATER), || NOW);
            waiter.wait(LIMIT).unwrap();
            assert!((LATER..Duration::from_secs(60)).contains(&began.elapsed()), "{:?}", began.elapsed());
        }
    }

    #[test]
    fn a_wake_up_before_the_deadline_leaves_that_in_place() {
        let waiter = Waiter::new().unwrap();
        waiter.set_deadline(|| Some(NOW + Duration::from_secs(3600)), || NOW);
        waiter.wake();
        waiter.wait(LIMIT).unwrap();
        assert!(waiter.0.lock().deadline.is_some());
        waiter.set_deadline(|| Some(NOW + Duration::from_millis(20)), || NOW);
        waiter.wait(LIMIT).unwrap();
        assert!(waiter.0.lock().deadline.is_none());
        waiter.set_deadline(|| None, || NOW);
        waiter.wait(Some(Duration::from_millis(5))).unwrap();
    }
}
