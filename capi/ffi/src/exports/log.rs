//! The log: who gets it, and how much of it.

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

/// Sends the log of the whole process to `log`, in place of where it went before. NULL ends it. A tunnel may have a log
/// of its own: see wg_set_tunnel_log_callback().
///
/// When this returns, no previous function is running on any thread, and none will be called again. See docs/C_API.md
/// for the locks that may be held.
///
/// Memory: `destroy` (or NULL) is called exactly once with `user`, when `log` has been replaced and has returned for
/// the last time; at once if `log` is NULL or the call fails. It follows the rules of wg_log_fn_t.
/// Requires: `log` and `destroy` are NULL or functions of these types, and may be called with `user` on any thread;
/// `log` on several at once, until this function was called again.
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

/// Sends the log of one tunnel to `log`, in place of where it went before. NULL sends it to where the log of the
/// process goes. Lines of wg_turn_on() come before this can be called, and go there in any case; `log` of wg_options_t
/// gets them as well.
///
/// The level is that of the tunnel if it has one of its own (wg_set_tunnel_log_level()), or else that of the process.
///
/// When this returns, no previous function is running on any thread, and none will be called again; the same holds when
/// wg_turn_off() returns. See docs/C_API.md for the locks that may be held.
///
/// Memory: `destroy` (or NULL) is called exactly once with `user`, when `log` has been replaced or the tunnel turned
/// off, and it has returned for the last time; at once if `log` is NULL or the call fails. It follows the rules of
/// wg_log_fn_t.
/// Requires: `log` and `destroy` are NULL or functions of these types, and may be called with `user` on
/// any thread; `log` on several at once, until it has been replaced or the tunnel turned off.
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
        false => Err(Error::new(ErrorKind::UnknownHandle, "the tunnel was turned off meanwhile")),
    })
}

/// Sets how much is logged, for the whole process but tunnels with a level of their own: WG_LOG_OFF to WG_LOG_TRACE. It
/// is WG_LOG_INFO at first.
///
/// Memory: nothing changes hands.
/// Errors: WG_ERR_INVALID if there is no such level; the old one then stays.
/// Threads: any, also inside a callback.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_set_log_level(level: i32) -> wg_result_t {
    guard_anywhere(|| log::set_level(level))
}

/// Chooses how much of one tunnel is logged: WG_LOG_OFF to WG_LOG_TRACE, or WG_LOG_INHERIT for what wg_set_log_level()
/// says: for the lines that its function gets, and for those that go to the function of the process.
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
