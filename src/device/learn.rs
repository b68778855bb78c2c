//! Learns inner addresses from the packets of peers, for devices whose peers have no configured allowed IPs.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    Device,
    allowed_ips::Owner,
    lock,
    packet::Header,
    peer::Peer,
    pool::{Opened, OpenedRun},
};
use crate::{config::AllowedIpUpdate, key::PublicKey, reserve, sync::try_lock};

const fn change(prefix: IpNet, remove: bool) -> AllowedIpUpdate {
    AllowedIpUpdate { prefix, remove }
}

impl Device {
    /// Assigns the source addresses of packets to their peers. To be called without a lock.
    pub(super) fn learn_sources(&self, runs: &[OpenedRun], opened: &[Opened], buffer: &[u8]) {
        let mut new: Vec<(Arc<Peer>, IpAddr)> = Vec::new();
        {
            let table = self.allowed_ips.read();
            for run in runs {
                let mut known = None;
                for opened in opened[run.opened.clone()].iter().filter(|opened| opened.is_accepted()) {
                    let Some(header) = Header::parse(&buffer[opened.packet.clone()]) else { continue };
                    if known == Some(header.src) {
                        continue;
                    }
                    known = Some(header.src);
                    if !table.lookup(header.src).is_some_and(|owner| owner.is(&run.peer)) {
                        new.push((run.peer.clone(), header.src));
                    }
                }
            }
        }
        for (peer, address) in new {
            self.learn(&peer, address);
        }
    }

    /// Assigns one address to the peer. While a change set is being applied, which may take long, nothing is learned:
    /// the packet is dropped like any other with a wrong source, and the next one tries again.
    fn learn(&self, peer: &Arc<Peer>, address: IpAddr) {
        if reserve::is_low() || address.is_unspecified() || address.is_multicast() {
            return;
        }
        let Some(_alone) = try_lock(&self.sets) else { return };
        if lock(&peer.state).removed {
            return;
        }
        let is_host = |prefix: &IpNet| prefix.prefix_len() == prefix.max_prefix_len();
        let (learned, oldest) = peer.with_list(|list| {
            let mut hosts = list.iter().filter(is_host);
            let oldest = hosts.next();
            (usize::from(oldest.is_some()) + hosts.count(), oldest)
        });
        let oldest = oldest.filter(|_| learned >= self.learned_addresses);
        let changes: Vec<_> = oldest.map(|oldest| change(oldest, true)).into_iter().collect();
        self.allowed_ips.change(peer, &[&changes[..], &[change(address.into(), false)]].concat(), false);
        tracing::debug!(peer = %peer.key(), %address, "an address was learned");
    }

    /// Returns the peer for packets to an inner address, and its endpoint if that is known.
    #[must_use]
    pub fn peer_at(&self, address: IpAddr) -> Option<(PublicKey, Option<SocketAddr>)> {
        let peer = self.allowed_ips.read().lookup(address).cloned()?;
        let endpoint = lock(&peer.state).location.endpoint();
        Some((*peer.key(), endpoint.map(|endpoint| endpoint.dst)))
    }
}
