//! A tunnel whose configuration is replaced while connections go on.

use wg_embed::{
    config::{PeerUpdate, Update},
    device::Tunnel,
};
use wg_embed_netstack::Netstack;

use super::config::Config;

/// Changes a tunnel as far as its configuration has changed: sessions and endpoints that have moved are kept.
pub(super) fn tunnel(old: &Config, new: &Config, stack: &Netstack, tunnel: &Tunnel) -> Result<(), String> {
    // It is the step that may fail: then nothing else has changed.
    tunnel.device().apply(difference(&old.conf.update, &new.conf.update)).map_err(|e| e.to_string())?;
    let (addresses, mtu) = (super::addresses(new), super::mtu(new));
    // The larger MTU allows both old and new addresses.
    let say = |e: std::io::Error| e.to_string();
    if mtu > super::mtu(old) {
        stack.set_mtu(mtu).map_err(say)?;
    }
    stack.set_addresses(addresses).map_err(say)?;
    stack.set_mtu(mtu).map_err(say)?;
    stack.set_dns(new.conf.interface.dns.clone());
    Ok(())
}

/// What changes one configuration into another.
fn difference(old: &Update, new: &Update) -> Update {
    let mut update = Update {
        private_key: new.private_key.clone().filter(|_| new.private_key != old.private_key),
        // What is there no more is as if it had never been: 0 is the default of both.
        listen_port: (new.listen_port != old.listen_port).then(|| new.listen_port.unwrap_or(0)),
        fwmark: (new.fwmark != old.fwmark).then(|| new.fwmark.unwrap_or(0)),
        ..Update::default()
    };
    for peer in &old.peers {
        if new.peers.iter().all(|other| other.public_key != peer.public_key) {
            update.peers.push(PeerUpdate { remove: true, ..PeerUpdate::new(peer.public_key) });
        }
    }
    for peer in &new.peers {
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
            }
        }
        update.peers.push(peer);
    }
    update
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_is_as_by_default() {
        let old = Update { listen_port: Some(51_820), fwmark: Some(1), ..Update::default() };
        let update = difference(&old, &Update::default());
        assert_eq!((update.listen_port, update.fwmark), (Some(0), Some(0)));
        assert_eq!(difference(&old, &old), Update::default());
    }
}
