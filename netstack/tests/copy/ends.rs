//! Ends and failures of either side.

use std::{io::ErrorKind, net::Shutdown, time::Duration};

use super::{
    common::{kind, pattern, read_all},
    setup::{LIMIT, Pair, READABLE, Socket, WRITABLE},
};
use wg_embed_netstack::copy::{Event, Outcome};

const SECOND: Duration = Duration::from_secs(1);
const CLOSED: Event = Event { readable: false, writable: false, ended: true, closed: true, failed: false };

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
fn what_a_closed_side_wrote_is_copied_and_what_it_did_not_read_is_a_reset() {
    let mut setup = Pair::new();
    let data = pattern(16 << 20);
    setup.seen().input = data.clone();
    setup.seen().refusal = Some(ErrorKind::BrokenPipe);
    setup.write(b"never read");
    assert_eq!(setup.turn(CLOSED), Outcome::Wait);
    let (received, end) = setup.finish();
    assert!(received == data, "{} bytes", received.len());
    assert_eq!(kind(end), ErrorKind::ConnectionReset);

    // One that was shut down: its last bytes are still to be sent when it is done.
    let mut setup = Pair::new();
    setup.seen().room = 0;
    setup.fill();
    setup.seen().input = b"bye".to_vec();
    assert_eq!(setup.relay.turn(CLOSED), Outcome::Done);
    assert_eq!(setup.seen().calls, [""; 0]);
    drop(setup.relay);
    setup.world.pass(SECOND);
    let (received, end) = read_all(&setup.peer);
    assert_eq!(received, b"bye");
    assert_eq!(kind(end.unwrap()), ErrorKind::ConnectionReset);

    // One that has read everything.
    let mut setup = Pair::new();
    setup.write(b"read");
    setup.seen().input = data.clone();
    assert_eq!(setup.turn(CLOSED), Outcome::Wait);
    let (received, end) = setup.finish();
    assert!(received == data && end.is_ok());
}

#[test]
fn what_was_written_between_a_read_and_a_close_is_copied() {
    let mut setup = Pair::new();
    // The events of both come later.
    setup.seen().input = b"last words".to_vec();
    setup.seen().refusal = Some(ErrorKind::ConnectionReset);
    setup.write(b"never read");
    assert_eq!(setup.turn(Event::default()), Outcome::Done);
    assert_eq!(setup.seen().read, 10);
    setup.world.pass(SECOND);
    let (received, end) = read_all(&setup.peer);
    assert_eq!(received, b"last words");
    assert_eq!(kind(end.unwrap()), ErrorKind::ConnectionReset);
}

#[test]
fn what_arrived_before_a_reset_is_copied_whatever_the_side_writes() {
    let mut setup = Pair::new();
    setup.seen().room = 5;
    setup.write(b"some, and more");
    assert_eq!(setup.turn(Event::default()), Outcome::Wait);
    setup.peer.reset();
    setup.world.settle();
    setup.seen().input = b"lost".to_vec();
    assert_eq!(setup.turn(READABLE), Outcome::Wait);
    assert_eq!(setup.seen().calls, ["refuse"]);
    setup.seen().room = 100;
    assert_eq!(setup.turn(WRITABLE), Outcome::Done);
    assert_eq!(setup.seen().output, b"some, and more");
    assert_eq!(setup.seen().calls, ["refuse", "reset"]);

    // The end had arrived as well.
    let mut setup = Socket::new();
    setup.seen().room = 5;
    setup.write(b"some, and more");
    setup.peer.shutdown(Shutdown::Write).unwrap();
    setup.world.settle();
    assert_eq!(setup.turn(Event::default()), Outcome::Wait);
    setup.peer.reset();
    setup.world.settle();
    // A socket cannot refuse input: it is read, or else a program would wait for that before it reads.
    for length in [4, 8] {
        setup.seen().input.extend(b"lost");
        assert_eq!(setup.turn(READABLE), Outcome::Wait);
        assert_eq!(setup.seen().read, length);
    }
    setup.seen().room = 100;
    assert_eq!(setup.turn(WRITABLE), Outcome::Done);
    assert_eq!(setup.seen().output, b"some, and more");
    assert_eq!(setup.seen().calls, ["refuse", "shutdown", "finish"]);
}

#[test]
fn a_failure_after_the_end_is_noticed_without_a_write() {
    let mut setup = Socket::new();
    setup.peer.shutdown(Shutdown::Write).unwrap();
    setup.world.settle();
    assert_eq!(setup.turn(Event::default()), Outcome::Wait);
    let told = setup.told.times();
    setup.peer.reset();
    setup.world.settle();
    assert!(setup.told.times() > told);
    assert_eq!(setup.turn(Event::default()), Outcome::Done);
    assert_eq!(setup.seen().calls, ["shutdown", "reset"]);
}

#[test]
fn a_peer_that_does_not_read_delays_the_end_for_at_most_linger() {
    let failed = Event { failed: true, ..Event::default() };
    for event in [CLOSED, failed] {
        let mut setup = Pair::new();
        setup.seen().input = pattern(64 << 20);
        setup.seen().error = Some(ErrorKind::ConnectionReset);
        // However long it has not read.
        assert_eq!(setup.turn(READABLE), Outcome::Wait);
        setup.world.pass_coarsely(2 * LIMIT);
        assert_eq!(setup.turn(event), Outcome::Wait);
        setup.world.pass_coarsely(LIMIT - SECOND);
        assert_eq!(setup.turn(Event::default()), Outcome::Wait);
        let told = setup.told.times();
        setup.world.pass_coarsely(2 * SECOND);
        assert!(setup.told.times() > told);
        assert_eq!(setup.turn(Event::default()), Outcome::Done);
        assert_eq!(setup.world.a.stack.stats().connections, 0);
        assert_eq!(kind(read_all(&setup.peer).1.unwrap()), ErrorKind::ConnectionReset);
    }
}
