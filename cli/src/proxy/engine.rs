//! The event loop: one thread for all services. Connections that are made are copied by the pump's thread.

use std::{
    collections::{BTreeSet, HashMap},
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use mio::{Events, Poll, Token, Waker};
use wg_embed::{device::Tunnel, sync::lock};
use wg_embed_netstack::{Netstack, Notify, TcpListener, TcpStream, dial::parse_host_port, dns::Lookup, pump::Pump};

use super::{
    client::{Client, Fate, Network},
    config::{Address, Config, Service},
    info::Info,
    protocol::{Protocol, socks5::Socks5},
    socket::{Listener, Socket},
    udp::{UdpClient, UdpServer},
};

/// How long a client may take to say what it wants.
const TALK: Duration = Duration::from_secs(30);
/// The same for a ClientHello, which comes at once.
const HELLO: Duration = Duration::from_secs(5);
/// After a lack of descriptors.
const RETRY: Duration = Duration::from_millis(100);
const BACKLOG: usize = 1024;

/// The token of the waker.
const WAKER: usize = 0;

/// What the loop hears from other threads.
pub(super) enum News {
    Ready(usize),
    Signal(&'static str),
    /// The tunnel, or the standard input's connection, has ended.
    Ended(Result<(), String>),
}

/// Passes news to the loop.
pub(super) struct Mailbox {
    news: Mutex<Vec<News>>,
    waker: Waker,
}

impl Mailbox {
    pub(super) fn push(&self, news: News) {
        let mut queue = lock(&self.news);
        queue.push(news);
        if queue.len() == 1 {
            // It fails only if the loop is gone.
            let _ = self.waker.wake();
        }
    }

    pub(super) fn notifier(self: &Arc<Self>, token: usize) -> Arc<dyn Notify> {
        let mailbox = self.clone();
        Arc::new(move || mailbox.push(News::Ready(token)))
    }
}

enum Entry {
    Listener(Listener, Service),
    Info(Listener),
    Client(Client),
    InfoClient(super::info::Client),
    /// A port inside the tunnel.
    Port(TcpListener, String),
    /// A connection from the tunnel whose target is looked up.
    Finding(TcpStream, Lookup, u16),
    /// A connection from the tunnel whose target is being connected.
    Connecting(TcpStream, mio::net::TcpStream),
    UdpClient(UdpClient),
    UdpServer(UdpServer),
}

pub(super) struct Engine {
    poll: Poll,
    mailbox: Arc<Mailbox>,
    stack: Netstack,
    tunnel: Tunnel,
    pump: Pump,
    config: Config,
    info: Info,
    entries: HashMap<usize, Entry>,
    serving: Vec<(Service, usize)>,
    deadlines: BTreeSet<(Instant, usize)>,
    next: usize,
    /// Entries that are connections.
    connections: usize,
}

impl Engine {
    pub(super) fn new(poll: Poll, stack: Netstack, tunnel: Tunnel, config: Config) -> io::Result<Self> {
        let waker = Waker::new(poll.registry(), Token(WAKER))?;
        let mailbox = Arc::new(Mailbox { news: Mutex::default(), waker });
        let info = Info::new(&config);
        Ok(Self {
            poll,
            mailbox,
            stack,
            tunnel,
            pump: Pump::new()?,
            config,
            info,
            entries: HashMap::new(),
            serving: Vec::new(),
            deadlines: BTreeSet::new(),
            next: WAKER + 1,
            connections: 0,
        })
    }

    pub(super) const fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    /// Begins to serve what the configuration asks for.
    pub(super) fn open(&mut self, info: Option<SocketAddr>) -> Result<(), String> {
        for service in self.config.services.clone() {
            self.serve(&service)?;
        }
        if let Some(at) = info {
            let token = self.token();
            let say = |e: io::Error| format!("--info {at}: {e}");
            let mut listener = Listener::bind(&Address::Tcp(at)).map_err(say)?;
            listener.register(self.poll.registry(), token).map_err(say)?;
            self.entries.insert(token, Entry::Info(listener));
        }
        self.check_alive();
        Ok(())
    }

    const fn token(&mut self) -> usize {
        self.next += 1;
        self.next
    }

    fn serve(&mut self, service: &Service) -> Result<(), String> {
        let token = self.token();
        let entry = self.entry(service, token).map_err(|e| format!("{}: {e}", service.place()))?;
        if let Some(entry) = entry {
            self.entries.insert(token, entry);
            self.ready(token);
        }
        self.serving.push((service.clone(), token));
        Ok(())
    }

    fn entry(&mut self, service: &Service, token: usize) -> io::Result<Option<Entry>> {
        let registry = self.poll.registry();
        let notify = self.mailbox.notifier(token);
        Ok(Some(match service {
            Service::Socks5 { at, .. }
            | Service::Http { at, .. }
            | Service::TcpClient { at, .. }
            | Service::Sni { at } => {
                let mut listener = Listener::bind(at)?;
                listener.register(registry, token)?;
                Entry::Listener(listener, service.clone())
            }
            Service::TcpServer { port, target } => {
                let listener = self.stack.listen_tcp(any(*port), BACKLOG)?;
                listener.set_notify(Some(notify));
                Entry::Port(listener, target.clone())
            }
            Service::UdpClient { at, target, idle } => {
                let stack = self.stack.clone();
                Entry::UdpClient(UdpClient::new(
                    registry,
                    token,
                    stack,
                    notify,
                    (*at, target, *idle),
                    self.config.family,
                )?)
            }
            Service::UdpServer { port, target, idle } => {
                let socket = self.stack.bind_udp(any(*port), None)?;
                socket.set_notify(Some(notify));
                Entry::UdpServer(UdpServer::new(socket, *target, *idle))
            }
            Service::Stdio { target } => {
                let socket = super::stdio::start(self.mailbox.clone())?;
                self.client(Socket::Unix(socket), Protocol::Plain(target.clone()), TALK);
                return Ok(None);
            }
        }))
    }

    fn client(&mut self, mut socket: Socket, protocol: Protocol, limit: Duration) {
        let token = self.token();
        if socket.register(self.poll.registry(), token).is_ok() {
            self.deadlines.insert((Instant::now() + limit, token));
            self.insert(token, Entry::Client(Client::new(socket, protocol)));
        }
    }

    fn insert(&mut self, token: usize, entry: Entry) {
        self.connections += usize::from(entry.is_connection());
        self.entries.insert(token, entry);
    }

    fn remove(&mut self, token: usize) -> Option<Entry> {
        let entry = self.entries.remove(&token)?;
        self.connections -= usize::from(entry.is_connection());
        Some(entry)
    }

    /// Serves until there is a reason to end. `reload` reads the configuration again.
    pub(super) fn run(&mut self, reload: &dyn Fn() -> Result<Config, String>) -> Result<(), String> {
        let mut events = Events::with_capacity(1024);
        loop {
            let first = self.deadlines.first().map(|(at, _)| at.saturating_duration_since(Instant::now()));
            match self.poll.poll(&mut events, first) {
                Err(e) if e.kind() != ErrorKind::Interrupted => return Err(format!("cannot wait for sockets: {e}")),
                _ => {}
            }
            for event in &events {
                let token = event.token().0;
                match self.entries.get(&token) {
                    Some(Entry::Client(_)) if event.is_error() || event.is_write_closed() => {
                        self.remove(token);
                    }
                    Some(_) => self.ready(token),
                    None => {} // the waker, or an entry that has ended
                }
            }
            let news = std::mem::take(&mut *lock(&self.mailbox.news));
            for news in news {
                match news {
                    News::Ready(token) => self.ready(token),
                    News::Signal("SIGHUP") => match reload() {
                        Ok(config) => self.reload(config),
                        Err(reason) => tracing::error!("the configuration stays as it was: {reason}"),
                    },
                    News::Signal(_) => return Ok(()),
                    News::Ended(outcome) => return outcome,
                }
            }
            self.expire();
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        while let Some((at, token)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(at, token));
            if token == WAKER {
                self.check_alive();
                continue;
            }
            match self.entries.get(&token) {
                Some(Entry::Client(client)) if !client.is_talking() => {
                    // The stack limits how long dialling takes: this is for a client that does not read its answer.
                    self.deadlines.insert((now + 2 * super::client::DIAL, token));
                    self.ready(token);
                }
                Some(entry) if entry.is_connection() => drop(self.remove(token)),
                Some(_) => self.ready(token),
                None => {}
            }
        }
    }

    fn check_alive(&mut self) {
        if self.info.check(&self.stack) {
            self.deadlines.insert((Instant::now() + self.config.check_interval, WAKER));
        }
    }

    fn ready(&mut self, token: usize) {
        let Some(entry) = self.remove(token) else {
            return;
        };
        let kept = match entry {
            Entry::Listener(listener, service) => {
                self.accept(&listener, token, |engine, socket| {
                    let (protocol, limit) = match &service {
                        Service::Socks5 { login, .. } => (Protocol::Socks5(Socks5::new(login.clone())), TALK),
                        Service::Http { login, .. } => (Protocol::Http(login.clone()), TALK),
                        Service::TcpClient { target, .. } => (Protocol::Plain(target.clone()), TALK),
                        _ => (Protocol::Sni, HELLO),
                    };
                    engine.client(socket, protocol, limit);
                });
                Some(Entry::Listener(listener, service))
            }
            Entry::Info(listener) => {
                self.accept(&listener, token, |engine, mut socket| {
                    let token = engine.token();
                    if socket.register(engine.poll.registry(), token).is_ok() {
                        engine.deadlines.insert((Instant::now() + TALK, token));
                        engine.insert(token, Entry::InfoClient(super::info::Client::new(socket)));
                    }
                });
                Some(Entry::Info(listener))
            }
            Entry::InfoClient(client) => client.go_on(&mut self.info, self.tunnel.device()).map(Entry::InfoClient),
            Entry::Client(client) => {
                let notify = self.mailbox.notifier(token);
                let network = Network { stack: &self.stack, family: self.config.family, notify };
                match client.go_on(&network) {
                    Fate::Keep(client) => Some(Entry::Client(client)),
                    Fate::Done => None,
                    Fate::Join(socket, stream, first) => {
                        let joined = socket.release(self.poll.registry());
                        self.note(joined.and_then(|socket| self.pump.join_tcp(socket, stream, first)));
                        None
                    }
                }
            }
            Entry::Port(listener, target) => {
                while let Ok(stream) = listener.try_accept() {
                    self.accept_tunnelled(stream, &target);
                }
                Some(Entry::Port(listener, target))
            }
            Entry::Finding(stream, lookup, port) => match lookup.try_finish() {
                Ok(found) => {
                    match found.first() {
                        Some(address) => self.connect(stream, SocketAddr::new(*address, port)),
                        None => stream.reset(),
                    }
                    None
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => Some(Entry::Finding(stream, lookup, port)),
                Err(_) => {
                    stream.reset();
                    None
                }
            },
            Entry::Connecting(stream, socket) => self.connecting(stream, socket),
            Entry::UdpClient(mut service) => {
                let next = service.go_on();
                self.deadlines.extend(next.map(|at| (at, token)));
                Some(Entry::UdpClient(service))
            }
            Entry::UdpServer(mut service) => {
                let next = service.go_on(self.poll.registry(), token);
                self.deadlines.extend(next.map(|at| (at, token)));
                Some(Entry::UdpServer(service))
            }
        };
        if let Some(entry) = kept {
            self.insert(token, entry);
        }
    }

    fn accept(&mut self, listener: &Listener, token: usize, mut with: impl FnMut(&mut Self, Socket)) {
        loop {
            match listener.accept() {
                Ok(socket) if self.is_full() => drop(socket),
                Ok(socket) => with(self, socket),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot accept a connection");
                    self.deadlines.insert((Instant::now() + RETRY, token));
                    return;
                }
            }
        }
    }

    fn is_full(&self) -> bool {
        self.connections + self.pump.len() >= self.config.max_connections
    }

    fn accept_tunnelled(&mut self, stream: TcpStream, target: &str) {
        let Ok((host, port)) = parse_host_port(target) else {
            return stream.reset();
        };
        if self.is_full() {
            return stream.reset();
        }
        let host = if host.eq_ignore_ascii_case("localhost") { "127.0.0.1" } else { &*host };
        if let Ok(address) = host.parse() {
            return self.connect(stream, SocketAddr::new(address, port));
        }
        match self.stack.start_resolve(host, self.config.family, super::client::DIAL) {
            Ok(lookup) => {
                let token = self.token();
                lookup.set_notify(Some(self.mailbox.notifier(token)));
                self.insert(token, Entry::Finding(stream, lookup, port));
            }
            Err(_) => stream.reset(),
        }
    }

    fn connect(&mut self, stream: TcpStream, to: SocketAddr) {
        let token = self.token();
        let Ok(mut socket) = mio::net::TcpStream::connect(to) else {
            return stream.reset();
        };
        let interest = mio::Interest::WRITABLE;
        if self.poll.registry().register(&mut socket, Token(token), interest).is_err() {
            return stream.reset();
        }
        self.deadlines.insert((Instant::now() + super::client::DIAL, token));
        self.insert(token, Entry::Connecting(stream, socket));
    }

    fn connecting(&self, stream: TcpStream, socket: mio::net::TcpStream) -> Option<Entry> {
        if !matches!(socket.take_error(), Ok(None)) {
            stream.reset();
            return None;
        }
        match socket.peer_addr() {
            Ok(_) => {
                let _ = socket.set_nodelay(true); // Without it, it is only slower.
                let joined = Socket::Tcp(socket).release(self.poll.registry());
                self.note(joined.and_then(|socket| self.pump.join_tcp(socket, stream, Vec::new())));
                None
            }
            Err(e) if e.kind() == ErrorKind::NotConnected => Some(Entry::Connecting(stream, socket)),
            Err(_) => {
                stream.reset();
                None
            }
        }
    }

    fn note(&self, result: io::Result<()>) {
        if let Err(error) = result {
            tracing::error!(%error, "cannot pass a connection through");
        }
    }

    /// Changes what is different; everything else goes on.
    fn reload(&mut self, config: Config) {
        if let Err(reason) = super::reload::tunnel(&self.config, &config, &self.stack, &self.tunnel) {
            tracing::error!("the tunnel cannot be changed: {reason}");
            return;
        }
        let gone: Vec<_> = self.serving.extract_if(.., |(service, _)| !config.services.contains(service)).collect();
        for (_, token) in gone {
            self.remove(token);
        }
        self.info = Info::new(&config);
        self.deadlines.retain(|(_, token)| *token != WAKER);
        self.config = config;
        for service in self.config.services.clone() {
            if self.serving.iter().all(|(serving, _)| *serving != service)
                && let Err(reason) = self.serve(&service)
            {
                tracing::error!("{reason}");
            }
        }
        self.check_alive();
        tracing::info!("the configuration was read again");
    }
}

impl Entry {
    const fn is_connection(&self) -> bool {
        matches!(self, Self::Client(_) | Self::InfoClient(_) | Self::Finding(..) | Self::Connecting(..))
    }
}

/// All of the stack's addresses.
fn any(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port)
}
