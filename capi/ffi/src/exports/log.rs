//! The log: callbacks and levels.

use std::ffi::c_void;

use crate::{
    plumbing::{
        callback::{NewCallback, wg_destroy_fn_t},
        calls,
        guard::{guard, guard_anywhere, guard_on},
        handle::Entry,
        log,
        log::wg_log_fn_t,
        result::wg_result_t,
    },
    tunnel::Running,
};
use wg_embed::error::{Error, ErrorKind};

/// Sets the log callback of the process, replacing the previous one; NULL removes it. A tunnel may have its own: see
/// wg_set_tunnel_log_callback().
///
/// When this returns, no previous callback is running on any thread, and none will be called again. docs/C_API.md lists
/// the locks that may be held.
///
/// Memory: `destroy` (or NULL) is called exactly once with `user`: after `log` has been replaced and its last call has
/// returned; at once if `log` is NULL or the call fails. The rules of wg_log_fn_t apply to it.
/// Requires: `log` and `destroy` are NULL or functions of these types, and may be called with `user` on any thread;
/// `log` concurrently, until this function is called again.
/// Errors: WG_ERR_BUSY inside a callback.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_set_log_callback(
    log: wg_log_fn_t,
    user: *mut c_void,
    destroy: wg_destroy_fn_t,
) -> wg_result_t {
    let given = NewCallback::new(log, user, destroy);
    guard(|| {
        calls::watch_exit();
        log::callback().set(given);
        Ok(())
    })
}

/// Sets the log callback of a tunnel, replacing the previous one; with NULL its lines go to the log callback of the
/// process. So do the lines of wg_turn_on(), which are logged before this can be called; `log` of wg_options_t receives
/// them as well.
///
/// The level is that of the tunnel if it has its own (wg_set_tunnel_log_level()), or else that of the process.
///
/// When this returns, no previous callback is running on any thread, and none will be called again; the same holds when
/// wg_turn_off() returns. docs/C_API.md lists the locks that may be held.
///
/// Memory: `destroy` (or NULL) is called exactly once with `user`: after `log` has been replaced or the tunnel turned
/// off, and its last call has returned; at once if `log` is NULL or the call fails. The rules of wg_log_fn_t apply to
/// it.
/// Requires: `log` and `destroy` are NULL or functions of these types, and may be called with `user` on any thread;
/// `log` concurrently, until it has been replaced or the tunnel turned off.
/// Errors: WG_ERR_UNKNOWN_HANDLE; WG_ERR_PANIC; WG_ERR_BUSY inside a callback.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_set_tunnel_log_callback(
    handle: i32,
    log: wg_log_fn_t,
    user: *mut c_void,
    destroy: wg_destroy_fn_t,
) -> wg_result_t {
    let given = NewCallback::new(log, user, destroy);
    guard_on(handle, |entry: &Entry<Running>| match entry.hooks().log.callback.set(given) {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::UnknownHandle, "the tunnel was turned off during the call")),
    })
}

/// Sets the log level of the process, WG_LOG_OFF to WG_LOG_TRACE, except for tunnels with their own level. It is
/// initially WG_LOG_INFO.
///
/// Memory: nothing changes hands.
/// Errors: WG_ERR_INVALID if there is no such level: the old one stays.
/// Threads: any, also inside a callback.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_set_log_level(level: i32) -> wg_result_t {
    guard_anywhere(|| log::set_level(level))
}

/// Sets the log level of a tunnel: WG_LOG_OFF to WG_LOG_TRACE, or WG_LOG_INHERIT for the level of wg_set_log_level().
/// It applies to the tunnel's log callback, and to that of the process.
///
/// Memory: nothing changes hands.
/// Errors: WG_ERR_INVALID if `level` is not a wg_log_level_t; WG_ERR_UNKNOWN_HANDLE; WG_ERR_BUSY inside a callback;
/// WG_ERR_PANIC.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_set_tunnel_log_level(handle: i32, level: i32) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| entry.hooks().log.set_level(level))
}
