//! Statistics, counters and memory use of a tunnel, without secrets.

use crate::{
    plumbing::{
        guard::guard_on,
        handle::Entry,
        result::wg_result_t,
        sized::{struct_size, write_sized},
        text::fixed_text,
    },
    tunnel::Running,
    types::{
        key::take_key,
        stats::{wg_counter_t, wg_memory_usage_t, wg_peer_stats_t, wg_stats_t},
    },
};
use wg_embed::{
    device::PeerStats,
    error::{Error, ErrorKind, Result},
    key::{PublicKey, Secret},
};

/// Returns statistics of a tunnel, also of one that has ended by itself.
///
/// Memory: writes the first `stats->struct_size` bytes of `stats`, except `struct_size` itself; on success only.
/// Requires: `stats` is NULL or points to `stats->struct_size` readable and writable bytes.
/// Errors: WG_ERR_NULL if `stats` is NULL; WG_ERR_INVALID if its struct_size is invalid; WG_ERR_UNKNOWN_HANDLE;
/// WG_ERR_PANIC; WG_ERR_BUSY inside a callback.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_stats(handle: i32, stats: *mut wg_stats_t) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| {
        // SAFETY: the caller's contract is the same.
        let size = unsafe { struct_size(stats, "stats") }?;
        let ours = wg_stats_t::of(size, &entry.tunnel.device().totals());
        // SAFETY: as above; the size was read from it.
        unsafe { write_sized(&ours, stats, size) };
        Ok(())
    })
}

/// Returns the counters of a tunnel: one for each cause of a dropped packet, of a refused handshake message, and of a
/// limited socket function. They count from the time at which the tunnel was turned on.
///
/// Their number and order depend on the library's version and the kind of the tunnel, but do not change during its
/// life. Names keep their meaning in later versions.
///
/// "out_" is the direction from the TUN to the network, "in_" the opposite one. Counters that begin with "udp_" exist
/// if the tunnel has its own sockets.
///
/// - out_malformed: Packets from the TUN that are not IP, or truncated.
/// - out_no_peer: Packets from the TUN to a destination that no peer has.
/// - out_no_endpoint: Packets for a peer that has no endpoint.
/// - out_routing_loop: The tunnel's own datagrams that came back through the TUN, because the route to a peer's
///   endpoint leads there.
/// - out_stage_full: The oldest staged packets of a peer at its limit.
/// - out_memory_full: Packets that could not be staged, because the staged packets of all peers are at their memory
///   limit, or memory is exhausted.
/// - out_unstaged: Staged packets that were dropped when a handshake was given up, or a peer or the interface was
///   removed.
/// - out_send_failed: Datagrams that the operating system refused.
/// - out_unreadable: Packets of the TUN that could not be read completely.
/// - in_malformed: Datagrams that are not a WireGuard message.
/// - in_unknown_index: Messages for a session or handshake that does not exist.
/// - in_expired: Data messages on a session that is too old.
/// - in_not_authentic: Data messages that are not authentic.
/// - in_replayed: Authentic data messages that were received before, or are too old for the replay window.
/// - in_memory_full: Data messages for which there was no memory.
/// - in_malformed_inner: Decrypted packets that are not IP, or shorter than their length field.
/// - in_wrong_source: Decrypted packets with a source address outside the peer's allowed IPs.
/// - in_write_failed: Decrypted packets that the TUN refused.
/// - handshake_queue_full: Handshake messages that arrived while the queue was full.
/// - handshake_bad_mac: Handshake messages whose mac1 is wrong.
/// - handshake_rate_limited: Handshake messages above the rate limit of their address, or above that for cookie
///   replies, under load.
/// - handshake_cookie_sent: Handshake messages that were answered with a cookie, under load.
/// - handshake_refused: Initiations from unknown peers, not authentic, or replayed; responses without an initiation.
/// - cookie_refused: Cookie replies without a handshake message, or not authentic.
/// - unreachable_sent: Packets that no peer accepts, or whose peer has no endpoint, and that were answered with an ICMP
///   error.
/// - udp_gso_refused: Segmented sends that the system refused, repeated as single datagrams.
/// - udp_gso_disabled: Sockets on which segmented sends were disabled.
/// - udp_send_full: Datagrams that were dropped because the socket's buffer was full; among out_send_failed as well.
/// - udp_truncated: Datagrams that were larger than their buffer, and lost.
/// - udp_recv_errors: Socket errors that were ignored when receiving.
///
/// Memory: writes up to `capacity` elements of `counters`, and to `*count` the number of all counters, which may be
/// larger; on success only. With a `capacity` of 0, `counters` may be NULL.
/// Requires: `counters` has room for `capacity` elements, or both are NULL and 0; `count` is NULL or points to writable
/// storage for one number.
/// Errors: WG_ERR_NULL; WG_ERR_UNKNOWN_HANDLE; WG_ERR_PANIC; WG_ERR_BUSY inside a callback.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_counters(
    handle: i32,
    counters: *mut wg_counter_t,
    capacity: usize,
    count: *mut usize,
) -> wg_result_t {
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

/// Returns statistics of one peer.
///
/// Memory: reads 32 bytes of `public_key`; writes the first `stats->struct_size` bytes of `stats`, except `struct_size`
/// itself; on success only.
/// Requires: `public_key` is NULL or points to 32 readable bytes; `stats` is NULL or points to `stats->struct_size`
/// readable and writable bytes.
/// Errors: WG_ERR_NULL; WG_ERR_INVALID if the struct_size is invalid; WG_ERR_NOT_FOUND if the tunnel has no such peer;
/// WG_ERR_UNKNOWN_HANDLE; WG_ERR_PANIC; WG_ERR_BUSY inside a callback.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_peer_stats(handle: i32, public_key: *const u8, stats: *mut wg_peer_stats_t) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| {
        // SAFETY: the caller's contract is the same.
        let key = unsafe { take_key(public_key) }?;
        // SAFETY: as above.
        let size = unsafe { struct_size(stats, "stats") }?;
        let peer = peer_of(entry, key)?;
        // SAFETY: as above; the size was read from it.
        unsafe { write_sized(&wg_peer_stats_t::of(size, &peer), stats, size) };
        Ok(())
    })
}

pub(crate) fn peer_of(entry: &Entry<Running>, key: Secret) -> Result<PeerStats> {
    let key = PublicKey::from_bytes(*key);
    let peer = entry.tunnel.device().peer_stats(&key);
    peer.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no peer {key}")))
}

/// Returns statistics of all peers, in the order of wg_get_config(). Each element is consistent in itself.
///
/// Set `struct_size` of the first element only: all elements have that size, and it is written to each of them.
///
/// Memory: writes up to `capacity` elements of `peers`, and to `*count` the number of all peers, which may be larger;
/// on success only. With a `capacity` of 0, `peers` may be NULL.
/// Requires: `peers` points to `capacity` elements of `peers->struct_size` readable and writable bytes each, or both
/// are NULL and 0; `count` is NULL or points to writable storage for one number.
/// Errors: WG_ERR_NULL; WG_ERR_INVALID if the struct_size is invalid; WG_ERR_UNKNOWN_HANDLE; WG_ERR_PANIC; WG_ERR_BUSY
/// inside a callback.
/// Threads: any. Its run time is proportional to the number of peers.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_peers(
    handle: i32,
    peers: *mut wg_peer_stats_t,
    capacity: usize,
    count: *mut usize,
) -> wg_result_t {
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
            unsafe { write_sized(&wg_peer_stats_t::of(size, &peer), element, size) };
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

/// Returns the present memory use of a tunnel.
///
/// Memory: writes the first `usage->struct_size` bytes of `usage`, except `struct_size` itself; on success only.
/// Requires: `usage` is NULL or points to `usage->struct_size` readable and writable bytes.
/// Errors: WG_ERR_NULL if `usage` is NULL; WG_ERR_INVALID if its struct_size is invalid; WG_ERR_UNKNOWN_HANDLE;
/// WG_ERR_PANIC; WG_ERR_BUSY inside a callback.
/// Threads: any. Its run time is proportional to the number of peers.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_memory_usage(handle: i32, usage: *mut wg_memory_usage_t) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| {
        // SAFETY: the caller's contract is the same.
        let size = unsafe { struct_size(usage, "usage") }?;
        let network = entry.functions.net.as_ref().map_or(0, |net| net.memory());
        let ours = wg_memory_usage_t::of(size, &entry.tunnel.memory_usage(), network);
        // SAFETY: as above; the size was read from it.
        unsafe { write_sized(&ours, usage, size) };
        Ok(())
    })
}

/// Releases memory that a tunnel does not need at present: buffers without packets or handshakes in them, and the
/// unused space of tables. Sessions and staged packets stay. Memory is allocated again when it is needed, so call this
/// when the system is short of memory, or when the app goes to the background, not regularly.
///
/// The memory is returned to the allocator of the process, which may or may not return it to the system: with glibc,
/// for example, malloc_trim(3) makes it do so, but a library should not call that.
///
/// Memory: nothing changes hands.
/// Errors: WG_ERR_UNKNOWN_HANDLE; WG_ERR_PANIC; WG_ERR_BUSY inside a callback.
/// Threads: any. Buffers that the tunnel's threads are using at the time are kept.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_trim(handle: i32) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| {
        entry.tunnel.trim();
        Ok(())
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};
    use wg_embed::{
        bind::UdpBind,
        device::{Device, Options},
        tun::mem::MemTun,
    };

    #[test]
    fn the_header_explains_each_counter() {
        let device =
            Device::new(Arc::new(MemTun::new("", 1420).0), Arc::new(UdpBind::new().unwrap()), Options::default());
        let counted: BTreeSet<_> = device.counters().into_iter().map(|(name, _)| name).collect();
        let header = include_str!("../../../../include/wg_embed.h");
        let (before, _) = header.split_once("wg_counters(int32_t").unwrap();
        let (_, text) = before.rsplit_once("/**").unwrap();
        let explained: BTreeSet<_> =
            text.lines().filter_map(|line| line.strip_prefix(" * - ")?.split_once(':')).map(|(name, _)| name).collect();
        assert_eq!(explained, counted);
    }
}
