//! What a number stands for.

use std::{
    any::{Any, TypeId},
    ops::Deref,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    time::{Duration, Instant},
};

use tracing::Dispatch;

use wg_embed::{
    error::{Error, ErrorKind, Result},
    process::PerProcess,
    thread::{self, Owner},
};

/// What C can have a handle of.
pub(super) trait Object: Send + Sync + 'static {
    /// What an error calls it.
    const NAME: &'static str;
    /// What is left to do with it after a panic.
    const END: &'static str;
}

/// An object that C has a handle of.
pub(super) struct Entry<T> {
    object: T,
    /// The log of this object.
    dispatch: Dispatch,
    /// A panic was caught in a call on it.
    poisoned: AtomicBool,
}

impl<T> Deref for Entry<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.object
    }
}

impl<T: Object> Entry<T> {
    pub(super) fn new(object: T, dispatch: Dispatch) -> Self {
        Self { object, dispatch, poisoned: AtomicBool::new(false) }
    }

    /// Runs `body` with what it logs going out under the object's handle.
    pub(super) fn logged<R>(&self, body: impl FnOnce() -> R) -> R {
        tracing::dispatcher::with_default(&self.dispatch, body)
    }

    /// Refuses further work after a panic.
    pub(super) fn check(&self) -> Result<()> {
        if self.poisoned.load(Ordering::Acquire) {
            let text = format!("the {} was given up after an internal error: {}", T::NAME, T::END);
            return Err(Error::new(ErrorKind::Panic, text));
        }
        Ok(())
    }

    pub(super) fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }
}

/// An entry, whatever it is of.
type AnyEntry = Arc<dyn Any + Send + Sync>;

struct Row {
    handle: i32,
    kind: TypeId,
    /// `None` while it is being ended: the number is unknown then, except to those who want to end it as well.
    entry: Option<AnyEntry>,
}

/// The number that was given out last, by this process or one that it comes from. It changes under the lock of the table.
static LAST: AtomicI32 = AtomicI32::new(0);

struct Table {
    /// Up to this one, numbers are those of the process that this one was forked from.
    inherited: i32,
    /// Sorted by number. There are few; a tree would be 7 KB of code.
    rows: Vec<Row>,
}

impl Default for Table {
    fn default() -> Self {
        Self { inherited: LAST.load(Ordering::Relaxed), rows: Vec::new() }
    }
}

fn next(last: &AtomicI32) -> Result<i32> {
    let next = last.load(Ordering::Relaxed).checked_add(1);
    let next = next.ok_or_else(|| Error::new(ErrorKind::Resources, "there are no more handles"))?;
    last.store(next, Ordering::Relaxed);
    Ok(next)
}

impl Table {
    /// Where a number is, or would be.
    fn find(&self, handle: i32) -> std::result::Result<usize, usize> {
        self.rows.binary_search_by_key(&handle, |row| row.handle)
    }

    /// A number of this kind.
    fn row<T: Object>(&mut self, handle: i32) -> Option<&mut Row> {
        let at = self.find(handle).ok()?;
        self.rows.get_mut(at).filter(|row| row.kind == TypeId::of::<T>())
    }
}

/// What a row was made with is of the row's kind.
fn known<T: Object>(handle: i32, entry: Option<AnyEntry>) -> Result<Arc<Entry<T>>> {
    let entry = entry.and_then(|entry| entry.downcast().ok());
    entry.ok_or_else(|| Error::new(ErrorKind::UnknownHandle, format!("there is no {} with handle {handle}", T::NAME)))
}

static TABLE: PerProcess<Mutex<Table>> = PerProcess::new();
/// Something has been ended.
static ENDED: PerProcess<Condvar> = PerProcess::new();

fn table() -> MutexGuard<'static, Table> {
    TABLE.get().lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number that was never given out before.
pub(super) fn reserve() -> Result<i32> {
    let _table = table();
    next(&LAST)
}

/// Refuses numbers of the process that this one was forked from. To be asked before anything else that takes a number: what
/// stands behind them is shared with that process, and its locks may be held by threads that are not in this one.
pub(super) fn check_process(handle: i32) -> Result<()> {
    if (1..=table().inherited).contains(&handle) {
        let text = format!("handle {handle} belongs to the process that this one was forked from");
        return Err(Error::new(ErrorKind::Forked, text));
    }
    Ok(())
}

/// Makes a reserved number known.
pub(super) fn insert<T: Object>(handle: i32, entry: Entry<T>) {
    let mut table = table();
    let at = table.find(handle).unwrap_or_else(|at| at);
    table.rows.insert(at, Row { handle, kind: TypeId::of::<T>(), entry: Some(Arc::new(entry)) });
}

/// The object behind a number. It lives on while a call works with it, even if it is ended by another call.
pub(super) fn get<T: Object>(handle: i32) -> Result<Arc<Entry<T>>> {
    let entry = table().row::<T>(handle).and_then(|row| row.entry.clone());
    known(handle, entry)
}

/// The numbers of all objects of this kind.
pub(super) fn all<T: Object>() -> Vec<i32> {
    let known = |row: &&Row| row.entry.is_some() && row.kind == TypeId::of::<T>();
    table().rows.iter().filter(known).map(|row| row.handle).collect()
}

/// Ends the object behind a number by `end`, and takes the number out for good. Whoever comes second waits until that has been
/// done, and then does not know the number: so when this returns, whatever it returns, the object has ended.
pub(super) fn end<T: Object>(handle: i32, end: impl FnOnce(&Entry<T>) -> Result<()>) -> Result<()> {
    // In this order: what belongs to the object is freed before others hear that it has ended.
    let (_ending, entry) = {
        let mut table = table();
        while table.row::<T>(handle).is_some_and(|row| row.entry.is_none()) {
            table = ENDED.get().wait(table).unwrap_or_else(PoisonError::into_inner);
        }
        let entry = known(handle, table.row::<T>(handle).and_then(|row| row.entry.take()))?;
        (Ending(handle), entry)
    };
    end(&entry)
}

/// Takes a number out when it is dropped, also if what ends the object panics.
struct Ending(i32);

impl Drop for Ending {
    fn drop(&mut self) {
        let mut table = table();
        if let Ok(at) = table.find(self.0) {
            table.rows.remove(at);
        }
        ENDED.get().notify_all();
    }
}

/// As [`end`](end()), on a thread of its own, which the caller waits for until `timeout` has passed. If that is not long
/// enough, the thread goes on, and later calls wait for it.
pub(super) fn end_within<T: Object>(
    handle: i32,
    timeout: Duration,
    end: fn(&Entry<T>, i32) -> Result<()>,
) -> Result<()> {
    let until = Instant::now() + timeout;
    let mut table = table();
    if table.row::<T>(handle).is_none() {
        return known::<T>(handle, None).map(drop);
    }
    if let Some(entry) = table.row::<T>(handle).and_then(|row| row.entry.take()) {
        // For the thread, or back into the table if there is none. Never for both: the last owner frees the object.
        let entry = Arc::new(Mutex::new(Some(entry)));
        let taken = entry.clone();
        let body = move || {
            let _ending = Ending(handle);
            let entry = taken.lock().unwrap_or_else(PoisonError::into_inner).take();
            // What it logs, it logs as the object; a failure is a bug of this library, and its panic was caught.
            if let Ok(entry) = known::<T>(handle, entry) {
                let _ = catch_unwind(AssertUnwindSafe(|| end(&entry, handle)));
            }
        };
        if let Err(err) = thread::spawn("wg-off", Owner::unique(), body) {
            if let Some(row) = table.row::<T>(handle) {
                row.entry = entry.lock().unwrap_or_else(PoisonError::into_inner).take();
            }
            return Err(Error::new(ErrorKind::Resources, format!("cannot start the thread wg-off: {err}")));
        }
    }
    while table.row::<T>(handle).is_some() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let text = format!("the {} with handle {handle} has not ended within {timeout:?}", T::NAME);
            return Err(Error::new(ErrorKind::TimedOut, text));
        }
        table = ENDED.get().wait_timeout(table, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_counted_up_and_do_not_begin_again() {
        let last = AtomicI32::new(0);
        assert_eq!([next(&last).unwrap(), next(&last).unwrap()], [1, 2]);
        last.store(i32::MAX - 1, Ordering::Relaxed);
        assert_eq!(next(&last).unwrap(), i32::MAX);
        for _ in 0..2 {
            assert_eq!(next(&last).unwrap_err().kind(), ErrorKind::Resources);
        }
    }
}
