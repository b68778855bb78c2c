//! The userspace network: what `wg_embed.net` is made of. Nothing here waits, but `wait` and what says so.

use std::{
    io,
    net::{IpAddr, Shutdown, SocketAddr},
    os::fd::{IntoRawFd, RawFd},
    sync::{Arc, OnceLock},
    time::Duration,
};

use pyo3::{
    exceptions::{PyOSError, PyValueError},
    prelude::*,
    types::{PyBytes, PyTuple},
};
use wg_embed::process::PerProcess;
use wg_embed_netstack::{
    Netstack, TcpListener, TcpStream, UdpSocket,
    dial::{Dial, parse_host_port},
    dns::{Family, Lookup},
    ping::Ping,
    pump::Pump,
};

use crate::{
    convert, errors,
    held::{Held, closed, io_error, now},
    process::{self, Inherited, Mark},
};

/// The longest datagram.
const DATAGRAM: usize = 65_535;

/// The longest time that the network is asked for, in seconds: a year.
const LONGEST: f64 = 365.0 * 86_400.0;

fn seconds(value: f64) -> PyResult<Duration> {
    // Not `min`, which would take what is no number for that.
    let value = if value > LONGEST { LONGEST } else { value };
    Duration::try_from_secs_f64(value).map_err(|error| PyValueError::new_err(error.to_string()))
}

fn family(name: &str) -> PyResult<Family> {
    Ok(match name {
        "any" => Family::Any,
        "prefer4" => Family::PreferIpv4,
        "prefer6" => Family::PreferIpv6,
        "ipv4" => Family::Ipv4,
        "ipv6" => Family::Ipv6,
        _ => return Err(PyValueError::new_err("a family is any, prefer4, prefer6, ipv4 or ipv6")),
    })
}

/// The userspace network of a tunnel.
#[pyclass(frozen, module = "wg_embed._native", name = "Net")]
pub(crate) struct NativeNet {
    /// Taken out by `drop` alone.
    net: Option<Netstack>,
    process: Mark,
}

/// What copies between descriptors and connections: one for the process.
fn pump() -> PyResult<Arc<Copying>> {
    static PUMP: PerProcess<OnceLock<Arc<Copying>>> = PerProcess::new();
    let pump = PUMP.get();
    match pump.get() {
        Some(pump) => Ok(pump.clone()),
        None => {
            let made = Pump::new().map_err(io_error)?;
            let pump = pump.get_or_init(|| Arc::new(Copying(made)));
            process::register(pump);
            Ok(pump.clone())
        }
    }
}

struct Copying(Pump);

impl Inherited for Copying {
    fn descriptors(&self) -> Vec<RawFd> {
        self.0.descriptors()
    }
}

impl NativeNet {
    pub(crate) fn new(net: Netstack) -> Self {
        Self { net: Some(net), process: Mark::new() }
    }

    fn net(&self) -> PyResult<&Netstack> {
        self.process.check()?;
        self.net.as_ref().ok_or_else(closed)
    }
}

impl Drop for NativeNet {
    fn drop(&mut self) {
        if !self.process.is_current() {
            std::mem::forget(self.net.take());
        }
    }
}

#[pymethods]
impl NativeNet {
    #[getter]
    fn addresses(&self) -> PyResult<Vec<String>> {
        Ok(texts(self.net()?.options().addresses))
    }

    #[getter]
    fn dns(&self) -> PyResult<Vec<String>> {
        Ok(texts(self.net()?.options().dns))
    }

    #[getter]
    fn mtu(&self) -> PyResult<u16> {
        Ok(self.net()?.options().mtu)
    }

    fn set_addresses(&self, addresses: Vec<String>) -> PyResult<()> {
        let addresses = addresses.iter().map(|text| convert::ip(text)).collect::<PyResult<_>>()?;
        self.net()?.set_addresses(addresses).map_err(io_error)
    }

    fn set_dns(&self, servers: Vec<String>) -> PyResult<()> {
        self.net()?.set_dns(servers.iter().map(|text| convert::ip(text)).collect::<PyResult<_>>()?);
        Ok(())
    }

    /// Connections, half-open ones, those in TIME-WAIT, flows; bytes of memory; packets in, packets out.
    fn stats(&self) -> PyResult<(usize, usize, usize, usize, usize, u64, u64)> {
        let s = self.net()?.stats();
        Ok((s.connections, s.half_open, s.time_wait, s.flows, s.memory, s.packets_in, s.packets_out))
    }

    fn start_dial(&self, target: &str, family_name: &str, timeout: f64) -> PyResult<NativeDial> {
        let dial = self.net()?.start_dial(target, family(family_name)?, seconds(timeout)?).map_err(io_error)?;
        Ok(NativeDial(Held::new(dial, |dial, notify| dial.set_notify(Some(notify)))))
    }

    fn start_resolve(&self, name: &str, family_name: &str, timeout: f64) -> PyResult<NativeLookup> {
        let lookup = self.net()?.start_resolve(name, family(family_name)?, seconds(timeout)?).map_err(io_error)?;
        Ok(NativeLookup(Held::new(lookup, |lookup, notify| lookup.set_notify(Some(notify)))))
    }

    fn start_ping(&self, address: &str, size: usize) -> PyResult<NativePing> {
        let ping = self.net()?.start_ping(convert::ip(address)?, size).map_err(io_error)?;
        Ok(NativePing(Held::new(ping, |ping, notify| ping.set_notify(Some(notify)))))
    }

    fn listen(&self, host: &str, port: u16, backlog: usize) -> PyResult<NativeListener> {
        let listener = self.net()?.listen_tcp(SocketAddr::new(convert::ip(host)?, port), backlog).map_err(io_error)?;
        Ok(NativeListener(Held::new(listener, |listener, notify| listener.set_notify(Some(notify)))))
    }

    #[pyo3(signature = (host, port, remote=None))]
    fn udp(&self, host: &str, port: u16, remote: Option<(String, u16)>) -> PyResult<NativeUdp> {
        let remote = match remote {
            Some((host, port)) => Some(SocketAddr::new(convert::ip(&host)?, port)),
            None => None,
        };
        let socket = self.net()?.bind_udp(SocketAddr::new(convert::ip(host)?, port), remote).map_err(io_error)?;
        Ok(NativeUdp(Held::new(socket, |socket, notify| socket.set_notify(Some(notify)))))
    }
}

/// Splits `"host:port"`.
#[pyfunction]
pub(crate) fn split_host_port(text: &str) -> PyResult<(String, u16)> {
    parse_host_port(text).map_err(io_error)
}

/// Has `watch(callback)` and `close()` for a class that holds something, and its own functions.
macro_rules! waitable {
    ($class:ident { $($functions:tt)* }) => {
        #[pymethods]
        impl $class {
            /// Has `callback` called on the running loop, once at first and whenever something may go on.
            fn watch(&self, py: Python<'_>, callback: Option<Py<PyAny>>) -> PyResult<()> {
                self.0.callback.set(py, callback)
            }

            /// Ends it, gives up what is under way, and wakes who waits.
            fn close(&self) {
                drop(self.0.take());
                self.0.callback.tell();
            }

            $($functions)*
        }
    };
}

/// The same for a class that holds something under way, with its result.
macro_rules! pending {
    ($class:ident, $attempt:expr, $error:expr, $result:ty, $convert:expr) => {
        waitable!($class {
            /// The result; None as long as there is none.
            fn result(&self, py: Python<'_>) -> PyResult<Option<$result>> {
                let outcome = now($attempt(&*self.0.get()?));
                Ok(outcome.map_err(|error| ($error)(py, error))?.map($convert))
            }

            /// The result, or after `timeout` seconds None.
            #[pyo3(signature = (timeout=None))]
            fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<$result>> {
                let outcome = self.0.wait(py, timeout, $attempt)?;
                Ok(outcome.map_err(|error| ($error)(py, error))?.map($convert))
            }
        });
    };
}

/// A connection that is being made.
#[pyclass(frozen, module = "wg_embed._native", name = "Dial")]
pub(crate) struct NativeDial(Held<Dial>);

pending!(NativeDial, Dial::try_finish, errors::from_lookup, NativeTcp, NativeTcp::new);

/// A name that is being looked up.
#[pyclass(frozen, module = "wg_embed._native", name = "Lookup")]
pub(crate) struct NativeLookup(Held<Lookup>);

fn texts(addresses: Vec<IpAddr>) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

pending!(NativeLookup, Lookup::try_finish, errors::from_lookup, Vec<String>, texts);

/// An echo request. Its result is the round-trip time in seconds.
#[pyclass(frozen, module = "wg_embed._native", name = "Ping")]
pub(crate) struct NativePing(Held<Ping>);

pending!(NativePing, Ping::try_reply, |_, error| io_error(error), f64, |time: Duration| time.as_secs_f64());

/// A TCP connection.
#[pyclass(frozen, module = "wg_embed._native", name = "Tcp")]
pub(crate) struct NativeTcp(Held<TcpStream>);

impl NativeTcp {
    fn new(stream: TcpStream) -> Self {
        Self(Held::new(stream, |stream, notify| stream.set_notify(Some(notify))))
    }
}

waitable!(NativeTcp {
    fn local<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        convert::to_tuple(py, self.0.get()?.local_addr())
    }

    fn peer<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        convert::to_tuple(py, self.0.get()?.peer_addr())
    }

    /// Up to `most` bytes that have arrived; `b""` at the end; None if there is nothing now.
    fn read<'py>(&self, py: Python<'py>, most: usize) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let received = now(convert::received(py, &*self.0.get()?, most)).map_err(io_error)?;
        Ok(received.map(|data| data.unwrap_or_else(|| PyBytes::new(py, b""))))
    }

    /// Writes what there is room for, from `offset` on, and returns how much that is.
    fn write(&self, data: &Bound<'_, PyAny>, offset: usize) -> PyResult<usize> {
        let (stream, data) = (self.0.get()?, convert::bytes_like(data)?);
        let data = data.get(offset..).unwrap_or_default();
        let mut written = 0;
        while written < data.len() {
            match now(stream.try_write(&data[written..])).map_err(io_error)? {
                Some(count) => written += count,
                None => break,
            }
        }
        Ok(written)
    }

    /// Sends a FIN after what was written.
    fn write_eof(&self) -> PyResult<()> {
        self.0.get()?.shutdown(Shutdown::Write).map_err(io_error)
    }

    /// Resets the connection.
    fn reset(&self) {
        if let Some(stream) = self.0.take() {
            stream.reset();
        }
    }

    fn set_nodelay(&self, nodelay: bool) -> PyResult<()> {
        self.0.get()?.set_nodelay(nodelay);
        Ok(())
    }

    #[pyo3(signature = (idle))]
    fn set_keepalive(&self, idle: Option<f64>) -> PyResult<()> {
        self.0.get()?.set_keepalive(idle.map(seconds).transpose()?);
        Ok(())
    }

    /// A descriptor of the connection, which it takes the place of.
    fn detach(&self) -> PyResult<i32> {
        let stream = self.0.take_alone(|stream| stream.set_notify(None))?;
        Ok(pump()?.0.tcp_descriptor(stream).map_err(io_error)?.into_raw_fd())
    }
});

/// A listener.
#[pyclass(frozen, module = "wg_embed._native", name = "Listener")]
pub(crate) struct NativeListener(Held<TcpListener>);

waitable!(NativeListener {
    fn local<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        convert::to_tuple(py, self.0.get()?.local_addr())
    }

    /// The next connection; None if there is none now.
    fn accept(&self) -> PyResult<Option<NativeTcp>> {
        Ok(now(self.0.get()?.try_accept()).map_err(io_error)?.map(NativeTcp::new))
    }

    /// The next connection, or after so many seconds None.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<NativeTcp>> {
        let accepted = self.0.wait(py, timeout, |listener| listener.try_accept())?.map_err(io_error)?;
        if accepted.is_none() {
            self.0.get()?;
        }
        Ok(accepted.map(NativeTcp::new))
    }
});

/// A UDP socket.
#[pyclass(frozen, module = "wg_embed._native", name = "Udp")]
pub(crate) struct NativeUdp(Held<UdpSocket>);

waitable!(NativeUdp {
    fn local<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        convert::to_tuple(py, self.0.get()?.local_addr())
    }

    fn peer<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        self.0.get()?.peer_addr().map(|address| convert::to_tuple(py, address)).transpose()
    }

    /// The next datagram and its sender; None if there is none now.
    fn receive<'py>(&self, py: Python<'py>) -> PyResult<Option<(Bound<'py, PyBytes>, Bound<'py, PyTuple>)>> {
        datagram(py, now(receive(&*self.0.get()?)))
    }

    /// The next datagram, or after so many seconds None.
    #[pyo3(signature = (timeout=None))]
    fn wait<'py>(
        &self,
        py: Python<'py>,
        timeout: Option<f64>,
    ) -> PyResult<Option<(Bound<'py, PyBytes>, Bound<'py, PyTuple>)>> {
        let received = self.0.wait(py, timeout, receive)?;
        if matches!(received, Ok(None)) {
            self.0.get()?;
        }
        datagram(py, received)
    }

    /// Sends a datagram. Returns false if there is no room for it now.
    #[pyo3(signature = (data, to=None))]
    fn send(&self, data: &Bound<'_, PyAny>, to: Option<(String, u16)>) -> PyResult<bool> {
        let data = convert::bytes_like(data)?;
        let to = match to {
            Some((host, port)) => Some(SocketAddr::new(convert::ip(&host)?, port)),
            None => None,
        };
        Ok(now(self.0.get()?.try_send(&data, to)).map_err(io_error)?.is_some())
    }

    /// A descriptor of the socket, which it takes the place of. Only if it is connected: its datagrams have no address.
    fn detach(&self) -> PyResult<i32> {
        if self.0.get()?.peer_addr().is_none() {
            return Err(PyOSError::new_err((libc::ENOTCONN, "it is not connected")));
        }
        let socket = self.0.take_alone(|socket| socket.set_notify(None))?;
        Ok(pump()?.0.udp_descriptor(socket).map_err(io_error)?.into_raw_fd())
    }
});

type Datagram = (Vec<u8>, SocketAddr);

fn receive(socket: &UdpSocket) -> io::Result<Datagram> {
    thread_local! {
        static BUFFER: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; DATAGRAM]);
    }
    BUFFER.with_borrow_mut(|buffer| {
        let (len, from) = socket.try_recv(buffer)?;
        Ok((buffer[..len.min(buffer.len())].to_vec(), from))
    })
}

fn datagram<'py>(
    py: Python<'py>,
    received: io::Result<Option<Datagram>>,
) -> PyResult<Option<(Bound<'py, PyBytes>, Bound<'py, PyTuple>)>> {
    match received.map_err(io_error)? {
        Some((data, from)) => Ok(Some((PyBytes::new(py, &data), convert::to_tuple(py, from)?))),
        None => Ok(None),
    }
}
