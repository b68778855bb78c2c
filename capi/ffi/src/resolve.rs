//! Host names, looked up by the app or the system.

use std::{
    ffi::{CString, c_char, c_void},
    net::IpAddr,
    sync::Arc,
};

use super::{
    callback::{Given, Slot, wg_destroy_fn_t},
    endpoint::{WG_IPV4, WG_IPV6, family},
    guard::guard_anywhere,
    result::wg_result,
    text::borrow_text,
};
use wg_embed::{
    bind::Family,
    device::{MAX_ADDRESSES, Resolve, resolve_with_system},
    error::{Error, ErrorKind, Result},
};

/// An IP address.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct wg_address_t {
    /// WG_IPV4 or WG_IPV6.
    pub family: u32,
    /// In network byte order. An IPv4 address takes the first four bytes.
    pub bytes: [u8; 16],
}

const _: () = assert!(size_of::<wg_address_t>() == 20 && align_of::<wg_address_t>() == 4);

impl From<IpAddr> for wg_address_t {
    fn from(ip: IpAddr) -> Self {
        let mut address = Self::default();
        match ip {
            IpAddr::V4(ip) => {
                address.family = WG_IPV4 as u32;
                address.bytes[..4].copy_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => (address.family, address.bytes) = (WG_IPV6 as u32, ip.octets()),
        }
        address
    }
}

impl TryFrom<&wg_address_t> for IpAddr {
    type Error = Error;

    fn try_from(address: &wg_address_t) -> Result<Self> {
        let [a, b, c, d, ..] = address.bytes;
        Ok(match family(address.family)? {
            Family::V4 => Self::from([a, b, c, d]),
            Family::V6 => Self::from(address.bytes),
        })
    }
}

/// Looks up a host name: writes up to `capacity` addresses (16 of them) to `addresses`, the best first, and how many they
/// are to `*count`. Returns WG_OK, or a negative wg_result if that fails; what was written does not count then. WG_OK with
/// no address is a failure as well.
///
/// `user` is what came with the function. `host` is UTF-8, as it was configured, or "ipv4only.arpa" to find out about NAT64
/// (RFC 7050); it is gone when the function returns, as `addresses` and `count` are. `addresses` is all zero and `*count`
/// is 0 at first.
///
/// The order should be that of RFC 6724, in which getaddrinfo() answers. If an address is not answered within 10 s the next
/// one is tried, the families taking turns; one that there is no route to is skipped at once.
///
/// Threads: it is called on a thread of the library's own, which is there only while something is looked up ("wg-resolver");
/// never twice at the same time for one tunnel, but for several tunnels. It may block: nothing else waits for it but
/// wg_turn_off() and wg_turn_off_within(), so it should give up at some time. It must not leave by an exception, longjmp()
/// or pthread_exit(). Its stack is as in wg_log_fn_t.
/// Inside it, wg_resolve_system() and what wg_log_fn_t names work. Everything else returns WG_ERR_BUSY.
/// Since: 0.1.0
pub type wg_resolve_fn_t = Option<
    unsafe extern "C" fn(
        user: *mut c_void,
        host: *const c_char,
        addresses: *mut wg_address_t,
        capacity: usize,
        count: *mut usize,
    ) -> i32,
>;

type ResolveFn = unsafe extern "C" fn(*mut c_void, *const c_char, *mut wg_address_t, usize, *mut usize) -> i32;

/// Whom host names are asked of. The app's pointer is given up when this is closed, or with the last of the clones and
/// hooks.
#[derive(Clone)]
pub(super) struct Resolver(Arc<Slot<ResolveFn>>);

impl Resolver {
    /// Asks the app. If it has no function for that, `destroy` is called at once.
    ///
    /// # Safety
    /// `resolve` may be called with `user` on any thread, and `destroy` once with it.
    pub(super) unsafe fn new(resolve: wg_resolve_fn_t, user: *mut c_void, destroy: wg_destroy_fn_t) -> Self {
        let slot = Slot::new();
        slot.set(Given::new(resolve, user, destroy));
        Self(Arc::new(slot))
    }

    /// `None` if there is nobody to ask.
    pub(super) fn hook(&self) -> Option<Resolve> {
        let slot = self.0.clone();
        let gone = || Error::new(ErrorKind::Closed, "there is nobody to ask any more");
        slot.is_set().then(|| -> Resolve {
            Box::new(move |host| slot.call(|resolve, user| ask(resolve, user, host)).unwrap_or_else(|| Err(gone())))
        })
    }

    /// Gives the app's function up: when this returns, it is not running on any thread.
    pub(super) fn close(&self) {
        self.0.close();
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
    if code != wg_result::WG_OK as i32 {
        return Err(Error::new(ErrorKind::NotFound, format!("the app's resolver has returned {code}")));
    }
    let written = addresses.get(..count).ok_or_else(|| {
        let most = addresses.len();
        Error::invalid(format!("the app's resolver says that it has written {count} addresses, more than {most}"))
    })?;
    let of_app = |err: Error| Error::invalid(format!("the app's resolver has written an address that is none: {err}"));
    written.iter().map(|address| IpAddr::try_from(address).map_err(of_app)).collect()
}

/// Looks up a host name with the resolver of the system, getaddrinfo(). It is a wg_resolve_fn_t: the `resolve` of apps that
/// have none of their own, or what such a one falls back to. `user` is not looked at.
///
/// Memory: nothing is kept.
/// Errors: WG_ERR_NULL if one of the others is NULL; WG_ERR_INVALID if `host` is not UTF-8; WG_ERR_IO and others as the
/// system says; WG_ERR_CLOSED (see below); WG_ERR_RESOURCES; WG_ERR_PANIC.
/// Threads: any, also inside a wg_resolve_fn_t. It blocks for as long as the system does; but for a tunnel (as its `resolve`,
/// or inside of it) it returns WG_ERR_CLOSED as soon as the tunnel is being turned off. The system then finishes on a thread
/// "wg-lookup", of which there are 16 at most in a process (further look-ups wait for one). These threads have nothing of a
/// tunnel or an app, but they run code of this library: it must stay loaded. (On Linux and Android dlclose() does not unload it.)
/// Since: 0.1.0
///
/// # Safety
/// `host` is NULL or ends with a zero byte. `addresses` is NULL or has room for `capacity` addresses, `count` is NULL or has
/// room for one number.
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
