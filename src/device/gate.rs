//! What stands between a handshake message and its computation: whether we are under load, and what senders must show then.

use std::time::Duration;

use super::ratelimit::RateLimiter;
use crate::{noise::cookie::CookieChecker, time::Instant};

/// We count as being under load for this long after we were, as in the kernel.
pub(super) const LOAD_LASTS: Duration = Duration::from_secs(1);

/// Computing handshakes may take one part in this many of the time.
const COMPUTING: u32 = 10;
/// Answering with cookies may take one part in this many of the time: a few thousand answers a second on a fast
/// machine.
const ANSWERING: u32 = 50;
/// Of so much time: its share of it may be used up at once. That is for peers that come together, after a server's
/// restart for instance: one that gets a cookie begins again only after 5 s.
const WINDOW: Duration = Duration::from_millis(300);

#[derive(Default)]
pub(super) struct Gate {
    /// `None` while there is no private key.
    pub(super) checker: Option<CookieChecker>,
    pub(super) limiter: RateLimiter,
    computing: Effort<COMPUTING>,
    answering: Effort<ANSWERING>,
    last_load: Option<Instant>,
}

impl Gate {
    /// Whether we are, or were a moment ago, under load. `queue_is_long` is what the queue says: so many handshakes wait
    /// that we cannot keep up. If we can, they may still take too much of a thread that has packets to move.
    pub(super) fn is_under_load(&mut self, queue_is_long: bool, now: Instant) -> bool {
        if queue_is_long || self.computing.is_too_much(now) {
            self.last_load = Some(now);
        } else if self.last_load.take_if(|last| now.since(*last) >= LOAD_LASTS).is_some() {
            self.limiter.clear();
        }
        self.last_load.is_some()
    }

    /// A handshake message was computed, which took so much of the processor's time.
    pub(super) fn computed(&mut self, took: Duration, now: Instant) {
        self.computing.add(took, now);
    }

    /// Whether a sender may be answered with a cookie. A flood from addresses that are not its own would otherwise take
    /// all the time there is: a reply costs more than everything else that is done about such a message.
    pub(super) fn may_answer(&self, now: Instant) -> bool {
        !self.answering.is_too_much(now)
    }

    /// Senders were answered with cookies, which took so much of the processor's time.
    pub(super) fn answered(&mut self, took: Duration, now: Instant) {
        self.answering.add(took, now);
    }
}

/// Time that something takes which may have one part in `SHARE` of it.
#[derive(Default)]
struct Effort<const SHARE: u32> {
    /// When it will have had no more than its share again, if there is no more of it until then.
    even_at: Instant,
}

impl<const SHARE: u32> Effort<SHARE> {
    fn add(&mut self, took: Duration, now: Instant) {
        // A single one that took long says little about the next ones.
        self.even_at = (self.even_at.max(now) + took * SHARE).min(now + 2 * WINDOW);
    }

    fn is_too_much(&self, now: Instant) -> bool {
        self.even_at > now + WINDOW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_nanos(1_000_000_000);

    /// Computes something that takes `took` each `every`, so often. Returns how often that was under load.
    fn loaded(gate: &mut Gate, from: Instant, took: Duration, every: Duration, times: u32) -> usize {
        let at = |n| from + every * n;
        let mut one = |n| {
            let loaded = gate.is_under_load(false, at(n));
            gate.computed(took, at(n) + took);
            loaded
        };
        (0..times).filter(|n| one(*n)).count()
    }

    #[test]
    fn a_tenth_of_the_time_is_no_load() {
        let (took, every) = (Duration::from_micros(100), Duration::from_millis(1));
        assert_eq!(loaded(&mut Gate::default(), START, took, every, 10_000), 0);
        // As many at once as a tenth of the window holds.
        let mut gate = Gate::default();
        assert_eq!(loaded(&mut gate, START, took, took, 100), 0);
        assert_eq!(loaded(&mut gate, START + Duration::from_secs(1), took, took, 100), 0);
    }

    #[test]
    fn more_is_load_that_goes_when_it_is_less_again() {
        let (took, every) = (Duration::from_micros(100), Duration::from_micros(500));
        let mut gate = Gate::default();
        let times = loaded(&mut gate, START, took, every, 3000);
        assert!((2000..2500).contains(&times), "{times}");
        let later = START + every * 3000 + 2 * WINDOW;
        assert!(gate.is_under_load(false, later), "it lasts");
        assert!(!gate.is_under_load(false, later + LOAD_LASTS));
    }

    #[test]
    fn one_that_takes_long_is_forgotten_soon() {
        let mut gate = Gate::default();
        gate.computed(Duration::from_secs(5), START + Duration::from_secs(5));
        let now = START + Duration::from_secs(5);
        assert!(gate.is_under_load(false, now));
        assert!(!gate.is_under_load(false, now + 2 * WINDOW + LOAD_LASTS));
    }

    #[test]
    fn answers_have_a_share_of_their_own() {
        let mut gate = Gate::default();
        let took = Duration::from_micros(100);
        let answers =
            (0..1000).filter(|_| gate.may_answer(START).then(|| gate.answered(took, START)).is_some()).count();
        assert_eq!(answers, 61, "a fiftieth of the window, and one that was over it");
        assert!(!gate.is_under_load(false, START));
        assert!(gate.may_answer(START + WINDOW));
    }

    #[test]
    fn computations_that_take_no_time_are_no_load() {
        assert_eq!(loaded(&mut Gate::default(), START, Duration::ZERO, Duration::ZERO, 100_000), 0);
    }
}
