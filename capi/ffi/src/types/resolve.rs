//! The addresses of a host in C.

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
    /// The address, in network byte order. An IPv4 address is in the first four bytes.
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

/// Looks up a host name: writes up to `capacity` addresses (16 of them) to `addresses`, the best first, and their
/// number to `*count`. Returns WG_OK, or a negative wg_result_t on failure; the output is then ignored. WG_OK without
/// an address is a failure as well.
///
/// `user` is the pointer that was passed with the function. `host` is UTF-8: the configured name, or "ipv4only.arpa" to
/// detect NAT64 (RFC 7050). `host`, `addresses` and `count` are valid only during the call. Initially, all of
/// `addresses` is zero, and `*count` is 0.
///
/// The order should be that of RFC 6724, as returned by getaddrinfo(). If an address does not answer within 10 s the
/// next one is tried, alternating between the families; an address without a route is skipped at once.
///
/// Threads: called on a thread of the library ("wg-resolver"), which exists only during look-ups; never concurrently
/// for one tunnel, but concurrently for several tunnels. It may block: only wg_turn_off() and wg_turn_off_within() wait
/// for it, so it should have a time limit. It must not leave by an exception, longjmp() or pthread_exit(). Its stack is
/// as in wg_log_fn_t.
/// Inside it, wg_resolve_system() and the functions that wg_log_fn_t lists work; all others return WG_ERR_BUSY.
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
