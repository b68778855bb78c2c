//! Copies between a connection of this side and one of the tunnel.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read};

use wg_embed_netstack::{
    TcpStream,
    copy::{self, Relay, Side},
};

use crate::{
    engine::Event,
    socket::{KEEPALIVE, Socket},
    stats::Place,
};

/// The two sides.
pub(crate) type Link = Relay<Local>;

/// The side of this machine.
pub(crate) struct Local {
    socket: Socket,
    /// Bytes from the socket that were read before, and are sent first.
    first: Vec<u8>,
    /// Whether further bytes of the socket are not for this connection, and end both.
    first_only: bool,
    place: Place,
}

impl Local {
    pub(crate) const fn new(socket: Socket, place: Place) -> Self {
        Self { socket, first: Vec::new(), first_only: false, place }
    }

    /// Adds bytes that were read from the socket before. `only`: no other bytes of the socket may go to the tunnel.
    pub(crate) fn with_first(self, first: Vec<u8>, only: bool) -> Self {
        Self { first, first_only: only, ..self }
    }

    /// Starts to copy. `readable`: the socket may have bytes to read.
    pub(crate) fn link(self, connection: TcpStream, readable: bool) -> Link {
        connection.set_keepalive(Some(KEEPALIVE));
        self.socket.connected(&connection);
        let readable = readable || !self.first.is_empty();
        Relay::new(self, connection, readable)
    }
}

impl Side for Local {
    fn peek(&mut self, _ended: bool) -> io::Result<bool> {
        if !self.first_only || !self.first.is_empty() {
            return Ok(true);
        }
        match self.socket.read(&mut [IoSliceMut::new(&mut [0])])? {
            0 => Ok(false),
            _ => Err(ErrorKind::InvalidData.into()),
        }
    }

    fn read(&mut self, parts: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let length = if self.first.is_empty() {
            self.socket.read(parts)?
        } else {
            let length = self.first.as_slice().read_vectored(parts)?;
            self.first.drain(..length);
            length
        };
        self.place.sent(length);
        Ok(length)
    }

    fn write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let length = self.socket.write(parts)?;
        self.place.received(length);
        Ok(length)
    }

    fn write_last(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let length = self.socket.write_last(parts)?;
        self.place.received(length);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<bool> {
        self.socket.flush()
    }

    fn shutdown(&mut self) {
        self.socket.end();
    }

    fn take_error(&mut self) -> Option<io::Error> {
        self.socket.error()
    }

    fn reset_on_close(&self) {
        self.socket.reset_on_close();
    }
}

impl From<Event> for copy::Event {
    fn from(event: Event) -> Self {
        Self { readable: event.readable, writable: event.writable, failed: event.failed, ..Self::default() }
    }
}
