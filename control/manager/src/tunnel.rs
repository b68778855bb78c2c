//! The tunnel's side: executes a manager's requests with an [`Engine`], and with peers from a [`Source`].
//!
//! Requests are handled one after the other, except that nothing waits for a start. This module handles neither peers
//! nor packets: both traits can be implemented without a network.

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

/// The source of a tunnel's peers, which a manager names by a URL.
pub trait Source: Send + Sync + 'static {
    /// The configuration of the [`Engine`].
    type Configuration: Send + 'static;

    /// Finds the peers for a start. It may block: it is called on its own thread. The URL and the token are not empty.
    /// Later changes are passed to `changes`, on any thread, until that returns false.
    ///
    /// # Errors
    /// A text for the manager.
    fn resolve(
        &self,
        request: &StartRequest,
        changes: Changes<Self::Configuration>,
    ) -> Result<Plan<Self::Configuration>, String>;
}

/// The result of [`Source`] for a start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan<C> {
    /// The settings of the system's network before the tunnel starts: one request after the other. Together they are
    /// complete: settings that are absent from all of them are not configured.
    pub settings: Vec<NetworkSettingsRequest>,
    /// The groups of the agents.
    pub workspaces: Vec<Workspace>,
    /// The peers.
    pub agents: Vec<Agent>,
    /// The configuration for the engine.
    pub configuration: C,
}

/// A later change.
#[derive(Clone, Debug, PartialEq)]
pub struct Change<C> {
    /// Whether `workspaces` and `agents` are complete lists: missing entries were deleted.
    pub is_complete: bool,
    /// New and changed workspaces.
    pub workspaces: Vec<Workspace>,
    /// New and changed agents.
    pub agents: Vec<Agent>,
    /// Deleted workspaces, unless they are also in `workspaces`.
    pub deleted_workspaces: Vec<Id>,
    /// Deleted agents, unless they are also in `agents`.
    pub deleted_agents: Vec<Id>,
    /// The configuration for the engine, which is applied before the manager is notified.
    pub configuration: Option<C>,
    /// The settings as in [`Plan`], which replace the previous ones; empty: unchanged. A refusal is logged. If a newer
    /// change arrives before this one is applied, only the newer one is applied.
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

/// Receives the changes after one start.
pub struct Changes<C> {
    send: Arc<dyn Fn(Change<C>) -> bool + Send + Sync>,
}

impl<C> Changes<C> {
    /// Creates one that passes changes to `send`, which returns whether more are accepted: for tests of a [`Source`].
    pub fn new(send: impl Fn(Change<C>) -> bool + Send + Sync + 'static) -> Self {
        Self { send: Arc::new(send) }
    }

    /// Passes on a change. It waits while many are queued, so it must not be called in a method of [`Running`]. Returns
    /// false once the tunnel accepts no more.
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

/// Carries packets.
pub trait Engine: Send + Sync + 'static {
    /// The configuration of the engine.
    type Configuration: Send + 'static;

    /// Opens the inside of a tunnel, such as an interface, which stays down until it is configured. `descriptor` is a
    /// TUN of the manager, to be duplicated and not closed; with `None` the engine creates one, or needs none. Called
    /// on its own thread.
    ///
    /// # Errors
    /// A text for the manager.
    fn open(
        &self,
        descriptor: Option<i32>,
        configuration: Self::Configuration,
    ) -> Result<Box<dyn Opened<Self::Configuration>>, String>;
}

/// A tunnel that is not running yet. Dropping it restores everything.
pub trait Opened<C> {
    /// Returns whether the engine can configure the system's network for it, or need not. Otherwise
    /// [`Settings::OwnOrAsk`] requests it from the manager.
    fn configures(&self) -> bool;

    /// Configures the system's network, unless the manager does. `settings` are the complete settings.
    ///
    /// # Errors
    /// A text for the manager.
    fn configure(&mut self, settings: &NetworkSettingsRequest) -> Result<(), String>;

    /// Starts the tunnel.
    ///
    /// # Errors
    /// A text for the manager. All resources are freed in that case.
    fn start(self: Box<Self>) -> Result<Arc<dyn Running<C>>, String>;
}

/// A running tunnel. Its methods may be called on several threads concurrently.
pub trait Running<C>: Send + Sync {
    /// Configures the system's network, unless the manager does. `settings` are the complete settings, which replace
    /// the previous ones. Calls are serialized.
    ///
    /// # Errors
    /// A text for the log. The previous settings must then still be in effect.
    fn configure(&self, settings: &NetworkSettingsRequest) -> Result<(), String>;

    /// Applies a change; sessions of peers that stay are kept.
    ///
    /// # Errors
    /// A text for the log.
    fn apply(&self, configuration: C) -> Result<(), String>;

    /// Returns the time of a peer's last handshake. Never waits.
    fn last_handshake(&self, agent: &Id) -> Handshake;

    /// Pings all of them at the same time, and calls `answered` for each answer when it arrives. Returns when all have
    /// answered, after the time limit, or when the tunnel has stopped.
    fn ping(&self, agents: &[Id], timeout: Duration, answered: &mut dyn FnMut(Id, Ping));

    /// Handles a wake-up of the machine: opens new sockets and finds paths. Never waits.
    fn wake(&self);

    /// Stops the tunnel and restores its settings. All resources are freed when it returns. Idempotent.
    fn stop(&self);
}

/// Who configures the system's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settings {
    /// The manager, on request, within a time limit.
    Ask {
        /// The time limit; a later answer counts as a refusal.
        timeout: Duration,
    },
    /// The engine. A start fails if it cannot.
    Own,
    /// The engine, if it can; otherwise the manager. See [`Opened::configures`].
    OwnOrAsk {
        /// The time limit, as in [`Settings::Ask`].
        timeout: Duration,
    },
}

impl Settings {
    const TIMEOUT: Duration = Duration::from_secs(30);

    /// Returns [`Settings::Ask`] with a time limit of 30 seconds.
    #[must_use]
    pub const fn ask() -> Self {
        Self::Ask { timeout: Self::TIMEOUT }
    }

    /// Returns the setting for an engine that can, or cannot, configure the network.
    const fn for_engine(self, configures: bool) -> Self {
        match self {
            Self::OwnOrAsk { .. } if configures => Self::Own,
            Self::OwnOrAsk { timeout } => Self::Ask { timeout },
            Self::Ask { .. } | Self::Own => self,
        }
    }
}

impl Default for Settings {
    /// On Apple's systems the manager, see [`ask`](Self::ask). Elsewhere managers usually do not answer, so the manager
    /// is used only if the engine cannot configure the network.
    fn default() -> Self {
        if cfg!(target_vendor = "apple") { Self::ask() } else { Self::OwnOrAsk { timeout: Self::TIMEOUT } }
    }
}

/// Options of a tunnel's side.
#[derive(Clone, Debug)]
pub struct Options {
    /// The options of the stream.
    pub stream: speaker::Options,
    /// Who configures the system's network.
    pub settings: Settings,
    /// The interval at which all agents are sent with their handshakes and pings, and then pinged; `None`: only by
    /// [`Handle::refresh`].
    pub interval: Option<Duration>,
    /// The time limit for a ping.
    pub ping_timeout: Duration,
    /// The minimum interval between two wake-ups: an earlier one is answered, and otherwise ignored.
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
