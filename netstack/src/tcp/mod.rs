//! One TCP connection, without I/O, clock or source of randomness.
//!
//! `stack` passes received segments to it and takes segments to send; programs' calls read from and write to its
//! buffers. RFC 9293, 7323 (window scale, timestamps), 2018, 2883 and 6675 (SACK), 8985 (RACK-TLP), 6298 (RTO), 9438
//! (CUBIC), 9406 (HyStart++), 6928 (initial window), 5682 (F-RTO), 6937 (PRR), 5961 (blind attacks).
//!
//! | module | contents |
//! |---|---|
//! | `connection` | the states, and the interaction of the other modules |
//! | `half_open`, `time_wait` | the state of a connection before and after |
//! | `receive`, `ranges` | reassembly, the receive window, delayed ACKs, SACK blocks |
//! | `send`, `scoreboard`, `rack` | written data, segments in flight, and losses |
//! | `recovery`, `cubic`, `rtt` | the congestion window, and round trip times |
//! | `buffer`, `timers`, `header` | ring buffers, deadlines, headers and sequence numbers |

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

/// The largest plausible round trip time by timestamps, in milliseconds.
const MOST_AGE: u32 = 60_000;

/// The configuration of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// The MTU less the IP header: the limit of received segments.
    pub(crate) max_segment: usize,
    /// The same for the path to the peer, as far as it is known: the limit of sent segments.
    pub(crate) path_segment: usize,
    /// The maximum size of each buffer in bytes.
    pub(crate) receive_buffer: usize,
    pub(crate) send_buffer: usize,
}

impl Config {
    /// Returns the largest payload of a segment without options: the value of a SYN.
    fn mss(&self) -> u16 {
        u16::try_from(self.max_segment.saturating_sub(header::HEADER)).unwrap_or(u16::MAX).max(header::SMALLEST_MSS)
    }
}

/// The budget for the buffers of connections, which is used before a buffer grows. Implemented by the stack.
pub(crate) trait Budget: Send + Sync {
    /// Takes `bytes` more; returns false if they are refused.
    fn take(&self, bytes: usize) -> bool;
    /// Takes `bytes` more for a buffer that has `held`; returns false if they are refused, so that large buffers leave
    /// memory for others.
    fn grow(&self, held: usize, bytes: usize) -> bool {
        let _ = held;
        self.take(bytes)
    }
    /// Returns whether a buffer that has `held` should be released as soon as it is empty, since others need memory.
    fn is_over(&self, held: usize) -> bool {
        let _ = held;
        false
    }
    /// Returns `bytes` to the budget.
    fn give(&self, bytes: usize);
}

/// A function that sends a segment: its header, and its payload in two parts. Returns false if there is no room for it
/// now; then it counts as not sent.
pub(crate) type Emit<'a> = dyn FnMut(&Header, &[u8], &[u8]) -> bool + 'a;

/// Returns our timestamp at `now`: milliseconds, with an offset that differs for each connection.
fn timestamp(offset: u32, now: Instant) -> u32 {
    offset.wrapping_add((now.as_nanos() / 1_000_000) as u32)
}

/// Returns the age of our timestamp `echo`, if that is plausible: at least a millisecond, the resolution of the clock.
fn age(offset: u32, echo: u32, now: Instant) -> Option<Duration> {
    let age = timestamp(offset, now).wrapping_sub(echo);
    (age < MOST_AGE).then(|| Duration::from_millis(u64::from(age.max(1))))
}
