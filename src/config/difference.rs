//! Computes the difference between two configurations.

use std::collections::{HashMap, hash_map::Entry};

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
        let (before, now) = (Peers::of(&old.peers), Peers::of(&self.peers));
        let gone = before.peers.iter().filter(|peer| now.get(&peer.public_key).is_none());
        update.peers.extend(gone.map(|peer| removal(peer.public_key)));
        // Of several peers with one prefix the last has it: a change of one may give it to another, unchanged one.
        let is_contested = before.peers != now.peers && (before.have_one_prefix() || now.have_one_prefix());
        for mut peer in now.peers {
            let before = before.get(&peer.public_key);
            if before == Some(&peer) && !is_contested {
                continue;
            }
            if let Some(before) = before {
                peer.replace();
                if before.endpoint == peer.endpoint {
                    peer.endpoint = None;
                } else if peer.endpoint.is_none() {
                    // There is no other way to remove an endpoint.
                    update.peers.push(removal(peer.public_key));
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
        let mut named = Peers::of(&self.peers);
        named.peers.iter_mut().for_each(PeerUpdate::replace);
        let gone = present.into_iter().filter(|key| named.get(key).is_none());
        // Before all others, which may get their allowed IPs.
        self.peers = gone.map(removal).collect();
        self.peers.append(&mut named.peers);
        self
    }
}

/// Peers, each once. A file may have several sections about a peer, which are applied one after another.
struct Peers {
    /// In the order of their first sections.
    peers: Vec<PeerUpdate>,
    places: HashMap<PublicKey, usize>,
}

impl Peers {
    fn of(sections: &[PeerUpdate]) -> Self {
        let (mut peers, mut places) = (Vec::<PeerUpdate>::new(), HashMap::new());
        for section in sections {
            match places.entry(section.public_key) {
                Entry::Vacant(place) => {
                    place.insert(peers.len());
                    peers.push(section.clone());
                }
                Entry::Occupied(place) => peers[*place.get()].merge(section),
            }
        }
        Self { peers, places }
    }

    fn get(&self, key: &PublicKey) -> Option<&PeerUpdate> {
        self.places.get(key).map(|place| &self.peers[*place])
    }

    /// Returns whether several peers have the same prefix among their allowed IPs.
    fn have_one_prefix(&self) -> bool {
        let mut owners = HashMap::new();
        self.peers.iter().any(|peer| {
            let key = peer.public_key;
            peer.allowed_ips.iter().any(|ip| owners.insert(ip.prefix, key).is_some_and(|owner| owner != key))
        })
    }
}

impl PeerUpdate {
    /// Adds a later section about the same peer.
    fn merge(&mut self, later: &Self) {
        if later.preshared_key.is_some() {
            self.preshared_key.clone_from(&later.preshared_key);
        }
        if later.endpoint.is_some() {
            self.endpoint.clone_from(&later.endpoint);
        }
        self.persistent_keepalive = later.persistent_keepalive.or(self.persistent_keepalive);
        if later.replace_allowed_ips {
            self.replace_allowed_ips = true;
            self.allowed_ips.clear();
        }
        self.allowed_ips.extend_from_slice(&later.allowed_ips);
    }

    /// Sets everything that it does not mention to its default, except for the endpoint.
    fn replace(&mut self) {
        self.replace_allowed_ips = true;
        self.preshared_key.get_or_insert_default();
        self.persistent_keepalive.get_or_insert_default();
    }
}

fn removal(key: PublicKey) -> PeerUpdate {
    PeerUpdate { remove: true, ..PeerUpdate::new(key) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{AllowedIpUpdate, PeerEndpoint},
        key::PrivateKey,
        random::SystemRandom,
    };

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
    fn a_prefix_of_two_peers_is_always_that_of_the_last() {
        let [a, b] = [(); 2].map(|()| PrivateKey::generate_with(&SystemRandom).public_key());
        let peer = |key, prefix: &str| PeerUpdate {
            allowed_ips: vec![AllowedIpUpdate::add(prefix.parse().unwrap())],
            endpoint: Some(PeerEndpoint::Address("192.0.2.1:1".parse().unwrap())),
            ..PeerUpdate::new(key)
        };
        let update = |peers| Update { peers, ..Update::default() };
        let (shared, other) = ("10.0.0.0/24", "10.0.1.0/24");
        let both = update(vec![peer(a, shared), peer(b, shared)]);
        for now in [vec![peer(a, shared), peer(b, other)], vec![peer(a, shared)], vec![peer(b, other), peer(a, shared)]]
        {
            let changes = update(now).since(&both).peers;
            let again = changes.iter().find(|change| change.public_key == a && !change.remove).unwrap();
            assert!(again.replace_allowed_ips && again.allowed_ips == peer(a, shared).allowed_ips);
            assert_eq!(again.endpoint, None, "it may have roamed");
        }
        assert_eq!(both.since(&both), Update::default());
        let corrected = update(vec![peer(a, shared), peer(b, other)]);
        let keys: Vec<_> = both.since(&corrected).peers.iter().map(|change| change.public_key).collect();
        assert_eq!(keys, [a, b], "in the order of the file");
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
        assert_eq!(peers, [(gone, true, false), (new, false, true), (kept, false, true)]);
        assert!(changes.peers[1..].iter().all(|peer| peer.replace_allowed_ips), "prefixes that are gone would stay");
        assert_eq!(Update { listen_port: Some(7), ..Update::default() }.keeping([]).listen_port, Some(7));
    }

    #[test]
    fn sections_about_one_peer_are_one_peer() {
        let key = PrivateKey::generate_with(&SystemRandom).public_key();
        let section = |keepalive, endpoint: &str, prefix: &str| PeerUpdate {
            persistent_keepalive: keepalive,
            endpoint: endpoint.parse().ok().map(PeerEndpoint::Address),
            allowed_ips: vec![AllowedIpUpdate::add(prefix.parse().unwrap())],
            replace_allowed_ips: true,
            ..PeerUpdate::new(key)
        };
        let update = |peers| Update { peers, ..Update::default() };
        let first = section(Some(7), "192.0.2.1:1", "10.0.0.1/32");
        let two = update(vec![first.clone(), section(None, "", "10.0.0.2/32")]);
        assert_eq!(two.since(&two), Update::default(), "nothing has changed");
        let same = update(vec![section(Some(7), "192.0.2.1:1", "10.0.0.2/32")]);
        assert_eq!(two.since(&same), Update::default());
        let changes = two.since(&update(vec![first])).peers;
        assert_eq!(changes.len(), 1);
        assert_eq!((changes[0].remove, changes[0].persistent_keepalive, &changes[0].endpoint), (false, Some(7), &None));
        assert_eq!(changes[0].allowed_ips, same.peers[0].allowed_ips);
    }
}
