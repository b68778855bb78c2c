//! The C structs of statistics, without secrets.

use std::{ffi::c_char, mem::offset_of, time::Duration};

use crate::{
    plumbing::{sized::SizedStruct, text::fixed_text},
    types::{endpoint::WG_ENDPOINT_TEXT_LEN, key::WG_KEY_LEN},
};
use wg_embed::device::{MemoryUsage, PeerStats, Totals};

/// Size of the buffer for the name of a counter, including the terminating zero byte.
///
/// Since: 0.1.0
pub const WG_COUNTER_NAME_LEN: usize = 40;

/// Statistics of a tunnel since it was turned on. The sums include removed peers.
///
/// New fields are only appended. Set `struct_size` before the call: a program that was compiled with an older header
/// gets the fields of its header; in a struct of a newer header, fields that are unknown to this library are set to
/// zero. A `struct_size` that no released header has, such as one below that of 0.1.0, or above 4096, is
/// WG_ERR_INVALID.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_stats_t {
    /// sizeof(wg_stats_t) in the caller's header.
    pub struct_size: usize,
    /// The present number of peers.
    pub peers: usize,
    /// Bytes of authentic UDP payload received from peers.
    pub rx_bytes: u64,
    /// Bytes of UDP payload sent to peers.
    pub tx_bytes: u64,
    /// Packets from peers that were written to the TUN.
    pub rx_packets: u64,
    /// Packets from the TUN that were sent to peers.
    pub tx_packets: u64,
    /// Dropped incoming datagrams and packets: the sum of the wg_counters() whose names begin with "in_".
    pub rx_dropped: u64,
    /// Dropped outgoing packets and datagrams: the sum of the wg_counters() whose names begin with "out_".
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

/// Statistics of a peer. Its only key here is the public one. For fields and `struct_size` see wg_stats_t.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_peer_stats_t {
    /// sizeof(wg_peer_stats_t) in the caller's header.
    pub struct_size: usize,
    /// Staged packets, which wait for a session.
    pub staged_packets: usize,
    /// Bytes of authentic UDP payload received from the peer.
    pub rx_bytes: u64,
    /// Bytes of UDP payload sent to the peer.
    pub tx_bytes: u64,
    /// The time of the last completed handshake, in seconds since 1970-01-01 UTC; 0 if there was none.
    pub last_handshake_sec: i64,
    /// Its nanoseconds.
    pub last_handshake_nsec: u32,
    /// Seconds between persistent keepalives; 0 if off.
    pub persistent_keepalive: u32,
    /// 1 if a packet can be sent to the peer without a handshake, otherwise 0.
    pub has_session: u32,
    /// Milliseconds until the next timer of the peer fires (keepalive, retry, wiping of old keys) if there is no
    /// traffic before. UINT32_MAX if no timer is set.
    pub next_timer_ms: u32,
    /// The public key of the peer.
    pub public_key: [u8; WG_KEY_LEN],
    /// Its present endpoint: the source of its last authentic packet, or the configured one, in the form of wg_event_t;
    /// empty without one.
    pub endpoint: [c_char; WG_ENDPOINT_TEXT_LEN],
}

const _: () = {
    assert!(size_of::<wg_peer_stats_t>() == 2 * size_of::<usize>() + 136);
    assert!(offset_of!(wg_peer_stats_t, staged_packets) == size_of::<usize>());
    assert!(offset_of!(wg_peer_stats_t, rx_bytes) == 2 * size_of::<usize>());
    assert!(offset_of!(wg_peer_stats_t, next_timer_ms) == 2 * size_of::<usize>() + 36);
    assert!(offset_of!(wg_peer_stats_t, endpoint) == 2 * size_of::<usize>() + 72);
};

/// Present memory use of a tunnel, in bytes. For fields and `struct_size` see wg_stats_t.
///
/// The numbers are computed from allocated memory, in use or not. They do not include: the allocator's overhead for
/// each block (commonly 16 bytes), the stacks of the tunnel's two threads, the system's memory for sockets, events that
/// are queued for wg_next_event() (sizeof(wg_event_t) each), and temporary memory of calls.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_memory_usage_t {
    /// sizeof(wg_memory_usage_t) in the caller's header.
    pub struct_size: usize,
    /// The limit for `buffers` and `staged` together, apart from one packet of each peer: the `memory_limit` of the
    /// tunnel's options.
    pub limit: usize,
    /// The sum of `buffers`, `staged`, `peers` and `network`.
    pub total: usize,
    /// Buffers of the threads and the TUN, and the state for rate limits during a flood of handshakes.
    pub buffers: usize,
    /// Staged packets, which wait for a session.
    pub staged: usize,
    /// Peers, their sessions, and the tables that find them.
    pub peers: usize,
    /// Buffers of the userspace network's connections, and its queued datagrams: at most `memory_limit` of
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
