//! The system's resolver, on threads that no tunnel waits for.
//!
//! `getaddrinfo` blocks for an unlimited time, and cannot be interrupted. For a thread of a [`Resolver`], which must
//! end with its tunnel, it is therefore called on another thread, and abandoned if the tunnel is stopped. That thread
//! later ends on its own: it has only a host name and an [`Interrupt`], and nothing of a tunnel or an app.
//!
//! [`Resolver`]: super::resolver::Resolver

use std::{
    cell::RefCell,
    collections::VecDeque,
    net::{IpAddr, ToSocketAddrs},
    panic::catch_unwind,
    sync::{Arc, Condvar, Mutex},
};

use tracing::Dispatch;

use super::lock;
use crate::{
    error::{Error, ErrorKind, Result},
    process::PerProcess,
    sync,
    thread::{self, Owner},
};

/// The maximum number of concurrent look-ups in the process; further ones wait. Those of ended tunnels count.
const MAX_THREADS: usize = 16;

/// cbindgen:ignore
type Found = Result<Vec<IpAddr>>;

/// Resolves a name by the system: `getaddrinfo`, in its order, each address once.
///
/// On a thread of a tunnel it returns when the tunnel is stopped, even without a result of the system.
///
/// # Errors
/// Errors of the system; `Closed` if the tunnel is stopped.
pub fn resolve_with_system(host: &str) -> Found {
    // A thread that is ending is not one of ours.
    match CALLER.try_with(|caller| caller.borrow().clone()).unwrap_or(None) {
        Some(interrupt) => interrupt.wait_for(host, ask_system),
        None => ask_system(host),
    }
}

fn ask_system(host: &str) -> Found {
    let found = (host, 0).to_socket_addrs().map_err(|e| Error::io(format!("cannot resolve {host}"), e))?;
    let mut ips = Vec::new();
    for ip in found.map(|address| address.ip()) {
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    Ok(ips)
}

thread_local! {
    /// Ends look-ups on this thread early.
    static CALLER: RefCell<Option<Arc<Interrupt>>> = const { RefCell::new(None) };
}

/// The place where a thread waits for a look-up, until it is stopped.
#[derive(Default)]
pub(super) struct Interrupt {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stopped: bool,
    found: Option<Found>,
}

impl Interrupt {
    /// Ends look-ups on this thread when this is stopped.
    pub(super) fn guard_thread(self: &Arc<Self>) {
        CALLER.set(Some(self.clone()));
    }

    /// Ends the look-up in progress and all later ones.
    pub(super) fn stop(&self) {
        lock(&self.state).stopped = true;
        self.changed.notify_all();
    }

    fn is_stopped(&self) -> bool {
        lock(&self.state).stopped
    }

    /// Looks a name up; one call at a time.
    fn wait_for(self: &Arc<Self>, host: &str, find: fn(&str) -> Found) -> Found {
        submit(Job { host: host.into(), find, interrupt: self.clone() })?;
        let mut state = lock(&self.state);
        loop {
            if state.stopped {
                return Err(Error::new(ErrorKind::Closed, format!("cannot resolve {host}: the tunnel was stopped")));
            }
            if let Some(found) = state.found.take() {
                return found;
            }
            state = sync::wait(&self.changed, state);
        }
    }

    fn answer(&self, found: Found) {
        let mut state = lock(&self.state);
        if !state.stopped {
            state.found = Some(found);
            self.changed.notify_all();
        }
    }
}

struct Job {
    host: Box<str>,
    find: fn(&str) -> Found,
    interrupt: Arc<Interrupt>,
}

/// All look-ups of the process.
#[derive(Default)]
struct Pool {
    waiting: VecDeque<Job>,
    threads: usize,
}

static POOL: PerProcess<Mutex<Pool>> = PerProcess::new();

fn submit(job: Job) -> Result<()> {
    let mut pool = lock(POOL.get());
    // Stopped look-ups are no longer needed.
    pool.waiting.retain(|job| !job.interrupt.is_stopped());
    if pool.threads < MAX_THREADS {
        // Without a log: that of this thread may belong to a tunnel that has ended by then.
        let start = || thread::spawn("wg-lookup", Owner::unique(), work);
        match tracing::dispatcher::with_default(&Dispatch::none(), start) {
            Ok(_) => pool.threads += 1,
            // The job waits for one of the other threads.
            Err(_) if pool.threads > 0 => {}
            Err(err) => {
                let text = format!("cannot resolve {}: cannot start the thread wg-lookup: {err}", job.host);
                return Err(Error::new(ErrorKind::Resources, text));
            }
        }
    }
    pool.waiting.push_back(job);
    Ok(())
}

/// Runs jobs on a thread.
fn work() {
    while let Some(Job { host, find, interrupt }) = next() {
        if !interrupt.is_stopped() {
            let panicked = |_| Err(Error::new(ErrorKind::Panic, "internal error: a panic was caught"));
            interrupt.answer(catch_unwind(|| find(&host)).unwrap_or_else(panicked));
        }
    }
}

/// Returns the next job; without one the thread ends.
fn next() -> Option<Job> {
    let mut pool = lock(POOL.get());
    let job = pool.waiting.pop_front();
    if job.is_none() {
        pool.threads -= 1;
    }
    job
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::{
        collections::BTreeSet,
        net::Ipv4Addr,
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        thread,
        time::{Duration, Instant},
    };

    const FOUND: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// Look-ups that hang until the gate is opened.
    static GATE: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());
    static HANGING: AtomicUsize = AtomicUsize::new(0);
    static NAMES: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

    fn hangs(host: &str) -> Found {
        // The name first: who has counted all of them reads the names.
        lock(&NAMES).insert(host.to_owned());
        HANGING.fetch_add(1, SeqCst);
        let _opened = GATE.1.wait_while(lock(&GATE.0), |is_open| !*is_open).unwrap();
        Ok(vec![FOUND])
    }

    fn until(condition: impl Fn() -> bool) {
        let begin = Instant::now();
        while !condition() {
            assert!(begin.elapsed() < Duration::from_secs(60), "it never comes true");
            thread::yield_now();
        }
    }

    #[test]
    fn whoever_is_stopped_waits_for_no_look_up_and_hanging_ones_are_bounded() {
        let asking: Vec<_> = (0..MAX_THREADS + 3)
            .map(|i| {
                let interrupt = Arc::new(Interrupt::default());
                let asked = interrupt.clone();
                (interrupt, thread::spawn(move || asked.wait_for(&format!("host{i}"), hangs)))
            })
            .collect();
        until(|| HANGING.load(SeqCst) == MAX_THREADS && lock(POOL.get()).waiting.len() == 3);
        let begun = lock(&NAMES).clone();
        let mut waits = None;
        for (i, (interrupt, thread)) in asking.into_iter().enumerate() {
            if waits.is_none() && !begun.contains(&format!("host{i}")) {
                waits = Some(thread);
                continue;
            }
            interrupt.stop();
            assert_eq!(thread.join().unwrap().unwrap_err().kind(), ErrorKind::Closed);
            assert_eq!(interrupt.wait_for("again", hangs).unwrap_err().kind(), ErrorKind::Closed);
        }
        assert_eq!(HANGING.load(SeqCst), MAX_THREADS, "no more threads than that");
        *lock(&GATE.0) = true;
        GATE.1.notify_all();
        assert_eq!(waits.unwrap().join().unwrap().unwrap(), [FOUND]);
        until(|| lock(POOL.get()).threads == 0);
        assert_eq!(HANGING.load(SeqCst), MAX_THREADS + 1, "what was stopped before it began is not looked up");
        assert!(lock(POOL.get()).waiting.is_empty());

        // A panic is an answer, and its thread goes on.
        let interrupt = Arc::new(Interrupt::default());
        assert_eq!(interrupt.wait_for("panic", |_| panic!("it must be caught")).unwrap_err().kind(), ErrorKind::Panic);
        until(|| lock(POOL.get()).threads == 0);
    }

    #[test]
    fn the_system_knows_this_host() {
        let found = resolve_with_system("localhost").unwrap();
        assert!(found.iter().any(IpAddr::is_loopback), "{found:?}");
        let failed = resolve_with_system("no such host").unwrap_err().to_string();
        assert!(failed.starts_with("cannot resolve no such host: "), "{failed}");
    }
}
