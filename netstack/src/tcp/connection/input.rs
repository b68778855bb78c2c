//! Received segments.

use std::{io, time::Duration};

use wg_embed::time::Instant;

use super::{
    super::{
        Header, Segment,
        header::{DEFAULT_MSS, LARGEST_SCALE, SMALLEST_MSS, extend, first, older},
        rack::Sent,
        recovery::Phase,
        scoreboard::Delivered,
        timers::Timer,
    },
    Connection, State,
};

/// How long the peer's last timestamp identifies old segments: its clock may have wrapped after that (RFC 7323, 5.5).
const TIMESTAMP_HOLDS: Duration = Duration::from_secs(24 * 24 * 3600);
/// The maximum number of challenge ACKs in a second: RFC 5961, 7.
const CHALLENGES: u8 = 10;
/// How long an orphan remains in FIN-WAIT-2.
pub(super) const ORPHAN: Duration = Duration::from_secs(60);
/// The number of ACKs repeating a number that means a loss, without SACK.
const REPEATED_ACKS: u8 = 3;

impl Connection {
    /// Handles a segment, which may cause something to be sent, change readiness, set a deadline, or end the
    /// connection.
    pub(crate) fn receive(&mut self, segment: &Segment<'_>, now: Instant) {
        match self.state {
            State::Closed => return,
            State::TimeWait => {
                // Only until the stack keeps the result of `time_wait`.
                if segment.length() > 0 && !segment.header.flags.rst {
                    self.receiver.acknowledge_now();
                }
                return;
            }
            State::SynSent => self.receive_in_syn_sent(segment, now),
            _ => self.receive_synchronized(segment, now),
        }
        self.used = now;
        self.settle(now);
    }

    fn receive_in_syn_sent(&mut self, segment: &Segment<'_>, now: Instant) {
        let header = &segment.header;
        let fits = header.flags.ack && header.ack == self.sender.next as u32;
        if header.flags.ack && !fits {
            self.reply = segment.refusal();
            return;
        }
        if header.flags.rst {
            if fits {
                self.end(Some(io::ErrorKind::ConnectionRefused));
            }
            return;
        }
        if !header.flags.syn {
            return;
        }
        self.agree(header, now);
        if fits {
            self.sender.acknowledge(self.sender.next);
            // Only the echo identifies which of several SYNs is answered (RFC 6298, 3). The time since earlier ones has
            // no meaning: the tunnel may have delayed them for its own handshake.
            let echo = header.timestamps.map(|(_, echo)| echo);
            let stamp = |sent| super::super::timestamp(self.clock_offset, sent);
            let sent = self.syn_sent.filter(|&sent| self.retries == 0 || echo == Some(stamp(sent)));
            if let Some(sent) = sent {
                self.rtt.sample(now.since(sent), now);
            }
            self.become_established(now);
            self.sender.update_window(first(header.seq), self.sender.una, u64::from(header.window));
            self.receiver.acknowledge_now();
        } else {
            // Both ends dial at the same time.
            self.state = State::SynReceived;
            self.syn_due = true;
        }
    }

    /// Applies the options of the peer's SYN.
    fn agree(&mut self, header: &Header, now: Instant) {
        let scales = header.window_scale.map(|peers| (peers.min(LARGEST_SCALE), self.scale));
        self.sender.scale = scales.map_or(0, |(peers, _)| peers);
        self.receiver.start(first(header.seq), scales.map_or(0, |(_, ours)| ours));
        self.scaling = scales.is_some();
        self.peer_mss = usize::from(header.mss.unwrap_or(DEFAULT_MSS).max(SMALLEST_MSS));
        self.sack = header.sack_permitted;
        self.recent = header.timestamps.map(|(value, _)| (value, now));
        self.apply_mss(true);
    }

    fn receive_synchronized(&mut self, segment: &Segment<'_>, now: Instant) {
        let header = &segment.header;
        let next = self.receiver.next();
        let start = extend(next, header.seq);
        let end = start + segment.length();
        let old = !header.flags.rst
            && self
                .recent
                .zip(header.timestamps)
                .is_some_and(|((recent, at), (value, _))| older(value, recent) && now.since(at) < TIMESTAMP_HOLDS);
        let fits = start <= self.receiver.edge() && end >= next && (end > next || start == next);
        if self.state == State::SynReceived && header.flags.syn && start + 1 == next && !header.flags.rst {
            self.receive_second_syn(header, now);
            return;
        }
        if old || !fits {
            if header.flags.rst {
                return;
            }
            if !segment.payload.is_empty() && end <= next {
                self.receiver.note_duplicate(start, end);
            } else if segment.length() > 0 {
                self.receiver.acknowledge_now();
            } else {
                self.challenge(now);
            }
            return;
        }
        if header.flags.rst {
            if start == next {
                self.receive_reset();
            } else {
                self.challenge(now);
            }
            return;
        }
        if header.flags.syn {
            self.challenge(now);
            return;
        }
        if !header.flags.ack {
            return;
        }
        let ack = extend(self.sender.una, header.ack);
        if self.state == State::SynReceived {
            if ack != self.sender.next {
                self.reply = segment.refusal();
                return;
            }
            self.sender.acknowledge(ack);
            self.become_established(now);
        }
        if ack > self.sender.next || ack + self.sender.largest_window.max(1) < self.sender.una {
            self.challenge(now);
            return;
        }
        self.heard = now;
        self.keepalives = 0;
        self.unanswered = 0;
        if let (Some(recent), Some((value, _))) = (&mut self.recent, header.timestamps)
            && start <= self.receiver.acknowledged()
            && !older(value, recent.0)
        {
            *recent = (value, now);
        }
        self.receive_ack(header, start, ack, segment.length() == 0, now);
        if self.state != State::Closed {
            self.receive_data(start, segment, now);
        }
    }

    /// Handles the peer's SYN-ACK while both ends dial, or a repetition of its SYN.
    fn receive_second_syn(&mut self, header: &Header, now: Instant) {
        if header.flags.ack && header.ack == self.sender.next as u32 {
            self.sender.acknowledge(self.sender.next);
            self.become_established(now);
            self.sender.update_window(first(header.seq), self.sender.una, u64::from(header.window));
            self.receiver.acknowledge_now();
        } else {
            self.syn_due = true;
        }
    }

    fn receive_reset(&mut self) {
        let error = match self.state {
            State::SynReceived => Some(io::ErrorKind::ConnectionRefused),
            // Both directions had ended.
            State::Closing | State::LastAck => None,
            _ => Some(io::ErrorKind::ConnectionReset),
        };
        self.end(error);
    }

    /// Responds to a segment that may be forged with an ACK, to which a genuine peer responds with a valid RST: RFC
    /// 5961.
    fn challenge(&mut self, now: Instant) {
        let second = now.as_nanos() / 1_000_000_000;
        if self.challenges.0 != second {
            self.challenges = (second, 0);
        }
        if self.challenges.1 < CHALLENGES {
            self.challenges.1 += 1;
            self.receiver.acknowledge_now();
        }
    }

    fn receive_ack(&mut self, header: &Header, start: u64, ack: u64, bare: bool, now: Instant) {
        let una = self.sender.una;
        let mut delivered = self.sender.board.begin();
        let duplicate = self.sack && self.receive_blocks(header, ack, &mut delivered);
        let progress = ack > una;
        let flight = self.flight();
        if progress {
            self.sender.board.acknowledge(ack, &mut delivered);
            self.sender.acknowledge(ack);
            self.progress = now;
            self.retries = 0;
            self.repeated_acks = 0;
            self.stalled = (self.sender.una < self.sender.next).then_some(now);
            self.soft_error = None;
            self.probe_due = false;
        }
        let window = u64::from(header.window) << self.sender.scale;
        let same_window = window == self.sender.window;
        if self.sender.update_window(start, ack, window) && window > 0 {
            self.persists = 0;
        }
        if window == 0 {
            // It responds: it only has no room for the repeated data.
            self.retries = 0;
        }
        if !self.sack && !progress && bare && same_window && flight > 0 && ack == una {
            self.repeated_acks = self.repeated_acks.saturating_add(1);
        }
        self.measure(header, &delivered, progress, now);
        if flight > 0 {
            self.react(header, &delivered, progress, duplicate, now);
        }
        self.after_fin_acknowledged(now);
    }

    /// Handles SACK blocks. Returns whether the first one reports a duplicate.
    fn receive_blocks(&mut self, header: &Header, ack: u64, delivered: &mut Delivered) -> bool {
        let una = self.sender.una;
        let mut duplicate = false;
        let mut blocks = header.sack.iter().flatten();
        let Some(&first_block) = blocks.next() else { return false };
        let range = |(from, to): (u32, u32)| (extend(una, from), extend(una, to));
        let (from, to) = range(first_block);
        // RFC 2883: below the ACK, or within the second block.
        let second = header.sack.get(1).copied().flatten().map(range);
        if from < to && (to <= ack || second.is_some_and(|(start, end)| start <= from && to <= end)) {
            duplicate = true;
            self.rack.on_duplicate(ack, self.sender.next);
            self.recovery.on_duplicate();
        } else {
            self.sack_range(from, to, ack, delivered);
        }
        for &block in blocks {
            let (from, to) = range(block);
            self.sack_range(from, to, ack, delivered);
        }
        duplicate
    }

    fn sack_range(&mut self, from: u64, to: u64, ack: u64, delivered: &mut Delivered) {
        let from = from.max(self.sender.una);
        if from < to && to <= self.sender.next && to > ack {
            self.sender.board.sack(from, to, delivered);
        }
    }

    /// Measures round trip times.
    fn measure(&mut self, header: &Header, delivered: &Delivered, progress: bool, now: Instant) {
        if let (Some(oldest), Some(newest)) = (delivered.oldest, delivered.newest)
            && !delivered.repeated
        {
            self.rtt.sample(now.since(oldest), now);
            self.cubic.on_rtt(now.since(newest), self.sender.una, self.sender.next);
        } else if progress
            && delivered.repeated
            && let Some((_, echo)) = header.timestamps.filter(|_| self.recent.is_some())
        {
            // The echo identifies the transmission that is answered.
            if let Some(age) = self.age(echo, now) {
                self.rtt.sample(age, now);
            }
        }
        if delivered.reordered {
            self.rack.on_reordering();
        }
        if let Some(sent) = delivered.latest {
            let older = sent.repeated && self.echoes_before(header, &sent);
            self.rack.on_delivered(sent, older, self.rtt.minimum(), now);
        }
    }

    /// Returns the age of our timestamp `echo`, if that is plausible.
    fn age(&self, echo: u32, now: Instant) -> Option<Duration> {
        super::super::age(self.clock_offset, echo, now)
    }

    /// Returns whether an ACK was caused by a segment that is older than `sent`.
    fn echoes_before(&self, header: &Header, sent: &Sent) -> bool {
        header.timestamps.is_some_and(|(_, echo)| older(echo, super::super::timestamp(self.clock_offset, sent.at)))
    }

    /// Detects losses, and adapts the congestion window.
    fn react(&mut self, header: &Header, delivered: &Delivered, progress: bool, duplicate: bool, now: Instant) {
        let lost_before = self.sender.board.lost();
        if self.sack {
            self.detect(now);
        } else if self.repeated_acks == REPEATED_ACKS && !self.recovering() {
            self.sender.board.lose_first();
        } else if progress && self.recovery.phase() == Phase::Recovery && self.sender.una < self.recovery.point() {
            // A partial ACK: the next segment is also missing (RFC 6582).
            self.sender.board.lose_first();
            self.recovery.force = true;
        }
        self.answer_probe(progress, duplicate);
        let echo = header.timestamps.filter(|_| self.recent.is_some()).map(|(_, echo)| echo);
        let spurious = self.recovery.was_spurious(delivered.original.filter(|_| self.sack))
            || (progress && delivered.repeated && self.recovering() && self.recovery.echoes_older(echo))
            || (duplicate && self.recovery.all_duplicates());
        if spurious {
            self.sender.board.find_all();
            self.recovery.undo(&mut self.cubic);
            self.rtt.end_backoff();
            if self.sack {
                self.detect(now);
            }
        }
        if self.recovering() && self.sender.una >= self.recovery.point() {
            self.recovery.finish(&mut self.cubic);
            self.rack.on_recovered();
        }
        let board = &self.sender.board;
        let pipe = board.pipe().saturating_sub(u64::from(self.repeated_acks) * self.sender.mss as u64);
        match self.recovery.phase() {
            Phase::Open if board.lost() > 0 => {
                let flight = self.flight().max(delivered.bytes);
                self.recovery.enter(&mut self.cubic, flight, self.sender.next);
                self.recovery.reduce(&mut self.cubic, delivered.bytes, pipe, progress, self.sender.mss as u64);
            }
            Phase::Open | Phase::Loss => {
                // An ACK that only fills a window that was counted as full does not prove that there is room for more.
                if progress && delivered.bytes > 0 && (self.limited || self.recovering()) {
                    let rtt = self.rtt.smoothed().unwrap_or_default();
                    self.cubic.on_ack(delivered.bytes, now, rtt);
                    self.sender.tune(self.cubic.window());
                }
            }
            Phase::Recovery => {
                let good = progress && board.lost() <= lost_before;
                let bytes = if self.sack { delivered.bytes } else { delivered.bytes.max(self.sender.mss as u64) };
                self.recovery.reduce(&mut self.cubic, bytes, pipe, good, self.sender.mss as u64);
            }
        }
        if progress {
            self.arm(now);
        }
    }

    /// Lets RACK mark lost segments.
    pub(super) fn detect(&mut self, now: Instant) {
        if self.sender.board.is_empty() {
            return self.timers.clear(Timer::Reorder);
        }
        let smoothed = self.rtt.smoothed().unwrap_or_default();
        let minimum = self.rtt.minimum().unwrap_or_default();
        let sacked = self.sender.board.sacked() / self.sender.mss as u64;
        let window = self.rack.window(self.recovering(), sacked, minimum, smoothed);
        match self.sender.board.detect(&self.rack, window, now) {
            Some(wait) => self.timers.set(Timer::Reorder, now + wait.max(Duration::from_micros(100))),
            None => self.timers.clear(Timer::Reorder),
        }
    }

    /// Handles the effect of an ACK on a tail loss probe: RFC 8985, 7.4.
    fn answer_probe(&mut self, progress: bool, duplicate: bool) {
        let Some(probe) = self.recovery.probe else { return };
        if self.sender.una < probe.end {
            return;
        }
        if !probe.repeated || duplicate || (!progress && self.sender.una == probe.end) {
            self.recovery.probe = None;
        } else if self.sender.una > probe.end {
            // The probe has filled a gap: that was an ordinary loss.
            self.recovery.probe = None;
            if !self.recovering() {
                let flight = self.flight().max(self.cubic.window());
                self.cubic.on_loss(flight);
                self.cubic.on_recovered();
            }
        }
    }

    fn after_fin_acknowledged(&mut self, now: Instant) {
        if !self.sender.fin_acknowledged() {
            return;
        }
        match self.state {
            State::FinWait1 => {
                self.state = State::FinWait2;
                if self.orphan {
                    self.timers.set(Timer::End, now + ORPHAN);
                }
            }
            State::Closing => self.enter_time_wait(),
            State::LastAck => self.end(None),
            _ => {}
        }
    }

    fn receive_data(&mut self, start: u64, segment: &Segment<'_>, now: Instant) {
        let header = &segment.header;
        if segment.payload.is_empty() && !header.flags.fin {
            return;
        }
        if !matches!(self.state, State::Established | State::FinWait1 | State::FinWait2) {
            // Behind the peer's FIN: only repetitions.
            self.receiver.acknowledge_now();
            return;
        }
        let end = start + segment.payload.len() as u64;
        if self.orphan && end > self.receiver.next() && !segment.payload.is_empty() {
            // It will not be read: the peer must be informed.
            if !self.receiver.is_discarding() {
                self.end_with_reset(io::ErrorKind::ConnectionReset);
                return;
            }
            // Once the written data are acknowledged.
            self.reset_at_end = true;
        }
        if self.recent.is_some()
            && let Some((_, echo)) = header.timestamps
            && let Some(age) = self.age(echo, now)
        {
            self.receiver.on_echo(echo, age);
        }
        self.receiver.accept(start, segment.payload, header.flags.fin, now);
        if !self.receiver.is_finished() {
            return;
        }
        match self.state {
            // The program may end its direction as well: the ACK is then sent with our FIN.
            State::Established => return self.state = State::CloseWait,
            State::FinWait1 => self.state = State::Closing,
            _ => self.enter_time_wait(),
        }
        self.receiver.acknowledge_now();
    }
}
