//! Functions of the app: how they are kept, called and given up.

use std::{
    cell::Cell,
    ffi::c_void,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside a function of the app. What might wait for that function to return is refused then.
pub(super) fn is_inside() -> bool {
    // A thread whose locals are gone is ending, not calling back.
    INSIDE.try_with(Cell::get).unwrap_or(false)
}

/// Runs a function of the app.
fn inside<T>(call: impl FnOnce() -> T) -> T {
    struct Back(bool);
    impl Drop for Back {
        fn drop(&mut self) {
            let _ = INSIDE.try_with(|flag| flag.set(self.0));
        }
    }
    let _back = Back(INSIDE.try_with(|flag| flag.replace(true)).unwrap_or(false));
    call()
}

/// Gives up the app's pointer that belongs to a callback; may be NULL.
///
/// Since: 0.1.0
pub type wg_destroy_fn_t = Option<unsafe extern "C" fn(user: *mut c_void)>;

/// A function of the app with its pointer. `destroy` runs when this is dropped.
#[derive(Debug)]
pub(super) struct Callback<F> {
    shared: Arc<Shared<F>>,
    destroy: wg_destroy_fn_t,
}

#[derive(Debug)]
struct Shared<F> {
    function: F,
    user: *mut c_void,
    /// How many calls there are at this moment.
    running: Mutex<usize>,
    idle: Condvar,
}

// SAFETY: `user` is not looked at here, and the app allows its functions to be called, with it, on any thread.
unsafe impl<F: Send> Send for Shared<F> {}
// SAFETY: the same, and the app allows it on several threads at once.
unsafe impl<F: Sync> Sync for Shared<F> {}

impl<F> Callback<F> {
    pub(super) fn new(function: F, user: *mut c_void, destroy: wg_destroy_fn_t) -> Self {
        Self { shared: Arc::new(Shared { function, user, running: Mutex::new(0), idle: Condvar::new() }), destroy }
    }
}

impl<F> Drop for Callback<F> {
    fn drop(&mut self) {
        if let Some(destroy) = self.destroy {
            // SAFETY: the app gave both for this, and this is the only time.
            inside(|| unsafe { destroy(self.shared.user) });
        }
    }
}

impl<F> Shared<F> {
    fn running(&self) -> MutexGuard<'_, usize> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place for one callback, which can be exchanged while it is called.
#[derive(Debug)]
pub(super) struct Slot<F> {
    current: Mutex<Option<Callback<F>>>,
    is_set: AtomicBool,
}

impl<F: Copy> Slot<F> {
    pub(super) const fn new() -> Self {
        Self { current: Mutex::new(None), is_set: AtomicBool::new(false) }
    }

    /// Whether there is a callback; without a lock, so it may be just changing.
    pub(super) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }

    fn current(&self) -> MutexGuard<'_, Option<Callback<F>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands the callback to `call`, if there is one. No lock is held meanwhile.
    pub(super) fn call(&self, call: impl FnOnce(F, *mut c_void)) {
        /// Ends a call, and tells whoever waits for that.
        struct Running<F>(Arc<Shared<F>>);
        impl<F> Drop for Running<F> {
            fn drop(&mut self) {
                *self.0.running() -= 1;
                self.0.idle.notify_all();
            }
        }
        let running = {
            let current = self.current();
            let Some(callback) = &*current else {
                return;
            };
            // Counted before the callback can be taken out of its place.
            *callback.shared.running() += 1;
            Running(callback.shared.clone())
        };
        inside(|| call(running.0.function, running.0.user));
    }

    /// Puts `new` in its place. When this returns, the old one is not running on any thread, and is destroyed.
    pub(super) fn replace(&self, new: Option<Callback<F>>) {
        drop(self.exchange(new));
    }

    /// As [`replace`](Self::replace), but the old one is not destroyed yet.
    pub(super) fn exchange(&self, new: Option<Callback<F>>) -> Option<Callback<F>> {
        let old = {
            let mut current = self.current();
            self.is_set.store(new.is_some(), Ordering::Relaxed);
            std::mem::replace(&mut *current, new)
        };
        if let Some(old) = &old {
            let mut running = old.shared.running();
            while *running > 0 {
                running = old.shared.idle.wait(running).unwrap_or_else(PoisonError::into_inner);
            }
        }
        old
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::{
        sync::{atomic::AtomicUsize, mpsc},
        thread,
        time::Duration,
    };

    unsafe extern "C" fn count(user: *mut c_void) {
        assert!(is_inside());
        // SAFETY: the tests below pass a counter that outlives the callback.
        let counter = unsafe { &*user.cast::<AtomicUsize>() };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn callback(counter: &AtomicUsize) -> Callback<fn()> {
        Callback::new(|| {}, std::ptr::from_ref(counter).cast_mut().cast(), Some(count))
    }

    #[test]
    fn each_callback_is_destroyed_once() {
        let (a, b, c) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let slot = Slot::new();
        slot.replace(Some(callback(&a)));
        slot.replace(Some(callback(&b)));
        drop(callback(&c));
        assert_eq!([&a, &b, &c].map(|n| n.load(Ordering::Relaxed)), [1, 0, 1]);
        slot.replace(None);
        slot.replace(None);
        assert_eq!([&a, &b, &c].map(|n| n.load(Ordering::Relaxed)), [1, 1, 1]);
        assert!(!is_inside() && !slot.is_set());
        slot.call(|_, _| unreachable!("there is no callback"));
    }

    #[test]
    fn replacing_waits_for_calls_of_the_old_one_only() {
        let destroyed = AtomicUsize::new(0);
        let slot = Slot::new();
        slot.replace(Some(callback(&destroyed)));
        let (entered, has_entered) = mpsc::channel();
        let (leave, may_leave) = mpsc::channel::<()>();
        let (replaced, is_replaced) = mpsc::channel();
        thread::scope(|scope| {
            let (slot, destroyed) = (&slot, &destroyed);
            scope.spawn(move || {
                slot.call(|_, _| {
                    entered.send(()).unwrap();
                    may_leave.recv().unwrap();
                });
            });
            has_entered.recv().unwrap();
            scope.spawn(move || {
                slot.replace(Some(Callback::new(|| {}, std::ptr::null_mut(), None)));
                replaced.send(destroyed.load(Ordering::Relaxed)).unwrap();
            });
            assert!(is_replaced.recv_timeout(Duration::from_millis(50)).is_err());
            // The new one is in place already.
            let mut called = false;
            while !called {
                slot.call(|_, user| called = user.is_null());
            }
            leave.send(()).unwrap();
            assert_eq!(is_replaced.recv().unwrap(), 1);
        });
    }
}
