//! The queue of events to print. Neither the manager nor its tunnel waits for the reader of the output.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Duration,
};

use prost::Message;
use wg_embed::sync::{lock, wait, wait_timeout_while};

use super::events::Event;

/// The maximum number of queued events, in addition to the few of the manager itself.
const MOST: usize = 1024;

/// The maximum size of their messages in bytes, in addition to a single one.
const ROOM: usize = 4 << 20;

/// The time without reading after which the reader is no longer waited for at the end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Events in order. If some do not fit, the newest are dropped and counted.
#[derive(Clone, Default)]
pub(super) struct Queue(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// An event, or the last one, was queued.
    arrived: Condvar,
    /// An event, or the last one, was printed.
    printed: Condvar,
}

#[derive(Default)]
struct State {
    events: VecDeque<Event>,
    /// The size of the messages in `events`.
    bytes: usize,
    /// The number of events that were taken.
    taken: u64,
    is_closed: bool,
    is_finished: bool,
}

/// Returns the size of an event that may be dropped; `None` for one that must not be.
fn weight(event: &Event) -> Option<usize> {
    match event {
        Event::Settings(request, _) => Some(request.encoded_len()),
        Event::Log(line) => Some(line.encoded_len()),
        Event::Process { .. } | Event::Started | Event::Peers(_) | Event::Dropped(_) | Event::Stopped => None,
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    /// Adds an event, or counts it as dropped. Of the peers only the newest state is queued, in the place of the old
    /// one.
    pub(super) fn push(&self, event: Event) {
        let mut state = self.state();
        if state.is_closed {
            return;
        }
        if matches!(event, Event::Peers(_))
            && let Some(waiting) = state.events.iter_mut().find(|waiting| matches!(waiting, Event::Peers(_)))
        {
            *waiting = event;
            return;
        }
        let bytes = weight(&event);
        let is_full =
            state.events.len() >= MOST || (state.bytes > 0 && state.bytes.saturating_add(bytes.unwrap_or(0)) > ROOM);
        if bytes.is_some() && is_full {
            state.drop_one();
        } else {
            state.bytes += bytes.unwrap_or(0);
            state.events.push_back(event);
        }
        drop(state);
        self.0.arrived.notify_all();
    }

    /// Waits for the next event; `None` after the last one.
    pub(super) fn next(&self) -> Option<Event> {
        let mut state = self.state();
        loop {
            if let Some(event) = state.events.pop_front() {
                state.bytes -= weight(&event).unwrap_or(0);
                state.taken += 1;
                self.0.printed.notify_all();
                return Some(event);
            }
            if state.is_closed {
                return None;
            }
            state = wait(&self.0.arrived, state);
        }
    }

    /// Ends printing: everything was printed, or printing has failed.
    pub(super) fn finish(&self) {
        let mut state = self.state();
        (state.is_closed, state.is_finished) = (true, true);
        state.events.clear();
        self.0.printed.notify_all();
    }

    /// Accepts no more events, and waits until all are printed, as long as the output is read.
    pub(super) fn close(&self) {
        self.close_within(PATIENCE);
    }

    /// Does the same, with this time limit for reading one event.
    fn close_within(&self, patience: Duration) {
        let mut state = self.state();
        state.is_closed = true;
        self.0.arrived.notify_all();
        loop {
            let before = state.taken;
            let waits = |state: &mut State| !state.is_finished && state.taken == before;
            state = wait_timeout_while(&self.0.printed, state, patience, waits);
            if state.is_finished || state.taken == before {
                return;
            }
        }
    }
}

impl State {
    /// Counts a dropped event in its place.
    fn drop_one(&mut self) {
        match self.events.back_mut() {
            Some(Event::Dropped(count)) => *count += 1,
            _ => self.events.push_back(Event::Dropped(1)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use wg_embed_manager::{
        manager::Peers,
        messages::{Agent, Log, NetworkSettingsRequest, PeerUpdate},
    };

    fn log(message: &str) -> Event {
        Event::Log(Log { message: message.into(), ..Log::default() })
    }

    fn peers(name: &str) -> Event {
        let mut peers = Peers::default();
        let (id, workspace_id) = (vec![1; 16], vec![2; 16]);
        let fqdn = vec!["x.".into()];
        let agent = Agent { id, workspace_id, name: name.into(), fqdn, ..Agent::default() };
        peers.apply(&PeerUpdate { upserted_agents: vec![agent], ..PeerUpdate::default() });
        Event::Peers(peers)
    }

    fn all(queue: &Queue) -> Vec<String> {
        let shown = |event| match event {
            Event::Log(line) => line.message,
            Event::Peers(peers) => peers.agents().next().unwrap().name.clone(),
            Event::Dropped(count) => format!("-{count}"),
            Event::Started => "started".into(),
            _ => "other".into(),
        };
        let waiting = || {
            let is_empty = queue.state().events.is_empty();
            if is_empty { None } else { queue.next() }
        };
        std::iter::from_fn(waiting).map(shown).collect()
    }

    #[test]
    fn what_does_not_fit_is_counted_where_it_was() {
        let queue = Queue::default();
        for number in 0..MOST + 10 {
            queue.push(log(&number.to_string()));
        }
        queue.push(Event::Started);
        queue.push(log("x"));
        let printed = all(&queue);
        assert_eq!(printed.len(), MOST + 3);
        assert_eq!(printed[MOST - 1..], ["1023", "-10", "started", "-1"]);
        queue.push(log("y"));
        assert_eq!(all(&queue), ["y"]);
    }

    #[test]
    fn large_messages_are_bounded_and_one_always_fits() {
        let queue = Queue::default();
        let large = "x".repeat(ROOM + 1);
        queue.push(log(&large));
        queue.push(log("y"));
        queue.push(Event::Settings(Box::new(NetworkSettingsRequest { mtu: 1, ..Default::default() }), None));
        assert_eq!(all(&queue), [&large, "-2"]);
        assert_eq!(queue.state().bytes, 0);
    }

    #[test]
    fn of_the_peers_the_newest_are_kept() {
        let queue = Queue::default();
        for number in 0..3 * MOST {
            queue.push(peers(&number.to_string()));
            queue.push(log("l"));
        }
        let printed = all(&queue);
        assert!(printed.len() <= MOST + 2, "{}", printed.len());
        let newest = (3 * MOST - 1).to_string();
        assert_eq!(printed.iter().filter(|text| text.parse::<u32>().is_ok()).collect::<Vec<_>>(), [&newest]);
    }

    #[test]
    fn the_end_comes_behind_everything() {
        let queue = Queue::default();
        queue.push(log("a"));
        std::thread::scope(|scope| {
            let printer = scope.spawn(|| {
                let printed = std::iter::from_fn(|| queue.next()).count();
                queue.finish();
                printed
            });
            queue.close_within(Duration::from_secs(300));
            assert!(queue.state().is_finished);
            assert_eq!(printer.join().unwrap(), 1);
        });
        queue.push(log("b"));
        assert!(queue.next().is_none());
    }

    #[test]
    fn the_end_does_not_wait_for_a_reader_that_reads_nothing() {
        let queue = Queue::default();
        queue.push(log("a"));
        queue.close_within(Duration::from_millis(1));
        assert!(!queue.state().is_finished);
        queue.push(log("b"));
        assert_eq!(all(&queue), ["a"]);
        assert!(queue.next().is_none());
    }
}
