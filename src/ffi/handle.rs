//! Which tunnel a number stands for.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{events::Events, log::TunnelLog};
use crate::{
    device::Tunnel,
    error::{Error, ErrorKind, Result},
};

/// A tunnel that C has a handle of.
pub(super) struct Entry {
    pub(super) tunnel: Tunnel,
    pub(super) log: TunnelLog,
    pub(super) events: Arc<Events>,
    /// A panic was caught in a call on it.
    poisoned: AtomicBool,
}

impl Entry {
    pub(super) fn new(tunnel: Tunnel, log: TunnelLog, events: Arc<Events>) -> Self {
        Self { tunnel, log, events, poisoned: AtomicBool::new(false) }
    }

    /// Stops the tunnel. None of its callbacks runs afterwards.
    pub(super) fn turn_off(&self) -> Result<()> {
        let stopped = self.log.run(|| self.tunnel.stop());
        self.events.close();
        self.log.close();
        stopped
    }

    /// Refuses further work after a panic.
    pub(super) fn check(&self) -> Result<()> {
        if self.poisoned.load(Ordering::Acquire) {
            let text = "the tunnel was given up after an internal error: turn it off";
            return Err(Error::new(ErrorKind::Panic, text));
        }
        Ok(())
    }

    pub(super) fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }
}

struct Table {
    /// The number that was given out last.
    last: i32,
    entries: BTreeMap<i32, Arc<Entry>>,
}

impl Table {
    const fn new() -> Self {
        Self { last: 0, entries: BTreeMap::new() }
    }

    fn reserve(&mut self) -> Result<i32> {
        let next = self.last.checked_add(1);
        self.last = next.ok_or_else(|| Error::new(ErrorKind::Resources, "there are no more handles"))?;
        Ok(self.last)
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
pub(super) fn insert(handle: i32, entry: Entry) {
    table().entries.insert(handle, Arc::new(entry));
}

/// The tunnel behind a number. It lives on while a call works with it, even if it is turned off meanwhile.
pub(super) fn get(handle: i32) -> Result<Arc<Entry>> {
    table().entries.get(&handle).cloned().ok_or_else(|| unknown(handle))
}

/// Takes a number out for good.
pub(super) fn remove(handle: i32) -> Result<Arc<Entry>> {
    table().entries.remove(&handle).ok_or_else(|| unknown(handle))
}

fn unknown(handle: i32) -> Error {
    Error::new(ErrorKind::UnknownHandle, format!("there is no tunnel with handle {handle}"))
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
