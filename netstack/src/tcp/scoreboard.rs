//! The segments in flight: a record for each one that was sent and is not acknowledged.
//!
//! Records are in the order of their sequence numbers, so an ACK removes them from the front, and a SACK block finds
//! its first one by bisection and visits each newly covered one once. In the order of time, first transmissions are the
//! records that were not yet visited (`fresh`), and retransmissions are in a queue of their own. So no step visits
//! everything in flight, except a retransmission timeout.

use std::{collections::VecDeque, time::Duration};

use wg_embed::time::Instant;

use super::{
    rack::{Rack, Sent},
    ranges::Ranges,
};

/// The maximum number of ranges: a peer cannot cause more by reporting single bytes.
const MOST_RANGES: usize = 4096;

const SACKED: u8 = 1;
const LOST: u8 = 2;
const REPEATED: u8 = 4;

/// One segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub(super) start: u64,
    pub(super) sent: Instant,
    /// The length, including a FIN.
    pub(super) len: u32,
    state: u8,
}

impl Record {
    pub(super) fn end(&self) -> u64 {
        self.start + u64::from(self.len)
    }

    fn is(&self, state: u8) -> bool {
        self.state & state != 0
    }
}

/// The data that an ACK delivers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Delivered {
    /// Newly delivered bytes.
    pub(super) bytes: u64,
    /// Bytes newly reported by SACK.
    pub(super) sacked: u64,
    /// The first and the last of the segments that were sent only once: their times.
    pub(super) oldest: Option<Instant>,
    pub(super) newest: Option<Instant>,
    /// The segment that was sent last: for RACK.
    pub(super) latest: Option<Sent>,
    /// The largest end of a segment that was sent only once.
    pub(super) original: Option<u64>,
    /// Whether one of the acknowledged segments had been sent more than once.
    pub(super) repeated: bool,
    /// The largest end that was delivered before.
    before: u64,
    /// Whether a segment arrived before one with lower numbers.
    pub(super) reordered: bool,
}

/// The records.
#[derive(Debug, Default)]
pub(super) struct Scoreboard {
    records: VecDeque<Record>,
    /// Ranges reported by SACK, above the acknowledged number.
    sacked: Ranges,
    sacked_bytes: u64,
    /// Bytes assumed to be in the network: neither delivered nor lost, or retransmitted.
    pipe: u64,
    /// Bytes that are lost and not yet retransmitted.
    lost: u64,
    /// Records before this one have been delivered, lost, or retransmitted.
    fresh: usize,
    /// Retransmissions, in the order of time. Outdated entries are skipped.
    again: VecDeque<(u64, Instant)>,
    /// The starts of lost segments. Outdated entries are skipped: the first one is valid.
    missing: VecDeque<u64>,
    /// The largest end that was ever delivered.
    highest: u64,
}

impl Scoreboard {
    /// Starts to count the data that an ACK delivers.
    pub(super) fn begin(&self) -> Delivered {
        Delivered { before: self.highest, ..Delivered::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn pipe(&self) -> u64 {
        self.pipe
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    pub(super) fn sacked(&self) -> u64 {
        self.sacked_bytes
    }

    pub(super) fn front(&self) -> Option<&Record> {
        self.records.front()
    }

    pub(super) fn memory(&self) -> usize {
        self.records.capacity() * size_of::<Record>()
            + self.again.capacity() * size_of::<(u64, Instant)>()
            + self.missing.capacity() * size_of::<u64>()
    }

    /// Releases the memory of an empty board.
    pub(super) fn shrink(&mut self) {
        if self.records.is_empty() {
            *self = Self { highest: self.highest, ..Self::default() };
        }
    }

    /// Adds a segment that was sent for the first time.
    pub(super) fn push(&mut self, start: u64, len: u32, now: Instant) {
        self.pipe += u64::from(len);
        self.records.push_back(Record { start, sent: now, len, state: 0 });
    }

    fn find(&self, number: u64) -> Option<usize> {
        let at = self.records.partition_point(|record| record.end() <= number);
        (at < self.records.len()).then_some(at)
    }

    /// Reports that everything below `ack` has arrived.
    pub(super) fn acknowledge(&mut self, ack: u64, delivered: &mut Delivered) {
        while let Some(record) = self.records.front_mut() {
            if record.start >= ack {
                break;
            }
            let end = record.end();
            if end > ack {
                // A part of a segment: the rest is unchanged.
                let (before, part) = (record.start, ack - record.start);
                record.start = ack;
                record.len -= part as u32;
                let counter = if record.is(SACKED) {
                    &mut self.sacked_bytes
                } else {
                    delivered.bytes += part;
                    if record.is(LOST) { &mut self.lost } else { &mut self.pipe }
                };
                *counter -= part;
                if record.is(LOST) {
                    self.missing.push_front(ack);
                }
                if record.is(REPEATED) {
                    let sent = record.sent;
                    self.move_again(before, ack, sent);
                }
                break;
            }
            let record = *record;
            self.records.pop_front();
            self.fresh = self.fresh.saturating_sub(1);
            delivered.repeated |= record.is(REPEATED);
            if record.is(SACKED) {
                self.sacked_bytes -= u64::from(record.len);
            } else {
                self.note(record, delivered);
            }
        }
        if !self.sacked.is_empty() {
            self.sacked.remove_below(ack);
        }
        self.highest = self.highest.max(ack);
        while self.again.front().is_some_and(|&(start, _)| start < ack) {
            self.again.pop_front();
        }
        self.skip_missing();
        if self.records.is_empty() {
            self.fresh = 0;
            self.again.clear();
            self.missing.clear();
        }
    }

    /// Counts a record as newly delivered.
    fn note(&mut self, record: Record, delivered: &mut Delivered) {
        let len = u64::from(record.len);
        delivered.bytes += len;
        if record.is(LOST) {
            self.lost -= len;
        } else {
            self.pipe -= len;
        }
        let sent = Sent { at: record.sent, end: record.end(), repeated: record.is(REPEATED) };
        if !record.is(REPEATED) {
            delivered.oldest.get_or_insert(record.sent);
            delivered.newest = Some(record.sent);
            delivered.original = delivered.original.max(Some(sent.end));
            delivered.reordered |= sent.end < delivered.before;
        }
        if delivered.latest.is_none_or(|latest| sent.is_after(&latest)) {
            delivered.latest = Some(sent);
        }
    }

    /// Handles a SACK block `start..end`, which lies between the acknowledged and the next number.
    pub(super) fn sack(&mut self, start: u64, end: u64, delivered: &mut Delivered) {
        if self.sacked.len() >= MOST_RANGES && self.sacked.is_apart(start, end) {
            return;
        }
        let mut from = start;
        while let Some((gap, gap_end)) = self.sacked.gap(from, end) {
            let (covered, covered_end) = self.sacked.insert(gap, gap_end);
            let Some(mut at) = self.find(gap) else { break };
            while let Some(&record) = self.records.get(at) {
                if record.start >= gap_end {
                    break;
                }
                if !record.is(SACKED) && record.start >= covered && record.end() <= covered_end {
                    self.note(record, delivered);
                    delivered.sacked += u64::from(record.len);
                    self.sacked_bytes += u64::from(record.len);
                    if let Some(record) = self.records.get_mut(at) {
                        record.state = (record.state | SACKED) & !LOST;
                    }
                }
                at += 1;
            }
            from = gap_end;
        }
        self.skip_missing();
        self.highest = self.highest.max(end);
    }

    fn lose(&mut self, at: usize) {
        let Some(record) = self.records.get_mut(at) else { return };
        if record.is(SACKED | LOST) {
            return;
        }
        record.state |= LOST;
        self.pipe -= u64::from(record.len);
        self.lost += u64::from(record.len);
        let start = record.start;
        // The most urgent segments are sent first.
        if self.missing.front().is_some_and(|&front| start < front) {
            self.missing.push_front(start);
        } else {
            self.missing.push_back(start);
        }
    }

    /// Counts the first segment as lost: for peers without SACK.
    pub(super) fn lose_first(&mut self) {
        self.lose(0);
    }

    /// Counts segments from `from` on that are larger than `len` as lost.
    pub(super) fn lose_larger(&mut self, from: u64, len: u32) {
        for at in 0..self.records.len() {
            if self.records.get(at).is_some_and(|record| record.end() > from && record.len > len) {
                self.lose(at);
            }
        }
    }

    /// Handles a retransmission timeout: the first segment, and those sent long enough ago, are lost.
    pub(super) fn lose_old(&mut self, now: Instant, age: Duration) {
        if self.records.front().is_some_and(|record| record.is(SACKED)) {
            // The peer has discarded data that it had reported.
            self.forget_sacked();
        }
        self.missing.clear();
        for at in 0..self.records.len() {
            let Some(record) = self.records.get_mut(at) else { break };
            if record.is(SACKED) {
                continue;
            }
            if record.is(LOST) {
                self.missing.push_back(record.start);
            } else if at == 0 || now.since(record.sent) >= age {
                self.lose(at);
            }
        }
    }

    fn forget_sacked(&mut self) {
        for record in &mut self.records {
            if record.is(SACKED) {
                record.state &= !SACKED;
                self.pipe += u64::from(record.len);
            }
        }
        self.sacked_bytes = 0;
        self.sacked.clear();
        self.fresh = 0;
        self.rebuild_again();
    }

    /// Inserts an entry in the order of time.
    fn insert_again(&mut self, entry: (u64, Instant)) {
        let at = self.again.partition_point(|&(_, sent)| sent <= entry.1);
        self.again.insert(at, entry);
    }

    /// Handles that the record at `from` now begins at `to`: there is one entry for it, however many small parts of it
    /// are acknowledged.
    fn move_again(&mut self, from: u64, to: u64, sent: Instant) {
        let first = self.again.partition_point(|&(_, other)| other < sent);
        let mut same = self.again.range_mut(first..).take_while(|&&mut (_, other)| other == sent);
        match same.find(|&&mut (start, _)| start == from) {
            Some(entry) => entry.0 = to,
            None => self.insert_again((to, sent)),
        }
    }

    /// Collects the retransmissions, after many records have changed.
    fn rebuild_again(&mut self) {
        let repeated = self.records.iter().filter(|record| record.is(REPEATED) && !record.is(SACKED | LOST));
        self.again = repeated.map(|record| (record.start, record.sent)).collect();
        self.again.make_contiguous().sort_by_key(|&(_, sent)| sent);
    }

    /// Handles that segments assumed to be lost were not.
    pub(super) fn find_all(&mut self) {
        for record in &mut self.records {
            if record.is(LOST) {
                record.state &= !LOST;
                self.pipe += u64::from(record.len);
            }
        }
        self.lost = 0;
        self.missing.clear();
        self.fresh = 0;
        self.rebuild_again();
    }

    /// Marks segments that RACK considers lost. Returns how long to wait until there may be more.
    pub(super) fn detect(&mut self, rack: &Rack, window: Duration, now: Instant) -> Option<Duration> {
        let limit = rack.rtt() + window;
        let mut wait: Option<Duration> = None;
        // First transmissions.
        while let Some(record) = self.records.get(self.fresh) {
            if !record.is(SACKED | LOST | REPEATED) {
                if !rack.is_before(record.sent, record.end()) {
                    break;
                }
                let age = now.since(record.sent);
                if age < limit {
                    wait = Some(limit - age);
                    break;
                }
                self.lose(self.fresh);
            }
            self.fresh += 1;
        }
        while let Some(&(start, sent)) = self.again.front() {
            let current = self.find(start).filter(|&at| {
                self.records.get(at).is_some_and(|r| r.start == start && r.sent == sent && !r.is(SACKED | LOST))
            });
            if let Some(at) = current {
                let end = self.records.get(at).map_or(start, Record::end);
                if !rack.is_before(sent, end) {
                    break;
                }
                let age = now.since(sent);
                if age < limit {
                    wait = Some(wait.map_or(limit - age, |wait| wait.min(limit - age)));
                    break;
                }
                self.lose(at);
            }
            self.again.pop_front();
        }
        wait
    }

    /// Returns the first segment to retransmit, limited to `mss` bytes. There is one if [`lost`](Self::lost) is not 0.
    pub(super) fn next_lost(&mut self, mss: u32) -> Option<Record> {
        let at = self.first_lost_at();
        debug_assert!(at.is_some() || self.lost == 0, "each lost record is in the queue");
        self.cut(at?, mss);
        self.records.get(at?).copied()
    }

    /// Returns the first segment to retransmit.
    pub(super) fn first_lost(&self) -> Option<&Record> {
        self.records.get(self.first_lost_at()?)
    }

    fn first_lost_at(&self) -> Option<usize> {
        self.missing.front().and_then(|&start| self.find_lost(start))
    }

    /// Returns the lost record that begins at `start`.
    fn find_lost(&self, start: u64) -> Option<usize> {
        let is_it = |record: &Record| record.start == start && record.is(LOST);
        self.find(start).filter(|&at| self.records.get(at).is_some_and(is_it))
    }

    /// Removes outdated entries from the front of `missing`.
    fn skip_missing(&mut self) {
        while let Some(&start) = self.missing.front()
            && self.find_lost(start).is_none()
        {
            self.missing.pop_front();
        }
    }

    /// Splits a record that is larger than `mss`.
    fn cut(&mut self, at: usize, mss: u32) {
        let Some(record) = self.records.get_mut(at) else { return };
        if record.len <= mss {
            return;
        }
        let rest = Record { start: record.start + u64::from(mss), len: record.len - mss, ..*record };
        record.len = mss;
        self.records.insert(at + 1, rest);
        if self.fresh > at {
            self.fresh += 1;
        }
        if rest.is(LOST) {
            // Behind the first part.
            let first = self.missing.pop_front();
            self.missing.push_front(rest.start);
            if let Some(first) = first {
                self.missing.push_front(first);
            }
        } else if rest.is(REPEATED) {
            self.insert_again((rest.start, rest.sent));
        }
    }

    /// Returns the last segment that was not delivered, limited to `mss` bytes: for a probe. `None` if it is lost: then
    /// it is retransmitted in its turn.
    pub(super) fn last_undelivered(&mut self, mss: u32) -> Option<Record> {
        let at = self.records.iter().rposition(|record| !record.is(SACKED))?;
        if self.records.get(at)?.is(LOST) {
            return None;
        }
        self.cut(at, mss);
        self.records.get(at).copied()
    }

    /// Reports that the segment at `start` was retransmitted.
    pub(super) fn repeated(&mut self, start: u64, now: Instant) {
        let Some(at) = self.find(start) else { return };
        let Some(record) = self.records.get_mut(at) else { return };
        if record.is(LOST) {
            self.lost -= u64::from(record.len);
            self.pipe += u64::from(record.len);
        }
        record.state = (record.state & !LOST) | REPEATED;
        record.sent = now;
        self.again.push_back((record.start, now));
        self.skip_missing();
    }

    /// Asserts that the counters and queues agree with the records.
    #[cfg(test)]
    pub(super) fn check(&self, una: u64, next: u64) {
        let sum = |state: fn(&Record) -> bool| -> u64 {
            self.records.iter().filter(|&record| state(record)).map(|record| u64::from(record.len)).sum()
        };
        assert_eq!(self.sacked_bytes, sum(|record| record.is(SACKED)));
        assert_eq!(self.lost, sum(|record| record.is(LOST)));
        assert_eq!(self.pipe, sum(|record| !record.is(SACKED | LOST)));
        assert!(!self.records.iter().any(|record| record.is(SACKED) && record.is(LOST)));
        let mut at = una;
        for (index, record) in self.records.iter().enumerate() {
            assert_eq!(record.start, at);
            assert!(record.len > 0);
            at = record.end();
            if record.is(LOST) {
                assert!(self.missing.contains(&at.wrapping_sub(u64::from(record.len))), "lost and not in the queue");
            }
            let again = self.again.contains(&(record.start, record.sent));
            assert!(index >= self.fresh || record.is(SACKED | LOST) || again, "in no order of time");
        }
        assert!(self.records.is_empty() || at == next);
        assert!(self.missing.front().is_none_or(|&start| self.find_lost(start).is_some()), "the first one is lost");
    }
}
