//! The peers of a configuration as agents.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;
use wg_embed::{config::wgquick::Conf, key::PublicKey};
use wg_embed_manager::{
    messages::workspace::Status,
    tunnel::{Agent, Id, Workspace},
};

use crate::engine::Peer;

/// The namespace of ids that are derived from keys and paths.
const NAMESPACE: Uuid = Uuid::from_u128(0x7a1d_36c2_4ce1_4d0b_9a55_0e6f_8d2b_71c4);

/// The maximum length of a label of a host name, in bytes.
const LABEL: usize = 63;

/// Returns the id of a key, which is always the same.
fn agent_id(key: &PublicKey) -> Id {
    Id(Uuid::new_v5(&NAMESPACE, key.as_bytes()).into_bytes())
}

/// Returns the workspace of all agents of a configuration. Its id is derived from `seed`.
pub(super) fn workspace(seed: &[u8], name: &str) -> Workspace {
    let id = Id(Uuid::new_v5(&NAMESPACE, seed).into_bytes());
    Workspace { id, name: name.to_owned(), status: Status::Running }
}

/// Returns the agents, in the order of the configuration, and their peers. `names` are those of the sections. Names are
/// distinct, because managers keep only one agent of each name.
pub(super) fn agents(workspace: &Workspace, conf: &Conf, names: &[Option<String>]) -> (Vec<Agent>, HashMap<Id, Peer>) {
    let mut agents: Vec<Agent> = Vec::new();
    let mut peers = HashMap::new();
    let mut taken = HashSet::new();
    for (number, peer) in conf.update.peers.iter().enumerate() {
        let id = agent_id(&peer.public_key);
        let hosts = peer.allowed_ips.iter().map(|change| change.prefix);
        let addresses: Vec<_> =
            hosts.filter(|prefix| prefix.prefix_len() == prefix.max_prefix_len()).map(|host| host.addr()).collect();
        // Of several sections with one key, the last one counts.
        if peers.insert(id, Peer { public_key: peer.public_key, address: addresses.first().copied() }).is_some()
            && let Some(at) = agents.iter().position(|agent| agent.id == id)
        {
            let before = agents.remove(at);
            taken.remove(&label(&before.name));
        }
        let short = Uuid::from_bytes(id.0).simple().to_string()[..8].to_owned();
        let name = names.get(number).cloned().flatten();
        let mut name = name.filter(|name| !label(name).is_empty()).unwrap_or_else(|| format!("peer-{short}"));
        if !taken.insert(label(&name)) {
            name = format!("{name}-{short}");
            taken.insert(label(&name));
        }
        let fqdn = vec![label(&name)];
        agents.push(Agent { id, name, workspace: workspace.id, fqdn, addresses });
    }
    (agents, peers)
}

/// Converts a name to a label of a host name: in lower case, with `-` for everything except letters and digits.
fn label(name: &str) -> String {
    let mut label = String::new();
    for c in name.chars().flat_map(char::to_lowercase) {
        let c = if c.is_alphanumeric() { c } else { '-' };
        if label.len() + c.len_utf8() > LABEL {
            break;
        }
        if c != '-' || !(label.is_empty() || label.ends_with('-')) {
            label.push(c);
        }
    }
    label.truncate(label.trim_end_matches('-').len());
    label
}

#[cfg(test)]
mod tests {
    use super::label;

    #[test]
    fn labels_are_those_of_host_names() {
        for (name, expected) in [
            ("laptop", "laptop"),
            ("Anna's laptop (new)", "anna-s-laptop-new"),
            ("--a--", "a"),
            ("...", ""),
            ("B\u{fc}ro", "b\u{fc}ro"),
        ] {
            assert_eq!(label(name), expected);
        }
        assert_eq!(label(&"x".repeat(100)).len(), 63);
        assert_eq!(label(&"\u{fc}".repeat(100)).len(), 62);
    }
}
