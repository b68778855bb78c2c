//! The manager's side: starts and stops a tunnel, has the system's network configured for it, and keeps its peers.
//!
//! A tunnel may ask for settings and send peers at any time, also while it starts; a thread of the manager's handles
//! that. Requests of the manager are sent one after the other: some tunnels read nothing behind a request, not even a
//! response that they wait for, until it is done.

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

/// What a manager works for. All methods are called on one thread, one after the other, in the order in which the
/// tunnel has sent what they are about.
pub trait Host: Send + Sync + 'static {
    /// Configures the system's network. `settings` are all that hold now, not only what has changed.
    ///
    /// # Errors
    /// A text for the tunnel. Then the settings before still hold.
    fn configure(&self, settings: &NetworkSettingsRequest) -> Result<(), String>;

    /// The peers have changed.
    fn peers_changed(&self, peers: &Peers);

    /// The tunnel has logged a line.
    fn log(&self, line: Log);

    /// The stream has ended, and this is the last call. After [`Manager::stop`] that is expected.
    fn ended(&self, end: End);
}

/// How long a manager waits for a tunnel.
#[derive(Clone, Debug)]
pub struct Options {
    /// The stream's.
    pub stream: speaker::Options,
    /// For the response to a start, which may include a look-up of the peers.
    pub start_timeout: Duration,
    /// For any other response, and for the end of the stream after a stop.
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

/// Why a tunnel has not done what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// There is no response.
    Call(CallError),
    /// It has refused, with this text.
    Refused(String),
    /// Its response is to another kind of request.
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

/// What the thread that receives shares with the methods.
struct Shared {
    speaker: Speaker<ManagerSide>,
    host: Arc<dyn Host>,
    peers: Mutex<Peers>,
}

/// The manager of one tunnel. Dropping it ends the stream, and so the tunnel. Its methods may be called on any thread,
/// but not in a method of the [`Host`].
pub struct Manager {
    shared: Arc<Shared>,
    options: Options,
    /// Held for as long as a request waits for its response.
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

    /// The version that both sides speak.
    #[must_use]
    pub fn version(&self) -> Version {
        self.shared.speaker.version()
    }

    /// What is known of the peers.
    #[must_use]
    pub fn peers(&self) -> Peers {
        lock(&self.shared.peers).clone()
    }

    /// Starts the tunnel. The network is configured meanwhile or later, as the tunnel asks for it.
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

    /// Asks for all peers, as the tunnel has them now. [`Manager::peers`] follow every change without that, and do not
    /// take the answer: changes from before and after it may still be on their way.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn refresh(&self) -> Result<PeerUpdate, Error> {
        match self.call(Msg::GetPeerUpdate(GetPeerUpdate {}), self.options.timeout)? {
            tunnel_message::Msg::PeerUpdate(update) => Ok(update),
            _ => Err(Error::Unexpected),
        }
    }

    /// Reports that the machine has woken up. Returns false if the tunnel is older than the request.
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

    /// Stops the tunnel, and waits for the end of the stream; a tunnel that does not end it is not waited for any
    /// longer than for a response.
    ///
    /// # Errors
    /// See [`Error`]. The stream has ended all the same.
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

    /// Ends the stream, and so the tunnel, without a request. Calls that wait fail.
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
