//! The classes of mitmproxy_wireguard 0.1.23.

use std::{net::SocketAddr, sync::Arc};

use pyo3::{exceptions::PyKeyError, prelude::*};

use crate::{
    connection::{Connection, Manner},
    convert, keys,
    server::{Handlers, Serving, Settings},
};

/// A running WireGuard server.
#[pyclass(frozen, module = "builtins", name = "Server")]
pub(crate) struct LegacyServer(Serving);

#[pymethods]
impl LegacyServer {
    /// Get the local socket address that the WireGuard server is listening on.
    fn getsockname<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(convert::to_tuple(py, self.0.address())?.into_any())
    }

    /// Send an individual UDP datagram from any address inside the tunnel to a client.
    fn send_datagram(
        &self,
        data: &Bound<'_, PyAny>,
        src_addr: &Bound<'_, PyAny>,
        dst_addr: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let data = convert::bytes_like(data)?;
        let (from, to) = (convert::socket_address(src_addr)?, convert::socket_address(dst_addr)?);
        self.0.send_datagram(&data, from, to);
        Ok(())
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
        format!("Server({})", self.0.address())
    }
}

/// An individual TCP stream with an API that is similar to
/// [`asyncio.StreamReader` and `asyncio.StreamWriter`](https://docs.python.org/3/library/asyncio-stream.html)
/// from the Python standard library.
#[pyclass(frozen, module = "builtins", name = "TcpStream")]
pub(crate) struct LegacyStream(pub(crate) Arc<Connection>);

#[pymethods]
impl LegacyStream {
    /// Read up to `n` bytes: as soon as there are any, or `b""` at the end. A cancelled read takes nothing.
    fn read<'py>(&self, py: Python<'py>, n: u32) -> PyResult<Bound<'py, PyAny>> {
        self.0.read(py, n as usize)
    }

    /// Write bytes onto the stream. It never waits; use `drain` to.
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        self.0.write(convert::bytes_like(data)?)
    }

    /// Wait until it is appropriate to resume writing.
    fn drain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.drain(py)
    }

    /// Close the write end of the stream after what was written. Reading goes on.
    fn write_eof(&self) -> PyResult<()> {
        self.0.write_eof()
    }

    /// Reset the connection at once: what was not sent is lost.
    fn close(&self) -> PyResult<()> {
        self.0.close()
    }

    /// Check whether `write_eof` or `close` was called.
    fn is_closing(&self) -> PyResult<bool> {
        self.0.is_closing()
    }

    /// Query the stream for details of the transport: `peername`, `sockname`, `original_dst`, `original_src`.
    #[pyo3(signature = (name, default=None))]
    fn get_extra_info<'py>(
        &self,
        py: Python<'py>,
        name: String,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let info = &self.0.info;
        let address = match name.as_str() {
            "peername" => Some(info.peer),
            "sockname" => Some(info.socket),
            "original_dst" => Some(info.destination),
            "original_src" => info.source,
            _ => None,
        };
        extra_info(py, name, address, default)
    }

    fn __repr__(&self) -> String {
        let info = &self.0.info;
        let source = shown(info.source);
        let (number, peer, socket, destination) = (info.number, info.peer, info.socket, info.destination);
        format!("TcpStream({number}, peer={peer}, sock={socket}, src={source}, dst={destination})")
    }
}

impl Drop for LegacyStream {
    fn drop(&mut self) {
        self.0.detach();
    }
}

/// An address as a tuple, or the default; `KeyError` if there is neither.
pub(crate) fn extra_info<'py>(
    py: Python<'py>,
    name: String,
    address: Option<SocketAddr>,
    default: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    match (address, default) {
        (Some(address), _) => Ok(convert::to_tuple(py, address)?.into_any()),
        (None, Some(default)) => Ok(default),
        (None, None) => Err(PyKeyError::new_err(name)),
    }
}

/// An address that may not be known.
pub(crate) fn shown(address: Option<SocketAddr>) -> String {
    address.map_or_else(|| "unknown".into(), |address| address.to_string())
}

/// Start a WireGuard server that is configured with the given parameters:
///
/// - `host`: The host address for the WireGuard UDP socket.
/// - `port`: The listen port for the WireGuard server. The default port for WireGuard is `51820`.
/// - `private_key`: The private X25519 key for the WireGuard server as a base64-encoded string.
/// - `peer_public_keys`: List of public X25519 keys for WireGuard peers as base64-encoded strings.
/// - `handle_connection`: A coroutine that will be called for each new `TcpStream`.
/// - `receive_datagram`: A function that will be called for each received UDP datagram.
///
/// The `receive_datagram` function will be called with the following arguments:
///
/// - payload of the UDP datagram as `bytes`
/// - source address as `(host: str, port: int)` tuple
/// - destination address as `(host: str, port: int)` tuple
#[pyfunction]
pub(crate) fn start_server<'py>(
    py: Python<'py>,
    host: String,
    port: u16,
    private_key: &str,
    peer_public_keys: Vec<String>,
    handle_connection: Py<PyAny>,
    receive_datagram: Py<PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let settings = Settings {
        manner: Manner::Legacy,
        host,
        port,
        private_key: keys::private_key(private_key)?,
        peers: peer_public_keys.iter().map(|key| keys::public_key(key)).collect::<PyResult<_>>()?,
    };
    let handlers = Handlers { tcp: handle_connection, udp: receive_datagram };
    Serving::start(py, settings, handlers, |py, serving| Ok(Bound::new(py, LegacyServer(serving))?.into_any()))
}
