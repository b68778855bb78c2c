//! Packets that leave, and the [`Tun`] that a tunnel reads them from.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use wg_embed::{
    sync::lock,
    tun::{PacketArena, PacketList, Tun, TunEvent},
};

use super::{connections::closed, counters::Dropped, ingress, outbox, segment::Builder, shared::Shared, starved};
use crate::tcp::Header;

/// Bytes of packets that are ready, of which so many leave before connections have a turn.
const OUTBOX_TURN: usize = 64 << 10;

/// Events that are kept for a tunnel that does not ask; the oldest go first.
const MAX_EVENTS: usize = 64;

/// What the tunnel has not been told yet.
pub(super) struct Events(Mutex<VecDeque<TunEvent>>);

impl Events {
    pub(super) fn new() -> Self {
        Self(Mutex::new(VecDeque::from([TunEvent::Up])))
    }

    pub(super) fn push(&self, event: TunEvent) {
        let mut events = lock(&self.0);
        if events.len() == MAX_EVENTS {
            events.pop_front();
        }
        events.push_back(event);
    }

    fn pop(&self) -> Option<TunEvent> {
        lock(&self.0).pop_front()
    }
}

/// A stack as the inner side of a tunnel.
pub(super) struct StackTun(pub(super) Arc<Shared>);

impl StackTun {
    /// Reads until the arena is full (returns true) or there is nothing more.
    fn fill(&self, arena: &mut PacketArena) -> bool {
        let shared = &self.0;
        let now = shared.now();
        while let Some(object) = shared.deadlines.pop(now) {
            object.due(shared, now);
        }
        starved::feed(shared, now);
        loop {
            let outbox::Read { moved, dropped, full, waiting } = shared.outbox.read(arena, OUTBOX_TURN);
            shared.counters.add(Dropped::OutTooLarge, dropped);
            waiting.iter().for_each(|waiting| waiting.has_room());
            if full {
                return true;
            }
            let Some(socket) = shared.tcp.next_ready() else {
                if moved == 0 {
                    return false;
                }
                continue;
            };
            if socket.transmit(shared, now, &mut |builder, header, first, second| {
                push(arena, builder, header, first, second)
            }) {
                return true;
            }
        }
    }
}

/// Builds a segment where it will be sealed. Returns false if there is no room.
fn push(arena: &mut PacketArena, builder: &Builder, header: &Header, first: &[u8], second: &[u8]) -> bool {
    let built = builder.build(header, first, second, |len| arena.reserve(len));
    if let Some(len) = built {
        arena.commit(len);
    }
    built.is_some()
}

impl Tun for StackTun {
    fn name(&self) -> String {
        String::new()
    }

    fn mtu(&self) -> u16 {
        self.0.mtu()
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.waiter.wait(timeout)
    }

    fn register(&self, registry: &mio::Registry, token: mio::Token) -> io::Result<bool> {
        self.0.waiter.register(registry, token)
    }

    fn deregister(&self, registry: &mio::Registry) -> io::Result<()> {
        self.0.waiter.deregister(registry)
    }

    fn wake(&self) {
        self.0.waiter.wake();
    }

    fn event(&self) -> Option<TunEvent> {
        self.0.events.pop()
    }

    fn read(&self, arena: &mut PacketArena) -> io::Result<usize> {
        let shared = &self.0;
        let before = arena.slots().len();
        shared.waiter.set_busy();
        loop {
            self.fill(arena);
            let read = arena.slots().len() - before;
            if read > 0 {
                return Ok(read);
            }
            if shared.is_closed() {
                return Err(closed());
            }
            shared.waiter.set_idle();
            // What came before that was not signalled.
            if shared.outbox.is_empty() && !shared.tcp.has_ready() && !shared.memory.can_feed() {
                shared.waiter.set_deadline(|| shared.deadlines.next(), || shared.now());
                return Ok(0);
            }
            shared.waiter.set_busy();
        }
    }

    fn write(&self, packets: PacketList<'_>) -> usize {
        if self.0.is_closed() {
            self.0.counters.add(Dropped::Closed, packets.ranges.len() as u64);
            return 0;
        }
        ingress::receive(&self.0, packets);
        packets.ranges.len()
    }

    fn read_drops(&self) -> u64 {
        self.0.counters.get(Dropped::OutTooLarge)
    }

    fn memory(&self) -> usize {
        self.0.outbox.memory()
    }

    fn trim(&self) {
        self.0.outbox.trim();
    }

    fn queue_limit(&self) -> usize {
        outbox::MAX_MEMORY
    }
}
