//! How the library starts its threads, all of them here.
//!
//! They run in the process of an app: no signal that is meant for the host arrives on them, and they have stack enough
//! for the host's callbacks.

#[cfg(unix)]
mod signals;

#[cfg(not(unix))]
mod signals {
    pub(super) fn blocked<R>(body: impl FnOnce() -> R) -> R {
        body()
    }
}

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

/// The threads' stacks: half for callbacks of the host, half for the library. What is never touched costs nothing.
const STACK: usize = 1 << 20;

thread_local! {
    /// Whom this thread works for; 0 on a thread that is not the library's. It has no destructor, so it can be asked
    /// for even while the thread ends.
    static OWNER: Cell<u64> = const { Cell::new(0) };
}

/// Something that has threads, and may have to wait for them: it must be known on which threads it cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(u64);

impl Owner {
    /// One that is unlike all others.
    #[must_use]
    pub fn unique() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Whether this thread is one of its threads.
    pub fn is_current(self) -> bool {
        current() == self.0
    }
}

fn current() -> u64 {
    OWNER.try_with(Cell::get).unwrap_or(0)
}

/// A thread: equal to no other one's that runs or ever ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(u64);

/// This thread. Unlike that of std it can be asked for even while the thread ends.
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

/// Whether this thread was started by the library.
pub fn is_ours() -> bool {
    current() != 0
}

/// Starts a thread. It logs where the calling thread does, and takes no signals but those that it causes itself.
///
/// # Errors
/// As the system says.
pub fn spawn(name: &str, owner: Owner, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    start(name, owner, Box::new(body))
}

/// Compiled once, and not again for each thread: what std does to start one is 3 KB.
fn start(name: &str, owner: Owner, body: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
    let dispatch = tracing::dispatcher::get_default(Clone::clone);
    // What std and the C library allocate for a thread when it has begun ends the process if it fails: the stack of a
    // signal handler, in a program in Rust, and destructors. So there must be more than the thread's own stack.
    if !has_room(STACK + ENOUGH) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    // A thread begins with the mask of the one that starts it, so there is no moment at which it takes signals.
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
    // What it allocates when it begins is not left to a moment at which there may be less memory.
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
