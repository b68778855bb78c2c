//! Tasks without a thread of their own: they run on the thread of a socket's notification or of a deadline.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use wg_embed::sync::{lock, wait, wait_timeout};

use crate::notify::Notify;

/// The work of a [`Task`].
pub(crate) trait Machine: Send + Sync + 'static {
    /// Makes progress as far as possible without waiting. Never called on two threads at once, nor recursively.
    fn run(&self);
}

/// A [`Machine`] that runs when it is woken.
pub(crate) struct Task<M> {
    /// The number of wake-ups since it was last idle: one during a run causes another run.
    wakes: AtomicUsize,
    machine: M,
}

impl<M: Machine> Task<M> {
    /// Creates a task that has not yet run. `make` gets its waker.
    pub(crate) fn new(make: impl FnOnce(Waker) -> M) -> Arc<Self> {
        Arc::new_cyclic(|task: &Weak<Self>| {
            let machine = make(Waker(Weak::<Self>::clone(task)));
            Self { wakes: AtomicUsize::new(0), machine }
        })
    }

    /// Runs the task, on this thread or on the one where it is already running.
    pub(crate) fn wake(&self) {
        if self.wakes.fetch_add(1, Ordering::AcqRel) > 0 {
            return;
        }
        let mut seen = 1;
        loop {
            self.machine.run();
            match self.wakes.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Returns the machine.
    pub(crate) fn machine(&self) -> &M {
        &self.machine
    }
}

impl<M: Machine> Notify for Task<M> {
    fn notify(&self) {
        self.wake();
    }
}

/// Wakes a task while it exists, without keeping it alive.
#[derive(Clone)]
pub(crate) struct Waker(Weak<dyn Notify>);

impl Waker {
    /// Returns the waker as a socket's notifier.
    pub(crate) fn notifier(&self) -> Arc<dyn Notify> {
        Arc::new(self.clone())
    }

    /// Returns whether the task no longer exists.
    pub(crate) fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl Notify for Waker {
    fn notify(&self) {
        if let Some(task) = self.0.upgrade() {
            task.notify();
        }
    }
}

/// The notifier of a result, which is called once: immediately if there already is a result.
#[derive(Default)]
pub(crate) struct Told(Mutex<(bool, Option<Arc<dyn Notify>>)>);

impl Told {
    /// Replaces the notifier.
    pub(crate) fn set(&self, notify: Option<Arc<dyn Notify>>) {
        let now = {
            let mut told = lock(&self.0);
            if told.0 {
                notify
            } else {
                told.1 = notify;
                None
            }
        };
        if let Some(notify) = now {
            notify.notify();
        }
    }

    /// Reports that there is a result.
    pub(crate) fn tell(&self) {
        let notify = {
            let mut told = lock(&self.0);
            told.0 = true;
            told.1.take()
        };
        if let Some(notify) = notify {
            notify.notify();
        }
    }
}

/// A notifier for a waiting thread.
#[derive(Default)]
struct Signal {
    set: Mutex<bool>,
    changed: Condvar,
}

impl Notify for Signal {
    fn notify(&self) {
        *lock(&self.set) = true;
        self.changed.notify_one();
    }
}

/// Waits until `attempt` returns something other than `WouldBlock`, for at most `timeout`. `listen` sets the notifier.
///
/// It uses the system's time, whichever clock the stack has: nothing may drive the stack any more.
pub(crate) fn block<T>(
    timeout: Duration,
    listen: impl FnOnce(Arc<dyn Notify>),
    mut attempt: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    let end = Instant::now().checked_add(timeout);
    let signal = Arc::new(Signal::default());
    listen(Arc::<Signal>::clone(&signal));
    loop {
        match attempt() {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
        let mut set = lock(&signal.set);
        while !*set {
            set = match end.map(|end| end.saturating_duration_since(Instant::now())) {
                None => wait(&signal.changed, set),
                Some(Duration::ZERO) => return Err(io::ErrorKind::TimedOut.into()),
                Some(left) => wait_timeout(&signal.changed, set, left),
            };
        }
        *set = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{OnceLock, atomic::AtomicBool};

    #[derive(Default)]
    struct Nested {
        waker: OnceLock<Waker>,
        inside: AtomicBool,
        runs: AtomicUsize,
    }

    impl Machine for Nested {
        fn run(&self) {
            assert!(!self.inside.swap(true, Ordering::SeqCst), "runs are never nested");
            if self.runs.fetch_add(1, Ordering::SeqCst) == 0 {
                self.waker.get().unwrap().notify();
            }
            self.inside.store(false, Ordering::SeqCst);
        }
    }

    fn nested() -> Arc<Task<Nested>> {
        Task::new(|waker| {
            let nested = Nested::default();
            nested.waker.get_or_init(|| waker);
            nested
        })
    }

    #[test]
    fn a_wake_during_a_run_makes_one_more_run() {
        let task = nested();
        task.wake();
        assert_eq!(task.machine().runs.load(Ordering::SeqCst), 2);
        task.wake();
        assert_eq!(task.machine().runs.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn wakes_from_many_threads_are_serial_and_none_is_lost() {
        let task = nested();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| task.wake()));
            }
        });
        let before = task.machine().runs.load(Ordering::SeqCst);
        assert!(before >= 2);
        task.wake();
        assert_eq!(task.machine().runs.load(Ordering::SeqCst), before + 1);
    }

    #[test]
    fn a_waker_does_not_keep_its_task() {
        let task = nested();
        let waker = task.machine().waker.get().unwrap().clone();
        assert!(!waker.is_gone());
        drop(task);
        assert!(waker.is_gone());
        waker.notify();
    }

    #[test]
    fn whoever_listens_late_is_told_at_once() {
        let told = Told::default();
        let count = Arc::new(AtomicUsize::new(0));
        let notify = || -> Option<Arc<dyn Notify>> {
            let count = Arc::clone(&count);
            Some(Arc::new(move || {
                count.fetch_add(1, Ordering::SeqCst);
            }))
        };
        told.set(notify());
        assert_eq!(count.load(Ordering::SeqCst), 0);
        told.tell();
        told.tell();
        assert_eq!(count.load(Ordering::SeqCst), 1);
        told.set(notify());
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_waiting_thread_goes_on_when_it_is_notified() {
        let ready = AtomicBool::new(false);
        let (to_thread, from_test) = std::sync::mpsc::channel::<Arc<dyn Notify>>();
        std::thread::scope(|scope| {
            let ready = &ready;
            scope.spawn(move || {
                let notify = from_test.recv().unwrap();
                notify.notify(); // without a reason
                ready.store(true, Ordering::SeqCst);
                notify.notify();
            });
            let attempt = || match ready.load(Ordering::SeqCst) {
                true => Ok(7),
                false => Err(io::ErrorKind::WouldBlock.into()),
            };
            let seven = block(Duration::MAX, |notify| to_thread.send(notify).unwrap(), attempt);
            assert_eq!(seven.unwrap(), 7);
        });
        let never = block(Duration::ZERO, drop, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        assert_eq!(never.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
