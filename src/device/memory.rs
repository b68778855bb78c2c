//! What a tunnel takes of the process's memory, and what it can give back.
//!
//! The numbers are computed from what is allocated. Not in them: what the allocator adds to each block (16 bytes,
//! commonly), the threads' stacks, what the system keeps for sockets, and what a call takes while it lasts.

use super::{Device, lock, try_lock};

/// Bytes of memory that a tunnel takes now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryUsage {
    /// The most that `buffers` and `staged` may come to, one packet of each peer aside; see
    /// [`Options::memory`](super::Options::memory).
    pub limit: usize,
    /// What the threads, the TUN and the bind work in, and what is remembered of senders under load.
    pub buffers: usize,
    /// Packets that wait for a session.
    pub staged: usize,
    /// Peers with their sessions, and the tables in which they are found.
    pub peers: usize,
}

impl MemoryUsage {
    /// All of it.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.buffers + self.staged + self.peers
    }
}

impl Device {
    /// What the device takes, without what its threads work in. The time that it takes is in proportion to the number
    /// of peers.
    #[must_use]
    pub fn memory_usage(&self) -> MemoryUsage {
        let buffers = self.tun.memory() + self.bind.memory() + lock(&self.handshake_limiter).memory();
        let mut usage = MemoryUsage { buffers, ..MemoryUsage::default() };
        usage.peers += self.allowed_ips.memory();
        usage.limit = self.memory.saturating_add(self.memory_per_peer.saturating_mul(self.peers.len()));
        usage.peers += self.peers.memory();
        usage.peers += self.index.memory() + self.deadlines.memory() + self.budget.memory();
        for peer in self.peers.list() {
            let (own, staged) = peer.memory();
            usage.peers += own;
            usage.staged += staged;
        }
        usage
    }

    /// Gives back what is not needed now. What is needed again later is allocated again then.
    pub fn trim(&self) {
        self.tun.trim();
        self.bind.trim();
        lock(&self.handshake_limiter).trim(self.clock.now());
        // Unless a configuration is being applied.
        if let Some(_alone) = try_lock(&self.sets) {
            self.peers.trim();
        }
        for peer in self.peers.list() {
            peer.trim();
            self.budget.list(&peer, &mut lock(&peer.state));
        }
    }
}

/// Bytes of a block that is counted by its owners.
pub(super) const fn shared_memory<T>() -> usize {
    size_of::<T>() + 2 * size_of::<usize>()
}

/// Bytes that a hash table with this capacity takes: a power of two of places, 7/8 of which are used, with a byte
/// beside each.
pub(super) const fn table_memory<K, V>(capacity: usize) -> usize {
    let places = match capacity {
        0 => return 0,
        1..7 => capacity + 1,
        _ => capacity.div_ceil(7) * 8,
    };
    places * (size_of::<(K, V)>() + 1) + 16
}

/// About how many bytes a tree with this many keys takes: nodes of 11 places, of which 6 are used if the keys came in
/// their order.
pub(super) const fn tree_memory<K, V>(len: usize) -> usize {
    let leaf = 11 * (size_of::<K>() + size_of::<V>()) + 2 * size_of::<usize>();
    let leaves = len.div_ceil(6);
    // A sixth as many are above them, with 12 pointers more.
    leaves * leaf + leaves / 6 * (leaf + 12 * size_of::<usize>())
}
