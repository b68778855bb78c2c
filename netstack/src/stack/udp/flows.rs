//! Flows that were intercepted: by both addresses and ports, of bounded number, each until it is idle.

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

/// A flow. Local is where the peer sends to.
pub(crate) struct Flow {
    pub(crate) tuple: FourTuple,
    pub(crate) mailbox: Arc<Mailbox>,
    /// It ends after this without traffic.
    idle: Duration,
    /// When there was traffic, in nanoseconds.
    active: AtomicU64,
    /// Tells those apart that end at one time.
    id: u64,
    /// Under which end it is noted, in nanoseconds. Changes under the lock of the table.
    noted: AtomicU64,
}

impl Flow {
    /// There is traffic.
    pub(crate) fn touch(&self, now: Instant) {
        self.active.fetch_max(now.as_nanos(), Ordering::Relaxed);
    }

    /// When it ends if there is no traffic.
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
    /// When each ends, as far as was known when it was put there: with traffic it ends later. So traffic costs nothing
    /// here; the order is made good when a flow comes first.
    ends: BTreeMap<(Instant, u64), Arc<Flow>>,
    last_id: u64,
}

impl Table {
    /// Takes out the flow that ends first, if `wanted`.
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

    /// A look at `ends` alone: it may be before the real end, never after it.
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

/// Takes a datagram for a flow; begins a new one if there is none.
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

/// Tells a flow's program that it has ended.
pub(super) fn finish(flow: &Flow) {
    flow.mailbox.finish(io::ErrorKind::BrokenPipe);
}

fn schedule(shared: &Shared, at: Option<Instant>) {
    if let Some(at) = at {
        shared.schedule(&shared.udp.flows.timer.0, at, || shared.udp.flows.timer.clone());
    }
}

/// Ends flows that are idle.
struct IdleTimer(Timer);

impl Timed for IdleTimer {
    fn timer(&self) -> &Timer {
        &self.0
    }

    fn due(self: Arc<Self>, shared: &Arc<Shared>, now: Instant) {
        /// Those that end within this end together.
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
