//! The userspace network of a tunnel: connections inside it, as descriptors.

use std::{ffi::c_char, ptr::NonNull, sync::Arc};

use crate::{
    net::{Limit, Net, Network, NewInterception, Protocol, Wanted},
    plumbing::{
        cancel::Uncancelled,
        fd::into_number,
        guard::guard_on,
        handle::Entry,
        memory::give,
        result::wg_result_t,
        sized::{Received, read_sized},
        text::{borrow_text, fixed_text},
    },
    tunnel::Running,
    types::{
        endpoint::{WG_ENDPOINT_TEXT_LEN, family, wg_endpoint_t},
        net::{wg_net_connection_t, wg_net_intercept_t},
        resolve::wg_address_t,
    },
};
use wg_embed::{
    bind::Endpoint,
    error::{Error, ErrorKind, Result},
};
use wg_embed_netstack::pump::OwnedFd;

/// The network of a tunnel that runs.
fn net(entry: &Entry<Running>) -> Result<&Arc<Net>> {
    entry.check_running()?;
    let missing = || Error::new(ErrorKind::Unsupported, "the tunnel was turned on without a wg_net_options_t");
    entry.functions.net.as_ref().ok_or_else(missing)
}

fn not_null<T>(out: *mut T, name: &str) -> Result<NonNull<T>> {
    NonNull::new(out).ok_or_else(|| Error::new(ErrorKind::Null, format!("{name} is NULL")))
}

/// # Safety
/// `out` is writable.
unsafe fn give_fd(out: NonNull<i32>, fd: OwnedFd) {
    // SAFETY: the caller says so. The descriptor is the app's from here on.
    unsafe { out.write(into_number(fd)) };
}

/// Connects through a tunnel that has a userspace network (`net` of wg_options_t), and returns a descriptor of the
/// connection in `*fd`: one end of a socket pair; the library copies to and from the other end.
///
/// `network` is "tcp" or "udp", for one family "tcp4", "tcp6", "udp4", "udp6". `address` is "host:port", where host is
/// an IPv4 address, an IPv6 address in brackets, or a name, which is looked up as in wg_net_resolve(). With TCP, the
/// addresses of a name are tried as in RFC 8305, and the connection is established when this returns.
///
/// The descriptor is a SOCK_STREAM for TCP: read(), write(), poll() and shutdown() work as on a connected TCP socket,
/// and the end of either direction leaves the other one open. If the connection fails or the peer resets it, write()
/// fails, and read() fails with ECONNRESET after the data that had arrived (on Linux and Android; elsewhere, and after
/// the peer's end, it returns 0). A peer without traffic for 300 s is probed (keepalive); the connection fails if nine
/// probes, 30 s apart, are not answered. Closing the descriptor sends the written data, as long as some are accepted
/// within 60 s, and then ends the connection, by a RST if there are unread data. For UDP it is a SOCK_SEQPACKET (on
/// Apple's systems SOCK_DGRAM): each send() is one datagram, and each recv() returns one; 0 is the end or an empty
/// datagram. Datagrams that arrive while its buffers are full are dropped. ICMP errors are not reported.
///
/// The descriptor is blocking, is closed by exec(), and is not below 3. It has no socket options of the IP and TCP
/// levels; use wg_net_reset() in place of SO_LINGER. SIGPIPE is raised as on any socket: use MSG_NOSIGNAL.
///
/// On Windows it is a SOCKET, which fits into `*fd`, and is closed by closesocket(); child processes do not inherit it.
/// The pair of sockets is connected over loopback (127.0.0.1), and differs from the descriptors described above as
/// follows. For TCP it is a TCP socket: recv() fails with WSAECONNRESET after a reset, which may discard data that was
/// not read yet; SO_LINGER of 0 seconds makes closing it a reset; and after it was closed, the connection ends a few
/// minutes later if the peer does not end it. For UDP it is a UDP socket (SOCK_DGRAM): the end is one empty datagram,
/// after which send() fails with WSAESHUTDOWN, and the library notices within two seconds that it was closed.
///
/// `timeout_ms` is as for poll(): a negative number waits without limit, and with 0 only calls that need not wait
/// succeed, such as UDP to an address.
///
/// Memory: nothing is kept. On success the caller owns `*fd`; closing it ends the connection. On failure it is not
/// written, and no descriptor is left open. After wg_turn_off() a TCP descriptor is as after a reset by the peer, and a
/// UDP descriptor returns the end; the caller still has to close it. A connection uses two descriptors of the process.
/// Requires: `network` and `address` are NULL or end with a zero byte; `fd` is NULL or writable.
/// Errors: WG_ERR_NULL; WG_ERR_INVALID if `network` or `address` is malformed; WG_ERR_REFUSED if the peer refuses;
/// WG_ERR_UNREACHABLE if the network has no address of the family, or a router reports the destination as unreachable;
/// WG_ERR_NOT_FOUND if there is no such name, or it has no address of the family; WG_ERR_TIMED_OUT, also if the peer
/// does not answer TCP's retries; WG_ERR_UNSUPPORTED if the tunnel has no userspace network, or has no DNS servers for
/// a name; WG_ERR_IO if the DNS servers fail; WG_ERR_CLOSED if the tunnel has ended, or is turned off during the call;
/// WG_ERR_RESOURCES; WG_ERR_UNKNOWN_HANDLE; WG_ERR_BUSY inside a callback; WG_ERR_PANIC.
/// Threads: any, also several concurrently. pthread_cancel() takes effect when it returns.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_net_dial(
    handle: i32,
    network: *const c_char,
    address: *const c_char,
    timeout_ms: i32,
    fd: *mut i32,
) -> wg_result_t {
    let limit = Limit::after(timeout_ms);
    guard_on(handle, |entry: &Entry<Running>| {
        // SAFETY: the caller's contract is the same.
        let network = Network::parse(unsafe { borrow_text(network, "network") }?)?;
        // SAFETY: as above.
        let address = unsafe { borrow_text(address, "address") }?;
        let out = not_null(fd, "fd")?;
        let connected = net(entry)?.dial(network, address, limit)?;
        // SAFETY: it is writable, says the caller.
        unsafe { give_fd(out, connected) };
        Ok(())
    })
}

/// Listens inside the tunnel, and returns a descriptor in `*fd` that poll() reports as readable while a connection
/// waits for wg_net_accept(). Closing it ends the listener. It is only for polling: do not read from it.
///
/// `network` is as in wg_net_dial(). `address` is "10.0.0.2:80", `[fd00::2]:80`, or ":80" for all addresses of the
/// network ("tcp6" and "udp6" need an address); a listener of one address takes precedence over one of all. With port 0
/// the network chooses one; wg_net_local_address() returns it. Up to `backlog` connections, or 128 for 0, wait for
/// wg_net_accept(). Further ones get no answer, so that peers try again for a while, as with the system's sockets; for
/// UDP they are dropped. A listener keeps its port as long as it is open; dials use other ports.
///
/// With "udp", each source address and port is a connection of its own, which receives the datagrams of that source and
/// sends to it alone. It ends when its descriptor is closed, or by itself after 60 s without a datagram; the next
/// datagram of that source is then a new connection. A connection that was dialled from the same port before takes
/// precedence for its own datagrams.
///
/// Memory: as wg_net_dial().
/// Requires: as in wg_net_dial().
/// Errors: WG_ERR_NULL; WG_ERR_INVALID if `network` or `address` is malformed or does not fit the other;
/// WG_ERR_NOT_FOUND if it is not an address of the network; WG_ERR_ADDR_IN_USE (it waits for a listener whose
/// descriptor was just closed); and the errors of wg_net_dial() that concern the tunnel.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_net_listen(
    handle: i32,
    network: *const c_char,
    address: *const c_char,
    backlog: u32,
    fd: *mut i32,
) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| {
        // SAFETY: the caller's contract is the same.
        let network = Network::parse(unsafe { borrow_text(network, "network") }?)?;
        // SAFETY: as above.
        let address = unsafe { borrow_text(address, "address") }?;
        let out = not_null(fd, "fd")?;
        let listener = net(entry)?.listen(network, address, backlog)?;
        // SAFETY: it is writable, says the caller.
        unsafe { give_fd(out, listener) };
        Ok(())
    })
}

/// Accepts the next connection of `listener`, a descriptor of wg_net_listen() or wg_net_intercept(): returns its
/// descriptor in `*fd`, as in wg_net_dial(), and its addresses in `*connection`, unless `connection` is NULL.
///
/// `timeout_ms` is as in wg_net_dial(); 0 does not wait. To end a wait without ending the tunnel, call
/// shutdown(listener, SHUT_RDWR), on Windows SD_BOTH, and close `listener` only when no thread waits for it.
///
/// Memory: as wg_net_dial(). `*connection` is written on success only.
/// Requires: `listener` is not closed during the call; `fd` and `connection` are NULL or writable.
/// Errors: WG_ERR_NULL if `fd` is NULL; WG_ERR_INVALID if `listener` is not open, or not a listener of this tunnel;
/// WG_ERR_TIMED_OUT; WG_ERR_CLOSED if the listener has ended; WG_ERR_RESOURCES without descriptors: the connection is
/// reset; and the errors of wg_net_dial() that concern the tunnel.
/// Threads: any, also several for one listener: each connection goes to one of them.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_net_accept(
    handle: i32,
    listener: i32,
    timeout_ms: i32,
    fd: *mut i32,
    connection: *mut wg_net_connection_t,
) -> wg_result_t {
    let limit = Limit::after(timeout_ms);
    guard_on(handle, |entry: &Entry<Running>| {
        let out = not_null(fd, "fd")?;
        // SAFETY: it is not closed meanwhile, says the caller.
        let (accepted, whose) = unsafe { net(entry)?.accept(listener, limit) }?;
        // SAFETY: NULL or writable, says the caller.
        unsafe { give(connection, whose) };
        // SAFETY: writable, says the caller.
        unsafe { give_fd(out, accepted) };
        Ok(())
    })
}

/// Returns the local address and port of a connection or a listener in `*address`. The unspecified address stands for
/// all addresses of the network. wg_endpoint_format() converts it to text.
///
/// Memory: writes `*address` on success only.
/// Requires: `fd` is not closed during the call; `address` is NULL or writable.
/// Errors: WG_ERR_NULL; WG_ERR_INVALID if `fd` is not open, or not of this tunnel, or its connection has ended;
/// WG_ERR_NOT_FOUND for a descriptor of wg_net_intercept(); and the errors of wg_net_dial() that concern the tunnel.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_net_local_address(handle: i32, fd: i32, address: *mut wg_endpoint_t) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| {
        let out = not_null(address, "address")?;
        // SAFETY: it is not closed meanwhile, says the caller.
        let (local, _) = unsafe { net(entry)?.addresses(fd) }?;
        // SAFETY: writable, says the caller.
        unsafe { out.write(Endpoint::new(local).into()) };
        Ok(())
    })
}

/// Returns the peer's address and port of a connection in `*address`.
///
/// Memory: writes `*address` on success only.
/// Requires: as in wg_net_local_address().
/// Errors: as wg_net_local_address(); WG_ERR_NOT_FOUND for a listener as well.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_net_peer_address(handle: i32, fd: i32, address: *mut wg_endpoint_t) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| {
        let out = not_null(address, "address")?;
        // SAFETY: it is not closed meanwhile, says the caller.
        let (_, peer) = unsafe { net(entry)?.addresses(fd) }?;
        let peer = peer.ok_or_else(|| Error::new(ErrorKind::NotFound, "a listener has no peer"))?;
        // SAFETY: writable, says the caller.
        unsafe { out.write(Endpoint::new(peer).into()) };
        Ok(())
    })
}

/// Resets a connection, as close() does on a TCP socket with SO_LINGER of 0 seconds: unsent data is dropped, and the
/// peer gets a RST. A UDP flow ends without notice to the peer.
///
/// `fd` is then as after a reset by the peer: read() fails with ECONNRESET (or returns 0, see wg_net_dial()), perhaps a
/// moment after the call.
///
/// Memory: the caller still has to close `fd`.
/// Requires: `fd` is not closed during the call.
/// Errors: WG_ERR_INVALID if `fd` is not open, or not a connection of this tunnel, or the connection has ended; and the
/// errors of wg_net_dial() that concern the tunnel.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_net_reset(handle: i32, fd: i32) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| {
        // SAFETY: it is not closed meanwhile, says the caller.
        unsafe { net(entry)?.reset(fd) }
    })
}

/// Intercepts connections and datagrams of peers to any address and port without a listener, whether or not the address
/// is one of the network's own. It replaces an earlier interception, whose listener ends; NULL for `options` only ends
/// the earlier one. Without interception, packets to addresses other than the network's own get no answer.
///
/// Each connection is passed to `dialled`, if set, before the handshake. Accepted connections are passed to
/// `connected`, or else wait for wg_net_accept() on the descriptor that is returned in `*listener`, as in
/// wg_net_listen(). The datagrams between two ports are a connection as in wg_net_listen() (a flow). Echo requests are
/// answered.
///
/// If the descriptor is closed, all connections are refused, and those that wait are reset. With `connected` there is
/// no descriptor, and `listener` is not written.
///
/// Memory: `options` is not kept. `destroy` is called as described in wg_net_intercept_t; when this returns, callbacks
/// of an earlier interception are not running on any thread, and their `destroy` has been called.
/// Requires: `options` is NULL or points to `options->struct_size` readable bytes, its functions are NULL or of their
/// types and may be called with `user` on any thread; `listener` is NULL or writable.
/// Errors: WG_ERR_NULL if `listener` is NULL and needed; WG_ERR_INVALID for unknown flags; WG_ERR_UNSUPPORTED if a
/// field is set that is unknown to this library; WG_ERR_RESOURCES; and the errors of wg_net_dial() that concern the
/// tunnel.
/// Threads: any. It waits for running callbacks of an earlier interception.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_net_intercept(
    handle: i32,
    options: *const wg_net_intercept_t,
    listener: *mut i32,
) -> wg_result_t {
    let _uncancelled = Uncancelled::new();
    // Outside of the guard: what belongs to the functions is given up in any case.
    let given = (!options.is_null()).then(|| {
        // SAFETY: the caller's contract is the same.
        let Received { value, unknown_fields } = unsafe { read_sized(options, "options") }?;
        let new = NewInterception::new(value);
        Ok::<_, Error>((value.connected.is_some(), new, unknown_fields))
    });
    guard_on(handle, |entry: &Entry<Running>| {
        let net = net(entry)?;
        let Some(given) = given else {
            net.stop_intercepting();
            return Ok(());
        };
        let (is_told, new, unknown_fields) = given?;
        unknown_fields?;
        let out = if is_told { None } else { Some(not_null(listener, "listener")?) };
        if let (Some(fd), Some(out)) = (net.intercept(new)?, out) {
            // SAFETY: writable, says the caller.
            unsafe { give_fd(out, fd) };
        }
        Ok(())
    })
}

/// Decides about an intercepted connection for which `dialled` returned WG_NET_HOLD: `id` is its number, `answer` is
/// WG_NET_ACCEPT, WG_NET_REFUSE or WG_NET_IGNORE. An accepted connection is delivered as any other, for UDP during this
/// call.
///
/// Memory: nothing changes hands.
/// Errors: WG_ERR_NOT_FOUND if no such connection is held, also because its time (`hold_ms`) has passed, 4096 newer
/// ones are held, or it was answered before; WG_ERR_INVALID for another answer; and the errors of wg_net_dial() that
/// concern the tunnel. If the peer has given up, the call succeeds.
/// Threads: any. `connected` may be called on this thread.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_net_answer(handle: i32, id: u64, answer: u32) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| net(entry)?.answer(id, answer))
}

/// Looks up a name with the DNS servers of the network, through the tunnel: writes up to `capacity` addresses to
/// `addresses`, the best first, and the number of all addresses to `*count`. `family` is WG_IPV4, WG_IPV6, or 0 for
/// both. A name that is an address in text form yields that address.
///
/// `timeout_ms` is as in wg_net_dial(); answers are cached for their TTL.
///
/// Memory: nothing is kept. It writes on success only; `*count` may be larger than `capacity`.
/// Requires: `name` is NULL or ends with a zero byte; `addresses` is NULL or has room for `capacity` addresses; `count`
/// is NULL or writable.
/// Errors: WG_ERR_NULL, for `addresses` unless `capacity` is 0; WG_ERR_INVALID for another family, or if `name` is
/// invalid; WG_ERR_NOT_FOUND if there is no such name, or it has no such address; WG_ERR_TIMED_OUT if no server
/// answers; WG_ERR_IO if the servers fail; WG_ERR_UNSUPPORTED without DNS servers; and the errors of wg_net_dial() that
/// concern the tunnel.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_net_resolve(
    handle: i32,
    name: *const c_char,
    family: u32,
    timeout_ms: i32,
    addresses: *mut wg_address_t,
    capacity: usize,
    count: *mut usize,
) -> wg_result_t {
    let limit = Limit::after(timeout_ms);
    guard_on(handle, |entry: &Entry<Running>| {
        // SAFETY: the caller's contract is the same.
        let name = unsafe { borrow_text(name, "name") }?;
        let wanted = if family == 0 { None } else { Some(self::family(family)?) };
        let count = not_null(count, "count")?;
        if capacity > 0 {
            not_null(addresses, "addresses")?;
        }
        let found = net(entry)?.resolve(name, wanted, limit)?;
        for (i, ip) in found.iter().take(capacity).enumerate() {
            // SAFETY: there is room for `capacity` of them, says the caller.
            let place = unsafe { addresses.add(i) };
            // SAFETY: as above.
            unsafe { place.write((*ip).into()) };
        }
        // SAFETY: writable, says the caller.
        unsafe { count.write(found.len()) };
        Ok(())
    })
}

/// Sends an echo request (ping) with `size` bytes of data to `host`, an address or a name, through the tunnel, waits
/// for the reply, and returns the round-trip time in `*nanoseconds`, unless `nanoseconds` is NULL.
///
/// `timeout_ms` is as in wg_net_dial().
///
/// Memory: nothing is kept. Writes `*nanoseconds` on success only.
/// Requires: `host` is NULL or ends with a zero byte; `nanoseconds` is NULL or writable.
/// Errors: WG_ERR_NULL if `host` is NULL; WG_ERR_INVALID if `size` exceeds the capacity of a packet; WG_ERR_TIMED_OUT
/// without a reply; WG_ERR_UNREACHABLE, WG_ERR_NOT_FOUND and others as wg_net_dial().
/// Threads: any, also several concurrently.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_net_ping(
    handle: i32,
    host: *const c_char,
    size: usize,
    timeout_ms: i32,
    nanoseconds: *mut u64,
) -> wg_result_t {
    let limit = Limit::after(timeout_ms);
    guard_on(handle, |entry: &Entry<Running>| {
        // SAFETY: the caller's contract is the same.
        let host = unsafe { borrow_text(host, "host") }?;
        let took = net(entry)?.ping(host, size, limit)?;
        // SAFETY: NULL or writable, says the caller.
        unsafe { give(nanoseconds, took.as_nanos().try_into().unwrap_or(u64::MAX)) };
        Ok(())
    })
}

/// Starts a SOCKS5 proxy (RFC 1928) on this system, through which other programs connect to the network inside the
/// tunnel, as `curl --proxy socks5h://127.0.0.1:PORT` does. Returns its positive number in this tunnel, or a negative
/// wg_result_t. CONNECT and UDP ASSOCIATE are supported; names are looked up by the DNS servers of the network.
///
/// `listen` is an address and port of this system: a loopback address, unless `flags` has WG_NET_PROXY_REMOTE; NULL is
/// "127.0.0.1:0". With port 0 the system chooses one. The address and port of the proxy are written to `address`,
/// unless that is NULL. Clients must present `user` and `password` (RFC 1929), unless both are NULL: then all programs
/// and users of this machine can use the proxy, and so can web pages that they visit.
///
/// `flags` is the bitwise OR of wg_net_proxy_flags_t, or 0. The time limit is 30 s for a client's request, and 30 s for
/// a dial. All proxies of a tunnel share one thread, `wg-proxy`. Each connection uses one descriptor of the process.
///
/// Memory: nothing is kept except a copy of `user` and `password`, which is overwritten at the end. `address` is
/// written on success only. wg_net_stop_proxy() or wg_turn_off() ends the proxy.
/// Requires: `listen`, `user` and `password` are NULL or end with a zero byte; `address` is NULL or has room for
/// WG_ENDPOINT_TEXT_LEN bytes.
/// Errors: WG_ERR_INVALID if `listen` is not an address and port, or not a loopback address without
/// WG_NET_PROXY_REMOTE; if only one of `user` and `password` is NULL, or one does not have 1 to 255 bytes; for unknown
/// flags; WG_ERR_ADDR_IN_USE; WG_ERR_NOT_FOUND if it is not an address of this system; WG_ERR_PERMISSION;
/// WG_ERR_RESOURCES; WG_ERR_IO; WG_ERR_UNSUPPORTED on Windows; and the errors of wg_net_dial() that concern the tunnel.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_net_socks5(
    handle: i32,
    listen: *const c_char,
    user: *const c_char,
    password: *const c_char,
    flags: u32,
    address: *mut c_char,
) -> i32 {
    let texts = [listen, user, password];
    // SAFETY: the caller's contract is the same.
    guard_on(handle, |entry: &Entry<Running>| unsafe { start_proxy(entry, Protocol::Socks5, texts, flags, address) })
}

/// Starts an HTTP proxy, as wg_net_socks5() does a SOCKS5 proxy. CONNECT is supported, and requests with an absolute
/// `http://` URL. `user` and `password` are for basic authentication.
///
/// Memory: as wg_net_socks5().
/// Requires: as in wg_net_socks5().
/// Errors: as wg_net_socks5(); WG_ERR_INVALID also if `user` contains a colon.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_net_http(
    handle: i32,
    listen: *const c_char,
    user: *const c_char,
    password: *const c_char,
    flags: u32,
    address: *mut c_char,
) -> i32 {
    let texts = [listen, user, password];
    // SAFETY: the caller's contract is the same.
    guard_on(handle, |entry: &Entry<Running>| unsafe { start_proxy(entry, Protocol::Http, texts, flags, address) })
}

/// # Safety
/// As for [`wg_net_socks5`]; `texts` are its `listen`, `user` and `password`.
unsafe fn start_proxy(
    entry: &Entry<Running>,
    protocol: Protocol,
    texts: [*const c_char; 3],
    flags: u32,
    address: *mut c_char,
) -> Result<i32> {
    let read = |text: *const c_char, name| {
        // SAFETY: the caller's contract is the same.
        (!text.is_null()).then(|| unsafe { borrow_text(text, name) }).transpose()
    };
    let [listen, user, password] = texts;
    let (listen, user, password) = (read(listen, "listen")?, read(user, "user")?, read(password, "password")?);
    let wanted = Wanted::new(protocol, listen, user, password, flags)?;
    let (number, bound) = net(entry)?.start_proxy(wanted)?;
    // SAFETY: NULL, or there is room, says the caller.
    unsafe { give(address.cast::<[c_char; WG_ENDPOINT_TEXT_LEN]>(), fixed_text(&bound.to_string())) };
    Ok(number)
}

/// Stops a proxy of wg_net_socks5() or wg_net_http(). When this returns, its port is free. Its connections are reset.
///
/// Memory: nothing changes hands.
/// Errors: WG_ERR_NOT_FOUND if the tunnel has no such proxy; WG_ERR_UNSUPPORTED on Windows; and the errors of
/// wg_net_dial() that concern the tunnel.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_net_stop_proxy(handle: i32, proxy: i32) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| net(entry)?.stop_proxy(proxy))
}
