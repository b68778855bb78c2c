//! Notifies Python: by a callback on an event loop, or by waking a waiting thread.

use std::{
    sync::{Arc, Condvar, Mutex, Weak, atomic::AtomicBool},
    time::{Duration, Instant},
};

use pyo3::{PyTraverseError, PyVisit, exceptions::PyValueError, prelude::*};
use wg_embed::sync::{lock, wait_timeout, wait_while};

use crate::{
    bridge::{Bridge, Ready},
    process::{self, Mark},
};

/// The interval at which the waiting main thread checks for signals such as Ctrl-C, as no Python code runs during the
/// wait.
const SIGNALS: Duration = Duration::from_millis(100);

/// A callback, and the loop on which it is called. Each has its own place in the queue of its loop: a stopped loop
/// keeps replaced ones.
struct Target {
    of: Weak<Inner>,
    bridge: Arc<Bridge>,
    /// `run` of the context that was current when the callback was set.
    run: Py<PyAny>,
    callback: Py<PyAny>,
    queued: AtomicBool,
}

#[derive(Default)]
struct Inner {
    target: Mutex<Option<Arc<Target>>>,
    /// Increases with each call of `tell`.
    told: Mutex<u64>,
    changed: Condvar,
}

/// Notifies one callback and any number of threads, in the process that created it. In a child its locks may be locked
/// forever, and the numbers of its descriptors may belong to other files.
#[derive(Clone)]
pub(crate) struct Callback(Arc<Inner>, Mark);

impl Default for Callback {
    fn default() -> Self {
        Self(Arc::default(), Mark::new())
    }
}

impl Callback {
    /// Replaces the callback, which is called on the running loop, in the current context; `None` removes it. It is
    /// called once at first.
    ///
    /// # Errors
    /// `RuntimeError` without a running loop. In another process `OSError` with EBADF, and for `None` no effect.
    pub(crate) fn set(&self, py: Python<'_>, callback: Option<Py<PyAny>>) -> PyResult<()> {
        if callback.is_none() && !self.1.is_current() {
            return Ok(());
        }
        self.1.check()?;
        let target = match callback {
            Some(callback) => {
                let bridge = Bridge::current(py)?;
                let run = py.import("contextvars")?.getattr("copy_context")?.call0()?.getattr("run")?.unbind();
                let (of, queued) = (Arc::downgrade(&self.0), AtomicBool::new(false));
                let target = Arc::new(Target { of, bridge, run, callback, queued });
                let ready: Arc<dyn Ready> = target.clone();
                target.bridge.introduce(Arc::downgrade(&ready));
                Some(target)
            }
            None => None,
        };
        let old = std::mem::replace(&mut *lock(&self.0.target), target);
        drop(old);
        self.tell();
        Ok(())
    }

    /// Notifies. May be called on any thread.
    pub(crate) fn tell(&self) {
        if !self.1.is_current() {
            return;
        }
        let target = lock(&self.0.target).clone();
        if let Some(target) = target {
            let bridge = target.bridge.clone();
            bridge.post(target);
        }
        *lock(&self.0.told) += 1;
        self.0.changed.notify_all();
    }

    /// Leaks it, in a child of the process that created it.
    pub(crate) fn leave(&self) {
        process::leave(&self.0);
    }

    /// Returns a notifier for the stack.
    pub(crate) fn notifier(&self) -> Arc<dyn wg_embed_netstack::Notify> {
        let this = self.clone();
        Arc::new(move || this.tell())
    }

    /// Waits until `is_ready`, and releases the interpreter. Returns false after the time limit.
    pub(crate) fn wait(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        is_ready: impl Fn() -> bool + Sync,
    ) -> PyResult<bool> {
        let deadline = match timeout {
            None => None,
            Some(seconds) if seconds.is_nan() => return Err(PyValueError::new_err("the timeout is not a number")),
            // One beyond the clock, such as infinity, never comes.
            Some(seconds) => {
                let time = Duration::try_from_secs_f64(seconds.max(0.0));
                time.ok().and_then(|time| Instant::now().checked_add(time))
            }
        };
        let signals = if is_main_thread(py)? { SIGNALS } else { Duration::MAX };
        loop {
            let seen = *lock(&self.0.told);
            if is_ready() {
                return Ok(true);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(false);
            }
            py.detach(|| {
                let told = lock(&self.0.told);
                if *told == seen {
                    match left.unwrap_or(Duration::MAX).min(signals) {
                        Duration::MAX => drop(wait_while(&self.0.changed, told, |told| *told == seen)),
                        time => drop(wait_timeout(&self.0.changed, told, time)),
                    }
                }
            });
            py.check_signals()?;
        }
    }
}

fn is_main_thread(py: Python<'_>) -> PyResult<bool> {
    let threading = py.import("threading")?;
    Ok(threading.call_method0("current_thread")?.is(threading.call_method0("main_thread")?))
}

impl Target {
    /// Returns whether it is still the current callback.
    fn is_current(&self) -> bool {
        let Some(inner) = self.of.upgrade() else { return false };
        lock(&inner.target).as_ref().is_some_and(|target| std::ptr::eq(&**target, self))
    }
}

impl Ready for Target {
    fn queued(&self) -> &AtomicBool {
        &self.queued
    }

    fn ready(self: Arc<Self>, py: Python<'_>) -> PyResult<()> {
        if self.is_current() {
            self.run.bind(py).call1((&self.callback,))?;
        }
        Ok(())
    }

    fn abandon(&self) {
        let Some(inner) = self.of.upgrade() else { return };
        let abandoned = lock(&inner.target).take_if(|target| std::ptr::eq(&**target, self));
        drop(abandoned);
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.run)?;
        visit.call(&self.callback)
    }
}
