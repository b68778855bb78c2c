//! Computes the difference between two configurations.

use std::collections::HashSet;

use super::{PeerUpdate, Update};
use crate::key::PublicKey;

impl Update {
    /// Returns the changes since `old`; both must be complete configurations, like files. Applied to a tunnel with the
    /// configuration `old`, the changes keep the sessions of unchanged peers, and endpoints that have roamed.
    #[must_use]
    pub fn since(&self, old: &Self) -> Self {
        let mut update = Self {
            private_key: self.private_key.clone().filter(|_| self.private_key != old.private_key),
            // A value that no longer exists gets its default, which is 0 for both.
            listen_port: (self.listen_port != old.listen_port).then(|| self.listen_port.unwrap_or(0)),
            fwmark: (self.fwmark != old.fwmark).then(|| self.fwmark.unwrap_or(0)),
            ..Self::default()
        };
        for peer in &old.peers {
            if self.peers.iter().all(|other| other.public_key != peer.public_key) {
                update.peers.push(PeerUpdate { remove: true, ..PeerUpdate::new(peer.public_key) });
            }
        }
        for peer in &self.peers {
            let before = old.peers.iter().find(|other| other.public_key == peer.public_key);
            if before == Some(peer) {
                continue;
            }
            let mut peer = peer.clone();
            if let Some(before) = before {
                peer.preshared_key.get_or_insert_default();
                peer.persistent_keepalive.get_or_insert_default();
                if before.endpoint == peer.endpoint {
                    peer.endpoint = None;
                } else if peer.endpoint.is_none() {
                    // There is no other way to remove an endpoint.
                    update.peers.push(PeerUpdate { remove: true, ..PeerUpdate::new(peer.public_key) });
                }
            }
            update.peers.push(peer);
        }
        update
    }

    /// Returns the changes that give this configuration, which must be complete, like a file, to a tunnel with the
    /// peers `present`. As with `wg syncconf`, peers in both keep their sessions. A port of 0 leaves the port
    /// unchanged, and a peer without an endpoint leaves the endpoint of that peer unchanged.
    #[must_use]
    pub fn keeping(mut self, present: impl IntoIterator<Item = PublicKey>) -> Self {
        self.replace_peers = false;
        self.listen_port = self.listen_port.filter(|port| *port != 0);
        let mut named = HashSet::new();
        for peer in &mut self.peers {
            // Later sections about a peer add to the first one.
            if named.insert(peer.public_key) {
                peer.preshared_key.get_or_insert_default();
                peer.persistent_keepalive.get_or_insert_default();
            }
        }
        let gone = present.into_iter().filter(|key| !named.contains(key));
        // Before all others, which may get their allowed IPs.
        self.peers.splice(0..0, gone.map(|key| PeerUpdate { remove: true, ..PeerUpdate::new(key) }));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::PeerEndpoint, key::PrivateKey, random::SystemRandom};

    #[test]
    fn an_endpoint_that_is_gone_goes_with_its_peer() {
        let key = PrivateKey::generate_with(&SystemRandom).public_key();
        let peer = |endpoint: Option<&str>| PeerUpdate {
            endpoint: endpoint.and_then(|text| text.parse().ok()).map(PeerEndpoint::Address),
            ..PeerUpdate::new(key)
        };
        let update = |peer| Update { peers: vec![peer], ..Update::default() };
        let (with, without) = (update(peer(Some("192.0.2.1:1"))), update(peer(None)));
        assert!(with.peers[0].endpoint.is_some());
        let removes = |old: &Update, new: &Update| {
            new.since(old).peers.iter().map(|peer| (peer.remove, peer.endpoint.is_some())).collect::<Vec<_>>()
        };
        assert_eq!(removes(&with, &without), [(true, false), (false, false)]);
        assert_eq!(removes(&without, &with), [(false, true)]);
        assert_eq!(removes(&with, &Update::default()), [(true, false)]);
    }

    #[test]
    fn what_was_removed_is_as_by_default() {
        let old = Update { listen_port: Some(51_820), fwmark: Some(1), ..Update::default() };
        let update = Update::default().since(&old);
        assert_eq!((update.listen_port, update.fwmark), (Some(0), Some(0)));
        assert_eq!(old.since(&old), Update::default());
    }

    #[test]
    fn peers_that_are_not_named_are_removed_first() {
        let [kept, gone, new] = [(); 3].map(|()| PrivateKey::generate_with(&SystemRandom).public_key());
        let update = Update {
            listen_port: Some(0),
            replace_peers: true,
            peers: vec![PeerUpdate::new(new), PeerUpdate::new(kept), PeerUpdate::new(kept)],
            ..Update::default()
        };
        let changes = update.keeping([kept, gone]);
        assert!(!changes.replace_peers && changes.listen_port.is_none());
        let peers: Vec<_> = changes.peers.iter().map(|p| (p.public_key, p.remove, p.preshared_key.is_some())).collect();
        assert_eq!(peers, [(gone, true, false), (new, false, true), (kept, false, true), (kept, false, false)]);
        assert_eq!(Update { listen_port: Some(7), ..Update::default() }.keeping([]).listen_port, Some(7));
    }
}
