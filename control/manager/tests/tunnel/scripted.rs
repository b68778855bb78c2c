//! A source and an engine that are scripts, and a manager's end of the stream to them.

use super::common::{PATIENCE, Raw, Wire, patient, wire};
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
    messages::{
        self, Log, ManagerMessage, NetworkSettingsRequest, NetworkSettingsResponse, PeerUpdate, Rpc, StartRequest,
        StartResponse, StopRequest, TunnelMessage, manager_message, tunnel_message, workspace::Status,
    },
    speaker::End,
    stream::encode,
    tunnel::{
        Agent, Change, Changes, Engine, Handle, Handshake, Id, Opened, Options, Ping, Plan, Running, Settings, Source,
        Tunnel, Workspace,
    },
};

/// What has happened, in its order.
#[derive(Debug, PartialEq)]
pub(super) enum Did {
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
pub(super) struct Script {
    pub(super) plan: Result<Plan<u32>, String>,
    pub(super) log: Option<Log>,
    pub(super) pings: Vec<(Id, Ping)>,
    pub(super) handshakes: Vec<(Id, SystemTime)>,
    pub(super) handle: OnceLock<Handle>,
    pub(super) changes: Mutex<Option<Changes<u32>>>,
    pub(super) did: Sender<Did>,
    /// What the source waits for.
    pub(super) gate: Mutex<Option<Receiver<()>>>,
    /// Whether the engine can configure the network.
    pub(super) configures: bool,
    /// What settings with an MTU of [`SLOW`] wait for.
    pub(super) slow: Mutex<Option<Receiver<()>>>,
}

/// An MTU that takes long to configure.
pub(super) const SLOW: u32 = 777;

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

pub(super) struct ScriptedEngine(pub(super) Arc<Script>);

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
pub(super) struct Served {
    pub(super) raw: Raw,
    pub(super) script: Arc<Script>,
    pub(super) did: Receiver<Did>,
    pub(super) serve: JoinHandle<End>,
    pub(super) last_id: u64,
}

pub(super) fn options(settings: Settings) -> Options {
    Options {
        stream: patient(),
        settings,
        interval: None,
        ping_timeout: PATIENCE,
        wake_interval: Duration::from_secs(86_400),
    }
}

pub(super) const ASK: Settings = Settings::Ask { timeout: PATIENCE };

pub(super) fn script(plan: Result<Plan<u32>, String>) -> (Script, Receiver<Did>) {
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

pub(super) fn serve(settings: Settings, (script, did): (Script, Receiver<Did>)) -> Served {
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
    pub(super) fn ask(&mut self, body: manager_message::Msg) {
        self.last_id += 1;
        let rpc = Some(Rpc { msg_id: self.last_id, response_to: 0 });
        self.raw.write(&encode(&ManagerMessage { rpc, msg: Some(body) }).unwrap());
    }

    pub(super) fn next(&mut self) -> (Option<Rpc>, tunnel_message::Msg) {
        let message = TunnelMessage::decode(&self.raw.frame()[..]).unwrap();
        (message.rpc, message.msg.unwrap())
    }

    /// The response to the last request.
    pub(super) fn response(&mut self) -> tunnel_message::Msg {
        let (rpc, body) = self.next();
        assert_eq!(rpc, Some(Rpc { msg_id: 0, response_to: self.last_id }));
        body
    }

    pub(super) fn update(&mut self) -> PeerUpdate {
        let (None, tunnel_message::Msg::PeerUpdate(update)) = self.next() else { panic!() };
        update
    }

    pub(super) fn send(&self, change: Change<u32>) {
        assert!(self.script.changes.lock().unwrap().as_ref().unwrap().send(change));
    }

    pub(super) fn did(&self) -> Did {
        self.did.recv_timeout(PATIENCE).unwrap()
    }

    /// Stops it, and returns what has happened since.
    pub(super) fn stop(mut self) -> Vec<Did> {
        self.ask(manager_message::Msg::Stop(StopRequest {}));
        assert!(matches!(self.response(), tunnel_message::Msg::Stop(stopped) if stopped.success));
        assert_eq!(self.raw.rest(), []);
        assert_eq!(self.serve.join().unwrap(), End::Finished);
        self.did.try_iter().collect()
    }
}

pub(super) fn start() -> manager_message::Msg {
    manager_message::Msg::Start(StartRequest {
        tunnel_file_descriptor: 7,
        coder_url: "file:///etc/wg0.conf".into(),
        api_token: "token".into(),
        ..StartRequest::default()
    })
}

pub(super) fn started(error: &str) -> tunnel_message::Msg {
    tunnel_message::Msg::Start(StartResponse { success: error.is_empty(), error_message: error.into() })
}

pub(super) fn settings(mtu: u32) -> NetworkSettingsRequest {
    NetworkSettingsRequest { mtu, ..NetworkSettingsRequest::default() }
}

pub(super) fn id(number: u8) -> Id {
    Id([number; 16])
}

pub(super) fn agent(number: u8, workspace: u8) -> Agent {
    Agent {
        id: id(number),
        name: format!("agent-{number}"),
        workspace: id(workspace),
        fqdn: vec!["long.name.example".into(), "short.".into()],
        addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap(), "10.0.0.1".parse().unwrap()],
    }
}

pub(super) fn workspace(number: u8) -> Workspace {
    Workspace { id: id(number), name: format!("workspace-{number}"), status: Status::Running }
}

pub(super) fn plan() -> Plan<u32> {
    Plan {
        settings: vec![],
        workspaces: vec![workspace(1)],
        agents: vec![agent(11, 1), agent(12, 1)],
        configuration: 5,
    }
}

/// A tunnel that has been started without settings, and has sent its peers.
pub(super) fn up(script: (Script, Receiver<Did>)) -> Served {
    let mut served = serve(Settings::Own, script);
    served.ask(start());
    assert_eq!(served.response(), started(""));
    assert_eq!([served.did(), served.did()], [Did::Opened, Did::Started(Some(7), 5)]);
    assert_eq!(served.update().upserted_agents.len(), 2);
    served
}

pub(super) fn ids<'a>(of: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<u8> {
    of.into_iter().map(|id| id[0]).collect()
}

pub(super) fn agents(of: &[messages::Agent]) -> Vec<u8> {
    ids(of.iter().map(|agent| &agent.id))
}

/// A response to a request of the tunnel's for settings.
pub(super) fn agree(served: &mut Served, to: Option<Rpc>) {
    let response = NetworkSettingsResponse { success: true, error_message: String::new() };
    let rpc = Some(Rpc { msg_id: 0, response_to: to.unwrap().msg_id });
    let msg = Some(manager_message::Msg::NetworkSettings(response));
    served.raw.write(&encode(&ManagerMessage { rpc, msg }).unwrap());
}

/// A tunnel that is started with these settings, for which it asks the manager.
pub(super) fn asking(settings: Settings, script: (Script, Receiver<Did>)) -> (Served, NetworkSettingsRequest) {
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
