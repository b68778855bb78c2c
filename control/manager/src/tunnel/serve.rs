//! The loop that handles all events in order. Slow work is done on other threads, and its result is an event.

use super::{
    Change, Changes, Engine, Id, Options, Ping, Running, Settings, Source,
    network::Network,
    peers::{Handshake, Table},
    start::{self, Started, Up},
};
use crate::{
    messages::{
        Log, NetworkSettingsRequest, PeerUpdate, StartRequest, StartResponse, StopResponse, TunnelSide, WakeResponse,
        manager_message, tunnel_message,
    },
    speaker::{End, Incoming, OpenError, RequestId, SendError, Speaker, Transport},
};
use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread::JoinHandle,
    time::Instant,
};
use wg_embed::thread::{self, Owner};

/// The maximum number of queued events. Senders of further ones wait.
const EVENTS: usize = 64;

enum Event<C> {
    Incoming(Incoming<manager_message::Msg>),
    Ended(End),
    Started(RequestId, Result<Started<C>, String>),
    /// The result of a start request while the tunnel runs: the settings were requested again.
    ConfiguredAgain(RequestId),
    /// The result of a change of the settings.
    SettingsDone,
    /// An event of the start with that number.
    Changed(u64, Box<Change<C>>),
    Pinged(Id, Ping),
    PingsDone,
    Refresh,
}

/// Sends messages for a tunnel that is being served.
pub struct Handle {
    speaker: Arc<Speaker<TunnelSide>>,
    refresh: Arc<dyn Fn() + Send + Sync>,
}

impl Handle {
    /// Sends a line of the log. It is dropped if the manager reads slowly, and counted in the stream's statistics,
    /// because packets must not wait for a log. Do not send the protocol's own log lines: each would cause further
    /// ones.
    pub fn log(&self, line: Log) {
        // Without a stream nothing reads it.
        let _ = self.speaker.try_notify(tunnel_message::Msg::Log(line));
    }

    /// Sends all agents with their handshakes and pings, and pings them, as at each interval.
    pub fn refresh(&self) {
        (self.refresh)();
    }

    /// Ends the stream, and therefore the tunnel. Idempotent.
    pub fn close(&self) {
        self.speaker.close();
    }

    /// Returns the stream.
    #[must_use]
    pub fn speaker(&self) -> &Speaker<TunnelSide> {
        &self.speaker
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        Self { speaker: self.speaker.clone(), refresh: self.refresh.clone() }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

/// A tunnel that waits for requests of its manager.
pub struct Tunnel<E: Engine> {
    speaker: Arc<Speaker<TunnelSide>>,
    network: Arc<Network>,
    options: Options,
    source: Arc<dyn Source<Configuration = E::Configuration>>,
    engine: Arc<E>,
    events: SyncSender<Event<E::Configuration>>,
    incoming: Receiver<Event<E::Configuration>>,
    state: State<E::Configuration>,
    owner: Owner,
    threads: Vec<JoinHandle<()>>,
}

struct State<C> {
    table: Table,
    running: Option<Up<C>>,
    /// Who configures the network of the running tunnel.
    how: Settings,
    /// The newest settings.
    settings: Vec<NetworkSettingsRequest>,
    /// Whether the newest settings have not been applied yet.
    is_outdated: bool,
    /// Whether a change of the settings is being applied. No other change and no start begins before its end: so the
    /// newest settings are the last ones that are applied.
    is_configuring: bool,
    /// The request whose start is in progress.
    starting: Option<RequestId>,
    /// Requests that arrived during a start.
    waiting: VecDeque<(RequestId, StartRequest)>,
    /// The number of the last start. Changes of earlier ones are stale.
    start: u64,
    /// Changes that arrived before the end of the start.
    early: Vec<Change<C>>,
    is_pinging: bool,
    last_wake: Option<Instant>,
    is_stopped: bool,
}

impl<E: Engine> Tunnel<E> {
    /// Exchanges headers with the manager.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(
        transport: Transport,
        options: Options,
        source: Arc<dyn Source<Configuration = E::Configuration>>,
        engine: Arc<E>,
    ) -> Result<Self, OpenError> {
        let speaker = Arc::new(Speaker::open(transport, options.stream.clone())?);
        let (events, incoming) = mpsc::sync_channel(EVENTS);
        Ok(Self {
            network: Arc::new(Network::new(speaker.clone())),
            speaker,
            state: State {
                table: Table::default(),
                running: None,
                how: options.settings,
                settings: Vec::new(),
                is_outdated: false,
                is_configuring: false,
                starting: None,
                waiting: VecDeque::new(),
                start: 0,
                early: Vec::new(),
                is_pinging: false,
                last_wake: None,
                is_stopped: false,
            },
            options,
            source,
            engine,
            events,
            incoming,
            owner: Owner::unique(),
            threads: Vec::new(),
        })
    }

    /// Returns the handle, which sends log lines on any thread.
    #[must_use]
    pub fn handle(&self) -> Handle {
        let events = self.events.clone();
        let refresh = move || {
            // It fails if the tunnel is no longer served, and is not needed if many other events are queued.
            let _ = events.try_send(Event::Refresh);
        };
        Handle { speaker: self.speaker.clone(), refresh: Arc::new(refresh) }
    }

    /// Executes the manager's requests until the manager stops the tunnel or the stream ends. When it returns, the
    /// tunnel is down, and its threads have ended; it waits for a source that is finding peers, and for an engine that
    /// is starting. Returns the reason: [`End::Finished`] after a stop.
    pub fn serve(mut self) -> End {
        let (speaker, events) = (self.speaker.clone(), self.events.clone());
        let receive = move || {
            loop {
                let received = speaker.recv();
                let is_end = received.is_err();
                if events.send(received.map_or_else(Event::Ended, Event::Incoming)).is_err() || is_end {
                    return;
                }
            }
        };
        if let Err(e) = self.spawn("wg-mgr-receive", receive) {
            self.speaker.close();
            return e.into();
        }
        let mut tick = self.options.interval.and_then(|interval| Instant::now().checked_add(interval));
        let end = loop {
            let event = match tick {
                None => self.incoming.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(tick) => self.incoming.recv_timeout(tick.saturating_duration_since(Instant::now())),
            };
            match event {
                Ok(Event::Ended(end)) => break end,
                Ok(event) => self.handle_event(event),
                Err(RecvTimeoutError::Timeout) => {
                    tick = self.options.interval.and_then(|interval| Instant::now().checked_add(interval));
                    self.refresh();
                }
                Err(RecvTimeoutError::Disconnected) => break End::Broken,
            }
        };
        self.speaker.close();
        self.stop();
        // Later events are dropped from here on; a tunnel that was started by one of them is stopped with it.
        drop(self.incoming);
        for thread in self.threads {
            let _ = thread.join();
        }
        end
    }

    fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        self.threads.retain(|thread| !thread.is_finished());
        self.threads.push(thread::spawn(name, self.owner, body)?);
        Ok(())
    }

    fn handle_event(&mut self, event: Event<E::Configuration>) {
        match event {
            Event::Incoming(Incoming::Request { id, body }) => self.request(id, body),
            Event::Incoming(other) => tracing::debug!("a manager's message is ignored: {other:?}"),
            Event::Started(id, outcome) => self.started(id, outcome),
            Event::ConfiguredAgain(id) => {
                if self.state.starting.take().is_some() {
                    self.respond_start(id, Ok(()));
                }
                self.next();
            }
            Event::SettingsDone => {
                self.state.is_configuring = false;
                self.next();
            }
            Event::Changed(start, change) if start == self.state.start => self.changed(*change),
            Event::Changed(..) | Event::Ended(_) => {}
            Event::Pinged(id, ping) => self.state.table.pinged(&id, ping),
            Event::PingsDone => self.state.is_pinging = false,
            Event::Refresh => self.refresh(),
        }
    }

    fn request(&mut self, id: RequestId, body: manager_message::Msg) {
        if self.state.is_stopped {
            return;
        }
        match body {
            manager_message::Msg::GetPeerUpdate(_) => {
                let update = self.state.everything();
                self.respond(id, tunnel_message::Msg::PeerUpdate(update));
            }
            manager_message::Msg::Start(request) => {
                self.state.waiting.push_back((id, request));
                self.next_start();
            }
            manager_message::Msg::Wake(_) => {
                self.wake();
                self.respond(id, tunnel_message::Msg::Wake(WakeResponse {}));
            }
            manager_message::Msg::Stop(_) => {
                self.stop();
                let unanswered = self.state.starting.take().into_iter();
                let waiting = self.state.waiting.drain(..).map(|(id, _)| id);
                for id in unanswered.chain(waiting).collect::<Vec<_>>() {
                    self.respond_start(id, Err("stopped".into()));
                }
                let response = StopResponse { success: true, error_message: String::new() };
                self.respond(id, tunnel_message::Msg::Stop(response));
            }
            // The message has the kind of a response, but was sent as a request.
            manager_message::Msg::NetworkSettings(_) => log_failure(self.speaker.refuse(id)),
        }
    }

    fn respond(&self, id: RequestId, body: tunnel_message::Msg) {
        log_failure(self.speaker.respond(id, body));
    }

    fn respond_start(&self, id: RequestId, outcome: Result<(), String>) {
        let success = outcome.is_ok();
        let error_message = outcome.err().unwrap_or_default();
        self.respond(id, tunnel_message::Msg::Start(StartResponse { success, error_message }));
    }

    fn update(&self, update: PeerUpdate) {
        if update != PeerUpdate::default() {
            log_failure(self.speaker.notify(tunnel_message::Msg::PeerUpdate(update)));
        }
    }

    /// Begins the next work that waits for the end of a start or of a change of the settings.
    fn next(&mut self) {
        self.next_start();
        self.next_settings();
    }

    /// Begins the next start, unless other work is in progress. If a start cannot be begun it is refused, and the one
    /// after it is the next.
    fn next_start(&mut self) {
        while !self.state.is_busy()
            && let Some((id, request)) = self.state.waiting.pop_front()
        {
            let begun = match self.state.running() {
                Some(running) => self.configure_again(id, running),
                None => self.start(id, request),
            };
            match begun {
                Ok(()) => self.state.starting = Some(id),
                Err(e) => {
                    let text = format!("failed to create networking stack dependencies: {e}");
                    self.respond_start(id, Err(text));
                }
            }
        }
    }

    /// Requests the newest settings again, for a start while the tunnel runs.
    fn configure_again(&mut self, id: RequestId, running: Arc<dyn Running<E::Configuration>>) -> std::io::Result<()> {
        self.configure("network settings, again", running, Event::ConfiguredAgain(id))?;
        self.state.is_outdated = false;
        Ok(())
    }

    fn start(&mut self, id: RequestId, request: StartRequest) -> std::io::Result<()> {
        self.state.start += 1;
        let (network, how) = (self.network.clone(), self.options.settings);
        let (engine, source, events) = (self.engine.clone(), self.source.clone(), self.events.clone());
        let (number, changed) = (self.state.start, events.clone());
        let changes = Changes::new(move |change| changed.send(Event::Changed(number, Box::new(change))).is_ok());
        self.spawn("wg-mgr-start", move || {
            let outcome = start::start(&network, how, &*source, &*engine, &request, changes);
            // If it fails, the tunnel is stopped, although the agents were not sent.
            let _ = events.send(Event::Started(id, outcome));
        })
    }

    /// Applies the newest settings, unless they are in effect or other work is in progress.
    fn next_settings(&mut self) {
        if !self.state.is_outdated || self.state.is_busy() {
            return;
        }
        let Some(running) = self.state.running() else { return };
        match self.configure("a change of the network settings", running, Event::SettingsDone) {
            Ok(()) => (self.state.is_outdated, self.state.is_configuring) = (false, true),
            Err(e) => tracing::warn!("a change of the network settings: {e}"),
        }
    }

    /// Applies the newest settings on another thread, which sends `done`. A refusal is logged as `what`.
    fn configure(
        &mut self,
        what: &'static str,
        running: Arc<dyn Running<E::Configuration>>,
        done: Event<E::Configuration>,
    ) -> std::io::Result<()> {
        let (network, how) = (self.network.clone(), self.state.how);
        let (settings, events) = (self.state.settings.clone(), self.events.clone());
        self.spawn("wg-mgr-settings", move || {
            if let Err(e) = network.configure(how, &settings, |all| running.configure(all)) {
                tracing::warn!("{what}: {e}");
            }
            let _ = events.send(done);
        })
    }

    fn started(&mut self, id: RequestId, outcome: Result<Started<E::Configuration>, String>) {
        // Unless the tunnel was stopped: then the request has been answered, and the started tunnel is stopped here.
        if self.state.starting.take().is_none() {
            return;
        }
        let early = std::mem::take(&mut self.state.early);
        match outcome {
            Ok(Started { plan, running, how }) => {
                self.state.running = Some(running);
                self.state.how = how;
                self.state.settings = plan.settings;
                self.state.is_outdated = false;
                self.respond_start(id, Ok(()));
                let (workspaces, agents) = (plan.workspaces, plan.agents);
                self.changed(Change { is_complete: true, workspaces, agents, ..Change::default() });
                for change in early {
                    self.changed(change);
                }
            }
            Err(e) => {
                // Later reports of a failed start are stale.
                self.state.start += 1;
                self.respond_start(id, Err(e));
            }
        }
        self.next();
    }

    fn changed(&mut self, mut change: Change<E::Configuration>) {
        let Some(running) = self.state.running() else {
            if self.state.starting.is_some() {
                self.state.early.push(change);
            }
            return;
        };
        if let Some(configuration) = change.configuration.take()
            && let Err(e) = running.apply(configuration)
        {
            tracing::warn!("a change of the peers: {e}");
        }
        let settings = std::mem::take(&mut change.settings);
        if !settings.is_empty() {
            self.state.settings = settings;
            self.state.is_outdated = true;
            self.next_settings();
        }
        let update = self.state.table.change(change, &mut |id| running.last_handshake(id));
        self.update(update);
    }

    fn refresh(&mut self) {
        let Some(running) = self.state.running() else { return };
        let update = self.state.table.agents(&mut |id| running.last_handshake(id));
        self.update(update);
        let agents = self.state.table.agent_ids();
        if self.state.is_pinging || agents.is_empty() {
            return;
        }
        let (events, timeout) = (self.events.clone(), self.options.ping_timeout);
        let begun = self.spawn("wg-mgr-ping", move || {
            running.ping(&agents, timeout, &mut |id, ping| {
                let _ = events.send(Event::Pinged(id, ping));
            });
            let _ = events.send(Event::PingsDone);
        });
        match begun {
            Ok(()) => self.state.is_pinging = true,
            Err(e) => tracing::warn!("no thread for pings: {e}"),
        }
    }

    fn wake(&mut self) {
        let Some(running) = &self.state.running else { return };
        let now = Instant::now();
        let is_soon = self.state.last_wake.is_some_and(|last| now.duration_since(last) < self.options.wake_interval);
        if !is_soon {
            self.state.last_wake = Some(now);
            running.0.wake();
        }
    }

    /// Ends the tunnel. Idempotent.
    fn stop(&mut self) {
        self.state.is_stopped = true;
        self.state.running = None;
    }
}

impl<C> State<C> {
    /// Returns whether a start or a change of the settings is in progress.
    const fn is_busy(&self) -> bool {
        self.starting.is_some() || self.is_configuring
    }

    fn running(&self) -> Option<Arc<dyn Running<C>>> {
        self.running.as_ref().map(|running| running.0.clone())
    }

    fn everything(&self) -> PeerUpdate {
        match self.running() {
            Some(running) => self.table.everything(&mut |id| running.last_handshake(id)),
            None => self.table.everything(&mut |_| Handshake::Unknown),
        }
    }
}

fn log_failure(outcome: Result<(), SendError>) {
    // At the end of the stream this is the result of everything that was in progress.
    if let Err(e) = outcome
        && !matches!(e, SendError::Ended(_))
    {
        tracing::warn!("a message to the manager: {e}");
    }
}
