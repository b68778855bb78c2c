//! The function that new sockets are passed to.

use std::ffi::c_void;

/// Called with each new socket before anything is sent on it, for example to keep it out of a VPN (Android's
/// VpnService.protect()).
///
/// `user` is the pointer that was passed with the function; `family` is WG_IPV4 or WG_IPV6; `fd` is the socket (on
/// Windows a SOCKET, which fits). The library keeps ownership of it: do not close it, and do not use it after the call.
/// Returns 0 to accept the socket; with any other value the call that opens the socket fails with WG_ERR_PERMISSION.
///
/// Threads: called on the thread that is inside the call that opens the socket, and on the tunnel's threads when
/// opening sockets is retried. It must not leave by an exception, longjmp() or pthread_exit(). Its stack is as in
/// wg_log_fn_t. Inside it, the functions that wg_log_fn_t lists work; all others return WG_ERR_BUSY.
/// Since: 0.1.0
pub type wg_protect_fn_t = Option<unsafe extern "C" fn(user: *mut c_void, fd: i32, family: u32) -> i32>;
