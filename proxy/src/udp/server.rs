//! Clients in the tunnel of one target on this side.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    time::{Duration, Instant},
};

use mio::{Interest, Token};
use wg_embed_netstack::UdpSocket;

use super::{Changes, Sessions, TURN, any_for, is_lack_of_descriptors, lost};
use crate::{engine::Surroundings, stats::Place};

pub(crate) struct UdpServer {
    socket: UdpSocket,
    target: SocketAddr,
    /// By the client's address, and the stack's address that it has sent to, from which it gets replies.
    sessions: Sessions<(SocketAddr, SocketAddr), mio::net::UdpSocket>,
}

impl UdpServer {
    pub(crate) fn new(
        around: &Surroundings<'_>,
        at: SocketAddr,
        target: SocketAddr,
        idle: Option<Duration>,
    ) -> io::Result<Self> {
        let socket = around.stack().bind_udp(at, None)?;
        socket.set_notify(Some(around.notify()));
        Ok(Self { socket, target, sessions: Sessions::new(idle, around.limits.connections) })
    }

    /// Changes the target or the limits. Sessions of another target end.
    pub(crate) fn change(
        &mut self,
        around: &Surroundings<'_>,
        target: SocketAddr,
        idle: Option<Duration>,
        changes: &mut Changes,
    ) {
        if std::mem::replace(&mut self.target, target) != target {
            while self.sessions.end_oldest(changes) {}
        }
        self.sessions.set_limits(idle, around.limits.connections);
    }

    /// Returns the last use of the session that has been idle longest.
    pub(crate) fn idle_since(&mut self) -> Option<Instant> {
        self.sessions.idle_since()
    }

    /// Ends the session that has been idle longest. Returns whether there was one.
    pub(crate) fn end_session(&mut self, changes: &mut Changes) -> bool {
        self.sessions.end_oldest(changes)
    }

    /// Passes on datagrams from the tunnel.
    pub(crate) fn go_on(&mut self, around: &Surroundings<'_>, buf: &mut [u8], changes: &mut Changes) {
        self.sessions.expire(changes);
        for _ in 0..TURN {
            match self.socket.try_recv_to(buf) {
                Ok((length, from, to)) => {
                    lost(self.send(around, (from, to), &buf[..length.min(buf.len())], changes));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => return lost(Err(error)),
            }
        }
        changes.again = Some(around.token);
    }

    /// Opens a socket that sends to the target.
    fn open(&self, around: &Surroundings<'_>, token: usize) -> io::Result<mio::net::UdpSocket> {
        let mut socket = mio::net::UdpSocket::bind(any_for(self.target))?;
        socket.connect(self.target)?;
        around.registry().register(&mut socket, Token(token), Interest::READABLE)?;
        Ok(socket)
    }

    fn send(
        &mut self,
        around: &Surroundings<'_>,
        source: (SocketAddr, SocketAddr),
        data: &[u8],
        changes: &mut Changes,
    ) -> io::Result<usize> {
        if self.sessions.of_source(source).is_none() {
            if !self.sessions.make_room(|| around.is_full(), changes) {
                around.counters.refused();
                return Err(ErrorKind::QuotaExceeded.into());
            }
            let token = around.new_token();
            let socket = loop {
                match self.open(around, token) {
                    Err(e) if is_lack_of_descriptors(&e) && self.sessions.end_oldest(changes) => {}
                    result => break result?,
                }
            };
            self.sessions.insert(token, socket, source, Place::take(around.counters), changes);
        }
        let session = self.sessions.of_source(source).ok_or(ErrorKind::NotFound)?;
        session.place.received(data.len());
        session.socket.send(data)
    }

    /// Passes on the target's replies to a session.
    pub(crate) fn answer(&mut self, around: &Surroundings<'_>, token: usize, buf: &mut [u8], changes: &mut Changes) {
        let Some(session) = self.sessions.of_token(token) else { return };
        for _ in 0..TURN {
            match session.socket.recv(buf) {
                Ok(length) => {
                    session.used = Instant::now();
                    session.place.sent(length);
                    let (client, own) = session.source;
                    lost(around.stack().send_datagram(&buf[..length], own, client).map(|()| length));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => lost(Err(error)), // It was told once: nobody listens there.
            }
        }
        changes.again = Some(token);
    }
}
