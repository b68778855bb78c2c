//! An interface with several queues, made of interfaces with one.
#![allow(unreachable_pub, reason = "a part of a test")]

use std::{io, sync::Arc, time::Duration};

use wg_embed::{
    mio::{Registry, Token},
    poll::Registered,
    tun::{PacketArena, PacketList, Tun, TunEvent},
};

/// The first queue, which is also written, and the others.
pub struct Several(Vec<Arc<dyn Tun>>);

impl Several {
    pub fn new<T: Tun + 'static>(queues: Vec<T>) -> Self {
        Self(queues.into_iter().map(|queue| Arc::new(queue) as Arc<dyn Tun>).collect())
    }
}

impl Tun for Several {
    fn name(&self) -> String {
        self.0[0].name()
    }

    fn mtu(&self) -> u16 {
        self.0[0].mtu()
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0[0].wait(timeout)
    }

    fn register(&self, registry: &Arc<Registry>, tokens: Registered<Token>) -> io::Result<bool> {
        self.0[0].register(registry, tokens)
    }

    fn deregister(&self, registry: &Registry) -> io::Result<()> {
        self.0[0].deregister(registry)
    }

    fn wake(&self) {
        self.0.iter().for_each(|queue| queue.wake());
    }

    fn queues(&self) -> Vec<Arc<dyn Tun>> {
        self.0[1..].to_vec()
    }

    fn event(&self) -> Option<TunEvent> {
        self.0[0].event()
    }

    fn read(&self, arena: &mut PacketArena) -> io::Result<usize> {
        self.0[0].read(arena)
    }

    fn is_drained(&self) -> bool {
        self.0[0].is_drained()
    }

    fn write(&self, packets: PacketList<'_>) -> usize {
        self.0[0].write(packets)
    }

    fn memory(&self) -> usize {
        self.0.iter().map(|queue| queue.memory()).sum()
    }

    fn trim(&self) {
        self.0.iter().for_each(|queue| queue.trim());
    }

    fn queue_limit(&self) -> usize {
        self.0.iter().map(|queue| queue.queue_limit()).sum()
    }
}
