//! The current state of a tunnel.

use std::time::Duration;

use ipnet::IpNet;

use super::EndpointAddr;
use crate::{
    error::Result,
    key::{PresharedKey, PrivateKey, PublicKey},
};

/// The interface part of a tunnel's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct InterfaceSnapshot {
    /// The private key, if one is set.
    pub private_key: Option<PrivateKey>,
    /// The UDP port: the bound one while the device is up, else the configured one; 0 if none.
    pub listen_port: u16,
    /// Mark of outgoing packets; 0 if none.
    pub fwmark: u32,
}

/// One peer's state.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerSnapshot {
    /// The peer's public key.
    pub public_key: PublicKey,
    /// All zeros if none is set.
    pub preshared_key: PresharedKey,
    /// The address of the last authentic message, or the configured one.
    pub endpoint: Option<EndpointAddr>,
    /// Wall-clock time of the last completed handshake since 1970-01-01 UTC; zero if there was none.
    pub last_handshake: Duration,
    /// Bytes of UDP payload sent to the peer.
    pub tx_bytes: u64,
    /// Bytes of authenticated UDP payload received from the peer.
    pub rx_bytes: u64,
    /// Seconds between persistent keepalives; 0 if off.
    pub persistent_keepalive: u16,
    /// The prefixes routed to the peer, in the order in which they were given.
    pub allowed_ips: Vec<IpNet>,
}

impl PeerSnapshot {
    /// Creates the state of a peer that has only its key, for programs that have a tunnel's state from elsewhere.
    #[must_use]
    pub fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            preshared_key: PresharedKey::default(),
            endpoint: None,
            last_handshake: Duration::ZERO,
            tx_bytes: 0,
            rx_bytes: 0,
            persistent_keepalive: 0,
            allowed_ips: Vec::new(),
        }
    }
}

/// The state of a whole tunnel: the interface now, peers one by one as the iterator advances.
///
/// Each peer is consistent in itself; no lock is held between two peers.
#[non_exhaustive]
pub struct Snapshot<'a> {
    /// The interface part.
    pub interface: InterfaceSnapshot,
    /// The peers, oldest first; `Resources` for a peer if there is no memory for it.
    pub peers: Box<dyn Iterator<Item = Result<PeerSnapshot>> + 'a>,
}

impl<'a> Snapshot<'a> {
    /// Creates the state of a tunnel, for programs that have it from elsewhere.
    #[must_use]
    pub fn new(interface: InterfaceSnapshot, peers: impl Iterator<Item = Result<PeerSnapshot>> + 'a) -> Self {
        Self { interface, peers: Box::new(peers) }
    }
}
