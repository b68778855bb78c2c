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
/// When it is dropped, what was written is still delivered, up to the stack's `linger`, then a FIN; data that was
/// received and not read makes it a reset, as for a kernel's socket.
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

    /// Changes the connection, and does what follows from it.
    fn change<R>(&self, act: impl FnOnce(&mut State, wg_embed::time::Instant) -> R) -> R {
        let now = self.shared.now();
        let mut state = self.socket.lock();
        let result = act(&mut state, now);
        self.socket.settle(&self.shared, state, now);
        result
    }

    /// The address and port of this side: for an intercepted connection what the peer dialled.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.socket.tuple.local()
    }

    /// The address and port of the other side.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.socket.tuple.remote()
    }

    /// Whether the handshake is over (also if the connection has ended since).
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.socket.lock().connection.is_established()
    }

    /// What can be done now.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let state = self.socket.lock();
        let readiness = state.connection.readiness();
        if state.error().is_some() { ended(readiness) } else { readiness }
    }

    /// Replaces who is told when something can be done.
    pub fn set_notify(&self, notify: Option<Arc<dyn Notify>>) {
        self.socket.set_notify(&self.shared, notify);
    }

    /// Reads without waiting. 0 is the end, if `buf` is not empty.
    ///
    /// # Errors
    /// `WouldBlock`, `ConnectionRefused`, `ConnectionReset`, `TimedOut`, `HostUnreachable`, `NetworkUnreachable`,
    /// `ConnectionAborted` (the stack was closed).
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        self.try_read_with(&mut |first, second| {
            let one = first.len().min(buf.len());
            let two = second.len().min(buf.len() - one);
            buf[..one].copy_from_slice(&first[..one]);
            buf[one..one + two].copy_from_slice(&second[..two]);
            one + two
        })
    }

    /// As [`try_read`](Self::try_read), in place: `take` gets what was received, in two parts, under the connection's
    /// lock, and returns how many bytes of it are done with. It is called at the end, too, with nothing.
    pub fn try_read_with(&self, take: &mut dyn FnMut(&[u8], &[u8]) -> usize) -> io::Result<usize> {
        let mut state = self.socket.lock();
        state.check()?;
        let result = state.connection.read(&|| self.shared.now(), take);
        state.wants_read |= would_block(&result);
        let (taken, changed) = result?;
        if changed {
            let now = self.shared.now();
            self.socket.settle(&self.shared, state, now);
        }
        Ok(taken)
    }

    /// Writes without waiting; returns how many bytes were taken.
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

    /// As [`try_write`](Self::try_write), in place: `fill` gets free room under the connection's lock and returns how
    /// many bytes of it (from the start of the first part on) are data now.
    pub fn try_write_with(&self, fill: &mut dyn FnMut(&mut [u8], &mut [u8]) -> usize) -> io::Result<usize> {
        self.write_with(0, fill)
    }

    /// Ends one direction or both. `Write`: a FIN after what was written. `Read`: what arrives is thrown away.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.change(|state, now| {
            state.check()?;
            state.connection.shutdown(how, now)
        })
    }

    /// Ends the connection at once with a RST; what was not sent is lost.
    pub fn reset(&self) {
        self.change(|state, now| state.connection.reset(now));
    }

    /// Ends the connection with a RST after what was written has arrived, or after the stack's `linger`.
    pub fn close_with_reset(&self) {
        let linger = self.shared.options.linger;
        self.change(|state, now| {
            state.connection.close_with_reset(now);
            state.reset_after(now + linger);
        });
    }

    /// Bytes that were written and have not been acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.socket.lock().connection.unacknowledged()
    }

    /// What becomes of the data that were written: it can be asked after the connection was dropped.
    #[must_use]
    pub fn delivery(&self) -> Delivery {
        Delivery(self.socket.clone())
    }

    /// How long [`Read::read`] waits at most; `None` (the default) is without limit.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) {
        self.read_timeout.set(timeout);
    }

    /// How long [`Write::write`] waits at most.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) {
        self.write_timeout.set(timeout);
    }

    /// Waits until the handshake is over.
    pub fn wait_established(&self, timeout: Option<Duration>) -> io::Result<()> {
        let ready = |state: &State| state.connection.is_established() || state.error().is_some();
        self.socket.block(timeout, false, || self.try_established(), ready)
    }

    /// As [`wait_established`](Self::wait_established), without waiting: `WouldBlock` until it is over.
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

    /// A probe after so much idle time (1 s at least), again each tenth of it (1 s at least); `None` (the default) is
    /// none.
    pub fn set_keepalive(&self, idle: Option<Duration>) {
        self.change(|state, now| state.connection.set_keepalive(idle, now));
    }

    /// How long sent data or probes may stay unacknowledged; `None` is the default (about 15 min of retries).
    pub fn set_user_timeout(&self, timeout: Option<Duration>) {
        self.change(|state, _| state.connection.set_user_timeout(timeout));
    }

    /// Whether small writes are sent at once (the default is true: unlike a kernel's socket).
    pub fn set_nodelay(&self, nodelay: bool) {
        self.change(|state, _| state.connection.set_nodelay(nodelay));
    }

    /// `hint` is how many bytes there are to write, 0 if that is unknown.
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

/// What a connection can do that has failed: nothing waits.
const fn ended(readiness: Readiness) -> Readiness {
    let _ = readiness;
    Readiness { readable: true, writable: true, read_closed: true, write_closed: true }
}

/// What becomes of the data that were written to a connection, see [`TcpStream::delivery`]. Any thread may use it.
#[derive(Clone)]
pub struct Delivery(Arc<TcpSocket>);

impl Delivery {
    /// `Ok` when the other side has acknowledged all data and the end after them; `None` as long as it still may. A
    /// stack that is closed ends its connections.
    #[must_use]
    pub fn outcome(&self) -> Option<io::Result<()>> {
        let state = self.0.lock();
        if state.connection.is_delivered() {
            return Some(Ok(()));
        }
        // A reset that follows the other side's end is no error of the connection.
        let ended = || state.connection.is_closed().then_some(io::ErrorKind::ConnectionReset);
        state.error().or_else(ended).map(|error| Err(error.into()))
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("outcome", &self.outcome()).finish_non_exhaustive()
    }
}

/// Waits for data, at most as long as [`TcpStream::set_read_timeout`] allows: `TimedOut` after that.
impl Read for &TcpStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket.block(self.read_timeout.get(), true, || self.try_read(buf), State::is_readable)
    }
}

/// Waits for room, at most as long as [`TcpStream::set_write_timeout`] allows: `TimedOut` after that.
impl Write for &TcpStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.socket.block(self.write_timeout.get(), false, || self.try_write(buf), State::is_writable)
    }

    /// Does nothing: what was written is on its way.
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
