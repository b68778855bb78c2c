//! Random times that are added to timers, so that two peers do not keep colliding.
//!
//! They are no secret, but one is needed for each request and reply: so they are computed from a counter, and the
//! source of randomness is read only once.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{noise::REKEY_TIMEOUT_JITTER, random::Random};

/// A sequence of random times, for any number of threads.
#[derive(Debug, Default)]
pub(super) struct Jitter {
    /// Drawn for the first time; a seed of 0 adds nothing to any timer.
    seed: OnceLock<u64>,
    /// The number of times returned so far.
    count: AtomicU64,
}

impl Jitter {
    /// Returns the next time, which is below [`REKEY_TIMEOUT_JITTER`].
    pub(super) fn next(&self, random: &dyn Random) -> Duration {
        let seed = *self.seed.get_or_init(|| {
            let mut seed = [0; 8];
            random.fill(&mut seed);
            u64::from_ne_bytes(seed)
        });
        let number = mix(seed.wrapping_mul(self.count.fetch_add(1, Relaxed) + 1)) >> 32;
        // The limit is below a second: the product fits.
        Duration::from_nanos((u64::from(REKEY_TIMEOUT_JITTER.subsec_nanos()) * number) >> 32)
    }
}

const _: () = assert!(REKEY_TIMEOUT_JITTER.as_secs() == 0);

/// Spreads consecutive multiples of a number over all 64 bits (the finalizer of SplitMix64).
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// Fills with one number, and counts how often.
    struct Seed(u64, AtomicUsize);

    impl Random for Seed {
        fn fill(&self, out: &mut [u8]) {
            self.1.fetch_add(1, Relaxed);
            out.copy_from_slice(&self.0.to_ne_bytes());
        }
    }

    fn times(seed: u64, n: usize) -> Vec<Duration> {
        let (random, jitter) = (Seed(seed, AtomicUsize::new(0)), Jitter::default());
        let times = (0..n).map(|_| jitter.next(&random)).collect();
        assert_eq!(random.1.load(Relaxed), 1, "randomness is read once");
        times
    }

    #[test]
    fn times_are_spread_over_the_whole_range() {
        const PARTS: usize = 10;
        for seed in [1, 2, 0x1234_5678_9abc_def0, u64::MAX] {
            let times = times(seed, 10_000);
            assert!(times.iter().all(|time| *time < REKEY_TIMEOUT_JITTER));
            let mut counts = [0; PARTS];
            let part = |time: &Duration| time.as_nanos() * PARTS as u128 / REKEY_TIMEOUT_JITTER.as_nanos();
            times.iter().for_each(|time| counts[part(time) as usize] += 1);
            assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
        }
    }

    #[test]
    fn two_devices_have_different_times_and_a_seed_of_zero_adds_nothing() {
        let (a, b) = (times(3, 1000), times(5, 1000));
        assert!(a.iter().zip(&b).filter(|(a, b)| a == b).count() < 10);
        assert!(times(0, 100).iter().all(Duration::is_zero));
    }
}
