//! Messages of other threads to the engine's thread.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::Sender,
    },
};

use mio::{Registry, Token, Waker};
use wg_embed::sync::lock;
use wg_embed_netstack::{Notify, PendingTcp, TcpStream, UdpFlow};

use crate::{
    proxy::{Connections, ServiceId},
    service::{Address, Options, Service},
    socket::Socket,
    stats::Counters,
};

/// The token of the waker.
pub(crate) const WAKER: usize = 0;

/// A request of another thread.
pub(crate) enum Command {
    Add {
        id: ServiceId,
        service: Service,
        counters: Arc<Counters>,
        answer: Sender<io::Result<Option<Address>>>,
    },
    Remove {
        id: ServiceId,
        connections: Connections,
        answer: Sender<()>,
    },
    /// Replaces a service by another one at the same place.
    Change {
        id: ServiceId,
        service: Service,
        answer: Sender<io::Result<()>>,
    },
    /// Adds a connection to `target`.
    Client {
        socket: Socket,
        target: String,
        answer: Sender<()>,
    },
    Options(Options),
    /// A peer in the tunnel connects.
    Dialled(PendingTcp),
    /// An accepted connection is established.
    Connected(TcpStream),
    /// The first datagram of a flow has arrived.
    Flow(UdpFlow),
    /// Stop, or check whether the stack was closed.
    Wake,
}

/// The treatment of connections when the proxy is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Close,
    Reset,
}

/// Passes messages to the thread.
pub(crate) struct Mailbox {
    state: Mutex<State>,
    waker: Waker,
}

#[derive(Default)]
struct State {
    commands: Vec<Command>,
    ready: Vec<Ready>,
    is_woken: bool,
    stop: Option<End>,
    /// Whether the thread has ended: messages are then dropped.
    is_over: bool,
}

/// Pending work.
#[derive(Default)]
pub(crate) struct News {
    pub(crate) commands: Vec<Command>,
    pub(crate) ready: Vec<Ready>,
    pub(crate) stop: Option<End>,
}

impl News {
    pub(crate) const fn is_empty(&self) -> bool {
        self.commands.is_empty() && self.ready.is_empty()
    }
}

impl Mailbox {
    pub(crate) fn new(registry: &Registry) -> io::Result<Self> {
        Ok(Self { state: Mutex::default(), waker: Waker::new(registry, Token(WAKER))? })
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = lock(&self.state);
        if state.is_over {
            return;
        }
        change(&mut state);
        let wakes = !std::mem::replace(&mut state.is_woken, true);
        // The thread, once it is awake, would wait for the lock.
        drop(state);
        if wakes && let Err(error) = self.waker.wake() {
            tracing::error!(%error, "the proxy's thread cannot be woken");
        }
    }

    pub(crate) fn push(&self, command: Command) {
        self.change(|state| state.commands.push(command));
    }

    /// Ends the thread, in the way that was requested first.
    pub(crate) fn stop(&self, end: End) {
        self.change(|state| _ = state.stop.get_or_insert(end));
    }

    pub(crate) fn take(&self) -> News {
        let mut state = lock(&self.state);
        state.is_woken = false;
        let state = &mut *state;
        News {
            commands: std::mem::take(&mut state.commands),
            ready: std::mem::take(&mut state.ready),
            stop: state.stop,
        }
    }

    /// Rejects further messages. Pending ones are dropped.
    pub(crate) fn close(&self) {
        let before = {
            let mut state = lock(&self.state);
            std::mem::replace(&mut *state, State { is_over: true, ..State::default() })
        };
        drop(before);
    }

    pub(crate) fn is_over(&self) -> bool {
        lock(&self.state).is_over
    }

    /// Returns a notifier that reports that an entry can continue.
    pub(crate) fn notifier(self: &Arc<Self>, token: usize) -> Arc<dyn Notify> {
        Arc::new(Notifier { mailbox: self.clone(), token, is_queued: Arc::default() })
    }
}

/// Reports that the stack was possibly closed.
impl Notify for Mailbox {
    fn notify(&self) {
        self.push(Command::Wake);
    }
}

struct Notifier {
    mailbox: Arc<Mailbox>,
    token: usize,
    is_queued: Arc<AtomicBool>,
}

impl Notify for Notifier {
    fn notify(&self) {
        if !self.is_queued.swap(true, Ordering::AcqRel) {
            let ready = Ready { token: self.token, is_queued: self.is_queued.clone() };
            self.mailbox.change(|state| state.ready.push(ready));
        }
    }
}

/// The notifier of an entry.
pub(crate) struct Ready {
    token: usize,
    is_queued: Arc<AtomicBool>,
}

impl Ready {
    /// Returns the entry. Later notifications count again.
    pub(crate) fn hear(self) -> usize {
        self.is_queued.store(false, Ordering::Release);
        self.token
    }
}
