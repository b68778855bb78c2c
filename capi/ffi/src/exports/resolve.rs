//! Host names, looked up by the app or the system.

use std::ffi::{c_char, c_void};

use crate::{
    plumbing::{guard::guard_anywhere, text::borrow_text},
    types::resolve::wg_address_t,
};
use wg_embed::{
    device::resolve_with_system,
    error::{Error, ErrorKind},
};

/// Looks up a host name with the resolver of the system, getaddrinfo(). It is a wg_resolve_fn_t, for apps without a
/// resolver of their own, or as a fallback of such a resolver. `user` is ignored.
///
/// Memory: nothing is kept.
/// Requires: `host` is NULL or ends with a zero byte. `addresses` is NULL or has room for `capacity` addresses, `count`
/// is NULL or has room for one number.
/// Errors: WG_ERR_NULL if `host`, `addresses` or `count` is NULL; WG_ERR_INVALID if `host` is not UTF-8; WG_ERR_IO and
/// others for errors of the system; WG_ERR_CLOSED (see below); WG_ERR_RESOURCES; WG_ERR_PANIC.
/// Threads: any, also inside a wg_resolve_fn_t. It blocks for as long as the system does; but for a tunnel (as its
/// `resolve`, or inside it) it returns WG_ERR_CLOSED as soon as the tunnel is being turned off. The look-up of the
/// system then ends on a thread "wg-lookup". A process has at most 16 of these (further look-ups wait for one). They
/// hold no data of a tunnel or an app, but run code of this library, which must stay loaded. (On Linux and Android
/// dlclose() does not unload it.)
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_resolve_system(
    user: *mut c_void,
    host: *const c_char,
    addresses: *mut wg_address_t,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    let _ = user;
    let result = guard_anywhere(|| {
        if addresses.is_null() || count.is_null() {
            return Err(Error::new(ErrorKind::Null, "addresses or count is NULL"));
        }
        // SAFETY: the caller's contract is the same.
        let found = resolve_with_system(unsafe { borrow_text(host, "host") }?)?;
        let n = found.len().min(capacity);
        for (i, ip) in found.into_iter().take(n).enumerate() {
            // SAFETY: there is room for `capacity` of them, says the caller.
            let place = unsafe { addresses.add(i) };
            // SAFETY: as above.
            unsafe { place.write(ip.into()) };
        }
        // SAFETY: there is room for it, says the caller.
        unsafe { count.write(n) };
        Ok(())
    });
    result as i32
}
