//! Calls of callbacks: whether this thread is inside one; and that no call begins once the process has begun to end.

use std::{
    cell::Cell,
    sync::{
        Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use wg_embed::{process::PerProcess, queue::wait_until, sync, thread};

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside a callback. Functions that might wait for its return are refused then.
pub(crate) fn is_inside() -> bool {
    // A thread whose locals are gone is ending, not calling back.
    INSIDE.try_with(Cell::get).unwrap_or(false)
}

/// Runs a callback, unless the process has begun to end.
pub(crate) fn inside<T>(call: impl FnOnce() -> T) -> Option<T> {
    struct Back(bool);
    impl Drop for Back {
        fn drop(&mut self) {
            let _ = INSIDE.try_with(|flag| flag.set(self.0));
        }
    }
    let _call = Call::begin()?;
    let _back = Back(INSIDE.try_with(|flag| flag.replace(true)).unwrap_or(false));
    Some(call())
}

/// The time for which the end of the process waits for calls in progress.
const PATIENCE: Duration = Duration::from_secs(1);

/// Per process, as a child of fork() has none of its parent's calls.
#[derive(Default)]
struct Ending {
    has_begun: AtomicBool,
    /// Calls of callbacks in progress.
    calls: AtomicUsize,
    lock: Mutex<()>,
    idle: Condvar,
}

static ENDING: PerProcess<Ending> = PerProcess::new();

/// A call of a callback, until this is dropped.
#[must_use]
pub(crate) struct Call(&'static Ending);

impl Call {
    /// `None` if the process has begun to end.
    pub(crate) fn begin() -> Option<Self> {
        let ending = ENDING.get();
        ending.calls.fetch_add(1, Ordering::SeqCst);
        // Counted before it looks: the end looks the other way round, and so misses no call that it must wait for.
        let call = Self(ending);
        (!ending.has_begun.load(Ordering::SeqCst)).then_some(call)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::SeqCst);
        if self.0.has_begun.load(Ordering::SeqCst) {
            drop(self.0.lock.lock());
            self.0.idle.notify_all();
        }
    }
}

/// cbindgen:ignore
#[cfg(unix)]
mod system {
    unsafe extern "C" {
        pub(crate) safe fn atexit(function: extern "C" fn()) -> std::ffi::c_int;
    }
}

/// Disables all callbacks when the process ends by exit(), or main() returns. Idempotent.
pub(crate) fn watch_exit() {
    static WATCHES: AtomicBool = AtomicBool::new(false);
    if !WATCHES.swap(true, Ordering::Relaxed) {
        #[cfg(unix)]
        if system::atexit(at_exit) != 0 {
            tracing::debug!("functions of the app may be called while the process ends");
        }
    }
}

/// Runs before atexit() functions of the app that were registered earlier, and before static objects are destroyed that
/// are older than its first tunnel.
#[cfg_attr(not(unix), allow(dead_code))]
extern "C" fn at_exit() {
    let ending = ENDING.get();
    ending.has_begun.store(true, Ordering::SeqCst);
    // A function that ends the process itself is under way until then.
    if !is_inside() && !thread::is_ours() {
        let lock = sync::lock(&ending.lock);
        let are_over = |(): &()| ending.calls.load(Ordering::SeqCst) == 0;
        drop(wait_until(&ending.idle, lock, Some(PATIENCE), are_over));
    }
}
