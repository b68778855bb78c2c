//! State of each process. A child of `fork()` has a copy of its parent's memory, but not of its threads, and shares its
//! parent's sockets. So it must not use inherited state, nor take inherited locks, since their holders do not exist to
//! release them.
#![allow(unsafe_code)]

use std::{
    marker::PhantomData,
    ptr,
    sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering},
};

/// Returns the number of this process, which differs from that of the process it was forked from. Usually without a
/// system call.
#[must_use]
pub fn number() -> u32 {
    mark::of_this_process().map_or_else(by_id, number_of)
}

/// Returns the number of the process with this mark, and assigns one if the mark is 0.
fn number_of(mark: &AtomicU32) -> u32 {
    match mark.load(Ordering::Acquire) {
        0 => {
            let new = next();
            mark.compare_exchange(0, new, Ordering::AcqRel, Ordering::Acquire).map_or_else(|other| other, |_| new)
        }
        number => number,
    }
}

/// Returns a number that neither this process nor an ancestor has had.
fn next() -> u32 {
    static LAST: AtomicU32 = AtomicU32::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// A value that each process creates at its first use and keeps until its end.
pub struct PerProcess<T> {
    made: AtomicPtr<Made<T>>,
    value: PhantomData<T>,
}

struct Made<T> {
    by: u32,
    value: T,
    /// The value of an ancestor process. It is not freed, but kept here so that leak detectors can find it.
    _inherited: AtomicPtr<Made<T>>,
}

impl<T: Default + Send + Sync + 'static> Default for PerProcess<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Default + Send + Sync + 'static> PerProcess<T> {
    /// Creates an unused value.
    #[must_use]
    pub const fn new() -> Self {
        Self { made: AtomicPtr::new(ptr::null_mut()), value: PhantomData }
    }

    /// Returns the value of this process.
    pub fn get(&self) -> &'static T {
        let process = number();
        let mut found = self.made.load(Ordering::Acquire);
        loop {
            // SAFETY: it is NULL, or was made below and is never freed.
            match unsafe { found.as_ref() } {
                Some(made) if made.by == process => return &made.value,
                _ => {}
            }
            let made = Made { by: process, value: T::default(), _inherited: AtomicPtr::new(found) };
            let new = Box::into_raw(Box::new(made));
            match self.made.compare_exchange(found, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => found = new,
                Err(other) => {
                    found = other;
                    // SAFETY: it was just made, and not given to anyone.
                    drop(unsafe { Box::from_raw(new) });
                }
            }
        }
    }
}

/// Runs `body` so that no fork() happens during it. It is for short sections with locks that are not ours: a child that
/// inherits such a lock would wait for ever.
pub fn between_forks<R>(body: impl FnOnce() -> R) -> R {
    struct Unlock;
    impl Drop for Unlock {
        fn drop(&mut self) {
            forks::unlock();
        }
    }
    #[cfg(unix)]
    forks::watch();
    forks::lock();
    let _unlock = Unlock;
    body()
}

/// A lock that a child can release.
mod forks {
    use std::sync::atomic::{AtomicBool, Ordering};

    static LOCKED: AtomicBool = AtomicBool::new(false);

    pub(super) extern "C" fn lock() {
        while LOCKED.swap(true, Ordering::Acquire) {
            std::thread::yield_now();
        }
    }

    pub(super) extern "C" fn unlock() {
        LOCKED.store(false, Ordering::Release);
    }

    #[cfg(unix)]
    extern "C" fn in_child() {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        super::mark::forget();
        super::BY_ID.store(0, Ordering::Release);
        unlock();
    }

    /// Registers handlers so that fork() takes the lock, and a child resets its state.
    #[cfg(unix)]
    pub(super) fn watch() {
        type Handler = Option<extern "C" fn()>;
        unsafe extern "C" {
            fn pthread_atfork(prepare: Handler, parent: Handler, child: Handler) -> std::ffi::c_int;
        }
        static WATCHES: AtomicBool = AtomicBool::new(false);
        if !WATCHES.swap(true, Ordering::Relaxed) {
            // SAFETY: functions that live as long as the program does, and only touch an atomic. Without memory for
            // them the lock is as good as none.
            unsafe { pthread_atfork(Some(lock), Some(unlock), Some(in_child)) };
        }
    }
}

/// For systems that can clear a page in any child process (since Linux 4.14).
#[cfg(any(target_os = "linux", target_os = "android"))]
mod mark {
    use std::{
        mem::size_of,
        ptr,
        sync::atomic::{AtomicPtr, AtomicU32, Ordering},
    };

    static PAGE: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());

    /// Stands for a page if the system gave none at the first request. The request is not repeated, since the process
    /// must keep its number.
    static NO_PAGE: AtomicU32 = AtomicU32::new(0);

    /// Returns a mark that is 0 in a child; `None` if the system has none.
    pub(super) fn of_this_process() -> Option<&'static AtomicU32> {
        let mut page = PAGE.load(Ordering::Acquire);
        if page.is_null() {
            let new = wiped_on_fork().unwrap_or(ptr::from_ref(&NO_PAGE).cast_mut());
            // For systems that accept the advice but do not follow it, such as QEMU when it runs a single program.
            super::forks::watch();
            page = match PAGE.compare_exchange(ptr::null_mut(), new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => new,
                // Only one page, allocated once: it is never freed.
                Err(other) => other,
            };
        }
        // SAFETY: it is the static one; or it is mapped, for ever, aligned as pages are, and begins as zeros.
        Some(unsafe { &*page }).filter(|page| !ptr::eq(*page, &raw const NO_PAGE))
    }

    /// Clears the mark; to be called in a child.
    pub(super) fn forget() {
        // SAFETY: as above.
        if let Some(mark) = unsafe { PAGE.load(Ordering::Acquire).as_ref() } {
            mark.store(0, Ordering::Release);
        }
    }

    fn wiped_on_fork() -> Option<*mut AtomicU32> {
        const LEN: usize = size_of::<AtomicU32>();
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, somewhere.
        let page = unsafe { libc::mmap(ptr::null_mut(), LEN, access, kind, -1, 0) };
        if page == libc::MAP_FAILED {
            return None;
        }
        // SAFETY: the page was just mapped, and holds nothing yet.
        let wiped = unsafe { libc::madvise(page, LEN, libc::MADV_WIPEONFORK) } == 0;
        if !wiped {
            // SAFETY: it was mapped above, and nothing points there.
            unsafe { libc::munmap(page, LEN) };
        }
        wiped.then_some(page.cast())
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod mark {
    use std::sync::atomic::AtomicU32;

    /// Returns `None`.
    pub(super) const fn of_this_process() -> Option<&'static AtomicU32> {
        None
    }
}

/// The system's id of the process that last asked for its number, and that number: see [`by_id_in`].
static BY_ID: AtomicU64 = AtomicU64::new(0);

/// Returns the number of this process, by its process id.
fn by_id() -> u32 {
    // Process ids are reused: a child may have the id of an ancestor.
    #[cfg(unix)]
    forks::watch();
    by_id_in(&BY_ID, std::process::id())
}

/// Returns the number of the process `id`. `last` has a process id and our number in one word, so that the two always
/// belong together, and all threads that ask at once get the same number.
fn by_id_in(last: &AtomicU64, id: u32) -> u32 {
    let number_in = |word: u64| (word >> 32 == u64::from(id)).then_some(word as u32);
    let found = last.load(Ordering::Acquire);
    if let Some(number) = number_in(found) {
        return number;
    }
    let new = next();
    let word = u64::from(id) << 32 | u64::from(new);
    match last.compare_exchange(found, word, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => new,
        // Another thread of this process was faster; no other process can change it.
        Err(other) => number_in(other).unwrap_or(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        collections::BTreeSet,
        sync::{Barrier, Mutex},
    };

    /// Of several threads that are the first to ask, in one process after the other.
    #[test]
    fn threads_of_one_process_have_one_number_and_those_of_a_child_another() {
        const THREADS: usize = 4;
        let last = AtomicU64::new(0);
        let begin = Barrier::new(THREADS);
        let ids = 1..2000;
        let numbers = || {
            ids.clone().map(|id| {
                begin.wait();
                [by_id_in(&last, id), by_id_in(&last, id)]
            })
        };
        let all: Vec<Vec<_>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| numbers().collect())).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        assert_eq!(all, vec![all[0].clone(); THREADS]);
        assert!(all[0].iter().all(|[first, again]| first == again));
        assert_eq!(all[0].iter().collect::<BTreeSet<_>>().len(), ids.len());
    }

    #[test]
    fn a_process_keeps_its_values() {
        static VALUE: PerProcess<Mutex<u32>> = PerProcess::new();
        let set = |n| VALUE.get().lock().map(|mut value| *value = n).is_ok();
        assert!(set(7) && VALUE.get().lock().is_ok_and(|value| *value == 7));
        assert!(number() != 0 && number() == number());
        let all: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| ptr::from_ref(VALUE.get()).addr())).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        assert_eq!(all, [ptr::from_ref(VALUE.get()).addr(); 8]);
    }

    /// With the lock of its parent taken, and with a value of its own.
    #[cfg(unix)]
    #[test]
    fn a_child_begins_with_nothing() {
        static VALUE: PerProcess<Mutex<u32>> = PerProcess::new();
        let Ok(mut value) = VALUE.get().lock() else { unreachable!("nothing panics while it is locked") };
        *value = 7;
        let parent = number();
        // SAFETY: the child does nothing but look, and leaves.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let fresh = VALUE.get().try_lock().is_ok_and(|value| *value == 0) && number() != parent;
            // SAFETY: it ends this process, without what the parent would do at its end.
            unsafe { libc::_exit(if fresh { 0 } else { 1 }) };
        }
        let mut status = 0;
        // SAFETY: the status is written to a number that lives.
        let ended = unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!((ended, status), (child, 0));
        assert_eq!(*value, 7);
    }
}
