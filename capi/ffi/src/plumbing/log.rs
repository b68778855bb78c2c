//! The log, passed to callbacks of the app.
//!
//! There is one callback for the process, as C programs expect, and a tunnel may have its own. But it is not the global
//! subscriber of the process: it is set on the tunnels' threads, and on the caller's inside the library.

use std::{
    ffi::{c_char, c_void},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI32, Ordering},
    },
};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber, span, subscriber::Interest};

use crate::plumbing::{callback::Slot, calls, text::c_text};
use wg_embed::{
    error::{Error, Result},
    log,
    process::{PerProcess, between_forks},
};

/// Log level: of a line, or the most detailed one that is logged.
///
/// Since: 0.1.0
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum wg_log_level_t {
    /// For a tunnel: the level of the process, set by wg_set_log_level().
    WG_LOG_INHERIT = -1,
    /// Log nothing.
    WG_LOG_OFF = 0,
    /// A failure that lasts until its cause is removed.
    WG_LOG_ERROR = 1,
    /// A failure that the library works around.
    WG_LOG_WARN = 2,
    /// Information for the app's user.
    WG_LOG_INFO = 3,
    /// Handshakes, timers, sockets: a few lines a minute for each peer.
    WG_LOG_DEBUG = 4,
    /// Single packets, for debugging.
    WG_LOG_TRACE = 5,
}

pub use wg_log_level_t::*;

/// Receives one line of the log.
///
/// `user` is the pointer that was passed with the function; `handle` is the tunnel or bind that the line concerns, or
/// 0; `level` is WG_LOG_ERROR to WG_LOG_TRACE; `text` is UTF-8 without a line feed at its end, valid only during the
/// call. It never contains a private or preshared key; it may contain public keys and addresses.
///
/// Threads: called on the tunnels' threads and on threads that are inside a wg_ function, concurrently. The tunnel
/// waits for it, so return soon, and do not wait for a thread that may be inside a wg_ function. It must not leave by
/// an exception, longjmp() or pthread_exit(). On the library's threads every callback has 512 KiB of stack, and all
/// signals are blocked except those that a thread causes itself.
/// Inside it, functions work that are documented as "also inside a callback" under "Threads": wg_last_error(),
/// wg_free(), wg_set_log_level() and others; of those that take a handle, wg_tun_inject(), wg_transport_receive() and
/// wg_set_mtu(). All others return WG_ERR_BUSY.
/// Since: 0.1.0
pub type wg_log_fn_t = Option<unsafe extern "C" fn(user: *mut c_void, handle: i32, level: i32, text: *const c_char)>;

type LogFn = unsafe extern "C" fn(*mut c_void, i32, i32, *const c_char);

static CALLBACK: PerProcess<Slot<LogFn>> = PerProcess::new();

/// No level has been set.
const UNSET: i32 = WG_LOG_INHERIT as i32;

static LEVEL: AtomicI32 = AtomicI32::new(UNSET);

/// The level of the process.
fn chosen_level() -> i32 {
    match LEVEL.load(Ordering::Relaxed) {
        UNSET => WG_LOG_INFO as i32,
        level => level,
    }
}

/// Sets the default level of the process, which the app can override.
pub fn set_default_level(level: wg_log_level_t) {
    let _ = LEVEL.compare_exchange(UNSET, level as i32, Ordering::Relaxed, Ordering::Relaxed);
}

/// The log callback of the process.
pub(crate) fn callback() -> &'static Slot<LogFn> {
    CALLBACK.get()
}

/// Sets the log level.
pub(crate) fn set_level(level: i32) -> Result<()> {
    LEVEL.store(check_level(level, WG_LOG_OFF)?, Ordering::Relaxed);
    Ok(())
}

/// Accepts levels from `least` on.
pub(crate) fn check_level(level: i32, least: wg_log_level_t) -> Result<i32> {
    match (least as i32..=WG_LOG_TRACE as i32).contains(&level) {
        true => Ok(level),
        false => Err(Error::invalid(format!("there is no log level {level}"))),
    }
}

/// The log of one tunnel: its callback and its level, where they differ from those of the process.
#[derive(Debug)]
pub(crate) struct OwnLog {
    pub(crate) callback: Slot<LogFn>,
    level: AtomicI32,
}

impl Default for OwnLog {
    fn default() -> Self {
        Self { callback: Slot::new(), level: AtomicI32::new(UNSET) }
    }
}

impl OwnLog {
    pub(crate) fn set_level(&self, level: i32) -> Result<()> {
        self.level.store(check_level(level, WG_LOG_INHERIT)?, Ordering::Relaxed);
        Ok(())
    }

    fn level(&self) -> i32 {
        match self.level.load(Ordering::Relaxed) {
            UNSET => chosen_level(),
            level => level,
        }
    }
}

/// A log whose lines carry this handle, and go to `own` if that is set.
///
/// tracing keeps a list of logs, and adds to it under a lock, during which no fork() happens. But a thread that logs an
/// event for the first time reads the list, which cannot be detected. A child that was forked in that moment can read
/// the list, but not add to it, and so blocks forever here. Calls that only fail do not get here.
pub(crate) fn dispatch_to(own: Arc<OwnLog>, handle: i32) -> Dispatch {
    between_forks(|| Dispatch::new(Forwarder { handle, own }))
}

/// Runs `body` with the log of the process. A child of fork() inherits it from its parent, and creates none.
pub(crate) fn logged<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    static NO_TUNNEL: OnceLock<Dispatch> = OnceLock::new();
    let make = || Dispatch::new(Forwarder { handle: 0, own: Arc::default() });
    let dispatch = NO_TUNNEL.get().unwrap_or_else(|| between_forks(|| NO_TUNNEL.get_or_init(make)));
    tracing::dispatcher::with_default(dispatch, body)
}

/// Turns events into lines. There is one for each tunnel; those without a callback of their own use that of the
/// process.
pub(crate) struct Forwarder {
    handle: i32,
    own: Arc<OwnLog>,
}

#[cfg(all(feature = "control", unix))]
impl Forwarder {
    pub(crate) fn new(handle: i32, own: Arc<OwnLog>) -> Self {
        Self { handle, own }
    }
}

/// The level of an event.
pub(crate) fn level_of(metadata: &Metadata<'_>) -> i32 {
    let level = match *metadata.level() {
        Level::ERROR => WG_LOG_ERROR,
        Level::WARN => WG_LOG_WARN,
        Level::INFO => WG_LOG_INFO,
        Level::DEBUG => WG_LOG_DEBUG,
        Level::TRACE => WG_LOG_TRACE,
    };
    level as i32
}

impl Subscriber for Forwarder {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // The level may change at any time.
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        level_of(metadata) <= self.own.level()
            && (CALLBACK.get().is_set() || self.own.callback.is_set())
            && !calls::is_inside()
    }

    fn event(&self, event: &Event<'_>) {
        let tell = |call: LogFn, user| {
            let text = c_text(log::text(event));
            // SAFETY: who set the callback allows this call, on this thread; the text lives.
            unsafe { call(user, self.handle, level_of(event.metadata()), text.as_ptr()) };
        };
        // Not called if it is not set: in a child of fork() its lock is the parent's.
        if !self.own.callback.is_set() || self.own.callback.call(tell).is_none() {
            CALLBACK.get().call(tell);
        }
    }

    // Spans are not used.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}
