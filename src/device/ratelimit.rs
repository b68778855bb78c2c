//! Limits the handshakes of an address while the device is under load: 20 a second with bursts of 5, as in the kernel.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use super::memory::table_memory;
use crate::time::Instant;

/// The time in which one more handshake is permitted (`PACKETS_PER_SECOND`, 20, of the kernel's ratelimiter.c).
const COST: Duration = Duration::from_millis(50);
/// The maximum burst (`PACKETS_BURSTABLE`).
const BURST: u32 = 5;
/// The maximum number of addresses. An address is stored for as long as it may differ from a new one, a quarter of a
/// second after its last handshake; beyond this number, new addresses are refused.
const MAX_ADDRESSES: usize = 4096;

/// Their memory in bytes.
pub(super) const MAX_MEMORY: usize = table_memory::<IpAddr, Instant>(MAX_ADDRESSES.next_power_of_two() * 2 / 8 * 7);

/// A token bucket for each address that has proven that it receives datagrams.
#[derive(Default)]
pub(super) struct RateLimiter {
    /// The time at which the bucket will be full again, by address.
    full_at: HashMap<IpAddr, Instant>,
    /// The time of the last search for full buckets, which happens when there are too many.
    swept_at: Option<Instant>,
}

/// Returns the bucket of an address: an IPv4 address, or an IPv6 network of 64 bits, which usually belongs to one host.
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
            // Not for each one that is refused: it takes longer than all other work for a message.
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

    /// Returns the current memory in bytes.
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
