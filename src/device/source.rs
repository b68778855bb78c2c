//! The source address for a peer: the one that the peer last sent to, as long as the routes agree.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{Device, lock, peer::Peer};
use crate::bind::{Endpoint, SourceCheck, Transmit};

/// The result of the last check of a peer's source address, and the number of the routes at that time, in one word,
/// which the data path reads without a lock.
#[derive(Default)]
pub(super) struct LastCheck(AtomicU64);

const LEFT: u64 = 1;
const RETURNS: u64 = 2;
const BITS: u32 = 2;

impl LastCheck {
    /// Returns the result, and the number of the routes; the number is 0 for a new endpoint.
    fn get(&self) -> (SourceCheck, u64) {
        let word = self.0.load(Ordering::Relaxed);
        (SourceCheck { keep: word & LEFT == 0, returns: word & RETURNS != 0 }, word >> BITS)
    }

    fn set(&self, check: SourceCheck, routes: u64) {
        let word = routes << BITS | if check.keep { 0 } else { LEFT } | if check.returns { RETURNS } else { 0 };
        self.0.store(word, Ordering::Relaxed);
    }

    /// Reports that the endpoint has changed.
    pub(super) fn forget(&self) {
        self.set(SourceCheck::default(), 0);
    }
}

impl Device {
    /// Removes the source address of a batch if it is no longer the right one. It queries the bind only after routes
    /// have changed, and for a new endpoint.
    pub(super) fn settle_source(&self, peer: &Arc<Peer>, batch: &mut [Transmit<'_>]) {
        let routes = self.bind.routes();
        let (last, checked) = peer.source.get();
        let check = if checked == routes { last } else { self.check_source(peer, routes, last) };
        if !check.keep {
            batch.iter_mut().for_each(|transmit| transmit.to.clear_source());
        }
    }

    /// Checks an IPv6 source address that was learned with a datagram from this endpoint. Whether replies leave by the
    /// interface of arrival can be determined only until the routes change, and the next datagram may be sent later.
    pub(super) fn check_learned_source(&self, peer: &Arc<Peer>, from: &Endpoint) {
        if let Some(IpAddr::V6(_)) = from.src {
            let routes = self.bind.routes();
            let (last, checked) = peer.source.get();
            if checked == 0 && routes != 0 {
                self.check_source(peer, routes, last);
            }
        }
    }

    fn check_source(&self, peer: &Arc<Peer>, routes: u64, last: SourceCheck) -> SourceCheck {
        let endpoint = lock(&peer.state).location.endpoint();
        let sticky = endpoint.filter(|endpoint| endpoint.src.is_some());
        let check = sticky.map_or_else(SourceCheck::default, |endpoint| self.bind.check_source(&endpoint, last));
        if last.keep && !check.keep {
            tracing::debug!(peer = %peer.key(), "the way to the peer is another one now, and so is our address");
        }
        // Under the lock, so that it is not the check of an endpoint that has been replaced.
        let state = lock(&peer.state);
        if state.location.endpoint() == endpoint {
            peer.source.set(check, routes);
        }
        check
    }
}
