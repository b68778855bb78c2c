//! Copies bytes between a connection and another byte stream, in both directions.

use std::{
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    net::Shutdown,
    ops::ControlFlow,
    sync::Arc,
};

use crate::{Notify, TcpStream};

/// The bytes that one relay may copy in each direction before others have their turn.
const TURN: usize = 256 << 10;

/// A non-blocking byte stream that is copied to and from a connection. An error other than `WouldBlock` and
/// `Interrupted` ends it.
pub trait Side {
    /// Whether the other end may stop reading but still write: `BrokenPipe` of [`write`](Self::write) then ends only
    /// that direction; any other error ends both.
    const MAY_STOP_READING: bool = false;

    /// Returns whether there are bytes to read; false at the end. It is called before memory is allocated for them; a
    /// side that cannot tell returns true. `ended`: the other end writes no more.
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
    /// `WouldBlock` if there are no bytes now.
    fn read(&mut self, parts: &mut [IoSliceMut<'_>]) -> io::Result<usize>;

    /// Writes as much of `parts` as there is room for.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room now.
    fn write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Writes the last bytes; [`shutdown`](Self::shutdown) follows at once if all of them are accepted, so the bytes
    /// may wait for it.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    fn write_last(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write(parts)
    }

    /// Sends bytes from its own buffer. Returns whether the buffer is empty.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    fn flush(&mut self) -> io::Result<bool> {
        Ok(true)
    }

    /// Ends the direction to the other end.
    fn shutdown(&mut self);

    /// Makes writes of the other end fail, as the connection has failed, while bytes are still written to it. Returns
    /// false, the default, if that is not possible: what the other end writes is then read and discarded.
    fn refuse_input(&mut self) -> bool {
        false
    }

    /// Takes the pending error, if any.
    fn take_error(&mut self) -> Option<io::Error>;

    /// Called before it is dropped without a reset.
    fn finish(&self) {}

    /// Turns dropping it into a reset, if it supports resets.
    fn reset_on_close(&self) {}
}

/// Changes of a side since the last turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// There may be bytes to read, or the end.
    pub readable: bool,
    /// There may be room to write.
    pub writable: bool,
    /// The other end writes no more.
    pub ended: bool,
    /// The other end neither reads nor writes: the side is done once it has been read completely.
    pub closed: bool,
    /// There may be an error to take.
    pub failed: bool,
}

/// The result of a relay's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It waits for an event.
    Wait,
    /// There is more to copy at once.
    Again,
    /// It is done: drop it.
    Done,
}

/// Joins a side and a connection. Bytes of each are written to the other, including ends and resets; each is read only
/// as fast as the other one can be written.
pub struct Relay<S> {
    pub(crate) side: S,
    connection: TcpStream,
    /// The side may have bytes to read, or room.
    readable: bool,
    writable: bool,
    /// As in [`Event`].
    ended: bool,
    closed: bool,
    /// The side was reset: bytes sent before still go to the connection.
    failed: bool,
    /// The direction from the side to the connection is done.
    up_done: bool,
    /// What the side writes is discarded.
    discards: bool,
    /// The direction from the connection to the side is done.
    down_done: bool,
}

/// The reason why a direction stops.
enum Stop {
    /// It waits for an event.
    Wait,
    /// Others have their turn.
    Turn,
    /// Everything was copied.
    End,
    /// The side accepts no more bytes.
    SideClosed,
    /// The side was reset.
    SideFailed,
    /// The connection has failed.
    ConnectionFailed,
}

impl<S: Side> Relay<S> {
    /// Creates a relay. `readable`: the side may already have bytes to read.
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
            discards: false,
            down_done: false,
        }
    }

    /// Sets the notifier that is called when the connection can continue: a turn is due then.
    pub fn set_notify(&self, notify: Arc<dyn Notify>) {
        self.connection.set_notify(Some(notify));
    }

    /// Copies as much as possible now, up to a bound.
    pub fn turn(&mut self, event: Event) -> Outcome {
        self.note(event);
        // A connection error is found by the read or write.
        let _ = self.side.flush();
        match self.copy() {
            ControlFlow::Break(outcome) => outcome,
            ControlFlow::Continue(true) => Outcome::Again,
            ControlFlow::Continue(false) => Outcome::Wait,
        }
    }

    fn note(&mut self, event: Event) {
        // Reading the error clears it, so that bytes sent before can still be read.
        if event.failed && self.side.take_error().is_some() {
            self.fail();
        }
        self.ended |= event.ended;
        self.readable |= event.readable || event.ended || (event.failed && self.failed);
        self.writable |= event.writable;
        if event.closed && !std::mem::replace(&mut self.closed, true) {
            self.limit_rest();
        }
    }

    /// Notes that the side was reset.
    fn fail(&mut self) {
        self.failed = true;
        self.ended = true;
        self.readable = true;
        self.limit_rest();
    }

    /// Limits the time for the rest, which nothing else ends if the peer stops reading.
    fn limit_rest(&self) {
        if !self.up_done {
            self.connection.reset_after_linger();
        }
    }

    /// Copies in both directions. Continues with whether there is more to copy at once.
    fn copy(&mut self) -> ControlFlow<Outcome, bool> {
        let mut again = self.turn_up()?;
        if self.failed {
            if self.up_done || !self.readable {
                return ControlFlow::Break(self.fail_connection());
            }
            return ControlFlow::Continue(again);
        }
        if self.up_done && self.closed {
            // There is no reader, as for any closed socket: data that were not read reset the connection, and so do
            // those that arrive later.
            let is_read = self.connection.unread() == 0;
            return ControlFlow::Break(if is_read { self.finish() } else { self.fail_connection() });
        }
        again |= self.turn_down()?;
        // The last bytes may wait in the side's own buffer.
        if self.up_done && self.down_done && self.side.flush().unwrap_or(true) {
            return ControlFlow::Break(self.finish());
        }
        ControlFlow::Continue(again)
    }

    /// Copies from the side to the connection unless that is done. Continues with whether there is more.
    fn turn_up(&mut self) -> ControlFlow<Outcome, bool> {
        if self.up_done {
            return self.discard_input();
        }
        match self.copy_up() {
            // The connection is not read any more, which would return the error.
            Stop::Wait if self.down_done && self.connection.has_failed() => ControlFlow::Break(self.fail_side()),
            Stop::Wait => ControlFlow::Continue(false),
            Stop::Turn => ControlFlow::Continue(true),
            Stop::End => {
                self.up_done = true;
                if !self.failed {
                    // The other direction may have ended already.
                    let _ = self.connection.shutdown(Shutdown::Write);
                }
                ControlFlow::Continue(false)
            }
            Stop::SideClosed | Stop::SideFailed => ControlFlow::Break(self.fail_connection()),
            Stop::ConnectionFailed if self.down_done => ControlFlow::Break(self.fail_side()),
            Stop::ConnectionFailed => {
                // The data that arrived before are still copied.
                self.up_done = true;
                self.discards = !self.side.refuse_input();
                self.discard_input()
            }
        }
    }

    /// Discards what the other end writes to a connection that has failed, or else it would wait for ever instead of
    /// reading what is left. Continues with whether there is more.
    fn discard_input(&mut self) -> ControlFlow<Outcome, bool> {
        let (mut room, mut discarded) = ([0; 4096], 0);
        while self.discards && self.readable && discarded < TURN {
            let read = match self.side.peek(self.ended) {
                Ok(true) => self.side.read(&mut [IoSliceMut::new(&mut room)]),
                other => other.map(usize::from),
            };
            match read {
                Ok(0) => self.discards = false,
                Ok(length) => discarded += length,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => self.readable = false,
                    ErrorKind::Interrupted => {}
                    _ => return ControlFlow::Break(self.fail_connection()),
                },
            }
        }
        ControlFlow::Continue(self.discards && self.readable)
    }

    /// Copies from the connection to the side unless that is done. Continues with whether there is more.
    fn turn_down(&mut self) -> ControlFlow<Outcome, bool> {
        if self.down_done {
            return ControlFlow::Continue(false);
        }
        match self.copy_down() {
            Stop::Wait => ControlFlow::Continue(false),
            Stop::Turn => ControlFlow::Continue(true),
            Stop::End => {
                self.down_done = true;
                self.side.shutdown();
                ControlFlow::Continue(false)
            }
            // Bytes that it wrote before it was closed are copied first.
            Stop::SideClosed if S::MAY_STOP_READING && self.closed => ControlFlow::Continue(false),
            // It still writes: data that arrive for it are discarded.
            Stop::SideClosed if S::MAY_STOP_READING => {
                self.down_done = true;
                let _ = self.connection.shutdown(Shutdown::Read);
                ControlFlow::Continue(false)
            }
            // It was closed after it was read: bytes that it wrote before that are copied first.
            Stop::SideFailed if S::MAY_STOP_READING && !self.up_done => {
                self.fail();
                ControlFlow::Continue(true)
            }
            Stop::SideClosed | Stop::SideFailed => ControlFlow::Break(self.fail_connection()),
            Stop::ConnectionFailed => ControlFlow::Break(self.fail_side()),
        }
    }

    /// Resets both, discarding bytes that were not copied. It must then be dropped.
    pub fn reset(&self) {
        self.connection.reset();
        self.side.reset_on_close();
    }

    /// Ends both after the copied bytes. It must then be dropped.
    pub fn close(&mut self) {
        self.side.shutdown();
    }

    /// Copies from the side to the connection.
    fn copy_up(&mut self) -> Stop {
        let mut copied = 0;
        while copied < TURN {
            if !self.readable {
                return Stop::Wait;
            }
            // Room is allocated only if there are bytes, to save memory.
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

    /// Copies from the connection to the side.
    fn copy_down(&mut self) -> Stop {
        let mut copied = 0;
        while copied < TURN {
            if !self.writable {
                return Stop::Wait;
            }
            let mut sent = Ok(0);
            // The bytes left until the end, once it has arrived.
            let mut left = None;
            let side = &mut self.side;
            let read = self.connection.read_with(|first, second, is_last| {
                let (all, parts) = (first.len() + second.len(), [IoSlice::new(first), IoSlice::new(second)]);
                sent = match (all, is_last) {
                    (0, _) => Ok(0),
                    (_, true) => side.write_last(&parts),
                    (_, false) => side.write(&parts),
                };
                let length = sent.as_ref().map_or(0, |length| *length);
                left = (all == 0 || is_last).then_some(all - length.min(all));
                length
            });
            if let Err(error) = read {
                return stopped(&error);
            }
            match sent {
                Ok(_) if left == Some(0) => return Stop::End,
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

    /// Fails the side, as the connection has failed.
    fn fail_side(&self) -> Outcome {
        self.side.reset_on_close();
        Outcome::Done
    }

    /// Resets the connection after the bytes written before, as the side was reset.
    fn fail_connection(&self) -> Outcome {
        self.connection.close_with_reset();
        Outcome::Done
    }

    /// Prepares both to be dropped without loss.
    fn finish(&self) -> Outcome {
        self.side.finish();
        Outcome::Done
    }
}

fn stopped(error: &io::Error) -> Stop {
    if error.kind() == ErrorKind::WouldBlock { Stop::Wait } else { Stop::ConnectionFailed }
}
