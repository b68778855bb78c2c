//! The API for programs.

use std::{
    fmt,
    io::{self, ErrorKind},
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
};

use mio::Poll;
use wg_embed::{
    sync::lock,
    thread::{self, Owner},
};
use wg_embed_netstack::{Delivery, Netstack, Notify};

use crate::{
    engine::Engine,
    mailbox::{Command, End, Mailbox},
    service::{Address, Options, Service},
    socket::{Socket, Watched},
    stats::{Counters, Stats},
};

/// The id of a service of a proxy, unique in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceId(u64);

impl ServiceId {
    fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Returns the id of connections without a service.
    pub(crate) const fn none() -> Self {
        Self(0)
    }
}

/// The treatment of the connections of a removed service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    /// They continue.
    Keep,
    /// They are reset.
    End,
}

/// Services over a stack, with one thread, `wg-proxy`, that sleeps while it is idle. Any thread may use it.
///
/// It ends when it is dropped, which waits for the thread, or by itself when the stack is closed: listeners are closed,
/// connections are reset, files of Unix sockets are removed. Calls then fail with `ConnectionAborted`, and in a child
/// of `fork()` with `Unsupported`.
pub struct Proxy {
    mailbox: Arc<Mailbox>,
    owner: Owner,
    /// A child of `fork()` does not have the thread.
    process: u32,
    thread: Option<JoinHandle<()>>,
    services: Mutex<Vec<Known>>,
    all: Arc<Counters>,
    /// The stack holds it weakly.
    _closed: Arc<dyn Notify>,
}

/// Reports that the thread has ended, also after a panic, so that no caller waits for its result.
struct AtEnd<F: FnOnce()> {
    mailbox: Arc<Mailbox>,
    ended: Option<F>,
}

impl<F: FnOnce()> Drop for AtEnd<F> {
    fn drop(&mut self) {
        self.mailbox.close();
        if let Some(ended) = self.ended.take() {
            ended();
        }
    }
}

/// A service that was added.
struct Known {
    id: ServiceId,
    service: Service,
    address: Option<Address>,
    counters: Arc<Counters>,
}

impl Proxy {
    /// Starts a proxy without services.
    ///
    /// # Errors
    /// Errors of the system: it needs a thread and two descriptors.
    pub fn start(stack: &Netstack, options: Options) -> io::Result<Self> {
        Self::start_with(stack, options, || {})
    }

    /// Starts a proxy like [`start`](Self::start). `ended` is called on the proxy's thread as its last action, also
    /// after it was dropped. It must not wait for anything that the caller of `drop` holds.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with(stack: &Netstack, options: Options, ended: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mailbox = Arc::new(Mailbox::new(poll.registry())?);
        let all = Arc::<Counters>::default();
        let owner = Owner::unique();
        let engine = Engine::new(poll, mailbox.clone(), stack.clone(), options, all.clone())?;
        let end = AtEnd { mailbox: mailbox.clone(), ended: Some(ended) };
        let thread = thread::spawn("wg-proxy", owner, move || {
            let _end = end;
            engine.run();
        })?;
        let closed: Arc<dyn Notify> = mailbox.clone();
        stack.notify_closed(&closed);
        Ok(Self {
            mailbox,
            owner,
            process: std::process::id(),
            thread: Some(thread),
            services: Mutex::default(),
            all,
            _closed: closed,
        })
    }

    /// Starts to serve.
    ///
    /// # Errors
    /// `AddrInUse`, `AddrNotAvailable`, `PermissionDenied`, ...: errors of the system and the stack for the address.
    /// `InvalidInput`: a target is not `host:port`.
    pub fn add(&self, service: Service) -> io::Result<ServiceId> {
        let (id, counters) = (ServiceId::next(), Arc::<Counters>::default());
        let (answer, answered) = mpsc::channel();
        let command = Command::Add { id, service: service.clone(), counters: counters.clone(), answer };
        let address = self.ask(command, &answered)??;
        lock(&self.services).push(Known { id, service, address, counters });
        Ok(id)
    }

    /// Ends a service. When this returns, its address is free.
    ///
    /// # Errors
    /// `NotFound`: it was already removed.
    pub fn remove(&self, id: ServiceId, connections: Connections) -> io::Result<()> {
        let found = {
            let mut services = lock(&self.services);
            let at = services.iter().position(|known| known.id == id);
            at.map(|at| services.remove(at))
        };
        found.ok_or(ErrorKind::NotFound)?;
        let (answer, answered) = mpsc::channel();
        self.ask(Command::Remove { id, connections, answer }, &answered)
    }

    /// Serves `services`, and no others. Those that are already served continue, and so do all connections. A service
    /// with the place of an earlier one (its listener, or its port in the tunnel) takes it over, without a moment in
    /// which there is no listener; connections of the earlier one count towards its limits. Returns the services that
    /// could not be added, with the errors: the services that they were to replace continue.
    ///
    /// # Errors
    /// `ConnectionAborted`, `Unsupported`: as described for [`Proxy`].
    pub fn replace(&self, services: Vec<Service>) -> io::Result<Vec<(Service, io::Error)>> {
        let mut left = self.services();
        let mut take = |same: &dyn Fn(&Service) -> bool| {
            let at = left.iter().position(|(_, known)| same(known));
            at.map(|at| left.remove(at).0)
        };
        let mut new = services;
        new.retain(|service| take(&|known| known == service).is_none());
        let new: Vec<_> =
            new.into_iter().map(|service| (take(&|known| known.site() == service.site()), service)).collect();
        for (id, _) in left {
            self.remove(id, Connections::Keep)?;
        }
        let mut failed = Vec::new();
        for (id, service) in new {
            let done = match id {
                Some(id) => self.change(id, service.clone()),
                None => self.add(service.clone()).map(drop),
            };
            match done {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => return Err(error),
                Err(error) => failed.push((service, error)),
            }
        }
        Ok(failed)
    }

    /// Replaces a service by one at the same place.
    fn change(&self, id: ServiceId, service: Service) -> io::Result<()> {
        let (answer, answered) = mpsc::channel();
        self.ask(Command::Change { id, service: service.clone(), answer }, &answered)??;
        if let Some(known) = lock(&self.services).iter_mut().find(|known| known.id == id) {
            known.service = service;
        }
        Ok(())
    }

    /// Connects `socket` and `target` (`host:port` in the tunnel), and copies between them, as for a client of
    /// [`Kind::TcpClient`](crate::Kind::TcpClient) without a service. `ended` is called on the proxy's thread when the
    /// proxy has closed the socket: with an error if the target could not be connected, or the connection was reset.
    /// Otherwise all bytes were copied, or the proxy was [closed](Self::close); the stack may still have to deliver
    /// some, and the argument of `ended` shows whether it has. It must not wait for the proxy.
    ///
    /// # Errors
    /// Errors of the system for the socket.
    pub fn connect(
        &self,
        socket: UnixStream,
        target: &str,
        ended: impl FnOnce(io::Result<Delivery>) + Send + 'static,
    ) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        let socket = Socket::Watched(Watched::new(socket, Box::new(ended)));
        let (answer, answered) = mpsc::channel();
        self.ask(Command::Client { socket, target: target.to_owned(), answer }, &answered)
    }

    /// Replaces the options. Connections continue; look-ups in progress keep their family.
    ///
    /// # Errors
    /// `ConnectionAborted`, `Unsupported`: as described for [`Proxy`].
    pub fn set_options(&self, options: Options) -> io::Result<()> {
        self.check()?;
        self.mailbox.push(Command::Options(options));
        Ok(())
    }

    /// Returns the address on which a service listens on this side, with the actual port.
    #[must_use]
    pub fn address(&self, id: ServiceId) -> Option<Address> {
        lock(&self.services).iter().find(|known| known.id == id).and_then(|known| known.address.clone())
    }

    /// Returns the current services, in the order in which they were added.
    #[must_use]
    pub fn services(&self) -> Vec<(ServiceId, Service)> {
        lock(&self.services).iter().map(|known| (known.id, known.service.clone())).collect()
    }

    /// Returns the statistics of all services, including removed ones.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.all.read()
    }

    /// Returns the statistics of one service; `None` if it was removed.
    #[must_use]
    pub fn service_stats(&self, id: ServiceId) -> Option<Stats> {
        lock(&self.services).iter().find(|known| known.id == id).map(|known| known.counters.read())
    }

    /// Returns whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.mailbox.is_over()
    }

    /// Ends the proxy as dropping it does, but without resetting connections: bytes that the proxy has accepted are
    /// delivered by the system and by the stack, as long as that exists.
    pub fn close(self) {
        if self.process == std::process::id() {
            self.mailbox.stop(End::Close);
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.process != std::process::id() {
            return Err(io::Error::new(ErrorKind::Unsupported, "the proxy was made before a fork()"));
        }
        if self.mailbox.is_over() {
            return Err(ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    /// Passes a command to the thread and waits for the result.
    fn ask<T>(&self, command: Command, answer: &mpsc::Receiver<T>) -> io::Result<T> {
        self.check()?;
        if self.owner.is_current() {
            return Err(ErrorKind::Deadlock.into());
        }
        self.mailbox.push(command);
        // It is dropped without a result if the thread ends first.
        answer.recv().map_err(|_| ErrorKind::ConnectionAborted.into())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // A child shares the sockets of the parent, but does not have the thread.
            std::mem::forget(self.thread.take());
            return;
        }
        self.mailbox.stop(End::Reset);
        if let Some(thread) = self.thread.take()
            && !self.owner.is_current()
        {
            // A panic was reported in the thread.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("services", &self.services().len()).field("stats", &self.stats()).finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_thread_is_an_end() {
        let mailbox = Arc::new(Mailbox::new(Poll::new().unwrap().registry()).unwrap());
        let (tell, told) = mpsc::channel();
        let end = AtEnd { mailbox: mailbox.clone(), ended: Some(move || tell.send(()).unwrap()) };
        let (answer, answered) = mpsc::channel();
        mailbox.push(Command::Remove { id: ServiceId::next(), connections: Connections::End, answer });
        let panicked = std::thread::spawn(move || {
            let _end = end;
            panic!("a test");
        });
        assert!(panicked.join().is_err());
        told.recv().unwrap();
        assert!(answered.recv().is_err() && mailbox.is_over(), "nobody waits any more");
    }
}
