//! Callbacks for packets in place of a TUN device, and for datagrams in place of sockets.

use std::{ffi::c_void, mem::offset_of, ptr};

use crate::{
    plumbing::{callback::wg_destroy_fn_t, sized::SizedStruct},
    types::{datagram::wg_datagram_t, packet::wg_packet_t},
};

/// Receives packets that were decrypted by the tunnel.
///
/// `user` is the pointer that was passed with the function. `handle` is the tunnel: wg_tun_inject(),
/// wg_transport_receive() and wg_set_mtu() accept it before wg_turn_on_with() has returned it; all other functions, on
/// other threads, wait until then. `packets` are `count` packets, 1 to WG_BATCH_SIZE, in order, valid only during the
/// call. Returns the number of packets that it accepted; the others are dropped and counted.
///
/// Threads: called on one of the tunnel's own threads at a time, without a lock held; perhaps before wg_turn_on_with()
/// has returned. The tunnel waits for it, so return soon, and do not wait for a thread that may be inside
/// wg_turn_off(), wg_turn_off_within() or wg_pause(), or inside another function before wg_turn_on_with() has returned.
/// It must not leave by an exception, longjmp() or pthread_exit(). Its stack is as in wg_log_fn_t.
/// Inside it, wg_tun_inject(), wg_transport_receive() and wg_set_mtu() work, for this tunnel and for others, as do the
/// other functions that wg_log_fn_t lists; all others return WG_ERR_BUSY.
/// Since: 0.1.0
pub type wg_tun_write_fn_t =
    Option<unsafe extern "C" fn(user: *mut c_void, handle: i32, packets: *const wg_packet_t, count: usize) -> usize>;

/// Called when half of the tunnel's queue is free again, after wg_tun_inject() could not take all packets.
///
/// Threads: as wg_tun_write_fn_t; it may run at the same time as `write`.
/// Since: 0.1.0
pub type wg_tun_room_fn_t = Option<unsafe extern "C" fn(user: *mut c_void, handle: i32)>;

/// Sends encrypted datagrams of the tunnel.
///
/// `user` and `handle` are as in wg_tun_write_fn_t; `datagrams` are `count` datagrams, 1 to WG_BATCH_SIZE, in order,
/// mostly to one peer, valid only during the call. Returns the number of datagrams that it accepted, from the first one
/// on; the others are dropped and counted, as if lost on the network. It should not block: the thread that sends also
/// receives and runs the timers.
///
/// Threads: called on the tunnel's own threads, and on threads that are inside wg_turn_on_with(), wg_set_config(),
/// wg_set_peer(), wg_force_handshake(), wg_drop_session(), wg_resume() and the like, concurrently, without a lock held.
/// Otherwise as wg_tun_write_fn_t.
/// Since: 0.1.0
pub type wg_transport_send_fn_t = Option<
    unsafe extern "C" fn(user: *mut c_void, handle: i32, datagrams: *const wg_datagram_t, count: usize) -> usize,
>;

/// Custom packets, in place of a TUN device: for a packet flow of the system, or a TCP/IP stack in the app. Initialize
/// with WG_TUN_CALLBACKS_INIT. Fields may be appended, as in wg_options_t.
///
/// Packets for the tunnel are passed to wg_tun_inject().
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_tun_callbacks_t {
    /// sizeof(wg_tun_callbacks_t) in the caller's header.
    pub struct_size: usize,
    /// Receives decrypted packets.
    pub write: wg_tun_write_fn_t,
    /// Called when there is room in the queue; or NULL.
    pub room: wg_tun_room_fn_t,
    /// Passed to each of the functions as `user`.
    pub user: *mut c_void,
    /// Releases `user`; or NULL. Called exactly once: by wg_turn_off(), after the last call of any of the tunnel's
    /// callbacks has returned; or by wg_turn_on_with() if it fails (unless the cause is an invalid `struct_size`). It
    /// may call the same functions as the other callbacks.
    pub destroy: wg_destroy_fn_t,
}

/// Custom datagrams, in place of UDP sockets: for relays and obfuscation. Initialize with WG_TRANSPORT_INIT. Fields may
/// be appended, as in wg_options_t.
///
/// Received datagrams are passed to wg_transport_receive(). The tunnel opens no socket: its `listen_port` and `fwmark`
/// are stored, but have no effect. It has no timer that counts sleep either, so call wg_network_changed() when the
/// machine has woken up: overdue deadlines are then handled at once.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_transport_t {
    /// sizeof(wg_transport_t) in the caller's header.
    pub struct_size: usize,
    /// Sends the datagrams for the tunnel's peers.
    pub send: wg_transport_send_fn_t,
    /// Passed to the functions as `user`.
    pub user: *mut c_void,
    /// As in wg_tun_callbacks_t.
    pub destroy: wg_destroy_fn_t,
}

const _: () = {
    assert!(size_of::<wg_tun_callbacks_t>() == 5 * size_of::<usize>());
    assert!(offset_of!(wg_tun_callbacks_t, struct_size) == 0);
    assert!(offset_of!(wg_tun_callbacks_t, write) == size_of::<usize>());
    assert!(offset_of!(wg_tun_callbacks_t, room) == 2 * size_of::<usize>());
    assert!(offset_of!(wg_tun_callbacks_t, user) == 3 * size_of::<usize>());
    assert!(offset_of!(wg_tun_callbacks_t, destroy) == 4 * size_of::<usize>());
    assert!(size_of::<wg_transport_t>() == 4 * size_of::<usize>());
    assert!(offset_of!(wg_transport_t, struct_size) == 0);
    assert!(offset_of!(wg_transport_t, send) == size_of::<usize>());
    assert!(offset_of!(wg_transport_t, user) == 2 * size_of::<usize>());
    assert!(offset_of!(wg_transport_t, destroy) == 3 * size_of::<usize>());
};

/// WG_TUN_CALLBACKS_INIT.
impl Default for wg_tun_callbacks_t {
    fn default() -> Self {
        Self { struct_size: size_of::<Self>(), write: None, room: None, user: ptr::null_mut(), destroy: None }
    }
}

/// WG_TRANSPORT_INIT.
impl Default for wg_transport_t {
    fn default() -> Self {
        Self { struct_size: size_of::<Self>(), send: None, user: ptr::null_mut(), destroy: None }
    }
}

// SAFETY: as the assertions above say; it has a number and pointers only, and any pointer to a function may be NULL.
unsafe impl SizedStruct for wg_tun_callbacks_t {
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}

// SAFETY: the same.
unsafe impl SizedStruct for wg_transport_t {
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}
