//! Tunnels that serve a program which manages them: the VPN manager protocol.

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

/// Serves a program that manages VPNs, over the VPN manager protocol: it reads from `read_fd` and writes to `write_fd`,
/// which are pipes or sockets, perhaps one socket twice. The peers are those of a `.conf` file, which the manager names
/// by a `file:` URL; edits of the file are followed (docs/MANAGER.md). wg_manager_serve() has options. Only in
/// libraries with the feature `control`, on Unix.
///
/// The manager is asked to configure the system's network, but not for a network in userspace (except on Apple's
/// systems). If it gives no TUN and the process may create interfaces, that is the interface "wg-vpn0", which exists
/// when the manager is asked. A start fails if the manager refuses, or does not answer within 30 seconds.
///
/// It returns when the headers have been exchanged, for which the manager has 5 seconds. From then on the tunnel goes
/// on on threads of the library's own, until the manager stops it or closes the stream; nothing is left of it then. A
/// log of it has the handle 0, and the manager gets the lines up to WG_LOG_INFO.
///
/// Returns 0; -2 if `read_fd` and -3 if `write_fd` cannot be duplicated; -4 if there is no pipe for the stream; -5 for
/// any other reason: the exchange of headers has failed, or the call was made inside a callback. wg_last_error() has
/// the reason. The codes are those of another library's function of this name.
///
/// Memory: both descriptors are duplicated, and stay the caller's, to close at any time. Sockets are shut down at the
/// end.
/// Threads: any. It waits for the manager's header.
/// Since: 0.1.0
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the name is that of another library's function")]
pub extern "C" fn OpenTunnel(read_fd: i32, write_fd: i32) -> i32 {
    let mut step = Step::Tunnel;
    let result: wg_result_t = wiped(|| guard(|| open_tunnel(read_fd, write_fd, &mut step)));
    if result == wg_result_t::WG_OK { 0 } else { step as i32 }
}

/// As OpenTunnel(), with options, and a handle: the app may be the source of the peers. Only in libraries with the
/// feature `control`, on Unix.
///
/// `options` may be NULL. Returns a handle above 0, to give to wg_manager_stop() also when the tunnel has ended, or a
/// negative wg_result_t. Managers, tunnels and binds are counted together, but functions for one kind do not accept the
/// handles of another.
///
/// The manager may start a tunnel, stop it, wake it and ask for its peers; docs/MANAGER.md has what is done then. After
/// a stop, and at the end of the stream, the tunnel is down; wg_manager_wait() waits for that.
///
/// Memory: both descriptors are duplicated, and stay the caller's, to close at any time. Sockets are shut down at the
/// end. `options` is not kept. Each `.._destroy` is called exactly once with its `.._user`: by wg_manager_stop(), when
/// all of the functions have returned for the last time; at once where the function is NULL (but `protect_destroy`,
/// which waits for the end as well); or before this call returns if it fails. Only what is in a struct with a wrong
/// `struct_size` is not given up.
/// Requires: `options` is NULL or points to `options->struct_size` readable bytes; its functions are NULL or of their
/// types, and may be called with what belongs to them on any thread; `interface_name` is NULL or ends with a zero byte.
/// Errors: WG_ERR_INVALID if a descriptor is not open, or a value is out of its range; WG_ERR_PROTOCOL if the other
/// side's header is refused; WG_ERR_CLOSED if the stream ended before it; WG_ERR_TIMED_OUT if it did not come in time;
/// WG_ERR_UNSUPPORTED if `options` sets a field that this library does not support; WG_ERR_RESOURCES; WG_ERR_IO;
/// WG_ERR_PANIC; WG_ERR_BUSY inside a callback.
/// Threads: any. It waits for the manager's header. The tunnel runs on threads of the library's own.
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

/// Gives a manager's tunnel its configuration and its peers: for a start, inside `start` of the options or before it,
/// and later on whenever something has changed. `state` is all that there is: what differs from the last call is
/// applied and sent to the manager, and what is missing was deleted. Sessions of peers that stay are kept. Another MTU
/// or other addresses reach the system's network by the manager or `configure`.
///
/// When it returns WG_OK, the configuration is valid, and on its way to the tunnel; what comes of it is in the log.
///
/// Memory: `state` and what it points to is not kept. The library has a copy of the configuration, which it wipes when
/// the tunnel ends.
/// Requires: `state` is NULL or points to `state->struct_size` readable bytes; `conf` points to `conf_len` bytes,
/// `workspaces` and `agents` to as many structs as their counts give; texts are NULL or end with a zero byte.
/// Errors: WG_ERR_NULL if `state`, its `conf` or a name is NULL; WG_ERR_INVALID if a value is invalid: wg_last_error()
/// names it; WG_ERR_TOO_LARGE as in wg_conf_parse(); WG_ERR_UNSUPPORTED without `start` in the options, or for fields
/// that this library does not support; WG_ERR_CLOSED if the tunnel has ended; WG_ERR_UNKNOWN_HANDLE; WG_ERR_FORKED;
/// WG_ERR_RESOURCES; WG_ERR_PANIC; WG_ERR_BUSY inside a callback other than `start` of the same manager. On failure
/// nothing has changed.
/// Threads: any; calls for one manager come one after another. It waits while 64 changes are on their way, but not
/// inside a callback: it is refused there, or, inside `start`, does not have to wait.
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

/// Waits until a manager's tunnel has ended, by itself or by wg_manager_stop() on another thread, for `timeout_ms`
/// milliseconds at most: 0 does not wait, and a negative number waits without limit.
///
/// Returns WG_OK if it was stopped, by the manager or wg_manager_stop(), or if the manager has closed the stream
/// between two messages. The handle is still to be given to wg_manager_stop().
///
/// Errors: WG_ERR_TIMED_OUT if it has not ended; WG_ERR_PROTOCOL if it has ended because of what the manager has sent;
/// WG_ERR_IO if reading or writing has failed; WG_ERR_UNKNOWN_HANDLE; WG_ERR_RESOURCES; WG_ERR_PANIC; WG_ERR_BUSY
/// inside a callback.
/// Threads: any, also several at once. A thread is not cancelled while it waits.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_manager_wait(manager: i32, timeout_ms: i32) -> wg_result_t {
    let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
    guard_on(manager, |entry: &Entry<Manager>| entry.wait(timeout))
}

/// Ends the stream and the tunnel, and gives the handle up.
///
/// When this returns, none of the app's functions is running on any thread, and each was destroyed; descriptors are
/// closed, and threads have ended.
///
/// Memory: everything that belongs to it is freed, and its keys are wiped.
/// Errors: WG_ERR_UNKNOWN_HANDLE, also for the second of two calls: if the first is still under way on another thread,
/// the second waits for it; WG_ERR_RESOURCES; WG_ERR_PANIC; WG_ERR_BUSY inside a callback, and it goes on.
/// Threads: any. It waits for callbacks: also for a `start` that is looking for peers.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_manager_stop(manager: i32) -> wg_result_t {
    let body = || handle::end(manager, |entry: &Entry<Manager>| entry.logged(|| entry.stop()));
    wiped(|| guard_end(manager, body))
}
