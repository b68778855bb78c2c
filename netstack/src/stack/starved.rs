//! Connections whose writers were refused memory: when some is given back, each gets a little, in the order in which
//! they came.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use wg_embed::{sync::lock, time::Instant};

use super::{
    shared::Shared,
    socket::{State, TcpSocket},
};

/// Those who wait. A connection's lock may be held while this one's is taken, not the other way round.
#[derive(Default)]
pub(super) struct Starved(Mutex<Places>);

#[derive(Default)]
struct Places {
    waiting: BTreeMap<u64, Arc<TcpSocket>>,
    last: u64,
}

/// Lets a connection wait, or no longer, after any change of it.
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

/// Feeds those for whom there is memory.
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
