//! A WireGuard server that intercepts whatever its peers dial, and passes it to handlers of Python.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use ipnet::IpNet;
use pyo3::{
    exceptions::{PyOSError, PyRuntimeError},
    prelude::*,
    types::PyBytes,
};
use wg_embed::{
    bind::{Bind, UdpBind},
    config::{AllowedIpUpdate, PeerUpdate, Update},
    device::{Event, Options, Tunnel},
    key::{PrivateKey, PublicKey},
    sync::lock,
};
use wg_embed_netstack::{Intercept, InterceptOptions, Netstack, TcpStream, UdpFlow};

use crate::{
    bridge::{Bridge, Ready},
    connection::{Carrier, Connection, Info, Manner},
    convert, errors,
    legacy::LegacyStream,
    log,
    modern::ModernStream,
    process::{self, Inherited, Mark},
};

/// Idle time after which a connection is probed: below the usual 30 s of NATs.
const KEEPALIVE: Duration = Duration::from_secs(28);

/// A connection whose data or probes are not acknowledged for so long is ended.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long `close` waits for the last packets, the resets of all connections, to leave.
const PARTING: Duration = Duration::from_millis(200);

/// Addresses of each peer that are remembered, where there are several peers.
const LEARNED: usize = 1024;

/// What a server is started with.
pub(crate) struct Settings {
    pub(crate) manner: Manner,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) private_key: PrivateKey,
    pub(crate) peers: Vec<PublicKey>,
}

/// Python's functions.
pub(crate) struct Handlers {
    /// Takes a stream and returns an awaitable.
    pub(crate) tcp: Py<PyAny>,
    /// Modern: the same for a flow. Legacy: takes data, source and destination of each datagram.
    pub(crate) udp: Py<PyAny>,
}

struct Functions {
    handlers: Handlers,
    /// The context that the server was started in: all handlers run in a copy of it.
    context: Py<PyAny>,
    run: Py<PyAny>,
}

struct Shared {
    manner: Manner,
    bridge: Arc<Bridge>,
    queued: AtomicBool,
    net: Netstack,
    bind: Arc<UdpBind>,
    tunnel: Mutex<Option<Tunnel>>,
    address: Mutex<SocketAddr>,
    /// Dropped with the server: they may refer to it.
    functions: Mutex<Option<Arc<Functions>>>,
    gone: Arc<AtomicBool>,
    waiters: Mutex<Vec<Py<PyAny>>>,
    streams: AtomicU64,
    flows: AtomicU64,
}

/// A running server. Dropping it closes it.
pub(crate) struct Serving {
    shared: Arc<Shared>,
    process: Mark,
}

impl Serving {
    /// Starts a server on the running loop. Returns a future of what `wrap` makes of it.
    ///
    /// # Errors
    /// `RuntimeError` without a running loop; all others come from the future.
    pub(crate) fn start<'py>(
        py: Python<'py>,
        settings: Settings,
        handlers: Handlers,
        wrap: fn(Python<'py>, Self) -> PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bridge = Bridge::current(py)?;
        log::start(py)?;
        let context = py.import("contextvars")?.getattr("copy_context")?.call0()?.unbind();
        let run = py.import("wg_embed._tasks")?.getattr("run_handler")?.unbind();
        let functions = Functions { handlers, context, run };
        match Self::open(py, &bridge, settings, functions) {
            Ok(serving) => {
                let server = wrap(py, serving)?;
                bridge.done(py, server)
            }
            Err(error) => bridge.failed(py, error),
        }
    }

    fn open(py: Python<'_>, bridge: &Arc<Bridge>, settings: Settings, functions: Functions) -> PyResult<Self> {
        let manner = settings.manner;
        let hosts = match (settings.host.parse::<IpAddr>(), manner) {
            (Ok(host), _) => vec![host],
            (Err(_), Manner::Legacy) if settings.host.is_empty() => {
                vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]
            }
            (Err(_), Manner::Legacy) => return Err(PyRuntimeError::new_err("invalid IP address syntax")),
            (Err(_), Manner::Modern) => {
                return Err(convert::ip(&settings.host).err().unwrap_or_else(|| closed(manner)));
            }
        };
        let functions = Arc::new(functions);
        let mut failed = None;
        for host in hosts {
            let started = py.detach(|| Shared::start(bridge, host, &settings, &functions));
            match started {
                Ok(shared) => {
                    process::register(&shared);
                    return Ok(Self { shared, process: Mark::new() });
                }
                Err(error) => failed = failed.or(Some((host, error))),
            }
        }
        Err(failed.map_or_else(
            || closed(manner),
            |(host, error)| start_error(manner, SocketAddr::new(host, settings.port), &error),
        ))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        *lock(&self.shared.address)
    }

    pub(crate) fn send_datagram(&self, data: &[u8], from: SocketAddr, to: SocketAddr) {
        if let Err(error) = self.shared.net.send_datagram(data, from, to) {
            tracing::warn!(%from, %to, %error, "a datagram was not sent");
        }
    }

    pub(crate) fn close(&self, py: Python<'_>) {
        if self.process.is_current() {
            py.detach(|| self.shared.close());
            drop(lock(&self.shared.functions).take());
        }
    }

    /// A future that is done when the server is closed.
    pub(crate) fn wait_closed<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let shared = &self.shared;
        if shared.gone.load(Ordering::Acquire) {
            return shared.bridge.done(py, nothing(py, shared.manner)?);
        }
        let future = shared.bridge.future(py)?;
        lock(&shared.waiters).push(future.clone().unbind());
        if shared.gone.load(Ordering::Acquire) {
            shared.bridge.post(shared.clone());
        }
        Ok(future)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if self.process.is_current() {
            // Without the interpreter if it is at its end.
            let closed = Python::try_attach(|py| py.detach(|| self.shared.close()));
            if closed.is_none() {
                self.shared.close();
            }
            drop(lock(&self.shared.functions).take());
        }
    }
}

fn nothing(py: Python<'_>, manner: Manner) -> PyResult<Bound<'_, PyAny>> {
    match manner {
        Manner::Legacy => Ok(py.None().into_bound(py)),
        Manner::Modern => Ok(().into_pyobject(py)?.into_any()),
    }
}

fn closed(manner: Manner) -> PyErr {
    match manner {
        Manner::Legacy => PyRuntimeError::new_err("the server has ended"),
        Manner::Modern => PyOSError::new_err("the server has ended"),
    }
}

fn start_error(manner: Manner, address: SocketAddr, error: &wg_embed::Error) -> PyErr {
    let behind = errors::io_behind(error);
    match (manner, behind) {
        (Manner::Legacy, Some(error)) => PyRuntimeError::new_err(error.to_string()),
        (Manner::Legacy, None) => PyRuntimeError::new_err(error.to_string()),
        (Manner::Modern, behind) => {
            let errno = behind.and_then(errors::errno_of).unwrap_or_else(|| error.kind().errno());
            PyOSError::new_err((errno, format!("Failed to bind UDP socket to {address}")))
        }
    }
}

impl Shared {
    fn start(
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
    fn close(self: &Arc<Self>) {
        let Some(tunnel) = lock(&self.tunnel).take() else { return };
        tracing::info!("Shutting down.");
        self.gone.store(true, Ordering::Release);
        if let Err(error) = tunnel.stop_with_tun(|| self.net.close(), PARTING) {
            tracing::warn!(%error, "a tunnel was not stopped");
        }
        drop(tunnel);
        self.bridge.post(self.clone());
    }

    fn functions(&self) -> Option<Arc<Functions>> {
        lock(&self.functions).clone()
    }

    /// Where the packets of a client come from, outside of the tunnel.
    fn source(&self, inner: IpAddr) -> Option<SocketAddr> {
        lock(&self.tunnel).as_ref().and_then(|tunnel| tunnel.device().peer_at(inner)?.1)
    }

    fn connection(&self, number: u64, peer: SocketAddr, destination: SocketAddr, carrier: Carrier) -> Arc<Connection> {
        let (manner, socket, source) = (self.manner, *lock(&self.address), self.source(peer.ip()));
        let info = Info { manner, number, peer, socket, source, destination };
        Connection::new(self.bridge.clone(), info, self.gone.clone(), carrier)
    }

    fn run(
        &self,
        py: Python<'_>,
        handler: &Py<PyAny>,
        functions: &Functions,
        stream: Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let is_legacy = self.manner == Manner::Legacy;
        let arguments = (self.bridge.event_loop(), &functions.context, handler, stream, is_legacy);
        functions.run.bind(py).call1(arguments)?;
        Ok(())
    }
}

/// Key, port, and peers that may send from any address: answers to unknown ones go to the first peer.
fn update(settings: &Settings) -> Update {
    let mut peers: Vec<_> = settings.peers.iter().copied().map(PeerUpdate::new).collect();
    if let Some(first) = peers.first_mut() {
        let all = [IpNet::from(ipnet::Ipv4Net::default()), IpNet::from(ipnet::Ipv6Net::default())];
        first.allowed_ips = all.map(|prefix| AllowedIpUpdate { prefix, remove: false }).to_vec();
    }
    Update {
        private_key: Some(Some(settings.private_key.clone())),
        listen_port: Some(settings.port),
        peers,
        ..Update::default()
    }
}

impl Inherited for Shared {
    fn descriptors(&self) -> Vec<i32> {
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
        drop(lock(&self.functions).take());
        for waiter in std::mem::take(&mut *lock(&self.waiters)) {
            let waiter = waiter.bind(py);
            if !waiter.call_method0("done")?.extract::<bool>()? {
                waiter.call_method1("set_result", (nothing(py, self.manner)?,))?;
            }
        }
        Ok(())
    }

    fn abandon(&self) {}
}

/// The stack's end of a server.
struct Interceptor(Weak<Shared>);

impl Intercept for Interceptor {
    fn connected(&self, stream: TcpStream) {
        if let Some(server) = self.0.upgrade() {
            let bridge = server.bridge.clone();
            bridge.post(Arc::new(Arrival::new(server, Arrived::Tcp(stream))));
        }
    }

    fn flow(&self, flow: UdpFlow) {
        let Some(server) = self.0.upgrade() else { return };
        let bridge = server.bridge.clone();
        match server.manner {
            Manner::Modern => bridge.post(Arc::new(Arrival::new(server, Arrived::Udp(flow)))),
            Manner::Legacy => Datagrams::begin(&server, flow),
        }
    }
}

enum Arrived {
    Tcp(TcpStream),
    Udp(UdpFlow),
}

/// A connection or flow on its way to its handler.
struct Arrival {
    server: Arc<Shared>,
    arrived: Mutex<Option<Arrived>>,
    queued: AtomicBool,
}

impl Arrival {
    fn new(server: Arc<Shared>, arrived: Arrived) -> Self {
        Self { server, arrived: Mutex::new(Some(arrived)), queued: AtomicBool::new(false) }
    }
}

impl Ready for Arrival {
    fn queued(&self) -> &AtomicBool {
        &self.queued
    }

    fn ready(self: Arc<Self>, py: Python<'_>) -> PyResult<()> {
        let server = &self.server;
        let (Some(arrived), Some(functions)) = (lock(&self.arrived).take(), server.functions()) else { return Ok(()) };
        match arrived {
            Arrived::Tcp(stream) => {
                stream.set_keepalive(Some(KEEPALIVE));
                stream.set_user_timeout(Some(USER_TIMEOUT));
                let (peer, destination) = (stream.peer_addr(), stream.local_addr());
                let step = if server.manner == Manner::Legacy { 1 } else { 2 };
                let number = server.streams.fetch_add(step, Ordering::Relaxed);
                let connection = server.connection(number, peer, destination, Carrier::Tcp(stream));
                let stream = match server.manner {
                    Manner::Legacy => Bound::new(py, LegacyStream(connection))?.into_any(),
                    Manner::Modern => Bound::new(py, ModernStream { connection, is_udp: false })?.into_any(),
                };
                server.run(py, &functions.handlers.tcp, &functions, stream)
            }
            Arrived::Udp(flow) => {
                let (peer, destination) = (flow.source(), flow.destination());
                let number = server.flows.fetch_add(2, Ordering::Relaxed);
                let connection = server.connection(number, peer, destination, Carrier::Udp(flow));
                let stream = Bound::new(py, ModernStream { connection, is_udp: true })?.into_any();
                server.run(py, &functions.handlers.udp, &functions, stream)
            }
        }
    }

    fn abandon(&self) {
        drop(lock(&self.arrived).take());
    }
}

/// A flow whose datagrams go to a function, one by one.
struct Datagrams {
    server: Weak<Shared>,
    flow: Mutex<Option<UdpFlow>>,
    from: SocketAddr,
    to: SocketAddr,
    queued: AtomicBool,
}

/// Datagrams of one flow that are handed over before others have their turn.
const DATAGRAMS_AT_ONCE: usize = 64;

impl Datagrams {
    fn begin(server: &Arc<Shared>, flow: UdpFlow) {
        let (from, to) = (flow.source(), flow.destination());
        let queued = AtomicBool::new(false);
        let this = Arc::new(Self { server: Arc::downgrade(server), flow: Mutex::default(), from, to, queued });
        // The flow owns this by way of its notifier, until it ends.
        let notified = this.clone();
        flow.set_notify(Some(Arc::new(move || notified.clone().post())));
        *lock(&this.flow) = Some(flow);
        this.post();
    }

    fn post(self: Arc<Self>) {
        match self.server.upgrade() {
            Some(server) => server.bridge.post(self),
            None => self.abandon(),
        }
    }

    fn end(&self) {
        let flow = lock(&self.flow).take();
        if let Some(flow) = flow {
            flow.set_notify(None);
        }
    }
}

impl Ready for Datagrams {
    fn queued(&self) -> &AtomicBool {
        &self.queued
    }

    fn ready(self: Arc<Self>, py: Python<'_>) -> PyResult<()> {
        let Some(server) = self.server.upgrade() else { return Ok(()) };
        let Some(functions) = server.functions() else { return Ok(()) };
        let (from, to) = (convert::to_tuple(py, self.from)?, convert::to_tuple(py, self.to)?);
        for _ in 0..DATAGRAMS_AT_ONCE {
            let mut data = None;
            let received = match &*lock(&self.flow) {
                Some(flow) => flow.try_recv_with(&mut |datagram| data = Some(PyBytes::new(py, datagram))),
                None => return Ok(()),
            };
            match (data, received) {
                (Some(data), _) => {
                    let arguments = (&functions.handlers.udp, data, &from, &to);
                    if let Err(error) = functions.context.bind(py).call_method1("run", arguments) {
                        server.bridge.report(py, "Exception in receive_datagram", error);
                    }
                }
                (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                (None, _) => {
                    self.end();
                    return Ok(());
                }
            }
        }
        self.post();
        Ok(())
    }

    fn abandon(&self) {
        self.end();
    }
}
