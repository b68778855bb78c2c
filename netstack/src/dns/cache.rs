//! The cache of responses.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::Duration,
};

use wg_embed::time::Instant;

use super::{message::Kind, name::Name};

/// The maximum number of responses.
const MAX_ENTRIES: usize = 4096;
/// Their approximate maximum size in bytes.
const MAX_BYTES: usize = 1 << 20;
/// The approximate size of a response without its name and addresses.
const ENTRY: usize = 160;

/// Responses by question, each until it expires. If there is no room, those that expire first are removed.
#[derive(Default)]
pub(super) struct Cache {
    entries: HashMap<(Name, Kind), Entry>,
    /// By their expiry.
    ends: BTreeMap<(Instant, u64), (Name, Kind)>,
    /// The number of the next response, which distinguishes those that expire at the same time.
    next: u64,
    bytes: usize,
}

struct Entry {
    addresses: Box<[IpAddr]>,
    end: (Instant, u64),
}

impl Cache {
    /// Returns the addresses: empty if it is known that there are none.
    pub(super) fn get(&mut self, question: &(Name, Kind), now: Instant) -> Option<&[IpAddr]> {
        while let Some((&end, _)) = self.ends.first_key_value()
            && end.0 <= now
        {
            self.remove(end);
        }
        self.entries.get(question).map(|entry| &*entry.addresses)
    }

    /// Stores a response for a time.
    pub(super) fn put(&mut self, question: &(Name, Kind), addresses: &[IpAddr], now: Instant, ttl: Duration) {
        if let Some(old) = self.entries.get(question) {
            self.remove(old.end);
        }
        if ttl.is_zero() {
            return;
        }
        let end = (now + ttl, self.next);
        self.next = self.next.wrapping_add(1);
        self.bytes += size(&question.0, addresses);
        self.ends.insert(end, question.clone());
        self.entries.insert(question.clone(), Entry { addresses: addresses.into(), end });
        while self.entries.len() > MAX_ENTRIES || self.bytes > MAX_BYTES {
            let Some((&first, _)) = self.ends.first_key_value() else { break };
            self.remove(first);
        }
    }

    fn remove(&mut self, end: (Instant, u64)) {
        if let Some(question) = self.ends.remove(&end)
            && let Some(entry) = self.entries.remove(&question)
        {
            self.bytes -= size(&question.0, &entry.addresses);
        }
    }
}

/// Returns the size of an entry, whose name is in both maps.
fn size(name: &Name, addresses: &[IpAddr]) -> usize {
    ENTRY + 2 * name.as_bytes().len() + size_of_val(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(n: usize) -> (Name, Kind) {
        (Name::parse(&format!("n{n}.example")).unwrap(), Kind::A)
    }

    fn at(s: u64) -> Instant {
        Instant::default() + Duration::from_secs(s)
    }

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn an_answer_is_kept_until_its_end() {
        let mut cache = Cache::default();
        cache.put(&question(1), &[ONE], at(0), Duration::from_secs(10));
        cache.put(&question(2), &[], at(0), Duration::from_secs(20));
        cache.put(&question(3), &[ONE], at(0), Duration::ZERO);
        assert_eq!(cache.get(&question(1), at(9)), Some(&[ONE][..]));
        assert_eq!(cache.get(&(question(1).0, Kind::Aaaa), at(9)), None);
        assert_eq!(cache.get(&question(1), at(10)), None);
        assert_eq!(cache.get(&question(2), at(10)), Some(&[][..]));
        assert_eq!(cache.get(&question(3), at(10)), None);
        assert_eq!(cache.get(&question(2), at(20)), None);
        assert_eq!((cache.bytes, cache.ends.len()), (0, 0));
    }

    #[test]
    fn a_newer_answer_takes_the_place_of_the_older() {
        let mut cache = Cache::default();
        cache.put(&question(1), &[ONE], at(0), Duration::from_secs(10));
        cache.put(&question(1), &[], at(5), Duration::from_secs(10));
        assert_eq!(cache.get(&question(1), at(12)), Some(&[][..]));
        cache.put(&question(1), &[ONE], at(12), Duration::ZERO);
        assert_eq!(cache.get(&question(1), at(12)), None);
        assert_eq!(cache.bytes, 0);
    }

    #[test]
    fn entries_and_bytes_are_bounded() {
        let mut cache = Cache::default();
        for n in 0..2 * MAX_ENTRIES {
            cache.put(&question(n), &[ONE], at(0), Duration::from_secs(10 + n as u64));
        }
        assert_eq!(cache.entries.len(), MAX_ENTRIES);
        assert_eq!(cache.get(&question(MAX_ENTRIES - 1), at(0)), None);
        assert!(cache.get(&question(MAX_ENTRIES), at(0)).is_some());
        for n in 0..2 * MAX_ENTRIES {
            cache.put(&question(n), &[ONE; 32], at(0), Duration::from_secs(100_000));
        }
        assert!(cache.bytes <= MAX_BYTES);
        assert_eq!(cache.entries.len(), cache.ends.len());
        assert!(cache.get(&question(0), at(200_000)).is_none());
        assert_eq!(cache.bytes, 0);
    }
}
