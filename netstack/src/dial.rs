//! Connections to names: `"host:port"`, with the addresses of both families tried as in RFC 8305.
//!
//! Both families are resolved at once. An attempt begins when the addresses of the preferred family are known, or those
//! of the other one have been known for 50 ms; another one begins each 250 ms, or as soon as one fails, with
//! alternating families. The first connection that is established wins; the others are reset.

mod host_port;
mod race;
#[cfg(test)]
mod tests;

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

pub use self::host_port::parse_host_port;
use self::{host_port::invalid, race::Dialling};
use crate::{
    Netstack, TcpStream, UdpSocket,
    dns::{Family, resolver::Host},
    notify::Notify,
    task::{Task, block},
};

/// A TCP connection in progress: names are resolved, addresses are tried. Dropping it cancels it. Any thread may use
/// it.
pub struct Dial(Arc<Task<Dialling<Netstack>>>);

impl Dial {
    /// Returns the established connection; `WouldBlock` until there is one. After a result or an error, any further
    /// call fails.
    ///
    /// # Errors
    /// Errors of the look-up (see [`Lookup::try_finish`](crate::dns::Lookup::try_finish)); `ConnectionRefused`,
    /// `TimedOut`, `HostUnreachable`, `AddrNotAvailable`, ...: that of the last address.
    pub fn try_finish(&self) -> io::Result<TcpStream> {
        if !self.0.machine().has_ended() {
            self.0.wake(); // The time may be over, and nothing may drive the stack any more.
        }
        self.0.machine().try_finish()
    }
    /// Replaces the notifier, which is called once there is a result: immediately if there already is one.
    pub fn set_notify(&self, notify: Option<Arc<dyn Notify>>) {
        self.0.machine().told.set(notify);
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dial").field("ended", &self.0.machine().has_ended()).finish_non_exhaustive()
    }
}

impl Netstack {
    /// Starts a connection to `target`, `"host:port"`. `family` restricts or orders the addresses of a name.
    ///
    /// # Errors
    /// `InvalidInput`: `target` is not `"host:port"`, or its port is 0.
    pub fn start_dial(&self, target: &str, family: Family, timeout: Duration) -> io::Result<Dial> {
        let (host, port) = parse_target(target)?;
        Ok(Dial(Dialling::start(self, Host::parse(&host)?, port, family, timeout)))
    }
    /// Starts a connection to one of `addresses`, which the program has resolved: those of the first one's family are
    /// preferred, and are tried in this order, as those of a name are.
    ///
    /// # Errors
    /// `InvalidInput`: there are no addresses, or the port is 0.
    pub fn start_dial_addresses(&self, addresses: &[IpAddr], port: u16, timeout: Duration) -> io::Result<Dial> {
        if addresses.is_empty() || port == 0 {
            return Err(invalid("no address, or port 0"));
        }
        let host = Host::Known(addresses.iter().map(IpAddr::to_canonical).collect());
        Ok(Dial(Dialling::start(self, host, port, Family::Any, timeout)))
    }
    /// Connects to `target` and waits until the connection is established.
    ///
    /// # Errors
    /// As [`start_dial`](Self::start_dial) and [`Dial::try_finish`].
    pub fn dial_tcp(&self, target: &str, timeout: Duration) -> io::Result<TcpStream> {
        let dial = self.start_dial(target, Family::Any, timeout)?;
        block(timeout, |notify| dial.set_notify(Some(notify)), || dial.try_finish())
    }
    /// Returns a UDP socket that is connected to the first address of `target` that the stack can send to. Waits for
    /// the look-up of a name.
    ///
    /// # Errors
    /// `InvalidInput` as in [`start_dial`](Self::start_dial), errors of the look-up, and those of
    /// [`bind_udp`](Self::bind_udp).
    pub fn dial_udp(&self, target: &str, timeout: Duration) -> io::Result<UdpSocket> {
        let (host, port) = parse_target(target)?;
        let mut last = None;
        for address in self.resolve(&host, Family::Any, timeout)? {
            match bind_connected(self, SocketAddr::new(address, port)) {
                Ok(socket) => return Ok(socket),
                Err(e) => last = Some(e),
            }
        }
        Err(last.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
    }
    /// Connects to an address and waits, as [`dial_tcp`](Self::dial_tcp) does.
    ///
    /// # Errors
    /// As [`Dial::try_finish`]; `InvalidInput` for port 0.
    pub fn dial_tcp_addr(&self, to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        if to.port() == 0 {
            return Err(invalid("port 0"));
        }
        let stream = self.start_tcp(to)?;
        if let Err(e) = stream.wait_established(Some(timeout)) {
            stream.reset();
            return Err(e);
        }
        Ok(stream)
    }
}

/// Parses a target as [`parse_host_port`] does; port 0 is refused.
fn parse_target(target: &str) -> io::Result<(String, u16)> {
    let (host, port) = parse_host_port(target)?;
    if port == 0 {
        return Err(invalid("port 0"));
    }
    Ok((host, port))
}

/// Returns a socket at a free port of the stack, connected to `to`.
pub(crate) fn bind_connected(stack: &Netstack, to: SocketAddr) -> io::Result<UdpSocket> {
    let any = match to {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    stack.bind_udp(SocketAddr::new(any, 0), Some(to))
}
