//! Copying between a connection and something else, under a clock that is turned by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod ends;
mod setup;

use std::time::Duration;

use common::{pattern, read_all};
use setup::{READABLE, Socket, WRITABLE};
use wg_embed_netstack::copy::{Event, Outcome};

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
fn memory_is_taken_only_for_something() {
    let mut setup = Socket::new();
    assert_eq!(setup.turn(READABLE), Outcome::Wait);
    assert_eq!(setup.world.a.stack.stats().memory, 0);
    setup.seen().input.push(1);
    assert_eq!(setup.turn(READABLE), Outcome::Wait);
    assert!(setup.world.a.stack.stats().memory > 0);
}
