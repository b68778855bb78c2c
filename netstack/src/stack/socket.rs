//! A connection and its users: its lock, its waiters, its membership in the tables.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, atomic::Ordering},
    time::Duration,
};

use wg_embed::{sync::lock, time::Instant};

use super::{
    deadlines::{Timed, Timer},
    segment::Builder,
    shared::Shared,
    starved,
    tuple::FourTuple,
};
use crate::{
    notify::Notify,
    tcp::{Connection, Header},
};

/// The maximum number of segments that a connection sends in one turn, before others have theirs.
const TURN: usize = 64;

/// The minimum time between two runs of a connection's timers.
const TICK: Duration = Duration::from_millis(1);

/// A connection.
pub(crate) struct TcpSocket {
    pub(crate) tuple: FourTuple,
    /// Whether its local address was chosen by the peer, and is not one of the stack's own.
    pub(crate) intercepted: bool,
    state: Mutex<State>,
    /// Notifies threads in the blocking functions.
    changed: Condvar,
    timer: Timer,
    builder: Builder,
}

/// The state that a connection's lock guards.
pub(crate) struct State {
    pub(crate) connection: Connection,
    notify: Option<Arc<dyn Notify>>,
    /// Whether a program is to be notified when it can read, or write.
    pub(crate) wants_read: bool,
    pub(crate) wants_write: bool,
    /// The number of threads that wait to read, and to write or for the handshake.
    blocked_readers: u32,
    blocked_writers: u32,
    /// Whether it has ended with an error, and the program was notified.
    told_end: bool,
    /// Whether the stack was closed.
    pub(crate) aborted: bool,
    /// Whether it is in no table any more: nothing is received or sent.
    gone: bool,
    /// Whether it is in the ready list, or about to be added.
    queued: bool,
    /// Set if its program has dropped it, closed it with a reset, or closed the descriptor that it is copied to.
    orphan: Option<Orphan>,
    /// Its position in the queue for memory.
    pub(super) starved: Option<u64>,
    /// The earliest next run of its timers.
    not_before: Instant,
}

/// A connection whose written data is still delivered, as long as the other side takes some.
struct Orphan {
    /// When it is reset.
    until: Instant,
    /// The number of bytes that were not acknowledged after the last change.
    unacknowledged: usize,
}

/// Sends a segment: the source of its headers, its header, and its payload in two parts. Returns false if there is no
/// room for it.
pub(super) type Send<'a> = dyn FnMut(&Builder, &Header, &[u8], &[u8]) -> bool + 'a;

impl TcpSocket {
    pub(super) fn new(tuple: FourTuple, intercepted: bool, connection: Connection) -> Arc<Self> {
        Arc::new(Self {
            tuple,
            intercepted,
            state: Mutex::new(State {
                connection,
                notify: None,
                wants_read: false,
                wants_write: false,
                blocked_readers: 0,
                blocked_writers: 0,
                told_end: false,
                aborted: false,
                gone: false,
                queued: false,
                orphan: None,
                starved: None,
                not_before: Instant::default(),
            }),
            changed: Condvar::new(),
            timer: Timer::new(),
            builder: Builder::new(&tuple),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Updates the tables after a change of the connection, and notifies waiters.
    pub(crate) fn settle(self: &Arc<Self>, shared: &Arc<Shared>, state: MutexGuard<'_, State>, now: Instant) {
        let sends = !state.gone && (state.queued || state.connection.wants_to_send(now));
        self.settle_with(shared, state, sends, now);
    }

    /// Does the same as [`settle`](Self::settle), for a connection whose only change is that it has something to send.
    pub(crate) fn send_soon(self: &Arc<Self>, shared: &Arc<Shared>, mut state: MutexGuard<'_, State>) {
        if !state.gone && !std::mem::replace(&mut state.queued, true) {
            drop(state);
            shared.tcp.make_ready(self);
            shared.waiter.signal();
        }
    }

    fn settle_with(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        mut state: MutexGuard<'_, State>,
        sends: bool,
        now: Instant,
    ) {
        if !state.gone {
            state.extend_linger(now + shared.options.linger);
            if !sends && state.connection.is_closed() {
                state.gone = true;
                shared.tcp.forget(shared, self, state.connection.time_wait(), now);
                shared.unschedule(&self.timer);
            } else if let Some(at) = state.deadline() {
                let at = at.max(state.not_before);
                shared.schedule(&self.timer, at, || self.clone());
            }
        }
        starved::update(shared, self, &mut state);
        let queue = sends && !std::mem::replace(&mut state.queued, true);
        let notify = self.news(&mut state);
        drop(state);
        if queue {
            shared.tcp.make_ready(self);
            shared.waiter.signal_in_round();
        }
        if let Some(notify) = notify {
            notify.notify();
        }
    }

    /// Wakes blocked threads, and returns the notifier to call, if there is a reason.
    fn news(&self, state: &mut State) -> Option<Arc<dyn Notify>> {
        let blocked = state.blocked_readers > 0 || state.blocked_writers > 0;
        let wanted = state.wants_read || state.wants_write;
        let ended = state.error().is_some();
        if !(blocked || wanted || (ended && !state.told_end)) {
            return None;
        }
        let readiness = state.connection.readiness();
        let readable = readiness.readable || readiness.read_closed || ended;
        let writable = readiness.writable || readiness.write_closed || ended;
        if (readable && state.blocked_readers > 0) || (writable && state.blocked_writers > 0) {
            self.changed.notify_all();
        }
        let tell = (readable && state.wants_read) || (writable && state.wants_write) || (ended && !state.told_end);
        state.wants_read &= !readable;
        state.wants_write &= !writable;
        state.told_end |= ended;
        if tell { state.notify.clone() } else { None }
    }

    /// Sends as much as the connection can in one turn. Returns whether `room` has refused a packet. It must already be
    /// removed from the ready list.
    pub(super) fn transmit(self: &Arc<Self>, shared: &Arc<Shared>, now: Instant, send: &mut Send<'_>) -> bool {
        let mut state = self.lock();
        // From here on a change adds it again.
        state.queued = false;
        if state.gone {
            return false;
        }
        let (mut full, mut packets) = (false, 0);
        let more = state.connection.transmit(now, TURN, &mut |header, first, second| {
            let sent = send(&self.builder, header, first, second);
            full |= !sent;
            packets += u64::from(sent);
            sent
        });
        shared.counters.packets_out.fetch_add(packets, Ordering::Relaxed);
        self.settle_with(shared, state, more, now);
        full
    }

    /// Ends it since the stack was closed or its address was removed. A RST is sent through `send`.
    pub(super) fn end(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        now: Instant,
        error: io::ErrorKind,
        send: &mut dyn FnMut(&[u8]) -> bool,
    ) {
        let mut state = self.lock();
        if state.gone {
            // It may still have data to read, which are lost when the stack ends.
            state.aborted |= error == io::ErrorKind::ConnectionAborted;
        } else {
            state.connection.reset(now);
            state.connection.transmit(now, 1, &mut |header, _, _| send(&self.builder.packet(header)));
            state.connection.abort(error);
            state.aborted = error == io::ErrorKind::ConnectionAborted;
            state.gone = true;
            shared.tcp.forget(shared, self, None, now);
            shared.unschedule(&self.timer);
            starved::update(shared, self, &mut state);
        }
        self.changed.notify_all();
        let notify = self.news(&mut state);
        drop(state);
        if let Some(notify) = notify {
            notify.notify();
        }
    }

    /// Reports that there may be memory for it.
    pub(super) fn feed(self: &Arc<Self>, shared: &Arc<Shared>, now: Instant) {
        let mut state = self.lock();
        state.starved = None;
        if state.wants_memory() {
            state.connection.feed(now);
        }
        self.settle(shared, state, now);
    }

    /// Replaces the notifier.
    pub(crate) fn set_notify(self: &Arc<Self>, shared: &Arc<Shared>, notify: Option<Arc<dyn Notify>>) {
        let mut state = self.lock();
        let wanted = notify.is_some();
        let before = std::mem::replace(&mut state.notify, notify);
        (state.wants_read, state.wants_write, state.told_end) = (wanted, wanted, false);
        let now = shared.now();
        self.settle(shared, state, now);
        drop(before);
    }

    /// Handles its drop by the program.
    pub(crate) fn release(self: &Arc<Self>, shared: &Arc<Shared>) {
        let now = shared.now();
        let mut state = self.lock();
        let notify = state.notify.take();
        (state.wants_read, state.wants_write) = (false, false);
        state.connection.close(now);
        state.reset_after(now + shared.options.linger);
        self.settle(shared, state, now);
        drop(notify);
    }

    /// Calls `attempt` until it returns something other than `WouldBlock`, or `timeout` has passed.
    pub(crate) fn block<R>(
        self: &Arc<Self>,
        timeout: Option<Duration>,
        reads: bool,
        mut attempt: impl FnMut() -> io::Result<R>,
        ready: impl Fn(&State) -> bool,
    ) -> io::Result<R> {
        let until = timeout.and_then(|timeout| std::time::Instant::now().checked_add(timeout));
        loop {
            match attempt() {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            let mut state = self.lock();
            if ready(&state) {
                continue;
            }
            *state.blocked(reads) += 1;
            let left = until.map(|until| until.saturating_duration_since(std::time::Instant::now()));
            state = match left {
                None => wg_embed::sync::wait(&self.changed, state),
                Some(left) if left.is_zero() => {
                    *state.blocked(reads) -= 1;
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Some(left) => wg_embed::sync::wait_timeout(&self.changed, state, left),
            };
            *state.blocked(reads) -= 1;
        }
    }

    /// Reports that it was removed from the ready list.
    pub(super) fn unqueue(&self) {
        self.lock().queued = false;
    }
}

impl State {
    /// Returns whether it no longer receives segments for its addresses and ports.
    pub(super) const fn is_gone(&self) -> bool {
        self.gone
    }

    /// Returns whether it waits for memory.
    pub(super) fn wants_memory(&self) -> bool {
        !self.gone && self.connection.wants_memory()
    }

    /// Returns why it has failed.
    pub(crate) fn error(&self) -> Option<io::ErrorKind> {
        if self.aborted { Some(io::ErrorKind::ConnectionAborted) } else { self.connection.error() }
    }

    /// Fails if the stack was closed. Other errors belong to the connection, and are returned after the received data.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.aborted { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    /// Sets that it is reset at `at` unless its data have been delivered by then, or some; an earlier time remains.
    pub(crate) fn reset_after(&mut self, at: Instant) {
        self.orphan.get_or_insert(Orphan { until: at, unacknowledged: self.connection.unacknowledged() });
    }

    /// Postpones the reset to `at` if the other side has acknowledged more data.
    fn extend_linger(&mut self, at: Instant) {
        if let Some(orphan) = &mut self.orphan {
            let before = std::mem::replace(&mut orphan.unacknowledged, self.connection.unacknowledged());
            if orphan.unacknowledged < before {
                orphan.until = at;
            }
        }
    }

    /// Returns whether reading does not wait.
    pub(crate) fn is_readable(&self) -> bool {
        let readiness = self.connection.readiness();
        readiness.readable || readiness.read_closed || self.error().is_some()
    }

    /// Returns whether writing does not wait.
    pub(crate) fn is_writable(&self) -> bool {
        let readiness = self.connection.readiness();
        readiness.writable || readiness.write_closed || self.error().is_some()
    }

    const fn blocked(&mut self, reads: bool) -> &mut u32 {
        if reads { &mut self.blocked_readers } else { &mut self.blocked_writers }
    }

    fn deadline(&self) -> Option<Instant> {
        match (self.connection.deadline(), self.orphan.as_ref().map(|orphan| orphan.until)) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        }
    }
}

impl Timed for TcpSocket {
    fn timer(&self) -> &Timer {
        &self.timer
    }

    fn due(self: Arc<Self>, shared: &Arc<Shared>, now: Instant) {
        let mut state = self.lock();
        if state.gone {
            return;
        }
        // A RST after the FIN has arrived could make complete data look cut off; a timer of the connection ends it.
        if state.orphan.take_if(|orphan| orphan.until <= now).is_some() && !state.connection.is_delivered() {
            state.connection.reset(now);
        }
        state.connection.run_timers(now);
        state.not_before = now + TICK;
        self.settle(shared, state, now);
    }
}
