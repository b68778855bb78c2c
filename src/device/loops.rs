//! Routing loops: our own datagrams that return through the TUN, because the route to a peer's endpoint leads into it.
//!
//! Each would be sealed and sent again, 60 bytes larger, endlessly. A peer may legitimately be reached through another
//! peer of the same device, as in the kernel; so a datagram is dropped only if it would be carried, directly or
//! indirectly, by the very peer that it is for. Only packets with the format of our messages are examined.

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

/// The number of peers through which a datagram is followed.
const DEPTH: usize = 8;

/// A peer whose datagrams arrived within this time is assumed to be reached through the tunnel. It is longer than the
/// interval between handshake attempts.
const RECENT: Duration = Duration::from_secs(6);

/// A packet that may be one of our datagrams, or a part of one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Carried {
    to: IpAddr,
    /// The port and the message's identity; `None` in a fragment after the first, which has neither.
    contents: Option<(u16, Own)>,
    /// The identification that the fragments of a datagram share.
    id: Option<u32>,
}

impl Carried {
    /// Reads a packet; returns `None` if it is anything else, which is the usual case and costs one comparison.
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

/// The state of a peer whose datagrams arrive through the TUN.
#[derive(Debug)]
pub(super) struct Looping {
    /// The time of the last one.
    last: Instant,
    /// The endpoint for which the loop was reported.
    told: Option<SocketAddr>,
    /// The identification of the last datagram whose first fragment was dropped.
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
    /// Returns whether a packet for `carrier` is one of our datagrams in a loop.
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
            // Earlier datagrams determine whether those of its carrier also return.
            in_circles &= inside;
            let Some(next) = table.lookup(endpoint.ip()) else { return false };
            peer = next;
        }
        false
    }

    /// Handles a packet to the endpoint of `peer`. Returns whether it is ours, and must be dropped.
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
