//! Addresses of a host, as C has them.

use std::{
    ffi::{c_char, c_void},
    net::IpAddr,
};

use crate::types::endpoint::{WG_IPV4, WG_IPV6, family};
use wg_embed::{
    bind::Family,
    error::{Error, Result},
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
        ip_address(address.family, address.bytes)
    }
}

/// The address of a family that these bytes are.
pub(crate) fn ip_address(number: u32, bytes: [u8; 16]) -> Result<IpAddr> {
    let [a, b, c, d, ..] = bytes;
    Ok(match family(number)? {
        Family::V4 => IpAddr::from([a, b, c, d]),
        Family::V6 => IpAddr::from(bytes),
    })
}

/// Looks up a host name: writes up to `capacity` addresses (16 of them) to `addresses`, the best first, and how many
/// they are to `*count`. Returns WG_OK, or a negative wg_result_t if that fails; what was written does not count then.
/// WG_OK with no address is a failure as well.
///
/// `user` is what came with the function. `host` is UTF-8, as it was configured, or "ipv4only.arpa" to find out about
/// NAT64 (RFC 7050); it is gone when the function returns, as `addresses` and `count` are. `addresses` is all zero and
/// `*count` is 0 at first.
///
/// The order should be that of RFC 6724, in which getaddrinfo() answers. If an address is not answered within 10 s the
/// next one is tried, the families taking turns; one that there is no route to is skipped at once.
///
/// Threads: it is called on a thread of the library's own, which is there only while something is looked up
/// ("wg-resolver"); never twice at the same time for one tunnel, but for several tunnels. It may block: nothing else
/// waits for it but wg_turn_off() and wg_turn_off_within(), so it should give up at some time. It must not leave by an
/// exception, longjmp() or pthread_exit(). Its stack is as in wg_log_fn_t.
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
