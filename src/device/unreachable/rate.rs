//! Limits ICMP "unreachable" responses to the kernel's rates.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use crate::time::Instant;

/// The time in which one more response is permitted (`icmp_msgs_per_sec`, 1000, of the kernel's ip-sysctl.rst).
const COST: Duration = Duration::from_millis(1);
/// The maximum burst (`icmp_msgs_burst`).
const BURST: u32 = 50;

/// The time in which a sender on another host gets one more response (`icmp_ratelimit`); for an IPv6 sender half of it
/// for each 32 bits by which the prefix of the route to it is shorter than 128 (`icmpv6_xrlim_allow` in
/// net/ipv6/icmp.c).
const COST_TO_HOST: Duration = Duration::from_secs(1);
/// The maximum burst (`XRLIM_BURST_FACTOR`).
const BURST_TO_HOST: u32 = 6;

/// The number of senders that are stored. The kernel stores thousands; beyond this number only the common rate applies
/// here.
const SENDERS: usize = 32;
/// How long the result of whether a sender is another host is reused.
const REMEMBERED: Duration = Duration::from_secs(1);

/// A token bucket, by the time at which it will be full again.
#[derive(Clone, Copy, Default)]
struct Bucket(Instant);

impl Bucket {
    /// Returns the bucket after taking a token, if one is added in `cost` and it holds at most `burst`; `None` if there
    /// is no token.
    fn spent(self, now: Instant, cost: Duration, burst: u32) -> Option<Self> {
        let spent = self.0.max(now) + cost;
        (spent.since(now) <= cost * burst).then_some(Self(spent))
    }
}

#[derive(Clone, Copy)]
struct Sender {
    address: IpAddr,
    /// Zero for the system itself: the kernel limits responses to it only by the common rate.
    cost: Duration,
    asked_at: Instant,
    bucket: Bucket,
}

/// The rates of responses: of all senders together, and of those on other hosts.
pub(in crate::device) struct AnswerRate {
    all: Bucket,
    senders: [Sender; SENDERS],
}

impl Default for AnswerRate {
    fn default() -> Self {
        let (address, cost) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), Duration::ZERO);
        let none = Sender { address, cost, asked_at: Instant::default(), bucket: Bucket::default() };
        Self { all: Bucket::default(), senders: [none; SENDERS] }
    }
}

impl AnswerRate {
    /// Returns whether any response is permitted now.
    pub(super) fn has_any(&self, now: Instant) -> bool {
        self.all.spent(now, COST, BURST).is_some()
    }

    /// Takes a token for a response to this sender; returns false if there must be none now. `route` is
    /// [`Tun::route_back`].
    ///
    /// [`Tun::route_back`]: crate::tun::Tun::route_back
    pub(super) fn take(&mut self, now: Instant, to: IpAddr, route: impl FnOnce(IpAddr) -> Option<u8>) -> bool {
        let place = self.place_of(to);
        let sender = &mut self.senders[place];
        let is_known = sender.address == to;
        if !is_known || now.since(sender.asked_at) >= REMEMBERED {
            let cost = route(to).map_or(Duration::ZERO, |len| match to {
                IpAddr::V4(_) => COST_TO_HOST,
                IpAddr::V6(_) => COST_TO_HOST / (1 << (128_u8.saturating_sub(len) / 32)),
            });
            let bucket = if is_known && sender.cost == cost { sender.bucket } else { Bucket::default() };
            *sender = Sender { address: to, cost, asked_at: now, bucket };
        }
        let spent = (self.all.spent(now, COST, BURST), sender.bucket.spent(now, sender.cost, BURST_TO_HOST));
        let (Some(all), Some(bucket)) = spent else { return false };
        (self.all, sender.bucket) = (all, bucket);
        true
    }

    /// Returns the slot of a sender; for a new one, that of the sender with the oldest response, which it replaces.
    fn place_of(&self, address: IpAddr) -> usize {
        let mut least = 0;
        for (place, sender) in self.senders.iter().enumerate() {
            if sender.address == address {
                return place;
            }
            if sender.bucket.0 < self.senders[least].bucket.0 {
                least = place;
            }
        }
        least
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    const OWN: fn(IpAddr) -> Option<u8> = |_| None;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// How many of `most` answers a sender gets.
    fn taken(rate: &mut AnswerRate, now: Instant, most: usize, to: IpAddr, route: fn(IpAddr) -> Option<u8>) -> usize {
        (0..most).filter(|_| rate.has_any(now) && rate.take(now, to, route)).count()
    }

    #[test]
    fn fifty_at_once_and_a_thousand_a_second() {
        let (mut rate, mut now) = (AnswerRate::default(), Instant::from_nanos(5_000_000_000));
        let mut take = |now, most| taken(&mut rate, now, most, ip("10.0.0.1"), OWN);
        assert_eq!(take(now, 60), 50);
        for _ in 0..5 {
            now = now + COST;
            assert_eq!((take(now, 1), take(now, 1)), (1, 0));
        }
        now = now + Duration::from_secs(9);
        assert_eq!(take(now, 60), 50);
    }

    #[test]
    fn another_host_gets_six_and_one_a_second() {
        let mut rate = AnswerRate::default();
        let (mut now, tick) = (Instant::from_nanos(5_000_000_000), Duration::from_millis(1));
        let routed = |_| Some(24);
        let (a, b) = (ip("192.0.2.1"), ip("192.0.2.2"));
        assert_eq!((taken(&mut rate, now, 20, a, routed), taken(&mut rate, now, 20, b, routed)), (6, 6));
        // What they do not get costs others nothing.
        assert_eq!(taken(&mut rate, now, 60, ip("10.0.0.1"), OWN), 38);
        now = now + Duration::from_millis(999);
        assert_eq!(taken(&mut rate, now, 9, a, routed), 0);
        now = now + tick;
        assert_eq!(taken(&mut rate, now, 9, a, routed), 1);
        now = now + Duration::from_secs(60);
        assert_eq!(taken(&mut rate, now, 9, a, routed), 6);
        // Its address has become one of ours.
        now = now + REMEMBERED;
        assert_eq!(taken(&mut rate, now, 20, a, OWN), 20);
    }

    #[test]
    fn ipv6_hosts_behind_wider_routes_get_more() {
        for (len, millis) in [(0, 62), (32, 125), (48, 250), (64, 250), (65, 500), (96, 500), (97, 1000), (128, 1000)] {
            static LEN: Mutex<u8> = Mutex::new(0);
            *LEN.lock().unwrap() = len;
            let (mut rate, mut now) = (AnswerRate::default(), Instant::from_nanos(5_000_000_000));
            let mut take = |now| taken(&mut rate, now, 9, ip("2001:db8::1"), |_| Some(*LEN.lock().unwrap()));
            assert_eq!(take(now), 6);
            now = now + Duration::from_millis(millis);
            assert_eq!(take(now), usize::from(len != 0), "/{len}");
            now = now + Duration::from_millis(1);
            assert_eq!(take(now), usize::from(len == 0), "/{len}");
        }
    }

    #[test]
    fn of_many_hosts_the_one_answered_least_lately_is_forgotten() {
        let (mut rate, mut now) = (AnswerRate::default(), Instant::from_nanos(5_000_000_000));
        let host = |n: usize| IpAddr::from([192, 0, 2, n as u8]);
        for n in 0..SENDERS {
            now = now + 10 * COST;
            assert_eq!(taken(&mut rate, now, 7, host(n), |_| Some(24)), 6);
        }
        assert_eq!(taken(&mut rate, now, 7, host(1), |_| Some(24)), 0);
        assert_eq!(taken(&mut rate, now, 7, host(SENDERS), |_| Some(24)), 6);
        now = now + 10 * COST;
        assert_eq!(taken(&mut rate, now, 7, host(1), |_| Some(24)), 0);
        assert_eq!(taken(&mut rate, now, 7, host(0), |_| Some(24)), 6);
    }
}
