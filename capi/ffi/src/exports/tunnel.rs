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

/// Makes a tunnel between `tun_fd` and the network, and starts it.
///
/// `tun_fd` gives and takes one IP packet a call: a TUN device (made with IFF_NO_PI, with or without IFF_VNET_HDR), the
/// descriptor of Android's VpnService, that of a utun of Apple's systems (whose packets have four bytes in front), or
/// one end of a SOCK_DGRAM or SOCK_SEQPACKET socketpair. Its MTU is asked for; if that is not possible it counts as
/// 1420 (see wg_options_t).
/// `uapi` is the configuration: the lines of a UAPI `set` without `set=1`, "private_key=..\nlisten_port=..\n" and so
/// on. It may be "", and is not kept. It is applied as a whole, and its port is open, when this returns.
///
/// Returns a handle, which is > 0 and never used again for another tunnel, or a negative wg_result_t. The tunnel runs
/// until wg_turn_off(), on two threads of its own.
///
/// Memory: takes ownership of `tun_fd` on success, and closes that number before it returns; the library goes on with a
/// duplicate. On failure the caller still owns it, open and in the mode in which it was.
/// Requires: `uapi` is NULL or ends with a zero byte. On success `tun_fd` has no other user than the library.
/// Errors: WG_ERR_NULL if `uapi` is NULL; WG_ERR_INVALID if `tun_fd` is not open, or the text has a bad value;
/// WG_ERR_PROTOCOL if a line is not of the form key=value; WG_ERR_TOO_LARGE beyond 64 MiB; WG_ERR_UNSUPPORTED if
/// `tun_fd` does not keep packets apart, or this platform has no descriptors; WG_ERR_NOT_FOUND if the interface was
/// removed; WG_ERR_ADDR_IN_USE for the port; WG_ERR_PERMISSION for the fwmark, or if `tun_fd` is a device that cannot
/// be waited for; WG_ERR_IO and WG_ERR_RESOURCES as the system says; WG_ERR_PANIC; WG_ERR_BUSY inside a callback.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_turn_on(tun_fd: i32, uapi: *const c_char) -> i32 {
    let options = wg_options_t { tun_fd, ..wg_options_t::default() };
    let received = Received { value: options, unknown_fields: Ok(()) };
    // SAFETY: the caller's contract is the same.
    unsafe { turn_on(Ok(received), uapi) }
}

/// As wg_turn_on(), with options. Packets and datagrams can be the app's own; see wg_tun_callbacks_t and
/// wg_transport_t.
///
/// Memory: `options` is not kept. With WG_FD_TAKE, `tun_fd` is as in wg_turn_on(). With WG_FD_DUP it stays the caller's
/// in any case; but a duplicate has its O_NONBLOCK mode in common with the original, so on success the caller's
/// descriptor is non-blocking from then on. Each `.._destroy` is called exactly once with its `.._user`: when the
/// tunnel is turned off and all its functions have returned for the last time; at once where the function is NULL (but
/// `protect_destroy`, which waits for the end as well) or has been replaced; or before this call returns if it fails.
/// The same holds for what `tun` and `transport` point to. Only what is in a struct with a wrong `struct_size` is not
/// given up.
/// Requires: `options` is NULL or points to `options->struct_size` readable bytes, and so are the structs that it
/// points to; their functions are NULL or of their types, and may be called with what belongs to them on any thread;
/// the rest as in wg_turn_on().
/// Errors: as wg_turn_on(); WG_ERR_NULL if `options`, or `write` or `send` of what it points to, is NULL;
/// WG_ERR_INVALID if one of its values is out of its range, or more than one of `tun_fd`, `tun` and `net` are set;
/// WG_ERR_PERMISSION if `protect` refuses; WG_ERR_UNSUPPORTED if it sets a field that this library does not know, or
/// `net` in a library that was built without it.
/// Threads: any. It does not wait for host names to be looked up, unless it fails while a `resolve` of the app is
/// looking one up.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_turn_on_with(options: *const wg_options_t, uapi: *const c_char) -> i32 {
    // SAFETY: the caller's contract is the same.
    let options = unsafe { read_sized(options, "options") };
    // SAFETY: as above.
    unsafe { turn_on(options, uapi) }
}

/// Stops a tunnel, and closes its descriptor and its sockets. Its handle is not valid any more.
///
/// Calls on the tunnel that are under way on other threads finish; if there are any, what they need is freed, and the
/// descriptor closed, when the last of them returns.
///
/// When this returns, none of the tunnel's callbacks is running on any thread, and each was destroyed; so were the
/// functions of its wg_tun_callbacks_t and its wg_transport_t.
///
/// Memory: everything that belongs to the tunnel is freed, and its keys are wiped. Text from wg_get_config() stays.
/// Errors: WG_ERR_UNKNOWN_HANDLE, also for the second of two calls: if the first is still under way on another thread,
/// the second waits for it, so after either code the tunnel is off; WG_ERR_BUSY inside a callback, and the tunnel runs
/// on.
/// Threads: any, not only the one that turned it on. It waits for the tunnel's threads, and with them for
/// callbacks: also for a `resolve` of the app that is looking up a host name, but not for wg_resolve_system(), which
/// then returns WG_ERR_CLOSED. Where a callback may take long, wg_turn_off_within() waits for as long as you say.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_turn_off(handle: i32) -> wg_result_t {
    let body = || handle::end(handle, |entry: &Entry<Running>| entry.logged(|| entry.turn_off()));
    wiped(|| guard_end(handle, body))
}

/// As wg_turn_off(), but it waits for `milliseconds` at most.
///
/// If that is not long enough it returns WG_ERR_TIMED_OUT, and the tunnel goes on ending on a thread of the library's
/// own, which waits for the callbacks that are still running. By then nothing new is sent, received or looked up, and
/// the handle is unknown to all functions but wg_turn_off(), which waits until the tunnel is off and returns
/// WG_ERR_UNKNOWN_HANDLE, and this one, which can be called again to wait on. Keep what belongs to the callbacks until
/// `destroy` was called for it, and the library loaded.
///
/// Memory: as wg_turn_off(), once the tunnel has ended. Each `destroy` is called on the library's own thread.
/// Errors: WG_ERR_TIMED_OUT; WG_ERR_UNKNOWN_HANDLE, also if the tunnel has ended since a call that timed out;
/// WG_ERR_RESOURCES if the thread cannot be started, and WG_ERR_BUSY inside a callback: the tunnel runs on then.
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

/// Replaces the descriptor that a tunnel reads and writes packets through, without a handshake: sessions, sockets,
/// counters and staged packets stay. For Android, where `establish()` gives an app that changes addresses, routes or
/// allowed apps another interface.
///
/// `tun_fd` is as in wg_turn_on(), and may be of another kind than the old one. `mtu` is as in wg_options_t: it counts
/// if the interface cannot be asked; 0 stands for WG_MTU_DEFAULT. The interface counts as up.
///
/// When this returns WG_OK, the library has closed the old descriptor, and writes nothing more to it. Packets that were
/// read from it are sent; those that were not are lost. If `tun_fd` cannot be used, nothing changes.
///
/// Call it while the tunnel runs or is paused. On Android the old descriptor does not fail when there is a new
/// interface, it only finds no packets. But if the other end of a socketpair is closed, or an interface removed, a
/// tunnel that is not paused ends by itself (WG_EVENT_ENDED): then turn it off, and on again with the new descriptor.
///
/// Memory: with WG_FD_TAKE for `fd_ownership`, `tun_fd` is as in wg_turn_on(), and with WG_FD_DUP as in
/// wg_turn_on_with(). An old descriptor that was given with WG_FD_DUP stays the caller's, and stays non-blocking.
/// Requires: with WG_FD_TAKE, on success only the library uses `tun_fd` from then on.
/// Errors: WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED if the tunnel has ended by itself: turn it on again; WG_ERR_UNSUPPORTED
/// if its packets come from wg_tun_callbacks_t or wg_net_options_t; WG_ERR_INVALID if `mtu` or `fd_ownership` is out of
/// its range; WG_ERR_BUSY inside a callback; WG_ERR_PANIC; and of wg_turn_on() those that are about `tun_fd`.
/// Threads: any; calls on one tunnel come one after another. It waits for the packets that are being read or written,
/// not for a callback.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_set_tun_fd(handle: i32, tun_fd: i32, fd_ownership: u32, mtu: u32) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| {
        let (takes, mtu) = (takes(fd_ownership)?, mtu_or_default(mtu)?);
        entry.check_running()?;
        let Some(tun) = &entry.fd_tun else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the tunnel's packets come from a wg_tun_callbacks_t or a wg_net_options_t",
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

/// Changes the configuration of a tunnel: `uapi` is as in wg_turn_on(). A line that is refused changes nothing.
///
/// A port that is named in it is insisted on from then on, also if it is the one that the system had chosen; with 0 the
/// system chooses another. A new port is opened before this returns, also while the old one is still being tried, or
/// noted if the tunnel is paused.
///
/// Memory: `uapi` is not kept.
/// Requires: `uapi` is NULL or ends with a zero byte.
/// Errors: WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED if the tunnel has ended; WG_ERR_BUSY inside a callback; WG_ERR_PANIC;
/// and of wg_turn_on() those that are about the configuration.
/// Threads: any; calls on one tunnel come one after another. One that changes the port or the mark waits for `protect`,
/// and so do those behind it; no other does.
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

/// Reads the configuration and state of a tunnel: the lines of a UAPI `get`, without `errno=`. They contain the private
/// key.
///
/// Memory: on success `*out` is the caller's, to give to wg_free(), which wipes it. On failure it is not written.
/// Requires: `out` is NULL or points to writable storage for one pointer.
/// Errors: WG_ERR_NULL if `out` is NULL; WG_ERR_UNKNOWN_HANDLE; WG_ERR_RESOURCES; WG_ERR_PANIC; WG_ERR_BUSY inside a
/// callback. A tunnel that has ended by itself can still be read.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_get_config(handle: i32, out: *mut *mut c_char) -> wg_result_t {
    // SAFETY: the caller's contract is the same.
    unsafe { get(handle, out, uapi::get_text) }
}

/// As wg_get_config(), without the lines private_key= and preshared_key=: for support logs and user interfaces. It
/// still has the addresses of peers and networks.
///
/// UAPI has no line for the tunnel's own public key; see wg_public_key().
///
/// Memory: on success `*out` is the caller's, to give to wg_free(). On failure it is not written.
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

/// Reads the public key of a tunnel: the one that its peers know it by.
///
/// Memory: writes 32 bytes to `public_key`, on success only.
/// Requires: `public_key` is NULL or has room for 32 bytes.
/// Errors: WG_ERR_NULL; WG_ERR_NOT_FOUND if the tunnel has no private key; WG_ERR_UNKNOWN_HANDLE; WG_ERR_BUSY inside a
/// callback; WG_ERR_PANIC. A tunnel that has ended by itself can still be read.
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
