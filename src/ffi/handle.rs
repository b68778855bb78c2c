//! What a number stands for.

use std::{
    any::Any,
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tracing::Dispatch;

use crate::error::{Error, ErrorKind, Result};

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

struct Table {
    /// The number that was given out last.
    last: i32,
    /// Sorted by number. There are few; a tree would be 7 KB of code.
    entries: Vec<(i32, AnyEntry)>,
}

impl Table {
    const fn new() -> Self {
        Self { last: 0, entries: Vec::new() }
    }

    fn reserve(&mut self) -> Result<i32> {
        let next = self.last.checked_add(1);
        self.last = next.ok_or_else(|| Error::new(ErrorKind::Resources, "there are no more handles"))?;
        Ok(self.last)
    }

    /// Where a number is, or would be.
    fn find(&self, handle: i32) -> std::result::Result<usize, usize> {
        self.entries.binary_search_by_key(&handle, |entry| entry.0)
    }

    fn get<T: Object>(&self, handle: i32) -> Result<Arc<Entry<T>>> {
        let found = self.find(handle).ok().map(|at| self.entries[at].1.clone());
        let entry = found.and_then(|entry| entry.downcast().ok());
        let unknown = || Error::new(ErrorKind::UnknownHandle, format!("there is no {} with handle {handle}", T::NAME));
        entry.ok_or_else(unknown)
    }
}

static TABLE: Mutex<Table> = Mutex::new(Table::new());

fn table() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number that was never given out before.
pub(super) fn reserve() -> Result<i32> {
    table().reserve()
}

/// Makes a reserved number known.
pub(super) fn insert<T: Object>(handle: i32, entry: Entry<T>) {
    let mut table = table();
    let at = table.find(handle).unwrap_or_else(|at| at);
    table.entries.insert(at, (handle, Arc::new(entry)));
}

/// The object behind a number. It lives on while a call works with it, even if it is ended meanwhile.
pub(super) fn get<T: Object>(handle: i32) -> Result<Arc<Entry<T>>> {
    table().get(handle)
}

/// The numbers of all objects of this kind.
#[cfg(feature = "compat-mullvad")]
pub(super) fn all<T: Object>() -> Vec<i32> {
    table().entries.iter().filter(|(_, entry)| entry.is::<Entry<T>>()).map(|(handle, _)| *handle).collect()
}

/// Takes a number out for good.
pub(super) fn remove<T: Object>(handle: i32) -> Result<Arc<Entry<T>>> {
    let mut table = table();
    let entry = table.get(handle)?;
    table.entries.retain(|(number, _)| *number != handle);
    Ok(entry)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_counted_up_and_do_not_begin_again() {
        let mut table = Table::new();
        assert_eq!([table.reserve().unwrap(), table.reserve().unwrap()], [1, 2]);
        table.last = i32::MAX - 1;
        assert_eq!(table.reserve().unwrap(), i32::MAX);
        for _ in 0..2 {
            assert_eq!(table.reserve().unwrap_err().kind(), ErrorKind::Resources);
        }
    }
}
