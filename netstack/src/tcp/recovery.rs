//! The sender's reaction to losses: proportional rate reduction (RFC 6937), undoing unnecessary reductions (RFC 3522,
//! 3708), F-RTO (RFC 5682), and the result of a tail loss probe (RFC 8985, 7).

use super::{cubic::Cubic, header::older};

/// The phase of the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No known loss.
    Open,
    /// Until everything that had been sent when a loss was detected is acknowledged.
    Recovery,
    /// The same after the retransmission timer expired.
    Loss,
}

/// Proportional rate reduction.
#[derive(Clone, Copy, Debug, Default)]
struct Reduction {
    delivered: u64,
    sent: u64,
    flight: u64,
}

/// The state to restore if nothing was lost.
#[derive(Clone, Copy, Debug)]
struct Undo {
    cubic: Cubic,
    /// The time of the first retransmission, in our timestamps.
    stamp: Option<u32>,
    /// The number of retransmissions that were not reported as duplicates.
    repeated: u32,
    any: bool,
}

/// A tail loss probe without a response.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    /// It is answered when this number is acknowledged.
    pub(super) end: u64,
    /// Whether it was a retransmission.
    pub(super) repeated: bool,
}

/// The state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recovery {
    phase: Phase,
    point: u64,
    reduction: Reduction,
    undo: Option<Undo>,
    /// Whether F-RTO is active: the timeout may have been spurious.
    doubted: bool,
    /// Whether the next lost segment is sent regardless of the window.
    pub(super) force: bool,
    pub(super) probe: Option<Probe>,
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            phase: Phase::Open,
            point: 0,
            reduction: Reduction::default(),
            undo: None,
            doubted: false,
            force: false,
            probe: None,
        }
    }
}

impl Recovery {
    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Returns the number whose acknowledgement ends the recovery.
    pub(super) fn point(&self) -> u64 {
        self.point
    }

    /// Handles a detected loss. `flight` is everything unacknowledged, `next` the next number to send.
    pub(super) fn enter(&mut self, cubic: &mut Cubic, flight: u64, next: u64) {
        self.undo = Some(Undo { cubic: *cubic, stamp: None, repeated: 0, any: false });
        self.phase = Phase::Recovery;
        self.point = next;
        self.reduction = Reduction { flight: flight.max(1), ..Reduction::default() };
        self.force = true;
        self.probe = None;
        cubic.on_loss(flight);
    }

    /// Handles a retransmission timeout.
    pub(super) fn time_out(&mut self, cubic: &mut Cubic, flight: u64, pipe: u64, next: u64) {
        if self.phase == Phase::Open {
            self.undo = Some(Undo { cubic: *cubic, stamp: None, repeated: 0, any: false });
            self.doubted = true;
            cubic.on_loss(flight);
        }
        self.phase = Phase::Loss;
        self.point = next;
        self.force = true;
        self.probe = None;
        cubic.on_timeout(pipe);
    }

    /// Handles an ACK during a recovery: `delivered` bytes arrived; `progress` if it acknowledged something and no
    /// further loss was detected.
    pub(super) fn reduce(&mut self, cubic: &mut Cubic, delivered: u64, pipe: u64, progress: bool, mss: u64) {
        let reduction = &mut self.reduction;
        reduction.delivered += delivered;
        let threshold = cubic.threshold();
        let mut room = if pipe > threshold {
            let due = u128::from(reduction.delivered) * u128::from(threshold);
            (due.div_ceil(u128::from(reduction.flight)) as u64).saturating_sub(reduction.sent)
        } else {
            let mut room = reduction.delivered.saturating_sub(reduction.sent);
            if progress {
                room = room.max(delivered) + mss;
            }
            room.min(threshold - pipe)
        };
        if reduction.sent == 0 {
            room = room.max(mss);
        }
        cubic.set_window(pipe + room);
    }

    /// Reports that a segment was sent; `again` for a retransmission, at `stamp` in our timestamps.
    pub(super) fn on_sent(&mut self, len: u64, again: bool, stamp: u32) {
        if self.phase == Phase::Recovery {
            self.reduction.sent += len;
        }
        if !again {
            return;
        }
        self.force = false;
        if let Some(undo) = &mut self.undo {
            undo.stamp.get_or_insert(stamp);
            undo.repeated += 1;
            undo.any = true;
        }
    }

    /// Returns whether an ACK that echoes `echo` was caused by a segment older than the first retransmission.
    pub(super) fn echoes_older(&self, echo: Option<u32>) -> bool {
        let stamp = self.undo.as_ref().and_then(|undo| undo.stamp);
        echo.zip(stamp).is_some_and(|(echo, stamp)| older(echo, stamp))
    }

    /// Handles a D-SACK for a retransmission.
    pub(super) fn on_duplicate(&mut self) {
        if let Some(undo) = &mut self.undo {
            undo.repeated = undo.repeated.saturating_sub(1);
        }
    }

    /// Returns whether all retransmissions were reported as duplicates.
    pub(super) fn all_duplicates(&self) -> bool {
        self.undo.as_ref().is_some_and(|undo| undo.any && undo.repeated == 0)
    }

    /// Returns whether the timeout was spurious (F-RTO): a segment from before it arrived that was not retransmitted.
    pub(super) fn was_spurious(&self, original: Option<u64>) -> bool {
        self.phase == Phase::Loss && self.doubted && original.is_some_and(|end| end <= self.point)
    }

    /// Undoes the reduction.
    pub(super) fn undo(&mut self, cubic: &mut Cubic) {
        if let Some(undo) = self.undo.take() {
            let window = cubic.window();
            *cubic = undo.cubic;
            cubic.set_window(window.max(cubic.window()));
        }
        self.end();
    }

    /// Handles that everything that had been sent when the loss was detected is acknowledged.
    pub(super) fn finish(&mut self, cubic: &mut Cubic) {
        if self.phase == Phase::Recovery {
            cubic.on_recovered();
        }
        // The undo state is kept: a D-SACK may arrive later.
        self.end();
    }

    fn end(&mut self) {
        self.phase = Phase::Open;
        self.doubted = false;
        self.force = false;
    }
}
