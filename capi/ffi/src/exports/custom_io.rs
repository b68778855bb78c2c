//! Packets of the app in place of a TUN device, datagrams in place of sockets.

use crate::{
    hooks::custom_io::{datagram_inlet, packet_inlet, set_mtu},
    plumbing::{guard::guard_anywhere, memory::give, result::wg_result_t},
    tunnel::check_mtu,
    types::{
        datagram::{borrow_received, wg_datagram_t},
        packet::{borrow_packets, wg_packet_t},
    },
};

/// Passes packets into a tunnel that has wg_tun_callbacks_t. As many as there is room for are copied into a queue,
/// which by default holds about 300 packets of 1420 bytes. Pass the rest again after `room` was called, or drop it, as
/// a network interface does. Never waits.
///
/// Memory: `packets` and their `data` stay the caller's, and are not kept. On success `*taken`, unless `taken` is NULL,
/// is the number of packets that were accepted, from the first one on.
/// Requires: `packets` is NULL or points to `count` packets, whose `data` are NULL or point to `len` bytes; they do not
/// change during the call. `taken` is NULL or writable.
/// Errors: WG_ERR_NULL if `packets` or the `data` of one is NULL; WG_ERR_INVALID if one is longer than 65535 bytes;
/// WG_ERR_TOO_LARGE for more than WG_INJECT_MAX packets; WG_ERR_UNSUPPORTED if the tunnel has no wg_tun_callbacks_t;
/// WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED if the tunnel has ended; WG_ERR_PANIC. On failure no packet is accepted. A
/// packet that is not IP is accepted, then dropped and counted.
/// Threads: any, also inside a callback.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_tun_inject(
    handle: i32,
    packets: *const wg_packet_t,
    count: usize,
    taken: *mut usize,
) -> wg_result_t {
    guard_anywhere(|| {
        let inlet = packet_inlet(handle)?;
        // SAFETY: the caller's contract is the same.
        let packets = unsafe { borrow_packets(packets, count) }?;
        // SAFETY: as above.
        unsafe { give(taken, inlet.inject(packets)) };
        Ok(())
    })
}

/// Passes received datagrams into a tunnel that has a wg_transport_t. As many as there is room for are copied into a
/// queue, which by default holds about 300 datagrams of 1452 bytes. Drop the rest, as a socket does. While the tunnel
/// is down, nothing is accepted. Never waits.
///
/// Datagrams are untrusted, as they come from the network: those that are not from a peer are dropped and counted.
/// Datagrams for a peer are sent to the endpoint of its last authentic datagram.
///
/// Memory: as wg_tun_inject().
/// Requires: `datagrams` is NULL or points to `count` datagrams, whose `data` are NULL or point to `len` bytes, and
/// whose `peer` are NULL or readable; they do not change during the call. `taken` is NULL or writable.
/// Errors: as wg_tun_inject(); WG_ERR_NULL also for a `peer`, and WG_ERR_INVALID for an invalid one, a `tos` above
/// 255, or a `segment_size` other than 0.
/// Threads: any, also inside a callback.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_transport_receive(
    handle: i32,
    datagrams: *const wg_datagram_t,
    count: usize,
    taken: *mut usize,
) -> wg_result_t {
    guard_anywhere(|| {
        let inlet = datagram_inlet(handle)?;
        // SAFETY: the caller's contract is the same.
        let datagrams = unsafe { borrow_received(datagrams, count) }?;
        // SAFETY: as above.
        unsafe { give(taken, inlet.deliver(datagrams)) };
        Ok(())
    })
}

/// Changes the MTU of a tunnel that has wg_tun_callbacks_t or wg_net_options_t. Packets are padded up to it; it does
/// not limit the packets of wg_tun_inject().
///
/// Memory: nothing changes hands.
/// Errors: WG_ERR_INVALID if it is below 576 (1280 for a network with an IPv6 address) or above 65535: the old one
/// stays; WG_ERR_UNSUPPORTED if the tunnel has neither; WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED if the tunnel has ended;
/// WG_ERR_PANIC.
/// Threads: any, also inside a callback.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_set_mtu(handle: i32, mtu: u32) -> wg_result_t {
    guard_anywhere(|| set_mtu(handle, check_mtu(mtu)?))
}
