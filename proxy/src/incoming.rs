//! A connection from the tunnel until its target on this side is connected.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
};

use wg_embed_netstack::{TcpStream, dial::parse_host_port, dns::Lookup};

use crate::{engine::Event, link::Link, socket::Socket, stats::Place, surroundings::Surroundings};

pub(crate) struct Incoming {
    stream: TcpStream,
    stage: Stage,
    place: Place,
}

enum Stage {
    /// The target is looked up.
    Lookup(Lookup, u16),
    Connect(Socket),
}

/// What becomes of it.
pub(crate) enum Fate {
    Keep(Incoming),
    Done,
    Link(Link),
}

impl Incoming {
    /// Begins to connect to `target`. The stream is reset if that is not possible.
    pub(crate) fn start(stream: TcpStream, target: &str, place: Place, around: &Surroundings<'_>) -> Fate {
        match begin(target, around) {
            Ok(stage) => Fate::Keep(Self { stream, stage, place }),
            Err(error) => failed(&stream, &place, &error),
        }
    }

    /// Does what can be done now.
    pub(crate) fn go_on(mut self, event: Event, around: &Surroundings<'_>) -> Fate {
        if let Stage::Lookup(lookup, port) = &self.stage {
            let connected = match lookup.try_finish() {
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Fate::Keep(self),
                Err(e) => Err(e),
                Ok(found) => found
                    .first()
                    .ok_or_else(|| ErrorKind::NotFound.into())
                    .and_then(|address| connect(SocketAddr::new(*address, *port), around)),
            };
            match connected {
                Ok(stage) => self.stage = stage,
                Err(error) => return failed(&self.stream, &self.place, &error),
            }
            return Fate::Keep(self);
        }
        let Stage::Connect(socket) = &self.stage else {
            return Fate::Keep(self);
        };
        match socket.is_connected() {
            Ok(true) => {}
            Ok(false) => return Fate::Keep(self),
            Err(error) => return failed(&self.stream, &self.place, &error),
        }
        match self.stage {
            Stage::Connect(socket) => Fate::Link(Link::new(socket, self.stream, Vec::new(), event, self.place)),
            Stage::Lookup(..) => Fate::Done,
        }
    }

    /// The service ends, or it has taken too long.
    pub(crate) fn end(&self) {
        self.stream.reset();
    }
}

fn begin(target: &str, around: &Surroundings<'_>) -> io::Result<Stage> {
    let (host, port) = parse_host_port(target)?;
    let host = if host.eq_ignore_ascii_case("localhost") { "127.0.0.1" } else { &*host };
    if let Ok(address) = host.parse::<IpAddr>() {
        return connect(SocketAddr::new(address, port), around);
    }
    let lookup = around.stack.start_resolve(host, around.family, around.timeout)?;
    lookup.set_notify(Some(around.notify.clone()));
    Ok(Stage::Lookup(lookup, port))
}

fn connect(to: SocketAddr, around: &Surroundings<'_>) -> io::Result<Stage> {
    let mut socket = Socket::Tcp(mio::net::TcpStream::connect(to)?);
    socket.register(around.registry, around.token)?;
    Ok(Stage::Connect(socket))
}

fn failed(stream: &TcpStream, place: &Place, error: &io::Error) -> Fate {
    tracing::debug!(%error, "a target on this side cannot be connected");
    place.failed();
    stream.reset();
    Fate::Done
}
