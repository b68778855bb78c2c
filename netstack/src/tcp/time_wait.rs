//! TIME-WAIT.

use wg_embed::time::Instant;

use super::header::{Flags, Header, Segment, older};

/// A connection in TIME-WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeWait {
    /// The next number that we would send.
    pub(crate) seq: u32,
    /// The next number that we expect.
    pub(crate) ack: u32,
    /// The peer's last timestamp, and the offset of ours to the milliseconds of the clock.
    pub(crate) timestamps: Option<(u32, u32)>,
}

/// The distance of a new connection's first sequence number from the last used one.
const STEP: u32 = 1 << 16;

impl TimeWait {
    /// Returns the first sequence number for a connection that replaces this one: `proposed`, unless that may already
    /// have been used, by a connection that was faster than the clock of first sequence numbers (RFC 9293, 3.6.1; RFC
    /// 6191, 2).
    pub(crate) const fn successor(&self, proposed: u32) -> u32 {
        let least = self.seq.wrapping_add(STEP);
        if older(proposed, least) { least } else { proposed }
    }

    /// Returns the response to a segment, if there is one; `Err(())` for a SYN that may begin a new connection (RFC
    /// 6191), which ends TIME-WAIT only if it is accepted.
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
        // Plain ACKs get no response, so that two ends in TIME-WAIT do not respond to each other forever.
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
