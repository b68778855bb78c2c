//! SOCKS5 UDP ASSOCIATE (RFC 1928, section 7).
//!
//! On the tunnel's side datagrams leave from one port of each family, so any address there can reply.

use std::{
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    net::{IpAddr, SocketAddr},
};

use mio::{Interest, Token};
use wg_embed_netstack::UdpSocket;

use super::{TURN, any_for, lost, waiting::Waiting};
use crate::{
    engine::{Event, Outcome, Surroundings},
    names::Lookup,
    protocol::{
        datagram::{self, Host},
        socks5,
    },
    socket::Socket,
    stats::Place,
};

/// An association. It ends with its connection.
pub(crate) struct Association {
    control: Socket,
    /// The unsent part of the reply.
    out: Vec<u8>,
    socket: mio::net::UdpSocket,
    /// The client's address.
    address: IpAddr,
    /// Its port, once it is known.
    port: Option<u16>,
    /// The source of its last datagram, with the scope of a link-local address.
    source: Option<SocketAddr>,
    /// By family; created when needed.
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
    /// Datagrams whose targets are being resolved, and the ports of these.
    waiting: Waiting<(Lookup, u16)>,
    place: Place,
}

/// A port for datagrams.
pub(crate) struct Bound {
    socket: mio::net::UdpSocket,
    at: SocketAddr,
    /// The address of the client.
    client: IpAddr,
}

impl Bound {
    /// Creates a port on the local address of the connection that requests it.
    pub(crate) fn new(control: &Socket, around: &Surroundings<'_>) -> io::Result<Self> {
        let (local, peer) = control.addresses()?;
        let mut socket = mio::net::UdpSocket::bind(any_port(local))?;
        around.registry().register(&mut socket, Token(around.token), Interest::READABLE)?;
        let at = socket.local_addr()?;
        Ok(Self { socket, at, client: peer.ip().to_canonical() })
    }
}

/// Returns the address with a free port, in its own family. A link-local one keeps its scope.
fn any_port(mut address: SocketAddr) -> SocketAddr {
    if let IpAddr::V4(canonical) = address.ip().to_canonical() {
        address.set_ip(canonical.into());
    }
    address.set_port(0);
    address
}

impl Association {
    /// Creates an association. `port` is the only one that the client sends from, if it has specified it.
    pub(crate) fn new(control: Socket, bound: Bound, port: Option<u16>, place: Place) -> Self {
        Self {
            control,
            out: socks5::reply(Ok(Some(bound.at))),
            socket: bound.socket,
            address: bound.client,
            port,
            source: None,
            v4: None,
            v6: None,
            waiting: Waiting::default(),
            place,
        }
    }

    /// Makes progress without waiting.
    pub(crate) fn go_on(&mut self, event: Event, around: &Surroundings<'_>, buf: &mut [u8]) -> Outcome {
        if event.failed && self.control.error().is_some() {
            return Outcome::Done;
        }
        let has_more = match self.connection(buf) {
            Ok(has_ended) if has_ended => return Outcome::Done,
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(_) => return Outcome::Done,
        };
        self.found(around);
        let again = [has_more, self.pass_on(around, buf), self.answer(false, buf), self.answer(true, buf)];
        if again.contains(&true) { Outcome::Again } else { Outcome::Wait }
    }

    /// Sends the reply, and checks whether the connection has ended. Bytes that it sends are discarded, up to a bound.
    fn connection(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        while !self.out.is_empty() {
            let sent = self.control.write(&[IoSlice::new(&self.out)])?;
            self.out.drain(..sent);
        }
        for _ in 0..TURN {
            if self.control.read(&mut [IoSliceMut::new(buf)])? == 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn pass_on(&mut self, around: &Surroundings<'_>, buf: &mut [u8]) -> bool {
        for _ in 0..TURN {
            let (length, source) = match self.socket.recv_from(buf) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) => {
                    lost(Err(error));
                    continue;
                }
            };
            if source.ip().to_canonical() != self.address || self.port.is_some_and(|port| port != source.port()) {
                continue;
            }
            let Some((host, port, data)) = datagram::parse(&buf[..length]) else {
                continue;
            };
            self.port = Some(source.port());
            self.source = Some(source);
            match host {
                Host::Address(address) => lost(self.send(around, SocketAddr::new(address, port), data)),
                Host::Name(name) => self.send_to_name(around, name, port, data),
            }
        }
        true
    }

    fn send(&mut self, around: &Surroundings<'_>, to: SocketAddr, data: &[u8]) -> io::Result<usize> {
        let socket = if to.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        let socket = match socket {
            Some(socket) => socket,
            None => {
                let new = around.stack().bind_udp(any_for(to), None)?;
                new.set_notify(Some(around.notify()));
                socket.insert(new)
            }
        };
        self.place.sent(data.len());
        socket.try_send(data, Some(to))
    }

    /// Sends to a name. The stack caches results for their TTL.
    fn send_to_name(&mut self, around: &Surroundings<'_>, name: &str, port: u16, data: &[u8]) {
        let lookup = match Lookup::start(name, Some(self.address), around) {
            Ok(lookup) => lookup,
            Err(error) => return lost(Err(error)),
        };
        match lookup.try_finish() {
            Ok(found) => {
                if let Some(address) = found.first() {
                    lost(self.send(around, SocketAddr::new(*address, port), data));
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.waiting.keep(data, || {
                lookup.set_notify(around.notify());
                (lookup, port)
            }),
            Err(error) => lost(Err(error)),
        }
    }

    /// Sends datagrams that have waited for addresses that are now known.
    fn found(&mut self, around: &Surroundings<'_>) {
        for ((lookup, port), data) in self.waiting.take() {
            match lookup.try_finish() {
                Ok(found) => {
                    if let Some(address) = found.first() {
                        lost(self.send(around, SocketAddr::new(*address, port), &data));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.waiting.keep(&data, || (lookup, port)),
                Err(error) => lost(Err(error)),
            }
        }
    }

    fn answer(&mut self, v6: bool, buf: &mut [u8]) -> bool {
        let Some(socket) = (if v6 { &self.v6 } else { &self.v4 }) else {
            return false;
        };
        for _ in 0..TURN {
            let (room, data) = buf.split_at_mut(datagram::MAX_HEADER);
            match socket.try_recv(data) {
                Ok((length, from)) => {
                    self.place.received(length);
                    let head = datagram::header(from);
                    let start = room.len() - head.len();
                    room[start..].copy_from_slice(&head);
                    let end = datagram::MAX_HEADER + length;
                    if let (Some(source), Some(whole)) = (self.source, buf.get(start..end)) {
                        lost(self.socket.send_to(whole, source));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) => {
                    lost(Err(error));
                    return false;
                }
            }
        }
        true
    }
}
