//! The addresses of a host name, in the order in which they are tried.

use std::net::{IpAddr, SocketAddr};

use crate::bind::Family;

/// The maximum number of addresses of one name.
pub const MAX_ADDRESSES: usize = 16;

/// At least one address, and which of them is current.
#[derive(Debug)]
pub(in crate::device) struct Candidates {
    all: Vec<SocketAddr>,
    turn: usize,
}

impl Candidates {
    /// Takes the addresses found by a resolver, the best first (RFC 6724, section 6). After the first, the families
    /// alternate, so that a family that does not work costs the time of one address and not of all its addresses (RFC
    /// 8305, section 4). Returns `None` if no address can be a peer's.
    pub(in crate::device) fn new(found: &[IpAddr], port: u16) -> Option<Self> {
        let mut usable = Vec::new();
        for ip in found.iter().map(IpAddr::to_canonical) {
            // Filters answer 0.0.0.0 for names that they block.
            if !ip.is_unspecified() && !ip.is_multicast() && !usable.contains(&ip) && usable.len() < MAX_ADDRESSES {
                usable.push(ip);
            }
        }
        let best = *usable.first()?;
        let (same, other): (Vec<_>, Vec<_>) = usable.into_iter().partition(|ip| ip.is_ipv4() == best.is_ipv4());
        let (mut same, mut other) = (same.into_iter(), other.into_iter());
        let mut all = Vec::with_capacity(same.len() + other.len());
        while same.len() + other.len() > 0 {
            all.extend(same.next().into_iter().chain(other.next()).map(|ip| SocketAddr::new(ip, port)));
        }
        Some(Self { all, turn: 0 })
    }

    /// Returns the memory of the list in bytes.
    pub(in crate::device) const fn memory(&self) -> usize {
        self.all.capacity() * size_of::<SocketAddr>()
    }

    /// Returns the current address.
    pub(in crate::device) fn current(&self) -> SocketAddr {
        self.all[self.turn]
    }

    /// Makes this address current. Returns false if it is not in the list.
    pub(in crate::device) fn choose(&mut self, address: SocketAddr) -> bool {
        let at = self.all.iter().position(|one| *one == address);
        self.turn = at.unwrap_or(self.turn);
        at.is_some()
    }

    /// Makes the next address current, the first one after the last.
    pub(in crate::device) fn advance(&mut self) -> SocketAddr {
        self.turn = (self.turn + 1) % self.all.len();
        self.current()
    }

    /// Makes the next address of this family current, if there is one.
    pub(in crate::device) fn advance_to(&mut self, family: Family) -> Option<SocketAddr> {
        let n = self.all.len();
        let at = (1..=n).map(|i| (self.turn + i) % n).find(|i| Family::of(self.all[*i]) == family)?;
        self.turn = at;
        Some(self.current())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn order(texts: &[&str]) -> Vec<IpAddr> {
        Candidates::new(&ips(texts), 7).map_or(Vec::new(), |c| c.all.iter().map(SocketAddr::ip).collect())
    }

    #[test]
    fn families_take_turns_behind_the_best_address() {
        assert_eq!(
            order(&["2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1", "192.0.2.2"]),
            ips(&["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "2001:db8::3"])
        );
        assert_eq!(order(&["192.0.2.9", "192.0.2.1", "::1"]), ips(&["192.0.2.9", "::1", "192.0.2.1"]));
        assert_eq!(order(&["192.0.2.2", "192.0.2.1"]), ips(&["192.0.2.2", "192.0.2.1"]));
    }

    #[test]
    fn what_cannot_be_a_peer_is_left_out() {
        assert_eq!(order(&["0.0.0.0", "::", "224.0.0.1", "ff02::1"]), ips(&[]));
        assert_eq!(order(&[]), ips(&[]));
        assert_eq!(order(&["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1"]), ips(&["192.0.2.1"]));
        let many: Vec<IpAddr> = (1..=99).map(|n| IpAddr::from([192, 0, 2, n])).collect();
        assert_eq!(Candidates::new(&many, 7).unwrap().all.len(), MAX_ADDRESSES);
    }

    #[test]
    fn each_has_its_turn() {
        let mut all = Candidates::new(&ips(&["2001:db8::1", "2001:db8::2", "192.0.2.1"]), 7).unwrap();
        let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let (a, b, c) = (at("[2001:db8::1]:7"), at("192.0.2.1:7"), at("[2001:db8::2]:7"));
        assert_eq!([all.current(), all.advance(), all.advance(), all.advance()], [a, b, c, a]);
        assert_eq!([Family::V6, Family::V4, Family::V4].map(|f| all.advance_to(f)), [c, b, b].map(Some));
        assert!(all.choose(c) && all.current() == c);
        assert!(!all.choose(at("192.0.2.1:8")) && all.current() == c);
        let mut single = Candidates::new(&ips(&["192.0.2.1"]), 7).unwrap();
        assert_eq!((single.advance(), single.advance_to(Family::V6)), (b, None));
    }

    proptest! {
        #[test]
        fn every_address_is_tried_once_a_round(found: Vec<IpAddr>, port: u16) {
            let Some(mut all) = Candidates::new(&found, port) else { return Ok(()) };
            let mut seen: Vec<_> = (0..all.all.len()).map(|_| all.advance()).collect();
            prop_assert_eq!(seen.last(), all.all.first());
            seen.sort_unstable();
            seen.dedup();
            prop_assert_eq!(seen.len(), all.all.len());
            prop_assert!(seen.len() <= MAX_ADDRESSES);
        }
    }
}
