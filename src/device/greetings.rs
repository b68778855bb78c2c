//! Messages to all peers: at once on a caller's thread; in slices on a packet thread, which has no time to send them
//! all at once.

use std::{ops::Range, sync::Arc};

use super::{
    Device,
    endpoints::nat64::Prefix,
    lock,
    peer::Peer,
    send::{Reason, UNANSWERED},
    sockets::Opened,
};
use crate::{error::Result, reserve, time::Instant};

/// The reason to send to peers.
#[derive(Clone, Copy)]
pub(super) enum Occasion {
    /// The interface came up.
    Up,
    /// An interface that is up has new sockets.
    Reopened,
    /// The network has this prefix for IPv4 addresses.
    Nat64(Prefix),
}

impl Occasion {
    const fn of(opened: Opened) -> Option<Self> {
        match opened {
            Opened::None => None,
            Opened::Up => Some(Self::Up),
            Opened::Reopened => Some(Self::Reopened),
        }
    }
}

/// The peers that were not yet greeted, as a range of their numbers. Peers that are added later are not included.
pub(super) struct Greetings {
    occasion: Occasion,
    left: Range<u64>,
}

impl Device {
    /// Sends the messages that are due after a change of the sockets.
    pub(super) fn after(&self, opened: Result<Opened>) -> Result<()> {
        let greeted = opened.map(|opened| {
            if let Some(occasion) = Occasion::of(opened) {
                self.peers.list().for_each(|peer| self.greet(&peer, occasion));
            }
        });
        self.tell_events();
        greeted
    }

    /// Does the same on a packet thread: the timers continue the work.
    pub(super) fn after_soon(&self, opened: Result<Opened>) {
        if let Some(occasion) = opened.ok().and_then(Occasion::of) {
            self.greet_soon(occasion);
        }
        self.tell_events();
    }

    /// Sends to all peers, until a round is over; the timers continue the work. Each peer is greeted once from now on,
    /// however many greetings were started.
    pub(super) fn greet_soon(&self, occasion: Occasion) {
        self.put_greetings(occasion);
        if self.greet_some(self.clock.now()) {
            self.bind.wake();
        }
    }

    fn put_greetings(&self, mut occasion: Occasion) {
        use Occasion::{Nat64, Reopened, Up};
        let mut greetings = lock(&self.greetings);
        greetings.retain(|waiting| match (waiting.occasion, occasion) {
            (Nat64(_), Nat64(_)) | (Reopened | Up, Up) | (Reopened, Reopened) => false,
            (Up, Reopened) => {
                // New sockets include its effects.
                occasion = Up;
                false
            }
            (Nat64(_), Reopened | Up) | (Reopened | Up, Nat64(_)) => true,
        });
        greetings.push_back(Greetings { occasion, left: 0..self.peers.next_id() });
    }

    /// Stops greetings when the interface goes down, except those about the network.
    pub(super) fn greet_no_more(&self) {
        lock(&self.greetings).retain(|waiting| matches!(waiting.occasion, Occasion::Nat64(_)));
    }

    /// Greets waiting peers, until a round that began then is over. Returns whether there are more.
    pub(super) fn greet_some(&self, began: Instant) -> bool {
        loop {
            let Some((peer, occasion)) = self.next_to_greet() else {
                return false;
            };
            self.greet(&peer, occasion);
            if self.is_over(began) {
                return true;
            }
        }
    }

    fn next_to_greet(&self) -> Option<(Arc<Peer>, Occasion)> {
        let mut greetings = lock(&self.greetings);
        loop {
            let Greetings { occasion, left } = greetings.front_mut()?;
            if let Some(peer) = self.peers.first_in(left.clone()) {
                left.start = peer.id() + 1;
                return Some((peer, *occasion));
            }
            greetings.pop_front();
        }
    }

    /// Greets a peer, if there is a reason.
    fn greet(&self, peer: &Arc<Peer>, occasion: Occasion) {
        if reserve::is_low() {
            // It is contacted when there is something to send.
            return;
        }
        let came_up = match occasion {
            Occasion::Up => true,
            Occasion::Reopened => false,
            Occasion::Nat64(prefix) => return self.take_prefix_for(peer, prefix),
        };
        self.resolve_zone_again(peer);
        if came_up {
            self.look_up_again(peer);
        } else {
            peer.forget_source();
        }
        let (keepalive, was_unanswered, had_session, wants_handshake) = {
            let mut state = lock(&peer.state);
            let was_unanswered = std::mem::take(&mut state.unanswered) >= UNANSWERED;
            let has_session = state.has_session(self.clock.now());
            let keepalive = if came_up { state.timers.keepalive_interval() != 0 } else { has_session };
            let had_session = std::mem::take(&mut state.had_session);
            (keepalive, was_unanswered, had_session, std::mem::take(&mut state.wants_handshake))
        };
        if was_unanswered {
            self.initiate(peer, Reason::Retry);
        }
        if keepalive {
            self.send_keepalive(peer);
        } else if came_up {
            self.send_staged(peer);
        }
        if wants_handshake {
            // Without an endpoint by now, there is nothing to do.
            let _ = self.begin(peer);
        } else if had_session {
            self.initiate(peer, Reason::Fresh);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        bind::mem::MemNetwork,
        config::{HostPort, PeerUpdate, Update},
        device::{Options, nanos},
        key::{PrivateKey, PublicKey},
        time::Clock,
        tun::mem::MemTun,
    };
    use std::{
        net::{IpAddr, Ipv4Addr},
        sync::atomic::{AtomicU64, Ordering::Relaxed},
        time::Duration,
    };

    const PEERS: u8 = 100;

    /// A clock that goes on by a fifth of a round with each look at it.
    struct Ticking(AtomicU64);

    impl Clock for Ticking {
        fn now(&self) -> Instant {
            Instant::from_nanos(self.0.fetch_add(nanos(crate::device::SLICE / 5), Relaxed))
        }
        fn wall(&self) -> Duration {
            Duration::ZERO
        }
    }

    fn device() -> Device {
        let bind = MemNetwork::new().bind(Ipv4Addr::new(192, 0, 2, 1).into());
        let options = Options {
            clock: Arc::new(Ticking(AtomicU64::new(1 << 40))),
            resolve: Some(Box::new(|_| Ok(vec![IpAddr::from([192, 0, 2, 9])]))),
            ..Options::default()
        };
        let device = Device::new(Arc::new(MemTun::new("", 1420).0), bind, options);
        let private_key = Some(Some(PrivateKey::from_bytes([1; 32])));
        device.apply(Update { private_key, ..Update::default() }).unwrap();
        device.up().unwrap();
        device
    }

    fn named(n: u8) -> PeerUpdate {
        let mut peer = PeerUpdate::new(PublicKey::from_bytes([n; 32]));
        peer.endpoint = Some("a.example:1".parse::<HostPort>().unwrap().into());
        peer.persistent_keepalive = Some(25);
        peer
    }

    /// Runs the timers while `left` says that something is left, which must become less, by a few each time.
    fn run_in_slices(device: &Device, left: impl Fn() -> usize) {
        let mut before = left();
        assert_eq!(before, usize::from(PEERS));
        while before > 0 {
            assert_eq!(device.next_deadline(), Some(Instant::default()), "the timers are to go on");
            device.run_timers();
            let now = left();
            assert!((1..=5).contains(&(before - now)), "{before} then {now}");
            before = now;
        }
    }

    #[test]
    fn an_address_of_many_peers_is_taken_in_slices() {
        let device = device();
        device.apply(Update { peers: (2..2 + PEERS).map(named).collect(), ..Update::default() }).unwrap();
        assert_eq!(device.names.as_ref().unwrap().look_up(), 1);
        run_in_slices(&device, || device.all_peer_stats().filter(|peer| peer.endpoint.is_none()).count());
    }

    /// A network that flaps, with more peers than one round has time for.
    #[test]
    fn greetings_that_wait_become_one_and_end_with_the_interface() {
        let device = device();
        device.apply(Update { peers: (2..2 + PEERS).map(named).collect(), ..Update::default() }).unwrap();
        let waiting = || {
            let name = |greetings: &Greetings| match greetings.occasion {
                Occasion::Up => "up",
                Occasion::Reopened => "reopened",
                Occasion::Nat64(_) => "nat64",
            };
            lock(&device.greetings).iter().map(name).collect::<Vec<_>>()
        };
        let prefix = Occasion::Nat64(Prefix::discover(&["64:ff9b::c000:aa".parse().unwrap()]).unwrap());
        for (occasion, then) in [
            (Occasion::Reopened, &["reopened"][..]),
            (Occasion::Reopened, &["reopened"]),
            (prefix, &["reopened", "nat64"]),
            (Occasion::Up, &["nat64", "up"]),
            (prefix, &["up", "nat64"]),
            (Occasion::Reopened, &["nat64", "up"]),
            (Occasion::Up, &["nat64", "up"]),
        ] {
            device.greet_soon(occasion);
            assert_eq!(waiting(), then);
        }
        device.pause();
        assert_eq!(waiting(), ["nat64"]);
    }

    #[test]
    fn those_that_are_there_are_greeted_in_slices() {
        let device = device();
        let peers = |first, n| Update { peers: (first..first + n).map(named).collect(), ..Update::default() };
        device.apply(peers(2, PEERS)).unwrap();
        device.resolve_names();
        let occasion = Occasion::Reopened;
        lock(&device.greetings).push_back(Greetings { occasion, left: 0..device.peers.next_id() });
        device.apply(peers(200, 10)).unwrap();
        device.resolve_names();
        run_in_slices(&device, || {
            lock(&device.greetings).front().map_or(0, |greetings| (greetings.left.end - greetings.left.start) as usize)
        });
        // Those that have gone are passed over.
        lock(&device.greetings).push_back(Greetings { occasion, left: 0..device.peers.next_id() });
        device.apply(Update { replace_peers: true, ..Update::default() }).unwrap();
        device.run_timers();
        assert!(lock(&device.greetings).is_empty());
    }
}
