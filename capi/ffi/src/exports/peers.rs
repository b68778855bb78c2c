//! Changes and removal of single peers, and control of their sessions.

use crate::{
    plumbing::{guard::guard_on, handle::Entry, result::wg_result_t, sized::read_sized_into},
    tunnel::Running,
    types::{key::take_key, peer::wg_peer_config_t},
};
use wg_embed::{
    config::Update,
    device::Device,
    error::Result,
    key::{PublicKey, wiped},
};

/// Adds a peer to a tunnel, or changes it, as wg_set_config() does with the corresponding lines. Everything is checked
/// first, so a call that fails changes nothing. An existing peer keeps its session. A peer with the tunnel's own key is
/// ignored.
///
/// Memory: `peer` and its pointers are not kept. No copy of the preshared key stays on the stack; wipe your own.
/// Requires: `peer` is NULL or points to `peer->struct_size` readable bytes; its `endpoint` is NULL or ends with a
/// zero byte; its `allowed_ips` is NULL or points to `allowed_ip_count` elements.
/// Errors: WG_ERR_NULL if `peer` is NULL, or `allowed_ips` with a count above 0; WG_ERR_INVALID if its struct_size or a
/// value is invalid, the tunnel would have more peers than `max_peers`, or the endpoint is a host name and there is no
/// `resolve`; WG_ERR_TOO_LARGE beyond WG_ALLOWED_IPS_MAX; WG_ERR_UNSUPPORTED if a field is set that is unknown to this
/// library; WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED if the tunnel has ended; WG_ERR_RESOURCES; WG_ERR_BUSY inside a
/// callback; WG_ERR_PANIC.
/// Threads: as wg_set_config().
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_set_peer(handle: i32, peer: *const wg_peer_config_t) -> wg_result_t {
    let body = |entry: &Entry<Running>| {
        let mut copy = wg_peer_config_t::default();
        // SAFETY: the caller's contract is the same.
        wiped(|| unsafe { read_sized_into(peer, &mut copy, "peer") })??;
        let device = entry.tunnel.device();
        // SAFETY: as above.
        let change = unsafe { copy.read(device.resolves_names()) }?;
        entry.check_running()?;
        device.apply(Update { peers: vec![change], ..Update::default() })
    };
    wiped(|| guard_on(handle, body))
}

/// Removes a peer from a tunnel: its session ends, its keys are wiped, and its allowed IPs become free.
///
/// Memory: reads 32 bytes of `public_key`.
/// Requires: `public_key` is NULL or points to 32 readable bytes.
/// Errors: WG_ERR_NULL; WG_ERR_NOT_FOUND if the tunnel has no such peer; WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED if the
/// tunnel has ended; WG_ERR_BUSY inside a callback; WG_ERR_PANIC.
/// Threads: as wg_set_config().
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_remove_peer(handle: i32, public_key: *const u8) -> wg_result_t {
    let body = |entry: &Entry<Running>| {
        // SAFETY: the caller's contract is the same.
        let key = unsafe { public_key_of(public_key) }?;
        entry.check_running()?;
        entry.tunnel.device().remove_peer(&key)
    };
    wiped(|| guard_on(handle, body))
}

/// Begins a handshake with a peer, even if there is a session, which is used until the new one is established. NULL for
/// `public_key` means each peer with an endpoint.
///
/// Initiations stay 5 s apart, as the protocol requires: less than 5 s after the last initiation or response to the
/// peer nothing is sent, and a handshake in progress continues. wg_drop_session() lifts that limit. If the endpoint is
/// a host name without an address, the handshake begins when there is one; if the tunnel is down or paused, when it is
/// up again, unless wg_drop_session() is called before. An event or wg_peer_stats() reports the outcome.
///
/// Memory: reads 32 bytes of `public_key`.
/// Requires: `public_key` is NULL or points to 32 readable bytes.
/// Errors: WG_ERR_NOT_FOUND if the tunnel has no such peer or no private key, or the peer has no endpoint;
/// WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED if the tunnel has ended; WG_ERR_BUSY inside a callback; WG_ERR_PANIC.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_force_handshake(handle: i32, public_key: *const u8) -> wg_result_t {
    // SAFETY: the caller's contract is the same.
    unsafe { on_sessions(handle, public_key, Device::force_handshake) }
}

/// Drops the sessions of a peer and its handshake in progress, and wipes their keys; staged packets are dropped. NULL
/// for `public_key` means all peers. The peer is then as if it had just been configured, with its present endpoint: the
/// next packet begins a handshake, and a persistent keepalive does so at once. WG_EVENT_SESSION_EXPIRED is reported for
/// each peer that had a session.
///
/// Packets of the peer on its old sessions are no longer accepted. The peer is not notified: if it sends first, it
/// begins a new handshake after 15 s without an answer.
///
/// It does not wait. Packets that the tunnel's threads have already accepted or encrypted may still reach the TUN or
/// the network a moment later, and the keys in use for them are wiped afterwards; a handshake that one of the threads
/// is about to begin may follow.
///
/// Memory: reads 32 bytes of `public_key`.
/// Requires: `public_key` is NULL or points to 32 readable bytes.
/// Errors: WG_ERR_NOT_FOUND if the tunnel has no such peer; WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED if the tunnel has
/// ended; WG_ERR_BUSY inside a callback; WG_ERR_PANIC.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_drop_session(handle: i32, public_key: *const u8) -> wg_result_t {
    // SAFETY: the caller's contract is the same.
    unsafe { on_sessions(handle, public_key, Device::drop_session) }
}

/// # Safety
/// `public_key` is NULL or points to 32 readable bytes.
unsafe fn on_sessions(
    handle: i32,
    public_key: *const u8,
    change: fn(&Device, Option<&PublicKey>) -> Result<()>,
) -> wg_result_t {
    let body = |entry: &Entry<Running>| {
        // SAFETY: the caller's contract is the same.
        let key = (!public_key.is_null()).then(|| unsafe { public_key_of(public_key) }).transpose()?;
        entry.check_running()?;
        change(entry.tunnel.device(), key.as_ref())
    };
    wiped(|| guard_on(handle, body))
}

/// # Safety
/// `key` is NULL or points to 32 readable bytes.
unsafe fn public_key_of(key: *const u8) -> Result<PublicKey> {
    // SAFETY: the caller's contract is the same.
    Ok(PublicKey::from_bytes(*unsafe { take_key(key) }?))
}
