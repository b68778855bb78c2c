//! The allowed IPs of all peers, which the data path can read while a configuration of any size changes them.
//!
//! There are two copies. One is read while the other is changed; then they are swapped, and the other one is changed in
//! the same way. So no packet waits for a change, whatever its size: for prefixes, a growing table that is moved, or
//! memory that is freed.

use std::{
    hint,
    sync::{
        Mutex, RwLock, RwLockReadGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    allowed_ips::{AllowedIps, Entry, Owner, PrefixList},
    lock, write,
};
use crate::{config::AllowedIpUpdate, sync};

/// A value that is read often, and changed seldom, but possibly much.
#[derive(Default)]
pub(super) struct Table<T> {
    copies: [RwLock<T>; 2],
    /// The copy to read, which is never locked for writing.
    current: AtomicUsize,
    /// Held while the copies differ.
    changing: Mutex<()>,
}

impl<T> Table<T> {
    /// Returns the current copy without waiting for a writer.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, T> {
        loop {
            if let Some(content) = sync::try_read(&self.copies[self.current.load(Ordering::Acquire)]) {
                return content;
            }
            // The other copy has replaced it by now.
            hint::spin_loop();
        }
    }

    #[cfg(test)]
    pub(super) fn can_be_read(&self) -> bool {
        self.copies[self.current.load(Ordering::Acquire)].try_read().is_ok()
    }

    /// Makes the same change in both copies; `change` gets whether it is the first time.
    fn change_both(&self, mut change: impl FnMut(&mut T, bool)) {
        let _alone = lock(&self.changing);
        let current = self.current.load(Ordering::Relaxed);
        for (copy, is_first) in [(1 - current, true), (current, false)] {
            // It waits for earlier readers; new ones read the other copy.
            change(&mut write(&self.copies[copy]), is_first);
            self.current.store(1 - current, Ordering::Release);
        }
    }
}

impl<P: Owner> Table<AllowedIps<P>> {
    /// Applies changes to the prefixes of `owner`. With `replace`, all others are removed. Both become visible at once,
    /// so prefixes that it keeps are never routed to another owner in between.
    pub(super) fn change(&self, owner: &P, changes: &[AllowedIpUpdate], replace: bool) {
        let old = if replace { owner.with_list(PrefixList::take) } else { Vec::new() };
        if old.is_empty() && changes.is_empty() {
            return;
        }
        let given = changes.iter().filter(|change| !change.remove).map(|change| change.prefix);
        let number = owner.with_list(|list| list.extend(given));
        self.change_both(|table, is_first| {
            let strike: fn(Entry<P>) = if is_first { Entry::strike } else { drop };
            table.apply(changes, owner, number, strike);
            table.remove_numbered(&old, owner);
            table.trim();
        });
    }

    /// Removes every prefix from `owner`.
    pub(super) fn remove_all(&self, owner: &P) {
        self.change(owner, &[], true);
    }

    /// Removes all prefixes from their owners, which are also removed: their lists are not changed.
    pub(super) fn clear(&self) {
        self.change_both(|table, _| *table = AllowedIps::default());
    }

    /// Returns the memory of both copies in bytes, without the owners' lists.
    pub(super) fn memory(&self) -> usize {
        2 * self.read().memory()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::device::allowed_ips::PrefixList;
    use ipnet::{IpNet, Ipv4Net};
    use std::{sync::Arc, thread};

    #[derive(Clone, Default)]
    struct Peer(Arc<Mutex<PrefixList>>);

    impl Owner for Peer {
        fn with_list<R>(&self, f: impl FnOnce(&mut PrefixList) -> R) -> R {
            f(&mut self.0.lock().unwrap())
        }
        fn is(&self, other: &Self) -> bool {
            Arc::ptr_eq(&self.0, &other.0)
        }
    }

    fn hosts(from: u32, n: u32) -> Vec<AllowedIpUpdate> {
        let prefix = |i| IpNet::from(Ipv4Net::from(std::net::Ipv4Addr::from(0x0a00_0000 + from + i)));
        (0..n).map(|i| AllowedIpUpdate { prefix: prefix(i), remove: false }).collect()
    }

    #[test]
    fn a_reader_does_not_wait_for_a_writer() {
        let table = Table::<u32>::default();
        let reads = |expected| assert_eq!(thread::scope(|s| s.spawn(|| *table.read()).join().unwrap()), expected);
        table.change_both(|content, is_first| {
            reads(u32::from(!is_first));
            *content += 1;
            reads(u32::from(!is_first));
        });
        reads(1);
        // A reader that was there before a change is waited for, but by the writer alone.
        let reading = table.read();
        thread::scope(|s| {
            s.spawn(|| table.change_both(|content, _| *content += 1));
            while *table.read() == 1 {
                thread::yield_now();
            }
            assert_eq!(*reading, 1);
            reads(2);
            drop(reading);
        });
        reads(2);
    }

    #[test]
    fn what_is_kept_is_never_routed_elsewhere_while_the_rest_is_replaced() {
        let table = Table::<AllowedIps<Peer>>::default();
        let (default, own) = (Peer::default(), Peer::default());
        table.change(&default, &[AllowedIpUpdate { prefix: "0.0.0.0/0".parse().unwrap(), remove: false }], false);
        table.change(&own, &hosts(0, 3000), true);
        thread::scope(|s| {
            // The reader ends when this is dropped, also by a failed assertion.
            let lasts = Arc::new(());
            let (lasting, table, own) = (Arc::downgrade(&lasts), &table, &own);
            s.spawn(move || {
                while lasting.strong_count() > 0 {
                    assert!(table.read().lookup("10.0.11.0".parse().unwrap()).unwrap().is(own));
                }
            });
            for round in 1..20 {
                table.change(own, &hosts(round % 2 * 2000, 3000), true);
            }
            drop(lasts);
        });
        let listed = own.with_list(|list| list.iter().collect::<Vec<_>>());
        assert_eq!(listed, hosts(2000, 3000).iter().map(|change| change.prefix).collect::<Vec<_>>());
        assert!(table.read().lookup("10.0.0.1".parse().unwrap()).unwrap().is(&default));
        assert!(table.read().lookup("10.0.19.135".parse().unwrap()).unwrap().is(&own));
        table.remove_all(&own);
        assert!(table.read().lookup("10.0.11.0".parse().unwrap()).unwrap().is(&default));
        assert_eq!(own.with_list(|list| list.iter().count()), 0);
    }

    #[test]
    fn a_prefix_that_another_owner_took_stays_with_it() {
        let table = Table::<AllowedIps<Peer>>::default();
        let (a, b) = (Peer::default(), Peer::default());
        table.change(&a, &hosts(0, 300), true);
        table.change(&b, &hosts(100, 10), false);
        table.change(&a, &hosts(0, 1), true);
        assert!(table.read().lookup("10.0.0.105".parse().unwrap()).unwrap().is(&b));
        assert!(table.read().lookup("10.0.0.0".parse().unwrap()).unwrap().is(&a));
        assert!(table.read().lookup("10.0.0.99".parse().unwrap()).is_none());
        let mut taken = hosts(0, 1);
        taken[0].remove = true;
        table.change(&a, &[hosts(7, 1), hosts(0, 1), taken].concat(), true);
        assert_eq!(a.with_list(|list| list.iter().collect::<Vec<_>>()), [hosts(7, 1)[0].prefix]);
        assert!(table.read().lookup("10.0.0.0".parse().unwrap()).is_none());
    }
}
