//! Tunnels: on, off, and their configuration.

use std::{ffi::c_char, sync::Arc, time::Duration};

use super::{
    bring::Brought,
    callback::Callback,
    cancel::Uncancelled,
    events::Events,
    exit,
    fd::{Lent, takes},
    guard::{finally, guard, guard_end, guard_on},
    handle::{self, Entry, Object},
    log::{self, OwnLog},
    options::{read_sized, wg_options_t},
    ports::{self, Opening, TunFunctions},
    protect::Protect,
    resolve::Resolver,
    result::wg_result,
    text::{borrow_text, give_text},
};
use wg_embed::{
    bind::{Bind, UdpBind},
    device::{self, DEFAULT_MAX_PEERS, DEFAULT_MEMORY, FIXED_MEMORY, Options, Tunnel},
    error::{Error, ErrorKind, Result},
    key::wiped,
    tun::DEFAULT_MTU,
    uapi::{self, Limits},
};

// The header says so.
const _: () = assert!(DEFAULT_MAX_PEERS == 65_536 && DEFAULT_MEMORY == 4 << 20);

/// The smallest `memory_limit`.
pub const WG_MEMORY_MIN: usize = 3 << 19;
/// The largest `memory_limit`.
pub const WG_MEMORY_MAX: usize = 8 << 20;

// The least is enough for the fixed buffers, and for what may wait for one peer.
const _: () = assert!(FIXED_MEMORY + device::MAX_STAGED * (1500 + device::STAGED_OVERHEAD) <= WG_MEMORY_MIN);

/// The most that `max_peers` may be: at about 1 KiB a peer, as much as fits into the memory of a large machine.
const MOST_PEERS: usize = 1 << 24;

/// MTUs that an app may name.
const MTUS: std::ops::RangeInclusive<u32> = 576..=65_535;

/// A tunnel that runs, or ran until it ended by itself.
pub(super) struct Running {
    pub(super) tunnel: Tunnel,
    pub(super) log: Arc<OwnLog>,
    pub(super) events: Arc<Events>,
    /// Its sockets, unless its datagrams are the app's.
    pub(super) sockets: Option<Arc<UdpBind>>,
    pub(super) hooks: Hooks,
}

impl Object for Running {
    const NAME: &'static str = "tunnel";
    const END: &'static str = "turn it off";
}

impl Running {
    /// Refuses what only a running tunnel can do.
    pub(super) fn check_running(&self) -> Result<()> {
        self.events.check_running()
    }

    /// Stops the tunnel. None of its callbacks runs afterwards, whatever becomes of that.
    fn turn_off(&self, handle: i32) -> Result<()> {
        let close = || {
            ports::close(handle);
            self.hooks.close();
            self.events.close();
            self.log.close();
        };
        finally(|| self.tunnel.stop(), close)
    }
}

/// Functions of the app that a tunnel asks for something.
#[derive(Clone)]
pub(super) struct Hooks {
    protect: Protect,
    resolve: Resolver,
}

impl Hooks {
    /// # Safety
    /// The functions may be called with what belongs to them, on any thread.
    pub(super) unsafe fn of(options: &wg_options_t) -> Self {
        // SAFETY: the caller's contract is the same.
        let protect = unsafe { Protect::new(options.protect, options.protect_user, options.protect_destroy) };
        // SAFETY: as above.
        let resolve = unsafe { Resolver::new(options.resolve, options.resolve_user, options.resolve_destroy) };
        Self { protect, resolve }
    }

    /// Gives the functions up: when this returns, they are not running on any thread.
    fn close(&self) {
        self.protect.close();
        self.resolve.close();
    }
}

/// Makes a tunnel between `tun_fd` and the network, and starts it.
///
/// `tun_fd` gives and takes one IP packet a call: a TUN device (made with IFF_NO_PI, with or without IFF_VNET_HDR), the
/// descriptor of Android's VpnService, that of a utun of Apple's systems (whose packets have four bytes in front), or one end
/// of a SOCK_DGRAM or SOCK_SEQPACKET socketpair. Its MTU is asked for; if that is not possible it counts as 1420 (see
/// wg_options_t).
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
    // SAFETY: the caller's contract is the same.
    unsafe { turn_on(Ok((wg_options_t { tun_fd, ..wg_options_t::default() }, Ok(()))), Arc::default(), uapi) }
}

/// As wg_turn_on(), with options. An app can bring packets and datagrams of its own; see wg_tun_callbacks_t and
/// wg_transport_t.
///
/// Memory: `options` is not kept. With WG_FD_TAKE, `tun_fd` is as in wg_turn_on(). With WG_FD_DUP it stays the caller's in
/// any case; but a duplicate has its O_NONBLOCK mode in common with the original, so on success the caller's descriptor
/// is non-blocking from then on. `protect_destroy` is called exactly once with `protect_user`, and `resolve_destroy` with
/// `resolve_user`: when the tunnel is turned off and the function has returned for the last time, or before this call
/// returns if it fails, `resolve_destroy` also if `resolve` is NULL. What `tun` and `transport` point to is given up in the
/// same way. Only what is in a struct with a wrong `struct_size` is not.
/// Errors: as wg_turn_on(); WG_ERR_NULL if `options`, or `write` or `send` of what it points to, is NULL; WG_ERR_INVALID if
/// one of its values is out of its range, or both `tun` and `tun_fd` are set; WG_ERR_PERMISSION if `protect` refuses;
/// WG_ERR_UNSUPPORTED if it sets a field that this library does not know.
/// Threads: any. It does not wait for host names to be looked up, unless it fails while a `resolve` of the app is looking one
/// up.
/// Since: 0.1.0
///
/// # Safety
/// `options` is NULL or points to `options->struct_size` readable bytes, and so are the structs that it points to; their
/// functions are NULL or of their types, and may be called with what belongs to them on any thread; the rest as in wg_turn_on().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_turn_on_with(options: *const wg_options_t, uapi: *const c_char) -> i32 {
    // SAFETY: the caller's contract is the same.
    let options = unsafe { read_sized(options, "options") };
    // SAFETY: as above.
    unsafe { turn_on(options, Arc::default(), uapi) }
}

/// As [`wg_turn_on_with`] and [`wg_set_tunnel_log_callback`](super::wg_set_tunnel_log_callback), but so that the first lines
/// come, too.
///
/// # Safety
/// That of both.
pub unsafe fn turn_on_with_log(
    options: wg_options_t,
    uapi: *const c_char,
    log: super::wg_log_fn_t,
    user: *mut std::ffi::c_void,
    destroy: super::wg_destroy_fn_t,
) -> i32 {
    let own = Arc::<OwnLog>::default();
    own.set(super::callback::Given::new(log, user, destroy));
    // SAFETY: the caller's contract is the same.
    unsafe { turn_on(Ok((options, Ok(()))), own, uapi) }
}

/// # Safety
/// That of [`wg_turn_on_with`].
unsafe fn turn_on(options: Result<(wg_options_t, Result<()>)>, log: Arc<OwnLog>, uapi: *const c_char) -> i32 {
    let _uncancelled = Uncancelled::new();
    // Outside of the guard: what belongs to the app's functions is given up in any case.
    let given = options.map(|(options, complete)| {
        // SAFETY: the caller's contract is the same.
        let hooks = unsafe { Hooks::of(&options) };
        // SAFETY: as above.
        let brought = unsafe { Brought::read(&options) };
        (options, complete, hooks, brought)
    });
    let body = || {
        let (options, complete, hooks, brought) = given?;
        complete?;
        // SAFETY: as above.
        let text = unsafe { borrow_text(uapi, "uapi") }?;
        // SAFETY: as above.
        unsafe { make(&options, hooks, brought?, log, text) }
    };
    wiped(|| guard(body))
}

/// # Safety
/// With `WG_FD_TAKE`, `tun_fd` is given away if this succeeds.
unsafe fn make(options: &wg_options_t, hooks: Hooks, brought: Brought, log: Arc<OwnLog>, text: &str) -> Result<i32> {
    let takes = takes(options.fd_ownership)?;
    let mtu = match options.mtu {
        0 => DEFAULT_MTU,
        mtu => check_mtu(mtu)?,
    };
    let max_peers = match options.max_peers as usize {
        0 => DEFAULT_MAX_PEERS,
        peers if peers <= MOST_PEERS => peers,
        peers => return Err(Error::invalid(format!("max_peers is {peers}, more than {MOST_PEERS}"))),
    };
    let memory = match options.memory_limit {
        0 => DEFAULT_MEMORY,
        bytes if (WG_MEMORY_MIN..=WG_MEMORY_MAX).contains(&bytes) => bytes,
        bytes => {
            let text = format!("memory_limit is {bytes}, not in {WG_MEMORY_MIN} to {WG_MEMORY_MAX}");
            return Err(Error::invalid(text));
        }
    };
    let resolve = hooks.resolve.hook();
    let limits = Limits { host_names: resolve.is_some(), ..Limits::for_peers(max_peers) };
    let update = uapi::parse_set(text, limits)?;
    let source = match brought.tun {
        None => Source::Descriptor(Lent::new(options.tun_fd)?),
        Some(callback) if options.tun_fd == -1 => Source::App(callback),
        Some(_) => return Err(Error::invalid(format!("tun is set, and tun_fd is {}, not -1", options.tun_fd))),
    };
    exit::watch();
    let handle = handle::reserve()?;
    let count = usize::from(matches!(source, Source::App(_))) + usize::from(brought.transport.is_some());
    let ports = Opening::new(handle, memory, count)?;
    let events = Arc::<Events>::default();
    let dispatch = log::dispatch_to(log.clone(), handle);
    let (tunnel, sockets, lent) = tracing::dispatcher::with_default(&dispatch, || {
        let (tun, lent) = match source {
            Source::Descriptor(lent) => (lent.tun(mtu)?, Some(lent)),
            Source::App(callback) => (ports.tun(callback, mtu), None),
        };
        let (bind, sockets): (Arc<dyn Bind>, _) = match brought.transport {
            None => {
                let sockets = UdpBind::new().map_err(|err| Error::io("cannot wait for UDP sockets", err))?;
                let sockets = Arc::new(sockets.with_socket_hook(hooks.protect.hook()));
                (sockets.clone(), Some(sockets))
            }
            Some(callback) => (ports.bind(callback), None),
        };
        let options = Options { max_peers, memory, events: events.sink(handle), resolve, ..Options::default() };
        // In this order no socket is opened on a port that is not the configured one. An app's interface is up as far as
        // the app is concerned, so the device is, too.
        let tunnel = Tunnel::start_with(tun, bind, options, |device| {
            device.apply(update)?;
            device.up()
        })?;
        Ok::<_, Error>((tunnel, sockets, lent))
    })?;
    match lent {
        // SAFETY: the caller gives it away on success, and nothing fails from here on.
        Some(lent) if takes => unsafe { lent.take() },
        Some(lent) => lent.share(),
        None => {}
    }
    ports.keep();
    let running = Running { tunnel, log, events, sockets, hooks };
    handle::insert(handle, Entry::new(running, dispatch));
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

/// Stops a tunnel, and closes its descriptor and its sockets. Its handle is not valid any more.
///
/// Calls on the tunnel that are under way on other threads finish; if there are any, what they need is freed, and the
/// descriptor closed, when the last of them returns.
///
/// When this returns, none of the tunnel's callbacks is running on any thread, and each was destroyed; so were the functions
/// that the app brought to it.
///
/// Memory: everything that belongs to the tunnel is freed, and its keys are wiped. Text from wg_get_config() stays.
/// Errors: WG_ERR_UNKNOWN_HANDLE, also for the second of two calls: if the first is still under way on another thread, the
/// second waits for it, so after either code the tunnel is off; WG_ERR_BUSY inside a callback, and the tunnel runs on.
/// Threads: any, not only the one that turned it on. It waits for the tunnel's threads, and with them for callbacks: also for
/// a `resolve` of the app that is looking up a host name, but not for wg_resolve_system(), which then returns WG_ERR_CLOSED.
/// Where a callback may take long, wg_turn_off_within() waits for as long as you say.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_turn_off(handle: i32) -> wg_result {
    let body = || handle::end(handle, |entry: &Entry<Running>| entry.logged(|| entry.turn_off(handle)));
    wiped(|| guard_end(handle, body))
}

/// As wg_turn_off(), but it waits for `milliseconds` at most.
///
/// If that is not long enough it returns WG_ERR_TIMED_OUT, and the tunnel goes on ending on a thread of the library's own,
/// which waits for the callbacks that are still running. By then nothing new is sent, received or looked up, and the handle
/// is unknown to all functions but wg_turn_off(), which waits until the tunnel is off and returns WG_ERR_UNKNOWN_HANDLE, and
/// this one, which can be called again to wait on. Keep what belongs to the callbacks until `destroy` was called for it, and
/// the library loaded.
///
/// Memory: as wg_turn_off(), once the tunnel has ended. Each `destroy` is called on the library's own thread.
/// Errors: WG_ERR_TIMED_OUT; WG_ERR_UNKNOWN_HANDLE, also if the tunnel has ended since a call that timed out;
/// WG_ERR_RESOURCES if the thread cannot be started, and WG_ERR_BUSY inside a callback: the tunnel runs on then.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub extern "C" fn wg_turn_off_within(handle: i32, milliseconds: u32) -> wg_result {
    let body = || {
        let timeout = Duration::from_millis(milliseconds.into());
        handle::end_within(handle, timeout, |entry: &Entry<Running>, handle| entry.logged(|| entry.turn_off(handle)))
    };
    wiped(|| guard_end(handle, body))
}

/// Changes the configuration of a tunnel: `uapi` is as in wg_turn_on(). A line that is refused changes nothing.
///
/// A port that is named in it is insisted on from then on, also if it is the one that the system had chosen; with 0 the system
/// chooses another. A new port is opened before this returns, also while the old one is still being tried, or noted if the
/// tunnel is paused.
///
/// Memory: `uapi` is not kept.
/// Errors: WG_ERR_UNKNOWN_HANDLE; WG_ERR_CLOSED if the tunnel has ended; WG_ERR_BUSY inside a callback; WG_ERR_PANIC; and
/// of wg_turn_on() those that are about the configuration.
/// Threads: any; calls on one tunnel come one after another. One that changes the port or the mark waits for `protect`,
/// and so do those behind it; no other does.
/// Since: 0.1.0
///
/// # Safety
/// `uapi` is NULL or ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_set_config(handle: i32, uapi: *const c_char) -> wg_result {
    let body = |entry: &Entry<Running>| {
        // SAFETY: the caller's contract is the same.
        let text = unsafe { borrow_text(uapi, "uapi") }?;
        entry.check_running()?;
        let device = entry.tunnel.device();
        let limits = Limits { host_names: device.resolves_names(), ..Limits::for_peers(device.max_peers()) };
        device.apply(uapi::parse_set(text, limits)?)
    };
    wiped(|| guard_on(handle, body))
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
    let body = |entry: &Entry<Running>| {
        if out.is_null() {
            return Err(Error::new(ErrorKind::Null, "out is NULL"));
        }
        let text = give_text(&uapi::get_text(entry.tunnel.device().snapshot())?)?;
        // SAFETY: it is not NULL, and writable, says the caller.
        unsafe { out.write(text.as_ptr()) };
        Ok(())
    };
    wiped(|| guard_on(handle, body))
}
