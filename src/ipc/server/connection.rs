//! One client of a control socket: its thread, and when it may be disconnected in favour of another client.

use std::{
    io::{self, ErrorKind::ConnectionAborted, Read, Write},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::Shared;
use crate::{error::ErrorKind, ipc::system::ClientStream, sync, thread};

/// The minimum rate of progress of a request, in bytes a second. Programs are far faster.
const PACE: u128 = 4096;

/// The time without a byte after which a request makes no progress, however fast it was before.
const PAUSE: Duration = Duration::from_secs(1);

/// The maximum number of bytes in one write. Progress is recorded after each call, so a reader that keeps the [`PACE`]
/// also makes progress within a large answer.
const PART: usize = 4096;

/// A connection, from the server's point of view.
pub(super) struct Connection {
    client: Arc<Client>,
    thread: JoinHandle<()>,
}

/// The state that a connection's thread and its server share.
struct Client {
    stream: ClientStream,
    activity: Mutex<Activity>,
    /// Ends the wait of a request, see [`Work::waits`].
    interrupt: Mutex<Option<Interrupt>>,
    done: AtomicBool,
}

type Interrupt = Box<dyn FnOnce() + Send>;

impl Client {
    fn activity(&self) -> MutexGuard<'_, Activity> {
        sync::lock(&self.activity)
    }

    fn interrupt(&self) {
        let interrupt = sync::lock(&self.interrupt).take();
        if let Some(interrupt) = interrupt {
            interrupt();
        }
    }
}

impl Connection {
    pub(super) fn start(mut stream: ClientStream, shared: &Arc<Shared>) -> io::Result<Self> {
        // The system takes a duration of zero as no limit.
        stream.set_idle(shared.options.idle.max(Duration::from_millis(1)))?;
        let activity = Mutex::new(Activity::new(Instant::now()));
        let client = Arc::new(Client { stream, activity, interrupt: Mutex::default(), done: AtomicBool::new(false) });
        let stream = Stream { client: client.clone(), shared: shared.clone() };
        let thread = thread::spawn("wg-uapi-client", shared.owner, move || stream.serve())?;
        Ok(Self { client, thread })
    }

    /// Returns whether its thread is about to end.
    pub(super) fn is_done(&self) -> bool {
        self.client.done.load(Ordering::Acquire)
    }

    /// Returns the time since which no request was completed.
    pub(super) fn idle_since(&self) -> Instant {
        self.client.activity().idle_since
    }

    /// Returns whether its place is about to be free: [`end_if_idle`](Self::end_if_idle) has ended it, or its client
    /// has left and no request of it is being processed; a waiting one is interrupted. The client may have left a `set`
    /// behind, so the result can still change.
    pub(super) fn end_if_left(&self) -> bool {
        let activity = self.client.activity();
        if activity.ended {
            return true;
        }
        let has_left = !activity.working && self.client.stream.has_hung_up();
        drop(activity);
        if has_left {
            self.client.interrupt();
        }
        has_left
    }

    /// Ends it unless a request of it is being processed, or makes progress. Later requests are not applied. Returns
    /// whether it was ended.
    pub(super) fn end_if_idle(&self) -> bool {
        let mut activity = self.client.activity();
        if !activity.is_idle(Instant::now()) {
            return false;
        }
        activity.ended = true;
        drop(activity);
        self.shut_down();
        true
    }

    pub(super) fn shut_down(&self) {
        self.client.stream.shut_down();
        self.client.interrupt();
    }

    pub(super) fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("internal error: a control connection panicked");
        }
    }
}

/// The activity of a client, which determines whether another one may replace it.
#[derive(Debug)]
struct Activity {
    /// The time at which its last request was answered, or at which it connected.
    idle_since: Instant,
    /// The request in progress, if a byte of it was moved.
    request: Option<Request>,
    /// The client has to send or to receive, or its request waits for something else.
    waiting: bool,
    /// A request is being processed, which may take long.
    working: bool,
    ended: bool,
}

#[derive(Debug)]
struct Request {
    began: Instant,
    /// The time at which a byte of it was last moved.
    last: Instant,
    /// The number of bytes moved in either direction.
    moved: usize,
}

impl Activity {
    fn new(now: Instant) -> Self {
        Self { idle_since: now, request: None, waiting: false, working: false, ended: false }
    }

    fn moved(&mut self, bytes: usize, now: Instant) {
        let request = self.request.get_or_insert(Request { began: now, last: now, moved: 0 });
        request.moved = request.moved.saturating_add(bytes);
        request.last = now;
    }

    fn answered(&mut self, now: Instant) {
        self.idle_since = now;
        self.request = None;
    }

    /// Reports that the whole request was read, and the answer begins after the wait.
    fn begin_wait(&mut self) {
        (self.working, self.waiting, self.request) = (false, true, None);
    }

    fn end_wait(&mut self) {
        (self.working, self.waiting) = (true, false);
    }

    /// Returns whether another client may replace it.
    fn is_idle(&self, now: Instant) -> bool {
        self.waiting && !self.ended && !self.request.as_ref().is_some_and(|r| r.makes_progress(now))
    }
}

impl Request {
    fn makes_progress(&self, now: Instant) -> bool {
        let millis = now.saturating_duration_since(self.began).as_millis();
        now.saturating_duration_since(self.last) < PAUSE && self.moved as u128 * 1000 >= PACE * millis
    }
}

/// A connection, from the point of view of its own thread. Dropping it ends the connection.
///
/// Flushing it marks the end of an answer: from then on the client counts as idle. Reads and writes fail once the
/// server is being stopped, or another client has replaced this one.
pub struct Stream {
    client: Arc<Client>,
    shared: Arc<Shared>,
}

impl Stream {
    fn serve(mut self) {
        let dialogue = self.shared.dialogue.clone();
        match dialogue.serve(&mut self) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Protocol => tracing::warn!("control connection refused: {error}"),
            Err(error) => tracing::debug!("control connection ended: {error}"),
        }
    }

    /// Returns the guard for work on a request, for whose end the server waits.
    #[must_use]
    pub fn work(&self) -> Work {
        Work(self.client.clone())
    }

    /// Sets the function that ends a wait in [`Work::waits`] and prevents later ones. It is called on another thread,
    /// at most once, when the server is stopped, another client replaces this one, or another client needs its place
    /// and this one has left. Set it before the first read, from which on it may be called.
    pub fn on_interrupt(&self, interrupt: impl FnOnce() + Send + 'static) {
        *sync::lock(&self.client.interrupt) = Some(Box::new(interrupt));
    }

    /// Makes one call that may wait for the client.
    fn wait(&self, call: impl FnOnce(&ClientStream) -> io::Result<usize>) -> io::Result<usize> {
        self.client.activity().waiting = true;
        let result = call(&self.client.stream);
        let mut activity = self.client.activity();
        activity.waiting = false;
        if activity.ended || self.shared.is_stopping() {
            // The server has ended the connection: the bytes read so far are not a whole request.
            return Err(ConnectionAborted.into());
        }
        let moved = result?;
        if moved > 0 {
            activity.moved(moved, Instant::now());
        }
        Ok(moved)
    }
}

/// Marks the time in which a request of a client is being processed.
pub struct Work(Arc<Client>);

impl Work {
    /// Does the work. During the work the place of the client does not become free, even if the client has left.
    pub fn during<R>(&self, work: impl FnOnce() -> R) -> R {
        self.0.activity().working = true;
        let outcome = work();
        self.0.activity().working = false;
        outcome
    }

    /// Waits, during the work, for an event that changes nothing by itself. The client is idle during the wait: another
    /// client may replace it, and the function set by [`Stream::on_interrupt`] must then end the wait.
    pub fn waits<R>(&self, wait: impl FnOnce() -> R) -> R {
        self.0.activity().begin_wait();
        let outcome = wait();
        self.0.activity().end_wait();
        outcome
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.wait(|stream| stream.read(into))
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = bytes.get(..PART).unwrap_or(bytes);
        self.wait(|stream| stream.write(part))
    }

    /// Each answer ends with this.
    fn flush(&mut self) -> io::Result<()> {
        self.client.activity().answered(Instant::now());
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // The descriptor itself is closed when the server has joined this thread.
        self.client.stream.shut_down();
        self.client.done.store(true, Ordering::Release);
        self.shared.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn waiting(now: Instant) -> Activity {
        Activity { waiting: true, ..Activity::new(now) }
    }

    #[test]
    fn between_requests_a_client_is_idle_and_at_work_it_is_not() {
        let now = Instant::now();
        let mut activity = Activity::new(now);
        assert!(!activity.is_idle(now), "its thread is at work");
        activity.waiting = true;
        assert!(activity.is_idle(now));
        activity.moved(10, now);
        activity.answered(now + SECOND);
        assert!(activity.is_idle(now + SECOND));
        assert_eq!(activity.idle_since, now + SECOND);
        activity.ended = true;
        assert!(!activity.is_idle(now + SECOND), "there is nothing left to end");
    }

    #[test]
    fn while_a_request_waits_its_client_is_idle() {
        let now = Instant::now();
        let mut activity = Activity { working: true, ..Activity::new(now) };
        activity.moved(10, now);
        activity.begin_wait();
        assert!(activity.is_idle(now) && !activity.working);
        activity.end_wait();
        assert!(!activity.is_idle(now + SECOND * 60) && activity.working);
        // The time of the wait does not count against the answer.
        activity.waiting = true;
        activity.moved(10, now + SECOND * 60);
        assert!(!activity.is_idle(now + SECOND * 60));
    }

    #[test]
    fn a_request_counts_while_it_keeps_the_pace() {
        let begun = Instant::now();
        let mut activity = waiting(begun);
        for second in 0..600 {
            activity.moved(8192, begun + SECOND * second);
            assert!(!activity.is_idle(begun + SECOND * second + SECOND / 2));
        }
        assert_eq!(activity.idle_since, begun, "no request was completed");
        // It stalls.
        assert!(activity.is_idle(begun + SECOND * 600));
    }

    #[test]
    fn a_client_that_trickles_is_idle() {
        let begun = Instant::now();
        let mut activity = waiting(begun);
        for tenth in 0..100 {
            activity.moved(10, begun + SECOND * tenth / 10);
        }
        assert!(activity.is_idle(begun + SECOND * 10));
        // What was slow for long may be fast once: the whole request counts.
        activity.moved(4096, begun + SECOND * 10);
        assert!(activity.is_idle(begun + SECOND * 10));
    }
}
