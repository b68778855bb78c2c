//! Serves the UAPI, or another dialogue, on a listening control socket.
//!
//! One thread accepts clients and watches the socket's file; each connection has its own short-lived thread. There are
//! at most [`Options::connections`] of these. For a further client, the one that has been idle longest is disconnected;
//! if requests of all of them make progress, clients wait in the socket's backlog.
//!
//! The system calls are in `unix_socket.rs` and `named_pipe.rs`, which have the same three types: `Incoming` accepts
//! clients, `Wake` ends its wait, `ClientStream` is one connection.

mod connection;

use std::{
    io::{self, ErrorKind::*},
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use self::connection::Connection;
pub use self::connection::{Stream, Work};
use super::{
    Listener,
    system::{Incoming, Wake},
};
use crate::{
    config::{Update, snapshot::Snapshot},
    error::{Error, ErrorKind, Result},
    sync,
    thread::{self, Owner},
    uapi::{self, Backend},
};

/// Options of a server.
///
/// A new version may add fields: write `..Options::default()` behind those that are set.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The maximum number of connections, at least one: 16. A further client replaces the one whose last request was
    /// completed, or that connected, the longest time ago. A client keeps its place while its request is being
    /// processed, or moves at least 4 KiB a second, but not while it waits in [`Work::waits`].
    pub connections: usize,
    /// The time after which a client that neither sends nor receives a byte is disconnected, even if no other one needs
    /// its place: two minutes.
    pub idle: Duration,
    /// Options of the UAPI. Other dialogues ignore them.
    pub uapi: uapi::Options,
}

impl Default for Options {
    fn default() -> Self {
        Self { connections: 16, idle: Duration::from_secs(120), uapi: uapi::Options::default() }
    }
}

/// Called at most once, on the server's own thread, when a server ends by itself, with the reason.
pub type EndHook = Box<dyn FnOnce(String) + Send>;

/// A protocol on the connections of a control socket.
pub trait Dialogue: Send + Sync {
    /// Serves one client until it leaves; called on a separate thread for each client. A request that takes long is
    /// processed inside [`Stream::work`].
    ///
    /// # Errors
    /// The reason if the connection ends otherwise, which is logged; `Protocol` if the client has caused it.
    fn serve(&self, stream: &mut Stream) -> Result<()>;
}

/// The UAPI as a dialogue.
struct Uapi {
    backend: Arc<dyn Backend + Send + Sync>,
    options: uapi::Options,
}

impl Dialogue for Uapi {
    fn serve(&self, stream: &mut Stream) -> Result<()> {
        let backend = Noting { backend: &*self.backend, work: stream.work() };
        uapi::serve(stream, &backend, &self.options)
    }
}

/// The backend of one client, which marks the time in which a `set` is applied.
struct Noting<'a> {
    backend: &'a (dyn Backend + Send + Sync),
    work: Work,
}

impl Backend for Noting<'_> {
    fn apply(&self, update: Update) -> Result<()> {
        self.work.during(|| self.backend.apply(update))
    }

    fn snapshot(&self) -> Snapshot<'_> {
        self.backend.snapshot()
    }
}

/// The interval at which a client that may be ended is checked again, while another one waits for its place.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The delays before a retry after a lack of descriptors, from the first to the last.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// A running server of a control socket. Dropping it stops it.
pub struct Server {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    dialogue: Arc<dyn Dialogue>,
    options: Options,
    stopping: AtomicBool,
    wake: Wake,
    /// The ids of the server's threads.
    owner: Owner,
}

impl Server {
    /// Serves `backend` through the UAPI until [`stop`](Self::stop), or until the socket's file is removed, moved or
    /// replaced: then, and if it cannot continue for another reason, `ended` is called with the reason.
    ///
    /// # Errors
    /// Errors of waiting for the socket, or of starting a thread.
    pub fn start(
        listener: Listener,
        backend: Arc<dyn Backend + Send + Sync>,
        options: Options,
        ended: EndHook,
    ) -> Result<Self> {
        Self::start_with(listener, Arc::new(Uapi { backend, options: options.uapi }), options, ended)
    }

    /// Starts a server like [`start`](Self::start), for any dialogue.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with(
        listener: Listener,
        dialogue: Arc<dyn Dialogue>,
        options: Options,
        ended: EndHook,
    ) -> Result<Self> {
        let (incoming, wake) =
            Incoming::new(listener).map_err(|e| Error::io("cannot wait for the control socket", e))?;
        let shared =
            Arc::new(Shared { dialogue, options, stopping: AtomicBool::new(false), wake, owner: Owner::unique() });
        let shortage = Shortage { told: false, retry: RETRY.0 };
        let acceptor = Acceptor { shared: shared.clone(), incoming, connections: Vec::new(), shortage };
        let thread = thread::spawn("wg-uapi", shared.owner, move || acceptor.run(ended))
            .map_err(|e| no_thread("wg-uapi", &e))?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Ends all connections, waits for their threads, and removes the socket's file. A `set` that was not read
    /// completely is not applied. Idempotent.
    ///
    /// # Errors
    /// `Busy` on one of the server's own threads, which cannot wait for itself.
    pub fn stop(&self) -> Result<()> {
        if self.shared.owner.is_current() {
            return Err(Error::new(ErrorKind::Busy, "a server cannot be stopped from one of its own threads"));
        }
        self.shared.ask_to_stop();
        if let Some(thread) = sync::lock(&self.thread).take() {
            // A panic was caught inside it.
            let _ = thread.join();
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.stop().is_err() {
            // The last owner is one of the threads; they end by themselves.
            self.shared.ask_to_stop();
        }
    }
}

impl Shared {
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn ask_to_stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        if let Err(error) = self.wake.wake() {
            tracing::error!(%error, "cannot wake the control socket's thread");
        }
    }
}

fn no_thread(name: &str, error: &io::Error) -> Error {
    Error::new(ErrorKind::Resources, format!("cannot start the thread {name}: {error}"))
}

/// The state of the accepting thread.
struct Acceptor {
    shared: Arc<Shared>,
    incoming: Incoming,
    connections: Vec<Connection>,
    shortage: Shortage,
}

/// The handling of a lack of descriptors.
struct Shortage {
    /// Whether this shortage was logged.
    told: bool,
    /// The time of the next attempt, unless a descriptor is freed before.
    retry: Duration,
}

impl Acceptor {
    fn run(mut self, ended: EndHook) {
        let reason = match catch_unwind(AssertUnwindSafe(|| self.accept_until_stopped())) {
            Ok(Ok(reason)) => reason,
            Ok(Err(error)) => Some(format!("the control socket failed: {error}")),
            Err(_) => Some("internal error: a panic was caught".into()),
        };
        let Self { shared, incoming, connections, .. } = self;
        // From here on, the end of a stream was not caused by its client.
        shared.stopping.store(true, Ordering::Release);
        drop(incoming);
        connections.iter().for_each(Connection::shut_down);
        connections.into_iter().for_each(Connection::join);
        if let Some(reason) = reason {
            tracing::debug!(reason, "the control socket is served no longer");
            ended(reason);
        }
    }

    /// Returns the reason if it ended by itself, or `None` if it was stopped.
    fn accept_until_stopped(&mut self) -> io::Result<Option<String>> {
        loop {
            self.reap();
            let again = self.accept_all()?;
            if self.incoming.is_gone() {
                return Ok(Some("the control socket was removed".into()));
            }
            if self.shared.is_stopping() {
                return Ok(None);
            }
            self.incoming.wait(again)?;
        }
    }

    /// Removes connections that have ended.
    fn reap(&mut self) {
        for ended in self.connections.extract_if(.., |c| c.is_done()) {
            ended.join();
        }
        self.incoming.renew_spare();
    }

    /// Accepts waiting clients, as far as there is room. Returns the latest time of the next attempt, if clients still
    /// wait.
    fn accept_all(&mut self) -> io::Result<Option<Duration>> {
        while !self.shared.is_stopping() {
            if self.connections.len() >= self.shared.options.connections.max(1) {
                if !self.incoming.client_waits() {
                    break;
                }
                self.make_room();
                return Ok(Some(LOOK_AGAIN));
            }
            match self.incoming.accept() {
                Ok(stream) => {
                    if self.incoming.has_spare() {
                        (self.shortage.told, self.shortage.retry) = (false, RETRY.0);
                    }
                    match Connection::start(stream, &self.shared) {
                        Ok(connection) => self.connections.push(connection),
                        Err(error) => tracing::warn!(%error, "a control connection cannot be served"),
                    }
                }
                Err(e) => match e.kind() {
                    WouldBlock => break,
                    Interrupted | ConnectionAborted => {}
                    _ if ErrorKind::of_io(&e) == ErrorKind::Resources => {
                        // It also fails in this way if no client waits.
                        if !self.incoming.client_waits() {
                            break;
                        }
                        if let Some(retry) = self.meet_shortage(&e) {
                            return Ok(Some(retry));
                        }
                    }
                    _ => return Err(e),
                },
            }
        }
        Ok(None)
    }

    /// Handles a lack of descriptors. Returns `None` if accepting may work now, otherwise the latest time of the next
    /// attempt.
    fn meet_shortage(&mut self, error: &io::Error) -> Option<Duration> {
        if !mem::replace(&mut self.shortage.told, true) {
            tracing::warn!(%error, "control connections cannot be accepted as usual");
        }
        if self.incoming.use_spare() {
            return None;
        }
        if self.make_room() {
            return Some(LOOK_AGAIN);
        }
        let retry = self.shortage.retry;
        self.shortage.retry = (retry * 2).min(RETRY.1);
        Some(retry)
    }

    /// Ends the connection that has been idle longest, unless another one is ending. Returns false if none can be
    /// ended; otherwise its thread wakes the accepting one when its place is free. Call it again after a while, as that
    /// may take long: a `set` of a client that has left may still be being applied.
    fn make_room(&self) -> bool {
        if self.connections.iter().any(Connection::end_if_left) {
            return true;
        }
        let mut candidates: Vec<_> = self.connections.iter().map(|c| (c.idle_since(), c)).collect();
        candidates.sort_unstable_by_key(|(since, _)| *since);
        candidates.into_iter().any(|(_, connection)| connection.end_if_idle())
    }
}
