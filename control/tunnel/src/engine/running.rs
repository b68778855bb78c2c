//! A running tunnel.

use std::{
    any::Any,
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, RwLock},
    time::{Duration, SystemTime},
};

use wg_embed::{
    bind::Bind,
    config::{Update, wgquick::Conf},
    device::{self, Tunnel},
    sync::{lock, read, write},
    tun::Tun,
};
use wg_embed_manager::{
    messages::NetworkSettingsRequest,
    tunnel::{Handshake, Id, Ping, Running},
};
use wg_embed_netstack::Netstack;

use super::{
    Configuration, Peer,
    interface::{self, Interface},
    system::System,
};
use crate::echo::{EchoTun, Echoes};

/// Locks are taken in the order of the fields.
pub(super) struct WireGuardTunnel {
    up: RwLock<Option<Up>>,
    /// The current configuration.
    current: Mutex<Current>,
    echoes: Arc<Echoes>,
}

/// The state until it is stopped.
struct Up {
    tunnel: Tunnel,
    tun: Arc<dyn Tun>,
    stack: Option<Netstack>,
    /// `None`: the manager configures the system's network. Locked during its configuration, so that calls are
    /// serialized.
    network: Option<Mutex<System>>,
}

#[derive(Default)]
struct Current {
    conf: Conf,
    peers: HashMap<Id, Peer>,
    /// Dropped with the tunnel.
    _guard: Option<Arc<dyn Any + Send + Sync>>,
}

impl Up {
    /// Sets the mark of the tunnel's own packets that the network needs.
    fn mark(&self, network: &System) -> Result<(), String> {
        let fwmark = Some(network.mark());
        self.tunnel.device().apply(Update { fwmark, ..Update::default() }).map_err(|e| e.to_string())
    }
}

impl WireGuardTunnel {
    /// Starts a tunnel over an interface whose network is configured.
    ///
    /// # Errors
    /// A text for the manager; all resources are freed in that case.
    pub(super) fn start(
        interface: Interface,
        network: Option<System>,
        bind: Arc<dyn Bind>,
        options: device::Options,
        configuration: Configuration,
    ) -> Result<Self, String> {
        let Interface { tun, stack, .. } = interface;
        let Configuration { conf, peers, guard } = configuration;
        let fwmark = network.as_ref().map(System::mark);
        let echoes = Arc::new(Echoes::default());
        let inner = Arc::new(EchoTun::new(tun.clone(), echoes.clone()));
        let tunnel = Tunnel::start_with(inner, bind, options, |device| {
            device.apply(conf.update.clone())?;
            device.apply(Update { fwmark, ..Update::default() })?;
            device.up()
        });
        let tunnel = match tunnel {
            Ok(tunnel) => tunnel,
            Err(error) => {
                // While the interface exists.
                drop(network);
                return Err(error.to_string());
            }
        };
        Ok(Self {
            up: RwLock::new(Some(Up { tunnel, tun, stack, network: network.map(Mutex::new) })),
            current: Mutex::new(Current { conf, peers, _guard: guard }),
            echoes,
        })
    }

    pub(super) fn netstack(&self) -> Option<Netstack> {
        read(&self.up).as_ref()?.stack.clone()
    }
}

impl Running<Configuration> for WireGuardTunnel {
    fn configure(&self, settings: &NetworkSettingsRequest) -> Result<(), String> {
        let up = read(&self.up);
        let Some((up, network)) = up.as_ref().and_then(|up| Some((up, up.network.as_ref()?))) else { return Ok(()) };
        let mut network = lock(network);
        network.change(settings)?;
        up.mark(&network)
    }

    fn apply(&self, configuration: Configuration) -> Result<(), String> {
        let up = read(&self.up);
        let Some(up) = up.as_ref() else { return Ok(()) };
        let Configuration { conf, peers, .. } = configuration;
        let mut change = conf.update.since(&lock(&self.current).conf.update);
        if up.network.is_some() {
            // Routes may depend on it.
            change.fwmark = None;
        }
        // It is the step that may fail: in that case nothing else has changed.
        up.tunnel.device().apply(change).map_err(|e| e.to_string())?;
        let before = {
            let mut current = lock(&self.current);
            current.peers = peers;
            std::mem::replace(&mut current.conf, conf.clone())
        };
        if let Some(stack) = &up.stack {
            change_stack(stack, &before, &conf).map_err(|e| format!("the network in userspace: {e}"))?;
        }
        if let Some(network) = &up.network {
            let mut network = lock(network);
            network.change_mark(conf.update.fwmark.unwrap_or(0))?;
            up.mark(&network)?;
        }
        Ok(())
    }

    fn last_handshake(&self, agent: &Id) -> Handshake {
        let up = read(&self.up);
        let key = lock(&self.current).peers.get(agent).map(|peer| peer.public_key);
        let stats = key.and_then(|key| up.as_ref()?.tunnel.device().peer_stats(&key));
        match stats.map(|stats| stats.last_handshake) {
            None => Handshake::Unknown,
            Some(Duration::ZERO) => Handshake::Never,
            Some(since) => SystemTime::UNIX_EPOCH.checked_add(since).map_or(Handshake::Unknown, Handshake::At),
        }
    }

    fn ping(&self, agents: &[Id], timeout: Duration, answered: &mut dyn FnMut(Id, Ping)) {
        let mut ids = Vec::with_capacity(agents.len());
        let mut pairs = Vec::with_capacity(agents.len());
        {
            let current = lock(&self.current);
            for id in agents {
                let to = current.peers.get(id).and_then(|peer| peer.address);
                if let Some((from, to)) = to.and_then(|to| Some((own_address(&current.conf, to)?, to))) {
                    ids.push(*id);
                    pairs.push((from, to));
                }
            }
        }
        let wake = || {
            if let Some(up) = read(&self.up).as_ref() {
                up.tun.wake();
            }
        };
        self.echoes.ping(&pairs, timeout, wake, &mut |number, latency| {
            if let Some(id) = ids.get(number) {
                answered(*id, Ping { latency, is_direct: true, relay: None });
            }
        });
    }

    fn wake(&self) {
        if let Some(up) = read(&self.up).as_ref()
            && let Err(error) = up.tunnel.device().network_changed()
        {
            tracing::warn!(%error, "no new sockets after a wake-up");
        }
    }

    fn stop(&self) {
        self.echoes.close();
        let Some(Up { tunnel, tun, stack, network }) = write(&self.up).take() else { return };
        drop(network);
        if let Err(error) = tunnel.stop() {
            tracing::error!(%error, "a tunnel does not stop");
        }
        if let Some(stack) = stack {
            stack.close();
        }
        // With the last of them, the interface is removed.
        drop((tunnel, tun));
        *lock(&self.current) = Current::default();
    }
}

impl Drop for WireGuardTunnel {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Returns the address from which a peer is pinged.
fn own_address(conf: &Conf, to: IpAddr) -> Option<IpAddr> {
    interface::addresses(conf).into_iter().find(|from| from.is_ipv4() == to.is_ipv4())
}

fn change_stack(stack: &Netstack, before: &Conf, after: &Conf) -> std::io::Result<()> {
    let mtu = interface::mtu(after);
    // The larger MTU allows both old and new addresses.
    if mtu > interface::mtu(before) {
        stack.set_mtu(mtu)?;
    }
    stack.set_addresses(interface::addresses(after))?;
    stack.set_mtu(mtu)?;
    stack.set_dns(after.interface.dns.clone());
    Ok(())
}
