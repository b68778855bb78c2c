//! What a tunnel is turned on with.

use std::{ffi::c_void, mem::offset_of, ptr};

use crate::{
    plumbing::{
        callback::wg_destroy_fn_t,
        log::{WG_LOG_INHERIT, wg_log_fn_t},
        sized::SizedStruct,
    },
    types::{
        custom_io::{wg_transport_t, wg_tun_callbacks_t},
        event::wg_event_fn_t,
        fd::WG_FD_TAKE,
        net::wg_net_options_t,
        protect::wg_protect_fn_t,
        resolve::wg_resolve_fn_t,
    },
};

/// What `flags` of a wg_options_t may be made of. A later version may add some.
///
/// Since: 0.1.0
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum wg_options_flags_t {
    /// Events wait for wg_next_event(), from the first one on, whether there is a function for them or not.
    WG_OPTIONS_QUEUE_EVENTS = 1,
}
pub use wg_options_flags_t::*;

/// What wg_turn_on_with() may be told. Start from WG_OPTIONS_INIT, and set what should differ.
///
/// Fields are only ever appended. A program that was compiled with an older header passes a shorter struct, and gets
/// WG_OPTIONS_INIT's value for the fields that it does not have. A program that was compiled with a newer header is
/// served as long as the fields that this library does not have are zero, up to a `struct_size` of 4096. A
/// `struct_size` that no released header has, such as one below that of 0.1.0, is WG_ERR_INVALID.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_options_t {
    /// sizeof(wg_options_t), as the caller was compiled.
    pub struct_size: usize,
    /// Where packets come from and go to; see wg_turn_on().
    pub tun_fd: i32,
    /// Whose `tun_fd` is: WG_FD_TAKE or WG_FD_DUP. 0 is an error, so that it is not forgotten.
    pub fd_ownership: u32,
    /// The MTU if `tun_fd` cannot be asked for it, or is -1: 576 to 65535, or 0 for 1420.
    pub mtu: u32,
    /// The largest number of peers: up to 16777216, or 0 for 65536. Each takes about 1 KiB.
    pub max_peers: u32,
    /// Bytes that packets may take while they pass through or wait for a session: WG_MEMORY_MIN to WG_MEMORY_MAX, or 0
    /// for 4 MiB; with `tun` or `transport` 128 KiB more at least for each. At the limit the
    /// peer that holds most makes room for one that holds less, else packets are dropped, and counted
    /// ("out_memory_full"); one packet of each peer may wait all the same. Peers come on top: about 1 KiB each, and 3
    /// KiB more while there are sessions. wg_memory_usage() tells what is taken.
    pub memory_limit: usize,
    /// Is passed each UDP socket before its first byte, when the tunnel is turned on and whenever its sockets are
    /// reopened; or NULL. If it refuses, nothing is sent: wg_turn_on_with() fails, and later on the old sockets stay,
    /// or none, and it is tried again as in wg_bump_sockets(). It may then be called on the tunnel's own threads.
    pub protect: wg_protect_fn_t,
    /// For `protect`.
    pub protect_user: *mut c_void,
    /// Gives up `protect_user`; or NULL. It follows the rules of wg_protect_fn_t.
    pub protect_destroy: wg_destroy_fn_t,
    /// Looks up host names; then the endpoint of a peer may be one: "endpoint=vpn.example.com:51820". The name is kept
    /// until another endpoint is configured; wg_get_config() has the address that is used. It is looked up at once,
    /// again after wg_network_changed(), and when a handshake was given up; if that fails, again as long as something
    /// is to be sent there. With it, peers at IPv4 addresses are also reached in networks that have only IPv6 and
    /// NAT64. wg_resolve_system for the system's own resolver. NULL if endpoints are addresses only.
    pub resolve: wg_resolve_fn_t,
    /// For `resolve`.
    pub resolve_user: *mut c_void,
    /// Gives up `resolve_user`; or NULL. When, says wg_turn_on_with(). It follows the rules of wg_resolve_fn_t.
    pub resolve_destroy: wg_destroy_fn_t,
    /// Takes and gives packets in place of `tun_fd`, which is then -1; or NULL. What it points to is not kept.
    pub tun: *const wg_tun_callbacks_t,
    /// Takes and gives datagrams in place of UDP sockets; or NULL. What it points to is not kept.
    pub transport: *const wg_transport_t,
    /// Is told what happens to the tunnel, from the first event on; or NULL. As wg_set_event_callback(), which can
    /// replace it.
    pub event: wg_event_fn_t,
    /// For `event`.
    pub event_user: *mut c_void,
    /// Gives up `event_user`; or NULL.
    pub event_destroy: wg_destroy_fn_t,
    /// Gets the lines of the tunnel's log, from the first one on, in place of the function of wg_set_log_callback(); or
    /// NULL. As wg_set_tunnel_log_callback(), which can replace it.
    pub log: wg_log_fn_t,
    /// For `log`.
    pub log_user: *mut c_void,
    /// Gives up `log_user`; or NULL.
    pub log_destroy: wg_destroy_fn_t,
    /// How much of this tunnel is logged: a wg_log_level_t. WG_LOG_INHERIT, which WG_OPTIONS_INIT has, is what
    /// wg_set_log_level() says. wg_set_tunnel_log_level() changes it.
    pub log_level: i32,
    /// Some of wg_options_flags_t, or 0.
    pub flags: u32,
    /// The userspace network that takes and gives packets in place of `tun_fd`, which is then -1, and of `tun`; or
    /// NULL. What it points to is not kept. WG_ERR_UNSUPPORTED in a library that was built without it.
    pub net: *const wg_net_options_t,
    // No padding, here or at the end: what an older caller has there would be read as the fields that follow later.
}

const _: () = {
    const POINTER: usize = size_of::<usize>();
    assert!(size_of::<wg_options_t>() == 17 * POINTER + 24);
    assert!(offset_of!(wg_options_t, struct_size) == 0);
    assert!(offset_of!(wg_options_t, tun_fd) == POINTER);
    assert!(offset_of!(wg_options_t, fd_ownership) == POINTER + 4);
    assert!(offset_of!(wg_options_t, mtu) == POINTER + 8);
    assert!(offset_of!(wg_options_t, max_peers) == POINTER + 12);
    assert!(offset_of!(wg_options_t, memory_limit) == POINTER + 16);
    assert!(offset_of!(wg_options_t, protect) == 2 * POINTER + 16);
    assert!(offset_of!(wg_options_t, protect_user) == 3 * POINTER + 16);
    assert!(offset_of!(wg_options_t, protect_destroy) == 4 * POINTER + 16);
    assert!(offset_of!(wg_options_t, resolve) == 5 * POINTER + 16);
    assert!(offset_of!(wg_options_t, resolve_user) == 6 * POINTER + 16);
    assert!(offset_of!(wg_options_t, resolve_destroy) == 7 * POINTER + 16);
    assert!(offset_of!(wg_options_t, tun) == 8 * POINTER + 16);
    assert!(offset_of!(wg_options_t, transport) == 9 * POINTER + 16);
    assert!(offset_of!(wg_options_t, event) == 10 * POINTER + 16);
    assert!(offset_of!(wg_options_t, event_user) == 11 * POINTER + 16);
    assert!(offset_of!(wg_options_t, event_destroy) == 12 * POINTER + 16);
    assert!(offset_of!(wg_options_t, log) == 13 * POINTER + 16);
    assert!(offset_of!(wg_options_t, log_user) == 14 * POINTER + 16);
    assert!(offset_of!(wg_options_t, log_destroy) == 15 * POINTER + 16);
    assert!(offset_of!(wg_options_t, log_level) == 16 * POINTER + 16);
    assert!(offset_of!(wg_options_t, flags) == 16 * POINTER + 20);
    assert!(offset_of!(wg_options_t, net) == 16 * POINTER + 24);
};

/// WG_OPTIONS_INIT.
impl Default for wg_options_t {
    fn default() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            tun_fd: -1,
            fd_ownership: WG_FD_TAKE as u32,
            mtu: 0,
            max_peers: 0,
            memory_limit: 0,
            protect: None,
            protect_user: ptr::null_mut(),
            protect_destroy: None,
            resolve: None,
            resolve_user: ptr::null_mut(),
            resolve_destroy: None,
            tun: ptr::null(),
            transport: ptr::null(),
            event: None,
            event_user: ptr::null_mut(),
            event_destroy: None,
            log: None,
            log_user: ptr::null_mut(),
            log_destroy: None,
            log_level: WG_LOG_INHERIT as i32,
            flags: 0,
            net: ptr::null(),
        }
    }
}

// SAFETY: as the assertions above say; it has integers and pointers only, those to functions may be NULL.
unsafe impl SizedStruct for wg_options_t {
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}
