//! The event loop: one thread for all services and connections.

use std::{
    collections::HashMap,
    io::{self, ErrorKind},
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use mio::{Events, Poll};
use wg_embed_netstack::{Netstack, TcpListener};

use crate::{
    client::{self, Client},
    deadlines::Deadlines,
    incoming::{self, Incoming},
    link::{Link, Outcome},
    mailbox::{Command, Mailbox, WAKER},
    protocol::{Protocol, socks5::Socks5},
    proxy::{Connections, ServiceId},
    service::{Address, Kind, Limits, Options, Service},
    socket::{Listener, Socket},
    stats::{Both, Counters, Place},
    surroundings::Surroundings,
    udp::{UdpClient, UdpServer},
};

/// The most that a ClientHello may take: it comes at once.
const HELLO: Duration = Duration::from_secs(5);
/// After a lack of descriptors.
const RETRY: Duration = Duration::from_millis(100);
const BACKLOG: usize = 1024;

/// What the system says of a socket.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Event {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// There is an error to ask for.
    pub(crate) failed: bool,
}

impl From<&mio::event::Event> for Event {
    fn from(event: &mio::event::Event) -> Self {
        Self {
            readable: event.is_readable() || event.is_read_closed(),
            writable: event.is_writable() || event.is_write_closed(),
            failed: event.is_error(),
        }
    }
}

/// A service that is or was served: its connections keep it.
struct Serving {
    id: ServiceId,
    service: Service,
    counters: Both,
}

enum Entry {
    Listener(Listener),
    /// A port inside the tunnel.
    Port(TcpListener, String),
    Client(Box<Client>),
    Incoming(Box<Incoming>),
    Link(Box<Link>),
    UdpClient(Box<UdpClient>),
    UdpServer(Box<UdpServer>),
}

pub(crate) struct Engine {
    poll: Poll,
    mailbox: Arc<Mailbox>,
    stack: Netstack,
    options: Options,
    all: Arc<Counters>,
    entries: HashMap<usize, (Entry, Arc<Serving>)>,
    deadlines: Deadlines,
    /// Links that have more to copy.
    again: Vec<usize>,
    last: usize,
}

impl Engine {
    pub(crate) fn new(
        poll: Poll,
        mailbox: Arc<Mailbox>,
        stack: Netstack,
        options: Options,
        all: Arc<Counters>,
    ) -> Self {
        Self {
            poll,
            mailbox,
            stack,
            options,
            all,
            entries: HashMap::new(),
            deadlines: Deadlines::default(),
            again: Vec::new(),
            last: WAKER,
        }
    }

    /// Serves until the stack is closed, or the proxy is stopped.
    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(1024);
        loop {
            let timeout = if self.again.is_empty() {
                self.deadlines.first().map(|at| at.saturating_duration_since(Instant::now()))
            } else {
                Some(Duration::ZERO)
            };
            if let Err(error) = self.poll.poll(&mut events, timeout)
                && error.kind() != ErrorKind::Interrupted
            {
                tracing::error!(%error, "the proxy cannot wait for sockets any more");
                break;
            }
            let news = self.mailbox.take();
            if news.stop || self.stack.is_closed() {
                break;
            }
            for token in std::mem::take(&mut self.again) {
                self.go_on(token, Event::default());
            }
            for event in &events {
                self.go_on(event.token().0, event.into());
            }
            for ready in news.ready {
                self.go_on(ready.hear(), Event::default());
            }
            for command in news.commands {
                self.obey(command);
            }
            let now = Instant::now();
            while let Some(token) = self.deadlines.due(now) {
                self.expire(token);
            }
        }
        self.mailbox.close();
        for (_, (entry, _)) in self.entries.drain() {
            entry.end();
        }
    }

    const fn token(&mut self) -> usize {
        self.last += 1;
        self.last
    }

    fn obey(&mut self, command: Command) {
        // Whoever has asked may have given up.
        match command {
            Command::Add { id, service, counters, answer } => {
                let _ = answer.send(self.add(id, service, counters));
            }
            Command::Remove { id, connections, answer } => {
                self.remove(id, connections);
                let _ = answer.send(());
            }
            Command::Client { socket, target, answer } => {
                self.connect(socket, target);
                let _ = answer.send(());
            }
            Command::Options(options) => self.options = options,
            Command::Wake => {}
        }
    }

    fn add(&mut self, id: ServiceId, service: Service, counters: Arc<Counters>) -> io::Result<Option<Address>> {
        let token = self.token();
        let (entry, address) = self.entry(&service, token)?;
        let counters = Both { service: counters, all: self.all.clone() };
        self.entries.insert(token, (entry, Arc::new(Serving { id, service, counters })));
        self.go_on(token, Event::default());
        Ok(address)
    }

    fn entry(&self, service: &Service, token: usize) -> io::Result<(Entry, Option<Address>)> {
        let registry = self.poll.registry();
        let notify = self.mailbox.notifier(token);
        Ok(match &service.kind {
            Kind::Socks5 { at, .. } | Kind::Http { at, .. } | Kind::TcpClient { at, .. } | Kind::Sni { at } => {
                let mut listener = Listener::bind(at)?;
                listener.register(registry, token)?;
                let address = listener.address()?;
                (Entry::Listener(listener), Some(address))
            }
            Kind::TcpServer { port, target } => {
                let listener = self.stack.listen_tcp(any(*port), BACKLOG)?;
                listener.set_notify(Some(notify));
                (Entry::Port(listener, target.clone()), None)
            }
            Kind::UdpClient { at, target, idle } => {
                let around = self.surroundings(&service.limits, token);
                let service = UdpClient::new(&around, *at, target, *idle)?;
                let address = Address::Tcp(service.address()?);
                (Entry::UdpClient(Box::new(service)), Some(address))
            }
            Kind::UdpServer { port, target, idle } => {
                let socket = self.stack.bind_udp(any(*port), None)?;
                socket.set_notify(Some(notify));
                (Entry::UdpServer(Box::new(UdpServer::new(socket, *target, *idle))), None)
            }
        })
    }

    fn remove(&mut self, id: ServiceId, connections: Connections) {
        let ends = |entry: &Entry, serving: &Serving| {
            serving.id == id && (connections == Connections::End || !entry.is_connection())
        };
        for (token, (entry, _)) in self.entries.extract_if(|_, (entry, serving)| ends(entry, serving)) {
            self.deadlines.clear(token);
            entry.end();
        }
    }

    fn connect(&mut self, socket: Socket, target: String) {
        let kind = Kind::TcpClient { at: Address::Unix("".into()), target };
        let counters = Both { service: Arc::default(), all: self.all.clone() };
        let serving = Serving { id: ServiceId::none(), service: Service::new(kind), counters };
        self.client(socket, &Arc::new(serving));
    }

    fn client(&mut self, mut socket: Socket, serving: &Arc<Serving>) {
        let mut limit = serving.service.limits.head;
        let protocol = match &serving.service.kind {
            Kind::Socks5 { login, .. } => Protocol::Socks5(Socks5::new(login.clone())),
            Kind::Http { login, .. } => Protocol::Http(login.clone()),
            Kind::TcpClient { target, .. } => Protocol::Plain(target.clone()),
            Kind::Sni { .. } => {
                limit = limit.min(HELLO);
                Protocol::Sni
            }
            Kind::TcpServer { .. } | Kind::UdpClient { .. } | Kind::UdpServer { .. } => return,
        };
        let token = self.token();
        if let Err(error) = socket.register(self.poll.registry(), token) {
            tracing::error!(%error, "cannot wait for a client");
            return;
        }
        let client = Client::new(socket, protocol, Place::take(&serving.counters));
        self.deadlines.set(token, Instant::now() + limit);
        self.entries.insert(token, (Entry::Client(Box::new(client)), serving.clone()));
        self.go_on(token, Event::default());
    }

    /// Something took too long, or is to be looked at again.
    fn expire(&mut self, token: usize) {
        match self.entries.get(&token) {
            Some((Entry::Client(_) | Entry::Incoming(_), _)) => {
                if let Some((entry, _)) = self.entries.remove(&token) {
                    entry.end();
                }
            }
            _ => self.go_on(token, Event::default()),
        }
    }

    fn go_on(&mut self, token: usize, event: Event) {
        let Some((entry, serving)) = self.entries.get_mut(&token) else {
            return; // the waker, or an entry that has ended
        };
        match entry {
            Entry::Link(link) => match link.turn(event) {
                Outcome::Wait => {}
                Outcome::Again => self.again.push(token),
                Outcome::Done => drop(self.entries.remove(&token)),
            },
            Entry::UdpClient(service) => {
                if let Some(at) = service.go_on() {
                    self.deadlines.set(token, at);
                }
            }
            Entry::UdpServer(service) => {
                if let Some(at) = service.go_on(self.poll.registry(), token) {
                    self.deadlines.set(token, at);
                }
            }
            Entry::Listener(_) | Entry::Port(..) | Entry::Client(_) | Entry::Incoming(_) => {
                let serving = serving.clone();
                if let Some((entry, _)) = self.entries.remove(&token)
                    && let Some(entry) = self.change(entry, &serving, token, event)
                {
                    self.entries.insert(token, (entry, serving));
                }
            }
        }
    }

    /// What becomes of an entry that is another one, or makes others.
    fn change(&mut self, entry: Entry, serving: &Arc<Serving>, token: usize, event: Event) -> Option<Entry> {
        match entry {
            Entry::Listener(listener) => {
                self.accept(&listener, serving, token);
                Some(Entry::Listener(listener))
            }
            Entry::Port(listener, target) => {
                while let Ok(stream) = listener.try_accept() {
                    if self.is_full(serving) {
                        stream.reset();
                        continue;
                    }
                    let token = self.token();
                    let limits = &serving.service.limits;
                    let place = Place::take(&serving.counters);
                    let fate = Incoming::start(stream, &target, place, &self.surroundings(limits, token));
                    self.deadlines.set(token, Instant::now() + limits.dial);
                    if let Some(entry) = self.incoming(fate, token) {
                        self.entries.insert(token, (entry, serving.clone()));
                    }
                }
                Some(Entry::Port(listener, target))
            }
            Entry::Client(client) => {
                let limits = &serving.service.limits;
                match client.go_on(event, &self.surroundings(limits, token)) {
                    client::Fate::Keep(client) => Some(Entry::Client(Box::new(client))),
                    client::Fate::Dialling(client) => {
                        // The stack limits how long dialling takes: this is for one that does not read its answer.
                        self.deadlines.set(token, Instant::now() + limits.dial * 2);
                        Some(Entry::Client(Box::new(client)))
                    }
                    client::Fate::Done => {
                        self.deadlines.clear(token);
                        None
                    }
                    client::Fate::Link(link) => self.link(link, token),
                }
            }
            Entry::Incoming(incoming) => {
                let around = self.surroundings(&serving.service.limits, token);
                let fate = incoming.go_on(event, &around);
                self.incoming(fate, token)
            }
            entry => Some(entry),
        }
    }

    fn surroundings(&self, limits: &Limits, token: usize) -> Surroundings<'_> {
        Surroundings {
            stack: &self.stack,
            registry: self.poll.registry(),
            family: self.options.family,
            timeout: limits.dial,
            token,
            notify: self.mailbox.notifier(token),
        }
    }

    fn incoming(&mut self, fate: incoming::Fate, token: usize) -> Option<Entry> {
        match fate {
            incoming::Fate::Keep(incoming) => Some(Entry::Incoming(Box::new(incoming))),
            incoming::Fate::Done => {
                self.deadlines.clear(token);
                None
            }
            incoming::Fate::Link(link) => self.link(link, token),
        }
    }

    /// Begins to copy.
    fn link(&mut self, link: Link, token: usize) -> Option<Entry> {
        self.deadlines.clear(token);
        link.set_notify(self.mailbox.notifier(token));
        self.again.push(token);
        Some(Entry::Link(Box::new(link)))
    }

    fn accept(&mut self, listener: &Listener, serving: &Arc<Serving>, token: usize) {
        loop {
            match listener.accept() {
                Ok(_) if self.is_full(serving) => serving.counters.refused(),
                Ok(socket) => self.client(socket, serving),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot accept a connection");
                    self.deadlines.set(token, Instant::now() + RETRY);
                    return;
                }
            }
        }
    }

    fn is_full(&self, serving: &Serving) -> bool {
        serving.counters.service.open() >= serving.service.limits.connections
            || self.all.open() >= self.options.connections
    }
}

impl Entry {
    const fn is_connection(&self) -> bool {
        matches!(self, Self::Client(_) | Self::Incoming(_) | Self::Link(_))
    }

    /// It ends for a reason of this side.
    fn end(&self) {
        match self {
            Self::Client(client) => client.end(),
            Self::Incoming(incoming) => incoming.end(),
            Self::Link(link) => link.end(),
            Self::Listener(_) | Self::Port(..) | Self::UdpClient(_) | Self::UdpServer(_) => {}
        }
    }
}

/// All of the stack's addresses.
const fn any(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)
}
