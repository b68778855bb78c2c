//! The copying thread: it waits for descriptors and for connections, and gives each its turn.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Registry, Token, Waker, event};
use rustix::fd::{AsRawFd, BorrowedFd, RawFd};
use wg_embed::{
    sync,
    thread::{self, Owner},
};

use super::{fd_id::FdId, pair};
use crate::{
    Notify,
    copy::{self, Event},
};

const WAKER: Token = Token(0);

/// The size of the buffer for datagrams: larger than any of them.
const SCRATCH: usize = 65_536;

/// The delay before an operation is retried that failed for lack of resources.
const LATER: Duration = Duration::from_millis(100);

/// The time between two calls of [`Source::is_abandoned`].
const ASK: Duration = Duration::from_secs(2);

/// The result of a source's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It waits for an event.
    Wait,
    /// There is more to copy at once.
    Again,
    /// It lacks resources: its next turn is slightly later.
    #[cfg_attr(windows, allow(dead_code))] // A listener of Windows needs none.
    Later,
    /// It is done, and is dropped.
    Done,
}

impl From<copy::Outcome> for Outcome {
    fn from(outcome: copy::Outcome) -> Self {
        match outcome {
            copy::Outcome::Wait => Self::Wait,
            copy::Outcome::Again => Self::Again,
            copy::Outcome::Done => Self::Done,
        }
    }
}

/// Memory of the thread, of [`SCRATCH`] bytes.
pub(super) type Scratch = [u8];

/// A descriptor and the connection that it is joined to.
pub(super) trait Source: Send {
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// The same, for registration.
    fn source(&mut self) -> &mut dyn event::Source;

    /// Sets the notifier that is called when the connection can continue.
    fn set_notify(&self, notify: Arc<dyn Notify>);

    /// Copies as much as possible now, up to a bound.
    fn turn(&mut self, event: Event, scratch: &mut Scratch) -> Outcome;

    /// Returns whether the program has closed its end, if the system does not report that by an event. It is then
    /// called regularly.
    fn is_abandoned(&self) -> Option<bool> {
        None
    }

    /// Ends the source, as the pump ends or a program resets the connection: the rest is not copied. It is then
    /// dropped.
    fn end(&mut self);
}

/// The state that is shared with other threads.
struct Shared {
    state: Mutex<State>,
    waker: Waker,
    registry: Registry,
}

#[derive(Default)]
struct State {
    /// Sources that the thread has not yet taken.
    added: Vec<Added>,
    /// Sources whose connection can continue.
    news: Vec<Token>,
    /// Sources that a program resets.
    resets: Vec<Token>,
    /// By the identity of the program's end.
    known: HashMap<FdId, Known>,
    last: usize,
    /// The pump's descriptor of each source.
    descriptors: HashMap<Token, RawFd>,
    /// Whether the thread was woken, and has not yet checked the state.
    woken: bool,
    closed: bool,
}

/// The properties of a descriptor of the program.
struct Known {
    token: Token,
    addresses: (SocketAddr, SocketAddr),
}

impl Shared {
    /// Passes a source to the thread. It is ended if that fails.
    fn add(&self, mut source: Box<dyn Source>, addresses: Option<Addresses<'_>>) -> io::Result<()> {
        // The thread must have the source before it takes the first event of the descriptor: it needs this lock for
        // both.
        let mut state = sync::lock(&self.state);
        match self.register(&mut state, &mut *source, addresses) {
            Ok((token, id)) => {
                state.added.push(Added { token, source, id });
                state.wake(&self.waker);
                Ok(())
            }
            Err(err) => {
                drop(state);
                source.end();
                Err(err)
            }
        }
    }

    fn register(
        &self,
        state: &mut State,
        source: &mut dyn Source,
        addresses: Option<Addresses<'_>>,
    ) -> io::Result<(Token, Option<FdId>)> {
        let id = addresses.map(|(descriptor, _)| FdId::of(descriptor)).transpose()?;
        if state.closed {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let token = Token(state.last + 1);
        let descriptor = source.descriptor().as_raw_fd();
        self.registry.register(source.source(), token, Interest::READABLE | Interest::WRITABLE)?;
        state.last = token.0;
        state.descriptors.insert(token, descriptor);
        if let (Some(id), Some((_, addresses))) = (id, addresses) {
            state.known.insert(id, Known { token, addresses });
        }
        Ok((token, id))
    }
}

/// A source that the thread has not yet taken.
struct Added {
    token: Token,
    source: Box<dyn Source>,
    /// The id under which its addresses are stored.
    id: Option<FdId>,
}

impl State {
    fn wake(&mut self, waker: &Waker) {
        if !std::mem::replace(&mut self.woken, true)
            && let Err(err) = waker.wake()
        {
            tracing::error!(%err, "the thread of descriptors cannot be woken");
        }
    }
}

/// A descriptor of the program, and the local and remote addresses.
pub(super) type Addresses<'a> = (BorrowedFd<'a>, (SocketAddr, SocketAddr));

/// Notifies the thread that a connection can continue.
struct News {
    shared: Arc<Shared>,
    token: Token,
    is_queued: AtomicBool,
}

impl Notify for News {
    fn notify(&self) {
        if !self.is_queued.swap(true, Ordering::AcqRel) {
            let mut state = sync::lock(&self.shared.state);
            state.news.push(self.token);
            state.wake(&self.shared.waker);
        }
    }
}

/// A handle by which sources can add others.
#[derive(Clone)]
pub(super) struct Handle(Arc<Shared>);

impl Handle {
    /// Passes a source to the thread, and stores `addresses`.
    pub(super) fn add(&self, source: Box<dyn Source>, addresses: Option<Addresses<'_>>) -> io::Result<()> {
        self.0.add(source, addresses)
    }
}

/// A handle of the thread.
pub(super) struct Worker {
    shared: Arc<Shared>,
    owner: Owner,
    /// The process that created it: a child of `fork()` has no such thread.
    process: u32,
    thread: Mutex<Begun>,
}

/// The thread, or the poll that it will use.
enum Begun {
    Not(Poll),
    Yes(JoinHandle<()>),
    Over,
}

impl Worker {
    pub(super) fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let waker = Waker::new(&registry, WAKER)?;
        let shared = Arc::new(Shared { state: Mutex::default(), waker, registry });
        Ok(Self { shared, owner: Owner::unique(), process: std::process::id(), thread: Mutex::new(Begun::Not(poll)) })
    }

    pub(super) fn handle(&self) -> Handle {
        Handle(self.shared.clone())
    }

    pub(super) fn add(&self, mut source: Box<dyn Source>, addresses: Option<Addresses<'_>>) -> io::Result<()> {
        if self.process != std::process::id() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the pump was made before a fork()"));
        }
        if let Err(err) = self.begin() {
            source.end();
            return Err(err);
        }
        self.shared.add(source, addresses)
    }

    fn begin(&self) -> io::Result<()> {
        let mut begun = sync::lock(&self.thread);
        let poll = match std::mem::replace(&mut *begun, Begun::Over) {
            Begun::Not(poll) => Arc::new(Mutex::new(Some(poll))),
            other => {
                *begun = other;
                return Ok(());
            }
        };
        let (shared, theirs) = (self.shared.clone(), poll.clone());
        let body = move || {
            let poll = sync::lock(&theirs).take();
            if let Some(poll) = poll {
                Loop::new(shared, poll).run();
            }
        };
        match thread::spawn("wg-netpump", self.owner, body) {
            Ok(thread) => *begun = Begun::Yes(thread),
            Err(err) => {
                // The next attempt may succeed to start a thread.
                *begun = sync::lock(&poll).take().map_or(Begun::Over, Begun::Not);
                return Err(err);
            }
        }
        Ok(())
    }

    pub(super) fn addresses(&self, descriptor: BorrowedFd<'_>) -> io::Result<(SocketAddr, SocketAddr)> {
        let id = FdId::of(descriptor)?;
        let state = sync::lock(&self.shared.state);
        state.known.get(&id).map(|known| known.addresses).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn reset(&self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let id = FdId::of(descriptor)?;
        let mut state = sync::lock(&self.shared.state);
        let token = state.known.get(&id).ok_or(io::ErrorKind::NotFound)?.token;
        state.resets.push(token);
        state.wake(&self.shared.waker);
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        sync::lock(&self.shared.state).descriptors.len()
    }

    pub(super) fn descriptors(&self) -> Vec<RawFd> {
        sync::lock(&self.shared.state).descriptors.values().copied().collect()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            return;
        }
        {
            let mut state = sync::lock(&self.shared.state);
            state.closed = true;
            state.wake(&self.shared.waker);
        }
        let begun = std::mem::replace(&mut *sync::lock(&self.thread), Begun::Over);
        // A notifier of the program may drop the pump on its own thread.
        if let Begun::Yes(thread) = begun
            && !self.owner.is_current()
        {
            let _ = thread.join();
        }
    }
}

/// A source of the thread.
struct Entry {
    source: Box<dyn Source>,
    news: Arc<News>,
    id: Option<FdId>,
    /// The events of the system since the last turn.
    event: Event,
    /// Whether the other end writes no more, and whether it reads no more, by the events so far.
    is_read_closed: bool,
    is_write_closed: bool,
    /// Whether its turn is next.
    is_ready: bool,
}

/// The thread's own state.
struct Loop {
    shared: Arc<Shared>,
    poll: Poll,
    entries: HashMap<Token, Entry>,
    /// The sources whose turn is next.
    ready: Vec<Token>,
    /// The sources whose turn is slightly later.
    later: Vec<Token>,
    /// The sources that are asked whether they are abandoned.
    asked: Vec<Token>,
    /// The next time at which they are.
    ask_at: Instant,
    scratch: Box<Scratch>,
}

impl Loop {
    fn new(shared: Arc<Shared>, poll: Poll) -> Self {
        let scratch = vec![0; SCRATCH].into_boxed_slice();
        let (ready, later, asked) = (Vec::new(), Vec::new(), Vec::new());
        Self { shared, poll, entries: HashMap::new(), ready, later, asked, ask_at: Instant::now() + ASK, scratch }
    }

    fn run(mut self) {
        let mut events = Events::with_capacity(256);
        loop {
            let timeout = match (self.ready.is_empty(), self.later.is_empty()) {
                (false, _) => Some(Duration::ZERO),
                (true, false) => Some(LATER),
                (true, true) if self.asked.is_empty() => None,
                (true, true) => Some(self.ask_at.saturating_duration_since(Instant::now())),
            };
            if let Err(err) = self.poll.poll(&mut events, timeout)
                && err.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%err, "descriptors cannot be waited for any more");
                sync::lock(&self.shared.state).closed = true;
                return self.end();
            }
            if self.take_news() {
                return self.end();
            }
            // That may be earlier than necessary.
            for token in std::mem::take(&mut self.later) {
                self.make_ready(token);
            }
            for event in events.iter().filter(|event| event.token() != WAKER) {
                self.note(event);
            }
            self.ask();
            for token in std::mem::take(&mut self.ready) {
                self.turn(token);
            }
        }
    }

    /// Asks the sources for which it is time whether they are abandoned: such a source is at its end.
    fn ask(&mut self) {
        if self.asked.is_empty() || Instant::now() < self.ask_at {
            return;
        }
        self.ask_at = Instant::now() + ASK;
        for token in std::mem::take(&mut self.asked) {
            let Some(entry) = self.entries.get_mut(&token) else { continue };
            match entry.source.is_abandoned() {
                Some(true) => {
                    entry.event.ended = true;
                    self.make_ready(token);
                }
                _ => self.asked.push(token),
            }
        }
    }

    /// Takes the requests of other threads, and returns whether the pump ends.
    fn take_news(&mut self) -> bool {
        let mut state = sync::lock(&self.shared.state);
        state.woken = false;
        let (added, news, closed) = (std::mem::take(&mut state.added), std::mem::take(&mut state.news), state.closed);
        let resets = std::mem::take(&mut state.resets);
        drop(state);
        for Added { token, source, id } in added {
            let news = Arc::new(News { shared: self.shared.clone(), token, is_queued: AtomicBool::new(false) });
            source.set_notify(news.clone());
            if source.is_abandoned().is_some() {
                self.asked.push(token);
            }
            let event = Event::default();
            let (is_read_closed, is_write_closed, is_ready) = (false, false, true);
            self.entries.insert(token, Entry { source, news, id, event, is_read_closed, is_write_closed, is_ready });
            self.ready.push(token);
        }
        for token in news {
            if let Some(entry) = self.entries.get(&token) {
                // Before its turn: a notification during the turn counts again.
                entry.news.is_queued.store(false, Ordering::Release);
                self.make_ready(token);
            }
        }
        for token in resets {
            if let Some(mut entry) = self.entries.remove(&token) {
                entry.source.end();
                self.forget(token, entry);
            }
        }
        closed
    }

    fn note(&mut self, event: &event::Event) {
        let Some(entry) = self.entries.get_mut(&event.token()) else { return };
        entry.event.readable |= event.is_readable();
        entry.event.writable |= event.is_writable();
        entry.event.ended |= event.is_read_closed();
        // Apple's systems report the two by events of their own.
        entry.is_read_closed = event.is_read_closed() || (cfg!(target_vendor = "apple") && entry.is_read_closed);
        entry.is_write_closed = event.is_write_closed() || (cfg!(target_vendor = "apple") && entry.is_write_closed);
        entry.event.closed |= entry.is_read_closed && entry.is_write_closed;
        entry.event.failed |= pair::is_failure(event);
        self.make_ready(event.token());
    }

    fn make_ready(&mut self, token: Token) {
        if let Some(entry) = self.entries.get_mut(&token)
            && !std::mem::replace(&mut entry.is_ready, true)
        {
            self.ready.push(token);
        }
    }

    fn turn(&mut self, token: Token) {
        let Some(entry) = self.entries.get_mut(&token) else { return };
        entry.is_ready = false;
        match entry.source.turn(std::mem::take(&mut entry.event), &mut self.scratch) {
            Outcome::Wait => {}
            Outcome::Later => self.later.push(token),
            Outcome::Again => {
                entry.is_ready = true;
                self.ready.push(token);
            }
            Outcome::Done => {
                if let Some(entry) = self.entries.remove(&token) {
                    self.forget(token, entry);
                }
            }
        }
    }

    fn forget(&self, token: Token, mut entry: Entry) {
        if let Err(err) = self.shared.registry.deregister(entry.source.source()) {
            tracing::debug!(%err, "a descriptor was not waited for any more");
        }
        let mut state = sync::lock(&self.shared.state);
        state.descriptors.remove(&token);
        // The system may have reused the id by now.
        if let Some(id) = entry.id
            && state.known.get(&id).is_some_and(|known| known.token == token)
        {
            state.known.remove(&id);
        }
        drop(state);
        drop(entry);
    }

    fn end(mut self) {
        let entries = std::mem::take(&mut self.entries);
        for (token, mut entry) in entries {
            entry.source.end();
            self.forget(token, entry);
        }
        // Later calls of `add` fail, as the state is closed.
        let mut state = sync::lock(&self.shared.state);
        state.descriptors.clear();
        let added = std::mem::take(&mut state.added);
        drop(state);
        for mut added in added {
            added.source.end();
        }
    }
}
