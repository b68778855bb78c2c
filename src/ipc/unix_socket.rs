//! Serves the UAPI on a listening control socket.
//!
//! One thread accepts, and watches the socket's file; each connection has a short-lived thread of its own. There are
//! at most [`Options::connections`] of those; more clients wait in the socket's backlog.

use std::{
    io::{self, ErrorKind::*, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use mio::{Events, Interest, Poll, Token, Waker, unix::SourceFd};

use super::{Listener, watch::Watch};
use crate::{
    error::{Error, ErrorKind, Result},
    thread::{self, Owner},
    uapi::{self, Backend},
};

/// How connections are served.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many are served at a time: 16. At least one is.
    pub connections: usize,
    /// A client that neither sends nor takes a byte for this long is cut off: two minutes. This only keeps the
    /// forgotten from filling all places for ever, so it is far more than a program needs, and enough for a person who
    /// types by hand.
    pub idle: Duration,
    /// How the dialogue is held.
    pub uapi: uapi::Options,
}

impl Default for Options {
    fn default() -> Self {
        Self { connections: 16, idle: Duration::from_secs(120), uapi: uapi::Options::default() }
    }
}

/// Called when a server ends by itself, with the reason; from the server's own thread, and at most once.
pub type EndHook = Box<dyn FnOnce(String) + Send>;

/// When to try again after the system could not give us a descriptor for a connection.
const RETRY: Duration = Duration::from_millis(200);

const WAKE: Token = Token(0);
const LISTENER: Token = Token(1);
const FILE: Token = Token(2);

/// A control socket that is being served. Dropping it stops it.
pub struct Server {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    backend: Arc<dyn Backend + Send + Sync>,
    options: Options,
    stopping: AtomicBool,
    waker: Waker,
    /// Of the server's threads.
    owner: Owner,
}

impl Server {
    /// Serves `backend` until [`stop`](Self::stop), or until the socket's file is removed, moved or replaced: then,
    /// and if it cannot go on for another reason, `ended` is told why.
    ///
    /// # Errors
    /// If the socket cannot be waited for or its file not watched, or a thread cannot be started.
    pub fn start(
        listener: Listener,
        backend: Arc<dyn Backend + Send + Sync>,
        options: Options,
        ended: EndHook,
    ) -> Result<Self> {
        let waiting = |e| Error::io("cannot wait for the control socket", e);
        listener.socket().set_nonblocking(true).map_err(waiting)?;
        let watch = match listener.path() {
            None => None,
            Some(path) => Some(
                Watch::new(path)
                    .map_err(|e| Error::io(format!("cannot watch the control socket {}", path.display()), e))?,
            ),
        };
        let poll = Poll::new().map_err(waiting)?;
        let register = |fd: RawFd, token| poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE);
        register(listener.socket().as_raw_fd(), LISTENER).map_err(waiting)?;
        if let Some(fd) = watch.as_ref().and_then(Watch::fd) {
            register(fd.as_raw_fd(), FILE).map_err(waiting)?;
        }
        let waker = Waker::new(poll.registry(), WAKE).map_err(waiting)?;
        let shared =
            Arc::new(Shared { backend, options, stopping: AtomicBool::new(false), waker, owner: Owner::new() });
        let acceptor = Acceptor { shared: shared.clone(), poll, listener, watch, connections: Vec::new() };
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
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
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
        if let Err(error) = self.waker.wake() {
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
    poll: Poll,
    listener: Listener,
    watch: Option<Watch>,
    connections: Vec<Connection>,
}

/// A connection, as its server knows it.
struct Connection {
    stream: Arc<UnixStream>,
    done: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Acceptor {
    fn run(mut self, ended: EndHook) {
        let reason = match catch_unwind(AssertUnwindSafe(|| self.accept_until_stopped())) {
            Ok(Ok(reason)) => reason,
            Ok(Err(error)) => Some(format!("the control socket failed: {error}")),
            Err(_) => Some("internal error: a panic was caught".into()),
        };
        let Self { shared, listener, connections, .. } = self;
        // From here on, the end of a stream is not what its client meant.
        shared.stopping.store(true, Ordering::Release);
        drop(listener);
        for connection in &connections {
            // It may be closed already.
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
        for connection in connections {
            connection.join();
        }
        if let Some(reason) = reason {
            tracing::debug!(reason, "the control socket is served no longer");
            ended(reason);
        }
    }

    /// Returns why it ended by itself, or `None` if it was stopped.
    fn accept_until_stopped(&mut self) -> io::Result<Option<String>> {
        let mut events = Events::with_capacity(8);
        loop {
            self.reap();
            let again = self.accept_all()?;
            if let Some(watch) = &self.watch {
                watch.drain();
                if self.listener.is_gone() {
                    return Ok(Some("the control socket was removed".into()));
                }
            }
            if self.shared.is_stopping() {
                return Ok(None);
            }
            let interval = self.watch.as_ref().and(Watch::INTERVAL);
            match self.poll.poll(&mut events, [again, interval].into_iter().flatten().min()) {
                Err(e) if e.kind() != Interrupted => return Err(e),
                _ => {}
            }
        }
    }

    /// Forgets connections that have ended.
    fn reap(&mut self) {
        for ended in self.connections.extract_if(.., |c| c.done.load(Ordering::Acquire)) {
            ended.join();
        }
    }

    /// Accepts what waits, as far as there is room. Returns when to try again, if that is not told by an event.
    fn accept_all(&mut self) -> io::Result<Option<Duration>> {
        while self.connections.len() < self.shared.options.connections.max(1) && !self.shared.is_stopping() {
            match self.listener.socket().accept() {
                Ok((stream, _)) => match Connection::start(stream, &self.shared) {
                    Ok(connection) => self.connections.push(connection),
                    Err(error) => tracing::warn!(%error, "a control connection cannot be served"),
                },
                Err(e) => match e.kind() {
                    WouldBlock => break,
                    Interrupted | ConnectionAborted => {}
                    _ if ErrorKind::of_io(&e) == ErrorKind::Resources => {
                        tracing::warn!(error = %e, "a control connection cannot be accepted");
                        return Ok(Some(RETRY));
                    }
                    _ => return Err(e),
                },
            }
        }
        Ok(None)
    }
}

impl Connection {
    fn start(stream: UnixStream, shared: &Arc<Shared>) -> io::Result<Self> {
        // Some systems hand this down from the listener.
        stream.set_nonblocking(false)?;
        // A duration of zero means none at all to the system.
        let idle = Some(shared.options.idle.max(Duration::from_millis(1)));
        stream.set_read_timeout(idle)?;
        stream.set_write_timeout(idle)?;
        let stream = Arc::new(stream);
        let done = Arc::new(AtomicBool::new(false));
        let serving = Serving { stream: stream.clone(), shared: shared.clone(), done: done.clone() };
        let thread = thread::spawn("wg-uapi-client", shared.owner, move || serving.serve())?;
        Ok(Self { stream, done, thread })
    }

    fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("internal error: a control connection panicked");
        }
    }
}

/// A connection, as its own thread knows it. When it is dropped, the connection is over.
struct Serving {
    stream: Arc<UnixStream>,
    shared: Arc<Shared>,
    done: Arc<AtomicBool>,
}

impl Serving {
    fn serve(mut self) {
        let Shared { backend, options, .. } = &*self.shared.clone();
        match uapi::serve(&mut self, &**backend, &options.uapi) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Protocol => tracing::warn!("control connection refused: {error}"),
            Err(error) => tracing::debug!("control connection ended: {error}"),
        }
    }
}

impl Read for Serving {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = (&*self.stream).read(into)?;
        if read == 0 && self.shared.is_stopping() {
            // It was cut by us: what was read so far is not a whole request.
            return Err(ConnectionAborted.into());
        }
        Ok(read)
    }
}

impl Write for Serving {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.stream).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // The client may have gone first. The descriptor itself is closed when the server has joined this thread.
        let _ = self.stream.shutdown(Shutdown::Both);
        self.done.store(true, Ordering::Release);
        self.shared.wake();
    }
}

#[cfg(test)]
#[allow(clippy::panic, clippy::unwrap_used)]
mod tests;
