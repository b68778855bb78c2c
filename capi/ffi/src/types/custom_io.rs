//! Packets in place of a TUN device, datagrams in place of sockets: the functions, as C has them.

use std::{ffi::c_void, mem::offset_of, ptr};

use crate::{
    plumbing::{callback::wg_destroy_fn_t, sized::SizedStruct},
    types::{datagram::wg_datagram_t, packet::wg_packet_t},
};

/// Takes packets that have come out of the tunnel.
///
/// `user` is what came with the function; `handle` is the tunnel, which wg_tun_inject(), wg_transport_receive() and
/// wg_set_mtu() know before wg_turn_on_with() has returned it, while all other functions wait for that on other
/// threads; `packets` are `count` packets, 1 to WG_BATCH_SIZE, in order. They are gone when the function returns.
/// Returns how many it took; the others are dropped and counted.
///
/// Threads: it is called on one of the tunnel's own threads at a time, without a lock held; perhaps before
/// wg_turn_on_with() has returned. The tunnel waits meanwhile, so return soon, and do not wait for a thread that may be
/// inside wg_turn_off(), wg_turn_off_within() or wg_pause(), or inside another function before wg_turn_on_with() has
/// returned. It must not leave by an exception, longjmp() or pthread_exit(). Its stack is as in wg_log_fn_t.
/// Inside it, wg_tun_inject(), wg_transport_receive() and wg_set_mtu() work, for this tunnel and for others, and what
/// else wg_log_fn_t names. Everything else returns WG_ERR_BUSY.
/// Since: 0.1.0
pub type wg_tun_write_fn_t =
    Option<unsafe extern "C" fn(user: *mut c_void, handle: i32, packets: *const wg_packet_t, count: usize) -> usize>;

/// Is told that half of the tunnel's queue is free again, after wg_tun_inject() could not take everything.
///
/// Threads: as wg_tun_write_fn_t; it may be called while `write` is.
/// Since: 0.1.0
pub type wg_tun_room_fn_t = Option<unsafe extern "C" fn(user: *mut c_void, handle: i32)>;

/// Sends datagrams of the tunnel.
///
/// `user` and `handle` are as in wg_tun_write_fn_t; `datagrams` are `count` datagrams, 1 to WG_BATCH_SIZE, in order,
/// mostly to one peer. They are gone when the function returns. Returns how many were sent, from the first on; the
/// others are dropped and counted, as if the network had lost them. Datagrams that would have to wait are better not
/// sent: the thread that sends also receives and keeps the timers.
///
/// Threads: it is called on the tunnel's own threads and on those that are inside wg_turn_on_with(), wg_set_config(),
/// wg_set_peer(), wg_force_handshake(), wg_drop_session(), wg_resume() and the like, on several at once, without a lock
/// held. The rest is as in wg_tun_write_fn_t.
/// Since: 0.1.0
pub type wg_transport_send_fn_t = Option<
    unsafe extern "C" fn(user: *mut c_void, handle: i32, datagrams: *const wg_datagram_t, count: usize) -> usize,
>;

/// Packets from and to the app, in place of a TUN device: of an app's packet flow, or of a TCP/IP stack of its own.
/// Start from WG_TUN_CALLBACKS_INIT. It may grow as wg_options_t does.
///
/// What goes into the tunnel is passed to wg_tun_inject().
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_tun_callbacks_t {
    /// sizeof(wg_tun_callbacks_t), as the caller was compiled.
    pub struct_size: usize,
    /// Takes what comes out of the tunnel.
    pub write: wg_tun_write_fn_t,
    /// Is told of room in the queue; or NULL.
    pub room: wg_tun_room_fn_t,
    /// Passed to each of the functions.
    pub user: *mut c_void,
    /// Called exactly once with `user`, or NULL: by wg_turn_off(), when all of the app's functions for the tunnel
    /// have returned for the last time; or by wg_turn_on_with() if it fails (unless the reason is a wrong
    /// `struct_size`). It may call what the other functions may.
    pub destroy: wg_destroy_fn_t,
}

/// Datagrams from and to the app, in place of UDP sockets: for relays and obfuscation. Start from WG_TRANSPORT_INIT. It
/// may grow as wg_options_t does.
///
/// What was received is passed to wg_transport_receive(). The tunnel opens no socket: its `listen_port` is only a
/// number, and its `fwmark` means nothing. Nor has it a timer that goes on while the machine sleeps, so call
/// wg_network_changed() when it has woken: what came due meanwhile is then done at once.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_transport_t {
    /// sizeof(wg_transport_t), as the caller was compiled.
    pub struct_size: usize,
    /// Sends what the tunnel has for its peers.
    pub send: wg_transport_send_fn_t,
    /// Passed to the functions.
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
