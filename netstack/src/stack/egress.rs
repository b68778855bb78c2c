//! Outgoing packets, and the [`Tun`] from which a tunnel reads them.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use wg_embed::{
    poll::Registered,
    sync::lock,
    tun::{PacketArena, PacketList, Tun, TunEvent},
};

use super::{connections::closed, counters::Dropped, ingress, outbox, segment::Builder, shared::Shared, starved};
use crate::tcp::Header;

/// The bytes of queued packets that are read before connections have a turn.
const OUTBOX_TURN: usize = 64 << 10;

/// The number of events that are kept until the tunnel reads them; the oldest are dropped first.
const MAX_EVENTS: usize = 64;

/// Events that were not yet reported to the tunnel.
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
    /// Reads until the arena is full (returns true) or there are no more packets.
    fn fill(&self, arena: &mut PacketArena) -> bool {
        let shared = &self.0;
        let now = shared.now();
        while let Some(object) = shared.deadlines.pop(now) {
            object.due(shared, now);
        }
        starved::feed(shared, now);
        loop {
            let outbox::Read { moved, dropped, full, waiting } = shared.outbox.read(arena, OUTBOX_TURN);
            if dropped > 0 {
                shared.counters.add(Dropped::OutTooLarge, dropped);
            }
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

/// Builds a segment at its place in the arena. Returns false if there is no room.
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

    fn register(&self, registry: &Arc<mio::Registry>, tokens: Registered<mio::Token>) -> io::Result<bool> {
        self.0.waiter.register(registry, tokens)
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
        loop {
            shared.waiter.set_busy();
            self.fill(arena);
            let read = arena.slots().len() - before;
            if read > 0 {
                return Ok(read);
            }
            if shared.is_closed() {
                return Err(closed());
            }
            if self.is_drained() {
                return Ok(0);
            }
        }
    }

    /// Also prepares a wait: until the next read, packets are signalled.
    fn is_drained(&self) -> bool {
        let shared = &self.0;
        shared.waiter.set_idle();
        // Earlier packets were not signalled.
        let is_drained = shared.outbox.is_idle() && shared.tcp.is_idle() && !shared.memory.can_feed();
        if is_drained {
            shared.waiter.set_deadline(|| shared.deadlines.next(), || shared.now());
        }
        is_drained
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Netstack, Options};
    use std::{
        collections::HashSet,
        sync::{
            Condvar,
            atomic::{AtomicBool, Ordering},
        },
    };

    /// What bounds a hang.
    const LIMIT: Duration = Duration::from_secs(300);
    const ROUNDS: u16 = 2000;

    /// The source ports of packets that were read.
    #[derive(Default)]
    struct Seen {
        ports: Mutex<HashSet<u16>>,
        changed: Condvar,
    }

    impl Seen {
        fn read_all(&self, tun: &dyn Tun, end: &AtomicBool) {
            let mut arena = PacketArena::new(1 << 16, 64, |len, _| len.next_multiple_of(16));
            while !end.load(Ordering::SeqCst) {
                arena.clear(tun.mtu());
                let read = tun.read(&mut arena).unwrap();
                let ports = arena.slots().iter().map(|slot| {
                    let packet = arena.packet(*slot);
                    u16::from_be_bytes([packet[20], packet[21]])
                });
                lock(&self.ports).extend(ports);
                self.changed.notify_all();
                if read == 0 || tun.is_drained() {
                    tun.wait(Some(LIMIT)).unwrap();
                }
            }
        }

        fn wait_for(&self, port: u16) {
            let absent = |ports: &mut HashSet<u16>| !ports.remove(&port);
            let ports = wg_embed::sync::wait_timeout_while(&self.changed, lock(&self.ports), LIMIT, absent);
            drop(ports);
        }
    }

    fn stack() -> Netstack {
        Netstack::new(Options { addresses: vec!["10.0.0.1".parse().unwrap()], ..Options::default() }).unwrap()
    }

    #[test]
    fn packets_after_the_last_one_end_a_wait() {
        let stack = stack();
        let tun = stack.tun();
        let mut arena = PacketArena::new(1 << 16, 1, |len, _| len.next_multiple_of(16));
        let send = || stack.send_datagram(b"x", ([10, 0, 0, 1], 9).into(), ([10, 0, 0, 2], 9).into()).unwrap();
        let mut read = || {
            arena.clear(tun.mtu());
            (tun.read(&mut arena).unwrap(), tun.is_drained())
        };
        send();
        send();
        assert_eq!([read(), read()], [(1, false), (1, true)]);
        // The first packet has been signalled as well.
        tun.wait(Some(Duration::ZERO)).unwrap();
        send();
        let began = std::time::Instant::now();
        tun.wait(Some(LIMIT)).unwrap();
        assert!(began.elapsed() < LIMIT, "it was not signalled");
        assert_eq!(read(), (1, true));
    }

    #[test]
    fn a_second_look_at_an_empty_stack_takes_no_signal() {
        let stack = stack();
        let tun = stack.tun();
        let mut arena = PacketArena::new(1 << 16, 1, |len, _| len.next_multiple_of(16));
        assert_eq!(tun.read(&mut arena).unwrap(), 0);
        // Of a connection, in a round: its signal comes last.
        let to = ([10, 0, 0, 2], 9).into();
        let _stream = stack.0.waiter.round(|| {
            let stream = stack.start_tcp(to).unwrap();
            assert!(!tun.is_drained());
            stream
        });
        let began = std::time::Instant::now();
        tun.wait(Some(LIMIT)).unwrap();
        assert!(began.elapsed() < LIMIT, "it was not signalled");
        assert_eq!(tun.read(&mut arena).unwrap(), 1);
    }

    #[test]
    fn no_wake_up_is_lost_between_programs_and_the_thread_that_reads() {
        let stack = stack();
        let (tun, seen, end) = (stack.tun(), Seen::default(), AtomicBool::new(false));
        let began = std::time::Instant::now();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| seen.read_all(&*tun, &end));
            // Each waits for its packet before it sends the next one: the reader goes idle all the time.
            let datagrams = |from: u16| {
                for port in from..from + ROUNDS {
                    let from = ([10, 0, 0, 1], port).into();
                    stack.send_datagram(b"x", from, ([10, 0, 0, 2], 9).into()).unwrap();
                    seen.wait_for(port);
                }
            };
            let connections = || {
                for _ in 0..ROUNDS {
                    let stream = stack.start_tcp(([10, 0, 0, 2], 9).into()).unwrap();
                    seen.wait_for(stream.local_addr().port());
                }
            };
            let sends = [1000, 10_000].map(|from| scope.spawn(move || datagrams(from)));
            let dials = scope.spawn(connections);
            sends.into_iter().chain([dials]).for_each(|thread| thread.join().unwrap());
            end.store(true, Ordering::SeqCst);
            tun.wake();
            reader.join().unwrap();
        });
        assert!(began.elapsed() < LIMIT, "a wake-up was lost");
    }
}
