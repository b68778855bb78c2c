//! NAT64: IPv4 addresses in a network that has only IPv6 (RFC 6052), and the discovery of its prefix (RFC 7050).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A name without IPv6 addresses, except those that a DNS64 server synthesizes.
pub(in crate::device) const DISCOVERY_NAME: &str = "ipv4only.arpa";

/// The addresses of [`DISCOVERY_NAME`].
const DISCOVERY_ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];

/// The possible lengths of a prefix, in bytes, the most likely first.
const LENGTHS: [usize; 6] = [12, 8, 7, 6, 5, 4];

/// The byte of an address that is always zero: the IPv4 address is placed around it.
const GAP: usize = 8;

/// The well-known prefix of translators, which is not used for special-purpose addresses.
const WELL_KNOWN: Prefix = Prefix { address: Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), length: 12 };

/// The prefix of a network, which precedes the IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::device) struct Prefix {
    /// The address; all bits behind the prefix are zero.
    address: Ipv6Addr,
    /// The length in bytes, one of [`LENGTHS`].
    length: usize,
}

/// Returns the positions of the four bytes of the IPv4 address.
fn places(length: usize) -> impl Iterator<Item = usize> {
    (length..16).filter(|at| *at != GAP).take(4)
}

impl Prefix {
    /// Returns the prefix of a network, from the addresses that it returns for [`DISCOVERY_NAME`]; `None` if it has
    /// none. If a prefix contains one of the well-known addresses itself, the other one determines its length.
    pub(in crate::device) fn discover(found: &[IpAddr]) -> Option<Self> {
        let mut shown = Vec::new();
        for ip in found {
            let IpAddr::V6(outer) = ip else { continue };
            for known in DISCOVERY_ADDRESSES {
                shown.extend(LENGTHS.iter().filter_map(|length| Some((Self::around(*outer, known, *length)?, known))));
            }
        }
        let by_both = |(prefix, known): &&(Self, _)| shown.iter().any(|(same, other)| same == prefix && other != known);
        shown.iter().find(by_both).or(shown.first()).map(|(prefix, _)| *prefix)
    }

    /// Returns the prefix of this length, if `inner` follows it.
    fn around(outer: Ipv6Addr, inner: Ipv4Addr, length: usize) -> Option<Self> {
        let octets = outer.octets();
        if octets[GAP] != 0 || !places(length).map(|at| octets[at]).eq(inner.octets()) {
            return None;
        }
        let mut prefix = [0; 16];
        prefix[..length].copy_from_slice(&octets[..length]);
        Some(Self { address: prefix.into(), length })
    }

    /// Returns the IPv6 address that corresponds to an IPv4 one; `None` if a translator would not accept it.
    pub(in crate::device) fn embed(self, inner: Ipv4Addr) -> Option<Ipv6Addr> {
        let never = inner.is_loopback() || inner.is_link_local() || inner.is_unspecified() || inner.is_multicast();
        if never || inner.is_broadcast() || (self == WELL_KNOWN && inner.is_private()) {
            return None;
        }
        let mut octets = self.address.octets();
        for (at, octet) in places(self.length).zip(inner.octets()) {
            octets[at] = octet;
        }
        Some(octets.into())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Section 2.4 of RFC 6052: prefix, length in bits, and the address that stands for 192.0.2.33.
    const TABLE: [(&str, usize, &str); 7] = [
        ("2001:db8::", 32, "2001:db8:c000:221::"),
        ("2001:db8:100::", 40, "2001:db8:1c0:2:21::"),
        ("2001:db8:122::", 48, "2001:db8:122:c000:2:2100::"),
        ("2001:db8:122:300::", 56, "2001:db8:122:3c0:0:221::"),
        ("2001:db8:122:344::", 64, "2001:db8:122:344:c0:2:2100::"),
        ("2001:db8:122:344::", 96, "2001:db8:122:344::192.0.2.33"),
        ("64:ff9b::", 96, "64:ff9b::192.0.2.33"),
    ];

    fn prefix(address: &str, bits: usize) -> Prefix {
        Prefix { address: address.parse().unwrap(), length: bits / 8 }
    }

    fn v4(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn discover(found: &[&str]) -> Option<Prefix> {
        Prefix::discover(&found.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn addresses_are_those_of_the_rfc() {
        for (address, bits, expected) in TABLE {
            assert_eq!(
                prefix(address, bits).embed(v4("192.0.2.33")),
                Some(expected.parse().unwrap()),
                "{address}/{bits}"
            );
        }
    }

    #[test]
    fn each_length_is_found() {
        for (address, bits, _) in TABLE {
            let network = prefix(address, bits);
            for known in DISCOVERY_ADDRESSES {
                let shown = network.embed(known).unwrap();
                assert_eq!(Prefix::discover(&[known.into(), shown.into()]), Some(network), "{shown}");
            }
        }
    }

    #[test]
    fn without_a_translator_nothing_is_found() {
        for found in [
            &[] as &[_],
            &["192.0.0.170", "192.0.0.171"],
            // Some name server that answers everything.
            &["2001:db8::1", "198.51.100.7"],
            // The byte between is not zero.
            &["2001:db8:122:344:1c0:0:aa00::"],
        ] {
            assert_eq!(discover(found), None, "{found:?}");
        }
    }

    #[test]
    fn a_prefix_that_looks_like_an_address_is_told_by_the_other_address() {
        let network = prefix("2001:db8:c000:aa::", 96);
        let [a, b] = DISCOVERY_ADDRESSES.map(|known| network.embed(known).unwrap().into());
        assert_eq!(
            Prefix::around("2001:db8:c000:aa::c000:ab".parse().unwrap(), v4("192.0.0.170"), 4).unwrap().length,
            4
        );
        for found in [[a, b], [b, a]] {
            assert_eq!(Prefix::discover(&found), Some(network));
        }
    }

    #[test]
    fn some_addresses_are_not_translated() {
        let own = prefix("2001:db8::", 96);
        for inner in ["127.0.0.1", "169.254.1.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"] {
            assert_eq!([own, WELL_KNOWN].map(|prefix| prefix.embed(v4(inner))), [None; 2], "{inner}");
        }
        assert_eq!(WELL_KNOWN.embed(v4("10.0.0.1")), None);
        assert_eq!(own.embed(v4("10.0.0.1")), Some("2001:db8::10.0.0.1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn any_answer_is_taken(found: Vec<IpAddr>, inner: Ipv4Addr) {
            if let Some(prefix) = Prefix::discover(&found) {
                prop_assert!(prefix.embed(inner).is_none_or(|ip| ip.octets()[GAP] == 0));
            }
        }

        #[test]
        fn what_stands_for_an_address_has_it_inside(outer: u128, length in 0..6_usize, inner: Ipv4Addr) {
            let length = LENGTHS[length];
            let mut octets = outer.to_be_bytes();
            octets[length..].fill(0);
            octets[GAP] = 0;
            let Some(shown) = (Prefix { address: octets.into(), length }).embed(inner) else { return Ok(()) };
            prop_assert!(places(length).map(|at| shown.octets()[at]).eq(inner.octets()));
            let different = (0..16).filter(|at| shown.octets()[*at] != octets[*at]);
            prop_assert!(different.collect::<Vec<_>>().iter().all(|at| places(length).any(|place| place == *at)));
        }
    }
}
