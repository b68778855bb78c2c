//! The readable state of a tunnel, as JSON.

use std::cell::{Cell, RefCell};

use serde::{Serialize, Serializer, ser::Error as _};
use wg_embed::{
    config::snapshot::{PeerSnapshot, Snapshot},
    device::Tunnel,
    error::{Error, ErrorKind, Result},
    key::PublicKey,
};
use zeroize::Zeroizing;

use crate::{
    answer::{Answer, to_json},
    command::NAMES,
};

/// Returns the configuration; `secrets` includes the private and preshared keys.
pub(crate) fn get(tunnel: &Tunnel, secrets: bool, limit: usize) -> Answer {
    let Snapshot { interface, peers, .. } = tunnel.snapshot();
    let failure = Cell::new(None);
    let private_key = interface.private_key.as_ref();
    let json = GetJson {
        private_key: private_key.filter(|_| secrets).map(|key| Secret(key.to_base64())),
        public_key: private_key.map(|key| key.public_key().to_base64().to_string()),
        listen_port: interface.listen_port,
        fwmark: interface.fwmark,
        peers: PeersJson { tunnel, secrets, peers: RefCell::new(peers), failure: &failure },
    };
    let answer = to_json(&json, limit);
    failure.take().map_or(answer, Err)
}

/// Returns all peers, or only that with this `key`; without secrets.
pub(crate) fn peers(tunnel: &Tunnel, key: Option<PublicKey>, limit: usize) -> Answer {
    let device = tunnel.device();
    if key.is_some_and(|key| device.peer_stats(&key).is_none()) {
        return Err(Error::new(ErrorKind::NotFound, "public_key: there is no such peer"));
    }
    let is_wanted = move |peer: &Result<PeerSnapshot>| {
        key.is_none_or(|key| peer.as_ref().map_or(true, |peer| peer.public_key == key))
    };
    let failure = Cell::new(None);
    let peers = RefCell::new(Box::new(device.snapshot().peers.filter(is_wanted)) as Box<_>);
    let answer = to_json(&PeersJson { tunnel, secrets: false, peers, failure: &failure }, limit);
    failure.take().map_or(answer, Err)
}

/// Returns totals and counters.
pub(crate) fn stats(tunnel: &Tunnel, limit: usize) -> Answer {
    let device = tunnel.device();
    let memory = tunnel.memory_usage();
    let json = StatsJson {
        listen_port: device.listen_port(),
        mtu: device.mtu(),
        paused: tunnel.is_paused(),
        totals: Counters(device.totals().named().into()),
        memory: MemoryJson {
            total: memory.total(),
            limit: memory.limit,
            buffers: memory.buffers,
            staged: memory.staged,
            peers: memory.peers,
        },
        counters: Counters(device.counters()),
    };
    to_json(&json, limit)
}

/// Returns the versions and the commands.
pub(crate) fn version(limit: usize) -> Answer {
    let json = VersionJson {
        name: "wg-embed",
        version: env!("CARGO_PKG_VERSION"),
        wireproto: wg_embed_wireproto::readings::VERSION,
        commands: NAMES,
    };
    to_json(&json, limit)
}

#[derive(Serialize)]
struct VersionJson {
    name: &'static str,
    version: &'static str,
    wireproto: u32,
    commands: [&'static str; NAMES.len()],
}

#[derive(Serialize)]
struct StatsJson {
    listen_port: u16,
    mtu: u16,
    paused: bool,
    #[serde(flatten)]
    totals: Counters,
    memory: MemoryJson,
    counters: Counters,
}

#[derive(Serialize)]
struct MemoryJson {
    total: usize,
    limit: usize,
    buffers: usize,
    staged: usize,
    peers: usize,
}

/// Names and values, in order.
struct Counters(Vec<(&'static str, u64)>);

impl Serialize for Counters {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

/// A key as text, wiped when dropped.
struct Secret(Zeroizing<String>);

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[derive(Serialize)]
struct GetJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key: Option<Secret>,
    public_key: Option<String>,
    listen_port: u16,
    fwmark: u32,
    peers: PeersJson<'a>,
}

type PeerIter<'a> = Box<dyn Iterator<Item = Result<PeerSnapshot>> + 'a>;

/// An iterator over peers, each of which is read when it is written. It can be written once.
struct PeersJson<'a> {
    tunnel: &'a Tunnel,
    secrets: bool,
    peers: RefCell<PeerIter<'a>>,
    /// The reason why a peer could not be read.
    failure: &'a Cell<Option<Error>>,
}

impl Serialize for PeersJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        use serde::ser::SerializeSeq;

        let mut list = serializer.serialize_seq(None)?;
        for peer in &mut *self.peers.borrow_mut() {
            let peer = peer.map_err(|error| {
                self.failure.set(Some(error));
                S::Error::custom("a peer cannot be read")
            })?;
            list.serialize_element(&self.peer(&peer))?;
        }
        list.end()
    }
}

impl PeersJson<'_> {
    fn peer(&self, peer: &PeerSnapshot) -> PeerJson {
        let stats = self.tunnel.device().peer_stats(&peer.public_key);
        PeerJson {
            public_key: peer.public_key.to_base64().to_string(),
            preshared_key: self.secrets.then(|| Secret(peer.preshared_key.to_base64())),
            endpoint: peer.endpoint.as_ref().map(ToString::to_string),
            last_handshake_time_sec: peer.last_handshake.as_secs(),
            last_handshake_time_nsec: peer.last_handshake.subsec_nanos(),
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
            persistent_keepalive_interval: peer.persistent_keepalive,
            has_session: stats.is_some_and(|stats| stats.has_session),
            staged_packets: stats.map_or(0, |stats| stats.staged_packets),
            allowed_ips: peer.allowed_ips.iter().map(ToString::to_string).collect(),
        }
    }
}

#[derive(Serialize)]
struct PeerJson {
    public_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    preshared_key: Option<Secret>,
    endpoint: Option<String>,
    last_handshake_time_sec: u64,
    last_handshake_time_nsec: u32,
    rx_bytes: u64,
    tx_bytes: u64,
    persistent_keepalive_interval: u16,
    has_session: bool,
    staged_packets: usize,
    allowed_ips: Vec<String>,
}
