//! A [`Tun`] over an app's own packets: its packet flow, its own TCP/IP stack, a test.
//!
//! Packets from the tunnel are passed to a [`PacketSink`], as many at a time as there are; packets for the tunnel are
//! added through a [`PacketInlet`], which never waits.
//!
//! ```
//! use wg_embed::{queue::PacketQueue, tun::{PacketList, Tun, callback::CallbackTun}};
//! # let mut arena = wg_embed::tun::PacketArena::new(4096, 8, |len, _| len.next_multiple_of(16));
//! # arena.clear(1420);
//! let from_tunnel = |packets: PacketList<'_>| packets.iter().count();
//! let tun = CallbackTun::with_sink("", 1420, PacketQueue::within(1 << 19), from_tunnel);
//! let inlet = tun.inlet();
//! // A tunnel reads from it; here it is read directly.
//! assert_eq!(inlet.inject([&[0x45; 20][..], &[0x60; 40]]), 2);
//! assert_eq!(tun.read(&mut arena)?, 2);
//! # Ok::<(), std::io::Error>(())
//! ```

use super::{PacketArena, PacketList, Tun, TunEvent};
use crate::queue::{Monitor, PacketQueue};
use std::{collections::VecDeque, fmt, io, sync::Arc, time::Duration};

/// The number of events that are kept until the tunnel reads them; the oldest are dropped first.
const MAX_EVENTS: usize = 64;

/// A sink for the packets that leave a tunnel.
///
/// It is called on the tunnel's threads, without holding a lock that an inlet or a device needs.
pub trait PacketSink: Send + Sync {
    /// Takes packets, and returns how many; the others are dropped. The tunnel waits for it. It is not called on two
    /// threads at once.
    fn write(&self, packets: PacketList<'_>) -> usize;

    /// Called when at least half of the queue is free again, after [`PacketInlet::inject`] could not take all packets.
    fn has_room(&self) {}
}

impl<F: Fn(PacketList<'_>) -> usize + Send + Sync> PacketSink for F {
    fn write(&self, packets: PacketList<'_>) -> usize {
        self(packets)
    }
}

#[derive(Debug)]
struct State {
    queue: PacketQueue<()>,
    events: VecDeque<TunEvent>,
    mtu: u16,
    up: bool,
    woken: bool,
    removed: bool,
    /// Whether an inlet could not take all packets, and waits for room.
    wants_room: bool,
    /// Packets that were not taken.
    refused: u64,
    /// Packets that were taken, but are too large for any arena.
    read_drops: u64,
}

impl State {
    fn tell(&mut self, event: TunEvent) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    fn read(&mut self, arena: &mut PacketArena) {
        while let Some((_, len)) = self.queue.front() {
            if let Some(room) = arena.reserve(len) {
                self.queue.pop_into(room);
                arena.commit(len);
            } else if arena.slots().is_empty() {
                // It is too large for any arena of this size, and must not block those behind it.
                self.queue.pop_into(&mut []);
                self.read_drops += 1;
            } else {
                break;
            }
        }
    }
}

/// A [`Tun`] for an app's own packets.
pub struct CallbackTun<S> {
    name: String,
    inlet: PacketInlet,
    sink: S,
}

impl<S: PacketSink> CallbackTun<S> {
    /// Creates an interface that is up. `queue`, which must be empty, is for packets that wait to be read; a packet
    /// that does not fit into the empty queue is never taken. The first event is [`TunEvent::Up`].
    #[must_use]
    pub fn with_sink(name: &str, mtu: u16, queue: PacketQueue<()>, sink: S) -> Self {
        let state = State {
            queue,
            events: VecDeque::from([TunEvent::Up]),
            mtu,
            up: true,
            woken: false,
            removed: false,
            wants_room: false,
            refused: 0,
            read_drops: 0,
        };
        Self { name: name.to_owned(), inlet: PacketInlet(Arc::new(Monitor::new(state))), sink }
    }

    /// Returns the inlet for packets.
    #[must_use]
    pub fn inlet(&self) -> PacketInlet {
        self.inlet.clone()
    }

    fn state(&self) -> &Monitor<State> {
        &self.inlet.0
    }
}

fn removed() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the interface was removed")
}

impl<S: PacketSink> Tun for CallbackTun<S> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn mtu(&self) -> u16 {
        self.state().lock().mtu
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        let mut state = self
            .state()
            .wait(timeout, |state| state.woken || state.removed || !state.events.is_empty() || !state.queue.is_empty());
        state.woken = false;
        if state.removed { Err(removed()) } else { Ok(()) }
    }

    fn wake(&self) {
        self.state().change(|state| state.woken = true);
    }

    fn event(&self) -> Option<TunEvent> {
        self.state().lock().events.pop_front()
    }

    fn read(&self, arena: &mut PacketArena) -> io::Result<usize> {
        let mut state = self.state().lock();
        if state.removed {
            return Err(removed());
        }
        let before = arena.slots().len();
        state.read(arena);
        let has_room = state.wants_room && state.queue.is_half_free();
        if has_room {
            state.wants_room = false;
        }
        drop(state);
        if has_room {
            self.sink.has_room();
        }
        Ok(arena.slots().len() - before)
    }

    fn write(&self, packets: PacketList<'_>) -> usize {
        if self.state().lock().removed {
            return 0;
        }
        self.sink.write(packets).min(packets.ranges.len())
    }

    fn read_drops(&self) -> u64 {
        self.state().lock().read_drops
    }

    fn memory(&self) -> usize {
        self.state().lock().queue.memory()
    }

    fn trim(&self) {
        self.state().lock().queue.trim();
    }

    fn queue_limit(&self) -> usize {
        self.state().lock().queue.max_memory()
    }
}

impl<S> fmt::Debug for CallbackTun<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallbackTun").field("name", &self.name).field("inlet", &self.inlet).finish_non_exhaustive()
    }
}

/// An inlet for an app's packets and for changes of its interface. All clones share one queue.
#[derive(Clone, Debug)]
pub struct PacketInlet(Arc<Monitor<State>>);

impl PacketInlet {
    /// Copies packets, each of which begins with its IP header, into the tunnel's queue, as many as there is room for,
    /// and returns how many, counted from the first; 0 if the interface is down or was removed. Never waits. The
    /// iterator must not use the inlet.
    pub fn inject<'a>(&self, packets: impl IntoIterator<Item = &'a [u8]>) -> usize {
        self.0.change(|state| {
            let open = state.up && !state.removed;
            let (mut taken, mut refused) = (0, 0);
            for packet in packets {
                // After one that is not taken, all others are refused, to preserve their order.
                if open && refused == 0 && state.queue.push((), packet) {
                    taken += 1;
                } else {
                    refused += 1;
                }
            }
            state.wants_room |= open && refused > 0;
            state.refused += refused;
            taken
        })
    }

    /// Returns the number of packets that were not taken, or were dropped because they were too large for any arena.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        let state = self.0.lock();
        state.refused + state.read_drops
    }

    /// Changes the MTU; a different one is reported to the tunnel.
    pub fn set_mtu(&self, mtu: u16) {
        self.0.change(|state| {
            if state.mtu != mtu {
                state.mtu = mtu;
                state.tell(TunEvent::Mtu(mtu));
            }
        });
    }

    /// Brings the interface up or down; a change is reported to the tunnel.
    pub fn set_up(&self, up: bool) {
        self.0.change(|state| {
            if state.up != up {
                state.up = up;
                state.tell(if up { TunEvent::Up } else { TunEvent::Down });
            }
        });
    }

    /// Removes the interface: the tunnel's next `wait` or `read` fails.
    pub fn remove(&self) {
        self.0.change(|state| state.removed = true);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::{
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering},
        },
        thread,
    };

    const PACKET: [u8; 1000] = [0x45; 1000];

    fn arena(bytes: usize) -> PacketArena {
        let mut arena = PacketArena::new(bytes, 64, |len, _| len.next_multiple_of(16));
        arena.clear(1420);
        arena
    }

    /// Takes every second packet, and counts what it is told.
    #[derive(Default)]
    struct Sink {
        written: Mutex<Vec<Vec<u8>>>,
        room: AtomicUsize,
    }

    impl PacketSink for Arc<Sink> {
        fn write(&self, packets: PacketList<'_>) -> usize {
            self.written.lock().unwrap().extend(packets.iter().step_by(2).map(<[u8]>::to_vec));
            packets.ranges.len().div_ceil(2)
        }

        fn has_room(&self) {
            self.room.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn tun(packets: usize) -> (CallbackTun<Arc<Sink>>, Arc<Sink>) {
        let sink = Arc::<Sink>::default();
        (CallbackTun::with_sink("app", 1420, PacketQueue::new(packets, 1 << 20), sink.clone()), sink)
    }

    #[test]
    fn the_sink_gets_packets_in_one_call_and_says_how_many_it_took() {
        let (tun, sink) = tun(4);
        let buffer = *b"abbccc";
        let list = PacketList { buffer: &buffer, ranges: &[0..1, 1..3, 3..6] };
        assert_eq!(tun.write(list), 2);
        assert_eq!(*sink.written.lock().unwrap(), [b"a".to_vec(), b"ccc".to_vec()]);
        tun.inlet().remove();
        assert_eq!((tun.write(list), sink.written.lock().unwrap().len()), (0, 2));
        // A sink that counts wrong.
        let tun = CallbackTun::with_sink("", 1420, PacketQueue::new(1, 1), |_: PacketList<'_>| 100);
        assert_eq!(tun.write(list), 3);
    }

    #[test]
    fn room_is_told_once_it_was_missed_and_half_of_the_queue_is_free() {
        let (tun, sink) = tun(8);
        let inlet = tun.inlet();
        let room = || sink.room.load(Ordering::Relaxed);
        let mut three = arena(3 * 1100);
        let mut read = || {
            three.clear(1420);
            tun.read(&mut three).unwrap()
        };
        assert_eq!(inlet.inject([&PACKET[..]; 8]), 8);
        assert_eq!((read(), read(), read(), room()), (3, 3, 2, 0), "nobody has missed it");
        assert_eq!(inlet.inject([&PACKET[..]; 11]), 8);
        assert_eq!((read(), room()), (3, 0), "5 of 8 are left");
        assert_eq!((read(), room()), (3, 1));
        assert_eq!((read(), read(), room()), (2, 0, 1), "it is told once");
        assert_eq!(inlet.dropped(), 3);
    }

    #[test]
    fn behind_one_that_does_not_fit_none_is_taken() {
        let tun = CallbackTun::with_sink("", 1420, PacketQueue::new(8, 1000), |_: PacketList<'_>| 0);
        assert_eq!(tun.inlet().inject([&[1; 600][..], &[2; 600], &[3; 100]]), 1);
        let mut arena = arena(4096);
        assert_eq!(tun.read(&mut arena).unwrap(), 1);
        assert_eq!(arena.packet(arena.slots()[0]), [1; 600]);
    }

    #[test]
    fn packets_go_in_while_the_sink_is_called() {
        let inlet = Arc::new(Mutex::new(None::<PacketInlet>));
        let sink = {
            let inlet = inlet.clone();
            move |packets: PacketList<'_>| inlet.lock().unwrap().as_ref().unwrap().inject(packets.iter())
        };
        let tun = CallbackTun::with_sink("", 1420, PacketQueue::new(8, 1000), sink);
        *inlet.lock().unwrap() = Some(tun.inlet());
        assert_eq!(tun.write(PacketList { buffer: b"ab", ranges: &[0..1, 1..2] }), 2);
        assert_eq!(tun.read(&mut arena(4096)).unwrap(), 2);
    }

    #[test]
    fn every_packet_of_many_threads_comes_through() {
        const EACH: usize = 5000;
        let (tun, _) = tun(100);
        thread::scope(|s| {
            for thread in 0..3_u8 {
                let inlet = tun.inlet();
                s.spawn(move || {
                    for i in 0..EACH {
                        let packet = [&[thread][..], &i.to_be_bytes()].concat();
                        while inlet.inject([&packet[..]]) == 0 {
                            thread::yield_now();
                        }
                    }
                });
            }
            let mut arena = arena(4096);
            let mut next = [0; 3];
            while next != [EACH; 3] {
                arena.clear(1420);
                if tun.read(&mut arena).unwrap() == 0 {
                    tun.wait(None).unwrap();
                }
                for slot in arena.slots() {
                    let (thread, number) = arena.packet(*slot).split_first().unwrap();
                    assert_eq!(*number, next[usize::from(*thread)].to_be_bytes());
                    next[usize::from(*thread)] += 1;
                }
            }
        });
    }
}
