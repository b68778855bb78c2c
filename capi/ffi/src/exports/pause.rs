//! Pause and resumption of a tunnel.

use crate::{
    plumbing::{guard::guard_on, handle::Entry, result::wg_result_t},
    tunnel::Running,
};

/// Pauses a tunnel until wg_resume(): its sockets are closed, its sessions dropped, and neither packets nor timers wake
/// a thread. Packets that are written to `tun_fd` during the pause are queued there, as far as there is room. The
/// configuration stays, and can be read and changed. Idempotent.
///
/// It waits for calls in progress: when it returns, nothing more is sent or written, and no `send`, `write` or `room`
/// callback is running on any thread or will be called before wg_resume().
///
/// Calls of wg_pause() and wg_resume() on several threads are serialized, and the last one takes effect. They are also
/// serialized with wg_bump_sockets(), wg_network_changed() and a new port by wg_set_config(): each waits while
/// `protect` runs for another.
///
/// Memory: nothing changes hands.
/// Errors: WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED if the tunnel has ended; WG_ERR_BUSY inside a callback; WG_ERR_PANIC.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_pause(handle: i32) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| {
        entry.check_running()?;
        entry.tunnel.pause();
        Ok(())
    })
}

/// Resumes a tunnel after wg_pause(), with new sockets, which are passed to `protect` first. A handshake begins at once
/// with each peer that had a session. No-op if the tunnel is not paused. An interface that was down before the pause,
/// or was set down since, stays down until it is set up.
///
/// If the sockets cannot be opened the tunnel resumes nevertheless, and retries as wg_bump_sockets() does.
///
/// Memory: nothing changes hands.
/// Errors: as wg_bump_sockets().
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_resume(handle: i32) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| {
        entry.check_running()?;
        entry.tunnel.resume()
    })
}
