//! Copying between a connection and something else, under a clock that is turned by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write},
    net::Shutdown,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use common::{Told, World, kind, pattern, read_all};
use wg_embed_netstack::{
    TcpStream,
    copy::{Event, Outcome, Relay, Side},
};

const LIMIT: Duration = Duration::from_secs(60);
const READABLE: Event = Event { readable: true, writable: false, ended: false, closed: false, failed: false };
const WRITABLE: Event = Event { readable: false, writable: true, ended: false, closed: false, failed: false };

/// What the other end of a side has done, and what it sees.
#[derive(Default)]
struct Seen {
    /// What there is to read, and whether the end comes after it.
    input: Vec<u8>,
    has_ended: bool,
    read: usize,
    /// How many bytes may still be written, and what else a write does.
    room: usize,
    refusal: Option<ErrorKind>,
    output: Vec<u8>,
    /// How many of these bytes were written as the last ones.
    last: usize,
    error: Option<ErrorKind>,
    /// Something waits in the side's own buffer.
    is_buffered: bool,
    /// Errors to be had before anything else.
    interruptions: usize,
    calls: Vec<&'static str>,
}

/// One that may stop reading, or not.
struct End<const STOPS: bool>(Arc<Mutex<Seen>>);

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
struct Setup<const STOPS: bool> {
    world: World,
    seen: Arc<Mutex<Seen>>,
    relay: Relay<End<STOPS>>,
    peer: TcpStream,
    told: Arc<Told>,
}

impl<const STOPS: bool> Setup<STOPS> {
    fn new() -> Self {
        let world = World::new();
        let (connection, peer) = world.connect();
        let seen = Arc::new(Mutex::new(Seen { room: usize::MAX, ..Seen::default() }));
        let relay = Relay::new(End(seen.clone()), connection, false);
        let told = Told::new();
        relay.set_notify(told.clone());
        Self { world, seen, relay, peer, told }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// Turns until nothing more is to be done at once, and packets have moved.
    fn turn(&mut self, event: Event) -> Outcome {
        let mut outcome = self.relay.turn(event);
        while outcome == Outcome::Again {
            outcome = self.relay.turn(Event::default());
        }
        self.world.settle();
        outcome
    }

    fn write(&self, data: &[u8]) {
        assert_eq!(self.peer.try_write(data).unwrap(), data.len());
        self.world.settle();
    }
}

type Socket = Setup<false>;
type Pair = Setup<true>;

#[test]
fn each_direction_ends_for_itself() {
    let mut setup = Socket::new();
    setup.seen().input = b"question".to_vec();
    setup.seen().has_ended = true;
    setup.seen().interruptions = 3;
    assert_eq!(setup.turn(READABLE), Outcome::Wait);
    assert!(matches!(read_all(&setup.peer), (data, Some(Ok(()))) if data == b"question"));
    setup.seen().interruptions = 3;
    setup.write(b"answer");
    assert_eq!(setup.turn(Event::default()), Outcome::Wait);
    assert_eq!(setup.seen().output, b"answer");
    // What waits in the side's own buffer is sent before it is over.
    setup.seen().is_buffered = true;
    setup.peer.shutdown(Shutdown::Write).unwrap();
    setup.world.settle();
    assert_eq!(setup.turn(Event::default()), Outcome::Wait);
    assert_eq!(setup.seen().calls, ["shutdown"]);
    setup.seen().is_buffered = false;
    assert_eq!(setup.turn(WRITABLE), Outcome::Done);
    assert_eq!(setup.seen().calls, ["shutdown", "finish"]);

    // The other way round.
    let mut setup = Socket::new();
    setup.peer.shutdown(Shutdown::Write).unwrap();
    setup.world.settle();
    assert_eq!(setup.turn(Event::default()), Outcome::Wait);
    assert_eq!(setup.seen().calls, ["shutdown"]);
    setup.seen().input = b"late".to_vec();
    setup.seen().has_ended = true;
    assert_eq!(setup.turn(READABLE), Outcome::Done);
    assert!(matches!(read_all(&setup.peer), (data, Some(Ok(()))) if data == b"late"));
}

#[test]
fn the_last_bytes_and_the_end_come_together() {
    let mut setup = Socket::new();
    setup.write(b"some, ");
    assert_eq!(setup.turn(Event::default()), Outcome::Wait);
    assert_eq!(setup.seen().last, 0);
    setup.peer.try_write(b"others").unwrap();
    setup.peer.shutdown(Shutdown::Write).unwrap();
    setup.world.settle();
    // As long as not all of them are accepted, the end waits.
    setup.seen().room = 2;
    setup.seen().interruptions = 1;
    assert_eq!(setup.turn(WRITABLE), Outcome::Wait);
    {
        let mut seen = setup.seen();
        assert_eq!((seen.last, seen.calls.len()), (2, 0));
        seen.room = 4;
    }
    assert_eq!(setup.turn(WRITABLE), Outcome::Wait);
    let seen = setup.seen();
    assert_eq!((seen.last, &seen.output[..], &seen.calls[..]), (6, &b"some, others"[..], &["shutdown"][..]));
}

#[test]
fn others_have_their_turn() {
    let mut setup = Socket::new();
    setup.seen().input = pattern(64 << 20);
    let mut turns = 0;
    // The connection's buffer grows.
    while turns < 3 {
        let before = setup.seen().read;
        let outcome = setup.relay.turn(READABLE);
        let copied = setup.seen().read - before;
        assert!(copied <= 256 << 10 && setup.seen().read < 64 << 20);
        if outcome == Outcome::Again {
            assert_eq!(copied, 256 << 10);
            turns += 1;
        }
        setup.world.pass(Duration::from_millis(1));
        read_all(&setup.peer);
    }
}

#[test]
fn what_one_side_does_not_take_is_not_read_of_the_other() {
    let mut setup = Socket::new();
    let data = pattern(16 << 20);
    setup.seen().input = data.clone();
    assert_eq!(setup.turn(READABLE), Outcome::Wait);
    let before = setup.seen().read;
    assert!(before < data.len());
    assert_eq!(setup.turn(READABLE), Outcome::Wait);
    let mut got = Vec::new();
    let told = setup.told.times();
    while got.len() < data.len() {
        got.extend(read_all(&setup.peer).0);
        setup.world.pass(Duration::from_millis(1));
        setup.turn(Event::default());
    }
    assert!(got == data && setup.told.times() > told);

    setup.seen().room = 5;
    setup.write(b"some bytes");
    assert_eq!(setup.turn(Event::default()), Outcome::Wait);
    assert_eq!(setup.turn(Event::default()), Outcome::Wait);
    assert_eq!(setup.seen().output, b"some ");
    setup.seen().room = 100;
    assert_eq!(setup.turn(WRITABLE), Outcome::Wait);
    assert_eq!(setup.seen().output, b"some bytes");
}

#[test]
fn a_reset_of_the_side_comes_after_what_it_sent() {
    for readable in [false, true] {
        let mut setup = Socket::new();
        let data = pattern(16 << 20);
        setup.seen().input = data.clone();
        setup.seen().error = Some(ErrorKind::ConnectionReset);
        assert_eq!(setup.turn(Event { failed: true, readable, ..Event::default() }), Outcome::Wait);
        let mut got = Vec::new();
        while got.len() < data.len() {
            assert!(setup.world.a.stack.stats().connections > 0);
            got.extend(read_all(&setup.peer).0);
            setup.world.pass(Duration::from_millis(1));
            setup.turn(Event::default());
        }
        assert_eq!(setup.turn(Event::default()), Outcome::Done);
        setup.world.until(LIMIT, || matches!(read_all(&setup.peer).1, Some(Err(_))));
        assert!(got == data);
        assert_eq!(kind(setup.peer.try_read(&mut [0])), ErrorKind::ConnectionReset);
    }
    // An event of one that has none is nothing.
    let mut setup = Socket::new();
    assert_eq!(setup.turn(Event { failed: true, ..Event::default() }), Outcome::Wait);
}

#[test]
fn a_reset_of_the_connection_is_one_of_the_side() {
    let mut setup = Socket::new();
    setup.write(b"before");
    setup.peer.reset();
    setup.world.settle();
    assert_eq!(setup.turn(Event::default()), Outcome::Done);
    assert_eq!(setup.seen().output, b"before");
    assert_eq!(setup.seen().calls, ["reset"]);
    // And the end of the relay is one of both.
    let setup = Socket::new();
    setup.relay.reset();
    setup.world.settle();
    assert_eq!(setup.seen().calls, ["reset"]);
    assert_eq!(kind(setup.peer.try_read(&mut [0])), ErrorKind::ConnectionReset);
}

#[test]
fn one_that_takes_no_more_may_still_write() {
    let mut setup = Pair::new();
    setup.seen().refusal = Some(ErrorKind::BrokenPipe);
    setup.write(b"thrown away");
    assert_eq!(setup.turn(Event::default()), Outcome::Wait);
    setup.write(b"and this");
    assert_eq!(setup.turn(Event::default()), Outcome::Wait);
    setup.seen().input = b"still".to_vec();
    setup.seen().has_ended = true;
    assert_eq!(setup.turn(READABLE), Outcome::Done);
    assert_eq!(setup.seen().calls, ["finish"]);
    assert!(matches!(read_all(&setup.peer), (data, Some(Ok(()))) if data == b"still"));

    // Others end with that.
    for refusal in [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset] {
        let mut setup = Socket::new();
        setup.seen().refusal = Some(refusal);
        setup.write(b"not taken");
        assert_eq!(setup.turn(Event::default()), Outcome::Done);
        setup.world.pass(Duration::from_millis(1));
        assert_eq!(kind(setup.peer.try_read(&mut [0])), ErrorKind::ConnectionReset);
    }
}

#[test]
fn what_a_closed_side_wrote_is_copied_and_what_comes_is_refused() {
    let closed = Event { ended: true, closed: true, ..Event::default() };
    let mut setup = Pair::new();
    let data = pattern(16 << 20);
    setup.seen().input = data.clone();
    setup.seen().refusal = Some(ErrorKind::BrokenPipe);
    setup.write(b"never read");
    assert_eq!(setup.turn(closed), Outcome::Wait);
    let mut got = Vec::new();
    let mut outcome = Outcome::Wait;
    while outcome == Outcome::Wait {
        got.extend(read_all(&setup.peer).0);
        setup.world.pass(Duration::from_millis(1));
        outcome = setup.turn(Event::default());
    }
    let Setup { world, relay, peer, seen, .. } = setup;
    assert_eq!(seen.lock().unwrap().calls, ["finish"]);
    drop(relay);
    world.until(LIMIT, || {
        let (more, end) = read_all(&peer);
        got.extend(more);
        end.is_some()
    });
    // It was not read.
    assert_eq!(kind(peer.try_read(&mut [0])), ErrorKind::ConnectionReset);
    assert!(got.len() <= data.len() && got == data[..got.len()]);
}

#[test]
fn memory_is_taken_only_for_something() {
    let mut setup = Socket::new();
    assert_eq!(setup.turn(READABLE), Outcome::Wait);
    assert_eq!(setup.world.a.stack.stats().memory, 0);
    setup.seen().input.push(1);
    assert_eq!(setup.turn(READABLE), Outcome::Wait);
    assert!(setup.world.a.stack.stats().memory > 0);
}
