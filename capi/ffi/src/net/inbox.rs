//! Connections that wait for wg_net_accept(), and a descriptor of the app that is readable while there are any.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use crate::{plumbing::fd::above_standard, types::net::wg_net_connection_t};
use wg_embed::sync;
use wg_embed_netstack::{
    TcpStream, UdpFlow, UdpPort,
    pump::{self, AsFd, BorrowedFd, FdId, OwnedFd, Signal},
};

/// A connection of an intercepting network, or a flow of datagrams.
pub(super) enum Link {
    Tcp(TcpStream),
    Udp(UdpFlow),
}

impl Link {
    /// Ends it, as there is no room or descriptor for it: a connection is reset.
    pub(super) fn give_up(self) {
        if let Self::Tcp(stream) = self {
            stream.reset();
        }
    }
}

/// A connection that the app has not accepted yet.
pub(super) struct Arrived {
    pub(super) link: Link,
    pub(super) connection: wg_net_connection_t,
}

/// The kind of an inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Datagrams to a port of the network.
    Listen(SocketAddr),
    /// Intercepted connections.
    Intercept,
}

/// A bounded queue. As long as something waits there is one byte for the app's descriptor, which the app does not
/// read.
pub(super) struct Inbox {
    pub(super) purpose: Purpose,
    /// The app's descriptor.
    id: FdId,
    backlog: usize,
    state: Mutex<State>,
}

struct State {
    waiting: VecDeque<Arrived>,
    /// The other end of the app's descriptor; `None` once the inbox is closed.
    signal: Option<Signal>,
    /// The port that is listened at, so that nothing else takes it.
    port: Option<UdpPort>,
}

impl State {
    /// Whether the app has closed its descriptor, or shut it down; or the inbox is closed.
    fn is_gone(&self) -> bool {
        self.signal.as_ref().is_none_or(Signal::is_gone)
    }
}

impl Inbox {
    /// An inbox for what comes to a port, and the app's descriptor.
    pub(super) fn listening(port: UdpPort, backlog: usize) -> io::Result<(Arc<Self>, OwnedFd)> {
        Self::new(Purpose::Listen(port.local_addr()), Some(port), backlog)
    }

    /// An inbox for what is intercepted, and the app's descriptor.
    pub(super) fn intercepting(backlog: usize) -> io::Result<(Arc<Self>, OwnedFd)> {
        Self::new(Purpose::Intercept, None, backlog)
    }

    fn new(purpose: Purpose, port: Option<UdpPort>, backlog: usize) -> io::Result<(Arc<Self>, OwnedFd)> {
        let (ours, of_app) = pump::pair()?;
        let (signal, of_app) = (Signal::new(above_standard(ours)?), above_standard(of_app)?);
        let id = FdId::of(of_app.as_fd())?;
        let state = Mutex::new(State { waiting: VecDeque::new(), signal: Some(signal), port });
        Ok((Arc::new(Self { purpose, id, backlog, state }), of_app))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        sync::lock(&self.state)
    }

    /// Returns the end that reports that the app has closed its end; `None` once the inbox is closed.
    pub(super) fn signal(&self) -> Option<Signal> {
        self.state().signal.clone()
    }

    pub(super) fn id(&self) -> FdId {
        self.id
    }

    /// Whether this is the inbox of that descriptor of the app.
    pub(super) fn is(&self, id: FdId) -> bool {
        self.id == id
    }

    /// Whether all descriptors that connections are taken from are closed.
    pub(super) fn is_gone(&self) -> bool {
        self.state().is_gone()
    }

    /// Whether another connection may wait.
    pub(super) fn has_room(&self) -> bool {
        let state = self.state();
        state.waiting.len() < self.backlog && !state.is_gone()
    }

    /// Adds a connection. Without room, or anyone to take it, it is given up.
    pub(super) fn push(&self, arrived: Arrived) {
        let mut state = self.state();
        if state.waiting.len() >= self.backlog || state.is_gone() || state.waiting.try_reserve(1).is_err() {
            // Without the lock: the stack sends now.
            drop(state);
            return arrived.link.give_up();
        }
        if state.waiting.is_empty()
            && let Some(signal) = &state.signal
        {
            signal.raise();
        }
        state.waiting.push_back(arrived);
    }

    /// Takes the connection that has waited longest. `WouldBlock` if none waits, `NotConnected` if none can
    /// come.
    pub(super) fn pop(&self, of_app: BorrowedFd<'_>) -> io::Result<Arrived> {
        let mut state = self.state();
        let arrived = state.waiting.pop_front();
        if state.waiting.is_empty() {
            // If the app has read it, its poll() has seen too little.
            Signal::lower(of_app);
        }
        arrived.ok_or_else(|| {
            let kind = if state.is_gone() { io::ErrorKind::NotConnected } else { io::ErrorKind::WouldBlock };
            kind.into()
        })
    }

    /// Ends it: the app's descriptor sees the end, what waits is given up, and the port is free.
    pub(super) fn close(&self) {
        let mut state = self.state();
        let (waiting, signal, port) = (std::mem::take(&mut state.waiting), state.signal.take(), state.port.take());
        drop(state);
        if let Some(signal) = signal {
            // The pump may hold a duplicate.
            signal.close();
        }
        waiting.into_iter().for_each(|arrived| arrived.link.give_up());
        drop(port);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_for_the_app_and_by_the_app() {
        let (inbox, of_app) = Inbox::intercepting(1).unwrap();
        assert!(inbox.is(FdId::of(of_app.as_fd()).unwrap()) && inbox.has_room());
        assert_eq!(inbox.pop(of_app.as_fd()).err().unwrap().kind(), io::ErrorKind::WouldBlock);
        inbox.close();
        pump::wait(of_app.as_fd(), None).unwrap();
        assert!(inbox.is_gone() && !inbox.has_room());
        assert_eq!(inbox.pop(of_app.as_fd()).err().unwrap().kind(), io::ErrorKind::NotConnected);
        let (inbox, of_app) = Inbox::intercepting(1).unwrap();
        drop(of_app);
        assert!(inbox.is_gone() && !inbox.has_room());
    }
}
