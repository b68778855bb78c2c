//! Packets and datagrams as C has them.

use std::{mem::offset_of, ptr, slice};

use super::endpoint::wg_endpoint_t;
use crate::{
    bind::callback::Datagram,
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

/// A datagram on its way through a wg_transport_t.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_transport_datagram_t {
    /// What it carries. May be NULL if `len` is 0.
    pub data: *const u8,
    /// How many bytes that are: up to 65535.
    pub len: usize,
    /// Where it goes to, or came from, and maybe which of the app's addresses it leaves from, or came to. What is said there
    /// of a peer's datagrams comes back with those that go to it.
    pub endpoint: wg_endpoint_t,
    /// The TOS or traffic class byte of the outer IP header: 0 to 255. A transport that has none may ignore it, and set it
    /// to 0; then there is no congestion notification (ECN) through the tunnel.
    pub tos: u32,
}

const _: () = {
    assert!(size_of::<wg_packet_t>() == 2 * size_of::<usize>());
    assert!(offset_of!(wg_packet_t, data) == 0);
    assert!(offset_of!(wg_packet_t, len) == size_of::<usize>());
    assert!(size_of::<wg_transport_datagram_t>() == 2 * size_of::<usize>() + 48);
    assert!(offset_of!(wg_transport_datagram_t, data) == 0);
    assert!(offset_of!(wg_transport_datagram_t, len) == size_of::<usize>());
    assert!(offset_of!(wg_transport_datagram_t, endpoint) == 2 * size_of::<usize>());
    assert!(offset_of!(wg_transport_datagram_t, tos) == 2 * size_of::<usize>() + 44);
};

impl wg_packet_t {
    /// What a place for a packet begins as.
    pub(super) fn none() -> Self {
        Self { data: ptr::null(), len: 0 }
    }
}

impl wg_transport_datagram_t {
    /// What a place for a datagram begins as.
    pub(super) fn none() -> Self {
        Self { data: ptr::null(), len: 0, endpoint: wg_endpoint_t::default(), tos: 0 }
    }
}

impl From<&[u8]> for wg_packet_t {
    fn from(packet: &[u8]) -> Self {
        Self { data: packet.as_ptr(), len: packet.len() }
    }
}

impl From<Datagram<'_>> for wg_transport_datagram_t {
    fn from(Datagram { endpoint, tos, payload }: Datagram<'_>) -> Self {
        Self { data: payload.as_ptr(), len: payload.len(), endpoint: endpoint.into(), tos: tos.into() }
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

/// Borrows datagrams of C that were received, after looking at all of them.
///
/// # Safety
/// `datagrams` is NULL or points to `count` datagrams, each of which is readable; nobody changes them meanwhile.
pub(super) unsafe fn borrow_datagrams<'a>(
    datagrams: *const wg_transport_datagram_t,
    count: usize,
) -> Result<Vec<Datagram<'a>>> {
    // SAFETY: the caller's contract is the same.
    let datagrams = unsafe { borrow_items(datagrams, count, "datagrams") }?;
    let borrow = |(i, datagram): (usize, &wg_transport_datagram_t)| {
        // SAFETY: as above.
        unsafe { borrow_datagram(datagram) }.map_err(|err| err.at(format_args!("datagrams[{i}]")))
    };
    datagrams.iter().enumerate().map(borrow).collect()
}

/// # Safety
/// The datagram is readable.
unsafe fn borrow_datagram<'a>(datagram: &wg_transport_datagram_t) -> Result<Datagram<'a>> {
    // SAFETY: the caller says so.
    let payload = unsafe { borrow_bytes(datagram.data, datagram.len) }?;
    let endpoint = datagram.endpoint.read()?;
    let tos = u8::try_from(datagram.tos).map_err(|_| Error::invalid(format!("tos is {}", datagram.tos)))?;
    Ok(Datagram { endpoint, tos, payload })
}

/// # Safety
/// `items` is NULL or points to `count` items.
unsafe fn borrow_items<'a, T>(items: *const T, count: usize, name: &str) -> Result<&'a [T]> {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::bind::Endpoint;

    #[test]
    fn datagrams_come_back_as_they_went() {
        for src in [None, Some([198, 51, 100, 1].into())] {
            let endpoint = Endpoint { src, ..Endpoint::new("192.0.2.1:4".parse().unwrap()) };
            let datagram = Datagram { endpoint, tos: 0xb9, payload: b"abc" };
            let all = [wg_transport_datagram_t::from(datagram); 2];
            // SAFETY: they are all here.
            let got = unsafe { borrow_datagrams(all.as_ptr(), all.len()) }.unwrap();
            assert_eq!(got, [datagram; 2]);
        }
    }
}
