//! Datagrams that wait for a program, in bounded memory, and their notifier.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use wg_embed::{queue::wait_until, sync::lock};

use crate::{
    notify::Notify,
    stack::{counters::Dropped, outbox::HasRoom, shared::Shared},
    tcp::Budget,
};

/// The maximum bytes that wait in one socket or flow.
const MAX_WAITING: usize = 1 << 20;

/// The part of the stack's memory for all waiting datagrams together: the rest is for connections.
const PART_OF_MEMORY: usize = 4;

/// The overhead of a datagram, in bytes.
const OVERHEAD: usize = 96;

/// A queue of waiting datagrams.
#[derive(Default)]
pub(crate) struct Mailbox {
    state: Mutex<State>,
    changed: Condvar,
    /// Whether it is notified of room in the outbox.
    waits_for_room: AtomicBool,
}

#[derive(Default)]
struct State {
    datagrams: VecDeque<Datagram>,
    /// The memory of the datagrams in bytes.
    memory: usize,
    /// An error that is returned once.
    error: Option<io::ErrorKind>,
    /// Set when nothing more can arrive.
    end: Option<io::ErrorKind>,
    notify: Option<Arc<dyn Notify>>,
    wants_read: bool,
    wants_write: bool,
}

/// A datagram, its sender, and the address of the stack's side.
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) data: Box<[u8]>,
}

impl Datagram {
    const fn cost(&self) -> usize {
        self.data.len() + OVERHEAD
    }
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Adds a datagram, or drops and counts it.
    pub(super) fn push(&self, shared: &Shared, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        let cost = data.len() + OVERHEAD;
        let mut state = self.lock();
        let reason = if state.end.is_some() {
            Some(Dropped::UdpNoSocket)
        } else if state.memory + cost > MAX_WAITING.min(shared.options.receive_buffer) {
            Some(Dropped::UdpQueueFull)
        } else {
            (!take_memory(shared, cost)).then_some(Dropped::UdpMemory)
        };
        if let Some(reason) = reason {
            drop(state);
            return shared.dropped(reason);
        }
        state.memory += cost;
        state.datagrams.push_back(Datagram { from, to, data: data.into() });
        self.readable(state);
    }

    /// Reports that something can be read.
    fn readable(&self, mut state: MutexGuard<'_, State>) {
        let notify = std::mem::take(&mut state.wants_read).then(|| state.notify.clone()).flatten();
        drop(state);
        self.changed.notify_one();
        if let Some(notify) = notify {
            notify.notify();
        }
    }

    /// Returns the error of [`fail_once`](Self::fail_once).
    pub(crate) fn take_error(&self) -> Option<io::ErrorKind> {
        self.lock().error.take()
    }

    /// Returns the datagram that has waited longest.
    pub(crate) fn pop(&self, shared: &Shared) -> io::Result<Datagram> {
        let mut state = self.lock();
        if let Some(datagram) = state.datagrams.pop_front() {
            state.memory -= datagram.cost();
            if state.datagrams.is_empty() {
                state.datagrams = VecDeque::new();
            }
            drop(state);
            give_memory(shared, datagram.cost());
            return Ok(datagram);
        }
        if let Some(end) = state.end {
            return Err(end.into());
        }
        state.wants_read = true;
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Waits until there is something to read. The time is that of the system.
    pub(crate) fn wait(&self, timeout: Option<Duration>) {
        drop(wait_until(&self.changed, self.lock(), timeout, State::is_readable));
    }

    /// Returns whether there is a datagram, an error, or the end.
    pub(crate) fn is_readable(&self) -> bool {
        self.lock().is_readable()
    }

    /// Returns the length of the next datagram.
    pub(super) fn next_len(&self) -> Option<usize> {
        self.lock().datagrams.front().map(|datagram| datagram.data.len())
    }

    /// Returns why nothing more can arrive.
    pub(crate) fn end(&self) -> Option<io::ErrorKind> {
        self.lock().end
    }

    /// Stores an error until it is returned, once.
    pub(super) fn fail_once(&self, error: io::ErrorKind) {
        let mut state = self.lock();
        if state.end.is_none() {
            state.error = Some(error);
            // It is reported even if there are datagrams to read: errors are taken separately from them.
            state.wants_read = true;
            self.readable(state);
        }
    }

    /// Ends it. Waiting datagrams can still be read.
    pub(super) fn finish(&self, error: io::ErrorKind) {
        let mut state = self.lock();
        if state.end.is_some() {
            return;
        }
        state.end = Some(error);
        let notify = state.notify.clone();
        drop(state);
        self.changed.notify_all();
        if let Some(notify) = notify {
            notify.notify();
        }
    }

    /// Discards waiting datagrams.
    pub(super) fn clear(&self, shared: &Shared) {
        let mut state = self.lock();
        let datagrams = std::mem::take(&mut state.datagrams);
        let memory = std::mem::take(&mut state.memory);
        state.error = None;
        drop(state);
        drop(datagrams);
        give_memory(shared, memory);
    }

    /// Handles its drop by the program.
    pub(super) fn release(&self, shared: &Shared) {
        let notify = self.lock().notify.take();
        drop(notify);
        self.finish(io::ErrorKind::ConnectionAborted);
        self.clear(shared);
    }

    /// Replaces the notifier.
    pub(crate) fn set_notify(&self, notify: Option<Arc<dyn Notify>>) {
        let mut state = self.lock();
        let now = state.is_readable();
        // There is room, as far as is known: the call may be spurious.
        let tell = notify.clone().filter(|_| now || !self.waits_for_room.load(Ordering::SeqCst));
        (state.wants_read, state.wants_write) = (!now, true);
        let before = std::mem::replace(&mut state.notify, notify);
        drop(state);
        drop(before);
        if let Some(notify) = tell {
            notify.notify();
        }
    }

    /// Returns the waiter for room in the outbox, after a datagram did not fit; `None` if it is already waiting.
    pub(super) fn wants_room(self: &Arc<Self>) -> Option<Arc<dyn HasRoom>> {
        self.lock().wants_write = true;
        (!self.waits_for_room.swap(true, Ordering::SeqCst)).then(|| self.clone() as Arc<dyn HasRoom>)
    }
}

impl HasRoom for Mailbox {
    fn has_room(&self) {
        self.waits_for_room.store(false, Ordering::SeqCst);
        let mut state = self.lock();
        let notify = std::mem::take(&mut state.wants_write).then(|| state.notify.clone()).flatten();
        drop(state);
        if let Some(notify) = notify {
            notify.notify();
        }
    }
}

impl State {
    fn is_readable(&self) -> bool {
        !self.datagrams.is_empty() || self.error.is_some() || self.end.is_some()
    }
}

fn take_memory(shared: &Shared, bytes: usize) -> bool {
    let limit = shared.memory.limit() / PART_OF_MEMORY;
    let used: &AtomicUsize = &shared.udp.memory;
    let add = |used: usize| Some(used + bytes).filter(|sum| *sum <= limit);
    if used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_err() {
        return false;
    }
    let taken = shared.memory.take(bytes);
    if !taken {
        used.fetch_sub(bytes, Ordering::Relaxed);
    }
    taken
}

fn give_memory(shared: &Shared, bytes: usize) {
    if bytes > 0 {
        shared.udp.memory.fetch_sub(bytes, Ordering::Relaxed);
        shared.memory.give(bytes);
    }
}
