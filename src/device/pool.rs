//! The fixed buffers of a tunnel's threads: allocated when they are needed, and released by trimming.

use std::{
    collections::VecDeque,
    io,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    lock,
    packet::Header,
    peer::{MAX_STAGED, Peer},
    ratelimit,
    staged::StagedMessage,
    try_lock,
};
use crate::{
    bind::{Endpoint, RecvBatch, RecvMeta},
    noise::{
        message::{INITIATION_LEN, padded_len},
        session::Session,
    },
    reserve,
    time::Instant,
    tun::{self, HEADROOM, MAX_PACKET, PacketArena, Slot, TAILROOM},
};

/// The maximum number of packets read from the TUN at a time.
pub(super) const OUT_PACKETS: usize = 128;
/// The room for them: a large segmentation-offload packet with the space for its segments, or as many full ones as fit.
const OUT_BYTES: usize = 192 * 1024;
/// Receive slots. Each may hold 64 KiB of coalesced datagrams; unused memory costs nothing.
pub(super) const IN_SLOTS: usize = 8;
/// The number of messages in them. Linux coalesces at most 64 into a slot; if another system has more, their memory is
/// released after each round.
const IN_MESSAGES: usize = 64 * IN_SLOTS;
/// The maximum number of waiting handshake messages. If an eighth of them wait, the device is under load (the
/// proportions of the kernel and wireguard-go; the number is wireguard-go's).
const HANDSHAKE_QUEUE: usize = 1024;

/// The number of handshake messages that are handled before data is received again, so that a flood does not stop data.
pub(super) const HANDSHAKES_PER_ROUND: usize = 16;

pub(super) const OUTBOUND: usize = OUT_BYTES + OUT_PACKETS * (size_of::<Slot>() + size_of::<u8>() + size_of::<Run>());
pub(super) const RECEIVED: usize = IN_SLOTS * (MAX_PACKET + size_of::<RecvMeta>())
    + IN_MESSAGES * (size_of::<Opened>() + size_of::<OpenedRun>() + size_of::<Range<usize>>());
const INBOUND: usize = RECEIVED + (HANDSHAKE_QUEUE + HANDSHAKES_PER_ROUND) * size_of::<QueuedHandshake>();

/// The total memory of a tunnel's fixed buffers, in bytes: those of its threads and its TUN, and the addresses of
/// handshake senders under load.
pub const FIXED_MEMORY: usize = OUTBOUND + INBOUND + tun::MAX_MEMORY + ratelimit::MAX_MEMORY;

// Each has a bit of a `u128`.
const _: () = assert!(OUT_PACKETS <= 128);
const _: () = assert!(OUT_BYTES >= MAX_PACKET + 15 + HEADROOM + TAILROOM);

/// The buffers of one thread.
pub(super) trait Buffers: Sized {
    /// Allocates them.
    fn make() -> io::Result<Self>;

    /// Returns their memory in bytes.
    fn memory(&self) -> usize;

    /// Returns whether they contain something that must not be lost.
    fn is_in_use(&self) -> bool;
}

/// Buffers for one thread at a time, which exist from their first use until they are trimmed.
///
/// The lock determines which thread uses them. It is held for a whole round, including calls of the app's functions, so
/// no thread waits for it.
#[derive(Debug, Default)]
pub(super) struct Workspace<T> {
    buffers: Mutex<Option<T>>,
    /// The memory of the buffers after the last round, which can be read without waiting for the current one.
    memory: AtomicUsize,
}

impl<T: Buffers> Workspace<T> {
    /// Runs a round with the buffers.
    ///
    /// # Errors
    /// `OutOfMemory` if there is no memory for them, and errors of `work`.
    pub(super) fn with<R>(&self, work: impl FnOnce(&mut T) -> io::Result<R>) -> io::Result<R> {
        let mut slot = lock(&self.buffers);
        let buffers = match &mut *slot {
            Some(buffers) => buffers,
            none => none.insert(T::make()?),
        };
        let result = work(buffers);
        self.memory.store(buffers.memory(), Ordering::Relaxed);
        result
    }

    /// Returns the memory of the buffers in bytes.
    pub(super) fn memory(&self) -> usize {
        self.memory.load(Ordering::Relaxed)
    }

    /// Frees the buffers, unless they are in use; and lets `more` free what the same thread uses.
    pub(super) fn trim(&self, more: impl FnOnce()) {
        let Some(mut slot) = try_lock(&self.buffers) else { return };
        more();
        if slot.take_if(|buffers| !buffers.is_in_use()).is_some() {
            self.memory.store(0, Ordering::Relaxed);
        }
    }
}

/// Consecutive packets for one peer.
pub(super) struct Run {
    pub(super) peer: Arc<Peer>,
    pub(super) slots: Range<usize>,
}

/// Working memory of the outbound thread.
pub struct Outbound {
    pub(super) arena: PacketArena,
    /// The outer TOS of each packet.
    pub(super) tos: Vec<u8>,
    pub(super) runs: Vec<Run>,
    /// The runs that are to be sealed and sent, if other threads may help.
    pub(super) assigned: Vec<Assigned>,
}

/// A run of packets with what they are sealed and sent with.
pub(super) struct Assigned {
    pub(super) peer: Arc<Peer>,
    pub(super) session: Arc<Session>,
    pub(super) to: Endpoint,
    /// The counter of the first packet.
    pub(super) first: u64,
    pub(super) slots: Range<usize>,
    /// The time of the assignment, which is not after that of sending.
    pub(super) at: Instant,
    /// Staged packets that go first; only if other threads may help.
    pub(super) staged: Option<Box<Staged>>,
}

/// Staged packets that are sealed and sent with a session.
pub(super) struct Staged {
    pub(super) messages: VecDeque<StagedMessage>,
    /// The outer TOS of each.
    pub(super) tos: [u8; MAX_STAGED],
}

impl Staged {
    pub(super) const fn new(messages: VecDeque<StagedMessage>) -> Self {
        Self { messages, tos: [0; MAX_STAGED] }
    }

    /// Seals them in place.
    pub(super) fn seal(&mut self, session: &Session, first: u64) {
        for ((counter, message), tos) in (first..).zip(&mut self.messages).zip(&mut self.tos) {
            *tos = Header::parse(&message[HEADROOM..]).map_or(0, |h| h.outer_tos());
            session.seal(counter, message);
        }
    }
}

impl Assigned {
    /// Seals the packets in place.
    pub(super) fn seal(&mut self, slots: &[Slot], bytes: &mut [u8]) {
        let mut first = self.first;
        if let Some(staged) = &mut self.staged {
            staged.seal(&self.session, first);
            first += staged.messages.len() as u64;
        }
        for (counter, slot) in (first..).zip(&slots[self.slots.clone()]) {
            self.session.seal(counter, &mut bytes[slot.message()]);
        }
    }
}

impl Outbound {
    /// Allocates the memory.
    ///
    /// # Panics
    /// If there is no memory for it.
    #[must_use]
    #[allow(clippy::panic, reason = "it says so")]
    pub fn new() -> Self {
        Self::make().unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Default for Outbound {
    fn default() -> Self {
        Self::new()
    }
}

impl Buffers for Outbound {
    fn make() -> io::Result<Self> {
        let (mut tos, mut runs) = (Vec::new(), Vec::new());
        tos.try_reserve_exact(OUT_PACKETS)?;
        runs.try_reserve_exact(OUT_PACKETS)?;
        let arena = PacketArena::try_new(OUT_BYTES, OUT_PACKETS, padded_len)?;
        Ok(Self { arena, tos, runs, assigned: Vec::new() })
    }

    fn memory(&self) -> usize {
        self.arena.memory()
            + self.tos.capacity()
            + self.runs.capacity() * size_of::<Run>()
            + self.assigned.capacity() * size_of::<Assigned>()
    }

    fn is_in_use(&self) -> bool {
        // All packets that are read in a round are sent or staged in it.
        false
    }
}

/// How far a data message has come. Those that are refused stay where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Sealed,
    /// Decrypted in place.
    Authentic,
    /// New, not a keepalive, and from a session that still exists: its packet is to be delivered.
    Accepted,
}

/// A data message.
pub(super) struct Opened {
    pub(super) counter: u64,
    /// The sealed body in the receive batch's buffer; once it is authentic, the padded packet.
    pub(super) packet: Range<usize>,
    /// The outer TOS.
    pub(super) tos: u8,
    pub(super) state: Progress,
}

impl Opened {
    pub(super) fn is_accepted(&self) -> bool {
        self.state == Progress::Accepted
    }
}

/// Consecutive data messages of one session.
pub(super) struct OpenedRun {
    pub(super) peer: Arc<Peer>,
    pub(super) session: Arc<Session>,
    pub(super) from: Endpoint,
    pub(super) opened: Range<usize>,
}

impl OpenedRun {
    /// Decrypts the messages in place. Returns how many are not authentic.
    pub(super) fn open(&self, messages: &mut [Opened], buffer: &mut [u8]) -> usize {
        let mut forged = 0;
        for message in messages {
            match self.session.open(message.counter, &mut buffer[message.packet.clone()]) {
                Some(len) => {
                    message.packet.end = message.packet.start + len;
                    message.state = Progress::Authentic;
                }
                None => forged += 1,
            }
        }
        forged
    }
}

/// A waiting handshake message.
pub(super) struct QueuedHandshake {
    pub(super) from: Endpoint,
    bytes: [u8; INITIATION_LEN],
    len: usize,
}

impl QueuedHandshake {
    pub(super) fn message(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

/// Handshake messages that wait behind data.
#[derive(Default)]
pub(super) struct HandshakeQueue {
    waiting: VecDeque<QueuedHandshake>,
}

impl HandshakeQueue {
    /// Adds a message. Returns false if there are too many, or memory has run out.
    pub(super) fn push(&mut self, message: &[u8], from: Endpoint) -> bool {
        let is_full =
            self.waiting.len() >= HANDSHAKE_QUEUE || reserve::is_low() || self.waiting.try_reserve(1).is_err();
        if is_full || message.len() > INITIATION_LEN {
            return false;
        }
        let mut bytes = [0; INITIATION_LEN];
        bytes[..message.len()].copy_from_slice(message);
        self.waiting.push_back(QueuedHandshake { from, bytes, len: message.len() });
        true
    }

    /// Takes the oldest message. The memory of a flood is released when it is over.
    pub(super) fn pop(&mut self) -> Option<QueuedHandshake> {
        let oldest = self.waiting.pop_front();
        if self.waiting.is_empty() && self.waiting.capacity() > HANDSHAKE_QUEUE / 8 {
            self.waiting = VecDeque::new();
        }
        oldest
    }

    /// Returns whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns whether so many wait that senders must prove their addresses.
    pub(super) fn is_long(&self) -> bool {
        self.waiting.len() >= HANDSHAKE_QUEUE / 8
    }
}

/// Datagrams that were received together.
pub(super) struct Received {
    pub(super) batch: RecvBatch,
    pub(super) opened: Vec<Opened>,
    pub(super) runs: Vec<OpenedRun>,
    pub(super) packets: Vec<Range<usize>>,
    /// The number of messages that were not authentic.
    pub(super) forged: usize,
}

impl Received {
    /// Creates buffers for this number of slots.
    pub(super) fn with_slots(slots: usize) -> io::Result<Self> {
        let batch = RecvBatch::try_new(slots, MAX_PACKET)?;
        Ok(Self { batch, opened: Vec::new(), runs: Vec::new(), packets: Vec::new(), forged: 0 })
    }

    /// Creates buffers without slots, and without memory.
    pub(super) fn without_memory() -> Self {
        let batch = RecvBatch::without_memory();
        Self { batch, opened: Vec::new(), runs: Vec::new(), packets: Vec::new(), forged: 0 }
    }

    /// Decrypts all data messages in place.
    pub(super) fn open(&mut self) {
        let Self { batch, opened, runs, .. } = self;
        self.forged = runs.iter().map(|run| run.open(&mut opened[run.opened.clone()], batch.buffer_mut())).sum();
    }

    /// Clears the state of a round. The memory of an unusual number of messages is released.
    pub(super) fn settle(&mut self) {
        self.opened.clear();
        self.opened.shrink_to(IN_MESSAGES);
        self.runs.clear();
        self.runs.shrink_to(IN_MESSAGES);
        self.packets.clear();
        self.packets.shrink_to(IN_MESSAGES);
    }

    fn memory(&self) -> usize {
        self.batch.memory()
            + self.opened.capacity() * size_of::<Opened>()
            + self.runs.capacity() * size_of::<OpenedRun>()
            + self.packets.capacity() * size_of::<Range<usize>>()
    }
}

/// Working memory of the inbound thread.
pub struct Inbound {
    pub(super) received: Received,
    pub(super) handshakes: HandshakeQueue,
    /// Handshake messages whose senders are to get cookies.
    pub(super) unproven: Vec<QueuedHandshake>,
}

impl Inbound {
    /// Allocates the memory.
    ///
    /// # Panics
    /// If there is no memory for it.
    #[must_use]
    #[allow(clippy::panic, reason = "it says so")]
    pub fn new() -> Self {
        Self::make().unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Default for Inbound {
    fn default() -> Self {
        Self::new()
    }
}

impl Buffers for Inbound {
    fn make() -> io::Result<Self> {
        let mut unproven = Vec::new();
        unproven.try_reserve_exact(HANDSHAKES_PER_ROUND)?;
        let received = Received::with_slots(IN_SLOTS)?;
        Ok(Self { received, handshakes: HandshakeQueue::default(), unproven })
    }

    fn memory(&self) -> usize {
        self.received.memory()
            + (self.handshakes.waiting.capacity() + self.unproven.capacity()) * size_of::<QueuedHandshake>()
    }

    fn is_in_use(&self) -> bool {
        // Handshake messages wait for the next round; everything else is done with at the end of one.
        !self.handshakes.waiting.is_empty()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn from() -> Endpoint {
        Endpoint::new("192.0.2.1:1".parse().unwrap())
    }

    fn opened() -> Opened {
        Opened { counter: 0, packet: 0..0, tos: 0, state: Progress::Accepted }
    }

    #[test]
    fn full_buffers_take_what_is_reserved_for_them() {
        assert_eq!(Outbound::new().memory(), OUTBOUND);
        let mut inbound = Inbound::new();
        while inbound.handshakes.push(&[0; INITIATION_LEN], from()) {}
        for _ in 0..IN_MESSAGES {
            inbound.received.opened.push(opened());
            inbound.received.packets.push(0..0);
        }
        // Each in a run of its own: too much to make here.
        inbound.received.runs.reserve(IN_MESSAGES);
        assert_eq!(inbound.memory(), INBOUND);
        // More goes when the round is over, and the messages of a flood when it is.
        (0..3 * IN_MESSAGES).for_each(|_| inbound.received.opened.push(opened()));
        assert!(inbound.memory() > INBOUND);
        inbound.received.settle();
        assert_eq!(inbound.memory(), INBOUND);
        while inbound.handshakes.pop().is_some() {}
        assert_eq!(inbound.memory(), INBOUND - HANDSHAKE_QUEUE * size_of::<QueuedHandshake>());
    }

    #[test]
    fn buffers_are_there_from_their_first_use_until_they_are_trimmed() {
        let space = Workspace::<Inbound>::default();
        assert_eq!(space.memory(), 0);
        for _ in 0..2 {
            assert!(space.with(|inbound| Ok(inbound.received.opened.is_empty())).unwrap());
            assert!(space.memory() > IN_SLOTS * MAX_PACKET);
            space.trim(|| ());
            assert_eq!(space.memory(), 0);
        }
        // What waits is not lost, nor what a round is working in.
        assert!(space.with(|inbound| Ok(inbound.handshakes.push(&[7; INITIATION_LEN], from()))).unwrap());
        space.trim(|| ());
        space
            .with(|inbound| {
                inbound.received.opened.push(opened());
                space.trim(|| ());
                assert_eq!((inbound.received.opened.len(), inbound.handshakes.pop().unwrap().message()[0]), (1, 7));
                Ok(())
            })
            .unwrap();
        assert!(space.memory() > IN_SLOTS * MAX_PACKET);
        space.trim(|| ());
        assert_eq!(space.memory(), 0);
    }
}
