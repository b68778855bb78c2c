//! A connection: its states, and the interaction of its parts.
//!
//! `input` handles segments, `output` creates them, `timeouts` has the timers, `calls` the program's calls.

mod calls;
mod input;
mod output;
mod timeouts;

use std::{io, sync::Arc, time::Duration};

use wg_embed::time::Instant;

use super::{
    Budget, Config, Header, TimeWait,
    cubic::Cubic,
    header::{DEFAULT_MSS, HEADER, SMALLEST_MSS, TIMESTAMPS, first},
    rack::Rack,
    receive::{Receiver, scale_for},
    recovery::{Phase, Recovery},
    rtt::Rtt,
    send::Sender,
    timers::{Timer, Timers},
};

/// The states of RFC 9293, 3.3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    Closing,
    TimeWait,
    CloseWait,
    LastAck,
    Closed,
}

/// The result of a handshake.
pub(super) struct Established {
    pub(super) iss: u32,
    pub(super) irs: u32,
    pub(super) clock_offset: u32,
    /// The peer's last timestamp.
    pub(super) recent: Option<u32>,
    /// The peer's window in bytes.
    pub(super) window: u64,
    pub(super) peer_mss: u16,
    /// The scale of the peer, and ours.
    pub(super) scales: Option<(u8, u8)>,
    pub(super) sack: bool,
    pub(super) rtt: Option<Duration>,
}

/// A TCP connection. Buffers grow as needed and shrink when they are empty: an idle connection has none.
pub(crate) struct Connection {
    state: State,
    sender: Sender,
    receiver: Receiver,
    cubic: Cubic,
    recovery: Recovery,
    rack: Rack,
    rtt: Rtt,
    timers: Timers,
    /// The maximum payload by our MTU and the known path MTU, without options.
    path_mss: usize,
    /// The value of our SYN.
    our_mss: u16,
    /// The maximum segment of the peer.
    peer_mss: usize,
    /// Our window scale, and whether the peer also scales.
    scale: u8,
    scaling: bool,
    /// Whether SACK was agreed on.
    sack: bool,
    /// The peer's last timestamp, and its time; `None` if timestamps were not agreed on.
    recent: Option<(u32, Instant)>,
    clock_offset: u32,
    /// Whether the handshake is or was complete.
    established: bool,
    /// Whether the program has dropped it.
    orphan: bool,
    /// Whether a RST follows when all written data are acknowledged.
    reset_at_end: bool,
    error: Option<io::ErrorKind>,
    /// An ICMP error: the reason if there is no other.
    soft_error: Option<io::ErrorKind>,
    /// Set if it ended in TIME-WAIT.
    time_wait: Option<TimeWait>,
    /// Whether a SYN or SYN-ACK must be sent.
    syn_due: bool,
    /// The time of the last SYN.
    syn_sent: Option<Instant>,
    /// Whether a RST must be sent, and nothing after it.
    reset_due: bool,
    /// A response that is independent of the state.
    reply: Option<Header>,
    /// Whether to send a segment to which the peer responds with an ACK: a probe of a closed window, or keepalive.
    nudge: bool,
    /// Whether a segment smaller than the MSS may be sent: the window has remained small.
    force_small: bool,
    /// Whether the timer of data in flight must be started.
    arm_due: bool,
    /// Whether a tail loss probe must be sent.
    probe_due: bool,
    /// Whether the congestion window was full in this round trip, and the end of the round trip.
    limited: bool,
    limited_until: u64,
    /// Whether the budget refused a buffer to a writer.
    starved: bool,
    /// The number of timeouts in a row without progress.
    retries: u8,
    /// The number of probes of a closed window: for backing off, and without any response.
    persists: u8,
    unanswered: u8,
    /// The number of ACKs in a row that repeat the same number, for peers without SACK.
    repeated_acks: u8,
    /// The number of challenge ACKs in this second.
    challenges: (u64, u8),
    /// The time since which data wait for an ACK without progress.
    stalled: Option<Instant>,
    /// The time of the last transmission or ACK, for the retransmission timer.
    progress: Instant,
    /// The time at which data were last sent.
    sent_at: Instant,
    /// The time of the peer's last segment.
    heard: Instant,
    /// The time at which a buffer was last used.
    used: Instant,
    keepalive: Option<Duration>,
    keepalives: u8,
    user_timeout: Option<Duration>,
}

impl Connection {
    /// Starts to connect: [`transmit`](Self::transmit) sends the SYN first.
    pub(crate) fn dial(config: Config, budget: Arc<dyn Budget>, iss: u32, clock_offset: u32, now: Instant) -> Self {
        let mut connection = Self::new(&config, &budget, iss, clock_offset, now);
        connection.syn_due = true;
        connection.stalled = Some(now);
        connection.sender.next += 1;
        connection
    }

    /// Creates the connection of a handshake that a peer started.
    pub(super) fn established(agreed: Established, config: Config, budget: Arc<dyn Budget>, now: Instant) -> Self {
        let mut connection = Self::new(&config, &budget, agreed.iss, agreed.clock_offset, now);
        connection.sender.next += 1;
        connection.sender.acknowledge(connection.sender.next);
        connection.receiver.start(first(agreed.irs), agreed.scales.map_or(0, |(_, ours)| ours));
        connection.sender.scale = agreed.scales.map_or(0, |(peers, _)| peers);
        connection.sender.update_window(connection.receiver.next(), connection.sender.una, agreed.window);
        connection.recent = agreed.recent.map(|recent| (recent, now));
        connection.sack = agreed.sack;
        connection.peer_mss = usize::from(agreed.peer_mss);
        connection.apply_mss(true);
        if let Some(rtt) = agreed.rtt {
            connection.rtt.sample(rtt, now);
        }
        connection.become_established(now);
        connection
    }

    fn new(config: &Config, budget: &Arc<dyn Budget>, iss: u32, clock_offset: u32, now: Instant) -> Self {
        let our_mss = config.mss();
        let path_mss = config.path_segment.saturating_sub(HEADER).max(usize::from(SMALLEST_MSS)).min(our_mss.into());
        let peer_mss = usize::from(DEFAULT_MSS);
        let mss = path_mss.min(peer_mss);
        let scale = scale_for(config.receive_buffer);
        Self {
            state: State::SynSent,
            sender: Sender::new(budget.clone(), first(iss), config.send_buffer, mss),
            receiver: Receiver::new(budget.clone(), config.receive_buffer, scale, mss, now),
            cubic: Cubic::new(mss),
            recovery: Recovery::default(),
            rack: Rack::default(),
            rtt: Rtt::default(),
            timers: Timers::new(),
            path_mss,
            our_mss,
            peer_mss,
            scale,
            scaling: true,
            sack: false,
            recent: None,
            clock_offset,
            established: false,
            orphan: false,
            reset_at_end: false,
            error: None,
            soft_error: None,
            time_wait: None,
            syn_due: false,
            syn_sent: None,
            reset_due: false,
            reply: None,
            nudge: false,
            force_small: false,
            arm_due: false,
            probe_due: false,
            limited: false,
            limited_until: 0,
            starved: false,
            retries: 0,
            persists: 0,
            unanswered: 0,
            repeated_acks: 0,
            challenges: (0, 0),
            stalled: None,
            progress: now,
            sent_at: now,
            heard: now,
            used: now,
            keepalive: None,
            keepalives: 0,
            user_timeout: None,
        }
    }

    /// Computes the payload of a full segment. `begins`: there is no congestion window yet.
    fn apply_mss(&mut self, begins: bool) {
        let options = if self.recent.is_some() { TIMESTAMPS } else { 0 };
        let mss = self.path_mss.min(self.peer_mss).saturating_sub(options).max(usize::from(SMALLEST_MSS) - TIMESTAMPS);
        self.sender.mss = mss;
        if begins {
            self.cubic = Cubic::new(mss);
        } else {
            self.cubic.set_mss(mss);
        }
    }

    fn become_established(&mut self, now: Instant) {
        self.state = State::Established;
        self.established = true;
        self.syn_due = false;
        self.retries = 0;
        self.rtt.end_backoff();
        self.soft_error = None;
        self.stalled = None;
        self.heard = now;
        self.progress = now;
        self.timers.clear(Timer::Retransmit);
    }

    /// Returns whether the handshake is or was complete.
    pub(crate) fn is_established(&self) -> bool {
        self.established
    }

    /// Returns whether the connection has ended and nothing must be sent any more: it can be removed (or kept as
    /// TIME-WAIT).
    pub(crate) fn is_closed(&self) -> bool {
        match self.state {
            State::Closed => !self.reset_due && self.reply.is_none(),
            State::TimeWait => !self.receiver.owes_acknowledgement(),
            _ => false,
        }
    }

    /// Returns the state that a stack needs in TIME-WAIT to respond to a repeated FIN, if it ended so.
    pub(crate) fn time_wait(&self) -> Option<TimeWait> {
        self.time_wait
    }

    /// Returns why it failed; this does not change afterwards.
    pub(crate) fn error(&self) -> Option<io::ErrorKind> {
        self.error
    }

    /// Returns the time at which [`run_timers`](Self::run_timers) is next due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Returns the size of its buffers in bytes.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> usize {
        self.sender.memory() + self.receiver.memory()
    }

    /// Returns the number of records of segments in flight.
    #[cfg(test)]
    pub(crate) fn records(&self) -> usize {
        self.sender.board.len()
    }

    /// Returns the smoothed round trip time.
    #[cfg(test)]
    pub(crate) fn smoothed_rtt(&self) -> Option<Duration> {
        self.rtt.smoothed()
    }

    /// Ends without a segment.
    fn end(&mut self, error: Option<io::ErrorKind>) {
        if self.error.is_none() {
            self.error = error;
        }
        self.state = State::Closed;
        self.timers.clear_all();
        self.sender.ring.release();
        self.sender.board = super::scoreboard::Scoreboard::default();
        self.stalled = None;
        if self.orphan || self.receiver.unread() == 0 {
            self.receiver.release();
        }
    }

    /// Ends with a RST.
    fn end_with_reset(&mut self, error: io::ErrorKind) {
        // The peer does not know of a connection whose SYN it has not answered.
        self.reset_due = !matches!(self.state, State::SynSent | State::Closed | State::TimeWait);
        self.end(Some(error));
    }

    fn enter_time_wait(&mut self) {
        self.state = State::TimeWait;
        self.timers.clear_all();
        self.sender.ring.release();
        self.stalled = None;
        self.time_wait = Some(TimeWait {
            seq: self.sender.next as u32,
            ack: self.receiver.next() as u32,
            timestamps: self.recent.map(|(recent, _)| (recent, self.clock_offset)),
        });
        if self.orphan || self.receiver.unread() == 0 {
            self.receiver.release();
        }
    }

    /// Returns the bytes that were sent and not acknowledged.
    fn flight(&self) -> u64 {
        self.sender.next - self.sender.una
    }

    fn recovering(&self) -> bool {
        self.recovery.phase() != Phase::Open
    }

    /// Asserts the invariants.
    #[cfg(test)]
    pub(super) fn check(&self) {
        if self.established && !matches!(self.state, State::Closed | State::TimeWait) {
            self.sender.board.check(self.sender.una, self.sender.next);
        }
    }
}
