//! A WireGuard server that intercepts all connections of its peers, and passes them to handlers in Python: its start,
//! and the object that its program holds.

mod arrival;
mod datagrams;
mod shared;

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering},
};

use pyo3::{
    PyTraverseError, PyVisit,
    exceptions::{PyOSError, PyRuntimeError},
    prelude::*,
};
use wg_embed::{
    key::{PrivateKey, PublicKey},
    sync::{lock, try_lock},
};

use self::shared::Shared;
use crate::{
    bridge::{Bridge, still_waiting},
    connection::Manner,
    errors, keys, log,
    process::{self, Mark},
};

/// The parameters of a server.
pub(crate) struct Settings {
    manner: Manner,
    /// None if the host was invalid.
    hosts: Vec<IpAddr>,
    port: u16,
    private_key: PrivateKey,
    peers: Vec<PublicKey>,
}

impl Settings {
    /// `hosts` are tried one after another.
    ///
    /// # Errors
    /// `ValueError` if a key is invalid.
    pub(crate) fn new(
        manner: Manner,
        hosts: Vec<IpAddr>,
        port: u16,
        private_key: &str,
        peers: &[String],
    ) -> PyResult<Self> {
        let written: fn(&str) -> Cow<'_, str> = match manner {
            Manner::Legacy => keys::padded,
            Manner::Modern => |key| key.into(),
        };
        let private_key = keys::private_key(&written(private_key))?;
        let peers = peers.iter().map(|key| keys::public_key(&written(key))).collect::<PyResult<_>>()?;
        Ok(Self { manner, hosts, port, private_key, peers })
    }
}

/// The functions in Python.
pub(crate) struct Handlers {
    /// Receives a stream and returns an awaitable.
    pub(crate) tcp: Py<PyAny>,
    /// Modern: the same for a flow. Legacy: receives data, source and destination of each datagram.
    pub(crate) udp: Py<PyAny>,
}

struct Functions {
    handlers: Handlers,
    /// The context in which the server was started: all handlers run in a copy of it.
    context: Py<PyAny>,
    run: Py<PyAny>,
}

/// A running server. Dropping it closes it.
pub(crate) struct Serving {
    shared: Arc<Shared>,
    process: Mark,
}

impl Serving {
    /// Starts a server on the running loop. Returns a future of the result of `wrap`.
    ///
    /// # Errors
    /// `RuntimeError` without a running loop; the future raises all other errors.
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
        let functions = Arc::new(functions);
        let mut failed = PyRuntimeError::new_err("invalid IP address syntax");
        for (number, host) in settings.hosts.iter().enumerate() {
            match py.detach(|| Shared::start(bridge, *host, &settings, &functions)) {
                Ok(shared) => {
                    process::register(&shared);
                    return Ok(Self { shared, process: Mark::new() });
                }
                Err(error) if number == 0 => {
                    failed = start_error(settings.manner, SocketAddr::new(*host, settings.port), &error);
                }
                Err(_) => {}
            }
        }
        Err(failed)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        *lock(&self.shared.address)
    }

    pub(crate) fn send_datagram(&self, data: &[u8], from: SocketAddr, to: SocketAddr) -> PyResult<()> {
        self.process.check()?;
        if self.shared.gone.load(Ordering::Acquire) {
            return Err(shut_down(self.shared.manner));
        }
        if let Err(error) = self.shared.net.send_datagram(data, from, to) {
            tracing::warn!(%from, %to, %error, "a datagram was not sent");
        }
        Ok(())
    }

    pub(crate) fn close(&self, py: Python<'_>) {
        if self.process.is_current() {
            py.detach(|| self.shared.close());
            self.shared.forget_functions();
        }
    }

    /// Returns a future that is done when the server is closed.
    pub(crate) fn wait_closed<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.process.check()?;
        let shared = &self.shared;
        if shared.gone.load(Ordering::Acquire) {
            return shared.bridge.done(py, shared.manner.nothing(py)?);
        }
        let future = shared.bridge.future(py)?;
        let waiters = std::mem::take(&mut *lock(&shared.waiters));
        let mut waiters = still_waiting(py, waiters, |waiter| waiter)?;
        waiters.push(future.clone().unbind());
        lock(&shared.waiters).append(&mut waiters);
        if shared.gone.load(Ordering::Acquire) {
            shared.bridge.post(shared.clone());
        }
        Ok(future)
    }

    /// Reports the handlers to the garbage collector: they often refer to an object that holds the server.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        // While they are in use, they are not garbage.
        let Some(functions) = try_lock(&self.shared.functions) else { return Ok(()) };
        match functions.as_ref().filter(|functions| Arc::strong_count(functions) == 1) {
            Some(functions) => {
                visit.call(&functions.handlers.tcp)?;
                visit.call(&functions.handlers.udp)?;
                visit.call(&functions.context)
            }
            None => Ok(()),
        }
    }

    /// Breaks a reference cycle.
    pub(crate) fn clear(&self) {
        self.shared.forget_functions();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if !self.process.is_current() {
            return process::leave(&self.shared);
        }
        // Without the interpreter if it is at its end.
        let closed = Python::try_attach(|py| py.detach(|| self.shared.close()));
        if closed.is_none() {
            self.shared.close();
        }
        self.shared.forget_functions();
    }
}

/// The error of calls on a closed server.
pub(crate) fn shut_down(manner: Manner) -> PyErr {
    PyOSError::new_err(match manner {
        Manner::Legacy => "WireGuard server has been shut down.",
        Manner::Modern => "Server has been shut down.",
    })
}

fn start_error(manner: Manner, address: SocketAddr, error: &wg_embed::Error) -> PyErr {
    let behind = errors::io_behind(error);
    match (manner, behind) {
        (Manner::Legacy, behind) => {
            PyRuntimeError::new_err(behind.map_or_else(|| error.to_string(), ToString::to_string))
        }
        (Manner::Modern, behind) => {
            let errno = behind.and_then(errors::errno_of).unwrap_or_else(|| error.kind().errno());
            PyOSError::new_err((errno, format!("Failed to bind UDP socket to {address}")))
        }
    }
}
