//! Routing loops: our own datagrams that come back in through the TUN, because the route to a peer's endpoint leads
//! there.
//!
//! Each would be sealed and sent again, larger by 60 bytes, without end. A peer may well be reached through another
//! peer of the same device, as with the kernel's; so what is dropped is a datagram that would be carried, directly or
//! by way of others, by the very peer that it is for. Only packets that have the form of our messages are looked at any
//! closer.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use super::{
    Device,
    allowed_ips::AllowedIps,
    events::Event,
    lock,
    packet::Header,
    peer::{Peer, State},
};
use crate::{
    noise::message::{Own, own},
    time::Instant,
};

/// How many peers a datagram is followed through.
const DEPTH: usize = 8;

/// A peer whose datagrams came in this lately is taken to be reached through the tunnel. Longer than a handshake takes
/// to be tried again.
const RECENT: Duration = Duration::from_secs(6);

/// A packet that may be a datagram of ours, or a part of one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Carried {
    to: IpAddr,
    /// The port and what the message says of its sender; `None` in a fragment past the first, which has neither.
    contents: Option<(u16, Own)>,
    /// What the fragments of a datagram have in common.
    id: Option<u32>,
}

impl Carried {
    /// `None` if it is anything else: nearly always, and at the price of a comparison.
    pub(super) fn parse(header: &Header, packet: &[u8]) -> Option<Self> {
        const UDP: u8 = 17;
        const FRAGMENT: u8 = 44;
        let word = |at: usize| packet.get(at..)?.first_chunk().map(|b| u16::from_be_bytes(*b));
        let (start, offset, id) = match (header.src, header.protocol) {
            (IpAddr::V4(_), UDP) => {
                let (id, flags) = (word(4)?, word(6)?);
                (usize::from(packet[0] & 15) * 4, flags & 0x1fff, (flags & 0x3fff != 0).then_some(id.into()))
            }
            (IpAddr::V6(_), UDP) => (40, 0, None),
            (IpAddr::V6(_), FRAGMENT) if packet.get(40) == Some(&UDP) => {
                let id = packet.get(44..)?.first_chunk().map(|b| u32::from_be_bytes(*b))?;
                (48, word(42)? >> 3, Some(id))
            }
            _ => return None,
        };
        if offset != 0 {
            return Some(Self { to: header.dst, contents: None, id });
        }
        Some(Self { to: header.dst, contents: Some((word(start + 2)?, own(packet.get(start + 8..)?)?)), id })
    }

    fn is_to(&self, endpoint: SocketAddr) -> bool {
        self.to == endpoint.ip() && self.contents.is_none_or(|(port, _)| port == endpoint.port())
    }
}

/// What is known of a peer whose datagrams come in through the TUN.
#[derive(Debug)]
pub(super) struct Looping {
    /// When one came in last.
    last: Instant,
    /// The endpoint for which the loop was told.
    told: Option<SocketAddr>,
    /// Of the last datagram whose first fragment was dropped.
    fragment: Option<u32>,
}

impl State {
    fn looping(&mut self, now: Instant) -> &mut Looping {
        self.looping.get_or_insert_with(|| Box::new(Looping { last: now, told: None, fragment: None }))
    }

    fn is_inside(&self, now: Instant) -> bool {
        self.looping.as_ref().is_some_and(|looping| now.since(looping.last) < RECENT)
    }
}

impl Device {
    /// Whether a packet for `carrier` is a datagram of ours that goes round in circles.
    pub(super) fn loops(&self, table: &AllowedIps<Arc<Peer>>, carrier: &Arc<Peer>, carried: &Carried) -> bool {
        let now = self.clock.now();
        let (mut peer, mut in_circles) = (carrier, true);
        for _ in 0..DEPTH {
            let (endpoint, inside) = {
                let state = lock(&peer.state);
                let Some(endpoint) = state.location.endpoint() else { return false };
                (endpoint.dst, state.is_inside(now))
            };
            if carried.is_to(endpoint) {
                return self.came_back(peer, endpoint, carried, in_circles, now);
            }
            // Whether what carries it comes in again as well is known from what came in before.
            in_circles &= inside;
            let Some(next) = table.lookup(endpoint.ip()) else { return false };
            peer = next;
        }
        false
    }

    /// A packet goes to the endpoint of `peer`. Returns whether it is ours, and to be dropped.
    fn came_back(
        &self,
        peer: &Arc<Peer>,
        endpoint: SocketAddr,
        carried: &Carried,
        in_circles: bool,
        now: Instant,
    ) -> bool {
        let mut state = lock(&peer.state);
        let is_ours = match carried.contents {
            None => return state.looping.as_ref().is_some_and(|looping| looping.fragment == carried.id),
            Some((_, Own::Handshake { sender })) => {
                self.index.get(sender).is_some_and(|target| Arc::ptr_eq(&target.peer, peer))
            }
            Some((_, Own::Data { receiver })) => state.sessions.send_to(receiver),
        };
        if !is_ours {
            return false;
        }
        let looping = state.looping(now);
        looping.last = now;
        if !in_circles {
            return false;
        }
        looping.fragment = carried.id;
        if looping.told.replace(endpoint) != Some(endpoint) {
            tracing::warn!(peer = %peer.key(), %endpoint, "the route to the peer's endpoint leads into the tunnel itself");
            self.events.note(Event::RoutingLoop(*peer.key(), endpoint));
        }
        true
    }
}
