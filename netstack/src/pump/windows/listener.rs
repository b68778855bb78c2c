//! Passes connections to a program as sockets. The program's socket is a [`Signal`] for those that wait.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{Arc, LazyLock, Mutex, OnceLock, Weak},
};

use mio::{event, net};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use wg_embed::sync;

use super::{
    Accepted,
    fd_id::FdId,
    pair, relay,
    signal::{self, Signal},
    stream,
    thread::{Handle, Outcome, Scratch, Source, Worker},
};
use crate::{Notify, TcpListener, TcpStream, copy::Event};

/// The number of connections that are accepted in advance.
const MOST: usize = 16;

/// Receives a connection from a descriptor of [`Pump::listener_descriptor`](super::Pump::listener_descriptor), without
/// waiting. Several threads may call it.
///
/// # Errors
/// `WouldBlock`; `ConnectionAborted` when the stack or the pump has ended; `InvalidInput` if it is not such a
/// descriptor; errors of the system if there can be no more sockets, in which case the connection is reset.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<Accepted> {
    let id = FdId::of(listener)?;
    let waiting = sync::lock(&LISTENERS).get(&id).ok_or(io::ErrorKind::InvalidInput)?.upgrade();
    let waiting = waiting.ok_or(io::ErrorKind::ConnectionAborted)?;
    let stream = waiting.pop(listener).ok_or(io::ErrorKind::WouldBlock)?;
    let (local, peer) = (stream.local_addr(), stream.peer_addr());
    let (ours, descriptor) = stream::pair().inspect_err(|_| relay::give_up(&stream))?;
    waiting.pump.add(Box::new(relay::join(ours, stream)), Some((descriptor.as_fd(), (local, peer))))?;
    Ok(Accepted { descriptor, local, peer })
}

/// The listeners of this process, by the program's sockets. A listener that has ended stays until there is a new one.
static LISTENERS: LazyLock<Mutex<HashMap<FdId, Weak<Waiting>>>> = LazyLock::new(Mutex::default);

/// The connections of a listener that wait for [`accept`]: as long as there are any, there is a byte for the program's
/// socket.
struct Waiting {
    streams: Mutex<VecDeque<TcpStream>>,
    pump: Handle,
    /// Requests a turn of the [`Listener`].
    notify: OnceLock<Arc<dyn Notify>>,
}

impl Waiting {
    fn pop(&self, app: BorrowedFd<'_>) -> Option<TcpStream> {
        let mut streams = sync::lock(&self.streams);
        let was_full = streams.len() == MOST;
        let stream = streams.pop_front();
        if streams.is_empty() {
            Signal::lower(app);
        }
        drop(streams);
        if was_full && let Some(notify) = self.notify.get() {
            notify.notify();
        }
        stream
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        for stream in &*sync::lock(&self.streams) {
            relay::give_up(stream);
        }
    }
}

/// A listener, and our end of its signal.
struct Listener {
    listener: TcpListener,
    waiting: Arc<Waiting>,
    signal: net::TcpStream,
}

/// Passes a listener to the pump, and returns the program's descriptor.
pub(super) fn descriptor(worker: &Worker, listener: TcpListener) -> io::Result<OwnedFd> {
    let (ours, app) = pair::pair()?;
    let waiting = Waiting { streams: Mutex::default(), pump: worker.handle(), notify: OnceLock::new() };
    let waiting = Arc::new(waiting);
    let id = FdId::of(app.as_fd())?;
    {
        let mut listeners = sync::lock(&LISTENERS);
        listeners.retain(|_, waiting| waiting.strong_count() > 0);
        listeners.insert(id, Arc::downgrade(&waiting));
    }
    worker.add(Box::new(Listener { listener, waiting, signal: net::TcpStream::from_std(ours.into()) }), None)?;
    Ok(app)
}

impl Source for Listener {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.signal.as_fd()
    }

    fn source(&mut self) -> &mut dyn event::Source {
        &mut self.signal
    }

    fn set_notify(&self, notify: Arc<dyn Notify>) {
        self.listener.set_notify(Some(notify.clone()));
        let _ = self.waiting.notify.set(notify);
    }

    fn turn(&mut self, event: Event, _scratch: &mut Scratch) -> Outcome {
        if event.ended {
            return Outcome::Done;
        }
        let mut streams = sync::lock(&self.waiting.streams);
        while streams.len() < MOST {
            match self.listener.try_accept() {
                Ok(stream) => streams.push_back(stream),
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Outcome::Wait,
                Err(_) => return Outcome::Done,
            }
            if streams.len() == 1 {
                signal::raise(self.signal.as_fd());
            }
        }
        Outcome::Wait
    }

    fn end(&mut self) {}
}
