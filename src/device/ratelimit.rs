//! How many handshakes one address may ask for while we are under load: 20 a second, 5 at once, as in the kernel.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use super::memory::table_memory;
use crate::time::Instant;

/// One handshake more is earned in this time (`PACKETS_PER_SECOND`, 20, of the kernel's ratelimiter.c).
const COST: Duration = Duration::from_millis(50);
/// This many can be saved up (`PACKETS_BURSTABLE`).
const BURST: u32 = 5;
/// Addresses that are remembered at once. An address is remembered for as long as it may differ from a new one, a
/// quarter of a second after its last handshake; past this many, new addresses are refused.
const MAX_ADDRESSES: usize = 4096;

/// Bytes that they take.
pub(super) const MAX_MEMORY: usize = table_memory::<IpAddr, Instant>(MAX_ADDRESSES.next_power_of_two() * 2 / 8 * 7);

/// A token bucket for each address that has proven that it receives what is sent to it.
#[derive(Default)]
pub(super) struct RateLimiter {
    /// When the bucket will be full again, by address.
    full_at: HashMap<IpAddr, Instant>,
    /// When the buckets that are full were last looked for, because there were too many.
    swept_at: Option<Instant>,
}

/// One bucket covers an IPv4 address, or an IPv6 network of 64 bits, which one host commonly has to itself.
fn bucket(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
    }
}

impl RateLimiter {
    /// Takes one token of `address`. Returns false if there is none.
    pub(super) fn allow(&mut self, address: IpAddr, now: Instant) -> bool {
        let key = bucket(address);
        if self.full_at.len() >= MAX_ADDRESSES && !self.full_at.contains_key(&key) {
            // Not for each one that is refused: it takes longer than all else that is done about a message.
            if self.swept_at.is_none_or(|at| now.since(at) >= COST) {
                self.swept_at = Some(now);
                self.full_at.retain(|_, at| *at > now);
            }
            if self.full_at.len() >= MAX_ADDRESSES {
                return false;
            }
        }
        if self.full_at.try_reserve(1).is_err() {
            return false;
        }
        let full_at = self.full_at.entry(key).or_insert(now);
        let spent = (*full_at).max(now) + COST;
        let allowed = spent.since(now) <= COST * BURST;
        if allowed {
            *full_at = spent;
        }
        allowed
    }

    /// Bytes that are taken now.
    pub(super) fn memory(&self) -> usize {
        table_memory::<IpAddr, Instant>(self.full_at.capacity())
    }

    /// Forgets every address and frees the memory; to be called when the load is over.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn five_at_once_then_twenty_a_second() {
        let mut r = RateLimiter::default();
        let a: IpAddr = "192.0.2.1".parse().unwrap();
        let mut now = Instant::from_nanos(1_000_000_000);
        let allowed = (0..20).filter(|_| r.allow(a, now)).count();
        assert_eq!(allowed, 5);
        assert!(r.allow("192.0.2.2".parse().unwrap(), now), "another address");
        let mut allowed = 0;
        for _ in 0..1000 {
            now = now + Duration::from_millis(1);
            allowed += u32::from(r.allow(a, now));
        }
        assert_eq!(allowed, 20);
    }

    #[test]
    fn an_ipv6_network_shares_a_bucket() {
        let mut r = RateLimiter::default();
        let now = Instant::from_nanos(1);
        let allowed = (0..50u128).filter(|i| r.allow(Ipv6Addr::from_bits((0xfd00 << 112) + i).into(), now)).count();
        assert_eq!(allowed, 5);
    }

    #[test]
    fn memory_is_bounded() {
        let mut r = RateLimiter::default();
        let now = Instant::from_nanos(1);
        let addresses = |n: u32| (0..n).map(|i| IpAddr::from(i.to_be_bytes()));
        let allowed = addresses(10_000).filter(|a| r.allow(*a, now)).count();
        assert_eq!((allowed, r.full_at.len()), (MAX_ADDRESSES, MAX_ADDRESSES));
        assert_eq!(r.memory(), MAX_MEMORY);
        let later = now + COST * BURST;
        assert!(r.allow("9.9.9.9".parse().unwrap(), later), "old addresses make room");
        assert_eq!(r.full_at.len(), 1);
        r.clear();
        assert_eq!((r.full_at.capacity(), r.memory()), (0, 0));
    }

    #[test]
    fn room_is_looked_for_now_and_then() {
        let mut r = RateLimiter::default();
        let now = Instant::from_nanos(1);
        let mut addresses = (0_u32..).map(|n| IpAddr::from(n.to_be_bytes()));
        let mut allow = |n: usize, now| addresses.by_ref().take(n).filter(|a| r.allow(*a, now)).count();
        assert_eq!(allow(MAX_ADDRESSES / 2, now), MAX_ADDRESSES / 2);
        let later = now + COST;
        // Half of them are old. That is found once, and not again for each that is refused.
        assert_eq!(allow(MAX_ADDRESSES * 2, later), MAX_ADDRESSES);
        assert_eq!(allow(1, later + COST * 99 / 100), 0);
        assert_eq!(allow(1, later + COST), 1);
    }
}
