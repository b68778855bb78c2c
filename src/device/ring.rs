//! Jobs that several threads work on, and that are finished in the order in which they were added.
//!
//! One thread adds jobs, or several, one at a time. Any thread takes the oldest one that no other has, and does the
//! part of it that depends on nothing else. After that, a thread takes the token of the tail, unless another thread has
//! it, and finishes all jobs from the oldest one on that are done: one after the other, so in order. Then they are free
//! to be added again.
//!
//! The lock is held for a few instructions at a time, a handful of times a job, and a job is a hundred packets. The
//! tests of this module run under loom, in `tests/ring.rs`.

use std::{collections::VecDeque, io};

use crate::sync::{Condvar, Mutex, MutexGuard, lock, wait};

/// The jobs of one direction.
pub(crate) struct Ring<J> {
    state: Mutex<State<J>>,
    /// Notified when a thread that waits may continue.
    changed: Condvar,
}

struct State<J> {
    /// Jobs that were added and not finished, oldest first.
    places: VecDeque<Place<J>>,
    /// The number of the first place: places are counted from the beginning.
    first: u64,
    /// Jobs to be filled.
    free: Vec<J>,
    /// Whether a thread has the token of the tail.
    is_finishing: bool,
    /// The number of threads that wait.
    waiting: usize,
}

enum Place<J> {
    Filled(J),
    Taken,
    /// `None` if the thread that had it has panicked.
    Done(Option<J>),
}

/// A job of which this thread does its part. If it is dropped, by a panic, the job is lost, and does not hold up those
/// behind it.
pub(crate) struct Taken<'r, J> {
    ring: &'r Ring<J>,
    number: u64,
    job: Option<J>,
}

/// What the thread that adds jobs does next.
pub(crate) enum Next<'r, J> {
    /// Fills this one.
    Fill(J),
    /// Does the part of this job itself, because no job can be filled.
    Help(Taken<'r, J>),
    /// [Finishes](Ring::finish) those that are done, which no other thread does.
    Finish,
}

impl<J> Default for Ring<J> {
    fn default() -> Self {
        let state = State { places: VecDeque::new(), first: 0, free: Vec::new(), is_finishing: false, waiting: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }
}

impl<J> Ring<J> {
    /// Adds free jobs, to an idle ring. `adders` threads have one more each, which they fill and add.
    ///
    /// # Errors
    /// `OutOfMemory`, and errors of `make`; the ring is then without jobs.
    pub(crate) fn supply(&self, number: usize, adders: usize, make: impl Fn() -> io::Result<J>) -> io::Result<()> {
        let (mut free, mut places) = (Vec::new(), VecDeque::new());
        free.try_reserve_exact(number + adders)?;
        places.try_reserve_exact(number + adders)?;
        for _ in 0..number {
            free.push(make()?);
        }
        let mut state = lock(&self.state);
        (state.free, state.places) = (free, places);
        Ok(())
    }

    /// Drops the free jobs; to be called while the ring is idle.
    pub(crate) fn clear(&self) {
        let mut state = lock(&self.state);
        let jobs = (std::mem::take(&mut state.free), std::mem::take(&mut state.places));
        drop(state);
        drop(jobs);
    }

    /// Adds a job that is filled.
    pub(crate) fn add(&self, job: J) {
        let mut state = lock(&self.state);
        state.places.push_back(Place::Filled(job));
        // A thread that waits for the others would help.
        self.tell(&state);
    }

    /// Takes the oldest job that no thread has taken; `None` if every job is taken.
    pub(crate) fn take(&self) -> Option<Taken<'_, J>> {
        self.take_of(&mut lock(&self.state))
    }

    fn take_of(&self, state: &mut State<J>) -> Option<Taken<'_, J>> {
        let at = state.places.iter().position(|place| matches!(place, Place::Filled(_)))?;
        let Place::Filled(job) = std::mem::replace(&mut state.places[at], Place::Taken) else { return None };
        Some(Taken { ring: self, number: state.first + at as u64, job: Some(job) })
    }

    /// Returns a free job, or else what helps to get one; waits while other threads do all that can be done. `None` if
    /// all jobs were lost by panics.
    pub(crate) fn next(&self) -> Option<Next<'_, J>> {
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = state.free.pop() {
                return Some(Next::Fill(job));
            }
            if let Some(next) = self.help(&mut state) {
                return Some(next);
            }
            if state.is_idle() {
                return None;
            }
            state = self.wait(state);
        }
    }

    /// Returns the number of jobs that were added so far.
    pub(crate) fn added(&self) -> u64 {
        let state = lock(&self.state);
        state.first + state.places.len() as u64
    }

    /// Returns what helps to finish the first `number` jobs; waits while other threads do all that can be done. `None`
    /// if these are finished.
    pub(crate) fn rest(&self, number: u64) -> Option<Next<'_, J>> {
        let mut state = lock(&self.state);
        loop {
            if state.has_finished(number) {
                return None;
            }
            if let Some(next) = self.help(&mut state) {
                return Some(next);
            }
            state = self.wait(state);
        }
    }

    fn help(&self, state: &mut State<J>) -> Option<Next<'_, J>> {
        if state.is_done() && !state.is_finishing {
            return Some(Next::Finish);
        }
        self.take_of(state).map(Next::Help)
    }

    /// Returns whether all jobs are finished.
    pub(crate) fn is_idle(&self) -> bool {
        lock(&self.state).is_idle()
    }

    /// Finishes the oldest jobs that are done, in order, unless another thread does that.
    pub(crate) fn finish(&self, last: impl FnMut(&mut J)) {
        self.finish_first(u64::MAX, last);
    }

    /// Finishes jobs like [`finish`](Self::finish), but only the first `number` of those that were ever added: a thread
    /// that has other work is not kept here by threads that go on adding. Before it sleeps, it must find that none
    /// [is left](Self::is_left) to it.
    pub(crate) fn finish_first(&self, number: u64, mut last: impl FnMut(&mut J)) {
        /// Gives the token back, also if `last` panics.
        struct Token<'r, J>(&'r Ring<J>, Option<J>);
        impl<J> Drop for Token<'_, J> {
            fn drop(&mut self) {
                let mut state = lock(&self.0.state);
                state.is_finishing = false;
                state.free.extend(self.1.take());
                self.0.tell(&state);
            }
        }
        loop {
            let mut state = lock(&self.state);
            if state.is_finishing || !state.is_done() || state.first >= number {
                return;
            }
            state.is_finishing = true;
            state.first += 1;
            let Some(Place::Done(job)) = state.places.pop_front() else { return };
            drop(state);
            let mut token = Token(self, None);
            if let Some(mut job) = job {
                last(&mut job);
                token.1 = Some(job);
            }
        }
    }

    /// Returns whether the oldest job is to be finished, and no thread does that.
    pub(crate) fn is_left(&self) -> bool {
        let state = lock(&self.state);
        state.is_done() && !state.is_finishing
    }

    fn wait<'a>(&self, mut state: MutexGuard<'a, State<J>>) -> MutexGuard<'a, State<J>> {
        state.waiting += 1;
        let mut state = wait(&self.changed, state);
        state.waiting -= 1;
        state
    }

    fn tell(&self, state: &State<J>) {
        if state.waiting > 0 {
            self.changed.notify_all();
        }
    }
}

impl<J> State<J> {
    fn is_idle(&self) -> bool {
        self.places.is_empty() && !self.is_finishing
    }

    /// Returns whether the first `number` jobs are finished.
    fn has_finished(&self, number: u64) -> bool {
        // The job that is being finished has no place any more.
        self.first - u64::from(self.is_finishing) >= number
    }

    /// Returns whether the oldest job is to be finished.
    fn is_done(&self) -> bool {
        matches!(self.places.front(), Some(Place::Done(_)))
    }
}

impl<J> Taken<'_, J> {
    /// Does this thread's part. The job is then done, and to be [finished](Ring::finish).
    pub(crate) fn work(mut self, work: impl FnOnce(&mut J)) {
        if let Some(mut job) = self.job.take() {
            work(&mut job);
            self.job = Some(job);
        }
    }
}

impl<J> Drop for Taken<'_, J> {
    fn drop(&mut self) {
        let mut state = lock(&self.ring.state);
        let at = (self.number - state.first) as usize;
        if let Some(place) = state.places.get_mut(at) {
            *place = Place::Done(self.job.take());
        }
        self.ring.tell(&state);
    }
}

/// Wakes the threads that help. No call is lost between a look for work and the sleep that follows it.
#[derive(Default)]
pub(crate) struct Bell {
    state: Mutex<BellState>,
    rung: Condvar,
}

#[derive(Default)]
struct BellState {
    calls: u64,
    sleeping: usize,
    is_closed: bool,
}

impl Bell {
    /// Wakes a thread that sleeps.
    pub(crate) fn ring(&self) {
        let mut state = lock(&self.state);
        state.calls += 1;
        if state.sleeping > 0 {
            self.rung.notify_one();
        }
    }

    /// Makes all threads return that find no more work.
    pub(crate) fn close(&self) {
        lock(&self.state).is_closed = true;
        self.rung.notify_all();
    }

    /// Returns the number of calls so far, to be read before looking for work.
    pub(crate) fn calls(&self) -> u64 {
        lock(&self.state).calls
    }

    /// Sleeps until there are more calls than `seen`. Returns false if the bell is closed before the next call.
    pub(crate) fn sleep(&self, seen: u64) -> bool {
        let mut state = lock(&self.state);
        while state.calls == seen {
            if state.is_closed {
                return false;
            }
            state.sleeping += 1;
            state = wait(&self.rung, state);
            state.sleeping -= 1;
        }
        true
    }
}
