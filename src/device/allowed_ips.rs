//! The peer that a packet goes to, or may come from: the longest matching prefix.
//!
//! This is WireGuard's cryptokey routing (section 2 of the paper).

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use super::work;
use crate::{config::AllowedIpUpdate, error::Result};

/// The owner of a prefix, and its position in the owner's list.
pub(super) struct Entry<P> {
    owner: P,
    /// Position in the owner's [`PrefixList`].
    number: u64,
}

impl<P: Owner> Entry<P> {
    /// Removes a prefix that its owner has lost from the owner's list.
    pub(super) fn strike(self) {
        self.owner.with_list(|list| list.remove(self.number));
    }
}

/// One owner's prefixes, in the order in which they were added.
///
/// Removing leaves a hole, and holes are closed once they are most of the list, so that removing 100,000 prefixes one
/// by one takes no longer than adding them.
#[derive(Debug, Default)]
pub struct PrefixList {
    /// Sorted by number, which only grows.
    entries: Vec<(u64, Option<IpNet>)>,
    live: usize,
    next: u64,
}

impl PrefixList {
    /// Adds prefixes. Returns the number of the first one; the others have consecutive numbers.
    pub(super) fn extend(&mut self, prefixes: impl Iterator<Item = IpNet> + Clone) -> u64 {
        let (first, number) = (self.next, prefixes.clone().count());
        if self.entries.is_empty() {
            // Most peers get one prefix, and keep it.
            self.entries.reserve_exact(number);
        }
        self.entries.extend((first..).zip(prefixes.map(|prefix| Some(prefix.trunc()))));
        self.next += number as u64;
        self.live += number;
        first
    }

    fn remove(&mut self, number: u64) {
        if let Ok(at) = self.entries.binary_search_by_key(&number, |e| e.0)
            && self.entries[at].1.take().is_some()
        {
            self.live -= 1;
        }
        if self.entries.len() > 2 * self.live + 8 {
            self.entries.retain(|e| e.1.is_some());
        }
    }

    /// Takes all prefixes out, with their numbers. Later prefixes have higher ones.
    pub(super) fn take(&mut self) -> Vec<(u64, Option<IpNet>)> {
        self.live = 0;
        std::mem::take(&mut self.entries)
    }

    /// Returns the memory of the list in bytes.
    #[must_use]
    pub const fn memory(&self) -> usize {
        self.entries.capacity() * size_of::<(u64, Option<IpNet>)>()
    }

    /// Releases unused memory.
    pub fn trim(&mut self) {
        self.entries.retain(|e| e.1.is_some());
        self.entries.shrink_to_fit();
    }

    /// Returns a copy of the prefixes, oldest first.
    ///
    /// # Errors
    /// `Resources` without memory for it.
    pub(super) fn copy(&self) -> Result<Vec<IpNet>> {
        let mut copy = Vec::new();
        copy.try_reserve_exact(self.live)?;
        copy.extend(self.iter());
        Ok(copy)
    }

    /// Returns the prefixes, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.entries.iter().filter_map(|e| e.1)
    }
}

/// An owner of prefixes: a peer, which keeps the list of its own.
pub trait Owner: Clone {
    /// Calls `f` with the owner's list.
    fn with_list<R>(&self, f: impl FnOnce(&mut PrefixList) -> R) -> R;
    /// Returns whether both are the same owner.
    fn is(&self, other: &Self) -> bool;
}

/// The routing table.
pub struct AllowedIps<P> {
    v4: PrefixMap<Ipv4Net, Entry<P>>,
    v6: PrefixMap<Ipv6Net, Entry<P>>,
}

impl<P> Default for AllowedIps<P> {
    fn default() -> Self {
        Self { v4: PrefixMap::new(), v6: PrefixMap::new() }
    }
}

impl<P: Owner> AllowedIps<P> {
    /// Adds a prefix to `owner`, and removes it from its previous owner. Host bits are ignored.
    pub fn insert(&mut self, prefix: IpNet, owner: &P) {
        let number = owner.with_list(|list| list.extend([prefix].into_iter()));
        self.apply(&[AllowedIpUpdate { prefix, remove: false }], owner, number, Entry::strike);
    }

    /// Removes exactly this prefix from `owner`; no-op if it has another owner or none.
    pub fn remove(&mut self, prefix: IpNet, owner: &P) {
        self.apply(&[AllowedIpUpdate { prefix, remove: true }], owner, 0, Entry::strike);
    }

    /// Adds prefixes to `owner`, in whose list they already are, the first one under this number, and removes others
    /// from it. Passes the previous entries on.
    pub(super) fn apply(
        &mut self,
        changes: &[AllowedIpUpdate],
        owner: &P,
        mut number: u64,
        mut lost: impl FnMut(Entry<P>),
    ) {
        let is_own = |entry: &Entry<P>| entry.owner.is(owner);
        for change in changes {
            work(1);
            let before = match (change.prefix.trunc(), change.remove) {
                (IpNet::V4(p), true) if self.v4.get(&p).is_some_and(is_own) => self.v4.remove(&p),
                (IpNet::V6(p), true) if self.v6.get(&p).is_some_and(is_own) => self.v6.remove(&p),
                (_, true) => None,
                (prefix, false) => {
                    let entry = Entry { owner: owner.clone(), number };
                    number += 1;
                    match prefix {
                        IpNet::V4(p) => self.v4.insert(p, entry),
                        IpNet::V6(p) => self.v6.insert(p, entry),
                    }
                }
            };
            before.into_iter().for_each(&mut lost);
        }
    }

    /// Removes prefixes that were [taken](PrefixList::take) from `owner`'s list, unless they have been added again
    /// since.
    pub(super) fn remove_numbered(&mut self, entries: &[(u64, Option<IpNet>)], owner: &P) {
        let is_same = |entry: &Entry<P>, number| entry.number == number && entry.owner.is(owner);
        for (number, prefix) in entries {
            work(1);
            match prefix {
                Some(IpNet::V4(p)) if self.v4.get(p).is_some_and(|e| is_same(e, *number)) => drop(self.v4.remove(p)),
                Some(IpNet::V6(p)) if self.v6.get(p).is_some_and(|e| is_same(e, *number)) => drop(self.v6.remove(p)),
                _ => {}
            }
        }
    }

    /// Returns the memory of the table in bytes, without the owners' lists.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.v4.mem_size() + self.v6.mem_size() - size_of::<Self>()
    }

    /// Releases the memory of the table if there are no prefixes. Otherwise it keeps its largest size, since rebuilding
    /// it would temporarily take as much again.
    pub fn trim(&mut self) {
        if self.v4.is_empty() {
            self.v4 = PrefixMap::new();
        }
        if self.v6.is_empty() {
            self.v6 = PrefixMap::new();
        }
    }

    /// Returns the owner of the longest prefix that contains `address`.
    pub fn lookup(&self, address: IpAddr) -> Option<&P> {
        match address {
            IpAddr::V4(a) => self.v4.get_lpm(&Ipv4Net::from(a)).map(|(_, e)| &e.owner),
            IpAddr::V6(a) => self.v6.get_lpm(&Ipv6Net::from(a)).map(|(_, e)| &e.owner),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{cell::RefCell, rc::Rc};

    #[derive(Clone, Default)]
    struct Peer(Rc<RefCell<PrefixList>>);

    impl Owner for Peer {
        fn with_list<R>(&self, f: impl FnOnce(&mut PrefixList) -> R) -> R {
            f(&mut self.0.borrow_mut())
        }
        fn is(&self, other: &Self) -> bool {
            Rc::ptr_eq(&self.0, &other.0)
        }
    }

    impl Peer {
        fn list(&self) -> Vec<String> {
            self.0.borrow().iter().map(|p| p.to_string()).collect()
        }
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_wins() {
        let (a, b) = (Peer::default(), Peer::default());
        let mut t = AllowedIps::default();
        t.insert(net("0.0.0.0/0"), &a);
        t.insert(net("10.1.2.3/8"), &b);
        t.insert(net("::/0"), &b);
        t.insert(net("fd00::/64"), &a);
        let owner = |text: &str| t.lookup(text.parse().unwrap()).unwrap().is(&a);
        assert!(owner("9.9.9.9") && !owner("10.255.0.1") && !owner("fd01::1") && owner("fd00::1"));
        assert_eq!(b.list(), ["10.0.0.0/8", "::/0"], "host bits are cleared");
    }

    #[test]
    fn prefixes_move_and_only_their_owner_can_drop_them() {
        let (a, b) = (Peer::default(), Peer::default());
        let mut t = AllowedIps::default();
        t.insert(net("10.0.0.0/8"), &a);
        t.insert(net("10.0.0.0/8"), &a);
        t.insert(net("10.0.0.0/9"), &a);
        assert_eq!(a.list(), ["10.0.0.0/8", "10.0.0.0/9"]);
        t.insert(net("10.0.0.0/8"), &b);
        assert_eq!((a.list().len(), b.list().len()), (1, 1));
        t.remove(net("10.0.0.0/8"), &a);
        t.remove(net("10.0.0.0/10"), &b);
        assert_eq!(b.list(), ["10.0.0.0/8"]);
        t.remove(net("10.3.2.1/8"), &b);
        assert!(b.list().is_empty() && t.lookup("10.200.0.1".parse().unwrap()).is_none());
        let all = a.with_list(PrefixList::take);
        t.remove_numbered(&all, &a);
        assert!(t.lookup("10.0.0.1".parse().unwrap()).is_none() && a.list().is_empty());
    }

    #[test]
    fn no_prefix_matches_everything_of_its_family_only() {
        let a = Peer::default();
        let mut t = AllowedIps::default();
        t.insert(net("0.0.0.0/0"), &a);
        assert!(t.lookup("::1".parse().unwrap()).is_none());
        assert!(t.lookup("255.255.255.255".parse().unwrap()).is_some());
    }

    #[test]
    fn a_hundred_thousand_prefixes_move_one_by_one() {
        let (a, b) = (Peer::default(), Peer::default());
        let mut t = AllowedIps::default();
        let nets: Vec<IpNet> =
            (0..100_000u32).map(|i| Ipv4Net::new((0x0a00_0000 + i * 16).into(), 28).unwrap().into()).collect();
        nets.iter().for_each(|n| t.insert(*n, &a));
        nets.iter().for_each(|n| t.insert(*n, &b));
        assert!(a.list().is_empty());
        assert_eq!(b.0.borrow().iter().collect::<Vec<_>>(), nets);
        nets.iter().rev().for_each(|n| t.remove(*n, &b));
        assert!(b.list().is_empty() && b.0.borrow().entries.capacity() >= b.0.borrow().entries.len());
    }

    proptest! {
        /// Against a plain list, searched from end to end.
        #[test]
        fn agrees_with_a_linear_search(
            steps in prop::collection::vec((any::<u8>(), 0u8..=8, 0usize..3, any::<bool>()), 0..80),
            asked: u8,
        ) {
            let owners = [Peer::default(), Peer::default(), Peer::default()];
            let mut t = AllowedIps::default();
            let mut model: Vec<(Ipv4Net, usize)> = Vec::new();
            for (bits, len, who, remove) in steps {
                let p = Ipv4Net::new([bits, 0, 0, 0].into(), len).unwrap().trunc();
                if remove {
                    t.remove(p.into(), &owners[who]);
                    model.retain(|m| *m != (p, who));
                } else {
                    t.insert(p.into(), &owners[who]);
                    model.retain(|m| m.0 != p);
                    model.push((p, who));
                }
            }
            let address = std::net::Ipv4Addr::new(asked, 1, 2, 3);
            let expected = model.iter().filter(|m| m.0.contains(&address)).max_by_key(|m| m.0.prefix_len()).map(|m| m.1);
            let found = t.lookup(address.into()).map(|o| owners.iter().position(|x| x.is(o)).unwrap());
            prop_assert_eq!(found, expected);
            for (who, owner) in owners.iter().enumerate() {
                let mut listed: Vec<_> = owner.0.borrow().iter().collect();
                let mut known: Vec<IpNet> = model.iter().filter(|m| m.1 == who).map(|m| m.0.into()).collect();
                listed.sort();
                known.sort();
                prop_assert_eq!(listed, known);
            }
        }
    }
}
