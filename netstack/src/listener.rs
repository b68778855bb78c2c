//! A listener inside the tunnel.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use crate::{
    TcpStream,
    notify::Notify,
    stack::{Listening, Shared},
};

/// A listener for TCP connections to one port of the stack's own addresses (or one of them). Dropping it refuses
/// waiting connections.
///
/// ```
/// use wg_embed_netstack::{Netstack, Options};
///
/// # fn main() -> std::io::Result<()> {
/// let stack = Netstack::new(Options { addresses: vec!["10.0.0.2".parse().unwrap()], ..Options::default() })?;
/// let listener = stack.listen_tcp("10.0.0.2:0".parse().unwrap(), 16)?;
/// assert_ne!(listener.local_addr().port(), 0);
/// assert_eq!(listener.try_accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
/// # Ok(())
/// # }
/// ```
pub struct TcpListener {
    shared: Arc<Shared>,
    listening: Arc<Listening>,
}

impl TcpListener {
    pub(crate) const fn new(shared: Arc<Shared>, listening: Arc<Listening>) -> Self {
        Self { shared, listening }
    }

    fn stream(&self, socket: Arc<crate::stack::TcpSocket>) -> TcpStream {
        TcpStream::new(self.shared.clone(), socket)
    }

    /// Returns the listening address; the port is the actual one if 0 was requested.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.listening.at
    }

    /// Returns the next established connection, without waiting.
    ///
    /// # Errors
    /// `WouldBlock`; `ConnectionAborted` after the stack was closed.
    pub fn try_accept(&self) -> io::Result<TcpStream> {
        self.listening.pop().map(|socket| self.stream(socket))
    }

    /// Returns the next established connection, and waits for it.
    ///
    /// # Errors
    /// `TimedOut`; `ConnectionAborted` after the stack was closed.
    pub fn accept(&self, timeout: Option<Duration>) -> io::Result<TcpStream> {
        self.listening.wait(timeout).map(|socket| self.stream(socket))
    }

    /// Replaces the notifier of connections.
    pub fn set_notify(&self, notify: Option<Arc<dyn Notify>>) {
        self.listening.set_notify(notify);
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        if !self.shared.is_forked() {
            crate::stack::stop_listening(&self.shared, &self.listening);
        }
    }
}

impl fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpListener").field("at", &self.local_addr()).finish_non_exhaustive()
    }
}
