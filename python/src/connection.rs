//! One TCP connection or UDP flow of a mitmproxy server, as an asyncio stream sees it. `legacy.rs` and `modern.rs` are
//! its two faces, which differ in what happens at the ends.
//!
//! No function of Python is called with `state` locked: it could wait for this very lock.

use std::{
    collections::VecDeque,
    io,
    net::{Shutdown, SocketAddr},
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use pyo3::{exceptions::PyOSError, intern, prelude::*, pybacked::PyBackedBytes, types::PyBytes};
use wg_embed::sync::lock;
use wg_embed_netstack::{TcpStream, UdpFlow};

use crate::bridge::{Bridge, Lingering, Ready};

/// Bytes that may wait in front of the stack's own buffer before `drain` waits.
const HIGH_WATER: usize = 64 * 1024;

/// `drain` goes on when no more than this is left.
const LOW_WATER: usize = 16 * 1024;

/// Datagrams that may wait for room, in bytes; more are dropped.
const DATAGRAMS: usize = 256 * 1024;

/// So many calls are answered at once, one after another, before the loop has its turn.
const AT_ONCE: usize = 16;

/// How a connection behaves at its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// As mitmproxy_wireguard 0.1.23.
    Legacy,
    /// As mitmproxy_rs.
    Modern,
}

/// What carries the bytes.
pub(crate) enum Carrier {
    Tcp(TcpStream),
    Udp(UdpFlow),
}

/// What does not change.
pub(crate) struct Info {
    pub(crate) manner: Manner,
    /// Its number, of all connections or flows of its server.
    pub(crate) number: u64,
    /// The client inside the tunnel.
    pub(crate) peer: SocketAddr,
    /// The UDP socket of the server.
    pub(crate) socket: SocketAddr,
    /// Where the client's packets come from, if that is known.
    pub(crate) source: Option<SocketAddr>,
    /// Where the client wants to go.
    pub(crate) destination: SocketAddr,
}

/// See the module.
pub(crate) struct Connection {
    pub(crate) info: Info,
    queued: AtomicBool,
    bridge: Arc<Bridge>,
    /// Whether the server was closed.
    server_gone: Arc<AtomicBool>,
    state: Mutex<State>,
    /// Calls answered at once since the loop had its turn.
    at_once: AtomicUsize,
    give_back: OnceLock<Py<PyAny>>,
}

#[derive(Default)]
struct State {
    /// `None` when it is over.
    carrier: Option<Carrier>,
    /// Reads that wait, in their order, and how much each wants.
    reads: VecDeque<(Py<PyAny>, usize)>,
    /// Bytes that were given to a read whose task was cancelled before it went on.
    returned: VecDeque<Py<PyBytes>>,
    drains: Vec<Py<PyAny>>,
    /// What was written and has not reached the stack, each with what of it has.
    backlog: VecDeque<(PyBackedBytes, usize)>,
    backlog_bytes: usize,
    /// `write_eof` was called.
    eof: bool,
    /// `close` was called.
    closed: bool,
    fin_sent: bool,
    /// Nothing can be sent any more: it was reset, timed out, or the stack has closed it.
    failed: bool,
    /// The end was read.
    end_told: bool,
}

/// What there is to read.
enum Taken<'py> {
    Data(Bound<'py, PyBytes>),
    /// The other side sends no more.
    End,
    /// It has failed.
    Gone,
    Wait,
}

impl State {
    fn take<'py>(&mut self, py: Python<'py>, most: usize) -> Taken<'py> {
        if let Some(bytes) = self.returned.pop_front() {
            let bytes = bytes.into_bound(py);
            let all = bytes.as_bytes();
            if all.len() <= most || matches!(self.carrier, Some(Carrier::Udp(_))) {
                return Taken::Data(bytes);
            }
            self.returned.push_front(PyBytes::new(py, &all[most..]).unbind());
            return Taken::Data(PyBytes::new(py, &all[..most]));
        }
        let mut data = None;
        let result = match &self.carrier {
            None => return Taken::Gone,
            Some(Carrier::Tcp(stream)) => stream.try_read_with(&mut |first, second| {
                let part = if first.is_empty() { second } else { first };
                let part = &part[..part.len().min(most)];
                if !part.is_empty() {
                    data = Some(PyBytes::new(py, part));
                }
                part.len()
            }),
            Some(Carrier::Udp(flow)) => {
                flow.try_recv_with(&mut |datagram| data = Some(PyBytes::new(py, datagram))).map(|_| 0)
            }
        };
        match (result, data) {
            (_, Some(data)) => Taken::Data(data),
            (Ok(_), None) => Taken::End,
            (Err(error), None) if error.kind() == io::ErrorKind::WouldBlock => Taken::Wait,
            (Err(_), None) => {
                self.failed = true;
                Taken::Gone
            }
        }
    }

    /// Passes on what waits, then the end.
    fn flush(&mut self) {
        let Some(carrier) = &self.carrier else { return self.drop_backlog() };
        while !self.failed
            && let Some((data, sent)) = self.backlog.front_mut()
        {
            let result = match carrier {
                Carrier::Tcp(stream) => stream.try_write(&data[*sent..]),
                Carrier::Udp(flow) => flow.try_send(data).map(|_| data.len()),
            };
            match result {
                Ok(count) => {
                    *sent += count;
                    self.backlog_bytes -= count;
                    if *sent >= data.len() {
                        self.backlog.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) if matches!(carrier, Carrier::Udp(_)) => {
                    // This datagram cannot be sent; the next one may.
                    self.backlog_bytes -= data.len();
                    self.backlog.pop_front();
                }
                Err(_) => self.failed = true,
            }
        }
        if self.failed {
            return self.drop_backlog();
        }
        if (self.eof || self.closed) && !self.fin_sent {
            self.fin_sent = true;
            if let Carrier::Tcp(stream) = carrier {
                // It fails if the connection is gone, which the next read reports.
                let _ = stream.shutdown(Shutdown::Write);
            }
        }
    }

    fn drop_backlog(&mut self) {
        self.backlog.clear();
        self.backlog_bytes = 0;
    }

    fn is_waited_for(&self) -> bool {
        !self.reads.is_empty() || !self.drains.is_empty()
    }

    /// Whether both directions have ended.
    fn is_gone(&self) -> bool {
        match &self.carrier {
            None => true,
            Some(_) if self.failed => true,
            Some(Carrier::Udp(_)) => false,
            Some(Carrier::Tcp(stream)) => {
                let readiness = stream.readiness();
                readiness.read_closed && readiness.write_closed
            }
        }
    }

    /// After `close`: throws away what arrives. Returns whether it is over.
    fn discard(&mut self) -> bool {
        match &self.carrier {
            None => true,
            Some(Carrier::Udp(_)) => self.backlog.is_empty(),
            Some(Carrier::Tcp(stream)) => loop {
                match stream.try_read_with(&mut |first, second| first.len() + second.len()) {
                    Ok(1..) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                    Ok(_) => return self.fin_sent || self.failed,
                    Err(_) => return true,
                }
            },
        }
    }
}

fn closed() -> PyErr {
    PyOSError::new_err("connection closed")
}

fn is_done(py: Python<'_>, future: &Py<PyAny>) -> PyResult<bool> {
    future.bind(py).call_method0(intern!(py, "done"))?.extract()
}

fn resolve(py: Python<'_>, future: &Py<PyAny>, result: PyResult<Bound<'_, PyAny>>) -> PyResult<()> {
    if is_done(py, future)? {
        return Ok(());
    }
    match result {
        Ok(value) => future.bind(py).call_method1(intern!(py, "set_result"), (value,))?,
        Err(error) => future.bind(py).call_method1(intern!(py, "set_exception"), (error,))?,
    };
    Ok(())
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
        });
        let ready: Arc<dyn Ready> = connection.clone();
        connection.bridge.introduce(Arc::downgrade(&ready));
        let weak = Arc::downgrade(&connection);
        let notify = Arc::new(move || {
            if let Some(connection) = weak.upgrade() {
                let bridge = connection.bridge.clone();
                bridge.post(connection);
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

    /// What `read` gives for an end.
    fn end<'py>(&self, py: Python<'py>, state: &mut State, gone: bool) -> PyResult<Bound<'py, PyAny>> {
        let is_first = !std::mem::replace(&mut state.end_told, true);
        if self.info.manner == Manner::Modern || is_first || !(gone || state.is_gone()) {
            Ok(PyBytes::new(py, b"").into_any())
        } else {
            Err(closed())
        }
    }

    /// Whether a call may be answered at once. Now and then it may not, as the loop has other things to do.
    fn may_answer(&self) -> bool {
        self.at_once.fetch_add(1, Ordering::Relaxed) < AT_ONCE
    }

    pub(crate) fn read<'py>(self: &Arc<Self>, py: Python<'py>, most: usize) -> PyResult<Bound<'py, PyAny>> {
        self.check_server()?;
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
                self.post();
                None
            } else {
                match state.take(py, most) {
                    Taken::Data(data) => Some(Ok(data.into_any())),
                    Taken::End => Some(self.end(py, &mut state, false)),
                    Taken::Gone => Some(self.end(py, &mut state, true)),
                    Taken::Wait => None,
                }
            }
        };
        match now {
            Some(Ok(data)) => self.bridge.done(py, data),
            Some(Err(error)) => self.bridge.failed(py, error),
            None => self.queue_read(py, most),
        }
    }

    fn post(self: &Arc<Self>) {
        self.bridge.post(self.clone());
    }

    fn queue_read<'py>(self: &Arc<Self>, py: Python<'py>, most: usize) -> PyResult<Bound<'py, PyAny>> {
        let give_back = match self.give_back.get() {
            Some(give_back) => give_back,
            None => {
                let made = Py::new(py, GiveBack(Arc::downgrade(self)))?.into_any();
                self.give_back.get_or_init(|| made)
            }
        };
        let future = self.bridge.read_future(py, give_back)?;
        // Cancelled ones would pile up where nothing arrives.
        let mut reads = std::mem::take(&mut lock(&self.state).reads);
        let mut kept = VecDeque::with_capacity(reads.len() + 1);
        for read in reads.drain(..) {
            if !is_done(py, &read.0)? {
                kept.push_back(read);
            }
        }
        kept.push_back((future.clone().unbind(), most));
        let mut state = lock(&self.state);
        kept.append(&mut state.reads);
        state.reads = kept;
        Ok(future)
    }

    pub(crate) fn write(self: &Arc<Self>, data: PyBackedBytes) -> PyResult<()> {
        self.check_server()?;
        let mut state = lock(&self.state);
        if state.eof || state.closed {
            return match self.info.manner {
                Manner::Legacy => Ok(()),
                Manner::Modern => Err(closed()),
            };
        }
        if state.failed || state.carrier.is_none() {
            return Ok(());
        }
        if matches!(state.carrier, Some(Carrier::Udp(_))) && state.backlog_bytes + data.len() > DATAGRAMS {
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
        self.check_server()?;
        let now = {
            let state = lock(&self.state);
            if state.closed && self.info.manner == Manner::Legacy {
                Some(Ok(()))
            } else if state.failed || state.carrier.is_none() && !state.closed || state.eof && state.is_gone() {
                Some(Err(closed()))
            } else if state.backlog_bytes > HIGH_WATER {
                None
            } else if self.may_answer() {
                Some(Ok(()))
            } else {
                self.post();
                None
            }
        };
        match now {
            Some(Ok(())) => {
                let nothing = self.nothing(py)?;
                self.bridge.done(py, nothing)
            }
            Some(Err(error)) => self.bridge.failed(py, error),
            None => {
                let future = self.bridge.future(py)?;
                lock(&self.state).drains.push(future.clone().unbind());
                Ok(future)
            }
        }
    }

    /// What functions without a result give.
    pub(crate) fn nothing<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self.info.manner {
            Manner::Legacy => Ok(py.None().into_bound(py)),
            Manner::Modern => Ok(().into_pyobject(py)?.into_any()),
        }
    }

    pub(crate) fn done<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.bridge.done(py, self.nothing(py)?)
    }

    pub(crate) fn write_eof(self: &Arc<Self>) -> PyResult<()> {
        self.check_server()?;
        let mut state = lock(&self.state);
        if !state.closed {
            state.eof = true;
            state.flush();
        }
        Ok(())
    }

    pub(crate) fn close(self: &Arc<Self>) -> PyResult<()> {
        self.check_server()?;
        match self.info.manner {
            Manner::Legacy => self.abort(),
            Manner::Modern => self.finish(),
        }
        Ok(())
    }

    pub(crate) fn is_closing(&self) -> PyResult<bool> {
        self.check_server()?;
        let state = lock(&self.state);
        Ok(state.eof || state.closed)
    }

    fn check_server(&self) -> PyResult<()> {
        if self.info.manner == Manner::Legacy && self.server_gone.load(Ordering::Acquire) {
            return Err(PyOSError::new_err("WireGuard server has been shut down."));
        }
        Ok(())
    }

    /// The program has let go of the stream.
    pub(crate) fn detach(self: &Arc<Self>) {
        let eof = lock(&self.state).eof;
        match self.info.manner {
            Manner::Legacy if !eof => self.abort(),
            _ => self.finish(),
        }
    }

    /// Ends it at once; what was not sent is lost.
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
        self.let_go(carrier);
        if waiting {
            self.post();
        }
    }

    /// Ends it when everything was sent.
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
            self.give_up();
        } else {
            self.bridge.linger(self.key(), self.clone());
        }
        if waiting || !is_over {
            self.post();
        }
    }

    fn let_go(&self, carrier: Option<Carrier>) {
        match &carrier {
            Some(Carrier::Tcp(stream)) => stream.set_notify(None),
            Some(Carrier::Udp(flow)) => flow.set_notify(None),
            None => {}
        }
    }

    /// Goes on with what waits for room.
    fn serve_drains(&self, py: Python<'_>) -> PyResult<()> {
        let (drains, failed) = {
            let mut state = lock(&self.state);
            state.flush();
            if state.backlog_bytes > LOW_WATER {
                return Ok(());
            }
            let failed = state.failed || state.carrier.is_none() && !state.closed;
            (std::mem::take(&mut state.drains), failed)
        };
        for drain in drains {
            let result = if failed { Err(closed()) } else { self.nothing(py) };
            resolve(py, &drain, result)?;
        }
        Ok(())
    }

    /// Gives what has arrived to the read that waits longest.
    fn serve_reads(self: &Arc<Self>, py: Python<'_>) -> PyResult<()> {
        loop {
            let Some(read) = lock(&self.state).reads.pop_front() else { return Ok(()) };
            if is_done(py, &read.0)? {
                continue;
            }
            let (result, more) = {
                let mut state = lock(&self.state);
                let taken = if state.closed { Taken::End } else { state.take(py, read.1) };
                let result = match taken {
                    Taken::Data(data) => Ok(data.into_any()),
                    Taken::End => self.end(py, &mut state, false),
                    Taken::Gone => self.end(py, &mut state, true),
                    Taken::Wait => {
                        state.reads.push_front(read);
                        return Ok(());
                    }
                };
                (result, !state.reads.is_empty())
            };
            resolve(py, &read.0, result)?;
            if more {
                // Only when this one's task had its turn, and with it the chance to give its bytes back.
                self.post();
            }
            return Ok(());
        }
    }
}

impl Ready for Connection {
    fn queued(&self) -> &AtomicBool {
        &self.queued
    }

    fn ready(self: Arc<Self>, py: Python<'_>) -> PyResult<()> {
        self.at_once.store(0, Ordering::Relaxed);
        self.serve_drains(py)?;
        self.serve_reads(py)?;
        let is_over = {
            let mut state = lock(&self.state);
            state.closed && state.carrier.is_some() && state.discard()
        };
        if is_over {
            self.give_up();
        }
        Ok(())
    }

    fn abandon(&self) {
        self.give_up();
        let mut state = lock(&self.state);
        let waiting = (std::mem::take(&mut state.reads), std::mem::take(&mut state.drains));
        drop(state);
        drop(waiting);
    }
}

impl Lingering for Connection {
    fn is_flushed(&self) -> bool {
        lock(&self.state).fin_sent
    }

    fn give_up(&self) {
        let carrier = lock(&self.state).carrier.take();
        self.let_go(carrier);
        self.bridge.forget(self.key());
    }
}

/// Takes bytes back from a read whose task was cancelled.
#[pyclass(frozen, module = "wg_embed._native")]
struct GiveBack(Weak<Connection>);

#[pymethods]
impl GiveBack {
    fn __call__(&self, bytes: Bound<'_, PyBytes>) {
        if let Some(connection) = self.0.upgrade()
            && !bytes.as_bytes().is_empty()
        {
            lock(&connection.state).returned.push_front(bytes.unbind());
            connection.post();
        }
    }
}
