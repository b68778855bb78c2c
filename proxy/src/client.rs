//! A client until its bytes are passed through.

use std::{
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use wg_embed_netstack::{
    TcpListener, TcpStream,
    dial::{Dial, parse_host_port},
};

use crate::{
    engine::{Event, Surroundings},
    link::{Link, Local},
    names::Lookup,
    protocol::{MAX_HEAD, Protocol, Step, Trouble, response::Head},
    socket::Socket,
    stats::Place,
    udp::associate::{Association, Bound},
};

/// How long a client may wait for its connection (BIND).
const BIND: Duration = Duration::from_secs(180);
/// How long a target may take for the head of its response (HTTP).
const ANSWER: Duration = Duration::from_secs(900);
/// How long a refused client may take to read the reason.
const LINGER: Duration = Duration::from_secs(2);
/// The maximum number of its bytes that are discarded during that time.
const MAX_IGNORED: usize = 1 << 20;

pub(crate) struct Client {
    socket: Socket,
    protocol: Protocol,
    input: Vec<u8>,
    out: Vec<u8>,
    stage: Stage,
    /// Whether the socket may have bytes to read.
    readable: bool,
    /// Whether the client sends no more.
    ended: bool,
    /// Set if the stage has changed: the new time limit.
    limit: Option<Duration>,
    place: Place,
}

enum Stage {
    Talk,
    /// The system resolves the target's name.
    Lookup {
        lookup: Lookup,
        port: u16,
        is_connect: bool,
    },
    Dial {
        dial: Dial,
        is_connect: bool,
        ended: bool,
    },
    /// Waits for one connection to a port in the tunnel, from this address if it is known.
    Bind {
        listener: TcpListener,
        from: Option<IpAddr>,
    },
    /// The target has the client's request (`input`), and must respond: the received part of its response. The client
    /// may have ended its direction.
    Answer {
        stream: TcpStream,
        received: Vec<u8>,
        ended: bool,
    },
    /// Sends `out`, then passes datagrams through.
    Associate(Option<u16>),
    /// Sends `out`, then passes bytes through; if the client requested one forwarded request, only the bytes that it
    /// has already sent.
    Connected {
        stream: TcpStream,
        is_connect: bool,
    },
    /// Sends `out`, then ends the connection.
    End,
    /// Resets the connection: its protocol has no message for an error.
    Reset,
    /// Waits for the other side to read the last message, before the socket is closed: the number of discarded bytes.
    Linger(usize),
}

/// The result of a client's turn.
pub(crate) enum Fate {
    /// It waits for an event, with a new deadline if there is one.
    Keep(Client, Option<Duration>),
    Done,
    /// Its connection is established.
    Link(Link),
    Associate(Association),
}

impl Client {
    pub(crate) const fn new(socket: Socket, protocol: Protocol, place: Place) -> Self {
        Self {
            socket,
            protocol,
            input: Vec::new(),
            out: Vec::new(),
            stage: Stage::Talk,
            // Most clients send at once.
            readable: true,
            ended: false,
            limit: None,
            place,
        }
    }

    /// Makes progress without waiting.
    pub(crate) fn go_on(mut self, event: Event, around: &Surroundings<'_>) -> Fate {
        self.readable |= event.readable;
        self.ended |= event.ended;
        if event.failed && self.socket.error().is_some() {
            return Fate::Done;
        }
        loop {
            let more = match self.flush() {
                Err(e) => Err(e),
                Ok(()) => match self.stage {
                    Stage::Connected { stream, is_connect } => {
                        let local = Local::new(self.socket, self.place).with_first(self.input, !is_connect);
                        return Fate::Link(local.link(stream, self.readable));
                    }
                    Stage::Associate(port) => match Bound::new(&self.socket, around) {
                        Ok(bound) => return Fate::Associate(Association::new(self.socket, bound, port, self.place)),
                        Err(error) => {
                            self.failed(&error);
                            Ok(())
                        }
                    },
                    Stage::Talk => self.talk(around),
                    Stage::Lookup { .. } => self.look_up(around),
                    Stage::Dial { .. } => self.dial(around),
                    Stage::Bind { .. } => self.bound(),
                    Stage::Answer { .. } => self.answer(),
                    Stage::Reset => return Fate::Done,
                    Stage::End => {
                        self.socket.end();
                        self.limit = Some(LINGER);
                        self.stage = Stage::Linger(0);
                        Ok(())
                    }
                    Stage::Linger(ignored) => self.linger(ignored),
                },
            };
            match more {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    let limit = self.limit.take();
                    return Fate::Keep(self, limit);
                }
                Err(_) => return Fate::Done,
            }
        }
    }

    /// Handles its time-out.
    pub(crate) fn expire(mut self, around: &Surroundings<'_>) -> Fate {
        match self.stage {
            Stage::Talk => self.trouble(Trouble::TooLate),
            Stage::Lookup { .. } | Stage::Dial { .. } | Stage::Bind { .. } | Stage::Answer { .. } => {
                self.failed(&ErrorKind::TimedOut.into());
            }
            _ => return Fate::Done,
        }
        // It may not read its response.
        self.limit = Some(LINGER);
        self.go_on(Event::default(), around)
    }

    /// Handles the end of its service.
    pub(crate) fn end(&self) {
        self.socket.reset_on_close();
    }

    /// Handles the end of the proxy.
    pub(crate) fn close(&mut self) {
        self.socket.end();
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            let sent = self.socket.write(&[IoSlice::new(&self.out)])?;
            self.out.drain(..sent);
        }
        if self.socket.flush()? { Ok(()) } else { Err(ErrorKind::WouldBlock.into()) }
    }

    fn talk(&mut self, around: &Surroundings<'_>) -> io::Result<()> {
        let step = self.protocol.step(&mut self.input, &mut self.out);
        let is_connect = matches!(step, Step::Dial(_));
        match step {
            Step::More if !self.out.is_empty() => {} // It is sent first.
            Step::More if self.input.len() >= MAX_HEAD => self.trouble(Trouble::TooLong),
            Step::More => {
                if self.read()? == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
            }
            Step::End => self.stage = Stage::End,
            Step::Dial(target) | Step::Forward(target) => {
                // The stack limits the time of dialling: this is for a client that does not read its response.
                self.limit = Some(around.limits.dial * 2);
                if let Err(e) = self.start(&target, is_connect, around) {
                    self.failed(&e);
                }
            }
            Step::Associate(port) => self.stage = Stage::Associate(port),
            Step::Bind(from) => match self.listen(from.ip(), around) {
                Ok(()) => self.limit = Some(BIND),
                Err(e) => self.failed(&e),
            },
        }
        Ok(())
    }

    /// Starts to connect.
    fn start(&mut self, target: &str, is_connect: bool, around: &Surroundings<'_>) -> io::Result<()> {
        if Lookup::is_by_system(around) {
            let (host, port) = parse_host_port(target)?;
            if host.parse::<IpAddr>().is_err() {
                let lookup = Lookup::start(&host, self.socket.client(), around)?;
                lookup.set_notify(around.notify());
                self.stage = Stage::Lookup { lookup, port, is_connect };
                return Ok(());
            }
        }
        let dial = around.stack().start_dial(target, around.family(), around.limits.dial)?;
        self.wait_for(dial, is_connect, around);
        Ok(())
    }

    fn wait_for(&mut self, dial: Dial, is_connect: bool, around: &Surroundings<'_>) {
        dial.set_notify(Some(around.notify()));
        self.stage = Stage::Dial { dial, is_connect, ended: false };
    }

    fn look_up(&mut self, around: &Surroundings<'_>) -> io::Result<()> {
        let Stage::Lookup { lookup, port, is_connect } = &self.stage else {
            return Ok(());
        };
        let (is_connect, port) = (*is_connect, *port);
        let found = match lookup.try_finish() {
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Err(e),
            found => found,
        };
        match found.and_then(|found| around.stack().start_dial_addresses(&found, port, around.limits.dial)) {
            Ok(dial) => self.wait_for(dial, is_connect, around),
            Err(e) => self.failed(&e),
        }
        Ok(())
    }

    fn dial(&mut self, around: &Surroundings<'_>) -> io::Result<()> {
        let Stage::Dial { dial, is_connect, ended } = &self.stage else {
            return Ok(());
        };
        match dial.try_finish() {
            Ok(stream) if !*is_connect => {
                stream.set_notify(Some(around.notify()));
                self.limit = Some(ANSWER);
                self.stage = Stage::Answer { stream, received: Vec::new(), ended: *ended };
                Ok(())
            }
            Ok(stream) => {
                self.out.extend(self.protocol.answer(Ok(None)));
                self.stage = Stage::Connected { stream, is_connect: true };
                Ok(())
            }
            Err(e) if e.kind() != ErrorKind::WouldBlock => {
                self.failed(&e);
                Ok(())
            }
            Err(e) if *ended => Err(e),
            Err(_) => {
                if self.input.len() >= MAX_HEAD {
                    return Err(ErrorKind::WouldBlock.into()); // The rest is read when there is a connection.
                }
                let is_connect = *is_connect;
                if self.read()? > 0 {
                    return if is_connect { Ok(()) } else { Err(ErrorKind::InvalidData.into()) };
                }
                if is_connect && !self.protocol.may_half_close() {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                if let Stage::Dial { ended, .. } = &mut self.stage {
                    *ended = true;
                }
                Ok(())
            }
        }
    }

    /// Sends the request, and reads the head of the response.
    fn answer(&mut self) -> io::Result<()> {
        let Stage::Answer { stream, received, .. } = &mut self.stage else {
            return Ok(());
        };
        while !self.input.is_empty() {
            match stream.try_write(&self.input) {
                Ok(sent) => {
                    self.input.drain(..sent);
                    self.place.sent(sent);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Err(e),
                Err(e) => {
                    self.failed(&e);
                    return Ok(());
                }
            }
        }
        let head = match Head::parse(received) {
            Head::Partial if received.len() < MAX_HEAD => {
                let mut buf = [0; 4096];
                let room = (MAX_HEAD - received.len()).min(buf.len());
                match stream.try_read(&mut buf[..room]) {
                    Ok(0) => Head::Bad,
                    Ok(length) => {
                        received.extend(&buf[..length]);
                        self.place.received(length);
                        return Ok(());
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => return self.listen_to_client(),
                    Err(_) => Head::Bad,
                }
            }
            Head::Partial => Head::Bad,
            head => head,
        };
        match head {
            Head::Whole { length, text, is_last } => {
                received.drain(..length);
                self.out.extend(text);
                if is_last {
                    self.out.append(received);
                    if let Stage::Answer { stream, .. } = std::mem::replace(&mut self.stage, Stage::End) {
                        self.stage = Stage::Connected { stream, is_connect: false };
                    }
                }
            }
            Head::Partial | Head::Bad => self.failed(&ErrorKind::InvalidData.into()),
        }
        Ok(())
    }

    /// Reads from a client whose request is complete: bytes that it sends now are not for its target, and end the
    /// connection.
    fn listen_to_client(&mut self) -> io::Result<()> {
        if matches!(self.stage, Stage::Answer { ended: true, .. }) {
            return Err(ErrorKind::WouldBlock.into());
        }
        if self.read()? > 0 {
            return Err(ErrorKind::InvalidData.into());
        }
        if let Stage::Answer { ended, .. } = &mut self.stage {
            *ended = true;
        }
        Err(ErrorKind::WouldBlock.into())
    }

    /// Listens for one connection from an address, or from any if it is unspecified.
    fn listen(&mut self, from: IpAddr, around: &Surroundings<'_>) -> io::Result<()> {
        let own = around.stack().options().addresses;
        let address = own.iter().find(|own| own.is_ipv4() == from.is_ipv4() || from.is_unspecified());
        let address = *address.ok_or(ErrorKind::AddrNotAvailable)?;
        let listener = around.stack().listen_tcp(SocketAddr::new(address, 0), 1)?;
        self.out.extend(self.protocol.answer(Ok(Some(listener.local_addr()))));
        listener.set_notify(Some(around.notify()));
        self.stage = Stage::Bind { listener, from: Some(from).filter(|from| !from.is_unspecified()) };
        Ok(())
    }

    fn bound(&mut self) -> io::Result<()> {
        let Stage::Bind { listener, from } = &self.stage else {
            return Ok(());
        };
        match listener.try_accept() {
            Ok(stream) if from.is_some_and(|from| from != stream.peer_addr().ip()) => stream.reset(),
            Ok(stream) => {
                self.out.extend(self.protocol.answer(Ok(Some(stream.peer_addr()))));
                self.stage = Stage::Connected { stream, is_connect: true };
            }
            Err(e) if e.kind() != ErrorKind::WouldBlock => self.failed(&e),
            Err(e) if self.input.len() >= MAX_HEAD => return Err(e),
            Err(_) => {
                if self.read()? == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
            }
        }
        Ok(())
    }

    fn failed(&mut self, error: &io::Error) {
        tracing::debug!(%error, "a connection through the tunnel cannot be made");
        self.place.failed();
        if self.protocol.has_errors() {
            self.out.extend(self.protocol.answer(Err(error)));
            self.stage = Stage::End;
        } else {
            self.socket.fail(error);
            self.stage = Stage::Reset;
        }
    }

    fn trouble(&mut self, trouble: Trouble) {
        self.out.extend(self.protocol.complain(trouble));
        self.stage = Stage::End;
    }

    /// Discards received bytes, so that closing the socket is not a reset, which would discard the client's response.
    fn linger(&mut self, ignored: usize) -> io::Result<()> {
        let length = self.socket.read(&mut [IoSliceMut::new(&mut [0; 4096])])?;
        if length == 0 || ignored > MAX_IGNORED {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.stage = Stage::Linger(ignored + length);
        Ok(())
    }

    fn read(&mut self) -> io::Result<usize> {
        if !self.readable {
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut buf = [0; 4096];
        let room = MAX_HEAD.saturating_sub(self.input.len()).min(buf.len());
        match self.socket.read(&mut [IoSliceMut::new(&mut buf[..room])]) {
            // The end remains readable: the copying code detects it again.
            Ok(length) => {
                self.input.extend(&buf[..length]);
                self.ended |= length == 0;
                self.readable = self.ended || !self.socket.is_drained_by(length, room);
                Ok(length)
            }
            Err(e) => {
                self.readable &= e.kind() != ErrorKind::WouldBlock;
                Err(e)
            }
        }
    }
}
