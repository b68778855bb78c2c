//! The manager's side: starts and stops a tunnel, has the system's network configured for it, and keeps its peers.
//!
//! A tunnel may request settings and send peers at any time, also during its start; a thread of the manager handles
//! these messages. Requests of the manager are sent one after the other, because some tunnels read nothing behind a
//! request, not even a response that they wait for, until the request is complete.

mod peers;
#[cfg(any(unix, windows))]
mod process;
mod settings;

pub use peers::{AgentStatus, Peers};
#[cfg(any(unix, windows))]
pub use process::{Process, ProcessError};
pub use settings::merge;

use crate::{
    messages::{
        GetPeerUpdate, Log, ManagerSide, NetworkSettingsRequest, NetworkSettingsResponse, PeerUpdate, StartRequest,
        StopRequest, WakeRequest, manager_message::Msg, tunnel_message,
    },
    speaker::{self, CallError, End, Incoming, OpenError, Speaker, Transport},
    stream::Version,
};
use std::{
    fmt,
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};
use wg_embed::{
    sync::lock,
    thread::{self, Owner},
};

/// The program that uses a manager. All methods are called on one thread, one after the other, in the order of the
/// tunnel's messages.
pub trait Host: Send + Sync + 'static {
    /// Configures the system's network. `settings` are the complete current settings, not only the changes.
    ///
    /// # Errors
    /// A text for the tunnel. The previous settings must then still be in effect.
    fn configure(&self, settings: &NetworkSettingsRequest) -> Result<(), String>;

    /// Called when the peers have changed.
    fn peers_changed(&self, peers: &Peers);

    /// Called with each line that the tunnel logs.
    fn log(&self, line: Log);

    /// Called once, last, when the stream has ended. After [`Manager::stop`] that is expected.
    fn ended(&self, end: End);
}

/// Time limits of a manager.
#[derive(Clone, Debug)]
pub struct Options {
    /// The options of the stream.
    pub stream: speaker::Options,
    /// The time limit for the response to a start, which may include a look-up of the peers.
    pub start_timeout: Duration,
    /// The time limit for all other responses, and for the end of the stream after a stop.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            stream: speaker::Options::default(),
            start_timeout: Duration::from_secs(120),
            timeout: Duration::from_secs(5),
        }
    }
}

/// The reason why a request has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// There was no response.
    Call(CallError),
    /// The tunnel has refused the request, with this text.
    Refused(String),
    /// The response is to another kind of request.
    Unexpected,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(e) => e.fmt(f),
            Self::Refused(text) => f.write_str(text),
            Self::Unexpected => f.write_str("the response is to another request"),
        }
    }
}

impl std::error::Error for Error {}

/// The state that the receiving thread shares with the methods.
struct Shared {
    speaker: Speaker<ManagerSide>,
    host: Arc<dyn Host>,
    peers: Mutex<Peers>,
}

/// The manager of one tunnel. Dropping it ends the stream, and therefore the tunnel. Its methods may be called on any
/// thread, but not in a method of the [`Host`].
pub struct Manager {
    shared: Arc<Shared>,
    options: Options,
    /// Locked while a request waits for its response.
    turn: Mutex<()>,
    thread: Option<JoinHandle<()>>,
    owner: Owner,
}

impl Manager {
    /// Exchanges headers with a tunnel.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(transport: Transport, options: Options, host: Arc<dyn Host>) -> Result<Self, OpenError> {
        let speaker = Speaker::open(transport, options.stream.clone())?;
        let shared = Arc::new(Shared { speaker, host, peers: Mutex::default() });
        let owner = Owner::unique();
        let receiver = shared.clone();
        let thread = thread::spawn("wg-mgr-receive", owner, move || receiver.receive()).map_err(OpenError::Thread)?;
        Ok(Self { shared, options, turn: Mutex::new(()), thread: Some(thread), owner })
    }

    /// Returns the negotiated version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.shared.speaker.version()
    }

    /// Returns the known peers.
    #[must_use]
    pub fn peers(&self) -> Peers {
        lock(&self.shared.peers).clone()
    }

    /// Starts the tunnel. The network is configured during the start or later, when the tunnel requests it.
    ///
    /// # Errors
    /// See [`Error`]; after a refusal it may be started again.
    pub fn start(&self, request: StartRequest) -> Result<(), Error> {
        match self.call(Msg::Start(request), self.options.start_timeout)? {
            tunnel_message::Msg::Start(response) if response.success => Ok(()),
            tunnel_message::Msg::Start(response) => Err(Error::Refused(response.error_message)),
            _ => Err(Error::Unexpected),
        }
    }

    /// Requests all current peers of the tunnel. [`Manager::peers`] follows every change without this call, and does
    /// not use the response: earlier and later changes may still arrive.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn refresh(&self) -> Result<PeerUpdate, Error> {
        match self.call(Msg::GetPeerUpdate(GetPeerUpdate {}), self.options.timeout)? {
            tunnel_message::Msg::PeerUpdate(update) => Ok(update),
            _ => Err(Error::Unexpected),
        }
    }

    /// Reports that the machine has woken up. Returns false if the tunnel's version does not have the request.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn wake(&self) -> Result<bool, Error> {
        if self.version() < Version::V1_3 {
            return Ok(false);
        }
        match self.call(Msg::Wake(WakeRequest {}), self.options.timeout)? {
            tunnel_message::Msg::Wake(_) => Ok(true),
            _ => Err(Error::Unexpected),
        }
    }

    /// Stops the tunnel, and waits for the end of the stream, for at most the time limit of a response.
    ///
    /// # Errors
    /// See [`Error`]. The stream has ended in any case.
    pub fn stop(&self) -> Result<(), Error> {
        let deadline = Instant::now() + self.options.timeout;
        let outcome = match self.call(Msg::Stop(StopRequest {}), self.options.timeout) {
            Ok(tunnel_message::Msg::Stop(response)) if response.success => Ok(()),
            Ok(tunnel_message::Msg::Stop(response)) => Err(Error::Refused(response.error_message)),
            Ok(_) => Err(Error::Unexpected),
            Err(e) => Err(e),
        };
        if outcome.is_ok() {
            self.shared.speaker.wait_for_end(deadline.saturating_duration_since(Instant::now()));
        }
        self.shared.speaker.close();
        outcome
    }

    /// Ends the stream, and therefore the tunnel, without a request. Waiting calls fail.
    pub fn close(&self) {
        self.shared.speaker.close();
    }

    fn call(&self, body: Msg, timeout: Duration) -> Result<tunnel_message::Msg, Error> {
        let turn = lock(&self.turn);
        let response = self.shared.speaker.call(body, timeout).map_err(Error::Call);
        drop(turn);
        response
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.shared.speaker.close();
        if let Some(thread) = self.thread.take()
            && !self.owner.is_current()
        {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn receive(&self) {
        let mut settings = NetworkSettingsRequest::default();
        let end = loop {
            match self.speaker.recv() {
                Ok(Incoming::Request { id, body: tunnel_message::Msg::NetworkSettings(request) }) => {
                    let merged = merge(&settings, request);
                    let outcome = self.host.configure(&merged);
                    let success = outcome.is_ok();
                    if success {
                        settings = merged;
                    }
                    let response =
                        NetworkSettingsResponse { success, error_message: outcome.err().unwrap_or_default() };
                    // If it fails, the next turn returns the end.
                    let _ = self.speaker.respond(id, Msg::NetworkSettings(response));
                }
                Ok(Incoming::Request { id, .. }) => {
                    let _ = self.speaker.refuse(id);
                }
                Ok(Incoming::Notice(tunnel_message::Msg::PeerUpdate(update))) => {
                    let peers = {
                        let mut peers = lock(&self.peers);
                        peers.apply(&update);
                        peers.clone()
                    };
                    self.host.peers_changed(&peers);
                }
                Ok(Incoming::Notice(tunnel_message::Msg::Log(line))) => self.host.log(line),
                Ok(other) => tracing::debug!("a tunnel's message is ignored: {other:?}"),
                Err(end) => break end,
            }
        };
        self.host.ended(end);
    }
}
