//! The state of a stream that its two threads and its users share, under one lock: a control stream has little traffic.

use super::{End, Incoming, OpenError, Options, RequestId, SendError, Stats, transport::Stop};
use crate::{
    messages::{Received, Side},
    stream::{Calls, Kind, Version},
};
use std::{
    collections::VecDeque,
    num::NonZeroU64,
    sync::{Arc, Condvar, Mutex, MutexGuard, mpsc::SyncSender},
    time::{Duration, Instant},
};
use wg_embed::sync::{lock, wait, wait_timeout, wait_timeout_while};

/// The time in which a side that does not read may still write.
const LINGER: Duration = Duration::from_secs(1);

/// Receives the response to a request: its body, `None` if it is empty.
pub(super) type Waiter<S> = SyncSender<Option<Received<S>>>;

pub(super) struct Shared<S: Side> {
    state: Mutex<State<S>>,
    /// For users: a header or a message has arrived, or the stream has ended.
    pub(super) arrived: Condvar,
    /// For the reader: there is room for received messages, or a reason not to wait for it.
    room: Condvar,
    /// For the writer: there is something to write.
    work: Condvar,
    /// For senders: bytes were written.
    written: Condvar,
    stop: Arc<dyn Stop>,
    options: Options,
}

pub(super) struct State<S: Side> {
    /// The result of the other side's header.
    pub(super) greeting: Option<Result<Version, OpenError>>,
    /// Whether this side's header was written.
    pub(super) greeted: bool,
    pub(super) calls: Calls<Waiter<S>>,
    inbox: VecDeque<(Incoming<Received<S>>, usize)>,
    inbox_bytes: usize,
    outbox: VecDeque<Frame>,
    outbox_bytes: usize,
    /// The reason why nothing more can be sent, although the stream has not ended.
    sealed: Option<End>,
    pub(super) end: Option<End>,
    pub(super) stats: Stats,
}

/// A frame to be written.
pub(super) struct Frame {
    pub(super) bytes: Vec<u8>,
    /// Whether the stream ends behind it.
    pub(super) is_last: bool,
}

impl<S: Side> Shared<S> {
    pub(super) fn new(stop: Arc<dyn Stop>, options: Options) -> Self {
        Self {
            state: Mutex::new(State {
                greeting: None,
                greeted: false,
                calls: Calls::new(),
                inbox: VecDeque::new(),
                inbox_bytes: 0,
                outbox: VecDeque::new(),
                outbox_bytes: 0,
                sealed: None,
                end: None,
                stats: Stats::default(),
            }),
            arrived: Condvar::new(),
            room: Condvar::new(),
            work: Condvar::new(),
            written: Condvar::new(),
            stop,
            options,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State<S>> {
        lock(&self.state)
    }

    /// Ends the stream, unless it has ended already: everything that waits for it fails, and both threads return.
    pub(super) fn end(&self, reason: End) {
        let mut state = self.lock();
        if state.end.is_some() {
            return;
        }
        // The other side may close as soon as it has the last message, before the writer can report it.
        let is_finished = state.sealed == Some(End::Finished) && state.outbox.is_empty();
        state.end = Some(if is_finished { End::Finished } else { reason });
        // This drops the senders of the waiting requests.
        state.calls.clear();
        state.outbox.clear();
        drop(state);
        for condvar in [&self.arrived, &self.room, &self.work, &self.written] {
            condvar.notify_all();
        }
        self.stop.stop();
    }

    /// Handles that nothing can be sent any more, because the other side does not read. Its earlier messages may still
    /// arrive, such as the last message of a tunnel: waits for their end, for a limited time.
    pub(super) fn seal(&self, reason: End) {
        let mut state = self.lock();
        state.sealed = Some(reason);
        state.outbox.clear();
        state.outbox_bytes = 0;
        self.written.notify_all();
        self.arrived.notify_all();
        drop(wait_timeout_while(&self.work, state, LINGER, |state| state.end.is_none()));
    }

    /// Stores the result of the other side's header.
    pub(super) fn greet(&self, greeting: Result<Version, OpenError>) {
        self.lock().greeting = Some(greeting);
        self.arrived.notify_all();
    }

    /// Reports that this side's header was written.
    pub(super) fn greeted(&self) {
        self.lock().greeted = true;
        self.arrived.notify_all();
    }

    /// Waits, for a limited time, until this side's header was written, or cannot be.
    pub(super) fn wait_for_header(&self) {
        let waits = |state: &mut State<S>| !state.greeted && state.sealed.is_none() && state.end.is_none();
        drop(wait_timeout_while(&self.arrived, self.lock(), LINGER, waits));
    }

    /// Begins a request.
    pub(super) fn begin(&self, waiter: Waiter<S>) -> Result<NonZeroU64, SendError> {
        let mut state = self.lock();
        state.check()?;
        let id = state.calls.begin(waiter);
        drop(state);
        // The queue may be full of messages in front of the response.
        self.room.notify_all();
        Ok(id)
    }

    /// Queues a frame. Waits for room until `deadline`; without one, until there is room or the stream has ended.
    pub(super) fn queue(&self, frame: Frame, deadline: Option<Instant>) -> Result<(), SendError> {
        let mut state = self.lock();
        loop {
            state.check()?;
            if state.outbox.is_empty() || state.outbox_bytes + frame.bytes.len() <= self.options.outbox {
                break;
            }
            state = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => wait(&self.written, state),
                Some(left) if left.is_zero() => return Err(SendError::TimedOut),
                Some(left) => wait_timeout(&self.written, state, left),
            };
        }
        if frame.is_last {
            state.sealed = Some(End::Finished);
        }
        state.outbox_bytes += frame.bytes.len();
        state.outbox.push_back(frame);
        drop(state);
        self.work.notify_all();
        Ok(())
    }

    /// Takes the next frame for the writer; `None` at the end.
    pub(super) fn next_frame(&self) -> Option<Frame> {
        let mut state = self.lock();
        loop {
            if state.end.is_some() {
                return None;
            }
            if let Some(frame) = state.outbox.pop_front() {
                state.outbox_bytes -= frame.bytes.len();
                drop(state);
                self.written.notify_all();
                return Some(frame);
            }
            state = wait(&self.work, state);
        }
    }

    /// Delivers a message of `weight` bytes to the thread that waits for it.
    ///
    /// A response never waits. Other messages wait for room, except while a request waits: its response may be behind
    /// the message, and the thread that waits for the response may be the one that makes room.
    pub(super) fn deliver(&self, kind: Kind, body: Option<Received<S>>, weight: usize) -> Result<(), End> {
        let mut state = self.lock();
        let incoming = match (kind, body) {
            (Kind::Response(id), body) => {
                let waiter = state.calls.end(id);
                if waiter.is_none() {
                    state.stats.unknown_responses += 1;
                }
                drop(state);
                if let Some(waiter) = waiter {
                    // It fails if the waiting thread has just given up.
                    let _ = waiter.try_send(body);
                }
                return Ok(());
            }
            (Kind::Request(id), Some(body)) => Incoming::Request { id: RequestId(id), body },
            (Kind::Request(id), None) => Incoming::Unknown { id: RequestId(id) },
            (Kind::Notice, Some(body)) => Incoming::Notice(body),
            (Kind::Notice, None) => {
                state.stats.empty_messages += 1;
                return Ok(());
            }
        };
        let limit = self.options.inbox;
        loop {
            if state.end.is_some() {
                return Ok(());
            }
            let fits = |times: usize| {
                state.inbox.len() < super::MOST_MESSAGES * times
                    && state.inbox_bytes.saturating_add(weight) <= limit.saturating_mul(times)
            };
            if state.inbox.is_empty() || fits(1) {
                break;
            }
            if state.calls.any() {
                if fits(2) {
                    break;
                }
                return Err(End::Overrun);
            }
            state = wait(&self.room, state);
        }
        state.inbox_bytes += weight;
        state.inbox.push_back((incoming, weight));
        drop(state);
        self.arrived.notify_all();
        Ok(())
    }

    /// Takes the next received message. Waits for it until `deadline`, or without limit.
    pub(super) fn take(&self, deadline: Option<Instant>) -> Result<Option<Incoming<Received<S>>>, End> {
        let mut state = self.lock();
        loop {
            if let Some((incoming, weight)) = state.inbox.pop_front() {
                state.inbox_bytes -= weight;
                drop(state);
                self.room.notify_all();
                return Ok(Some(incoming));
            }
            if let Some(end) = &state.end {
                return Err(end.clone());
            }
            state = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => wait(&self.arrived, state),
                Some(left) if left.is_zero() => return Ok(None),
                Some(left) => wait_timeout(&self.arrived, state, left),
            };
        }
    }

    /// Returns whether more than half of the room for outgoing messages is in use.
    pub(super) fn is_slow(&self) -> bool {
        self.lock().outbox_bytes > self.options.outbox / 2
    }
}

impl<S: Side> State<S> {
    /// Fails if nothing more can be sent.
    fn check(&self) -> Result<(), SendError> {
        match self.end.as_ref().or(self.sealed.as_ref()) {
            Some(end) => Err(SendError::Ended(end.clone())),
            None => Ok(()),
        }
    }
}
