//! The descriptor of a [`Tun`](super::Tun): one thread reads it, one writes it, one waits for it, and any thread may
//! replace it at the same time.

use super::{MAX_MEMORY, PacketArena, PacketList, offload::split::Split, packet_fd::PacketFd, waiter::Waiter};
use crate::{reserve::zeroed, sync::lock};
use std::{
    fmt, io, mem,
    ops::Range,
    os::fd::AsFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Reads and writes packets in the format of a descriptor.
pub(super) trait PacketIo {
    /// Returns the descriptor.
    fn fd(&self) -> &PacketFd;

    /// Reads until the arena is full or there are no more packets, beginning with the packet kept in `reading`. Most
    /// packets have at most `usual` bytes.
    fn read(&self, reading: &mut Reading, arena: &mut PacketArena, usual: u16) -> io::Result<usize>;

    /// Writes packets, and returns how many were taken.
    fn write(&self, packets: PacketList<'_>) -> usize;
}

/// The state between two reads.
#[derive(Default)]
pub(super) struct Reading {
    /// Room for any packet with any header; empty until the first read.
    pub(super) buffer: Vec<u8>,
    /// The rest of the packet in this part of `buffer`, for which there was no room in the arena.
    pub(super) kept: Option<(Split, Range<usize>)>,
    /// The number of packets dropped since the last count.
    pub(super) drops: u64,
    /// Whether the last read found the descriptor empty.
    pub(super) is_drained: bool,
}

impl Reading {
    /// Moves the kept packet into the arena. Returns false if not all of it fits.
    pub(super) fn drain(&mut self, arena: &mut PacketArena) -> bool {
        if let Some((split, packet)) = &mut self.kept {
            if !split.fill(&self.buffer[packet.clone()], arena) {
                if !arena.slots().is_empty() {
                    return false;
                }
                self.drops += 1;
            }
            self.kept = None;
        }
        true
    }
}

// Without the bytes of packets: they are the user's.
impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").field("kept", &self.kept).finish_non_exhaustive()
    }
}

/// A descriptor that can be replaced. Its locks are taken in the order of the fields.
///
/// A reader or writer holds its lock during the call: once both locks have been taken, the old descriptor is unused.
#[derive(Debug)]
pub(super) struct Descriptor<P> {
    reader: Mutex<(Arc<P>, Reading)>,
    writer: Mutex<Arc<P>>,
    drops: AtomicU64,
    pub(super) waiter: Waiter,
}

impl<P: PacketIo> Descriptor<P> {
    pub(super) fn new(packets: Arc<P>) -> io::Result<Self> {
        let waiter = Waiter::new()?;
        waiter.add_packets(packets.fd().as_fd())?;
        let reader = Mutex::new((packets.clone(), Reading::default()));
        Ok(Self { reader, writer: Mutex::new(packets), drops: AtomicU64::new(0), waiter })
    }

    /// Uses `packets` from now on. When this returns, the old descriptor is no longer read or written. A packet that
    /// was read from it, and has not yet been passed on, is passed on by the next read. `change` makes further changes
    /// while nothing is read or written.
    ///
    /// # Errors
    /// If it cannot be waited for. Nothing has changed then.
    pub(super) fn replace(&self, packets: Arc<P>, change: impl FnOnce()) -> io::Result<()> {
        self.waiter.add_packets(packets.fd().as_fd())?;
        let mut reader = lock(&self.reader);
        let mut writer = lock(&self.writer);
        reader.0 = packets.clone();
        let old = mem::replace(&mut *writer, packets);
        change();
        drop((reader, writer));
        self.waiter.remove_packets(old.fd().as_fd());
        // The reader may have been notified of packets, and searched for them in the old descriptor.
        self.waiter.wake();
        Ok(())
    }

    pub(super) fn read(&self, arena: &mut PacketArena, usual: u16) -> io::Result<usize> {
        let mut reader = lock(&self.reader);
        let (packets, reading) = &mut *reader;
        packets.fd().check()?;
        if reading.buffer.is_empty() {
            reading.buffer = zeroed(MAX_MEMORY)?.into_vec();
        }
        reading.is_drained = false;
        let result = packets.read(reading, arena, usual);
        if reading.drops > 0 {
            self.drops.fetch_add(mem::take(&mut reading.drops), Relaxed);
        }
        result
    }

    pub(super) fn write(&self, packets: PacketList<'_>) -> usize {
        let writer = lock(&self.writer);
        let taken = writer.write(packets);
        let is_gone = writer.fd().check().is_err();
        drop(writer);
        if is_gone {
            // The next read returns the error.
            self.waiter.wake();
        }
        taken
    }

    /// Holds the writer's lock, like a write in progress.
    #[cfg(test)]
    #[allow(dead_code, reason = "not every system's TUN has a test that needs it")]
    pub(super) fn hold(&self) -> impl Drop + '_ {
        lock(&self.writer)
    }

    /// Implements [`Tun::is_drained`](super::Tun::is_drained).
    pub(super) fn is_drained(&self) -> bool {
        lock(&self.reader).1.is_drained
    }

    /// Returns the number of packets that were read but could not be passed on.
    pub(super) fn drops(&self) -> u64 {
        self.drops.load(Relaxed)
    }

    /// Returns the current size of the buffer in bytes.
    pub(super) fn memory(&self) -> usize {
        lock(&self.reader).1.buffer.capacity()
    }

    /// Frees the buffer until the next read, if it is empty.
    pub(super) fn trim(&self) {
        let reading = &mut lock(&self.reader).1;
        if reading.kept.is_none() {
            reading.buffer = Vec::new();
        }
    }
}
