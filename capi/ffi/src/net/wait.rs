//! Waits for notifications of a stack.

use std::{
    io,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use wg_embed::{queue::wait_until, sync};
use wg_embed_netstack::Notify;

/// The time limit of a call: a negative one is infinite, as for poll().
#[derive(Clone, Copy)]
pub(crate) struct Limit(Option<Instant>);

impl Limit {
    /// The limit of a call that begins now.
    pub(crate) fn after(timeout_ms: i32) -> Self {
        Self(u64::try_from(timeout_ms).ok().map(|ms| Instant::now() + Duration::from_millis(ms)))
    }

    /// Returns the remaining time; `None` without a limit.
    pub(super) fn left(self) -> Option<Duration> {
        self.0.map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// The same for the stack, which has no calls without a limit.
    pub(super) fn left_for_stack(self) -> Duration {
        const LONG: Duration = Duration::from_secs(24 * 3600);
        self.left().unwrap_or(LONG)
    }

    pub(super) fn is_over(self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }
}

#[derive(Default)]
struct Waiter {
    is_told: Mutex<bool>,
    changed: Condvar,
}

impl Notify for Waiter {
    fn notify(&self) {
        *sync::lock(&self.is_told) = true;
        self.changed.notify_all();
    }
}

/// Tries until the outcome is something else than `WouldBlock`, each time after the notifier that `set_notify` gets was
/// called. When the time is over that is `TimedOut`.
pub(super) fn wait_for<T>(
    limit: Limit,
    set_notify: impl FnOnce(Arc<dyn Notify>),
    mut attempt: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    let waiter = Arc::new(Waiter::default());
    set_notify(waiter.clone());
    loop {
        match attempt() {
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
            outcome => return outcome,
        }
        if limit.is_over() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let is_told = sync::lock(&waiter.is_told);
        *wait_until(&waiter.changed, is_told, limit.left(), |is_told| *is_told) = false;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::{cell::Cell, thread};

    #[test]
    fn it_is_tried_again_when_told_and_not_after_the_limit() {
        let tries = Cell::new(0);
        let attempt = |ready_at: i32| {
            let tries = &tries;
            move || {
                tries.set(tries.get() + 1);
                if tries.get() == ready_at { Ok(tries.get()) } else { Err(io::ErrorKind::WouldBlock.into()) }
            }
        };
        let tell = |notify: Arc<dyn Notify>| drop(thread::spawn(move || notify.notify()));
        assert_eq!(wait_for(Limit::after(-1), tell, attempt(2)).unwrap(), 2);
        let over = wait_for(Limit::after(0), |_| {}, attempt(0)).unwrap_err();
        assert_eq!((over.kind(), tries.get()), (io::ErrorKind::TimedOut, 3));
        assert_eq!(wait_for(Limit::after(0), |_| {}, attempt(4)).unwrap(), 4);
    }

    #[test]
    fn limits_are_those_of_poll() {
        assert_eq!((Limit::after(-5).left(), Limit::after(0).left()), (None, Some(Duration::ZERO)));
        let left = Limit::after(i32::MAX).left().unwrap();
        assert!(
            left > Duration::from_millis(i32::MAX as u64 - 100_000) && !Limit::after(100_000).is_over(),
            "{left:?}"
        );
    }
}
