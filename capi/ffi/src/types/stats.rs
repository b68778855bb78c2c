//! Numbers of a tunnel and of its peers, as C has them: nothing here has a secret in it.

use std::{ffi::c_char, mem::offset_of, time::Duration};

use crate::{
    plumbing::{sized::SizedStruct, text::fixed_text},
    types::{endpoint::WG_ENDPOINT_TEXT_LEN, key::WG_KEY_LEN},
};
use wg_embed::device::{MemoryUsage, PeerStats, Totals};

/// Room for the name of a counter, its zero byte included.
///
/// Since: 0.1.0
pub const WG_COUNTER_NAME_LEN: usize = 40;

/// What a tunnel did since it was turned on. Peers that are gone are in the sums.
///
/// Fields are only ever appended. Set `struct_size` before the call: a program that was compiled with an older header
/// gets the fields that it has; in one that was compiled with a newer header, fields that this library does not have
/// are zero. A `struct_size` that no released header has, such as one below that of 0.1.0, or above 4096, is
/// WG_ERR_INVALID.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_stats_t {
    /// sizeof(wg_stats_t), as the caller was compiled.
    pub struct_size: usize,
    /// Peers now.
    pub peers: usize,
    /// Bytes of UDP payload that came from peers and was authentic.
    pub rx_bytes: u64,
    /// Bytes of UDP payload that was sent to peers.
    pub tx_bytes: u64,
    /// Packets from peers that the TUN took.
    pub rx_packets: u64,
    /// Packets from the TUN that were sent to peers.
    pub tx_packets: u64,
    /// Datagrams and packets on their way in that were dropped: the sum of those wg_counters() whose names begin with
    /// "in_".
    pub rx_dropped: u64,
    /// Packets and datagrams on their way out that were dropped: the sum of those whose names begin with "out_".
    pub tx_dropped: u64,
}

const _: () = {
    assert!(size_of::<wg_stats_t>() == 2 * size_of::<usize>() + 48);
    assert!(offset_of!(wg_stats_t, peers) == size_of::<usize>());
    assert!(offset_of!(wg_stats_t, rx_bytes) == 2 * size_of::<usize>());
    assert!(offset_of!(wg_stats_t, tx_dropped) == 2 * size_of::<usize>() + 40);
};

/// A counter; see wg_counters(). The struct never changes.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_counter_t {
    /// Its name, like "out_no_peer".
    pub name: [c_char; WG_COUNTER_NAME_LEN],
    /// Its value, since the tunnel was turned on.
    pub value: u64,
}

const _: () = assert!(size_of::<wg_counter_t>() == 48 && offset_of!(wg_counter_t, value) == 40);

/// A peer, without its keys but the public one. As to fields and `struct_size`, see wg_stats_t.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_peer_stats_t {
    /// sizeof(wg_peer_stats_t), as the caller was compiled.
    pub struct_size: usize,
    /// Packets that wait for a session.
    pub staged_packets: usize,
    /// Bytes of UDP payload that came from the peer and was authentic.
    pub rx_bytes: u64,
    /// Bytes of UDP payload that was sent to the peer.
    pub tx_bytes: u64,
    /// When the last handshake was completed, in seconds since 1970-01-01 UTC; 0 if none was.
    pub last_handshake_sec: i64,
    /// And nanoseconds.
    pub last_handshake_nsec: u32,
    /// Seconds between persistent keepalives; 0 if off.
    pub persistent_keepalive: u32,
    /// 1 if a packet for the peer could be sent at once, without a handshake; else 0.
    pub has_session: u32,
    /// In how many milliseconds the library does something for the peer if nothing happens before: sends a keepalive,
    /// tries again, wipes old keys. UINT32_MAX if it does not.
    pub next_timer_ms: u32,
    /// Who it is.
    pub public_key: [u8; WG_KEY_LEN],
    /// Where it was heard last, or where it is configured to be, as in wg_event_t; empty if that is not known.
    pub endpoint: [c_char; WG_ENDPOINT_TEXT_LEN],
}

const _: () = {
    assert!(size_of::<wg_peer_stats_t>() == 2 * size_of::<usize>() + 136);
    assert!(offset_of!(wg_peer_stats_t, staged_packets) == size_of::<usize>());
    assert!(offset_of!(wg_peer_stats_t, rx_bytes) == 2 * size_of::<usize>());
    assert!(offset_of!(wg_peer_stats_t, next_timer_ms) == 2 * size_of::<usize>() + 36);
    assert!(offset_of!(wg_peer_stats_t, endpoint) == 2 * size_of::<usize>() + 72);
};

/// What a tunnel takes of the process's memory now, in bytes. As to fields and `struct_size`, see wg_stats_t.
///
/// The numbers are computed from what is allocated, in use or not. Not among them: what the allocator adds to each
/// block (16 bytes, commonly), the stacks of the tunnel's two threads, what the system keeps for sockets, events that
/// wait for wg_next_event() (sizeof(wg_event_t) each), and what a call takes while it lasts.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_memory_usage_t {
    /// sizeof(wg_memory_usage_t), as the caller was compiled.
    pub struct_size: usize,
    /// The most that `buffers` and `staged` come to, one packet of each peer aside: the `memory_limit` of the tunnel's
    /// options.
    pub limit: usize,
    /// All of it: `buffers`, `staged`, `peers` and `network`.
    pub total: usize,
    /// What the threads and the TUN work in, and what is remembered of senders while handshakes come in a flood.
    pub buffers: usize,
    /// Packets that wait for a session.
    pub staged: usize,
    /// Peers with their sessions, and the tables in which they are found.
    pub peers: usize,
    /// Buffers of the userspace network's connections, and datagrams that wait in it: at most `memory_limit` of
    /// wg_net_options_t. Each connection takes about 2 KiB more.
    pub network: usize,
}

const _: () = {
    assert!(size_of::<wg_memory_usage_t>() == 7 * size_of::<usize>());
    assert!(offset_of!(wg_memory_usage_t, limit) == size_of::<usize>());
    assert!(offset_of!(wg_memory_usage_t, peers) == 5 * size_of::<usize>());
    assert!(offset_of!(wg_memory_usage_t, network) == 6 * size_of::<usize>());
};

// SAFETY: as the assertions above say, there is no padding; it has integers only.
unsafe impl SizedStruct for wg_stats_t {
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}

// SAFETY: the same, and arrays of integers.
unsafe impl SizedStruct for wg_peer_stats_t {
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}

// SAFETY: as above.
unsafe impl SizedStruct for wg_memory_usage_t {
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}

impl wg_stats_t {
    pub(crate) fn of(struct_size: usize, totals: &Totals) -> Self {
        Self {
            struct_size,
            peers: totals.peers,
            rx_bytes: totals.rx_bytes,
            tx_bytes: totals.tx_bytes,
            rx_packets: totals.rx_packets,
            tx_packets: totals.tx_packets,
            rx_dropped: totals.rx_dropped,
            tx_dropped: totals.tx_dropped,
        }
    }
}

impl wg_peer_stats_t {
    pub(crate) fn of(struct_size: usize, peer: &PeerStats) -> Self {
        // Rounded up, so that who waits for so long waits long enough. Timers run for hours at most.
        let milliseconds = |time: Duration| time.as_nanos().div_ceil(1_000_000).min((u32::MAX - 1).into()) as u32;
        Self {
            struct_size,
            staged_packets: peer.staged_packets,
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
            last_handshake_sec: i64::try_from(peer.last_handshake.as_secs()).unwrap_or(i64::MAX),
            last_handshake_nsec: peer.last_handshake.subsec_nanos(),
            persistent_keepalive: peer.persistent_keepalive.into(),
            has_session: peer.has_session.into(),
            next_timer_ms: peer.next_deadline.map_or(u32::MAX, milliseconds),
            public_key: *peer.public_key.as_bytes(),
            endpoint: peer.endpoint.map_or([0; WG_ENDPOINT_TEXT_LEN], |endpoint| fixed_text(&endpoint.to_string())),
        }
    }
}

impl wg_memory_usage_t {
    pub(crate) fn of(struct_size: usize, usage: &MemoryUsage, network: usize) -> Self {
        Self {
            struct_size,
            limit: usage.limit,
            total: usage.total() + network,
            buffers: usage.buffers,
            staged: usage.staged,
            peers: usage.peers,
            network,
        }
    }
}
