//! A TCP connection and a stream socket.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    io::Errno,
    net::{SendAncillaryBuffer, sendmsg},
};

use super::{
    pair::{self, Read},
    thread::{Event, Outcome, Scratch, Source},
};
use crate::{Notify, TcpStream};

/// Bytes that one connection may copy each way before another one has its turn.
const TURN: usize = 256 << 10;

/// The two sides, and what is known of them.
pub(super) struct Stream {
    connection: TcpStream,
    socket: OwnedFd,
    /// Whether the socket is one end of a pair of ours.
    is_pair: bool,
    /// What is sent before all else.
    first: Vec<u8>,
    /// The socket may have something to read, or room.
    readable: bool,
    writable: bool,
    /// The program will write no more.
    ended: bool,
    /// It has closed its end, or both directions are over.
    closed: bool,
    /// It has closed its end with data that it had not read, or the socket was reset.
    failed: bool,
    /// From the socket to the connection: over.
    up_done: bool,
    /// From the connection to the socket: over.
    down_done: bool,
}

/// Why a direction stops.
enum Stop {
    /// Until there is news.
    Wait,
    /// Others have their turn.
    Turn,
    /// All was copied.
    End,
    /// The socket was reset.
    SocketReset,
    /// The socket takes no more.
    SocketClosed,
    /// The connection has failed.
    ConnectionFailed,
}

impl Stream {
    pub(super) fn of_pair(connection: TcpStream, ours: OwnedFd) -> Self {
        Self::new(connection, ours, true, Vec::new())
    }

    pub(super) fn of_socket(connection: TcpStream, socket: OwnedFd, first: Vec<u8>) -> Self {
        Self::new(connection, socket, false, first)
    }

    fn new(connection: TcpStream, socket: OwnedFd, is_pair: bool, first: Vec<u8>) -> Self {
        Self {
            connection,
            socket,
            is_pair,
            first,
            readable: false,
            writable: true,
            ended: false,
            closed: false,
            failed: false,
            up_done: false,
            down_done: false,
        }
    }

    /// From the socket to the connection.
    fn copy_up(&mut self) -> Stop {
        let mut copied = 0;
        while copied < TURN {
            if !self.first.is_empty() {
                match self.connection.try_write(&self.first) {
                    Ok(sent) => drop(self.first.drain(..sent)),
                    Err(err) => return stopped(&err),
                }
                continue;
            }
            // Room is made only for something: it is memory.
            if !self.readable && !self.ended {
                return Stop::Wait;
            }
            let waiting = if self.is_pair { pair::waiting(&self.socket) } else { usize::MAX };
            if waiting == 0 {
                self.readable = false;
                return if self.ended { Stop::End } else { Stop::Wait };
            }
            let mut read = Read::Nothing;
            let (socket, is_pair) = (&self.socket, self.is_pair);
            let written = self.connection.try_write_with(&mut |first, second| {
                read = if is_pair {
                    pair::read(socket, first, second, waiting)
                } else {
                    pair::read_socket(socket, first, second)
                };
                match read {
                    Read::Bytes(bytes) => bytes,
                    _ => 0,
                }
            });
            if let Err(err) = written {
                return stopped(&err);
            }
            match read {
                Read::Bytes(bytes) => copied += bytes,
                Read::Nothing => {
                    self.readable = false;
                    return Stop::Wait;
                }
                Read::End => return Stop::End,
                Read::Reset => return Stop::SocketReset,
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
            let socket = &self.socket;
            let read = self.connection.try_read_with(&mut |first, second| {
                empty = first.is_empty() && second.is_empty();
                if empty {
                    return 0;
                }
                let parts = [IoSlice::new(first), IoSlice::new(second)];
                sent = sendmsg(socket, &parts, &mut SendAncillaryBuffer::default(), pair::NO_SIGNAL);
                sent.unwrap_or(0)
            });
            match (read, sent) {
                (Err(err), _) => return stopped(&err),
                (Ok(_), _) if empty => return Stop::End,
                (Ok(_), Ok(bytes)) => copied += bytes,
                (Ok(_), Err(Errno::AGAIN)) => {
                    self.writable = false;
                    return Stop::Wait;
                }
                (Ok(_), Err(Errno::INTR)) => {}
                (Ok(_), Err(Errno::PIPE)) => return Stop::SocketClosed,
                (Ok(_), Err(_)) => return Stop::SocketReset,
            }
        }
        Stop::Turn
    }

    /// The connection has failed: so does the socket.
    fn fail_socket(&self) -> Outcome {
        if !self.is_pair {
            pair::reset_on_close(&self.socket);
        }
        Outcome::Done
    }

    /// The socket was reset: so is the connection, after what was written before.
    fn fail_connection(&self) -> Outcome {
        self.connection.close_with_reset();
        Outcome::Done
    }

    /// Nothing is lost when both sides are closed.
    fn finish(&self) -> Outcome {
        if self.is_pair {
            pair::finish(&self.socket);
        }
        Outcome::Done
    }
}

fn stopped(err: &io::Error) -> Stop {
    if err.kind() == io::ErrorKind::WouldBlock { Stop::Wait } else { Stop::ConnectionFailed }
}

impl Source for Stream {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn set_notify(&self, notify: Arc<dyn Notify>) {
        self.connection.set_notify(Some(notify));
    }

    fn turn(&mut self, event: Event, _scratch: &mut Scratch) -> Outcome {
        self.readable |= event.readable;
        self.writable |= event.writable;
        self.ended |= event.ended;
        self.closed |= event.closed;
        // Asking takes the error away, so that what was written before can still be read.
        if event.failed && rustix::net::sockopt::socket_error(&self.socket).is_ok_and(|error| error.is_err()) {
            self.failed = true;
            self.ended = true;
        }
        let mut again = false;
        if !self.up_done {
            match self.copy_up() {
                Stop::Wait => {}
                Stop::Turn => again = true,
                Stop::End | Stop::SocketClosed => {
                    self.up_done = true;
                    if !self.failed {
                        // It may have ended the other way already.
                        let _ = self.connection.shutdown(Shutdown::Write);
                    }
                }
                Stop::SocketReset => return self.fail_connection(),
                Stop::ConnectionFailed => return self.fail_socket(),
            }
        }
        if self.failed {
            if self.up_done {
                return self.fail_connection();
            }
            return if again { Outcome::Again } else { Outcome::Wait };
        }
        // With a pair, nobody is there to read: what arrives is answered with a RST, as for any closed socket.
        if self.up_done && self.closed && self.is_pair {
            return self.finish();
        }
        if !self.down_done {
            match self.copy_down() {
                Stop::Wait => {}
                Stop::Turn => again = true,
                Stop::End => {
                    self.down_done = true;
                    // It may be closed already.
                    let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write);
                }
                // It still writes: what arrives for it is thrown away.
                Stop::SocketClosed if self.is_pair && !self.closed => {
                    self.down_done = true;
                    let _ = self.connection.shutdown(Shutdown::Read);
                }
                Stop::SocketClosed if self.is_pair => {}
                Stop::SocketClosed | Stop::SocketReset => return self.fail_connection(),
                Stop::ConnectionFailed => return self.fail_socket(),
            }
        }
        if self.up_done && self.down_done {
            return self.finish();
        }
        if again { Outcome::Again } else { Outcome::Wait }
    }

    fn end(&mut self) {
        self.connection.reset();
        self.fail_socket();
    }
}
