//! The `protect` callback for new sockets.

use std::{ffi::c_void, io, sync::Arc};

use crate::{
    plumbing::callback::{NewCallback, Slot, wg_destroy_fn_t},
    types::{endpoint::family_number, protect::wg_protect_fn_t},
};
use wg_embed::bind::udp::{BorrowedSocket, SocketHook};

type ProtectFn = unsafe extern "C" fn(*mut c_void, i32, u32) -> i32;

/// The `protect` callback. Its pointer is released when this is closed, or with the last of the clones and hooks.
#[derive(Clone)]
pub(crate) struct Protect(Arc<Slot<Option<ProtectFn>>>);

impl Protect {
    /// Calls the app, if it has set the callback.
    ///
    /// # Safety
    /// `protect` may be called with `user` on any thread, and `destroy` once with it.
    pub(crate) unsafe fn new(protect: wg_protect_fn_t, user: *mut c_void, destroy: wg_destroy_fn_t) -> Self {
        let slot = Slot::new();
        slot.set(NewCallback::new(Some(protect), user, destroy));
        Self(Arc::new(slot))
    }

    pub(crate) fn hook(&self) -> SocketHook {
        let slot = self.0.clone();
        Box::new(move |socket, family| {
            let answer = slot.call(|protect, user| match protect {
                // SAFETY: who set the callback allows this call, on this thread.
                Some(protect) => unsafe { protect(user, number(socket), family_number(family)) },
                None => 0,
            });
            match answer {
                Some(0) => Ok(()),
                Some(_) => {
                    let text = format!("the app has refused the {family} socket");
                    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
                }
                // Whoever wanted the socket was still in a call when everything ended.
                None => Err(io::Error::new(io::ErrorKind::NotConnected, "it was turned off or closed during the call")),
            }
        })
    }

    /// Closes the callback: when this returns, it is not running on any thread. From then on new sockets are refused.
    pub(crate) fn close(&self) {
        drop(self.take());
    }

    /// Closes the callback like [`close`](Self::close), but releases the pointer only when the result is dropped.
    pub(crate) fn take(&self) -> impl Sized {
        self.0.take()
    }
}

#[cfg(not(windows))]
fn number(socket: BorrowedSocket<'_>) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(&socket)
}

/// Handles of Windows have 32 significant bits.
#[cfg(windows)]
fn number(socket: BorrowedSocket<'_>) -> i32 {
    std::os::windows::io::AsRawSocket::as_raw_socket(&socket) as i32
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::{net::UdpSocket, os::fd::AsFd, ptr};
    use wg_embed::{bind::Family, error::ErrorKind};

    #[test]
    fn when_it_is_over_no_socket_is_let_through_and_nobody_is_blamed() {
        // SAFETY: there is no function.
        let protect = unsafe { Protect::new(None, ptr::null_mut(), None) };
        let hook = protect.hook();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        hook(socket.as_fd(), Family::V4).unwrap();
        protect.close();
        assert_eq!(ErrorKind::of_io(&hook(socket.as_fd(), Family::V4).unwrap_err()), ErrorKind::Closed);
    }
}
