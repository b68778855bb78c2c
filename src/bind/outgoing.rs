//! The rest of a batch to send, and the reaction to refusals by the system, without I/O.
//!
//! A socket takes [`messages`](Outgoing::messages), passes them to the system, and reports how many it
//! [`took`](Outgoing::took) or why it [`refused`](Outgoing::refused) the first one, until none is left.

use super::{Family, SendReport, Transmit, socket_error::ends};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// The largest payload of an IPv4 UDP datagram, and therefore of a GSO send.
pub(super) const MAX_BYTES: usize = 65_507;

/// A part of a batch as passed to the system: a datagram, or several of equal size for GSO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) to: SocketAddr,
    pub(super) source: Option<IpAddr>,
    /// The index of the source's interface, or 0.
    pub(super) interface: u32,
    pub(super) tos: u8,
    pub(super) contents: &'a [u8],
    /// The size of each datagram, if there are several.
    pub(super) segment_size: Option<u16>,
    at: Place,
}

/// A place in a batch: a transmit and an offset into its contents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    index: usize,
    offset: usize,
}

impl Message<'_> {
    /// Returns the place behind this message, of whose transmit `rest` bytes were left at its start.
    fn end(&self, rest: usize) -> Place {
        if self.contents.len() == rest {
            Place { index: self.at.index + 1, offset: 0 }
        } else {
            Place { offset: self.at.offset + self.contents.len(), ..self.at }
        }
    }

    /// Returns the number of datagrams.
    fn datagrams(&self) -> usize {
        self.segment_size.map_or(1, |size| self.contents.len().div_ceil(usize::from(size)))
    }
}

/// The reason why the system refused a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The buffer is full.
    Full,
    /// Its source address or interface is not local, or has no route; without a source, there is no route.
    Source,
    /// There is no route.
    Route,
    /// The message is invalid: it is too large, or GSO cannot segment it, or its source address is not local.
    Argument,
    /// Any other error. On a UDP socket it may concern an earlier datagram (a pending ICMP error).
    Other,
}

/// The origin of a transmit: which bits of the report's masks concern it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Origin {
    /// The number of its transmit, or of the first of several joined ones.
    pub(super) first: usize,
    /// Whether each of its datagrams has its own number.
    pub(super) joined: bool,
}

/// The rest of a batch, for the socket of one family, with the report.
#[derive(Debug)]
pub(super) struct Outgoing<'a> {
    batch: &'a [Transmit<'a>],
    /// As long as `batch`, or empty: then the transmits are numbered in order.
    origins: &'a [Origin],
    family: Family,
    next: Place,
    /// The transmit that is being sent without GSO.
    plain: Option<usize>,
    /// The transmit that is being sent without its source address.
    sourceless: Option<usize>,
    /// Whether the interfaces of source addresses are ignored.
    any_interface: bool,
    /// Whether the next message was refused once for an unrelated reason.
    retried: bool,
    /// The last error of the system.
    errno: Option<i32>,
    /// The error that ended a socket.
    end: Option<i32>,
    /// The total time to wait for a full socket buffer.
    patience: Duration,
    deadline: Option<Instant>,
    /// Datagrams that were dropped because the socket buffer was full.
    overflowed: usize,
    report: &'a mut SendReport,
}

impl<'a> Outgoing<'a> {
    pub(super) fn new(
        batch: &'a [Transmit<'a>],
        origins: &'a [Origin],
        family: Family,
        report: &'a mut SendReport,
    ) -> Self {
        Self {
            batch,
            origins,
            family,
            next: Place::default(),
            plain: None,
            sourceless: None,
            any_interface: false,
            retried: false,
            errno: None,
            end: None,
            patience: Duration::ZERO,
            deadline: None,
            overflowed: 0,
            report,
        }
    }

    /// Sets the total time to wait for a full socket buffer to drain. Without it, or when it is used up, the rest is
    /// dropped as soon as a message finds no room.
    pub(super) fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Returns the number of datagrams that were dropped because the socket buffer was full.
    pub(super) const fn overflowed(&self) -> usize {
        self.overflowed
    }

    /// Ignores the interfaces of source addresses.
    pub(super) fn through_any_interface(&mut self) {
        self.any_interface = true;
    }

    /// Returns the next messages in order, with up to `segments` datagrams in each.
    pub(super) fn messages(&self, segments: usize) -> impl Iterator<Item = Message<'a>> + use<'a> {
        let (batch, family, plain, sourceless) = (self.batch, self.family, self.plain, self.sourceless);
        let any_interface = self.any_interface;
        let mut at = self.next;
        std::iter::from_fn(move || {
            let transmit = loop {
                let transmit = batch.get(at.index)?;
                if Family::of(transmit.to.dst) == family {
                    break transmit;
                }
                at = Place { index: at.index + 1, offset: 0 };
            };
            let size = transmit.size();
            let segments = if plain == Some(at.index) { 1 } else { segments };
            let most = size * segments.min(MAX_BYTES / size).max(1);
            let rest = &transmit.contents[at.offset..];
            let contents = &rest[..most.min(rest.len())];
            let source = transmit.to.src.filter(|_| sourceless != Some(at.index));
            let message = Message {
                to: transmit.to.dst,
                source,
                interface: if any_interface || source.is_none() { 0 } else { transmit.to.src_interface },
                tos: transmit.tos,
                contents,
                segment_size: u16::try_from(size).ok().filter(|_| contents.len() > size),
                at,
            };
            at = message.end(rest.len());
            Some(message)
        })
    }

    /// Reports that the system accepted the first `count` of `messages(segments)`.
    pub(super) fn took(&mut self, count: usize, segments: usize) {
        for message in self.messages(segments).take(count) {
            self.report.sent += message.datagrams();
            if self.sourceless == Some(message.at.index) {
                self.report.stale_source_mask |= self.mask(&message);
            }
            self.pass(&message);
        }
    }

    /// Reports that GSO was disabled on this socket.
    pub(super) fn gso_disabled(&mut self) {
        self.report.gso_disabled = true;
    }

    /// Records the error of the message that is about to be [`refused`](Self::refused).
    pub(super) fn note_error(&mut self, err: &io::Error) {
        self.errno = err.raw_os_error();
        self.end = self.end.or(self.errno.filter(|code| ends(*code)));
    }

    /// Returns the error of the system, if the socket has become unusable.
    pub(super) fn end(&self) -> Option<i32> {
        self.end
    }

    /// Reports that the system refused the first of `messages(segments)`, and decides what happens to it: the next call
    /// of `messages` begins with the same data in another form, or with the following data. Returns how much longer the
    /// socket may wait for room before it continues; zero without patience.
    pub(super) fn refused(&mut self, segments: usize, refusal: Refusal) -> Duration {
        let Some(message) = self.messages(segments).next() else {
            return Duration::ZERO;
        };
        let index = message.at.index;
        match refusal {
            Refusal::Full => {
                let left = self.patience_left();
                if left.is_zero() {
                    self.overflow();
                }
                return left;
            }
            // GSO first: its lack is independent of the source address.
            Refusal::Argument if message.segment_size.is_some() => {
                self.plain = Some(index);
                return Duration::ZERO;
            }
            Refusal::Source | Refusal::Argument if message.source.is_some() => {
                self.sourceless = Some(index);
                return Duration::ZERO;
            }
            Refusal::Source | Refusal::Route | Refusal::Other if !self.retried => {
                self.retried = true;
                return Duration::ZERO;
            }
            Refusal::Source | Refusal::Route => self.report.unreachable_mask |= self.mask(&message),
            _ => {}
        }
        self.report.error = self.report.error.or(self.errno);
        self.drop(&message);
        Duration::ZERO
    }

    /// Returns the rest of the patience, which is used up from the first time that there is no room.
    fn patience_left(&mut self) -> Duration {
        if self.patience.is_zero() {
            return Duration::ZERO;
        }
        let now = Instant::now();
        self.deadline.get_or_insert(now + self.patience).saturating_duration_since(now)
    }

    /// Drops the rest, as the socket is full: small messages do not fit either, and each attempt would cost a system
    /// call.
    fn overflow(&mut self) {
        self.report.error = self.report.error.or(self.errno);
        let before = self.report.dropped;
        self.abandon();
        self.overflowed += self.report.dropped - before;
    }

    /// Drops the rest.
    pub(super) fn abandon(&mut self) {
        for message in self.messages(1) {
            self.drop(&message);
        }
    }

    /// Drops the rest, as there is no socket of the family.
    pub(super) fn no_socket(&mut self) {
        for message in self.messages(1) {
            self.report.unreachable_mask |= self.mask(&message);
            self.drop(&message);
        }
    }

    fn drop(&mut self, message: &Message<'_>) {
        self.report.dropped += message.datagrams();
        self.report.dropped_mask |= self.mask(message);
        self.pass(message);
    }

    /// Continues behind `message`.
    fn pass(&mut self, message: &Message<'_>) {
        self.retried = false;
        let len = self.batch[message.at.index].contents.len();
        self.next = message.end(len - message.at.offset);
    }

    /// Returns the bits of the report's masks that concern `message`.
    fn mask(&self, message: &Message<'_>) -> u128 {
        match self.origins.get(message.at.index) {
            None => 1 << message.at.index,
            Some(Origin { first, joined: false }) => 1 << first,
            Some(Origin { first, joined: true }) => {
                let before = message.at.offset / self.batch[message.at.index].size();
                u128::MAX >> (128 - message.datagrams()) << (first + before)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::bind::Endpoint;

    const DATA: &[u8] = &[7; 200_000];

    fn transmit(to: &str, len: usize, segment_size: usize) -> Transmit<'static> {
        let mut to = Endpoint::new(to.parse().unwrap());
        to.src = Some("192.0.2.9".parse().unwrap());
        Transmit { to, contents: &DATA[..len], segment_size, tos: 0 }
    }

    fn shape(out: &Outgoing<'_>, segments: usize) -> Vec<(usize, Option<u16>)> {
        let shape = |m: Message<'_>| (m.contents.len(), m.segment_size);
        out.messages(segments).map(shape).collect()
    }

    #[test]
    fn takes_the_transmits_of_its_family_only() {
        let mut report = SendReport::default();
        let batch = [transmit("[::1]:1", 10, 10), transmit("192.0.2.1:1", 20, 20), transmit("[::1]:1", 30, 0)];
        assert_eq!(shape(&Outgoing::new(&batch, &[], Family::V4, &mut report), 64), [(20, None)]);
        assert_eq!(shape(&Outgoing::new(&batch, &[], Family::V6, &mut report), 64), [(10, None), (30, None)]);
    }

    #[test]
    fn an_empty_datagram_is_one() {
        let mut report = SendReport::default();
        let batch = [transmit("192.0.2.1:1", 0, 0), transmit("192.0.2.1:1", 5, 0), transmit("192.0.2.1:1", 0, 9)];
        let mut out = Outgoing::new(&batch, &[], Family::V4, &mut report);
        assert_eq!(shape(&out, 64), [(0, None), (5, None), (0, None)]);
        out.took(1, 64);
        assert_eq!(shape(&out, 64), [(5, None), (0, None)]);
        out.took(2, 64);
        assert_eq!((shape(&out, 64).len(), report.sent), (0, 3));
    }

    #[test]
    fn the_report_counts_what_was_joined_one_by_one() {
        let mut report = SendReport::default();
        // 5 datagrams that were joined, between two that were not.
        let batch = [transmit("192.0.2.1:1", 10, 4), transmit("192.0.2.1:1", 45, 10), transmit("192.0.2.1:1", 10, 0)];
        let origins = [(0, false), (1, true), (6, false)].map(|(first, joined)| Origin { first, joined });
        let mut out = Outgoing::new(&batch, &origins, Family::V4, &mut report);
        out.took(1, 64);
        // One by one, with and then without the source address.
        out.refused(64, Refusal::Argument);
        out.took(1, 64);
        out.refused(64, Refusal::Argument);
        out.took(2, 64);
        for errno in [7, 8] {
            out.note_error(&io::Error::from_raw_os_error(errno));
            out.refused(64, Refusal::Argument);
        }
        out.took(1, 64);
        assert_eq!(shape(&out, 64), []);
        assert_eq!((report.sent, report.dropped, report.error), (7, 2, Some(7)));
        assert_eq!((report.stale_source_mask, report.dropped_mask), (0b00_1100, 0b11_0000));
    }

    #[test]
    fn cuts_at_64_segments_and_at_the_largest_datagram() {
        let mut report = SendReport::default();
        let batch = [transmit("192.0.2.1:1", 130 * 100 + 1, 100)];
        assert_eq!(
            shape(&Outgoing::new(&batch, &[], Family::V4, &mut report), 64),
            [(6400, Some(100)), (6400, Some(100)), (201, Some(100))]
        );
        let batch = [transmit("192.0.2.1:1", 60 * 1452, 1452)];
        assert_eq!(
            shape(&Outgoing::new(&batch, &[], Family::V4, &mut report), 64),
            [(45 * 1452, Some(1452)), (15 * 1452, Some(1452))]
        );
        let batch = [transmit("192.0.2.1:1", 80_000, 70_000)];
        assert_eq!(shape(&Outgoing::new(&batch, &[], Family::V4, &mut report), 64), [(70_000, None), (10_000, None)]);
    }

    #[test]
    fn what_gso_cannot_cut_is_sent_one_by_one_and_the_next_transmit_is_not() {
        let mut report = SendReport::default();
        let batch = [transmit("192.0.2.1:1", 250, 100), transmit("192.0.2.1:1", 200, 100)];
        let mut out = Outgoing::new(&batch, &[], Family::V4, &mut report);
        assert_eq!(out.refused(64, Refusal::Argument), Duration::ZERO);
        assert_eq!(shape(&out, 64), [(100, None), (100, None), (50, None), (200, Some(100))]);
        assert!(out.messages(64).all(|m| m.source.is_some()));
        out.took(4, 64);
        assert_eq!(shape(&out, 64), []);
        assert_eq!((report.sent, report.dropped, report.stale_source_mask), (5, 0, 0));
    }

    #[test]
    fn a_stale_source_is_left_out_once_and_reported_if_that_helps() {
        let mut report = SendReport::default();
        let batch = [transmit("192.0.2.1:1", 100, 100), transmit("192.0.2.1:0", 100, 100)];
        let mut out = Outgoing::new(&batch, &[], Family::V4, &mut report);
        out.refused(64, Refusal::Argument);
        assert_eq!(out.messages(64).next().unwrap().source, None);
        out.took(1, 64);
        out.refused(64, Refusal::Argument);
        out.refused(64, Refusal::Argument);
        assert_eq!(shape(&out, 64), []);
        assert_eq!((report.sent, report.dropped), (1, 1));
        assert_eq!((report.stale_source_mask, report.dropped_mask), (0b01, 0b10));
    }

    #[test]
    fn an_error_of_an_earlier_datagram_costs_none() {
        let mut report = SendReport::default();
        let batch = [transmit("192.0.2.1:1", 250, 100), transmit("192.0.2.1:1", 100, 100)];
        let mut out = Outgoing::new(&batch, &[], Family::V4, &mut report);
        out.refused(64, Refusal::Other);
        out.took(1, 64);
        out.refused(64, Refusal::Other);
        out.refused(64, Refusal::Other);
        assert_eq!((report.sent, report.dropped, report.dropped_mask), (3, 1, 0b10));
    }

    #[test]
    fn what_has_no_route_is_told_apart() {
        let mut report = SendReport::default();
        let mut plain = transmit("192.0.2.1:1", 100, 100);
        plain.to.src = None;
        let batch = [transmit("192.0.2.1:1", 100, 100), plain, plain, plain];
        let mut out = Outgoing::new(&batch, &[], Family::V4, &mut report);
        // With a source address, that may be the trouble; and once it may be an error of an earlier datagram.
        for refusal in [Refusal::Source, Refusal::Source, Refusal::Source, Refusal::Route, Refusal::Route] {
            out.refused(64, refusal);
        }
        for refusal in [Refusal::Other, Refusal::Other, Refusal::Route] {
            out.refused(64, refusal);
        }
        out.took(1, 64);
        assert_eq!((report.sent, report.dropped), (1, 3));
        assert_eq!((report.dropped_mask, report.unreachable_mask), (0b111, 0b011));

        let mut report = SendReport::default();
        Outgoing::new(&batch[..2], &[], Family::V4, &mut report).no_socket();
        assert_eq!((report.dropped, report.unreachable_mask), (2, 0b11));
        let mut report = SendReport::default();
        Outgoing::new(&batch[..2], &[], Family::V4, &mut report).abandon();
        assert_eq!((report.dropped, report.dropped_mask, report.unreachable_mask), (2, 0b11, 0));
    }

    /// Sends by a socket that takes `room` messages and is full then, until nothing is left or it is to be waited for.
    /// Returns the number of calls, and for how long to wait.
    fn drive(out: &mut Outgoing<'_>, segments: usize, mut room: usize) -> (usize, Duration) {
        for calls in 0.. {
            match out.messages(segments).count().min(room) {
                0 if out.messages(segments).next().is_none() => return (calls, Duration::ZERO),
                0 => {
                    out.note_error(&io::Error::from_raw_os_error(11));
                    let left = out.refused(segments, Refusal::Full);
                    if !left.is_zero() {
                        return (calls + 1, left);
                    }
                }
                count => {
                    room -= count;
                    out.took(count, segments);
                }
            }
        }
        unreachable!()
    }

    #[test]
    fn a_full_socket_is_waited_for_as_long_as_the_patience_lasts() {
        const PATIENCE: Duration = Duration::from_millis(5);
        let mut report = SendReport::default();
        let batch = [transmit("192.0.2.1:1", 100, 100); 3];
        let mut out = Outgoing::new(&batch, &[], Family::V4, &mut report).with_patience(PATIENCE);
        let (calls, left) = drive(&mut out, 64, 0);
        assert!(calls == 1 && (Duration::from_nanos(1)..=PATIENCE).contains(&left));
        assert_eq!((shape(&out, 64).len(), out.overflowed()), (3, 0));
        std::thread::sleep(PATIENCE);
        assert_eq!(drive(&mut out, 64, 0), (1, Duration::ZERO), "it was waited for, and is full still");
        assert_eq!((out.overflowed(), report.dropped), (3, 3));
    }

    #[test]
    fn without_patience_a_full_socket_is_tried_once() {
        let v4 = [transmit("192.0.2.1:1", 250, 100), transmit("192.0.2.2:1", 0, 0), transmit("192.0.2.3:1", 100, 100)];
        let batch: Vec<_> = v4.into_iter().cycle().take(127).chain([transmit("[::1]:1", 10, 10)]).collect();
        let (datagrams, all) = (43 * 3 + 84, (1 << 127) - 1);
        for (segments, room, calls, sent, dropped_mask) in
            [(64, 0, 1, 0, all), (64, 1, 2, 3, all - 1), (1, 1, 2, 1, all), (1, 3, 2, 3, all - 1)]
        {
            let mut report = SendReport::default();
            let mut out = Outgoing::new(&batch, &[], Family::V4, &mut report);
            assert_eq!(drive(&mut out, segments, room), (calls, Duration::ZERO));
            let overflowed = out.overflowed();
            assert_eq!((overflowed, report.dropped, report.sent), (datagrams - sent, datagrams - sent, sent));
            assert_eq!((report.dropped_mask, report.error), (dropped_mask, Some(11)));
            // The other family has a socket of its own.
            let mut out = Outgoing::new(&batch, &[], Family::V6, &mut report);
            assert_eq!(drive(&mut out, segments, 1), (1, Duration::ZERO));
            assert_eq!((out.overflowed(), report.sent), (0, sent + 1));
        }
    }

    #[test]
    fn what_a_full_socket_costs_of_joined_datagrams_is_told_one_by_one() {
        let mut report = SendReport::default();
        let batch = [transmit("192.0.2.1:1", 45, 10), transmit("192.0.2.1:1", 10, 0)];
        let origins = [(2, true), (7, false)].map(|(first, joined)| Origin { first, joined });
        let mut out = Outgoing::new(&batch, &origins, Family::V4, &mut report);
        assert_eq!(drive(&mut out, 2, 1), (2, Duration::ZERO));
        assert_eq!((report.sent, report.dropped, report.dropped_mask), (2, 4, 0b1111_0000));
    }
}
