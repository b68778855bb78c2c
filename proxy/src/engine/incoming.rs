//! A connection from the tunnel until its target on this side is connected: only then is its handshake completed.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
};

use wg_embed_netstack::{PendingTcp, TcpStream, dial::parse_host_port};

use super::{Event, Surroundings};
use crate::{
    link::{Link, Local},
    names::Lookup,
    service::{Address, Target},
    socket::Socket,
    stats::Place,
};

pub(crate) struct Incoming {
    stage: Stage,
    /// Whether the socket has bytes to read.
    readable: bool,
    place: Place,
}

enum Stage {
    /// The target is being resolved.
    Lookup(PendingTcp, Lookup, u16),
    /// One of the target's addresses is being tried; others are left.
    Connect(PendingTcp, Socket, Vec<SocketAddr>),
    /// The handshake continues.
    Accept(Socket),
}

/// The result of its turn.
pub(crate) enum Fate {
    Keep(Incoming),
    /// The handshake continues: the stream will have these addresses of the tunnel, this side's first.
    Accept(Incoming, (SocketAddr, SocketAddr)),
    Done,
}

impl Incoming {
    /// Starts to connect to `target`.
    pub(crate) fn start(pending: PendingTcp, target: &Target, place: Place, around: &Surroundings<'_>) -> Fate {
        match begin(pending, target, around) {
            Ok(stage) => Fate::Keep(Self { stage, readable: false, place }),
            Err(error) => failed(&place, &error),
        }
    }

    /// Makes progress without waiting.
    pub(crate) fn go_on(mut self, event: Event, around: &Surroundings<'_>) -> Fate {
        self.readable |= event.readable;
        match self.stage {
            Stage::Lookup(pending, lookup, port) => match lookup.try_finish() {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.stage = Stage::Lookup(pending, lookup, port);
                    Fate::Keep(self)
                }
                Err(e) => failed(&self.place, &e),
                Ok(found) => {
                    let all = found.iter().map(|address| SocketAddr::new(*address, port)).collect();
                    match connect_one(pending, all, ErrorKind::NotFound.into(), around) {
                        Ok(stage) => {
                            self.stage = stage;
                            Fate::Keep(self)
                        }
                        Err(e) => failed(&self.place, &e),
                    }
                }
            },
            Stage::Connect(pending, socket, left) => match socket.is_connected() {
                Ok(true) => {
                    let addresses = (pending.destination(), pending.source());
                    pending.accept();
                    self.stage = Stage::Accept(socket);
                    Fate::Accept(self, addresses)
                }
                Ok(false) => {
                    self.stage = Stage::Connect(pending, socket, left);
                    Fate::Keep(self)
                }
                Err(error) => match connect_one(pending, left, error, around) {
                    Ok(stage) => {
                        self.stage = stage;
                        Fate::Keep(self)
                    }
                    Err(e) => failed(&self.place, &e),
                },
            },
            Stage::Accept(socket) => {
                self.stage = Stage::Accept(socket);
                Fate::Keep(self)
            }
        }
    }

    /// Handles the end of the handshake. Returns `None` if it was not expected.
    pub(crate) fn established(self, stream: TcpStream) -> Option<Link> {
        let Stage::Accept(socket) = self.stage else { return None };
        Some(Local::new(socket, self.place).link(stream, self.readable))
    }

    /// Handles the end of the service, or a time-out: a connection whose handshake is delayed is refused.
    pub(crate) fn end(&self) {
        if let Stage::Accept(socket) | Stage::Connect(_, socket, _) = &self.stage {
            socket.reset_on_close();
        }
    }
}

fn begin(pending: PendingTcp, target: &Target, around: &Surroundings<'_>) -> io::Result<Stage> {
    let target = match target {
        Target::Unix(path) => return connect(pending, &Address::Unix(path.clone()), Vec::new(), around),
        Target::Host(target) => target,
    };
    let (host, port) = parse_host_port(target)?;
    let host = if host.eq_ignore_ascii_case("localhost") { "127.0.0.1" } else { &*host };
    if let Ok(address) = host.parse::<IpAddr>() {
        return connect(pending, &Address::Tcp(SocketAddr::new(address, port)), Vec::new(), around);
    }
    let lookup = Lookup::start(host, Some(pending.source().ip()), around)?;
    lookup.set_notify(around.notify());
    Ok(Stage::Lookup(pending, lookup, port))
}

/// Tries addresses until one does not fail at once. `error` is that of the previous one.
fn connect_one(
    pending: PendingTcp,
    mut left: Vec<SocketAddr>,
    mut error: io::Error,
    around: &Surroundings<'_>,
) -> io::Result<Stage> {
    while !left.is_empty() {
        let to = Address::Tcp(left.remove(0));
        match open(&to, around) {
            Ok(socket) => return Ok(Stage::Connect(pending, socket, left)),
            Err(e) => error = e,
        }
    }
    Err(error)
}

fn connect(pending: PendingTcp, to: &Address, left: Vec<SocketAddr>, around: &Surroundings<'_>) -> io::Result<Stage> {
    Ok(Stage::Connect(pending, open(to, around)?, left))
}

fn open(to: &Address, around: &Surroundings<'_>) -> io::Result<Socket> {
    let mut socket = Socket::connect(to)?;
    socket.register(around.registry(), around.token)?;
    Ok(socket)
}

fn failed(place: &Place, error: &io::Error) -> Fate {
    tracing::debug!(%error, "a target on this side cannot be connected");
    place.failed();
    Fate::Done
}
