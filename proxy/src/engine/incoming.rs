//! A connection from the tunnel until its target on this side is connected: only then is its handshake completed.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use wg_embed_netstack::{PendingTcp, TcpStream, dial::parse_host_port};

use super::{
    Event, Surroundings,
    attempts::{Attempts, alternate},
};
use crate::{
    link::{Link, Local},
    names::Lookup,
    service::{Address, Target},
    socket::Socket,
    stats::Place,
};

pub(crate) struct Incoming {
    stage: Stage,
    /// Whether the socket may have bytes to read.
    readable: bool,
    /// Its time limit.
    end: Instant,
    place: Place,
}

enum Stage {
    /// The target is being resolved.
    Lookup(PendingTcp, Lookup, u16),
    /// The target's addresses are being tried.
    Connect(PendingTcp, Attempts),
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
        let end = Instant::now() + around.limits.dial;
        match begin(pending, target, around) {
            Ok(stage) => Self { stage, readable: false, end, place }.go_on(Event::default(), around),
            Err(error) => failed(&place, &error),
        }
    }

    /// Makes progress without waiting.
    pub(crate) fn go_on(mut self, event: Event, around: &Surroundings<'_>) -> Fate {
        self.readable |= event.readable;
        if let Stage::Lookup(pending, lookup, port) = self.stage {
            self.stage = match lookup.try_finish() {
                Ok(found) => Stage::Connect(pending, Attempts::new(alternate(found, port))),
                Err(e) if e.kind() == ErrorKind::WouldBlock => Stage::Lookup(pending, lookup, port),
                Err(e) => return failed(&self.place, &e),
            };
        }
        if let Stage::Connect(pending, mut attempts) = self.stage {
            self.stage = match attempts.go_on(around) {
                Ok(None) => Stage::Connect(pending, attempts),
                Ok(Some(socket)) => {
                    let addresses = (pending.destination(), pending.source());
                    pending.accept();
                    self.stage = Stage::Accept(socket);
                    return Fate::Accept(self, addresses);
                }
                Err(e) => return failed(&self.place, &e),
            };
        }
        Fate::Keep(self)
    }

    /// Returns the time of its next turn: its time limit, or that of another attempt.
    pub(crate) fn deadline(&self) -> Instant {
        let next = match &self.stage {
            Stage::Connect(_, attempts) => attempts.deadline(),
            Stage::Lookup(..) | Stage::Accept(_) => None,
        };
        next.map_or(self.end, |next| next.min(self.end))
    }

    /// Returns whether its time is over.
    pub(crate) fn is_late(&self) -> bool {
        Instant::now() >= self.end
    }

    /// Handles the end of the handshake. Returns `None` if it was not expected.
    pub(crate) fn established(self, stream: TcpStream) -> Option<Link> {
        let Stage::Accept(socket) = self.stage else { return None };
        Some(Local::new(socket, self.place).link(stream, self.readable))
    }

    /// Handles the end of the service, or a time-out: a connection whose handshake is delayed is refused.
    pub(crate) fn end(&self) {
        match &self.stage {
            Stage::Accept(socket) => socket.reset_on_close(),
            Stage::Connect(_, attempts) => attempts.reset_on_close(),
            Stage::Lookup(..) => {}
        }
    }
}

fn begin(pending: PendingTcp, target: &Target, around: &Surroundings<'_>) -> io::Result<Stage> {
    let connect = |to: Address| Attempts::new([to]);
    let target = match target {
        Target::Unix(path) => return Ok(Stage::Connect(pending, connect(Address::Unix(path.clone())))),
        Target::Host(target) => target,
    };
    let (host, port) = parse_host_port(target)?;
    let host = if host.eq_ignore_ascii_case("localhost") { "127.0.0.1" } else { &*host };
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(Stage::Connect(pending, connect(Address::Tcp(SocketAddr::new(address, port)))));
    }
    let lookup = Lookup::start(host, Some(pending.source().ip()), around)?;
    lookup.set_notify(around.notify());
    Ok(Stage::Lookup(pending, lookup, port))
}

fn failed(place: &Place, error: &io::Error) -> Fate {
    tracing::debug!(%error, "a target on this side cannot be connected");
    place.failed();
    Fate::Done
}
