//! Intercepted flows: by both addresses and ports, limited in number, each until it is idle.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use wg_embed::{sync::lock, time::Instant};

use super::mailbox::Mailbox;
use crate::{
    UdpFlow,
    stack::{
        counters::Dropped,
        deadlines::{Timed, Timer},
        shared::{Interception, Shared},
        tuple::{FourTuple, Map},
    },
};

/// A flow. Its local address is the destination of the peer.
pub(crate) struct Flow {
    pub(crate) tuple: FourTuple,
    pub(crate) mailbox: Arc<Mailbox>,
    /// The time without traffic after which it ends.
    idle: Duration,
    /// The time of the last traffic, in nanoseconds.
    active: AtomicU64,
    /// Distinguishes flows that end at the same time.
    id: u64,
    /// The end under which it is listed, in nanoseconds. Changes under the lock of the table.
    noted: AtomicU64,
}

impl Flow {
    /// Reports traffic.
    pub(crate) fn touch(&self, now: Instant) {
        self.active.fetch_max(now.as_nanos(), Ordering::Relaxed);
    }

    /// Returns its end if there is no traffic.
    fn end(&self) -> Instant {
        Instant::from_nanos(self.active.load(Ordering::Relaxed)) + self.idle
    }
}

/// All flows.
pub(crate) struct Flows {
    table: Mutex<Table>,
    timer: Arc<IdleTimer>,
}

impl Default for Flows {
    fn default() -> Self {
        Self { table: Mutex::default(), timer: Arc::new(IdleTimer(Timer::new())) }
    }
}

#[derive(Default)]
struct Table {
    flows: Map<Arc<Flow>>,
    /// The ends of flows, as known when they were listed: with traffic a flow ends later. So traffic costs nothing
    /// here; the order is corrected when a flow comes first.
    ends: BTreeMap<(Instant, u64), Arc<Flow>>,
    last_id: u64,
}

impl Table {
    /// Removes and returns the flow that ends first, if `wanted`.
    fn pop(&mut self, wanted: impl Fn(Instant) -> bool) -> Option<Arc<Flow>> {
        loop {
            let entry = self.ends.first_entry()?;
            let (noted, id) = *entry.key();
            let end = entry.get().end();
            if end > noted {
                let flow = entry.remove();
                self.note(end, id, flow);
                continue;
            }
            if !wanted(noted) {
                return None;
            }
            let flow = entry.remove();
            self.flows.remove(&flow.tuple);
            return Some(flow);
        }
    }

    /// Returns the first entry of `ends`: it may be before the actual end, but never after it.
    fn next_end(&self) -> Option<Instant> {
        self.ends.first_key_value().map(|(key, _)| key.0)
    }

    fn remove(&mut self, flow: &Arc<Flow>) {
        if !self.flows.get(&flow.tuple).is_some_and(|other| Arc::ptr_eq(other, flow)) {
            return;
        }
        self.flows.remove(&flow.tuple);
        self.ends.remove(&(Instant::from_nanos(flow.noted.load(Ordering::Relaxed)), flow.id));
    }

    fn note(&mut self, end: Instant, id: u64, flow: Arc<Flow>) {
        flow.noted.store(end.as_nanos(), Ordering::Relaxed);
        self.ends.insert((end, id), flow);
    }
}

impl Flows {
    pub(super) fn get(&self, tuple: &FourTuple) -> Option<Arc<Flow>> {
        lock(&self.table).flows.get(tuple).cloned()
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.table).flows.len()
    }

    pub(super) fn remove(&self, flow: &Arc<Flow>) {
        lock(&self.table).remove(flow);
    }

    pub(super) fn take_all(&self) -> Vec<Arc<Flow>> {
        let table = std::mem::take(&mut *lock(&self.table));
        table.flows.into_values().collect()
    }
}

/// Handles a datagram for a flow; starts a new one if there is none.
pub(super) fn receive(shared: &Arc<Shared>, interception: &Interception, tuple: FourTuple, data: &[u8], now: Instant) {
    let flows = &shared.udp.flows;
    let mut table = lock(&flows.table);
    if let Some(flow) = table.flows.get(&tuple).cloned() {
        drop(table);
        flow.touch(now);
        return flow.mailbox.push(shared, tuple.remote(), tuple.local(), data);
    }
    let options = &interception.options;
    if options.max_flows == 0 || shared.memory.is_short() || shared.is_closed() {
        drop(table);
        return shared.dropped(Dropped::UdpMemory);
    }
    let evicted = if table.flows.len() >= options.max_flows { table.pop(|_| true) } else { None };
    table.last_id += 1;
    let flow = Arc::new(Flow {
        tuple,
        mailbox: Arc::default(),
        idle: options.udp_idle,
        active: AtomicU64::new(now.as_nanos()),
        id: table.last_id,
        noted: AtomicU64::new(0),
    });
    flow.mailbox.push(shared, tuple.remote(), tuple.local(), data);
    table.flows.insert(tuple, flow.clone());
    let id = flow.id;
    table.note(flow.end(), id, flow.clone());
    let next = table.next_end();
    drop(table);
    schedule(shared, next);
    if let Some(evicted) = evicted {
        shared.dropped(Dropped::UdpFlowEvicted);
        finish(&evicted);
    }
    interception.handler.flow(UdpFlow::new(shared.clone(), flow));
}

/// Notifies a flow's program that it has ended.
pub(super) fn finish(flow: &Flow) {
    flow.mailbox.finish(io::ErrorKind::BrokenPipe);
}

fn schedule(shared: &Shared, at: Option<Instant>) {
    if let Some(at) = at {
        shared.schedule(&shared.udp.flows.timer.0, at, || shared.udp.flows.timer.clone());
    }
}

/// Ends idle flows.
struct IdleTimer(Timer);

impl Timed for IdleTimer {
    fn timer(&self) -> &Timer {
        &self.0
    }

    fn due(self: Arc<Self>, shared: &Arc<Shared>, now: Instant) {
        /// Flows that end within this time end together.
        const TOGETHER: Duration = Duration::from_secs(1);
        let mut idle = Vec::new();
        let mut table = lock(&shared.udp.flows.table);
        while let Some(flow) = table.pop(|end| end <= now) {
            idle.push(flow);
        }
        let next = table.next_end().map(|at| at.max(now + TOGETHER));
        drop(table);
        schedule(shared, next);
        idle.iter().for_each(|flow| finish(flow));
    }
}
