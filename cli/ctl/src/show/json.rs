//! Tunnels as JSON: names as in wg(8), numbers as numbers, no secrets.

use serde::Serialize;

use super::{Echoes, units};
use crate::state::{State, prefix_text, preshared};

#[derive(Debug, Serialize)]
pub(crate) struct Tunnel {
    interface: String,
    public_key: Option<String>,
    listen_port: u16,
    fwmark: u32,
    peers: Vec<Peer>,
}

#[derive(Debug, Serialize)]
struct Peer {
    public_key: String,
    has_preshared_key: bool,
    endpoint: Option<String>,
    allowed_ips: Vec<String>,
    /// Seconds since 1970; null if there was none.
    latest_handshake: Option<u64>,
    handshake_age_seconds: Option<u64>,
    rx_bytes: u64,
    tx_bytes: u64,
    /// Seconds; null if it is off.
    persistent_keepalive: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ping: Option<Ping>,
}

#[derive(Debug, Serialize)]
struct Ping {
    sent: u16,
    received: u16,
    round_trip_ms: Option<f64>,
}

/// Converts one tunnel; `echoes` has one entry for each peer.
pub(crate) fn tunnel(name: &str, state: &State, echoes: &[Echoes]) -> Tunnel {
    let now = units::now();
    let peers = state.peers.iter().zip(echoes).map(|(peer, echo)| {
        let handshake = Some(peer.last_handshake.as_secs()).filter(|time| *time != 0);
        Peer {
            public_key: peer.public_key.to_string(),
            has_preshared_key: preshared(peer).is_some(),
            endpoint: peer.endpoint.as_ref().map(ToString::to_string),
            allowed_ips: peer.allowed_ips.iter().map(prefix_text).collect(),
            latest_handshake: handshake,
            handshake_age_seconds: handshake.map(|time| now.saturating_sub(time)),
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
            persistent_keepalive: Some(peer.persistent_keepalive).filter(|seconds| *seconds != 0),
            ping: echo.map(|echo| Ping {
                sent: echo.sent,
                received: echo.received,
                round_trip_ms: echo.round_trip.map(|time| time.as_secs_f64() * 1e3),
            }),
        }
    });
    Tunnel {
        interface: name.to_owned(),
        public_key: state.public_key().map(|key| key.to_string()),
        listen_port: state.interface.listen_port,
        fwmark: state.interface.fwmark,
        peers: peers.collect(),
    }
}
