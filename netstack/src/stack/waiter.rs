//! The wait of the thread that reads packets.
//!
//! On Linux and Android it is a poll over a waker and a timer, so that the tunnel can wait for it together with its
//! sockets; on other systems a condition variable.

use std::{
    cell::Cell,
    io, ptr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use wg_embed::{poll::Registered, time::Instant};

#[cfg(any(target_os = "linux", target_os = "android"))]
#[path = "waiter/linux.rs"]
mod imp;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[path = "waiter/fallback.rs"]
mod imp;
// It is used on systems without another one, but tested on all.
#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
#[allow(dead_code)]
#[path = "waiter/fallback.rs"]
mod fallback;

/// The maximum number of signals that wait for the end of a round.
const MOST_HELD: u8 = 8;

thread_local! {
    /// The waiter whose signals this thread holds, and their number.
    static HELD: Cell<(*const Waiter, u8)> = const { Cell::new((ptr::null(), 0)) };
}

/// Waits for signals and for one deadline.
///
/// A thread that adds something to a queue does so under the queue's lock, then reads `busy`, in
/// [`signal`](Self::signal). The reading thread clears `busy`, in [`set_idle`](Self::set_idle), then checks each queue
/// under its lock. Whichever of them has the lock later observes what the other one did before: the reader finds the
/// queue not empty, or it is woken. (Memory that was released has no lock: see `Memory::can_feed`.)
pub(super) struct Waiter {
    imp: imp::Waiter,
    /// Whether the reading thread is running, or was woken: another signal needs no system call. Only that thread
    /// clears it.
    busy: AtomicBool,
}

impl Waiter {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { imp: imp::Waiter::new()?, busy: AtomicBool::new(false) })
    }

    /// Reports that there is something to read, after it was added to a queue.
    pub(super) fn signal(&self) {
        if !self.busy.load(Ordering::SeqCst) && !self.busy.swap(true, Ordering::SeqCst) {
            self.imp.wake();
        }
    }

    /// Does the same as [`signal`](Self::signal), within a [`round`](Self::round) of this thread at its end.
    pub(super) fn signal_in_round(&self) {
        match HELD.get() {
            (waiter, held) if ptr::eq(waiter, self) && held < MOST_HELD => HELD.set((waiter, held + 1)),
            (waiter, _) if ptr::eq(waiter, self) => {
                HELD.set((waiter, 0));
                self.signal();
            }
            _ => self.signal(),
        }
    }

    /// Calls `round`, which handles several events: one wake-up for all of them is enough. They then also leave in one
    /// batch. A round within a round of this thread, of any stack, has signals of its own.
    pub(super) fn round<R>(&self, round: impl FnOnce() -> R) -> R {
        /// Signals at the end, also after a panic.
        struct End<'a> {
            waiter: &'a Waiter,
            outer: (*const Waiter, u8),
        }

        impl Drop for End<'_> {
            fn drop(&mut self) {
                if HELD.replace(self.outer).1 > 0 {
                    self.waiter.signal();
                }
            }
        }

        let _end = End { waiter: self, outer: HELD.replace((self, 0)) };
        round()
    }

    /// Reports that the reading thread has found nothing. It checks once more after this, and calls
    /// [`set_busy`](Self::set_busy) if there is something now.
    pub(super) fn set_idle(&self) {
        self.busy.store(false, Ordering::SeqCst);
    }

    pub(super) fn set_busy(&self) {
        if !self.busy.load(Ordering::SeqCst) {
            self.busy.store(true, Ordering::SeqCst);
        }
    }

    /// Ends the current or the next wait.
    pub(super) fn wake(&self) {
        self.imp.wake();
    }

    /// Waits for a signal, a wake-up or the deadline.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.imp.wait(timeout)
    }

    /// Reports that the earliest deadline has moved forward.
    pub(super) fn deadline_moved(&self, next: impl FnOnce() -> Option<Instant>, now: impl FnOnce() -> Instant) {
        // A running thread sets the timer before it waits.
        if !self.busy.load(Ordering::SeqCst) {
            self.imp.set_deadline(next, now);
        }
    }

    /// Sets the timer to the earliest deadline, before a wait.
    pub(super) fn set_deadline(&self, next: impl FnOnce() -> Option<Instant>, now: impl FnOnce() -> Instant) {
        self.imp.set_deadline(next, now);
    }

    pub(super) fn register(&self, registry: &mio::Registry, tokens: Registered<mio::Token>) -> io::Result<bool> {
        self.imp.register(registry, tokens)
    }

    pub(super) fn deregister(&self, registry: &mio::Registry) -> io::Result<()> {
        self.imp.deregister(registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const NOW: Instant = Instant::from_nanos(1_000_000);

    #[test]
    fn a_signal_a_wake_up_and_a_deadline_end_a_wait() {
        let waiter = Arc::new(Waiter::new().unwrap());
        waiter.signal();
        waiter.wait(None).unwrap();
        // The thread that reads is at work: no second one.
        waiter.signal();
        let began = std::time::Instant::now();
        waiter.wait(Some(Duration::from_millis(20))).unwrap();
        assert!(began.elapsed() >= Duration::from_millis(20));
        waiter.wake();
        waiter.wait(None).unwrap();
        waiter.set_deadline(|| Some(NOW + Duration::from_millis(10)), || NOW);
        waiter.wait(None).unwrap();
        waiter.set_idle();
        waiter.deadline_moved(|| Some(NOW), || NOW);
        waiter.wait(None).unwrap();
        waiter.set_idle();
        let other = waiter.clone();
        let signals = std::thread::spawn(move || other.signal());
        waiter.wait(None).unwrap();
        signals.join().unwrap();
    }

    #[test]
    fn a_deadline_that_the_clock_has_not_reached_is_set_again() {
        const LIMIT: Duration = Duration::from_secs(300);
        let waiter = Waiter::new().unwrap();
        for _ in 0..3 {
            let began = std::time::Instant::now();
            waiter.set_deadline(|| Some(NOW + Duration::from_millis(1)), || NOW);
            waiter.wait(Some(LIMIT)).unwrap();
            assert!(began.elapsed() < LIMIT, "it was not set");
        }
    }

    #[test]
    fn a_round_wakes_once_at_its_end() {
        let [waiter, other] = [(); 2].map(|()| Waiter::new().unwrap());
        let is_woken = |waiter: &Waiter| waiter.busy.load(Ordering::SeqCst);
        waiter.round(|| {
            waiter.signal_in_round();
            other.signal_in_round();
            assert!(!is_woken(&waiter) && is_woken(&other), "the other one is not held");
        });
        assert!(is_woken(&waiter));
        waiter.wait(None).unwrap();
        waiter.set_idle();
        waiter.round(|| ());
        assert!(!is_woken(&waiter), "without a reason");
        waiter.round(|| {
            (0..MOST_HELD).for_each(|_| waiter.signal_in_round());
            assert!(!is_woken(&waiter));
            waiter.signal_in_round();
            assert!(is_woken(&waiter), "a long round does not hold it for long");
            waiter.set_idle();
        });
        assert!(!is_woken(&waiter));
        waiter.round(|| {
            waiter.signal_in_round();
            other.round(|| waiter.round(|| ()));
            assert!(!is_woken(&waiter), "a round within it has signals of its own");
        });
        assert!(is_woken(&waiter));
        waiter.set_idle();
        waiter.signal_in_round();
        assert!(is_woken(&waiter), "there is no round");
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[test]
    fn another_poll_can_wait_for_it_each_time() {
        let mut poll = mio::Poll::new().unwrap();
        let mut events = mio::Events::with_capacity(4);
        let waiter = Waiter::new().unwrap();
        let tokens = Registered { packets: mio::Token(7), other: mio::Token(8) };
        assert!(waiter.register(poll.registry(), tokens).unwrap());
        for round in 1..5 {
            waiter.signal();
            poll.poll(&mut events, None).unwrap();
            assert!(events.iter().any(|event| event.token() == mio::Token(7)));
            waiter.set_idle();
            waiter.set_deadline(|| Some(NOW + Duration::from_millis(round)), || NOW);
            poll.poll(&mut events, None).unwrap();
            assert!(events.iter().any(|event| event.token() == mio::Token(8)));
            waiter.wait(Some(Duration::ZERO)).unwrap();
        }
        waiter.deregister(poll.registry()).unwrap();
        waiter.signal();
        poll.poll(&mut events, Some(Duration::from_millis(5))).unwrap();
        assert!(events.is_empty());
    }
}
