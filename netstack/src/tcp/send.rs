//! The sending side: written data, data in flight, and the peer's window.

use std::sync::Arc;

use super::{
    Budget,
    buffer::Ring,
    scoreboard::{Record, Scoreboard},
};

/// The initial limit of the buffer.
const FIRST_LIMIT: usize = 128 << 10;

/// The data to send.
pub(super) struct Sender {
    /// The bytes from `una` on.
    pub(super) ring: Ring,
    pub(super) board: Scoreboard,
    /// The first number that is not acknowledged.
    pub(super) una: u64,
    /// The next number to send.
    pub(super) next: u64,
    /// The peer's current window in bytes, and its largest one.
    pub(super) window: u64,
    pub(super) largest_window: u64,
    /// The numbers of the segment that last updated the window.
    told_seq: u64,
    told_ack: u64,
    /// The peer's window scale.
    pub(super) scale: u8,
    /// The largest payload, without room for SACK blocks.
    pub(super) mss: usize,
    /// The number of our FIN: nothing is written after it.
    pub(super) fin: Option<u64>,
    /// The limit of buffered data; it grows with the congestion window up to `most`.
    limit: usize,
    most: usize,
    pub(super) nodelay: bool,
}

impl Sender {
    pub(super) fn new(budget: Arc<dyn Budget>, iss: u64, most: usize, mss: usize) -> Self {
        Self {
            ring: Ring::new(budget),
            board: Scoreboard::default(),
            una: iss,
            next: iss,
            window: 0,
            largest_window: 0,
            told_seq: 0,
            told_ack: 0,
            scale: 0,
            mss,
            fin: None,
            limit: most.min(FIRST_LIMIT),
            most,
            nodelay: true,
        }
    }

    /// Returns the offset of the end of sent data.
    fn sent_data(&self) -> usize {
        self.fin.map_or(self.next, |fin| self.next.min(fin)).saturating_sub(self.una) as usize
    }

    /// Returns the number of bytes that were written and not sent.
    pub(super) fn unsent(&self) -> usize {
        self.ring.len().saturating_sub(self.sent_data())
    }

    /// Returns whether the FIN must be sent for the first time.
    pub(super) fn fin_due(&self) -> bool {
        self.fin.is_some_and(|fin| self.next <= fin)
    }

    /// Returns whether the FIN is acknowledged.
    pub(super) fn fin_acknowledged(&self) -> bool {
        self.fin.is_some_and(|fin| self.una > fin)
    }

    /// Sets the number of the FIN: behind the written data.
    pub(super) fn finish(&mut self) {
        if self.fin.is_none() {
            self.fin = Some(self.una + self.ring.len() as u64);
        }
    }

    /// Returns the number of bytes for which the peer has room.
    pub(super) fn usable(&self) -> u64 {
        (self.una + self.window).saturating_sub(self.next)
    }

    /// Returns whether the peer has reduced its window: some data in flight are behind it.
    pub(super) fn is_shrunken(&self) -> bool {
        self.next > self.una + self.window
    }

    /// Returns the maximum size of a retransmission from the start of `record` on. Segments behind a reduced window
    /// wait, except for the first one, which requests an update (RFC 9293, 3.8.6). Only the first one is split to fit:
    /// a peer that moves its window byte by byte would otherwise make a record of each.
    pub(super) fn most_again(&self, record: &Record) -> usize {
        let room = usize::try_from((self.una + self.window).saturating_sub(record.start)).unwrap_or(usize::MAX);
        let is_first = record.start == self.una;
        if is_first && room > 0 {
            room.min(self.mss)
        } else if is_first || room >= self.mss.min(record.len as usize) {
            self.mss
        } else {
            0
        }
    }

    /// Handles the acknowledgement of everything below `ack`: removes the data from the buffer. The scoreboard is
    /// already updated.
    pub(super) fn acknowledge(&mut self, ack: u64) {
        let end = self.fin.map_or(ack, |fin| ack.min(fin));
        self.ring.consume(end.saturating_sub(self.una) as usize, true);
        self.una = ack;
    }

    /// Updates the window from a segment, if that is not older than the last one used.
    pub(super) fn update_window(&mut self, seq: u64, ack: u64, window: u64) -> bool {
        if self.told_seq > seq || (self.told_seq == seq && self.told_ack > ack) {
            return false;
        }
        let opened = window > self.window || ack > self.told_ack;
        self.told_seq = seq;
        self.told_ack = ack;
        self.window = window;
        self.largest_window = self.largest_window.max(window);
        opened
    }

    /// Lets the buffer hold twice the congestion window.
    pub(super) fn tune(&mut self, congestion_window: u64) {
        let wanted = usize::try_from(2 * congestion_window).unwrap_or(self.most);
        self.limit = self.limit.max(wanted.min(self.most));
    }

    /// Returns how many bytes may still be written.
    pub(super) fn room(&self) -> usize {
        self.limit.saturating_sub(self.ring.len())
    }

    /// Returns whether there is enough room to wake a writer: not for every acknowledged segment.
    pub(super) fn has_much_room(&self) -> bool {
        self.room() >= self.limit / 4
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn memory(&self) -> usize {
        self.ring.capacity() + self.board.memory()
    }
}
