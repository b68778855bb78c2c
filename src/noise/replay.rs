//! Detects replayed counters of a session: a sliding window of 8192 bits, after RFC 6479.

use super::REJECT_AFTER_MESSAGES;

const WORD: u64 = u64::BITS as u64;
/// The number of bits of the window.
const BITS: u64 = 8192;
const WORDS: usize = (BITS / WORD) as usize;

/// The maximum distance of an accepted counter from the newest: the kernel keeps one word of its window in reserve, so
/// this is 8128.
pub const WINDOW: u64 = BITS - WORD;

/// A replay window. Counter `c` has bit `c % BITS`; bits of counters not yet reached are clear.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    /// One more than the highest accepted counter; 0 if there was none.
    next: u64,
    seen: [u64; WORDS],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self { next: 0, seen: [0; WORDS] }
    }
}

impl ReplayWindow {
    /// Records the arrival of an authentic message with this counter. Returns false if it must be dropped: it is a
    /// replay, too old for the window, or past the end of a session.
    #[must_use]
    pub fn accept(&mut self, counter: u64) -> bool {
        // Also prevents overflow of every sum below. After the last counter the session cannot be used.
        if counter >= REJECT_AFTER_MESSAGES || self.next >= REJECT_AFTER_MESSAGES {
            return false;
        }
        if counter >= self.next {
            self.clear(self.next, counter);
            self.next = counter + 1;
        } else if counter + WINDOW + 1 < self.next {
            return false;
        }
        let (word, bit) = (Self::word(counter), 1 << (counter % WORD));
        let fresh = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        fresh
    }

    fn word(counter: u64) -> usize {
        // Below WORDS, so it fits.
        ((counter / WORD) % WORDS as u64) as usize
    }

    /// Clears the bits of the counters `from..=to`, which have left the window.
    fn clear(&mut self, from: u64, to: u64) {
        if to - from >= BITS {
            self.seen = [0; WORDS];
            return;
        }
        let mut c = from;
        while c <= to {
            let first = c % WORD;
            let last = (to - c).saturating_add(first).min(WORD - 1);
            let mask = (u64::MAX << first) & (u64::MAX >> (WORD - 1 - last));
            self.seen[Self::word(c)] &= !mask;
            c += last - first + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn each_counter_once() {
        let mut w = ReplayWindow::default();
        for c in [0, 1, 5, 3, 4, 2] {
            assert!(w.accept(c), "{c}");
            assert!(!w.accept(c), "{c} again");
        }
    }

    #[test]
    fn exactly_the_window_is_open() {
        let mut w = ReplayWindow::default();
        assert!(w.accept(WINDOW));
        assert!(!w.accept(WINDOW));
        assert!(w.accept(WINDOW + 1));
        assert!(w.accept(1), "the oldest in the window");
        assert!(!w.accept(0), "one older");
    }

    #[test]
    fn the_end_of_the_counter_space_is_refused_without_overflow() {
        let mut w = ReplayWindow::default();
        for c in [REJECT_AFTER_MESSAGES, u64::MAX - 1, u64::MAX] {
            assert!(!w.accept(c));
        }
        assert!(w.accept(REJECT_AFTER_MESSAGES - 2));
        assert!(w.accept(REJECT_AFTER_MESSAGES - 2 - WINDOW));
        assert!(!w.accept(REJECT_AFTER_MESSAGES - 3 - WINDOW));
        assert!(w.accept(REJECT_AFTER_MESSAGES - 1), "the last one");
        assert!(!w.accept(REJECT_AFTER_MESSAGES - 3), "the session is over");
    }

    /// The same rule, written down in the plainest way.
    struct Model {
        next: u64,
        seen: HashSet<u64>,
    }

    impl Model {
        fn accept(&mut self, c: u64) -> bool {
            let over = c.max(self.next) >= REJECT_AFTER_MESSAGES;
            if over || u128::from(c) + u128::from(WINDOW) + 1 < u128::from(self.next) {
                return false;
            }
            self.next = self.next.max(c + 1);
            self.seen.insert(c)
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_plain_rule(
            base in prop_oneof![Just(0), Just(1u64 << 32), Just(REJECT_AFTER_MESSAGES - 3 * WINDOW), any::<u64>()],
            steps in prop::collection::vec(prop_oneof![0u64..4, 0u64..200, 0u64..4 * WINDOW, any::<u64>()], 1..400),
        ) {
            let (mut w, mut m) = (ReplayWindow::default(), Model { next: 0, seen: HashSet::new() });
            for s in steps {
                let c = base.wrapping_add(s);
                prop_assert_eq!(w.accept(c), m.accept(c), "counter {}", c);
            }
        }
    }
}
