//! TIME-WAIT.

use wg_embed::time::Instant;

use super::header::{Flags, Header, Segment, older};

/// A connection in TIME-WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeWait {
    /// What we would send next.
    pub(crate) seq: u32,
    /// What we expect next.
    pub(crate) ack: u32,
    /// The peer's last timestamp, and what is added to the milliseconds of the clock for ours.
    pub(crate) timestamps: Option<(u32, u32)>,
}

/// How far a new connection's first sequence number is beyond the last one that was used.
const STEP: u32 = 1 << 16;

impl TimeWait {
    /// The first sequence number for a connection that takes its place: `proposed`, unless that may have been used
    /// already by one that was faster than the clock of first sequence numbers (RFC 9293, 3.6.1; RFC 6191, 2).
    pub(crate) const fn successor(&self, proposed: u32) -> u32 {
        let least = self.seq.wrapping_add(STEP);
        if older(proposed, least) { least } else { proposed }
    }

    /// The answer to a segment, if there is one. `Err(())` for a SYN that may begin a new connection (RFC 6191); it
    /// ends TIME-WAIT only if there is something that accepts it.
    pub(crate) fn receive(&self, segment: &Segment<'_>, now: Instant) -> Result<Option<Header>, ()> {
        let header = &segment.header;
        // A RST does not end TIME-WAIT: RFC 1337.
        if header.flags.rst {
            return Ok(None);
        }
        if header.flags.syn && !header.flags.ack {
            let newer = match (self.timestamps, header.timestamps) {
                (Some((recent, _)), Some((value, _))) if value != recent => older(recent, value),
                _ => older(self.ack, header.seq),
            };
            if newer {
                return Err(());
            }
        }
        // Only what is no plain ACK is answered, so that two ends in TIME-WAIT do not answer each other for ever.
        let old = self.timestamps.zip(header.timestamps).is_some_and(|((recent, _), (value, _))| older(value, recent));
        Ok((segment.length() > 0 || old || header.seq != self.ack).then(|| Header {
            seq: self.seq,
            ack: self.ack,
            flags: Flags { ack: true, ..Flags::default() },
            timestamps: self.timestamps.map(|(recent, offset)| (super::timestamp(offset, now), recent)),
            ..Header::default()
        }))
    }
}
