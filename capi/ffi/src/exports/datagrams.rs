//! Sending and receiving with a bind: datagrams in the caller's memory.

#[cfg(unix)]
use std::{cell::Cell, sync::Arc, time::Instant};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ptr, slice,
    time::Duration,
};

#[cfg(unix)]
use crate::plumbing::{cancel, guard::guard_with};
use crate::{
    exports::{endpoint, udp::Bound},
    plumbing::{guard::guard_on, handle::Entry, memory::give},
    types::{
        self,
        datagram::{
            WG_BATCH_SIZE, WG_DATAGRAM_DROPPED, WG_DATAGRAM_SOURCE_CLEARED, WG_DATAGRAM_TRUNCATED, transmit,
            wg_datagram_t, wg_send_report_t,
        },
    },
};
use wg_embed::{
    bind::{BatchUdp, Endpoint, Family, Received, SendReport, Transmit},
    error::{Error, ErrorKind, Result},
};

/// Sends `count` datagrams, up to WG_BATCH_SIZE, in order. Consecutive datagrams of one size with equal endpoints are
/// sent together where the system can split them (GSO). It waits only if a socket's buffer is full, and for at most 5
/// ms.
///
/// A datagram that the system refuses is flagged WG_DATAGRAM_DROPPED, and does not affect the others. If the source of
/// an endpoint is no longer an address of this host, the datagram is sent without a source, the source in `*peer` is
/// cleared, and WG_DATAGRAM_SOURCE_CLEARED is set.
///
/// Returns the number of datagrams that were sent completely, or a negative wg_result_t if sending was not attempted.
///
/// Memory: nothing is kept, and nothing allocated except 64 KiB when the number of concurrently sending threads reaches
/// a new maximum. Writes `flags` of each datagram, `*peer` where a source is cleared, and `*report` unless that is
/// NULL; only if it does not fail.
/// Requires: `datagrams` is NULL or points to `count` writable datagrams; their `data` is NULL or points to `len`
/// readable bytes, and their `peer` is NULL or writable; `report` is NULL or writable.
/// Errors: on failure no datagram was sent. WG_ERR_TOO_LARGE for more than WG_BATCH_SIZE; WG_ERR_NULL if `datagrams` is
/// NULL and `count` is not 0, or if `peer` or `data` is NULL in one of them (`data` may be if `len` is 0);
/// WG_ERR_INVALID for an invalid family or `tos`; WG_ERR_UNSUPPORTED if there is no socket of a datagram's family;
/// WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED, also if the bind is closed during the call: some may then have been sent;
/// WG_ERR_BUSY inside a callback; WG_ERR_PANIC.
/// Threads: any, also several concurrently, while others receive or close. No other thread uses the same datagrams and
/// endpoints during the call.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_udp_send(
    bind: i32,
    datagrams: *mut wg_datagram_t,
    count: usize,
    report: *mut wg_send_report_t,
) -> i32 {
    guard_on(bind, |bind: &Entry<Bound>| {
        if count > WG_BATCH_SIZE {
            let text = format!("{count} datagrams are more than a batch, which is {WG_BATCH_SIZE}");
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        // SAFETY: the caller's contract is the same.
        let datagrams = unsafe { borrow(datagrams, count) }?;
        // Few need little room.
        let sent = if count <= 8 {
            // SAFETY: as above.
            unsafe { send::<8>(bind, datagrams) }
        } else {
            // SAFETY: as above.
            unsafe { send::<WG_BATCH_SIZE>(bind, datagrams) }
        }?;
        // SAFETY: NULL or writable, says the caller.
        unsafe { give(report, (&sent).into()) };
        Ok(count as i32 - sent.dropped_mask.count_ones() as i32)
    })
}

/// # Safety
/// `datagrams` is NULL or points to `count` of them, writable, and without another user.
unsafe fn borrow<'a>(datagrams: *mut wg_datagram_t, count: usize) -> Result<&'a mut [wg_datagram_t]> {
    match (datagrams.is_null(), count) {
        (_, 0) => Ok(&mut []),
        (true, _) => Err(Error::new(ErrorKind::Null, "datagrams is NULL")),
        // SAFETY: the caller says so.
        (false, _) => Ok(unsafe { slice::from_raw_parts_mut(datagrams, count) }),
    }
}

/// Sends up to `N`.
///
/// # Safety
/// The pointers in `datagrams` are as in [`wg_udp_send`].
unsafe fn send<const N: usize>(bind: &BatchUdp, datagrams: &mut [wg_datagram_t]) -> Result<SendReport> {
    const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    let mut batch = [Transmit::new(Endpoint::new(NOWHERE), &[]); N];
    for (i, datagram) in datagrams.iter().enumerate() {
        // SAFETY: the caller's contract is the same.
        batch[i] = unsafe { transmit(datagram) }.map_err(|err| err.at(format_args!("datagrams[{i}]")))?;
    }
    let report = bind.send(&batch[..datagrams.len()])?;
    for (i, datagram) in datagrams.iter_mut().enumerate() {
        datagram.flags = 0;
        if report.dropped_mask >> i & 1 == 1 {
            datagram.flags |= WG_DATAGRAM_DROPPED as u32;
        }
        if report.stale_source_mask >> i & 1 == 1 {
            datagram.flags |= WG_DATAGRAM_SOURCE_CLEARED as u32;
            // SAFETY: `transmit` has seen that it is not NULL; it is writable, says the caller.
            unsafe { endpoint::clear_source(datagram.peer) };
        }
    }
    Ok(report)
}

/// Waits until there are datagrams of a family (WG_IPV4 or WG_IPV6), and receives up to `count` of them, in order. It
/// does not wait for further ones. `timeout_ms` is as for poll(): 0 does not wait, and a negative number waits without
/// limit.
///
/// Returns the number of filled `datagrams`, 0 after the time limit, or a negative wg_result_t. A receive loop should
/// end with any negative result.
///
/// For each it writes `len`, `full_len`, `tos`, `flags`, `segment_size`, the contents at `data`, and `*peer`. The same
/// datagrams can be passed again as they are.
///
/// Memory: nothing is kept, and nothing allocated. Contents beyond `capacity` bytes are lost, and the datagram is
/// flagged WG_DATAGRAM_TRUNCATED. Datagrams beyond `count` are returned by the next call.
/// Requires: `datagrams` is NULL or points to `count` writable datagrams; their `data` is NULL or points to `capacity`
/// writable bytes, and their `peer` is NULL or writable; none of these overlap.
/// Errors: WG_ERR_NULL if `datagrams` is NULL, or `data` in one of them while `capacity` is not 0; WG_ERR_INVALID if
/// `count` is 0, or for another family; WG_ERR_UNSUPPORTED if the family has no socket; WG_ERR_CLOSED for every waiting
/// thread, as soon as the bind is closed; WG_ERR_UNKNOWN_HANDLE; WG_ERR_IO if the socket has become unusable;
/// WG_ERR_BUSY inside a callback; WG_ERR_PANIC.
/// Threads: any, one or several for each family, while others send or close; each datagram goes to one of them. No
/// other thread uses the same datagrams and endpoints during the call. A waiting thread may be cancelled by
/// pthread_cancel().
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn wg_udp_recv(
    bind: i32,
    family: u32,
    datagrams: *mut wg_datagram_t,
    count: usize,
    timeout_ms: i32,
) -> i32 {
    // SAFETY: the caller's contract is the same.
    unsafe { receive(bind, family, datagrams, count, timeout_ms) }
}

/// Here no thread is cancelled.
///
/// # Safety
/// As [`wg_udp_recv`].
#[cfg(not(unix))]
unsafe fn receive(bind: i32, family: u32, datagrams: *mut wg_datagram_t, count: usize, timeout_ms: i32) -> i32 {
    guard_on(bind, |bind: &Entry<Bound>| {
        let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
        // SAFETY: the caller's contract is the same.
        unsafe { receive_by(family, datagrams, count, |family, most, take| bind.receive(family, most, timeout, take)) }
    })
}

#[cfg(unix)]
thread_local! {
    /// The bind that this thread waits for. It is stored here, not in the frame that waits, so that a cancelled thread
    /// also releases it when it ends.
    static AWAITED: Cell<Option<Awaited>> = const { Cell::new(None) };
}

/// A thread waits for datagrams of this family until it is dropped.
#[cfg(unix)]
struct Awaited {
    bind: Arc<Entry<Bound>>,
    family: Family,
}

#[cfg(unix)]
impl Drop for Awaited {
    fn drop(&mut self) {
        self.bind.has_waited(self.family);
    }
}

/// A thread that is cancelled while it waits leaves this function as it would leave recv(). So nothing in it may need
/// to be dropped.
///
/// # Safety
/// As [`wg_udp_recv`].
#[cfg(unix)]
unsafe fn receive(bind: i32, family: u32, datagrams: *mut wg_datagram_t, count: usize, timeout_ms: i32) -> i32 {
    let begun = Instant::now();
    let mut awaited = None;
    loop {
        let passed = begun.elapsed().as_millis().try_into().unwrap_or(i32::MAX);
        let left = if timeout_ms < 0 { timeout_ms } else { timeout_ms.saturating_sub(passed).max(0) };
        // SAFETY: the caller's contract is the same.
        let received = unsafe { receive_now(bind, family, datagrams, count, left, &mut awaited) };
        match awaited {
            Some(fd) if received == 0 && left != 0 => cancel::wait(fd, left),
            _ => return received,
        }
    }
}

/// Receives what there is. If that is nothing and there is time left, `awaited` becomes a descriptor to wait for, which
/// is valid until the next call. That is for the same bind then, also if it was closed: as for any thread that is in
/// it.
///
/// # Safety
/// As [`wg_udp_recv`].
#[cfg(unix)]
unsafe fn receive_now(
    handle: i32,
    family: u32,
    datagrams: *mut wg_datagram_t,
    count: usize,
    left: i32,
    awaited: &mut Option<i32>,
) -> i32 {
    let awaited_bind = awaited.take().and_then(|_| AWAITED.take()).map(|awaited| awaited.bind.clone());
    let has_waited = awaited_bind.is_some();
    let receive = |bind: &Arc<Entry<Bound>>| {
        let by = |family, most, take: &mut dyn FnMut(Received<'_>)| {
            let received = bind.receive_now(family, most, has_waited, left != 0, &mut *take)?;
            if received > 0 || left == 0 {
                return Ok(received);
            }
            let waits = Awaited { bind: bind.clone(), family };
            if AWAITED.try_with(|place| place.set(Some(waits))).is_err() {
                // A thread that is about to end keeps nothing any more, and is not cancelled either.
                return bind.receive(family, most, u64::try_from(left).ok().map(Duration::from_millis), take);
            }
            *awaited = Some(bind.inbox_fd(family));
            Ok(0)
        };
        // SAFETY: the caller's contract is the same.
        unsafe { receive_by(family, datagrams, count, by) }
    };
    guard_with(handle, awaited_bind, receive)
}

/// Receives by a function that is given the family, how many datagrams there is room for, and who takes them.
///
/// # Safety
/// As [`wg_udp_recv`].
unsafe fn receive_by(
    family: u32,
    datagrams: *mut wg_datagram_t,
    count: usize,
    by: impl FnOnce(Family, usize, &mut dyn FnMut(Received<'_>)) -> Result<usize>,
) -> Result<i32> {
    let family = types::endpoint::family(family)?;
    // SAFETY: the caller's contract is the same.
    let datagrams = unsafe { borrow(datagrams, count) }?;
    if let Some(i) = datagrams.iter().position(|datagram| datagram.data.is_null() && datagram.capacity > 0) {
        return Err(Error::new(ErrorKind::Null, format!("datagrams[{i}]: data is NULL")));
    }
    let mut rooms = datagrams.iter_mut();
    let filled = by(family, count.min(i32::MAX as usize), &mut |received| {
        if let Some(room) = rooms.next() {
            // SAFETY: its pointers are as the caller says, and `data` was looked at.
            unsafe { fill(room, &received) };
        }
    })?;
    Ok(filled as i32)
}

/// # Safety
/// The pointers in `room` are NULL or writable, `data` for `capacity` bytes and not NULL if there are any.
unsafe fn fill(room: &mut wg_datagram_t, received: &Received<'_>) {
    let contents = received.contents;
    room.len = contents.len().min(room.capacity);
    room.full_len = contents.len() as u32;
    room.segment_size = 0;
    room.tos = received.tos.into();
    room.flags = if room.len < contents.len() { WG_DATAGRAM_TRUNCATED as u32 } else { 0 };
    if room.len > 0 {
        // SAFETY: there is room for that many, says the caller, and it is none of ours.
        unsafe { ptr::copy_nonoverlapping(contents.as_ptr(), room.data.cast(), room.len) };
    }
    if !room.peer.is_null() {
        // SAFETY: the caller says so.
        unsafe { room.peer.write(received.from.into()) };
    }
}
