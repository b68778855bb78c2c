//! The receiving side: reassembly, the window, and the times of ACKs.

use std::{sync::Arc, time::Duration};

use wg_embed::time::Instant;

use super::{Budget, buffer::Ring, header::LARGEST_SCALE, ranges::Ranges};

/// The maximum delay of an ACK.
pub(super) const ACK_DELAY: Duration = Duration::from_millis(40);
/// The maximum delay of the ACK of a FIN, which our FIN replaces if the program ends its direction in time. The peer
/// sends no tail loss probe that early (RFC 8985, 7.2).
pub(super) const FIN_ACK_DELAY: Duration = Duration::from_millis(10);
/// The number of segments that are acknowledged at once.
const ACK_EVERY: u8 = 2;
/// The minimum round trip time for tuning the window: one tick of our timestamps.
const LEAST_RTT: Duration = Duration::from_millis(1);
/// The maximum number of ranges that arrived out of order.
const MOST_RANGES: usize = 128;
/// The maximum number of ACKs that repeat the same number, for peers that count them.
const MOST_REPEATED: u8 = 8;

/// Returns the first window of a buffer of at most `most` bytes: as much as the header of a SYN can express.
pub(super) fn first_window(most: usize) -> u16 {
    u16::try_from(most).unwrap_or(u16::MAX)
}

/// Returns the smallest scale with which the header can express a window of `buffer` bytes.
pub(super) fn scale_for(buffer: usize) -> u8 {
    (0..LARGEST_SCALE).find(|&scale| usize::from(u16::MAX) << scale >= buffer).unwrap_or(LARGEST_SCALE)
}

/// Whether an ACK must be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    Later(Instant),
    /// At once, this many times.
    Now(u8),
}

/// The received data.
pub(super) struct Receiver {
    ring: Ring,
    /// The next expected number.
    next: u64,
    /// The end of the last advertised window.
    edge: u64,
    /// The largest acknowledged number.
    acknowledged: u64,
    /// The limit of the window; it grows with the program's reading rate, up to `most`.
    limit: usize,
    /// The largest value of the limit: it is lowered when memory is refused, but advertised windows remain valid.
    largest_limit: usize,
    most: usize,
    scale: u8,
    /// Data that arrived out of order.
    apart: Ranges,
    /// Numbers in the ranges that changed last, the latest first.
    recent: [u64; 4],
    /// Data that arrived twice.
    duplicate: Option<(u64, u64)>,
    /// The number of the peer's FIN.
    fin: Option<u64>,
    /// Whether there is no reader: data are acknowledged and discarded.
    discard: bool,
    due: Due,
    /// The number of segments since the last ACK.
    waiting: u8,
    mss: usize,
    tuning: Tuning,
}

/// The adaptation of the window to the program's reading in a round trip.
#[derive(Clone, Copy, Debug)]
struct Tuning {
    /// The round trip time by the peer's echoes, and the last used echo.
    rtt: Option<Duration>,
    echo: u32,
    since: Instant,
    read: u64,
    last: u64,
}

impl Receiver {
    pub(super) fn new(budget: Arc<dyn Budget>, most: usize, scale: u8, mss: usize, now: Instant) -> Self {
        Self {
            ring: Ring::new(budget),
            next: 0,
            edge: 0,
            acknowledged: 0,
            limit: usize::from(first_window(most)),
            largest_limit: usize::from(first_window(most)),
            most,
            scale,
            apart: Ranges::default(),
            recent: [0; 4],
            duplicate: None,
            fin: None,
            discard: false,
            due: Due::Nothing,
            waiting: 0,
            mss,
            tuning: Tuning { rtt: None, echo: 0, since: now, read: 0, last: 10 * mss as u64 },
        }
    }

    /// Starts with the number `irs` of the peer's SYN.
    pub(super) fn start(&mut self, irs: u64, scale: u8) {
        self.next = irs + 1;
        self.acknowledged = self.next;
        self.edge = self.next + self.limit as u64;
        self.scale = scale;
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn edge(&self) -> u64 {
        self.edge
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub(super) fn ring(&mut self) -> &mut Ring {
        &mut self.ring
    }

    pub(super) fn unread(&self) -> usize {
        self.ring.len()
    }

    pub(super) fn memory(&self) -> usize {
        self.ring.capacity()
    }

    /// Returns whether everything up to the FIN has arrived.
    pub(super) fn is_finished(&self) -> bool {
        self.fin.is_some_and(|fin| self.next > fin)
    }

    /// Returns whether the ring is completely empty.
    pub(super) fn is_empty(&self) -> bool {
        self.ring.is_empty() && self.apart.is_empty()
    }

    pub(super) fn has_nothing_apart(&self) -> bool {
        self.apart.is_empty()
    }

    /// Discards data from now on.
    pub(super) fn discard(&mut self) {
        self.discard = true;
        let unread = self.ring.len();
        self.ring.consume(unread, self.apart.is_empty());
    }

    pub(super) fn is_discarding(&self) -> bool {
        self.discard
    }

    /// Releases all memory.
    pub(super) fn release(&mut self) {
        self.apart.clear();
        self.ring.release();
    }

    /// Handles data from `start` on, and a FIN behind them. Returns whether new data arrived in order.
    pub(super) fn accept(&mut self, start: u64, payload: &[u8], fin: bool, now: Instant) -> bool {
        let end = start + payload.len() as u64;
        if !payload.is_empty() {
            self.mss = self.mss.max(payload.len());
        }
        // Only the part inside the window, and before the FIN.
        let right = self.fin.unwrap_or(u64::MAX).min(self.edge);
        if fin && self.fin.is_none() && end <= self.edge && self.apart.end().is_none_or(|apart| apart <= end) {
            self.fin = Some(end);
        }
        let (from, to) = (start.max(self.next), end.min(right));
        if end > right && !payload.is_empty() {
            self.acknowledge_now();
        }
        let before = self.next;
        if from < to {
            let part = payload.get((from - start) as usize..(to - start) as usize).unwrap_or_default();
            if !self.store(from, part) {
                self.acknowledge_now();
                return false;
            }
        }
        if start < before && !payload.is_empty() {
            self.note_duplicate(start, end.min(before));
        }
        if self.next > before {
            self.waiting = self.waiting.saturating_add(1);
            // A segment that fills part of a gap is acknowledged at once: RFC 5681, 4.2.
            if self.waiting >= ACK_EVERY || !self.apart.is_empty() {
                self.acknowledge_now();
            } else {
                self.acknowledge_by(now + ACK_DELAY);
            }
        }
        if self.fin == Some(self.next) {
            self.next += 1;
            self.apart.clear();
            self.acknowledge_by(now + FIN_ACK_DELAY);
        }
        self.next > before
    }

    /// Stores data inside the window. Returns whether there was room.
    fn store(&mut self, from: u64, part: &[u8]) -> bool {
        let to = from + part.len() as u64;
        if from > self.next {
            return self.store_apart(from, to, part);
        }
        if !self.discard {
            let offset = self.ring.len();
            if !self.ring.reserve(offset + part.len(), self.limit) {
                // The window is reduced to the available memory, and grows again with the reading rate.
                self.limit = self.ring.capacity().max(2 * self.mss);
                self.tuning.last = self.limit as u64 / 4;
                return false;
            }
            self.ring.store(offset, part);
        }
        let mut next = to;
        if !self.apart.is_empty() {
            if let Some((start, end)) = self.apart.first().filter(|&(start, _)| start < to) {
                self.note_duplicate(start, end.min(to));
            }
            while let Some((_, end)) = self.apart.first().filter(|&(start, _)| start <= next) {
                next = next.max(end);
                self.apart.pop_first();
            }
            self.acknowledge_now();
        }
        if !self.discard {
            self.ring.commit((next - self.next) as usize);
        }
        self.next = next;
        true
    }

    fn store_apart(&mut self, from: u64, to: u64, part: &[u8]) -> bool {
        self.repeat_acknowledgement();
        if self.apart.len() >= MOST_RANGES && self.apart.is_apart(from, to) {
            return true;
        }
        if !self.discard {
            let offset = self.ring.len() + (from - self.next) as usize;
            if !self.ring.reserve(offset + part.len(), self.limit) {
                return true;
            }
            self.ring.store(offset, part);
        }
        if self.apart.gap(from, to).is_none() {
            self.note_duplicate(from, to);
        }
        self.apart.insert(from, to);
        self.recent.rotate_right(1);
        self.recent[0] = from;
        true
    }

    /// Handles data that had already arrived.
    pub(super) fn note_duplicate(&mut self, start: u64, end: u64) {
        if start < end {
            self.duplicate = Some((start, end));
        }
        self.repeat_acknowledgement();
    }

    pub(super) fn acknowledge_now(&mut self) {
        if !matches!(self.due, Due::Now(_)) {
            self.due = Due::Now(1);
        }
    }

    /// Sets that an ACK is sent at `at`, unless it is sent earlier anyway.
    fn acknowledge_by(&mut self, at: Instant) {
        self.due = match self.due {
            Due::Nothing => Due::Later(at),
            Due::Later(before) => Due::Later(before.min(at)),
            Due::Now(times) => Due::Now(times),
        };
    }

    fn repeat_acknowledgement(&mut self) {
        self.due = match self.due {
            Due::Now(times) => Due::Now((times + 1).min(MOST_REPEATED)),
            _ => Due::Now(1),
        };
    }

    /// Returns whether an ACK must be sent at once.
    pub(super) fn wants_acknowledgement(&self, now: Instant) -> bool {
        match self.due {
            Due::Nothing => false,
            Due::Later(at) => at <= now,
            Due::Now(_) => true,
        }
    }

    /// Returns whether an ACK must be sent, at once or later.
    pub(super) fn owes_acknowledgement(&self) -> bool {
        self.due != Due::Nothing
    }

    /// Returns the time at which a delayed ACK is due.
    pub(super) fn delayed(&self) -> Option<Instant> {
        match self.due {
            Due::Later(at) => Some(at),
            _ => None,
        }
    }

    /// Returns the window for the header of a SYN, which is not scaled.
    pub(super) fn syn_window(&self) -> (u16, u64) {
        let window = self.limit.min(usize::from(u16::MAX)) as u16;
        (window, (self.next + u64::from(window)).max(self.edge))
    }

    /// Returns the window for a header, and the edge that it advertises, which is never before an advertised one.
    pub(super) fn window(&self) -> (u16, u64) {
        let free = self.limit.saturating_sub(self.ring.len()) as u64;
        // Not in small steps: RFC 9293, 3.8.6.2.2.
        let stated = self.edge.saturating_sub(self.next);
        let window = if free < stated + self.step() { stated } else { free };
        let unit = 1u64 << self.scale;
        // The advertised edge is kept, rounded up, but not indefinitely while nothing is read: with small segments or
        // large units, the window would never close. Then it is smaller by less than a unit (RFC 7323, 2.4).
        let limit = self.largest_limit as u64;
        let most = (limit + unit.max(limit / 16)).saturating_sub(self.ring.len() as u64);
        let kept = stated.div_ceil(unit);
        let kept = if kept * unit > most { stated / unit } else { kept };
        let field = (window / unit).max(kept);
        let field = field.min(u64::from(u16::MAX)) as u16;
        (field, (self.next + (u64::from(field) << self.scale)).max(self.edge))
    }

    fn step(&self) -> u64 {
        (2 * self.mss).min(self.limit / 2).max(1) as u64
    }

    /// Reports that an ACK with this edge was sent. With `single` repetitions are not needed.
    pub(super) fn on_acknowledged(&mut self, edge: u64, single: bool) {
        self.edge = edge;
        self.acknowledged = self.next;
        self.waiting = 0;
        self.duplicate = None;
        self.due = match self.due {
            Due::Now(times) if times > 1 && !single => Due::Now(times - 1),
            _ => Due::Nothing,
        };
    }

    /// Reports that a segment with this edge was sent without room for SACK blocks: the ACK is still due.
    pub(super) fn on_partly_acknowledged(&mut self, edge: u64) {
        self.edge = edge;
        self.acknowledged = self.next;
        self.acknowledge_now();
    }

    /// Returns SACK blocks to report, at most `most`: first duplicates, then the ranges in the order of arrival.
    pub(super) fn blocks(&self, most: usize) -> [Option<(u32, u32)>; 4] {
        let mut blocks = [None; 4];
        let mut count = 0;
        let mut add = |range: (u64, u64)| {
            let block = Some((range.0 as u32, range.1 as u32));
            // The first one may lie within another one, which identifies it as a duplicate.
            if count < most && !(count > 0 && blocks[1..].contains(&block)) && !(count == 1 && blocks[0] == block) {
                blocks[count] = block;
                count += 1;
            }
        };
        if let Some(duplicate) = self.duplicate {
            add(duplicate);
            if let Some(around) = self.apart.containing(duplicate.0) {
                add(around);
            }
        }
        if !self.apart.is_empty() {
            for number in self.recent {
                if let Some(range) = self.apart.containing(number) {
                    add(range);
                }
            }
            for range in self.apart.iter().take(4) {
                add(range);
            }
        }
        blocks
    }

    /// Returns whether there is something to report by SACK.
    pub(super) fn has_blocks(&self) -> bool {
        self.duplicate.is_some() || !self.apart.is_empty()
    }

    /// Handles data that echo our timestamp `echo`, which is `age` old: a response to our ACK, or later.
    pub(super) fn on_echo(&mut self, echo: u32, age: Duration) {
        if echo == self.tuning.echo {
            return;
        }
        self.tuning.echo = echo;
        let age = age.max(LEAST_RTT);
        // A peer that had nothing to send makes it appear long.
        self.tuning.rtt = Some(match self.tuning.rtt {
            Some(rtt) if rtt < age => rtt + (age - rtt) / 8,
            _ => age,
        });
    }

    /// Reports that the program has read `len` bytes; `rtt` is the sending side's round trip time.
    pub(super) fn on_read(&mut self, len: usize, rtt: Option<Duration>, now: Instant) {
        self.tuning.read += len as u64;
        let rtt = self.tuning.rtt.or(rtt).unwrap_or(LEAST_RTT).max(LEAST_RTT);
        if now.since(self.tuning.since) >= rtt {
            self.tune(now);
        }
        // The peer is informed at once of a much larger window, and of a slightly larger one with the next ACK.
        let stated = self.edge.saturating_sub(self.next);
        let free = self.limit.saturating_sub(self.ring.len()) as u64;
        if free >= stated + self.step().max(stated) && !self.is_finished() {
            self.acknowledge_now();
        }
    }

    /// Adapts the limit: the window should be twice the data read in a round trip, and more while that grows.
    fn tune(&mut self, now: Instant) {
        let Tuning { read, last, .. } = self.tuning;
        if read > last {
            let wanted = 2 * read + 16 * self.mss as u64;
            let wanted = wanted + 2 * (u128::from(wanted) * u128::from(read - last) / u128::from(last.max(1))) as u64;
            self.limit = self.limit.max(usize::try_from(wanted).unwrap_or(self.most).min(self.most));
            self.largest_limit = self.largest_limit.max(self.limit);
            self.tuning.last = read;
        }
        self.tuning.since = now;
        self.tuning.read = 0;
    }
}
