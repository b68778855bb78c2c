//! A tunnel that is paused while the app or the device is.

use crate::{
    plumbing::{guard::guard_on, handle::Entry, result::wg_result_t},
    tunnel::Running,
};

/// Pauses a tunnel: its sockets are closed, its sessions forgotten, and neither packets nor timers wake a thread, until
/// wg_resume(). What the system or the app writes to `tun_fd` meanwhile waits there, as far as there is room. The
/// configuration stays, and can be read and changed. A tunnel that is paused already stays paused.
///
/// It waits for calls that are under way: when it returns, nothing is sent or written, and of the functions that the
/// app has given, no `send`, `write` or `room` is running on any thread or will be called before wg_resume().
///
/// Calls of wg_pause() and wg_resume() on several threads come one after another, and the last one counts. So do, with
/// them, wg_bump_sockets(), wg_network_changed() and a new port by wg_set_config(): each waits while `protect` runs for
/// another.
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

/// Lets a tunnel go on after wg_pause(), with new sockets, passed to `protect` first. With each peer that there was a
/// session with a handshake is begun at once. On a tunnel that is not paused it does nothing. An interface that was
/// down before the pause, or was taken down since, stays down until it is taken up.
///
/// If the sockets cannot be opened the tunnel goes on nevertheless, and tries again as wg_bump_sockets() does.
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
