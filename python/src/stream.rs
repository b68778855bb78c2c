//! The common functions of the classes of mitmproxy_wireguard and mitmproxy_rs.

/// Gives a class `(Arc<Connection>)` the functions of every stream, and those that only it has.
macro_rules! stream_methods {
    ($class:ident { $($own:tt)* }) => {
        #[pymethods]
        impl $class {
            /// Read up to `n` bytes, or one whole datagram, as soon as there is something; `b""` at the end. A
            /// cancelled read takes nothing.
            fn read<'py>(&self, py: Python<'py>, n: u32) -> PyResult<Bound<'py, PyAny>> {
                self.0.read(py, n as usize)
            }

            /// Write bytes onto the stream, or one datagram. It never waits; use `drain` to.
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

            /// Check whether `write_eof` or `close` was called.
            fn is_closing(&self) -> PyResult<bool> {
                self.0.is_closing()
            }

            $($own)*
        }

        impl Drop for $class {
            fn drop(&mut self) {
                self.0.detach();
            }
        }
    };
}

/// Gives a class `(Serving)` the functions of every server, and those that only it has.
macro_rules! server_methods {
    ($class:ident, $name:literal { $($own:tt)* }) => {
        #[pymethods]
        impl $class {
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
                format!(concat!($name, "({})"), self.0.address())
            }

            fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
                self.0.traverse(&visit)
            }

            fn __clear__(&self) {
                self.0.clear();
            }

            $($own)*
        }
    };
}

pub(crate) use {server_methods, stream_methods};
