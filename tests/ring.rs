//! The ring of jobs, with all orders in which its threads may run: the same source as the library's, but with the locks
//! of loom.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))] // As for loom in Cargo.toml.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, unreachable_pub, dead_code, reason = "a test")]

#[path = "../src/device/ring.rs"]
mod ring;

/// Takes the place of the library's module.
mod sync {
    use std::sync::PoisonError;

    pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};

    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }
}

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
};

use loom::{model::Builder, thread};
use ring::{Bell, Next, Ring, Taken};
use sync::{Mutex, lock};

/// A job: its number, and whether its first part was done.
type Job = (u32, bool);

/// What the threads share.
struct Shared {
    ring: Ring<Job>,
    bell: Bell,
    /// The number of the next job of several threads that add.
    order: Mutex<u32>,
    /// The jobs that were finished.
    finished: Mutex<Vec<Job>>,
}

impl Shared {
    fn new(jobs: usize) -> Arc<Self> {
        Self::with_adders(jobs, 1)
    }

    fn with_adders(jobs: usize, adders: usize) -> Arc<Self> {
        let (ring, bell) = (Ring::default(), Bell::default());
        let shared = Self { ring, bell, order: Mutex::new(0), finished: Mutex::new(Vec::new()) };
        shared.ring.supply(jobs, adders, || Ok((0, false))).unwrap();
        Arc::new(shared)
    }

    fn finish(&self) {
        self.ring.finish(|job| lock(&self.finished).push(*job));
    }

    fn do_part(&self, next: Next<'_, Job>) {
        if let Next::Help(taken) = next {
            taken.work(|job| job.1 = true);
        }
        self.finish();
    }

    /// Starts a thread that passes a job to `body`, if it gets one.
    fn take_one(self: &Arc<Self>, body: fn(&Self, Taken<'_, Job>)) -> thread::JoinHandle<()> {
        let shared = self.clone();
        thread::spawn(move || {
            if let Some(taken) = shared.ring.take() {
                body(&shared, taken);
            }
        })
    }

    /// Adds a job, and waits for a free one, as the thread of a direction does.
    fn pass(&self, number: u32) {
        self.ring.add((number, false));
        self.bell.ring();
        while let Some(next) = self.ring.next() {
            match next {
                Next::Fill(_) => return,
                next => self.do_part(next),
            }
        }
        panic!("no job is left");
    }

    /// Seals a job and finishes those that were added until now, as the thread of a queue does.
    fn do_part_and_return(&self, next: Next<'_, Job>) {
        if let Next::Help(taken) = next {
            taken.work(|job| job.1 = true);
        }
        self.ring.finish_first(self.ring.added(), |job| lock(&self.finished).push(*job));
    }

    /// Adds `number` jobs, while other threads do so, and returns when there is nothing left for it to do.
    fn add_among_others(&self, number: u32) {
        for _ in 0..number {
            {
                let mut next = lock(&self.order);
                self.ring.add((*next, false));
                *next += 1;
            }
            if let Some(taken) = self.ring.take() {
                self.do_part_and_return(Next::Help(taken));
            }
            while let Some(next) = self.ring.next() {
                match next {
                    Next::Fill(_) => break,
                    next => self.do_part_and_return(next),
                }
            }
        }
        loop {
            self.do_part_and_return(self.ring.take().map_or(Next::Finish, Next::Help));
            if !self.ring.is_left() {
                return;
            }
        }
    }

    fn rest(&self) {
        let added = self.ring.added();
        while let Some(next) = self.ring.rest(added) {
            self.do_part(next);
        }
        assert!(self.ring.is_idle());
    }

    /// Runs a worker until the bell is closed.
    fn work(&self) {
        loop {
            let seen = self.bell.calls();
            match self.ring.take() {
                Some(taken) => self.do_part(Next::Help(taken)),
                None if self.bell.sleep(seen) => {}
                None => return,
            }
        }
    }
}

/// Runs `test` in all orders with at most this many switches at points where a thread could have gone on.
fn in_all_orders(preemptions: usize, test: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(test);
}

/// With workers that sleep when there is nothing to do. `jobs` are free; one more is with the thread that fills them.
fn all_are_finished_in_order(preemptions: usize, workers: usize, jobs: usize, number: u32) {
    in_all_orders(preemptions, move || {
        let shared = Shared::new(jobs);
        let workers: Vec<_> = (0..workers)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || shared.work())
            })
            .collect();
        (0..number).for_each(|n| shared.pass(n));
        shared.rest();
        assert_eq!(*lock(&shared.finished), (0..number).map(|n| (n, true)).collect::<Vec<_>>());
        shared.bell.close();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    });
}

#[test]
fn one_worker_and_the_thread_that_adds() {
    all_are_finished_in_order(3, 1, 2, 3);
}

#[test]
fn two_workers_and_few_jobs() {
    all_are_finished_in_order(2, 2, 1, 2);
}

/// Each of them sleeps when it has nothing more to add: no job is left behind.
#[test]
fn several_threads_add_jobs() {
    for (preemptions, threads, each, jobs) in [(3, 2, 1, 1), (2, 2, 2, 1), (2, 2, 2, 2), (1, 3, 1, 1)] {
        in_all_orders(preemptions, move || {
            let shared = Shared::with_adders(jobs, threads);
            let others: Vec<_> = (1..threads)
                .map(|_| {
                    let shared = shared.clone();
                    thread::spawn(move || shared.add_among_others(each))
                })
                .collect();
            shared.add_among_others(each);
            others.into_iter().for_each(|other| other.join().unwrap());
            let all = threads as u32 * each;
            assert_eq!(*lock(&shared.finished), (0..all).map(|n| (n, true)).collect::<Vec<_>>());
        });
    }
}

/// Under load there is always one: a thread that waited for all would help the other one for ever.
#[test]
fn jobs_that_another_thread_adds_meanwhile_are_not_waited_for() {
    in_all_orders(0, || {
        let shared = Shared::new(0);
        shared.ring.add((0, false));
        let (added, mut last) = (shared.ring.added(), 0);
        while let Some(next) = shared.ring.rest(added) {
            last += 1;
            assert!(last <= added as u32, "it goes on for ever");
            shared.ring.add((last, false));
            shared.do_part(next);
        }
        assert_eq!(*lock(&shared.finished), [(0, true)]);
    });
}

/// The thread that adds them does nothing else: each job wakes the worker.
#[test]
fn no_call_of_the_bell_is_lost() {
    in_all_orders(3, || {
        let shared = Shared::new(2);
        let worker = {
            let shared = shared.clone();
            thread::spawn(move || shared.work())
        };
        for n in 0..2 {
            shared.ring.add((n, false));
            shared.bell.ring();
        }
        // Before it returns, a worker does what is left.
        shared.bell.close();
        worker.join().unwrap();
        assert_eq!(*lock(&shared.finished), [(0, true), (1, true)]);
    });
}

#[test]
fn a_panic_loses_its_job_only() {
    in_all_orders(2, || {
        let shared = Shared::new(2);
        shared.ring.add((0, false));
        let worker = shared.take_one(|_, taken| {
            let panicked = catch_unwind(AssertUnwindSafe(|| taken.work(|_| resume_unwind(Box::new(())))));
            assert!(panicked.is_err());
        });
        shared.pass(1);
        shared.rest();
        worker.join().unwrap();
        // The thread may have taken one of them, or have come too late.
        let finished = lock(&shared.finished);
        let lost = 2 - finished.len();
        assert!(lost <= 1 && finished.iter().all(|job| job.1) && finished.is_sorted(), "{finished:?}");
    });
}

#[test]
fn a_panic_at_the_end_of_a_job_gives_the_token_back() {
    in_all_orders(2, || {
        let shared = Shared::new(2);
        shared.ring.add((0, false));
        let worker = shared.take_one(|shared, taken| {
            taken.work(|job| job.1 = true);
            let last = |job: &mut Job| {
                if job.0 == 0 {
                    resume_unwind(Box::new(()))
                }
            };
            let _ = catch_unwind(AssertUnwindSafe(|| shared.ring.finish(last)));
        });
        shared.pass(1);
        worker.join().unwrap();
        shared.rest();
    });
}
