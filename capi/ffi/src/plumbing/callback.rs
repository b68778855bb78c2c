//! Callbacks of the app: stored, called and released.

use std::{
    ffi::c_void,
    mem,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use super::calls::inside;
use wg_embed::{queue::wait_until, sync};

/// Releases the `user` pointer of a callback; may be NULL.
///
/// Since: 0.1.0
pub type wg_destroy_fn_t = Option<unsafe extern "C" fn(user: *mut c_void)>;

/// A callback with its pointer. `destroy` is called when this is dropped.
#[derive(Debug)]
pub(crate) struct Callback<F> {
    shared: Arc<Shared<F>>,
    destroy: wg_destroy_fn_t,
}

#[derive(Debug)]
struct Shared<F> {
    function: F,
    user: *mut c_void,
    /// The number of calls in progress.
    running: Mutex<usize>,
    idle: Condvar,
}

// SAFETY: `user` is not looked at here, and the app allows its functions to be called, with it, on any thread.
unsafe impl<F: Send> Send for Shared<F> {}

// SAFETY: the same, and the app allows it on several threads at once.
unsafe impl<F: Sync> Sync for Shared<F> {}

impl<F> Callback<F> {
    pub(crate) fn new(function: F, user: *mut c_void, destroy: wg_destroy_fn_t) -> Self {
        Self { shared: Arc::new(Shared { function, user, running: Mutex::new(0), idle: Condvar::new() }), destroy }
    }
}

/// The arguments of a C function that sets a callback.
#[derive(Debug)]
pub(crate) enum NewCallback<F> {
    Callback(Callback<F>),
    /// NULL, with a pointer to release.
    Nothing(Callback<()>),
}

impl<F> NewCallback<F> {
    pub(crate) fn new(function: Option<F>, user: *mut c_void, destroy: wg_destroy_fn_t) -> Self {
        match function {
            Some(function) => Self::Callback(Callback::new(function, user, destroy)),
            None => Self::Nothing(Callback::new((), user, destroy)),
        }
    }

    pub(crate) const fn is_callback(&self) -> bool {
        matches!(self, Self::Callback(_))
    }
}

impl<F> Drop for Callback<F> {
    fn drop(&mut self) {
        if let Some(destroy) = self.destroy {
            // SAFETY: the app gave both for this, and this is the only time.
            let _ = inside(|| unsafe { destroy(self.shared.user) });
        }
    }
}

impl<F> Shared<F> {
    fn running(&self) -> MutexGuard<'_, usize> {
        sync::lock(&self.running)
    }

    /// Waits until no call is in progress.
    fn wait_for_calls(&self) {
        drop(wait_until(&self.idle, self.running(), None, |running| *running == 0));
    }
}

/// A slot for one callback, which can be replaced while it is called.
#[derive(Debug)]
pub(crate) struct Slot<F> {
    /// Held from the removal of a callback until it is idle, and destroyed if it was replaced: a concurrent replacement
    /// that finds the slot empty must not return earlier. Locked before `current`.
    exchanging: Mutex<()>,
    current: Mutex<Current<F>>,
    is_set: AtomicBool,
}

#[derive(Debug)]
struct Current<F> {
    callback: Option<Callback<F>>,
    /// No callback is accepted any more.
    closed: bool,
}

impl<F: Copy> Default for Slot<F> {
    fn default() -> Self {
        Self::new()
    }
}

impl<F: Copy> Slot<F> {
    pub(crate) const fn new() -> Self {
        Self {
            exchanging: Mutex::new(()),
            current: Mutex::new(Current { callback: None, closed: false }),
            is_set: AtomicBool::new(false),
        }
    }

    /// Whether there is a callback; without a lock, so that may change at any moment.
    pub(crate) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }

    /// Whether no callback is accepted any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.current().closed
    }

    fn current(&self) -> MutexGuard<'_, Current<F>> {
        sync::lock(&self.current)
    }

    /// Hands the callback to `call`, and returns what that returns; `None` if there is no callback, or the process
    /// has begun to end. No lock is held in the call.
    pub(crate) fn call<T>(&self, call: impl FnOnce(F, *mut c_void) -> T) -> Option<T> {
        /// Ends a call, and wakes the threads that wait for it.
        struct Running<F>(Arc<Shared<F>>);
        impl<F> Drop for Running<F> {
            fn drop(&mut self) {
                *self.0.running() -= 1;
                self.0.idle.notify_all();
            }
        }
        let running = {
            let current = self.current();
            let callback = current.callback.as_ref()?;
            // Counted before the callback can be taken out of its place.
            *callback.shared.running() += 1;
            Running(callback.shared.clone())
        };
        inside(|| call(running.0.function, running.0.user))
    }

    /// Replaces the callback. When this returns, no previous callback is running on any thread, and all of them are
    /// destroyed. Returns false, and keeps nothing, if the slot is closed.
    pub(crate) fn set(&self, given: NewCallback<F>) -> bool {
        match given {
            NewCallback::Callback(new) => self.exchange(Some(new), false, drop),
            // Its pointer may be the old one's, and is given up after that.
            NewCallback::Nothing(_pointer) => self.exchange(None, false, drop),
        }
    }

    /// Removes the callback.
    pub(crate) fn clear(&self) {
        self.exchange(None, false, drop);
    }

    /// Removes the callback, and closes the slot. When this returns, the callback is not running on any thread; it is
    /// destroyed when the result is dropped.
    pub(crate) fn take(&self) -> Option<Callback<F>> {
        let mut taken = None;
        self.exchange(None, true, |old| taken = Some(old));
        taken
    }

    /// Passes the old callback to `end` once it is not running. Returns false, and drops the new one, if the slot is
    /// closed.
    fn exchange(&self, new: Option<Callback<F>>, close: bool, end: impl FnOnce(Callback<F>)) -> bool {
        let _exchanging = sync::lock(&self.exchanging);
        let old = {
            let mut current = self.current();
            if current.closed {
                return false;
            }
            current.closed = close;
            self.is_set.store(new.is_some(), Ordering::Relaxed);
            mem::replace(&mut current.callback, new)
        };
        if let Some(old) = old {
            old.shared.wait_for_calls();
            end(old);
        }
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::plumbing::calls::is_inside;
    use std::{
        sync::{
            atomic::AtomicUsize,
            mpsc::{self, Sender},
        },
        thread::{self, Scope},
        time::Duration,
    };

    unsafe extern "C" fn count(user: *mut c_void) {
        assert!(is_inside());
        // SAFETY: the tests below pass a counter that outlives the callback.
        let counter = unsafe { &*user.cast::<AtomicUsize>() };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn given(function: Option<fn()>, counter: &AtomicUsize) -> NewCallback<fn()> {
        NewCallback::new(function, std::ptr::from_ref(counter).cast_mut().cast(), Some(count))
    }

    fn callback(counter: &AtomicUsize) -> NewCallback<fn()> {
        given(Some(|| {}), counter)
    }

    #[test]
    fn each_callback_is_destroyed_once() {
        let (a, b, c) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let slot = Slot::new();
        assert!(slot.set(callback(&a)) && slot.set(callback(&b)));
        drop(callback(&c));
        assert_eq!([&a, &b, &c].map(|n| n.load(Ordering::Relaxed)), [1, 0, 1]);
        assert!(slot.set(given(None, &c)));
        assert_eq!([&a, &b, &c].map(|n| n.load(Ordering::Relaxed)), [1, 1, 2]);
        assert!(!is_inside() && !slot.is_set());
        assert_eq!(slot.call(|_, _| unreachable!("there is no callback")), None::<()>);
    }

    #[test]
    fn a_closed_slot_takes_no_callback() {
        let (a, b) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let slot = Slot::new();
        assert!(slot.set(callback(&a)));
        drop(slot.take());
        assert!(!slot.set(callback(&b)) && !slot.is_set());
        assert_eq!([&a, &b].map(|n| n.load(Ordering::Relaxed)), [1, 1]);
        drop(slot.take());
    }

    type Exchange = fn(&Slot<fn()>);

    /// Runs `body` during a call of the callback, which returns when the sender is dropped.
    fn during_a_call<'env, R>(
        slot: &'env Slot<fn()>,
        body: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>, Sender<()>) -> R,
    ) -> R {
        thread::scope(|scope| {
            // Made in here: a failed assertion drops them, so that nothing waits for ever.
            let ((entered, has_entered), (leave, may_leave)) = (mpsc::channel(), mpsc::channel());
            scope.spawn(move || {
                slot.call(|_, _| {
                    entered.send(()).unwrap();
                    let _ = may_leave.recv();
                });
            });
            has_entered.recv().unwrap();
            body(scope, leave)
        })
    }

    /// Exchanges the callback on several threads during a call of it, and returns how often it was destroyed when each
    /// of them had returned.
    fn exchanged_during_a_call(slot: &Slot<fn()>, destroyed: &AtomicUsize, others: &[Exchange]) -> Vec<usize> {
        during_a_call(slot, |scope, leave| {
            let (returned, has_returned) = mpsc::channel();
            for other in others {
                let returned = returned.clone();
                scope.spawn(move || {
                    other(slot);
                    returned.send(destroyed.load(Ordering::Relaxed)).unwrap();
                });
            }
            // None of them may return before the call does. A slow machine only makes this easier to pass.
            assert!(has_returned.recv_timeout(Duration::from_millis(50)).is_err());
            drop(leave);
            // With the last sender gone, a thread that panics ends the loop instead of leaving it to wait.
            drop(returned);
            has_returned.iter().collect()
        })
    }

    #[test]
    fn every_exchange_waits_until_the_old_one_is_destroyed() {
        let clear: Exchange = Slot::clear;
        let replace: Exchange = |slot| {
            slot.set(NewCallback::new(Some(|| {}), std::ptr::null_mut(), None));
        };
        for others in [[clear, clear], [replace, clear], [replace, replace]] {
            let destroyed = AtomicUsize::new(0);
            let slot = Slot::new();
            slot.set(callback(&destroyed));
            assert_eq!(exchanged_during_a_call(&slot, &destroyed, &others), [1, 1]);
        }
        // Refused if the callback is taken first; it must wait for the call even then.
        for other in [replace, clear] {
            let destroyed = AtomicUsize::new(0);
            let slot = Slot::new();
            slot.set(callback(&destroyed));
            let take: Exchange = |slot| drop(slot.take());
            exchanged_during_a_call(&slot, &destroyed, &[other, take]);
            assert_eq!(destroyed.load(Ordering::Relaxed), 1);
        }
    }

    #[test]
    fn what_is_taken_during_a_call_is_taken_once_and_idle() {
        let destroyed = AtomicUsize::new(0);
        let slot = Slot::new();
        slot.set(callback(&destroyed));
        let take: Exchange = |slot| drop(slot.take());
        let mut seen = exchanged_during_a_call(&slot, &destroyed, &[take, take]);
        seen.sort_unstable();
        assert_eq!((seen[1], destroyed.load(Ordering::Relaxed)), (1, 1));
    }

    #[test]
    fn replacing_waits_for_calls_of_the_old_one_only() {
        let destroyed = AtomicUsize::new(0);
        let slot = Slot::new();
        slot.set(callback(&destroyed));
        during_a_call(&slot, |scope, leave| {
            let (replaced, is_replaced) = mpsc::channel();
            let (slot, destroyed) = (&slot, &destroyed);
            scope.spawn(move || {
                slot.set(NewCallback::new(Some(|| {}), std::ptr::null_mut(), None));
                replaced.send(destroyed.load(Ordering::Relaxed)).unwrap();
            });
            assert!(is_replaced.recv_timeout(Duration::from_millis(50)).is_err());
            // The new one is in place already.
            let mut called = false;
            while !called {
                slot.call(|_, user| called = user.is_null());
            }
            drop(leave);
            assert_eq!(is_replaced.recv().unwrap(), 1);
        });
    }
}
