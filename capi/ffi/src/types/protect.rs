//! The function that new sockets are passed to.

use std::ffi::c_void;

/// Is passed a new socket before its first byte, for example to keep it out of a VPN (Android's VpnService.protect()).
///
/// `user` is what came with the function; `family` is WG_IPV4 or WG_IPV6; `fd` is the socket (on Windows a SOCKET,
/// which fits). It stays the library's: do not close it, and do not keep it. Return 0 to let it be used; anything
/// else makes the call fail that wanted a new socket, with WG_ERR_PERMISSION.
///
/// Threads: it is called on the thread that is in the call that makes the socket, and on the tunnel's threads when
/// sockets are tried again. It must not leave by an exception, longjmp() or pthread_exit(). Its stack is as in
/// wg_log_fn_t. Inside it, what wg_log_fn_t names works. Everything else returns WG_ERR_BUSY.
/// Since: 0.1.0
pub type wg_protect_fn_t = Option<unsafe extern "C" fn(user: *mut c_void, fd: i32, family: u32) -> i32>;
