//! The TCP connections: open, half-open, in TIME-WAIT, and listeners.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering},
    },
};

use wg_embed::{
    sync::{lock, read, write},
    time::Instant,
};

use super::{
    deadlines::{Timed, Timer},
    half_open::HalfOpens,
    listeners::Listeners,
    segment::{Builder, max_segment},
    shared::Shared,
    socket::TcpSocket,
    time_wait::TimeWaits,
    tuple::{FourTuple, Map, Source},
};
use crate::tcp::{Config, HalfOpen, Header, TimeWait};

/// The tables. A connection's lock may be held while one of these is taken, not the other way round.
pub(crate) struct Connections {
    open: RwLock<Map<Arc<TcpSocket>>>,
    /// The number of connections in `open`, to be read without its lock.
    count: AtomicUsize,
    pub(super) half_open: Mutex<HalfOpens>,
    pub(super) time_wait: Mutex<TimeWaits>,
    pub(super) listeners: RwLock<Listeners>,
    /// Connections that may have segments to send, each at most once.
    ready: Mutex<VecDeque<Arc<TcpSocket>>>,
    /// Whether `ready` is not empty, for reading without its lock. Changes under it.
    has_ready: AtomicBool,
    half_open_timer: Arc<HalfOpenTimer>,
    time_wait_timer: Arc<TimeWaitTimer>,
    /// The number of local ports taken, for each of several groups of destinations.
    pub(super) dialled: [AtomicU16; DIAL_COUNTERS],
    max: AtomicUsize,
}

/// The number of port counters.
const DIAL_COUNTERS: usize = 64;

impl Connections {
    pub(super) fn new(max: usize) -> Self {
        Self {
            open: RwLock::default(),
            count: AtomicUsize::new(0),
            half_open: Mutex::new(HalfOpens::new(max)),
            time_wait: Mutex::new(TimeWaits::new(max)),
            listeners: RwLock::default(),
            ready: Mutex::default(),
            has_ready: AtomicBool::new(false),
            half_open_timer: Arc::new(HalfOpenTimer(Timer::new())),
            time_wait_timer: Arc::new(TimeWaitTimer(Timer::new())),
            dialled: [const { AtomicU16::new(0) }; DIAL_COUNTERS],
            max: AtomicUsize::new(max),
        }
    }

    pub(super) fn get(&self, tuple: &FourTuple) -> Option<Arc<TcpSocket>> {
        read(&self.open).get(tuple).cloned()
    }

    pub(super) fn contains(&self, tuple: &FourTuple) -> bool {
        read(&self.open).contains_key(tuple)
    }

    /// Adds a connection unless there is one with the same addresses and ports; returns whether it was added.
    pub(super) fn insert_new(&self, socket: &Arc<TcpSocket>) -> bool {
        let mut open = write(&self.open);
        let std::collections::hash_map::Entry::Vacant(place) = open.entry(socket.tuple) else { return false };
        place.insert(socket.clone());
        self.count.store(open.len(), Ordering::Relaxed);
        true
    }

    /// Returns all open connections.
    pub(super) fn all(&self) -> Vec<Arc<TcpSocket>> {
        read(&self.open).values().cloned().collect()
    }

    /// Returns the number of open connections.
    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Returns whether there must be no further open connection.
    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.max()
    }

    /// Returns whether there must be no further half-open connection of this source. Those of others may never be
    /// completed, and do not count.
    pub(super) fn is_full_for(&self, source: Source) -> bool {
        self.len() + lock(&self.half_open).count(source) >= self.max()
    }

    /// Returns the maximum number of open connections.
    pub(super) fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    /// Replaces the maximum number. Existing connections continue.
    pub(super) fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
        lock(&self.half_open).set_max(max);
        lock(&self.time_wait).set_max(max);
    }

    /// Removes a connection that has ended; it may be kept in TIME-WAIT.
    pub(super) fn forget(&self, shared: &Arc<Shared>, socket: &TcpSocket, state: Option<TimeWait>, now: Instant) {
        if let Some(state) = state {
            self.remember(shared, socket.tuple, state, now);
        }
        let mut open = write(&self.open);
        let is_it = open.get(&socket.tuple).is_some_and(|other| std::ptr::eq(&raw const **other, socket));
        let removed = is_it.then(|| open.remove(&socket.tuple));
        self.count.store(open.len(), Ordering::Relaxed);
        if open.is_empty() && open.capacity() > 1024 {
            open.shrink_to_fit();
        }
        drop(open);
        drop(removed);
    }

    fn remember(&self, shared: &Arc<Shared>, tuple: FourTuple, state: TimeWait, now: Instant) {
        let mut time_wait = lock(&self.time_wait);
        time_wait.insert(tuple, state, now);
        let next = time_wait.next_end();
        drop(time_wait);
        self.schedule_time_wait(shared, next);
    }

    fn schedule_time_wait(&self, shared: &Arc<Shared>, next: Option<Instant>) {
        if let Some(at) = next {
            shared.schedule(&self.time_wait_timer.0, at, || self.time_wait_timer.clone());
        }
    }

    /// Schedules the timer; to be called after changes of deadlines of half-open connections.
    pub(super) fn schedule_half_open(&self, shared: &Arc<Shared>, next: Option<Instant>) {
        if let Some(at) = next {
            shared.schedule(&self.half_open_timer.0, at, || self.half_open_timer.clone());
        }
    }

    /// Appends a connection, which is not in it, to the queue of those with segments to send. The reading thread must
    /// be notified afterwards.
    pub(super) fn make_ready(&self, socket: &Arc<TcpSocket>) {
        let mut ready = lock(&self.ready);
        ready.push_back(socket.clone());
        self.has_ready.store(true, Ordering::Release);
    }

    /// Returns whether no connection has segments to send: see [`Waiter`](super::waiter::Waiter).
    pub(super) fn is_idle(&self) -> bool {
        lock(&self.ready).is_empty()
    }

    /// Takes the first connection with segments to send.
    pub(super) fn next_ready(&self) -> Option<Arc<TcpSocket>> {
        if !self.has_ready.load(Ordering::Acquire) {
            return None;
        }
        let mut ready = lock(&self.ready);
        let socket = ready.pop_front()?;
        if ready.is_empty() {
            self.has_ready.store(false, Ordering::Release);
            if ready.capacity() > 1024 {
                ready.shrink_to_fit();
            }
        }
        Some(socket)
    }

    pub(super) fn clear_ready(&self) {
        let mut ready = lock(&self.ready);
        self.has_ready.store(false, Ordering::Release);
        let sockets = std::mem::take(&mut *ready);
        drop(ready);
        sockets.iter().for_each(|socket| socket.unqueue());
    }
}

/// Returns the configuration of a new connection.
pub(super) fn config(shared: &Shared, remote: SocketAddr) -> Config {
    let (mtu, to) = (shared.mtu(), remote.ip());
    let path = shared.icmp.path_mtus.get(to, || shared.now()).and_then(|path| u16::try_from(path).ok());
    Config {
        max_segment: max_segment(mtu, to),
        path_segment: max_segment(path.map_or(mtu, |path| path.min(mtu)), to),
        receive_buffer: shared.options.receive_buffer,
        send_buffer: shared.options.send_buffer,
    }
}

/// Returns the first sequence number (RFC 6528): it grows with time, and its origin is unpredictable for others.
pub(super) fn initial_sequence(shared: &Shared, tuple: &FourTuple, now: Instant) -> u32 {
    let ticks = now.as_nanos() / 4000;
    (shared.keyed_hash("sequence number", tuple) as u32).wrapping_add(ticks as u32)
}

/// Returns the offset of timestamps: the same for each connection with these addresses and ports, so that they also
/// grow from one connection to the next.
pub(super) fn clock_offset(shared: &Shared, tuple: &FourTuple) -> u32 {
    shared.keyed_hash("time stamp", tuple) as u32
}

/// Sends a segment without payload.
pub(super) fn send_header(shared: &Shared, tuple: &FourTuple, header: &Header) {
    if shared.send(&Builder::new(tuple).packet(header)) {
        shared.counters.packets_out.fetch_add(1, Ordering::Relaxed);
    }
}

/// Lets half-open connections repeat their SYN-ACK, or end.
struct HalfOpenTimer(Timer);

impl Timed for HalfOpenTimer {
    fn timer(&self) -> &Timer {
        &self.0
    }

    fn due(self: Arc<Self>, shared: &Arc<Shared>, now: Instant) {
        let mut table = lock(&shared.tcp.half_open);
        while let Some(tuple) = table.due(now) {
            let again = table.get_mut(&tuple).filter(|entry| !entry.held && entry.is_wanted()).and_then(|entry| {
                entry.half.deadline()?;
                let header = entry.half.syn_ack(now);
                entry.half.deadline().map(|at| (header, at))
            });
            match again {
                Some((header, at)) => {
                    send_header(shared, &tuple, &header);
                    table.set_deadline(&tuple, at);
                }
                None => drop(table.remove(&tuple)),
            }
        }
        let next = table.next_deadline();
        drop(table);
        shared.tcp.schedule_half_open(shared, next);
    }
}

/// Ends connections in TIME-WAIT.
struct TimeWaitTimer(Timer);

impl Timed for TimeWaitTimer {
    fn timer(&self) -> &Timer {
        &self.0
    }

    fn due(self: Arc<Self>, shared: &Arc<Shared>, now: Instant) {
        /// Connections that end within this time end together.
        const TOGETHER: std::time::Duration = std::time::Duration::from_secs(1);
        let mut table = lock(&shared.tcp.time_wait);
        table.expire(now);
        let next = table.next_end().map(|at| at.max(now + TOGETHER));
        drop(table);
        shared.tcp.schedule_time_wait(shared, next);
    }
}

/// Returns the error of calls after the stack was closed.
pub(crate) fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the stack was closed")
}

/// Starts a half-open connection, replacing one in TIME-WAIT if there is one.
pub(super) fn half_open(
    shared: &Shared,
    tuple: &FourTuple,
    syn: &Header,
    former: Option<TimeWait>,
    now: Instant,
) -> HalfOpen {
    let config = config(shared, tuple.remote());
    let sequence = initial_sequence(shared, tuple, now);
    let sequence = former.map_or(sequence, |former| former.successor(sequence));
    HalfOpen::new(syn, &config, sequence, clock_offset(shared, tuple), now)
}
