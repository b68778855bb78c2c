//! The WireGuard classes of mitmproxy_rs.

use std::sync::Arc;

use pyo3::prelude::*;

use crate::{
    connection::{Connection, Manner},
    convert, keys,
    legacy::{extra_info, shown},
    server::{Handlers, Serving, Settings},
};

/// A running WireGuard server.
#[pyclass(frozen, module = "wg_embed.mitmproxy.wireguard", name = "WireGuardServer")]
pub(crate) struct ModernServer(Serving);

#[pymethods]
impl ModernServer {
    /// Get the local socket address that the WireGuard server is listening on.
    fn getsockname<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(convert::to_tuple(py, self.0.address())?.into_any())
    }

    /// Request the WireGuard server to gracefully shut down. Idempotent.
    fn close(&self, py: Python<'_>) {
        self.0.close(py);
    }

    /// Wait until the WireGuard server has shut down.
    fn wait_closed<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.wait_closed(py)
    }

    fn __repr__(&self) -> String {
        format!("WireGuardServer({})", self.0.address())
    }
}

/// An individual TCP or UDP stream with an API that is similar to
/// [`asyncio.StreamReader` and `asyncio.StreamWriter`](https://docs.python.org/3/library/asyncio-stream.html)
/// from the Python standard library.
#[pyclass(frozen, module = "wg_embed.mitmproxy", name = "Stream")]
pub(crate) struct ModernStream {
    pub(crate) connection: Arc<Connection>,
    pub(crate) is_udp: bool,
}

#[pymethods]
impl ModernStream {
    /// Read up to `n` bytes, or one whole datagram, as soon as there is something; `b""` at the end. A cancelled read
    /// takes nothing.
    fn read<'py>(&self, py: Python<'py>, n: u32) -> PyResult<Bound<'py, PyAny>> {
        self.connection.read(py, n as usize)
    }

    /// Write bytes onto the stream, or one datagram. It never waits; use `drain` to.
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        self.connection.write(convert::bytes_like(data)?)
    }

    /// Wait until it is appropriate to resume writing.
    fn drain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.connection.drain(py)
    }

    /// Close the write end of the stream after what was written. Reading goes on.
    fn write_eof(&self) -> PyResult<()> {
        self.connection.write_eof()
    }

    /// Close the stream, after what was written, in both directions.
    fn close(&self) -> PyResult<()> {
        self.connection.close()
    }

    /// Check whether `write_eof` or `close` was called.
    fn is_closing(&self) -> PyResult<bool> {
        self.connection.is_closing()
    }

    /// Return at once; for code that is written for `asyncio.StreamWriter`.
    fn wait_closed<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.connection.done(py)
    }

    /// Query the stream for details of the transport: `transport_protocol`, `peername`, `sockname`, `original_src`,
    /// `original_dst`.
    #[pyo3(signature = (name, default=None))]
    fn get_extra_info<'py>(
        &self,
        py: Python<'py>,
        name: String,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let info = &self.connection.info;
        let address = match name.as_str() {
            "transport_protocol" => {
                return Ok(self.protocol().into_pyobject(py)?.into_any());
            }
            "peername" => Some(info.peer),
            "sockname" => Some(info.destination),
            "original_dst" => Some(info.socket),
            "original_src" => info.source,
            _ => None,
        };
        extra_info(py, name, address, default)
    }

    fn __repr__(&self) -> String {
        let info = &self.connection.info;
        let (number, peer, destination) = (info.number, info.peer, info.destination);
        let (source, socket) = (shown(info.source), info.socket);
        format!("Stream({number}, peer={peer}, sock={destination}, src={source}, dst={socket})")
    }
}

impl ModernStream {
    const fn protocol(&self) -> &'static str {
        if self.is_udp { "udp" } else { "tcp" }
    }
}

impl Drop for ModernStream {
    fn drop(&mut self) {
        self.connection.detach();
    }
}

/// Start a WireGuard server that is configured with the given parameters:
///
/// - `host`: The host address for the WireGuard UDP socket.
/// - `port`: The listen port for the WireGuard server. The default port for WireGuard is `51820`.
/// - `private_key`: The private X25519 key for the WireGuard server as a base64-encoded string.
/// - `peer_public_keys`: List of public X25519 keys for WireGuard peers as base64-encoded strings.
/// - `handle_tcp_stream`: An asynchronous function that will be called for each new TCP `Stream`.
/// - `handle_udp_stream`: An asynchronous function that will be called for each new UDP `Stream`.
#[pyfunction]
pub(crate) fn start_wireguard_server<'py>(
    py: Python<'py>,
    host: String,
    port: u16,
    private_key: &str,
    peer_public_keys: Vec<String>,
    handle_tcp_stream: Py<PyAny>,
    handle_udp_stream: Py<PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let settings = Settings {
        manner: Manner::Modern,
        host,
        port,
        private_key: keys::private_key(private_key)?,
        peers: peer_public_keys.iter().map(|key| keys::public_key(key)).collect::<PyResult<_>>()?,
    };
    let handlers = Handlers { tcp: handle_tcp_stream, udp: handle_udp_stream };
    Serving::start(py, settings, handlers, |py, serving| Ok(Bound::new(py, ModernServer(serving))?.into_any()))
}
