//! What a tunnel did so far and what it takes, in numbers: nothing here has a secret in it.

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

/// Reads what a tunnel did so far. Also of one that has ended by itself.
///
/// Memory: writes the first `stats->struct_size` bytes of `stats`, and of those not `struct_size`; on success only.
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

/// Reads the counters of a tunnel: one for each reason why something was not passed on, for handshake messages that
/// were refused, and for what the sockets had to do without. They count from the moment at which the tunnel was turned
/// on.
///
/// Which there are, and in which order, depends on the library's version and on what the tunnel works with, but is the
/// same for a tunnel at any time. Names keep their meaning in later versions.
///
/// "out_" is the way from the TUN to the network, "in_" the other. Those that begin with "udp_" are there if the tunnel
/// has sockets of its own.
///
/// - out_malformed: Packets read from the TUN that are not IP, or cut short.
/// - out_no_peer: Packets read from the TUN whose destination no peer has.
/// - out_no_endpoint: Packets for a peer that has no endpoint.
/// - out_routing_loop: Our own datagrams that came in through the TUN again, because the route to a peer's endpoint
///   leads there.
/// - out_stage_full: The oldest staged packets of a peer that had too many.
/// - out_memory_full: Packets that could not be staged, because those of all peers take as much memory as they may,
///   or no memory is left.
/// - out_unstaged: Staged packets that were given up together with a handshake, or taken away with a peer or the
///   interface.
/// - out_send_failed: Datagrams that the operating system did not take.
/// - out_unreadable: Packets that the TUN had, and that could not be read whole.
/// - in_malformed: Datagrams that are no WireGuard message.
/// - in_unknown_index: Messages for a session or handshake that does not exist.
/// - in_expired: Data messages on a session that is too old.
/// - in_not_authentic: Data messages that are not authentic.
/// - in_replayed: Authentic data messages that were seen before, or are too old to tell.
/// - in_memory_full: Data messages for which there was no memory.
/// - in_malformed_inner: Decrypted packets that are not IP, or shorter than they say.
/// - in_wrong_source: Decrypted packets with a source address that is not the peer's.
/// - in_write_failed: Decrypted packets that the TUN did not take.
/// - handshake_queue_full: Handshake messages that came while too many were waiting.
/// - handshake_bad_mac: Handshake messages whose mac1 is wrong.
/// - handshake_rate_limited: Handshake messages over the rate of their address, or over what is answered with
///   cookies, under load.
/// - handshake_cookie_sent: Handshake messages that were answered with a cookie, under load.
/// - handshake_refused: Initiations from unknown peers, not authentic, or replayed; responses that
///   answer nothing.
/// - cookie_refused: Cookie replies that answer nothing, or are not authentic.
/// - unreachable_sent: Packets that no peer wants, or whose peer has no endpoint, whose sender was told so by ICMP.
/// - udp_gso_refused: Segmented sends that the system refused, and that were sent again as single datagrams.
/// - udp_gso_disabled: Sockets on which segmented sends were given up.
/// - udp_send_full: Datagrams that were dropped because the socket's buffer was full; among out_send_failed as well.
/// - udp_truncated: Datagrams that were too large for their place, and lost.
/// - udp_recv_errors: Errors of a socket that receiving passed over.
///
/// Memory: writes up to `capacity` elements of `counters`, and to `*count` how many counters there are, which may be
/// more; on success only. With a `capacity` of 0, `counters` may be NULL.
/// Requires: `counters` points to room for `capacity` elements, or both are NULL and 0; `count` is NULL or points to
/// writable storage for one number.
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

/// Reads what there is to know about one peer.
///
/// Memory: reads 32 bytes of `public_key`; writes the first `stats->struct_size` bytes of `stats`, and of those not
/// `struct_size`; on success only.
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

/// Reads the same about all peers, in the order of wg_get_config(). Each is consistent in itself.
///
/// Set `struct_size` of the first element only: all have that size, and it is written to each of them.
///
/// Memory: writes up to `capacity` elements of `peers`, and to `*count` how many peers there are, which may be more; on
/// success only. With a `capacity` of 0, `peers` may be NULL.
/// Requires: `peers` points to `capacity` elements of `peers->struct_size` readable and writable bytes each, or both
/// are NULL and 0; `count` is NULL or points to writable storage for one number.
/// Errors: WG_ERR_NULL; WG_ERR_INVALID if the struct_size is invalid; WG_ERR_UNKNOWN_HANDLE; WG_ERR_PANIC; WG_ERR_BUSY
/// inside a callback.
/// Threads: any. The time that it takes is in proportion to the number of peers.
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

/// Reads how much memory a tunnel takes now.
///
/// Memory: writes the first `usage->struct_size` bytes of `usage`, and of those not `struct_size`; on success only.
/// Requires: `usage` is NULL or points to `usage->struct_size` readable and writable bytes.
/// Errors: WG_ERR_NULL if `usage` is NULL; WG_ERR_INVALID if its struct_size is invalid; WG_ERR_UNKNOWN_HANDLE;
/// WG_ERR_PANIC; WG_ERR_BUSY inside a callback.
/// Threads: any. The time that it takes is in proportion to the number of peers.
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

/// Gives back memory that a tunnel does not need now: the buffers, unless packets or handshakes are in them; what
/// tables took when they were larger. Sessions, and packets that wait for one, stay. What is needed again later is
/// allocated again then, so call this when the system is short of memory, or the app goes to the background, not all
/// the time.
///
/// It is given back to the allocator of the process. Whether that gives it on to the system is its own matter: with
/// glibc, for example, malloc_trim(3) makes it do so, which is not for a library to call.
///
/// Memory: nothing changes hands.
/// Errors: WG_ERR_UNKNOWN_HANDLE; WG_ERR_PANIC; WG_ERR_BUSY inside a callback.
/// Threads: any; what the tunnel's threads are working in at this moment is left to them.
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
