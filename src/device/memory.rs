//! The memory that a tunnel uses, and its release.
//!
//! The numbers are computed from the allocations. They do not include the allocator's overhead for each block (usually
//! 16 bytes), the threads' stacks, the system's memory for sockets, and the memory of a call during the call.

use super::{Device, lock, try_lock};

/// The current memory of a tunnel, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryUsage {
    /// The maximum of `buffers` and `staged`, apart from one packet of each peer; see
    /// [`Options::memory`](super::Options::memory).
    pub limit: usize,
    /// Buffers of the threads, the TUN and the bind, and the state of senders under load.
    pub buffers: usize,
    /// Packets that wait for a session.
    pub staged: usize,
    /// Peers with their sessions, and the tables of these.
    pub peers: usize,
}

impl MemoryUsage {
    /// Returns the total.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.buffers + self.staged + self.peers
    }
}

impl Device {
    /// Returns the memory of the device, without its threads' buffers. The call takes time in proportion to the number
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

    /// Releases unused memory, which is allocated again when it is needed.
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

/// Returns the bytes of a reference-counted block.
pub(super) const fn shared_memory<T>() -> usize {
    size_of::<T>() + 2 * size_of::<usize>()
}

/// Returns the bytes of a hash table with this capacity: the number of slots is a power of two, 7/8 of which are used,
/// with one more byte each.
pub(super) const fn table_memory<K, V>(capacity: usize) -> usize {
    let places = match capacity {
        0 => return 0,
        1..7 => capacity + 1,
        _ => capacity.div_ceil(7) * 8,
    };
    places * (size_of::<(K, V)>() + 1) + 16
}

/// Slots in use of the 11 in a node of a tree, in tenths: keys that were inserted in order fill half of each.
pub(super) const IN_ORDER: usize = 60;
/// The same for random keys: 11 times the logarithm of 2 (Yao, "On random 2-3 trees", 1978).
pub(super) const RANDOM: usize = 76;

/// Returns the approximate bytes of a tree with this many keys, `fill` tenths of a slot of each node in use.
pub(super) const fn tree_memory<K, V>(len: usize, fill: usize) -> usize {
    let leaf = 11 * (size_of::<K>() + size_of::<V>()) + 2 * size_of::<usize>();
    let leaves = (10 * len).div_ceil(fill);
    // Above `fill` tenths of leaves there is one more node, with 12 more pointers.
    let nodes = 10 * leaves / fill;
    leaves * leaf + nodes * (leaf + 12 * size_of::<usize>())
}
