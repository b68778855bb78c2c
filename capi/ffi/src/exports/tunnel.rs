//! Tunnels: on, off, and their configuration.

use std::{ffi::c_char, time::Duration};
use zeroize::Zeroizing;

use super::keys::give;
use crate::{
    plumbing::{
        fd::AppFd,
        guard::{guard_end, guard_on},
        handle::{self, Entry},
        result::wg_result_t,
        sized::{Received, read_sized},
        text::{borrow_text, give_text},
    },
    tunnel::{Running, mtu_or_default, turn_on},
    types::{fd::takes, options::wg_options_t},
};
use wg_embed::{
    config::snapshot::Snapshot,
    error::{Error, ErrorKind, Result},
    key::wiped,
    uapi::{self, Limits},
};

/// Creates a tunnel between `tun_fd` and the network, and starts it.
///
/// `tun_fd` reads and writes one IP packet per call: a TUN device (created with IFF_NO_PI, with or without
/// IFF_VNET_HDR), the descriptor of Android's VpnService, a utun of Apple's systems (with four bytes in front of each
/// packet), or one end of a SOCK_DGRAM or SOCK_SEQPACKET socketpair. The MTU is that of the interface, or 1420 if it
/// does not report one (see wg_options_t).
///
/// `uapi` is the configuration: the lines of a UAPI `set` without `set=1`,
/// "private_key=..\nlisten_port=..\n" and so on. It may be "". When this returns, it has been applied as a whole, and
/// the port is open.
///
/// Returns a handle, which is positive and never reused, or a negative wg_result_t. The tunnel runs until
/// wg_turn_off(), on two threads of its own.
///
/// Memory: takes ownership of `tun_fd` on success, and closes that number before it returns; the library uses a
/// duplicate. On failure the caller still owns it, open and in its previous mode; only the offloads of a TUN with
/// IFF_VNET_HDR (TUNSETOFFLOAD), which belong to the interface, may stay set. `uapi` is not kept.
/// Requires: `uapi` is NULL or ends with a zero byte. On success only the library uses `tun_fd` from then on.
/// Errors: WG_ERR_NULL if `uapi` is NULL; WG_ERR_INVALID if `tun_fd` is not open, or a value of the text is invalid;
/// WG_ERR_PROTOCOL if a line is not of the form key=value; WG_ERR_TOO_LARGE beyond 64 MiB; WG_ERR_UNSUPPORTED if
/// `tun_fd` does not preserve packet boundaries, or this platform has no descriptors; WG_ERR_NOT_FOUND if the interface
/// was removed; WG_ERR_ADDR_IN_USE if the port is in use; WG_ERR_PERMISSION if the fwmark is not permitted, or `tun_fd`
/// is a device that cannot be polled; WG_ERR_IO and WG_ERR_RESOURCES for errors of the system; WG_ERR_PANIC;
/// WG_ERR_BUSY inside a callback.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_turn_on(tun_fd: i32, uapi: *const c_char) -> i32 {
    let options = wg_options_t { tun_fd, ..wg_options_t::default() };
    let received = Received { value: options, unknown_fields: Ok(()) };
    // SAFETY: the caller's contract is the same.
    unsafe { turn_on(Ok(received), uapi) }
}

/// Creates and starts a tunnel as wg_turn_on() does, with options. Custom packets and datagrams are possible, see
/// wg_tun_callbacks_t and wg_transport_t, and so is an interface that the tunnel creates, see wg_options_t.
///
/// Memory: `options` is not kept. With WG_FD_TAKE, `tun_fd` is as in wg_turn_on(), and so are `queue_fds`. With
/// WG_FD_DUP the caller keeps them in any case; but a duplicate shares its O_NONBLOCK mode with the original, so on
/// success the caller's descriptor is non-blocking from then on. Each `.._destroy` is called exactly once with its
/// `.._user`: when the tunnel is turned off and the last call of any of its callbacks has returned; at once if the
/// function is NULL (except `protect_destroy`, which is called at the end as well) or has been replaced; or before this
/// call returns if it fails. The same holds for the structs of `tun` and `transport`. Only the `.._user` pointers of a
/// struct with an invalid `struct_size` are not released. An interface that the tunnel has created is removed when it
/// is turned off.
/// Requires: `options` is NULL or points to `options->struct_size` readable bytes, and so do the pointers to structs in
/// it; `interface_name` is NULL or ends with a zero byte; `queue_fds` is NULL or points to `queues` - 1 numbers;
/// functions are NULL or of their types, and may be called with their `user` pointers on any thread; otherwise as in
/// wg_turn_on().
/// Errors: as wg_turn_on(); WG_ERR_NULL if `options` is NULL, or `write` of `tun` or `send` of `transport`;
/// WG_ERR_INVALID if a value is out of range, or more than one of `tun_fd`, `tun`, `net` and `interface_name` are set;
/// WG_ERR_PERMISSION if `protect` refuses a socket; WG_ERR_UNSUPPORTED if a field is set that is unknown to this
/// library, or `net` in a library that was built without it. For an interface also WG_ERR_PERMISSION if the process may
/// not create it, WG_ERR_BUSY or WG_ERR_EXISTS if its name is in use, WG_ERR_NOT_FOUND without wintun.dll or the
/// system's device node, and WG_ERR_UNSUPPORTED on platforms other than Linux, Android and Windows.
/// Threads: any. It does not wait for look-ups of host names, unless it fails while the app's `resolve` is running.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_turn_on_with(options: *const wg_options_t, uapi: *const c_char) -> i32 {
    // SAFETY: the caller's contract is the same.
    let options = unsafe { read_sized(options, "options") };
    // SAFETY: as above.
    unsafe { turn_on(options, uapi) }
}

/// Stops a tunnel, and closes its descriptor and its sockets. Its handle becomes invalid.
///
/// Calls on the tunnel that are in progress on other threads finish; the resources that they use are freed, and the
/// descriptor is closed, when the last of them returns.
///
/// When this returns, none of the tunnel's callbacks is running on any thread, including those of its
/// wg_tun_callbacks_t and wg_transport_t, and each `destroy` has been called.
///
/// Memory: everything that belongs to the tunnel is freed, and its keys are wiped. Text from wg_get_config() stays
/// valid.
/// Errors: WG_ERR_UNKNOWN_HANDLE, also for the second of two calls: if the first is still in progress on another
/// thread, the second waits for it, so after either code the tunnel is off; WG_ERR_BUSY inside a callback: the tunnel
/// keeps running.
/// Threads: any, not only the one that turned it on. It waits for the tunnel's threads, and thereby for callbacks: also
/// for the app's `resolve` during a look-up, but not for wg_resolve_system(), which then returns WG_ERR_CLOSED. If a
/// callback may take long, use wg_turn_off_within(), which has a time limit.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_turn_off(handle: i32) -> wg_result_t {
    let body = || handle::end(handle, |entry: &Entry<Running>| entry.logged(|| entry.turn_off()));
    wiped(|| guard_end(handle, body))
}

/// Stops a tunnel as wg_turn_off() does, but waits for at most `milliseconds`.
///
/// After that time it returns WG_ERR_TIMED_OUT, and the shutdown continues on a thread of the library, which waits for
/// the callbacks that are still running. By then nothing new is sent, received or looked up. The handle is unknown to
/// all functions except wg_turn_off(), which waits until the tunnel is off and returns WG_ERR_UNKNOWN_HANDLE, and this
/// one, which can be called again to continue waiting. Keep the data of each callback until its `destroy` is called,
/// and keep the library loaded.
///
/// Memory: as wg_turn_off(), once the tunnel has ended. Each `destroy` is called on the library's thread.
/// Errors: WG_ERR_TIMED_OUT; WG_ERR_UNKNOWN_HANDLE, also if the tunnel has ended since a call that timed out;
/// WG_ERR_RESOURCES if the thread cannot be started, and WG_ERR_BUSY inside a callback: the tunnel then keeps running.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_turn_off_within(handle: i32, milliseconds: u32) -> wg_result_t {
    let body = || {
        let timeout = Duration::from_millis(milliseconds.into());
        handle::end_within(handle, timeout, |entry: &Entry<Running>| entry.logged(|| entry.turn_off()))
    };
    wiped(|| guard_end(handle, body))
}

/// Replaces the descriptor of a tunnel's TUN without a handshake: sessions, sockets, counters and staged packets stay.
/// For Android, where a change of addresses, routes or allowed apps needs another interface from `establish()`.
///
/// `tun_fd` is as in wg_turn_on(), and may be of another kind than the old one. `mtu` is as in wg_options_t: it is used
/// if the interface does not report one; 0 stands for WG_MTU_DEFAULT. The new interface is considered up.
///
/// When this returns WG_OK, the library has closed the old descriptor, and no longer writes to it. Packets that were
/// read from it are sent; unread packets are lost. If `tun_fd` cannot be used, nothing changes, except offloads, as in
/// wg_turn_on().
///
/// Call it while the tunnel runs or is paused. On Android the old descriptor does not fail when there is a new
/// interface; it only has no packets. But if the other end of a socketpair is closed, or an interface removed, a tunnel
/// that is not paused ends by itself (WG_EVENT_ENDED): then turn it off, and on again with the new descriptor.
///
/// Memory: with WG_FD_TAKE for `fd_ownership`, `tun_fd` is as in wg_turn_on(), and with WG_FD_DUP as in
/// wg_turn_on_with(). An old descriptor that was passed with WG_FD_DUP stays the caller's, and stays non-blocking.
/// Requires: with WG_FD_TAKE, on success only the library uses `tun_fd` from then on.
/// Errors: WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED if the tunnel has ended by itself: turn it on again; WG_ERR_UNSUPPORTED
/// if its packets do not come from a descriptor; WG_ERR_INVALID if `mtu` or `fd_ownership` is out of range; WG_ERR_BUSY
/// inside a callback; WG_ERR_PANIC; and the errors of wg_turn_on() that concern `tun_fd`.
/// Threads: any; calls on one tunnel are serialized. It waits for packets that are being read or written, not for a
/// callback.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_set_tun_fd(handle: i32, tun_fd: i32, fd_ownership: u32, mtu: u32) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| {
        let (takes, mtu) = (takes(fd_ownership)?, mtu_or_default(mtu)?);
        entry.check_running()?;
        let Some(tun) = &entry.fd_tun else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the tunnel's packets come from a wg_tun_callbacks_t, a wg_net_options_t or an interface of its own",
            ));
        };
        let app_fd = AppFd::new(tun_fd)?;
        app_fd.replace_in(tun, mtu)?;
        if takes {
            // SAFETY: the caller gives it away on success, and nothing fails from here on.
            unsafe { app_fd.take() };
        } else {
            app_fd.share();
        }
        Ok(())
    })
}

/// Changes the configuration of a tunnel. `uapi` is as in wg_turn_on(); if a line is refused, nothing changes.
///
/// A `listen_port` fixes the port from then on, even if it is the one that the system had chosen; with 0 the system
/// chooses another one. A new port is opened before this returns, also while opening the old one is still being
/// retried; if the tunnel is paused, wg_resume() opens it.
///
/// Memory: `uapi` is not kept.
/// Requires: `uapi` is NULL or ends with a zero byte.
/// Errors: WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED if the tunnel has ended; WG_ERR_BUSY inside a callback; WG_ERR_PANIC;
/// and the errors of wg_turn_on() that concern the configuration.
/// Threads: any; calls on one tunnel are serialized. A call that changes the port or the mark waits for `protect`, and
/// so do the calls behind it; others do not.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_set_config(handle: i32, uapi: *const c_char) -> wg_result_t {
    let body = |entry: &Entry<Running>| {
        // SAFETY: the caller's contract is the same.
        let text = unsafe { borrow_text(uapi, "uapi") }?;
        entry.check_running()?;
        let device = entry.tunnel.device();
        let limits = Limits { host_names: device.resolves_names(), ..Limits::for_peers(device.max_peers()) };
        device.apply(uapi::parse_set(text, limits)?)
    };
    wiped(|| guard_on(handle, body))
}

/// Returns the configuration and state of a tunnel in `*out`: the lines of a UAPI `get`, without `errno=`. They include
/// the private key.
///
/// Memory: on success the caller owns `*out`, and frees it with wg_free(), which wipes it. On failure it is not
/// written.
/// Requires: `out` is NULL or points to writable storage for one pointer.
/// Errors: WG_ERR_NULL if `out` is NULL; WG_ERR_UNKNOWN_HANDLE; WG_ERR_RESOURCES; WG_ERR_PANIC; WG_ERR_BUSY inside a
/// callback. A tunnel that has ended by itself can still be queried.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_get_config(handle: i32, out: *mut *mut c_char) -> wg_result_t {
    // SAFETY: the caller's contract is the same.
    unsafe { get(handle, out, uapi::get_text) }
}

/// Returns the text of wg_get_config() without the lines private_key= and preshared_key=, for support logs and user
/// interfaces. It still contains the addresses of peers and networks.
///
/// UAPI has no line for the tunnel's own public key; see wg_public_key().
///
/// Memory: on success the caller owns `*out`, and frees it with wg_free(). On failure it is not written.
/// Requires: as in wg_get_config().
/// Errors: as wg_get_config().
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_get_config_public(handle: i32, out: *mut *mut c_char) -> wg_result_t {
    // SAFETY: the caller's contract is the same.
    unsafe { get(handle, out, uapi::get_public_text) }
}

/// # Safety
/// As in [`wg_get_config`].
unsafe fn get(
    handle: i32,
    out: *mut *mut c_char,
    text_of: fn(Snapshot<'_>) -> Result<Zeroizing<String>>,
) -> wg_result_t {
    let body = |entry: &Entry<Running>| {
        if out.is_null() {
            return Err(Error::new(ErrorKind::Null, "out is NULL"));
        }
        let text = give_text(&text_of(entry.tunnel.device().snapshot())?)?;
        // SAFETY: it is not NULL, and writable, says the caller.
        unsafe { out.write(text.as_ptr()) };
        Ok(())
    };
    wiped(|| guard_on(handle, body))
}

/// Returns the public key of a tunnel, which its peers are configured with.
///
/// Memory: writes 32 bytes to `public_key`, on success only.
/// Requires: `public_key` is NULL or has room for 32 bytes.
/// Errors: WG_ERR_NULL; WG_ERR_NOT_FOUND if the tunnel has no private key; WG_ERR_UNKNOWN_HANDLE; WG_ERR_BUSY inside a
/// callback; WG_ERR_PANIC. A tunnel that has ended by itself can still be queried.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_public_key(handle: i32, public_key: *mut u8) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| {
        let key = entry.tunnel.device().public_key()?;
        // SAFETY: it is NULL or has room, says the caller.
        unsafe { give(key.as_bytes(), public_key) }
    })
}
