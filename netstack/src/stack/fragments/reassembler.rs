//! Reassembles fragments, without I/O and clock.
//!
//! A packet with overlapping fragments is dropped completely, including later fragments (RFC 5722; also for IPv4).
//! Exact repetitions are not overlaps (RFC 8200, section 4.5).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    time::Duration,
};

use wg_embed::time::Instant;

use crate::stack::packet::{Fragment, IPV4_HEADER, IpHeader, Packet, header_len};

/// The time limit for a packet, from its first fragment on, as in Linux.
const TIMEOUT_V4: Duration = Duration::from_secs(30);
const TIMEOUT_V6: Duration = Duration::from_secs(60);

/// The memory limit in bytes, of all packets together and of those of one source.
pub(super) const MAX_MEMORY: usize = 1 << 20;
pub(super) const MAX_MEMORY_OF_SOURCE: usize = 256 << 10;

/// The overhead of a packet and of a fragment, in bytes.
const PACKET_OVERHEAD: usize = 384;
const FRAGMENT_OVERHEAD: usize = 96;

/// The maximum number of fragments of one packet: the largest one needs 120 with an MTU of 576.
const MAX_FRAGMENTS: usize = 256;

const MAX_PACKET: usize = 65_535;

/// The number of IPv6's fragment header.
const FRAGMENT_HEADER: u8 = 44;
const FRAGMENT_HEADER_LEN: usize = 8;

/// The result for a fragment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was the last missing one: the complete packet.
    Whole(Vec<u8>),
    /// Others are missing, or it is a repetition.
    Waits,
    /// It is invalid.
    Malformed,
    /// It overlaps others, or it belongs to a packet with overlapping fragments.
    Overlap,
    /// There is too much memory in use, or there are too many fragments.
    NoRoom,
}

/// A packet that has timed out.
pub(super) struct Expired {
    pub(super) fragments: u64,
    /// The packet's first fragment as it arrived, without options and extension headers; truncated to the length that
    /// is quoted.
    pub(super) first: Option<Vec<u8>>,
}

/// Incomplete packets, and their time limits.
pub(super) struct Reassembler {
    packets: HashMap<Key, Partial>,
    order: BTreeMap<Age, Key>,
    sources: HashMap<Source, Usage>,
    memory: usize,
    last_id: u64,
    /// Fragments that were replaced by others, and not yet reported.
    evicted: u64,
}

/// The time limit of a packet, and a number that distinguishes packets with the same limit.
type Age = (Instant, u64);

/// The source to which memory is attributed: an IPv4 address, or the /64 of an IPv6 address, which may belong to one
/// host.
type Source = (bool, u64);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    identification: u32,
    /// IPv4 only.
    protocol: u8,
}

#[derive(Default)]
struct Usage {
    memory: usize,
    packets: BTreeSet<Age>,
}

/// An incomplete packet.
struct Partial {
    age: Age,
    /// By their offset. They do not overlap.
    fragments: BTreeMap<usize, Box<[u8]>>,
    bytes: usize,
    /// Known once the last fragment has arrived.
    total: Option<usize>,
    /// Protocol, hop limit and traffic class of the first fragment.
    header: Option<(u8, u8, u8)>,
    /// Whether fragments overlapped: none of them is kept, and no more are accepted.
    is_broken: bool,
    memory: usize,
}

/// Returns the maximum memory of a fragment.
pub(super) fn most_memory(packet: &Packet<'_>) -> usize {
    packet.payload.len() + FRAGMENT_OVERHEAD + PACKET_OVERHEAD
}

impl Reassembler {
    pub(super) fn new() -> Self {
        Self {
            packets: HashMap::new(),
            order: BTreeMap::new(),
            sources: HashMap::new(),
            memory: 0,
            last_id: 0,
            evicted: 0,
        }
    }

    /// Returns its memory in bytes; never more than [`MAX_MEMORY`].
    pub(super) const fn memory(&self) -> usize {
        self.memory
    }

    /// Returns how many fragments have been replaced by others since the last call.
    pub(super) fn take_evicted(&mut self) -> u64 {
        std::mem::take(&mut self.evicted)
    }

    /// Returns the time at which [`expire`](Self::expire) is next due.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.order.first_key_value().map(|(age, _)| age.0)
    }

    /// Handles a fragment.
    pub(super) fn receive(&mut self, packet: &Packet<'_>, now: Instant) -> Verdict {
        let Some(fragment) = packet.fragment.filter(|fragment| is_valid(packet, *fragment)) else {
            return Verdict::Malformed;
        };
        let payload = packet.payload();
        let key = Key {
            source: packet.source,
            destination: packet.destination,
            identification: fragment.identification,
            protocol: if packet.source.is_ipv4() { packet.protocol } else { 0 },
        };
        match self.packets.get(&key).map(|partial| partial.check(fragment, payload)) {
            Some(Check::Repeated) => return Verdict::Waits,
            Some(Check::Broken) => return Verdict::Overlap,
            Some(Check::Overlaps) => {
                self.break_packet(&key);
                return Verdict::Overlap;
            }
            Some(Check::TooMany) => return Verdict::NoRoom,
            Some(Check::New) | None => {}
        }
        let age = match self.packets.get(&key) {
            Some(partial) => partial.age,
            None => self.new_age(packet, now),
        };
        let cost = payload.len() + FRAGMENT_OVERHEAD;
        if !self.make_room(&key, age, cost) {
            return Verdict::NoRoom;
        }
        if !self.packets.contains_key(&key) {
            self.insert(key, age);
        }
        self.charge(&key, cost);
        let Some(partial) = self.packets.get_mut(&key) else { return Verdict::NoRoom };
        partial.add(packet, fragment, payload);
        if !partial.is_whole() {
            return Verdict::Waits;
        }
        match self.remove(&key).and_then(|partial| partial.assemble(&key)) {
            Some(whole) => Verdict::Whole(whole),
            None => Verdict::Malformed,
        }
    }

    /// Removes and returns the oldest packet that has timed out.
    pub(super) fn expire(&mut self, now: Instant) -> Option<Expired> {
        let (_, key) = self.order.first_key_value().filter(|(age, _)| age.0 <= now)?;
        let key = *key;
        let partial = self.remove(&key)?;
        Some(Expired { fragments: partial.fragments.len() as u64, first: partial.first_fragment(&key) })
    }

    fn new_age(&mut self, packet: &Packet<'_>, now: Instant) -> Age {
        self.last_id += 1;
        (now + if packet.source.is_ipv4() { TIMEOUT_V4 } else { TIMEOUT_V6 }, self.last_id)
    }

    /// Drops older packets until there is room for `cost` more bytes: of the same source if that has too many bytes, of
    /// any source if there are too many in total. The packet itself is kept: then there is no room.
    fn make_room(&mut self, key: &Key, age: Age, cost: usize) -> bool {
        let cost = cost + if self.packets.contains_key(key) { 0 } else { PACKET_OVERHEAD };
        let source = source_of(key.source);
        while let Some(usage) = self.sources.get(&source).filter(|usage| usage.memory + cost > MAX_MEMORY_OF_SOURCE) {
            let Some(oldest) = usage.packets.first().filter(|oldest| **oldest != age).copied() else { return false };
            self.evict(oldest);
        }
        while self.memory + cost > MAX_MEMORY {
            let Some(oldest) = self.order.keys().next().filter(|oldest| **oldest != age).copied() else { return false };
            self.evict(oldest);
        }
        cost <= MAX_MEMORY_OF_SOURCE
    }

    fn evict(&mut self, age: Age) {
        if let Some(key) = self.order.get(&age).copied() {
            let fragments = self.remove(&key).map_or(0, |partial| partial.fragments.len());
            self.evicted += fragments as u64;
        }
    }

    fn insert(&mut self, key: Key, age: Age) {
        self.order.insert(age, key);
        self.sources.entry(source_of(key.source)).or_default().packets.insert(age);
        self.packets.insert(key, Partial::new(age));
        self.charge(&key, PACKET_OVERHEAD);
    }

    fn charge(&mut self, key: &Key, bytes: usize) {
        if let Some(partial) = self.packets.get_mut(key) {
            partial.memory += bytes;
            self.memory += bytes;
            self.sources.entry(source_of(key.source)).or_default().memory += bytes;
        }
    }

    fn remove(&mut self, key: &Key) -> Option<Partial> {
        let partial = self.packets.remove(key)?;
        self.order.remove(&partial.age);
        self.discharge(key, partial.memory);
        let source = source_of(key.source);
        if let Some(usage) = self.sources.get_mut(&source) {
            usage.packets.remove(&partial.age);
            if usage.packets.is_empty() {
                self.sources.remove(&source);
            }
        }
        Some(partial)
    }

    fn discharge(&mut self, key: &Key, bytes: usize) {
        self.memory -= bytes;
        if let Some(usage) = self.sources.get_mut(&source_of(key.source)) {
            usage.memory -= bytes;
        }
    }

    /// Drops the fragments of a packet; later ones are dropped when they arrive.
    fn break_packet(&mut self, key: &Key) {
        let Some(partial) = self.packets.get_mut(key) else { return };
        partial.is_broken = true;
        self.evicted += partial.fragments.len() as u64;
        partial.fragments = BTreeMap::new();
        let freed = partial.memory - PACKET_OVERHEAD;
        partial.memory = PACKET_OVERHEAD;
        self.discharge(key, freed);
    }
}

/// The relation of a fragment to the others of its packet.
enum Check {
    New,
    Repeated,
    Overlaps,
    Broken,
    TooMany,
}

impl Partial {
    const fn new(age: Age) -> Self {
        Self { age, fragments: BTreeMap::new(), bytes: 0, total: None, header: None, is_broken: false, memory: 0 }
    }

    fn check(&self, fragment: Fragment, payload: &[u8]) -> Check {
        if self.is_broken {
            return Check::Broken;
        }
        let (start, end) = (fragment.offset, fragment.offset + payload.len());
        if self.fragments.get(&start).is_some_and(|other| **other == *payload) {
            // Another fragment that claims to be the last one is a contradiction.
            let same_end = fragment.more != (self.total == Some(end));
            return if same_end { Check::Repeated } else { Check::Overlaps };
        }
        let before = self.fragments.range(..end).next_back();
        let overlaps = before.is_some_and(|(offset, other)| offset + other.len() > start);
        let last = self.fragments.last_key_value().map_or(0, |(offset, other)| offset + other.len());
        let past_end = self.total.is_some_and(|total| end > total || !fragment.more);
        if overlaps || past_end || (!fragment.more && last > end) {
            Check::Overlaps
        } else if self.fragments.len() >= MAX_FRAGMENTS {
            Check::TooMany
        } else {
            Check::New
        }
    }

    fn add(&mut self, packet: &Packet<'_>, fragment: Fragment, payload: &[u8]) {
        self.fragments.insert(fragment.offset, payload.into());
        self.bytes += payload.len();
        if !fragment.more {
            self.total = Some(fragment.offset + payload.len());
        }
        if fragment.offset == 0 {
            self.header = Some((packet.protocol, packet.hop_limit, packet.traffic_class));
        }
    }

    /// Returns whether the packet is complete: since fragments do not overlap, counting bytes is sufficient.
    fn is_whole(&self) -> bool {
        self.total == Some(self.bytes)
    }

    fn header(&self, key: &Key) -> Option<IpHeader> {
        let (protocol, hop_limit, traffic_class) = self.header?;
        let whole = IpHeader::new(key.source, key.destination, protocol);
        Some(IpHeader { hop_limit, traffic_class, ..whole })
    }

    fn assemble(&self, key: &Key) -> Option<Vec<u8>> {
        let header = self.header(key)?;
        let start = header_len(key.source);
        let mut whole = Vec::with_capacity(start + self.bytes);
        whole.resize(start, 0);
        header.emit(&mut whole, self.bytes);
        for fragment in self.fragments.values() {
            whole.extend_from_slice(fragment);
        }
        Some(whole)
    }

    /// Returns the first fragment as a packet.
    fn first_fragment(&self, key: &Key) -> Option<Vec<u8>> {
        let header = self.header(key)?;
        let payload = self.fragments.get(&0)?;
        let fragment = Fragment { identification: key.identification, offset: 0, more: true };
        let start = header_len(key.source);
        let mut packet = vec![0; start];
        if key.source.is_ipv4() {
            IpHeader { fragment: Some(fragment), ..header }.emit(&mut packet, payload.len());
        } else {
            let protocol = header.protocol;
            let header = IpHeader { protocol: FRAGMENT_HEADER, ..header };
            header.emit(&mut packet, FRAGMENT_HEADER_LEN + payload.len());
            packet.extend([protocol, 0, 0, 1]);
            packet.extend(key.identification.to_be_bytes());
        }
        packet.extend_from_slice(payload);
        Some(packet)
    }
}

fn is_valid(packet: &Packet<'_>, fragment: Fragment) -> bool {
    let len = packet.payload.len();
    let most = if packet.source.is_ipv4() { MAX_PACKET - IPV4_HEADER } else { MAX_PACKET };
    len > 0 && (!fragment.more || len.is_multiple_of(8)) && fragment.offset + len <= most
}

fn source_of(address: IpAddr) -> Source {
    match address {
        IpAddr::V4(address) => (true, u64::from(u32::from(address))),
        IpAddr::V6(address) => (false, (u128::from(address) >> 64) as u64),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
