//! MTUs of paths that are smaller than the tunnel's, as reported by ICMP: limited in number, for 10 minutes.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use wg_embed::{sync::lock, time::Instant};

/// How long an MTU is used: then the path is tried again with a larger one.
const LIFETIME: Duration = Duration::from_secs(600);

/// The maximum number of paths; a new one replaces the oldest.
const MAX_PATHS: usize = 1024;

/// The smallest accepted MTUs: that of Linux, and that of RFC 8200.
pub(super) const MIN_V4: usize = 552;
pub(super) const MIN_V6: usize = 1280;

/// By destination.
#[derive(Default)]
pub(crate) struct PathMtus {
    paths: Mutex<HashMap<IpAddr, (usize, Instant)>>,
    /// The number of entries of `paths`: usually zero, which needs no lock.
    count: AtomicUsize,
}

impl PathMtus {
    /// Returns the MTU of the path to `to`, if it is known.
    pub(super) fn get(&self, to: IpAddr, now: impl FnOnce() -> Instant) -> Option<usize> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut paths = lock(&self.paths);
        let (mtu, until) = *paths.get(&to)?;
        if until > now() {
            return Some(mtu);
        }
        paths.remove(&to);
        self.count.store(paths.len(), Ordering::Relaxed);
        None
    }

    /// Stores a reported MTU, unless a smaller one is known.
    pub(super) fn set(&self, to: IpAddr, mtu: usize, now: Instant) {
        let mtu = mtu.max(if to.is_ipv4() { MIN_V4 } else { MIN_V6 });
        let mut paths = lock(&self.paths);
        if paths.get(&to).is_some_and(|(known, until)| *known < mtu && *until > now) {
            return;
        }
        if paths.len() >= MAX_PATHS && !paths.contains_key(&to) {
            let oldest = paths.iter().min_by_key(|(_, (_, until))| *until).map(|(address, _)| *address);
            oldest.and_then(|address| paths.remove(&address));
        }
        paths.insert(to, (mtu, now + LIFETIME));
        self.count.store(paths.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_forgets() {
        let paths = PathMtus::default();
        let (one, start) = (IpAddr::from([10, 0, 0, 1]), Instant::from_nanos(7));
        assert_eq!(paths.get(one, || start), None);
        paths.set(one, 1300, start);
        paths.set(one, 1400, start);
        assert_eq!(paths.get(one, || start), Some(1300), "a larger one is no news");
        paths.set(one, 100, start);
        assert_eq!(paths.get(one, || start + LIFETIME / 2), Some(MIN_V4));
        assert_eq!(paths.get(one, || start + LIFETIME), None);
        for n in 0..5000_u32 {
            let to = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
            paths.set(to, 1300, start + Duration::from_nanos(n.into()));
        }
        assert_eq!(lock(&paths.paths).len(), MAX_PATHS);
        assert_eq!(paths.get(IpAddr::from([10, 0, 0x13, 0x87]), || start), Some(1300), "the newest one is there");
    }
}
