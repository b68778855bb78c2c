//! A relay of a connection whose side is the test.

use std::{
    io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use super::common::{Told, World, read_all};
use wg_embed_netstack::{
    TcpStream,
    copy::{Event, Outcome, Relay, Side},
};

pub(super) const LIMIT: Duration = Duration::from_secs(60);
pub(super) const READABLE: Event =
    Event { readable: true, writable: false, ended: false, closed: false, failed: false };
pub(super) const WRITABLE: Event =
    Event { readable: false, writable: true, ended: false, closed: false, failed: false };

/// What the other end of a side has done, and what it sees.
#[derive(Default)]
pub(super) struct Seen {
    /// What there is to read, and whether the end comes after it.
    pub(super) input: Vec<u8>,
    pub(super) has_ended: bool,
    pub(super) read: usize,
    /// How many bytes may still be written, and what else a write does.
    pub(super) room: usize,
    pub(super) refusal: Option<ErrorKind>,
    pub(super) output: Vec<u8>,
    /// How many of these bytes were written as the last ones.
    pub(super) last: usize,
    pub(super) error: Option<ErrorKind>,
    /// Something waits in the side's own buffer.
    pub(super) is_buffered: bool,
    /// Errors to be had before anything else.
    pub(super) interruptions: usize,
    pub(super) calls: Vec<&'static str>,
}

/// One that may stop reading, or not.
pub(super) struct End<const STOPS: bool>(Arc<Mutex<Seen>>);

impl<const STOPS: bool> End<STOPS> {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap()
    }
}

impl Seen {
    fn interrupt(&mut self) -> io::Result<()> {
        let left = self.interruptions.checked_sub(1);
        self.interruptions = left.unwrap_or(0);
        left.map_or(Ok(()), |_| Err(ErrorKind::Interrupted.into()))
    }
}

impl<const STOPS: bool> Side for End<STOPS> {
    const MAY_STOP_READING: bool = STOPS;

    fn peek(&mut self, ended: bool) -> io::Result<bool> {
        let seen = self.seen();
        match seen.read < seen.input.len() {
            false if !ended && !seen.has_ended => Err(ErrorKind::WouldBlock.into()),
            has_data => Ok(has_data),
        }
    }

    fn read(&mut self, parts: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut seen = self.seen();
        seen.interrupt()?;
        let length = (&seen.input[seen.read..]).read_vectored(parts)?;
        seen.read += length;
        Ok(length)
    }

    fn write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut seen = self.seen();
        seen.interrupt()?;
        if let Some(refusal) = seen.refusal {
            return Err(refusal.into());
        }
        if seen.room == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let length = parts[0].len().min(seen.room);
        seen.room -= length;
        seen.output.write(&parts[0][..length])
    }

    fn write_last(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let length = self.write(parts)?;
        self.seen().last += length;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<bool> {
        Ok(!self.seen().is_buffered)
    }

    fn shutdown(&mut self) {
        self.seen().calls.push("shutdown");
    }

    fn refuse_input(&mut self) -> bool {
        self.seen().calls.push("refuse");
        STOPS
    }

    fn take_error(&mut self) -> Option<io::Error> {
        self.seen().error.take().map(io::Error::from)
    }

    fn finish(&self) {
        self.seen().calls.push("finish");
    }

    fn reset_on_close(&self) {
        self.seen().calls.push("reset");
    }
}

/// A relay of one stack's connection, and the other stack's end of it.
pub(super) struct Setup<const STOPS: bool> {
    pub(super) world: World,
    pub(super) seen: Arc<Mutex<Seen>>,
    pub(super) relay: Relay<End<STOPS>>,
    pub(super) peer: TcpStream,
    pub(super) told: Arc<Told>,
}

impl<const STOPS: bool> Setup<STOPS> {
    pub(super) fn new() -> Self {
        let world = World::new();
        let (connection, peer) = world.connect();
        let seen = Arc::new(Mutex::new(Seen { room: usize::MAX, ..Seen::default() }));
        let relay = Relay::new(End(seen.clone()), connection, false);
        let told = Told::new();
        relay.set_notify(told.clone());
        Self { world, seen, relay, peer, told }
    }

    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// Turns until nothing more is to be done at once, and packets have moved.
    pub(super) fn turn(&mut self, event: Event) -> Outcome {
        let mut outcome = self.relay.turn(event);
        while outcome == Outcome::Again {
            outcome = self.relay.turn(Event::default());
        }
        self.world.settle();
        outcome
    }

    pub(super) fn write(&self, data: &[u8]) {
        assert_eq!(self.peer.try_write(data).unwrap(), data.len());
        self.world.settle();
    }

    /// Lets the peer write until nothing more is received, and returns how many bytes were received.
    pub(super) fn fill(&mut self) -> usize {
        let mut written = 0;
        self.world.pass_with(Duration::from_secs(1), || {
            written += self.peer.try_write(&[1; 4096]).unwrap_or(0);
        });
        assert_eq!(self.turn(Event::default()), Outcome::Wait);
        assert!(self.peer.unacknowledged() > 0, "its buffer is not full");
        written - self.peer.unacknowledged()
    }

    /// Turns until the relay is done, drops it, and returns what the peer has received until the end, and that end.
    pub(super) fn finish(mut self) -> (Vec<u8>, io::Result<()>) {
        let mut received = Vec::new();
        self.world.until(LIMIT, || {
            received.extend(read_all(&self.peer).0);
            self.relay.turn(Event::default()) == Outcome::Done
        });
        drop(self.relay);
        let mut end = None;
        self.world.until(LIMIT, || {
            let (more, result) = read_all(&self.peer);
            received.extend(more);
            end = result;
            end.is_some()
        });
        (received, end.expect("it has ended"))
    }
}

pub(super) type Socket = Setup<false>;
pub(super) type Pair = Setup<true>;
