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

impl TimeWait {
    /// The answer to a segment, if there is one. `Err(())` for a SYN that may begin a new connection (RFC 6191).
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
