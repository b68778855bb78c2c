//! Echo requests.

use std::{fmt, io, net::IpAddr, sync::Arc, time::Duration};

use crate::{
    Netstack,
    notify::Notify,
    stack::{
        Shared,
        icmp::{self, Echo},
    },
};

/// An echo request that waits for its reply. Dropping it cancels it.
///
/// ```
/// use std::{sync::{Arc, mpsc}, time::Duration};
/// # mod tunnels { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/tunnels.rs")); }
/// # fn main() -> std::io::Result<()> {
/// # let (a, _b) = tunnels::pair(|_| {});
/// // The stack of a tunnel; its peer has the address 10.0.0.2.
/// # let stack = a.stack.clone();
/// let ping = stack.start_ping("10.0.0.2".parse().unwrap(), 56)?;
/// let (replied, reply) = mpsc::sync_channel(1);
/// ping.set_notify(Some(Arc::new(move || drop(replied.try_send(())))));
/// let round_trip = loop {
///     match ping.try_reply() {
///         Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
///         replied => break replied?,
///     }
///     reply.recv_timeout(Duration::from_secs(60)).expect("a reply arrives");
/// };
/// println!("{round_trip:?}");
/// # Ok(())
/// # }
/// ```
pub struct Ping {
    shared: Arc<Shared>,
    echo: Arc<Echo>,
}

impl Ping {
    /// Returns the round-trip time; it may be called repeatedly.
    ///
    /// # Errors
    /// `WouldBlock` until the reply arrives; `ConnectionRefused`, `HostUnreachable` and `NetworkUnreachable` for ICMP
    /// errors; `ConnectionAborted` after the stack was closed.
    pub fn try_reply(&self) -> io::Result<Duration> {
        self.echo.result()
    }

    /// Replaces the notifier of the reply, or of an error.
    pub fn set_notify(&self, notify: Option<Arc<dyn Notify>>) {
        self.echo.set_notify(notify);
    }
}

impl Drop for Ping {
    fn drop(&mut self) {
        if !self.shared.is_forked() {
            self.echo.release(&self.shared);
        }
    }
}

impl fmt::Debug for Ping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ping").field("result", &self.try_reply()).finish_non_exhaustive()
    }
}

impl Netstack {
    /// Sends an echo request with `size` bytes of data, in fragments if it is larger than the MTU.
    ///
    /// # Errors
    /// `InvalidInput` (not a host; with EMSGSIZE as its cause: more than 65,507 bytes, with IPv6 65,487),
    /// `AddrNotAvailable` (no own address of the family), `WouldBlock` (the stack's queue is full), `OutOfMemory`
    /// (16,384 requests wait), `NotConnected` (closed).
    pub fn start_ping(&self, to: IpAddr, size: usize) -> io::Result<Ping> {
        let echo = icmp::start(&self.0, to, size)?;
        Ok(Ping { shared: self.0.clone(), echo })
    }

    /// Sends an echo request and waits for the reply.
    ///
    /// # Errors
    /// As [`start_ping`](Self::start_ping) and [`Ping::try_reply`]; `TimedOut`.
    pub fn ping(&self, to: IpAddr, size: usize, timeout: Duration) -> io::Result<Duration> {
        self.start_ping(to, size)?.echo.wait(timeout)
    }
}
