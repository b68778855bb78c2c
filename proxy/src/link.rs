//! A connection of this side and one of the tunnel: copying.

use std::{
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    net::Shutdown,
    sync::Arc,
};

use wg_embed_netstack::{Notify, TcpStream};

use crate::{
    engine::Event,
    socket::{KEEPALIVE, Socket},
    stats::Place,
};

/// Bytes that one connection may copy each way before another one has its turn.
const TURN: usize = 256 << 10;

/// What becomes of a link after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It waits for news.
    Wait,
    /// There is more to copy at once.
    Again,
    /// It is over, and is dropped.
    Done,
}

/// The two sides, and what is known of them.
pub(crate) struct Link {
    socket: Socket,
    connection: TcpStream,
    /// Bytes from the socket that were read before.
    first: Vec<u8>,
    /// Nothing else of the socket may go to the tunnel.
    first_only: bool,
    /// The socket may have something to read, or room.
    readable: bool,
    writable: bool,
    /// The socket was reset: what it sent before still goes to the tunnel.
    failed: bool,
    /// From the socket to the connection: over.
    up_done: bool,
    /// From the connection to the socket: over.
    down_done: bool,
    place: Place,
}

/// Why a direction stops.
enum Stop {
    /// Until there is news.
    Wait,
    /// Others have their turn.
    Turn,
    /// All was copied.
    End,
    /// The socket was reset, or takes no more.
    SocketFailed,
    /// The connection has failed.
    ConnectionFailed,
}

impl Link {
    /// `first` was read from the socket before, and is sent first. `event` is what is known of the socket.
    pub(crate) fn new(socket: Socket, connection: TcpStream, first: Vec<u8>, event: Event, place: Place) -> Self {
        connection.set_keepalive(Some(KEEPALIVE));
        Self {
            socket,
            connection,
            first,
            first_only: false,
            readable: event.readable,
            writable: true,
            failed: false,
            up_done: false,
            down_done: false,
            place,
        }
    }

    /// What the socket still sends is not for this connection: it ends both.
    pub(crate) const fn with_first_only(mut self) -> Self {
        self.first_only = true;
        self
    }

    /// Sets who is told when the connection can go on.
    pub(crate) fn set_notify(&self, notify: Arc<dyn Notify>) {
        self.connection.set_notify(Some(notify));
    }

    /// Copies what can be copied now, up to a bound.
    pub(crate) fn turn(&mut self, event: Event) -> Outcome {
        self.readable |= event.readable;
        self.writable |= event.writable;
        // Asking takes the error away, so that what was sent before can still be read.
        if event.failed && self.socket.error().is_some() {
            self.failed = true;
            self.readable = true;
        }
        // An error of it is found by what reads or writes.
        let _ = self.socket.flush();
        let mut again = false;
        if !self.up_done {
            match self.copy_up() {
                Stop::Wait => {}
                Stop::Turn => again = true,
                Stop::End => {
                    self.up_done = true;
                    if !self.failed {
                        // It may have ended the other way already.
                        let _ = self.connection.shutdown(Shutdown::Write);
                    }
                }
                Stop::SocketFailed => return self.fail_connection(),
                Stop::ConnectionFailed => return self.fail_socket(),
            }
        }
        if self.failed {
            if self.up_done || !self.readable {
                return self.fail_connection();
            }
            return if again { Outcome::Again } else { Outcome::Wait };
        }
        if !self.down_done {
            match self.copy_down() {
                Stop::Wait => {}
                Stop::Turn => again = true,
                Stop::End => {
                    self.down_done = true;
                    self.socket.end();
                }
                Stop::SocketFailed => return self.fail_connection(),
                Stop::ConnectionFailed => return self.fail_socket(),
            }
        }
        // What the tunnel has sent last may wait in the socket's own buffer.
        match (self.up_done && self.down_done && self.socket.flush().unwrap_or(true), again) {
            (true, _) => Outcome::Done,
            (false, true) => Outcome::Again,
            (false, false) => Outcome::Wait,
        }
    }

    /// The service ends: both sides are reset.
    pub(crate) fn end(&self) {
        self.connection.reset();
        self.socket.reset_on_close();
    }

    /// From the socket to the connection.
    fn copy_up(&mut self) -> Stop {
        let mut copied = 0;
        while copied < TURN {
            if !self.first.is_empty() {
                match self.connection.try_write(&self.first) {
                    Ok(sent) => {
                        self.first.drain(..sent);
                        self.place.sent(sent);
                    }
                    Err(error) => return stopped(&error),
                }
                continue;
            }
            // Room is made only for something: it is memory.
            if !self.readable {
                return Stop::Wait;
            }
            if self.first_only {
                match self.socket.read(&mut [IoSliceMut::new(&mut [0])]) {
                    Ok(0) => return Stop::End,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        self.readable = false;
                        return Stop::Wait;
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Ok(_) | Err(_) => return Stop::SocketFailed,
                }
            }
            let mut read = Err(ErrorKind::WouldBlock.into());
            let socket = &mut self.socket;
            let written = self.connection.try_write_with(&mut |first, second| {
                read = socket.read(&mut [IoSliceMut::new(first), IoSliceMut::new(second)]);
                read.as_ref().map_or(0, |length| *length)
            });
            match (written, read) {
                (Err(error), _) => return stopped(&error),
                (_, Ok(0)) => return Stop::End,
                (_, Ok(length)) => {
                    copied += length;
                    self.place.sent(length);
                }
                (_, Err(error)) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Stop::Wait;
                }
                (_, Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                (_, Err(_)) => return Stop::SocketFailed,
            }
        }
        Stop::Turn
    }

    /// From the connection to the socket.
    fn copy_down(&mut self) -> Stop {
        let mut copied = 0;
        while copied < TURN {
            if !self.writable {
                return Stop::Wait;
            }
            let mut sent = Ok(0);
            let mut empty = false;
            let socket = &mut self.socket;
            let read = self.connection.try_read_with(&mut |first, second| {
                empty = first.is_empty() && second.is_empty();
                if empty {
                    return 0;
                }
                sent = socket.write(&[IoSlice::new(first), IoSlice::new(second)]);
                sent.as_ref().map_or(0, |length| *length)
            });
            match (read, sent) {
                (Err(error), _) => return stopped(&error),
                (Ok(_), _) if empty => return Stop::End,
                (Ok(_), Ok(length)) => {
                    copied += length;
                    self.place.received(length);
                }
                (Ok(_), Err(error)) if error.kind() == ErrorKind::WouldBlock => {
                    self.writable = false;
                    return Stop::Wait;
                }
                (Ok(_), Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                (Ok(_), Err(_)) => return Stop::SocketFailed,
            }
        }
        Stop::Turn
    }

    /// The connection has failed: so does the socket.
    fn fail_socket(&self) -> Outcome {
        self.socket.reset_on_close();
        Outcome::Done
    }

    /// The socket was reset: so is the connection, after what was written before.
    fn fail_connection(&self) -> Outcome {
        self.connection.close_with_reset();
        Outcome::Done
    }
}

fn stopped(error: &io::Error) -> Stop {
    if error.kind() == ErrorKind::WouldBlock { Stop::Wait } else { Stop::ConnectionFailed }
}
