//! What a tunnel did so far and what it takes, in numbers: nothing here has a secret in it.

use std::{ffi::c_char, mem::offset_of, time::Duration};

use super::{
    endpoint::WG_ENDPOINT_TEXT_LEN,
    guard::guard_on,
    handle::Entry,
    keys::{WG_KEY_LEN, take_key},
    options::{SizedStruct, struct_size, write_sized},
    result::wg_result,
    text::fixed_text,
    tunnel::Running,
};
use wg_embed::{
    device::{MemoryUsage, PeerStats, Totals},
    error::{Error, ErrorKind, Result},
    key::{PublicKey, Secret},
};

/// Room for the name of a counter, its zero byte included.
pub const WG_COUNTER_NAME_LEN: usize = 40;

/// What a tunnel did since it was turned on. Peers that are gone are in the sums.
///
/// Fields are only ever appended. Set `struct_size` before the call: a program that was compiled with an older header gets
/// the fields that it has; in one that was compiled with a newer header, fields that this library does not have are zero. A
/// `struct_size` that no released header has, such as one below that of 0.1.0, or above 4096, is WG_ERR_INVALID.
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
    /// Datagrams and packets on their way in that were dropped: the sum of those wg_counters() whose names begin with "in_".
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

/// Why something was not passed on, and how often: a counter. Never changes.
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
    /// In how many milliseconds the library does something for the peer if nothing happens before: sends a keepalive, tries
    /// again, wipes old keys. UINT32_MAX if it does not.
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
/// The numbers are computed from what is allocated, in use or not. Not among them: what the allocator adds to each block
/// (16 bytes, commonly), the stacks of the tunnel's two threads, what the system keeps for sockets, and what a call takes
/// while it lasts.
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
    /// All of it: `buffers`, `staged` and `peers`.
    pub total: usize,
    /// What the threads and the TUN work in, and what is remembered of senders while handshakes come in a flood.
    pub buffers: usize,
    /// Packets that wait for a session.
    pub staged: usize,
    /// Peers with their sessions, and the tables in which they are found.
    pub peers: usize,
}

const _: () = {
    assert!(size_of::<wg_memory_usage_t>() == 6 * size_of::<usize>());
    assert!(offset_of!(wg_memory_usage_t, limit) == size_of::<usize>());
    assert!(offset_of!(wg_memory_usage_t, peers) == 5 * size_of::<usize>());
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

fn stats(struct_size: usize, totals: &Totals) -> wg_stats_t {
    wg_stats_t {
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

fn peer_stats(struct_size: usize, peer: &PeerStats) -> wg_peer_stats_t {
    // Rounded up, so that who waits for so long waits long enough. Timers run for hours at most.
    let milliseconds = |time: Duration| time.as_nanos().div_ceil(1_000_000).min((u32::MAX - 1).into()) as u32;
    wg_peer_stats_t {
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

fn memory_usage(struct_size: usize, usage: &MemoryUsage) -> wg_memory_usage_t {
    wg_memory_usage_t {
        struct_size,
        limit: usage.limit,
        total: usage.total(),
        buffers: usage.buffers,
        staged: usage.staged,
        peers: usage.peers,
    }
}

/// Reads what a tunnel did so far. Also of one that has ended by itself.
///
/// Memory: writes the first `stats->struct_size` bytes of `stats`, and of those not `struct_size`; on success only.
/// Errors: WG_ERR_NULL if `stats` is NULL; WG_ERR_INVALID if its struct_size is invalid; WG_ERR_UNKNOWN_HANDLE; WG_ERR_PANIC;
/// WG_ERR_BUSY inside a callback.
/// Threads: any.
/// Since: 0.1.0
///
/// # Safety
/// `stats` is NULL or points to `stats->struct_size` readable and writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_stats(handle: i32, stats: *mut wg_stats_t) -> wg_result {
    guard_on(handle, |entry: &Entry<Running>| {
        // SAFETY: the caller's contract is the same.
        let size = unsafe { struct_size(stats, "stats") }?;
        let ours = self::stats(size, &entry.tunnel.device().totals());
        // SAFETY: as above; the size was read from it.
        unsafe { write_sized(&ours, stats, size) };
        Ok(())
    })
}

/// Reads the counters of a tunnel: one for each reason why something was not passed on ("in_" is the way from the network
/// to the TUN, "out_" the other), for handshake messages that were refused, and for what the sockets had to do without.
///
/// Which there are, and in which order, depends on the library's version and on what the tunnel works with, but is the same
/// for a tunnel at any time. Names keep their meaning in later versions.
///
/// Memory: writes up to `capacity` elements of `counters`, and to `*count` how many counters there are, which may be more;
/// on success only. With a `capacity` of 0, `counters` may be NULL.
/// Errors: WG_ERR_NULL; WG_ERR_UNKNOWN_HANDLE; WG_ERR_PANIC; WG_ERR_BUSY inside a callback.
/// Threads: any.
/// Since: 0.1.0
///
/// # Safety
/// `counters` points to room for `capacity` elements, or both are NULL and 0; `count` is NULL or points to writable
/// storage for one number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_counters(
    handle: i32,
    counters: *mut wg_counter_t,
    capacity: usize,
    count: *mut usize,
) -> wg_result {
    guard_on(handle, |entry: &Entry<Running>| {
        check_array(counters, capacity, "counters", count)?;
        let all = entry.tunnel.device().counters();
        for (i, (name, value)) in all.iter().take(capacity).enumerate() {
            let counter = wg_counter_t { name: fixed_text(name), value: *value };
            // SAFETY: there is room for `capacity` elements, says the caller.
            let element = unsafe { counters.add(i) };
            // SAFETY: as above; C may have put it at any address.
            unsafe { element.write_unaligned(counter) };
        }
        // SAFETY: it is not NULL, and writable, says the caller.
        unsafe { count.write(all.len()) };
        Ok(())
    })
}

/// Reads what there is to know about one peer.
///
/// Memory: reads 32 bytes of `public_key`; writes the first `stats->struct_size` bytes of `stats`, and of those not
/// `struct_size`; on success only.
/// Errors: WG_ERR_NULL; WG_ERR_INVALID if the struct_size is invalid; WG_ERR_NOT_FOUND if the tunnel has no such peer;
/// WG_ERR_UNKNOWN_HANDLE; WG_ERR_PANIC; WG_ERR_BUSY inside a callback.
/// Threads: any.
/// Since: 0.1.0
///
/// # Safety
/// `public_key` is NULL or points to 32 readable bytes; `stats` is NULL or points to `stats->struct_size` readable and
/// writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_peer_stats(handle: i32, public_key: *const u8, stats: *mut wg_peer_stats_t) -> wg_result {
    guard_on(handle, |entry: &Entry<Running>| {
        // SAFETY: the caller's contract is the same.
        let key = unsafe { take_key(public_key) }?;
        // SAFETY: as above.
        let size = unsafe { struct_size(stats, "stats") }?;
        let peer = peer_of(entry, key)?;
        // SAFETY: as above; the size was read from it.
        unsafe { write_sized(&peer_stats(size, &peer), stats, size) };
        Ok(())
    })
}

/// Whether a tunnel has a peer: WG_OK, or as [`wg_peer_stats`].
///
/// # Safety
/// `public_key` is NULL or points to 32 readable bytes.
pub unsafe fn has_peer(handle: i32, public_key: *const u8) -> wg_result {
    guard_on(handle, |entry: &Entry<Running>| {
        // SAFETY: the caller's contract is the same.
        peer_of(entry, unsafe { take_key(public_key) }?).map(|_| ())
    })
}

fn peer_of(entry: &Entry<Running>, key: Secret) -> Result<PeerStats> {
    let key = PublicKey::from_bytes(*key);
    let peer = entry.tunnel.device().peer_stats(&key);
    peer.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no peer {key}")))
}

/// Reads the same about all peers, in the order of wg_get_config(). Each is consistent in itself.
///
/// Set `struct_size` of the first element only: all have that size, and it is written to each of them.
///
/// Memory: writes up to `capacity` elements of `peers`, and to `*count` how many peers there are, which may be more; on
/// success only. With a `capacity` of 0, `peers` may be NULL.
/// Errors: WG_ERR_NULL; WG_ERR_INVALID if the struct_size is invalid; WG_ERR_UNKNOWN_HANDLE; WG_ERR_PANIC; WG_ERR_BUSY
/// inside a callback.
/// Threads: any. The time that it takes is in proportion to the number of peers.
/// Since: 0.1.0
///
/// # Safety
/// `peers` points to `capacity` elements of `peers->struct_size` readable and writable bytes each, or both are NULL and
/// 0; `count` is NULL or points to writable storage for one number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_peers(
    handle: i32,
    peers: *mut wg_peer_stats_t,
    capacity: usize,
    count: *mut usize,
) -> wg_result {
    guard_on(handle, |entry: &Entry<Running>| {
        check_array(peers, capacity, "peers", count)?;
        // SAFETY: the caller's contract is the same, as there is a first element.
        let size = if capacity == 0 { 0 } else { unsafe { struct_size(peers, "peers") }? };
        let device = entry.tunnel.device();
        let mut written = 0;
        for (i, peer) in device.all_peer_stats().take(capacity).enumerate() {
            written += 1;
            // SAFETY: there are `capacity` elements of this size, says the caller.
            let element = unsafe { peers.byte_add(i * size) };
            // SAFETY: as above.
            unsafe { write_sized(&peer_stats(size, &peer), element, size) };
        }
        // SAFETY: it is not NULL, and writable, says the caller.
        unsafe { count.write(written.max(device.totals().peers)) };
        Ok(())
    })
}

/// Refuses an array without room to write to, or without a place for its number.
fn check_array<T>(array: *const T, capacity: usize, name: &str, count: *const usize) -> Result<()> {
    for (missing, name) in [(array.is_null() && capacity > 0, name), (count.is_null(), "count")] {
        if missing {
            return Err(Error::new(ErrorKind::Null, format!("{name} is NULL")));
        }
    }
    Ok(())
}

/// Reads how much memory a tunnel takes now.
///
/// Memory: writes the first `usage->struct_size` bytes of `usage`, and of those not `struct_size`; on success only.
/// Errors: WG_ERR_NULL if `usage` is NULL; WG_ERR_INVALID if its struct_size is invalid; WG_ERR_UNKNOWN_HANDLE; WG_ERR_PANIC;
/// WG_ERR_BUSY inside a callback.
/// Threads: any. The time that it takes is in proportion to the number of peers.
/// Since: 0.1.0
///
/// # Safety
/// `usage` is NULL or points to `usage->struct_size` readable and writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_memory_usage(handle: i32, usage: *mut wg_memory_usage_t) -> wg_result {
    guard_on(handle, |entry: &Entry<Running>| {
        // SAFETY: the caller's contract is the same.
        let size = unsafe { struct_size(usage, "usage") }?;
        let ours = memory_usage(size, &entry.tunnel.memory_usage());
        // SAFETY: as above; the size was read from it.
        unsafe { write_sized(&ours, usage, size) };
        Ok(())
    })
}

/// Gives back memory that a tunnel does not need now: the buffers, unless packets or handshakes are in them; what tables
/// took when they were larger. Sessions, and packets that wait for one, stay. What is needed again later is allocated again
/// then, so call this when the system is short of memory, or the app goes to the background, not all the time.
///
/// It is given back to the allocator of the process. Whether that gives it on to the system is its own matter: with glibc,
/// for example, malloc_trim(3) makes it do so, which is not for a library to call.
///
/// Memory: nothing changes hands.
/// Errors: WG_ERR_UNKNOWN_HANDLE; WG_ERR_PANIC; WG_ERR_BUSY inside a callback.
/// Threads: any; what the tunnel's threads are working in at this moment is left to them.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_trim(handle: i32) -> wg_result {
    guard_on(handle, |entry: &Entry<Running>| {
        entry.tunnel.trim();
        Ok(())
    })
}
