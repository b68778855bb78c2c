//! Events: what happens to a tunnel, told to a function of the app.

use std::ffi::c_void;

use crate::{
    plumbing::{
        callback::{Given, wg_destroy_fn_t},
        guard::guard_on,
        handle::Entry,
        result::wg_result,
    },
    tunnel::Running,
    types::event::wg_event_fn_t,
};

/// Tells `event` what happens to a tunnel from now on, in place of what was told before. NULL ends it.
///
/// What has happened before is not told again: wg_peers() knows who has a session by now, and a tunnel that has ended
/// already is refused, so that its end is never missed.
///
/// When this returns, no previous function is running on any thread, and none will be called again; the same holds when
/// wg_turn_off() returns. See docs/C_API.md for the locks that may be held.
///
/// Memory: `destroy` (or NULL) is called exactly once with `user`, when `event` has been replaced or the tunnel turned
/// off, and it has returned for the last time; at once if `event` is NULL or the call fails. It follows the rules of
/// wg_event_fn_t.
/// Requires: `event` and `destroy` are NULL or functions of these types, and may be called with `user` on any thread,
/// `event` until it has been replaced or the tunnel turned off.
/// Errors: WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED if the tunnel has ended, and `event` is not NULL: nobody is told anything
/// then; WG_ERR_PANIC; WG_ERR_BUSY inside a callback.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_set_event_callback(
    handle: i32,
    event: wg_event_fn_t,
    user: *mut c_void,
    destroy: wg_destroy_fn_t,
) -> wg_result {
    let given = Given::new(event, user, destroy);
    guard_on(handle, |entry: &Entry<Running>| entry.hooks.events.set(given))
}
