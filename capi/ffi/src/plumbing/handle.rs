//! The handle table.

use std::{
    any::{Any, TypeId},
    mem,
    ops::Deref,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    time::{Duration, Instant},
};
use tracing::Dispatch;

use wg_embed::{
    error::{Error, ErrorKind, Result},
    process::PerProcess,
    sync,
    thread::{self, Owner},
};

/// A kind of object that has handles in C.
pub(crate) trait Object: Send + Sync + 'static {
    /// The name of the kind in errors.
    const NAME: &'static str;
    /// The function that still works after a panic.
    const END: &'static str;
    /// The part that exists before the object does and until it has ended: the callbacks, which may use the handle
    /// themselves.
    type Functions: Send + Sync + 'static;

    /// Closes the callbacks of an object whose creation failed.
    fn close(functions: &Self::Functions);
}

/// An object with a handle.
pub(crate) struct Entry<T> {
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
    pub(crate) fn new(object: T, dispatch: Dispatch) -> Self {
        Self { object, dispatch, poisoned: AtomicBool::new(false) }
    }

    /// Runs `body`, whose log lines carry the object's handle.
    pub(crate) fn logged<R>(&self, body: impl FnOnce() -> R) -> R {
        tracing::dispatcher::with_default(&self.dispatch, body)
    }

    /// Refuses further work after a panic.
    pub(crate) fn check(&self) -> Result<()> {
        if self.poisoned.load(Ordering::Acquire) {
            let text = format!("the {} was given up after an internal error: {}", T::NAME, T::END);
            return Err(Error::new(ErrorKind::Panic, text));
        }
        Ok(())
    }

    pub(crate) fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }
}

/// An entry or callbacks of any kind.
type Shared = Arc<dyn Any + Send + Sync>;

struct Row {
    handle: i32,
    kind: TypeId,
    functions: Shared,
    state: State,
}

enum State {
    /// The object is being created: only the callbacks are available, and calls that need the object wait.
    Starting,
    Live(Shared),
    /// The object is being ended: only the callbacks are available, and calls that end it wait.
    Ending,
}

impl Row {
    fn live(&self) -> Option<&Shared> {
        match &self.state {
            State::Live(entry) => Some(entry),
            _ => None,
        }
    }

    /// The entry, which is then ended.
    fn take(&mut self) -> Option<Shared> {
        match mem::replace(&mut self.state, State::Ending) {
            State::Live(entry) => Some(entry),
            other => {
                self.state = other;
                None
            }
        }
    }
}

/// The last handle of this process or of a parent that it was forked from. It changes under the lock of the table.
static LAST: AtomicI32 = AtomicI32::new(0);

struct Table {
    /// Handles up to this one belong to the process that this one was forked from.
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
    /// The position of a handle, or its place for insertion.
    fn find(&self, handle: i32) -> std::result::Result<usize, usize> {
        self.rows.binary_search_by_key(&handle, |row| row.handle)
    }

    /// A number of this kind.
    fn row<T: Object>(&mut self, handle: i32) -> Option<&mut Row> {
        let at = self.find(handle).ok()?;
        self.rows.get_mut(at).filter(|row| row.kind == TypeId::of::<T>())
    }
}

/// The downcast of a row, which always succeeds for the row's kind.
fn known<T: Object>(handle: i32, entry: Option<Shared>) -> Result<Arc<Entry<T>>> {
    entry.and_then(|entry| entry.downcast().ok()).ok_or_else(|| unknown::<T>(handle))
}

fn unknown<T: Object>(handle: i32) -> Error {
    Error::new(ErrorKind::UnknownHandle, format!("there is no {} with handle {handle}", T::NAME))
}

static TABLE: PerProcess<Mutex<Table>> = PerProcess::new();

/// Notified when an object is created or has ended.
static CHANGED: PerProcess<Condvar> = PerProcess::new();

type Guard = MutexGuard<'static, Table>;

fn table() -> Guard {
    sync::lock(TABLE.get())
}

/// Returns a handle that was never used before.
pub(crate) fn reserve() -> Result<i32> {
    let _table = table();
    next(&LAST)
}

/// Refuses handles of the process that this one was forked from. Called before any other use of a handle: the objects
/// are copies of that process, and their locks may be held by threads that do not exist here.
pub(crate) fn check_process(handle: i32) -> Result<()> {
    if (1..=table().inherited).contains(&handle) {
        let text = format!("handle {handle} belongs to the process that this one was forked from");
        return Err(Error::new(ErrorKind::Forked, text));
    }
    Ok(())
}

/// A reserved handle. Unless it is [finished](Self::finish), dropping it removes the handle, and closes the callbacks.
#[must_use]
pub(crate) struct Starting<T: Object> {
    handle: i32,
    functions: Arc<T::Functions>,
    is_finished: bool,
}

/// Registers the callbacks of a reserved handle.
pub(crate) fn start<T: Object>(handle: i32, functions: Arc<T::Functions>) -> Result<Starting<T>> {
    let mut table = table();
    table.rows.try_reserve(1)?;
    let at = table.find(handle).unwrap_or_else(|at| at);
    let row = Row { handle, kind: TypeId::of::<T>(), functions: functions.clone(), state: State::Starting };
    table.rows.insert(at, row);
    Ok(Starting { handle, functions, is_finished: false })
}

impl<T: Object> Starting<T> {
    /// Registers the object.
    pub(crate) fn finish(mut self, entry: Entry<T>) {
        self.is_finished = true;
        if let Some(row) = table().row::<T>(self.handle) {
            row.state = State::Live(Arc::new(entry));
        }
        CHANGED.get().notify_all();
    }
}

impl<T: Object> Drop for Starting<T> {
    fn drop(&mut self) {
        if !self.is_finished {
            remove(self.handle);
            T::close(&self.functions);
        }
    }
}

fn remove(handle: i32) {
    let mut table = table();
    if let Ok(at) = table.find(handle) {
        table.rows.remove(at);
    }
    CHANGED.get().notify_all();
}

/// The row of a handle.
pub(crate) struct Known<T: Object> {
    pub(crate) functions: Arc<T::Functions>,
    /// `None` while the object is being created or ended.
    pub(crate) entry: Option<Arc<Entry<T>>>,
}

/// Returns the row of a handle, from before its object exists until that has ended.
pub(crate) fn functions<T: Object>(handle: i32) -> Result<Known<T>> {
    let mut table = table();
    let row = table.row::<T>(handle).ok_or_else(|| unknown::<T>(handle))?;
    let functions = row.functions.clone().downcast().map_err(|_| unknown::<T>(handle))?;
    Ok(Known { functions, entry: row.live().cloned().and_then(|entry| entry.downcast().ok()) })
}

/// Returns the object of a handle, and waits until it is created, as callbacks have the handle before that. The object
/// lives as long as a call uses it, even if another call ends it.
pub(crate) fn get<T: Object>(handle: i32) -> Result<Arc<Entry<T>>> {
    let mut table = wait_while::<T>(handle, table(), |state| matches!(state, State::Starting));
    let entry = table.row::<T>(handle).and_then(|row| row.live().cloned());
    drop(table);
    known(handle, entry)
}

/// Waits while an object of this kind is in a state.
fn wait_while<T: Object>(handle: i32, mut table: Guard, is_so: fn(&State) -> bool) -> Guard {
    while table.row::<T>(handle).is_some_and(|row| is_so(&row.state)) {
        table = sync::wait(CHANGED.get(), table);
    }
    table
}

/// Returns the handles of all objects of this kind.
pub(crate) fn all<T: Object>() -> Vec<i32> {
    let known = |row: &&Row| row.live().is_some() && row.kind == TypeId::of::<T>();
    table().rows.iter().filter(known).map(|row| row.handle).collect()
}

/// Ends the object of a handle by `end`, and removes the handle. A second call waits until that is done, and then fails
/// with `UnknownHandle`: so when this returns, with any result, the object has ended.
pub(crate) fn end<T: Object>(handle: i32, end: impl FnOnce(&Entry<T>) -> Result<()>) -> Result<()> {
    // In this order: what belongs to the object is freed before others hear that it has ended.
    let (_ending, entry) = {
        let mut table = wait_while::<T>(handle, table(), |state| !matches!(state, State::Live(_)));
        let entry = known(handle, table.row::<T>(handle).and_then(Row::take))?;
        (Ending(handle), entry)
    };
    end(&entry)
}

/// Removes a handle when it is dropped, also if ending the object panics.
struct Ending(i32);

impl Drop for Ending {
    fn drop(&mut self) {
        remove(self.0);
    }
}

/// As [`end`](end()), on a separate thread, for which the caller waits for at most `timeout`. After that the thread
/// continues, and later calls wait for it.
pub(crate) fn end_within<T: Object>(handle: i32, timeout: Duration, end: fn(&Entry<T>) -> Result<()>) -> Result<()> {
    let until = Instant::now() + timeout;
    let mut table = table();
    // Also unknown if its creation fails during the wait.
    while matches!(table.row::<T>(handle).ok_or_else(|| unknown::<T>(handle))?.state, State::Starting) {
        table = wait_until::<T>(handle, table, until, timeout)?;
    }
    if let Some(entry) = table.row::<T>(handle).and_then(Row::take) {
        // For the thread, or back into the table if there is none. Never for both: the last owner frees the object.
        let entry = Arc::new(Mutex::new(Some(entry)));
        let taken = entry.clone();
        let body = move || {
            let _ending = Ending(handle);
            let entry = sync::lock(&taken).take();
            // What it logs, it logs as the object; a failure is a bug of this library, and its panic was caught.
            if let Ok(entry) = known::<T>(handle, entry) {
                let _ = catch_unwind(AssertUnwindSafe(|| end(&entry)));
            }
        };
        if let Err(err) = thread::spawn("wg-off", Owner::unique(), body) {
            let entry = sync::lock(&entry).take();
            if let (Some(row), Some(entry)) = (table.row::<T>(handle), entry) {
                row.state = State::Live(entry);
            }
            return Err(Error::new(ErrorKind::Resources, format!("cannot start the thread wg-off: {err}")));
        }
    }
    while table.row::<T>(handle).is_some() {
        table = wait_until::<T>(handle, table, until, timeout)?;
    }
    Ok(())
}

/// Waits for a change until a deadline.
fn wait_until<T: Object>(handle: i32, table: Guard, until: Instant, timeout: Duration) -> Result<Guard> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        let text = format!("the {} with handle {handle} has not ended within {timeout:?}", T::NAME);
        return Err(Error::new(ErrorKind::TimedOut, text));
    }
    Ok(sync::wait_timeout(CHANGED.get(), table, left))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Only ends a test that hangs.
    const LIMIT: Duration = Duration::from_secs(300);

    struct One;
    struct Other;

    impl Object for One {
        const NAME: &'static str = "one";
        const END: &'static str = "";
        type Functions = ();

        fn close((): &()) {}
    }

    impl Object for Other {
        const NAME: &'static str = "other";
        const END: &'static str = "";
        type Functions = ();

        fn close((): &()) {}
    }

    fn kind<R>(result: Result<R>) -> Option<ErrorKind> {
        result.err().map(|err| err.kind())
    }

    #[test]
    fn an_object_of_another_kind_is_not_waited_for() {
        let handle = reserve().unwrap();
        let starting = start::<One>(handle, Arc::new(())).unwrap();
        let (told, results) = mpsc::channel();
        thread::spawn("test", Owner::unique(), move || {
            let within = end_within::<Other>(handle, LIMIT, |_| Ok(()));
            let _ = told.send([kind(get::<Other>(handle)), kind(end::<Other>(handle, |_| Ok(()))), kind(within)]);
        })
        .unwrap();
        let refused = results.recv_timeout(LIMIT).expect("it waits for the wrong object");
        assert_eq!(refused, [Some(ErrorKind::UnknownHandle); 3]);
        drop(starting);
    }

    /// Whether the creation fails before or during the wait, which the test does not decide.
    #[test]
    fn an_object_whose_creation_fails_cannot_be_ended() {
        for _ in 0..50 {
            let handle = reserve().unwrap();
            let starting = start::<One>(handle, Arc::new(())).unwrap();
            let (told, results) = mpsc::channel();
            let spawned = thread::spawn("test", Owner::unique(), move || {
                let _ = told.send(None);
                let _ = told.send(Some(kind(end_within::<One>(handle, LIMIT, |_| Ok(())))));
            });
            spawned.unwrap();
            assert_eq!(results.recv_timeout(LIMIT).unwrap(), None);
            // Time for it to begin to wait.
            std::thread::sleep(Duration::from_millis(1));
            drop(starting);
            assert_eq!(results.recv_timeout(LIMIT).unwrap(), Some(Some(ErrorKind::UnknownHandle)));
        }
    }

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
