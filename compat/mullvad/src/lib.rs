//! Mullvad's libwg, as its last callers have it.
//!
//! The names, types, return values and who owns what are the original's. Handles are this library's own: all `wg_`
//! functions know them, too.
//!
//! Functions whose bodies are calls of `wg_` functions and copies of numbers have no guard of their own: what could
//! panic is in there.
#![allow(unsafe_code)] // As in `wg-embed-ffi`: raw pointers enter here.
#![allow(non_snake_case)] // The original's names.
#[cfg(not(unix))]
compile_error!("these functions exist only on Unix");

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    ptr,
};

use wg_embed::bind::Family;
#[cfg(not(target_os = "android"))]
use wg_embed_ffi::leaf::guard;
use wg_embed_ffi::{
    self as ffi,
    leaf::{c_text, set_default_level, tell_failure},
    wg_log_level_t::*,
    wg_result_t,
    wg_result_t::*,
};

/// As in `capi/`: a lack of memory is a failure of the call.
#[global_allocator]
static ALLOCATOR: wg_embed::reserve::Reserve = wg_embed::reserve::Reserve::new();

/// Something went wrong.
const GENERAL_FAILURE: i32 = -1;
/// Something went wrong, and another try may go better.
const INTERMITTENT_FAILURE: i32 = -2;
const INVALID_ARGUMENT: i32 = -3;
const UNKNOWN_TUNNEL: i32 = -4;
const UNKNOWN_PEER: i32 = -5;
const ENABLE_DAITA: i32 = -6;

/// The levels of wireguard-go that the original passes on.
const LEVEL_ERROR: c_uint = 1;
const LEVEL_VERBOSE: c_uint = 2;

/// Receives one line of a tunnel's log.
///
/// `level` is 1 for errors, and 2 for information. `msg` ends with a line feed, and is valid only during the call.
/// `context` is the value that was passed with the function.
///
/// Threads: as wg_log_fn_t of wg_embed.h. Inside it, functions that take a handle fail.
pub type LogSink = Option<unsafe extern "C" fn(level: c_uint, msg: *const c_char, context: u64)>;

/// The log function and context of a tunnel.
#[derive(Clone, Copy)]
struct Sink {
    function: unsafe extern "C" fn(c_uint, *const c_char, u64),
    context: u64,
}

impl Sink {
    /// # Safety
    /// Whoever gave the function allows this call, on this thread.
    unsafe fn line(self, level: c_uint, text: &CStr) {
        let line = c_text([text.to_bytes(), b"\n"].concat());
        // SAFETY: the caller says so; the text lives.
        unsafe { (self.function)(level, line.as_ptr(), self.context) };
    }
}

/// # Safety
/// `sink` is a [`Sink`], and the text ends with a zero byte.
unsafe extern "C" fn log(sink: *mut c_void, _: i32, level: i32, text: *const c_char) {
    // SAFETY: it lives until `forget`.
    let sink = unsafe { *sink.cast::<Sink>() };
    let level = if level <= WG_LOG_WARN as i32 { LEVEL_ERROR } else { LEVEL_VERBOSE };
    // SAFETY: it ends with a zero byte.
    let text = unsafe { CStr::from_ptr(text) };
    // SAFETY: whoever turned the tunnel on allows it.
    unsafe { sink.line(level, text) };
}

/// # Safety
/// `sink` is a [`Sink`] of a box, and this is the only call.
unsafe extern "C" fn forget(sink: *mut c_void) {
    // SAFETY: it came from `into_raw`.
    drop(unsafe { Box::from_raw(sink.cast::<Sink>()) });
}

/// Creates a tunnel between `fd` and the network, and starts it. Returns its positive handle, or a negative code.
///
/// `settings` is the configuration, as in wg_turn_on() of wg_embed.h. `mtu`, 576 to 65535, is set at the interface; 0
/// leaves it unchanged. `log_sink` (or NULL) receives the lines of this tunnel with `log_context`, until wgTurnOff()
/// has returned.
///
/// Codes: -2 if the configuration is refused, `fd` is not open, the port is in use, or a resource is exhausted: a retry
/// may succeed; -3 if `settings` is NULL or `mtu` is invalid; -1 for all other failures. The cause is logged.
///
/// Memory: takes ownership of `fd`, also on failure. `settings` is not kept.
///
/// # Safety
/// `settings` is NULL or ends with a zero byte. Only the library uses `fd` from then on. `log_sink` is NULL or may be
/// called on any thread, concurrently, as long as the tunnel exists.
#[cfg(not(target_os = "android"))]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wgTurnOn(
    mtu: isize,
    settings: *mut c_char,
    fd: c_int,
    log_sink: LogSink,
    log_context: u64,
) -> i32 {
    // SAFETY: the caller's contract is the same.
    unsafe { turn_on(mtu, settings, fd, log_sink, log_context) }
}

/// Creates a tunnel between `fd`, the descriptor of VpnService, and the network, and starts it. Returns its positive
/// handle, or a negative code. Peers do not roam, as after wg_disable_roaming() of wg_embed.h.
///
/// `settings` is the configuration, as in wg_turn_on() of wg_embed.h. `log_sink` (or NULL) receives the lines of this
/// tunnel with `log_context`, until wgTurnOff() has returned.
///
/// Codes: -2 if the configuration is refused, `fd` is not open, the port is in use, or a resource is exhausted: a retry
/// may succeed; -3 if `settings` is NULL; -1 for all other failures. The cause is logged.
///
/// Memory: takes ownership of `fd`, also on failure. `settings` is not kept.
///
/// # Safety
/// `settings` is NULL or ends with a zero byte. Only the library uses `fd` from then on. `log_sink` is NULL or may be
/// called on any thread, concurrently, as long as the tunnel exists.
#[cfg(target_os = "android")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wgTurnOn(settings: *mut c_char, fd: c_int, log_sink: LogSink, log_context: u64) -> i32 {
    // SAFETY: the caller's contract is the same.
    let handle = unsafe { turn_on(0, settings, fd, log_sink, log_context) };
    if handle > 0 {
        ffi::wg_disable_roaming(handle);
    }
    handle
}

/// # Safety
/// As for [`wgTurnOn`].
unsafe fn turn_on(mtu: isize, settings: *const c_char, fd: c_int, log_sink: LogSink, context: u64) -> i32 {
    set_default_level(WG_LOG_DEBUG);
    let sink = log_sink.map(|function| Sink { function, context });
    // SAFETY: the caller's contract is the same.
    let result = unsafe { start(mtu, settings, fd, sink) };
    if result > 0 {
        return result;
    }
    // Inside a callback nothing is logged, or else a sink that turns tunnels on would never return.
    if let Some(sink) = sink.filter(|_| result != WG_ERR_BUSY as i32) {
        // SAFETY: the text is this thread's, and there is no other call before it is copied.
        let why = unsafe { CStr::from_ptr(ffi::wg_last_error()) }.to_owned();
        // SAFETY: the caller allows it.
        unsafe { sink.line(LEVEL_ERROR, &why) };
    }
    // SAFETY: it was given away, and what failed has left it open; if it is not open, nothing happens.
    unsafe { libc::close(fd) };
    if settings.is_null() || !is_mtu(mtu) {
        return INVALID_ARGUMENT;
    }
    const TRY_AGAIN: [wg_result_t; 5] =
        [WG_ERR_INVALID, WG_ERR_PROTOCOL, WG_ERR_TOO_LARGE, WG_ERR_ADDR_IN_USE, WG_ERR_RESOURCES];
    if TRY_AGAIN.iter().any(|code| *code as i32 == result) { INTERMITTENT_FAILURE } else { GENERAL_FAILURE }
}

/// Returns a handle, or a [`wg_result_t`].
///
/// # Safety
/// As for [`wgTurnOn`], but the caller keeps `fd` if this fails.
unsafe fn start(mtu: isize, settings: *const c_char, fd: c_int, sink: Option<Sink>) -> i32 {
    #[cfg(not(target_os = "android"))] // There the maker of the interface has set it.
    if mtu != 0 && is_mtu(mtu) && !settings.is_null() {
        let set = guard::<wg_result_t>(|| ffi::leaf::set_mtu(fd, mtu as u16));
        if set != WG_OK {
            return set as i32;
        }
    }
    // One that is none is refused.
    let mtu = u32::try_from(mtu).unwrap_or(u32::MAX);
    let mut options = ffi::wg_options_t { tun_fd: fd, mtu, ..ffi::wg_options_t::default() };
    if let Some(sink) = sink {
        options.log = Some(log);
        options.log_user = Box::into_raw(Box::new(sink)).cast();
        options.log_destroy = Some(forget);
    }
    // SAFETY: `log` takes the sink, on any thread, and `forget` frees it after the last line; the caller says the rest.
    unsafe { ffi::wg_turn_on_with(&raw const options, settings) }
}

/// Whether an interface can have it, or it stands for that which there is.
fn is_mtu(mtu: isize) -> bool {
    mtu == 0 || (576..=65_535).contains(&mtu)
}

/// Stops a tunnel. Returns 0, -4 for an unknown handle, or -1 inside a callback.
#[unsafe(no_mangle)]
pub extern "C" fn wgTurnOff(handle: i32) -> i32 {
    match ffi::wg_turn_off(handle) {
        WG_OK => 0,
        WG_ERR_UNKNOWN_HANDLE => UNKNOWN_TUNNEL,
        _ => GENERAL_FAILURE,
    }
}

/// Returns the configuration and state of a tunnel, including the private key, or NULL for an unknown handle.
///
/// Memory: the caller owns the text, and frees it with wgFreePtr(), which wipes it.
#[unsafe(no_mangle)]
pub extern "C" fn wgGetConfig(handle: i32) -> *mut c_char {
    let mut text = ptr::null_mut();
    // SAFETY: there is room for one pointer.
    unsafe { ffi::wg_get_config(handle, &raw mut text) };
    text
}

/// Changes the configuration of a tunnel. `settings` is as in wgTurnOn(); if a line is refused, nothing changes.
///
/// Returns 0, -4 for an unknown handle, -3 if `settings` is NULL, or -1 for all other failures. The cause is in the
/// tunnel's log.
///
/// # Safety
/// `settings` is NULL or ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wgSetConfig(handle: i32, settings: *mut c_char) -> i32 {
    // SAFETY: the caller's contract is the same.
    let code = match unsafe { ffi::wg_set_config(handle, settings) } {
        WG_OK => return 0,
        WG_ERR_UNKNOWN_HANDLE => return UNKNOWN_TUNNEL,
        WG_ERR_NULL => INVALID_ARGUMENT,
        _ => GENERAL_FAILURE,
    };
    tell_failure(handle);
    code
}

/// Frees text that wgGetConfig() returned, and overwrites it first. NULL is a no-op.
///
/// # Safety
/// `memory` is NULL or came from wgGetConfig() and has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wgFreePtr(memory: *mut c_void) {
    // SAFETY: the caller's contract is the same.
    unsafe { ffi::wg_free(memory) };
}

/// Returns the descriptor of a tunnel's IPv4 socket, -4 for an unknown handle, or -1 if there is no such socket.
///
/// Memory: the descriptor is borrowed until the sockets are reopened or the tunnel is turned off.
#[unsafe(no_mangle)]
pub extern "C" fn wgGetSocketV4(handle: i32) -> i32 {
    socket(ffi::wg_peek_socket_fd4(handle))
}

/// Returns the descriptor of a tunnel's IPv6 socket, as wgGetSocketV4() does for IPv4.
#[unsafe(no_mangle)]
pub extern "C" fn wgGetSocketV6(handle: i32) -> i32 {
    socket(ffi::wg_peek_socket_fd6(handle))
}

fn socket(fd: i32) -> i32 {
    match fd {
        0.. => fd,
        _ if fd == WG_ERR_UNKNOWN_HANDLE as i32 => UNKNOWN_TUNNEL,
        _ => GENERAL_FAILURE,
    }
}

/// Binds the sockets of one family, AF_INET or AF_INET6, of all tunnels to the interface with this index; with 0,
/// outgoing datagrams of that family are dropped. No-op for another family, and for one that the host does not have.
/// Failures are in the tunnels' logs.
#[unsafe(no_mangle)]
pub extern "C" fn wgRebindTunnelSocket(family: u16, interface_index: u32) {
    let family = match c_int::from(family) {
        libc::AF_INET => Family::V4,
        libc::AF_INET6 => Family::V6,
        _ => return,
    };
    ffi::leaf::bind_all_to_interface(family, interface_index);
}

/// Fails, as DAITA is not supported: returns -4 for an unknown handle, -5 if the tunnel has no such peer, -3 if
/// `peer_public_key` is NULL, otherwise -6.
///
/// # Safety
/// `peer_public_key` is NULL or points to 32 readable bytes.
#[unsafe(no_mangle)]
#[allow(unused_variables, reason = "there is nothing to give them to; their names are in the header")]
pub unsafe extern "C" fn wgActivateDaita(
    handle: i32,
    peer_public_key: *mut u8,
    machines: *mut c_char,
    max_padding_frac: f64,
    max_blocking_frac: f64,
    events_capacity: u32,
    actions_capacity: u32,
) -> i32 {
    // SAFETY: the caller's contract is the same.
    match unsafe { ffi::leaf::has_peer(handle, peer_public_key) } {
        WG_OK => ENABLE_DAITA,
        WG_ERR_UNKNOWN_HANDLE => UNKNOWN_TUNNEL,
        WG_ERR_NOT_FOUND => UNKNOWN_PEER,
        WG_ERR_NULL => INVALID_ARGUMENT,
        _ => GENERAL_FAILURE,
    }
}
