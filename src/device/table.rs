//! A lock for what the data path looks things up in, while a configuration of any size changes it.
//!
//! A writer takes it for a bounded piece of work at a time ([`SLICE`]), and waits for those who read before it takes it
//! again: else it would get it back before they wake up, as locks of the system commonly prefer who writes.

use std::{
    sync::{
        RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    allowed_ips::{AllowedIps, Owner},
    read, write,
};
use crate::config::AllowedIpUpdate;

/// Prefixes that are changed under one lock: well below a millisecond of work.
const SLICE: usize = 128;

/// How long a writer sleeps before it looks again whether readers still wait.
const NAP: Duration = Duration::from_micros(50);

/// Something that is looked up in often, and changed seldom but maybe much.
#[derive(Default)]
pub(super) struct Table<T> {
    content: RwLock<T>,
    /// Readers that wait for the lock.
    waiting: AtomicUsize,
}

impl<T> Table<T> {
    /// Waits for one piece of a writer's work at most.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, T> {
        match self.content.try_read() {
            Ok(content) => content,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                self.waiting.fetch_add(1, Ordering::SeqCst);
                let content = read(&self.content);
                self.waiting.fetch_sub(1, Ordering::SeqCst);
                content
            }
        }
    }

    /// Lets those read first who wait for it. To be held for a moment only.
    pub(super) fn write(&self) -> RwLockWriteGuard<'_, T> {
        while self.waiting.load(Ordering::SeqCst) != 0 {
            thread::sleep(NAP);
        }
        write(&self.content)
    }
}

impl<P: Owner> Table<AllowedIps<P>> {
    /// Applies changes to the prefixes of `owner`. With `replace` all that are not among them are taken away, but only
    /// after the new ones were given: what it keeps is never routed to another owner in between.
    pub(super) fn change(&self, owner: &P, changes: &[AllowedIpUpdate], replace: bool) {
        let old = if replace { owner.with_list(|list| list.take()) } else { Vec::new() };
        for slice in changes.chunks(SLICE) {
            let mut table = self.write();
            for change in slice {
                if change.remove {
                    table.remove(change.prefix, owner);
                } else {
                    table.insert(change.prefix, owner);
                }
            }
        }
        for slice in old.chunks(SLICE) {
            self.write().remove_numbered(slice, owner);
        }
    }

    /// Takes every prefix away from `owner`.
    pub(super) fn remove_all(&self, owner: &P) {
        self.change(owner, &[], true);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::device::allowed_ips::PrefixList;
    use ipnet::{IpNet, Ipv4Net};
    use std::sync::{Arc, Mutex, atomic::AtomicBool};

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
    fn a_reader_that_waits_comes_before_the_writer_comes_again() {
        let table = Table::<u32>::default();
        let has_read = AtomicBool::new(false);
        for _ in 0..100 {
            has_read.store(false, Ordering::SeqCst);
            thread::scope(|s| {
                let writing = table.write();
                s.spawn(|| {
                    let _reading = table.read();
                    has_read.store(true, Ordering::SeqCst);
                });
                while table.waiting.load(Ordering::SeqCst) == 0 {
                    thread::yield_now();
                }
                drop(writing);
                drop(table.write());
                assert!(has_read.load(Ordering::SeqCst));
            });
        }
    }

    #[test]
    fn what_is_kept_is_never_routed_elsewhere_while_the_rest_is_replaced() {
        let table = Table::<AllowedIps<Peer>>::default();
        let (default, own) = (Peer::default(), Peer::default());
        table.change(&default, &[AllowedIpUpdate { prefix: "0.0.0.0/0".parse().unwrap(), remove: false }], false);
        table.change(&own, &hosts(0, 3000), true);
        let done = AtomicBool::new(false);
        thread::scope(|s| {
            s.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    assert!(table.read().lookup("10.0.11.0".parse().unwrap()).unwrap().is(&own));
                }
            });
            for round in 1..20 {
                table.change(&own, &hosts(round % 2 * 2000, 3000), true);
            }
            done.store(true, Ordering::SeqCst);
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
    fn a_prefix_that_another_owner_took_meanwhile_stays_with_it() {
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
