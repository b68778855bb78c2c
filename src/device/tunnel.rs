//! A device with its two threads: how they start and end.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::{Device, Event, MemoryUsage, Options, lock, threads::Threads};
use crate::{
    bind::Bind,
    error::{Error, ErrorKind, Result},
    sync,
    thread::{self, Owner},
    tun::Tun,
};

/// A running tunnel. Dropping it stops it.
pub struct Tunnel {
    shared: Arc<Shared>,
    /// Of the tunnel's own threads. They never take `handles`: a thread that waits for them holds it.
    owner: Owner,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    threads: Threads,
    /// Why the tunnel has ended; set once.
    ended: Mutex<Option<String>>,
    ended_changed: Condvar,
    /// It is being stopped, and its TUN is to report its end first.
    leaving: AtomicBool,
}

impl Tunnel {
    /// Makes a device and starts its threads. It is down until its TUN or [`Device::up`] says otherwise.
    ///
    /// # Errors
    /// `Resources` if a thread cannot be started.
    pub fn start(tun: Arc<dyn Tun>, bind: Arc<dyn Bind>, options: Options) -> Result<Self> {
        Self::start_with(tun, bind, options, |_| Ok(()))
    }

    /// As [`start`](Self::start), but `prepare` has the device before there are threads: with a configuration applied
    /// and the device up by then, no socket is opened on a port that was not asked for.
    ///
    /// # Errors
    /// As `prepare` says, or `Resources` if a thread cannot be started.
    pub fn start_with(
        tun: Arc<dyn Tun>,
        bind: Arc<dyn Bind>,
        options: Options,
        prepare: impl FnOnce(&Device) -> Result<()>,
    ) -> Result<Self> {
        let threads = Threads::new(tun, bind, options);
        let shared = Arc::new(Shared {
            threads,
            ended: Mutex::default(),
            ended_changed: Condvar::new(),
            leaving: AtomicBool::new(false),
        });
        let tunnel = Self { shared, owner: Owner::unique(), handles: Mutex::default() };
        prepare(tunnel.device())?;
        tunnel.shared.threads.make_buffers().map_err(|e| Error::io("cannot start a tunnel", e))?;
        tunnel.spawn("wg-outbound", Threads::outbound)?;
        tunnel.spawn("wg-tunnel", Threads::tunnel)?;
        Ok(tunnel)
    }

    fn spawn(&self, name: &str, body: fn(&Threads) -> io::Result<()>) -> Result<()> {
        let shared = self.shared.clone();
        let thread = thread::spawn(name, self.owner, move || {
            let reason = match catch_unwind(AssertUnwindSafe(|| body(&shared.threads))) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "internal error: a panic was caught".into(),
            };
            shared.end(reason);
        });
        let thread =
            thread.map_err(|e| Error::new(ErrorKind::Resources, format!("cannot start the thread {name}: {e}")))?;
        lock(&self.handles).push(thread);
        Ok(())
    }

    /// The device that runs.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.shared.threads.device
    }

    /// What the tunnel takes of the process's memory. The time that this takes is in proportion to the number of peers.
    #[must_use]
    pub fn memory_usage(&self) -> MemoryUsage {
        self.shared.threads.memory_usage()
    }

    /// Gives back memory that is not needed now, without waiting for what the threads do at this moment. What is needed
    /// again later is allocated again then.
    pub fn trim(&self) {
        self.shared.threads.trim();
    }

    /// Stops all traffic without ending the tunnel: the sockets are closed, the sessions forgotten, and neither the TUN
    /// nor a timer wakes a thread, until [`resume`](Self::resume). The configuration may be changed during the pause.
    /// Idempotent.
    ///
    /// When this returns, no call on the TUN or the bind is under way. So it cannot be called from inside one, except
    /// on the tunnel's own threads, where that is not waited for.
    pub fn pause(&self) {
        self.device().transition().pause();
        // A thread of ours may be inside a call, and would wait for itself.
        if !self.owner.is_current() {
            self.device().in_flight.wait();
        }
    }

    /// Whether it is paused: then nothing is read from the TUN.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.device().tun_paused()
    }

    /// Goes on after [`pause`](Self::pause), with new sockets and, for each peer that there was a session with, a new
    /// handshake. Does nothing if it is not paused.
    ///
    /// # Errors
    /// If the sockets cannot be opened now. The tunnel goes on and tries again, as after [`Device::keep_up`].
    pub fn resume(&self) -> Result<()> {
        let device = self.device();
        // What became of the interface during the pause comes first.
        device.handle_tun_events();
        device.resume()
    }

    /// Waits until the tunnel has ended by itself, for example because its interface was removed, and returns why;
    /// or until it is stopped.
    #[must_use]
    pub fn wait(&self) -> String {
        let mut ended = lock(&self.shared.ended);
        loop {
            if let Some(reason) = &*ended {
                return reason.clone();
            }
            ended = sync::wait(&self.shared.ended_changed, ended);
        }
    }

    /// Stops a tunnel with its TUN: `close` has the TUN report its end once it has nothing more to be read. That is
    /// waited for, `patience` at most, so that its last packets leave. No event tells of an end like this.
    ///
    /// # Errors
    /// As [`stop`](Self::stop).
    pub fn stop_with_tun(&self, close: impl FnOnce(), patience: Duration) -> Result<()> {
        self.shared.leaving.store(true, Ordering::Relaxed);
        close();
        if !self.owner.is_current() {
            let ended = lock(&self.shared.ended);
            let is_running = |ended: &mut Option<String>| ended.is_none();
            drop(sync::wait_timeout_while(&self.shared.ended_changed, ended, patience, is_running));
        }
        self.stop()
    }

    /// Stops the threads and waits for them, for a look-up of a host name too, and closes the sockets. Idempotent.
    ///
    /// # Errors
    /// `Busy` on one of the tunnel's own threads, which cannot wait for itself.
    pub fn stop(&self) -> Result<()> {
        if self.owner.is_current() || self.device().is_resolver_thread() {
            return Err(Error::new(ErrorKind::Busy, "a tunnel cannot be stopped from one of its own threads"));
        }
        self.shared.stop("stopped".into());
        for thread in lock(&self.handles).drain(..) {
            // A thread's panic was caught inside it.
            let _ = thread.join();
        }
        self.device().down();
        self.device().stop_resolving();
        self.device().tell_events();
        Ok(())
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        // It may be dropped while a panic unwinds: another one would end the process.
        let stopped = catch_unwind(AssertUnwindSafe(|| self.stop()));
        if !matches!(stopped, Ok(Ok(()))) {
            // The last owner is one of the threads; they end by themselves.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                self.shared.stop("dropped".into());
                self.shared.threads.device.down();
            }));
        }
    }
}

impl Shared {
    /// Makes both threads return. Returns whether they were running until now.
    fn stop(&self, reason: String) -> bool {
        let first = self.threads.stop();
        self.threads.device.events.stop_waiting();
        if first {
            *lock(&self.ended) = Some(reason);
            self.ended_changed.notify_all();
        }
        first
    }

    /// A thread cannot go on.
    fn end(&self, reason: String) {
        if self.stop(reason.clone()) {
            if self.leaving.load(Ordering::Relaxed) {
                return self.threads.device.down();
            }
            tracing::error!(reason, "the tunnel has ended");
            self.threads.device.down();
            self.threads.device.events.note(Event::Ended(reason));
            self.threads.device.tell_events();
        }
    }
}
