//! The userspace network of a tunnel: connections inside it, as descriptors.

use std::{
    ffi::c_char,
    os::fd::{IntoRawFd, OwnedFd},
    ptr::NonNull,
    sync::Arc,
};

use crate::{
    net::{Limit, Net, Network, NewInterception, Protocol, Wanted},
    plumbing::{
        cancel::Uncancelled,
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
    unsafe { out.write(fd.into_raw_fd()) };
}

/// Connects through a tunnel that has a userspace network (`net` of wg_options_t), and writes a descriptor of the
/// connection to `*fd`: one end of a socketpair, whose other end the library copies to and from.
///
/// `network` is "tcp" or "udp", for one family "tcp4", "tcp6", "udp4", "udp6". `address` is "host:port", where host is
/// an IPv4 address, an IPv6 address in brackets, or a name, which is looked up as by wg_net_resolve(). With TCP, the
/// addresses of a name are tried as RFC 8305 says, and the connection is established when this returns.
///
/// The descriptor is a SOCK_STREAM for TCP: read(), write(), poll() and shutdown() work as on a connected TCP socket,
/// and the end of either direction leaves the other one open. If the peer resets the connection, or it fails, read()
/// fails with ECONNRESET after what had arrived (on Linux and Android; elsewhere it returns 0). Closing it with data
/// unread resets the connection. For UDP it is a SOCK_SEQPACKET (on Apple's systems SOCK_DGRAM): each send() is one
/// datagram, and each recv() gives one, while 0 is the end or a datagram without contents. Datagrams that arrive
/// while its buffers are full are dropped. ICMP errors are not passed on.
///
/// The descriptor is blocking, is closed by exec(), and is not below 3. Options of the IP and TCP levels do not exist
/// on it; wg_net_reset() is what SO_LINGER is for. SIGPIPE is as on any socket: use MSG_NOSIGNAL.
///
/// `timeout_ms` is as for poll(): a negative one waits without limit, and with 0 only what need not wait succeeds, such
/// as UDP to an address.
///
/// Memory: nothing is kept. On success `*fd` is the caller's to close, which ends the connection; on failure it is not
/// written, and no descriptor is left. After wg_turn_off() the descriptor sees the end of its connection, and is still
/// the caller's to close. A connection takes two descriptors of the process.
/// Requires: `network` and `address` are NULL or end with a zero byte; `fd` is NULL or writable.
/// Errors: WG_ERR_NULL; WG_ERR_INVALID if `network` or `address` is malformed; WG_ERR_REFUSED if the peer refuses;
/// WG_ERR_UNREACHABLE if the network has no address of the family, or a router says that there is no way;
/// WG_ERR_NOT_FOUND if there is no such name, or it has no address of the family; WG_ERR_TIMED_OUT, also if the peer
/// does not answer for as long as TCP tries; WG_ERR_UNSUPPORTED if the tunnel has no userspace network, or has no DNS
/// servers for a name; WG_ERR_IO if the DNS servers fail; WG_ERR_CLOSED if the tunnel has ended, or is turned off
/// meanwhile; WG_ERR_RESOURCES; WG_ERR_UNKNOWN_HANDLE; WG_ERR_BUSY inside a callback; WG_ERR_PANIC.
/// Threads: any, several at once. pthread_cancel() takes effect when it returns.
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

/// Listens inside the tunnel, and writes a descriptor to `*fd` that is readable, as poll() sees it, while a connection
/// waits for wg_net_accept(). Closing it ends the listener. It is only for waiting: do not read from it.
///
/// `network` is as in wg_net_dial(). `address` is "10.0.0.2:80", `[fd00::2]:80`, or ":80" for all addresses of the
/// network ("tcp6" and "udp6" need an address); a listener of one address goes before one of all. With port 0 the
/// network chooses one; wg_net_local_address() has it. Up to `backlog` connections, or 128 for 0, wait for
/// wg_net_accept(); further ones are refused or, for UDP, dropped.
/// A listener has its port as long as it is open, also against dials that need one.
///
/// With "udp", each address and port that datagrams come from is a connection of its own, which has its datagrams and
/// answers that source alone. It ends when its descriptor is closed, or by itself after 60 s without a datagram; the
/// next datagram of that source is a new connection then. A connection that was dialled from the same port before has
/// its own datagrams first.
///
/// Memory: as wg_net_dial().
/// Requires: as in wg_net_dial().
/// Errors: WG_ERR_NULL; WG_ERR_INVALID if `network` or `address` is malformed or does not fit the other;
/// WG_ERR_NOT_FOUND if it is not an address of the network; WG_ERR_ADDR_IN_USE (a listener whose descriptor was just
/// closed is waited for); and those of wg_net_dial() that are about the tunnel.
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

/// Takes the next connection of `listener`, a descriptor of wg_net_listen() or wg_net_intercept(), and writes its
/// descriptor to `*fd`, which is as in wg_net_dial(), and whose it is to `*connection`, unless that is NULL.
///
/// `timeout_ms` is as in wg_net_dial(); 0 takes what waits. To end a wait without ending the tunnel, call
/// shutdown(listener, SHUT_RDWR), and close `listener` only when no thread waits for it.
///
/// Memory: as wg_net_dial(). `*connection` is written on success only.
/// Requires: `listener` is not closed during the call; `fd` and `connection` are NULL or writable.
/// Errors: WG_ERR_NULL if `fd` is NULL; WG_ERR_INVALID if `listener` is not open, or not a listener of this tunnel;
/// WG_ERR_TIMED_OUT; WG_ERR_CLOSED if the listener has ended; WG_ERR_RESOURCES without descriptors, and the connection
/// is reset; and those of wg_net_dial() that are about the tunnel.
/// Threads: any, several for one listener: each connection goes to one of them.
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

/// Writes the address and port of this side of a connection, or where a listener listens, to `*address`. An
/// unspecified address stands for all of the network's own. wg_endpoint_format() makes text of it.
///
/// Memory: writes `*address` on success only.
/// Requires: `fd` is not closed during the call; `address` is NULL or writable.
/// Errors: WG_ERR_NULL; WG_ERR_INVALID if `fd` is not open, or not of this tunnel, or its connection has ended;
/// WG_ERR_NOT_FOUND for a descriptor of wg_net_intercept(); and those of wg_net_dial() that are about the tunnel.
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

/// Writes the address and port of the other side of a connection to `*address`.
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

/// Resets a connection, as close() does on a TCP socket with SO_LINGER of 0 seconds: what was written and is not sent
/// yet is given up, and the peer gets a RST. A UDP flow ends, and the peer is not told.
///
/// `fd` is then as after a reset by the peer: read() fails with ECONNRESET (or returns 0, see wg_net_dial()). This may
/// be a moment after the call.
///
/// Memory: `fd` is still the caller's to close.
/// Requires: `fd` is not closed during the call.
/// Errors: WG_ERR_INVALID if `fd` is not open, not a connection of this tunnel, or that has ended; and those of
/// wg_net_dial() that are about the tunnel.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_net_reset(handle: i32, fd: i32) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| {
        // SAFETY: it is not closed meanwhile, says the caller.
        unsafe { net(entry)?.reset(fd) }
    })
}

/// Takes connections and datagrams to any address and port, whether or not it is one of the network's own, as far as
/// nothing listens there: what a peer sends into the tunnel ends here. It replaces an earlier interception, whose
/// listener ends. `options` of NULL only ends the earlier one. Without any, what peers send to addresses that are not
/// the network's own gets no answer.
///
/// Each connection is passed to `dialled`, if there is one, before the handshake. Those that come about go to
/// `connected`, or else wait for wg_net_accept() on the descriptor that is written to `*listener`, which is as in
/// wg_net_listen(). Datagrams from one port to one other are a connection as in wg_net_listen() (a flow). Echo requests
/// are answered.
///
/// If the descriptor is closed, all is refused. With `connected` there is no descriptor, and `listener` is not written.
///
/// Memory: `options` is not kept. `destroy` is called as wg_net_intercept_t says; when this returns, earlier functions
/// are not running on any thread and were destroyed.
/// Requires: `options` is NULL or points to `options->struct_size` readable bytes, its functions are NULL or of their
/// types and may be called with `user` on any thread; `listener` is NULL or writable.
/// Errors: WG_ERR_NULL if `listener` is NULL and needed; WG_ERR_INVALID for flags that do not exist; WG_ERR_UNSUPPORTED
/// if `options` sets a field that this library does not know; WG_ERR_RESOURCES; and those of wg_net_dial() that are
/// about the tunnel.
/// Threads: any. It waits for functions of an earlier interception that are running.
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

/// Answers for an intercepted connection whose `dialled` has returned WG_NET_HOLD: `id` is its number, `answer` is
/// WG_NET_ACCEPT, WG_NET_REFUSE or WG_NET_IGNORE. An accepted connection comes as any other, for UDP during this call.
///
/// Memory: nothing changes hands.
/// Errors: WG_ERR_NOT_FOUND if no such connection waits, also because its time (`hold_ms`) has passed, because 4096
/// younger ones wait, or because it was answered; WG_ERR_INVALID for another answer; and those of wg_net_dial() that
/// are about the tunnel. A peer that has given up since is no error.
/// Threads: any. `connected` may be called on this thread.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_net_answer(handle: i32, id: u64, answer: u32) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| net(entry)?.answer(id, answer))
}

/// Looks a name up, with the DNS servers of the network and through the tunnel: writes up to `capacity` addresses to
/// `addresses`, the best first, and how many there are to `*count`. `family` is WG_IPV4, WG_IPV6, or 0 for both. An
/// address in text form is its own answer.
///
/// `timeout_ms` is as in wg_net_dial(); answers are kept for as long as the servers say.
///
/// Memory: nothing is kept. What it writes is written on success only; `*count` may be more than `capacity`.
/// Requires: `name` is NULL or ends with a zero byte; `addresses` is NULL or has room for `capacity` addresses; `count`
/// is NULL or writable.
/// Errors: WG_ERR_NULL, for `addresses` unless `capacity` is 0; WG_ERR_INVALID for another family, or if `name` cannot
/// be one; WG_ERR_NOT_FOUND if there is no such name, or it has no such address; WG_ERR_TIMED_OUT if no server answers;
/// WG_ERR_IO if they fail; WG_ERR_UNSUPPORTED without DNS servers; and those of wg_net_dial() that are about the
/// tunnel.
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
/// for the reply, and writes the nanoseconds that it took to `*nanoseconds`, unless that is NULL.
///
/// `timeout_ms` is as in wg_net_dial().
///
/// Memory: nothing is kept. Writes `*nanoseconds` on success only.
/// Requires: `host` is NULL or ends with a zero byte; `nanoseconds` is NULL or writable.
/// Errors: WG_ERR_NULL if `host` is NULL; WG_ERR_INVALID if `size` is more than fits into a packet; WG_ERR_TIMED_OUT
/// without a reply; WG_ERR_UNREACHABLE, WG_ERR_NOT_FOUND and others as wg_net_dial().
/// Threads: any, several at once.
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

/// Starts a SOCKS5 proxy (RFC 1928) on this system: other programs connect to the network inside the tunnel by it, as
/// `curl --proxy socks5h://127.0.0.1:PORT` does. Returns its number in this tunnel, above 0. CONNECT and UDP ASSOCIATE
/// are served; names are looked up by the DNS servers of the network.
///
/// `listen` is an address and port of this system: a loopback address, unless `flags` has WG_NET_PROXY_REMOTE; NULL is
/// "127.0.0.1:0". With port 0 the system chooses one. Where it listens is written to `address`, unless that is NULL.
/// Clients must present `user` and `password` (RFC 1929), unless both are NULL: then each program and each user of this
/// machine may use the proxy, and so web pages that they visit.
///
/// `flags` is the bitwise OR of wg_net_proxy_flags_t, or 0. A client has 30 s for its request, and a dial as long. All
/// proxies of a tunnel have one thread, `wg-proxy`. Each connection takes one descriptor of the process.
///
/// Memory: nothing is kept but a copy of `user` and `password`, which is overwritten at the end. `address` is written
/// on success only. wg_net_stop_proxy() or wg_turn_off() ends the proxy.
/// Requires: `listen`, `user` and `password` are NULL or end with a zero byte; `address` is NULL or has room for
/// WG_ENDPOINT_TEXT_LEN bytes.
/// Errors: WG_ERR_INVALID if `listen` is no address and port, or not a loopback address and not allowed; if one of
/// `user` and `password` is NULL, or has not 1 to 255 bytes; for other flags; WG_ERR_ADDR_IN_USE; WG_ERR_NOT_FOUND if
/// it is not an address of this system; WG_ERR_PERMISSION; WG_ERR_RESOURCES; WG_ERR_IO; and those of wg_net_dial() that
/// are about the tunnel.
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

/// Starts an HTTP proxy, as wg_net_socks5() a SOCKS5 proxy. CONNECT is served, and requests with an address that begins
/// with `http://`. `user` and `password` are those of basic authentication.
///
/// Memory: as wg_net_socks5().
/// Requires: as in wg_net_socks5().
/// Errors: as wg_net_socks5(); WG_ERR_INVALID also if `user` has a colon.
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
/// That of [`wg_net_socks5`]; `texts` are its `listen`, `user` and `password`.
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

/// Ends a proxy of wg_net_socks5() or wg_net_http(). When this returns its port is free. Its connections are reset.
///
/// Memory: nothing changes hands.
/// Errors: WG_ERR_NOT_FOUND if the tunnel has no such proxy; and those of wg_net_dial() that are about the tunnel.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_net_stop_proxy(handle: i32, proxy: i32) -> wg_result_t {
    guard_on(handle, |entry: &Entry<Running>| net(entry)?.stop_proxy(proxy))
}
