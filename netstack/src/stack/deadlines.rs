//! The deadlines of a stack: one heap for all objects that have some.
//!
//! Each object has one [`Timer`]. A deadline that moves back changes nothing: when the object is called, it determines
//! its actual deadline. So a deadline that moves with each packet costs next to nothing. When a deadline moves forward,
//! as that of a delayed ACK does, the object is called at the old one as well, when it usually has work to do.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use wg_embed::{sync::lock, time::Instant};

use super::shared::Shared;

/// An object with deadlines.
pub(crate) trait Timed: Send + Sync {
    /// Returns its timer.
    fn timer(&self) -> &Timer;
    /// Handles a deadline, which may have moved back; it must be set again. Called on a tunnel's thread, without a lock
    /// held.
    fn due(self: Arc<Self>, shared: &Arc<Shared>, now: Instant);
}

/// The time at which an object is called.
#[derive(Debug)]
pub(crate) struct Timer {
    /// In nanoseconds; `NONE` while it is not set. Changes under the lock of the set.
    at: AtomicU64,
    /// Its index in the set while it is set.
    place: AtomicUsize,
}

const NONE: u64 = u64::MAX;
/// A number of stale entries, and an amount of free memory, that is tolerated.
const FEW: usize = 1024;

impl Timer {
    pub(crate) const fn new() -> Self {
        Self { at: AtomicU64::new(NONE), place: AtomicUsize::new(0) }
    }

    /// Returns whether it fires at `at` or before.
    fn is_set_before(&self, at: Instant) -> bool {
        self.at.load(Ordering::Acquire) <= at.as_nanos()
    }
}

/// The set of deadlines.
pub(crate) struct Deadlines {
    set: Mutex<Set>,
    /// The earliest deadline, in nanoseconds.
    next: AtomicU64,
}

#[derive(Default)]
struct Set {
    /// The times and indices of objects, the earliest first. An entry is stale if the object at that index has other
    /// times: there are at most as many stale entries as objects, and a few more.
    heap: BinaryHeap<Reverse<Entry>>,
    places: Vec<Option<Place>>,
    free: Vec<usize>,
}

/// A time and an index in one number: the heap makes many comparisons, and a pair takes several branches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry(u128);

impl Entry {
    const fn new(at: u64, place: usize) -> Self {
        Self((at as u128) << 64 | place as u128)
    }

    const fn at(self) -> u64 {
        (self.0 >> 64) as u64
    }

    const fn place(self) -> usize {
        self.0 as usize
    }
}

/// An object, and the times at which it is called: the next one, and one after that or `NONE`.
struct Place {
    at: u64,
    later: u64,
    object: Arc<dyn Timed>,
}

impl Set {
    fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Adds an object.
    fn insert(&mut self, at: u64, object: Arc<dyn Timed>) -> usize {
        let place = Some(Place { at, later: NONE, object });
        let index = self.free.pop().unwrap_or(self.places.len());
        if index == self.places.len() {
            self.places.push(place);
        } else {
            self.places[index] = place;
        }
        self.enter(at, index);
        index
    }

    /// Removes an object.
    fn remove(&mut self, index: usize) -> Option<Arc<dyn Timed>> {
        let place = self.places.get_mut(index)?.take()?;
        self.free.push(index);
        place.object.timer().at.store(NONE, Ordering::Release);
        Some(place.object)
    }

    /// Adds an entry. Removes all stale ones when there are too many.
    fn enter(&mut self, at: u64, index: usize) {
        self.heap.push(Reverse(Entry::new(at, index)));
        if self.heap.len() > 3 * self.len() + FEW {
            let places = self.places.iter().enumerate();
            let times = |(index, place): (usize, &Option<Place>)| {
                let times = place.as_ref().map_or([NONE; 2], |place| [place.at, place.later]);
                times.map(|at| Reverse(Entry::new(at, index)))
            };
            self.heap = places.flat_map(times).filter(|entry| entry.0.at() != NONE).collect();
        }
    }

    /// Moves the time of an object forward.
    fn advance(&mut self, at: u64, index: usize) {
        if let Some(Some(place)) = self.places.get_mut(index) {
            if place.later == NONE {
                place.later = place.at;
            }
            place.at = at;
            self.enter(at, index);
        }
    }

    /// Handles the time of an object, which is removed unless it has another one.
    fn fire(&mut self, index: usize) -> Option<Arc<dyn Timed>> {
        let place = self.places.get_mut(index)?.as_mut()?;
        if place.later == NONE {
            return self.remove(index);
        }
        place.at = std::mem::replace(&mut place.later, NONE);
        place.object.timer().at.store(place.at, Ordering::Release);
        Some(place.object.clone())
    }

    /// Returns the earliest time and its index. Removes stale entries before it.
    fn first(&mut self) -> Option<(u64, usize)> {
        while let Some(&Reverse(entry)) = self.heap.peek() {
            let (at, index) = (entry.at(), entry.place());
            if self.places.get(index).is_some_and(|place| place.as_ref().is_some_and(|place| place.at == at)) {
                return Some((at, index));
            }
            self.heap.pop();
        }
        if self.places.capacity() > FEW {
            *self = Self::default();
        }
        None
    }
}

impl Deadlines {
    pub(super) fn new() -> Self {
        Self { set: Mutex::default(), next: AtomicU64::new(NONE) }
    }

    /// Schedules a call of `object` at `at`, unless it is called earlier anyway. Returns whether this is now the
    /// earliest deadline.
    pub(super) fn set(&self, timer: &Timer, at: Instant, object: impl FnOnce() -> Arc<dyn Timed>) -> bool {
        if timer.is_set_before(at) {
            return false;
        }
        let mut set = lock(&self.set);
        let before = timer.at.load(Ordering::Acquire);
        if before <= at.as_nanos() {
            return false;
        }
        if before == NONE {
            let place = set.insert(at.as_nanos(), object());
            timer.place.store(place, Ordering::Relaxed);
        } else {
            set.advance(at.as_nanos(), timer.place.load(Ordering::Relaxed));
        }
        timer.at.store(at.as_nanos(), Ordering::Release);
        let first = at.as_nanos() < self.next.load(Ordering::Relaxed);
        if first {
            // Before checking whether the reading thread is idle.
            self.next.store(at.as_nanos(), Ordering::SeqCst);
        }
        first
    }

    /// Removes an object: otherwise an object that has ended stays until its deadline.
    pub(super) fn clear(&self, timer: &Timer) {
        let mut set = lock(&self.set);
        if timer.at.load(Ordering::Acquire) == NONE {
            return;
        }
        let removed = set.remove(timer.place.load(Ordering::Relaxed));
        self.update(&mut set);
        drop(set);
        drop(removed);
    }

    /// Returns the earliest deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        Some(self.next.load(Ordering::SeqCst)).filter(|at| *at != NONE).map(Instant::from_nanos)
    }

    /// Takes an object whose time is `now` or before.
    pub(super) fn pop(&self, now: Instant) -> Option<Arc<dyn Timed>> {
        if self.next.load(Ordering::Acquire) > now.as_nanos() {
            return None;
        }
        let mut set = lock(&self.set);
        let (_, place) = set.first().filter(|(at, _)| *at <= now.as_nanos())?;
        let object = set.fire(place);
        self.update(&mut set);
        object
    }

    /// Removes all objects.
    pub(super) fn take_all(&self) -> Vec<Arc<dyn Timed>> {
        let mut set = lock(&self.set);
        let all = (0..set.places.len()).filter_map(|place| set.remove(place)).collect();
        self.update(&mut set);
        all
    }

    fn update(&self, set: &mut Set) {
        let next = set.first().map_or(NONE, |(at, _)| at);
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
    fn a_deadline_comes_forward_only_and_leaves_the_first_one() {
        let deadlines = Deadlines::new();
        let objects: Vec<_> = (0..3).map(|_| Arc::new(Object(Timer::new()))).collect();
        assert!(set(&deadlines, &objects[0], 100));
        assert!(!set(&deadlines, &objects[1], 200));
        assert!(!set(&deadlines, &objects[0], 150), "it fires earlier already");
        assert!(set(&deadlines, &objects[1], 60) && set(&deadlines, &objects[1], 50));
        assert!(!set(&deadlines, &objects[2], 55));
        assert_eq!((deadlines.next(), lock(&deadlines.set).len()), (Some(at(50)), 3));
        assert!(deadlines.pop(at(49)).is_none());
        let fired = |object: usize, ns| {
            assert_eq!(deadlines.next(), Some(at(ns)));
            let popped = deadlines.pop(at(ns)).unwrap();
            assert!(std::ptr::eq(popped.timer(), objects[object].timer()));
        };
        fired(1, 50);
        assert!(!set(&deadlines, &objects[1], 300), "it fires at 200 already");
        fired(2, 55);
        fired(0, 100);
        fired(1, 200);
        assert!(deadlines.next().is_none());
        // After it has fired, it may be set again, later as well.
        assert!(set(&deadlines, &objects[1], 300) && set(&deadlines, &objects[1], 250));
        assert!(!set(&deadlines, &objects[0], 400));
        deadlines.clear(&objects[1].0);
        deadlines.clear(&objects[1].0);
        assert_eq!((deadlines.next(), Arc::strong_count(&objects[1])), (Some(at(400)), 1));
        assert_eq!(deadlines.take_all().len(), 1);
        assert!(deadlines.next().is_none() && set(&deadlines, &objects[0], 1000));
    }

    #[test]
    fn stale_entries_are_bounded_and_hold_no_object() {
        let deadlines = Deadlines::new();
        let objects: Vec<_> = (0..10).map(|_| Arc::new(Object(Timer::new()))).collect();
        for ns in (1000..10_000).rev() {
            for object in &objects {
                set(&deadlines, object, ns);
            }
            assert!(lock(&deadlines.set).heap.len() <= 3 * objects.len() + FEW);
        }
        objects.iter().take(5).for_each(|object| deadlines.clear(&object.0));
        assert!(objects.iter().take(5).all(|object| Arc::strong_count(object) == 1));
        // Those of others, in places of what was removed.
        objects.iter().take(5).for_each(|object| assert!(!set(&deadlines, object, 50_000)));
        let fired = |ns| std::iter::from_fn(|| deadlines.pop(at(ns))).count();
        assert_eq!((fired(999), fired(1000), fired(9998), fired(9999)), (0, 5, 0, 5));
        assert_eq!((fired(49_999), fired(50_000), fired(NONE - 1)), (0, 5, 0));
        assert!(lock(&deadlines.set).heap.is_empty() && deadlines.next().is_none());
    }
}
