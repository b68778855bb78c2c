//! Configuration as data: changes ([`Update`]) and the current state ([`snapshot`]).
//!
//! Text is parsed into an [`Update`] completely before any of it is applied, so that a bad line changes nothing.

mod difference;
mod host;
pub mod snapshot;
pub(crate) mod text;
pub mod wgquick;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;

use crate::{
    error::{Error, Result},
    key::{PresharedKey, PrivateKey, PublicKey},
};

pub use host::HostPort;
pub use text::MAX_ZONE;

/// The maximum number of peers in one text, and the default maximum of a device: wireguard-go's `MaxPeers`.
pub const MAX_PEERS: usize = 1 << 16;

/// A validated set of changes, applied in one step: interface keys first, then peers in their order.
///
/// A new version may add fields: write `..Update::default()` behind those that are set.
///
/// ```
/// use wg_embed::{AllowedIpUpdate, PeerUpdate, PrivateKey, Update};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut peer = PeerUpdate::new(PrivateKey::generate()?.public_key());
/// peer.endpoint = Some("192.0.2.1:51820".parse()?);
/// peer.allowed_ips.push(AllowedIpUpdate::add("0.0.0.0/0".parse()?));
/// let update = Update { listen_port: Some(51820), peers: vec![peer], ..Update::default() };
/// assert!(wg_embed::uapi::set_text(&update)?.starts_with("listen_port=51820\npublic_key="));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// `Some(None)` clears the key.
    pub private_key: Option<Option<PrivateKey>>,
    /// UDP port; 0 lets the system choose one.
    pub listen_port: Option<u16>,
    /// Mark of outgoing packets (`SO_MARK`); 0 means none.
    pub fwmark: Option<u32>,
    /// Removes every peer before the changes below.
    pub replace_peers: bool,
    /// Changes to peers. A peer may appear more than once; the changes add up in order.
    pub peers: Vec<PeerUpdate>,
}

/// Changes to one peer.
///
/// A new version may add fields: begin with [`PeerUpdate::new`], and set or override its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerUpdate {
    /// The peer's key. Changes to a peer with the interface's own key are ignored.
    pub public_key: PublicKey,
    /// Changes the peer only if it exists.
    pub update_only: bool,
    /// Removes the peer, after the other changes.
    pub remove: bool,
    /// All zeros means none. Takes effect at the next handshake. Boxed, so that a list of peers leaves no copy of it
    /// behind when it grows or is taken apart.
    pub preshared_key: Option<Box<PresharedKey>>,
    /// The endpoint to send to.
    pub endpoint: Option<PeerEndpoint>,
    /// Seconds between keepalives; 0 turns them off.
    pub persistent_keepalive: Option<u16>,
    /// Removes the peer's allowed IPs before the changes below.
    pub replace_allowed_ips: bool,
    /// Changes to allowed IPs, in order.
    pub allowed_ips: Vec<AllowedIpUpdate>,
}

impl PeerUpdate {
    /// Returns an update without changes, which creates the peer if it is applied.
    #[must_use]
    pub const fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            update_only: false,
            remove: false,
            preshared_key: None,
            endpoint: None,
            persistent_keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }
}

/// One change to a peer's allowed IPs.
///
/// ```
/// use wg_embed::AllowedIpUpdate;
///
/// let add = AllowedIpUpdate::add("10.0.0.7/8".parse()?);
/// assert_eq!((add.prefix.to_string(), add.remove), ("10.0.0.0/8".into(), false));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AllowedIpUpdate {
    /// The prefix, its host bits cleared.
    pub prefix: IpNet,
    /// Removes the prefix from this peer instead of adding it.
    pub remove: bool,
}

impl AllowedIpUpdate {
    /// Creates a change that gives the prefix to the peer, and takes it from the peer that had it.
    #[must_use]
    pub fn add(prefix: IpNet) -> Self {
        Self { prefix: prefix.trunc(), remove: false }
    }

    /// Creates a change that takes the prefix from the peer, if the peer has it.
    #[must_use]
    pub fn remove(prefix: IpNet) -> Self {
        Self { prefix: prefix.trunc(), remove: true }
    }

    /// Creates a change that adds or removes the prefix of this length that contains the address.
    ///
    /// # Errors
    /// `Invalid` if the length exceeds that of the address.
    pub fn new(address: IpAddr, bits: u32, remove: bool) -> Result<Self> {
        let prefix = u8::try_from(bits).ok().and_then(|bits| IpNet::new(address, bits).ok());
        let prefix = prefix.ok_or_else(|| Error::invalid("the prefix length is larger than the address"))?;
        Ok(Self { prefix: prefix.trunc(), remove })
    }
}

/// A configured endpoint.
///
/// ```
/// use wg_embed::PeerEndpoint;
///
/// let name = PeerEndpoint::parse("vpn.example.org:51820", true)?;
/// assert!(matches!(&name, PeerEndpoint::Host(_)));
/// assert!(PeerEndpoint::parse("vpn.example.org:51820", false).is_err());
/// assert_eq!(PeerEndpoint::parse("[2001:db8::1]:51820", false)?.to_string(), "[2001:db8::1]:51820");
/// # Ok::<(), wg_embed::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerEndpoint {
    /// At this address.
    Address(EndpointAddr),
    /// One of the addresses of this name. Only a device with a resolver accepts it.
    Host(HostPort),
}

impl PeerEndpoint {
    /// Reads an endpoint, which may be a host name only if `host_names` is set.
    ///
    /// # Errors
    /// `Invalid` for any other text.
    pub fn parse(text: &str, host_names: bool) -> Result<Self> {
        if host_names { text.parse() } else { text.parse().map(Self::Address) }
    }
}

impl From<EndpointAddr> for PeerEndpoint {
    fn from(addr: EndpointAddr) -> Self {
        Self::Address(addr)
    }
}

impl From<SocketAddr> for PeerEndpoint {
    fn from(addr: SocketAddr) -> Self {
        Self::Address(addr.into())
    }
}

impl From<HostPort> for PeerEndpoint {
    fn from(host: HostPort) -> Self {
        Self::Host(host)
    }
}

impl fmt::Display for PeerEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(addr) => addr.fmt(f),
            Self::Host(host) => host.fmt(f),
        }
    }
}

/// A peer's configured address: numeric, with an optional IPv6 zone as text.
///
/// ```
/// use wg_embed::config::EndpointAddr;
///
/// let at: EndpointAddr = "[fe80::1%eth0]:51820".parse()?;
/// assert_eq!((at.addr.port(), at.zone.as_deref()), (51820, Some("eth0")));
/// # Ok::<(), wg_embed::Error>(())
/// ```
///
/// The zone (`eth0` in `fe80::1%eth0`) remains text; the socket maps it to an interface. If it is set, the scope id in
/// `addr` is 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointAddr {
    /// Address and port.
    pub addr: SocketAddr,
    /// The IPv6 zone, without the `%`; never empty.
    pub zone: Option<Box<str>>,
}

impl From<SocketAddr> for EndpointAddr {
    /// Converts an address; a scope id other than 0 becomes a numeric zone.
    fn from(mut addr: SocketAddr) -> Self {
        let mut zone = None;
        if let SocketAddr::V6(v6) = &mut addr
            && v6.scope_id() != 0
        {
            zone = Some(v6.scope_id().to_string().into_boxed_str());
            v6.set_scope_id(0);
        }
        Self { addr, zone }
    }
}

impl fmt::Display for EndpointAddr {
    /// Writes `1.2.3.4:5`, `[::1]:5` or `[fe80::1%eth0]:5`, the format of the UAPI.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.addr, &self.zone) {
            (SocketAddr::V6(v6), Some(zone)) => write!(f, "[{}%{zone}]:{}", v6.ip(), v6.port()),
            (addr, _) => addr.fmt(f),
        }
    }
}
