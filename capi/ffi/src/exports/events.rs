//! Events of a tunnel: callback and queue.

use std::{ffi::c_void, time::Duration};

use crate::{
    plumbing::{
        callback::{NewCallback, wg_destroy_fn_t},
        guard::guard_on,
        handle::Entry,
        result::wg_result_t,
        sized::{struct_size, write_sized},
    },
    tunnel::Running,
    types::event::{wg_event_fn_t, wg_event_t},
};

/// Sets the event callback of a tunnel, replacing the previous one; NULL removes it.
///
/// Earlier events are not repeated: wg_peers() returns which peers have a session. A tunnel that has already ended is
/// refused, so that its end is never missed.
///
/// When this returns, no previous callback is running on any thread, and none will be called again; the same holds when
/// wg_turn_off() returns. docs/C_API.md lists the locks that may be held.
///
/// Memory: `destroy` (or NULL) is called exactly once with `user`: after `event` has been replaced or the tunnel turned
/// off, and its last call has returned; at once if `event` is NULL or the call fails. The rules of wg_event_fn_t apply
/// to it.
/// Requires: `event` and `destroy` are NULL or functions of these types, and may be called with `user` on any thread,
/// `event` until it has been replaced or the tunnel turned off.
/// Errors: WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED if the tunnel has ended, and `event` is not NULL: no callback is set
/// then; WG_ERR_PANIC; WG_ERR_BUSY inside a callback.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_set_event_callback(
    handle: i32,
    event: wg_event_fn_t,
    user: *mut c_void,
    destroy: wg_destroy_fn_t,
) -> wg_result_t {
    let given = NewCallback::new(event, user, destroy);
    guard_on(handle, |entry: &Entry<Running>| entry.hooks().events.set(given))
}

/// Returns a descriptor that poll() reports as readable while wg_next_event() would not wait, for event loops whose
/// code cannot be called on a thread of the library. The tunnel must have WG_OPTIONS_QUEUE_EVENTS.
///
/// Memory: the descriptor is borrowed until wg_turn_off(), and is only for polling: do not read from it, and do not
/// close it.
/// Errors: WG_ERR_UNSUPPORTED if the tunnel has no WG_OPTIONS_QUEUE_EVENTS, or this platform has no descriptors
/// (Windows: let a thread wait in wg_next_event()); WG_ERR_UNKNOWN_HANDLE; WG_ERR_PANIC; WG_ERR_BUSY inside a callback.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_event_fd(handle: i32) -> i32 {
    guard_on(handle, |entry: &Entry<Running>| entry.hooks().events.queue()?.fd())
}

/// Removes the next event from the queue of a tunnel that has WG_OPTIONS_QUEUE_EVENTS, in the order in which they
/// occurred, and waits for it for at most `timeout_ms` milliseconds: 0 does not wait, and a negative number waits
/// without limit.
///
/// Returns 1 with an event, or 0 without one. The queue holds up to WG_EVENTS_MAX events; beyond that the oldest are
/// dropped, and the next call returns WG_EVENT_MISSED. After WG_EVENT_ENDED, and in calls that wait while the tunnel is
/// turned off, it returns WG_ERR_CLOSED, at once and each time.
///
/// Memory: only if it returns 1, writes the first `event->struct_size` bytes of `event`, except `struct_size` itself.
/// Requires: `event` is NULL or points to `event->struct_size` readable and writable bytes.
/// Errors: WG_ERR_NULL if `event` is NULL; WG_ERR_INVALID if its struct_size is invalid; WG_ERR_UNSUPPORTED without
/// WG_OPTIONS_QUEUE_EVENTS; WG_ERR_CLOSED; WG_ERR_UNKNOWN_HANDLE; WG_ERR_PANIC; WG_ERR_BUSY inside a callback.
/// Threads: any, also several concurrently: each event goes to one of them. A waiting thread cannot be cancelled
/// (pthread_cancel()).
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_next_event(handle: i32, event: *mut wg_event_t, timeout_ms: i32) -> i32 {
    guard_on(handle, |entry: &Entry<Running>| {
        // SAFETY: the caller's contract is the same.
        let size = unsafe { struct_size(event, "event") }?;
        let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
        let Some(next) = entry.hooks().events.queue()?.next(timeout)? else {
            return Ok(0);
        };
        // SAFETY: as above; the size was read from it.
        unsafe { write_sized(&wg_event_t { struct_size: size, ..next }, event, size) };
        Ok(1)
    })
}
