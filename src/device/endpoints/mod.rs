//! Where else a peer may be than at its endpoint: the addresses of its host name, and the IPv6 address that stands for an
//! IPv4 one. No I/O in here; `names.rs` carries out what is decided.

pub(super) mod candidates;
pub(super) mod inquiry;
pub(super) mod name;
pub(super) mod nat64;

use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::peer::State;
use crate::{
    bind::{Endpoint, Family},
    config::HostPort,
    time::Instant,
};
use inquiry::Taken;
use name::Name;
use nat64::Prefix;

/// What an answer to a look-up has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resolved {
    /// Nobody waited for it.
    Stale,
    /// There is no address in it; for the first time, or again. So many packets have waited for one for too long.
    Failed { first: bool, dropped: usize },
    /// The endpoint is one of the addresses.
    Stays,
    /// The endpoint is another one now.
    Moved,
}

impl State {
    /// The peer is at `to` now, and that is no synthesized address.
    pub(super) fn place(&mut self, to: Endpoint) {
        self.endpoint = Some(to);
        self.zone = None;
        self.ipv4 = None;
        self.needs_nat64 = false;
        if let Some(name) = &mut self.name {
            name.answered();
            if let Some(known) = name.known() {
                known.choose(to.dst);
            }
        }
    }

    /// An authentic message came from the endpoint.
    pub(super) fn answered(&mut self) {
        self.needs_nat64 = false;
        self.unanswered = 0;
        if let Some(name) = &mut self.name {
            name.answered();
        }
    }

    /// An address was configured, with a zone of this text.
    pub(super) fn set_address(&mut self, to: SocketAddr, zone: Option<Box<str>>) {
        self.name = None;
        self.place(Endpoint::new(to));
        self.zone = zone;
    }

    /// A name was configured. The address that it has stays until it is looked up anew; that of another name does not.
    pub(super) fn set_host(&mut self, host: HostPort) {
        match &mut self.name {
            Some(name) if *name.host() == host => name.begin_anew(),
            _ => {
                self.name = Some(Box::new(Name::new(host)));
                (self.endpoint, self.zone, self.ipv4) = (None, None, None);
                (self.needs_nat64, self.stays) = (false, false);
            }
        }
    }

    /// Whether there is a reason to look for the peer.
    pub(super) fn is_wanted(&self) -> bool {
        self.has_staged() || self.timers.is_retrying() || self.timers.keepalive_interval() != 0
    }

    /// A look-up of the name has ended.
    pub(super) fn resolved(&mut self, number: u64, found: &[IpAddr], now: Instant) -> Resolved {
        let at = self.ipv4.map(SocketAddr::V4).or(self.endpoint.map(|endpoint| endpoint.dst));
        let Some(name) = &mut self.name else {
            return Resolved::Stale;
        };
        match (name.take(number, found, now), name.known()) {
            (Taken::Stale, _) => Resolved::Stale,
            (Taken::Good, Some(known)) => {
                if at.is_some_and(|at| known.choose(at)) {
                    return Resolved::Stays;
                }
                let to = known.current();
                self.place(Endpoint::new(to));
                Resolved::Moved
            }
            (taken, _) => {
                let again = name.inquiry.not_before();
                let is_hopeless = self.endpoint.is_none() && name.is_hopeless(now);
                let dropped = if is_hopeless { self.take_staged().len() } else { 0 };
                let retry_at = self.is_wanted().then_some(again);
                self.name.iter_mut().for_each(|name| name.retry_at = retry_at);
                Resolved::Failed { first: taken == Taken::Bad, dropped }
            }
        }
    }

    /// Whether the time has come to look the name up again, and somebody still waits for that.
    pub(super) fn is_retry_due(&mut self, now: Instant) -> bool {
        let due = self.name.as_mut().and_then(|name| name.retry_at.take_if(|at| *at <= now));
        due.is_some() && self.is_wanted()
    }

    /// An initiation was not answered. If that was the address's last chance, the next one becomes the endpoint. Returns
    /// whether that is another one.
    pub(super) fn not_answered(&mut self) -> bool {
        let at = self.ipv4.map(SocketAddr::V4).or(self.endpoint.map(|endpoint| endpoint.dst));
        let Some(name) = &mut self.name else {
            return false;
        };
        if !name.not_answered() {
            return false;
        }
        name.answered();
        let next = name.known().map(|known| known.advance()).filter(|next| Some(*next) != at);
        next.map(|next| self.place(Endpoint::new(next))).is_some()
    }

    /// Nothing can be sent to `from`, for it has no route here. Returns another way to the peer, which then is its
    /// endpoint: for an IPv4 address the IPv6 one that stands for it, and the other way round; or an address of the other
    /// family that its name has.
    pub(super) fn detour(&mut self, from: SocketAddr, prefix: Option<Prefix>) -> Option<Endpoint> {
        let endpoint = self.endpoint?;
        if endpoint.dst != from {
            // Found already, while this was being sent.
            return Some(endpoint).filter(|e| Family::of(e.dst) != Family::of(from));
        }
        match from {
            SocketAddr::V4(v4) => self.synthesize(v4, prefix) || self.turn_to(Family::V6),
            SocketAddr::V6(_) => self.stop_synthesizing() || self.turn_to(Family::V4),
        };
        self.needs_nat64 = self.endpoint.is_some_and(|e| e.dst == from && from.is_ipv4());
        self.endpoint.filter(|e| e.dst != from)
    }

    /// Uses the IPv6 address that stands for an IPv4 one, if a prefix is known.
    fn synthesize(&mut self, v4: SocketAddrV4, prefix: Option<Prefix>) -> bool {
        let Some(ip) = prefix.and_then(|prefix| prefix.embed(*v4.ip())) else {
            return false;
        };
        self.endpoint = Some(Endpoint::new(SocketAddrV6::new(ip, v4.port(), 0, 0).into()));
        self.ipv4 = Some(v4);
        self.needs_nat64 = false;
        true
    }

    /// Uses the IPv4 address itself again. Returns whether there is one.
    pub(super) fn stop_synthesizing(&mut self) -> bool {
        let v4 = self.ipv4.take();
        self.endpoint = v4.map(|v4| Endpoint::new(v4.into())).or(self.endpoint);
        v4.is_some()
    }

    fn turn_to(&mut self, family: Family) -> bool {
        let next = self.name.as_mut().and_then(|name| name.known()?.advance_to(family));
        next.map(|next| self.place(Endpoint::new(next))).is_some()
    }

    /// A prefix was found. Returns true if that is what the peer was waiting for.
    pub(super) fn prefix_found(&mut self, prefix: Prefix) -> bool {
        match self.endpoint {
            Some(Endpoint { dst: SocketAddr::V4(v4), .. }) if self.needs_nat64 => self.synthesize(v4, Some(prefix)),
            _ => false,
        }
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
    fn named(addresses: &[&str]) -> State {
        let mut state = State::default();
        state.set_host("b.example:7".parse().unwrap());
        answer(&mut state, addresses);
        state
    }

    fn answer(state: &mut State, addresses: &[&str]) -> Resolved {
        let found: Vec<_> = addresses.iter().map(|text| at(text).ip()).collect();
        state.name.as_mut().unwrap().ask(1);
        state.resolved(1, &found, START)
    }

    fn prefix() -> Option<Prefix> {
        Prefix::discover(&["64:ff9b::192.0.0.170".parse().unwrap()])
    }

    fn endpoint(state: &State) -> Option<SocketAddr> {
        state.endpoint.map(|endpoint| endpoint.dst)
    }

    /// What is left of these ways when the first has no route.
    fn detour(state: &mut State, prefix: Option<Prefix>) -> Option<SocketAddr> {
        let from = endpoint(state).unwrap();
        state.detour(from, prefix).map(|to| to.dst)
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
            let mut state = named(addresses);
            assert_eq!(detour(&mut state, prefix), expected.map(at), "{addresses:?}");
            assert_eq!(endpoint(&state), Some(at(expected.unwrap_or(addresses[0]))));
            assert_eq!((state.needs_nat64, state.ipv4.is_some()), (needs_nat64, expected == Some(V64)));
        }
    }

    #[test]
    fn a_synthesized_address_leads_back() {
        let mut state = State::default();
        state.set_address(at(V4), None);
        assert_eq!(detour(&mut state, prefix()), Some(at(V64)));
        assert_eq!(detour(&mut state, prefix()), Some(at(V4)));
        assert_eq!((detour(&mut state, prefix()), state.stop_synthesizing()), (Some(at(V64)), true));
        assert_eq!((endpoint(&state), state.stop_synthesizing()), (Some(at(V4)), false));
        // It is the peer's until that is heard elsewhere.
        detour(&mut state, prefix());
        assert!(!state.roam(Endpoint::new(at(V64))) && state.ipv4.is_some());
        assert!(state.roam(Endpoint::new(at(V6))) && state.ipv4.is_none());
    }

    #[test]
    fn a_detour_that_was_found_meanwhile_is_taken() {
        let mut state = named(&[V4, V6]);
        assert_eq!(state.detour(at("[2001:db8::9]:7"), None), Some(Endpoint::new(at(V4))));
        assert_eq!(state.detour(at("192.0.2.9:7"), None), None, "of the same family");
        assert_eq!((endpoint(&state), State::default().detour(at(V4), prefix())), (Some(at(V4)), None));
    }

    #[test]
    fn a_prefix_is_for_who_needs_it() {
        let mut state = named(&[V4]);
        assert!(!state.prefix_found(prefix().unwrap()));
        detour(&mut state, None);
        assert!(state.prefix_found(prefix().unwrap()));
        assert_eq!((endpoint(&state), state.needs_nat64), (Some(at(V64)), false));
        let mut state = named(&[V4]);
        detour(&mut state, None);
        state.roam(Endpoint::new(at(V4)));
        assert!(!state.prefix_found(prefix().unwrap()), "it was heard from there, so there is a way");
    }

    #[test]
    fn an_answer_moves_the_endpoint_only_if_it_is_not_in_it() {
        let mut state = named(&[V4]);
        assert_eq!((answer(&mut state, &[V6, V4]), endpoint(&state)), (Resolved::Stays, Some(at(V4))));
        detour(&mut state, prefix());
        assert_eq!((answer(&mut state, &[V6, V4]), endpoint(&state)), (Resolved::Stays, Some(at(V64))));
        assert_eq!((answer(&mut state, &[V6]), endpoint(&state)), (Resolved::Moved, Some(at(V6))));
        assert_eq!(answer(&mut state, &[]), Resolved::Failed { first: true, dropped: 0 });
        assert_eq!(answer(&mut state, &[]), Resolved::Failed { first: false, dropped: 0 });
        assert_eq!((endpoint(&state), state.next_deadline()), (Some(at(V6)), None));
        assert_eq!(state.resolved(9, &[], START), Resolved::Stale);
        state.set_address(at(V4), None);
        assert_eq!(state.resolved(1, &[], START), Resolved::Stale);
    }

    #[test]
    fn what_nobody_wants_is_not_looked_up_again() {
        let mut state = named(&[V4]);
        state.name.as_mut().unwrap().begin_anew();
        let _ = state.timers.set_keepalive_interval(25);
        answer(&mut state, &[]);
        let later = START + Duration::from_secs(1);
        assert_eq!((state.next_deadline(), state.is_retry_due(START)), (Some(later), false));
        let _ = state.timers.set_keepalive_interval(0);
        assert_eq!((state.is_retry_due(later), state.next_deadline()), (false, None));
    }

    #[test]
    fn an_initiation_that_is_not_answered_counts_against_the_endpoint() {
        let mut state = named(&[V6, V4]);
        assert_eq!([state.not_answered(), state.not_answered()], [false, true]);
        assert_eq!((state.not_answered(), endpoint(&state)), (false, Some(at(V4))));
        state.answered();
        assert_eq!([state.not_answered(), state.not_answered()], [false, true]);
        // The only one is no other one, not even through a translator.
        let mut state = named(&[V4]);
        detour(&mut state, prefix());
        assert_eq!([(); 4].map(|()| state.not_answered()), [false; 4]);
        assert_eq!(endpoint(&state), Some(at(V64)));
    }
}
