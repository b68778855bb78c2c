//! The `resolve` callback for host names.

use std::{
    ffi::{CString, c_char, c_void},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    plumbing::{
        callback::{NewCallback, Slot, wg_destroy_fn_t},
        result::wg_result_t,
    },
    types::resolve::{wg_address_t, wg_resolve_fn_t},
    wg_resolve_system,
};
use wg_embed::{
    device::{MAX_ADDRESSES, Resolve, resolve_with_system},
    error::{Error, ErrorKind, Result},
};

type ResolveFn = unsafe extern "C" fn(*mut c_void, *const c_char, *mut wg_address_t, usize, *mut usize) -> i32;

/// The `resolve` callback. Its pointer is released when this is closed, or with the last of the clones and hooks.
#[derive(Clone)]
pub(crate) struct Resolver(Arc<Slot<ResolveFn>>);

impl Resolver {
    /// Uses the callback of the app. Without one, `destroy` is called at once.
    ///
    /// # Safety
    /// `resolve` may be called with `user` on any thread, and `destroy` once with it.
    pub(crate) unsafe fn new(resolve: wg_resolve_fn_t, user: *mut c_void, destroy: wg_destroy_fn_t) -> Self {
        let slot = Slot::new();
        slot.set(NewCallback::new(resolve, user, destroy));
        Self(Arc::new(slot))
    }

    /// `None` without a callback.
    pub(crate) fn hook(&self) -> Option<Resolve> {
        let slot = self.0.clone();
        let gone = || Error::new(ErrorKind::Closed, "the app's resolver was released");
        slot.is_set().then(|| -> Resolve {
            Box::new(move |host| slot.call(|resolve, user| ask(resolve, user, host)).unwrap_or_else(|| Err(gone())))
        })
    }

    /// Closes the callback: when this returns, it is not running on any thread. Its pointer is released when the result
    /// is dropped.
    pub(crate) fn take(&self) -> impl Sized {
        self.0.take()
    }
}

fn ask(resolve: ResolveFn, user: *mut c_void, host: &str) -> Result<Vec<IpAddr>> {
    if std::ptr::fn_addr_eq(resolve, wg_resolve_system as ResolveFn) {
        // The same, but for the reason of a failure, of which only the code would come back.
        return resolve_with_system(host);
    }
    let host = CString::new(host).map_err(|_| Error::invalid("a host name has a zero byte"))?;
    let mut addresses = [wg_address_t::default(); MAX_ADDRESSES];
    let mut count = 0;
    // SAFETY: who set the function allows this call, on this thread; name, room and number live until it returns.
    let code = unsafe { resolve(user, host.as_ptr(), addresses.as_mut_ptr(), addresses.len(), &raw mut count) };
    if code != wg_result_t::WG_OK as i32 {
        return Err(Error::new(ErrorKind::NotFound, format!("the app's resolver has returned {code}")));
    }
    let written = addresses.get(..count).ok_or_else(|| {
        let most = addresses.len();
        Error::invalid(format!("the app's resolver reports that it has written {count} addresses, more than {most}"))
    })?;
    let of_app = |err: Error| Error::invalid(format!("the app's resolver has written an invalid address: {err}"));
    written.iter().map(|address| IpAddr::try_from(address).map_err(of_app)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_as_they_went() {
        for text in ["192.0.2.1", "2001:db8::1"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::try_from(&wg_address_t::from(ip)).unwrap(), ip);
        }
        for family in [0, 5, 46] {
            let refused = IpAddr::try_from(&wg_address_t { family, bytes: [1; 16] }).unwrap_err();
            assert!(refused.to_string().contains(&format!("family is {family},")));
        }
    }
}
