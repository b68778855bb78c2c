//! Connections of which only the SYN has arrived.

use std::{sync::Arc, time::Duration};

use wg_embed::time::Instant;

use super::{
    Budget, Config, Connection,
    connection::Established,
    header::{DEFAULT_MSS, Flags, Header, LARGEST_SCALE, SMALLEST_MSS, Segment, extend, first, older},
    receive::{first_window, scale_for},
    rtt::INITIAL_RTO,
};

/// The maximum number of SYN-ACKs.
const TRIES: u8 = 5;

/// A connection of which only the SYN has arrived: about 64 bytes, without buffers.
#[derive(Clone, Debug)]
pub(crate) struct HalfOpen {
    sent_at: Instant,
    iss: u32,
    irs: u32,
    clock_offset: u32,
    /// The peer's last timestamp.
    recent: Option<u32>,
    peer_window: u16,
    peer_mss: u16,
    our_mss: u16,
    our_window: u16,
    peer_scale: Option<u8>,
    our_scale: u8,
    sack: bool,
    /// How often the SYN-ACK has been sent because it was due.
    sent: u8,
    /// The time of the last SYN-ACK: because it was due, or since the SYN was repeated.
    answered_at: Instant,
    /// Our timestamp that the end of the handshake echoes.
    echo: Option<u32>,
}

/// The effect of a segment on a half-open connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// None.
    Keep,
    /// A response to send.
    Answer(Header),
    /// It was reset.
    Reset,
    /// The handshake is complete.
    Established,
}

impl HalfOpen {
    /// Creates it from a SYN. `iss` is our first sequence number, `clock_offset` is added to our timestamps.
    pub(crate) fn new(syn: &Header, config: &Config, iss: u32, clock_offset: u32, now: Instant) -> Self {
        Self {
            sent_at: now,
            iss,
            irs: syn.seq,
            clock_offset,
            recent: syn.timestamps.map(|(value, _)| value),
            peer_window: syn.window,
            peer_mss: syn.mss.unwrap_or(DEFAULT_MSS).max(SMALLEST_MSS),
            our_mss: config.mss(),
            our_window: first_window(config.receive_buffer),
            peer_scale: syn.window_scale.map(|scale| scale.min(LARGEST_SCALE)),
            our_scale: scale_for(config.receive_buffer),
            sack: syn.sack_permitted,
            sent: 0,
            answered_at: now,
            echo: None,
        }
    }

    /// Returns the SYN-ACK to send now, for the first time or again.
    pub(crate) fn syn_ack(&mut self, now: Instant) -> Header {
        self.sent = self.sent.saturating_add(1);
        (self.sent_at, self.answered_at) = (now, now);
        self.answer(now)
    }

    fn answer(&self, now: Instant) -> Header {
        Header {
            seq: self.iss,
            ack: self.irs.wrapping_add(1),
            flags: Flags { syn: true, ack: true, ..Flags::default() },
            window: self.our_window,
            mss: Some(self.our_mss),
            window_scale: self.peer_scale.map(|_| self.our_scale),
            sack_permitted: self.sack,
            timestamps: self.recent.map(|recent| (super::timestamp(self.clock_offset, now), recent)),
            ..Header::default()
        }
    }

    /// Returns the RST that ends it, whether or not the peer has received a SYN-ACK.
    pub(crate) fn reset(&self) -> Header {
        Header {
            seq: if self.sent == 0 { 0 } else { self.iss.wrapping_add(1) },
            ack: self.irs.wrapping_add(1),
            flags: Flags { rst: true, ack: true, ..Flags::default() },
            ..Header::default()
        }
    }

    /// Returns the time at which the SYN-ACK is due again; `None`: given up.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        (self.sent <= TRIES).then(|| self.sent_at + self.wait())
    }

    fn wait(&self) -> Duration {
        match self.sent {
            0 => Duration::ZERO,
            sent => INITIAL_RTO * (1 << (sent - 1).min(TRIES)),
        }
    }

    /// Handles a segment for it.
    pub(crate) fn receive(&mut self, segment: &Segment<'_>, now: Instant) -> Verdict {
        let header = &segment.header;
        let expected = self.irs.wrapping_add(1);
        if header.flags.syn && !header.flags.ack && !header.flags.rst && header.seq == self.irs {
            self.answered_at = now;
            // The echo identifies the SYN that is answered to the peer.
            if let (Some(recent), Some((value, _))) = (&mut self.recent, header.timestamps)
                && older(*recent, value)
            {
                *recent = value;
            }
            return Verdict::Answer(self.answer(now));
        }
        let next = first(self.irs) + 1;
        let start = extend(next, header.seq);
        // RFC 5961, 3: only the exact number resets.
        if header.flags.rst {
            return if header.seq == expected { Verdict::Reset } else { Verdict::Keep };
        }
        let old = self.recent.zip(header.timestamps).is_some_and(|(recent, (value, _))| older(value, recent));
        let end = start + segment.length();
        let fits = start < next + u64::from(self.our_window) && (end > next || (end == next && start == next));
        if old || !fits || header.flags.syn {
            let mut answer = self.answer(now);
            answer.seq = self.iss.wrapping_add(1);
            answer.flags.syn = false;
            (answer.mss, answer.window_scale, answer.sack_permitted) = (None, None, false);
            return Verdict::Answer(answer);
        }
        if !header.flags.ack {
            return Verdict::Keep;
        }
        if header.ack != self.iss.wrapping_add(1) {
            return segment.refusal().map_or(Verdict::Keep, Verdict::Answer);
        }
        self.peer_window = header.window;
        self.echo = header.timestamps.filter(|_| self.recent.is_some()).map(|(_, echo)| echo);
        Verdict::Established
    }

    /// Returns the established connection, after [`Verdict::Established`]. The segment that completed the handshake
    /// must then be passed to [`Connection::receive`].
    pub(crate) fn establish(self, config: Config, budget: Arc<dyn Budget>, now: Instant) -> Connection {
        let window = u64::from(self.peer_window) << self.peer_scale.unwrap_or(0);
        // Only the echo identifies which of several SYN-ACKs is answered (RFC 6298, 3). The time since earlier ones has
        // no meaning: the tunnel may have delayed them for its own handshake.
        let is_only = self.sent == 1 && self.answered_at == self.sent_at;
        let is_last = self.echo == Some(super::timestamp(self.clock_offset, self.answered_at));
        let rtt = (is_only || is_last).then(|| now.since(self.answered_at));
        let established = Established {
            iss: self.iss,
            irs: self.irs,
            clock_offset: self.clock_offset,
            recent: self.recent,
            window,
            peer_mss: self.peer_mss,
            scales: self.peer_scale.map(|peer| (peer, self.our_scale)),
            sack: self.sack,
            rtt,
        };
        Connection::established(established, config, budget, now)
    }
}
