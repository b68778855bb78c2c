//! Round trip times and the retransmission timeout: RFC 6298, with a smaller lower limit.

use std::time::Duration;

use wg_embed::time::Instant;

/// The timeout before the first sample.
pub(super) const INITIAL_RTO: Duration = Duration::from_secs(1);
/// The minimum difference of the timeout to the smoothed round trip time: more than the delay of any peer's ACK.
pub(super) const SMALLEST_RTO: Duration = Duration::from_millis(200);
/// The maximum timeout after backing off.
pub(super) const LARGEST_RTO: Duration = Duration::from_secs(60);
/// The maximum of a sample, in nanoseconds: one hour, far beyond the largest timeout.
const LONGEST: u64 = 3_600_000_000_000;
/// How long a minimum is used, since a path may change.
const MINIMUM_HOLDS: Duration = Duration::from_secs(300);

/// The estimates, in nanoseconds: arithmetic with `Duration` costs several times as much for each ACK.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rtt {
    smoothed: Option<u64>,
    variation: u64,
    minimum: Option<(Duration, Instant)>,
    /// How often the timeout was doubled.
    backoff: u8,
}

impl Rtt {
    /// Adds a sample.
    pub(super) fn sample(&mut self, rtt: Duration, now: Instant) {
        let rtt = rtt.max(Duration::from_nanos(1));
        let sample = u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX).min(LONGEST);
        self.smoothed = Some(match self.smoothed {
            None => {
                self.variation = sample / 2;
                sample
            }
            Some(smoothed) => {
                self.variation = (self.variation * 3 + smoothed.abs_diff(sample)) / 4;
                (smoothed * 7 + sample) / 8
            }
        });
        if self.minimum.is_none_or(|(minimum, at)| rtt <= minimum || now.since(at) > MINIMUM_HOLDS) {
            self.minimum = Some((rtt, now));
        }
        self.backoff = 0;
    }

    pub(super) fn smoothed(&self) -> Option<Duration> {
        self.smoothed.map(Duration::from_nanos)
    }

    pub(super) fn minimum(&self) -> Option<Duration> {
        self.minimum.map(|(minimum, _)| minimum)
    }

    /// Returns the retransmission timeout, doubled as often as [`back_off`](Self::back_off) was called.
    pub(super) fn timeout(&self) -> Duration {
        const INITIAL: u64 = INITIAL_RTO.as_nanos() as u64;
        const SMALLEST: u64 = SMALLEST_RTO.as_nanos() as u64;
        const LARGEST: u64 = LARGEST_RTO.as_nanos() as u64;
        let base = self.smoothed.map_or(INITIAL, |smoothed| smoothed + (self.variation * 4).max(SMALLEST));
        Duration::from_nanos(base.saturating_mul(1 << self.backoff.min(10)).min(LARGEST))
    }

    pub(super) fn back_off(&mut self) {
        self.backoff = self.backoff.saturating_add(1);
    }

    pub(super) fn end_backoff(&mut self) {
        self.backoff = 0;
    }
}
