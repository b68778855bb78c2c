//! One TCP connection or UDP flow of a mitmproxy server, as an asyncio stream: the functions for programs. `legacy.rs`
//! and `modern.rs` have its two classes, which differ in the handling of ends.
//!
//! No function of Python is called while `state` is locked, as it could wait for this lock.

mod serve;
mod state;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use pyo3::{
    exceptions::{PyKeyError, PyOSError},
    prelude::*,
    pybacked::PyBackedBytes,
    types::PyBytes,
};
use wg_embed::sync::lock;

use self::state::{State, Taken};
use crate::{
    bridge::{Bridge, Ready},
    convert,
    process::{self, Mark},
    server,
};

pub(crate) use self::state::Carrier;

/// The maximum number of bytes in front of the stack's own buffer before `drain` waits.
const HIGH_WATER: usize = 64 * 1024;

/// `drain` returns when at most this number of bytes is left.
const LOW_WATER: usize = 16 * 1024;

/// The maximum size of datagrams that wait for room, in bytes; further ones are dropped.
const DATAGRAMS: usize = 256 * 1024;

/// The number of calls that are completed at once, one after another, before the loop gets its turn.
const AT_ONCE: usize = 16;

/// The behaviour of a connection at its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// That of mitmproxy_wireguard 0.1.23.
    Legacy,
    /// That of mitmproxy_rs.
    Modern,
}

impl Manner {
    /// Returns the result of functions without a value.
    pub(crate) fn nothing(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        match self {
            Self::Legacy => Ok(py.None().into_bound(py)),
            Self::Modern => Ok(().into_pyobject(py)?.into_any()),
        }
    }
}

/// The constant properties.
pub(crate) struct Info {
    pub(crate) manner: Manner,
    pub(crate) is_udp: bool,
    /// Its number among all connections or flows of its server.
    pub(crate) number: u64,
    /// The client inside the tunnel.
    pub(crate) peer: SocketAddr,
    /// The UDP socket of the server.
    pub(crate) socket: SocketAddr,
    /// The client's address outside the tunnel, if known.
    pub(crate) source: Option<SocketAddr>,
    /// The destination that the client has dialled.
    pub(crate) destination: SocketAddr,
}

/// A connection; see the module.
pub(crate) struct Connection {
    pub(crate) info: Info,
    queued: AtomicBool,
    bridge: Arc<Bridge>,
    /// Whether the server was closed.
    server_gone: Arc<AtomicBool>,
    state: Mutex<State>,
    /// The number of calls completed at once since the loop had its turn.
    at_once: AtomicUsize,
    give_back: OnceLock<Py<PyAny>>,
    process: Mark,
}

fn closed() -> PyErr {
    PyOSError::new_err("connection closed")
}

impl Connection {
    pub(crate) fn new(bridge: Arc<Bridge>, info: Info, server_gone: Arc<AtomicBool>, carrier: Carrier) -> Arc<Self> {
        let connection = Arc::new(Self {
            info,
            queued: AtomicBool::new(false),
            bridge,
            server_gone,
            state: Mutex::default(),
            at_once: AtomicUsize::new(0),
            give_back: OnceLock::new(),
            process: Mark::new(),
        });
        let ready: Arc<dyn Ready> = connection.clone();
        connection.bridge.introduce(Arc::downgrade(&ready));
        let weak = Arc::downgrade(&connection);
        let notify = Arc::new(move || {
            if let Some(connection) = weak.upgrade() {
                connection.post();
            }
        });
        match &carrier {
            Carrier::Tcp(stream) => stream.set_notify(Some(notify)),
            Carrier::Udp(flow) => flow.set_notify(Some(notify)),
        }
        lock(&connection.state).carrier = Some(carrier);
        connection
    }

    fn key(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    fn post(self: &Arc<Self>) {
        self.bridge.post(self.clone());
    }

    /// Returns the result of a read of `most` bytes at the end. A read of no bytes does not report it.
    fn end<'py>(&self, py: Python<'py>, state: &mut State, most: usize, gone: bool) -> PyResult<Bound<'py, PyAny>> {
        if most == 0 {
            return Ok(PyBytes::new(py, b"").into_any());
        }
        let is_first = !std::mem::replace(&mut state.end_told, true);
        if self.info.manner == Manner::Modern || is_first || !(gone || state.is_gone()) {
            Ok(PyBytes::new(py, b"").into_any())
        } else {
            Err(closed())
        }
    }

    /// Returns whether a call may be completed at once. Sometimes it may not, so that the loop gets its turn; after the
    /// end of the loop it always may.
    fn may_answer(&self) -> bool {
        self.at_once.fetch_add(1, Ordering::Relaxed) < AT_ONCE || self.bridge.has_ended()
    }

    pub(crate) fn read<'py>(self: &Arc<Self>, py: Python<'py>, most: usize) -> PyResult<Bound<'py, PyAny>> {
        self.check()?;
        // Only without the lock: if the loop has ended, this connection is abandoned there and then.
        let mut posts = false;
        let now = {
            let mut state = lock(&self.state);
            if state.closed {
                Some(match self.info.manner {
                    Manner::Legacy => Err(closed()),
                    Manner::Modern => Ok(PyBytes::new(py, b"").into_any()),
                })
            } else if !state.reads.is_empty() {
                None
            } else if !self.may_answer() {
                posts = true;
                None
            } else {
                match state.take(py, most) {
                    Taken::Data(data) => Some(Ok(data.into_any())),
                    Taken::End => Some(self.end(py, &mut state, most, false)),
                    Taken::Gone => Some(self.end(py, &mut state, most, true)),
                    Taken::Wait => None,
                }
            }
        };
        if posts {
            self.post();
        }
        match now {
            Some(Ok(data)) => self.bridge.done(py, data),
            Some(Err(error)) => self.bridge.failed(py, error),
            None => self.queue_read(py, most),
        }
    }

    pub(crate) fn write(self: &Arc<Self>, data: PyBackedBytes) -> PyResult<()> {
        self.check()?;
        let mut state = lock(&self.state);
        if state.eof || state.closed {
            return match self.info.manner {
                Manner::Legacy => Ok(()),
                Manner::Modern => Err(closed()),
            };
        }
        self.check_server()?;
        if state.failed || state.carrier.is_none() {
            return Ok(());
        }
        if self.info.is_udp && state.backlog_bytes + data.len() > DATAGRAMS {
            tracing::debug!(bytes = data.len(), "a datagram was dropped: too many wait");
            return Ok(());
        }
        let waits = !state.backlog.is_empty();
        state.backlog_bytes += data.len();
        state.backlog.push_back((data, 0));
        if !waits {
            state.flush();
        }
        Ok(())
    }

    pub(crate) fn drain<'py>(self: &Arc<Self>, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.check()?;
        self.check_server()?;
        let is_legacy = self.info.manner == Manner::Legacy;
        let mut posts = false;
        let now = {
            let state = lock(&self.state);
            if state.failed
                || state.carrier.is_none() && !state.closed
                || is_legacy && (state.closed || state.is_gone())
            {
                Some(Err(closed()))
            } else if state.backlog_bytes > HIGH_WATER {
                None
            } else if self.may_answer() {
                Some(Ok(()))
            } else {
                posts = true;
                None
            }
        };
        if posts {
            self.post();
        }
        match now {
            Some(Ok(())) => self.done(py),
            Some(Err(error)) => self.bridge.failed(py, error),
            None => self.queue_drain(py),
        }
    }

    /// Returns a completed future without a value.
    pub(crate) fn done<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.bridge.done(py, self.info.manner.nothing(py)?)
    }

    pub(crate) fn write_eof(self: &Arc<Self>) -> PyResult<()> {
        self.check()?;
        let mut state = lock(&self.state);
        if !state.closed && !state.eof {
            self.check_server()?;
            state.eof = true;
            state.flush();
        }
        Ok(())
    }

    pub(crate) fn close(self: &Arc<Self>) -> PyResult<()> {
        self.check()?;
        if !lock(&self.state).closed {
            self.check_server()?;
        }
        match self.info.manner {
            Manner::Legacy => self.abort(),
            Manner::Modern => self.finish(),
        }
        Ok(())
    }

    pub(crate) fn is_closing(&self) -> PyResult<bool> {
        self.process.check()?;
        let state = lock(&self.state);
        Ok(state.eof || state.closed || self.info.manner == Manner::Modern && self.is_server_gone())
    }

    fn is_server_gone(&self) -> bool {
        self.server_gone.load(Ordering::Acquire)
    }

    /// Checks the server: in the legacy behaviour, every function except `is_closing` fails after its end.
    fn check(&self) -> PyResult<()> {
        self.process.check()?;
        if self.info.manner == Manner::Legacy { self.check_server() } else { Ok(()) }
    }

    /// Checks the connection: in the modern behaviour, functions that would change something fail.
    fn check_server(&self) -> PyResult<()> {
        if self.is_server_gone() { Err(server::shut_down(self.info.manner)) } else { Ok(()) }
    }

    /// Returns an address by its name, as a tuple, or the default; `KeyError` without either.
    pub(crate) fn extra_info<'py>(
        &self,
        py: Python<'py>,
        name: String,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let info = &self.info;
        let is_legacy = info.manner == Manner::Legacy;
        let address = match name.as_str() {
            "transport_protocol" if !is_legacy => {
                return Ok((if info.is_udp { "udp" } else { "tcp" }).into_pyobject(py)?.into_any());
            }
            "peername" => Some(info.peer),
            // The two have changed their places.
            "sockname" => Some(if is_legacy { info.socket } else { info.destination }),
            "original_dst" => Some(if is_legacy { info.destination } else { info.socket }),
            "original_src" => info.source,
            _ => None,
        };
        match (address, default) {
            (Some(address), _) => Ok(convert::to_tuple(py, address)?.into_any()),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(PyKeyError::new_err(name)),
        }
    }

    pub(crate) fn repr(&self, class: &str) -> String {
        let Info { number, peer, socket, destination, .. } = self.info;
        let source = self.info.source.map_or_else(|| "unknown".into(), |address| address.to_string());
        let (sock, dst) =
            if self.info.manner == Manner::Legacy { (socket, destination) } else { (destination, socket) };
        format!("{class}({number}, peer={peer}, sock={sock}, src={source}, dst={dst})")
    }

    /// Handles that the program has dropped the stream.
    pub(crate) fn detach(self: &Arc<Self>) {
        if !self.process.is_current() {
            return process::leave(self);
        }
        let eof = lock(&self.state).eof;
        match self.info.manner {
            Manner::Legacy if !eof => self.abort(),
            _ => self.finish(),
        }
    }

    /// Ends it at once; unsent data is lost.
    fn abort(self: &Arc<Self>) {
        let (carrier, waiting) = {
            let mut state = lock(&self.state);
            if std::mem::replace(&mut state.closed, true) {
                return;
            }
            state.drop_backlog();
            (state.carrier.take(), state.is_waited_for())
        };
        if let Some(Carrier::Tcp(stream)) = &carrier {
            stream.reset();
        }
        Self::let_go(carrier);
        if waiting {
            self.post();
        }
    }

    /// Ends it when all data has been sent.
    fn finish(self: &Arc<Self>) {
        let (is_over, waiting) = {
            let mut state = lock(&self.state);
            if std::mem::replace(&mut state.closed, true) {
                return;
            }
            state.flush();
            (state.discard(), state.is_waited_for())
        };
        if is_over {
            self.over();
        } else {
            self.bridge.linger(self.key(), self.clone());
        }
        if waiting || !is_over {
            self.post();
        }
    }

    /// Handles that no more data is sent or received. If written data is lost, the peer gets a RST, as a FIN would make
    /// what it has received look complete.
    fn over(&self) {
        let (carrier, is_cut_off) = {
            let mut state = lock(&self.state);
            let is_cut_off = state.backlog_bytes > 0 || self.info.manner == Manner::Legacy && !state.eof;
            (state.carrier.take(), is_cut_off)
        };
        if let Some(Carrier::Tcp(stream)) = &carrier
            && is_cut_off
        {
            stream.reset();
        }
        Self::let_go(carrier);
        self.bridge.forget(self.key());
    }

    fn let_go(carrier: Option<Carrier>) {
        match &carrier {
            Some(Carrier::Tcp(stream)) => stream.set_notify(None),
            Some(Carrier::Udp(flow)) => flow.set_notify(None),
            None => {}
        }
    }
}
