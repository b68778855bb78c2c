//! What is due when: one ordered set for everything that waits for time to pass.
//!
//! Each object has one [`Timer`] and so at most one entry. A deadline that moves away leaves its entry: when that
//! fires, the object says when it is really due. So a deadline that moves with each packet costs next to nothing.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use wg_embed::{sync::lock, time::Instant};

use super::shared::Shared;

/// Something that has deadlines.
pub(crate) trait Timed: Send + Sync {
    /// Its timer.
    fn timer(&self) -> &Timer;
    /// Its deadline may have come; it has to be set again. Called on a tunnel's thread, without a lock held.
    fn due(self: Arc<Self>, shared: &Arc<Shared>, now: Instant);
}

/// When an object's entry fires.
#[derive(Debug)]
pub(crate) struct Timer {
    /// Tells entries of one time apart. 0: it has had none yet.
    id: AtomicU64,
    /// Nanoseconds; `NONE` without an entry. Changes under the lock of the set.
    at: AtomicU64,
}

const NONE: u64 = u64::MAX;

impl Timer {
    pub(crate) const fn new() -> Self {
        Self { id: AtomicU64::new(0), at: AtomicU64::new(NONE) }
    }

    /// Whether its entry fires at `at` or before.
    fn is_set_before(&self, at: Instant) -> bool {
        self.at.load(Ordering::Acquire) <= at.as_nanos()
    }
}

/// The set.
pub(crate) struct Deadlines {
    set: Mutex<Set>,
    /// The earliest one, in nanoseconds.
    next: AtomicU64,
}

struct Set {
    entries: BTreeMap<(u64, u64), Arc<dyn Timed>>,
    last_id: u64,
}

impl Deadlines {
    pub(super) const fn new() -> Self {
        Self { set: Mutex::new(Set { entries: BTreeMap::new(), last_id: 0 }), next: AtomicU64::new(NONE) }
    }

    /// Lets `object` be called at `at`, unless it is called earlier already. Returns whether this is the earliest
    /// deadline now.
    pub(super) fn set(&self, timer: &Timer, at: Instant, object: impl FnOnce() -> Arc<dyn Timed>) -> bool {
        if timer.is_set_before(at) {
            return false;
        }
        let mut set = lock(&self.set);
        let before = timer.at.load(Ordering::Acquire);
        if before <= at.as_nanos() {
            return false;
        }
        let mut id = timer.id.load(Ordering::Relaxed);
        if id == 0 {
            set.last_id += 1;
            id = set.last_id;
            timer.id.store(id, Ordering::Relaxed);
        }
        let moved = (before != NONE).then(|| set.entries.remove(&(before, id))).flatten();
        set.entries.insert((at.as_nanos(), id), moved.unwrap_or_else(object));
        timer.at.store(at.as_nanos(), Ordering::Release);
        let first = at.as_nanos() < self.next.load(Ordering::Relaxed);
        if first {
            // Before a look at whether the thread that reads is idle.
            self.next.store(at.as_nanos(), Ordering::SeqCst);
        }
        first
    }

    /// Removes an object's entry: without this, an object that has ended stays until its deadline.
    pub(super) fn clear(&self, timer: &Timer) {
        if timer.at.load(Ordering::Acquire) == NONE {
            return;
        }
        let mut set = lock(&self.set);
        let at = timer.at.swap(NONE, Ordering::AcqRel);
        let removed = set.entries.remove(&(at, timer.id.load(Ordering::Relaxed)));
        self.update(&set);
        drop(set);
        drop(removed);
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        Some(self.next.load(Ordering::SeqCst)).filter(|at| *at != NONE).map(Instant::from_nanos)
    }

    /// Takes an object whose entry fires at `now` or before.
    pub(super) fn pop(&self, now: Instant) -> Option<Arc<dyn Timed>> {
        if self.next.load(Ordering::Acquire) > now.as_nanos() {
            return None;
        }
        let mut set = lock(&self.set);
        let entry = set.entries.first_entry().filter(|entry| entry.key().0 <= now.as_nanos())?;
        let object = entry.remove();
        object.timer().at.store(NONE, Ordering::Release);
        self.update(&set);
        Some(object)
    }

    /// Removes all entries.
    pub(super) fn take_all(&self) -> Vec<Arc<dyn Timed>> {
        let mut set = lock(&self.set);
        let all: Vec<_> = std::mem::take(&mut set.entries).into_values().collect();
        for object in &all {
            object.timer().at.store(NONE, Ordering::Release);
        }
        self.update(&set);
        all
    }

    fn update(&self, set: &Set) {
        let next = set.entries.first_key_value().map_or(NONE, |(key, _)| key.0);
        self.next.store(next, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Object(Timer);

    impl Timed for Object {
        fn timer(&self) -> &Timer {
            &self.0
        }

        fn due(self: Arc<Self>, _: &Arc<Shared>, _: Instant) {}
    }

    fn at(ns: u64) -> Instant {
        Instant::from_nanos(ns)
    }

    fn set(deadlines: &Deadlines, object: &Arc<Object>, ns: u64) -> bool {
        deadlines.set(&object.0, at(ns), || object.clone())
    }

    #[test]
    fn each_object_has_one_entry_which_moves_forward_only() {
        let deadlines = Deadlines::new();
        let objects: Vec<_> = (0..3).map(|_| Arc::new(Object(Timer::new()))).collect();
        assert!(set(&deadlines, &objects[0], 100));
        assert!(!set(&deadlines, &objects[1], 200));
        assert!(!set(&deadlines, &objects[0], 150), "it fires earlier already");
        assert!(set(&deadlines, &objects[1], 50) && !set(&deadlines, &objects[2], 50));
        assert_eq!((deadlines.next(), lock(&deadlines.set).entries.len()), (Some(at(50)), 3));
        assert!(deadlines.pop(at(49)).is_none());
        let popped = deadlines.pop(at(60)).unwrap();
        assert!(std::ptr::eq(popped.timer(), objects[1].timer()));
        assert!(deadlines.pop(at(60)).is_some() && deadlines.pop(at(60)).is_none());
        // After it has fired, it may be set again, later as well.
        assert!(!set(&deadlines, &objects[1], 300));
        deadlines.clear(&objects[0].0);
        assert_eq!(deadlines.next(), Some(at(300)));
        deadlines.clear(&objects[0].0);
        assert_eq!(deadlines.take_all().len(), 1);
        assert!(deadlines.next().is_none() && set(&deadlines, &objects[0], 1000));
    }
}
