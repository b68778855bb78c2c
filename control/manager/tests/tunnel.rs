//! The tunnel's side with an engine and a source that are scripts: recorded conversations, and what they do not have.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{CONVERSATIONS, PATIENCE, Raw, Wire, message, pair, patient, transcript, wire};
use prost::Message;
use std::{
    sync::{
        Arc, Mutex, OnceLock,
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};
use wg_embed_manager::{
    manager::{self, Error, Host, Manager, Peers},
    messages::{
        self, GetPeerUpdate, Log, ManagerMessage, NetworkSettingsRequest, NetworkSettingsResponse, PeerUpdate, Rpc,
        StartRequest, StartResponse, StopRequest, TunnelMessage, WakeRequest, manager_message,
        network_settings_request::DnsSettings, tunnel_message, workspace::Status,
    },
    speaker::End,
    stream::encode,
    tunnel::{
        Agent, Change, Changes, Engine, Handle, Handshake, Id, Opened, Options, Ping, Plan, Relay, Running, Settings,
        Source, Tunnel, Workspace,
    },
};

/// What has happened, in its order.
#[derive(Debug, PartialEq)]
enum Did {
    Resolving,
    Opened,
    Configured(u32),
    Started(Option<i32>, u32),
    Applied(u32),
    Pinged,
    Woken,
    Stopped,
}

/// A source and an engine. Configurations are numbers.
struct Script {
    plan: Result<Plan<u32>, String>,
    log: Option<Log>,
    pings: Vec<(Id, Ping)>,
    handshakes: Vec<(Id, SystemTime)>,
    handle: OnceLock<Handle>,
    changes: Mutex<Option<Changes<u32>>>,
    did: Sender<Did>,
    /// What the source waits for.
    gate: Mutex<Option<Receiver<()>>>,
    /// Whether the engine can configure the network.
    configures: bool,
    /// What settings with an MTU of [`SLOW`] wait for.
    slow: Mutex<Option<Receiver<()>>>,
}

/// An MTU that takes long to configure.
const SLOW: u32 = 777;

impl Script {
    fn configure(&self, settings: &NetworkSettingsRequest) -> Result<(), String> {
        self.did.send(Did::Configured(settings.mtu)).unwrap();
        if settings.mtu == SLOW
            && let Some(slow) = self.slow.lock().unwrap().take()
        {
            slow.recv().unwrap();
        }
        if settings.mtu == 666 { Err("no such number".into()) } else { Ok(()) }
    }
}

impl Source for Script {
    type Configuration = u32;

    fn resolve(&self, _: &StartRequest, changes: Changes<u32>) -> Result<Plan<u32>, String> {
        *self.changes.lock().unwrap() = Some(changes);
        if let Some(gate) = self.gate.lock().unwrap().take() {
            self.did.send(Did::Resolving).unwrap();
            gate.recv().unwrap();
        }
        if let Some(line) = &self.log {
            self.handle.get().unwrap().log(line.clone());
        }
        self.plan.clone()
    }
}

struct ScriptedEngine(Arc<Script>);

impl Engine for ScriptedEngine {
    type Configuration = u32;

    fn open(&self, descriptor: Option<i32>, configuration: u32) -> Result<Box<dyn Opened<u32>>, String> {
        self.0.did.send(Did::Opened).unwrap();
        Ok(Box::new(ScriptedOpened { script: self.0.clone(), descriptor, configuration }))
    }
}

struct ScriptedOpened {
    script: Arc<Script>,
    descriptor: Option<i32>,
    configuration: u32,
}

impl Opened<u32> for ScriptedOpened {
    fn configures(&self) -> bool {
        self.script.configures
    }

    fn configure(&mut self, settings: &NetworkSettingsRequest) -> Result<(), String> {
        self.script.configure(settings)
    }

    fn start(self: Box<Self>) -> Result<Arc<dyn Running<u32>>, String> {
        self.script.did.send(Did::Started(self.descriptor, self.configuration)).unwrap();
        Ok(Arc::new(ScriptedEngine(self.script)))
    }
}

impl Running<u32> for ScriptedEngine {
    fn configure(&self, settings: &NetworkSettingsRequest) -> Result<(), String> {
        self.0.configure(settings)
    }

    fn apply(&self, configuration: u32) -> Result<(), String> {
        self.0.did.send(Did::Applied(configuration)).unwrap();
        Ok(())
    }

    fn last_handshake(&self, agent: &Id) -> Handshake {
        let found = self.0.handshakes.iter().find(|(id, _)| id == agent);
        found.map_or(Handshake::Never, |(_, time)| Handshake::At(*time))
    }

    fn ping(&self, agents: &[Id], _: Duration, answered: &mut dyn FnMut(Id, Ping)) {
        for (id, ping) in self.0.pings.iter().filter(|(id, _)| agents.contains(id)) {
            answered(*id, ping.clone());
        }
        self.0.did.send(Did::Pinged).unwrap();
    }

    fn wake(&self) {
        self.0.did.send(Did::Woken).unwrap();
    }

    fn stop(&self) {
        self.0.did.send(Did::Stopped).unwrap();
    }
}

/// A tunnel that is served, and its manager.
struct Served {
    raw: Raw,
    script: Arc<Script>,
    did: Receiver<Did>,
    serve: JoinHandle<End>,
    last_id: u64,
}

fn options(settings: Settings) -> Options {
    Options {
        stream: patient(),
        settings,
        interval: None,
        ping_timeout: PATIENCE,
        wake_interval: Duration::from_secs(86_400),
    }
}

const ASK: Settings = Settings::Ask { timeout: PATIENCE };

fn script(plan: Result<Plan<u32>, String>) -> (Script, Receiver<Did>) {
    let (did, receiver) = mpsc::channel();
    let script = Script {
        plan,
        log: None,
        pings: Vec::new(),
        handshakes: Vec::new(),
        handle: OnceLock::new(),
        changes: Mutex::new(None),
        did,
        gate: Mutex::default(),
        configures: true,
        slow: Mutex::default(),
    };
    (script, receiver)
}

fn serve(settings: Settings, (script, did): (Script, Receiver<Did>)) -> Served {
    let script = Arc::new(script);
    let (transport, mut raw) = wire(Wire::Pipes);
    raw.write(b"codervpn manager 1.3\n");
    let engine = Arc::new(ScriptedEngine(script.clone()));
    let tunnel = Tunnel::open(transport, options(settings), script.clone(), engine).unwrap();
    assert_eq!(raw.line(), b"codervpn tunnel 1.3\n");
    script.handle.set(tunnel.handle()).unwrap();
    Served { raw, script, did, serve: thread::spawn(move || tunnel.serve()), last_id: 0 }
}

impl Served {
    fn ask(&mut self, body: manager_message::Msg) {
        self.last_id += 1;
        let rpc = Some(Rpc { msg_id: self.last_id, response_to: 0 });
        self.raw.write(&encode(&ManagerMessage { rpc, msg: Some(body) }).unwrap());
    }

    fn next(&mut self) -> (Option<Rpc>, tunnel_message::Msg) {
        let message = TunnelMessage::decode(&self.raw.frame()[..]).unwrap();
        (message.rpc, message.msg.unwrap())
    }

    /// The response to the last request.
    fn response(&mut self) -> tunnel_message::Msg {
        let (rpc, body) = self.next();
        assert_eq!(rpc, Some(Rpc { msg_id: 0, response_to: self.last_id }));
        body
    }

    fn update(&mut self) -> PeerUpdate {
        let (None, tunnel_message::Msg::PeerUpdate(update)) = self.next() else { panic!() };
        update
    }

    fn send(&self, change: Change<u32>) {
        assert!(self.script.changes.lock().unwrap().as_ref().unwrap().send(change));
    }

    fn did(&self) -> Did {
        self.did.recv_timeout(PATIENCE).unwrap()
    }

    /// Stops it, and returns what has happened since.
    fn stop(mut self) -> Vec<Did> {
        self.ask(manager_message::Msg::Stop(StopRequest {}));
        assert!(matches!(self.response(), tunnel_message::Msg::Stop(stopped) if stopped.success));
        assert_eq!(self.raw.rest(), []);
        assert_eq!(self.serve.join().unwrap(), End::Finished);
        self.did.try_iter().collect()
    }
}

fn start() -> manager_message::Msg {
    manager_message::Msg::Start(StartRequest {
        tunnel_file_descriptor: 7,
        coder_url: "file:///etc/wg0.conf".into(),
        api_token: "token".into(),
        ..StartRequest::default()
    })
}

fn started(error: &str) -> tunnel_message::Msg {
    tunnel_message::Msg::Start(StartResponse { success: error.is_empty(), error_message: error.into() })
}

fn settings(mtu: u32) -> NetworkSettingsRequest {
    NetworkSettingsRequest { mtu, ..NetworkSettingsRequest::default() }
}

fn id(number: u8) -> Id {
    Id([number; 16])
}

fn agent(number: u8, workspace: u8) -> Agent {
    Agent {
        id: id(number),
        name: format!("agent-{number}"),
        workspace: id(workspace),
        fqdn: vec!["long.name.example".into(), "short.".into()],
        addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap(), "10.0.0.1".parse().unwrap()],
    }
}

fn workspace(number: u8) -> Workspace {
    Workspace { id: id(number), name: format!("workspace-{number}"), status: Status::Running }
}

fn plan() -> Plan<u32> {
    Plan {
        settings: vec![],
        workspaces: vec![workspace(1)],
        agents: vec![agent(11, 1), agent(12, 1)],
        configuration: 5,
    }
}

/// A tunnel that has been started without settings, and has sent its peers.
fn up(script: (Script, Receiver<Did>)) -> Served {
    let mut served = serve(Settings::Own, script);
    served.ask(start());
    assert_eq!(served.response(), started(""));
    assert_eq!([served.did(), served.did()], [Did::Opened, Did::Started(Some(7), 5)]);
    assert_eq!(served.update().upserted_agents.len(), 2);
    served
}

fn ids<'a>(of: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<u8> {
    of.into_iter().map(|id| id[0]).collect()
}

fn agents(of: &[messages::Agent]) -> Vec<u8> {
    ids(of.iter().map(|agent| &agent.id))
}

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
fn a_second_start_configures_again() {
    let mut served = serve(Settings::Own, script(Ok(Plan { settings: vec![settings(1), settings(2)], ..plan() })));
    served.ask(start());
    assert_eq!(served.response(), started(""));
    served.update();
    served.ask(start());
    assert_eq!(served.response(), started(""));
    // Both parts at once.
    let configured = || Did::Configured(2);
    let expected = [Did::Opened, configured(), Did::Started(Some(7), 5), configured(), Did::Stopped];
    assert_eq!(served.stop(), expected);
}

#[test]
fn settings_that_are_refused_fail_the_start() {
    let mut served = serve(Settings::Own, script(Ok(Plan { settings: vec![settings(666)], ..plan() })));
    served.ask(start());
    assert_eq!(served.response(), started("failed to start connection: network settings failed: no such number"));
    assert_eq!(served.stop(), [Did::Opened, Did::Configured(666)]);
    // A manager that does not answer.
    let silent = Settings::Ask { timeout: Duration::from_millis(10) };
    let mut served = serve(silent, script(Ok(Plan { settings: vec![settings(1)], ..plan() })));
    served.ask(start());
    assert!(matches!(served.next().1, tunnel_message::Msg::NetworkSettings(_)));
    assert_eq!(served.response(), started("failed to start connection: network settings failed: no response in time"));
    assert_eq!(served.stop(), [Did::Opened]);
}

/// A response to a request of the tunnel's for settings.
fn agree(served: &mut Served, to: Option<Rpc>) {
    let response = NetworkSettingsResponse { success: true, error_message: String::new() };
    let rpc = Some(Rpc { msg_id: 0, response_to: to.unwrap().msg_id });
    let msg = Some(manager_message::Msg::NetworkSettings(response));
    served.raw.write(&encode(&ManagerMessage { rpc, msg }).unwrap());
}

/// A tunnel that is started with these settings, for which it asks the manager.
fn asking(settings: Settings, script: (Script, Receiver<Did>)) -> (Served, NetworkSettingsRequest) {
    let mut served = serve(settings, script);
    served.ask(start());
    let (rpc, tunnel_message::Msg::NetworkSettings(request)) = served.next() else { panic!() };
    // The manager can configure an interface that the engine has made.
    assert_eq!(served.did.try_recv(), Ok(Did::Opened));
    agree(&mut served, rpc);
    assert_eq!(served.response(), started(""));
    served.update();
    assert_eq!(served.did(), Did::Started(Some(7), 5));
    (served, request)
}

#[test]
fn settings_that_are_gone_are_asked_to_be_empty() {
    let dns = DnsSettings { servers: vec!["10.0.0.53".into()], ..DnsSettings::default() };
    let first = NetworkSettingsRequest { dns_settings: Some(dns), ..settings(1) };
    let plan = Plan { settings: vec![first.clone()], ..plan() };
    let (mut served, asked) = asking(ASK, script(Ok(plan)));
    assert_eq!(asked, first);
    served.send(Change { settings: vec![settings(2)], ..Change::default() });
    let (rpc, tunnel_message::Msg::NetworkSettings(request)) = served.next() else { panic!() };
    assert_eq!(request, NetworkSettingsRequest { dns_settings: Some(DnsSettings::default()), ..settings(2) });
    agree(&mut served, rpc);
    assert_eq!(served.stop(), [Did::Stopped]);
}

#[test]
fn a_manager_is_asked_if_the_engine_cannot() {
    let either = Settings::OwnOrAsk { timeout: PATIENCE };
    let with_settings = || script(Ok(Plan { settings: vec![settings(1)], ..plan() }));
    let (mut script, did) = with_settings();
    script.configures = false;
    let (served, request) = asking(either, (script, did));
    assert_eq!(request, settings(1));
    assert_eq!(served.stop(), [Did::Stopped]);
    let mut served = serve(either, with_settings());
    served.ask(start());
    assert_eq!(served.response(), started(""));
    served.update();
    let expected = [Did::Opened, Did::Configured(1), Did::Started(Some(7), 5), Did::Stopped];
    assert_eq!(served.stop(), expected);
}

#[test]
fn the_newest_settings_are_applied_last() {
    let (script, did) = script(Ok(plan()));
    let (open, slow) = mpsc::channel();
    *script.slow.lock().unwrap() = Some(slow);
    let mut served = up((script, did));
    served.send(Change { settings: vec![settings(SLOW)], ..Change::default() });
    assert_eq!(served.did(), Did::Configured(SLOW));
    for mtu in 1..=3 {
        served.send(Change { settings: vec![settings(mtu)], ..Change::default() });
    }
    // Also another start waits for its turn.
    served.ask(start());
    let start = served.last_id;
    served.ask(manager_message::Msg::GetPeerUpdate(GetPeerUpdate {}));
    served.response();
    assert!(served.did.try_recv().is_err(), "one after the other");
    open.send(()).unwrap();
    assert_eq!(served.next(), (Some(Rpc { msg_id: 0, response_to: start }), started("")));
    assert_eq!(served.did(), Did::Configured(3));
    assert_eq!(served.stop(), [Did::Stopped]);
    // Without a start.
    let served = up(self::script(Ok(self::plan())));
    served.send(Change { settings: vec![settings(4)], ..Change::default() });
    served.send(Change { settings: vec![settings(5)], ..Change::default() });
    while served.did() != Did::Configured(5) {}
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
    // It may be writing just now; whatever it was, it ends.
    raw.rest();
    serve.join().unwrap();
}

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
