//! The interface for the packages with another library's functions, in addition to the `wg_` functions. For the
//! packages of this workspace only: it may change with any version.

#[cfg(all(unix, not(target_os = "android")))]
use wg_embed::error::Result;
use wg_embed::{bind::Family, error::ErrorKind, key::KEY_LEN};

#[cfg(all(unix, not(target_os = "android")))]
use crate::plumbing::fd::AppFd;
use crate::{
    exports::{bind_to_interface, peer_of, wg_keys_generate_private, wg_last_error},
    plumbing::{
        guard::guard_on,
        handle::{self, Entry},
        result::wg_result_t,
    },
    tunnel::Running,
};
pub use crate::{
    plumbing::{guard::guard, log::set_default_level, text::c_text},
    types::key::take_key,
};

/// Reopens the sockets like [`wg_bump_sockets`](crate::wg_bump_sockets), but on the tunnel's own thread: the result is
/// reported as an event, and in the log.
pub fn bump_sockets_soon(handle: i32) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| {
        entry.check_running()?;
        entry.tunnel.device().rebind_soon();
        Ok(())
    })
}

/// Binds the sockets of one family, of all tunnels, to an interface. Without an index, their outgoing datagrams are
/// dropped. Failures are logged, but not that the host does not have the family.
pub fn bind_all_to_interface(family: Family, interface_index: u32) {
    for handle in handle::all::<Running>() {
        let bound: wg_result_t = guard_on(handle, |entry: &Entry<Running>| {
            let has_socket = || entry.sockets.as_ref().is_some_and(|sockets| sockets.has(family));
            match bind_to_interface(entry, family, interface_index, interface_index == 0) {
                Err(err) if err.kind() == ErrorKind::Unsupported && !has_socket() => Ok(()),
                bound => bound,
            }
        });
        if bound != wg_result_t::WG_OK {
            tell_failure(handle);
        }
    }
}

/// Returns WG_OK if a tunnel has a peer, otherwise the error of [`wg_peer_stats`](crate::wg_peer_stats).
///
/// # Safety
/// `public_key` is NULL or points to 32 readable bytes.
pub unsafe fn has_peer(handle: i32, public_key: *const u8) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| {
        // SAFETY: the caller's contract is the same.
        peer_of(entry, unsafe { take_key(public_key) }?).map(|_| ())
    })
}

/// As [`wg_keys_generate_private`], for functions without a result: on failure the key becomes all zeros, which
/// settings take for none.
///
/// # Safety
/// `private_key` is NULL or has room for 32 bytes.
pub unsafe fn generate_private_or_zeros(private_key: *mut u8) -> wg_result_t {
    // SAFETY: the caller's contract is the same.
    let result = unsafe { wg_keys_generate_private(private_key) };
    if result != wg_result_t::WG_OK && !private_key.is_null() {
        // SAFETY: it is not NULL.
        unsafe { private_key.write_bytes(0, KEY_LEN) };
    }
    result
}

/// Logs the cause of the last failure on this thread: in the log of a tunnel, or for 0 in that of the process. For
/// functions whose result has fewer details.
pub fn tell_failure(handle: i32) {
    // SAFETY: the text is this thread's, and there is no other call until it is copied.
    let why = unsafe { std::ffi::CStr::from_ptr(wg_last_error()) }.to_string_lossy().into_owned();
    let tell = || {
        tracing::error!("{why}");
        Ok(())
    };
    // Inside a callback nothing is logged.
    let _: wg_result_t = if handle == 0 { guard(tell) } else { guard_on(handle, |_: &Entry<Running>| tell()) };
}

/// Sets the MTU of the interface behind a descriptor of the app, where there is one.
#[cfg(all(unix, not(target_os = "android")))]
pub fn set_mtu(fd: i32, mtu: u16) -> Result<()> {
    AppFd::new(fd)?.set_mtu(mtu)
}
