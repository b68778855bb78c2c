//! What can be served, and within which limits.

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

/// Something that is served. Two that are equal are the same service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What it does, and where.
    pub kind: Kind,
    /// What it may take.
    pub limits: Limits,
}

impl Service {
    /// A service with the default limits.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self { kind, limits: Limits::default() }
    }

    /// What only one service can have.
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

/// Where a service is: on this side, or in the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Site<'a> {
    Listener(&'a Address),
    Udp(SocketAddr),
    TcpPort(u16),
    UdpPort(u16),
    AnyTcp,
    AnyUdp,
}

/// What a service does, and where.
///
/// A proxy that has one of [`TcpServer`](Self::TcpServer), [`TcpForward`](Self::TcpForward) and
/// [`UdpForward`](Self::UdpForward) takes [`Netstack::intercept`](wg_embed_netstack::Netstack::intercept) for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A SOCKS5 proxy (RFC 1928; RFC 1929 with a login): names are looked up in the tunnel.
    Socks5 {
        /// Where clients connect.
        at: Address,
        /// What clients must present; without it, any client is served.
        login: Option<Login>,
        /// Whether a client may open a port of the tunnel for one connection (BIND).
        bind: bool,
    },
    /// An HTTP proxy: CONNECT, and GET of `http://` addresses.
    Http {
        /// Where clients connect.
        at: Address,
        /// What clients must present (Basic); without it, any client is served.
        login: Option<Login>,
    },
    /// As [`Http`](Self::Http), over TLS, and not on a Unix socket. Needs the feature `tls`.
    Https {
        /// Where clients connect.
        at: Address,
        /// As for [`Http`](Self::Http).
        login: Option<Login>,
        /// The certificate and its key.
        tls: Tls,
    },
    /// TLS connections, each to port 443 of the name in its ClientHello.
    Sni {
        /// Where clients connect.
        at: Address,
    },
    /// All connections to one target in the tunnel.
    TcpClient {
        /// Where clients connect.
        at: Address,
        /// `host:port` in the tunnel.
        target: String,
    },
    /// A port inside the tunnel: its connections go to one target on this side. A handshake is answered when the target
    /// is connected, and refused if it cannot be.
    TcpServer {
        /// The port of all of the stack's addresses.
        port: u16,
        /// The target on this side.
        target: Target,
    },
    /// Connections from the tunnel to any address and port that is not the stack's own: they go on from this side, when
    /// the target there is connected.
    TcpForward {
        /// Where they may go; with none, everywhere but to loopback, link-local, unspecified, broadcast and multicast
        /// addresses.
        allow: Vec<Allow>,
    },
    /// The same for datagrams.
    UdpForward {
        /// As for [`TcpForward`](Self::TcpForward).
        allow: Vec<Allow>,
        /// After this time without traffic a flow ends.
        idle: Duration,
    },
    /// All datagrams to one target in the tunnel, and its answers. Each source has a session.
    UdpClient {
        /// Where clients send to.
        at: SocketAddr,
        /// `host:port` in the tunnel.
        target: String,
        /// After this time without traffic a session ends; `None`: not for that reason.
        idle: Option<Duration>,
    },
    /// A UDP port inside the tunnel: its datagrams go to one target on this side. Each source has a session.
    UdpServer {
        /// The port of all of the stack's addresses.
        port: u16,
        /// The target on this side.
        target: SocketAddr,
        /// As for [`UdpClient`](Self::UdpClient).
        idle: Option<Duration>,
    },
}

/// What a service may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most connections at once, those that are being made included; others are closed. For UDP the most sessions,
    /// and 8,192 at most: the one that has been idle longest makes room, but for [`Kind::UdpForward`] new ones are
    /// refused.
    pub connections: usize,
    /// How long a client may take for its request.
    pub head: Duration,
    /// How long a connection to a target may take to be made.
    pub dial: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 65_536, head: Duration::from_secs(30), dial: Duration::from_secs(30) }
    }
}

/// What all services of a proxy have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Which addresses of names are tried, and in which order.
    pub family: Family,
    /// The most connections of all services together.
    pub connections: usize,
    /// Whether the system looks names up if the stack has no DNS servers: outside of the tunnel. Otherwise names have
    /// no addresses then.
    pub system_names: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { family: Family::Any, connections: 65_536, system_names: false }
    }
}

/// Where a service listens on this side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An address and port; port 0 is a free one.
    Tcp(SocketAddr),
    /// A Unix stream socket. A file there that no process listens on is replaced; at the end the file is removed.
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
    /// `host:port`; a name is looked up in the tunnel, except `localhost`.
    Host(String),
    /// A Unix stream socket.
    Unix(PathBuf),
}

/// Addresses and ports, as `ADDRESS`, `ADDRESS/BITS`, with `:PORT` or `:FIRST-LAST` after it; IPv6 in brackets then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    network: IpNet,
    ports: RangeInclusive<u16>,
}

impl Allow {
    /// Whether it has an address and port.
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
    /// Of texts in PEM: the chain of certificates, the server's own first, and its private key. They are read when the
    /// service is added.
    #[must_use]
    pub fn new(chain: &[u8], key: &[u8]) -> Self {
        Self { chain: chain.to_vec(), key: key.to_vec().into() }
    }

    /// Reads them.
    ///
    /// # Errors
    /// `InvalidInput`: they are malformed, or the key is that of another certificate. `Unsupported`: this was built
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
    /// A login. SOCKS5 has at most 255 bytes for each, and HTTP no colon in a name.
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
