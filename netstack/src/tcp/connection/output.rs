//! Sent segments.

use wg_embed::time::Instant;

use super::{
    super::{
        Emit, Flags, Header,
        header::sack_length,
        recovery::{Phase, Probe},
        timers::Timer,
    },
    Connection, State,
};

/// The number of bytes that one call sends, so that others have their turn before the rest.
const BURST: usize = 64 << 10;
/// The number of segments in flight up to which a small one may be sent: beyond it, data wait for a full segment, so
/// that single bytes do not cost more than their worth.
const MOST_SMALL: usize = 512;

/// The maximum number of segments in flight, so that the records of a peer's tiny segments do not take more memory than
/// the data.
const MOST_SEGMENTS: usize = 16_384;

/// The next segment to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Nothing,
    Reset,
    Reply,
    Syn,
    /// The last segment again: a tail loss probe.
    Last,
    /// A lost segment.
    Lost,
    Data {
        len: usize,
        fin: bool,
    },
    /// A segment to which the peer responds with an ACK.
    Nudge,
    Acknowledgement,
}

impl Connection {
    /// Passes segments to `emit`, until there are no more, `emit` refuses, or `limit` segments were sent. Returns
    /// whether there is more to send at once.
    pub(crate) fn transmit(&mut self, now: Instant, limit: usize, emit: &mut Emit<'_>) -> bool {
        let (mut segments, mut bytes) = (0, 0);
        let mut next = self.next(now);
        while next != Next::Nothing && segments < limit && bytes < BURST {
            let Some(sent) = self.send(next, now, emit) else { return true };
            segments += 1;
            bytes += sent;
            next = self.next(now);
        }
        // The congestion window grows only while the program fills it.
        let full = next != Next::Nothing || self.is_window_full();
        if full || self.sender.una >= self.limited_until {
            self.limited = full;
            self.limited_until = self.sender.next;
        }
        if segments > 0 {
            self.used = now;
            self.settle(now);
        }
        debug_assert_eq!(next, self.next(now), "only what arrives and what the program does changes that");
        next != Next::Nothing
    }

    /// Returns whether [`transmit`](Self::transmit) would send a segment.
    pub(crate) fn wants_to_send(&self, now: Instant) -> bool {
        self.next(now) != Next::Nothing
    }

    /// Returns whether the congestion window has no room for a full segment, or slow start has used half of it.
    fn is_window_full(&self) -> bool {
        let pipe = self.sender.board.pipe();
        let window = self.cubic.window();
        pipe + self.sender.mss as u64 > window || (self.cubic.in_slow_start() && 2 * pipe >= window)
    }

    fn next(&self, now: Instant) -> Next {
        if self.reply.is_some() {
            return Next::Reply;
        }
        match self.state {
            State::Closed => return if self.reset_due { Next::Reset } else { Next::Nothing },
            State::SynSent => return if self.syn_due { Next::Syn } else { Next::Nothing },
            State::SynReceived if self.syn_due => return Next::Syn,
            State::SynReceived | State::TimeWait => {}
            _ => {
                if self.probe_due {
                    return Next::Last;
                }
                if self.can_repeat() {
                    return Next::Lost;
                }
                if let Some((len, fin)) = self.next_data() {
                    return Next::Data { len, fin };
                }
            }
        }
        if self.nudge {
            Next::Nudge
        } else if self.receiver.wants_acknowledgement(now) {
            Next::Acknowledgement
        } else {
            Next::Nothing
        }
    }

    /// Returns whether a lost segment may be sent.
    fn can_repeat(&self) -> bool {
        let board = &self.sender.board;
        board.lost() > 0
            && (self.recovery.force
                || board.pipe() == 0
                || board.pipe() + (self.sender.mss as u64).min(board.lost()) <= self.cubic.window())
            && (!self.sender.is_shrunken() || board.first_lost().is_some_and(|first| self.sender.most_again(first) > 0))
    }

    /// Adds SACK blocks to the header of a segment with `payload` bytes, if there are some. Returns false if there is
    /// no room for them: a full segment is sent without, followed by an ACK.
    fn add_blocks(&self, header: &mut Header, payload: usize) -> bool {
        if !self.sack || !self.receiver.has_blocks() {
            return true;
        }
        let most = if self.recent.is_some() { 3 } else { 4 };
        if payload + sack_length(most) > self.sender.mss && payload > 0 {
            return false;
        }
        header.sack = self.receiver.blocks(most);
        true
    }

    /// Returns the next new segment: its payload's length, and whether it has our FIN.
    pub(super) fn next_data(&self) -> Option<(usize, bool)> {
        let sender = &self.sender;
        let unsent = sender.unsent();
        let fin_due = sender.fin_due();
        if (unsent == 0 && !fin_due) || sender.board.len() >= MOST_SEGMENTS {
            return None;
        }
        let usable = usize::try_from(sender.usable()).unwrap_or(usize::MAX);
        let full = sender.mss;
        let len = unsent.min(full).min(usable);
        let fin = fin_due && len == unsent && usable > len;
        if len == 0 && !fin {
            return None;
        }
        if len < full && !fin && !self.force_small {
            if len < unsent {
                // The window is small: RFC 9293, 3.8.6.2.1.
                if (len as u64) < sender.largest_window.div_ceil(2) {
                    return None;
                }
            } else if (!sender.nodelay && sender.next > sender.una) || sender.board.len() >= MOST_SMALL {
                return None;
            }
        }
        let pipe = sender.board.pipe();
        let fits = pipe == 0 || pipe + len as u64 <= self.window_for_new();
        fits.then_some((len, fin))
    }

    /// Returns the congestion window for new data: without SACK, repeated ACKs mean that segments have left the
    /// network.
    fn window_for_new(&self) -> u64 {
        self.cubic.window() + u64::from(self.repeated_acks) * self.sender.mss as u64
    }

    /// Sends one segment. Returns the length of its payload, or `None` if it was refused.
    fn send(&mut self, next: Next, now: Instant, emit: &mut Emit<'_>) -> Option<usize> {
        match next {
            Next::Nothing => Some(0),
            Next::Reply => {
                if self.reply.is_some_and(|reply| !emit(&reply, &[], &[])) {
                    return None;
                }
                self.reply = None;
                Some(0)
            }
            Next::Reset => {
                let flags = Flags { rst: true, ack: true, ..Flags::default() };
                let header = Header {
                    seq: self.sender.next as u32,
                    ack: self.receiver.next() as u32,
                    flags,
                    timestamps: self.timestamps(now),
                    ..Header::default()
                };
                if !emit(&header, &[], &[]) {
                    return None;
                }
                self.reset_due = false;
                Some(0)
            }
            Next::Syn => self.send_syn(now, emit),
            Next::Last => self.send_probe(now, emit),
            Next::Lost => {
                let sender = &self.sender;
                let first = if sender.is_shrunken() { sender.board.first_lost() } else { None };
                let limit = first.map_or(sender.mss, |first| sender.most_again(first));
                let Some(record) = self.sender.board.next_lost(limit as u32) else { return Some(0) };
                self.send_data(record.start, record.len, true, now, emit)
            }
            Next::Data { len, fin } => {
                let start = self.sender.next;
                self.send_data(start, len as u32 + u32::from(fin), false, now, emit)
            }
            Next::Nudge => {
                // An old number: the peer responds with an ACK, and nothing is retransmitted.
                self.send_bare((self.sender.una as u32).wrapping_sub(1), now, emit)?;
                self.nudge = false;
                Some(0)
            }
            Next::Acknowledgement => {
                self.send_bare(self.sender.next as u32, now, emit)?;
                Some(0)
            }
        }
    }

    fn timestamps(&self, now: Instant) -> Option<(u32, u32)> {
        self.recent.map(|(recent, _)| (super::super::timestamp(self.clock_offset, now), recent))
    }

    fn send_syn(&mut self, now: Instant, emit: &mut Emit<'_>) -> Option<usize> {
        let answers = self.state == State::SynReceived;
        let (window, edge) = self.receiver.syn_window();
        let header = Header {
            seq: self.sender.una as u32,
            ack: if answers { self.receiver.next() as u32 } else { 0 },
            flags: Flags { syn: true, ack: answers, ..Flags::default() },
            window,
            mss: Some(self.our_mss),
            window_scale: self.scaling.then_some(self.scale),
            sack_permitted: !answers || self.sack,
            timestamps: if answers {
                self.timestamps(now)
            } else {
                Some((super::super::timestamp(self.clock_offset, now), 0))
            },
            ..Header::default()
        };
        if !emit(&header, &[], &[]) {
            return None;
        }
        if answers {
            self.receiver.on_acknowledged(edge, true);
        }
        self.syn_due = false;
        self.syn_sent = (!answers).then_some(now);
        self.timers.set(Timer::Retransmit, now + self.rtt.timeout());
        Some(0)
    }

    /// Sends a segment without data.
    fn send_bare(&mut self, seq: u32, now: Instant, emit: &mut Emit<'_>) -> Option<()> {
        let (window, edge) = self.receiver.window();
        let mut header = Header {
            seq,
            ack: self.receiver.next() as u32,
            flags: Flags { ack: true, ..Flags::default() },
            window,
            timestamps: self.timestamps(now),
            ..Header::default()
        };
        self.add_blocks(&mut header, 0);
        if !emit(&header, &[], &[]) {
            return None;
        }
        self.receiver.on_acknowledged(edge, self.sack);
        Some(())
    }

    /// Sends `len` numbers from `start` on: data and possibly our FIN.
    fn send_data(&mut self, start: u64, len: u32, again: bool, now: Instant, emit: &mut Emit<'_>) -> Option<usize> {
        let end = start + u64::from(len);
        let fin = self.sender.fin.is_some_and(|fin| end > fin);
        let payload = len as usize - usize::from(fin);
        if !again && self.sender.board.is_empty() {
            self.begin_flight(now);
        }
        let (window, edge) = self.receiver.window();
        let offset = (start - self.sender.una) as usize;
        let last = offset + payload == self.sender.ring.len();
        let mut header = Header {
            seq: start as u32,
            ack: self.receiver.next() as u32,
            flags: Flags { ack: true, fin, psh: last && payload > 0, ..Flags::default() },
            window,
            timestamps: self.timestamps(now),
            ..Header::default()
        };
        let complete = self.add_blocks(&mut header, payload);
        let (first, second) = self.sender.ring.slices(offset, payload);
        if !emit(&header, first, second) {
            return None;
        }
        if complete {
            self.receiver.on_acknowledged(edge, true);
        } else {
            self.receiver.on_partly_acknowledged(edge);
        }
        if again {
            self.sender.board.repeated(start, now);
        } else {
            self.sender.board.push(start, len, now);
            self.sender.next = end;
            self.force_small = false;
        }
        let stamp = super::super::timestamp(self.clock_offset, now);
        self.recovery.on_sent(u64::from(len), again, stamp);
        self.sent_at = now;
        self.stalled.get_or_insert(now);
        if fin {
            match self.state {
                State::Established => self.state = State::FinWait1,
                State::CloseWait => self.state = State::LastAck,
                _ => {}
            }
        }
        // The probe's timer runs from the last transmission.
        if !again || start == self.sender.una {
            self.arm_due = true;
        }
        Some(payload)
    }

    /// Handles the first segment after a time without data in flight.
    fn begin_flight(&mut self, now: Instant) {
        let idle = now.since(self.sent_at);
        let timeout = self.rtt.timeout();
        if idle > timeout {
            self.cubic.on_idle(idle, timeout);
        }
        self.progress = now;
    }

    /// Sends a tail loss probe: new data if the peer has room for them, else the last segment again.
    fn send_probe(&mut self, now: Instant, emit: &mut Emit<'_>) -> Option<usize> {
        let sender = &self.sender;
        let limit = sender.mss;
        let unsent = sender.unsent();
        let len = unsent.min(limit).min(usize::try_from(sender.usable()).unwrap_or(usize::MAX));
        let sent = if len > 0 {
            let fin = sender.fin_due() && len == unsent && sender.usable() > len as u64;
            let start = sender.next;
            let sent = self.send_data(start, len as u32 + u32::from(fin), false, now, emit)?;
            self.recovery.probe = Some(Probe { end: self.sender.next, repeated: false });
            sent
        } else if let Some(record) = self.sender.board.last_undelivered(limit as u32) {
            let sent = self.send_data(record.start, record.len, true, now, emit)?;
            self.recovery.probe = Some(Probe { end: self.sender.next, repeated: true });
            sent
        } else {
            0
        };
        self.probe_due = false;
        self.arm_due = true;
        Some(sent)
    }

    /// Returns whether new data wait for the peer's window, and nothing in flight would open it.
    pub(super) fn is_shut_out(&self) -> bool {
        self.can_send_data()
            && self.sender.board.is_empty()
            && (self.sender.unsent() > 0 || self.sender.fin_due())
            && self.next_data().is_none()
    }

    fn can_send_data(&self) -> bool {
        !matches!(self.state, State::SynSent | State::SynReceived | State::TimeWait | State::Closed)
    }

    /// Returns whether a tail loss probe may be armed.
    pub(super) fn may_probe(&self) -> bool {
        let board = &self.sender.board;
        self.sack
            && self.recovery.phase() == Phase::Open
            && self.recovery.probe.is_none()
            && board.sacked() == 0
            && board.lost() == 0
            && !self.sender.is_shrunken()
    }
}
