//! The timers of a connection.

use wg_embed::time::Instant;

/// A timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// The retransmission timeout, also of SYNs.
    Retransmit,
    /// The tail loss probe, which replaces `Retransmit`.
    Probe,
    /// RACK: detects whether segments that appear to be lost were only reordered.
    Reorder,
    /// The probe of a closed window.
    Persist,
    /// A delayed ACK.
    Acknowledge,
    /// Keepalive.
    Keepalive,
    /// FIN-WAIT-2 without a program, and the user timeout.
    End,
    /// Buffers that have been empty for a while are released.
    Buffers,
}

const ALL: [Timer; 8] = [
    Timer::Retransmit,
    Timer::Probe,
    Timer::Reorder,
    Timer::Persist,
    Timer::Acknowledge,
    Timer::Keepalive,
    Timer::End,
    Timer::Buffers,
];

const NEVER: u64 = u64::MAX;

/// The times of all timers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timers([u64; ALL.len()]);

impl Timers {
    pub(super) fn new() -> Self {
        Self([NEVER; ALL.len()])
    }

    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        self.0[timer as usize] = at.as_nanos();
    }

    /// Sets a timer unless it is due earlier anyway.
    pub(super) fn set_by(&mut self, timer: Timer, at: Instant) {
        let time = &mut self.0[timer as usize];
        *time = at.as_nanos().min(*time);
    }

    pub(super) fn clear(&mut self, timer: Timer) {
        self.0[timer as usize] = NEVER;
    }

    pub(super) fn clear_all(&mut self) {
        *self = Self::new();
    }

    pub(super) fn is_set(&self, timer: Timer) -> bool {
        self.0[timer as usize] != NEVER
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0.iter().copied().min().filter(|&at| at != NEVER).map(Instant::from_nanos)
    }

    /// Clears and returns a timer that is due.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Timer> {
        let due = ALL.into_iter().find(|&timer| self.0[timer as usize] <= now.as_nanos())?;
        self.clear(due);
        Some(due)
    }
}
