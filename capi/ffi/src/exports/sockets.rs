//! A tunnel's UDP sockets: borrowed, bound to an interface, reopened, moved to another network, marked.

use crate::{
    plumbing::{guard::guard_on, handle::Entry, result::wg_result_t},
    tunnel::Running,
};
use wg_embed::{
    bind::Family,
    config::Update,
    error::{Error, ErrorKind, Result},
};

/// Returns the descriptor of a tunnel's IPv4 socket, to set or inspect its options, or a negative wg_result_t.
///
/// To protect sockets use `protect` of wg_options_t: it is called with each socket before anything is sent on it, and
/// is the only way that misses none.
///
/// Memory: the descriptor is borrowed: do not close it. The library closes it whenever the sockets are reopened
/// (wg_bump_sockets(), wg_network_changed(), wg_bind_socket_to_interface4(), a new listen_port, wg_pause()) and in
/// wg_turn_off(); afterwards the number may be reused.
/// Errors: WG_ERR_NOT_FOUND if there is no such socket, because the tunnel is paused, its port could not be opened, the
/// host has no IPv4, or the tunnel has a wg_transport_t; WG_ERR_UNSUPPORTED on Windows; WG_ERR_UNKNOWN_HANDLE;
/// WG_ERR_BUSY inside a callback; WG_ERR_PANIC.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_peek_socket_fd4(handle: i32) -> i32 {
    peek(handle, Family::V4)
}

/// Returns the descriptor of a tunnel's IPv6 socket, as wg_peek_socket_fd4() does for IPv4.
///
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_peek_socket_fd6(handle: i32) -> i32 {
    peek(handle, Family::V6)
}

/// Binds a tunnel's IPv4 socket, and its successors, to one network interface by its index, regardless of the routes; 0
/// ends that. On Windows only sending is bound to the interface.
///
/// While a tunnel is paused, this applies to its next sockets.
///
/// While `blackhole` is not 0, all outgoing IPv4 datagrams are dropped, and counted as out_send_failed: for the time
/// between the loss of one network and the next.
///
/// On Linux the first call needs no permission; later calls without CAP_NET_RAW replace the sockets, as
/// wg_bump_sockets() does.
///
/// Memory: nothing changes hands.
/// Errors: on failure nothing changes. WG_ERR_NOT_FOUND if there is no such interface; WG_ERR_UNSUPPORTED if the host
/// has no IPv4, the tunnel has a wg_transport_t, or the system does not support it (Linux since 5.7, Apple's systems
/// and Windows do); WG_ERR_PERMISSION; WG_ERR_IO; WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED if the tunnel has ended;
/// WG_ERR_BUSY inside a callback; WG_ERR_PANIC.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_bind_socket_to_interface4(handle: i32, interface_index: u32, blackhole: i32) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| bind_to_interface(entry, Family::V4, interface_index, blackhole != 0))
}

/// Binds a tunnel's IPv6 socket to an interface, as wg_bind_socket_to_interface4() does for IPv4.
///
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_bind_socket_to_interface6(handle: i32, interface_index: u32, blackhole: i32) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| bind_to_interface(entry, Family::V6, interface_index, blackhole != 0))
}

/// Reopens a tunnel's sockets on the same port; the new ones are passed to `protect` first. For a change of networks,
/// after which the old ones may no longer work. Each peer with a session is sent a packet, so that it learns the new
/// address.
///
/// On failure the old sockets stay in use, unless they had to be closed first (on Linux and Android only in a process
/// that has changed its user), and opening is retried until it succeeds: first after half a second, then at least every
/// 30 s. Sockets that could not be opened before are retried at once. A port that was chosen by the system may change,
/// in this call or when handshakes go unanswered afterwards: see WG_EVENT_SOCKETS_RECOVERED.
///
/// Memory: nothing changes hands.
/// Errors: WG_ERR_ADDR_IN_USE, WG_ERR_PERMISSION (also if `protect` refuses a socket), WG_ERR_NOT_FOUND (the interface
/// that a socket is bound to was removed), WG_ERR_IO, WG_ERR_RESOURCES: the cause of this failure;
/// WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED if the tunnel has ended; WG_ERR_BUSY inside a callback; WG_ERR_PANIC. For a
/// paused tunnel, which has no sockets, it succeeds as a no-op.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_bump_sockets(handle: i32) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| {
        entry.check_running()?;
        entry.tunnel.device().rebind()
    })
}

/// Adapts a tunnel to a change of networks: its sockets are reopened, on the same port if possible; each host name is
/// looked up; and the state of NAT64 is discarded. Each peer with a session is sent a packet at once. The session is
/// kept if the peer's address stays the same; otherwise a new one is established. Call it for each change that the
/// system reports; an unnecessary call costs a datagram for each peer.
///
/// Memory: nothing changes hands.
/// Errors: WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED if the tunnel has ended; WG_ERR_BUSY inside a callback; WG_ERR_PANIC;
/// and errors of the system if the sockets cannot be reopened now, for example WG_ERR_PERMISSION. The tunnel then keeps
/// the old ones, and retries by itself.
/// Threads: any. It does not wait for look-ups.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_network_changed(handle: i32) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| {
        entry.check_running()?;
        entry.tunnel.device().network_changed()
    })
}

/// Disables roaming: from now on the endpoint of each peer that has one, or is given one by configuration, no longer
/// follows the source address of its packets. For phones: late packets from the old network must not move the endpoint.
/// It cannot be undone, except by a new tunnel.
///
/// Memory: nothing changes hands.
/// Errors: WG_ERR_UNKNOWN_HANDLE; WG_ERR_BUSY inside a callback; WG_ERR_PANIC.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_disable_roaming(handle: i32) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| {
        entry.tunnel.device().disable_roaming();
        Ok(())
    })
}

/// Sets the mark of a tunnel's datagrams, for routing rules or a firewall (SO_MARK on Linux and Android); 0 removes it.
/// The same as fwmark=.. in wg_set_config().
///
/// Memory: nothing changes hands.
/// Errors: WG_ERR_PERMISSION without CAP_NET_ADMIN: the old mark stays; WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED if the
/// tunnel has ended; WG_ERR_BUSY inside a callback; WG_ERR_PANIC.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_set_fwmark(handle: i32, mark: u32) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| {
        entry.check_running()?;
        entry.tunnel.device().apply(Update { fwmark: Some(mark), ..Update::default() })
    })
}

/// Returns the UDP port that a tunnel's sockets are bound to; its peers send to it, unless there is a NAT in between.
/// It is 0 while there are no sockets: during a pause, as long as the port cannot be opened, after the tunnel has
/// ended, or if the tunnel has a wg_transport_t. wg_get_config() returns the configured port in any case.
///
/// Memory: nothing changes hands.
/// Errors: WG_ERR_UNKNOWN_HANDLE; WG_ERR_BUSY inside a callback; WG_ERR_PANIC.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_listen_port(handle: i32) -> i32 {
    guard_on(handle, |entry: &Entry<Running>| {
        Ok(entry.sockets.as_ref().map_or(0, |_| entry.tunnel.device().listen_port().into()))
    })
}

fn peek(handle: i32, family: Family) -> i32 {
    guard_on(handle, |entry: &Entry<Running>| {
        let absent = || Error::new(ErrorKind::NotFound, format!("the tunnel has no {family} socket"));
        let sockets = entry.sockets.as_ref().ok_or_else(absent)?;
        #[cfg(unix)]
        return match family {
            Family::V4 => sockets.fd4(),
            Family::V6 => sockets.fd6(),
        }
        .ok_or_else(absent);
        #[cfg(not(unix))]
        return {
            let _ = sockets;
            Err(Error::new(ErrorKind::Unsupported, "sockets are not descriptors on this platform"))
        };
    })
}

pub(crate) fn bind_to_interface(entry: &Running, family: Family, index: u32, blackhole: bool) -> Result<()> {
    entry.check_running()?;
    let Some(sockets) = &entry.sockets else {
        return Err(Error::new(ErrorKind::Unsupported, "the app transports the tunnel's datagrams"));
    };
    let bound = sockets.set_interface(family, index, blackhole);
    bound.map_err(|err| Error::io(format!("cannot bind the {family} socket to interface {index}"), err))
}
