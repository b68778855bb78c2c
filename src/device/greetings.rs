//! What all peers are to hear from us: at once on a caller's thread; on one that moves packets by and by, as that has no time
//! for all of them in one go.

use std::{ops::Range, sync::Arc};

use super::{
    Device,
    endpoints::nat64::Prefix,
    lock,
    peer::Peer,
    send::{Reason, UNANSWERED},
    sockets::Opened,
};
use crate::{error::Result, time::Instant};

/// Why peers hear from us.
#[derive(Clone, Copy)]
pub(super) enum Occasion {
    /// The interface came up.
    Up,
    /// An interface that is up has fresh sockets.
    Fresh,
    /// The network has this prefix for addresses of IPv4.
    Nat64(Prefix),
}

impl Occasion {
    const fn of(opened: Opened) -> Option<Self> {
        match opened {
            Opened::None => None,
            Opened::Up => Some(Self::Up),
            Opened::Fresh => Some(Self::Fresh),
        }
    }
}

/// The peers that still are to hear from us, by their numbers. Those that come later are none of them.
pub(super) struct Greetings {
    occasion: Occasion,
    left: Range<u64>,
}

impl Device {
    /// To be called when a change of the sockets is over: sends what is to be sent then.
    pub(super) fn after(&self, opened: Result<Opened>) -> Result<()> {
        let greeted = opened.map(|opened| {
            if let Some(occasion) = Occasion::of(opened) {
                self.peers.list().iter().for_each(|peer| self.greet(peer, occasion));
            }
        });
        self.tell_events();
        greeted
    }

    /// The same on a thread that moves packets: the timers go on with it.
    pub(super) fn after_soon(&self, opened: Result<Opened>) {
        if let Some(occasion) = opened.ok().and_then(Occasion::of) {
            self.greet_soon(occasion);
        }
        self.tell_events();
    }

    /// Lets all peers hear from us, until a round is over; the timers go on with it.
    pub(super) fn greet_soon(&self, occasion: Occasion) {
        lock(&self.greetings).push_back(Greetings { occasion, left: 0..self.peers.next_id() });
        if self.greet_some(self.clock.now()) {
            self.bind.wake();
        }
    }

    /// Greets peers that wait for it, until a round that began then is over. Returns whether there are more.
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

    /// Lets a peer hear from us, if there is a reason.
    fn greet(&self, peer: &Arc<Peer>, occasion: Occasion) {
        let came_up = match occasion {
            Occasion::Up => true,
            Occasion::Fresh => false,
            Occasion::Nat64(prefix) => return self.take_prefix_for(peer, prefix),
        };
        if came_up {
            self.look_up_anew(peer);
        } else {
            peer.forget_source();
        }
        let (keepalive, was_unanswered) = {
            let mut state = lock(&peer.state);
            let was_unanswered = std::mem::take(&mut state.unanswered) >= UNANSWERED;
            let has_session = state.has_session(self.clock.now());
            (if came_up { state.timers.keepalive_interval() != 0 } else { has_session }, was_unanswered)
        };
        if was_unanswered {
            self.initiate(peer, Reason::Retry);
        }
        if keepalive {
            self.send_keepalive(peer);
        } else if came_up {
            self.send_staged(peer);
        }
    }
}
