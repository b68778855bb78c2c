//! One client until its bytes are passed through.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};

use wg_embed_netstack::{TcpStream, dial::Dial};

use crate::{
    engine::Event,
    link::Link,
    protocol::{MAX_HEAD, Protocol, Step},
    socket::Socket,
    stats::Place,
    surroundings::Surroundings,
};

pub(crate) struct Client {
    socket: Socket,
    protocol: Protocol,
    input: Vec<u8>,
    out: Vec<u8>,
    stage: Stage,
    /// The socket may have something to read.
    readable: bool,
    place: Place,
}

enum Stage {
    Talk,
    Dial {
        dial: Dial,
        is_connect: bool,
        ended: bool,
    },
    /// `out` is sent, then the bytes are passed through.
    Connected(TcpStream),
    /// `out` is sent, then the connection ends.
    End,
}

/// What becomes of a client.
pub(crate) enum Fate {
    /// It waits for news.
    Keep(Client),
    /// As that; it has said what it wants.
    Dialling(Client),
    Done,
    /// Its connection is made.
    Link(Link),
}

impl Client {
    pub(crate) const fn new(socket: Socket, protocol: Protocol, place: Place) -> Self {
        Self { socket, protocol, input: Vec::new(), out: Vec::new(), stage: Stage::Talk, readable: false, place }
    }

    /// Does what can be done now.
    pub(crate) fn go_on(mut self, event: Event, around: &Surroundings<'_>) -> Fate {
        self.readable |= event.readable;
        if event.failed && self.socket.error().is_some() {
            return Fate::Done;
        }
        let mut has_dialled = false;
        loop {
            let keep = |client| if has_dialled { Fate::Dialling(client) } else { Fate::Keep(client) };
            match self.flush() {
                Err(e) if e.kind() == ErrorKind::WouldBlock => return keep(self),
                Err(_) => return Fate::Done,
                Ok(()) => {}
            }
            let more = match self.stage {
                Stage::End => {
                    self.socket.end();
                    return Fate::Done;
                }
                Stage::Connected(stream) => {
                    let event = Event { readable: self.readable, ..Event::default() };
                    return Fate::Link(Link::new(self.socket, stream, self.input, event, self.place));
                }
                Stage::Talk => self.talk(around).inspect(|()| has_dialled = matches!(self.stage, Stage::Dial { .. })),
                Stage::Dial { .. } => self.dial(),
            };
            match more {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    return if has_dialled { Fate::Dialling(self) } else { Fate::Keep(self) };
                }
                Err(_) => return Fate::Done,
            }
        }
    }

    /// The service ends.
    pub(crate) fn end(&self) {
        self.socket.reset_on_close();
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            let sent = self.socket.write(&[IoSlice::new(&self.out)])?;
            self.out.drain(..sent);
        }
        Ok(())
    }

    fn talk(&mut self, around: &Surroundings<'_>) -> io::Result<()> {
        let step = self.protocol.step(&mut self.input, &mut self.out);
        let is_connect = matches!(step, Step::Dial(_));
        match step {
            Step::More if !self.out.is_empty() => {} // It is sent first.
            Step::More => {
                if self.read()? == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
            }
            Step::End => self.stage = Stage::End,
            Step::Dial(target) | Step::Forward(target) => {
                match around.stack.start_dial(&target, around.family, around.timeout) {
                    Ok(dial) => {
                        dial.set_notify(Some(around.notify.clone()));
                        self.stage = Stage::Dial { dial, is_connect, ended: false };
                    }
                    Err(e) => self.failed(&e),
                }
            }
        }
        Ok(())
    }

    fn dial(&mut self) -> io::Result<()> {
        let Stage::Dial { dial, is_connect, ended } = &self.stage else {
            return Ok(());
        };
        match dial.try_finish() {
            Ok(stream) => {
                self.out = self.protocol.answer(None, *is_connect);
                self.stage = Stage::Connected(stream);
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
                if self.read()? > 0 {
                    return Ok(());
                }
                if !self.protocol.may_half_close() {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                if let Stage::Dial { ended, .. } = &mut self.stage {
                    *ended = true;
                }
                Ok(())
            }
        }
    }

    fn failed(&mut self, error: &io::Error) {
        tracing::debug!(%error, "a connection through the tunnel cannot be made");
        self.place.failed();
        self.out = self.protocol.answer(Some(error), false);
        self.stage = Stage::End;
    }

    /// Reads some. `InvalidData` if there is more than any client has to say.
    fn read(&mut self) -> io::Result<usize> {
        if !self.readable {
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut buf = [0; 4096];
        let room = MAX_HEAD.saturating_sub(self.input.len()).min(buf.len());
        if room == 0 {
            return Err(ErrorKind::InvalidData.into());
        }
        let read = self.socket.read(&mut [IoSliceMut::new(&mut buf[..room])]);
        match read {
            // The end stays readable: what copies finds it again.
            Ok(length) => {
                self.input.extend(&buf[..length]);
                Ok(length)
            }
            Err(e) => {
                self.readable &= e.kind() != ErrorKind::WouldBlock;
                Err(e)
            }
        }
    }
}
