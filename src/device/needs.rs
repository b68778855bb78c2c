//! The maximum memory of a change set, which is reserved before any part of it is applied, so that it is never applied
//! in part.

use std::{collections::BinaryHeap, net::IpAddr};

use ipnet::IpNet;

use super::{
    Device,
    allowed_ips::Owner,
    endpoints::name::Name,
    memory::{IN_ORDER, shared_memory, tree_memory},
    peer::Peer,
};
use crate::{
    config::{PeerEndpoint, PeerUpdate, Update},
    error::Result,
    noise::handshake::Handshake,
    reserve::Hold,
};

/// The memory that any change needs, and a reserve for rounding.
const BASE: usize = 16 << 10;
/// The number of bits of one node of the prefix table.
const STRIDE: u8 = 5;
/// Its levels: an IPv6 prefix may end in each.
const LEVELS: usize = 128 / STRIDE as usize + 1;
/// The maximum bytes for a slot of a prefix or a node in one copy of the table: in a vector that has doubled in size,
/// while the old one still exists; and four bytes to note that the slot is free.
const PER_PLACE: usize = 4 * (16 + 4);

impl Device {
    /// Reserves the memory that `update` and its consequences may need.
    pub(super) fn hold_for(&self, update: &Update) -> Result<Hold> {
        let mut bytes = BASE;
        let (mut new, mut prefixes) = (0, 0);
        for change in &update.peers {
            let existing = if update.replace_peers { None } else { self.peers.get(&change.public_key) };
            new += usize::from(existing.is_none());
            prefixes += change.allowed_ips.len();
            bytes = bytes.saturating_add(change_memory(change));
            if !change.allowed_ips.is_empty() {
                // It doubles when it is full.
                bytes = bytes.saturating_add(existing.map_or(0, |peer| peer.with_list(|list| 2 * list.memory())));
            }
        }
        bytes = bytes.saturating_add(peers_memory(new)).saturating_add(self.peers.memory_for(new));
        let table = self.allowed_ips.memory();
        bytes = bytes.saturating_add(match prefixes {
            0 if new == update.peers.len() && !update.replace_peers && update.private_key.is_none() => 0,
            // Free slots are noted.
            0 => table / 2,
            _ => 3 * table + 2 * PER_PLACE * new_places(&update.peers, prefixes)?,
        });
        Hold::take(bytes)
    }
}

/// Returns the memory of this number of peers and of their deadlines.
fn peers_memory(number: usize) -> usize {
    /// The allocator's overhead, and an entry in the list of peers with further work.
    const MORE: usize = 96;
    // Nodes may have only 5 keys.
    number * (shared_memory::<Peer>() + MORE) + tree_memory::<(u64, u64), usize>(number, IN_ORDER) / 5 * 6
}

/// Returns the memory of the changes to one peer, apart from its own memory and the prefix table.
fn change_memory(change: &PeerUpdate) -> usize {
    /// An index, a deadline, a staged packet, and the handshake itself.
    const INITIATION: usize = Handshake::PENDING_MEMORY + 512;
    /// A query for the resolver.
    const QUESTION: usize = 512;
    let name = match &change.endpoint {
        Some(PeerEndpoint::Host(host)) => size_of::<Name>() + QUESTION + 3 * host.host().len(),
        _ => 0,
    };
    let initiation = if change.persistent_keepalive.is_some() { INITIATION } else { 0 };
    name + initiation + 2 * size_of::<(u64, Option<IpNet>)>() * change.allowed_ips.len()
}

/// Returns how many slots the prefix table may need for added prefixes: for themselves, and for the nodes on the way to
/// them.
fn new_places(peers: &[PeerUpdate], number: usize) -> Result<usize> {
    let mut all = Vec::new();
    all.try_reserve_exact(number)?;
    for change in peers.iter().flat_map(|peer| &peer.allowed_ips).filter(|change| !change.remove) {
        all.push(bits_of(change.prefix));
    }
    let level = |bits: u8| usize::from(bits / STRIDE);
    // Children and prefixes of the node at each level that contains the last prefix.
    let mut counts = [[0; 2]; LEVELS];
    let (mut places, mut before) = (0, None);
    // Sorted in place, by code that is smaller than that of `sort`.
    for prefix in BinaryHeap::from(all).into_sorted_vec() {
        let common = before.map_or(0, |before| level(common_bits(before, prefix)));
        places += leave(&mut counts[common + 1..]);
        let own = level(prefix.len);
        for count in &mut counts[common..own] {
            count[0] += 1;
        }
        counts[own][1] += 1;
        before = Some(prefix);
    }
    Ok(places + leave(&mut counts))
}

/// Returns the slots of complete nodes.
#[inline(never)]
fn leave(counts: &mut [[usize; 2]]) -> usize {
    let counts = counts.as_flattened_mut().iter_mut().filter(|count| **count > 0);
    counts.map(|count| blocks(std::mem::take(count))).sum()
}

/// Returns approximately how many slots are allocated for the `count` children or prefixes of one node. They are added
/// one by one, and move to a larger block whenever one is full.
#[inline(never)]
fn blocks(count: usize) -> usize {
    const SIZES: [usize; 7] = [1, 2, 4, 8, 16, 24, 32];
    let mut places = 0;
    for size in SIZES {
        places += size;
        if size >= count {
            break;
        }
    }
    places
}

/// A prefix in the order of the table. Comparing two `IpNet` takes much more code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Bits {
    is_ipv6: bool,
    /// The bits of its address, from the highest on.
    bits: u128,
    len: u8,
}

fn bits_of(prefix: IpNet) -> Bits {
    let bits = match prefix.network() {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    Bits { is_ipv6: matches!(prefix, IpNet::V6(_)), bits, len: prefix.prefix_len() }
}

/// Returns the length of the common beginning of two prefixes.
fn common_bits(a: Bits, b: Bits) -> u8 {
    let equal = if a.is_ipv6 == b.is_ipv6 { (a.bits ^ b.bits).leading_zeros() } else { 0 };
    a.len.min(b.len).min(equal as u8)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        config::AllowedIpUpdate,
        device::{
            allowed_ips::{AllowedIps, PrefixList},
            table::Table,
        },
        key::PublicKey,
    };
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Listed(Arc<Mutex<PrefixList>>);

    impl Owner for Listed {
        fn with_list<R>(&self, f: impl FnOnce(&mut PrefixList) -> R) -> R {
            f(&mut self.0.lock().unwrap())
        }
        fn is(&self, other: &Self) -> bool {
            Arc::ptr_eq(&self.0, &other.0)
        }
    }

    /// Whatever the prefixes are, the table takes no more than is reserved for them; and not much less in the usual
    /// cases.
    #[test]
    fn the_prefix_table_takes_what_is_reserved_for_it() {
        let text = |text: String| AllowedIpUpdate { prefix: text.parse().unwrap(), remove: false };
        let mixed = |i: u32| i.wrapping_mul(2_654_435_761);
        type Make = fn(u32, u32) -> String;
        let kinds: [(&str, Make); 6] = [
            ("hosts", |i, _| format!("{}/32", std::net::Ipv4Addr::from(0x0a00_0000 + i))),
            ("every 32nd host", |i, _| format!("{}/32", std::net::Ipv4Addr::from(0x0a00_0000 + i * 32))),
            ("scattered hosts", |_, x| format!("{}/32", std::net::Ipv4Addr::from(x))),
            ("scattered networks", |i, x| format!("{}/{}", std::net::Ipv4Addr::from(x), i % 33)),
            ("IPv6 networks", |i, _| format!("fd00:{:x}:{:x}::/64", i >> 16, i & 0xffff)),
            ("scattered IPv6 hosts", |i, x| format!("2001:{:x}:{x:x}::{i:x}/128", x >> 20, x = x & 0xffff)),
        ];
        for (name, make) in kinds {
            for number in [1, 10, 1000, 20_000] {
                let allowed_ips: Vec<_> = (0..number).map(|i| text(make(i, mixed(i)))).collect();
                let table = Table::<AllowedIps<Listed>>::default();
                table.change(&Listed::default(), &allowed_ips, false);
                let peer = PeerUpdate { allowed_ips, ..PeerUpdate::new(PublicKey::from_bytes([0; 32])) };
                let count = peer.allowed_ips.len();
                let reserved = 2 * PER_PLACE * new_places(&[peer], count).unwrap() + BASE;
                let taken = table.memory();
                assert!(taken <= reserved, "{number} {name}: {taken} of {reserved} bytes");
                assert!(number < 1000 || reserved < 16 * taken, "{number} {name}: {taken} of {reserved} bytes");
            }
        }
    }
}
