//! Local clients of one target in the tunnel.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use mio::{Interest, Token};
use wg_embed_netstack::{UdpSocket, dial::parse_host_port};

use super::{Changes, Sessions, TURN, any_for, lost, waiting::Waiting};
use crate::{engine::Surroundings, names::Lookup, stats::Place};

/// The interval of look-ups of a name while there is traffic. The stack caches results for their TTL.
const AGAIN: Duration = Duration::from_secs(30);

pub(crate) struct UdpClient {
    socket: mio::net::UdpSocket,
    target: Target,
    sessions: Sessions<SocketAddr, UdpSocket>,
    /// Datagrams of these sources that wait for the first address of the target.
    waiting: Waiting<SocketAddr>,
}

/// The same after a look-up without a result.
const RETRY: Duration = Duration::from_secs(1);

/// The target of datagrams.
struct Target {
    host: String,
    port: u16,
    known: Option<IpAddr>,
    /// The time of the last look-up; `None` for an address.
    looked_up: Option<Instant>,
    lookup: Option<Lookup>,
}

impl UdpClient {
    pub(crate) fn new(
        around: &Surroundings<'_>,
        at: SocketAddr,
        target: &str,
        idle: Option<Duration>,
    ) -> io::Result<Self> {
        let mut socket = mio::net::UdpSocket::bind(at)?;
        around.registry().register(&mut socket, Token(around.token), Interest::READABLE)?;
        let sessions = Sessions::new(idle, around.limits.connections);
        Ok(Self { socket, target: Target::new(target)?, sessions, waiting: Waiting::default() })
    }

    /// Changes the target or the limits. Sessions of another target get new sockets when they are used.
    pub(crate) fn change(&mut self, around: &Surroundings<'_>, target: &str, idle: Option<Duration>) -> io::Result<()> {
        let target = Target::new(target)?;
        if (&target.host, target.port) != (&self.target.host, self.target.port) {
            self.target = target;
            self.waiting.take();
        }
        self.sessions.set_limits(idle, around.limits.connections);
        Ok(())
    }

    /// Returns its address, with the actual port.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Returns the last use of the session that has been idle longest.
    pub(crate) fn idle_since(&mut self) -> Option<Instant> {
        self.sessions.idle_since()
    }

    /// Ends the session that has been idle longest. Returns whether there was one.
    pub(crate) fn end_session(&mut self, changes: &mut Changes) -> bool {
        self.sessions.end_oldest(changes)
    }

    /// Passes on clients' datagrams.
    pub(crate) fn go_on(&mut self, around: &Surroundings<'_>, buf: &mut [u8], changes: &mut Changes) {
        self.sessions.expire(changes);
        self.target.go_on(None);
        self.send_waiting(around, changes);
        for _ in 0..TURN {
            let Ok((length, source)) = self.socket.recv_from(buf) else {
                return;
            };
            self.target.go_on(Some(around));
            self.send_waiting(around, changes);
            let data = &buf[..length];
            match self.target.address() {
                Some(to) => lost(self.send(around, source, to, data, changes)),
                None if self.target.lookup.is_some() => self.waiting.keep(data, || source),
                None => {} // The name has no address.
            }
        }
        changes.again = Some(around.token);
    }

    /// Sends datagrams that have waited; they are lost if the name has no address.
    fn send_waiting(&mut self, around: &Surroundings<'_>, changes: &mut Changes) {
        if self.target.lookup.is_some() {
            return;
        }
        for (source, data) in self.waiting.take() {
            if let Some(to) = self.target.address() {
                lost(self.send(around, source, to, &data, changes));
            }
        }
    }

    fn send(
        &mut self,
        around: &Surroundings<'_>,
        source: SocketAddr,
        target: SocketAddr,
        data: &[u8],
        changes: &mut Changes,
    ) -> io::Result<usize> {
        // If the target's address has changed, it gets a new socket.
        if let Some(session) = self.sessions.of_source(source)
            && session.socket.peer_addr() != Some(target)
        {
            let token = self.sessions.tokens.get(&source).copied().unwrap_or_default();
            self.sessions.remove(token, changes);
        }
        if self.sessions.of_source(source).is_none() {
            if !self.sessions.make_room(|| around.is_full(), changes) {
                around.counters.refused();
                return Err(ErrorKind::QuotaExceeded.into());
            }
            let socket = around.stack().bind_udp(any_for(target), Some(target))?;
            let token = around.new_token();
            socket.set_notify(Some(around.notify_of(token)));
            self.sessions.insert(token, socket, source, Place::take(around.counters), changes);
        }
        let session = self.sessions.of_source(source).ok_or(ErrorKind::NotFound)?;
        session.place.sent(data.len());
        session.socket.try_send(data, None)
    }

    /// Passes on the replies of a session's target.
    pub(crate) fn answer(&mut self, token: usize, buf: &mut [u8], changes: &mut Changes) {
        let Some(session) = self.sessions.of_token(token) else { return };
        for _ in 0..TURN {
            match session.socket.try_recv(buf) {
                Ok((length, _)) => {
                    session.used = Instant::now();
                    session.place.received(length);
                    lost(self.socket.send_to(&buf[..length.min(buf.len())], session.source));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
                    // The stack has another address now.
                    return self.sessions.remove(token, changes);
                }
                Err(error) => lost(Err(error)),
            }
        }
        changes.again = Some(token);
    }
}

impl Target {
    fn new(target: &str) -> io::Result<Self> {
        let (host, port) = parse_host_port(target)?;
        Ok(Self { known: host.parse().ok(), host, port, looked_up: None, lookup: None })
    }

    /// Returns the current address, if one is known.
    fn address(&self) -> Option<SocketAddr> {
        self.known.map(|known| SocketAddr::new(known, self.port))
    }

    /// Continues a look-up; with `around`, starts one if it is time.
    fn go_on(&mut self, around: Option<&Surroundings<'_>>) {
        if self.known.is_some() && self.looked_up.is_none() {
            return; // an address
        }
        let pause = if self.known.is_some() { AGAIN } else { RETRY };
        if self.lookup.is_none()
            && self.looked_up.is_none_or(|at| at.elapsed() >= pause)
            && let Some(around) = around
        {
            self.looked_up = Some(Instant::now());
            match Lookup::start(&self.host, None, around) {
                Ok(lookup) => {
                    lookup.set_notify(around.notify());
                    self.lookup = Some(lookup);
                }
                Err(error) => tracing::debug!(%error, host = self.host, "a name cannot be looked up"),
            }
        }
        match self.lookup.as_ref().map(Lookup::try_finish) {
            Some(Ok(found)) => {
                // The current address is kept if it is one of them.
                if !self.known.is_some_and(|known| found.contains(&known)) {
                    self.known = found.first().copied();
                }
                self.lookup = None;
            }
            Some(Err(error)) if error.kind() != ErrorKind::WouldBlock => {
                tracing::debug!(%error, host = self.host, "a name has no address now");
                self.lookup = None;
            }
            Some(Err(_)) | None => {}
        }
    }
}
