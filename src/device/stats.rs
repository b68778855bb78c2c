//! What a device did so far: what passed through it, a counter for each reason why a packet was not passed on, and its
//! peers, without secrets.

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
        /// A device's counters since it was made. Each is read on its own, without a lock.
        ///
        /// Every packet and datagram that is not passed on is in one of them. The names of packets on their way out
        /// begin with `out_`, those of datagrams and packets on their way in with `in_`.
        #[derive(Debug, Default)]
        pub struct Stats {
            /// What was passed on.
            pub traffic: Traffic,
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        impl Stats {
            /// Names and values of the reasons, in a fixed order.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
                [$((stringify!($name), self.$name.load(Ordering::Relaxed)),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Packets read from the TUN that are not IP, or cut short.
    out_malformed,
    /// Packets read from the TUN whose destination no peer has.
    out_no_peer,
    /// Packets for a peer that has no endpoint.
    out_no_endpoint,
    /// Our own datagrams that came in through the TUN again, because the route to a peer's endpoint leads there.
    out_routing_loop,
    /// The oldest staged packets of a peer that had too many.
    out_stage_full,
    /// Packets that could not be staged, because those of all peers take as much memory as they may, or no memory is
    /// left.
    out_memory_full,
    /// Staged packets that were given up together with a handshake, or taken away with a peer or the interface.
    out_unstaged,
    /// Datagrams that the operating system did not take.
    out_send_failed,
    /// Datagrams that are no WireGuard message.
    in_malformed,
    /// Messages for a session or handshake that does not exist.
    in_unknown_index,
    /// Data messages on a session that is too old.
    in_expired,
    /// Data messages that are not authentic.
    in_not_authentic,
    /// Authentic data messages that were seen before, or are too old to tell.
    in_replayed,
    /// Data messages for which there was no memory.
    in_memory_full,
    /// Decrypted packets that are not IP, or shorter than they say.
    in_malformed_inner,
    /// Decrypted packets with a source address that is not the peer's.
    in_wrong_source,
    /// Decrypted packets that the TUN did not take.
    in_write_failed,
    /// Handshake messages that came while too many were waiting.
    handshake_queue_full,
    /// Handshake messages whose mac1 is wrong.
    handshake_bad_mac,
    /// Handshake messages over the rate of their address, or over what is answered with cookies, under load.
    handshake_rate_limited,
    /// Handshake messages that were answered with a cookie, under load.
    handshake_cookie_sent,
    /// Initiations that are from no known peer, not authentic, or replayed; responses that answer nothing.
    handshake_refused,
    /// Cookie replies that answer nothing, or are not authentic.
    cookie_refused,
    /// Packets that no peer wants, or whose peer has no endpoint, whose sender was told so by ICMP.
    unreachable_sent,
}

/// What was passed on, for all peers together, also for those that are gone.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes of authentic UDP payload that was received.
    pub rx_bytes: AtomicU64,
    /// Bytes of UDP payload that was sent.
    pub tx_bytes: AtomicU64,
    /// Packets from peers that the TUN took.
    pub rx_packets: AtomicU64,
    /// Packets from the TUN that were sent to peers.
    pub tx_packets: AtomicU64,
}

/// The sums that an app may want to show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Peers now.
    pub peers: usize,
    /// As [`Traffic::rx_bytes`].
    pub rx_bytes: u64,
    /// As [`Traffic::tx_bytes`].
    pub tx_bytes: u64,
    /// As [`Traffic::rx_packets`].
    pub rx_packets: u64,
    /// As [`Traffic::tx_packets`].
    pub tx_packets: u64,
    /// Datagrams and packets on their way in that were dropped, for whatever reason.
    pub rx_dropped: u64,
    /// Packets on their way out that were dropped, for whatever reason.
    pub tx_dropped: u64,
}

impl Totals {
    /// All of them with their names, for programs that show whatever there is.
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

/// What there is to know about a peer; no key but its public one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStats {
    /// Who it is.
    pub public_key: PublicKey,
    /// Where it was heard last, or where it is configured to be.
    pub endpoint: Option<SocketAddr>,
    /// Wall-clock time of the last completed handshake since 1970-01-01 UTC; zero if there was none.
    pub last_handshake: Duration,
    /// Bytes of authentic UDP payload that was received from it.
    pub rx_bytes: u64,
    /// Bytes of UDP payload that was sent to it.
    pub tx_bytes: u64,
    /// Seconds between persistent keepalives; 0 if off.
    pub persistent_keepalive: u16,
    /// Whether a packet for it could be sent at once, without a handshake.
    pub has_session: bool,
    /// Packets that wait for a session.
    pub staged_packets: usize,
    /// In how long something is to be done for it, if nothing happens before: a keepalive, another try, wiping old
    /// keys. `None` if nothing is.
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
    /// Names and values of everything that is counted apart from what was passed on: those of [`Stats`], of the TUN and
    /// of the bind.
    #[must_use]
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut all: Vec<_> = self.stats.iter().collect();
        all.push(("out_unreadable", self.tun.read_drops()));
        all.extend(self.bind.counters());
        all
    }

    /// The sums.
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

    /// What there is to know about one peer; `None` if it is not there.
    #[must_use]
    pub fn peer_stats(&self, key: &PublicKey) -> Option<PeerStats> {
        let peer = self.peers.get(key)?;
        Some(PeerStats::of(&peer, self.clock.now()))
    }

    /// The same about each peer, oldest first. Each is consistent in itself.
    pub fn all_peer_stats(&self) -> impl Iterator<Item = PeerStats> + '_ {
        let now = self.clock.now();
        self.peers.list().map(move |peer| PeerStats::of(&peer, now))
    }

    /// Counts what a peer has sent us.
    pub(super) fn add_rx(&self, peer: &Peer, bytes: usize) {
        peer.add_rx(bytes);
        count(&self.stats.traffic.rx_bytes, bytes);
    }

    /// Counts what was sent to a peer.
    pub(super) fn add_tx(&self, peer: &Peer, bytes: usize) {
        peer.add_tx(bytes);
        count(&self.stats.traffic.tx_bytes, bytes);
    }
}

/// Adds to a counter.
pub(super) fn count(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}
