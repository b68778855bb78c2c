//! UDP tunnels: a session for each source, which ends after a time without traffic.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use mio::{Interest, Registry, Token};
use wg_embed_netstack::{
    Netstack, Notify, UdpSocket,
    dial::parse_host_port,
    dns::{Family, Lookup},
};

use crate::surroundings::Surroundings;

/// The most sessions of one service; the one that has been idle longest makes room.
const MAX_SESSIONS: usize = 1024;
/// The most datagrams that are taken from one socket before others have their turn.
const TURN: usize = 256;
const MAX_DATAGRAM: usize = 65_535;

/// Sessions by their source.
struct Sessions<S> {
    map: HashMap<SocketAddr, (S, Instant)>,
    idle: Option<Duration>,
    /// The deadline that is set already.
    deadline: Option<Instant>,
}

impl<S> Sessions<S> {
    fn new(idle: Option<Duration>) -> Self {
        Self { map: HashMap::new(), idle, deadline: None }
    }

    /// The session of a source, which is made if it is missing.
    fn of(&mut self, source: SocketAddr, make: impl FnOnce() -> io::Result<S>) -> io::Result<&S> {
        let now = Instant::now();
        if !self.map.contains_key(&source) {
            if self.map.len() >= MAX_SESSIONS {
                let oldest = self.map.iter().min_by_key(|(_, (_, used))| *used).map(|(source, _)| *source);
                oldest.map(|source| self.map.remove(&source));
            }
            self.map.insert(source, (make()?, now));
        }
        let session = self.map.get_mut(&source).ok_or(io::ErrorKind::NotFound)?;
        session.1 = now;
        Ok(&session.0)
    }

    /// Ends what is idle. Returns a deadline if a new one is needed.
    fn expire(&mut self) -> Option<Instant> {
        let (idle, now) = (self.idle?, Instant::now());
        self.map.retain(|_, (_, used)| now.duration_since(*used) < idle);
        self.deadline = self.deadline.filter(|at| *at > now);
        if self.deadline.is_some() {
            return None;
        }
        self.deadline = self.map.values().map(|(_, used)| *used + idle).min();
        self.deadline
    }
}

/// `[UDPProxyTunnel]`: local clients to one target in the tunnel.
pub(crate) struct UdpClient {
    socket: mio::net::UdpSocket,
    stack: Netstack,
    notify: Arc<dyn Notify>,
    target: Target,
    /// How long a look-up may take.
    look_up: Duration,
    sessions: Sessions<UdpSocket>,
}

enum Target {
    Known(SocketAddr),
    /// It is looked up for the datagram that comes next.
    Name {
        host: String,
        port: u16,
        family: Family,
        lookup: Option<Lookup>,
    },
}

impl UdpClient {
    pub(crate) fn new(
        around: &Surroundings<'_>,
        at: SocketAddr,
        target: &str,
        idle: Option<Duration>,
    ) -> io::Result<Self> {
        let mut socket = mio::net::UdpSocket::bind(at)?;
        around.registry.register(&mut socket, Token(around.token), Interest::READABLE)?;
        let (host, port) = parse_host_port(target)?;
        let target = match host.parse() {
            Ok(address) => Target::Known(SocketAddr::new(address, port)),
            Err(_) => Target::Name { host, port, family: around.family, lookup: None },
        };
        let (stack, notify, look_up) = (around.stack.clone(), around.notify.clone(), around.timeout);
        Ok(Self { socket, stack, notify, target, look_up, sessions: Sessions::new(idle) })
    }

    /// Where it is; the port is the real one.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Passes on what waits. Returns when it has to be called again.
    pub(crate) fn go_on(&mut self) -> Option<Instant> {
        let mut buf = vec![0; MAX_DATAGRAM];
        let target = self.target();
        while let Ok((length, source)) = self.socket.recv_from(&mut buf) {
            let Some(target) = target else {
                continue; // UDP may lose what comes before the name's addresses.
            };
            let session = self.sessions.of(source, || {
                let any: IpAddr = match target {
                    SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                };
                let socket = self.stack.bind_udp(SocketAddr::new(any, 0), Some(target))?;
                socket.set_notify(Some(self.notify.clone()));
                Ok(socket)
            });
            if let Err(error) = session.and_then(|session| session.try_send(&buf[..length], None)) {
                tracing::debug!(%error, "a datagram for the tunnel is lost");
            }
        }
        let mut more = false;
        for (source, (session, used)) in &mut self.sessions.map {
            let mut left = TURN;
            while left > 0
                && let Ok((length, _)) = session.try_recv(&mut buf)
            {
                let _ = self.socket.send_to(&buf[..length.min(MAX_DATAGRAM)], *source); // Datagrams may get lost.
                *used = Instant::now();
                left -= 1;
            }
            more |= left == 0;
        }
        if more {
            self.notify.notify();
        }
        self.sessions.expire()
    }

    /// The target's address, as soon as it is known.
    fn target(&mut self) -> Option<SocketAddr> {
        let (found, port) = match &mut self.target {
            Target::Known(address) => return Some(*address),
            Target::Name { host, port, family, lookup } => {
                let current = match lookup.take() {
                    Some(lookup) => lookup,
                    None => {
                        let new = self.stack.start_resolve(host, *family, self.look_up).ok()?;
                        new.set_notify(Some(self.notify.clone()));
                        new
                    }
                };
                match current.try_finish() {
                    Ok(found) => (found.first().copied()?, *port),
                    Err(e) => {
                        if e.kind() == io::ErrorKind::WouldBlock {
                            *lookup = Some(current);
                        }
                        return None;
                    }
                }
            }
        };
        let address = SocketAddr::new(found, port);
        self.target = Target::Known(address);
        Some(address)
    }
}

/// `[UDPServerTunnel]`: whoever sends to a port inside the tunnel reaches one local target.
pub(crate) struct UdpServer {
    socket: UdpSocket,
    target: SocketAddr,
    sessions: Sessions<mio::net::UdpSocket>,
}

impl UdpServer {
    pub(crate) fn new(socket: UdpSocket, target: SocketAddr, idle: Option<Duration>) -> Self {
        Self { socket, target, sessions: Sessions::new(idle) }
    }

    /// Passes on what waits. Returns when it has to be called again.
    pub(crate) fn go_on(&mut self, registry: &Registry, token: usize) -> Option<Instant> {
        let mut buf = vec![0; MAX_DATAGRAM];
        while let Ok((length, source)) = self.socket.try_recv(&mut buf) {
            let session = self.sessions.of(source, || {
                let any: IpAddr = match self.target {
                    SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                };
                let mut socket = mio::net::UdpSocket::bind(SocketAddr::new(any, 0))?;
                socket.connect(self.target)?;
                registry.register(&mut socket, Token(token), Interest::READABLE)?;
                Ok(socket)
            });
            let sent = session.and_then(|session| session.send(&buf[..length.min(MAX_DATAGRAM)]));
            if let Err(error) = sent {
                tracing::debug!(%error, "a datagram from the tunnel is lost");
            }
        }
        for (source, (session, used)) in &mut self.sessions.map {
            while let Ok(length) = session.recv(&mut buf) {
                let _ = self.socket.try_send(&buf[..length], Some(*source)); // Datagrams may get lost.
                *used = Instant::now();
            }
        }
        self.sessions.expire()
    }
}
