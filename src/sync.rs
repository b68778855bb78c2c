//! Locks that a panic does not poison. The data behind the library's locks are consistent between any two statements,
//! so a panic of the thread that holds a lock does not make it unusable for others.

#[cfg(windows)]
pub(crate) mod event;

use std::{
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError, TryLockResult},
    time::Duration,
};

// Modules whose tests run under loom take all of this from here, and the tests have another `sync`.
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

/// Locks a mutex.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks a mutex without waiting; `None` if it is held.
pub fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    unpoisoned(mutex.try_lock())
}

/// Locks for reading.
pub fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks for reading without waiting; `None` if it is held for writing.
pub fn try_read<T>(lock: &RwLock<T>) -> Option<RwLockReadGuard<'_, T>> {
    unpoisoned(lock.try_read())
}

/// Locks for writing.
pub fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a notification. It may return spuriously.
pub fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a notification, for at most this time. It may return spuriously.
pub fn wait_timeout<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>, timeout: Duration) -> MutexGuard<'a, T> {
    condvar.wait_timeout(guard, timeout).unwrap_or_else(PoisonError::into_inner).0
}

/// Waits until `condition` is false.
pub fn wait_while<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    condition: impl FnMut(&mut T) -> bool,
) -> MutexGuard<'a, T> {
    condvar.wait_while(guard, condition).unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `condition` is false, for at most this time.
pub fn wait_timeout_while<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    timeout: Duration,
    condition: impl FnMut(&mut T) -> bool,
) -> MutexGuard<'a, T> {
    condvar.wait_timeout_while(guard, timeout, condition).unwrap_or_else(PoisonError::into_inner).0
}

fn unpoisoned<G>(result: TryLockResult<G>) -> Option<G> {
    match result {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    #[test]
    fn a_panic_does_not_poison_a_lock() {
        let (mutex, rw) = (Mutex::new(1), RwLock::new(1));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let (_mutex, _rw) = (lock(&mutex), write(&rw));
            assert!(try_lock(&mutex).is_none() && try_read(&rw).is_none());
            resume_unwind(Box::new(()));
        }));
        assert!(panicked.is_err() && mutex.is_poisoned() && rw.is_poisoned());
        assert_eq!(*lock(&mutex), 1);
        assert_eq!(try_lock(&mutex).map(|guard| *guard), Some(1));
        assert_eq!(*read(&rw), 1);
        assert_eq!(try_read(&rw).map(|guard| *guard), Some(1));
        assert_eq!(*write(&rw), 1);
        let condvar = Condvar::new();
        assert_eq!(*wait_timeout(&condvar, lock(&mutex), Duration::ZERO), 1);
    }
}
