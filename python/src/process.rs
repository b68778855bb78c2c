//! Children of `fork()`: no tunnel runs in them, and they keep no descriptor of one.
#![allow(unsafe_code, reason = "descriptors of the parent are closed in a child")]

use std::{
    mem::MaybeUninit,
    os::fd::RawFd,
    process,
    sync::{Arc, Mutex, Weak},
};

use pyo3::{exceptions::PyOSError, prelude::*};
use wg_embed::sync::{lock, try_lock};

/// The process that created an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(u32);

impl Mark {
    pub(crate) fn new() -> Self {
        Self(process::id())
    }

    /// Returns whether this is the process that created the object.
    pub(crate) fn is_current(self) -> bool {
        self.0 == process::id()
    }

    /// # Errors
    /// `OSError` with EBADF in any other process.
    pub(crate) fn check(self) -> PyResult<()> {
        if self.is_current() {
            return Ok(());
        }
        Err(PyOSError::new_err((libc::EBADF, "the tunnel belongs to the process that this one was forked from")))
    }
}

/// Leaks a parent's object in a child: it may be locked by a thread that does not exist in the child, and its
/// descriptors are closed already.
pub(crate) fn leave<T: ?Sized>(inherited: &Arc<T>) {
    std::mem::forget(inherited.clone());
}

/// An object whose descriptors a child only inherits.
pub(crate) trait Inherited: Send + Sync {
    /// Returns the descriptors that lead out of the process, or to another end in it.
    fn descriptors(&self) -> Vec<RawFd>;
}

/// The open objects. Changed and read only with the interpreter.
static OPEN: Mutex<Vec<Weak<dyn Inherited>>> = Mutex::new(Vec::new());

/// The descriptors that a child of a fork in progress has to close, and their identities.
static LEAVING: Mutex<Vec<(RawFd, Identity)>> = Mutex::new(Vec::new());

/// Device and inode.
type Identity = (libc::dev_t, libc::ino_t);

/// Returns the identity of a descriptor; `None` if it is closed.
fn identity(descriptor: RawFd) -> Option<Identity> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: it only writes to `stat`, which has room for it.
    if unsafe { libc::fstat(descriptor, stat.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the call has filled it.
    let stat = unsafe { stat.assume_init() };
    Some((stat.st_dev, stat.st_ino))
}

/// Registers the descriptors of `object` to be closed in children.
pub(crate) fn register<T: Inherited + 'static>(object: &Arc<T>) {
    let object: Arc<dyn Inherited> = object.clone();
    let mut open = lock(&OPEN);
    open.retain(|object| object.strong_count() > 0);
    open.push(Arc::downgrade(&object));
}

/// Called before a fork: otherwise a child could find a lock held by a thread that it does not have.
#[pyfunction]
pub(crate) fn before_fork() {
    let open: Vec<_> = lock(&OPEN).iter().filter_map(Weak::upgrade).collect();
    let descriptors = open.iter().flat_map(|object| object.descriptors());
    *lock(&LEAVING) = descriptors.filter_map(|descriptor| Some((descriptor, identity(descriptor)?))).collect();
}

/// Called in a child after a fork.
#[pyfunction]
pub(crate) fn after_fork_in_child() {
    let Some(mut leaving) = try_lock(&LEAVING) else { return };
    for (descriptor, was) in leaving.drain(..) {
        // A thread may have closed it in between, and another have got its number.
        if identity(descriptor) == Some(was) {
            // SAFETY: it is a copy of the parent's. What owns the number here is never used or dropped in a child.
            unsafe { libc::close(descriptor) };
        }
    }
}
