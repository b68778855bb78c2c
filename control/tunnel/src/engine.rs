//! The engine: a tunnel of the library.

mod interface;
mod opened;
mod running;
mod system;

use std::{
    any::Any,
    collections::HashMap,
    fmt, io,
    net::IpAddr,
    sync::{Arc, Mutex, Weak},
};

use wg_embed::{
    bind::{Family, udp::BorrowedSocket},
    config::wgquick::Conf,
    device,
    key::PublicKey,
    sync::lock,
};
use wg_embed_manager::{
    messages::NetworkSettingsRequest,
    tunnel::{Engine, Id, Opened},
};
use wg_embed_netstack::Netstack;

use interface::Interface;
use opened::OpenedTunnel;
use running::WireGuardTunnel;
use system::System;

/// The configuration of a [`WireGuard`].
#[derive(Clone, Default)]
pub struct Configuration {
    /// A complete configuration: missing settings have their defaults.
    pub conf: Conf,
    /// The peers of the agents.
    pub peers: HashMap<Id, Peer>,
    /// Dropped when the tunnel has ended, if it was part of the start: for resources that must be released then.
    pub guard: Option<Arc<dyn Any + Send + Sync>>,
}

impl fmt::Debug for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Configuration").field("conf", &self.conf).field("peers", &self.peers).finish_non_exhaustive()
    }
}

/// A peer of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its public key.
    pub public_key: PublicKey,
    /// The address to ping; `None` for no pings.
    pub address: Option<IpAddr>,
}

/// The inside of a tunnel if the manager supplies no descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// A new interface, or a userspace network if none can be created.
    #[default]
    Auto,
    /// A new interface.
    Interface,
    /// A userspace network, see [`WireGuard::netstack`].
    Userspace,
}

/// Configures the system's network, unless the manager does.
pub trait SystemNetwork: Send + Sync + 'static {
    /// Configures it for an interface, and sets that up. `settings` are the complete settings; `mark` is the mark of
    /// the tunnel's own packets in the configuration, or 0.
    ///
    /// # Errors
    /// A text for the manager. Nothing remains configured in that case.
    fn configure(
        &self,
        interface: &str,
        settings: &NetworkSettingsRequest,
        mark: u32,
    ) -> Result<Box<dyn ConfiguredNetwork>, String>;
}

/// A configured network. Dropping it restores the previous state, which happens before the interface is removed.
pub trait ConfiguredNetwork: Send {
    /// Configures it with other settings, which are complete.
    ///
    /// # Errors
    /// A text for the manager. The previous settings are then still in effect.
    fn update(&mut self, settings: &NetworkSettingsRequest, mark: u32) -> Result<(), String>;

    /// Returns the mark that keeps the tunnel's own packets out of the tunnel; 0 if they need none.
    fn mark(&self) -> u32;
}

/// Options of the engine.
#[derive(Clone)]
pub struct Options {
    /// The inside of the tunnels.
    pub network: Network,
    /// The name of a new interface.
    pub interface: String,
    /// Configures the system's network; with `None` only the manager can, and [`Settings::Own`] with an interface is
    /// refused.
    ///
    /// [`Settings::Own`]: wg_embed_manager::tunnel::Settings::Own
    pub system: Option<Arc<dyn SystemNetwork>>,
    /// Called with each new UDP socket before anything is sent on it; an error refuses it.
    pub protect: Option<Arc<ProtectFn>>,
    /// Looks up the host names of endpoints.
    pub resolve: Arc<ResolveFn>,
}

/// See [`Options::protect`].
pub type ProtectFn = dyn Fn(BorrowedSocket<'_>, Family) -> io::Result<()> + Send + Sync;

/// See [`Options::resolve`].
pub type ResolveFn = dyn Fn(&str) -> Result<Vec<IpAddr>, wg_embed::error::Error> + Send + Sync;

impl Default for Options {
    /// An interface `wg-vpn0`, without configuration of the system's network, and the system's resolver.
    fn default() -> Self {
        Self {
            network: Network::default(),
            interface: "wg-vpn0".into(),
            system: None,
            protect: None,
            resolve: Arc::new(device::resolve_with_system),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("network", &self.network)
            .field("interface", &self.interface)
            .finish_non_exhaustive()
    }
}

/// The running tunnel, if any.
type Current = Mutex<Weak<WireGuardTunnel>>;

/// An engine that runs tunnels of the library, one at a time.
#[derive(Debug)]
pub struct WireGuard {
    options: Options,
    current: Arc<Current>,
}

impl WireGuard {
    /// Creates an engine without a tunnel.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options, current: Arc::default() }
    }

    /// Returns the userspace network of the running tunnel; `None` if it has none. It is closed when the tunnel stops.
    #[must_use]
    pub fn netstack(&self) -> Option<Netstack> {
        lock(&self.current).upgrade()?.netstack()
    }

    fn interface(&self, descriptor: Option<i32>, conf: &Conf) -> Result<Interface, String> {
        if let Some(descriptor) = descriptor {
            return Interface::adopt(descriptor, conf);
        }
        match self.options.network {
            Network::Interface => Interface::create(&self.options.interface),
            Network::Userspace => Interface::userspace(conf),
            Network::Auto => Interface::create(&self.options.interface).or_else(|error| {
                tracing::warn!(error, "no interface, the network is in userspace");
                Interface::userspace(conf)
            }),
        }
    }
}

impl Engine for WireGuard {
    type Configuration = Configuration;

    fn open(
        &self,
        descriptor: Option<i32>,
        configuration: Configuration,
    ) -> Result<Box<dyn Opened<Configuration>>, String> {
        let interface = self.interface(descriptor, &configuration.conf)?;
        let mark = configuration.conf.update.fwmark.unwrap_or(0);
        let name = interface.is_system.then(|| interface.tun.name());
        let network = name.map(|name| System::new(self.options.system.clone(), name, mark));
        let (options, current) = (self.options.clone(), self.current.clone());
        Ok(Box::new(OpenedTunnel { network, interface, configuration, options, current }))
    }
}
