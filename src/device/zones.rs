//! The zone of a configured link-local endpoint: an interface by its name, of which the endpoint has the number.

use std::net::SocketAddr;

use super::{Device, lock, peer::Peer};
use crate::config::EndpointAddr;

impl Device {
    /// Returns the address of a configured endpoint: its zone is replaced by the number of its interface, or 0 if there
    /// is no such interface now.
    pub(super) fn resolve_zone(&self, endpoint: &EndpointAddr) -> SocketAddr {
        let mut addr = endpoint.addr;
        if let (SocketAddr::V6(v6), Some(zone)) = (&mut addr, &endpoint.zone) {
            v6.set_scope_id(self.bind.zone_index(zone).unwrap_or(0));
        }
        addr
    }

    /// Resolves the zone of a peer's endpoint again, if it has one: the interface may exist only since then, or may
    /// have been replaced by another of the same name. Without such an interface the endpoint stays.
    pub(super) fn resolve_zone_again(&self, peer: &Peer) {
        let zone: Option<Box<str>> = lock(&peer.state).location.zone().map(Into::into);
        // This may be a system call: not under a lock.
        if let Some(zone) = zone
            && let Some(index) = self.bind.zone_index(&zone)
        {
            let mut state = lock(&peer.state);
            if state.location.set_zone_index(&zone, index) {
                tracing::debug!(peer = %peer.key(), %zone, index, "the zone of the endpoint is another interface now");
                peer.source.forget();
            }
        }
    }
}
