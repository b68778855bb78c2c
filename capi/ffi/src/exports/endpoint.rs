//! Where a datagram goes to or comes from, as C has it.

use std::{ffi::c_char, ptr};

use crate::{
    plumbing::{guard::guard_anywhere, result::wg_result, text::borrow_text},
    types::endpoint::{WG_ENDPOINT_TEXT_LEN, wg_endpoint_t},
};
use wg_embed::{
    bind::Endpoint,
    error::{Error, ErrorKind, Result},
};

/// Reads `192.0.2.1:51820`, `[2001:db8::1]:51820` or `[fe80::1%eth0]:51820` (the zone is the name or the index of an
/// interface). Host names are not resolved: that is what getaddrinfo() is for.
///
/// Memory: `text` is not kept; writes `*endpoint`, without a source, on success only.
/// Requires: `text` is NULL or ends with a zero byte; `endpoint` is NULL or writable.
/// Errors: WG_ERR_NULL; WG_ERR_INVALID for any other text; WG_ERR_NOT_FOUND if there is no such interface;
/// WG_ERR_PANIC.
/// Threads: any, also inside a callback.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_endpoint_parse(text: *const c_char, endpoint: *mut wg_endpoint_t) -> wg_result {
    guard_anywhere(|| {
        // SAFETY: the caller's contract is the same.
        let parsed = Endpoint::parse(unsafe { borrow_text(text, "text") }?)?;
        check(endpoint)?;
        // SAFETY: it is not NULL, and writable, says the caller.
        unsafe { endpoint.write(parsed.into()) };
        Ok(())
    })
}

/// Writes the peer's address and port as wg_endpoint_parse() reads them; a zone as a number.
///
/// Memory: reads `*endpoint`, and writes up to WG_ENDPOINT_TEXT_LEN characters to `text`, the last of them zero, on
/// success only.
/// Requires: `endpoint` is NULL or readable; `text` is NULL or has room for WG_ENDPOINT_TEXT_LEN characters.
/// Errors: WG_ERR_NULL; WG_ERR_INVALID if the family is not one; WG_ERR_PANIC.
/// Threads: any, also inside a callback.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_endpoint_format(endpoint: *const wg_endpoint_t, text: *mut c_char) -> wg_result {
    // SAFETY: the caller's contract is the same.
    guard_anywhere(|| unsafe { format(endpoint, text, |endpoint| endpoint.dst.to_string()) })
}

/// Writes the source address, without a port; an empty text if there is none.
///
/// Memory: as wg_endpoint_format().
/// Requires: as in wg_endpoint_format().
/// Errors: as wg_endpoint_format().
/// Threads: any, also inside a callback.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_endpoint_format_source(endpoint: *const wg_endpoint_t, text: *mut c_char) -> wg_result {
    let source = |endpoint: Endpoint| endpoint.src.map(|src| src.to_string()).unwrap_or_default();
    // SAFETY: the caller's contract is the same.
    guard_anywhere(|| unsafe { format(endpoint, text, source) })
}

/// Forgets the source: the system chooses address and interface until the peer sends again.
///
/// Memory: changes `*endpoint`.
/// Requires: `endpoint` is NULL or writable.
/// Errors: WG_ERR_NULL; WG_ERR_PANIC.
/// Threads: any, also inside a callback; no other thread uses this endpoint meanwhile.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_endpoint_clear_source(endpoint: *mut wg_endpoint_t) -> wg_result {
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
