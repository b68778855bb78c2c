//! The WireGuard classes of mitmproxy_rs.

use std::{net::IpAddr, sync::Arc};

use pyo3::{PyTraverseError, PyVisit, prelude::*};

use crate::{
    connection::{Connection, Manner},
    convert, keys,
    server::{Handlers, Serving, Settings},
    stream::{server_methods, stream_methods},
};

/// A running WireGuard server.
#[pyclass(frozen, module = "wg_embed.mitmproxy.wireguard", name = "WireGuardServer")]
pub(crate) struct ModernServer(Serving);

server_methods!(ModernServer, "WireGuardServer" {});

/// An individual TCP or UDP stream with an API that is similar to
/// [`asyncio.StreamReader` and `asyncio.StreamWriter`](https://docs.python.org/3/library/asyncio-stream.html)
/// from the Python standard library.
#[pyclass(frozen, module = "wg_embed.mitmproxy", name = "Stream")]
pub(crate) struct ModernStream(pub(crate) Arc<Connection>);

stream_methods!(ModernStream {
    /// Close the stream, after what was written, in both directions.
    fn close(&self) -> PyResult<()> {
        self.0.close()
    }

    /// Return at once; for code that is written for `asyncio.StreamWriter`.
    fn wait_closed<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.done(py)
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
        self.0.extra_info(py, name, default)
    }

    fn __repr__(&self) -> String {
        self.0.repr("Stream")
    }
});

/// Start a WireGuard server that is configured with the given parameters:
///
/// - `host`: The host address for the WireGuard UDP socket.
/// - `port`: The listen port for the WireGuard server. The default port for WireGuard is `51820`.
/// - `private_key`: The private X25519 key for the WireGuard server as a base64-encoded string.
/// - `peer_public_keys`: List of public X25519 keys for WireGuard peers as base64-encoded strings.
/// - `handle_tcp_stream`: An asynchronous function that will be called for each new TCP `Stream`.
/// - `handle_udp_stream`: An asynchronous function that will be called for each new UDP `Stream`.
#[pyfunction]
fn start_wireguard_server<'py>(
    py: Python<'py>,
    host: IpAddr,
    port: u16,
    private_key: &str,
    peer_public_keys: Vec<String>,
    handle_tcp_stream: Py<PyAny>,
    handle_udp_stream: Py<PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let settings = Settings::new(Manner::Modern, vec![host], port, private_key, &peer_public_keys)?;
    let handlers = Handlers { tcp: handle_tcp_stream, udp: handle_udp_stream };
    Serving::start(py, settings, handlers, |py, serving| Ok(Bound::new(py, ModernServer(serving))?.into_any()))
}

/// Adds the functions of `wg_embed.mitmproxy.wireguard` to `native`. Their `__module__` is that package.
pub(crate) fn add_functions(native: &Bound<'_, PyModule>) -> PyResult<()> {
    let module = PyModule::new(native.py(), "wg_embed.mitmproxy.wireguard")?;
    native.add("start_wireguard_server", wrap_pyfunction!(start_wireguard_server, &module)?)?;
    native.add("modern_genkey", wrap_pyfunction!(keys::genkey, &module)?)?;
    native.add("modern_pubkey", wrap_pyfunction!(keys::pubkey, &module)?)
}
