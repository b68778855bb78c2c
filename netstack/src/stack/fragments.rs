//! Fragments that arrive are put together within a bound; those whose others do not come are forgotten.

mod reassembler;

use std::sync::{Arc, Mutex};

use wg_embed::{sync::lock, time::Instant};

use self::reassembler::{Reassembler, Verdict};
use super::{
    counters::Dropped,
    deadlines::{Timed, Timer},
    icmp,
    packet::Packet,
    shared::Shared,
};
use crate::tcp::Budget;

/// Packets of which fragments have arrived.
pub(crate) struct State {
    reassembler: Mutex<Reassembler>,
    timer: Arc<Timeout>,
}

impl Default for State {
    fn default() -> Self {
        Self { reassembler: Mutex::new(Reassembler::new()), timer: Arc::new(Timeout(Timer::new())) }
    }
}

/// Takes a fragment; its source is a host. Returns the whole packet when this was the last one missing: one without
/// fragment header or extension headers, which the stack then parses.
pub(crate) fn receive(shared: &Arc<Shared>, packet: &Packet<'_>) -> Option<Vec<u8>> {
    let now = shared.now();
    let cost = reassembler::most_memory(packet);
    if !shared.memory.take(cost) {
        shared.dropped(Dropped::FragmentMemory);
        return None;
    }
    let mut reassembler = lock(&shared.fragments.reassembler);
    let before = reassembler.memory();
    let verdict = reassembler.receive(packet, now);
    // What was taken, less what it has really become.
    shared.memory.give((before + cost).saturating_sub(reassembler.memory()));
    let (evicted, next) = (reassembler.take_evicted(), reassembler.next_timeout());
    drop(reassembler);
    if evicted > 0 {
        shared.counters.add(Dropped::FragmentMemory, evicted);
    }
    if let Some(at) = next {
        schedule(shared, at);
    }
    let reason = match verdict {
        Verdict::Whole(whole) => return Some(whole),
        Verdict::Waits => return None,
        Verdict::Malformed => Dropped::FragmentMalformed,
        Verdict::Overlap => Dropped::FragmentOverlap,
        Verdict::NoRoom => Dropped::FragmentMemory,
    };
    shared.dropped(reason);
    None
}

/// The stack was closed.
pub(crate) fn close(shared: &Arc<Shared>) {
    let mut reassembler = lock(&shared.fragments.reassembler);
    shared.memory.give(reassembler.memory());
    *reassembler = Reassembler::new();
    drop(reassembler);
    shared.unschedule(&shared.fragments.timer.0);
}

fn schedule(shared: &Shared, at: Instant) {
    shared.schedule(&shared.fragments.timer.0, at, || shared.fragments.timer.clone());
}

/// Forgets packets that have not become whole in time.
struct Timeout(Timer);

impl Timed for Timeout {
    fn timer(&self) -> &Timer {
        &self.0
    }

    fn due(self: Arc<Self>, shared: &Arc<Shared>, now: Instant) {
        let mut first_fragments = Vec::new();
        let mut reassembler = lock(&shared.fragments.reassembler);
        let before = reassembler.memory();
        let mut fragments = 0;
        while let Some(expired) = reassembler.expire(now) {
            fragments += expired.fragments;
            first_fragments.extend(expired.first);
        }
        shared.memory.give(before - reassembler.memory());
        let next = reassembler.next_timeout();
        drop(reassembler);
        shared.counters.add(Dropped::FragmentTimeout, fragments);
        if let Some(at) = next {
            schedule(shared, at);
        }
        for first in first_fragments {
            icmp::reassembly_timeout(shared, &first, now);
        }
    }
}
