//! Events of a device for its owner.

use std::{
    any::Any,
    collections::VecDeque,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Condvar, Mutex},
};

use super::{EndReason, lock};
use crate::{key::PublicKey, reserve, sync, thread};

/// An event that an app may want to show or handle.
///
/// ```
/// use wg_embed::Event;
///
/// fn shown(event: &Event) -> Option<String> {
///     match event {
///         Event::HandshakeCompleted(peer) => Some(format!("connected to {peer}")),
///         Event::SocketsLost(reason) => Some(format!("offline: {reason}")),
///         Event::Ended(reason) => Some(format!("ended: {reason}")),
///         _ => None,
///     }
/// }
/// assert_eq!(shown(&Event::SocketsLost("no network".into())).as_deref(), Some("offline: no network"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A session with this peer is ready to use.
    HandshakeCompleted(PublicKey),
    /// This peer did not answer 20 initiations in a row. Staged packets were dropped, unless others followed.
    HandshakeFailed(PublicKey),
    /// This peer has moved: it sent from this address, or this is the next one to try, by its name or its network.
    EndpointChanged(PublicKey, SocketAddr),
    /// The host name of this peer's endpoint has no address, for this reason. It is reported once, and the name is
    /// resolved again as long as there is something to send.
    ResolveFailed(PublicKey, String),
    /// The route to this peer's endpoint leads into the tunnel itself. Datagrams to it are dropped. It is reported once
    /// for an endpoint.
    RoutingLoop(PublicKey, SocketAddr),
    /// The last session with this peer has expired, or was dropped; its keys were wiped.
    SessionExpired(PublicKey),
    /// The UDP sockets could not be opened, or were lost; the device retries until new ones are open.
    SocketsLost(String),
    /// New UDP sockets are open on this port: after `SocketsLost`, or because the port that the system had chosen was
    /// replaced, since it was in use, or no handshake was answered on it after a change of networks.
    SocketsRecovered(u16),
    /// The tunnel has ended by itself, for this reason.
    Ended(EndReason),
}

/// A function that receives events, one by one and in order: on the tunnel's own threads and on threads that call a
/// function of the tunnel, without a lock, on one thread at a time. Events that it causes itself are delivered after it
/// has returned. It should return soon. If it panics, pending events are delivered first, then the panic continues: it
/// ends the tunnel if it was on one of its threads.
pub type EventSink = Box<dyn Fn(Event) + Send + Sync>;

/// The number of pending events from which a packet thread, which causes most of them, waits for the thread that
/// delivers them.
const MAX_WAITING: usize = 1024;

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Event>,
    /// The thread that is delivering an event.
    teller: Option<thread::Id>,
    /// `Ended` was the last event.
    ended: bool,
    /// The tunnel is being stopped: none of its threads waits any more.
    stopping: bool,
}

/// The result of delivering events.
#[derive(Default)]
pub(super) struct Told {
    /// Further events have been recorded, which a thread must deliver.
    pub(super) is_more: bool,
    /// The first panic of the app's function.
    pub(super) panic: Option<Box<dyn Any + Send>>,
}

/// Pending events for the app.
///
/// They are recorded under the locks of their subjects, which determines their order, and delivered without a lock.
pub(super) struct Events {
    sink: EventSink,
    queue: Mutex<Queue>,
    told: Condvar,
}

impl Events {
    pub(super) fn new(sink: EventSink) -> Self {
        Self { sink, queue: Mutex::default(), told: Condvar::new() }
    }

    /// Records an event, to be delivered soon. After `Ended` there are none.
    pub(super) fn note(&self, event: Event) {
        let mut queue = lock(&self.queue);
        if queue.ended {
            return;
        }
        // Without memory for it, the oldest event is lost. The end is always delivered.
        let is_full = reserve::is_low() || queue.waiting.try_reserve(1).is_err();
        if is_full && queue.waiting.pop_front().is_none() && queue.waiting.capacity() == 0 {
            queue.waiting.reserve_exact(1);
        }
        queue.ended = matches!(event, Event::Ended(_));
        queue.waiting.push_back(event);
    }

    /// Delivers the pending events, unless another thread does.
    pub(super) fn tell(&self) -> Told {
        let this = thread::id();
        let mut told = Told::default();
        let mut queue = lock(&self.queue);
        if queue.teller.is_some() {
            return told;
        }
        let mut most = queue.waiting.len();
        // The end is delivered by the current thread, as there may be none left later.
        while (most > 0 || queue.ended)
            && let Some(event) = queue.waiting.pop_front()
        {
            queue.teller = Some(this);
            drop(queue);
            // Later events are delivered nevertheless.
            let panic = catch_unwind(AssertUnwindSafe(|| (self.sink)(event))).err();
            told.panic = told.panic.or(panic);
            most = most.saturating_sub(1);
            queue = lock(&self.queue);
            queue.teller = None;
            self.told.notify_all();
        }
        told.is_more = !queue.waiting.is_empty();
        told
    }

    /// Waits while there are too many pending events for another thread that delivers them. To be called where this
    /// thread has nothing that the app's function could wait for: no lock, and no call of the app in progress.
    pub(super) fn wait_for_room(&self) {
        let queue = lock(&self.queue);
        let this = thread::id();
        let is_full = |queue: &mut Queue| {
            queue.waiting.len() > MAX_WAITING && queue.teller.is_some_and(|teller| teller != this) && !queue.stopping
        };
        drop(sync::wait_while(&self.told, queue, is_full));
    }

    /// Stops threads from waiting for one that delivers events, since that one may be stopping the tunnel.
    pub(super) fn stop_waiting(&self) {
        lock(&self.queue).stopping = true;
        self.told.notify_all();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::{Arc, OnceLock, mpsc};
    use std::thread;
    use std::time::Duration;

    fn events(sink: impl Fn(Event) + Send + Sync + 'static) -> Arc<Events> {
        Arc::new(Events::new(Box::new(sink)))
    }

    fn numbers(told: &Mutex<Vec<Event>>) -> Vec<u16> {
        let number = |event: &Event| match event {
            Event::SocketsRecovered(port) => *port,
            _ => u16::MAX,
        };
        lock(told).iter().map(number).collect()
    }

    #[test]
    fn one_thread_tells_what_others_note_and_in_their_order() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let ((entered, has_entered), (go_on, may_go_on)) = (mpsc::channel(), mpsc::channel::<()>());
        let (entered, may_go_on, all) = (Mutex::new(entered), Mutex::new(may_go_on), told.clone());
        let events = events(move |event| {
            let first = event == Event::SocketsRecovered(0);
            if first {
                lock(&entered).send(()).unwrap();
                lock(&may_go_on).recv().unwrap();
            }
            lock(&all).push(event);
        });
        events.note(Event::SocketsRecovered(0));
        let slow = thread::spawn({
            let events = events.clone();
            move || events.tell().is_more
        });
        has_entered.recv().unwrap();
        for n in 1..4 {
            events.note(Event::SocketsRecovered(n));
            assert!(!events.tell().is_more, "it does not wait, and tells nothing");
        }
        assert!(numbers(&told).is_empty());
        go_on.send(()).unwrap();
        assert!(slow.join().unwrap(), "it is not kept by what came later");
        assert!(!events.tell().is_more);
        assert_eq!(numbers(&told), [0, 1, 2, 3]);
    }

    #[test]
    fn what_is_noted_inside_comes_after_and_the_end_is_last() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let own = Arc::new(OnceLock::<Arc<Events>>::new());
        let (all, inside) = (told.clone(), own.clone());
        let events = events(move |event| {
            let events = inside.get().unwrap();
            if event == Event::SocketsRecovered(1) {
                events.note(Event::SocketsRecovered(2));
                assert!(!events.tell().is_more);
                events.note(Event::Ended(EndReason::Panicked));
                events.note(Event::SocketsRecovered(3));
            }
            lock(&all).push(event);
        });
        own.set(events.clone()).ok();
        events.note(Event::SocketsRecovered(1));
        assert!(!events.tell().is_more);
        assert_eq!(numbers(&told), [1, 2, u16::MAX]);
    }

    #[test]
    fn only_a_round_waits_when_there_are_many_until_they_are_told_or_it_is_stopped() {
        for stops in [false, true] {
            let ((entered, has_entered), (go_on, may_go_on)) = (mpsc::channel(), mpsc::channel::<()>());
            let (entered, may_go_on) = (Mutex::new(entered), Mutex::new(may_go_on));
            let events = events(move |event| {
                if event == Event::SocketsRecovered(0) {
                    lock(&entered).send(()).unwrap();
                    lock(&may_go_on).recv().unwrap();
                }
            });
            events.note(Event::SocketsRecovered(0));
            let tells = events.clone();
            let slow = thread::spawn(move || tells.tell().is_more);
            has_entered.recv().unwrap();
            (0..=MAX_WAITING).for_each(|_| events.note(Event::SocketsRecovered(1)));
            assert!(!events.tell().is_more, "the thread that causes them does not wait");
            let (returned, has_returned) = mpsc::channel();
            let waits = events.clone();
            let round = thread::spawn(move || {
                waits.wait_for_room();
                returned.send(()).unwrap();
            });
            // A slow machine only makes this easier to pass.
            assert!(has_returned.recv_timeout(Duration::from_millis(50)).is_err(), "a round does");
            if stops {
                events.stop_waiting();
            } else {
                go_on.send(()).unwrap();
                // What came while the first was told.
                assert!(slow.join().unwrap());
                assert!(!events.tell().is_more);
                has_returned.recv().unwrap();
                round.join().unwrap();
                continue;
            }
            has_returned.recv().unwrap();
            round.join().unwrap();
            go_on.send(()).unwrap();
            assert!(slow.join().unwrap());
        }
    }

    #[test]
    fn a_panic_costs_one_event() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let own = Arc::new(OnceLock::<Arc<Events>>::new());
        let (all, inside) = (told.clone(), own.clone());
        let events = events(move |event| {
            if let Event::SocketsRecovered(port @ (0 | 2)) = event {
                inside.get().unwrap().note(Event::SocketsRecovered(port + 10));
                std::panic::panic_any(port);
            }
            lock(&all).push(event);
        });
        own.set(events.clone()).ok();
        (0..5).for_each(|n| events.note(Event::SocketsRecovered(n)));
        let first = events.tell();
        assert!(first.is_more, "what came in between is left to another round");
        assert_eq!(first.panic.unwrap().downcast_ref(), Some(&0_u16));
        assert_eq!(numbers(&told), [1, 3, 4]);
        // That may be on another thread.
        let this = events.clone();
        let second = thread::spawn(move || this.tell()).join().unwrap();
        assert!(!second.is_more && second.panic.is_none());
        assert_eq!(numbers(&told), [1, 3, 4, 10, 12]);
    }

    #[test]
    fn the_end_is_told_whatever_panics_before() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let own = Arc::new(OnceLock::<Arc<Events>>::new());
        let (all, inside) = (told.clone(), own.clone());
        let events = events(move |event| {
            if event == Event::SocketsRecovered(0) {
                inside.get().unwrap().note(Event::SocketsRecovered(1));
                inside.get().unwrap().note(Event::Ended(EndReason::Panicked));
            }
            lock(&all).push(event);
            std::panic::panic_any(());
        });
        own.set(events.clone()).ok();
        events.note(Event::SocketsRecovered(0));
        let only = events.tell();
        assert!(!only.is_more && only.panic.is_some());
        assert_eq!(numbers(&told), [0, 1, u16::MAX]);
    }
}
