//! What carries packets: a tunnel of the library.

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

/// What a [`WireGuard`] is configured with.
#[derive(Clone, Default)]
pub struct Configuration {
    /// A whole configuration: what is not in it is as by default.
    pub conf: Conf,
    /// Which peer an agent is.
    pub peers: HashMap<Id, Peer>,
    /// Dropped when the tunnel has ended, if it came with the start: what has to end then.
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
    /// Its key.
    pub public_key: PublicKey,
    /// Where it is pinged; `None`: it is not.
    pub address: Option<IpAddr>,
}

/// Where packets come from, if the manager gives no descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// An interface of our own, or else a network in userspace.
    #[default]
    Auto,
    /// An interface of our own.
    Interface,
    /// A network in userspace, see [`WireGuard::netstack`].
    Userspace,
}

/// Configures the system's network, where the manager is not asked to.
pub trait SystemNetwork: Send + Sync + 'static {
    /// Configures it for an interface, and brings that up. `settings` are all that hold from now on; `mark` is that of
    /// the tunnel's own packets, as the configuration has it, and 0 if it has none.
    ///
    /// # Errors
    /// A text for the manager. Then nothing is left of it.
    fn configure(
        &self,
        interface: &str,
        settings: &NetworkSettingsRequest,
        mark: u32,
    ) -> Result<Box<dyn ConfiguredNetwork>, String>;
}

/// A system's network that is configured. Dropping it undoes that, which happens before the interface is removed.
pub trait ConfiguredNetwork: Send {
    /// Configures it with other settings, which are all that hold from now on.
    ///
    /// # Errors
    /// A text for the manager. Then what held before holds.
    fn update(&mut self, settings: &NetworkSettingsRequest, mark: u32) -> Result<(), String>;

    /// The mark that the tunnel's own packets are to have, so that they are not routed into the tunnel; 0 if they need
    /// none.
    fn mark(&self) -> u32;
}

/// What tunnels are made of.
#[derive(Clone)]
pub struct Options {
    /// Where packets come from.
    pub network: Network,
    /// The name of an interface of our own.
    pub interface: String,
    /// Configures the system's network; `None`: only the manager can, and [`Settings::Own`] with an interface is
    /// refused.
    ///
    /// [`Settings::Own`]: wg_embed_manager::tunnel::Settings::Own
    pub system: Option<Arc<dyn SystemNetwork>>,
    /// Is passed each new UDP socket before anything is sent on it; an error refuses it.
    pub protect: Option<Arc<ProtectFn>>,
    /// Looks up the host names of endpoints.
    pub resolve: Arc<ResolveFn>,
}

/// See [`Options::protect`].
pub type ProtectFn = dyn Fn(BorrowedSocket<'_>, Family) -> io::Result<()> + Send + Sync;

/// See [`Options::resolve`].
pub type ResolveFn = dyn Fn(&str) -> Result<Vec<IpAddr>, wg_embed::error::Error> + Send + Sync;

impl Default for Options {
    /// An interface `wg-vpn0`, for which nothing configures the system; the system looks up names.
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

/// The tunnel that runs, if one does.
type Current = Mutex<Weak<WireGuardTunnel>>;

/// Tunnels of the library, one at a time.
#[derive(Debug)]
pub struct WireGuard {
    options: Options,
    current: Arc<Current>,
}

impl WireGuard {
    /// Nothing yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options, current: Arc::default() }
    }

    /// The network in userspace of the tunnel that runs; `None` if it has none. It is closed when the tunnel stops.
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
