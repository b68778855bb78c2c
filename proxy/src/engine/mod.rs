//! The event loop: one thread for all services and connections.
//!
//! | file | contents |
//! |---|---|
//! | `services` | adding and removing services; accepting clients |
//! | `tunnelled` | connections and flows from the tunnel without a socket of the stack |
//! | `incoming` | one of these connections until its target is connected |
//! | `attempts` | attempts to connect to the target's addresses |
//! | `deadlines`, `surroundings` | deadlines of entries, and their context |

mod attempts;
mod deadlines;
mod incoming;
mod services;
mod surroundings;
mod tunnelled;

use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use mio::{Events, Poll};
use wg_embed_netstack::Netstack;

pub(crate) use self::surroundings::Surroundings;
use self::{deadlines::Deadlines, incoming::Incoming, surroundings::Common};
use crate::{
    client::{self, Client},
    link::Link,
    mailbox::{Command, End, Mailbox, News, WAKER},
    proxy::ServiceId,
    service::{Options, Service},
    socket::Listener,
    stats::{Both, Counters},
    tls::Acceptor,
    udp::{Changes, associate::Association, client::UdpClient, flow::Flow, server::UdpServer},
};
/// The result of the turn of an entry that copies.
pub(crate) use wg_embed_netstack::copy::Outcome;

/// The size of the buffer for datagrams: larger than any of them and its header.
const SCRATCH: usize = 66 << 10;

/// The maximum number of rounds until the tunnel is woken.
const MOST_ROUNDS: usize = 4;

/// The events of a socket.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Event {
    pub(crate) readable: bool,
    /// The other side sends no more.
    pub(crate) ended: bool,
    pub(crate) writable: bool,
    /// There is an error to read.
    pub(crate) failed: bool,
}

impl From<&mio::event::Event> for Event {
    fn from(event: &mio::event::Event) -> Self {
        Self {
            readable: event.is_readable() || event.is_read_closed(),
            ended: event.is_read_closed(),
            writable: event.is_writable() || event.is_write_closed(),
            failed: event.is_error(),
        }
    }
}

/// A service that is or was served: its connections keep it.
pub(crate) struct Serving {
    id: ServiceId,
    service: Service,
    counters: Both,
}

enum Entry {
    Listener(Listener, Option<Acceptor>),
    /// A port inside the tunnel, or all of them.
    Tunnelled,
    Client(Box<Client>),
    Incoming(Box<Incoming>),
    Link(Box<Link>),
    Association(Box<Association>),
    Flow(Box<Flow>),
    UdpClient(Box<UdpClient>),
    UdpServer(Box<UdpServer>),
    /// A session of another entry.
    Session(usize),
}

pub(crate) struct Engine {
    poll: Poll,
    common: Common,
    entries: HashMap<usize, (Entry, Arc<Serving>)>,
    deadlines: Deadlines,
    /// Entries that have or had sessions of datagrams.
    datagrams: Vec<usize>,
    /// Entries that have more to do at once, each once.
    again: Again,
    scratch: Box<[u8]>,
    /// Services for the tunnel's side, by port; 0 are those for all ports.
    ports: HashMap<u16, Vec<usize>>,
    /// Connections from the tunnel whose handshake continues: addresses of this side and of the other.
    accepting: HashMap<(SocketAddr, SocketAddr), usize>,
}

impl Engine {
    pub(crate) fn new(
        poll: Poll,
        mailbox: Arc<Mailbox>,
        stack: Netstack,
        options: Options,
        all: Arc<Counters>,
    ) -> io::Result<Self> {
        let registry = poll.registry().try_clone()?;
        Ok(Self {
            poll,
            common: Common { registry, mailbox, stack, options, all, last: Cell::new(WAKER) },
            entries: HashMap::new(),
            deadlines: Deadlines::default(),
            datagrams: Vec::new(),
            again: Again::default(),
            scratch: vec![0; SCRATCH].into_boxed_slice(),
            ports: HashMap::new(),
            accepting: HashMap::new(),
        })
    }

    /// Serves until the stack is closed, or the proxy is stopped.
    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(1024);
        let stack = self.common.stack.clone();
        let end = loop {
            let timeout = self.timeout();
            let rounds =
                self.wait(&mut events, timeout).and_then(|news| stack.round(|| self.rounds(&mut events, news)));
            if let Err(end) = rounds {
                break end;
            }
        };
        self.common.mailbox.close();
        self.end_tunnelled();
        for (_, (mut entry, _)) in self.entries.drain() {
            match end {
                End::Reset => entry.end(),
                End::Close => entry.close(),
            }
        }
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.again.is_empty() {
            return Some(Duration::ZERO);
        }
        self.deadlines.first().map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Waits until something happens, and returns it, or the reason to end.
    fn wait(&mut self, events: &mut Events, timeout: Option<Duration>) -> Result<News, End> {
        if let Err(error) = self.poll.poll(events, timeout)
            && error.kind() != ErrorKind::Interrupted
        {
            tracing::error!(%error, "the proxy cannot wait for sockets any more");
            return Err(End::Reset);
        }
        let news = self.common.mailbox.take();
        match news.stop {
            Some(end) => Err(end),
            None if self.common.stack.is_closed() => Err(End::Reset),
            None => Ok(news),
        }
    }

    /// Handles everything that has happened, and what happens meanwhile.
    fn rounds(&mut self, events: &mut Events, news: News) -> Result<(), End> {
        self.handle(events, news);
        for _ in 1..MOST_ROUNDS {
            let news = self.wait(events, Some(Duration::ZERO))?;
            if events.is_empty() && news.is_empty() && self.again.is_empty() {
                break;
            }
            self.handle(events, news);
        }
        Ok(())
    }

    fn handle(&mut self, events: &Events, news: News) {
        for token in self.again.take() {
            self.go_on(token, Event::default());
        }
        for event in events {
            self.go_on(event.token().0, event.into());
        }
        for ready in news.ready {
            self.go_on(ready.hear(), Event::default());
        }
        for command in news.commands {
            self.carry_out(command);
        }
        let now = Instant::now();
        while let Some(token) = self.deadlines.due(now) {
            self.expire(token);
        }
    }

    fn carry_out(&mut self, command: Command) {
        // The caller may have given up.
        match command {
            Command::Add { id, service, counters, answer } => {
                let _ = answer.send(self.add(id, service, counters));
            }
            Command::Remove { id, connections, answer } => {
                self.remove_service(id, connections);
                let _ = answer.send(());
            }
            Command::Change { id, service, answer } => {
                let _ = answer.send(self.change_service(id, service));
            }
            Command::Client { socket, target, answer } => {
                self.connect(socket, target);
                let _ = answer.send(());
            }
            Command::Options(options) => self.common.options = options,
            Command::Dialled(pending) => self.dialled(pending),
            Command::Connected(stream) => self.connected(stream),
            Command::Flow(flow) => self.flow(flow),
            Command::Wake => {}
        }
    }

    /// Handles a time-out, or a scheduled check.
    fn expire(&mut self, token: usize) {
        match self.entries.remove(&token) {
            Some((Entry::Client(client), serving)) => {
                let fate = client.expire(&self.common.around(&serving, token));
                self.client_fate(fate, token, serving);
            }
            Some((Entry::Incoming(incoming), serving)) if !incoming.is_late() => {
                let fate = incoming.go_on(Event::default(), &self.common.around(&serving, token));
                self.incoming_fate(fate, token, serving);
            }
            Some((entry @ Entry::Incoming(_), _)) => {
                self.accepting.retain(|_, other| *other != token);
                entry.end();
            }
            Some(other) => {
                self.entries.insert(token, other);
                self.go_on(token, Event::default());
            }
            None => {}
        }
    }

    fn go_on(&mut self, token: usize, event: Event) {
        let Some((entry, serving)) = self.entries.get_mut(&token) else {
            return; // the waker, or an entry that has ended
        };
        let around = self.common.around(serving, token);
        let mut changes = Changes::default();
        let mut owner = token;
        match entry {
            Entry::Link(link) => changes.follow(token, link.turn(event.into())),
            Entry::Association(association) => {
                changes.follow(token, association.go_on(event, &around, &mut self.scratch));
            }
            Entry::Flow(flow) => changes.follow(token, flow.go_on(&mut self.scratch)),
            Entry::UdpClient(service) => service.go_on(&around, &mut self.scratch, &mut changes),
            Entry::UdpServer(service) => service.go_on(&around, &mut self.scratch, &mut changes),
            Entry::Session(of) => {
                owner = *of;
                match self.entries.get_mut(&owner) {
                    Some((Entry::UdpClient(service), _)) => service.answer(token, &mut self.scratch, &mut changes),
                    Some((Entry::UdpServer(service), serving)) => {
                        let around = self.common.around(serving, owner);
                        service.answer(&around, token, &mut self.scratch, &mut changes);
                    }
                    _ => changes.removed.push(token),
                }
            }
            Entry::Tunnelled => {}
            Entry::Listener(..) | Entry::Client(_) | Entry::Incoming(_) => {
                if let Some((entry, serving)) = self.entries.remove(&token) {
                    self.change(entry, serving, token, event);
                }
            }
        }
        self.apply(changes, owner);
    }

    /// Applies the changes of an entry.
    fn apply(&mut self, changes: Changes, owner: usize) {
        for token in changes.removed {
            self.deadlines.clear(token);
            self.entries.remove(&token);
        }
        if let Some((_, serving)) = self.entries.get(&owner) {
            let serving = serving.clone();
            for token in changes.added {
                self.entries.insert(token, (Entry::Session(owner), serving.clone()));
            }
        }
        if let Some(at) = changes.deadline {
            self.deadlines.set(owner, at);
        }
        if let Some(token) = changes.again {
            self.again.push(token);
        }
    }

    /// Replaces an entry by another, or adds entries.
    fn change(&mut self, entry: Entry, serving: Arc<Serving>, token: usize, event: Event) {
        match entry {
            Entry::Listener(listener, acceptor) => {
                self.accept(&listener, acceptor.as_ref(), &serving, token);
                self.entries.insert(token, (Entry::Listener(listener, acceptor), serving));
            }
            Entry::Client(client) => {
                let fate = client.go_on(event, &self.common.around(&serving, token));
                self.client_fate(fate, token, serving);
            }
            Entry::Incoming(incoming) => {
                let fate = incoming.go_on(event, &self.common.around(&serving, token));
                self.incoming_fate(fate, token, serving);
            }
            entry => drop(self.entries.insert(token, (entry, serving))),
        }
    }

    fn client_fate(&mut self, fate: client::Fate, token: usize, serving: Arc<Serving>) {
        match fate {
            client::Fate::Keep(client, limit) => {
                if let Some(limit) = limit {
                    self.deadlines.set(token, Instant::now() + limit);
                }
                self.entries.insert(token, (Entry::Client(Box::new(client)), serving));
            }
            client::Fate::Done => self.deadlines.clear(token),
            client::Fate::Link(link) => self.link(link, token, serving),
            client::Fate::Associate(association) => {
                self.deadlines.clear(token);
                self.entries.insert(token, (Entry::Association(Box::new(association)), serving));
                self.again.push(token);
            }
        }
    }

    /// Starts to copy.
    fn link(&mut self, link: Link, token: usize, serving: Arc<Serving>) {
        self.deadlines.clear(token);
        link.set_notify(self.common.mailbox.notifier(token));
        self.entries.insert(token, (Entry::Link(Box::new(link)), serving));
        self.go_on(token, Event::default());
    }

    /// Returns whether a service may have no more connections. If the total limit is reached, sessions of datagrams are
    /// ended to make room: an active source gets a new one.
    fn is_full(&mut self, serving: &Serving) -> bool {
        if serving.counters.service.open() >= serving.service.limits.connections {
            return true;
        }
        while self.common.is_full() {
            if !self.end_session() {
                return true;
            }
        }
        false
    }

    /// Ends the session of datagrams that has been idle longest. Returns whether there was one.
    fn end_session(&mut self) -> bool {
        self.datagrams.retain(|token| self.entries.contains_key(token));
        let used = self.datagrams.iter().filter_map(|token| match self.entries.get_mut(token) {
            Some((Entry::UdpClient(service), _)) => Some((service.idle_since()?, *token)),
            Some((Entry::UdpServer(service), _)) => Some((service.idle_since()?, *token)),
            _ => None,
        });
        let Some((_, owner)) = used.min() else { return false };
        let mut changes = Changes::default();
        let ended = match self.entries.get_mut(&owner) {
            Some((Entry::UdpClient(service), _)) => service.end_session(&mut changes),
            Some((Entry::UdpServer(service), _)) => service.end_session(&mut changes),
            _ => false,
        };
        self.apply(changes, owner);
        ended
    }
}

/// Tokens in the order of their arrival, without duplicates: an entry whose turn is due anyway gets only one turn.
#[derive(Default)]
struct Again {
    order: Vec<usize>,
    known: HashSet<usize>,
}

impl Again {
    fn push(&mut self, token: usize) {
        if self.known.insert(token) {
            self.order.push(token);
        }
    }

    const fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn take(&mut self) -> Vec<usize> {
        self.known.clear();
        std::mem::take(&mut self.order)
    }
}

impl Entry {
    const fn is_connection(&self) -> bool {
        matches!(self, Self::Client(_) | Self::Incoming(_) | Self::Link(_) | Self::Association(_) | Self::Flow(_))
    }

    /// Returns whether it belongs to a service itself, and is not a client of it.
    const fn is_service(&self) -> bool {
        matches!(self, Self::Listener(..) | Self::Tunnelled | Self::UdpClient(_) | Self::UdpServer(_))
    }

    /// Ends it for a reason of this side.
    fn end(&self) {
        match self {
            Self::Client(client) => client.end(),
            Self::Incoming(incoming) => incoming.end(),
            Self::Link(link) => link.reset(),
            _ => {}
        }
    }

    /// Ends it without a reset: over TLS, too, its client gets pending bytes and an end.
    fn close(&mut self) {
        match self {
            Self::Client(client) => client.close(),
            Self::Link(link) => link.close(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_one_turn() {
        let mut again = Again::default();
        for token in [2, 1, 2, 3, 1] {
            again.push(token);
        }
        assert_eq!(again.take(), [2, 1, 3]);
        again.push(2);
        assert_eq!(again.take(), [2]);
        assert!(again.is_empty());
    }
}
