//! The inner side of a tunnel: one trait over a TUN device, a file descriptor or an app's own packets.
//!
//! Packets that are read land in a [`PacketArena`], packed so that they can be sealed in place and leave as one
//! segmented send. Packets that are written are a [`PacketList`], so that a device with offloads can put a run of
//! them together. One thread reads (`wait`, `read`), one at a time writes, any may wake or ask.
//!
//! | file | where packets come from |
//! |---|---|
//! | [`linux`] | TUN devices of Linux and Android, with offloads if they have them |
//! | [`fd`] | any descriptor that keeps packets apart, on any Unix; also Apple's `utun`, by means of `apple` |
//! | [`callback`] | callbacks of the program, and its calls |
//! | [`mem`] | bounded queues in memory: for programs that poll, and for tests |
//!
//! [`offload`] has the pure functions for devices with offloads.

#[cfg(target_vendor = "apple")]
pub mod apple;
pub mod callback;
#[cfg(unix)]
mod descriptor;
#[cfg(unix)]
pub mod fd;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub mod linux;
pub mod mem;
pub mod offload;
#[cfg(unix)]
mod packet_fd;
#[cfg(unix)]
mod waiter;

use std::{fmt, io, net::IpAddr, ops::Range, time::Duration};

use crate::reserve::zeroed;

/// Bytes in front of each packet of an arena: a data message's header.
pub const HEADROOM: usize = 16;

/// Bytes behind each packet of an arena, after its padding: the authentication tag.
pub const TAILROOM: usize = 16;

/// The MTU of an interface that has none and comes without a hint.
pub const DEFAULT_MTU: u16 = 1420;

/// The largest IP packet.
pub const MAX_PACKET: usize = 65_535;

/// What a TUN of this library keeps in buffers of its own at most: one packet, with a header of up to 64 bytes.
pub const MAX_MEMORY: usize = MAX_PACKET + 64;

/// A change of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunEvent {
    /// It was brought up.
    Up,
    /// It was taken down.
    Down,
    /// Its MTU is now this.
    Mtu(u16),
}

/// A packet in a [`PacketArena`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Where the packet begins in the arena; [`HEADROOM`] bytes in front of it are free.
    pub start: usize,
    /// The packet's length.
    pub len: usize,
    /// The packet's length with padding; [`TAILROOM`] bytes behind that are free.
    pub padded: usize,
}

impl Slot {
    /// Head room, padded packet and tail room: the bytes of the sealed message.
    #[must_use]
    pub const fn message(&self) -> Range<usize> {
        self.start - HEADROOM..self.start + self.padded + TAILROOM
    }
}

/// A buffer of fixed size for packets that are read from a [`Tun`], each with space around it for a data message.
///
/// Messages lie back to back: a run of packets of one size is a run of messages of one size.
pub struct PacketArena {
    buffer: Box<[u8]>,
    used: usize,
    slots: Vec<Slot>,
    max_slots: usize,
    mtu: usize,
    pad: fn(len: usize, mtu: usize) -> usize,
}

impl PacketArena {
    /// Room for `bytes` bytes of messages and at most `max_slots` packets. `pad` gives the padded length of a packet
    /// of `len` bytes at `mtu`; it must return at least `len` and at most 15 more.
    ///
    /// # Panics
    /// If there is no memory for it.
    #[must_use]
    #[allow(clippy::panic, reason = "it says so")]
    pub fn new(bytes: usize, max_slots: usize, pad: fn(len: usize, mtu: usize) -> usize) -> Self {
        Self::try_new(bytes, max_slots, pad).unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`new`](Self::new).
    ///
    /// # Errors
    /// `OutOfMemory` if there is no memory for it.
    pub fn try_new(bytes: usize, max_slots: usize, pad: fn(len: usize, mtu: usize) -> usize) -> io::Result<Self> {
        let mut slots = Vec::new();
        slots.try_reserve_exact(max_slots)?;
        Ok(Self { buffer: zeroed(bytes)?, used: 0, slots, max_slots, mtu: 0, pad })
    }

    /// Empties the arena; packets pushed from now on are padded for `mtu`.
    pub fn clear(&mut self, mtu: u16) {
        self.used = 0;
        self.slots.clear();
        self.mtu = usize::from(mtu);
    }

    /// Where to put a packet of up to `max` bytes; `None` if there is no room for it in this round. The bytes are not
    /// cleared. Follow with [`commit`](Self::commit), or the room is used again.
    pub fn reserve(&mut self, max: usize) -> Option<&mut [u8]> {
        let start = self.used + HEADROOM;
        // Padding adds at most 15 bytes.
        let end = start.checked_add(max)?.checked_add(15 + TAILROOM)?;
        if self.slots.len() == self.max_slots || end > self.buffer.len() {
            return None;
        }
        Some(&mut self.buffer[start..start + max])
    }

    /// Keeps the first `len` bytes of what was reserved as a packet, and clears its padding.
    ///
    /// # Panics
    /// If less was reserved; that is a bug of the [`Tun`].
    pub fn commit(&mut self, len: usize) {
        let start = self.used + HEADROOM;
        let padded = (self.pad)(len, self.mtu);
        self.buffer[start + len..start + padded].fill(0);
        self.slots.push(Slot { start, len, padded });
        self.used = start + padded + TAILROOM;
    }

    /// Copies a packet in. Returns false if there is no room for it.
    pub fn push(&mut self, packet: &[u8]) -> bool {
        let Some(room) = self.reserve(packet.len()) else {
            return false;
        };
        room.copy_from_slice(packet);
        self.commit(packet.len());
        true
    }

    /// The packets, in the order in which they were read.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The bytes of a packet.
    #[must_use]
    pub fn packet(&self, slot: Slot) -> &[u8] {
        &self.buffer[slot.start..slot.start + slot.len]
    }

    /// The packets, and the bytes that they and their messages lie in.
    pub fn parts_mut(&mut self) -> (&[Slot], &mut [u8]) {
        (&self.slots, &mut self.buffer[..self.used])
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub const fn memory(&self) -> usize {
        self.buffer.len() + self.slots.capacity() * size_of::<Slot>()
    }

    /// The bytes that packets and their messages lie in.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.used]
    }
}

// Without the bytes of the packets: they are the user's.
impl fmt::Debug for PacketArena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacketArena")
            .field("size", &self.buffer.len())
            .field("used", &self.used)
            .field("slots", &self.slots.len())
            .finish_non_exhaustive()
    }
}

/// Packets to write: ranges of one buffer, in order.
#[derive(Clone, Copy)]
pub struct PacketList<'a> {
    /// Where the packets lie.
    pub buffer: &'a [u8],
    /// Where each one is.
    pub ranges: &'a [Range<usize>],
}

impl<'a> PacketList<'a> {
    /// Packet number `i`.
    #[must_use]
    pub fn get(&self, i: usize) -> &'a [u8] {
        &self.buffer[self.ranges[i].clone()]
    }

    /// The packets, in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        self.ranges.iter().map(|r| &self.buffer[r.clone()])
    }
}

impl fmt::Debug for PacketList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacketList").field("ranges", &self.ranges).finish_non_exhaustive()
    }
}

/// Where inner packets come from and go to.
pub trait Tun: Send + Sync {
    /// The interface's name; empty if it has none.
    fn name(&self) -> String;

    /// The interface's MTU now.
    fn mtu(&self) -> u16;

    /// Waits until something may be read, an event is there, [`wake`](Self::wake) is called, or `timeout` has passed.
    /// May return without a reason. Only after `read` has returned 0: what was there before may not be told again. A
    /// wake that came since the last wait ends the wait at once.
    ///
    /// # Errors
    /// If the interface is gone.
    fn wait(&self, timeout: Option<Duration>) -> io::Result<()>;

    /// Registers with another poll, in which `token` becomes ready whenever [`wait`](Self::wait) would end, until
    /// [`deregister`](Self::deregister): so one thread can wait for this and for something else. Before that thread
    /// reads on, it calls `wait` with a time limit of zero. Returns false, the default, if there is only `wait`.
    ///
    /// # Errors
    /// As the system says.
    fn register(&self, registry: &mio::Registry, token: mio::Token) -> io::Result<bool> {
        let _ = (registry, token);
        Ok(false)
    }

    /// Undoes [`register`](Self::register).
    ///
    /// # Errors
    /// As the system says.
    fn deregister(&self, registry: &mio::Registry) -> io::Result<()> {
        let _ = registry;
        Ok(())
    }

    /// Ends the current or the next `wait`. Any thread may call it.
    fn wake(&self);

    /// The next event that has not been told yet.
    fn event(&self) -> Option<TunEvent>;

    /// Reads packets into `arena`, which was cleared, without waiting, until it is full or there are no more, and
    /// returns how many. 0 means there is nothing now. An arena should have room for one packet of [`MAX_PACKET`]
    /// bytes: one that fits into none is dropped.
    ///
    /// # Errors
    /// If the interface is gone: the tunnel ends then.
    fn read(&self, arena: &mut PacketArena) -> io::Result<usize>;

    /// Writes packets, and returns how many were taken. The others are dropped. Packets of one flow keep their order.
    /// Does not wait, but for a few milliseconds where the other side is an app that is behind.
    fn write(&self, packets: PacketList<'_>) -> usize;

    /// Returns the length of the prefix of the route to the sender of a packet that was read, if that is another host
    /// and the system has forwarded the packet; `None` if the system itself has sent it, or if that is unknown.
    fn route_back(&self, sender: IpAddr) -> Option<u8> {
        let _ = sender;
        None
    }

    /// How many packets were read and dropped so far: malformed, or too large for any arena.
    fn read_drops(&self) -> u64 {
        0
    }

    /// Bytes of memory that its own buffers take now.
    fn memory(&self) -> usize {
        0
    }

    /// Gives back what memory it can do without until it is read again.
    fn trim(&self) {}

    /// The most that packets which wait to be read may make of [`memory`](Self::memory). A device has so much less for
    /// packets that wait for a session.
    fn queue_limit(&self) -> usize {
        0
    }
}
