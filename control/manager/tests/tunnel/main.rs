//! The tunnel's side with an engine and a source that are scripts: recorded conversations, and what they do not have.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod both_sides;
#[path = "../common/mod.rs"]
mod common;
mod network_settings;
mod recorded;
mod scripted;

use common::{Wire, wire};
use prost::Message;
use scripted::{
    ASK, Did, ScriptedEngine, agent, agents, agree, id, ids, options, plan, script, serve, settings, start, started,
    up, workspace,
};
use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, SystemTime},
};
use wg_embed_manager::{
    messages::{
        GetPeerUpdate, ManagerMessage, NetworkSettingsResponse, PeerUpdate, Rpc, StartRequest, StopRequest,
        TunnelMessage, WakeRequest, manager_message, tunnel_message,
    },
    speaker::End,
    stream::encode,
    tunnel::{Change, Options, Ping, Plan, Relay, Settings, Tunnel},
};

#[test]
fn peers_can_be_asked_for_at_any_time() {
    let (mut script, did) = script(Ok(Plan { settings: vec![settings(1)], ..plan() }));
    script.handshakes.push((id(12), SystemTime::UNIX_EPOCH + Duration::from_secs(7)));
    let mut served = serve(ASK, (script, did));
    let get = || manager_message::Msg::GetPeerUpdate(GetPeerUpdate {});
    served.ask(get());
    assert_eq!(served.response(), tunnel_message::Msg::PeerUpdate(PeerUpdate::default()));
    // While a start waits for the manager.
    served.ask(start());
    let (Some(asked), tunnel_message::Msg::NetworkSettings(_)) = served.next() else { panic!() };
    served.ask(get());
    assert_eq!(served.response(), tunnel_message::Msg::PeerUpdate(PeerUpdate::default()));
    agree(&mut served, Some(asked));
    let (Some(Rpc { response_to: 2, .. }), tunnel_message::Msg::Start(_)) = served.next() else { panic!() };
    let update = served.update();
    served.ask(get());
    assert_eq!(served.response(), tunnel_message::Msg::PeerUpdate(update.clone()));
    assert_eq!(ids(update.upserted_workspaces.iter().map(|of| &of.id)), [1]);
    let [first, second] = &update.upserted_agents[..] else { panic!() };
    assert_eq!((first.fqdn[0].as_str(), first.fqdn[1].as_str()), ("short.", "long.name.example."));
    assert_eq!(first.ip_addrs, ["10.0.0.1", "fd00::1"]);
    assert_eq!(first.last_handshake.unwrap().seconds, -62_135_596_800);
    assert_eq!(second.last_handshake.unwrap().seconds, 7);
    assert_eq!(served.stop(), [Did::Opened, Did::Started(Some(7), 5), Did::Stopped]);
}

#[test]
fn changes_become_deltas() {
    let mut served = up(script(Ok(plan())));
    served.send(Change { configuration: Some(6), agents: vec![agent(13, 2)], ..Change::default() });
    assert_eq!(agents(&served.update().upserted_agents), [13]);
    assert_eq!(served.did(), Did::Applied(6));
    // A manager forgets the agents of a workspace that it is sent.
    served.send(Change { workspaces: vec![workspace(1)], deleted_workspaces: vec![id(1)], ..Change::default() });
    let update = served.update();
    assert_eq!((agents(&update.upserted_agents), update.deleted_workspaces.len()), (vec![11, 12], 0));
    // In both lists, and one that never was.
    let deleted_agents = vec![id(11), id(12), id(99), id(12)];
    served.send(Change { agents: vec![agent(11, 1)], deleted_agents, ..Change::default() });
    let update = served.update();
    assert_eq!((agents(&update.upserted_agents), agents(&update.deleted_agents)), (vec![11], vec![12]));
    assert_eq!((update.deleted_agents[0].last_handshake, update.deleted_agents[0].fqdn.len()), (None, 2));
    // Nothing is no message. Everything again: what is missing was deleted.
    served.send(Change::default());
    served.send(Change { is_complete: true, workspaces: vec![], agents: vec![agent(13, 2)], ..Change::default() });
    let update = served.update();
    assert_eq!((agents(&update.upserted_agents), agents(&update.deleted_agents)), (vec![13], vec![11]));
    assert_eq!(ids(update.deleted_workspaces.iter().map(|of| &of.id)), [1]);
    assert_eq!(served.stop(), [Did::Stopped]);
}

#[test]
fn pings_are_kept_and_relays_are_named() {
    let (mut script, did) = script(Ok(plan()));
    let relay = Relay { name: "relay".into(), latency: Some(Duration::from_millis(3)) };
    let ping = |relay: Option<Relay>| Ping { latency: Duration::from_millis(20), is_direct: relay.is_none(), relay };
    script.pings = vec![(id(11), ping(None)), (id(12), ping(Some(relay)))];
    let mut served = up((script, did));
    served.script.handle.get().unwrap().refresh();
    assert!(served.update().upserted_agents.iter().all(|agent| agent.last_ping.is_none()));
    assert_eq!(served.did(), Did::Pinged);
    served.send(Change { agents: vec![agent(11, 1), agent(12, 1)], ..Change::default() });
    let update = served.update();
    let pings: Vec<_> = update.upserted_agents.iter().map(|agent| agent.last_ping.clone().unwrap()).collect();
    assert_eq!((pings[0].did_p2p, pings[0].preferred_derp.as_str()), (true, ""));
    assert_eq!((pings[1].did_p2p, pings[1].preferred_derp.as_str()), (false, "relay"));
    assert_eq!(pings[1].preferred_derp_latency.unwrap().nanos, 3_000_000);
    assert_eq!(served.stop(), [Did::Stopped]);
}

#[test]
fn urls_are_checked() {
    let mut served = serve(Settings::Own, script(Ok(plan())));
    for (url, token, text) in [
        ("", "", "missing coder url"),
        ("file:///x", "", "missing api token"),
        ("a\u{1}b", "", "parse url \"a\\x01b\": invalid control character in URL"),
        ("/etc/x.conf", "token", "parse url \"/etc/x.conf\": missing protocol scheme"),
    ] {
        let (coder_url, api_token) = (url.into(), token.into());
        served.ask(manager_message::Msg::Start(StartRequest { coder_url, api_token, ..StartRequest::default() }));
        assert_eq!(served.response(), started(text));
    }
    assert_eq!(served.stop(), []);
}

#[test]
fn a_stop_does_not_wait_for_a_start() {
    let mut served = serve(ASK, script(Ok(Plan { settings: vec![settings(1)], ..plan() })));
    served.ask(start());
    served.ask(start());
    assert!(matches!(served.next().1, tunnel_message::Msg::NetworkSettings(_)));
    served.ask(manager_message::Msg::Stop(StopRequest {}));
    for id in 1..=2 {
        assert_eq!(served.next(), (Some(Rpc { msg_id: 0, response_to: id }), started("stopped")));
    }
    assert!(matches!(served.response(), tunnel_message::Msg::Stop(_)));
    assert_eq!(served.raw.rest(), []);
    assert_eq!(served.serve.join().unwrap(), End::Finished);
    assert_eq!(served.did.try_iter().collect::<Vec<_>>(), [Did::Opened]);
}

#[test]
fn wake_ups_in_a_row_are_one() {
    let mut served = serve(Settings::Own, script(Ok(plan())));
    let wake = || manager_message::Msg::Wake(WakeRequest {});
    served.ask(wake());
    assert!(matches!(served.response(), tunnel_message::Msg::Wake(_)));
    served.ask(start());
    served.response();
    served.update();
    for _ in 0..3 {
        served.ask(wake());
        assert!(matches!(served.response(), tunnel_message::Msg::Wake(_)));
    }
    assert_eq!(served.stop(), [Did::Opened, Did::Started(Some(7), 5), Did::Woken, Did::Stopped]);
}

#[test]
fn a_tunnel_ends_with_its_stream() {
    let mut served = up(script(Ok(plan())));
    served.raw.finish();
    assert_eq!(served.did(), Did::Stopped);
    assert_eq!(served.serve.join().unwrap(), End::PeerClosed);
    assert_eq!(served.raw.rest(), []);
    let changes = served.script.changes.lock().unwrap().take().unwrap();
    assert!(!changes.send(Change::default()));
}

/// The source is not to be hurried, and what it finds too late is undone.
#[test]
fn a_start_that_is_done_after_the_stop_is_undone() {
    let (script, did) = script(Ok(plan()));
    let (open, gate) = mpsc::channel();
    *script.gate.lock().unwrap() = Some(gate);
    let mut served = serve(Settings::Own, (script, did));
    served.ask(start());
    assert_eq!(served.did(), Did::Resolving);
    served.ask(manager_message::Msg::Stop(StopRequest {}));
    assert_eq!(served.next().1, started("stopped"));
    assert!(matches!(served.response(), tunnel_message::Msg::Stop(_)));
    assert_eq!(served.raw.rest(), []);
    open.send(()).unwrap();
    assert_eq!(served.serve.join().unwrap(), End::Finished);
    assert_eq!(served.did.try_iter().collect::<Vec<_>>(), [Did::Opened, Did::Started(Some(7), 5), Did::Stopped]);
}

/// With a manager that is gone the stream has ended; the start is not.
#[test]
fn a_start_ends_with_its_stream() {
    let mut served = serve(ASK, script(Ok(Plan { settings: vec![settings(1)], ..plan() })));
    served.ask(start());
    assert!(matches!(served.next().1, tunnel_message::Msg::NetworkSettings(_)));
    served.raw.finish();
    assert_eq!(served.serve.join().unwrap(), End::PeerClosed);
    assert_eq!(served.did.try_iter().collect::<Vec<_>>(), [Did::Opened]);
}

#[test]
fn a_response_that_is_sent_as_a_request_is_refused() {
    let mut served = serve(Settings::Own, script(Ok(plan())));
    served.ask(manager_message::Msg::NetworkSettings(NetworkSettingsResponse::default()));
    assert_eq!(served.raw.frame(), [0x0a, 2, 16, 1]);
    assert_eq!(served.stop(), []);
}

#[test]
fn agents_are_sent_at_each_interval() {
    let (script, _did) = script(Ok(plan()));
    let script = Arc::new(script);
    let (transport, mut raw) = wire(Wire::Pipes);
    raw.write(b"codervpn manager 1.0\n");
    let options = Options { interval: Some(Duration::from_millis(1)), ..options(Settings::Own) };
    let engine = Arc::new(ScriptedEngine(script.clone()));
    let tunnel = Tunnel::open(transport, options, script, engine).unwrap();
    raw.line();
    let serve = thread::spawn(move || tunnel.serve());
    let rpc = Some(Rpc { msg_id: 1, response_to: 0 });
    raw.write(&encode(&ManagerMessage { rpc, msg: Some(start()) }).unwrap());
    for number in 0..5 {
        let message = TunnelMessage::decode(&raw.frame()[..]).unwrap();
        match message.msg.unwrap() {
            tunnel_message::Msg::Start(_) => assert_eq!(number, 0),
            tunnel_message::Msg::PeerUpdate(update) => {
                assert_eq!(update.upserted_workspaces.len(), usize::from(number == 1));
                assert_eq!(update.upserted_agents.len(), 2);
            }
            other => panic!("{other:?}"),
        }
    }
    raw.finish();
    // It may be writing just now; any end is right.
    raw.rest();
    serve.join().unwrap();
}
