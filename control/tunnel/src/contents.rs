//! The contents of a source of peers for its manager, and the differences between two of them.

mod agents;
mod comments;
mod settings;

use std::{collections::HashMap, hash::Hash};

use wg_embed::{config::wgquick::Conf, error::Result};
use wg_embed_manager::{
    messages::NetworkSettingsRequest,
    tunnel::{Agent, Change, Id, Plan, Workspace},
};

use crate::engine::Configuration;

/// A complete set of contents.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// The settings of the system's network.
    pub settings: NetworkSettingsRequest,
    /// The groups of the agents, with distinct ids.
    pub workspaces: Vec<Workspace>,
    /// The peers as they are presented to the manager, with distinct ids.
    pub agents: Vec<Agent>,
    /// The configuration for the engine.
    pub configuration: Configuration,
}

impl Contents {
    /// Parses a wg-quick `.conf` file: it is one workspace, whose id is derived from `seed`, and each peer is an agent
    /// of it. The settings are those of the file.
    ///
    /// # Errors
    /// The reason why the file is refused, with the line.
    pub fn of_conf(seed: &[u8], name: &str, bytes: &[u8]) -> Result<Self> {
        let conf = Conf::from_bytes(bytes)?;
        let workspace = agents::workspace(seed, name);
        let (agents, peers) = agents::agents(&workspace, &conf, &comments::names(bytes));
        let settings = settings::settings(&conf);
        let configuration = Configuration { conf, peers, guard: None };
        Ok(Self { settings, workspaces: vec![workspace], agents, configuration })
    }

    /// Returns the contents for a start.
    #[must_use]
    pub fn plan(&self) -> Plan<Configuration> {
        Plan {
            settings: vec![self.settings.clone()],
            workspaces: self.workspaces.clone(),
            agents: self.agents.clone(),
            configuration: self.configuration.clone(),
        }
    }

    /// Returns the differences in `new`; `None` without any.
    #[must_use]
    pub fn change(&self, new: &Self) -> Option<Change<Configuration>> {
        let (ours, theirs) = (&self.configuration, &new.configuration);
        let (workspaces, deleted_workspaces) = differences(&self.workspaces, &new.workspaces, |workspace| workspace.id);
        let (agents, deleted_agents) = differences(&self.agents, &new.agents, |agent| agent.id);
        let change = Change {
            is_complete: false,
            workspaces,
            agents,
            deleted_workspaces,
            deleted_agents,
            configuration: (ours.conf != theirs.conf || ours.peers != theirs.peers).then(|| theirs.clone()),
            settings: (self.settings != new.settings).then(|| new.settings.clone()).into_iter().collect(),
        };
        let is_same = change.configuration.is_none()
            && change.settings.is_empty()
            && change.workspaces.is_empty()
            && change.agents.is_empty()
            && change.deleted_workspaces.is_empty()
            && change.deleted_agents.is_empty();
        (!is_same).then_some(change)
    }
}

/// Returns the new and changed entries, and the ids of deleted ones.
fn differences<T: Clone + PartialEq>(old: &[T], new: &[T], id: impl Fn(&T) -> Id) -> (Vec<T>, Vec<Id>) {
    let by_id = |items| index(items, &id);
    let (before, after) = (by_id(old), by_id(new));
    let changed = new.iter().filter(|item| before.get(&id(item)) != Some(item)).cloned().collect();
    let gone = old.iter().map(&id).filter(|id| !after.contains_key(id)).collect();
    (changed, gone)
}

fn index<T, K: Eq + Hash>(items: &[T], key: impl Fn(&T) -> K) -> HashMap<K, &T> {
    items.iter().map(|item| (key(item), item)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use wg_embed_manager::messages::workspace::Status;

    fn id(number: u8) -> Id {
        Id([number; 16])
    }

    fn workspace(number: u8, name: &str) -> Workspace {
        Workspace { id: id(number), name: name.into(), status: Status::Running }
    }

    fn agent(number: u8, name: &str) -> Agent {
        Agent { id: id(number), name: name.into(), workspace: id(1), fqdn: Vec::new(), addresses: Vec::new() }
    }

    #[test]
    fn only_what_differs_is_a_change() {
        let old = Contents {
            workspaces: vec![workspace(1, "a"), workspace(2, "b")],
            agents: vec![agent(3, "c"), agent(4, "d"), agent(5, "e")],
            ..Contents::default()
        };
        assert!(old.change(&old.clone()).is_none());
        let mut new = Contents {
            workspaces: vec![workspace(1, "a"), workspace(9, "f")],
            agents: vec![agent(5, "e"), agent(3, "C"), agent(8, "g")],
            ..Contents::default()
        };
        new.settings.mtu = 1280;
        let change = old.change(&new).unwrap();
        assert_eq!((change.workspaces, change.deleted_workspaces), (vec![workspace(9, "f")], vec![id(2)]));
        assert_eq!((change.agents, change.deleted_agents), (vec![agent(3, "C"), agent(8, "g")], vec![id(4)]));
        assert_eq!((change.configuration.is_none(), change.settings.len(), change.is_complete), (true, 1, false));
    }
}
