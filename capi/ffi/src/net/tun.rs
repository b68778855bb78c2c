//! A stack as the TUN of a tunnel that is turned off by its app, not by the stack: the stack's last packets are still
//! sent, and the end of the stack is not considered an end of the tunnel by itself.

use std::{
    io,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use wg_embed::{
    poll::Registered,
    queue::wait_until,
    sync,
    tun::{PacketArena, PacketList, Tun, TunEvent},
};

/// How far a stack has got on its way to its end.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    /// The library is closing it.
    Closing,
    /// It was closed, and its last packets can be read.
    Closed,
    /// These packets were read.
    Read,
}

/// The end of a stack.
#[derive(Default)]
pub(super) struct End {
    stage: Mutex<Stage>,
    changed: Condvar,
}

impl End {
    /// Runs `close`, which closes the stack.
    pub(super) fn closing(&self, close: impl FnOnce()) {
        *sync::lock(&self.stage) = Stage::Closing;
        close();
        *sync::lock(&self.stage) = Stage::Closed;
    }

    /// Waits until the tunnel has read, and so sent, what the stack had to say, but no longer than it may take.
    pub(super) fn wait(&self, most: Duration) {
        drop(wait_until(&self.changed, sync::lock(&self.stage), Some(most), |stage| *stage == Stage::Read));
    }

    fn stage(&self) -> Stage {
        *sync::lock(&self.stage)
    }

    /// Reports the end of reading. `before` is the stage at the begin of that read. Returns false if the library has
    /// not closed the stack.
    fn read_all(&self, before: Stage) -> bool {
        let mut stage = sync::lock(&self.stage);
        if before == Stage::Closed {
            *stage = Stage::Read;
            self.changed.notify_all();
        }
        *stage != Stage::Open
    }
}

pub(super) struct NetTun {
    pub(super) stack: Arc<dyn Tun>,
    pub(super) end: Arc<End>,
}

impl Tun for NetTun {
    fn name(&self) -> String {
        self.stack.name()
    }

    fn mtu(&self) -> u16 {
        self.stack.mtu()
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stack.wait(timeout)
    }

    fn register(&self, registry: &Arc<mio::Registry>, tokens: Registered<mio::Token>) -> io::Result<bool> {
        self.stack.register(registry, tokens)
    }

    fn deregister(&self, registry: &mio::Registry) -> io::Result<()> {
        self.stack.deregister(registry)
    }

    fn wake(&self) {
        self.stack.wake();
    }

    fn event(&self) -> Option<TunEvent> {
        self.stack.event()
    }

    fn read(&self, arena: &mut PacketArena) -> io::Result<usize> {
        let stage = self.end.stage();
        match self.stack.read(arena) {
            Err(_) if self.end.read_all(stage) => Ok(0),
            outcome => outcome,
        }
    }

    fn is_drained(&self) -> bool {
        self.stack.is_drained()
    }

    fn write(&self, packets: PacketList<'_>) -> usize {
        self.stack.write(packets)
    }

    fn read_drops(&self) -> u64 {
        self.stack.read_drops()
    }

    fn memory(&self) -> usize {
        self.stack.memory()
    }

    fn trim(&self) {
        self.stack.trim();
    }

    fn queue_limit(&self) -> usize {
        self.stack.queue_limit()
    }
}
