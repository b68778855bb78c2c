//! The thread that copies: it waits for descriptors and for connections, and gives each a turn.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use mio::{Events, Interest, Poll, Registry, Token, Waker, unix::SourceFd};
use wg_embed::{
    sync,
    thread::{self, Owner},
};

use super::fd_id::FdId;
use crate::{
    Notify,
    copy::{self, Event},
};

const WAKER: Token = Token(0);

/// Where datagrams lie while they are copied: what fills it is longer than any of them.
const SCRATCH: usize = 65_536;

/// How long it takes until what the system lacked is tried for again.
const LATER: Duration = Duration::from_millis(100);

/// What becomes of a source after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It waits for news.
    Wait,
    /// There is more to copy at once.
    Again,
    /// It lacks what only time brings: it has its turn again a little later.
    Later,
    /// It is over, and is dropped.
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

/// A descriptor and what it is copied to and from.
pub(super) trait Source: Send {
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// Sets who is told when the connection can go on.
    fn set_notify(&self, notify: Arc<dyn Notify>);

    /// Copies what can be copied now, up to a bound.
    fn turn(&mut self, event: Event, scratch: &mut Scratch) -> Outcome;

    /// The pump ends, or a program resets the connection: what is left is not copied. It is dropped next.
    fn end(&mut self);
}

/// What the thread shares with all others.
struct Shared {
    state: Mutex<State>,
    waker: Waker,
    registry: Registry,
}

#[derive(Default)]
struct State {
    /// Those that the thread has not taken yet.
    added: Vec<Added>,
    /// Those whose connection can go on.
    news: Vec<Token>,
    /// Those that a program resets.
    resets: Vec<Token>,
    /// By the program's end.
    known: HashMap<FdId, Known>,
    last: usize,
    /// Of each source.
    descriptors: HashMap<Token, RawFd>,
    /// The thread was woken, and has not looked yet.
    woken: bool,
    closed: bool,
}

/// What is known of a descriptor of the program.
struct Known {
    token: Token,
    addresses: (SocketAddr, SocketAddr),
}

impl Shared {
    fn add(&self, source: Box<dyn Source>, addresses: Option<Addresses<'_>>) -> io::Result<()> {
        let id = addresses.map(|(descriptor, _)| FdId::of(descriptor)).transpose()?;
        // The thread must know the source before it takes the first event of the descriptor: it needs this lock for
        // both.
        let mut state = sync::lock(&self.state);
        if state.closed {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let token = Token(state.last + 1);
        let descriptor = source.descriptor().as_raw_fd();
        self.registry.register(&mut SourceFd(&descriptor), token, Interest::READABLE | Interest::WRITABLE)?;
        state.last = token.0;
        state.descriptors.insert(token, descriptor);
        if let (Some(id), Some((_, addresses))) = (id, addresses) {
            state.known.insert(id, Known { token, addresses });
        }
        state.added.push(Added { token, source, id });
        state.wake(&self.waker);
        Ok(())
    }
}

/// A source that the thread has not taken yet.
struct Added {
    token: Token,
    source: Box<dyn Source>,
    /// By which its addresses are known.
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

/// A descriptor of the program, and the addresses of this and of the other side.
pub(super) type Addresses<'a> = (BorrowedFd<'a>, (SocketAddr, SocketAddr));

/// Tells the thread that a connection can go on.
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

/// What sources need to add others.
#[derive(Clone)]
pub(super) struct Handle(Arc<Shared>);

impl Handle {
    /// Gives a source to the thread, which knows `addresses` from then on.
    pub(super) fn add(&self, source: Box<dyn Source>, addresses: Option<Addresses<'_>>) -> io::Result<()> {
        self.0.add(source, addresses)
    }
}

/// The thread, from outside.
pub(super) struct Worker {
    shared: Arc<Shared>,
    owner: Owner,
    /// The process that it was made in: a child of `fork()` has no such thread.
    process: u32,
    thread: Mutex<Begun>,
}

/// The thread, or what it will wait with.
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

    pub(super) fn add(&self, source: Box<dyn Source>, addresses: Option<Addresses<'_>>) -> io::Result<()> {
        if self.process != std::process::id() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the pump was made before a fork()"));
        }
        self.begin()?;
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
                // There may be a thread for the next one.
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
    /// What the system said since the last turn.
    event: Event,
    /// It is among those whose turn is next.
    is_ready: bool,
}

/// What the thread has of its own.
struct Loop {
    shared: Arc<Shared>,
    poll: Poll,
    entries: HashMap<Token, Entry>,
    /// Whose turn is next.
    ready: Vec<Token>,
    /// Whose turn comes a little later.
    later: Vec<Token>,
    scratch: Box<Scratch>,
}

impl Loop {
    fn new(shared: Arc<Shared>, poll: Poll) -> Self {
        let scratch = vec![0; SCRATCH].into_boxed_slice();
        Self { shared, poll, entries: HashMap::new(), ready: Vec::new(), later: Vec::new(), scratch }
    }

    fn run(mut self) {
        let mut events = Events::with_capacity(256);
        loop {
            let timeout = match (self.ready.is_empty(), self.later.is_empty()) {
                (false, _) => Some(Duration::ZERO),
                (true, false) => Some(LATER),
                (true, true) => None,
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
            // That may be earlier than it has to.
            for token in std::mem::take(&mut self.later) {
                self.make_ready(token);
            }
            for event in events.iter().filter(|event| event.token() != WAKER) {
                self.note(event);
            }
            for token in std::mem::take(&mut self.ready) {
                self.turn(token);
            }
        }
    }

    /// Takes what others have left, and returns whether it is the end.
    fn take_news(&mut self) -> bool {
        let mut state = sync::lock(&self.shared.state);
        state.woken = false;
        let (added, news, closed) = (std::mem::take(&mut state.added), std::mem::take(&mut state.news), state.closed);
        let resets = std::mem::take(&mut state.resets);
        drop(state);
        for Added { token, source, id } in added {
            let news = Arc::new(News { shared: self.shared.clone(), token, is_queued: AtomicBool::new(false) });
            source.set_notify(news.clone());
            self.entries.insert(token, Entry { source, news, id, event: Event::default(), is_ready: true });
            self.ready.push(token);
        }
        for token in news {
            if let Some(entry) = self.entries.get(&token) {
                // Before its turn: what comes during that is news again.
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

    fn note(&mut self, event: &mio::event::Event) {
        let Some(entry) = self.entries.get_mut(&event.token()) else { return };
        entry.event.readable |= event.is_readable();
        entry.event.writable |= event.is_writable();
        entry.event.ended |= event.is_read_closed();
        entry.event.closed |= event.is_read_closed() && event.is_write_closed();
        entry.event.failed |= event.is_error();
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

    fn forget(&self, token: Token, entry: Entry) {
        let descriptor = entry.source.descriptor().as_raw_fd();
        if let Err(err) = self.shared.registry.deregister(&mut SourceFd(&descriptor)) {
            tracing::debug!(%err, "a descriptor was not waited for any more");
        }
        let mut state = sync::lock(&self.shared.state);
        state.descriptors.remove(&token);
        // By now the system may have given the id to another one.
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
        // Whoever adds from now on sees that it is closed.
        let mut state = sync::lock(&self.shared.state);
        state.descriptors.clear();
        let added = std::mem::take(&mut state.added);
        drop(state);
        for mut added in added {
            added.source.end();
        }
    }
}
