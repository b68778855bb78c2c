//! The queues of an interface that has several (IFF_MULTI_QUEUE): each has a descriptor of its own, and is read by
//! another thread. All are written by the thread that has packets for them.

use std::{
    io,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{Packets, steering::Steering};
use crate::{
    sync::lock,
    tun::{MAX_MEMORY, PacketArena, PacketList, Tun, TunEvent, descriptor::Descriptor},
};

/// The number of packets for a queue in one write whose memory is kept.
const USUAL: usize = 512;

/// What an interface with several queues has in addition to the first.
#[derive(Debug)]
pub(super) struct Queues {
    further: Vec<Arc<Queue>>,
    steering: Arc<Steering>,
    /// The packets of a write, by queue; empty between writes.
    lists: Mutex<Vec<Vec<Range<usize>>>>,
}

impl Queues {
    /// Creates the queues behind the first.
    pub(super) fn new(further: Vec<Packets>, mtu: &Arc<AtomicU16>) -> io::Result<Self> {
        let number = 1 + further.len();
        let steering = Arc::new(Steering::new(number));
        let queue = |(packets, number)| {
            let descriptor = Descriptor::new(Arc::new(packets))?;
            Ok(Arc::new(Queue { number, descriptor, steering: steering.clone(), mtu: mtu.clone() }))
        };
        let further = further.into_iter().zip(1..).map(queue).collect::<io::Result<_>>()?;
        Ok(Self { further, steering, lists: Mutex::new(vec![Vec::new(); number]) })
    }

    pub(super) fn further(&self) -> Vec<Arc<dyn Tun>> {
        self.further.iter().map(|queue| queue.clone() as Arc<dyn Tun>).collect()
    }

    /// Records that these packets were read from the first queue.
    pub(super) fn note_first(&self, arena: &PacketArena) {
        self.steering.note(0, arena);
    }

    /// Writes packets, each to the queue of its flow, and returns how many were taken.
    pub(super) fn write(&self, first: &Descriptor<Packets>, packets: PacketList<'_>) -> usize {
        let mut lists = lock(&self.lists);
        for (range, packet) in packets.ranges.iter().zip(packets.iter()) {
            let list = &mut lists[self.steering.queue_of(packet)];
            if list.try_reserve(1).is_ok() {
                list.push(range.clone());
            }
        }
        let descriptors = [first].into_iter().chain(self.further.iter().map(|queue| &queue.descriptor));
        let mut taken = 0;
        for (descriptor, list) in descriptors.zip(lists.iter_mut()).filter(|(_, list)| !list.is_empty()) {
            taken += descriptor.write(PacketList { buffer: packets.buffer, ranges: list });
            list.clear();
            list.shrink_to(USUAL);
        }
        taken
    }

    pub(super) fn wake(&self) {
        self.further.iter().for_each(|queue| queue.wake());
    }

    pub(super) fn drops(&self) -> u64 {
        self.further.iter().map(|queue| queue.descriptor.drops()).sum()
    }

    pub(super) fn memory(&self) -> usize {
        let lists: usize = lock(&self.lists).iter().map(Vec::capacity).sum();
        let buffers: usize = self.further.iter().map(|queue| queue.descriptor.memory()).sum();
        lists * size_of::<Range<usize>>() + buffers + Steering::MEMORY
    }

    /// Returns the maximum of [`memory`](Self::memory).
    pub(super) const fn max_memory(&self) -> usize {
        let further = self.further.len();
        (1 + further) * USUAL * size_of::<Range<usize>>() + further * MAX_MEMORY + Steering::MEMORY
    }

    pub(super) fn trim(&self) {
        lock(&self.lists).iter_mut().for_each(Vec::shrink_to_fit);
        self.further.iter().for_each(|queue| queue.descriptor.trim());
    }
}

/// A further queue.
#[derive(Debug)]
struct Queue {
    number: u8,
    descriptor: Descriptor<Packets>,
    steering: Arc<Steering>,
    /// That of the interface.
    mtu: Arc<AtomicU16>,
}

impl Tun for Queue {
    fn name(&self) -> String {
        String::new()
    }

    fn mtu(&self) -> u16 {
        self.mtu.load(Relaxed)
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.descriptor.waiter.wait(timeout).map(drop)
    }

    fn wake(&self) {
        self.descriptor.waiter.wake();
    }

    fn event(&self) -> Option<TunEvent> {
        None
    }

    fn read(&self, arena: &mut PacketArena) -> io::Result<usize> {
        let read = self.descriptor.read(arena, self.mtu())?;
        self.steering.note(self.number, arena);
        Ok(read)
    }

    fn is_drained(&self) -> bool {
        self.descriptor.is_drained()
    }

    fn write(&self, packets: PacketList<'_>) -> usize {
        self.descriptor.write(packets)
    }
}
