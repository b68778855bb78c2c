//! A managed tunnel: serves a VPN manager over two descriptors.

mod log;
mod network;
mod reason;
mod source;
pub(crate) mod state;

use std::{
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use crate::{
    hooks::{protect::Protect, resolve::Resolver},
    plumbing::{
        callback::{NewCallback, Slot},
        calls,
        cancel::Uncancelled,
        fd::lent,
        guard::{finally, guard},
        handle::{self, Entry, Object},
        log::OwnLog,
        sized::Received,
        text::borrow_text,
    },
    types::manager::{
        WG_MANAGER_ASK, WG_MANAGER_AUTO, WG_MANAGER_DEFAULT, WG_MANAGER_INTERFACE, WG_MANAGER_OWN,
        WG_MANAGER_USERSPACE, wg_manager_options_t,
    },
};
use log::{Lines, dispatch_to};
use network::{AppNetwork, ConfigureFn};
use source::{AppSource, StartFn};
use wg_embed::{
    error::{Error, ErrorKind, Result},
    key::wiped,
    queue::wait_until,
    sync,
    thread::{self, Owner},
};
use wg_embed_manager::{
    speaker::{self, End, OpenError, Transport},
    tunnel::{Handle, Options, Settings, Source, Tunnel},
};
use wg_embed_tunnel::{
    engine::{self, Configuration, Network, WireGuard},
    file::FileSource,
};

type AnySource = dyn Source<Configuration = Configuration>;
type Thread = JoinHandle<()>;

/// A tunnel that C has a handle of.
pub(crate) struct Manager {
    stream: Handle,
    thread: Mutex<Option<Thread>>,
    served: Arc<Served>,
}

impl Object for Manager {
    const NAME: &'static str = "manager";
    const END: &'static str = "stop it";
    type Functions = Served;

    fn close(served: &Served) {
        served.close();
    }
}

/// The part of a managed tunnel that exists before the tunnel.
pub(crate) struct Served {
    functions: Functions,
    /// `None`: peers are those of files.
    source: Option<Arc<AppSource>>,
    /// The reason for its end.
    end: Mutex<Option<End>>,
    ended: Condvar,
}

/// All functions of the app.
struct Functions {
    start: Arc<Slot<StartFn>>,
    configure: Arc<Slot<ConfigureFn>>,
    protect: Protect,
    resolve: Resolver,
    log: Arc<OwnLog>,
}

impl Functions {
    /// # Safety
    /// The functions may be called with what belongs to them, on any thread.
    unsafe fn of(options: &wg_manager_options_t) -> Self {
        // SAFETY: the caller's contract is the same.
        let protect = unsafe { Protect::new(options.protect, options.protect_user, options.protect_destroy) };
        // SAFETY: as above.
        let resolve = unsafe { Resolver::new(options.resolve, options.resolve_user, options.resolve_destroy) };
        let functions =
            Self { start: Arc::default(), configure: Arc::default(), protect, resolve, log: Arc::default() };
        functions.start.set(NewCallback::new(options.start, options.start_user, options.start_destroy));
        let configure = NewCallback::new(options.configure, options.configure_user, options.configure_destroy);
        functions.configure.set(configure);
        functions.log.callback.set(NewCallback::new(options.log, options.log_user, options.log_destroy));
        functions
    }

    /// Gives them up: when this returns, none is running on any thread. None is destroyed while another one runs.
    fn close(&self) {
        let log = self.log.callback.take();
        drop((self.start.take(), self.configure.take(), self.protect.take(), self.resolve.take(), log));
    }
}

impl Drop for Functions {
    fn drop(&mut self) {
        self.close();
    }
}

impl Served {
    /// The app as a source of peers.
    pub(crate) fn source(&self) -> Result<&AppSource> {
        let text = "the manager's peers are those of files: its options have no start";
        self.source.as_deref().ok_or_else(|| Error::new(ErrorKind::Unsupported, text))
    }

    fn close(&self) {
        if let Some(source) = &self.source {
            source.close();
        }
        self.functions.close();
    }

    fn set_end(&self, end: End) {
        if let Some(source) = &self.source {
            source.close();
        }
        *sync::lock(&self.end) = Some(end);
        self.ended.notify_all();
    }
}

impl Manager {
    /// Waits for the end; without a timeout, without limit.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> Result<()> {
        let end = wait_until(&self.served.ended, sync::lock(&self.served.end), timeout, Option::is_some);
        match &*end {
            None => Err(Error::new(ErrorKind::TimedOut, "the manager's tunnel has not ended yet")),
            Some(End::Closed | End::Finished | End::PeerClosed) => Ok(()),
            Some(end @ End::Io(_)) => Err(Error::new(ErrorKind::Io, end.to_string())),
            Some(End::Broken) => Err(Error::new(ErrorKind::Panic, End::Broken.to_string())),
            Some(end) => Err(Error::new(ErrorKind::Protocol, end.to_string())),
        }
    }

    /// Ends it. None of its callbacks runs afterwards, whatever becomes of that.
    pub(crate) fn stop(&self) -> Result<()> {
        let stop = || {
            self.stream.close();
            if let Some(thread) = sync::lock(&self.thread).take() {
                // Its panics are caught.
                let _ = thread.join();
            }
            Ok(())
        };
        finally(stop, || self.served.close())
    }
}

/// The numbers and texts of a [`wg_manager_options_t`], checked.
struct Checked {
    tunnel: Options,
    network: Network,
    interface: String,
    lines: Arc<Lines>,
}

impl Checked {
    /// # Safety
    /// The texts are NULL or texts.
    unsafe fn of(options: &wg_manager_options_t) -> Result<Self> {
        let millis = |ms: u32, default: Duration| if ms == 0 { default } else { Duration::from_millis(ms.into()) };
        let network = match options.network {
            auto if auto == WG_MANAGER_AUTO as u32 => Network::Auto,
            interface if interface == WG_MANAGER_INTERFACE as u32 => Network::Interface,
            userspace if userspace == WG_MANAGER_USERSPACE as u32 => Network::Userspace,
            other => return Err(Error::invalid(format!("network is {other}"))),
        };
        let settings = match options.settings {
            default if default == WG_MANAGER_DEFAULT as u32 => Settings::default(),
            ask if ask == WG_MANAGER_ASK as u32 => Settings::ask(),
            own if own == WG_MANAGER_OWN as u32 => Settings::Own,
            other => return Err(Error::invalid(format!("settings is {other}"))),
        };
        let settings = match settings {
            Settings::Ask { timeout } => Settings::Ask { timeout: millis(options.settings_timeout_ms, timeout) },
            Settings::OwnOrAsk { timeout } => {
                Settings::OwnOrAsk { timeout: millis(options.settings_timeout_ms, timeout) }
            }
            Settings::Own => Settings::Own,
        };
        if options.flags != 0 {
            return Err(Error::invalid("flags is not 0"));
        }
        let interface = match options.interface_name.is_null() {
            true => engine::Options::default().interface,
            // SAFETY: it is text, says the caller.
            false => unsafe { borrow_text(options.interface_name, "interface_name") }?.to_owned(),
        };
        let default = Options::default();
        let stream = speaker::Options {
            handshake_timeout: default.stream.handshake_timeout.map(|time| millis(options.handshake_timeout_ms, time)),
            ..default.stream
        };
        let interval = default.interval.map(|time| millis(options.update_interval_ms, time));
        let lines = Arc::new(Lines::new(options.manager_log_level)?);
        Ok(Self { tunnel: Options { stream, settings, interval, ..default }, network, interface, lines })
    }
}

/// Serves a manager, and returns the handle.
///
/// # Safety
/// That of [`wg_manager_serve`](crate::wg_manager_serve).
pub(crate) unsafe fn serve(read_fd: i32, write_fd: i32, options: Result<Received<wg_manager_options_t>>) -> i32 {
    let _uncancelled = Uncancelled::new();
    // Outside of the guard: what belongs to the app's functions is given up in any case.
    let given = options.map(|Received { value: options, unknown_fields }| {
        // SAFETY: the caller's contract is the same.
        let functions = unsafe { Functions::of(&options) };
        (options, unknown_fields, functions)
    });
    let body = || {
        let (options, unknown_fields, functions) = given?;
        unknown_fields?;
        // SAFETY: as above.
        let checked = unsafe { Checked::of(&options) }?;
        functions.log.set_level(options.log_level)?;
        let stream = (lent(read_fd)?, lent(write_fd)?);
        calls::watch_exit();
        start(stream, checked, functions)
    };
    wiped(|| guard(body))
}

fn start((read, write): (OwnedFd, OwnedFd), checked: Checked, functions: Functions) -> Result<i32> {
    let handle = handle::reserve()?;
    let source = functions.start.is_set().then(|| Arc::new(AppSource::new(handle, functions.start.clone())));
    let served = Arc::new(Served { functions, source, end: Mutex::default(), ended: Condvar::new() });
    let starting = handle::start::<Manager>(handle, served.clone())?;
    let Checked { tunnel: options, network, interface, lines } = checked;
    let functions = &served.functions;
    let mut engine = engine::Options { network, interface, ..engine::Options::default() };
    engine.protect = Some(Arc::from(functions.protect.hook()));
    if let Some(resolve) = functions.resolve.hook() {
        engine.resolve = Arc::from(resolve);
    }
    if functions.configure.is_set() {
        engine.system = Some(Arc::new(AppNetwork { manager: handle, configure: functions.configure.clone() }));
    }
    let source: Arc<AnySource> = match &served.source {
        Some(app) => app.clone(),
        None => Arc::new(FileSource),
    };
    let dispatch = dispatch_to(functions.log.clone(), handle, lines.clone());
    let (stream, thread) = tracing::dispatcher::with_default(&dispatch, || {
        let transport = transport(read, write)?;
        let tunnel = Tunnel::open(transport, options, source, Arc::new(WireGuard::new(engine))).map_err(refused)?;
        let (stream, served) = (tunnel.handle(), served.clone());
        let thread = launch(tunnel, lines, move |end| served.set_end(end))?;
        Ok::<_, Error>((stream, thread))
    })?;
    let thread = Mutex::new(Some(thread));
    starting.finish(Entry::new(Manager { stream, thread, served }, dispatch));
    Ok(handle)
}

fn transport(read: OwnedFd, write: OwnedFd) -> Result<Transport> {
    Transport::from_descriptors(read, write).map_err(|e| Error::io("cannot open the stream", e))
}

fn refused(error: OpenError) -> Error {
    let kind = match &error {
        OpenError::Header(_) => ErrorKind::Protocol,
        OpenError::TimedOut => ErrorKind::TimedOut,
        OpenError::Thread(_) => ErrorKind::Resources,
        OpenError::Ended(End::Io(_)) => ErrorKind::Io,
        _ => ErrorKind::Closed,
    };
    Error::new(kind, error.to_string())
}

/// Serves on a thread of its own, which calls `done` last.
fn launch(tunnel: Tunnel<WireGuard>, lines: Arc<Lines>, done: impl FnOnce(End) + Send + 'static) -> Result<Thread> {
    lines.set(Some(tunnel.handle()));
    let without = lines.clone();
    let body = move || {
        let end = catch_unwind(AssertUnwindSafe(|| tunnel.serve())).unwrap_or(End::Broken);
        lines.set(None);
        done(end);
    };
    thread::spawn("wg-manager", Owner::unique(), body).map_err(|e| {
        without.set(None);
        Error::new(ErrorKind::Resources, format!("cannot start the thread wg-manager: {e}"))
    })
}

/// Which step of [`open_tunnel`] has failed, as its callers number them.
#[derive(Clone, Copy)]
pub(crate) enum Step {
    Read = -2,
    Write = -3,
    Stream = -4,
    Tunnel = -5,
}

/// Serves a manager without a handle, with peers from files, until the stream ends. `step` is what it is at.
pub(crate) fn open_tunnel(read_fd: i32, write_fd: i32, step: &mut Step) -> Result<()> {
    *step = Step::Read;
    let read = lent(read_fd)?;
    *step = Step::Write;
    let write = lent(write_fd)?;
    *step = Step::Stream;
    let transport = transport(read, write)?;
    *step = Step::Tunnel;
    calls::watch_exit();
    // SAFETY: the default has no texts.
    let checked = unsafe { Checked::of(&wg_manager_options_t::default()) }?;
    let Checked { tunnel: options, lines, .. } = checked;
    let dispatch = dispatch_to(Arc::default(), 0, lines.clone());
    tracing::dispatcher::with_default(&dispatch, || {
        let engine = Arc::new(WireGuard::new(engine::Options::default()));
        let tunnel = Tunnel::open(transport, options, Arc::new(FileSource), engine).map_err(refused)?;
        launch(tunnel, lines, drop).map(drop)
    })
}
