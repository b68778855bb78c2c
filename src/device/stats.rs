//! Statistics of a device: traffic, a counter for each reason why a packet was not passed on, and its peers, without
//! secrets.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{Device, lock, peer::Peer};
use crate::{key::PublicKey, time::Instant};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A device's counters since it was created. Each is read independently, without a lock.
        ///
        /// Every packet and datagram that is not passed on is counted in one of them. The names of counters of outgoing
        /// packets begin with `out_`, those of incoming datagrams and packets with `in_`.
        #[derive(Debug, Default)]
        #[non_exhaustive]
        pub struct Stats {
            /// The traffic that was passed on.
            pub traffic: Traffic,
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        impl Stats {
            /// Returns names and values of the reasons, in a fixed order.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
                [$((stringify!($name), self.$name.load(Ordering::Relaxed)),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Packets from the TUN that are not IP, or truncated.
    out_malformed,
    /// Packets from the TUN whose destination belongs to no peer.
    out_no_peer,
    /// Packets for a peer without an endpoint.
    out_no_endpoint,
    /// Our own datagrams that returned through the TUN, because the route to a peer's endpoint leads into it.
    out_routing_loop,
    /// The oldest staged packets of a peer that had too many.
    out_stage_full,
    /// Packets that could not be staged, because the common memory limit is reached, or no memory is left.
    out_memory_full,
    /// Staged packets that were dropped together with a handshake, a peer or the interface.
    out_unstaged,
    /// Datagrams that the operating system did not accept.
    out_send_failed,
    /// Datagrams that are not WireGuard messages.
    in_malformed,
    /// Messages for a session or handshake that does not exist.
    in_unknown_index,
    /// Data messages of an expired session.
    in_expired,
    /// Data messages that are not authentic.
    in_not_authentic,
    /// Authentic data messages that are replayed, or too old for the replay window.
    in_replayed,
    /// Data messages for which there was no memory.
    in_memory_full,
    /// Decrypted packets that are not IP, or shorter than their header states.
    in_malformed_inner,
    /// Decrypted packets with a source address that is not the peer's.
    in_wrong_source,
    /// Decrypted packets that the TUN did not accept.
    in_write_failed,
    /// Handshake messages that arrived while too many were waiting.
    handshake_queue_full,
    /// Handshake messages whose mac1 is wrong.
    handshake_bad_mac,
    /// Handshake messages beyond the rate of their address, or of cookie replies, under load.
    handshake_rate_limited,
    /// Handshake messages that were answered by a cookie, under load.
    handshake_cookie_sent,
    /// Initiations from unknown peers, not authentic, or replayed; responses without a matching initiation.
    handshake_refused,
    /// Cookie replies without a matching message, or not authentic.
    cookie_refused,
    /// Packets that match no peer, or whose peer has no endpoint, and that were answered by ICMP.
    unreachable_sent,
}

/// The traffic that was passed on, of all peers together, including removed ones.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Traffic {
    /// Bytes of received authentic UDP payload.
    pub rx_bytes: AtomicU64,
    /// Bytes of sent UDP payload.
    pub tx_bytes: AtomicU64,
    /// Packets from peers that the TUN accepted.
    pub rx_packets: AtomicU64,
    /// Packets from the TUN that were sent to peers.
    pub tx_packets: AtomicU64,
}

/// The totals for display by an app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// The current number of peers.
    pub peers: usize,
    /// As [`Traffic::rx_bytes`].
    pub rx_bytes: u64,
    /// As [`Traffic::tx_bytes`].
    pub tx_bytes: u64,
    /// As [`Traffic::rx_packets`].
    pub rx_packets: u64,
    /// As [`Traffic::tx_packets`].
    pub tx_packets: u64,
    /// Dropped incoming datagrams and packets, for any reason.
    pub rx_dropped: u64,
    /// Dropped outgoing packets, for any reason.
    pub tx_dropped: u64,
}

impl Totals {
    /// Returns all totals with their names, for generic display.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u64); 7] {
        let &Self { peers, rx_bytes, tx_bytes, rx_packets, tx_packets, rx_dropped, tx_dropped } = self;
        [
            ("peers", peers as u64),
            ("rx_bytes", rx_bytes),
            ("tx_bytes", tx_bytes),
            ("rx_packets", rx_packets),
            ("tx_packets", tx_packets),
            ("rx_dropped", rx_dropped),
            ("tx_dropped", tx_dropped),
        ]
    }
}

/// Statistics of a peer, without secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStats {
    /// The peer's public key.
    pub public_key: PublicKey,
    /// The address of the last authentic message, or the configured one.
    pub endpoint: Option<SocketAddr>,
    /// Wall-clock time of the last completed handshake since 1970-01-01 UTC; zero if there was none.
    pub last_handshake: Duration,
    /// Bytes of authentic UDP payload received from it.
    pub rx_bytes: u64,
    /// Bytes of UDP payload sent to it.
    pub tx_bytes: u64,
    /// Seconds between persistent keepalives; 0 if off.
    pub persistent_keepalive: u16,
    /// Whether a packet for it could be sent at once, without a handshake.
    pub has_session: bool,
    /// Packets that wait for a session.
    pub staged_packets: usize,
    /// The time until its next action, if nothing happens before: a keepalive, a retry, wiping old keys. `None` if
    /// there is none.
    pub next_deadline: Option<Duration>,
}

impl PeerStats {
    fn of(peer: &Arc<Peer>, now: Instant) -> Self {
        let (tx_bytes, rx_bytes) = peer.traffic();
        let state = lock(&peer.state);
        Self {
            public_key: *peer.key(),
            endpoint: state.location.endpoint().map(|endpoint| endpoint.dst),
            last_handshake: state.last_handshake,
            rx_bytes,
            tx_bytes,
            persistent_keepalive: state.timers.keepalive_interval(),
            has_session: state.sessions.current().is_some_and(|session| session.may_send(now)),
            staged_packets: state.staged().len(),
            next_deadline: state.timers.next_deadline().map(|at| at.since(now)),
        }
    }
}

impl Device {
    /// Returns names and values of all counters except the traffic: those of [`Stats`], of the TUN and of the bind.
    #[must_use]
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut all: Vec<_> = self.stats.iter().collect();
        all.push(("out_unreadable", self.tun.read_drops()));
        all.extend(self.bind.counters());
        all
    }

    /// Returns the totals.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = self.counters();
        let dropped = |way: &str| counters.iter().filter(|(name, _)| name.starts_with(way)).map(|(_, n)| n).sum();
        let traffic = &self.stats.traffic;
        Totals {
            peers: self.peers.len(),
            rx_bytes: get(&traffic.rx_bytes),
            tx_bytes: get(&traffic.tx_bytes),
            rx_packets: get(&traffic.rx_packets),
            tx_packets: get(&traffic.tx_packets),
            rx_dropped: dropped("in_"),
            tx_dropped: dropped("out_"),
        }
    }

    /// Returns the statistics of one peer; `None` if it does not exist.
    #[must_use]
    pub fn peer_stats(&self, key: &PublicKey) -> Option<PeerStats> {
        let peer = self.peers.get(key)?;
        Some(PeerStats::of(&peer, self.clock.now()))
    }

    /// Returns the statistics of each peer, oldest first. Each is consistent in itself.
    pub fn all_peer_stats(&self) -> impl Iterator<Item = PeerStats> + '_ {
        let now = self.clock.now();
        self.peers.list().map(move |peer| PeerStats::of(&peer, now))
    }

    /// Counts payload received from a peer.
    pub(super) fn add_rx(&self, peer: &Peer, bytes: usize) {
        peer.add_rx(bytes);
        count(&self.stats.traffic.rx_bytes, bytes);
    }

    /// Counts payload sent to a peer.
    pub(super) fn add_tx(&self, peer: &Peer, bytes: usize) {
        peer.add_tx(bytes);
        count(&self.stats.traffic.tx_bytes, bytes);
    }
}

/// Adds to a counter.
pub(super) fn count(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}
