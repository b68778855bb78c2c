//! The output of a manager: lines for people, or lines of JSON.

use std::{
    collections::BTreeMap,
    fmt::Display,
    time::{Duration, SystemTime},
};

use serde_json::{Map, Value, json};
use wg_embed_manager::{
    manager::{AgentStatus, Peers},
    messages::{Agent, Log, NetworkSettingsRequest},
    stream::Version,
};
use wg_embed_settings::{Settings, manager::settings};

use crate::{
    failure::Result,
    output::{BOLD, print, print_raw, styled},
};

/// An event to print.
pub(super) enum Event {
    /// The tunnel's process is running.
    Process { id: u32, version: Version, interface: Option<String> },
    /// The tunnel has been started.
    Started,
    /// Settings, and the result of applying them; `None`: nothing is configured here.
    Settings(Box<NetworkSettingsRequest>, Option<std::result::Result<(), String>>),
    /// All peers.
    Peers(Peers),
    /// A line of the tunnel's log.
    Log(Log),
    /// The number of settings and log lines that were dropped because the output was not read.
    Dropped(u64),
    /// The requested end.
    Stopped,
}

/// Prints events. For people, only changes of peers are printed.
pub(super) struct Printer {
    json: bool,
    /// The last printed state of each peer, by id.
    shown: BTreeMap<Vec<u8>, Shown>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    name: String,
    addresses: String,
    status: &'static str,
}

impl Printer {
    pub(super) const fn new(json: bool) -> Self {
        Self { json, shown: BTreeMap::new() }
    }

    fn process(&self, id: u32, version: Version, interface: Option<&str>) -> Result<()> {
        if self.json {
            let version = version.to_string();
            return line(json!({ "event": "process", "pid": id, "version": version, "interface": interface }));
        }
        let of = interface.map(|name| format!(" for {name}")).unwrap_or_default();
        print(&format!("{} {id}{of}, version {version} of the protocol\n", styled(BOLD, "process")))
    }

    fn word(&self, word: &str) -> Result<()> {
        if self.json { line(json!({ "event": word })) } else { print(&format!("{}\n", styled(BOLD, word))) }
    }

    /// Prints an event.
    pub(super) fn event(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Process { id, version, interface } => self.process(*id, *version, interface.as_deref()),
            Event::Started => self.word("started"),
            Event::Settings(request, outcome) => self.settings(request, outcome.as_ref()),
            Event::Peers(peers) => self.peers(peers, SystemTime::now()),
            Event::Log(log) => self.log(log),
            Event::Dropped(count) if self.json => line(json!({ "event": "dropped", "count": count })),
            Event::Dropped(count) => print(&format!("{} {count}, as they were not read\n", styled(BOLD, "dropped"))),
            Event::Stopped => self.word("stopped"),
        }
    }

    fn settings(
        &self,
        request: &NetworkSettingsRequest,
        outcome: Option<&std::result::Result<(), String>>,
    ) -> Result<()> {
        // Invalid settings are a failure as well.
        let settings = settings(request).unwrap_or_default();
        let error = outcome.and_then(|outcome| outcome.as_ref().err());
        if self.json {
            let Settings { addresses, routes, excluded, mtu, dns, .. } = settings;
            return line(json!({
                "event": "settings",
                "addresses": texts(&addresses),
                "routes": texts(&routes),
                "excluded": texts(&excluded),
                "mtu": mtu,
                "dns": { "servers": texts(&dns.servers), "search": dns.search, "only": dns.only },
                "applied": outcome.is_some_and(std::result::Result::is_ok),
                "error": error,
            }));
        }
        let mut parts = Vec::new();
        for (name, values) in [
            ("addresses", texts(&settings.addresses)),
            ("routes", texts(&settings.routes)),
            ("excluded", texts(&settings.excluded)),
            ("DNS", texts(&settings.dns.servers)),
            ("MTU", texts(settings.mtu.as_slice())),
        ] {
            if !values.is_empty() {
                parts.push(format!("{name} {}", values.join(", ")));
            }
        }
        let outcome = match (outcome, error) {
            (None, _) => ": not configured here".into(),
            (_, None) => String::new(),
            (_, Some(error)) => format!(": {}", one_line(error)),
        };
        print(&format!("{} {}{outcome}\n", styled(BOLD, "settings"), parts.join("; ")))
    }

    fn peers(&mut self, peers: &Peers, now: SystemTime) -> Result<()> {
        if self.json {
            let workspaces: BTreeMap<_, _> = peers.workspaces().map(|w| (w.id.as_slice(), w.name.as_str())).collect();
            let peer = |agent: &Agent| {
                json!({
                    "id": hex(&agent.id),
                    "name": agent.name,
                    "workspace": workspaces.get(agent.workspace_id.as_slice()),
                    "workspace_id": hex(&agent.workspace_id),
                    "addresses": agent.ip_addrs,
                    "names": agent.fqdn,
                    "status": status(agent, now),
                    "last_handshake_time_sec": agent.last_handshake.map(|at| at.seconds).filter(|at| *at > 0),
                    "latency_ms": latency(agent).map(|latency| latency.as_secs_f64() * 1e3),
                })
            };
            return line(json!({ "event": "peers", "peers": peers.agents().map(peer).collect::<Vec<_>>() }));
        }
        print(&self.changes(peers, now))
    }

    /// Returns lines about new, changed and removed peers. With several workspaces, names begin with theirs.
    fn changes(&mut self, peers: &Peers, now: SystemTime) -> String {
        let mut out = String::new();
        let before = std::mem::take(&mut self.shown);
        let workspaces: BTreeMap<_, _> = peers.workspaces().map(|w| (w.id.as_slice(), w.name.as_str())).collect();
        for agent in peers.agents() {
            let workspace = workspaces.get(agent.workspace_id.as_slice()).filter(|_| workspaces.len() > 1);
            let name = workspace.map_or_else(|| agent.name.clone(), |workspace| format!("{workspace}/{}", agent.name));
            let (name, addresses) = (one_line(&name), one_line(&agent.ip_addrs.join(", ")));
            let shown = Shown { name, addresses, status: status(agent, now) };
            if before.get(&agent.id) != Some(&shown) {
                let ping = latency(agent).map(|latency| format!(", {:.1} ms", latency.as_secs_f64() * 1e3));
                let Shown { name, addresses, status } = &shown;
                out += &format!("{} {name} {addresses}: {status}", styled(BOLD, "peer"));
                out += &ping.unwrap_or_default();
                out.push('\n');
            }
            self.shown.insert(agent.id.clone(), shown);
        }
        for (_, gone) in before.iter().filter(|(id, _)| !self.shown.contains_key(*id)) {
            out += &format!("{} {}: removed\n", styled(BOLD, "peer"), gone.name);
        }
        out
    }

    fn log(&self, log: &Log) -> Result<()> {
        let level = log.level().as_str_name();
        if self.json {
            let fields: Map<_, _> = log.fields.iter().map(|f| (f.name.clone(), Value::from(&*f.value))).collect();
            return line(json!({
                "event": "log",
                "level": level.to_lowercase(),
                "message": log.message,
                "loggers": log.logger_names,
                "fields": fields,
            }));
        }
        let mut text = one_line(&log.message);
        for field in &log.fields {
            text += &format!(" {}={}", one_line(&field.name), one_line(&field.value));
        }
        print(&format!("{} {level} {text}\n", styled(BOLD, "log")))
    }
}

fn status(agent: &Agent, now: SystemTime) -> &'static str {
    match AgentStatus::of(agent, now) {
        AgentStatus::Connecting => "connecting",
        AgentStatus::NoRecentHandshake => "no recent handshake",
        AgentStatus::Slow => "slow",
        AgentStatus::Fine => "fine",
    }
}

fn latency(agent: &Agent) -> Option<Duration> {
    Duration::try_from(agent.last_ping.as_ref()?.latency?).ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn texts(values: &[impl Display]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

/// Returns text of another process without characters that move a terminal's cursor.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// Writes a line of JSON.
fn line(value: Value) -> Result<()> {
    print_raw(format!("{value}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use wg_embed_manager::messages::{PeerUpdate, Workspace};

    fn agent(id: u8, name: &str) -> Agent {
        Agent {
            id: vec![id; 16],
            name: name.into(),
            workspace_id: vec![9; 16],
            fqdn: vec![format!("{name}.")],
            ip_addrs: vec!["10.0.0.1".into()],
            ..Agent::default()
        }
    }

    #[test]
    fn only_what_has_changed_is_printed() {
        let mut printer = Printer::new(false);
        let mut peers = Peers::default();
        let upsert = |agents| PeerUpdate { upserted_agents: agents, ..PeerUpdate::default() };
        let now = SystemTime::UNIX_EPOCH;
        let mut lines = |peers: &Peers| anstream::adapter::strip_str(&printer.changes(peers, now)).to_string();
        peers.apply(&upsert(vec![agent(1, "a"), agent(2, "b\u{1b}[2J")]));
        assert_eq!(lines(&peers), "peer a 10.0.0.1: connecting\npeer b [2J 10.0.0.1: connecting\n");
        assert_eq!(lines(&peers), "");
        peers.apply(&PeerUpdate { deleted_agents: vec![agent(2, "")], ..upsert(vec![agent(3, "c")]) });
        assert_eq!(lines(&peers), "peer c 10.0.0.1: connecting\npeer b [2J: removed\n");
    }

    #[test]
    fn agents_of_one_name_are_told_apart() {
        let mut printer = Printer::new(false);
        let mut peers = Peers::default();
        let mut lines =
            |peers: &Peers| anstream::adapter::strip_str(&printer.changes(peers, SystemTime::UNIX_EPOCH)).to_string();
        let workspace = |id: u8, name: &str| Workspace { id: vec![id; 16], name: name.into(), ..Workspace::default() };
        let other = Agent { workspace_id: vec![8; 16], ip_addrs: vec!["10.0.0.2".into()], ..agent(2, "main") };
        peers.apply(&PeerUpdate {
            upserted_workspaces: vec![workspace(9, "home"), workspace(8, "office")],
            upserted_agents: vec![agent(1, "main"), other.clone()],
            ..PeerUpdate::default()
        });
        assert_eq!(lines(&peers), "peer home/main 10.0.0.1: connecting\npeer office/main 10.0.0.2: connecting\n");
        assert_eq!(lines(&peers), "", "neither has changed");
        peers.apply(&PeerUpdate { deleted_agents: vec![other], ..PeerUpdate::default() });
        assert_eq!(lines(&peers), "peer office/main: removed\n");
    }
}
