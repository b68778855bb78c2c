//! The C struct of an IP packet.

use std::{mem::offset_of, ptr};

use crate::plumbing::memory::{borrow_bytes, borrow_items, check_len};
use wg_embed::{error::Result, reserve};

/// An IP packet.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_packet_t {
    /// The first byte of the IP header. May be NULL if `len` is 0.
    pub data: *const u8,
    /// The length in bytes, up to 65535.
    pub len: usize,
}

const _: () = {
    assert!(size_of::<wg_packet_t>() == 2 * size_of::<usize>());
    assert!(offset_of!(wg_packet_t, data) == 0);
    assert!(offset_of!(wg_packet_t, len) == size_of::<usize>());
};

impl wg_packet_t {
    /// Returns an empty packet.
    pub(crate) fn none() -> Self {
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
/// `packets` is NULL or points to `count` packets, each of which is readable; they do not change while they are
/// borrowed.
pub(crate) unsafe fn borrow_packets<'a>(packets: *const wg_packet_t, count: usize) -> Result<Vec<&'a [u8]>> {
    // SAFETY: the caller's contract is the same.
    let packets = unsafe { borrow_items(packets, count, "packets") }?;
    let borrow = |(i, packet): (usize, &wg_packet_t)| {
        // SAFETY: as above.
        let bytes = check_len(packet.len).and_then(|()| unsafe { borrow_bytes(packet.data, packet.len) });
        bytes.map_err(|err| err.at(format_args!("packets[{i}]")))
    };
    reserve::collect(packets.iter().enumerate().map(borrow))
}
