//! A condition variable: for systems on which the tunnel gives the stack a thread that waits for nothing else.

use std::{io, time::Duration};

use mio::{Registry, Token};
use wg_embed::{queue::Monitor, time::Instant};

#[derive(Default)]
struct State {
    woken: bool,
    /// When the earliest deadline is, by the standard library's clock.
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
        self.0.wait(timeout, |state| state.woken || state.deadline != deadline).woken = false;
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

    pub(super) fn register(&self, _: &Registry, _: Token) -> io::Result<bool> {
        Ok(false)
    }

    pub(super) fn deregister(&self, _: &Registry) -> io::Result<()> {
        Ok(())
    }
}
