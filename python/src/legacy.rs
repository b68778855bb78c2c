//! The classes of mitmproxy_wireguard 0.1.23.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use pyo3::{PyTraverseError, PyVisit, prelude::*};

use crate::{
    connection::{Connection, Manner},
    convert, keys,
    server::{Handlers, Serving, Settings},
    stream::{server_methods, stream_methods},
};

/// A running WireGuard server.
#[pyclass(frozen, module = "builtins", name = "Server")]
pub(crate) struct LegacyServer(Serving);

server_methods!(LegacyServer, "Server" {
    /// Send an individual UDP datagram from any address inside the tunnel to a client.
    fn send_datagram(
        &self,
        data: &Bound<'_, PyAny>,
        src_addr: &Bound<'_, PyAny>,
        dst_addr: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let data = convert::bytes_like(data)?;
        let (from, to) = (convert::socket_address(src_addr)?, convert::socket_address(dst_addr)?);
        self.0.send_datagram(&data, from, to)
    }
});

/// An individual TCP stream with an API that is similar to
/// [`asyncio.StreamReader` and `asyncio.StreamWriter`](https://docs.python.org/3/library/asyncio-stream.html)
/// from the Python standard library.
#[pyclass(frozen, module = "builtins", name = "TcpStream")]
pub(crate) struct LegacyStream(pub(crate) Arc<Connection>);

stream_methods!(LegacyStream {
    /// Reset the connection at once: what was not sent is lost.
    fn close(&self) -> PyResult<()> {
        self.0.close()
    }

    /// Query the stream for details of the transport: `peername`, `sockname`, `original_dst`, `original_src`.
    #[pyo3(signature = (name, default=None), text_signature = "($self, name, default=...)")]
    fn get_extra_info<'py>(
        &self,
        py: Python<'py>,
        name: String,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.0.extra_info(py, name, default)
    }

    fn __repr__(&self) -> String {
        self.0.repr("TcpStream")
    }
});

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
fn start_server<'py>(
    py: Python<'py>,
    host: &str,
    port: u16,
    private_key: &str,
    peer_public_keys: Vec<String>,
    handle_connection: Py<PyAny>,
    receive_datagram: Py<PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let hosts = match host.parse() {
        Ok(host) => vec![host],
        Err(_) if host.is_empty() => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        // The future has the error.
        Err(_) => Vec::new(),
    };
    let settings = Settings::new(Manner::Legacy, hosts, port, private_key, &peer_public_keys)?;
    let handlers = Handlers { tcp: handle_connection, udp: receive_datagram };
    Serving::start(py, settings, handlers, |py, serving| Ok(Bound::new(py, LegacyServer(serving))?.into_any()))
}

/// Adds the functions of mitmproxy_wireguard to `native`. Their `__module__` is that package.
pub(crate) fn add_functions(native: &Bound<'_, PyModule>) -> PyResult<()> {
    let module = PyModule::new(native.py(), "mitmproxy_wireguard.mitmproxy_wireguard")?;
    native.add("start_server", wrap_pyfunction!(start_server, &module)?)?;
    native.add("legacy_genkey", wrap_pyfunction!(keys::genkey, &module)?)?;
    native.add("legacy_pubkey", wrap_pyfunction!(keys::legacy_pubkey, &module)?)
}
