//! Copying between a connection and something else, both ways.

use std::{
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    net::Shutdown,
    sync::Arc,
};

use crate::{Notify, TcpStream};

/// Bytes that one relay may copy each way before another one has its turn.
const TURN: usize = 256 << 10;

/// What a connection is copied from and to: a byte stream that does not block. An error other than `WouldBlock` and
/// `Interrupted` ends it.
pub trait Side {
    /// Whether the other end may stop reading and still write: `BrokenPipe` of [`write`](Self::write) ends that
    /// direction alone then, and all else that fails ends both.
    const MAY_STOP_READING: bool = false;

    /// Returns whether there are bytes to read; false at the end. Asked before memory is taken for them, so one that
    /// cannot find out returns true. `ended`: the other end writes no more.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn peek(&mut self, ended: bool) -> io::Result<bool> {
        let _ = ended;
        Ok(true)
    }

    /// Reads into `parts`; 0 at the end.
    ///
    /// # Errors
    /// `WouldBlock` if there is nothing now.
    fn read(&mut self, parts: &mut [IoSliceMut<'_>]) -> io::Result<usize>;

    /// Writes of `parts` what there is room for.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room now.
    fn write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Sends what waits in a buffer of its own. Returns whether nothing does any more.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    fn flush(&mut self) -> io::Result<bool> {
        Ok(true)
    }

    /// Ends the direction to the other end.
    fn shutdown(&mut self);

    /// Takes the error that there is.
    fn take_error(&mut self) -> Option<io::Error>;

    /// Before it is dropped without a reset.
    fn finish(&self) {}

    /// Makes dropping it a reset, as far as there is such a thing.
    fn reset_on_close(&self) {}
}

/// What is known of a side since the last turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// There may be something to read, or the end.
    pub readable: bool,
    /// There may be room.
    pub writable: bool,
    /// The other end writes no more.
    pub ended: bool,
    /// The other end neither reads nor writes: once all of it was read, it is over.
    pub closed: bool,
    /// There may be an error to take.
    pub failed: bool,
}

/// What becomes of a relay after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It waits for news.
    Wait,
    /// There is more to copy at once.
    Again,
    /// It is over: drop it.
    Done,
}

/// A side and a connection. What one writes the other reads, with ends and resets; what one does not take is not read
/// of the other one.
pub struct Relay<S> {
    pub(crate) side: S,
    connection: TcpStream,
    /// The side may have something to read, or room.
    readable: bool,
    writable: bool,
    /// As in [`Event`], from then on.
    ended: bool,
    closed: bool,
    /// The side was reset: what was sent before still goes to the connection.
    failed: bool,
    /// From the side to the connection: over.
    up_done: bool,
    /// From the connection to the side: over.
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
    /// The side takes no more.
    SideClosed,
    /// The side was reset.
    SideFailed,
    /// The connection has failed.
    ConnectionFailed,
}

impl<S: Side> Relay<S> {
    /// A relay that has had no turn. `readable`: the side may have something to read already.
    pub const fn new(side: S, connection: TcpStream, readable: bool) -> Self {
        Self {
            side,
            connection,
            readable,
            writable: true,
            ended: false,
            closed: false,
            failed: false,
            up_done: false,
            down_done: false,
        }
    }

    /// Sets who is told when the connection can go on: a turn is due then.
    pub fn set_notify(&self, notify: Arc<dyn Notify>) {
        self.connection.set_notify(Some(notify));
    }

    /// Copies what can be copied now, up to a bound.
    pub fn turn(&mut self, event: Event) -> Outcome {
        // Asking takes the error away, so that what was sent before can still be read.
        self.failed |= event.failed && self.side.take_error().is_some();
        self.ended |= event.ended || self.failed;
        self.closed |= event.closed;
        self.readable |= event.readable || event.ended || (event.failed && self.failed);
        self.writable |= event.writable;
        // An error of it is found by what reads or writes.
        let _ = self.side.flush();
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
                Stop::SideClosed | Stop::SideFailed => return self.fail_connection(),
                Stop::ConnectionFailed => return self.fail_side(),
            }
        }
        if self.failed {
            if self.up_done || !self.readable {
                return self.fail_connection();
            }
            return if again { Outcome::Again } else { Outcome::Wait };
        }
        // Nobody is there to read: what arrives is answered with a RST, as for any closed socket.
        if self.up_done && self.closed {
            return self.finish();
        }
        if !self.down_done {
            match self.copy_down() {
                Stop::Wait => {}
                Stop::Turn => again = true,
                Stop::End => {
                    self.down_done = true;
                    self.side.shutdown();
                }
                // What it wrote before it was closed is copied first.
                Stop::SideClosed if S::MAY_STOP_READING && self.closed => {}
                // It still writes: what arrives for it is thrown away.
                Stop::SideClosed if S::MAY_STOP_READING => {
                    self.down_done = true;
                    let _ = self.connection.shutdown(Shutdown::Read);
                }
                Stop::SideClosed | Stop::SideFailed => return self.fail_connection(),
                Stop::ConnectionFailed => return self.fail_side(),
            }
        }
        // What came last may wait in the side's own buffer.
        if self.up_done && self.down_done && self.side.flush().unwrap_or(true) {
            return self.finish();
        }
        if again { Outcome::Again } else { Outcome::Wait }
    }

    /// Resets both, without what was not copied. It is dropped next.
    pub fn reset(&self) {
        self.connection.reset();
        self.side.reset_on_close();
    }

    /// Ends both after what was copied. It is dropped next.
    pub fn close(&mut self) {
        self.side.shutdown();
    }

    /// From the side to the connection.
    fn copy_up(&mut self) -> Stop {
        let mut copied = 0;
        while copied < TURN {
            if !self.readable {
                return Stop::Wait;
            }
            // Room is made only for something: it is memory.
            let read = match self.side.peek(self.ended) {
                Ok(true) => {
                    let mut read = Err(ErrorKind::WouldBlock.into());
                    let side = &mut self.side;
                    let written = self.connection.try_write_with(&mut |first, second| {
                        read = side.read(&mut [IoSliceMut::new(first), IoSliceMut::new(second)]);
                        read.as_ref().map_or(0, |length| *length)
                    });
                    if let Err(error) = written {
                        return stopped(&error);
                    }
                    read
                }
                other => other.map(usize::from),
            };
            match read {
                Ok(0) => return Stop::End,
                Ok(length) => copied += length,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => {
                        self.readable = false;
                        return Stop::Wait;
                    }
                    ErrorKind::Interrupted => {}
                    _ => return Stop::SideFailed,
                },
            }
        }
        Stop::Turn
    }

    /// From the connection to the side.
    fn copy_down(&mut self) -> Stop {
        let mut copied = 0;
        while copied < TURN {
            if !self.writable {
                return Stop::Wait;
            }
            let mut sent = Ok(0);
            let mut empty = false;
            let side = &mut self.side;
            let read = self.connection.try_read_with(&mut |first, second| {
                empty = first.is_empty() && second.is_empty();
                if empty {
                    return 0;
                }
                sent = side.write(&[IoSlice::new(first), IoSlice::new(second)]);
                sent.as_ref().map_or(0, |length| *length)
            });
            if let Err(error) = read {
                return stopped(&error);
            }
            match sent {
                _ if empty => return Stop::End,
                Ok(length) => copied += length,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => {
                        self.writable = false;
                        return Stop::Wait;
                    }
                    ErrorKind::Interrupted => {}
                    ErrorKind::BrokenPipe => return Stop::SideClosed,
                    _ => return Stop::SideFailed,
                },
            }
        }
        Stop::Turn
    }

    /// The connection has failed: so does the side.
    fn fail_side(&self) -> Outcome {
        self.side.reset_on_close();
        Outcome::Done
    }

    /// The side was reset: so is the connection, after what was written before.
    fn fail_connection(&self) -> Outcome {
        self.connection.close_with_reset();
        Outcome::Done
    }

    /// Nothing is lost when both are dropped.
    fn finish(&self) -> Outcome {
        self.side.finish();
        Outcome::Done
    }
}

fn stopped(error: &io::Error) -> Stop {
    if error.kind() == ErrorKind::WouldBlock { Stop::Wait } else { Stop::ConnectionFailed }
}
