//! The queues of events for clients.

use std::{
    borrow::Cow,
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, Weak},
    time::Duration,
};

use serde::Serialize;
use wg_embed::{
    device::{EndReason, Event},
    error::{Error, ErrorKind, Result},
    key::PublicKey,
    sync::{lock, wait_timeout_while},
};

use crate::answer::to_json;

/// Distributes a tunnel's events to its clients. The owner of the tunnel passes each event to [`note`](Self::note).
#[derive(Debug, Default)]
pub struct Hub(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    queues: Vec<Weak<Queue>>,
    /// The reason why the tunnel has ended by itself.
    ended: Option<EndReason>,
    /// Whether waiting has been disabled for all clients.
    is_closed: bool,
}

impl Hub {
    /// Queues an event for each client that uses events. Never waits for a client.
    pub fn note(&self, event: &Event) {
        let mut state = lock(&self.0);
        state.queues.retain(|queue| queue.upgrade().is_some_and(|queue| queue.push(event)));
        if let Event::Ended(reason) = event {
            state.ended = Some(reason.clone());
            state.close();
        }
    }

    /// Ends the waits of all clients, and disables further ones: the tunnel is about to be stopped. Idempotent.
    pub fn close(&self) {
        lock(&self.0).close();
    }

    /// Fails once the tunnel has ended by itself.
    pub(crate) fn check_running(&self) -> Result<()> {
        match &lock(&self.0).ended {
            Some(reason) => Err(Error::new(ErrorKind::Closed, format!("the tunnel has ended: {reason}"))),
            None => Ok(()),
        }
    }

    /// Creates a queue, which gets all later events.
    pub(crate) fn queue(&self, limit: usize) -> Result<Arc<Queue>> {
        let mut state = lock(&self.0);
        let waiting = Waiting { is_closed: state.is_closed, ..Waiting::default() };
        let queue = Arc::new(Queue { limit, waiting: Mutex::new(waiting), arrived: Condvar::new() });
        // If there are no events, only this removes the queues of clients that have left.
        state.queues.retain(|queue| queue.strong_count() > 0);
        state.queues.try_reserve(1)?;
        state.queues.push(Arc::downgrade(&queue));
        Ok(queue)
    }
}

impl State {
    fn close(&mut self) {
        self.is_closed = true;
        self.queues.iter().filter_map(Weak::upgrade).for_each(|queue| queue.close());
    }
}

/// The queued events of one client.
#[derive(Debug)]
pub(crate) struct Queue {
    limit: usize,
    waiting: Mutex<Waiting>,
    /// There is an event, or there will be no more.
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Event>,
    dropped: u64,
    /// Whether there will be no more events.
    is_closed: bool,
}

impl Queue {
    /// Ends all waits, and disables further ones.
    pub(crate) fn close(&self) {
        lock(&self.waiting).is_closed = true;
        self.arrived.notify_all();
    }

    /// Always returns true: the client exists.
    fn push(&self, event: &Event) -> bool {
        let mut waiting = lock(&self.waiting);
        let is_full = waiting.events.len() >= self.limit || waiting.events.try_reserve(1).is_err();
        if is_full {
            waiting.dropped += 1;
            // If there is no memory for one more, this event is dropped.
            if waiting.events.pop_front().is_none() {
                drop(waiting);
                self.arrived.notify_all();
                return true;
            }
        }
        waiting.events.push_back(event.clone());
        drop(waiting);
        self.arrived.notify_all();
        true
    }

    /// Takes the oldest events, at most `max` and as many as fit into `limit` bytes, as JSON. Waits for at most
    /// `timeout` until there is an event, or there will be no more. An event that another call takes does not end the
    /// wait.
    pub(crate) fn take(&self, max: usize, limit: usize, timeout: Duration) -> Result<zeroize::Zeroizing<Vec<u8>>> {
        let is_idle = |waiting: &mut Waiting| waiting.events.is_empty() && waiting.dropped == 0 && !waiting.is_closed;
        let mut waiting = wait_timeout_while(&self.arrived, lock(&self.waiting), timeout, is_idle);
        let count = waiting.events.len().min(max);
        let mut shown: Vec<_> = waiting.events.iter().take(count).map(EventJson::of).collect();
        loop {
            let answer =
                EventsJson { left: waiting.events.len() - shown.len(), events: &shown, dropped: waiting.dropped };
            match to_json(&answer, limit) {
                Ok(json) => {
                    let taken = shown.len();
                    drop(shown);
                    waiting.events.drain(..taken);
                    waiting.dropped = 0;
                    return Ok(json);
                }
                Err(error) if error.kind() == ErrorKind::TooLarge && !shown.is_empty() => {
                    shown.truncate(shown.len() / 2);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

#[derive(Serialize)]
struct EventsJson<'a> {
    events: &'a [EventJson<'a>],
    /// The number of events dropped since the last answer.
    dropped: u64,
    /// The number of events that are still queued.
    left: usize,
}

#[derive(Serialize)]
struct EventJson<'a> {
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'a, str>>,
}

impl<'a> EventJson<'a> {
    fn of(event: &'a Event) -> Self {
        let named = |event| Self { event, peer: None, endpoint: None, port: None, reason: None };
        let about = |event, peer: &PublicKey| Self { peer: Some(peer.to_base64().to_string()), ..named(event) };
        match event {
            Event::HandshakeCompleted(peer) => about("handshake_completed", peer),
            Event::HandshakeFailed(peer) => about("handshake_failed", peer),
            Event::EndpointChanged(peer, to) => {
                Self { endpoint: Some(to.to_string()), ..about("endpoint_changed", peer) }
            }
            Event::ResolveFailed(peer, reason) => Self { reason: Some(reason.into()), ..about("resolve_failed", peer) },
            Event::RoutingLoop(peer, to) => Self { endpoint: Some(to.to_string()), ..about("routing_loop", peer) },
            Event::SessionExpired(peer) => about("session_expired", peer),
            Event::SocketsLost(reason) => Self { reason: Some(reason.into()), ..named("sockets_lost") },
            Event::SocketsRecovered(port) => Self { port: Some(*port), ..named("sockets_recovered") },
            Event::Ended(reason) => Self { reason: Some(reason.to_string().into()), ..named("ended") },
            _ => named("other"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn taken(queue: &Queue, max: usize, limit: usize) -> String {
        waited(queue, max, limit, Duration::ZERO)
    }

    fn waited(queue: &Queue, max: usize, limit: usize, timeout: Duration) -> String {
        String::from_utf8(queue.take(max, limit, timeout).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn the_oldest_are_dropped_and_counted_once() {
        let hub = Hub::default();
        let queue = hub.queue(2).unwrap();
        (1..=5).for_each(|port| hub.note(&Event::SocketsRecovered(port)));
        let event = |port: u16| format!("{{\"event\":\"sockets_recovered\",\"port\":{port}}}");
        assert_eq!(taken(&queue, 1, 1000), format!("{{\"events\":[{}],\"dropped\":3,\"left\":1}}", event(4)));
        assert_eq!(taken(&queue, 9, 1000), format!("{{\"events\":[{}],\"dropped\":0,\"left\":0}}", event(5)));
        assert_eq!(taken(&queue, 9, 1000), "{\"events\":[],\"dropped\":0,\"left\":0}");
    }

    #[test]
    fn what_does_not_fit_is_left_and_not_lost() {
        let hub = Hub::default();
        let queue = hub.queue(10).unwrap();
        (0..8).for_each(|port| hub.note(&Event::SocketsRecovered(port)));
        assert!(taken(&queue, 10, 150).ends_with("\"left\":6}"));
        assert_eq!(queue.take(10, 10, Duration::ZERO).unwrap_err().kind(), ErrorKind::TooLarge);
        assert!(taken(&queue, 10, 1000).starts_with("{\"events\":[{\"event\":\"sockets_recovered\",\"port\":2},"));
    }

    #[test]
    fn a_client_that_has_left_is_forgotten_and_the_end_is_known() {
        let hub = Hub::default();
        // It is, however many come before the next event.
        for _ in 0..3 {
            drop(hub.queue(10).unwrap());
            assert_eq!(lock(&hub.0).queues.len(), 1);
        }
        hub.note(&Event::SocketsRecovered(1));
        assert!(lock(&hub.0).queues.is_empty());
        hub.check_running().unwrap();
        hub.note(&Event::Ended(EndReason::failed(ErrorKind::Closed, "gone")));
        let error = hub.check_running().unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Closed, "the tunnel has ended: gone"));
    }

    #[test]
    fn a_limit_of_none_drops_all() {
        let hub = Hub::default();
        let queue = hub.queue(0).unwrap();
        hub.note(&Event::SocketsRecovered(1));
        assert_eq!(taken(&queue, 9, 1000), "{\"events\":[],\"dropped\":1,\"left\":0}");
    }

    /// A wait that is much longer than the test may take.
    const LONG: Duration = Duration::from_secs(3600);

    const NOTHING: &str = "{\"events\":[],\"dropped\":0,\"left\":0}";

    #[test]
    fn a_wait_ends_with_an_event_and_with_the_last_one() {
        let hub = Hub::default();
        let queue = hub.queue(2).unwrap();
        let wait = || waited(&queue, 9, 1000, LONG);
        assert_eq!(waited(&queue, 9, 1000, Duration::from_millis(1)), NOTHING);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(wait);
            hub.note(&Event::SocketsRecovered(1));
            assert!(waiting.join().unwrap().contains("sockets_recovered"));
        });
        // What waits already is not waited for.
        hub.note(&Event::SocketsRecovered(1));
        assert!(wait().contains("sockets_recovered"));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(wait);
            hub.close();
            assert_eq!(waiting.join().unwrap(), NOTHING);
        });
        assert_eq!(wait(), NOTHING);
        assert_eq!(waited(&hub.queue(2).unwrap(), 9, 1000, LONG), NOTHING);
        // Without room the number of those that were dropped is something to take.
        let hub = Hub::default();
        let queue = hub.queue(0).unwrap();
        hub.note(&Event::SocketsRecovered(1));
        assert!(waited(&queue, 9, 1000, LONG).contains("\"dropped\":1"));
        // A tunnel that has ended has no more events.
        hub.note(&Event::Ended(EndReason::failed(ErrorKind::Closed, "gone")));
        assert_eq!(waited(&hub.queue(2).unwrap(), 9, 1000, LONG), NOTHING);
    }

    #[test]
    fn of_several_waits_one_has_the_event_and_the_others_go_on() {
        const THREADS: u16 = 4;
        const EACH: u16 = 500;
        let hub = Hub::default();
        let queue = hub.queue(2).unwrap();
        let (answers, answered) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                let (answers, queue) = (answers.clone(), &queue);
                scope.spawn(move || (0..EACH).for_each(|_| answers.send(waited(queue, 9, 1000, LONG)).unwrap()));
            }
            // One event at a time, for which all that wait are woken.
            let take = |port| {
                hub.note(&Event::SocketsRecovered(port));
                answered.recv().unwrap()
            };
            let empty = (0..THREADS * EACH).map(take).filter(|answer| answer == NOTHING).count();
            assert_eq!(empty, 0);
        });
    }
}
