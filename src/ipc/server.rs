//! Serves the UAPI, or another dialogue, on a listening control socket.
//!
//! One thread accepts, and watches the socket's file; each connection has a short-lived thread of its own. There are at
//! most [`Options::connections`] of those. When another client comes, the one that has been idle longest is ended; if
//! requests of all of them make progress, clients wait in the socket's backlog.
//!
//! The calls of the system are in `unix_socket.rs` and `named_pipe.rs`, which have the same three types: `Incoming`
//! accepts clients, `Wake` ends its wait, `ClientStream` is one connection.

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

/// How connections are served.
///
/// A new version may add fields: write `..Options::default()` behind those that are set.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many are served at a time: 16. At least one is. Another client takes the place of the one whose last request
    /// was completed, or that connected, the longest ago. A request that is being worked on, or moves at least 4 KiB a
    /// second, keeps its client's place; one that waits in [`Work::waits`] does not.
    pub connections: usize,
    /// A client that neither sends nor takes a byte for this long is ended, also if no other one needs its place: two
    /// minutes.
    pub idle: Duration,
    /// How the UAPI is spoken. Other dialogues make no use of it.
    pub uapi: uapi::Options,
}

impl Default for Options {
    fn default() -> Self {
        Self { connections: 16, idle: Duration::from_secs(120), uapi: uapi::Options::default() }
    }
}

/// Called when a server ends by itself, with the reason; from the server's own thread, and at most once.
pub type EndHook = Box<dyn FnOnce(String) + Send>;

/// What is spoken on the connections of a control socket.
pub trait Dialogue: Send + Sync {
    /// Serves one client until it leaves; called on a thread of that client's own. A request of its that takes long is
    /// worked on with [`Stream::work`].
    ///
    /// # Errors
    /// If the connection ends otherwise, which is logged; `Protocol` if the client is to blame.
    fn serve(&self, stream: &mut Stream) -> Result<()>;
}

/// The UAPI, as a dialogue.
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

/// A backend, as one client has it: notes when a `set` is applied.
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

/// When to look again for a client that may be ended, while another one waits for its place.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// When to try again after the system had no descriptor for a connection, from the first time to the last.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// A control socket that is being served. Dropping it stops it.
pub struct Server {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    dialogue: Arc<dyn Dialogue>,
    options: Options,
    stopping: AtomicBool,
    wake: Wake,
    /// Of the server's threads.
    owner: Owner,
}

impl Server {
    /// Serves `backend` through the UAPI until [`stop`](Self::stop), or until the socket's file is removed, moved or
    /// replaced: then, and if it cannot go on for another reason, `ended` is told why.
    ///
    /// # Errors
    /// If the socket cannot be waited for, or a thread cannot be started.
    pub fn start(
        listener: Listener,
        backend: Arc<dyn Backend + Send + Sync>,
        options: Options,
        ended: EndHook,
    ) -> Result<Self> {
        Self::start_with(listener, Arc::new(Uapi { backend, options: options.uapi }), options, ended)
    }

    /// As [`start`](Self::start), for any dialogue.
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

    /// Ends all connections, waits for their threads, and removes the socket's file. A `set` that was not read to its
    /// end is not applied. Idempotent.
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

/// What the accepting thread works with.
struct Acceptor {
    shared: Arc<Shared>,
    incoming: Incoming,
    connections: Vec<Connection>,
    shortage: Shortage,
}

/// How a lack of descriptors is met.
struct Shortage {
    /// The log has a line about this shortage.
    told: bool,
    /// When to try again, if nothing that we do frees a descriptor.
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
        // From here on, the end of a stream is not what its client meant.
        shared.stopping.store(true, Ordering::Release);
        drop(incoming);
        connections.iter().for_each(Connection::shut_down);
        connections.into_iter().for_each(Connection::join);
        if let Some(reason) = reason {
            tracing::debug!(reason, "the control socket is served no longer");
            ended(reason);
        }
    }

    /// Returns why it ended by itself, or `None` if it was stopped.
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

    /// Forgets connections that have ended.
    fn reap(&mut self) {
        for ended in self.connections.extract_if(.., |c| c.is_done()) {
            ended.join();
        }
        self.incoming.renew_spare();
    }

    /// Accepts what waits, as far as there is room. Returns when to try again at the latest, if clients still wait.
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
                        // It fails like this also if no client waits.
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

    /// Does what can be done about a lack of descriptors. Returns `None` if accepting may work now, or else when to try
    /// again at the latest.
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
    /// ended; otherwise its thread wakes us when its place is free. As a client that has left may still have a `set`
    /// applied, that may take long: to be called again after a while.
    fn make_room(&self) -> bool {
        if self.connections.iter().any(Connection::end_if_left) {
            return true;
        }
        let mut candidates: Vec<_> = self.connections.iter().map(|c| (c.idle_since(), c)).collect();
        candidates.sort_unstable_by_key(|(since, _)| *since);
        candidates.into_iter().any(|(_, connection)| connection.end_if_idle())
    }
}
