//! What a manager prints: lines for people, or lines of JSON.

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

use super::run::Event;
use crate::{
    failure::Result,
    output::{BOLD, print, print_raw, styled},
};

/// Prints events. For people, of the peers only what has changed.
pub(super) struct Printer {
    json: bool,
    /// Each peer, by its name, as it was printed last.
    shown: BTreeMap<String, Shown>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    addresses: String,
    status: &'static str,
}

impl Printer {
    pub(super) const fn new(json: bool) -> Self {
        Self { json, shown: BTreeMap::new() }
    }

    /// The tunnel's process runs.
    pub(super) fn process(&self, id: u32, version: Version, interface: Option<&str>) -> Result<()> {
        if self.json {
            let version = version.to_string();
            return line(json!({ "event": "process", "pid": id, "version": version, "interface": interface }));
        }
        let of = interface.map(|name| format!(" for {name}")).unwrap_or_default();
        print(&format!("{} {id}{of}, version {version} of the protocol\n", styled(BOLD, "process")))
    }

    /// All is over, as was asked for.
    pub(super) fn stopped(&self) -> Result<()> {
        self.word("stopped")
    }

    fn word(&self, word: &str) -> Result<()> {
        if self.json { line(json!({ "event": word })) } else { print(&format!("{}\n", styled(BOLD, word))) }
    }

    /// Something has happened. Failures and the end are printed elsewhere.
    pub(super) fn event(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Started(Ok(())) => self.word("started"),
            Event::Settings(request, outcome) => self.settings(request, outcome.as_ref()),
            Event::Peers(peers) => self.peers(peers, SystemTime::now()),
            Event::Log(log) => self.log(log),
            Event::Started(Err(_)) | Event::Ended(_) | Event::Signal => Ok(()),
        }
    }

    fn settings(
        &self,
        request: &NetworkSettingsRequest,
        outcome: Option<&std::result::Result<(), String>>,
    ) -> Result<()> {
        // What cannot be understood has failed as well.
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
                    "name": agent.name,
                    "workspace": workspaces.get(agent.workspace_id.as_slice()),
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

    /// Lines about peers that are new, others, or gone.
    fn changes(&mut self, peers: &Peers, now: SystemTime) -> String {
        let mut out = String::new();
        let before = std::mem::take(&mut self.shown);
        for agent in peers.agents() {
            let name = one_line(&agent.name);
            let shown = Shown { addresses: one_line(&agent.ip_addrs.join(", ")), status: status(agent, now) };
            if before.get(&name) != Some(&shown) {
                let ping = latency(agent).map(|latency| format!(", {:.1} ms", latency.as_secs_f64() * 1e3));
                let Shown { addresses, status } = &shown;
                out += &format!("{} {name} {addresses}: {status}", styled(BOLD, "peer"));
                out += &ping.unwrap_or_default();
                out.push('\n');
            }
            self.shown.insert(name, shown);
        }
        for name in before.keys().filter(|name| !self.shown.contains_key(*name)) {
            out += &format!("{} {name}: removed\n", styled(BOLD, "peer"));
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

fn texts(values: &[impl Display]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

/// Text of another process, without what moves a terminal's cursor.
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
    use wg_embed_manager::messages::PeerUpdate;

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
}
