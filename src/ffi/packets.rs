//! IP packets as C has them.

use std::{mem::offset_of, ptr, slice};

use crate::{
    error::{Error, ErrorKind, Result},
    tun::MAX_PACKET,
};

/// How many packets or datagrams C may pass at once.
const MAX_COUNT: usize = 4096;

/// An IP packet.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_packet_t {
    /// Its first byte, which is that of the IP header. May be NULL if `len` is 0.
    pub data: *const u8,
    /// Its length in bytes: up to 65535.
    pub len: usize,
}

const _: () = {
    assert!(size_of::<wg_packet_t>() == 2 * size_of::<usize>());
    assert!(offset_of!(wg_packet_t, data) == 0);
    assert!(offset_of!(wg_packet_t, len) == size_of::<usize>());
};

impl wg_packet_t {
    /// What a place for a packet begins as.
    pub(super) fn none() -> Self {
        Self { data: ptr::null(), len: 0 }
    }
}

impl From<&[u8]> for wg_packet_t {
    fn from(packet: &[u8]) -> Self {
        Self { data: packet.as_ptr(), len: packet.len() }
    }
}

/// Borrows packets of C, after looking at all of them.
///
/// # Safety
/// `packets` is NULL or points to `count` packets, each of which is readable; nobody changes them meanwhile.
pub(super) unsafe fn borrow_packets<'a>(packets: *const wg_packet_t, count: usize) -> Result<Vec<&'a [u8]>> {
    // SAFETY: the caller's contract is the same.
    let packets = unsafe { borrow_items(packets, count, "packets") }?;
    let borrow = |(i, packet): (usize, &wg_packet_t)| {
        // SAFETY: as above.
        unsafe { borrow_bytes(packet.data, packet.len) }.map_err(|err| err.at(format_args!("packets[{i}]")))
    };
    packets.iter().enumerate().map(borrow).collect()
}

/// # Safety
/// `items` is NULL or points to `count` items.
pub(super) unsafe fn borrow_items<'a, T>(items: *const T, count: usize, name: &str) -> Result<&'a [T]> {
    match count {
        0 => Ok(&[]),
        _ if items.is_null() => Err(Error::new(ErrorKind::Null, format!("{name} is NULL"))),
        _ if !items.is_aligned() => Err(Error::invalid(format!("{name} is not aligned"))),
        // SAFETY: there are as many, says the caller.
        1..=MAX_COUNT => Ok(unsafe { slice::from_raw_parts(items, count) }),
        _ => Err(Error::new(ErrorKind::TooLarge, format!("{count} {name} are more than {MAX_COUNT}"))),
    }
}

/// # Safety
/// `data` is NULL or points to `len` bytes.
unsafe fn borrow_bytes<'a>(data: *const u8, len: usize) -> Result<&'a [u8]> {
    match len {
        0 => Ok(&[]),
        _ if data.is_null() => Err(Error::new(ErrorKind::Null, "data is NULL")),
        // SAFETY: there are as many, says the caller.
        1..=MAX_PACKET => Ok(unsafe { slice::from_raw_parts(data, len) }),
        _ => Err(Error::invalid(format!("{len} bytes are more than {MAX_PACKET}"))),
    }
}
