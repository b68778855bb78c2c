//! RACK: a segment is lost if it was sent earlier than a delivered one, by more time than reordering explains. RFC
//! 8985, 6.

use std::time::Duration;

use wg_embed::time::Instant;

/// The number of segments reported by SACK that proves a loss while no reordering has been detected.
const ENOUGH: u64 = 3;
/// The number of recoveries for which a wider window is kept.
const PERSIST: u8 = 16;

/// The time at which a segment was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) at: Instant,
    pub(super) end: u64,
    pub(super) repeated: bool,
}

impl Sent {
    pub(super) fn is_after(&self, other: &Self) -> bool {
        (self.at, self.end) > (other.at, other.end)
    }
}

/// The state of the algorithm.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rack {
    latest: Option<Sent>,
    rtt: Duration,
    reordering: bool,
    /// The window in quarters of the minimum round trip time.
    quarters: u32,
    persist: u8,
    /// The window was widened: not again before this number is acknowledged.
    round: u64,
}

impl Default for Rack {
    fn default() -> Self {
        Self { latest: None, rtt: Duration::ZERO, reordering: false, quarters: 1, persist: PERSIST, round: 0 }
    }
}

impl Rack {
    /// Handles the latest delivered segment of an ACK. `echoes_older`: the ACK echoes a timestamp from before `sent`.
    pub(super) fn on_delivered(&mut self, sent: Sent, echoes_older: bool, minimum: Option<Duration>, now: Instant) {
        let rtt = now.since(sent.at);
        // An earlier transmission of the same segment may have arrived.
        if sent.repeated && (echoes_older || minimum.is_some_and(|minimum| rtt < minimum)) {
            return;
        }
        self.rtt = rtt;
        if self.latest.is_none_or(|latest| sent.is_after(&latest)) {
            self.latest = Some(sent);
        }
    }

    pub(super) fn on_reordering(&mut self) {
        self.reordering = true;
    }

    /// Handles a D-SACK: a retransmitted segment had not been lost.
    pub(super) fn on_duplicate(&mut self, una: u64, next: u64) {
        if una >= self.round {
            self.round = next;
            self.quarters = self.quarters.saturating_add(1);
            self.persist = PERSIST;
        }
    }

    /// Handles the end of a recovery.
    pub(super) fn on_recovered(&mut self) {
        self.persist = self.persist.saturating_sub(1);
        if self.persist == 0 {
            self.quarters = 1;
        }
    }

    pub(super) fn rtt(&self) -> Duration {
        self.rtt
    }

    /// Returns whether a segment with this end was sent before the delivered one.
    pub(super) fn is_before(&self, at: Instant, end: u64) -> bool {
        self.latest.is_some_and(|latest| (latest.at, latest.end) > (at, end))
    }

    /// Returns how long to wait for reordered segments.
    pub(super) fn window(
        &self,
        recovering: bool,
        sacked_segments: u64,
        minimum: Duration,
        smoothed: Duration,
    ) -> Duration {
        if !self.reordering && (recovering || sacked_segments >= ENOUGH) {
            return Duration::ZERO;
        }
        (minimum.saturating_mul(self.quarters) / 4).min(smoothed)
    }
}
