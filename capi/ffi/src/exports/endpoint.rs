//! Endpoints: parsing, formatting and conversion.

use std::{
    ffi::{c_char, c_void},
    net::SocketAddr,
    ptr,
};

use socket2::{SockAddr, SockAddrStorage, socklen_t};

use crate::{
    plumbing::{guard::guard_anywhere, result::wg_result_t, text::borrow_text},
    types::endpoint::{WG_ENDPOINT_TEXT_LEN, wg_endpoint_t},
};
use wg_embed::{
    bind::Endpoint,
    error::{Error, ErrorKind, Result},
};

/// Parses `192.0.2.1:51820`, `[2001:db8::1]:51820` or `[fe80::1%eth0]:51820` (the zone is the name or the index of an
/// interface). Host names are not resolved: use getaddrinfo().
///
/// Memory: `text` is not kept; writes `*endpoint`, without a source, on success only.
/// Requires: `text` is NULL or ends with a zero byte; `endpoint` is NULL or writable.
/// Errors: WG_ERR_NULL; WG_ERR_INVALID for any other text; WG_ERR_NOT_FOUND if there is no such interface;
/// WG_ERR_PANIC.
/// Threads: any, also inside a callback.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_endpoint_parse(text: *const c_char, endpoint: *mut wg_endpoint_t) -> wg_result_t {
    guard_anywhere(|| {
        // SAFETY: the caller's contract is the same.
        let parsed = Endpoint::parse(unsafe { borrow_text(text, "text") }?)?;
        check(endpoint)?;
        // SAFETY: it is not NULL, and writable, says the caller.
        unsafe { endpoint.write(parsed.into()) };
        Ok(())
    })
}

/// Formats the peer's address and port in the form of wg_endpoint_parse(); a zone is a number.
///
/// Memory: reads `*endpoint`, and writes up to WG_ENDPOINT_TEXT_LEN characters to `text`, the last of them zero, on
/// success only.
/// Requires: `endpoint` is NULL or readable; `text` is NULL or has room for WG_ENDPOINT_TEXT_LEN characters.
/// Errors: WG_ERR_NULL; WG_ERR_INVALID if the family is invalid; WG_ERR_PANIC.
/// Threads: any, also inside a callback.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_endpoint_format(endpoint: *const wg_endpoint_t, text: *mut c_char) -> wg_result_t {
    // SAFETY: the caller's contract is the same.
    guard_anywhere(|| unsafe { format(endpoint, text, |endpoint| endpoint.dst.to_string()) })
}

/// Formats the source address, without a port. Without a source address, the text is empty.
///
/// Memory: as wg_endpoint_format().
/// Requires: as in wg_endpoint_format().
/// Errors: as wg_endpoint_format().
/// Threads: any, also inside a callback.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_endpoint_format_source(endpoint: *const wg_endpoint_t, text: *mut c_char) -> wg_result_t {
    let source = |endpoint: Endpoint| endpoint.src.map(|src| src.to_string()).unwrap_or_default();
    // SAFETY: the caller's contract is the same.
    guard_anywhere(|| unsafe { format(endpoint, text, source) })
}

/// Converts a `struct sockaddr` of AF_INET or AF_INET6, as from getaddrinfo(), getpeername() or recvfrom(), to an
/// endpoint, with its port and zone (sin6_scope_id), but without flow information. An IPv4-mapped IPv6 address stays
/// one.
///
/// Memory: `address` is not kept, and need not be aligned; writes `*endpoint`, without a source, on success only.
/// Requires: `address` is NULL or points to `len` readable bytes; `endpoint` is NULL or writable.
/// Errors: WG_ERR_NULL; WG_ERR_UNSUPPORTED for another family; WG_ERR_INVALID if `len` is too small for the family (it
/// may be larger); WG_ERR_PANIC.
/// Threads: any, also inside a callback.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_endpoint_from_sockaddr(
    address: *const c_void,
    len: usize,
    endpoint: *mut wg_endpoint_t,
) -> wg_result_t {
    guard_anywhere(|| {
        // SAFETY: the caller's contract is the same.
        let address = unsafe { read_sockaddr(address, len) }?;
        check(endpoint)?;
        // SAFETY: it is not NULL, and writable, says the caller.
        unsafe { endpoint.write(Endpoint::new(address).into()) };
        Ok(())
    })
}

/// Converts the peer's address, port and zone to a `struct sockaddr_in` or `struct sockaddr_in6`; the source is left
/// out. A `struct sockaddr_storage` has room for either.
///
/// Memory: reads `*endpoint`, and the size of `address` from `*len`; `address` need not be aligned. On success it
/// writes the address, and its length to `*len`; on failure nothing.
/// Requires: `endpoint` is NULL or readable; `len` is NULL or readable and writable; `address` is NULL or has room for
/// `*len` bytes.
/// Errors: WG_ERR_NULL; WG_ERR_INVALID if the family is invalid, or `*len` is too small for it; WG_ERR_PANIC.
/// Threads: any, also inside a callback.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_endpoint_to_sockaddr(
    endpoint: *const wg_endpoint_t,
    address: *mut c_void,
    len: *mut usize,
) -> wg_result_t {
    guard_anywhere(|| {
        check(endpoint)?;
        if address.is_null() || len.is_null() {
            return Err(Error::new(ErrorKind::Null, "address or len is NULL"));
        }
        // SAFETY: it is not NULL, and readable, says the caller.
        let written = SockAddr::from(unsafe { endpoint.read() }.read()?.dst);
        let size = written.len() as usize;
        // SAFETY: as above.
        check_len(unsafe { len.read() }, size)?;
        // SAFETY: `written` has `size` bytes, and there is room for them.
        unsafe { ptr::copy_nonoverlapping(written.as_ptr().cast(), address.cast::<u8>(), size) };
        // SAFETY: it is not NULL, and writable, says the caller.
        unsafe { len.write(size) };
        Ok(())
    })
}

/// # Safety
/// `address` is NULL or points to `len` readable bytes.
unsafe fn read_sockaddr(address: *const c_void, len: usize) -> Result<SocketAddr> {
    /// The end of the family, which on some systems is behind a length.
    const FAMILY_END: usize = 2;
    if address.is_null() {
        return Err(Error::new(ErrorKind::Null, "the address is NULL"));
    }
    check_len(len, FAMILY_END)?;
    let copy = |storage: *mut SockAddrStorage, size: *mut socklen_t| {
        let readable = len.min(size_of::<SockAddrStorage>());
        // SAFETY: both have that many bytes; any are an address.
        unsafe { ptr::copy_nonoverlapping(address.cast::<u8>(), storage.cast(), readable) };
        // SAFETY: it is where the length goes.
        unsafe { size.write(readable as socklen_t) };
        Ok(())
    };
    // SAFETY: `copy` initializes what it says; the rest is zero.
    let (_, read) = unsafe { SockAddr::try_init(copy) }.map_err(|err| Error::io("cannot read the address", err))?;
    let unsupported = || Error::new(ErrorKind::Unsupported, format!("address family {}", read.family()));
    let address = read.as_socket().ok_or_else(unsupported)?;
    check_len(len, SockAddr::from(address).len() as usize)?;
    Ok(address)
}

fn check_len(len: usize, needed: usize) -> Result<()> {
    if len < needed {
        return Err(Error::invalid(format!("{len} bytes are too few for the address, which takes {needed}")));
    }
    Ok(())
}

/// Clears the source: the system chooses address and interface until the peer sends again.
///
/// Memory: changes `*endpoint`.
/// Requires: `endpoint` is NULL or writable.
/// Errors: WG_ERR_NULL; WG_ERR_PANIC.
/// Threads: any, also inside a callback; no other thread uses this endpoint during the call.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_endpoint_clear_source(endpoint: *mut wg_endpoint_t) -> wg_result_t {
    guard_anywhere(|| {
        check(endpoint)?;
        // SAFETY: it is not NULL, and writable, says the caller.
        unsafe { clear_source(endpoint) };
        Ok(())
    })
}

/// # Safety
/// `endpoint` is writable.
pub(crate) unsafe fn clear_source(endpoint: *mut wg_endpoint_t) {
    // SAFETY: it is readable as well.
    let clear = wg_endpoint_t { source: [0; 16], source_interface: 0, ..unsafe { endpoint.read() } };
    // SAFETY: the caller says so.
    unsafe { endpoint.write(clear) };
}

/// # Safety
/// As in [`wg_endpoint_format`].
unsafe fn format(endpoint: *const wg_endpoint_t, text: *mut c_char, of: impl FnOnce(Endpoint) -> String) -> Result<()> {
    check(endpoint)?;
    // SAFETY: it is not NULL, and readable, says the caller.
    let formatted = of(unsafe { endpoint.read() }.read()?);
    if text.is_null() {
        return Err(Error::new(ErrorKind::Null, "text is NULL"));
    }
    let mut bytes = [0; WG_ENDPOINT_TEXT_LEN];
    bytes[..formatted.len()].copy_from_slice(formatted.as_bytes());
    // SAFETY: no endpoint is longer than that, or else the line above would not have passed; and there is room for it.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), text.cast(), formatted.len() + 1) };
    Ok(())
}

fn check(endpoint: *const wg_endpoint_t) -> Result<()> {
    if endpoint.is_null() {
        return Err(Error::new(ErrorKind::Null, "the endpoint is NULL"));
    }
    Ok(())
}
