//! Memory of the app: arrays that are borrowed for a call, and storage for results.

use std::slice;

use wg_embed::{
    error::{Error, ErrorKind, Result},
    tun::MAX_PACKET,
};

/// The largest number of packets or datagrams in one call of wg_tun_inject() or wg_transport_receive().
///
/// Since: 0.1.0
pub const WG_INJECT_MAX: usize = 4096;

/// Borrows an array of packets or datagrams.
///
/// # Safety
/// `items` is NULL or points to `count` items; they do not change while they are borrowed.
pub(crate) unsafe fn borrow_items<'a, T>(items: *const T, count: usize, name: &str) -> Result<&'a [T]> {
    // SAFETY: the caller's contract is the same.
    unsafe { borrow_up_to(WG_INJECT_MAX, items, count, name) }
}

/// Borrows an array of `most` items at most.
///
/// # Safety
/// `items` is NULL or points to `count` items; they do not change while they are borrowed.
pub(crate) unsafe fn borrow_up_to<'a, T>(most: usize, items: *const T, count: usize, name: &str) -> Result<&'a [T]> {
    match count {
        0 => Ok(&[]),
        _ if items.is_null() => Err(Error::new(ErrorKind::Null, format!("{name} is NULL"))),
        _ if !items.is_aligned() => Err(Error::invalid(format!("{name} is not aligned"))),
        _ if count > most => Err(Error::new(ErrorKind::TooLarge, format!("{count} {name} are more than {most}"))),
        // SAFETY: there are as many, says the caller.
        _ => Ok(unsafe { slice::from_raw_parts(items, count) }),
    }
}

/// Borrows contents of any length, which may be NULL if there are none.
///
/// # Safety
/// `data` is NULL or points to `len` bytes; they do not change while they are borrowed.
pub(crate) unsafe fn borrow_bytes<'a>(data: *const u8, len: usize) -> Result<&'a [u8]> {
    match len {
        0 => Ok(&[]),
        _ if data.is_null() => Err(Error::new(ErrorKind::Null, "data is NULL")),
        // SAFETY: there are as many, says the caller.
        _ => Ok(unsafe { slice::from_raw_parts(data, len) }),
    }
}

/// Refuses a length above that of a packet or a datagram.
pub(crate) fn check_len(len: usize) -> Result<()> {
    if len > MAX_PACKET {
        return Err(Error::invalid(format!("{len} bytes are more than {MAX_PACKET}")));
    }
    Ok(())
}

/// Writes a result, unless `out` is NULL.
///
/// # Safety
/// `out` is NULL or writable.
pub(crate) unsafe fn give<T>(out: *mut T, value: T) {
    if !out.is_null() {
        // SAFETY: it is not NULL.
        unsafe { out.write(value) };
    }
}
