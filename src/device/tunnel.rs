//! A device and its two threads.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, ThreadId},
};

use super::{Device, Event, Inbound, Options, Outbound, lock};
use crate::{
    bind::Bind,
    error::{Error, ErrorKind, Result},
    tun::Tun,
};

/// The threads' stacks: what they work in lies elsewhere.
const STACK: usize = 256 * 1024;

/// A running tunnel. Dropping it stops it.
pub struct Tunnel {
    shared: Arc<Shared>,
    /// The tunnel's own threads. They never take `threads`: whoever waits for them holds it.
    own: Vec<ThreadId>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    device: Device,
    tun: Arc<dyn Tun>,
    bind: Arc<dyn Bind>,
    stopping: AtomicBool,
    /// Why the tunnel has ended; set once.
    ended: Mutex<Option<String>>,
    ended_changed: Condvar,
}

impl Tunnel {
    /// Makes a device and starts its threads. It is down until its TUN or [`Device::up`] says otherwise.
    ///
    /// # Errors
    /// `Resources` if a thread cannot be started.
    pub fn start(tun: Arc<dyn Tun>, bind: Arc<dyn Bind>, options: Options) -> Result<Self> {
        Self::start_with(tun, bind, options, |_| Ok(()))
    }

    /// As [`start`](Self::start), but `prepare` has the device before there are threads: with a configuration applied and
    /// the device up by then, no socket is opened on a port that nobody asked for.
    ///
    /// # Errors
    /// As `prepare` says, or `Resources` if a thread cannot be started.
    pub fn start_with(
        tun: Arc<dyn Tun>,
        bind: Arc<dyn Bind>,
        options: Options,
        prepare: impl FnOnce(&Device) -> Result<()>,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            device: Device::new(tun.clone(), bind.clone(), options),
            tun,
            bind,
            stopping: AtomicBool::new(false),
            ended: Mutex::default(),
            ended_changed: Condvar::new(),
        });
        let mut tunnel = Self { shared, own: Vec::new(), threads: Mutex::default() };
        prepare(tunnel.device())?;
        tunnel.spawn("wg-outbound", Shared::outbound)?;
        tunnel.spawn("wg-inbound", Shared::inbound)?;
        Ok(tunnel)
    }

    fn spawn(&mut self, name: &str, body: fn(&Shared) -> io::Result<()>) -> Result<()> {
        let shared = self.shared.clone();
        let dispatch = tracing::dispatcher::get_default(Clone::clone);
        let thread = thread::Builder::new().name(name.into()).stack_size(STACK).spawn(move || {
            tracing::dispatcher::with_default(&dispatch, || {
                let reason = match catch_unwind(AssertUnwindSafe(|| body(&shared))) {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "internal error: a panic was caught".into(),
                };
                shared.end(reason);
            });
        });
        let thread =
            thread.map_err(|e| Error::new(ErrorKind::Resources, format!("cannot start the thread {name}: {e}")))?;
        self.own.push(thread.thread().id());
        lock(&self.threads).push(thread);
        Ok(())
    }

    /// The device that runs.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.shared.device
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
            ended = self.shared.ended_changed.wait(ended).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    /// Stops the threads and waits for them, and closes the sockets. Idempotent.
    ///
    /// # Errors
    /// `Busy` on one of the tunnel's own threads, which cannot wait for itself.
    pub fn stop(&self) -> Result<()> {
        if self.own.contains(&thread::current().id()) {
            return Err(Error::new(ErrorKind::Busy, "a tunnel cannot be stopped from one of its own threads"));
        }
        self.shared.stop("stopped".into());
        let mut threads = lock(&self.threads);
        for thread in threads.drain(..) {
            // A thread's panic was caught inside it.
            let _ = thread.join();
        }
        self.shared.device.down();
        Ok(())
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if self.stop().is_err() {
            // The last owner is one of the threads; they end by themselves.
            self.shared.stop("dropped".into());
            self.shared.device.down();
        }
    }
}

impl Shared {
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Makes both threads return. Returns whether they were running until now.
    fn stop(&self, reason: String) -> bool {
        let first = !self.stopping.swap(true, Ordering::AcqRel);
        if first {
            *lock(&self.ended) = Some(reason);
            self.ended_changed.notify_all();
        }
        self.tun.wake();
        self.bind.wake();
        first
    }

    /// A thread cannot go on.
    fn end(&self, reason: String) {
        if self.stop(reason.clone()) {
            tracing::error!(reason, "the tunnel has ended");
            self.device.down();
            self.device.tell(Event::Ended(reason));
        }
    }

    fn outbound(&self) -> io::Result<()> {
        let mut out = Outbound::new();
        while !self.is_stopping() {
            self.device.handle_tun_events();
            if self.device.outbound(&mut out)? == 0 {
                self.tun.wait(None)?;
            }
        }
        Ok(())
    }

    fn inbound(&self) -> io::Result<()> {
        let mut inbound = Inbound::new();
        while !self.is_stopping() {
            let handled = self.device.inbound(&mut inbound)?;
            self.device.run_timers();
            if handled == 0 {
                let now = self.device.clock.now();
                self.bind.wait(self.device.next_deadline().map(|at| at.since(now)))?;
            }
        }
        Ok(())
    }
}
