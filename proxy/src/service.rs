//! Services and their limits.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use ipnet::IpNet;
use subtle::ConstantTimeEq;
use wg_embed_netstack::dns::Family;
use zeroize::Zeroizing;

/// A service. Two that are equal are the same service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its function and its place.
    pub kind: Kind,
    /// Its limits.
    pub limits: Limits,
}

impl Service {
    /// Creates a service with the default limits.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self { kind, limits: Limits::default() }
    }

    /// Returns the place that only one service can have.
    pub(crate) const fn site(&self) -> Site<'_> {
        match &self.kind {
            Kind::Socks5 { at, .. }
            | Kind::Http { at, .. }
            | Kind::Https { at, .. }
            | Kind::Sni { at }
            | Kind::TcpClient { at, .. } => Site::Listener(at),
            Kind::TcpServer { port, .. } => Site::TcpPort(*port),
            Kind::TcpForward { .. } => Site::AnyTcp,
            Kind::UdpForward { .. } => Site::AnyUdp,
            Kind::UdpClient { at, .. } => Site::Udp(*at),
            Kind::UdpServer { port, .. } => Site::UdpPort(*port),
        }
    }
}

/// The place of a service: on this side, or in the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Site<'a> {
    Listener(&'a Address),
    Udp(SocketAddr),
    TcpPort(u16),
    UdpPort(u16),
    AnyTcp,
    AnyUdp,
}

/// The function of a service, and its place.
///
/// A proxy with a [`TcpServer`](Self::TcpServer), [`TcpForward`](Self::TcpForward) or [`UdpForward`](Self::UdpForward)
/// uses [`Netstack::intercept`](wg_embed_netstack::Netstack::intercept), which the program then must not call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A SOCKS5 proxy (RFC 1928; RFC 1929 with a login): names are resolved in the tunnel.
    Socks5 {
        /// The listening address.
        at: Address,
        /// The required login; without it, any client is served.
        login: Option<Login>,
        /// Whether a client may open a port of the tunnel for one connection (BIND).
        bind: bool,
    },
    /// An HTTP proxy: CONNECT, and GET of `http://` addresses.
    Http {
        /// The listening address.
        at: Address,
        /// The required login (Basic); without it, any client is served.
        login: Option<Login>,
    },
    /// An HTTP proxy like [`Http`](Self::Http), over TLS, and not on a Unix socket. Needs the feature `tls`.
    Https {
        /// The listening address.
        at: Address,
        /// As for [`Http`](Self::Http).
        login: Option<Login>,
        /// The certificate and its key.
        tls: Tls,
    },
    /// Forwards TLS connections, each to port 443 of the server name in its ClientHello.
    Sni {
        /// The listening address.
        at: Address,
    },
    /// Forwards all connections to one target in the tunnel.
    TcpClient {
        /// The listening address.
        at: Address,
        /// `host:port` in the tunnel.
        target: String,
    },
    /// Forwards connections to a port inside the tunnel to one target on this side. A handshake is completed when the
    /// target is connected, and refused if it cannot be.
    TcpServer {
        /// The port on all of the stack's addresses.
        port: u16,
        /// The target on this side.
        target: Target,
    },
    /// Forwards connections from the tunnel to any address and port that is not the stack's own from this side, when
    /// the target there is connected.
    TcpForward {
        /// The permitted destinations; if empty, all except loopback, link-local, unspecified, broadcast and multicast
        /// addresses.
        allow: Vec<Allow>,
    },
    /// Forwards datagrams in the same way.
    UdpForward {
        /// As for [`TcpForward`](Self::TcpForward).
        allow: Vec<Allow>,
        /// The time without traffic after which a flow ends.
        idle: Duration,
    },
    /// Forwards all datagrams to one target in the tunnel, and its replies. Each source has a session.
    UdpClient {
        /// The listening address.
        at: SocketAddr,
        /// `host:port` in the tunnel.
        target: String,
        /// The time without traffic after which a session ends; `None`: no limit.
        idle: Option<Duration>,
    },
    /// Forwards datagrams to a UDP port inside the tunnel to one target on this side. Each source has a session.
    UdpServer {
        /// The port on all of the stack's addresses.
        port: u16,
        /// The target on this side.
        target: SocketAddr,
        /// As for [`UdpClient`](Self::UdpClient).
        idle: Option<Duration>,
    },
}

/// The limits of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The maximum number of connections at once, including those being established; others are closed. For UDP the
    /// maximum number of sessions, at most 8,192: a new one replaces the one that has been idle longest, except for
    /// [`Kind::UdpForward`], where new ones are refused.
    pub connections: usize,
    /// The time limit of a client's request.
    pub head: Duration,
    /// The time limit of connecting to a target.
    pub dial: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 65_536, head: Duration::from_secs(30), dial: Duration::from_secs(30) }
    }
}

/// Options of a proxy, for all services together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The usable addresses of names, and their order.
    pub family: Family,
    /// The maximum number of connections of all services together.
    pub connections: usize,
    /// Whether the system resolves names, outside the tunnel, if the stack has no DNS servers. Otherwise names cannot
    /// be resolved then.
    pub system_names: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { family: Family::Any, connections: 65_536, system_names: false }
    }
}

/// The listening address of a service on this side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An address and port; port 0 is a free one.
    Tcp(SocketAddr),
    /// A Unix stream socket. An existing file on which no process listens is replaced; at the end the file is removed.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(at) => at.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A target on this side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `host:port`; a name is resolved in the tunnel, except `localhost`.
    Host(String),
    /// A Unix stream socket.
    Unix(PathBuf),
}

/// A range of addresses and ports: `ADDRESS` or `ADDRESS/BITS`, optionally followed by `:PORT` or `:FIRST-LAST`; IPv6
/// is then in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    network: IpNet,
    ports: RangeInclusive<u16>,
}

impl Allow {
    /// Returns whether it contains an address and port.
    #[must_use]
    pub fn has(&self, at: SocketAddr) -> bool {
        self.network.contains(&at.ip().to_canonical()) && self.ports.contains(&at.port())
    }
}

impl FromStr for Allow {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "not ADDRESS[/BITS][:PORT[-PORT]]");
        let network = |text: &str| {
            text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| invalid())
        };
        let (address, ports) = if let Some(rest) = text.strip_prefix('[') {
            let (address, rest) = rest.split_once(']').ok_or_else(invalid)?;
            let ports = if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(invalid)?) };
            (address, ports)
        } else {
            match text.split_once(':') {
                Some((address, ports)) if !ports.contains(':') => (address, Some(ports)),
                _ => (text, None),
            }
        };
        let port = |text: &str| text.parse::<u16>().map_err(|_| invalid());
        let ports = match ports.map(|ports| ports.split_once('-').unwrap_or((ports, ports))) {
            None => 0..=u16::MAX,
            Some((first, last)) => port(first)?..=port(last)?,
        };
        if ports.is_empty() {
            return Err(invalid());
        }
        Ok(Self { network: network(address)?, ports })
    }
}

/// A certificate and its key.
#[derive(Clone, PartialEq, Eq)]
pub struct Tls {
    chain: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

impl Tls {
    /// Creates it from texts in PEM: the chain of certificates, the server's own first, and its private key. They are
    /// parsed when the service is added.
    #[must_use]
    pub fn new(chain: &[u8], key: &[u8]) -> Self {
        Self { chain: chain.to_vec(), key: key.to_vec().into() }
    }

    /// Parses both.
    ///
    /// # Errors
    /// `InvalidInput`: they are malformed, or the key belongs to another certificate. `Unsupported`: this was built
    /// without TLS.
    pub fn check(&self) -> io::Result<()> {
        crate::tls::Acceptor::new(self).map(drop)
    }

    pub(crate) fn chain(&self) -> &[u8] {
        &self.chain
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

/// A name and a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    name: Zeroizing<String>,
    password: Zeroizing<String>,
}

impl Login {
    /// Creates a login. SOCKS5 permits at most 255 bytes for each, and HTTP no colon in a name.
    #[must_use]
    pub fn new(name: &str, password: &str) -> Self {
        Self { name: name.to_owned().into(), password: password.to_owned().into() }
    }

    /// Compares in constant time, except for the lengths.
    pub(crate) fn is(&self, name: &[u8], password: &[u8]) -> bool {
        (self.name.as_bytes().ct_eq(name) & self.password.as_bytes().ct_eq(password)).into()
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed() {
        let all = ["10.0.0.0/8", "10.1.2.3:80", "[fd00::/16]:80-90", "fd00::1", "[::1]"];
        let [net, port, range, address, loopback] = all.map(|text| text.parse::<Allow>());
        let has = |allow: &io::Result<Allow>, text: &str| {
            allow.as_ref().is_ok_and(|allow| text.parse().is_ok_and(|at| allow.has(at)))
        };
        assert!(has(&net, "10.255.0.1:1") && !has(&net, "11.0.0.1:1") && has(&net, "[::ffff:10.0.0.1]:1"));
        assert!(has(&port, "10.1.2.3:80") && !has(&port, "10.1.2.3:81") && !has(&port, "10.1.2.4:80"));
        assert!(has(&range, "[fd00::7]:90") && !has(&range, "[fd00::7]:91"));
        assert!(has(&address, "[fd00::1]:9") && !has(&address, "[fd00::2]:9") && has(&loopback, "[::1]:1"));
        for text in ["", "10.0.0.0/33", "a:1", "10.0.0.1:", "10.0.0.1:9-8", "[::1", "[::1]80", "10.0.0.1:70000"] {
            assert!(text.parse::<Allow>().is_err(), "{text}");
        }
    }
}
