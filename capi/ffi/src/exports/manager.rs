//! Managed tunnels: the VPN manager protocol.

use std::time::Duration;

use crate::{
    manager::{Manager, Step, open_tunnel, serve, state},
    plumbing::{
        calls,
        guard::{guard, guard_anywhere, guard_end, guard_on},
        handle::{self, Entry},
        result::wg_result_t,
        sized::read_sized,
    },
    types::manager::{wg_manager_options_t, wg_manager_state_t},
};
use wg_embed::{
    error::{Error, ErrorKind},
    key::wiped,
};

/// Serves a VPN manager over the VPN manager protocol: reads its requests from `read_fd` and writes the answers to
/// `write_fd`, which are pipes or sockets, possibly the same socket. The manager names a `.conf` file by a `file:` URL,
/// and the peers are those of the file; changes of the file are applied (docs/MANAGER.md). wg_manager_serve() has
/// options. Only in libraries with the feature `control`, on Unix.
///
/// The manager is requested to configure the system's network, except for a userspace network (on Apple's systems also
/// for that). If it supplies no TUN and the process may create interfaces, a new interface "wg-vpn0" exists before that
/// request. A start fails if the manager refuses the request, or does not answer within 30 seconds.
///
/// Returns when the headers have been exchanged, within 5 seconds. After that the tunnel runs on threads of the library
/// until the manager stops it or closes the stream; then all of its resources are freed. Its log lines have the handle
/// 0, and those up to WG_LOG_INFO are sent to the manager.
///
/// Returns 0 on success; -2 if `read_fd` and -3 if `write_fd` cannot be duplicated; -4 if the pipe for the stream
/// cannot be created; -5 for any other failure, such as in the exchange of headers, or a call inside a callback.
/// wg_last_error() has the reason. The codes are those of another library's function of this name.
///
/// Memory: both descriptors are duplicated; the caller keeps them, and may close them at any time. Sockets are shut
/// down at the end.
/// Threads: any. It waits for the manager's header.
/// Since: 0.1.0
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the name is that of another library's function")]
pub extern "C" fn OpenTunnel(read_fd: i32, write_fd: i32) -> i32 {
    let mut step = Step::Tunnel;
    let result: wg_result_t = wiped(|| guard(|| open_tunnel(read_fd, write_fd, &mut step)));
    if result == wg_result_t::WG_OK { 0 } else { step as i32 }
}

/// Serves a VPN manager as OpenTunnel() does, with options, and returns a handle. With `start` in the options, the app
/// supplies the peers. Only in libraries with the feature `control`, on Unix.
///
/// `options` may be NULL. Returns a positive handle, which must be passed to wg_manager_stop() even if the tunnel has
/// ended, or a negative wg_result_t. Managers, tunnels and binds share one sequence of handles, but functions for one
/// kind do not accept the handles of another.
///
/// The manager may start and stop the tunnel, wake it, and request the list of its peers; docs/MANAGER.md describes
/// the effects. After a stop, and at the end of the stream, the tunnel is down; wg_manager_wait() waits for that.
///
/// Memory: both descriptors are duplicated; the caller keeps them, and may close them at any time. Sockets are shut
/// down at the end. `options` is not kept. Each `.._destroy` is called exactly once with its `.._user`: by
/// wg_manager_stop(), when the last call of any of the callbacks has returned; at once if the function is NULL (except
/// `protect_destroy`, which is called at the end as well); or before this call returns if it fails. Only the `.._user`
/// pointers of a struct with an invalid `struct_size` are not released.
/// Requires: `options` is NULL or points to `options->struct_size` readable bytes; its functions are NULL or of their
/// types, and may be called with their `user` pointers on any thread; `interface_name` is NULL or ends with a zero
/// byte.
/// Errors: WG_ERR_INVALID if a descriptor is not open, or a value is out of range; WG_ERR_PROTOCOL if the manager's
/// header is refused; WG_ERR_CLOSED if the stream has ended before the header; WG_ERR_TIMED_OUT if the header has not
/// arrived in time; WG_ERR_UNSUPPORTED if a field is set that is unknown to this library; WG_ERR_RESOURCES; WG_ERR_IO;
/// WG_ERR_PANIC; WG_ERR_BUSY inside a callback.
/// Threads: any. It waits for the manager's header. The tunnel runs on threads of the library.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_manager_serve(read_fd: i32, write_fd: i32, options: *const wg_manager_options_t) -> i32 {
    let default = wg_manager_options_t::default();
    let options = if options.is_null() { &raw const default } else { options };
    // SAFETY: the caller's contract is the same.
    let options = unsafe { read_sized(options, "options") };
    // SAFETY: as above.
    unsafe { serve(read_fd, write_fd, options) }
}

/// Sets the configuration and the peers of a managed tunnel: for a start, inside `start` of the options or before it,
/// and later whenever they have changed. `state` is complete: differences from the last call are applied and sent to
/// the manager, and missing peers, agents and workspaces are deleted. Peers that stay keep their sessions. A change of
/// the MTU or the addresses is passed to the manager or to `configure`.
///
/// When it returns WG_OK, the configuration is valid and queued for the tunnel; the log has the result.
///
/// Memory: `state` and its pointers are not kept. The library keeps a copy of the configuration, which is wiped when
/// the tunnel ends.
/// Requires: `state` is NULL or points to `state->struct_size` readable bytes; `conf` points to `conf_len` bytes,
/// `workspaces` and `agents` to as many structs as their counts; texts are NULL or end with a zero byte.
/// Errors: WG_ERR_NULL if `state`, its `conf` or a name is NULL; WG_ERR_INVALID if a value is invalid: wg_last_error()
/// names it; WG_ERR_TOO_LARGE as in wg_conf_parse(); WG_ERR_UNSUPPORTED without `start` in the options, or if a field
/// is set that is unknown to this library; WG_ERR_CLOSED if the tunnel has ended; WG_ERR_UNKNOWN_HANDLE; WG_ERR_FORKED;
/// WG_ERR_RESOURCES; WG_ERR_PANIC; WG_ERR_BUSY inside a callback other than `start` of the same manager. On failure
/// nothing changes.
/// Threads: any; calls for one manager are serialized. It waits while 64 changes are queued, but never inside `start`.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_manager_update(manager: i32, state: *const wg_manager_state_t) -> wg_result_t {
    let body = || {
        handle::check_process(manager)?;
        let busy = || Error::new(ErrorKind::Busy, "this function cannot be called from inside a callback");
        let inside = calls::is_inside();
        let served = match handle::functions::<Manager>(manager) {
            Ok(known) => known.functions,
            Err(_) if inside => return Err(busy()),
            Err(unknown) => return Err(unknown),
        };
        if inside && !served.source().is_ok_and(|source| source.is_finding()) {
            return Err(busy());
        }
        let source = served.source()?;
        // SAFETY: the caller's contract is the same.
        source.update(unsafe { state::read(state) }?)
    };
    wiped(|| guard_anywhere(body))
}

/// Waits until a managed tunnel has ended, by itself or by wg_manager_stop() on another thread, for at most
/// `timeout_ms` milliseconds: 0 does not wait, and a negative number waits without limit.
///
/// Returns WG_OK if the tunnel was stopped, by the manager or wg_manager_stop(), or if the manager has closed the
/// stream between two messages. The handle must still be passed to wg_manager_stop().
///
/// Errors: WG_ERR_TIMED_OUT if it has not ended; WG_ERR_PROTOCOL if a message of the manager has ended it; WG_ERR_IO if
/// reading or writing has failed; WG_ERR_UNKNOWN_HANDLE; WG_ERR_RESOURCES; WG_ERR_PANIC; WG_ERR_BUSY inside a callback.
/// Threads: any, also several concurrently. A waiting thread cannot be cancelled (pthread_cancel()).
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_manager_wait(manager: i32, timeout_ms: i32) -> wg_result_t {
    let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
    guard_on(manager, |entry: &Entry<Manager>| entry.wait(timeout))
}

/// Ends the stream and the tunnel. The handle becomes invalid.
///
/// When this returns, none of its callbacks is running on any thread, each `destroy` has been called, its descriptors
/// are closed, and its threads have ended.
///
/// Memory: everything that belongs to it is freed, and its keys are wiped.
/// Errors: WG_ERR_UNKNOWN_HANDLE, also for the second of two calls: if the first is still in progress on another
/// thread, the second waits for it; WG_ERR_RESOURCES; WG_ERR_PANIC; WG_ERR_BUSY inside a callback: the tunnel keeps
/// running.
/// Threads: any. It waits for callbacks, including `start`.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_manager_stop(manager: i32) -> wg_result_t {
    let body = || handle::end(manager, |entry: &Entry<Manager>| entry.logged(|| entry.stop()));
    wiped(|| guard_end(manager, body))
}
