//! wireguard-apple's `wireguard.h`, and `key.h` and `x25519.h` of its WireGuardKitC.
//!
//! The names, types, return values and who owns what are the originals'. Handles are this library's own: all `wg_`
//! functions know them, too.
//!
//! Functions whose bodies are calls of `wg_` functions and copies of numbers have no guard of their own: what could
//! panic is in there.
#![allow(unsafe_code)] // As in `wg-embed-ffi`: raw pointers enter here.
#![allow(non_snake_case, non_camel_case_types)] // The originals' names.
#[cfg(not(unix))]
compile_error!("these functions exist only on Unix");

#[cfg(feature = "oslog")]
mod oslog;

use std::{
    ffi::{c_char, c_int, c_void},
    ptr,
};

use wg_embed_ffi::{
    self as ffi,
    leaf::{generate_private_or_zeros, set_default_level, take_key, tell_failure},
    wg_log_level_t::*,
    wg_result_t,
    wg_result_t::*,
};

/// As in `capi/`: a lack of memory is a failure of the call.
#[global_allocator]
static ALLOCATOR: wg_embed::reserve::Reserve = wg_embed::reserve::Reserve::new();

/// Receives one line of the log.
///
/// `context` is the pointer that was passed with the function. `level` is 0 for information, and 1 for errors. `msg` is
/// valid only during the call.
///
/// Threads: as wg_log_fn_t of wg_embed.h. Inside it, functions that take a handle fail, or do nothing.
pub type logger_fn_t = Option<unsafe extern "C" fn(context: *mut c_void, level: c_int, msg: *const c_char)>;

/// What [`wgSetLogger`] was given.
struct Logger {
    context: *mut c_void,
    function: unsafe extern "C" fn(*mut c_void, c_int, *const c_char),
}

/// # Safety
/// `logger` is a [`Logger`], and the text ends with a zero byte.
unsafe extern "C" fn log(logger: *mut c_void, _: i32, level: i32, text: *const c_char) {
    // SAFETY: it lives until `forget`.
    let logger = unsafe { &*logger.cast::<Logger>() };
    let is_error = level <= WG_LOG_WARN as i32;
    // SAFETY: whoever set it allows this call, on this thread.
    unsafe { (logger.function)(logger.context, is_error.into(), text) };
}

/// # Safety
/// `logger` is a [`Logger`] of a box, and this is the only call.
unsafe extern "C" fn forget(logger: *mut c_void) {
    // SAFETY: it came from `into_raw`.
    drop(unsafe { Box::from_raw(logger.cast::<Logger>()) });
}

/// Sets the log callback of all tunnels, replacing the previous one; NULL removes it. When this returns, the previous
/// callback is not running on any thread, and will not be called again. So do not call it while holding a lock that the
/// previous callback waits for.
///
/// Memory: the caller keeps ownership of `context`.
///
/// # Safety
/// `logger_fn` is NULL or may be called with `context` on any thread, concurrently, until this is called again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wgSetLogger(context: *mut c_void, logger_fn: logger_fn_t) {
    set_default_level(WG_LOG_DEBUG);
    match logger_fn {
        Some(function) => {
            let logger = Box::into_raw(Box::new(Logger { context, function }));
            // SAFETY: `log` takes it, on any thread, and `forget` frees it after the last line.
            unsafe { ffi::wg_set_log_callback(Some(log), logger.cast(), Some(forget)) };
        }
        // SAFETY: there is nothing to call.
        None => unsafe {
            ffi::wg_set_log_callback(None, ptr::null_mut(), None);
        },
    }
}

/// Sends the log of all tunnels to the log of the system, under `subsystem` and the category "wg-embed", replacing the
/// log callback of the process. The level is that of wg_set_log_level() of wg_embed.h.
///
/// Returns WG_OK, or a negative wg_result_t of wg_embed.h, and then leaves the log as it was: WG_ERR_NULL if
/// `subsystem` is NULL; WG_ERR_INVALID if it is not UTF-8; WG_ERR_UNSUPPORTED on systems other than Apple's;
/// WG_ERR_BUSY inside a callback; WG_ERR_PANIC.
///
/// Memory: `subsystem` is not kept.
///
/// # Safety
/// `subsystem` is NULL or ends with a zero byte.
#[cfg(feature = "oslog")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_set_log_oslog(subsystem: *const c_char) -> i32 {
    // SAFETY: the caller's contract is the same.
    unsafe { oslog::set(subsystem) as i32 }
}

/// Creates a tunnel between `tun_fd` and the network, and starts it. Returns its positive handle, or -1; the cause is
/// then logged.
///
/// `settings` is the configuration, as in wg_turn_on() of wg_embed.h; NULL means "".
///
/// Memory: the library uses a duplicate of `tun_fd`. The caller keeps it in any case, but it is non-blocking after
/// success. `settings` is not kept.
///
/// # Safety
/// `settings` is NULL or ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wgTurnOn(settings: *const c_char, tun_fd: i32) -> c_int {
    let duplicate = ffi::WG_FD_DUP as u32;
    let options = ffi::wg_options_t { tun_fd, fd_ownership: duplicate, ..ffi::wg_options_t::default() };
    // SAFETY: the options are ours, and the caller says the rest.
    let handle = unsafe { ffi::wg_turn_on_with(&raw const options, or_empty(settings)) };
    if handle > 0 {
        return handle;
    }
    tell_failure(0);
    -1
}

/// Stops a tunnel. No-op for an unknown handle.
#[unsafe(no_mangle)]
pub extern "C" fn wgTurnOff(handle: c_int) {
    ffi::wg_turn_off(handle);
}

/// Changes the configuration of a tunnel. `settings` is as in wgTurnOn(); if a line is refused, nothing changes.
///
/// Returns 0, also for an unknown handle, or a negative errno of Darwin, on every system: -22 (EINVAL) for an invalid
/// value, -100 (EPROTO) for a line that is not of the form key=value, -48 (EADDRINUSE) if the port is not available, -5
/// (EIO) for other errors of the system; or -1 if the tunnel has ended. The cause is logged.
///
/// # Safety
/// `settings` is NULL or ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wgSetConfig(handle: c_int, settings: *const c_char) -> i64 {
    // SAFETY: the caller's contract is the same.
    let result = unsafe { ffi::wg_set_config(handle, or_empty(settings)) };
    let code = darwin(result);
    if code != 0 {
        tell_failure(handle);
    }
    code
}

/// The numbers that wireguard-go's UAPI has on Darwin.
const fn darwin(result: wg_result_t) -> i64 {
    const EIO: i64 = 5;
    const EINVAL: i64 = 22;
    const EADDRINUSE: i64 = 48;
    const EPROTO: i64 = 100;
    match result {
        WG_OK | WG_ERR_UNKNOWN_HANDLE => 0,
        WG_ERR_PROTOCOL => -EPROTO,
        WG_ERR_INVALID | WG_ERR_UNSUPPORTED | WG_ERR_TOO_LARGE | WG_ERR_NOT_FOUND => -EINVAL,
        // It has one for all that keeps a port from being opened, and for a mark that cannot be set.
        WG_ERR_ADDR_IN_USE | WG_ERR_PERMISSION => -EADDRINUSE,
        WG_ERR_IO | WG_ERR_RESOURCES => -EIO,
        _ => -1,
    }
}

/// Returns the configuration and state of a tunnel, including the private key, or NULL for an unknown handle.
///
/// Memory: the caller owns the text, and frees it with free().
#[unsafe(no_mangle)]
pub extern "C" fn wgGetConfig(handle: c_int) -> *mut c_char {
    let mut text = ptr::null_mut();
    // SAFETY: there is room for one pointer.
    if unsafe { ffi::wg_get_config(handle, &raw mut text) } != WG_OK {
        return ptr::null_mut();
    }
    // SAFETY: it is text, and ours until it is given back.
    let copy = unsafe { libc::strdup(text) };
    // SAFETY: this is the only time.
    unsafe { ffi::wg_free(text.cast()) };
    copy
}

/// Reopens a tunnel's sockets in the background, without waiting. Failures are logged, and opening is retried until it
/// succeeds or the tunnel is turned off. Each peer with a session is then sent a packet.
#[unsafe(no_mangle)]
pub extern "C" fn wgBumpSockets(handle: c_int) {
    ffi::leaf::bump_sockets_soon(handle);
}

/// Disables roaming, as wg_disable_roaming() of wg_embed.h does.
#[unsafe(no_mangle)]
pub extern "C" fn wgDisableSomeRoamingForBrokenMobileSemantics(handle: c_int) {
    ffi::wg_disable_roaming(handle);
}

/// Returns the version of wg-embed, like "0.1.0"; NULL without memory.
///
/// Memory: the caller owns the text, and frees it with free().
#[unsafe(no_mangle)]
pub extern "C" fn wgVersion() -> *const c_char {
    // SAFETY: the text is constant.
    unsafe { libc::strdup(ffi::wg_version_string()) }
}

/// Formats a key as base64.
///
/// # Safety
/// `base64` has room for 45 characters including the terminating zero, and `key` points to 32 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn key_to_base64(base64: *mut c_char, key: *const u8) {
    // SAFETY: the caller's contract is the same.
    unsafe { ffi::wg_keys_to_base64(key, base64) };
}

/// Parses a key of 44 characters of base64. Returns false for any other text, and leaves `key` unchanged.
///
/// # Safety
/// `key` has room for 32 bytes, and `base64` ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn key_from_base64(key: *mut u8, base64: *const c_char) -> bool {
    // SAFETY: the caller's contract is the same.
    unsafe { ffi::wg_keys_from_base64(base64, key) == WG_OK }
}

/// Formats a key as hex digits, in lower case.
///
/// # Safety
/// `hex` has room for 65 characters including the terminating zero, and `key` points to 32 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn key_to_hex(hex: *mut c_char, key: *const u8) {
    // SAFETY: the caller's contract is the same.
    unsafe { ffi::wg_keys_to_hex(key, hex) };
}

/// Parses a key of 64 hex digits of either case. Returns false for any other text, and leaves `key` unchanged.
///
/// # Safety
/// `key` has room for 32 bytes, and `hex` ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn key_from_hex(key: *mut u8, hex: *const c_char) -> bool {
    // SAFETY: the caller's contract is the same.
    unsafe { ffi::wg_keys_from_hex(hex, key) == WG_OK }
}

/// Compares two keys in constant time.
///
/// # Safety
/// Each points to 32 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn key_eq(key1: *const u8, key2: *const u8) -> bool {
    // SAFETY: the caller's contract is the same.
    let one = unsafe { take_key(key1) };
    // SAFETY: as above.
    let other = unsafe { take_key(key2) };
    matches!((one, other), (Ok(one), Ok(other)) if one == other)
}

/// Derives the public key of a private key.
///
/// # Safety
/// `public_key` has room for 32 bytes, and `private_key` points to 32.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn curve25519_derive_public_key(public_key: *mut u8, private_key: *const u8) {
    // SAFETY: the caller's contract is the same.
    unsafe { ffi::wg_keys_derive_public(private_key, public_key) };
}

/// Generates a private key. If the system's random generator fails, the key is all zeros, and no tunnel uses it.
///
/// # Safety
/// `private_key` has room for 32 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn curve25519_generate_private_key(private_key: *mut u8) {
    // SAFETY: the caller's contract is the same.
    unsafe { generate_private_or_zeros(private_key) };
}

/// The settings, where NULL stands for none.
const fn or_empty(settings: *const c_char) -> *const c_char {
    if settings.is_null() { c"".as_ptr() } else { settings }
}
