//! Timers.

use std::{io, time::Duration};

use wg_embed::time::Instant;

use super::{
    super::{
        header::{HEADER, SMALLEST_PATH_MSS, extend},
        recovery::Phase,
        rtt::{INITIAL_RTO, LARGEST_RTO},
        timers::Timer,
    },
    Connection, State,
};

/// The maximum number of SYNs.
const SYN_TRIES: u8 = 6;
/// The maximum number of retransmissions without progress.
const DATA_RETRIES: u8 = 15;
/// The maximum delay of a peer's ACK: a probe for a single segment waits for it.
const PEER_DELAY: Duration = Duration::from_millis(200);
/// The time that a probe waits beyond two round trips.
const PROBE_SLACK: Duration = Duration::from_millis(2);
/// The number of unanswered keepalive probes that ends the connection.
const KEEPALIVE_PROBES: u8 = 9;
/// How long an empty buffer is kept.
const BUFFER_HOLDS: Duration = Duration::from_secs(1);

impl Connection {
    /// Runs the timers that are due.
    pub(crate) fn run_timers(&mut self, now: Instant) {
        while let Some(timer) = self.timers.take_due(now) {
            match timer {
                Timer::Retransmit => self.time_out(now),
                Timer::Probe => {
                    self.probe_due = !self.sender.board.is_empty();
                    self.progress = now;
                    self.timers.set(Timer::Retransmit, now + self.rtt.timeout());
                }
                Timer::Reorder => self.find_lost(now),
                Timer::Persist => self.persist(now),
                Timer::Acknowledge => {
                    // An ACK sent since may have been followed by another delay.
                    if !self.receiver.wants_acknowledgement(now)
                        && let Some(at) = self.receiver.delayed()
                    {
                        self.timers.set(Timer::Acknowledge, at);
                    }
                }
                Timer::Keepalive => self.keep_alive(now),
                Timer::End => self.end_if_due(now),
                Timer::Buffers => self.release_buffers(now),
            }
            if self.state == State::Closed {
                return;
            }
        }
        self.settle(now);
    }

    /// Sets the timers that follow from the state after any event.
    pub(super) fn settle(&mut self, now: Instant) {
        if matches!(self.state, State::Closed | State::TimeWait) {
            return;
        }
        if self.reset_at_end && self.sender.ring.is_empty() {
            return self.end_with_reset(io::ErrorKind::ConnectionAborted);
        }
        if self.arm_due {
            self.arm_due = false;
            self.arm(now);
        }
        if self.is_shut_out() {
            self.stalled.get_or_insert(now);
            if !self.timers.is_set(Timer::Persist) {
                self.timers.set(Timer::Persist, now + self.persist_interval());
            }
        } else if self.timers.is_set(Timer::Persist) {
            self.timers.clear(Timer::Persist);
        }
        if let Some(at) = self.receiver.delayed() {
            self.timers.set_by(Timer::Acknowledge, at);
        }
        if let (Some(limit), Some(since)) = (self.user_timeout, self.stalled)
            && !self.timers.is_set(Timer::End)
        {
            self.timers.set(Timer::End, since + limit);
        }
        self.watch_buffers(now);
    }

    /// Sets the timer for the release of buffers, if there is one to release.
    pub(super) fn watch_buffers(&mut self, now: Instant) {
        if !self.timers.is_set(Timer::Buffers) && self.has_idle_buffer() {
            self.timers.set(Timer::Buffers, now + BUFFER_HOLDS);
        }
    }

    fn has_idle_buffer(&self) -> bool {
        (self.sender.ring.is_empty() && self.sender.memory() > 0)
            || (self.receiver.is_empty() && self.receiver.memory() > 0)
    }

    fn release_buffers(&mut self, now: Instant) {
        if now.since(self.used) < BUFFER_HOLDS {
            if self.has_idle_buffer() {
                self.timers.set(Timer::Buffers, self.used + BUFFER_HOLDS);
            }
            return;
        }
        if self.sender.ring.is_empty() {
            self.sender.ring.release();
            self.sender.board.shrink();
        }
        if self.receiver.is_empty() {
            self.receiver.release();
        }
    }

    /// Starts the timer of data in flight: that of a tail loss probe, or else of the retransmission.
    pub(super) fn arm(&mut self, now: Instant) {
        let board = &self.sender.board;
        if board.is_empty() {
            for timer in [Timer::Retransmit, Timer::Probe, Timer::Reorder] {
                self.timers.clear(timer);
            }
            return;
        }
        let timeout = self.rtt.timeout();
        let first = board.front().map_or(self.progress, |record| record.sent.max(self.progress));
        let expires = first + timeout;
        if self.may_probe() {
            let wait = self
                .rtt
                .smoothed()
                .map_or(INITIAL_RTO, |smoothed| smoothed * 2 + if board.len() == 1 { PEER_DELAY } else { PROBE_SLACK });
            self.timers.set(Timer::Probe, (now + wait).min(expires.max(now)));
            self.timers.clear(Timer::Retransmit);
        } else {
            self.timers.set(Timer::Retransmit, expires.max(now + Duration::from_millis(1)));
            self.timers.clear(Timer::Probe);
        }
    }

    /// Handles the retransmission timeout.
    fn time_out(&mut self, now: Instant) {
        let handshake = matches!(self.state, State::SynSent | State::SynReceived);
        if !handshake && self.sender.board.is_empty() {
            return;
        }
        self.retries += 1;
        if self.retries >= if handshake { SYN_TRIES } else { DATA_RETRIES + 1 } {
            self.give_up();
            return;
        }
        self.rtt.back_off();
        if handshake {
            self.syn_due = true;
            self.timers.set(Timer::Retransmit, now + self.rtt.timeout());
            return;
        }
        let flight = self.flight();
        let board = &mut self.sender.board;
        board.lose_old(now, self.rtt.smoothed().unwrap_or_default());
        self.recovery.time_out(&mut self.cubic, flight, board.pipe(), self.sender.next);
        self.probe_due = false;
        self.repeated_acks = 0;
        self.timers.clear(Timer::Reorder);
        self.progress = now;
        self.timers.set(Timer::Retransmit, now + self.rtt.timeout());
    }

    /// Ends the connection, as the peer does not respond.
    fn give_up(&mut self) {
        let error = self.soft_error.unwrap_or(io::ErrorKind::TimedOut);
        self.end_with_reset(error);
    }

    /// Handles the end of the time in which reordering would have been detected.
    fn find_lost(&mut self, now: Instant) {
        self.detect(now);
        if self.sender.board.lost() > 0 && !self.recovering() {
            let flight = self.flight();
            self.recovery.enter(&mut self.cubic, flight, self.sender.next);
        }
        if self.recovery.phase() == Phase::Recovery {
            let pipe = self.sender.board.pipe();
            self.recovery.reduce(&mut self.cubic, 0, pipe, false, self.sender.mss as u64);
        }
    }

    fn persist_interval(&self) -> Duration {
        let base = self.rtt.timeout();
        base.saturating_mul(1 << self.persists.min(10)).min(LARGEST_RTO)
    }

    /// Handles a window that is closed, or too small for long.
    fn persist(&mut self, now: Instant) {
        if !self.is_shut_out() {
            return;
        }
        if self.unanswered >= DATA_RETRIES {
            self.give_up();
            return;
        }
        self.persists = self.persists.saturating_add(1);
        self.unanswered += 1;
        if self.sender.usable() > 0 && self.sender.unsent() > 0 {
            self.force_small = true;
        } else {
            self.nudge = true;
        }
        self.timers.set(Timer::Persist, now + self.persist_interval());
    }

    /// Handles keepalive: sends probes, and ends the connection if none is answered.
    fn keep_alive(&mut self, now: Instant) {
        let Some(idle) = self.keepalive else { return };
        let quiet = now.since(self.heard);
        if !self.established || !self.sender.board.is_empty() || quiet < idle {
            // Data in flight have their own timer.
            let from = if quiet < idle { self.heard } else { now };
            self.timers.set(Timer::Keepalive, from + idle);
            return;
        }
        let over = self.user_timeout.map_or(self.keepalives >= KEEPALIVE_PROBES, |limit| {
            self.keepalives > 0 && quiet >= idle.saturating_add(limit)
        });
        if over {
            self.give_up();
            return;
        }
        self.keepalives = self.keepalives.saturating_add(1);
        self.nudge = true;
        self.timers.set(Timer::Keepalive, now + (idle / 10).max(Duration::from_secs(1)));
    }

    /// Handles the user timeout, and an orphan in FIN-WAIT-2.
    fn end_if_due(&mut self, now: Instant) {
        if self.state == State::FinWait2 && self.orphan {
            self.end(None);
            return;
        }
        if let (Some(limit), Some(since)) = (self.user_timeout, self.stalled) {
            if now.since(since) >= limit {
                self.give_up();
            } else {
                self.timers.set(Timer::End, since + limit);
            }
        }
    }

    /// Handles an ICMP error about a segment with sequence number `seq`: ends a handshake; otherwise it is stored as
    /// the reason of a later time-out.
    pub(crate) fn unreachable(&mut self, seq: u32, error: io::ErrorKind) {
        if !self.is_in_flight(seq) {
            return;
        }
        if matches!(self.state, State::SynSent | State::SynReceived) {
            self.end(Some(error));
        } else {
            self.soft_error = Some(error);
        }
    }

    /// Returns whether `seq` is sent and not acknowledged: other ICMP errors may be forged (RFC 5927).
    fn is_in_flight(&self, seq: u32) -> bool {
        let number = extend(self.sender.una, seq);
        self.state != State::Closed && (self.sender.una..self.sender.next).contains(&number)
    }

    /// Applies a smaller MTU: `max_segment` is the largest TCP segment, including its header. Sent segments are not
    /// affected.
    pub(crate) fn limit_segments(&mut self, max_segment: usize) {
        let mss = max_segment.saturating_sub(HEADER).max(SMALLEST_PATH_MSS);
        if mss < self.path_mss {
            self.path_mss = mss;
            self.apply_mss(!self.established);
        }
    }

    /// Applies a smaller path MTU: `max_segment` is the largest TCP segment, including its header. `seq` as above.
    /// Returns whether it is accepted.
    pub(crate) fn path_mtu(&mut self, seq: u32, max_segment: usize, now: Instant) -> bool {
        if !self.is_in_flight(seq) {
            return false;
        }
        let before = self.path_mss;
        self.limit_segments(max_segment);
        if self.path_mss == before {
            return true;
        }
        if self.established {
            // They were too large, which does not mean congestion.
            let una = self.sender.una;
            self.sender.board.lose_larger(una, self.sender.mss as u32);
            self.recovery.force = self.sender.board.lost() > 0;
            self.progress = now;
            self.arm(now);
        }
        self.settle(now);
        true
    }
}
