//! Starts the library's threads, and counts the processors for them.
//!
//! They run in the process of an app: signals for the host are not delivered to them, and their stacks are large enough
//! for the host's callbacks.

mod processors;
#[cfg(unix)]
mod signals;

#[cfg(not(unix))]
mod signals {
    pub(super) fn blocked<R>(body: impl FnOnce() -> R) -> R {
        body()
    }
}

pub(crate) use self::processors::processors;

use crate::reserve::{ENOUGH, has_room};
use std::{
    cell::Cell,
    io,
    sync::{
        Arc, Barrier,
        atomic::{AtomicU64, Ordering},
    },
    thread::{Builder, JoinHandle},
};

/// The threads' stacks: half for callbacks of the host, half for the library. Unused parts take no memory.
const STACK: usize = 1 << 20;

thread_local! {
    /// The owner of this thread; 0 on a thread that is not the library's. It has no destructor, so it can be used even
    /// while the thread ends.
    static OWNER: Cell<u64> = const { Cell::new(0) };
}

/// An object that has threads and may have to wait for them, which it cannot do on these threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(u64);

impl Owner {
    /// Returns an owner that differs from all others.
    #[must_use]
    pub fn unique() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Returns whether the calling thread is one of the owner's.
    pub fn is_current(self) -> bool {
        current() == self.0
    }
}

fn current() -> u64 {
    OWNER.try_with(Cell::get).unwrap_or(0)
}

/// The identity of a thread, which is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(u64);

/// Returns the identity of the calling thread. Unlike that of std it can be used even while the thread ends.
pub fn id() -> Id {
    thread_local! {
        static ID: Cell<u64> = const { Cell::new(0) };
    }
    static LAST: AtomicU64 = AtomicU64::new(0);
    let number = ID.try_with(|id| {
        if id.get() == 0 {
            id.set(LAST.fetch_add(1, Ordering::Relaxed) + 1);
        }
        id.get()
    });
    Id(number.unwrap_or(0))
}

/// Returns whether the calling thread was started by the library.
pub fn is_ours() -> bool {
    current() != 0
}

/// Starts a thread. It logs to the calling thread's subscriber and blocks all signals except those that it causes
/// itself.
///
/// # Errors
/// Errors of the system.
pub fn spawn(name: &str, owner: Owner, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    start(name, owner, Box::new(body))
}

/// Not generic, so that std's code to start a thread, 3 KB, is compiled once.
fn start(name: &str, owner: Owner, body: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
    let dispatch = tracing::dispatcher::get_default(Clone::clone);
    // If an allocation by std or the C library at the start of a thread fails, it aborts the process: the stack of a
    // signal handler, in Rust programs, and destructors. So there must be more memory than the thread's stack.
    if !has_room(STACK + ENOUGH) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    // A thread inherits the mask of its creator, so there is no moment at which it accepts signals.
    let begun = Arc::new(Barrier::new(2));
    let begins = begun.clone();
    let thread = signals::blocked(|| {
        Builder::new().name(name.into()).stack_size(STACK).spawn(move || {
            OWNER.set(owner.0);
            tracing::dispatcher::with_default(&dispatch, || {
                begins.wait();
                drop(begins);
                body()
            })
        })
    })?;
    // Allocate now, not later when there may be less memory.
    begun.wait();
    Ok(thread)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_thread_knows_whom_it_works_for() {
        let (one, other) = (Owner::unique(), Owner::unique());
        assert_ne!(one, other);
        let (tell, told) = mpsc::channel();
        let body = move || tell.send((is_ours(), one.is_current(), other.is_current())).unwrap();
        spawn("test", one, body).unwrap().join().unwrap();
        assert_eq!(told.recv().unwrap(), (true, true, false));
        assert!(!is_ours() && !one.is_current());
    }
}
