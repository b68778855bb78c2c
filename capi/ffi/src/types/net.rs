//! The C structs of the userspace network: options, connections, interception.

use std::{
    ffi::{c_char, c_void},
    mem::offset_of,
    ptr,
};

use crate::{
    plumbing::{callback::wg_destroy_fn_t, sized::SizedStruct},
    types::endpoint::wg_endpoint_t,
};

/// Options of a userspace network, which takes the place of a TUN: a TCP/IP stack whose connections are descriptors of
/// this process (see wg_net_dial()). It needs no root and no interface. Initialize with WG_NET_OPTIONS_INIT. Fields may
/// be appended, as in wg_options_t.
///
/// The MTU is that of wg_options_t, or else that of `settings`, or else 1420; with an IPv6 address at least 1280.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_net_options_t {
    /// sizeof(wg_net_options_t) in the caller's header.
    pub struct_size: usize,
    /// The `settings` text of wg_conf_parse(), as it is; or NULL. Its lines "address=", "dns=" and "mtu=" are used, all
    /// others are ignored.
    pub settings: *const c_char,
    /// Addresses of the network inside the tunnel, separated by commas, with or without the length of a prefix:
    /// "10.0.0.2/32, fd00::2"; or NULL. They are added to those of `settings`. Without any address, connections can
    /// only be intercepted.
    pub addresses: *const c_char,
    /// Addresses of DNS servers, separated by commas: "10.0.0.1, fd00::1"; or NULL. They are queried through the
    /// tunnel, after those of `settings`.
    pub dns: *const c_char,
    /// The limit for the buffers of all connections together, in bytes, or 0 for 256 MiB. At the limit windows shrink,
    /// and new connections are refused. `memory_limit` of wg_options_t does not include them.
    pub memory_limit: usize,
    /// The largest number of open TCP connections, or 0 for 65536. At the limit new ones are refused. The number of
    /// half-open ones is limited separately, to 8192 or less.
    pub max_connections: u32,
    /// 0.
    pub flags: u32,
    // No padding, here or at the end: what an older caller has there would be read as the fields that follow later.
}

/// Transport protocols, by their IP protocol numbers.
///
/// Since: 0.1.0
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum wg_net_protocol_t {
    /// TCP.
    WG_NET_TCP = 6,
    /// UDP.
    WG_NET_UDP = 17,
}

/// Decision about an intercepted connection.
///
/// Since: 0.1.0
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum wg_net_answer_t {
    /// Refuses the connection: by a RST, or for UDP by ICMP "port unreachable".
    WG_NET_REFUSE = 0,
    /// Accepts the connection. With TCP, the handshake continues.
    WG_NET_ACCEPT = 1,
    /// Ignores the connection: the peer gets no answer.
    WG_NET_IGNORE = 2,
    /// Holds the connection until wg_net_answer(): the TCP handshake is held back, or the datagrams are queued.
    WG_NET_HOLD = 3,
}

/// Flags of a wg_net_intercept_t. Later versions may add flags.
///
/// Since: 0.1.0
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum wg_net_intercept_flags_t {
    /// Does not answer echo requests (ping) to addresses other than the network's own.
    WG_NET_NO_ECHO = 1,
}

/// Flags of wg_net_socks5() and wg_net_http(). Later versions may add flags.
///
/// Since: 0.1.0
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum wg_net_proxy_flags_t {
    /// Permits an address of any interface as `listen`, so that other machines can use the proxy. A user and a password
    /// are then required.
    WG_NET_PROXY_REMOTE = 1,
}

pub use wg_net_answer_t::*;
pub use wg_net_intercept_flags_t::*;
pub use wg_net_protocol_t::*;
pub use wg_net_proxy_flags_t::*;

/// A connection, or a UDP flow (the datagrams between two ports). It is plain memory without padding.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_net_connection_t {
    /// The number of an intercepted connection, for wg_net_answer(): counted up for each tunnel, and never reused. 0
    /// for all other connections.
    pub id: u64,
    /// A wg_net_protocol_t.
    pub protocol: u32,
    /// 0.
    pub flags: u32,
    /// The local address and port. For an intercepted connection: those that the peer dialled.
    pub local: wg_endpoint_t,
    /// The peer's address and port.
    pub peer: wg_endpoint_t,
}

/// Decides about an intercepted connection: returns a wg_net_answer_t. Any other value counts as WG_NET_REFUSE.
///
/// `user` is the pointer that was passed with the function; `handle` is the tunnel; `connection` is valid only during
/// the call.
///
/// Threads: called on the tunnel's own threads, without a lock held, perhaps on two of them concurrently. The tunnel
/// waits for it: return soon, and return WG_NET_HOLD if the decision takes longer. Do not wait for a thread that may be
/// inside a wg_ function. It must not leave by an exception, longjmp() or pthread_exit(). Its stack is as in
/// wg_log_fn_t.
/// Inside it, the functions that wg_log_fn_t lists work; all others return WG_ERR_BUSY.
/// Since: 0.1.0
pub type wg_net_dialled_fn_t =
    Option<unsafe extern "C" fn(user: *mut c_void, handle: i32, connection: *const wg_net_connection_t) -> u32>;

/// Receives an intercepted connection that was accepted. `fd` is as in wg_net_accept(), and the app closes it.
///
/// `user` is the pointer that was passed with the function; `handle` is the tunnel; `connection` is valid only during
/// the call.
///
/// Threads: as wg_net_dialled_fn_t.
/// Since: 0.1.0
pub type wg_net_connected_fn_t =
    Option<unsafe extern "C" fn(user: *mut c_void, handle: i32, connection: *const wg_net_connection_t, fd: i32)>;

/// Options of wg_net_intercept(). Initialize with WG_NET_INTERCEPT_INIT. Fields may be appended, as in wg_options_t.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_net_intercept_t {
    /// sizeof(wg_net_intercept_t) in the caller's header.
    pub struct_size: usize,
    /// Decides about each connection and UDP flow; NULL accepts all.
    pub dialled: wg_net_dialled_fn_t,
    /// Receives accepted connections; NULL queues them for wg_net_accept().
    pub connected: wg_net_connected_fn_t,
    /// Passed to the functions as `user`.
    pub user: *mut c_void,
    /// Releases `user`; or NULL. Called exactly once: after the interception has ended and the last call of either
    /// function has returned, or before wg_net_intercept() returns if it fails (unless the cause is an invalid
    /// `struct_size`). It may call the same functions as the other callbacks.
    pub destroy: wg_destroy_fn_t,
    /// Milliseconds without a datagram after which a UDP flow ends, including flows of wg_net_listen(), or 0 for
    /// 60,000.
    pub udp_idle_ms: u32,
    /// The largest number of UDP flows, or 0 for 16384. At the limit the flow that has been idle longest ends.
    pub max_flows: u32,
    /// Milliseconds after which a connection that is held (WG_NET_HOLD) and not answered (wg_net_answer()) is ignored;
    /// or 0 for 60,000.
    pub hold_ms: u32,
    /// The largest number of connections that wait for wg_net_accept(), or 0 for 128. Further TCP connections are
    /// refused, or reset if their handshakes were complete; datagrams of further UDP flows are dropped.
    pub backlog: u32,
    /// Bitwise OR of wg_net_intercept_flags_t, or 0.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
    // No padding, here or at the end: what an older caller has there would be read as the fields that follow later.
}

const _: () = {
    const POINTER: usize = size_of::<usize>();
    assert!(size_of::<wg_net_options_t>() == 5 * POINTER + 8);
    assert!(offset_of!(wg_net_options_t, struct_size) == 0);
    assert!(offset_of!(wg_net_options_t, settings) == POINTER);
    assert!(offset_of!(wg_net_options_t, addresses) == 2 * POINTER);
    assert!(offset_of!(wg_net_options_t, dns) == 3 * POINTER);
    assert!(offset_of!(wg_net_options_t, memory_limit) == 4 * POINTER);
    assert!(offset_of!(wg_net_options_t, max_connections) == 5 * POINTER);
    assert!(offset_of!(wg_net_options_t, flags) == 5 * POINTER + 4);
    assert!(size_of::<wg_net_connection_t>() == 104);
    assert!(offset_of!(wg_net_connection_t, id) == 0);
    assert!(offset_of!(wg_net_connection_t, protocol) == 8);
    assert!(offset_of!(wg_net_connection_t, flags) == 12);
    assert!(offset_of!(wg_net_connection_t, local) == 16);
    assert!(offset_of!(wg_net_connection_t, peer) == 60);
    assert!(size_of::<wg_net_intercept_t>() == 5 * POINTER + 24);
    assert!(offset_of!(wg_net_intercept_t, struct_size) == 0);
    assert!(offset_of!(wg_net_intercept_t, dialled) == POINTER);
    assert!(offset_of!(wg_net_intercept_t, connected) == 2 * POINTER);
    assert!(offset_of!(wg_net_intercept_t, user) == 3 * POINTER);
    assert!(offset_of!(wg_net_intercept_t, destroy) == 4 * POINTER);
    assert!(offset_of!(wg_net_intercept_t, udp_idle_ms) == 5 * POINTER);
    assert!(offset_of!(wg_net_intercept_t, max_flows) == 5 * POINTER + 4);
    assert!(offset_of!(wg_net_intercept_t, hold_ms) == 5 * POINTER + 8);
    assert!(offset_of!(wg_net_intercept_t, backlog) == 5 * POINTER + 12);
    assert!(offset_of!(wg_net_intercept_t, flags) == 5 * POINTER + 16);
    assert!(offset_of!(wg_net_intercept_t, reserved) == 5 * POINTER + 20);
};

/// WG_NET_OPTIONS_INIT.
impl Default for wg_net_options_t {
    fn default() -> Self {
        let none = ptr::null();
        let struct_size = size_of::<Self>();
        Self { struct_size, settings: none, addresses: none, dns: none, memory_limit: 0, max_connections: 0, flags: 0 }
    }
}

/// WG_NET_INTERCEPT_INIT.
impl Default for wg_net_intercept_t {
    fn default() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            dialled: None,
            connected: None,
            user: ptr::null_mut(),
            destroy: None,
            udp_idle_ms: 0,
            max_flows: 0,
            hold_ms: 0,
            backlog: 0,
            flags: 0,
            reserved: 0,
        }
    }
}

// SAFETY: as the assertions above say; it has integers and pointers only.
unsafe impl SizedStruct for wg_net_options_t {
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}

// SAFETY: the same, and any pointer to a function may be NULL.
unsafe impl SizedStruct for wg_net_intercept_t {
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}
