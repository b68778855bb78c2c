//! A manager and a tunnel of this package, connected.

use super::{
    common::{PATIENCE, pair, patient},
    scripted::{ASK, Did, Script, ScriptedEngine, agent, id, options, plan, script, settings, start},
};
use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
};
use wg_embed_manager::{
    manager::{self, Error, Host, Manager, Peers},
    messages::{Log, NetworkSettingsRequest, PeerUpdate, StartRequest, manager_message},
    speaker::End,
    tunnel::{Change, Plan, Tunnel},
};

/// A manager of ours at the other end.
struct Tray(Sender<Vec<String>>);

impl Host for Tray {
    fn configure(&self, settings: &NetworkSettingsRequest) -> Result<(), String> {
        if settings.mtu == 666 { Err("no such number".into()) } else { Ok(()) }
    }

    fn peers_changed(&self, peers: &Peers) {
        // The test may be over.
        let _ = self.0.send(peers.agents().map(|agent| agent.name.clone()).collect());
    }

    fn log(&self, _: Log) {}

    fn ended(&self, _: End) {}
}

fn managed(script: Script) -> (Manager, Arc<Script>, Receiver<Vec<String>>, JoinHandle<End>) {
    let (ours, theirs) = pair();
    let script = Arc::new(script);
    let engine = Arc::new(ScriptedEngine(script.clone()));
    let source = script.clone();
    let serve = thread::spawn(move || Tunnel::open(theirs, options(ASK), source, engine).unwrap().serve());
    let (sender, peers) = mpsc::channel();
    let options = manager::Options { stream: patient(), start_timeout: PATIENCE, timeout: PATIENCE };
    (Manager::open(ours, options, Arc::new(Tray(sender))).unwrap(), script, peers, serve)
}

fn request() -> StartRequest {
    let manager_message::Msg::Start(request) = start() else { panic!() };
    request
}

#[test]
fn both_sides_work_together() {
    let (script, did) = script(Ok(Plan { settings: vec![settings(1), settings(2)], ..plan() }));
    let (manager, script, peers, serve) = managed(script);
    assert_eq!(manager.refresh(), Ok(PeerUpdate::default()));
    assert_eq!(manager.start(request()), Ok(()));
    assert_eq!(peers.recv_timeout(PATIENCE).unwrap(), ["agent-11", "agent-12"]);
    assert_eq!(manager.wake(), Ok(true));
    let change = Change { agents: vec![agent(13, 1)], deleted_agents: vec![id(11)], ..Change::default() };
    assert!(script.changes.lock().unwrap().as_ref().unwrap().send(change));
    assert_eq!(peers.recv_timeout(PATIENCE).unwrap(), ["agent-12", "agent-13"]);
    assert_eq!(manager.refresh().unwrap().upserted_agents.len(), 2);
    assert_eq!(manager.stop(), Ok(()));
    assert_eq!(serve.join().unwrap(), End::Finished);
    assert_eq!(did.try_iter().collect::<Vec<_>>(), [Did::Opened, Did::Started(Some(7), 5), Did::Woken, Did::Stopped]);
}

#[test]
fn a_refusal_passes_through_both_sides() {
    let (script, did) = script(Ok(Plan { settings: vec![settings(666)], ..plan() }));
    let (manager, _, _, serve) = managed(script);
    let text = "failed to start connection: network settings failed: no such number";
    assert_eq!(manager.start(request()), Err(Error::Refused(text.into())));
    // Without a stop: the tunnel ends with the stream.
    drop(manager);
    assert_eq!(serve.join().unwrap(), End::PeerClosed);
    assert_eq!(did.try_iter().collect::<Vec<_>>(), [Did::Opened]);
}
