//! The object behind the handle of a tunnel, and how it is started.

use std::{ffi::c_char, sync::Arc};

use crate::{
    hooks::{
        custom_io::{Connected, CustomIo, Inlets},
        events::Events,
        protect::Protect,
        resolve::Resolver,
    },
    net::Net,
    plumbing::{
        callback::NewCallback,
        calls,
        cancel::Uncancelled,
        fd::{AppFd, FdTun},
        guard::{finally, guard},
        handle::{self, Entry, Object},
        log::{self, OwnLog},
        sized::{Received, check_flags},
        text::borrow_text,
    },
    source::{Source, create_interface},
    types::{
        fd::takes,
        options::{WG_OPTIONS_QUEUE_EVENTS, wg_options_t},
    },
};
use wg_embed::{
    bind::{Bind, UdpBind},
    device::{self, DEFAULT_MAX_PEERS, DEFAULT_MEMORY, Device, FIXED_MEMORY, Options, Tunnel},
    error::{Error, ErrorKind, Result},
    key::wiped,
    tun::{DEFAULT_MTU, MAX_QUEUES, Tun},
    uapi::{self, Limits},
};

/// The smallest `memory_limit`: the fixed buffers, and the staged packets of one peer.
///
/// Since: 0.1.0
pub const WG_MEMORY_MIN: usize = 1_572_864;

/// The largest `memory_limit`.
///
/// Since: 0.1.0
pub const WG_MEMORY_MAX: usize = 8_388_608;

/// The `memory_limit` of a tunnel whose options set none.
///
/// Since: 0.1.0
pub const WG_MEMORY_DEFAULT: usize = 4_194_304;

/// The smallest valid MTU.
///
/// Since: 0.1.0
pub const WG_MTU_MIN: u32 = 576;

/// The largest valid MTU.
///
/// Since: 0.1.0
pub const WG_MTU_MAX: u32 = 65_535;

/// The MTU of a tunnel if its interface does not report one and its options set none.
///
/// Since: 0.1.0
pub const WG_MTU_DEFAULT: u32 = 1420;

/// The largest `max_peers`. Each peer takes about 1 KiB of memory.
///
/// Since: 0.1.0
pub const WG_PEERS_MAX: u32 = 16_777_216;

/// The `max_peers` of a tunnel whose options set none.
///
/// Since: 0.1.0
pub const WG_PEERS_DEFAULT: u32 = 65_536;

/// The largest `workers`.
///
/// Since: 0.1.0
pub const WG_WORKERS_MAX: u32 = 8;

/// The `workers` of a tunnel that must have none.
///
/// Since: 0.1.0
pub const WG_WORKERS_NONE: u32 = 4_294_967_295;

/// The largest `queues`.
///
/// Since: 0.1.0
pub const WG_QUEUES_MAX: u32 = 8;

/// The largest size of a configuration, in bytes: 1024 for each of WG_PEERS_DEFAULT peers, or of `max_peers` if that is
/// more.
///
/// Since: 0.1.0
pub const WG_CONFIG_LEN_MAX: usize = 67_108_864;

// The least is enough for the fixed buffers, and for what may wait for one peer.
const _: () = assert!(FIXED_MEMORY + device::MAX_STAGED * (1500 + device::STAGED_OVERHEAD) <= WG_MEMORY_MIN);

// The constants above are literals for the header's sake.
const _: () = assert!(WG_MEMORY_DEFAULT == DEFAULT_MEMORY && WG_PEERS_DEFAULT as usize == DEFAULT_MAX_PEERS);
const _: () = assert!(WG_WORKERS_MAX as usize == device::MAX_WORKERS);
const _: () = assert!(WG_QUEUES_MAX as usize == MAX_QUEUES);
const _: () = assert!(WG_MTU_DEFAULT == DEFAULT_MTU as u32);
const _: () = assert!(WG_CONFIG_LEN_MAX == Limits::for_peers(DEFAULT_MAX_PEERS).bytes);

/// A tunnel that is running, or has ended by itself.
pub(crate) struct Running {
    pub(crate) tunnel: Tunnel,
    /// Its TUN over a descriptor, if it has one.
    pub(crate) fd_tun: Option<Arc<FdTun>>,
    /// Its sockets, except with custom datagrams.
    pub(crate) sockets: Option<Arc<UdpBind>>,
    pub(crate) functions: Arc<AppFunctions>,
}

impl Object for Running {
    const NAME: &'static str = "tunnel";
    const END: &'static str = "turn it off";
    type Functions = AppFunctions;

    fn close(functions: &AppFunctions) {
        functions.close();
    }
}

impl Running {
    /// Fails if the tunnel has ended.
    pub(crate) fn check_running(&self) -> Result<()> {
        self.hooks().events.check_running()
    }

    pub(crate) fn hooks(&self) -> &Hooks {
        &self.functions.hooks
    }

    /// Stops the tunnel. None of its callbacks runs afterwards, even on failure.
    pub(crate) fn turn_off(&self) -> Result<()> {
        self.hooks().events.end_waits();
        let stop = || {
            if let Some(net) = &self.functions.net {
                // Before the tunnel: peers hear of the end of their connections.
                net.close(self.check_running().is_ok() && !self.tunnel.is_paused());
            }
            self.tunnel.stop()
        };
        finally(stop, || self.functions.close())
    }
}

/// All callbacks of a tunnel.
pub(crate) struct AppFunctions {
    pub(crate) hooks: Hooks,
    pub(crate) inlets: Inlets,
    /// The userspace network, if packets come from there.
    pub(crate) net: Option<Arc<Net>>,
}

impl AppFunctions {
    /// Closes them: when this returns, none is running on any thread or will be called. None is destroyed while another
    /// one runs, as they may share a pointer.
    fn close(&self) {
        let net = self.net.as_ref().map(|net| {
            net.close(false);
            net.take_functions()
        });
        let idle = (self.inlets.take(), net, self.hooks.take());
        drop(idle);
    }
}

/// The callbacks of a tunnel other than those for packets and datagrams.
pub(crate) struct Hooks {
    protect: Protect,
    resolve: Resolver,
    pub(crate) events: Arc<Events>,
    pub(crate) log: Arc<OwnLog>,
}

impl Hooks {
    /// # Safety
    /// The functions may be called with what belongs to them, on any thread.
    pub(crate) unsafe fn of(options: &wg_options_t) -> Self {
        // SAFETY: the caller's contract is the same.
        let protect = unsafe { Protect::new(options.protect, options.protect_user, options.protect_destroy) };
        // SAFETY: as above.
        let resolve = unsafe { Resolver::new(options.resolve, options.resolve_user, options.resolve_destroy) };
        let hooks = Self { protect, resolve, events: Arc::default(), log: Arc::default() };
        // Neither is closed yet, nor has the tunnel ended: both take what they are given.
        let _ = hooks.events.set(NewCallback::new(options.event, options.event_user, options.event_destroy));
        hooks.log.callback.set(NewCallback::new(options.log, options.log_user, options.log_destroy));
        hooks
    }

    /// Closes the callbacks: when this returns, they are not running on any thread. Their pointers are released when
    /// the result is dropped.
    fn take(&self) -> impl Sized {
        (self.protect.take(), self.resolve.take(), self.events.take(), self.log.callback.take())
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        drop(self.take());
    }
}

/// Turns a tunnel on, and returns its handle.
///
/// # Safety
/// That of [`wg_turn_on_with`](crate::wg_turn_on_with).
pub(crate) unsafe fn turn_on(options: Result<Received<wg_options_t>>, uapi: *const c_char) -> i32 {
    let _uncancelled = Uncancelled::new();
    // Outside of the guard: what belongs to the app's functions is given up in any case.
    let given = options.map(|Received { value: options, unknown_fields }| {
        // SAFETY: the caller's contract is the same.
        let hooks = unsafe { Hooks::of(&options) };
        // SAFETY: as above.
        let custom_io = unsafe { CustomIo::read(&options) };
        (options, unknown_fields, hooks, custom_io)
    });
    let body = || {
        let (options, unknown_fields, hooks, custom_io) = given?;
        unknown_fields?;
        // SAFETY: as above.
        let text = unsafe { borrow_text(uapi, "uapi") }?;
        let settings = Settings::of(&options)?;
        // SAFETY: as above.
        unsafe { start(&options, &settings, hooks, custom_io?, text) }
    };
    wiped(|| guard(body))
}

/// The numbers of a [`wg_options_t`], checked.
struct Settings {
    takes_fd: bool,
    mtu: u16,
    max_peers: usize,
    memory: usize,
    workers: Option<usize>,
    queues: usize,
}

impl Settings {
    fn of(options: &wg_options_t) -> Result<Self> {
        let max_peers = match options.max_peers as usize {
            0 => DEFAULT_MAX_PEERS,
            peers if peers <= WG_PEERS_MAX as usize => peers,
            peers => return Err(Error::invalid(format!("max_peers is {peers}, more than {WG_PEERS_MAX}"))),
        };
        let memory = match options.memory_limit {
            0 => DEFAULT_MEMORY,
            bytes if (WG_MEMORY_MIN..=WG_MEMORY_MAX).contains(&bytes) => bytes,
            bytes => {
                let text = format!("memory_limit is {bytes}, not in {WG_MEMORY_MIN} to {WG_MEMORY_MAX}");
                return Err(Error::invalid(text));
            }
        };
        let workers = match options.workers {
            0 => None,
            WG_WORKERS_NONE => Some(0),
            workers if workers <= WG_WORKERS_MAX => Some(workers as usize),
            workers => return Err(Error::invalid(format!("workers is {workers}, more than {WG_WORKERS_MAX}"))),
        };
        let queues = match options.queues {
            0 => 1,
            queues if queues <= WG_QUEUES_MAX => queues as usize,
            queues => return Err(Error::invalid(format!("queues is {queues}, more than {WG_QUEUES_MAX}"))),
        };
        if queues > 1 && cfg!(not(any(target_os = "linux", target_os = "android"))) {
            return Err(Error::new(ErrorKind::Unsupported, "queues: there is only one on this platform"));
        }
        check_flags(options.flags, WG_OPTIONS_QUEUE_EVENTS as u32)?;
        let (takes_fd, mtu) = (takes(options.fd_ownership)?, mtu_or_default(options.mtu)?);
        Ok(Self { takes_fd, mtu, max_peers, memory, workers, queues })
    }
}

/// # Safety
/// With `WG_FD_TAKE`, the library owns `tun_fd` and `queue_fds` if this succeeds. `options.net` is as in [`Net::open`];
/// `options.interface_name` is NULL or ends with a zero byte; `options.queue_fds` is NULL or has as many numbers as
/// there are further queues.
unsafe fn start(
    options: &wg_options_t,
    settings: &Settings,
    hooks: Hooks,
    custom_io: CustomIo,
    text: &str,
) -> Result<i32> {
    hooks.log.set_level(options.log_level)?;
    if options.flags & WG_OPTIONS_QUEUE_EVENTS as u32 != 0 {
        hooks.events.add_queue()?;
    }
    let resolves = hooks.resolve.hook().is_some();
    let limits = Limits { host_names: resolves, ..Limits::for_peers(settings.max_peers) };
    let update = uapi::parse_set(text, limits)?;
    // SAFETY: the caller's contract is the same.
    let source = unsafe { Source::of(options, custom_io.tun.is_some(), settings.queues) }?;
    calls::watch_exit();
    let handle = handle::reserve()?;
    let Connected { tun, bind, inlets } = custom_io.connect(handle, settings.memory, settings.mtu)?;
    // SAFETY: the caller's contract is the same.
    let net = unsafe { Net::open(options, handle) }?;
    let functions = Arc::new(AppFunctions { hooks, inlets, net });
    let starting = handle::start::<Running>(handle, functions.clone())?;
    let hooks = &functions.hooks;
    let dispatch = log::dispatch_to(hooks.log.clone(), handle);
    let (tunnel, sockets, fd_tun) = tracing::dispatcher::with_default(&dispatch, || {
        let mut fd_tun = None;
        let tun = match &source {
            Source::Descriptors(fds) => Some(fd_tun.insert(AppFd::tun(fds, settings.mtu)?).clone() as Arc<dyn Tun>),
            Source::Interface(name) => Some(create_interface(name, settings.mtu, settings.queues)?),
            Source::App => tun.or_else(|| functions.net.as_ref().map(|net| net.tun())),
        };
        let tun = tun.ok_or_else(|| Error::invalid("there is no TUN"))?;
        let (tunnel, sockets) = launch(settings, hooks, handle, tun, bind, |device| {
            // In this order no socket is opened on a port that is not the configured one. An app's interface is up as
            // far as the app is concerned, so the device is, too.
            device.apply(update)?;
            if source.is_up() { device.up() } else { Ok(()) }
        })?;
        Ok::<_, Error>((tunnel, sockets, fd_tun))
    })?;
    match source {
        // SAFETY: the caller gives them away on success, and nothing fails from here on.
        Source::Descriptors(fds) if settings.takes_fd => fds.into_iter().for_each(|fd| unsafe { fd.take() }),
        Source::Descriptors(fds) => fds.into_iter().for_each(AppFd::share),
        Source::Interface(_) | Source::App => {}
    }
    starting.finish(Entry::new(Running { tunnel, fd_tun, sockets, functions }, dispatch));
    Ok(handle)
}

/// Starts a tunnel, which `configure` configures and brings up.
fn launch(
    settings: &Settings,
    hooks: &Hooks,
    handle: i32,
    tun: Arc<dyn Tun>,
    bind: Option<Arc<dyn Bind>>,
    configure: impl FnOnce(&Device) -> Result<()>,
) -> Result<(Tunnel, Option<Arc<UdpBind>>)> {
    let (bind, sockets) = match bind {
        Some(bind) => (bind, None),
        None => {
            let sockets = UdpBind::new().map_err(|err| Error::io("cannot wait for UDP sockets", err))?;
            let sockets = Arc::new(sockets.with_socket_hook(hooks.protect.hook()));
            (sockets.clone() as Arc<dyn Bind>, Some(sockets))
        }
    };
    let options = Options {
        max_peers: settings.max_peers,
        memory: settings.memory,
        workers: settings.workers,
        events: hooks.events.sink(handle),
        resolve: hooks.resolve.hook(),
        ..Options::default()
    };
    Ok((Tunnel::start_with(tun, bind, options, configure)?, sockets))
}

/// Checks an MTU from C that may be 0, which stands for the default.
pub(crate) fn mtu_or_default(mtu: u32) -> Result<u16> {
    if mtu == 0 { Ok(DEFAULT_MTU) } else { check_mtu(mtu) }
}

/// Checks an MTU from C.
pub(crate) fn check_mtu(mtu: u32) -> Result<u16> {
    if !(WG_MTU_MIN..=WG_MTU_MAX).contains(&mtu) {
        return Err(Error::invalid(format!("mtu is {mtu}, not in {WG_MTU_MIN} to {WG_MTU_MAX}")));
    }
    Ok(mtu as u16)
}
