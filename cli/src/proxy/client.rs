//! One client until its bytes are passed through.

use std::{
    io::{self, ErrorKind},
    sync::Arc,
    time::Duration,
};

use wg_embed_netstack::{Netstack, Notify, TcpStream, dial::Dial, dns::Family};

use super::{
    protocol::{MAX_HEAD, Protocol, Step},
    socket::Socket,
};

/// How long a connection through the tunnel may take to be made.
pub(super) const DIAL: Duration = Duration::from_secs(30);

pub(super) struct Client {
    pub(super) socket: Socket,
    protocol: Protocol,
    input: Vec<u8>,
    out: Vec<u8>,
    stage: Stage,
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
pub(super) enum Fate {
    Keep(Client),
    Done,
    /// Passes bytes through, first these.
    Join(Socket, TcpStream, Vec<u8>),
}

/// What a client needs to dial.
pub(super) struct Network<'a> {
    pub(super) stack: &'a Netstack,
    pub(super) family: Family,
    pub(super) notify: Arc<dyn Notify>,
}

impl Client {
    pub(super) const fn new(socket: Socket, protocol: Protocol) -> Self {
        Self { socket, protocol, input: Vec::new(), out: Vec::new(), stage: Stage::Talk }
    }

    /// Whether nothing has been dialled yet.
    pub(super) const fn is_talking(&self) -> bool {
        matches!(self.stage, Stage::Talk)
    }

    /// Does what can be done now.
    pub(super) fn go_on(mut self, network: &Network<'_>) -> Fate {
        loop {
            match self.flush() {
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Fate::Keep(self),
                Err(_) => return Fate::Done,
                Ok(()) => {}
            }
            let more = match self.stage {
                Stage::End => {
                    self.socket.end();
                    return Fate::Done;
                }
                Stage::Connected(stream) => return Fate::Join(self.socket, stream, self.input),
                Stage::Talk => self.talk(network),
                Stage::Dial { .. } => self.dial(),
            };
            match more {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Fate::Keep(self),
                Err(_) => return Fate::Done,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            let sent = self.socket.write(&self.out)?;
            self.out.drain(..sent);
        }
        Ok(())
    }

    fn talk(&mut self, network: &Network<'_>) -> io::Result<()> {
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
            Step::Dial(target) | Step::Forward(target) => match network.stack.start_dial(&target, network.family, DIAL)
            {
                Ok(dial) => {
                    dial.set_notify(Some(network.notify.clone()));
                    self.stage = Stage::Dial { dial, is_connect, ended: false };
                }
                Err(e) => self.failed(&e),
            },
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
                if self.input.len() < MAX_HEAD && self.read()? > 0 {
                    return Ok(());
                }
                if self.input.len() < MAX_HEAD && !self.protocol.may_half_close() {
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
        self.out = self.protocol.answer(Some(error), false);
        self.stage = Stage::End;
    }

    /// Reads some. `InvalidData` if there is more than any client has to say.
    fn read(&mut self) -> io::Result<usize> {
        let mut buf = [0; 4096];
        let room = (MAX_HEAD - self.input.len().min(MAX_HEAD)).min(buf.len());
        if room == 0 {
            return Err(ErrorKind::InvalidData.into());
        }
        let length = self.socket.read(&mut buf[..room])?;
        self.input.extend(&buf[..length]);
        Ok(length)
    }
}
