//! Conversion of Rust's errors to Python's exceptions.

use std::{error::Error as _, io};

use pyo3::{PyErr, Python, exceptions::PyOSError, exceptions::PyValueError, prelude::*};
use wg_embed::{Error, ErrorKind};

/// Returns the `errno` of an I/O error; `None` without a counterpart.
pub(crate) fn errno_of(error: &io::Error) -> Option<i32> {
    use io::ErrorKind as Kind;
    // An error of the stack may have the system's inside.
    let inner = || error.get_ref()?.downcast_ref::<io::Error>()?.raw_os_error();
    error.raw_os_error().or_else(inner).or_else(|| {
        Some(match error.kind() {
            Kind::ConnectionRefused => libc::ECONNREFUSED,
            Kind::ConnectionReset => libc::ECONNRESET,
            Kind::ConnectionAborted => libc::ECONNABORTED,
            Kind::NotConnected => libc::ENOTCONN,
            Kind::HostUnreachable => libc::EHOSTUNREACH,
            Kind::NetworkUnreachable => libc::ENETUNREACH,
            Kind::AddrInUse => libc::EADDRINUSE,
            Kind::AddrNotAvailable => libc::EADDRNOTAVAIL,
            Kind::BrokenPipe => libc::EPIPE,
            Kind::TimedOut => libc::ETIMEDOUT,
            Kind::WouldBlock => libc::EAGAIN,
            Kind::OutOfMemory => libc::ENOMEM,
            Kind::Unsupported => libc::EOPNOTSUPP,
            Kind::PermissionDenied => libc::EACCES,
            Kind::NotFound => libc::ENOENT,
            _ => return None,
        })
    })
}

/// Converts to an `OSError` with `errno`, of Python's subclass for it; `ValueError` for invalid input.
pub(crate) fn from_io(error: &io::Error) -> PyErr {
    match errno_of(error) {
        Some(errno) => PyOSError::new_err((errno, error.to_string())),
        None if error.kind() == io::ErrorKind::InvalidInput => PyValueError::new_err(error.to_string()),
        None => PyOSError::new_err((libc::EIO, error.to_string())),
    }
}

/// Returns the system's error behind an error of the tunnel.
pub(crate) fn io_behind(error: &Error) -> Option<&io::Error> {
    error.source()?.downcast_ref()
}

/// Converts to `wg_embed.ConfigError` if it is an invalid value, otherwise to an `OSError` with `errno`.
pub(crate) fn from_core(py: Python<'_>, error: &Error) -> PyErr {
    if error.kind() == ErrorKind::Invalid {
        let class = py.import("wg_embed._errors").and_then(|module| module.getattr("ConfigError"));
        return match class.and_then(|class| class.call1((error.to_string(),))) {
            Ok(exception) => PyErr::from_value(exception),
            Err(failed) => failed,
        };
    }
    let errno = io_behind(error).and_then(errno_of).unwrap_or_else(|| error.kind().errno());
    PyOSError::new_err((errno, error.to_string()))
}

/// Converts an error of a call that may look up a name: to that of `socket.getaddrinfo` for a name without an address,
/// or without an available server; otherwise like [`from_io`], for example errors of the connection or a timeout.
pub(crate) fn from_lookup(py: Python<'_>, error: io::Error) -> PyErr {
    let code = match error.kind() {
        io::ErrorKind::NotFound => "EAI_NONAME",
        io::ErrorKind::Other if error.raw_os_error().is_none() => "EAI_AGAIN",
        io::ErrorKind::Unsupported => "EAI_FAIL",
        _ => return from_io(&error),
    };
    let raise = || -> PyResult<PyErr> {
        let socket = py.import("socket")?;
        let number = socket.getattr(code)?;
        Ok(PyErr::from_value(socket.getattr("gaierror")?.call1((number, error.to_string()))?))
    };
    raise().unwrap_or_else(|failed| failed)
}
