//! Reassembles received fragments within a memory limit; incomplete packets are dropped after a time.

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

/// Handles a fragment, whose source is a valid host address. Returns the complete packet when this was the last missing
/// fragment: one without fragment header or extension headers, which the stack then parses.
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
    // The reserved bytes, less those actually used.
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

/// Handles the closing of the stack.
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

/// Drops packets that were not completed in time.
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
