//! A device with its two threads: their start and end.

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

use super::{Device, EndReason, Event, MemoryUsage, Options, Totals, lock, threads::Threads};
use crate::{
    bind::Bind,
    config::{Update, snapshot::Snapshot},
    error::{Error, ErrorKind, Result},
    key::PublicKey,
    sync,
    thread::{self, Owner},
    tun::Tun,
};

/// A running tunnel. Dropping it stops it.
///
/// Its functions may be called on any thread. Those that are needed most are here; [`device`](Self::device) has the
/// others: statistics, sessions, single peers.
///
/// ```
/// use std::sync::Arc;
/// use wg_embed::{EndReason, Options, PrivateKey, Tunnel, Update};
/// use wg_embed::{bind::callback::{CallbackBind, Datagram}, queue::PacketQueue};
/// use wg_embed::tun::{PacketList, callback::CallbackTun};
///
/// # fn main() -> wg_embed::Result<()> {
/// let from_tunnel = |packets: PacketList<'_>| packets.iter().count();
/// let tun = CallbackTun::with_sink("", 1420, PacketQueue::within(1 << 19), from_tunnel);
/// let to_network = |datagrams: &mut dyn Iterator<Item = Datagram<'_>>| datagrams.count();
/// let bind = CallbackBind::new(1 << 19, to_network);
///
/// let tunnel = Tunnel::start(Arc::new(tun), Arc::new(bind), Options::default())?;
/// let key = PrivateKey::generate()?;
/// tunnel.apply(Update { private_key: Some(Some(key.clone())), ..Update::default() })?;
/// assert_eq!(tunnel.public_key()?, key.public_key());
/// tunnel.stop()?;
/// assert_eq!(tunnel.wait(), EndReason::Stopped);
/// # Ok(())
/// # }
/// ```
pub struct Tunnel {
    shared: Arc<Shared>,
    /// The threads other than workers never take it: a thread that waits for them holds it.
    handles: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    threads: Threads,
    /// The owner of the tunnel's threads.
    owner: Owner,
    /// The workers, which the other threads start. They are waited for after those.
    workers: Mutex<Vec<JoinHandle<()>>>,
    /// The reason for the tunnel's end; set once.
    ended: Mutex<Option<EndReason>>,
    ended_changed: Condvar,
    /// Whether it is being stopped, and its TUN must first report its end.
    leaving: AtomicBool,
}

impl Tunnel {
    /// Creates a device and starts its threads. It is down until its TUN or [`Device::up`] brings it up.
    ///
    /// # Errors
    /// `Resources` if a thread cannot be started; `Invalid` if [`Options::memory`] is too small for the queues of the
    /// TUN.
    pub fn start(tun: Arc<dyn Tun>, bind: Arc<dyn Bind>, options: Options) -> Result<Self> {
        Self::start_with(tun, bind, options, |_| Ok(()))
    }

    /// Starts a tunnel like [`start`](Self::start), but first passes the device to `prepare`, before there are threads:
    /// if that applies a configuration and brings the device up, no socket is opened on a port that was not requested.
    ///
    /// # Errors
    /// Errors of `prepare`, and as [`start`](Self::start).
    pub fn start_with(
        tun: Arc<dyn Tun>,
        bind: Arc<dyn Bind>,
        options: Options,
        prepare: impl FnOnce(&Device) -> Result<()>,
    ) -> Result<Self> {
        let threads = Threads::new(tun, bind, options);
        let shared = Arc::new(Shared {
            threads,
            owner: Owner::unique(),
            workers: Mutex::default(),
            ended: Mutex::default(),
            ended_changed: Condvar::new(),
            leaving: AtomicBool::new(false),
        });
        let tunnel = Self { shared, handles: Mutex::default() };
        prepare(tunnel.device())?;
        tunnel.shared.threads.make_buffers()?;
        for number in 0..tunnel.shared.threads.queues() {
            tunnel.spawn("wg-queue", move |threads, start_workers| threads.queue(number, start_workers))?;
        }
        tunnel.spawn("wg-outbound", Threads::outbound)?;
        tunnel.spawn("wg-tunnel", Threads::tunnel)?;
        Ok(tunnel)
    }

    fn spawn(
        &self,
        name: &str,
        body: impl FnOnce(&Threads, &dyn Fn()) -> io::Result<()> + Send + 'static,
    ) -> Result<()> {
        let thread = self.shared.spawn(name, move |shared| body(&shared.threads, &|| shared.start_workers()));
        let thread =
            thread.map_err(|e| Error::new(ErrorKind::Resources, format!("cannot start the thread {name}: {e}")))?;
        lock(&self.handles).push(thread);
        Ok(())
    }

    /// Returns the device.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.shared.threads.device
    }

    /// Applies a complete change set.
    ///
    /// # Errors
    /// As [`Device::apply`]; nothing has changed then.
    pub fn apply(&self, update: Update) -> Result<()> {
        self.device().apply(update)
    }

    /// Returns the current state.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot<'_> {
        self.device().snapshot()
    }

    /// Opens the sockets and starts the timers. No-op if the tunnel is up. During a [pause](Self::pause) only the
    /// request is stored.
    ///
    /// # Errors
    /// Errors of the bind; nothing has changed then.
    pub fn up(&self) -> Result<()> {
        self.device().up()
    }

    /// Closes the sockets and forgets sessions, without ending the tunnel. The configuration is kept.
    pub fn down(&self) {
        self.device().down();
    }

    /// Reports that the network has changed: opens new sockets, and resolves host names again.
    ///
    /// # Errors
    /// As [`Device::network_changed`].
    pub fn network_changed(&self) -> Result<()> {
        self.device().network_changed()
    }

    /// Returns the UDP port that the sockets are bound to; 0 while they are closed.
    #[must_use]
    pub fn listen_port(&self) -> u16 {
        self.device().listen_port()
    }

    /// Returns the tunnel's public key.
    ///
    /// # Errors
    /// `NotFound` if there is no private key.
    pub fn public_key(&self) -> Result<PublicKey> {
        self.device().public_key()
    }

    /// Returns the totals of all peers.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.device().totals()
    }

    /// Returns the memory of the tunnel. The call takes time in proportion to the number of peers.
    #[must_use]
    pub fn memory_usage(&self) -> MemoryUsage {
        self.shared.threads.memory_usage()
    }

    /// Releases unused memory, without waiting for the current work of the threads. It is allocated again when it is
    /// needed.
    pub fn trim(&self) {
        self.shared.threads.trim();
    }

    /// Makes workers help whatever the load, for tests of what happens then. Only with the feature `test-util`.
    #[cfg(feature = "test-util")]
    pub fn always_use_workers(&self) {
        self.shared.threads.always_use_workers();
        self.shared.start_workers();
    }

    /// Returns the time that workers have worked, for tests that they do. Only with the feature `test-util`.
    #[cfg(feature = "test-util")]
    #[must_use]
    pub fn workers_worked(&self) -> Duration {
        self.shared.threads.worked()
    }

    /// Stops all traffic without ending the tunnel: the sockets are closed, the sessions forgotten, and neither the TUN
    /// nor a timer wakes a thread, until [`resume`](Self::resume). The configuration may be changed during the pause.
    /// Idempotent.
    ///
    /// When this returns, no call of the TUN or the bind is in progress. So it cannot be called from inside one, except
    /// on the tunnel's own threads, where it does not wait for that.
    pub fn pause(&self) {
        self.device().transition().pause();
        // One of the tunnel's threads may be inside a call, and would wait for itself.
        if !self.shared.owner.is_current() {
            self.device().in_flight.wait();
        }
    }

    /// Returns whether it is paused: then nothing is read from the TUN.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.device().tun_paused()
    }

    /// Continues after [`pause`](Self::pause), with new sockets and, for each peer that had a session, a new handshake.
    /// No-op if it is not paused.
    ///
    /// # Errors
    /// If the sockets cannot be opened now. The tunnel continues and retries, as after [`Device::keep_up`].
    pub fn resume(&self) -> Result<()> {
        let device = self.device();
        // Changes of the interface during the pause are handled first.
        device.handle_tun_events();
        device.resume()
    }

    /// Waits until the tunnel has ended by itself, for example because its interface was removed, or is stopped;
    /// returns the reason. It must not be called on one of the tunnel's own threads.
    #[must_use]
    pub fn wait(&self) -> EndReason {
        let mut ended = lock(&self.shared.ended);
        loop {
            if let Some(reason) = &*ended {
                return reason.clone();
            }
            ended = sync::wait(&self.shared.ended_changed, ended);
        }
    }

    /// Stops a tunnel together with its TUN: `close` makes the TUN report its end once it has been read completely. The
    /// call waits for that, for at most `patience`, so that its last packets leave. No event reports this end.
    ///
    /// # Errors
    /// As [`stop`](Self::stop).
    pub fn stop_with_tun(&self, close: impl FnOnce(), patience: Duration) -> Result<()> {
        self.shared.leaving.store(true, Ordering::Relaxed);
        close();
        if !self.shared.owner.is_current() {
            let ended = lock(&self.shared.ended);
            let is_running = |ended: &mut Option<EndReason>| ended.is_none();
            drop(sync::wait_timeout_while(&self.shared.ended_changed, ended, patience, is_running));
        }
        self.stop()
    }

    /// Stops the threads, waits for them and for a look-up of a host name, and closes the sockets. Idempotent.
    ///
    /// # Errors
    /// `Busy` on one of the tunnel's own threads, which cannot wait for itself.
    pub fn stop(&self) -> Result<()> {
        if self.shared.owner.is_current() || self.device().is_resolver_thread() {
            return Err(Error::new(ErrorKind::Busy, "a tunnel cannot be stopped from one of its own threads"));
        }
        self.shared.stop(EndReason::Stopped);
        for threads in [&self.handles, &self.shared.workers] {
            for thread in lock(threads).drain(..) {
                // A panic was caught in the thread.
                let _ = thread.join();
            }
        }
        self.device().down();
        self.device().stop_resolving();
        self.device().tell_events();
        Ok(())
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        // It may be dropped while a panic unwinds: another panic would abort the process.
        let stopped = catch_unwind(AssertUnwindSafe(|| self.stop()));
        if !matches!(stopped, Ok(Ok(()))) {
            // The last owner is one of the threads; they end by themselves.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                self.shared.stop(EndReason::Dropped);
                self.shared.threads.device.down();
            }));
        }
    }
}

impl Shared {
    /// Starts a thread. If `body` fails, the tunnel ends.
    fn spawn(
        self: &Arc<Self>,
        name: &str,
        body: impl FnOnce(&Arc<Self>) -> io::Result<()> + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let shared = self.clone();
        thread::spawn(name, self.owner, move || {
            let reason = match catch_unwind(AssertUnwindSafe(|| body(&shared))) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.into(),
                Err(_) => EndReason::Panicked,
            };
            shared.end(reason);
        })
    }

    /// Starts the workers, unless they were started before. Without them, or with fewer, the tunnel is only slower.
    fn start_workers(self: &Arc<Self>) {
        let mut workers = lock(&self.workers);
        if !workers.is_empty() {
            return;
        }
        for _ in 0..self.threads.workers() {
            let worker = self.spawn("wg-worker", |shared| {
                shared.threads.worker();
                Ok(())
            });
            match worker {
                Ok(worker) => workers.push(worker),
                Err(error) => return tracing::debug!(%error, "a worker cannot be started"),
            }
        }
    }

    /// Makes all threads return. Returns whether they were running.
    fn stop(&self, reason: EndReason) -> bool {
        let first = self.threads.stop();
        self.threads.device.events.stop_waiting();
        if first {
            *lock(&self.ended) = Some(reason);
            self.ended_changed.notify_all();
        }
        first
    }

    /// Ends the tunnel, as a thread cannot continue.
    fn end(&self, reason: EndReason) {
        if self.stop(reason.clone()) {
            if self.leaving.load(Ordering::Relaxed) {
                return self.threads.device.down();
            }
            tracing::error!(reason = reason.to_string(), "the tunnel has ended");
            self.threads.device.down();
            self.threads.device.events.note(Event::Ended(reason));
            self.threads.device.tell_events();
        }
    }
}
