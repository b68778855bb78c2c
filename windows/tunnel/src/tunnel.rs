//! One tunnel: its adapter, its device, its control pipe, and the network settings around it.

use std::{path::Path, sync::Arc, time::Duration};

use crossbeam_channel::{Receiver, bounded};
use wg_embed::{
    bind::{Family, udp::UdpBind},
    config::wgquick::Conf,
    device::{self, Event},
    error::{Error, ErrorKind, Result},
    ipc::{self, DIRECTORY, Listener, Server},
    tun::windows::{Adapter, Wintun, WintunTun, guid_of},
};

use crate::{
    applied::Applied,
    outside::Outside,
    plan::{Step, binds, plan},
    supervise,
    system::{Windows, default_routes},
};

/// How long to wait for a service of this name that is ending to release the control pipe.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running tunnel. Dropping it undoes everything.
pub struct Tunnel {
    // Fields are dropped in this order: first what others see of the tunnel, and last the adapter, which `device` has.
    applied: Option<Applied<Windows>>,
    server: Server,
    device: Arc<device::Tunnel>,
    sockets: Arc<UdpBind>,
    luid: u64,
    /// Without keys.
    conf: Conf,
    outside: Outside,
}

impl Tunnel {
    /// Starts a tunnel of this name. The endpoints of `conf` are addresses. The receiver gets the reason if the tunnel
    /// ends by itself.
    ///
    /// The filters of the firewall come before the routes that lead packets into the tunnel, and these when it is
    /// configured. Commands in `conf` are not run.
    ///
    /// # Errors
    /// `NotFound` without wintun.dll; `Exists` if a tunnel of this name runs; `Permission` without the rights of an
    /// administrator; `Unsupported` if this system lacks functions for network settings and the tunnel would have all
    /// traffic of a family; other errors of the parts. Nothing of it is left.
    pub fn start(name: &str, mut conf: Conf) -> Result<(Self, Receiver<String>)> {
        warn_of_commands(&conf);
        let update = std::mem::take(&mut conf.update);
        let conf = Conf { update: without_keys(&update), ..conf };
        // Before there is an adapter: Windows then has nothing to remove if the name is taken.
        let listener = Listener::claim(Path::new(DIRECTORY), name, PATIENCE)?;
        let adapter = Adapter::create(&Wintun::find()?, name, Some(guid_of(name)))?;
        let luid = adapter.luid();
        let outside = Outside::choose(&default_routes()?, luid);
        let steps = plan(&conf, &outside);
        let tun = Arc::new(WintunTun::start(adapter, mtu(&steps))?);
        let sockets = Arc::new(UdpBind::new().map_err(|error| Error::io("cannot wait for UDP sockets", error))?);
        let (ends, ended) = bounded(1);
        let server_ends = ends.clone();
        let events = Box::new(move |event| {
            if let Event::Ended(reason) = event {
                // Only the first reason is received.
                let _ = ends.try_send(reason.to_string());
            }
        });
        let options = device::Options { events, ..device::Options::default() };
        let device = device::Tunnel::start_with(tun, sockets.clone(), options, |device| {
            device.apply(update)?;
            device.up()
        })?;
        let device = Arc::new(device);
        bind_sockets(&sockets, &conf, &outside)?;
        let server_ended = Box::new(move |reason| {
            let _ = server_ends.try_send(reason);
        });
        let server = Server::start(listener, device.clone(), ipc::Options::default(), server_ended)?;
        let applied = apply(luid, steps)?;
        Ok((Self { applied, server, device, sockets, luid, conf, outside }, ended))
    }

    /// Undoes everything: when this returns, the adapter is gone.
    ///
    /// # Errors
    /// The first error; everything else is undone nevertheless.
    pub fn stop(mut self) -> Result<()> {
        let settings = self.applied.take().map_or(Ok(()), Applied::undo);
        let server = self.server.stop();
        let device = self.device.stop();
        settings.and(server).and(device)
    }
}

impl supervise::Tunnel for Tunnel {
    fn follow_network(&mut self) -> Result<()> {
        let outside = Outside::choose(&default_routes()?, self.luid);
        if outside == self.outside {
            return Ok(());
        }
        tracing::info!(v4 = ?outside.v4.map(|route| route.index), v6 = ?outside.v6.map(|route| route.index),
            "the default route outside is another one");
        bind_sockets(&self.sockets, &self.conf, &outside)?;
        if let Some(applied) = &mut self.applied {
            applied.change(plan(&self.conf, &outside))?;
        }
        self.device.device().network_changed()?;
        self.outside = outside;
        Ok(())
    }

    fn resumed(&mut self) {
        if let Err(error) = self.device.device().network_changed() {
            tracing::warn!(%error, "sockets could not be opened after the machine has slept");
        }
    }
}

/// Performs the steps. On a system that lacks the functions for it, and this is not Windows then, an administrator can
/// do without them; but not without the firewall.
fn apply(luid: u64, steps: Vec<Step>) -> Result<Option<Applied<Windows>>> {
    let is_private = steps.iter().any(|step| matches!(step, Step::Firewall(_)));
    match Windows::new(luid) {
        Ok(windows) => Applied::new(windows, steps).map(Some),
        Err(error) if error.kind() == ErrorKind::Unsupported && !is_private => {
            tracing::warn!(%error, "addresses, routes and name servers are not set");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Keeps the tunnel's own packets out of the tunnel; without a default route outside, nothing is sent.
fn bind_sockets(sockets: &UdpBind, conf: &Conf, outside: &Outside) -> Result<()> {
    for family in [Family::V4, Family::V6] {
        if binds(conf, family) {
            let index = outside.of(family).map_or(0, |route| route.index);
            let bound = sockets.set_interface(family, index, index == 0);
            bound.map_err(|error| Error::io(format!("cannot bind the {family} socket to interface {index}"), error))?;
        }
    }
    Ok(())
}

/// Returns the smallest MTU that the steps set, which suits packets of both families; 0 stands for the usual one.
fn mtu(steps: &[Step]) -> u16 {
    let mtus = steps.iter().filter_map(|step| match step {
        Step::Interface { mtu, .. } => u16::try_from(*mtu).ok(),
        _ => None,
    });
    mtus.min().unwrap_or_default()
}

fn warn_of_commands(conf: &Conf) {
    let interface = &conf.interface;
    let lists = [&interface.pre_up, &interface.post_up, &interface.pre_down, &interface.post_down];
    let count: usize = lists.iter().map(|list| list.len()).sum();
    if count > 0 {
        tracing::warn!(count, "commands of the configuration are not run");
    }
}

/// Returns the part of a configuration from which plans are made.
fn without_keys(update: &wg_embed::config::Update) -> wg_embed::config::Update {
    let peers = update.peers.iter().map(|peer| wg_embed::config::PeerUpdate {
        endpoint: peer.endpoint.clone(),
        allowed_ips: peer.allowed_ips.clone(),
        ..wg_embed::config::PeerUpdate::new(peer.public_key)
    });
    wg_embed::config::Update { peers: peers.collect(), ..wg_embed::config::Update::default() }
}
