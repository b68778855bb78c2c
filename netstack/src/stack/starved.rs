//! Connections whose writers were refused memory: when memory is released, each gets some, in the order of their
//! requests.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use wg_embed::{sync::lock, time::Instant};

use super::{
    shared::Shared,
    socket::{State, TcpSocket},
};

/// The waiting connections. A connection's lock may be held while this lock is taken, not the other way round.
#[derive(Default)]
pub(super) struct Starved(Mutex<Places>);

#[derive(Default)]
struct Places {
    waiting: BTreeMap<u64, Arc<TcpSocket>>,
    last: u64,
}

/// Adds or removes a connection after any change of it.
pub(super) fn update(shared: &Shared, socket: &Arc<TcpSocket>, state: &mut State) {
    match (state.wants_memory(), state.starved) {
        (true, None) => {
            let mut places = lock(&shared.starved.0);
            places.last += 1;
            let place = places.last;
            places.waiting.insert(place, socket.clone());
            state.starved = Some(place);
            shared.memory.set_wanted(true);
        }
        (false, Some(place)) => {
            let mut places = lock(&shared.starved.0);
            places.waiting.remove(&place);
            state.starved = None;
            shared.memory.set_wanted(!places.waiting.is_empty());
        }
        _ => {}
    }
}

/// Gives memory to waiting connections.
pub(super) fn feed(shared: &Arc<Shared>, now: Instant) {
    while shared.memory.can_feed() {
        let mut places = lock(&shared.starved.0);
        let first = places.waiting.pop_first();
        shared.memory.set_wanted(!places.waiting.is_empty());
        drop(places);
        match first {
            Some((_, socket)) => socket.feed(shared, now),
            None => return,
        }
    }
}
