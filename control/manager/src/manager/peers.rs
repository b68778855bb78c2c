//! The peers of a tunnel, collected from its updates.

use crate::messages::{Agent, PeerUpdate, Workspace};
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

/// The age from which a handshake is no longer recent.
const RECENT: Duration = Duration::from_secs(5 * 60);
/// The latency from which a connection is slow.
const SLOW: Duration = Duration::from_millis(150);

/// Workspaces and agents, by id.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Peers {
    workspaces: BTreeMap<[u8; 16], Workspace>,
    agents: BTreeMap<[u8; 16], Agent>,
}

/// The quality of the connection to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentStatus {
    /// There was no handshake.
    Connecting,
    /// The last handshake was more than five minutes ago.
    NoRecentHandshake,
    /// A ping takes 150 ms or more.
    Slow,
    /// The last handshake is recent, and the latency is low.
    Fine,
}

impl Peers {
    /// Returns all workspaces, by id.
    pub fn workspaces(&self) -> impl Iterator<Item = &Workspace> {
        self.workspaces.values()
    }

    /// Returns all agents, by id. The workspace of an agent may be unknown.
    pub fn agents(&self) -> impl Iterator<Item = &Agent> {
        self.agents.values()
    }

    /// Applies an update, deletions first, so that an entry that is both deleted and upserted exists afterwards.
    /// Entries without an id of 16 bytes, and agents without a DNS name, are ignored; an agent replaces another one
    /// with its name in its workspace.
    pub fn apply(&mut self, update: &PeerUpdate) {
        let id = |id: &[u8]| <[u8; 16]>::try_from(id).ok();
        for gone in update.deleted_agents.iter().filter_map(|agent| id(&agent.id)) {
            self.agents.remove(&gone);
        }
        for gone in update.deleted_workspaces.iter().filter_map(|workspace| id(&workspace.id)) {
            self.workspaces.remove(&gone);
            self.agents.retain(|_, agent| agent.workspace_id != gone);
        }
        for workspace in &update.upserted_workspaces {
            if let Some(id) = id(&workspace.id) {
                self.workspaces.insert(id, workspace.clone());
            }
        }
        let mut names: BTreeMap<_, _> = BTreeMap::new();
        for agent in &update.upserted_agents {
            let (Some(id), Some(_)) = (id(&agent.id), id(&agent.workspace_id)) else { continue };
            if agent.fqdn.is_empty() {
                continue;
            }
            names.insert((agent.workspace_id.clone(), agent.name.clone()), id);
            self.agents.insert(id, agent.clone());
        }
        self.agents.retain(|id, agent| {
            names.get(&(agent.workspace_id.clone(), agent.name.clone())).is_none_or(|latest| latest == id)
        });
    }
}

impl AgentStatus {
    /// Returns the status of `agent` at `now`. A handshake in the future is ignored.
    #[must_use]
    pub fn of(agent: &Agent, now: SystemTime) -> Self {
        let handshake = agent.last_handshake.filter(|time| time.seconds > 0);
        let Some(handshake) = handshake.and_then(|time| SystemTime::try_from(time).ok()) else {
            return Self::Connecting;
        };
        let Ok(age) = now.duration_since(handshake) else { return Self::Connecting };
        if age > RECENT {
            return Self::NoRecentHandshake;
        }
        let latency = agent.last_ping.as_ref().and_then(|ping| ping.latency);
        match latency.map(Duration::try_from) {
            Some(Ok(latency)) if latency >= SLOW => Self::Slow,
            _ => Self::Fine,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::LastPing;

    fn agent(id: u8, name: &str) -> Agent {
        Agent {
            id: vec![id; 16],
            name: name.into(),
            workspace_id: vec![1; 16],
            fqdn: vec!["a.".into()],
            ..Agent::default()
        }
    }

    fn ids(peers: &Peers) -> Vec<u8> {
        peers.agents().map(|agent| agent.id[0]).collect()
    }

    #[test]
    fn updates_are_applied_in_order() {
        let workspace = Workspace { id: vec![1; 16], ..Workspace::default() };
        let mut peers = Peers::default();
        let upsert = |upserted_agents| PeerUpdate { upserted_agents, ..PeerUpdate::default() };
        let mut bad = [agent(5, "e"), agent(6, "f"), agent(7, "g")];
        bad[0].id.pop();
        bad[1].fqdn.clear();
        bad[2].workspace_id.clear();
        peers.apply(&upsert([&bad[..], &[agent(2, "b"), agent(3, "c")]].concat()));
        assert_eq!(ids(&peers), [2, 3]);
        // A workspace may come after its agents, and they stay.
        peers.apply(&PeerUpdate { upserted_workspaces: vec![workspace.clone()], ..PeerUpdate::default() });
        assert_eq!((ids(&peers), peers.workspaces().count()), (vec![2, 3], 1));
        peers.apply(&PeerUpdate { deleted_agents: vec![agent(2, "b")], ..upsert(vec![agent(2, "x")]) });
        assert_eq!(ids(&peers), [2, 3]);
        peers.apply(&upsert(vec![agent(4, "c")]));
        assert_eq!(ids(&peers), [2, 4]);
        peers.apply(&PeerUpdate { deleted_workspaces: vec![workspace], ..PeerUpdate::default() });
        assert_eq!((ids(&peers), peers.workspaces().count()), (vec![], 0));
    }

    #[test]
    fn a_status_is_that_of_the_last_handshake_and_ping() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let ping = |nanos| {
            let latency = Some(prost_types::Duration { seconds: 0, nanos });
            Some(LastPing { latency, ..LastPing::default() })
        };
        for (last_handshake, last_ping, expected) in [
            (None, None, AgentStatus::Connecting),
            (at(-62_135_596_800), None, AgentStatus::Connecting),
            (at(1_000_001), None, AgentStatus::Connecting),
            (at(i64::MAX), None, AgentStatus::Connecting),
            (at(999_699), ping(1), AgentStatus::NoRecentHandshake),
            (at(999_700), None, AgentStatus::Fine),
            (at(999_999), ping(149_999_999), AgentStatus::Fine),
            (at(999_999), ping(150_000_000), AgentStatus::Slow),
            (at(999_999), ping(-1), AgentStatus::Fine),
        ] {
            let agent = Agent { last_handshake, last_ping, ..Agent::default() };
            assert_eq!(AgentStatus::of(&agent, now), expected, "{agent:?}");
        }
    }
}
