//! The inner side of a tunnel: one trait over a TUN device, a file descriptor or an app's own packets.
//!
//! Packets are read into a [`PacketArena`], packed so that they can be sealed in place and sent as one segmented send.
//! Packets to write are a [`PacketList`], so that a device with offloads can coalesce them. One thread reads (`wait`,
//! `read`), one at a time writes, any may call the other functions.
//!
//! | file | source of packets |
//! |---|---|
//! | [`linux`] | TUN devices of Linux and Android, with offloads if they have them |
//! | [`fd`] | any descriptor with packet boundaries, on any Unix; also Apple's `utun`, by means of `apple` |
//! | `windows` | adapters of Wintun |
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
#[cfg(windows)]
pub mod windows;

use std::{fmt, io, net::IpAddr, ops::Range, sync::Arc, time::Duration};

use crate::{poll::Registered, reserve::zeroed};

/// Bytes before each packet of an arena: a data message's header.
pub const HEADROOM: usize = 16;

/// Bytes behind each packet of an arena and its padding: the authentication tag.
pub const TAILROOM: usize = 16;

/// The default MTU, for interfaces without an MTU.
pub const DEFAULT_MTU: u16 = 1420;

/// The largest IP packet.
pub const MAX_PACKET: usize = 65_535;

/// The maximum buffer memory of a TUN of this library: one packet, with a header of up to 64 bytes.
pub const MAX_MEMORY: usize = MAX_PACKET + 64;

/// The largest number of queues of an interface: each has a thread and memory of its own.
pub const MAX_QUEUES: usize = 8;

/// A change of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TunEvent {
    /// The interface was brought up.
    Up,
    /// The interface was taken down.
    Down,
    /// The MTU changed to this value.
    Mtu(u16),
}

/// A packet in a [`PacketArena`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The offset of the packet in the arena; [`HEADROOM`] bytes before it are free.
    pub start: usize,
    /// The packet's length.
    pub len: usize,
    /// The packet's length with padding; [`TAILROOM`] bytes behind that are free.
    pub padded: usize,
}

impl Slot {
    /// Returns the range of the sealed message: head room, padded packet and tail room.
    #[must_use]
    pub const fn message(&self) -> Range<usize> {
        self.start - HEADROOM..self.start + self.padded + TAILROOM
    }
}

/// A buffer of fixed size for packets read from a [`Tun`], each with space around it for a data message.
///
/// Messages lie back to back: a run of packets of equal size is a run of messages of equal size.
///
/// ```
/// use wg_embed::tun::PacketArena;
///
/// let mut arena = PacketArena::new(4096, 8, |len, _mtu| len.next_multiple_of(16));
/// assert!(arena.push(&[0x45; 20]));
/// let slot = arena.slots()[0];
/// assert_eq!((slot.len, slot.padded), (20, 32));
/// assert_eq!(arena.packet(slot), [0x45; 20]);
/// ```
pub struct PacketArena {
    buffer: Box<[u8]>,
    used: usize,
    slots: Vec<Slot>,
    max_slots: usize,
    mtu: usize,
    pad: fn(len: usize, mtu: usize) -> usize,
}

impl PacketArena {
    /// Creates an arena with `bytes` bytes for messages and at most `max_slots` packets. `pad` returns the padded
    /// length of a packet of `len` bytes at `mtu`, which must be at least `len` and at most 15 more.
    ///
    /// # Panics
    /// If there is no memory for it.
    #[must_use]
    #[allow(clippy::panic, reason = "it says so")]
    pub fn new(bytes: usize, max_slots: usize, pad: fn(len: usize, mtu: usize) -> usize) -> Self {
        Self::try_new(bytes, max_slots, pad).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Creates an arena like [`new`](Self::new), but reports a lack of memory.
    ///
    /// # Errors
    /// `OutOfMemory` if there is no memory for it.
    pub fn try_new(bytes: usize, max_slots: usize, pad: fn(len: usize, mtu: usize) -> usize) -> io::Result<Self> {
        let mut slots = Vec::new();
        slots.try_reserve_exact(max_slots)?;
        Ok(Self { buffer: zeroed(bytes)?, used: 0, slots, max_slots, mtu: 0, pad })
    }

    /// Creates an arena that has no room, and no memory.
    pub(crate) fn without_memory(pad: fn(len: usize, mtu: usize) -> usize) -> Self {
        Self { buffer: Box::default(), used: 0, slots: Vec::new(), max_slots: 0, mtu: 0, pad }
    }

    /// Empties the arena; packets pushed from now on are padded for `mtu`.
    pub fn clear(&mut self, mtu: u16) {
        self.used = 0;
        self.slots.clear();
        self.mtu = usize::from(mtu);
    }

    /// Returns room for a packet of up to `max` bytes; `None` if there is none until the arena is cleared. The bytes
    /// are not cleared. Call [`commit`](Self::commit) afterwards, or the room is reused.
    pub fn reserve(&mut self, max: usize) -> Option<&mut [u8]> {
        self.reserve_behind(0, max)
    }

    /// Returns room as [`reserve`](Self::reserve) does, with `front` bytes before it for a header that is not part of
    /// the packet, at most [`HEADROOM`]. `commit` then takes the packet's length without it.
    pub fn reserve_behind(&mut self, front: usize, max: usize) -> Option<&mut [u8]> {
        let start = self.used + HEADROOM;
        // Padding adds at most 15 bytes.
        let end = start.checked_add(max)?.checked_add(15 + TAILROOM)?;
        if front > HEADROOM || self.slots.len() == self.max_slots || end > self.buffer.len() {
            return None;
        }
        Some(&mut self.buffer[start - front..start + max])
    }

    /// Spreads a packet that was read into reserved room: piece `i` of the bytes behind its first `headers` becomes the
    /// end of a packet of its own, which begins with room for `headers` bytes. All pieces have `size` bytes, except for
    /// the last one. `finish` is called for each of them with its number, the room and the piece; then they are
    /// committed. Returns false if there is no room for all of them, and nothing has changed.
    pub(in crate::tun) fn spread(
        &mut self,
        len: usize,
        headers: usize,
        size: usize,
        mut finish: impl FnMut(usize, &mut [u8], &mut [u8]),
    ) -> bool {
        let (start, payload) = (self.used + HEADROOM, len - headers);
        let count = payload.div_ceil(size);
        let stride = HEADROOM + (self.pad)(headers + size, self.mtu) + TAILROOM;
        let end = start + count * stride;
        if self.slots.len() + count > self.max_slots || end > self.buffer.len() {
            return false;
        }
        // From the last: each moves to a place behind the pieces that have not been moved yet.
        for i in (0..count).rev() {
            let piece = i * size..payload.min((i + 1) * size);
            let (from, to) = (start + headers + piece.start, start + i * stride);
            self.buffer.copy_within(from..from + piece.len(), to + headers);
            let (head, body) = self.buffer[to..to + headers + piece.len()].split_at_mut(headers);
            finish(i, head, body);
        }
        for i in 0..count {
            self.commit(headers + size.min(payload - i * size));
        }
        true
    }

    /// Keeps the first `len` reserved bytes as a packet, and clears its padding.
    ///
    /// # Panics
    /// If fewer were reserved, which is a bug of the [`Tun`].
    pub fn commit(&mut self, len: usize) {
        let start = self.used + HEADROOM;
        let padded = (self.pad)(len, self.mtu);
        self.buffer[start + len..start + padded].fill(0);
        self.slots.push(Slot { start, len, padded });
        self.used = start + padded + TAILROOM;
    }

    /// Copies a packet into the arena. Returns false if there is no room for it.
    pub fn push(&mut self, packet: &[u8]) -> bool {
        let Some(room) = self.reserve(packet.len()) else {
            return false;
        };
        room.copy_from_slice(packet);
        self.commit(packet.len());
        true
    }

    /// Returns the packets, in the order in which they were read.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Returns the bytes of a packet.
    #[must_use]
    pub fn packet(&self, slot: Slot) -> &[u8] {
        &self.buffer[slot.start..slot.start + slot.len]
    }

    /// Returns the packets, and the bytes of the packets and their messages.
    pub fn parts_mut(&mut self) -> (&[Slot], &mut [u8]) {
        (&self.slots, &mut self.buffer[..self.used])
    }

    /// Returns its memory in bytes.
    #[must_use]
    pub const fn memory(&self) -> usize {
        self.buffer.len() + self.slots.capacity() * size_of::<Slot>()
    }

    /// Returns the bytes of the packets and their messages.
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
    /// The buffer with the packets.
    pub buffer: &'a [u8],
    /// The range of each packet.
    pub ranges: &'a [Range<usize>],
}

impl<'a> PacketList<'a> {
    /// Returns packet number `i`.
    #[must_use]
    pub fn get(&self, i: usize) -> &'a [u8] {
        &self.buffer[self.ranges[i].clone()]
    }

    /// Returns the packets, in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        self.ranges.iter().map(|r| &self.buffer[r.clone()])
    }
}

impl fmt::Debug for PacketList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacketList").field("ranges", &self.ranges).finish_non_exhaustive()
    }
}

/// A source and sink of inner packets.
pub trait Tun: Send + Sync {
    /// Returns the interface's name; empty if it has none.
    fn name(&self) -> String;

    /// Returns the interface's current MTU.
    fn mtu(&self) -> u16;

    /// Waits until packets may be read, there is an event, [`wake`](Self::wake) is called, or `timeout` has passed. It
    /// may return without a reason. It may be called only after `read` has returned 0, or while
    /// [`is_drained`](Self::is_drained) returns true: packets that were available before may not be reported again. A
    /// wake since the last wait ends the wait at once.
    ///
    /// # Errors
    /// If the interface no longer exists.
    fn wait(&self, timeout: Option<Duration>) -> io::Result<()>;

    /// Registers with another poll until [`deregister`](Self::deregister), so that one thread can wait for this and for
    /// other sources. When the token `other` is ready, the thread calls [`wait`](Self::wait) with a time limit of zero
    /// before it reads again. A TUN that cannot separate the two reasons uses that token for both. Returns false, the
    /// default, if this is not supported.
    ///
    /// # Errors
    /// Errors of the system. It is not registered then.
    fn register(&self, registry: &Arc<mio::Registry>, tokens: Registered<mio::Token>) -> io::Result<bool> {
        let _ = (registry, tokens);
        Ok(false)
    }

    /// Undoes [`register`](Self::register). Packets that wait to be read end the next [`wait`](Self::wait).
    ///
    /// # Errors
    /// Errors of the system.
    fn deregister(&self, registry: &mio::Registry) -> io::Result<()> {
        let _ = registry;
        Ok(())
    }

    /// Ends the current or the next `wait`, and those of its further [queues](Self::queues). Any thread may call it.
    fn wake(&self);

    /// Returns the further queues of an interface with several, at most [`MAX_QUEUES`] with this one; none, the
    /// default, if packets are only read here. A [`Tunnel`](crate::device::Tunnel) reads each of them by a thread of
    /// its own, and calls only their `wait`, `read` and `is_drained`. All packets of a flow must be in one queue, or
    /// else they do not keep their order. Packets are written here, and events are reported here.
    fn queues(&self) -> Vec<Arc<dyn Tun>> {
        Vec::new()
    }

    /// Returns the next event that has not yet been reported.
    fn event(&self) -> Option<TunEvent>;

    /// Reads packets into `arena`, which must be empty, without waiting, until it is full or there are no more, and
    /// returns how many; 0 if there are none now. An arena should have room for one packet of [`MAX_PACKET`] bytes:
    /// packets that are too large for it are dropped.
    ///
    /// # Errors
    /// If the interface no longer exists, which ends the tunnel.
    fn read(&self, arena: &mut PacketArena) -> io::Result<usize>;

    /// Returns whether the last `read` found that there were no more packets, although it may have returned some:
    /// calling it again is then unnecessary. It is called on the thread that reads. False, the default, if that is
    /// unknown.
    fn is_drained(&self) -> bool {
        false
    }

    /// Writes packets, and returns how many were taken. The others are dropped. Packets of one flow remain in order. It
    /// does not wait, except for a few milliseconds if the other side is a slow app.
    fn write(&self, packets: PacketList<'_>) -> usize;

    /// Returns the prefix length of the route to the sender of a packet that was read, if that is another host and the
    /// system has forwarded the packet; `None` if the system itself has sent it, or if that is unknown.
    fn route_back(&self, sender: IpAddr) -> Option<u8> {
        let _ = sender;
        None
    }

    /// Returns the number of packets that were read and dropped so far: malformed, or too large for any arena.
    fn read_drops(&self) -> u64 {
        0
    }

    /// Returns the current memory of its own buffers, in bytes.
    fn memory(&self) -> usize {
        0
    }

    /// Releases memory that is not needed until it is read again.
    fn trim(&self) {}

    /// Returns the maximum of [`memory`](Self::memory) for packets that wait to be read. A device has so much less for
    /// staged packets.
    fn queue_limit(&self) -> usize {
        0
    }
}
