//! Listeners and their ports.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use wg_embed::sync::lock;

use super::socket::TcpSocket;
use crate::notify::Notify;

/// Listeners by port.
#[derive(Default)]
pub(super) struct Listeners(HashMap<u16, Vec<Arc<Listening>>>);

impl Listeners {
    /// Returns the listener for this address and port: one of this address is preferred to one of all addresses.
    pub(super) fn find(&self, to: SocketAddr) -> Option<&Arc<Listening>> {
        let all = self.0.get(&to.port())?;
        all.iter().filter(|listener| listener.takes(to.ip())).max_by_key(|listener| !listener.at.ip().is_unspecified())
    }

    pub(super) fn has_port(&self, port: u16) -> bool {
        self.0.contains_key(&port)
    }

    /// Returns whether another listener has the same address and port, or covers them.
    pub(super) fn conflicts(&self, at: SocketAddr) -> bool {
        self.0.get(&at.port()).is_some_and(|all| {
            all.iter().any(|other| match (at.ip(), other.at.ip()) {
                (one, two) if one == two => true,
                // A listener of one address and one of all addresses are distinguishable.
                (one, two) => one.is_unspecified() && two.is_unspecified(),
            })
        })
    }

    pub(super) fn insert(&mut self, listener: Arc<Listening>) {
        self.0.entry(listener.at.port()).or_default().push(listener);
    }

    pub(super) fn remove(&mut self, listener: &Arc<Listening>) {
        let port = listener.at.port();
        if let Some(all) = self.0.get_mut(&port) {
            all.retain(|other| !Arc::ptr_eq(other, listener));
            if all.is_empty() {
                self.0.remove(&port);
            }
        }
    }

    pub(super) fn take_all(&mut self) -> Vec<Arc<Listening>> {
        std::mem::take(&mut self.0).into_values().flatten().collect()
    }
}

/// A listener: its address, and established connections that were not yet accepted.
pub(crate) struct Listening {
    pub(crate) at: SocketAddr,
    backlog: usize,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Whether it was dropped, or the stack was closed.
    closed: AtomicBool,
}

#[derive(Default)]
struct Queue {
    sockets: VecDeque<Arc<TcpSocket>>,
    notify: Option<Arc<dyn Notify>>,
    wants: bool,
}

impl Listening {
    pub(super) fn new(at: SocketAddr, backlog: usize) -> Self {
        Self {
            at,
            backlog: backlog.max(1),
            queue: Mutex::default(),
            changed: Condvar::new(),
            closed: AtomicBool::new(false),
        }
    }

    fn takes(&self, address: IpAddr) -> bool {
        match self.at.ip() {
            IpAddr::V6(at) if at.is_unspecified() => true,
            IpAddr::V4(at) if at.is_unspecified() => address.is_ipv4(),
            at => at == address,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn is_full(&self) -> bool {
        lock(&self.queue).sockets.len() >= self.backlog
    }

    /// Adds an established connection. Returns it if the listener was closed.
    pub(super) fn push(&self, socket: Arc<TcpSocket>) -> Result<(), Arc<TcpSocket>> {
        let mut queue = lock(&self.queue);
        if self.is_closed() {
            return Err(socket);
        }
        queue.sockets.push_back(socket);
        self.changed.notify_one();
        let notify = std::mem::take(&mut queue.wants).then(|| queue.notify.clone()).flatten();
        drop(queue);
        if let Some(notify) = notify {
            notify.notify();
        }
        Ok(())
    }

    /// Returns the connection that has waited longest.
    pub(crate) fn pop(&self) -> io::Result<Arc<TcpSocket>> {
        let mut queue = lock(&self.queue);
        if let Some(socket) = queue.sockets.pop_front() {
            return Ok(socket);
        }
        if self.is_closed() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        queue.wants = true;
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Waits for a connection and returns it like [`pop`](Self::pop).
    pub(crate) fn wait(&self, timeout: Option<std::time::Duration>) -> io::Result<Arc<TcpSocket>> {
        let queue = lock(&self.queue);
        let ready = |queue: &Queue| !queue.sockets.is_empty() || self.is_closed();
        let mut queue = wg_embed::queue::wait_until(&self.changed, queue, timeout, ready);
        match queue.sockets.pop_front() {
            Some(socket) => Ok(socket),
            None if self.is_closed() => Err(io::ErrorKind::ConnectionAborted.into()),
            None => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Replaces the notifier.
    pub(crate) fn set_notify(&self, notify: Option<Arc<dyn Notify>>) {
        let mut queue = lock(&self.queue);
        let tell = (!queue.sockets.is_empty() || self.is_closed()).then(|| notify.clone()).flatten();
        queue.wants = tell.is_none();
        let before = std::mem::replace(&mut queue.notify, notify);
        drop(queue);
        drop(before);
        if let Some(notify) = tell {
            notify.notify();
        }
    }

    /// Closes it, and returns the waiting connections.
    pub(super) fn close(&self) -> VecDeque<Arc<TcpSocket>> {
        let mut queue = lock(&self.queue);
        self.closed.store(true, Ordering::Release);
        self.changed.notify_all();
        let sockets = std::mem::take(&mut queue.sockets);
        let notify = queue.notify.take();
        drop(queue);
        if let Some(notify) = notify {
            notify.notify();
        }
        sockets
    }
}
