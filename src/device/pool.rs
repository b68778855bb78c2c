//! The fixed memory of a tunnel's threads.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use super::peer::Peer;
use crate::{
    bind::{Endpoint, RecvBatch},
    noise::{
        message::{INITIATION_LEN, padded_len},
        session::Session,
    },
    tun::{HEADROOM, MAX_PACKET, PacketArena, TAILROOM},
};

/// Packets that are read from the TUN in one go.
const OUT_PACKETS: usize = 128;
/// Room for them: a large segmentation-offload packet with the space its segments need, or as many full ones as fit.
const OUT_BYTES: usize = 192 * 1024;
/// Receive slots. Each may hold 64 KiB of datagrams that the system has put together; memory that is never touched
/// costs nothing.
const IN_SLOTS: usize = 8;
/// Handshake messages that may wait. When an eighth of them do, we are under load (the proportions of the kernel and
/// wireguard-go; the number is wireguard-go's).
const HANDSHAKE_QUEUE: usize = 1024;

/// What a tunnel's fixed buffers take when all of them are in use: these, and as much as the outbound ones again for what
/// the TUN works in.
pub const FIXED_MEMORY: usize = 2 * OUT_BYTES + IN_SLOTS * MAX_PACKET + HANDSHAKE_QUEUE * size_of::<QueuedHandshake>();

const _: () = assert!(OUT_BYTES >= MAX_PACKET + 15 + HEADROOM + TAILROOM);

/// Consecutive packets for one peer.
pub(super) struct Run {
    pub(super) peer: Arc<Peer>,
    pub(super) slots: Range<usize>,
}

/// What the thread from TUN to UDP works in.
pub struct Outbound {
    pub(super) arena: PacketArena,
    /// The outer TOS of each packet.
    pub(super) tos: Vec<u8>,
    pub(super) runs: Vec<Run>,
}

impl Outbound {
    /// Allocates it.
    #[must_use]
    pub fn new() -> Self {
        Self {
            arena: PacketArena::new(OUT_BYTES, OUT_PACKETS, padded_len),
            tos: Vec::with_capacity(OUT_PACKETS),
            runs: Vec::with_capacity(OUT_PACKETS),
        }
    }
}

impl Default for Outbound {
    fn default() -> Self {
        Self::new()
    }
}

/// An authentic data message, decrypted in place.
pub(super) struct Opened {
    pub(super) counter: u64,
    /// The padded packet, in the receive batch's buffer.
    pub(super) packet: Range<usize>,
    /// The outer TOS.
    pub(super) tos: u8,
    /// It is new and not a keepalive.
    pub(super) deliver: bool,
}

/// Consecutive data messages of one session.
pub(super) struct OpenedRun {
    pub(super) peer: Arc<Peer>,
    pub(super) session: Arc<Session>,
    pub(super) from: Endpoint,
    pub(super) opened: Range<usize>,
}

/// A handshake message that waits.
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

/// Handshake messages that wait for their turn behind data.
#[derive(Default)]
pub(super) struct HandshakeQueue {
    waiting: VecDeque<QueuedHandshake>,
}

impl HandshakeQueue {
    /// Adds a message. Returns false if there are too many.
    pub(super) fn push(&mut self, message: &[u8], from: Endpoint) -> bool {
        if self.waiting.len() >= HANDSHAKE_QUEUE || message.len() > INITIATION_LEN {
            return false;
        }
        let mut bytes = [0; INITIATION_LEN];
        bytes[..message.len()].copy_from_slice(message);
        self.waiting.push_back(QueuedHandshake { from, bytes, len: message.len() });
        true
    }

    /// Takes the oldest message. The memory of a flood is given back when it is over.
    pub(super) fn pop(&mut self) -> Option<QueuedHandshake> {
        let oldest = self.waiting.pop_front();
        if self.waiting.is_empty() && self.waiting.capacity() > HANDSHAKE_QUEUE / 8 {
            self.waiting = VecDeque::new();
        }
        oldest
    }

    /// Whether so many wait that senders must prove their addresses.
    pub(super) fn is_under_load(&self) -> bool {
        self.waiting.len() >= HANDSHAKE_QUEUE / 8
    }
}

/// What the thread from UDP to TUN works in.
pub struct Inbound {
    pub(super) batch: RecvBatch,
    pub(super) opened: Vec<Opened>,
    pub(super) runs: Vec<OpenedRun>,
    pub(super) packets: Vec<Range<usize>>,
    pub(super) handshakes: HandshakeQueue,
}

impl Inbound {
    /// Allocates it.
    #[must_use]
    pub fn new() -> Self {
        Self {
            batch: RecvBatch::new(IN_SLOTS, MAX_PACKET),
            opened: Vec::new(),
            runs: Vec::new(),
            packets: Vec::new(),
            handshakes: HandshakeQueue::default(),
        }
    }
}

impl Default for Inbound {
    fn default() -> Self {
        Self::new()
    }
}
