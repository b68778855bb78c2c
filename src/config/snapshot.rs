//! The state of a tunnel, read back.

use std::time::Duration;

use ipnet::IpNet;

use super::EndpointAddr;
use crate::{
    error::Result,
    key::{PresharedKey, PrivateKey, PublicKey},
};

/// The interface part of a tunnel's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
pub struct PeerSnapshot {
    /// Who it is.
    pub public_key: PublicKey,
    /// All zeros if none is set.
    pub preshared_key: PresharedKey,
    /// Where it was heard last, or where it is configured to be.
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

/// A whole tunnel's state: the interface now, peers one by one as the iterator is turned.
///
/// Each peer is consistent in itself; nothing is locked while the caller does something else between two peers.
pub struct Snapshot<'a> {
    /// The interface part.
    pub interface: InterfaceSnapshot,
    /// The peers, oldest first; `Resources` for one that there is no memory for.
    pub peers: Box<dyn Iterator<Item = Result<PeerSnapshot>> + 'a>,
}
