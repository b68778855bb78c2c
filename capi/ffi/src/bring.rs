//! What an app brings along: packets in place of a TUN device, datagrams in place of sockets.

use std::{ffi::c_void, mem::offset_of, ptr};

use super::{
    callback::{Callback, wg_destroy_fn_t},
    datagrams::{borrow_received, wg_datagram_t},
    guard::guard_anywhere,
    memory::give,
    options::{SizedStruct, read_sized, wg_options_t},
    packets::{borrow_packets, wg_packet_t},
    ports::{SendFunction, TRANSPORTS, TUNS, TunFunctions},
    result::wg_result,
    tunnel::check_mtu,
};
use wg_embed::error::{Error, ErrorKind, Result};

/// Takes packets that have come out of the tunnel.
///
/// `user` is what came with the function; `handle` is the tunnel, which wg_tun_inject(), wg_transport_receive() and
/// wg_set_mtu() know before wg_turn_on_with() has returned it; `packets` are `count` packets, 1 to WG_BATCH_SIZE, in order. They
/// are gone when the function returns. Returns how many it took; the others are dropped and counted.
///
/// Threads: it is called on one of the tunnel's own threads at a time, without a lock held; perhaps before
/// wg_turn_on_with() has returned. The tunnel waits meanwhile, so return soon, and do not wait for a thread that may be
/// inside wg_turn_off(). It must not leave by an exception, longjmp() or
/// pthread_exit(). Its stack is as in wg_log_fn_t.
/// Inside it, wg_tun_inject(), wg_transport_receive() and wg_set_mtu() work, for this tunnel and for others, and what else
/// wg_log_fn_t names. Everything else returns WG_ERR_BUSY.
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
/// `user` and `handle` are as in wg_tun_write_fn_t; `datagrams` are `count` datagrams, 1 to WG_BATCH_SIZE, in order, mostly to one
/// peer. They are gone when the function returns. Returns how many were sent, from the first on; the others are dropped and
/// counted, as if the network had lost them. Datagrams that would have to wait are better not sent: the thread that sends
/// also receives and keeps the timers.
///
/// Threads: it is called on the tunnel's own threads and on those that are inside wg_turn_on_with() or wg_set_config(), on
/// several at once, without a lock held. The rest is as in wg_tun_write_fn_t.
/// Since: 0.1.0
pub type wg_transport_send_fn_t = Option<
    unsafe extern "C" fn(user: *mut c_void, handle: i32, datagrams: *const wg_datagram_t, count: usize) -> usize,
>;

/// Packets from and to the app, in place of a TUN device: of an app's packet flow, or of a TCP/IP stack of its own. Start
/// from WG_TUN_CALLBACKS_INIT. It may grow as wg_options_t does.
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
    /// Called exactly once with `user`, or NULL: by wg_turn_off(), when all that the app brought to the tunnel has returned
    /// for the last time; or by wg_turn_on_with() if it fails (unless the reason is a wrong `struct_size`). It may call what
    /// the other functions may.
    pub destroy: wg_destroy_fn_t,
}

/// Datagrams from and to the app, in place of UDP sockets: for relays and obfuscation. Start from WG_TRANSPORT_INIT. It may
/// grow as wg_options_t does.
///
/// What was received is passed to wg_transport_receive(). The tunnel opens no socket: its `listen_port` is only a number,
/// and its `fwmark` means nothing. Nor has it a timer that goes on while the machine sleeps, so call wg_network_changed()
/// when it has woken: what came due meanwhile is then done at once.
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

/// What an app brings to a tunnel. It is given up (`destroy`) when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Brought {
    /// `None` if packets do not come from the app.
    pub(super) tun: Option<Callback<TunFunctions>>,
    /// `None` if datagrams do not.
    pub(super) transport: Option<Callback<SendFunction>>,
}

impl Brought {
    /// Reads what the options point to. If it cannot be used, it is given up.
    ///
    /// # Safety
    /// Both pointers are NULL, or point to as many readable bytes as the struct's size says; its functions may be called with
    /// its `user` on any thread.
    pub(super) unsafe fn read(options: &wg_options_t) -> Result<Self> {
        let tun = (!options.tun.is_null()).then(|| {
            // SAFETY: the caller's contract is the same.
            let (given, complete) = unsafe { read_sized(options.tun, "tun") }?;
            let write = given.write.ok_or_else(|| Error::new(ErrorKind::Null, "tun: write is NULL"));
            accept(given.user, given.destroy, complete.and(write).map(|write| TunFunctions { write, room: given.room }))
        });
        let transport = (!options.transport.is_null()).then(|| {
            // SAFETY: the caller's contract is the same.
            let (given, complete) = unsafe { read_sized(options.transport, "transport") }?;
            let send = given.send.ok_or_else(|| Error::new(ErrorKind::Null, "transport: send is NULL"));
            accept(given.user, given.destroy, complete.and(send))
        });
        // Only now, when each of them belongs to somebody.
        Ok(Self { tun: tun.transpose()?, transport: transport.transpose()? })
    }
}

/// Keeps functions with their pointer, or gives it up.
fn accept<F>(user: *mut c_void, destroy: wg_destroy_fn_t, functions: Result<F>) -> Result<Callback<F>> {
    match functions {
        Ok(functions) => Ok(Callback::new(functions, user, destroy)),
        Err(err) => {
            drop(Callback::new((), user, destroy));
            Err(err)
        }
    }
}

/// Passes packets into a tunnel, whose packets come from wg_tun_callbacks_t. They are copied into a queue, as many as it has
/// room for: by default it holds about 300 packets of 1420 bytes. What is not taken is not looked at again: pass it once
/// more when `room` was called, or drop it, as a network interface does. Never waits.
///
/// Memory: `packets` and what they point to stay the caller's, and are not kept. On success `*taken`, unless `taken` is NULL,
/// is how many of the packets were taken, from the first on.
/// Errors: WG_ERR_NULL if `packets` or the `data` of one is NULL; WG_ERR_INVALID if one is longer than 65535 bytes;
/// WG_ERR_TOO_LARGE for more than 4096 packets; WG_ERR_UNSUPPORTED if the tunnel's packets come from elsewhere;
/// WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED if the tunnel has ended; WG_ERR_PANIC. None is taken then. A packet that is not IP is
/// taken, then dropped and counted.
/// Threads: any, also inside a callback.
/// Since: 0.1.0
///
/// # Safety
/// `packets` is NULL or points to `count` packets, whose `data` are NULL or point to `len` bytes; nobody changes them
/// meanwhile. `taken` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_tun_inject(
    handle: i32,
    packets: *const wg_packet_t,
    count: usize,
    taken: *mut usize,
) -> wg_result {
    guard_anywhere(|| {
        let inlet = TUNS.inlet(handle)?;
        // SAFETY: the caller's contract is the same.
        let packets = unsafe { borrow_packets(packets, count) }?;
        // SAFETY: as above.
        unsafe { give(taken, inlet.inject(packets)) };
        Ok(())
    })
}

/// Passes datagrams into a tunnel that were received for it by its wg_transport_t. They are copied into a queue, as many as
/// it has room for: by default it holds about 300 datagrams of 1452 bytes. What is not taken can be dropped, as a socket
/// does it. None is while the tunnel is down. Never waits.
///
/// Datagrams may be anything: they are from the network, and what is not from a peer is dropped and counted. What goes to a
/// peer goes to the endpoint that its last datagram came from.
///
/// Memory: as wg_tun_inject().
/// Errors: as wg_tun_inject(); WG_ERR_NULL also for a `peer`, and WG_ERR_INVALID for one that is none, a `tos` above 255, or a
/// `segment_size` other than 0.
/// Threads: any, also inside a callback.
/// Since: 0.1.0
///
/// # Safety
/// `datagrams` is NULL or points to `count` datagrams, whose `data` are NULL or point to `len` bytes, and whose `peer` are NULL
/// or readable; nobody changes them meanwhile. `taken` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_transport_receive(
    handle: i32,
    datagrams: *const wg_datagram_t,
    count: usize,
    taken: *mut usize,
) -> wg_result {
    guard_anywhere(|| {
        let inlet = TRANSPORTS.inlet(handle)?;
        // SAFETY: the caller's contract is the same.
        let datagrams = unsafe { borrow_received(datagrams, count) }?;
        // SAFETY: as above.
        unsafe { give(taken, inlet.deliver(datagrams)) };
        Ok(())
    })
}

/// Changes the MTU of a tunnel whose packets come from wg_tun_callbacks_t. Packets are padded up to it; it does not limit
/// what wg_tun_inject() takes.
///
/// Memory: nothing changes hands.
/// Errors: WG_ERR_INVALID if it is not in 576 to 65535, the old one then stays; WG_ERR_UNSUPPORTED if the tunnel's packets
/// come from elsewhere; WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED if the tunnel has ended; WG_ERR_PANIC.
/// Threads: any, also inside a callback.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_set_mtu(handle: i32, mtu: u32) -> wg_result {
    guard_anywhere(|| {
        TUNS.inlet(handle)?.set_mtu(check_mtu(mtu)?);
        Ok(())
    })
}
