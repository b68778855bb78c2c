//! The state of a server that its tunnel, its loop and its program share.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::RawFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use ipnet::IpNet;
use pyo3::{PyTraverseError, PyVisit, prelude::*};
use wg_embed::{
    bind::{Bind, UdpBind},
    config::{AllowedIpUpdate, PeerUpdate, Update},
    device::{Event, Options, Tunnel},
    sync::lock,
};
use wg_embed_netstack::{InterceptOptions, Netstack};

use super::{Functions, Settings, arrival::Interceptor};
use crate::{
    bridge::{Bridge, Ready, is_done},
    connection::{Carrier, Connection, Info, Manner},
    process::Inherited,
};

/// The time that `close` waits for the last packets, the resets of all connections, to be sent.
const CLOSE_GRACE: Duration = Duration::from_millis(200);

/// The number of addresses that are remembered for each of several peers.
const LEARNED: usize = 1024;

pub(super) struct Shared {
    pub(super) manner: Manner,
    pub(super) bridge: Arc<Bridge>,
    queued: AtomicBool,
    pub(super) net: Netstack,
    bind: Arc<UdpBind>,
    tunnel: Mutex<Option<Tunnel>>,
    pub(super) address: Mutex<SocketAddr>,
    /// Dropped with the server, as they may refer to it.
    pub(super) functions: Mutex<Option<Arc<Functions>>>,
    pub(super) gone: Arc<AtomicBool>,
    pub(super) waiters: Mutex<Vec<Py<PyAny>>>,
    pub(super) streams: AtomicU64,
    pub(super) flows: AtomicU64,
}

impl Shared {
    pub(super) fn start(
        bridge: &Arc<Bridge>,
        host: IpAddr,
        settings: &Settings,
        functions: &Arc<Functions>,
    ) -> Result<Arc<Self>, wg_embed::Error> {
        let system = |error: io::Error| wg_embed::Error::io("cannot start a server", error);
        let net = Netstack::new(wg_embed_netstack::Options::default()).map_err(system)?;
        let bind = Arc::new(UdpBind::new().map_err(system)?.with_address(host));
        let shared = Arc::new(Self {
            manner: settings.manner,
            bridge: bridge.clone(),
            queued: AtomicBool::new(false),
            net: net.clone(),
            bind: bind.clone(),
            tunnel: Mutex::default(),
            address: Mutex::new(SocketAddr::new(host, settings.port)),
            functions: Mutex::new(Some(functions.clone())),
            gone: Arc::new(AtomicBool::new(false)),
            waiters: Mutex::default(),
            streams: AtomicU64::new(if settings.manner == Manner::Legacy { 0 } else { 2 }),
            flows: AtomicU64::new(3),
        });
        let ready: Arc<dyn Ready> = shared.clone();
        bridge.introduce(Arc::downgrade(&ready));
        net.intercept(InterceptOptions::default(), Some(Arc::new(Interceptor(Arc::downgrade(&shared)))));
        let of_events = Arc::downgrade(&shared);
        let options = Options {
            learned_addresses: if settings.peers.len() > 1 { LEARNED } else { 0 },
            events: Box::new(move |event| {
                if let (Event::Ended(_), Some(shared)) = (event, of_events.upgrade()) {
                    shared.bridge.post(shared.clone());
                }
            }),
            ..Options::default()
        };
        let tunnel = Tunnel::start_with(net.tun(), bind as Arc<dyn Bind>, options, |device| {
            device.apply(update(settings))?;
            device.up()
        })?;
        lock(&shared.address).set_port(tunnel.device().listen_port());
        tracing::info!(address = %*lock(&shared.address), "a WireGuard server listens");
        *lock(&shared.tunnel) = Some(tunnel);
        Ok(shared)
    }

    /// Ends everything. Idempotent. Its port is free afterwards.
    pub(super) fn close(self: &Arc<Self>) {
        let Some(tunnel) = lock(&self.tunnel).take() else { return };
        tracing::info!("Shutting down.");
        self.gone.store(true, Ordering::Release);
        if let Err(error) = tunnel.stop_with_tun(|| self.net.close(), CLOSE_GRACE) {
            tracing::warn!(%error, "a tunnel was not stopped");
        }
        drop(tunnel);
        self.bridge.post(self.clone());
    }

    pub(super) fn functions(&self) -> Option<Arc<Functions>> {
        lock(&self.functions).clone()
    }

    /// Dropping them may run their code, so no lock is held then.
    pub(super) fn forget_functions(&self) {
        let functions = lock(&self.functions).take();
        drop(functions);
    }

    /// Returns the address of a client's packets outside the tunnel.
    fn source(&self, inner: IpAddr) -> Option<SocketAddr> {
        lock(&self.tunnel).as_ref().and_then(|tunnel| tunnel.device().peer_at(inner)?.1)
    }

    /// Returns an object for an arrival, with the next number.
    pub(super) fn connection(&self, peer: SocketAddr, destination: SocketAddr, carrier: Carrier) -> Arc<Connection> {
        let (manner, socket, source) = (self.manner, *lock(&self.address), self.source(peer.ip()));
        let is_udp = matches!(carrier, Carrier::Udp(_));
        let number = match (is_udp, manner) {
            (true, _) => self.flows.fetch_add(2, Ordering::Relaxed),
            (false, Manner::Legacy) => self.streams.fetch_add(1, Ordering::Relaxed),
            (false, Manner::Modern) => self.streams.fetch_add(2, Ordering::Relaxed),
        };
        let info = Info { manner, is_udp, number, peer, socket, source, destination };
        Connection::new(self.bridge.clone(), info, self.gone.clone(), carrier)
    }

    /// Passes a stream to a handler.
    pub(super) fn run(
        &self,
        py: Python<'_>,
        handler: &Py<PyAny>,
        functions: &Functions,
        stream: Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (Some(event_loop), Some(tasks)) = (self.bridge.event_loop(py), self.bridge.tasks(py)) else {
            return Ok(());
        };
        let is_legacy = self.manner == Manner::Legacy;
        let arguments = (event_loop, tasks, &functions.context, handler, stream, is_legacy);
        functions.run.bind(py).call1(arguments)?;
        Ok(())
    }
}

/// Key, port, and peers, which may send from any address: answers to unknown ones are sent to the first peer.
fn update(settings: &Settings) -> Update {
    let mut peers: Vec<_> = settings.peers.iter().copied().map(PeerUpdate::new).collect();
    if let Some(first) = peers.first_mut() {
        let all = [IpNet::from(ipnet::Ipv4Net::default()), IpNet::from(ipnet::Ipv6Net::default())];
        first.allowed_ips = all.map(AllowedIpUpdate::add).to_vec();
    }
    Update {
        private_key: Some(Some(settings.private_key.clone())),
        listen_port: Some(settings.port),
        peers,
        ..Update::default()
    }
}

impl Inherited for Shared {
    fn descriptors(&self) -> Vec<RawFd> {
        [self.bind.fd4(), self.bind.fd6()].into_iter().flatten().collect()
    }
}

impl Ready for Shared {
    fn queued(&self) -> &AtomicBool {
        &self.queued
    }

    /// It has ended, by itself or by `close`.
    fn ready(self: Arc<Self>, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.close());
        self.forget_functions();
        let waiters = std::mem::take(&mut *lock(&self.waiters));
        for waiter in waiters {
            if !is_done(py, &waiter)? {
                waiter.bind(py).call_method1("set_result", (self.manner.nothing(py)?,))?;
            }
        }
        Ok(())
    }

    fn abandon(&self) {
        let waiters = std::mem::take(&mut *lock(&self.waiters));
        drop(waiters);
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        lock(&self.waiters).iter().try_for_each(|waiter| visit.call(waiter))
    }
}
