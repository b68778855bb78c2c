//! ICMP errors: the meaning of received ones, and the rate limit of sent ones.

use std::{io::ErrorKind, time::Duration};

use wg_embed::time::Instant;

use super::{HEADER, allows};
use crate::stack::{
    packet::{Packet, header_len},
    shared::Shared,
};

/// The meaning of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Unreachable(ErrorKind),
    /// The MTU of the next link, 0 if it is unknown.
    TooBig(usize),
    /// An error that does not concern sockets.
    Nothing,
}

impl Meaning {
    /// Returns the meaning of an ICMP message; `None` if it is not an error. RFC 792, 1122 (section 3.2.2.1), 1812
    /// (section 5.2.7.1) and 4443.
    pub(super) const fn of(is_v4: bool, header: &[u8; HEADER]) -> Option<Self> {
        Some(match (is_v4, header[0], header[1]) {
            (true, 3, 0 | 6 | 9 | 11) | (false, 1, 0) => Self::Unreachable(ErrorKind::NetworkUnreachable),
            (true, 3, 2 | 3) | (false, 1, 4) | (false, 4, 1) => Self::Unreachable(ErrorKind::ConnectionRefused),
            (true, 3, 4) => Self::TooBig(u16::from_be_bytes([header[6], header[7]]) as usize),
            (false, 2, _) => Self::TooBig(u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize),
            (true, 3, _) | (true, 11, 0) | (false, 1, _) | (false, 3, 0) => {
                Self::Unreachable(ErrorKind::HostUnreachable)
            }
            (true, 11 | 12, _) | (false, 3 | 4, _) => Self::Nothing,
            _ => return None,
        })
    }
}

/// Returns the next smaller common MTU, if a router does not report its own (RFC 1191, section 7.1).
pub(super) fn plateau_below(len: usize) -> usize {
    const PLATEAUS: [usize; 8] = [32_000, 17_914, 8166, 4352, 2002, 1492, 1006, 576];
    PLATEAUS.into_iter().find(|plateau| *plateau < len).unwrap_or(576)
}

/// Sends an error about a packet to its sender, with its destination as the source, if the rate limit permits. `v4` and
/// `v6` are type and code.
pub(super) fn send(shared: &Shared, about: &[u8], v4: (u8, u8), v6: (u8, u8), now: Instant) {
    /// The maximum size of an error, with its headers: RFC 1812, section 4.3.2.3, and RFC 4443, section 2.4.
    const MAX_V4: usize = 576;
    const MAX_V6: usize = 1280;
    /// Internetwork control, as in Linux.
    const TRAFFIC_CLASS_V4: u8 = 0xc0;
    let Ok((source, destination)) = Packet::addresses(about) else { return };
    if !allows(shared, source, now) {
        return;
    }
    let start = header_len(source);
    let (most, (kind, code), traffic_class) =
        if source.is_ipv4() { (MAX_V4, v4, TRAFFIC_CLASS_V4) } else { (MAX_V6, v6, 0) };
    let quoted = &about[..about.len().min(most - start - HEADER)];
    let mut packet = vec![0; start + HEADER];
    (packet[start], packet[start + 1]) = (kind, code);
    packet.extend_from_slice(quoted);
    super::send(shared, destination, source, traffic_class, packet);
}

/// The rate limit of errors: the limits of Linux, in total and for one host. It takes constant memory: hosts may share
/// a slot.
pub(super) struct Limiter {
    all: Bucket,
    hosts: Box<[Bucket; HOSTS]>,
}

const HOSTS: usize = 256;
const ALL: Rate = Rate { interval: Duration::from_millis(1), burst: 50 };
const HOST: Rate = Rate { interval: Duration::from_secs(1), burst: 6 };

struct Rate {
    interval: Duration,
    burst: u32,
}

/// The time without a token taken, up to a limit.
#[derive(Clone, Copy)]
struct Bucket {
    credit: Duration,
    last: Instant,
}

impl Bucket {
    const fn full(rate: &Rate) -> Self {
        Self { credit: rate.interval.saturating_mul(rate.burst), last: Instant::from_nanos(0) }
    }

    fn refill(&mut self, rate: &Rate, now: Instant) -> bool {
        self.credit = (self.credit + now.since(self.last)).min(rate.interval * rate.burst);
        self.last = self.last.max(now);
        self.credit >= rate.interval
    }
}

impl Default for Limiter {
    fn default() -> Self {
        Self { all: Bucket::full(&ALL), hosts: Box::new([Bucket::full(&HOST); HOSTS]) }
    }
}

impl Limiter {
    /// Returns whether an error may be sent to a host in this slot now.
    pub(super) fn take(&mut self, place: u64, now: Instant) -> bool {
        let host = &mut self.hosts[(place % HOSTS as u64) as usize];
        // Both are updated.
        let allowed = self.all.refill(&ALL, now) & host.refill(&HOST, now);
        if allowed {
            self.all.credit -= ALL.interval;
            host.credit -= HOST.interval;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn a_host_gets_six_and_then_one_a_second() {
        let mut limiter = Limiter::default();
        let mut taken = |place, ms| (0..20).filter(|_| limiter.take(place, at(ms))).count();
        assert_eq!((taken(1, 10), taken(1, 500), taken(1, 1100)), (6, 0, 1));
        assert_eq!((taken(2, 1100), taken(1, 60_000)), (6, 6));
    }

    #[test]
    fn all_together_get_fifty_and_then_one_a_millisecond() {
        let mut limiter = Limiter::default();
        let mut taken = |ms| (0..200).filter(|place| limiter.take(*place, at(ms))).count();
        assert_eq!((taken(10), taken(15), taken(15)), (50, 5, 0));
    }

    #[test]
    fn plateaus_fall() {
        assert_eq!((plateau_below(1420), plateau_below(1006), plateau_below(100)), (1006, 576, 576));
    }
}
