//! The tunnel's side: what a manager asks is done by an [`Engine`], with peers from a [`Source`].
//!
//! Requests are handled one after the other, except that a start does not keep anything else waiting. Neither peers nor
//! packets are handled here: both traits can be implemented without a network.

mod log;
mod network;
mod peers;
mod serve;
mod start;

pub use log::{quote, value};
pub use peers::{Agent, Handshake, Id, Ping, Relay, Workspace};
pub use serve::{Handle, Tunnel};

use crate::{
    messages::{NetworkSettingsRequest, StartRequest},
    speaker,
};
use std::{fmt, sync::Arc, time::Duration};

/// Where the peers of a tunnel come from: what a manager names by a URL.
pub trait Source: Send + Sync + 'static {
    /// What an [`Engine`] is configured with.
    type Configuration: Send + 'static;

    /// Finds the peers for a start. It may take its time: it is called on a thread of its own. The URL and the token
    /// are there. What changes later goes to `changes`, on any thread, until a send to it fails.
    ///
    /// # Errors
    /// A text for the manager.
    fn resolve(
        &self,
        request: &StartRequest,
        changes: Changes<Self::Configuration>,
    ) -> Result<Plan<Self::Configuration>, String>;
}

/// What a start found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan<C> {
    /// What the system's network is to be like, before the tunnel starts: one request after the other. Together they
    /// are complete: what is in none of them is not configured.
    pub settings: Vec<NetworkSettingsRequest>,
    /// What the agents are grouped by.
    pub workspaces: Vec<Workspace>,
    /// The peers.
    pub agents: Vec<Agent>,
    /// For the engine.
    pub configuration: C,
}

/// A later change.
#[derive(Clone, Debug, PartialEq)]
pub struct Change<C> {
    /// Whether `workspaces` and `agents` are all that there are: what is missing has been deleted.
    pub is_complete: bool,
    /// New ones, and those that differ.
    pub workspaces: Vec<Workspace>,
    /// New ones, and those that differ.
    pub agents: Vec<Agent>,
    /// No longer there. What is also in `workspaces` is.
    pub deleted_workspaces: Vec<Id>,
    /// No longer there. What is also in `agents` is.
    pub deleted_agents: Vec<Id>,
    /// For the engine, before the manager is told.
    pub configuration: Option<C>,
    /// As in [`Plan`], in place of the settings before; empty: they stay. A refusal is logged. If there is a newer
    /// change before this one can be applied, only the newer one is.
    pub settings: Vec<NetworkSettingsRequest>,
}

impl<C> Default for Change<C> {
    fn default() -> Self {
        Self {
            is_complete: false,
            workspaces: Vec::new(),
            agents: Vec::new(),
            deleted_workspaces: Vec::new(),
            deleted_agents: Vec::new(),
            configuration: None,
            settings: Vec::new(),
        }
    }
}

/// Takes the changes of one start.
pub struct Changes<C> {
    send: Arc<dyn Fn(Change<C>) -> bool + Send + Sync>,
}

impl<C> Changes<C> {
    /// Passes changes to `send`, which returns whether more are wanted: for a test of a [`Source`].
    pub fn new(send: impl Fn(Change<C>) -> bool + Send + Sync + 'static) -> Self {
        Self { send: Arc::new(send) }
    }

    /// Hands a change over. It waits while many are on their way, so it must not be called in a method of [`Running`].
    /// Returns false once the tunnel no longer wants any.
    pub fn send(&self, change: Change<C>) -> bool {
        (self.send)(change)
    }
}

impl<C> Clone for Changes<C> {
    fn clone(&self) -> Self {
        Self { send: self.send.clone() }
    }
}

impl<C> fmt::Debug for Changes<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").finish_non_exhaustive()
    }
}

/// What carries packets.
pub trait Engine: Send + Sync + 'static {
    /// What it is configured with.
    type Configuration: Send + 'static;

    /// Opens what packets come from, such as an interface, which stays down until it is configured. `descriptor` is a
    /// TUN of the manager, to be duplicated and not closed; `None`: the engine makes one, or needs none. Called on a
    /// thread of its own.
    ///
    /// # Errors
    /// A text for the manager.
    fn open(
        &self,
        descriptor: Option<i32>,
        configuration: Self::Configuration,
    ) -> Result<Box<dyn Opened<Self::Configuration>>, String>;
}

/// A tunnel that does not run yet. Dropping it undoes everything.
pub trait Opened<C> {
    /// Returns whether the engine can configure the system's network for it, or need not. If not,
    /// [`Settings::OwnOrAsk`] asks the manager.
    fn configures(&self) -> bool;

    /// Configures the system's network, where the manager is not asked to. `settings` are all that hold.
    ///
    /// # Errors
    /// A text for the manager.
    fn configure(&mut self, settings: &NetworkSettingsRequest) -> Result<(), String>;

    /// Starts it.
    ///
    /// # Errors
    /// A text for the manager. Then nothing is left.
    fn start(self: Box<Self>) -> Result<Arc<dyn Running<C>>, String>;
}

/// A tunnel that runs. Its methods may be called on several threads at once.
pub trait Running<C>: Send + Sync {
    /// Configures the system's network, where the manager is not asked to. `settings` are all that hold from now on.
    /// Called once at a time.
    ///
    /// # Errors
    /// A text for the log. Then the settings before still hold.
    fn configure(&self, settings: &NetworkSettingsRequest) -> Result<(), String>;

    /// Applies a change to it; sessions of peers that stay are kept.
    ///
    /// # Errors
    /// A text for the log.
    fn apply(&self, configuration: C) -> Result<(), String>;

    /// When a peer's last handshake was. Does not wait for anything.
    fn last_handshake(&self, agent: &Id) -> Handshake;

    /// Pings all of them at once, and calls `answered` for each answer as it arrives. Returns when all have answered,
    /// the time is up, or the tunnel has stopped.
    fn ping(&self, agents: &[Id], timeout: Duration, answered: &mut dyn FnMut(Id, Ping));

    /// The machine has woken up: opens sockets again and looks for paths. Does not wait for anything.
    fn wake(&self);

    /// Ends it and undoes what it has configured. When it returns, nothing is left. Idempotent.
    fn stop(&self);
}

/// Who configures the system's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settings {
    /// The manager, which is asked and answers within that time.
    Ask {
        /// Longer is as a refusal.
        timeout: Duration,
    },
    /// The engine. A start fails if it cannot.
    Own,
    /// The engine, if it can; otherwise the manager. See [`Opened::configures`].
    OwnOrAsk {
        /// As of [`Settings::Ask`].
        timeout: Duration,
    },
}

impl Settings {
    const TIMEOUT: Duration = Duration::from_secs(30);

    /// The manager, within 30 seconds.
    #[must_use]
    pub const fn ask() -> Self {
        Self::Ask { timeout: Self::TIMEOUT }
    }

    /// The choice for an engine that can configure the network, or cannot.
    const fn for_engine(self, configures: bool) -> Self {
        match self {
            Self::OwnOrAsk { .. } if configures => Self::Own,
            Self::OwnOrAsk { timeout } => Self::Ask { timeout },
            Self::Ask { .. } | Self::Own => self,
        }
    }
}

impl Default for Settings {
    /// On Apple's systems the manager, see [`ask`](Self::ask). Elsewhere managers usually do not answer, so that only
    /// an engine that cannot configure the network asks them.
    fn default() -> Self {
        if cfg!(target_vendor = "apple") { Self::ask() } else { Self::OwnOrAsk { timeout: Self::TIMEOUT } }
    }
}

/// How a tunnel serves its manager.
#[derive(Clone, Debug)]
pub struct Options {
    /// The stream's.
    pub stream: speaker::Options,
    /// Who configures the system's network.
    pub settings: Settings,
    /// How often all agents are pinged, and sent with their handshakes and pings; `None`: only by [`Handle::refresh`].
    pub interval: Option<Duration>,
    /// How long a ping may take.
    pub ping_timeout: Duration,
    /// A wake-up so soon after another one is answered and otherwise ignored.
    pub wake_interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        let five = Duration::from_secs(5);
        Self {
            stream: speaker::Options::default(),
            settings: Settings::default(),
            interval: Some(five),
            ping_timeout: five,
            wake_interval: five,
        }
    }
}
