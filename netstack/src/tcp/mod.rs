//! One TCP connection, without I/O, clock or randomness of its own.
//!
//! `stack` gives it segments that arrived and takes those that it sends; programs' calls read from and write to its
//! buffers. RFC 9293, 7323 (window scale, timestamps), 2018, 2883 and 6675 (SACK), 8985 (RACK-TLP), 6298 (RTO), 9438
//! (CUBIC), 9406 (HyStart++), 6928 (initial window), 5682 (F-RTO), 6937 (PRR), 5961 (blind attacks).
//!
//! | module | what it has |
//! |---|---|
//! | `connection` | the states, and what ties the others together |
//! | `half_open`, `time_wait` | what is left of a connection before and after |
//! | `receive`, `ranges` | reassembly, the receive window, delayed ACKs, SACK blocks |
//! | `send`, `scoreboard`, `rack` | what was written and is in flight, and what of it is lost |
//! | `recovery`, `cubic`, `rtt` | how much may be in flight, and how long an answer takes |
//! | `buffer`, `timers`, `header` | rings of bytes, deadlines, headers and sequence numbers |

mod buffer;
mod connection;
mod cubic;
mod half_open;
mod header;
mod rack;
mod ranges;
mod receive;
mod recovery;
mod rtt;
mod scoreboard;
mod send;
#[cfg(test)]
mod tests;
mod time_wait;
mod timers;

use std::time::Duration;

use wg_embed::time::Instant;

pub(crate) use buffer::SMALLEST as LEAST_MEMORY;
pub(crate) use connection::Connection;
pub(crate) use half_open::{HalfOpen, Verdict};
pub(crate) use header::{Flags, Header, Segment};
pub(crate) use time_wait::TimeWait;

/// A larger round trip time by timestamps, in milliseconds, is not believed.
const MOST_AGE: u32 = 60_000;

/// What a connection is made with.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// The MTU less the IP header: what the peer may send.
    pub(crate) max_segment: usize,
    /// The same for the path to the peer, as far as it is known: what is sent.
    pub(crate) path_segment: usize,
    /// The most bytes of each buffer.
    pub(crate) receive_buffer: usize,
    pub(crate) send_buffer: usize,
}

impl Config {
    /// The largest payload of a segment without options: what a SYN states.
    fn mss(&self) -> u16 {
        u16::try_from(self.max_segment.saturating_sub(header::HEADER)).unwrap_or(u16::MAX).max(header::SMALLEST_MSS)
    }
}

/// Bytes of buffers that a connection may take more: asked before a buffer grows. Implemented by the stack.
pub(crate) trait Budget: Send + Sync {
    /// Takes `bytes` more, or refuses.
    fn take(&self, bytes: usize) -> bool;
    /// Takes `bytes` more for a buffer that has `held`, or refuses: so that large ones leave something for others.
    fn grow(&self, held: usize, bytes: usize) -> bool {
        let _ = held;
        self.take(bytes)
    }
    /// Whether a buffer that has `held` should give it back as soon as it is empty, since others need it.
    fn is_over(&self, held: usize) -> bool {
        let _ = held;
        false
    }
    /// Gives `bytes` back.
    fn give(&self, bytes: usize);
}

/// Takes a segment that is to be sent: its header, and its payload in two parts. Returns false if there is no room for
/// it now; then it counts as not sent.
pub(crate) type Emit<'a> = dyn FnMut(&Header, &[u8], &[u8]) -> bool + 'a;

/// Our timestamp at `now`: milliseconds, from an offset on that differs for each connection.
fn timestamp(offset: u32, now: Instant) -> u32 {
    offset.wrapping_add((now.as_nanos() / 1_000_000) as u32)
}

/// How long ago our timestamp `echo` was sent, if that is plausible: a millisecond at least, as the clock says no more.
fn age(offset: u32, echo: u32, now: Instant) -> Option<Duration> {
    let age = timestamp(offset, now).wrapping_sub(echo);
    (age < MOST_AGE).then(|| Duration::from_millis(u64::from(age.max(1))))
}
