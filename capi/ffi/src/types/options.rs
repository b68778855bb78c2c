//! The options of a tunnel.

use std::{
    ffi::{c_char, c_void},
    mem::offset_of,
    ptr,
};

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

/// Flags of a wg_options_t. Later versions may add flags.
///
/// Since: 0.1.0
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum wg_options_flags_t {
    /// Queues all events for wg_next_event(), whether or not there is an event callback.
    WG_OPTIONS_QUEUE_EVENTS = 1,
}
pub use wg_options_flags_t::*;

/// Options of wg_turn_on_with(). Initialize with WG_OPTIONS_INIT, then set the fields that should differ.
///
/// New fields are only appended. A program that was compiled with an older header passes a shorter struct; fields that
/// it lacks have the value of WG_OPTIONS_INIT. A struct of a newer header, with a `struct_size` of up to 4096, is
/// accepted if all fields that are unknown to this library are zero. A `struct_size` that no released header has, such
/// as one below that of 0.1.0, is WG_ERR_INVALID.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_options_t {
    /// sizeof(wg_options_t) in the caller's header.
    pub struct_size: usize,
    /// The descriptor of the TUN device; see wg_turn_on().
    pub tun_fd: i32,
    /// Ownership of `tun_fd`: WG_FD_TAKE or WG_FD_DUP. 0 is an error, so that it cannot be forgotten.
    pub fd_ownership: u32,
    /// The MTU if `tun_fd` does not report one, or is -1: 576 to 65535, or 0 for 1420.
    pub mtu: u32,
    /// The largest number of peers: up to 16777216, or 0 for 65536. Each takes about 1 KiB.
    pub max_peers: u32,
    /// Limit for packets in transit and staged packets, in bytes: WG_MEMORY_MIN to WG_MEMORY_MAX, or 0 for 4 MiB;
    /// `tun` and `transport` each raise the minimum by 128 KiB. At the limit the peer with the most staged bytes loses
    /// packets to one with fewer; otherwise packets are dropped. Drops are counted ("out_memory_full"). One packet of
    /// each peer may always wait. Peers are not included: about 1 KiB each, and 3 KiB more while there are sessions.
    /// wg_memory_usage() returns the present use.
    pub memory_limit: usize,
    /// Called with each UDP socket before anything is sent on it, when the tunnel is turned on and whenever its sockets
    /// are reopened; or NULL. If it refuses a socket, nothing is sent on it: wg_turn_on_with() fails; later on the
    /// tunnel keeps its old sockets, if any, and retries as in wg_bump_sockets(), perhaps on its own threads.
    pub protect: wg_protect_fn_t,
    /// Passed to `protect`.
    pub protect_user: *mut c_void,
    /// Releases `protect_user`; or NULL. The rules of wg_protect_fn_t apply.
    pub protect_destroy: wg_destroy_fn_t,
    /// Looks up host names, so that endpoints may be host names: "endpoint=vpn.example.com:51820". The name is kept
    /// until another endpoint is configured; wg_get_config() returns the address in use. It is looked up at once, after
    /// wg_network_changed(), and when a handshake was given up; if that fails, it is retried as long as there are
    /// packets for the peer. With a resolver, peers at IPv4 addresses are also reachable in networks that have only
    /// IPv6 and NAT64. wg_resolve_system is the resolver of the system. NULL if endpoints are addresses only.
    pub resolve: wg_resolve_fn_t,
    /// Passed to `resolve`.
    pub resolve_user: *mut c_void,
    /// Releases `resolve_user`, as described in wg_turn_on_with(); or NULL. The rules of wg_resolve_fn_t apply.
    pub resolve_destroy: wg_destroy_fn_t,
    /// Custom packets in place of `tun_fd`, which is then -1; or NULL. The struct is copied.
    pub tun: *const wg_tun_callbacks_t,
    /// Custom datagrams in place of UDP sockets; or NULL. The struct is copied.
    pub transport: *const wg_transport_t,
    /// Receives the tunnel's events, from the first one on; or NULL. wg_set_event_callback() can replace it.
    pub event: wg_event_fn_t,
    /// Passed to `event`.
    pub event_user: *mut c_void,
    /// Releases `event_user`; or NULL.
    pub event_destroy: wg_destroy_fn_t,
    /// Receives the lines of the tunnel's log, from the first one on, in place of the function of
    /// wg_set_log_callback(); or NULL. wg_set_tunnel_log_callback() can replace it.
    pub log: wg_log_fn_t,
    /// Passed to `log`.
    pub log_user: *mut c_void,
    /// Releases `log_user`; or NULL.
    pub log_destroy: wg_destroy_fn_t,
    /// The log level of this tunnel: a wg_log_level_t. WG_LOG_INHERIT, the value of WG_OPTIONS_INIT, is the level of
    /// wg_set_log_level(). wg_set_tunnel_log_level() changes it.
    pub log_level: i32,
    /// Bitwise OR of wg_options_flags_t, or 0.
    pub flags: u32,
    /// A userspace network in place of `tun_fd`, which is then -1, and of `tun`; or NULL. The struct is copied.
    /// WG_ERR_UNSUPPORTED in a library that was built without it.
    pub net: *const wg_net_options_t,
    /// The name of a network interface that the tunnel creates, in place of `tun_fd`, which is then -1, of `tun` and of
    /// `net`; or NULL. It is not kept. `mtu` is set as that of the interface. Addresses and routes are left to the
    /// caller.
    ///
    /// On Windows it is an adapter of Wintun, 1 to 127 UTF-16 units. wintun.dll is looked for in the folders of this
    /// library, of the program, and of the system; see windows/README.md. Windows recognizes an adapter of the same
    /// name as the same network. The process must run as administrator. A tunnel whose adapter is disabled or removed
    /// ends (WG_EVENT_ENDED).
    ///
    /// On Linux it is a TUN device, 1 to 15 bytes, for which the process needs CAP_NET_ADMIN. Initially it is down: the
    /// tunnel opens its port when the interface is brought up, and closes it when the interface is taken down.
    pub interface_name: *const c_char,
    /// The largest number of threads that help with encryption while one processor is not enough: up to WG_WORKERS_MAX;
    /// WG_WORKERS_NONE; or 0 for the default. That is one less than the processors that the process may use, and at
    /// most 3; but none on one or two processors, and with a `memory_limit` of less than WG_MEMORY_DEFAULT. The threads
    /// are started under the first such load, and take up to half of the free memory of `memory_limit` while it lasts.
    /// Callbacks may also run on them.
    pub workers: u32,
    /// The number of queues of the interface, each of which a thread of its own serves, so that many connections use
    /// several processors: 1 to WG_QUEUES_MAX, or 0 for 1. Linux only, otherwise WG_ERR_UNSUPPORTED. With
    /// `interface_name` the interface is created with them; with `tun_fd` it must have been created with
    /// IFF_MULTI_QUEUE, and `queue_fds` has the others. Not with `tun` or `net`. Each but the first takes about 0.5 MiB
    /// of `memory_limit`; WG_ERR_INVALID if that is too small. wg_set_tun_fd() is then not supported.
    pub queues: u32,
    /// The descriptors of the queues behind that of `tun_fd`, `queues` - 1 numbers; or NULL. `fd_ownership` holds for
    /// all of them. They are not kept.
    pub queue_fds: *const i32,
    // No padding, here or at the end: what an older caller has there would be read as the fields that follow later.
}

const _: () = {
    const POINTER: usize = size_of::<usize>();
    assert!(size_of::<wg_options_t>() == 19 * POINTER + 32);
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
    assert!(offset_of!(wg_options_t, interface_name) == 17 * POINTER + 24);
    assert!(offset_of!(wg_options_t, workers) == 18 * POINTER + 24);
    assert!(offset_of!(wg_options_t, queues) == 18 * POINTER + 28);
    assert!(offset_of!(wg_options_t, queue_fds) == 18 * POINTER + 32);
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
            interface_name: ptr::null(),
            workers: 0,
            queues: 0,
            queue_fds: ptr::null(),
        }
    }
}

// SAFETY: as the assertions above say; it has integers and pointers only, those to functions may be NULL.
unsafe impl SizedStruct for wg_options_t {
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}
