//! The location of a peer: its endpoint, which follows the peer (roaming), and alternatives to it.

use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::{inquiry::Outcome, name::Name, nat64::Prefix};
use crate::{
    bind::{Endpoint, Family},
    config::HostPort,
    time::Instant,
};

/// The effect of a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::device) enum Resolved {
    /// The look-up was outdated.
    Stale,
    /// The name has no address: for the first time, or again. If it `is_hopeless`, packets have waited for an address
    /// as long as a handshake would have been tried.
    Failed { first: bool, is_hopeless: bool },
    /// The endpoint is one of the addresses.
    Stays,
    /// The endpoint has changed.
    Moved,
}

/// The location of a peer. Only a configured address has a zone's text, only a synthesized endpoint stands for an IPv4
/// address, and both are forgotten when the endpoint changes.
#[derive(Default)]
pub(in crate::device) struct Location {
    endpoint: Option<Endpoint>,
    /// The configured text of the endpoint's zone, until the peer moves.
    zone: Option<Box<str>>,
    /// Whether the endpoint does not follow the peer.
    endpoint_pinned: bool,
    /// The host name that was configured as endpoint.
    host: Option<Box<Name>>,
    /// The IPv4 address that the endpoint was synthesized from.
    synthesized_from: Option<SocketAddrV4>,
    /// Whether the endpoint is an IPv4 address without a route.
    needs_nat64: bool,
}

impl Location {
    /// Returns the endpoint to send to; `None` if no address is known.
    pub(in crate::device) const fn endpoint(&self) -> Option<Endpoint> {
        self.endpoint
    }

    /// Returns the configured text of the endpoint's zone, if any.
    pub(in crate::device) fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// Returns the configured host name, if any.
    pub(in crate::device) fn host(&self) -> Option<&HostPort> {
        self.host.as_deref().map(Name::host)
    }

    /// Returns whether there is an endpoint, or a host name for one.
    pub(in crate::device) const fn is_configured(&self) -> bool {
        self.endpoint.is_some() || self.host.is_some()
    }

    /// Returns additional memory in bytes.
    pub(in crate::device) fn memory(&self) -> usize {
        let zone = self.zone.as_ref().map_or(0, |zone| zone.len());
        zone + self.host.as_ref().map_or(0, |host| host.memory())
    }

    /// Sets a configured address, with a zone of this text.
    pub(in crate::device) fn set_address(&mut self, to: SocketAddr, zone: Option<Box<str>>) {
        self.host = None;
        self.move_to(Endpoint::new(to));
        self.zone = zone;
    }

    /// Sets the number of the interface of a zone, unless the endpoint has another zone, or none. Returns whether that
    /// is another number.
    pub(in crate::device) fn set_zone_index(&mut self, zone: &str, index: u32) -> bool {
        if self.zone() != Some(zone) {
            return false;
        }
        match &mut self.endpoint {
            Some(Endpoint { dst: SocketAddr::V6(dst), .. }) if dst.scope_id() != index => {
                dst.set_scope_id(index);
                self.clear_source();
                true
            }
            _ => false,
        }
    }

    /// Sets a configured host name. The address of the same name is kept until it is resolved again; that of another
    /// name is not.
    pub(in crate::device) fn set_host(&mut self, to: HostPort) {
        match &mut self.host {
            Some(host) if *host.host() == to => host.restart(),
            _ => *self = Self { host: Some(Box::new(Name::new(to))), ..Self::default() },
        }
    }

    /// Sets whether an existing endpoint is kept when the peer moves.
    pub(in crate::device) const fn set_pinned(&mut self, pinned: bool) {
        self.endpoint_pinned = pinned && self.endpoint.is_some();
    }

    /// Reports that an authentic message came from here. Returns true if the peer has moved.
    pub(in crate::device) fn roam(&mut self, from: Endpoint) -> bool {
        self.needs_nat64 = false;
        if let Some(host) = &mut self.host {
            host.answered();
        }
        if self.endpoint_pinned {
            return false;
        }
        let moved = self.endpoint.is_none_or(|e| e.dst != from.dst);
        if moved {
            self.move_to(from);
        }
        self.endpoint = Some(from);
        moved
    }

    /// Lets the system choose the source address of outgoing packets again.
    pub(in crate::device) const fn clear_source(&mut self) {
        if let Some(endpoint) = &mut self.endpoint {
            endpoint.clear_source();
        }
    }

    /// Sets an endpoint, which is not synthesized.
    fn move_to(&mut self, to: Endpoint) {
        self.endpoint = Some(to);
        self.zone = None;
        self.synthesized_from = None;
        self.needs_nat64 = false;
        if let Some(host) = &mut self.host {
            host.answered();
            if let Some(known) = host.known() {
                known.choose(to.dst);
            }
        }
    }

    /// Returns the address of the peer, without NAT64.
    fn address(&self) -> Option<SocketAddr> {
        self.synthesized_from.map(SocketAddr::V4).or(self.endpoint.map(|endpoint| endpoint.dst))
    }
}

/// Functions about the host name.
impl Location {
    /// Starts to resolve the host name as if for the first time.
    pub(in crate::device) fn restart_lookup(&mut self) {
        if let Some(host) = &mut self.host {
            host.restart();
        }
    }

    /// Starts a look-up of the host name, with this number. Returns the name; `None` if there is none.
    pub(in crate::device) fn begin_lookup(&mut self, number: impl FnOnce() -> u64) -> Option<(u64, Box<str>)> {
        let host = self.host.as_mut()?;
        let number = number();
        host.ask(number);
        Some((number, host.host().host().into()))
    }

    /// Abandons the look-up in progress and the next one. Returns whether there is a host name.
    pub(in crate::device) fn stop_lookup(&mut self) -> bool {
        self.host.as_mut().map(|host| host.stop()).is_some()
    }

    /// Reports that there is something to send. Returns true if the host name must be resolved for it now.
    pub(in crate::device) fn want_lookup(&mut self, now: Instant) -> bool {
        self.host.as_mut().is_some_and(|host| host.want(now))
    }

    /// Requests a look-up of the host name at the earliest permitted time.
    pub(in crate::device) fn retry_lookup(&mut self) {
        if let Some(host) = &mut self.host {
            host.retry();
        }
    }

    /// Returns the time of the next look-up of the host name.
    pub(in crate::device) fn next_lookup(&self) -> Option<Instant> {
        self.host.as_ref().and_then(|host| host.retry_at())
    }

    /// Returns true, once, if it is time to resolve the host name again.
    pub(in crate::device) fn take_due_lookup(&mut self, now: Instant) -> bool {
        self.host.as_mut().is_some_and(|host| host.take_due_retry(now))
    }

    /// Ends a look-up of the host name.
    pub(in crate::device) fn resolved(&mut self, number: u64, found: &[IpAddr], now: Instant) -> Resolved {
        let at = self.address();
        let Some(host) = &mut self.host else {
            return Resolved::Stale;
        };
        match (host.take(number, found, now), host.known()) {
            (Outcome::Stale, _) => Resolved::Stale,
            (Outcome::Found, Some(known)) => {
                if at.is_some_and(|at| known.choose(at)) {
                    return Resolved::Stays;
                }
                let to = known.current();
                self.move_to(Endpoint::new(to));
                Resolved::Moved
            }
            (outcome, _) => Resolved::Failed {
                first: outcome == Outcome::Failed,
                is_hopeless: self.endpoint.is_none() && host.is_hopeless(now),
            },
        }
    }

    /// Reports that an initiation was not answered. If that was the address's last attempt, the next one becomes the
    /// endpoint. Returns whether the endpoint has changed.
    pub(in crate::device) fn not_answered(&mut self) -> bool {
        let at = self.address();
        let Some(host) = &mut self.host else {
            return false;
        };
        if !host.not_answered() {
            return false;
        }
        host.answered();
        let next = host.known().map(|known| known.advance()).filter(|next| Some(*next) != at);
        next.map(|next| self.move_to(Endpoint::new(next))).is_some()
    }
}

/// Functions about alternative addresses.
impl Location {
    /// Reports that there is no route to `from`. Returns another address of the peer, which is then its endpoint: for
    /// an IPv4 address the corresponding IPv6 address and vice versa, or an address of the other family of its name.
    pub(in crate::device) fn detour(&mut self, from: SocketAddr, prefix: Option<Prefix>) -> Option<Endpoint> {
        let endpoint = self.endpoint?;
        if endpoint.dst != from {
            // Already found while this was being sent.
            return Some(endpoint).filter(|e| Family::of(e.dst) != Family::of(from));
        }
        match from {
            SocketAddr::V4(v4) => self.synthesize(v4, prefix) || self.advance_to(Family::V6),
            SocketAddr::V6(_) => self.stop_synthesizing() || self.advance_to(Family::V4),
        };
        self.needs_nat64 = self.endpoint.is_some_and(|e| e.dst == from && from.is_ipv4());
        self.endpoint.filter(|e| e.dst != from)
    }

    /// Reports that a prefix was found. Returns true if the peer was waiting for it.
    pub(in crate::device) fn prefix_found(&mut self, prefix: Prefix) -> bool {
        match self.endpoint {
            Some(Endpoint { dst: SocketAddr::V4(v4), .. }) if self.needs_nat64 => self.synthesize(v4, Some(prefix)),
            _ => false,
        }
    }

    /// Restores the IPv4 address that the endpoint was synthesized from. Returns whether there is one.
    pub(in crate::device) fn stop_synthesizing(&mut self) -> bool {
        let v4 = self.synthesized_from.take();
        self.endpoint = v4.map(|v4| Endpoint::new(v4.into())).or(self.endpoint);
        v4.is_some()
    }

    /// Forgets properties of the previous network: its prefix, and that it had no route to the endpoint.
    pub(in crate::device) fn network_changed(&mut self) {
        self.stop_synthesizing();
        self.needs_nat64 = false;
    }

    /// Uses the IPv6 address that corresponds to an IPv4 one, if a prefix is known.
    fn synthesize(&mut self, v4: SocketAddrV4, prefix: Option<Prefix>) -> bool {
        let Some(ip) = prefix.and_then(|prefix| prefix.embed(*v4.ip())) else {
            return false;
        };
        self.endpoint = Some(Endpoint::new(SocketAddrV6::new(ip, v4.port(), 0, 0).into()));
        self.synthesized_from = Some(v4);
        self.needs_nat64 = false;
        true
    }

    fn advance_to(&mut self, family: Family) -> bool {
        let next = self.host.as_mut().and_then(|host| host.known()?.advance_to(family));
        next.map(|next| self.move_to(Endpoint::new(next))).is_some()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    const START: Instant = Instant::from_nanos(1_000_000_000_000);
    const V4: &str = "192.0.2.2:7";
    const V6: &str = "[2001:db8::2]:7";
    /// V4 behind the translator.
    const V64: &str = "[64:ff9b::c000:202]:7";

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// A peer of a name that has these addresses, the first of which is its endpoint.
    fn named(addresses: &[&str]) -> Location {
        let mut location = Location::default();
        location.set_host("b.example:7".parse().unwrap());
        answer(&mut location, addresses);
        location
    }

    fn answer(location: &mut Location, addresses: &[&str]) -> Resolved {
        let found: Vec<_> = addresses.iter().map(|text| at(text).ip()).collect();
        location.host.as_mut().unwrap().ask(1);
        location.resolved(1, &found, START)
    }

    fn prefix() -> Option<Prefix> {
        Prefix::discover(&["64:ff9b::192.0.0.170".parse().unwrap()])
    }

    fn endpoint(location: &Location) -> Option<SocketAddr> {
        location.endpoint.map(|endpoint| endpoint.dst)
    }

    /// What is left of these ways when the first has no route.
    fn detour(location: &mut Location, prefix: Option<Prefix>) -> Option<SocketAddr> {
        let from = endpoint(location).unwrap();
        location.detour(from, prefix).map(|to| to.dst)
    }

    #[test]
    fn a_detour_leads_to_the_other_family() {
        for (addresses, prefix, expected, needs_nat64) in [
            (&[V4][..], None, None, true),
            (&[V4], prefix(), Some(V64), false),
            (&[V6], prefix(), None, false),
            (&[V4, V6], None, Some(V6), false),
            (&[V4, V6], prefix(), Some(V64), false),
            (&[V6, V4], prefix(), Some(V4), false),
        ] {
            let mut location = named(addresses);
            assert_eq!(detour(&mut location, prefix), expected.map(at), "{addresses:?}");
            assert_eq!(endpoint(&location), Some(at(expected.unwrap_or(addresses[0]))));
            assert_eq!(
                (location.needs_nat64, location.synthesized_from.is_some()),
                (needs_nat64, expected == Some(V64))
            );
        }
    }

    #[test]
    fn a_synthesized_address_leads_back() {
        let mut location = Location::default();
        location.set_address(at(V4), None);
        assert_eq!(detour(&mut location, prefix()), Some(at(V64)));
        assert_eq!(detour(&mut location, prefix()), Some(at(V4)));
        assert_eq!((detour(&mut location, prefix()), location.stop_synthesizing()), (Some(at(V64)), true));
        assert_eq!((endpoint(&location), location.stop_synthesizing()), (Some(at(V4)), false));
        // It is the peer's until that is heard elsewhere.
        detour(&mut location, prefix());
        assert!(!location.roam(Endpoint::new(at(V64))) && location.synthesized_from.is_some());
        assert!(location.roam(Endpoint::new(at(V6))) && location.synthesized_from.is_none());
    }

    #[test]
    fn a_detour_that_was_found_already_is_taken() {
        let mut location = named(&[V4, V6]);
        assert_eq!(location.detour(at("[2001:db8::9]:7"), None), Some(Endpoint::new(at(V4))));
        assert_eq!(location.detour(at("192.0.2.9:7"), None), None, "of the same family");
        assert_eq!((endpoint(&location), Location::default().detour(at(V4), prefix())), (Some(at(V4)), None));
    }

    #[test]
    fn a_prefix_is_for_a_peer_that_needs_it() {
        let mut location = named(&[V4]);
        assert!(!location.prefix_found(prefix().unwrap()));
        detour(&mut location, None);
        assert!(location.prefix_found(prefix().unwrap()));
        assert_eq!((endpoint(&location), location.needs_nat64), (Some(at(V64)), false));
        let mut location = named(&[V4]);
        detour(&mut location, None);
        location.roam(Endpoint::new(at(V4)));
        assert!(!location.prefix_found(prefix().unwrap()), "it was heard from there, so there is a way");
    }

    #[test]
    fn an_answer_moves_the_endpoint_only_if_it_is_not_in_it() {
        let mut location = named(&[V4]);
        assert_eq!((answer(&mut location, &[V6, V4]), endpoint(&location)), (Resolved::Stays, Some(at(V4))));
        detour(&mut location, prefix());
        assert_eq!((answer(&mut location, &[V6, V4]), endpoint(&location)), (Resolved::Stays, Some(at(V64))));
        assert_eq!((answer(&mut location, &[V6]), endpoint(&location)), (Resolved::Moved, Some(at(V6))));
        assert_eq!(answer(&mut location, &[]), Resolved::Failed { first: true, is_hopeless: false });
        assert_eq!(answer(&mut location, &[]), Resolved::Failed { first: false, is_hopeless: false });
        assert_eq!((endpoint(&location), location.next_lookup()), (Some(at(V6)), None));
        assert_eq!(location.resolved(9, &[], START), Resolved::Stale);
        location.set_address(at(V4), None);
        assert_eq!(location.resolved(1, &[], START), Resolved::Stale);
    }

    #[test]
    fn a_retry_is_due_once_and_a_stopped_one_never() {
        let mut location = named(&[V4]);
        location.restart_lookup();
        answer(&mut location, &[]);
        assert_eq!(location.next_lookup(), None, "unless it is wanted");
        location.retry_lookup();
        let later = START + Duration::from_secs(1);
        assert_eq!((location.next_lookup(), location.take_due_lookup(START)), (Some(later), false));
        assert_eq!([location.take_due_lookup(later), location.take_due_lookup(later)], [true, false]);
        location.retry_lookup();
        assert!(location.stop_lookup() && !location.take_due_lookup(later));
        assert!(!Location::default().stop_lookup());
    }

    #[test]
    fn what_belongs_to_an_endpoint_goes_with_it() {
        let mut location = Location::default();
        location.set_pinned(true);
        location.set_address(at(V6), Some("eth0".into()));
        assert!(location.roam(Endpoint::new(at(V4))), "there was nothing to pin");
        assert_eq!((endpoint(&location), location.zone()), (Some(at(V4)), None));
        location.set_address(at(V6), Some("eth0".into()));
        location.set_pinned(true);
        assert!(!location.roam(Endpoint::new(at(V4))));
        assert_eq!((endpoint(&location), location.zone()), (Some(at(V6)), Some("eth0")));
        location.set_host("b.example:7".parse().unwrap());
        assert_eq!((endpoint(&location), location.zone(), location.is_configured()), (None, None, true));
        assert!(location.roam(Endpoint::new(at(V4))), "the pin was of another endpoint");
    }

    #[test]
    fn a_zone_is_another_interface_only_while_it_is_the_endpoints() {
        let local = "[fe80::2]:7";
        let scope = |location: &Location| match location.endpoint {
            Some(Endpoint { dst: SocketAddr::V6(dst), .. }) => dst.scope_id(),
            _ => 0,
        };
        let mut location = Location::default();
        assert!(!location.set_zone_index("usb0", 3), "there is none");
        location.set_address(at(local), Some("usb0".into()));
        location.set_pinned(true);
        assert!(location.set_zone_index("usb0", 3) && !location.set_zone_index("usb0", 3));
        assert!(!location.set_zone_index("usb1", 4), "it was that before it was configured again");
        assert_eq!((scope(&location), location.zone()), (3, Some("usb0")));
        location.set_pinned(false);
        location.roam(Endpoint::new(at(V6)));
        assert!(!location.set_zone_index("usb0", 4), "the peer has moved");
        assert_eq!((scope(&location), location.zone()), (0, None));
    }

    #[test]
    fn an_initiation_that_is_not_answered_counts_against_the_endpoint() {
        let mut location = named(&[V6, V4]);
        assert_eq!([location.not_answered(), location.not_answered()], [false, true]);
        assert_eq!((location.not_answered(), endpoint(&location)), (false, Some(at(V4))));
        location.roam(Endpoint::new(at(V4)));
        assert_eq!([location.not_answered(), location.not_answered()], [false, true]);
        // The only one is no other one, not even through a translator.
        let mut location = named(&[V4]);
        detour(&mut location, prefix());
        assert_eq!([(); 4].map(|()| location.not_answered()), [false; 4]);
        assert_eq!(endpoint(&location), Some(at(V64)));
    }
}
