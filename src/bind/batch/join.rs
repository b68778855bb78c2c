//! Joins datagrams that can be sent together: adjacent ones of one size, to one endpoint, become one GSO send.
//!
//! The caller's datagrams are in separate buffers, so they are copied into one. That costs a fraction of separate
//! sends.

use crate::bind::{
    Endpoint, Family, Transmit,
    outgoing::{MAX_BYTES, Origin},
};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

/// The number of transmits that are passed to the socket at once: as many as one system call takes.
const WINDOW: usize = 16;

/// The size of the buffer for joined datagrams, which is enough for any run.
pub(super) const ROOM: usize = 65_536;

/// A group of transmits for the socket, joined where possible.
pub(super) struct Window<'a> {
    free: &'a mut [u8],
    transmits: [Transmit<'a>; WINDOW],
    origins: [Origin; WINDOW],
    len: usize,
}

impl<'a> Window<'a> {
    /// Fills the window from the front of `batch`, whose first transmit has the number `at`. `joins` returns whether
    /// datagrams of a family may be joined. Returns the number of transmits taken.
    pub(super) fn fill(
        batch: &[Transmit<'a>],
        mut at: usize,
        joins: impl Fn(Family) -> bool,
        room: &'a mut [u8],
    ) -> (Self, usize) {
        const NONE: Transmit<'_> = {
            let to = Endpoint::new(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)));
            Transmit { to, contents: &[], segment_size: 0, tos: 0 }
        };
        let mut window = Self { free: room, transmits: [NONE; WINDOW], origins: [Origin::default(); WINDOW], len: 0 };
        let mut rest = batch;
        while let Some(first) = rest.first().filter(|_| window.len < WINDOW) {
            let count = if joins(Family::of(first.to.dst)) { run(rest) } else { 1 };
            let (these, behind) = rest.split_at(count);
            let Some(transmit) = window.join(these) else { break };
            window.transmits[window.len] = transmit;
            window.origins[window.len] = Origin { first: at, joined: count > 1 };
            window.len += 1;
            at += count;
            rest = behind;
        }
        (window, batch.len() - rest.len())
    }

    pub(super) fn transmits(&self) -> &[Transmit<'a>] {
        &self.transmits[..self.len]
    }

    pub(super) fn origins(&self) -> &[Origin] {
        &self.origins[..self.len]
    }

    /// Joins several transmits into one. Returns `None` if there is no room left.
    fn join(&mut self, these: &[Transmit<'a>]) -> Option<Transmit<'a>> {
        let [first, others @ ..] = these else { return None };
        if others.is_empty() {
            return Some(*first);
        }
        let total = these.iter().map(|transmit| transmit.contents.len()).sum();
        let (joined, free) = std::mem::take(&mut self.free).split_at_mut_checked(total)?;
        self.free = free;
        let mut end = 0;
        for transmit in these {
            let begin = end;
            end += transmit.contents.len();
            joined[begin..end].copy_from_slice(transmit.contents);
        }
        Some(Transmit { contents: joined, segment_size: first.contents.len(), ..*first })
    }
}

/// Returns how many transmits at the front of `batch` may be joined; at least one.
pub(super) fn run(batch: &[Transmit<'_>]) -> usize {
    let Some(first) = batch.first().filter(|first| first.datagrams() == 1 && !first.contents.is_empty()) else {
        return 1;
    };
    let size = first.contents.len();
    let mut count = 1;
    for next in batch.iter().take(MAX_BYTES / size).skip(1) {
        let same = next.to == first.to && next.tos == first.tos && next.datagrams() == 1;
        if !same || !(1..=size).contains(&next.contents.len()) {
            break;
        }
        count += 1;
        // Only the last one may be shorter.
        if next.contents.len() < size {
            break;
        }
    }
    count
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const DATA: &[u8] = &[7; 70_000];

    fn transmit(len: usize) -> Transmit<'static> {
        Transmit { to: Endpoint::parse("192.0.2.1:1").unwrap(), contents: &DATA[..len], segment_size: 0, tos: 0 }
    }

    /// Number, length, segment size and whether it was joined, for each transmit of one window; and how many it took.
    fn shape(batch: &[Transmit<'_>]) -> (Vec<(usize, usize, usize, bool)>, usize) {
        let mut room = vec![0; ROOM];
        let (window, count) = Window::fill(batch, 0, |_| true, &mut room);
        let each = window.transmits().iter().zip(window.origins());
        (each.map(|(t, o)| (o.first, t.contents.len(), t.segment_size, o.joined)).collect(), count)
    }

    #[test]
    fn neighbours_of_one_size_are_joined_and_a_shorter_one_ends_them() {
        let batch = [100, 100, 60, 60, 100, 0, 0, 30].map(transmit);
        assert_eq!(
            shape(&batch).0,
            [
                (0, 260, 100, true),
                (3, 60, 0, false),
                (4, 100, 0, false),
                (5, 0, 0, false),
                (6, 0, 0, false),
                (7, 30, 0, false)
            ]
        );
    }

    #[test]
    fn what_differs_is_not_joined() {
        let mut other_address = transmit(9);
        other_address.to = Endpoint::parse("192.0.2.2:1").unwrap();
        let mut other_source = transmit(9);
        other_source.to.src = Some(Ipv4Addr::LOCALHOST.into());
        let mut other_interface = other_source;
        other_interface.to.src_interface = 1;
        let (segmented, marked) = (Transmit { segment_size: 4, ..transmit(9) }, Transmit { tos: 1, ..transmit(9) });
        let batch = [transmit(9), other_address, other_source, other_interface, segmented, marked, transmit(9)];
        assert_eq!(shape(&batch).0.len(), 7);
        assert!(shape(&batch).0.iter().all(|(.., joined)| !joined));
        let mut room = vec![0; ROOM];
        let (window, count) = Window::fill(&[transmit(9); 3], 5, |family| family == Family::V6, &mut room);
        assert_eq!((window.transmits().len(), window.origins()[2].first, count), (3, 7, 3));
    }

    #[test]
    fn a_run_ends_at_the_largest_message() {
        assert_eq!(shape(&[transmit(10); 128]).0, [(0, 1280, 10, true)]);
        assert_eq!(shape(&[transmit(30_000); 3]).0, [(0, 60_000, 30_000, true), (2, 30_000, 0, false)]);
        assert_eq!(shape(&[transmit(40_000); 2]).0.len(), 2);
        assert_eq!(shape(&[transmit(65_507); 2]).0.len(), 2);
        assert_eq!(shape(&[transmit(70_000); 2]).0.len(), 2);
    }

    #[test]
    fn a_window_ends_when_its_room_or_its_places_do() {
        let (first, count) = shape(&[transmit(1452); 128]);
        assert_eq!((first.as_slice(), count), (&[(0, 45 * 1452, 1452, true)][..], 45));
        let alternating: Vec<_> = (0..40).map(|i| transmit(10 + i % 2 * 10)).collect();
        // 10 | 20 10 | 20 10 ...
        let (pairs, count) = shape(&alternating);
        assert_eq!((pairs.len(), count), (16, 31));
    }

    #[test]
    fn what_is_joined_is_what_it_was() {
        let contents: Vec<Vec<u8>> = [b"one", b"two", b"six"].iter().map(|text| text.to_vec()).collect();
        let batch: Vec<_> = contents.iter().map(|contents| Transmit { contents, ..transmit(0) }).collect();
        let mut room = vec![0; ROOM];
        let (window, _) = Window::fill(&batch, 0, |_| true, &mut room);
        assert_eq!(window.transmits()[0].contents, b"onetwosix");
        assert!(window.transmits()[0].segments().eq(contents.iter().map(Vec::as_slice)));
    }
}
