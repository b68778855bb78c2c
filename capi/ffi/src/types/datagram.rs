//! The C struct of a datagram.

use std::{ffi::c_void, mem::offset_of, ptr};

use crate::{
    plumbing::memory::{borrow_bytes, borrow_items, check_len},
    types::endpoint::wg_endpoint_t,
};
use wg_embed::{
    bind::{self, BatchUdp, SendReport, Transmit, callback::Datagram},
    error::{Error, ErrorKind, Result},
    reserve,
};

/// The largest number of datagrams in one call of wg_udp_send(), and of packets or datagrams in one call of a callback.
/// Later versions of wg_udp_send() may accept more, but not fewer; callbacks never get more.
///
/// Since: 0.1.0
pub const WG_BATCH_SIZE: usize = 128;

const _: () = assert!(WG_BATCH_SIZE == BatchUdp::BATCH_SIZE && WG_BATCH_SIZE == bind::BATCH);

/// Flags of a wg_datagram_t: the outcome of sending or receiving it.
///
/// Since: 0.1.0
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum wg_datagram_flags_t {
    /// Sending: the system refused it, or some of its segments.
    WG_DATAGRAM_DROPPED = 1,
    /// Sending: the source in `*peer` is no longer an address of this host. It was cleared, and the datagram was sent
    /// without a source.
    WG_DATAGRAM_SOURCE_CLEARED = 2,
    /// Receiving: `data` was too small, and the rest of the datagram is lost; `full_len` is its full length.
    WG_DATAGRAM_TRUNCATED = 4,
}

pub use wg_datagram_flags_t::*;

/// A datagram to send, or a buffer to receive one. A received datagram can be sent on as it is.
///
/// A wg_transport_t uses them in the same way as a bind: `send` gets datagrams to send, one in each, which it must not
/// change, and wg_transport_receive() accepts datagrams that wg_udp_recv() has filled.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_datagram_t {
    /// The contents: read when sending, written when receiving. NULL without contents.
    pub data: *mut c_void,
    /// Receiving: the size of `data` in bytes. Ignored when sending.
    pub capacity: usize,
    /// Sending: the number of bytes to send; 0 is an empty datagram. Receiving: the number of bytes written to `data`.
    pub len: usize,
    /// Sending: the destination; its source is cleared if it no longer exists. Receiving: storage for the sender, or
    /// NULL.
    pub peer: *mut wg_endpoint_t,
    /// Receiving: the full length of the datagram; more than `len` if it was truncated.
    pub full_len: u32,
    /// Sending: if not 0, `data` holds several datagrams of this size, back to back, the last of which may be shorter.
    /// It saves a copy where the system splits them. Receiving: 0.
    pub segment_size: u32,
    /// The TOS or traffic class byte of the IP header, 0 to 255; its two lowest bits are ECN. On systems other than
    /// Linux and Android only these two bits are supported.
    pub tos: u32,
    /// Bitwise OR of wg_datagram_flags_t. Written by sending and receiving, never read.
    pub flags: u32,
}

const _: () = {
    const POINTER: usize = size_of::<usize>();
    assert!(size_of::<wg_datagram_t>() == 4 * POINTER + 16);
    assert!(offset_of!(wg_datagram_t, capacity) == POINTER);
    assert!(offset_of!(wg_datagram_t, len) == 2 * POINTER);
    assert!(offset_of!(wg_datagram_t, peer) == 3 * POINTER);
    assert!(offset_of!(wg_datagram_t, full_len) == 4 * POINTER);
    assert!(offset_of!(wg_datagram_t, segment_size) == 4 * POINTER + 4);
    assert!(offset_of!(wg_datagram_t, tos) == 4 * POINTER + 8);
    assert!(offset_of!(wg_datagram_t, flags) == 4 * POINTER + 12);
};

impl wg_datagram_t {
    /// A place for a datagram that is to be sent.
    pub(crate) const fn none() -> Self {
        Self {
            data: ptr::null_mut(),
            capacity: 0,
            len: 0,
            peer: ptr::null_mut(),
            full_len: 0,
            segment_size: 0,
            tos: 0,
            flags: 0,
        }
    }

    /// Returns a datagram for the app to send, with storage for its endpoint. It is valid as long as both arguments.
    pub(crate) fn to_send(datagram: Datagram<'_>, peer: &mut wg_endpoint_t) -> Self {
        let Datagram { endpoint, tos, payload, .. } = datagram;
        *peer = endpoint.into();
        let data = payload.as_ptr().cast_mut().cast();
        Self { data, len: payload.len(), peer, tos: tos.into(), ..Self::none() }
    }
}

/// Borrows datagrams of C that were received, after looking at all of them.
///
/// # Safety
/// `datagrams` is NULL or points to `count` datagrams, whose pointers are NULL or readable, `data` for `len` bytes;
/// they do not change while they are borrowed.
pub(crate) unsafe fn borrow_received<'a>(datagrams: *const wg_datagram_t, count: usize) -> Result<Vec<Datagram<'a>>> {
    let check = |datagram: &wg_datagram_t| {
        check_len(datagram.len)?;
        if datagram.segment_size != 0 {
            return Err(Error::invalid(format!("segment_size is {}", datagram.segment_size)));
        }
        // SAFETY: the caller says so.
        unsafe { transmit(datagram) }
    };
    // SAFETY: the caller's contract is the same.
    let datagrams = unsafe { borrow_items(datagrams, count, "datagrams") }?;
    let borrow = |(i, datagram)| {
        let Transmit { to: endpoint, contents: payload, tos, .. } =
            check(datagram).map_err(|err| err.at(format_args!("datagrams[{i}]")))?;
        Ok(Datagram::new(endpoint, payload).with_tos(tos))
    };
    reserve::collect(datagrams.iter().enumerate().map(borrow))
}

/// Report of wg_udp_send().
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct wg_send_report_t {
    /// Datagrams that the system accepted; each segment is counted.
    pub sent: u32,
    /// Datagrams that were dropped.
    pub dropped: u32,
    /// The system's error for the first refused datagram: an errno (on Windows a Winsock error); 0 if there was none.
    pub os_error: i32,
    /// 1 if GSO was disabled on a socket, because the system or the outgoing interface does not support it; otherwise
    /// 0. The datagrams were sent without it. Reported once for each socket.
    pub gso_disabled: u32,
}

const _: () = assert!(size_of::<wg_send_report_t>() == 16 && align_of::<wg_send_report_t>() == 4);

impl From<&SendReport> for wg_send_report_t {
    fn from(report: &SendReport) -> Self {
        Self {
            sent: report.sent.try_into().unwrap_or(u32::MAX),
            dropped: report.dropped.try_into().unwrap_or(u32::MAX),
            os_error: report.error.unwrap_or(0),
            gso_disabled: report.gso_disabled.into(),
        }
    }
}

/// Converts a caller's datagram for sending.
///
/// # Safety
/// The pointers in `datagram` are NULL or readable, `data` for `len` bytes.
pub(crate) unsafe fn transmit<'a>(datagram: &wg_datagram_t) -> Result<Transmit<'a>> {
    // SAFETY: the caller says so.
    let peer = unsafe { datagram.peer.as_ref() }.ok_or_else(|| Error::new(ErrorKind::Null, "peer is NULL"))?;
    let to = peer.read()?;
    // SAFETY: as above.
    let contents = unsafe { borrow_bytes(datagram.data.cast::<u8>().cast_const(), datagram.len) }?;
    let tos = u8::try_from(datagram.tos).map_err(|_| Error::invalid(format!("tos is {}", datagram.tos)))?;
    Ok(Transmit::new(to, contents).with_segments(datagram.segment_size as usize).with_tos(tos))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use wg_embed::bind::Endpoint;

    #[test]
    fn datagrams_come_back_as_they_went() {
        for src in [None, Some([198, 51, 100, 1].into())] {
            let endpoint = Endpoint { src, ..Endpoint::new("192.0.2.1:4".parse().unwrap()) };
            let datagram = Datagram::new(endpoint, b"abc").with_tos(0xb9);
            let mut peer = wg_endpoint_t::default();
            let all = [wg_datagram_t::to_send(datagram, &mut peer); 2];
            // SAFETY: they are all here.
            let got = unsafe { borrow_received(all.as_ptr(), all.len()) }.unwrap();
            assert_eq!(got, [datagram; 2]);
        }
    }
}
