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

/// Returns the descriptor of a tunnel's IPv4 socket, to set options on it or to look at it, or a negative wg_result_t.
///
/// There is no need to protect it: wg_options_t's `protect` is passed each socket before its first byte, and that is
/// the only way that misses none.
///
/// Memory: the descriptor is borrowed: do not close it. It is the library's, and closed whenever the sockets are
/// reopened (wg_bump_sockets(), wg_network_changed(), wg_bind_socket_to_interface4(), a new listen_port, wg_pause())
/// and by wg_turn_off(); the number may mean something else after that.
/// Errors: WG_ERR_NOT_FOUND if there is no such socket, because the tunnel is paused, its port could not be opened, the
/// host has no IPv4, or its datagrams are the app's; WG_ERR_UNSUPPORTED on Windows; WG_ERR_UNKNOWN_HANDLE; WG_ERR_BUSY
/// inside a callback; WG_ERR_PANIC.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_peek_socket_fd4(handle: i32) -> i32 {
    peek(handle, Family::V4)
}

/// As wg_peek_socket_fd4(), for IPv6.
///
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_peek_socket_fd6(handle: i32) -> i32 {
    peek(handle, Family::V6)
}

/// Binds a tunnel's IPv4 socket to one network interface, by its index, whatever the routes say, and its successors as
/// well; 0 ends that. On Windows only what is sent is bound to it.
///
/// As long as `blackhole` is not 0, everything that would leave by IPv4 is dropped here, and counted as
/// out_send_failed: for the moment between the loss of one network and the next.
///
/// On Linux it takes no permission the first time; later on, without CAP_NET_RAW, new sockets take the place of the
/// old ones as with wg_bump_sockets().
///
/// Memory: nothing changes hands.
/// Errors: nothing changes then. WG_ERR_NOT_FOUND if there is no such interface; WG_ERR_UNSUPPORTED if the host has no
/// IPv4, the datagrams are the app's, or the system cannot do it (Linux since 5.7, Apple's systems and Windows can);
/// WG_ERR_PERMISSION; WG_ERR_IO; WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED if the tunnel has ended; WG_ERR_BUSY inside a
/// callback; WG_ERR_PANIC.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_bind_socket_to_interface4(handle: i32, interface_index: u32, blackhole: i32) -> wg_result_t {
    bind_to_interface(handle, Family::V4, interface_index, blackhole)
}

/// As wg_bind_socket_to_interface4(), for IPv6.
///
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_bind_socket_to_interface6(handle: i32, interface_index: u32, blackhole: i32) -> wg_result_t {
    bind_to_interface(handle, Family::V6, interface_index, blackhole)
}

/// Reopens a tunnel's sockets: new ones on the same port, passed to `protect` first. For when the old ones may lead
/// nowhere, after a change of networks. Each peer with a session is sent a packet, so that it learns where we are.
///
/// If it fails the old sockets stay in use, unless they had to be closed first (not on Linux or Android, but for a
/// process that has become another user), and it is tried again, after half a second at first and at least every 30 s,
/// until it works. Sockets that could not be opened before are tried at once. A port that was not configured but chosen
/// by the system may change, now or when handshakes go unanswered after this: see WG_EVENT_SOCKETS_RECOVERED.
///
/// Memory: nothing changes hands.
/// Errors: WG_ERR_ADDR_IN_USE, WG_ERR_PERMISSION (also if `protect` refuses), WG_ERR_NOT_FOUND (the interface is gone
/// that a socket is bound to), WG_ERR_IO, WG_ERR_RESOURCES: why it did not work this time; WG_ERR_UNKNOWN_HANDLE;
/// WG_ERR_CLOSED if the tunnel has ended; WG_ERR_BUSY inside a callback; WG_ERR_PANIC. A tunnel that is paused has no
/// sockets to reopen: that is no error.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_bump_sockets(handle: i32) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| {
        entry.check_running()?;
        entry.tunnel.device().rebind()
    })
}

/// Tells a tunnel that the network which it is in is another one, or has changed. It begins again: with new sockets on
/// the same port, if that is possible; each host name is looked up; and what was found out about NAT64 is forgotten.
/// Each peer that there is a session with hears from us at once. The session stays if the peer's address does; if it
/// does not, a new one is made. So call it for each change that the system tells of; one call too many costs a datagram
/// for each peer.
///
/// Memory: nothing changes hands.
/// Errors: WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED if the tunnel has ended; WG_ERR_BUSY inside a callback; WG_ERR_PANIC;
/// and as the system says if there are no new sockets now, for example WG_ERR_PERMISSION. The tunnel then goes on with
/// the old ones, and tries again by itself.
/// Threads: any. It does not wait for look-ups.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_network_changed(handle: i32) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| {
        entry.check_running()?;
        entry.tunnel.device().network_changed()
    })
}

/// From now on peers whose endpoint is known stay there, whatever address they send from, and so does each that gets an
/// endpoint by configuration. For phones: after a change of networks, what is still on its way on the old one would
/// lead astray. There is no way back but a new tunnel.
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

/// Marks what a tunnel sends, for rules of routing or a firewall (SO_MARK on Linux and Android); 0 ends it. The same as
/// fwmark=.. in wg_set_config().
///
/// Memory: nothing changes hands.
/// Errors: WG_ERR_PERMISSION without CAP_NET_ADMIN, and the old mark stays; WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED if the
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

/// Returns the UDP port that a tunnel's sockets are bound to: the one that its peers send to, unless a NAT is in
/// between. It is 0 while there are no sockets: in a pause, as long as the port cannot be opened, after the tunnel has
/// ended, or if its datagrams are the app's. The port that is configured is in wg_get_config() even then.
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

pub(crate) fn bind_to_interface(handle: i32, family: Family, index: u32, blackhole: i32) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| -> Result<()> {
        entry.check_running()?;
        let Some(sockets) = &entry.sockets else {
            return Err(Error::new(ErrorKind::Unsupported, "the tunnel's datagrams are the app's"));
        };
        let bound = sockets.set_interface(family, index, blackhole != 0);
        bound.map_err(|err| Error::io(format!("cannot bind the {family} socket to interface {index}"), err))
    })
}
