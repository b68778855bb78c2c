//! `conf sync`: applies a file to a running tunnel, and leaves everything unchanged that is equal already.

use std::{collections::HashMap, path::Path};

use serde::Serialize;
use wg_embed::{
    config::{AllowedIpUpdate, PeerUpdate, Update, snapshot::PeerSnapshot},
    key::PublicKey,
};

use super::{check::amount, read_conf};
use crate::{
    failure::Result,
    output::{print, print_json},
    resolve,
    socket::Sockets,
    state::State,
};

pub(crate) fn run(sockets: &Sockets, name: &str, file: &Path, dry_run: bool, json: bool) -> Result<()> {
    let mut conf = read_conf(file)?;
    let mut client = sockets.connect(name)?;
    resolve::names(&mut conf.update)?;
    let (update, changes) = difference(&client.get()?, conf.update);
    if !dry_run && update != Update::default() {
        client.set(&update)?;
    }
    if json {
        return print_json(&changes);
    }
    print(&changes.text(dry_run))
}

/// The changes of a sync, for people and scripts, without secrets.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Changes {
    /// `private_key`, `listen_port`, `fwmark`.
    interface: Vec<&'static str>,
    added: Vec<String>,
    removed: Vec<String>,
    changed: Vec<String>,
    unchanged: usize,
}

impl Changes {
    fn text(&self, dry_run: bool) -> String {
        let mut out = String::new();
        for what in &self.interface {
            out += &format!("~ {what}\n");
        }
        for (sign, keys) in [("+", &self.added), ("-", &self.removed), ("~", &self.changed)] {
            for key in keys {
                out += &format!("{sign} peer {key}\n");
            }
        }
        let would = if dry_run { "would be " } else { "" };
        let [added, removed, changed] = [&self.added, &self.removed, &self.changed].map(|keys| keys.len());
        out + &format!(
            "{} {would}added, {removed} removed, {changed} changed, {} left as they are\n",
            amount(added, "peer"),
            self.unchanged
        )
    }
}

/// Returns the changes from a state to the contents of a file. A port or a private key that the file lacks is kept: the
/// system has chosen the port, and a hook may have set the key.
fn difference(state: &State, wanted: Update) -> (Update, Changes) {
    let (mut update, mut changes) = (Update::default(), Changes::default());
    let interface = &state.interface;
    if let Some(key) = wanted.private_key.filter(|key| key.is_some() && *key != interface.private_key) {
        update.private_key = Some(key);
        changes.interface.push("private_key");
    }
    if let Some(port) = wanted.listen_port.filter(|port| *port != 0 && *port != interface.listen_port) {
        update.listen_port = Some(port);
        changes.interface.push("listen_port");
    }
    if let Some(mark) = wanted.fwmark.filter(|mark| *mark != interface.fwmark) {
        update.fwmark = Some(mark);
        changes.interface.push("fwmark");
    }
    let mut now: HashMap<PublicKey, &PeerSnapshot> = state.peers.iter().map(|peer| (peer.public_key, peer)).collect();
    let mut kept = Vec::new();
    for peer in joined(wanted.peers) {
        let Some(before) = now.remove(&peer.public_key) else {
            changes.added.push(peer.public_key.to_string());
            kept.push(peer);
            continue;
        };
        match changed(before, peer) {
            Some(change) => {
                changes.changed.push(change.public_key.to_string());
                kept.push(change);
            }
            None => changes.unchanged += 1,
        }
    }
    // Removed peers first, as others may take their prefixes.
    for peer in state.peers.iter().filter(|peer| now.contains_key(&peer.public_key)) {
        changes.removed.push(peer.public_key.to_string());
        update.peers.push(PeerUpdate { remove: true, update_only: true, ..PeerUpdate::new(peer.public_key) });
    }
    update.peers.append(&mut kept);
    (update, changes)
}

/// Merges the sections of each peer; a prefix belongs to the last peer that lists it.
fn joined(peers: Vec<PeerUpdate>) -> Vec<PeerUpdate> {
    let mut place: HashMap<PublicKey, usize> = HashMap::new();
    let mut all: Vec<PeerUpdate> = Vec::with_capacity(peers.len());
    for peer in peers {
        match place.get(&peer.public_key).and_then(|&index| all.get_mut(index)) {
            None => {
                place.insert(peer.public_key, all.len());
                all.push(peer);
            }
            Some(first) => {
                first.preshared_key = peer.preshared_key.or(first.preshared_key.take());
                first.endpoint = peer.endpoint.or(first.endpoint.take());
                first.persistent_keepalive = peer.persistent_keepalive.or(first.persistent_keepalive);
                first.allowed_ips.extend(peer.allowed_ips);
            }
        }
    }
    let mut owner = HashMap::new();
    for peer in &all {
        owner.extend(peer.allowed_ips.iter().map(|change| (change.prefix, peer.public_key)));
    }
    for peer in &mut all {
        let mut seen = std::collections::HashSet::new();
        let key = peer.public_key;
        peer.allowed_ips.retain(|change| owner.get(&change.prefix) == Some(&key) && seen.insert(change.prefix));
    }
    all
}

/// Returns only the differences; `None` without any.
fn changed(before: &PeerSnapshot, wanted: PeerUpdate) -> Option<PeerUpdate> {
    let mut change = PeerUpdate { update_only: true, ..PeerUpdate::new(wanted.public_key) };
    let key = wanted.preshared_key.unwrap_or_default();
    change.preshared_key = Some(key).filter(|key| **key != before.preshared_key);
    let is_there = |wanted: &wg_embed::config::PeerEndpoint| {
        before.endpoint.as_ref().is_some_and(|endpoint| wanted.to_string() == endpoint.to_string())
    };
    change.endpoint = wanted.endpoint.filter(|endpoint| !is_there(endpoint));
    let keepalive = wanted.persistent_keepalive.unwrap_or_default();
    change.persistent_keepalive = Some(keepalive).filter(|keepalive| *keepalive != before.persistent_keepalive);
    let mut prefixes = (before.allowed_ips.clone(), wanted.allowed_ips.iter().map(|c| c.prefix).collect::<Vec<_>>());
    prefixes.0.sort();
    prefixes.1.sort();
    if prefixes.0 != prefixes.1 {
        change.replace_allowed_ips = true;
        change.allowed_ips = wanted.allowed_ips.iter().map(|c| AllowedIpUpdate::add(c.prefix)).collect();
    }
    let nothing = PeerUpdate { update_only: true, ..PeerUpdate::new(change.public_key) };
    (change != nothing).then_some(change)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use wg_embed::config::wgquick::Conf;

    const KEYS: [&str; 3] = [
        "iiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiE=",
        "jjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjE=",
        "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkE=",
    ];

    fn state(text: &str) -> State {
        State::read(format!("{text}errno=0\n\n").as_bytes()).unwrap()
    }

    fn hex(key: &str) -> String {
        PublicKey::from_base64(key).unwrap().to_hex().to_string()
    }

    #[test]
    fn only_what_differs_is_sent() {
        let now = state(&format!(
            "listen_port=7\npublic_key={}\nendpoint=1.2.3.4:5\nallowed_ip=10.0.0.0/8\nallowed_ip=::/0\npublic_key={}\n",
            hex(KEYS[0]),
            hex(KEYS[1])
        ));
        let [a, b, c] = KEYS;
        let file: Conf = format!(
            "[Interface]\n[Peer]\nPublicKey={a}\nAllowedIPs=::/0,10.0.0.0/8\nEndpoint=1.2.3.4:5\n\
             [Peer]\nPublicKey={c}\nAllowedIPs=10.1.0.0/16\n"
        )
        .parse()
        .unwrap();
        let (update, changes) = difference(&now, file.update);
        assert_eq!((update.private_key, update.listen_port, update.replace_peers), (None, None, false));
        assert_eq!(
            (&changes.added[..], &changes.removed[..], changes.unchanged),
            (&[c.into()][..], &[b.into()][..], 1)
        );
        assert!(update.peers[0].remove && update.peers[0].public_key.to_string() == b);
        assert_eq!(update.peers[1].public_key.to_string(), c);

        let file: Conf =
            format!("[Interface]\nListenPort=8\n[Peer]\nPublicKey={a}\nAllowedIPs=::/0\n[Peer]\nPublicKey={b}")
                .parse()
                .unwrap();
        let (update, changes) = difference(&now, file.update);
        assert_eq!((update.listen_port, &changes.changed[..]), (Some(8), &[a.to_owned()][..]));
        assert!(update.peers[0].replace_allowed_ips && update.peers[0].endpoint.is_none());
    }

    #[test]
    fn what_the_file_said_already_changes_nothing() {
        let [a, b, _] = KEYS;
        let file: Conf = format!(
            "[Interface]\n[Peer]\nPublicKey={a}\nAllowedIPs=10.0.0.0/8\n\
             [Peer]\nPublicKey={b}\nAllowedIPs=10.0.0.0/8,::/0\n\
             [Peer]\nPublicKey={b}\nEndpoint=[::1]:5\n"
        )
        .parse()
        .unwrap();
        let now = state(&format!(
            "public_key={}\npublic_key={}\nendpoint=[::1]:5\nallowed_ip=10.0.0.0/8\nallowed_ip=::/0\n",
            hex(a),
            hex(b)
        ));
        assert_eq!(difference(&now, file.update).0, Update::default());
    }
}
