//! A TCP connection.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    notify::{Notify, Readiness},
    stack::{Shared, State, TcpSocket},
};

/// A TCP connection through the tunnel. Any thread may use it; `Read` and `Write` are implemented for `&TcpStream`.
///
/// When it is dropped, written data are still delivered, followed by a FIN; it is reset when some are left and none
/// have been acknowledged for the stack's `linger`. If received data were not read, it is reset at once, as the
/// kernel's sockets are.
///
/// ```
/// use std::{io::{Read, Write}, net::Shutdown, time::Duration};
/// # mod tunnels { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/tunnels.rs")); }
/// # fn main() -> std::io::Result<()> {
/// # let (a, b) = tunnels::pair(|_| {});
/// // The stacks of two tunnels that are each other's peers.
/// # let (client, server) = (a.stack.clone(), b.stack.clone());
/// let listener = server.listen_tcp("10.0.0.2:80".parse().unwrap(), 16)?;
/// let dialled = client.dial_tcp("10.0.0.2:80", Duration::from_secs(60))?;
/// (&dialled).write_all(b"hello")?;
/// dialled.shutdown(Shutdown::Write)?;
///
/// let accepted = listener.accept(Some(Duration::from_secs(60)))?;
/// let mut text = String::new();
/// (&accepted).read_to_string(&mut text)?;
/// assert_eq!(text, "hello");
/// # Ok(())
/// # }
/// ```
pub struct TcpStream {
    shared: Arc<Shared>,
    socket: Arc<TcpSocket>,
    read_timeout: Timeout,
    write_timeout: Timeout,
}

impl TcpStream {
    pub(crate) fn new(shared: Arc<Shared>, socket: Arc<TcpSocket>) -> Self {
        Self { shared, socket, read_timeout: Timeout::none(), write_timeout: Timeout::none() }
    }

    pub(crate) fn is_forked(&self) -> bool {
        self.shared.is_forked()
    }

    /// Changes the connection, and processes the consequences.
    fn change<R>(&self, act: impl FnOnce(&mut State, wg_embed::time::Instant) -> R) -> R {
        let now = self.shared.now();
        let mut state = self.socket.lock();
        let result = act(&mut state, now);
        self.socket.settle(&self.shared, state, now);
        result
    }

    /// Returns the address and port of this side: for an intercepted connection the address that the peer dialled.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.socket.tuple.local()
    }

    /// Returns the address and port of the other side.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.socket.tuple.remote()
    }

    /// Returns whether the handshake is complete (also if the connection has ended since).
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.socket.lock().connection.is_established()
    }

    /// Returns the operations that do not wait now.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let state = self.socket.lock();
        let readiness = state.connection.readiness();
        if state.error().is_some() { ended(readiness) } else { readiness }
    }

    /// Replaces the notifier of changes of readiness.
    pub fn set_notify(&self, notify: Option<Arc<dyn Notify>>) {
        self.socket.set_notify(&self.shared, notify);
    }

    /// Reads without waiting. Returns 0 at the end, if `buf` is not empty.
    ///
    /// # Errors
    /// `WouldBlock`, `ConnectionRefused`, `ConnectionReset`, `TimedOut`, `HostUnreachable`, `NetworkUnreachable`,
    /// `ConnectionAborted` (the stack was closed).
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        self.read_with(|first, second, _| {
            let one = first.len().min(buf.len());
            let two = second.len().min(buf.len() - one);
            buf[..one].copy_from_slice(&first[..one]);
            buf[one..one + two].copy_from_slice(&second[..two]);
            one + two
        })
    }

    /// Reads in place like [`try_read`](Self::try_read): `take` gets the received data, in two parts, under the
    /// connection's lock, and returns how many bytes it has consumed. It is also called at the end, with empty parts.
    pub fn try_read_with(&self, take: &mut dyn FnMut(&[u8], &[u8]) -> usize) -> io::Result<usize> {
        self.read_with(|first, second, _| take(first, second))
    }

    /// Does the same as [`try_read_with`](Self::try_read_with); `take` also gets whether the end follows these data.
    pub(crate) fn read_with(&self, mut take: impl FnMut(&[u8], &[u8], bool) -> usize) -> io::Result<usize> {
        let mut state = self.socket.lock();
        state.check()?;
        let is_last = state.connection.has_arrived();
        let result = state.connection.read(&|| self.shared.now(), &mut |first, second| take(first, second, is_last));
        state.wants_read |= would_block(&result);
        let (taken, changed) = result?;
        if changed {
            let now = self.shared.now();
            self.socket.settle(&self.shared, state, now);
        }
        Ok(taken)
    }

    /// Writes without waiting; returns how many bytes were accepted.
    ///
    /// # Errors
    /// As [`try_read`](Self::try_read); `BrokenPipe` after a shutdown.
    pub fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        self.write_with(buf.len(), &mut |first, second| {
            let one = first.len().min(buf.len());
            let two = second.len().min(buf.len() - one);
            first[..one].copy_from_slice(&buf[..one]);
            second[..two].copy_from_slice(&buf[one..one + two]);
            one + two
        })
    }

    /// Writes in place like [`try_write`](Self::try_write): `fill` gets free room under the connection's lock and
    /// returns how many bytes it has filled, from the start of the first part.
    pub fn try_write_with(&self, fill: &mut dyn FnMut(&mut [u8], &mut [u8]) -> usize) -> io::Result<usize> {
        self.write_with(0, fill)
    }

    /// Ends one direction or both. `Write`: sends a FIN after the written data. `Read`: discards arriving data.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.change(|state, now| {
            state.check()?;
            state.connection.shutdown(how, now)
        })
    }

    /// Resets the connection at once with a RST; unsent data are lost.
    pub fn reset(&self) {
        self.change(|state, now| state.connection.reset(now));
    }

    /// Closes the connection with a RST after the written data have arrived, or when none have been acknowledged for
    /// the stack's `linger`.
    pub fn close_with_reset(&self) {
        let linger = self.shared.options.linger;
        self.change(|state, now| {
            state.connection.close_with_reset(now);
            state.reset_after(now + linger);
        });
    }

    /// Sets that the connection is reset after the stack's `linger` without an acknowledgement, as if the stream were
    /// dropped now; it can still be used until then.
    pub(crate) fn reset_after_linger(&self) {
        let linger = self.shared.options.linger;
        self.change(|state, now| state.reset_after(now + linger));
    }

    /// Returns the number of received bytes that were not read.
    pub(crate) fn unread(&self) -> usize {
        self.socket.lock().connection.unread()
    }

    /// Returns whether the connection has failed, though there may be data to read.
    pub(crate) fn has_failed(&self) -> bool {
        self.socket.lock().error().is_some()
    }

    /// Returns the number of bytes that were written but not yet acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.socket.lock().connection.unacknowledged()
    }

    /// Returns a handle for the result of the delivery of written data, which can be used after the stream was dropped.
    #[must_use]
    pub fn delivery(&self) -> Delivery {
        Delivery(self.socket.clone())
    }

    /// Sets the time limit of [`Read::read`]; `None` (the default) is without limit.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) {
        self.read_timeout.set(timeout);
    }

    /// Sets the time limit of [`Write::write`].
    pub fn set_write_timeout(&self, timeout: Option<Duration>) {
        self.write_timeout.set(timeout);
    }

    /// Waits until the handshake is complete.
    pub fn wait_established(&self, timeout: Option<Duration>) -> io::Result<()> {
        let ready = |state: &State| state.connection.is_established() || state.error().is_some();
        self.socket.block(timeout, false, || self.try_established(), ready)
    }

    /// Returns the result of the handshake without waiting: `WouldBlock` until it is complete.
    pub(crate) fn try_established(&self) -> io::Result<()> {
        let mut state = self.socket.lock();
        if state.connection.is_established() {
            return Ok(());
        }
        if let Some(error) = state.error() {
            return Err(error.into());
        }
        state.wants_write = true;
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Enables keepalive: a probe after this idle time (at least 1 s), repeated each tenth of it (at least 1 s); `None`
    /// (the default) disables it.
    pub fn set_keepalive(&self, idle: Option<Duration>) {
        self.change(|state, now| state.connection.set_keepalive(idle, now));
    }

    /// Enables keepalive with this idle time unless it is enabled.
    pub(crate) fn set_default_keepalive(&self, idle: Duration) {
        self.change(|state, now| state.connection.set_default_keepalive(idle, now));
    }

    /// Sets how long sent data or probes may remain unacknowledged; `None` is the default (about 15 min of retries).
    pub fn set_user_timeout(&self, timeout: Option<Duration>) {
        self.change(|state, _| state.connection.set_user_timeout(timeout));
    }

    /// Sets whether small writes are sent at once (true by default, unlike for the kernel's sockets).
    pub fn set_nodelay(&self, nodelay: bool) {
        self.change(|state, _| state.connection.set_nodelay(nodelay));
    }

    /// Writes in place; `hint` is the number of bytes to write, 0 if that is unknown.
    fn write_with(&self, hint: usize, fill: &mut dyn FnMut(&mut [u8], &mut [u8]) -> usize) -> io::Result<usize> {
        let mut state = self.socket.lock();
        state.check()?;
        let result = state.connection.write(&|| self.shared.now(), hint, fill);
        state.wants_write |= would_block(&result);
        if matches!(result, Ok((_, true))) {
            self.socket.send_soon(&self.shared, state);
        } else {
            let now = self.shared.now();
            self.socket.settle(&self.shared, state, now);
        }
        result.map(|(written, _)| written)
    }
}

fn would_block<R>(result: &io::Result<R>) -> bool {
    result.as_ref().is_err_and(|err| err.kind() == io::ErrorKind::WouldBlock)
}

/// Returns the readiness of a failed connection: no operation waits.
const fn ended(readiness: Readiness) -> Readiness {
    let _ = readiness;
    Readiness { readable: true, writable: true, read_closed: true, write_closed: true }
}

/// The result of delivering data to the other side, see [`TcpStream::delivery`]. Any thread may use it.
#[derive(Clone)]
pub struct Delivery(Arc<TcpSocket>);

impl Delivery {
    /// Returns `Ok` when the other side has acknowledged all data and the FIN behind them; `None` as long as it still
    /// may. Closing a stack ends its connections.
    #[must_use]
    pub fn outcome(&self) -> Option<io::Result<()>> {
        let state = self.0.lock();
        if state.connection.is_delivered() {
            return Some(Ok(()));
        }
        // A reset that follows the other side's end is not an error of the connection.
        let ended = || state.connection.is_closed().then_some(io::ErrorKind::ConnectionReset);
        state.error().or_else(ended).map(|error| Err(error.into()))
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("outcome", &self.outcome()).finish_non_exhaustive()
    }
}

/// Waits for data, for at most the time of [`TcpStream::set_read_timeout`]: `TimedOut` after that.
impl Read for &TcpStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket.block(self.read_timeout.get(), true, || self.try_read(buf), State::is_readable)
    }
}

/// Waits for room, for at most the time of [`TcpStream::set_write_timeout`]: `TimedOut` after that.
impl Write for &TcpStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.socket.block(self.write_timeout.get(), false, || self.try_write(buf), State::is_writable)
    }

    /// Does nothing: written data are already being sent.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for TcpStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buf)
    }
}

impl Write for TcpStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        (&*self).write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        if !self.shared.is_forked() {
            self.socket.release(&self.shared);
        }
    }
}

impl fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpStream")
            .field("local", &self.local_addr())
            .field("peer", &self.peer_addr())
            .finish_non_exhaustive()
    }
}

/// A time limit that may be changed while it is in use.
struct Timeout(AtomicU64);

impl Timeout {
    const fn none() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }

    fn set(&self, timeout: Option<Duration>) {
        let nanos = timeout.map_or(u64::MAX, |timeout| u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
        self.0.store(nanos, Ordering::Relaxed);
    }

    fn get(&self) -> Option<Duration> {
        Some(self.0.load(Ordering::Relaxed)).filter(|nanos| *nanos != u64::MAX).map(Duration::from_nanos)
    }
}
