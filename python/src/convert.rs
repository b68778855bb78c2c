//! Addresses and bytes between Python and Rust.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use pyo3::{
    exceptions::PyValueError,
    prelude::*,
    pybacked::PyBackedBytes,
    types::{PyByteArray, PyBytes, PyMemoryView, PyTuple},
};
use wg_embed_netstack::TcpStream;

/// An address as a `(host, port)` tuple.
pub(crate) fn to_tuple(py: Python<'_>, address: SocketAddr) -> PyResult<Bound<'_, PyTuple>> {
    (address.ip().to_string(), address.port()).into_pyobject(py)
}

/// Parses an IP address.
///
/// # Errors
/// `ValueError` for any other text.
pub(crate) fn ip(text: &str) -> PyResult<IpAddr> {
    text.parse().map_err(|_| PyValueError::new_err("invalid IP address syntax"))
}

/// Parses a `(host, port)` tuple.
///
/// # Errors
/// `TypeError` for anything but a tuple, `ValueError` for another length or no IP address, `OverflowError` for a port
/// that is too large.
pub(crate) fn socket_address(value: &Bound<'_, PyAny>) -> PyResult<SocketAddr> {
    let tuple = value.cast::<PyTuple>()?;
    if tuple.len() != 2 {
        return Err(PyValueError::new_err("not a socket address"));
    }
    let host: String = tuple.get_item(0)?.extract()?;
    let port: u16 = tuple.get_item(1)?.extract()?;
    Ok(SocketAddr::new(ip(&host)?, port))
}

/// Returns the bytes of a bytes-like object, or of a sequence of small integers. Those of a `bytes` are not copied.
///
/// # Errors
/// `TypeError` for anything else, such as a `str`.
pub(crate) fn bytes_like(value: &Bound<'_, PyAny>) -> PyResult<PyBackedBytes> {
    // Not of a subclass: it could run code when it is let go of, with a lock held.
    if let Ok(bytes) = value.cast_exact::<PyBytes>() {
        return Ok(bytes.clone().into());
    }
    if let Ok(bytes) = value.cast_exact::<PyByteArray>() {
        return Ok(bytes.clone().into());
    }
    if let Ok(view) = PyMemoryView::from(value) {
        return Ok(view.call_method0("tobytes")?.cast_into::<PyBytes>()?.into());
    }
    let bytes: Vec<u8> = value.extract()?;
    Ok(PyBytes::new(value.py(), &bytes).into())
}

/// Reads up to `most` received bytes directly into a Python object; `None` at the end.
///
/// # Errors
/// `WouldBlock` if nothing has arrived, and errors of connections.
pub(crate) fn received<'py>(
    py: Python<'py>,
    stream: &TcpStream,
    most: usize,
) -> io::Result<Option<Bound<'py, PyBytes>>> {
    let mut data = None;
    stream.try_read_with(&mut |first, second| {
        let part = if first.is_empty() { second } else { first };
        let taken = &part[..part.len().min(most)];
        if !part.is_empty() {
            data = Some(PyBytes::new(py, taken));
        }
        taken.len()
    })?;
    Ok(data)
}
