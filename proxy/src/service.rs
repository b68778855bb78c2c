//! What can be served, and within which limits.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

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
}

/// What a service does, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A SOCKS5 proxy (RFC 1928; RFC 1929 with a login): names are looked up in the tunnel.
    Socks5 {
        /// Where clients connect.
        at: Address,
        /// What clients must present; without it, any client is served.
        login: Option<Login>,
    },
    /// An HTTP proxy: CONNECT, and GET of `http://` addresses.
    Http {
        /// Where clients connect.
        at: Address,
        /// What clients must present (Basic); without it, any client is served.
        login: Option<Login>,
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
    /// A port inside the tunnel: its connections go to one target on this side.
    TcpServer {
        /// The port of all of the stack's addresses.
        port: u16,
        /// `host:port` on this side; a name is looked up in the tunnel, except `localhost`.
        target: String,
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
    /// The most connections at once, those that are being made included; others are closed. For UDP the most sessions:
    /// the one that has been idle longest makes room.
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
}

impl Default for Options {
    fn default() -> Self {
        Self { family: Family::Any, connections: 65_536 }
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
