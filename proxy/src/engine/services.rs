//! Adding and removing services; accepting clients.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Engine, Entry, Event, Serving};
use crate::{
    client::Client,
    protocol::{Protocol, socks5::Socks5},
    proxy::{Connections, ServiceId},
    service::{Address, Kind, Service},
    socket::{Listener, Socket},
    stats::{Both, Counters, Place},
    tls::Acceptor,
    udp::{Changes, client::UdpClient, is_lack_of_descriptors, server::UdpServer},
};

/// The time limit of a ClientHello, which clients send at once.
const HELLO: Duration = Duration::from_secs(5);
/// The maximum number of clients that are accepted before others have their turn.
const TURN: usize = 64;
/// The delay after a lack of descriptors.
const RETRY: Duration = Duration::from_millis(100);

impl Engine {
    pub(super) fn add(
        &mut self,
        id: ServiceId,
        service: Service,
        counters: Arc<Counters>,
    ) -> io::Result<Option<Address>> {
        let token = self.common.token();
        let serving = Serving { id, service, counters: Both { service: counters, all: self.common.all.clone() } };
        let (entry, address) = self.entry(&serving, token)?;
        if matches!(entry, Entry::UdpClient(_) | Entry::UdpServer(_)) {
            self.datagrams.push(token);
        }
        let is_tunnelled = matches!(entry, Entry::Tunnelled);
        self.entries.insert(token, (entry, Arc::new(serving)));
        if is_tunnelled {
            self.intercept();
        }
        self.go_on(token, Event::default());
        Ok(address)
    }

    fn entry(&mut self, serving: &Serving, token: usize) -> io::Result<(Entry, Option<Address>)> {
        let around = self.common.around(serving, token);
        Ok(match &serving.service.kind {
            Kind::Socks5 { at, .. }
            | Kind::Http { at, .. }
            | Kind::Https { at, .. }
            | Kind::TcpClient { at, .. }
            | Kind::Sni { at } => {
                let acceptor = acceptor(&serving.service.kind)?;
                let mut listener = Listener::bind(at)?;
                listener.register(around.registry(), token)?;
                let address = listener.address()?;
                (Entry::Listener(listener, acceptor), Some(address))
            }
            Kind::TcpServer { port, .. } => {
                self.take_port(*port, token)?;
                (Entry::Tunnelled, None)
            }
            Kind::TcpForward { .. } | Kind::UdpForward { .. } => {
                self.take_port(0, token)?;
                (Entry::Tunnelled, None)
            }
            Kind::UdpClient { at, target, idle } => {
                let service = UdpClient::new(&around, *at, target, *idle)?;
                let address = Address::Tcp(service.address()?);
                (Entry::UdpClient(Box::new(service)), Some(address))
            }
            Kind::UdpServer { port, target, idle } => {
                let any = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), *port);
                (Entry::UdpServer(Box::new(UdpServer::new(&around, any, *target, *idle)?)), None)
            }
        })
    }

    /// Replaces a service by another one at the same place, which gets its clients from now on. Connections continue,
    /// and count as those of the new one.
    pub(super) fn change_service(&mut self, id: ServiceId, service: Service) -> io::Result<()> {
        let own = |(entry, serving): &(Entry, Arc<Serving>)| serving.id == id && entry.is_service();
        let found = self.entries.iter_mut().find(|(_, entry)| own(entry));
        let (token, (entry, serving)) = found.ok_or(ErrorKind::NotFound)?;
        let (token, counters) = (*token, serving.counters.clone());
        let new = Serving { id, service, counters };
        let around = self.common.around(&new, token);
        let mut changes = Changes::default();
        match (&mut *entry, &new.service.kind) {
            (Entry::Listener(_, acceptor_now), kind) => *acceptor_now = acceptor(kind)?,
            (Entry::UdpClient(service), Kind::UdpClient { target, idle, .. }) => {
                service.change(&around, target, *idle)?;
            }
            (Entry::UdpServer(service), Kind::UdpServer { target, idle, .. }) => {
                service.change(&around, *target, *idle, &mut changes);
            }
            _ => {}
        }
        let is_tunnelled = matches!(entry, Entry::Tunnelled);
        *serving = Arc::new(new);
        if is_tunnelled {
            self.intercept();
        }
        self.apply(changes, token);
        self.go_on(token, Event::default());
        Ok(())
    }

    pub(super) fn remove_service(&mut self, id: ServiceId, connections: Connections) {
        let ends = |entry: &Entry, serving: &Serving| {
            serving.id == id && (connections == Connections::End || !entry.is_connection())
        };
        let mut gone = Vec::new();
        for (token, (entry, _)) in self.entries.extract_if(|_, (entry, serving)| ends(entry, serving)) {
            self.deadlines.clear(token);
            entry.end();
            gone.push(token);
        }
        self.forget_tunnelled(&gone);
    }

    /// Adds an existing client.
    pub(super) fn connect(&mut self, socket: Socket, target: String) {
        let kind = Kind::TcpClient { at: Address::Unix("".into()), target };
        let counters = Both { service: Arc::default(), all: self.common.all.clone() };
        let serving = Serving { id: ServiceId::none(), service: Service::new(kind), counters };
        self.client(socket, &Arc::new(serving));
    }

    fn client(&mut self, mut socket: Socket, serving: &Arc<Serving>) {
        let mut limit = serving.service.limits.head;
        let protocol = match &serving.service.kind {
            Kind::Socks5 { login, bind, .. } => Protocol::Socks5(Socks5::new(login.clone(), *bind)),
            Kind::Http { login, .. } | Kind::Https { login, .. } => Protocol::Http(login.clone()),
            Kind::TcpClient { target, .. } => Protocol::Plain(target.clone()),
            Kind::Sni { .. } => {
                limit = limit.min(HELLO);
                Protocol::Sni
            }
            _ => return,
        };
        let token = self.common.token();
        if let Err(error) = socket.register(&self.common.registry, token) {
            tracing::error!(%error, "cannot wait for a client");
            socket.fail(&error);
            return;
        }
        let client = Client::new(socket, protocol, Place::take(&serving.counters));
        self.deadlines.set(token, Instant::now() + limit);
        self.entries.insert(token, (Entry::Client(Box::new(client)), serving.clone()));
        self.go_on(token, Event::default());
    }

    pub(super) fn accept(
        &mut self,
        listener: &Listener,
        acceptor: Option<&Acceptor>,
        serving: &Arc<Serving>,
        token: usize,
    ) {
        for _ in 0..TURN {
            match listener.accept() {
                Ok(_) if self.is_full(serving) => serving.counters.refused(),
                Ok(socket) => match socket.with_tls(acceptor) {
                    Ok(socket) => self.client(socket, serving),
                    Err(error) => tracing::error!(%error, "cannot speak TLS"),
                },
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(error) if is_lack_of_descriptors(&error) && self.end_session() => {}
                Err(error) => {
                    tracing::error!(%error, "cannot accept a connection");
                    self.deadlines.set(token, Instant::now() + RETRY);
                    return;
                }
            }
        }
        self.again.push(token);
    }
}

/// Returns the acceptor of clients' TLS sessions, if the service uses TLS.
fn acceptor(kind: &Kind) -> io::Result<Option<Acceptor>> {
    match kind {
        Kind::Https { at: Address::Unix(_), .. } => Err(ErrorKind::Unsupported.into()),
        Kind::Https { tls, .. } => Acceptor::new(tls).map(Some),
        _ => Ok(None),
    }
}
