//! Computes the difference between two configurations.

use super::{PeerUpdate, Update};

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
}
