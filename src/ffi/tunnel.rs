//! Tunnels: on, off, and their configuration.

use std::{
    ffi::c_char,
    sync::{Arc, OnceLock},
};

use super::{
    bring::Brought,
    callback::Callback,
    fd::Lent,
    guard::{guard, guard_handle, guard_on},
    handle::{self, Entry},
    log,
    options::{read_sized, wg_options_t},
    ports::{self, Opening, TunFunctions},
    result::wg_result,
    text::{borrow_text, give_text},
};
use crate::{
    bind::{Bind, UdpBind},
    config::Update,
    device::{DEFAULT_MAX_PEERS, DEFAULT_MEMORY, Event, Options, Tunnel},
    error::{Error, ErrorKind, Result},
    tun::{DEFAULT_MTU, Tun},
    uapi::{self, Limits},
};

/// Whose a descriptor is.
///
/// Since: 0.1.0
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum wg_fd_ownership_t {
    /// The library takes ownership of the descriptor: it is closed if, and only if, the call succeeds.
    WG_FD_TAKE = 1,
    /// The library works with a duplicate; the descriptor stays the caller's, to close at any time.
    WG_FD_DUP = 2,
}
pub use wg_fd_ownership_t::*;

// The header says so.
const _: () = assert!(DEFAULT_MAX_PEERS == 65_536);

/// The most that `max_peers` may be: at about 1 KiB a peer, as much as fits into the memory of a large machine.
const MOST_PEERS: usize = 1 << 24;

/// MTUs that an app may name.
const MTUS: std::ops::RangeInclusive<u32> = 576..=65_535;

/// Makes a tunnel between `tun_fd` and the network, and starts it.
///
/// `tun_fd` gives and takes one IP packet a call: a TUN device (made with IFF_NO_PI, with or without IFF_VNET_HDR), the
/// descriptor of Android's VpnService, or one end of a SOCK_DGRAM or SOCK_SEQPACKET socketpair. Its MTU is asked for; if
/// that is not possible it counts as 1420 (see wg_options_t).
/// `uapi` is the configuration: the lines of a UAPI `set` without `set=1`, "private_key=..\nlisten_port=..\n" and so on.
/// It may be "", and is not kept. It is applied as a whole, and its port is open, when this returns.
///
/// Returns a handle, which is > 0 and never used again for another tunnel, or a negative wg_result. The tunnel runs until
/// wg_turn_off(), on two threads of its own.
///
/// Memory: takes ownership of `tun_fd` on success, and closes that number before it returns; the library goes on with a
/// duplicate. On failure the caller still owns it, open and in the mode in which it was.
/// Errors: WG_ERR_NULL if `uapi` is NULL; WG_ERR_INVALID if `tun_fd` is not open, or the text has a bad value;
/// WG_ERR_PROTOCOL if a line is not of the form key=value; WG_ERR_TOO_LARGE beyond 64 MiB; WG_ERR_UNSUPPORTED if `tun_fd`
/// does not keep packets apart, or this platform has no descriptors; WG_ERR_NOT_FOUND if the interface was removed;
/// WG_ERR_ADDR_IN_USE for the port; WG_ERR_PERMISSION for the fwmark, or if `tun_fd` is a device that cannot be waited
/// for; WG_ERR_IO and WG_ERR_RESOURCES as the system says; WG_ERR_PANIC; WG_ERR_BUSY inside a callback.
/// Threads: any.
/// Since: 0.1.0
///
/// # Safety
/// `uapi` is NULL or ends with a zero byte. On success nobody but the library uses `tun_fd` any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_turn_on(tun_fd: i32, uapi: *const c_char) -> i32 {
    guard_handle(|| {
        // SAFETY: the caller's contract is the same.
        let text = unsafe { borrow_text(uapi, "uapi") }?;
        // SAFETY: as above.
        unsafe { turn_on(&wg_options_t { tun_fd, ..wg_options_t::default() }, Brought::default(), text) }
    })
}

/// As wg_turn_on(), with options. An app can bring packets and datagrams of its own; see wg_tun_callbacks_t and
/// wg_transport_t.
///
/// Memory: `options` is not kept. What the app brings is given up (`destroy`) in any case: by wg_turn_off() or, on failure,
/// before this returns. With WG_FD_TAKE, `tun_fd` is as in wg_turn_on(). With WG_FD_DUP it stays the caller's in any case;
/// but a duplicate has its O_NONBLOCK mode in common with the original, so on success the caller's descriptor is
/// non-blocking from then on.
/// Errors: as wg_turn_on(); WG_ERR_NULL if `options`, or `write` or `send` of what it points to, is NULL; WG_ERR_INVALID if
/// one of its values is out of its range, or both `tun` and `tun_fd` are set; WG_ERR_UNSUPPORTED if it sets a field that
/// this library does not know.
/// Threads: any.
/// Since: 0.1.0
///
/// # Safety
/// `options` is NULL or points to `options->struct_size` readable bytes, and so are the structs that it points to. Their
/// functions may be called with their `user` on any thread. The rest as in wg_turn_on().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_turn_on_with(options: *const wg_options_t, uapi: *const c_char) -> i32 {
    // Before anything can fail: what the app gives away belongs to somebody from here on.
    // SAFETY: the caller's contract is the same.
    let given = unsafe { read_sized(options, "options") };
    let brought = match &given {
        // SAFETY: as above.
        Ok((options, _)) => unsafe { Brought::read(options) },
        Err(_) => Ok(Brought::default()),
    };
    guard_handle(|| {
        let (options, complete) = given?;
        complete?;
        // SAFETY: as above.
        let text = unsafe { borrow_text(uapi, "uapi") }?;
        // SAFETY: as above.
        unsafe { turn_on(&options, brought?, text) }
    })
}

/// # Safety
/// With [`WG_FD_TAKE`], `tun_fd` is given away if this succeeds.
unsafe fn turn_on(options: &wg_options_t, brought: Brought, text: &str) -> Result<i32> {
    let takes = match options.fd_ownership {
        take if take == WG_FD_TAKE as u32 => true,
        dup if dup == WG_FD_DUP as u32 => false,
        other => return Err(Error::invalid(format!("fd_ownership is {other}, not WG_FD_TAKE or WG_FD_DUP"))),
    };
    let mtu = match options.mtu {
        0 => DEFAULT_MTU,
        mtu => check_mtu(mtu)?,
    };
    let max_peers = match options.max_peers as usize {
        0 => DEFAULT_MAX_PEERS,
        peers if peers <= MOST_PEERS => peers,
        peers => return Err(Error::invalid(format!("max_peers is {peers}, more than {MOST_PEERS}"))),
    };
    let update = uapi::parse_set(text, Limits::for_peers(max_peers))?;
    let source = match brought.tun {
        None => Source::Descriptor(Lent::new(options.tun_fd)?),
        Some(callback) if options.tun_fd == -1 => Source::App(callback),
        Some(_) => return Err(Error::invalid(format!("tun is set, and tun_fd is {}, not -1", options.tun_fd))),
    };
    let handle = handle::reserve()?;
    let dispatch = log::dispatch_of(handle);
    let mut ports = Opening::new(handle, DEFAULT_MEMORY);
    let (entry, lent) = tracing::dispatcher::with_default(&dispatch, || {
        let (tun, lent) = match source {
            Source::Descriptor(lent) => (lent.tun(mtu)?, Some(lent)),
            Source::App(callback) => (ports.tun(callback, mtu), None),
        };
        let bind = match brought.transport {
            None => Arc::new(UdpBind::new().map_err(|err| Error::io("cannot wait for UDP sockets", err))?),
            Some(callback) => ports.bind(callback),
        };
        let options = Options { max_peers, memory: ports.memory(), ..Options::default() };
        let (tunnel, ended) = start(tun, bind, options, update)?;
        Ok::<_, Error>((Entry::new(tunnel, dispatch.clone(), ended), lent))
    })?;
    match lent {
        // SAFETY: the caller gives it away on success, and nothing fails from here on.
        Some(lent) if takes => unsafe { lent.take() },
        Some(lent) => lent.share(),
        None => {}
    }
    handle::insert(handle, entry);
    ports.keep();
    Ok(handle)
}

/// Where packets come from.
enum Source {
    Descriptor(Lent),
    App(Callback<TunFunctions>),
}

/// Looks at an MTU from C.
pub(super) fn check_mtu(mtu: u32) -> Result<u16> {
    if !MTUS.contains(&mtu) {
        return Err(Error::invalid(format!("mtu is {mtu}, not in {} to {}", MTUS.start(), MTUS.end())));
    }
    Ok(mtu as u16)
}

fn start(
    tun: Arc<dyn Tun>,
    bind: Arc<dyn Bind>,
    options: Options,
    update: Update,
) -> Result<(Tunnel, Arc<OnceLock<String>>)> {
    let ended = Arc::new(OnceLock::new());
    let events = {
        let ended = ended.clone();
        Box::new(move |event| {
            if let Event::Ended(reason) = event {
                // It ends once.
                let _ = ended.set(reason);
            }
        })
    };
    let options = Options { events, ..options };
    // In this order no socket is opened on a port that is not the configured one. An app's interface is up as far as the
    // app is concerned, so the device is, too.
    let tunnel = Tunnel::start_with(tun, bind, options, |device| {
        device.apply(update)?;
        device.up()
    })?;
    Ok((tunnel, ended))
}

/// Stops a tunnel, and closes its descriptor and its sockets. Its handle is not valid any more. When this returns, none of
/// the functions that the app brought to it is running on any thread, or will be called again.
///
/// Calls on the tunnel that are under way on other threads finish; if there are any, what they need is freed, and the
/// descriptor closed, when the last of them returns.
///
/// Memory: everything that belongs to the tunnel is freed, and its keys are wiped. Text from wg_get_config() stays.
/// Errors: WG_ERR_UNKNOWN_HANDLE, also for the second of two calls; WG_ERR_BUSY inside a callback, and the tunnel runs on.
/// Threads: any, not only the one that turned it on. It waits for the tunnel's threads, and with them for callbacks.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_turn_off(handle: i32) -> wg_result {
    guard(|| {
        let entry = handle::remove(handle)?;
        entry.logged(|| {
            entry.tunnel.stop()?;
            ports::close(handle);
            Ok(())
        })
    })
}

/// Changes the configuration of a tunnel: `uapi` is as in wg_turn_on(). A line that is refused changes nothing.
///
/// Memory: `uapi` is not kept.
/// Errors: WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED if the tunnel has ended; WG_ERR_BUSY inside a callback; WG_ERR_PANIC; and
/// of wg_turn_on() those that are about the configuration.
/// Threads: any; calls on one tunnel come one after another.
/// Since: 0.1.0
///
/// # Safety
/// `uapi` is NULL or ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_set_config(handle: i32, uapi: *const c_char) -> wg_result {
    guard_on(handle, |entry| {
        // SAFETY: the caller's contract is the same.
        let text = unsafe { borrow_text(uapi, "uapi") }?;
        entry.check_running()?;
        let device = entry.tunnel.device();
        device.apply(uapi::parse_set(text, Limits::for_peers(device.max_peers()))?)
    })
}

/// Reads the configuration and state of a tunnel: the lines of a UAPI `get`, without `errno=`. They contain the private
/// key.
///
/// Memory: on success `*out` is the caller's, to give to wg_free(), which wipes it. On failure it is not written.
/// Errors: WG_ERR_NULL if `out` is NULL; WG_ERR_UNKNOWN_HANDLE; WG_ERR_RESOURCES; WG_ERR_PANIC; WG_ERR_BUSY inside a
/// callback. A tunnel that has ended by itself can still be read.
/// Threads: any.
/// Since: 0.1.0
///
/// # Safety
/// `out` is NULL or points to writable storage for one pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_get_config(handle: i32, out: *mut *mut c_char) -> wg_result {
    guard_on(handle, |entry| {
        if out.is_null() {
            return Err(Error::new(ErrorKind::Null, "out is NULL"));
        }
        let text = give_text(&uapi::get_text(entry.tunnel.device().snapshot()))?;
        // SAFETY: it is not NULL, and writable, says the caller.
        unsafe { out.write(text.as_ptr()) };
        Ok(())
    })
}
