//! UDP in batches, without a tunnel: binds are opened, changed and closed. `datagrams.rs` sends and receives.

use std::{ops::Deref, sync::Arc};

use crate::{
    hooks::protect::Protect,
    plumbing::{
        calls,
        cancel::Uncancelled,
        fd::AppFd,
        guard::{finally, guard, guard_end, guard_on},
        handle::{self, Entry, Object},
        log,
        memory::give,
        result::wg_result_t,
        sized::{Received, check_flags, read_sized},
    },
    types,
    types::{
        datagram::WG_BATCH_SIZE,
        fd::takes,
        udp::{WG_UDP_ANY_INTERFACE, WG_UDP_NO_OFFLOAD, wg_udp_flags_t, wg_udp_options_t},
    },
};
use wg_embed::{
    bind::{BatchOptions, BatchUdp},
    error::{Error, ErrorKind, Result},
};

/// A bind that C has a handle of.
pub(crate) struct Bound {
    udp: BatchUdp,
    protect: Protect,
}

impl Object for Bound {
    const NAME: &'static str = "bind";
    const END: &'static str = "close it";
    type Functions = ();

    fn close((): &()) {}
}

impl Deref for Bound {
    type Target = BatchUdp;

    fn deref(&self) -> &BatchUdp {
        &self.udp
    }
}

/// Opens a bind: an IPv4 and an IPv6 UDP socket on one port, without a tunnel, for batches, segmentation offload, and
/// answers that leave from the address that received the request.
///
/// `*port` is the port, or 0 for one that the system chooses; on success the port is written there. NULL means any
/// port. If the host lacks one of the families, sending and receiving with it is WG_ERR_UNSUPPORTED. `options` may be
/// NULL.
///
/// Returns a positive handle, for wg_udp_close(), or a negative wg_result_t. Binds and tunnels share one sequence of
/// handles, but functions for tunnels do not accept a bind's handle, nor those for binds a tunnel's.
///
/// Memory: `options` and `port` are not kept. `destroy` is called exactly once with `user`: by wg_udp_close(), after
/// the last call of `protect` has returned, or before this call returns if it fails; but not if `struct_size` is
/// invalid.
/// Requires: `options` is NULL or points to `options->struct_size` readable bytes, its functions are NULL or of their
/// types and may be called with `user`; `port` is NULL or readable and writable.
/// Errors: WG_ERR_ADDR_IN_USE if the port is taken; WG_ERR_PERMISSION if `protect` refuses a socket, or the mark is not
/// permitted; WG_ERR_INVALID for unknown flags; WG_ERR_UNSUPPORTED if a field of `options` is set that is unknown to
/// this library, or the host has neither family; WG_ERR_RESOURCES; WG_ERR_IO; WG_ERR_PANIC; WG_ERR_BUSY inside a
/// callback.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_udp_open(options: *const wg_udp_options_t, port: *mut u16) -> i32 {
    let _uncancelled = Uncancelled::new();
    // Outside of the guard: what belongs to the callback is given up in any case.
    // SAFETY: the caller's contract is the same.
    let options = unsafe { read_options(options) };
    guard(|| {
        // SAFETY: NULL or readable, says the caller.
        let wanted = unsafe { port.as_ref() }.copied().unwrap_or(0);
        let (options, protect) = options?;
        let (handle, actual) = make(protect, || options.open(wanted))?;
        // SAFETY: as above, and writable.
        unsafe { give(port, actual) };
        Ok(handle)
    })
}

/// Opens a bind as wg_udp_open() does, over a bound UDP socket of the app, IPv4 or IPv6; the other family is missing. A
/// socket can be used by one bind at a time.
///
/// While the bind uses the socket, it is non-blocking (O_NONBLOCK), its buffers are larger (SO_RCVBUF, SO_SNDBUF), its
/// mark and its interface are those of wg_udp_set_mark() and wg_udp_set_interface(), and on Linux and Android it has
/// other values of IP_PKTINFO or IPV6_RECVPKTINFO, IP_RECVTOS or IPV6_RECVTCLASS, IP_MTU_DISCOVER or IPV6_MTU_DISCOVER,
/// IPV6_AUTOFLOWLABEL, UDP_SEGMENT, and UDP_GRO, with which recv() returns several datagrams as one. wg_udp_close()
/// restores all of that, as does a call that fails. Datagrams that have arrived by then are dropped if UDP_GRO was
/// changed. Options that cannot be restored for lack of permission are logged: the interface (CAP_NET_RAW) and the mark
/// (CAP_NET_ADMIN). On systems other than Linux and Android, options that add control messages to received datagrams
/// may stay changed.
///
/// The port is written to `*port`, unless that is NULL. `protect` is not called.
///
/// Memory: with WG_FD_TAKE for `fd_ownership`, the library takes ownership of `fd` if, and only if, the call succeeds.
/// With WG_FD_DUP the caller keeps it, and may close it at any time. Otherwise as wg_udp_open().
/// Requires: as in wg_udp_open(); with WG_FD_TAKE, `fd` has no other user.
/// Errors: WG_ERR_INVALID if `fd` is not open, is not a UDP socket, or not bound, or if `fd_ownership` is neither;
/// WG_ERR_UNSUPPORTED on Windows; and as wg_udp_open().
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_udp_adopt(
    fd: i32,
    fd_ownership: u32,
    options: *const wg_udp_options_t,
    port: *mut u16,
) -> i32 {
    let _uncancelled = Uncancelled::new();
    // SAFETY: the caller's contract is the same.
    let options = unsafe { read_options(options) };
    guard(|| {
        let (takes, (options, protect)) = (takes(fd_ownership)?, options?);
        let app_fd = AppFd::new(fd)?;
        let adopt = || options.adopt(app_fd.socket()?).map_err(|err| err.at(format_args!("descriptor {fd}")));
        let (handle, actual) = make(protect, adopt)?;
        if takes {
            // SAFETY: the caller gives it away on success, and nothing fails from here on.
            unsafe { app_fd.take() };
        } else {
            app_fd.share();
        }
        // SAFETY: NULL or writable, says the caller.
        unsafe { give(port, actual) };
        Ok(handle)
    })
}

/// # Safety
/// As in [`wg_udp_open`].
unsafe fn read_options(options: *const wg_udp_options_t) -> Result<(BatchOptions, Protect)> {
    const KNOWN: u32 = WG_UDP_NO_OFFLOAD as u32 | WG_UDP_ANY_INTERFACE as u32;
    let Received { value: options, unknown_fields } = if options.is_null() {
        Received { value: wg_udp_options_t::default(), unknown_fields: Ok(()) }
    } else {
        // SAFETY: the caller's contract is the same.
        unsafe { read_sized(options, "options") }?
    };
    // Before anything is refused: what the app gives away has an owner from here on.
    // SAFETY: the caller allows the calls.
    let protect = unsafe { Protect::new(options.protect, options.user, options.destroy) };
    unknown_fields?;
    check_flags(options.flags, KNOWN)?;
    let without = |flag: wg_udp_flags_t| options.flags & flag as u32 == 0;
    let options = BatchOptions::new()
        .with_mark(options.mark)
        .with_socket_hook(protect.hook())
        .with_offload(without(WG_UDP_NO_OFFLOAD))
        .with_sticky_interface(without(WG_UDP_ANY_INTERFACE));
    Ok((options, protect))
}

/// Makes a bind known, and returns its handle and its port.
fn make(protect: Protect, open: impl FnOnce() -> Result<BatchUdp>) -> Result<(i32, u16)> {
    calls::watch_exit();
    let handle = handle::reserve()?;
    let starting = handle::start::<Bound>(handle, Arc::default())?;
    let dispatch = log::dispatch_to(Arc::default(), handle);
    let udp = tracing::dispatcher::with_default(&dispatch, open)?;
    let port = udp.port().unwrap_or(0);
    starting.finish(Entry::new(Bound { udp, protect }, dispatch));
    Ok((handle, port))
}

/// Replaces the sockets of a bind by new ones, for example when the network has changed. Threads in wg_udp_recv()
/// continue to wait, for the new ones. Datagrams that the old ones have not delivered yet are lost.
///
/// `*port` is the new port, or 0 for one that the system chooses; on success the port is written there. NULL: the port
/// stays. `protect` is called with the new sockets. On failure the old ones stay; but where two sockets cannot share a
/// port (on systems other than Linux and Android, or after a change of the user), a conflicting one has been closed:
/// call this again.
///
/// Memory: `port` is not kept.
/// Requires: `port` is NULL or readable and writable.
/// Errors: WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED if it is closed during the call; WG_ERR_UNSUPPORTED for a bind of
/// wg_udp_adopt(); and as wg_udp_open().
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_udp_reopen(bind: i32, port: *mut u16) -> wg_result_t {
    guard_on(bind, |bind: &Entry<Bound>| {
        // SAFETY: NULL or readable, says the caller.
        let wanted = unsafe { port.as_ref() }.copied().or_else(|| bind.port()).unwrap_or(0);
        let actual = bind.reopen(wanted)?;
        // SAFETY: as above, and writable.
        unsafe { give(port, actual) };
        Ok(())
    })
}

/// Closes a bind. When it returns, the port is free, the handle is invalid, `protect` is not running on any thread, and
/// `destroy` has been called.
///
/// Calls on it that are in progress on other threads return at once with WG_ERR_CLOSED, also those that wait in
/// wg_udp_recv(); later ones return WG_ERR_UNKNOWN_HANDLE. They may still write to their datagrams when this returns:
/// join the threads before freeing the datagrams.
///
/// Memory: everything that belongs to the bind is freed when the last call in progress returns.
/// Errors: WG_ERR_UNKNOWN_HANDLE, also for the second of two calls, which waits for the first; WG_ERR_BUSY inside a
/// callback: it stays open; WG_ERR_PANIC.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_udp_close(bind: i32) -> wg_result_t {
    guard_end(bind, || {
        handle::end(bind, |entry: &Entry<Bound>| {
            entry.logged(|| finally(|| entry.close(), || entry.protect.close()));
            Ok(())
        })
    })
}

/// Returns the largest number of datagrams in one call of wg_udp_send(), which is also a good number for wg_udp_recv():
/// WG_BATCH_SIZE, or more in later versions of the library.
///
/// Memory: nothing changes hands.
/// Errors: WG_ERR_UNKNOWN_HANDLE; WG_ERR_BUSY inside a callback; WG_ERR_PANIC.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_udp_batch_size(bind: i32) -> i32 {
    guard_on(bind, |_: &Entry<Bound>| Ok(WG_BATCH_SIZE as i32))
}

/// Sets the mark of a bind's datagrams, also after wg_udp_reopen(): SO_MARK on Linux and Android, SO_USER_COOKIE on
/// FreeBSD, SO_RTABLE on OpenBSD, nothing elsewhere.
///
/// Memory: nothing changes hands.
/// Errors: WG_ERR_PERMISSION: the old mark stays; WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED; WG_ERR_BUSY inside a callback;
/// WG_ERR_PANIC.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_udp_set_mark(bind: i32, mark: u32) -> wg_result_t {
    guard_on(bind, |bind: &Entry<Bound>| bind.set_mark(mark))
}

/// Binds the socket of a family (WG_IPV4 or WG_IPV6) to one network interface by its index, regardless of routes and
/// endpoints, also after wg_udp_reopen(); 0 ends that. On Windows only sending is bound to the interface. While
/// `blackhole` is not 0, outgoing datagrams of that family are dropped: wg_udp_send() counts them as dropped, and
/// succeeds.
///
/// On Linux the first call needs no permission; later calls without CAP_NET_RAW replace the sockets, as wg_udp_reopen()
/// does.
///
/// Memory: nothing changes hands.
/// Errors: on failure nothing changes. WG_ERR_INVALID for another family; WG_ERR_NOT_FOUND if there is no such
/// interface; WG_ERR_UNSUPPORTED if the family has no socket or the system does not support it (Linux since 5.7,
/// Apple's systems and Windows do); WG_ERR_PERMISSION; WG_ERR_IO; WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED; WG_ERR_BUSY
/// inside a callback; WG_ERR_PANIC.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_udp_set_interface(bind: i32, family: u32, interface_index: u32, blackhole: i32) -> wg_result_t {
    guard_on(bind, |bind: &Entry<Bound>| {
        bind.set_interface(types::endpoint::family(family)?, interface_index, blackhole != 0)
    })
}

/// Returns the descriptor of a family's socket (WG_IPV4 or WG_IPV6), to set its options or to poll it together with
/// others, or a negative wg_result_t.
///
/// Do not receive from it: one read may return several coalesced datagrams. Before polling it, call wg_udp_recv() with
/// a `timeout_ms` of 0 until that returns 0: poll() does not report datagrams that the library has already received.
///
/// Memory: the descriptor is borrowed: do not close it. wg_udp_close(), wg_udp_reopen() and wg_udp_set_interface()
/// close it; afterwards the number may be reused.
/// Errors: WG_ERR_INVALID for another family; WG_ERR_UNSUPPORTED if the family has no socket, and on Windows;
/// WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED; WG_ERR_BUSY inside a callback; WG_ERR_PANIC.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_udp_peek_fd(bind: i32, family: u32) -> i32 {
    guard_on(bind, |bind: &Entry<Bound>| {
        let family = types::endpoint::family(family)?;
        #[cfg(unix)]
        if let Some(fd) = bind.fd(family) {
            return Ok(fd);
        }
        match bind.port() {
            Some(_) => Err(Error::new(ErrorKind::Unsupported, format!("there is no descriptor of an {family} socket"))),
            None => Err(Error::new(ErrorKind::Closed, "the bind is closed")),
        }
    })
}
