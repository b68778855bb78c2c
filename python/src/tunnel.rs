//! `_native.Tunnel`: one tunnel, over a descriptor, a TUN device or a userspace network.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use pyo3::{
    exceptions::{PyMemoryError, PyOSError, PyValueError},
    prelude::*,
    types::{PyBytes, PyDict},
};
use wg_embed::{
    Error, ErrorKind,
    bind::{Bind, UdpBind},
    config::wgquick::Conf,
    device::{EndReason, Event, MAX_WORKERS, Options, Tunnel, resolve_with_system},
    key::PublicKey,
    sync::lock,
    tun::{DEFAULT_MTU, Tun, linux::LinuxTun},
    uapi::{Limits, get_text, parse_set},
};
use wg_embed_netstack::Netstack;

use crate::{
    convert, errors, keys, log,
    net::NativeNet,
    notify::Callback,
    process::{self, Inherited, Mark},
    wireproto::Client,
};

/// The time for the last packets of the userspace network to be sent.
const CLOSE_GRACE: Duration = Duration::from_millis(200);

/// The maximum number of queued events; the oldest is dropped for one more.
const MOST_EVENTS: usize = 1024;

struct Parts {
    tunnel: Mutex<Option<Arc<Tunnel>>>,
    /// Locked while the configuration is replaced or changed, so that no peer is added or removed between the listing
    /// of the present ones and the resulting change. Commands in WireProto do not lock it.
    configuring: Mutex<()>,
    bind: Arc<UdpBind>,
    /// With a descriptor or a TUN device, which the tunnel owns.
    device: Option<Weak<LinuxTun>>,
    net: Option<Netstack>,
    events: Mutex<VecDeque<Event>>,
    wireproto: Client,
    told: Callback,
    /// Set if a thread that waits for events has to return.
    interrupted: AtomicBool,
    closed: AtomicBool,
}

impl Inherited for Parts {
    fn descriptors(&self) -> Vec<RawFd> {
        let device = self.device.as_ref().and_then(Weak::upgrade).map(|device| device.as_raw_fd());
        [self.bind.fd4(), self.bind.fd6(), device].into_iter().flatten().collect()
    }
}

impl Parts {
    fn note(&self, event: Event) {
        self.wireproto.note(&event);
        {
            let mut events = lock(&self.events);
            if events.len() >= MOST_EVENTS {
                events.pop_front();
            }
            events.push_back(event);
        }
        self.told.tell();
    }

    fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let Some(tunnel) = lock(&self.tunnel).take() else { return };
        self.wireproto.close();
        let stopped = match &self.net {
            Some(net) => tunnel.stop_with_tun(|| net.close(), CLOSE_GRACE),
            None => tunnel.stop(),
        };
        if let Err(error) = stopped {
            tracing::warn!(%error, "a tunnel was not stopped");
        }
        self.note(Event::Ended(EndReason::failed(ErrorKind::Closed, "closed")));
    }
}

/// The class behind `wg_embed.Tunnel`.
#[pyclass(frozen, module = "wg_embed._native", name = "Tunnel")]
pub(crate) struct NativeTunnel {
    parts: Arc<Parts>,
    process: Mark,
}

fn invalid(text: &str) -> PyErr {
    PyValueError::new_err(text.to_owned())
}

/// Returns a duplicate of the descriptor, which the caller keeps.
#[allow(unsafe_code, reason = "a descriptor comes as a number")]
fn duplicate(fd: i32) -> std::io::Result<OwnedFd> {
    if fd < 0 {
        return Err(std::io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is only duplicated, which fails if it is not open.
    unsafe { BorrowedFd::borrow_raw(fd) }.as_fd().try_clone_to_owned()
}

/// Creates a TUN device with this MTU. One that its owner has made persistent needs no privileges if it has that MTU.
fn create(name: &str, mtu: Option<u16>) -> Result<LinuxTun, Error> {
    let device = LinuxTun::create(name)?;
    if let Some(mtu) = mtu
        && mtu != device.mtu()
    {
        device.set_mtu(mtu)?;
    }
    Ok(device)
}

#[pymethods]
impl NativeTunnel {
    /// Starts a tunnel from the text of a .conf file.
    #[new]
    #[pyo3(signature = (conf, *, fd=None, tun=None, mtu=None, memory=None, bind=None, learn=0, workers=None))]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn new(
        py: Python<'_>,
        conf: &[u8],
        fd: Option<i32>,
        tun: Option<&str>,
        mtu: Option<u16>,
        memory: Option<usize>,
        bind: Option<&str>,
        learn: usize,
        workers: Option<usize>,
    ) -> PyResult<Self> {
        log::start(py)?;
        if workers.is_some_and(|workers| workers > MAX_WORKERS) {
            return Err(invalid(&format!("there are at most {MAX_WORKERS} workers")));
        }
        let Conf { interface, update } = Conf::from_bytes(conf).map_err(|error| errors::from_core(py, &error))?;
        let mtu = mtu.or(interface.mtu);
        let io = |error: std::io::Error| errors::from_io(&error);
        let core = |error: Error| errors::from_core(py, &error);
        let device = match (fd, tun) {
            (Some(_), Some(_)) => return Err(invalid("a tunnel has a descriptor or the name of a TUN, not both")),
            (Some(fd), None) => {
                let fd = duplicate(fd).map_err(io)?;
                Some(Arc::new(LinuxTun::adopt(fd, mtu.unwrap_or(DEFAULT_MTU)).map_err(core)?))
            }
            (None, Some(name)) => Some(Arc::new(create(name, mtu).map_err(core)?)),
            (None, None) => None,
        };
        let (tun, net): (Arc<dyn Tun>, _) = match &device {
            Some(device) => (device.clone() as Arc<dyn Tun>, None),
            None => {
                let mut options = wg_embed_netstack::Options::from(&interface);
                options.mtu = mtu.unwrap_or(DEFAULT_MTU);
                options.memory = memory.unwrap_or(options.memory);
                let net = Netstack::new(options).map_err(io)?;
                (net.tun(), Some(net))
            }
        };
        let device = device.as_ref().map(Arc::downgrade);
        let sockets = UdpBind::new().map_err(io)?;
        let sockets = Arc::new(match bind {
            Some(address) => sockets.with_address(convert::ip(address)?),
            None => sockets,
        });
        let parts = Arc::new(Parts {
            tunnel: Mutex::default(),
            configuring: Mutex::default(),
            bind: sockets.clone(),
            device,
            net,
            events: Mutex::default(),
            wireproto: Client::default(),
            told: Callback::default(),
            interrupted: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        });
        let of_events = Arc::downgrade(&parts);
        let options = Options {
            learned_addresses: learn,
            workers,
            events: Box::new(move |event| {
                if let Some(parts) = of_events.upgrade() {
                    parts.note(event);
                }
            }),
            resolve: Some(Box::new(resolve_with_system)),
            ..Options::default()
        };
        let started = py.detach(|| {
            Tunnel::start_with(tun, sockets as Arc<dyn Bind>, options, |device| {
                device.apply(update)?;
                device.up()
            })
        });
        *lock(&parts.tunnel) = Some(Arc::new(started.map_err(|error| errors::from_core(py, &error))?));
        process::register(&parts);
        Ok(Self { parts, process: Mark::new() })
    }

    /// Ends the tunnel and all of its connections. Idempotent.
    fn close(&self, py: Python<'_>) {
        if self.process.is_current() {
            py.detach(|| self.parts.close());
        }
    }

    #[getter]
    fn closed(&self) -> bool {
        self.parts.closed.load(Ordering::Acquire)
    }

    /// The userspace network; None with a descriptor or a TUN.
    #[getter]
    fn net(&self) -> Option<NativeNet> {
        self.parts.net.clone().map(NativeNet::new)
    }

    #[getter]
    fn listen_port(&self) -> PyResult<u16> {
        Ok(self.tunnel()?.device().listen_port())
    }

    #[getter]
    fn mtu(&self) -> PyResult<u16> {
        Ok(self.tunnel()?.device().mtu())
    }

    #[getter]
    fn public_key(&self, py: Python<'_>) -> PyResult<String> {
        let key = self.tunnel()?.device().public_key().map_err(|error| errors::from_core(py, &error))?;
        Ok(key.to_base64().to_string())
    }

    /// The configuration and state as text of the cross-platform interface, with private keys.
    fn get_config(&self, py: Python<'_>) -> PyResult<String> {
        let tunnel = self.tunnel()?;
        let text = py.detach(|| get_text(tunnel.device().snapshot()).map(|text| text.to_string()));
        text.map_err(|error| errors::from_core(py, &error))
    }

    /// Applies text of the cross-platform interface.
    fn set_config(&self, py: Python<'_>, text: &str) -> PyResult<()> {
        let limits = Limits { host_names: true, ..Limits::default() };
        self.change(py, |tunnel| tunnel.apply(parse_set(text, limits)?))
    }

    /// Answers a request in WireProto.
    fn wireproto<'py>(&self, py: Python<'py>, request: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let tunnel = self.tunnel()?;
        let response = py.detach(|| self.parts.wireproto.call(&tunnel, request));
        if response.is_empty() {
            return Err(PyMemoryError::new_err("there is no memory for the response"));
        }
        Ok(PyBytes::new(py, &response))
    }

    /// Replaces the configuration by that of a .conf file; peers in both keep their sessions, and those without an
    /// endpoint in the file keep the one that they have.
    fn set_conf(&self, py: Python<'_>, conf: &[u8]) -> PyResult<()> {
        self.change(py, |tunnel| {
            let Conf { update, .. } = Conf::from_bytes(conf)?;
            let peers = tunnel.snapshot().peers;
            let present = peers.map(|peer| peer.map(|peer| peer.public_key)).collect::<Result<Vec<_>, Error>>()?;
            tunnel.apply(update.keeping(present))
        })
    }

    fn remove_peer(&self, py: Python<'_>, key: &str) -> PyResult<()> {
        let key = keys::public_key(key)?;
        self.change(py, |tunnel| tunnel.device().remove_peer(&key))
    }

    /// Names and values of all counters.
    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counters = PyDict::new(py);
        for (name, value) in self.tunnel()?.device().counters() {
            counters.set_item(name, value)?;
        }
        Ok(counters)
    }

    /// Peers; bytes in, bytes out; packets in, packets out; drops in, drops out.
    fn totals(&self) -> PyResult<(usize, u64, u64, u64, u64, u64, u64)> {
        let all = self.tunnel()?.device().totals();
        Ok((all.peers, all.rx_bytes, all.tx_bytes, all.rx_packets, all.tx_packets, all.rx_dropped, all.tx_dropped))
    }

    /// Of each peer: key, endpoint, seconds of its last handshake since 1970 (0: none), bytes in, bytes out, keepalive,
    /// allowed IPs, whether there is a session.
    fn peers<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let tunnel = self.tunnel()?;
        let mut peers = Vec::new();
        for peer in tunnel.device().snapshot().peers {
            let peer = peer.map_err(|error| errors::from_core(py, &error))?;
            let has_session = tunnel.device().peer_stats(&peer.public_key).is_some_and(|stats| stats.has_session);
            let row = (
                text_of(&peer.public_key),
                peer.endpoint.map(|endpoint| endpoint.to_string()),
                peer.last_handshake.as_secs_f64(),
                peer.rx_bytes,
                peer.tx_bytes,
                peer.persistent_keepalive,
                peer.allowed_ips.iter().map(ToString::to_string).collect::<Vec<_>>(),
                has_session,
            );
            peers.push(row.into_pyobject(py)?.into_any());
        }
        Ok(peers)
    }

    /// The peer that packets to an inner address are sent to, and its endpoint; None if there is none.
    fn peer_at(&self, address: &str) -> PyResult<Option<(String, Option<String>)>> {
        let found = self.tunnel()?.device().peer_at(convert::ip(address)?);
        Ok(found.map(|(key, endpoint)| (text_of(&key), endpoint.map(|endpoint| endpoint.to_string()))))
    }

    /// Opens new sockets: after a change of networks.
    fn rebind(&self, py: Python<'_>) -> PyResult<()> {
        let tunnel = self.tunnel()?;
        py.detach(|| tunnel.device().rebind()).map_err(|error| errors::from_core(py, &error))
    }

    fn pause(&self, py: Python<'_>) -> PyResult<()> {
        let tunnel = self.tunnel()?;
        py.detach(|| tunnel.pause());
        Ok(())
    }

    fn resume(&self, py: Python<'_>) -> PyResult<()> {
        let tunnel = self.tunnel()?;
        py.detach(|| tunnel.resume()).map_err(|error| errors::from_core(py, &error))
    }

    /// The events that have come since the last call: name, peer or None, detail or None.
    fn take_events(&self) -> PyResult<Vec<Told>> {
        self.process.check()?;
        Ok(std::mem::take(&mut *lock(&self.parts.events)).into_iter().map(told).collect())
    }

    /// Has `callback` called on the running loop when there are events.
    fn watch(&self, py: Python<'_>, callback: Option<Py<PyAny>>) -> PyResult<()> {
        self.parts.told.set(py, callback)
    }

    /// Waits until there are events, or `interrupt` is called.
    fn wait_events(&self, py: Python<'_>) -> PyResult<()> {
        self.process.check()?;
        let parts = &self.parts;
        let is_ready = || !lock(&parts.events).is_empty() || parts.interrupted.swap(false, Ordering::AcqRel);
        parts.told.wait(py, None, is_ready)?;
        Ok(())
    }

    /// Ends a `wait_events`.
    fn interrupt(&self) {
        self.parts.interrupted.store(true, Ordering::Release);
        self.parts.told.tell();
    }
}

impl NativeTunnel {
    fn tunnel(&self) -> PyResult<Arc<Tunnel>> {
        self.process.check()?;
        let closed = || PyOSError::new_err((libc::ENODEV, "the tunnel is closed"));
        lock(&self.parts.tunnel).clone().ok_or_else(closed)
    }

    /// Changes the configuration, one call after another, while other threads run Python.
    fn change(&self, py: Python<'_>, body: impl FnOnce(&Tunnel) -> Result<(), Error> + Send) -> PyResult<()> {
        let tunnel = self.tunnel()?;
        let changed = py.detach(|| {
            let _one_at_a_time = lock(&self.parts.configuring);
            body(&tunnel)
        });
        changed.map_err(|error| errors::from_core(py, &error))
    }
}

impl Drop for NativeTunnel {
    fn drop(&mut self) {
        if !self.process.is_current() {
            return process::leave(&self.parts);
        }
        if Python::try_attach(|py| py.detach(|| self.parts.close())).is_none() {
            self.parts.close();
        }
    }
}

fn text_of(key: &PublicKey) -> String {
    key.to_base64().to_string()
}

/// An event for Python: name, peer or None, detail or None.
type Told = (&'static str, Option<String>, Option<String>);

fn told(event: Event) -> Told {
    match event {
        Event::HandshakeCompleted(peer) => ("handshake_completed", Some(text_of(&peer)), None),
        Event::HandshakeFailed(peer) => ("handshake_failed", Some(text_of(&peer)), None),
        Event::EndpointChanged(peer, to) => ("endpoint_changed", Some(text_of(&peer)), Some(to.to_string())),
        Event::ResolveFailed(peer, reason) => ("resolve_failed", Some(text_of(&peer)), Some(reason)),
        Event::RoutingLoop(peer, to) => ("routing_loop", Some(text_of(&peer)), Some(to.to_string())),
        Event::SessionExpired(peer) => ("session_expired", Some(text_of(&peer)), None),
        Event::SocketsLost(reason) => ("sockets_lost", None, Some(reason)),
        Event::SocketsRecovered(port) => ("sockets_recovered", None, Some(port.to_string())),
        Event::Ended(reason) => ("ended", None, Some(reason.to_string())),
        other => ("other", None, Some(format!("{other:?}"))),
    }
}

/// Checks the text of a .conf file, and returns it as this library writes it.
#[pyfunction]
pub(crate) fn normalize_conf(py: Python<'_>, conf: &[u8]) -> PyResult<String> {
    let text = Conf::from_bytes(conf).and_then(|conf| conf.to_text());
    text.map(|text| text.to_string()).map_err(|error| errors::from_core(py, &error))
}
