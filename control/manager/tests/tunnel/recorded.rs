//! Recorded conversations: what the tunnel was that sent them, and that this one sends the same.

use super::{
    common::{self, CONVERSATIONS, message, transcript},
    scripted::{ASK, Did, Script, script, serve},
};
use prost::Message;
use std::{
    sync::mpsc::Receiver,
    time::{Duration, SystemTime},
};
use wg_embed_manager::{
    messages::{self, TunnelMessage, tunnel_message},
    speaker::End,
    stream::encode,
    tunnel::{Agent, Change, Id, Ping, Plan, Relay, Workspace},
};

/// What the recorded tunnel was: the plan that its messages show.
fn recorded(lines: &[common::Line]) -> (Script, Receiver<Did>) {
    let mut plan: Option<Plan<u32>> = None;
    let (mut log, mut pings, mut handshakes, mut all_settings) = (None, Vec::new(), Vec::new(), Vec::new());
    let mut error = None;
    for bytes in lines.iter().skip(2).filter(|line| line.by == 'T').filter_map(|line| line.bytes.as_ref()) {
        match TunnelMessage::decode(message(bytes)).unwrap().msg.unwrap() {
            tunnel_message::Msg::Log(line) => log = Some(line),
            tunnel_message::Msg::NetworkSettings(request) => all_settings.push(request),
            tunnel_message::Msg::Start(response) => {
                error = response.error_message.strip_prefix("failed to start connection: ").map(String::from);
            }
            tunnel_message::Msg::PeerUpdate(update) => {
                for agent in &update.upserted_agents {
                    let id = Id(agent.id.clone().try_into().unwrap());
                    if let Some(time) = agent.last_handshake.filter(|time| time.seconds > 0) {
                        handshakes.push((id, SystemTime::try_from(time).unwrap()));
                    }
                    if let Some(ping) = &agent.last_ping {
                        pings.push((id, back_ping(ping)));
                    }
                }
                plan.get_or_insert_with(|| Plan {
                    settings: Vec::new(),
                    workspaces: update.upserted_workspaces.iter().map(back_workspace).collect(),
                    agents: update.upserted_agents.iter().map(back_agent).collect(),
                    configuration: 0,
                });
            }
            _ => {}
        }
    }
    let plan = match (error, all_settings.is_empty()) {
        (Some(error), true) => Err(error),
        _ => Ok(Plan { settings: all_settings, ..plan.unwrap_or_default() }),
    };
    let (mut script, did) = script(plan);
    (script.log, script.handshakes, script.pings) = (log, handshakes, pings);
    (script, did)
}

fn back_workspace(of: &messages::Workspace) -> Workspace {
    Workspace { id: Id(of.id.clone().try_into().unwrap()), name: of.name.clone(), status: of.status() }
}

fn back_ping(of: &messages::LastPing) -> Ping {
    let duration = |of: prost_types::Duration| Duration::try_from(of).unwrap();
    let relay = Relay { name: of.preferred_derp.clone(), latency: of.preferred_derp_latency.map(duration) };
    Ping { latency: duration(of.latency.unwrap()), is_direct: of.did_p2p, relay: Some(relay) }
}

fn back_agent(of: &messages::Agent) -> Agent {
    Agent {
        id: Id(of.id.clone().try_into().unwrap()),
        name: of.name.clone(),
        workspace: Id(of.workspace_id.clone().try_into().unwrap()),
        fqdn: of.fqdn.clone(),
        addresses: of.ip_addrs.iter().map(|address| address.parse().unwrap()).collect(),
    }
}

/// The bytes of a recorded frame as this tunnel writes them: the recorded source has put words in front of a refusal.
fn ours(frame: &[u8]) -> Vec<u8> {
    let mut expected = TunnelMessage::decode(message(frame)).unwrap();
    if let Some(tunnel_message::Msg::Start(response)) = &mut expected.msg {
        response.error_message = response.error_message.replace("set router: ", "");
    }
    encode(&expected).unwrap()
}

#[test]
fn recorded_conversations_are_the_same() {
    for name in CONVERSATIONS {
        let lines = transcript(name);
        let mut served = serve(ASK, recorded(&lines));
        let (mut updates, mut others) = (0, 0);
        for line in &lines[2..] {
            let Some(bytes) = &line.bytes else { continue };
            if line.by == 'M' {
                served.raw.write(bytes);
                continue;
            }
            let recorded = TunnelMessage::decode(message(bytes)).unwrap();
            if let (None, Some(tunnel_message::Msg::PeerUpdate(update))) = (&recorded.rpc, &recorded.msg) {
                updates += 1;
                if !update.deleted_agents.is_empty() {
                    served.send(Change {
                        deleted_workspaces: update.deleted_workspaces.iter().map(|of| back_workspace(of).id).collect(),
                        deleted_agents: update.deleted_agents.iter().map(|of| back_agent(of).id).collect(),
                        ..Change::default()
                    });
                } else if updates > 1 {
                    served.script.handle.get().unwrap().refresh();
                    // The result is in the next one.
                    while updates == 2 && served.did() != Did::Pinged {}
                }
            }
            let expected = ours(bytes);
            others += usize::from(expected != *bytes);
            assert_eq!(served.raw.read(expected.len()), expected, "{name}: {recorded:?}");
        }
        assert_eq!(others, usize::from(name == "settings-refused"));
        assert_eq!(served.raw.rest(), [], "{name}");
        assert_eq!(served.serve.join().unwrap(), End::Finished);
        let was_up = name == "full";
        assert_eq!(served.did.try_iter().filter(|did| *did == Did::Stopped).count(), usize::from(was_up), "{name}");
    }
}
