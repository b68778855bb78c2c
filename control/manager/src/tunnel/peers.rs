//! The peers as a manager has them: the messages for changes, and for the complete list.

use super::Change;
use crate::messages::{self, LastPing, PeerUpdate, workspace::Status};
use prost_types::Timestamp;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    time::{Duration, SystemTime},
};

/// The first second of the year 1, which means that there was no handshake.
const NEVER: Timestamp = Timestamp { seconds: -62_135_596_800, nanos: 0 };

/// A UUID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub [u8; 16]);

/// A group of agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// Its id.
    pub id: Id,
    /// Its name for the user interface.
    pub name: String,
    /// Its status.
    pub status: Status,
}

/// A peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Its id.
    pub id: Id,
    /// Its name for the user interface.
    pub name: String,
    /// The id of its workspace.
    pub workspace: Id,
    /// Its DNS names. They are sent with a dot at the end, the shortest first; an empty list stands for `name`.
    pub fqdn: Vec<String>,
    /// Its addresses in the tunnel.
    pub addresses: Vec<IpAddr>,
}

/// The time of a peer's last handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// It cannot be determined.
    Unknown,
    /// There was no handshake.
    Never,
    /// The time of the handshake.
    At(SystemTime),
}

/// An answer to a ping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ping {
    /// The round-trip time.
    pub latency: Duration,
    /// Whether it arrived without a relay; always true if there are no relays.
    pub is_direct: bool,
    /// The relay that the peer prefers, if any.
    pub relay: Option<Relay>,
}

/// A relay, which forwards packets between peers that cannot reach each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relay {
    /// Its name for the user interface.
    pub name: String,
    /// Its latency, if known.
    pub latency: Option<Duration>,
}

/// All entries that were sent to the manager.
#[derive(Debug, Default)]
pub(super) struct Table {
    workspaces: Ordered<Workspace>,
    agents: Ordered<Entry>,
}

#[derive(Debug)]
struct Entry {
    agent: Agent,
    last_ping: Option<LastPing>,
}

impl Table {
    /// Applies a change, and returns the message for the manager.
    ///
    /// Managers forget the agents of a workspace that they receive, so these are sent with it. No id is both upserted
    /// and deleted, because managers differ in the order of the two.
    pub(super) fn change<C>(&mut self, change: Change<C>, handshake: &mut dyn FnMut(&Id) -> Handshake) -> PeerUpdate {
        let workspaces: HashSet<_> = change.workspaces.iter().map(|workspace| workspace.id).collect();
        let mut agents: HashSet<_> = change.agents.iter().map(|agent| agent.id).collect();
        let (mut gone_agents, mut gone_workspaces) = (change.deleted_agents, change.deleted_workspaces);
        if change.is_complete {
            gone_agents.extend(self.agents.ids());
            gone_workspaces.extend(self.workspaces.ids());
        }
        let mut update = PeerUpdate::default();
        for id in gone_agents.into_iter().filter(|id| !agents.contains(id)) {
            update.deleted_agents.extend(self.agents.remove(&id).map(|entry| agent(&entry, None)));
        }
        for id in gone_workspaces.into_iter().filter(|id| !workspaces.contains(id)) {
            update.deleted_workspaces.extend(self.workspaces.remove(&id).map(|gone| workspace(&gone)));
        }
        for new in change.workspaces {
            self.workspaces.put(new.id, new);
        }
        for new in change.agents {
            let last_ping = self.agents.remove_value(&new.id).and_then(|entry| entry.last_ping);
            self.agents.put(new.id, Entry { agent: new, last_ping });
        }
        agents.extend(
            self.agents.iter().filter(|entry| workspaces.contains(&entry.agent.workspace)).map(|entry| entry.agent.id),
        );
        update.upserted_workspaces =
            self.workspaces.iter().filter(|entry| workspaces.contains(&entry.id)).map(workspace).collect();
        update.upserted_agents = self
            .agents
            .iter()
            .filter(|entry| agents.contains(&entry.agent.id))
            .map(|entry| agent(entry, Some(handshake(&entry.agent.id))))
            .collect();
        update
    }

    /// Returns all entries, as upserts.
    pub(super) fn everything(&self, handshake: &mut dyn FnMut(&Id) -> Handshake) -> PeerUpdate {
        let upserted_workspaces = self.workspaces.iter().map(workspace).collect();
        PeerUpdate { upserted_workspaces, ..self.agents(handshake) }
    }

    /// Returns all agents, as upserts.
    pub(super) fn agents(&self, handshake: &mut dyn FnMut(&Id) -> Handshake) -> PeerUpdate {
        let agents = self.agents.iter().map(|entry| agent(entry, Some(handshake(&entry.agent.id))));
        PeerUpdate { upserted_agents: agents.collect(), ..PeerUpdate::default() }
    }

    /// Returns the ids of all agents.
    pub(super) fn agent_ids(&self) -> Vec<Id> {
        self.agents.ids()
    }

    /// Stores an answer to a ping.
    pub(super) fn pinged(&mut self, id: &Id, ping: Ping) {
        let Some(entry) = self.agents.get_mut(id) else { return };
        let relay = ping.relay.unwrap_or_default();
        entry.last_ping = Some(LastPing {
            latency: duration(ping.latency),
            did_p2p: ping.is_direct,
            preferred_derp: relay.name,
            preferred_derp_latency: relay.latency.and_then(duration),
        });
    }
}

fn duration(duration: Duration) -> Option<prost_types::Duration> {
    duration.try_into().ok()
}

fn workspace(workspace: &Workspace) -> messages::Workspace {
    messages::Workspace { id: workspace.id.0.to_vec(), name: workspace.name.clone(), status: workspace.status.into() }
}

/// Converts an agent to its message; without a handshake, as for a deleted one.
fn agent(entry: &Entry, handshake: Option<Handshake>) -> messages::Agent {
    let Agent { id, name, workspace, fqdn, addresses } = &entry.agent;
    let mut fqdn: Vec<_> =
        fqdn.iter().filter(|name| !name.is_empty()).map(|name| format!("{}.", name.trim_end_matches('.'))).collect();
    fqdn.sort_by_key(String::len);
    if fqdn.is_empty() {
        // Managers refuse a message without this field, or fail.
        fqdn.push(format!("{}.", if name.is_empty() { "unnamed" } else { name }));
    }
    let mut seen = HashSet::new();
    messages::Agent {
        id: id.0.to_vec(),
        name: name.clone(),
        workspace_id: workspace.0.to_vec(),
        fqdn,
        ip_addrs: addresses.iter().filter(|address| seen.insert(**address)).map(ToString::to_string).collect(),
        last_handshake: match handshake {
            None | Some(Handshake::Unknown) => None,
            Some(Handshake::Never) => Some(NEVER),
            Some(Handshake::At(time)) => Some(time.into()),
        },
        last_ping: if handshake.is_some() { entry.last_ping.clone() } else { None },
    }
}

/// A map that preserves the order of first insertion.
#[derive(Debug)]
struct Ordered<T> {
    places: HashMap<Id, u64>,
    values: BTreeMap<u64, Option<T>>,
    next: u64,
}

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Self { places: HashMap::new(), values: BTreeMap::new(), next: 0 }
    }
}

impl<T> Ordered<T> {
    fn put(&mut self, id: Id, value: T) {
        let place = *self.places.entry(id).or_insert_with(|| {
            self.next += 1;
            self.next
        });
        self.values.insert(place, Some(value));
    }

    /// Removes a value, and keeps its place.
    fn remove_value(&mut self, id: &Id) -> Option<T> {
        self.values.get_mut(self.places.get(id)?)?.take()
    }

    fn remove(&mut self, id: &Id) -> Option<T> {
        self.values.remove(&self.places.remove(id)?)?
    }

    fn get_mut(&mut self, id: &Id) -> Option<&mut T> {
        self.values.get_mut(self.places.get(id)?)?.as_mut()
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.values.values().flatten()
    }

    fn ids(&self) -> Vec<Id> {
        let mut places: Vec<_> = self.places.iter().map(|(id, place)| (*place, *id)).collect();
        places.sort_unstable();
        places.into_iter().map(|(_, id)| id).collect()
    }
}
