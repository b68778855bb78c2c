//! New sockets, shown to the app before their first byte.

use std::{ffi::c_void, io};

use super::callback::{Callback, wg_destroy_fn_t};
use crate::bind::udp::{BorrowedSocket, SocketHook};

/// Is shown a new socket before its first byte, for example to keep it out of a VPN (Android's VpnService.protect()).
///
/// `user` is what came with the function; `family` is WG_IPV4 or WG_IPV6; `fd` is the socket (on Windows a SOCKET,
/// which fits). It stays the library's: do not close it, and do not keep it. Return 0 to let it be used; anything
/// else makes the call fail that wanted a new socket, with WG_ERR_PERMISSION.
///
/// Threads: it is called on the thread that is in the call that makes the socket. It must not leave by an exception or
/// longjmp(). Inside it, what wg_log_fn_t names works. Everything else returns WG_ERR_BUSY.
/// Since: 0.1.0
pub type wg_protect_fn_t = Option<unsafe extern "C" fn(user: *mut c_void, fd: i32, family: u32) -> i32>;

type ProtectFn = unsafe extern "C" fn(*mut c_void, i32, u32) -> i32;

/// A hook that asks the app.
///
/// # Safety
/// `protect` may be called with `user` on any thread, and `destroy` once with it.
pub(super) unsafe fn hook(protect: wg_protect_fn_t, user: *mut c_void, destroy: wg_destroy_fn_t) -> SocketHook {
    let callback: Callback<Option<ProtectFn>> = Callback::new(protect, user, destroy);
    Box::new(move |socket, family| {
        let answer = callback.call(|protect, user| match protect {
            // SAFETY: who set the callback allows this call, on this thread.
            Some(protect) => unsafe { protect(user, number(socket), family.into()) },
            None => 0,
        });
        match answer {
            0 => Ok(()),
            _ => {
                Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("the app has refused the {family} socket")))
            }
        }
    })
}

#[cfg(not(windows))]
fn number(socket: BorrowedSocket<'_>) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(&socket)
}

/// Handles of Windows have 32 bits that count.
#[cfg(windows)]
fn number(socket: BorrowedSocket<'_>) -> i32 {
    std::os::windows::io::AsRawSocket::as_raw_socket(&socket) as i32
}
