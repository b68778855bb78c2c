//! Builds messages whose counts and sizes are known, in pieces: values are not copied.

use std::ops::Range;

use crate::{
    checksum::Checksum,
    error::{Error, Field, Problem, Result},
    level::{COPY, GROUP, GROUPS, Level, Place, RECORD},
    options::{Kind, WriteOptions},
    readings::{self, ALLOCATORS, TRAILER},
    record::allocators,
};

/// The checksum of a message, which precedes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    /// No checksum; only for requests.
    None,
    /// This one; [`Encoder::finish`] compares it with that of the body.
    Known(u32),
    /// Zeros, which ([`Encoder::sum_range`]) the caller replaces by the result of [`Encoder::finish`]. The result of
    /// such a run can also be [`Sum::Known`] in a second one, which sends.
    Later,
}

/// Bytes before the groups: status, ESC and checksum, SOH and version, STX, and two allocators.
pub(crate) const MAX_HEAD: usize = 1 + 5 + 5 + 1 + ALLOCATORS;

/// Returns the size of a pair's content with its allocators, to be added up for [`Encoder::record`].
#[must_use]
pub const fn pair_size(name: usize, value: usize) -> u64 {
    ALLOCATORS as u64 + name as u64 + value as u64
}

/// Writes a message whose counts and sizes the caller knows.
///
/// Each function appends the next bytes of the message to `out`, which the caller may send and clear at any time. A
/// function that fails appends nothing and changes nothing. The pairs of a record follow [`record`](Self::record),
/// those of its copy [`copy`](Self::copy). Values may be passed through: see [`pair_head`](Self::pair_head).
#[derive(Clone, Debug)]
pub struct Encoder {
    kind: Kind,
    options: WriteOptions,
    stage: Stage,
    /// Bytes of the message so far.
    offset: u64,
    announced: Sum,
    sum: Checksum,
    groups: Level,
    records: Level,
    pairs: Level,
    copied: Level,
    /// Whether the record needs a copy.
    copy_due: bool,
    /// Bytes of a value that are still to come.
    value_left: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    New,
    Body,
    Done,
}

impl Encoder {
    /// Creates an encoder for one message.
    #[must_use]
    pub fn new(kind: Kind, options: WriteOptions) -> Self {
        Self {
            kind,
            options,
            stage: Stage::New,
            offset: 0,
            announced: Sum::None,
            sum: Checksum::default(),
            groups: Level::DONE,
            records: Level::DONE,
            pairs: Level::DONE,
            copied: Level::DONE,
            copy_due: false,
            value_left: 0,
        }
    }

    /// Begins the message: `groups` groups of `size` bytes, including their allocators. The option `checksum` is not
    /// used: `sum` determines whether there is one.
    ///
    /// # Errors
    /// `NoChecksum` for a response without one; `TooLarge` above the limit; `Empty`, `Count`; `Sequence` if it has
    /// already begun.
    pub fn start(&mut self, out: &mut Vec<u8>, sum: Sum, groups: u32, size: u32) -> Result<()> {
        if self.stage != Stage::New {
            return Err(self.error(Problem::Sequence, Field::MessageStart));
        }
        let mut head = [0; MAX_HEAD];
        let mut len = 0;
        let mut put = |bytes: &[u8]| {
            for (to, from) in head.iter_mut().skip(len).zip(bytes) {
                *to = *from;
            }
            len += bytes.len();
        };
        if let Kind::Response(status) = self.kind {
            put(&[status.byte()]);
        }
        match sum {
            Sum::None if self.kind != Kind::Request => {
                return Err(self.error(Problem::NoChecksum, Field::ChecksumStart));
            }
            Sum::None => {}
            Sum::Known(sum) => {
                put(&[readings::ESC]);
                put(&sum.to_be_bytes());
            }
            Sum::Later => put(&[readings::ESC, 0, 0, 0, 0]),
        }
        put(&[readings::SOH]);
        put(&readings::VERSION.to_be_bytes());
        put(&[readings::STX]);
        put(&allocators(groups, size, self.options.order));
        let offset = (len - ALLOCATORS) as u64;
        let (total, limit) = ((len + TRAILER) as u64 + u64::from(size), self.options.limit as u64);
        if total > limit {
            return Err(GROUPS.error(Problem::TooLarge { size: total, limit }, offset));
        }
        let level = Level::new(groups, size.into(), true, false).map_err(|p| GROUPS.error(p, offset))?;
        let (head, _) = head.split_at_checked(len).unwrap_or_default();
        self.reserve(out, Field::MessageStart, len)?;
        out.extend_from_slice(head);
        let (_, body) = head.split_at_checked(len - ALLOCATORS - 1).unwrap_or_default();
        self.sum.update(body);
        self.offset = len as u64;
        (self.announced, self.groups, self.stage) = (sum, level, Stage::Body);
        Ok(())
    }

    /// Returns the range of the checksum in the message, if it has one.
    #[must_use]
    pub const fn sum_range(&self) -> Range<usize> {
        match self.kind {
            Kind::Request => 1..5,
            Kind::Response(_) => 2..6,
        }
    }

    /// Begins a group of `records` records of `size` bytes, including their allocators.
    ///
    /// # Errors
    /// `Empty`, `Count`, and `Exceeds` or `LeftOver` if it does not fit; `Sequence` where no group can begin.
    pub fn group(&mut self, out: &mut Vec<u8>, records: u32, size: u32) -> Result<()> {
        if !self.is_record_complete() || !self.records.is_done() {
            return Err(self.error(Problem::Sequence, Field::RecordCount));
        }
        let mut groups = self.groups;
        let own = self.child(&mut groups, (records, size), GROUP, true)?;
        self.put(out, Field::RecordCount, &[&allocators(records, size, self.options.order)])?;
        (self.groups, self.records) = (groups, own);
        Ok(())
    }

    /// Begins a record of `pairs` pairs. `size` is that of all pairs, including their allocators, and in a response
    /// also of the copy with its allocators.
    ///
    /// # Errors
    /// As [`group`](Self::group).
    pub fn record(&mut self, out: &mut Vec<u8>, pairs: u32, size: u32) -> Result<()> {
        if !self.is_record_complete() {
            return Err(self.error(Problem::Sequence, Field::PairCount));
        }
        let is_request = self.kind == Kind::Request;
        let mut records = self.records;
        let own = self.child(&mut records, (pairs, size), RECORD, is_request)?;
        self.put(out, Field::PairCount, &[&allocators(pairs, size, self.options.order)])?;
        (self.records, self.pairs, self.copy_due) = (records, own, !is_request);
        Ok(())
    }

    /// Begins the copy of a record after its pairs: `pairs` pairs of `size` bytes, including their allocators.
    ///
    /// # Errors
    /// As [`group`](Self::group). In a request always `Sequence`.
    pub fn copy(&mut self, out: &mut Vec<u8>, pairs: u32, size: u32) -> Result<()> {
        if !self.copy_due || !self.pairs.is_done() || self.value_left > 0 {
            return Err(self.error(Problem::Sequence, Field::CopyCount));
        }
        let mut rest = Level::new(1, self.pairs.rest(), true, false).map_err(|p| self.error(p, Field::CopyCount))?;
        let own = self.child(&mut rest, (pairs, size), COPY, true)?;
        self.put(out, Field::CopyCount, &[&allocators(pairs, size, self.options.order)])?;
        (self.copied, self.copy_due) = (own, false);
        Ok(())
    }

    /// Writes a pair of a record or a copy.
    ///
    /// # Errors
    /// `Exceeds` or `LeftOver` if it does not fit; `Sequence` where no pair can be.
    pub fn pair(&mut self, out: &mut Vec<u8>, name: &str, value: &[u8]) -> Result<()> {
        self.head_and(out, name, value.len(), value)
    }

    /// Begins a pair whose value has `value_size` bytes. The caller sends the value after `out`, in any number of
    /// pieces, and calls [`value`](Self::value) for each.
    ///
    /// # Errors
    /// As [`pair`](Self::pair).
    pub fn pair_head(&mut self, out: &mut Vec<u8>, name: &str, value_size: u32) -> Result<()> {
        self.head_and(out, name, value_size as usize, &[])?;
        self.value_left = value_size.into();
        Ok(())
    }

    /// Records the next bytes of a value that the caller sends.
    ///
    /// # Errors
    /// `Exceeds` if they are more than the value has left.
    pub fn value(&mut self, bytes: &[u8]) -> Result<()> {
        let size = bytes.len() as u64;
        let Some(left) = self.value_left.checked_sub(size) else {
            return Err(self.error(Problem::Exceeds { size, left: self.value_left }, Field::Value));
        };
        self.value_left = left;
        self.add(bytes);
        Ok(())
    }

    /// Ends the message. Returns the checksum of its body, if it has one.
    ///
    /// # Errors
    /// `Sequence` if an announced part is missing; `Checksum` if it differs from [`Sum::Known`].
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<Option<u32>> {
        if !self.is_record_complete() || !self.records.is_done() || !self.groups.is_done() {
            return Err(self.error(Problem::Sequence, Field::BodyEnd));
        }
        let mut sum = self.sum;
        sum.update(&[readings::ETX]);
        let computed = sum.finish();
        match self.announced {
            Sum::Known(announced) if announced != computed => {
                return Err(self.error(Problem::Checksum { announced, computed }, Field::Checksum));
            }
            _ => {}
        }
        self.put(out, Field::BodyEnd, &[&[readings::ETX, readings::EOT]])?;
        self.stage = Stage::Done;
        Ok((self.announced != Sum::None).then_some(computed))
    }

    /// Returns whether a record, a group or the end may follow.
    fn is_record_complete(&self) -> bool {
        self.stage == Stage::Body
            && self.value_left == 0
            && !self.copy_due
            && self.pairs.is_done()
            && self.copied.is_done()
    }

    /// Takes a child of `parent` with these allocators. Returns its level.
    fn child(&self, parent: &mut Level, (count, size): (u32, u32), place: Place, is_exact: bool) -> Result<Level> {
        let size = size.into();
        parent.child(size).map_err(|p| place.error(p, self.offset))?;
        Level::new(count, size, is_exact, false).map_err(|p| place.error(p, self.offset))
    }

    /// Writes the beginning of a pair, and `value`, which is either its whole value or empty.
    fn head_and(&mut self, out: &mut Vec<u8>, name: &str, value_size: usize, value: &[u8]) -> Result<()> {
        let too_large = |size: usize, field| {
            u32::try_from(size)
                .map_err(|_| self.error(Problem::TooLarge { size: size as u64, limit: u32::MAX.into() }, field))
        };
        let name_len = too_large(name.len(), Field::NameSize)?;
        let value_len = too_large(value_size, Field::ValueSize)?;
        let in_copy = !self.copied.is_done();
        let mut level = if in_copy { self.copied } else { self.pairs };
        if self.value_left > 0 {
            return Err(self.error(Problem::Sequence, Field::NameSize));
        }
        level.pair(name_len, value_len, self.offset)?;
        self.put(
            out,
            Field::NameSize,
            &[&allocators(name_len, value_len, self.options.order), name.as_bytes(), value],
        )?;
        *(if in_copy { &mut self.copied } else { &mut self.pairs }) = level;
        Ok(())
    }

    fn error(&self, problem: Problem, field: Field) -> Error {
        Error::new(problem, field, self.offset)
    }

    fn reserve(&self, out: &mut Vec<u8>, field: Field, len: usize) -> Result<()> {
        out.try_reserve(len).map_err(|e| self.error(e.into(), field))
    }

    /// Appends bytes of the body.
    fn put(&mut self, out: &mut Vec<u8>, field: Field, pieces: &[&[u8]]) -> Result<()> {
        self.reserve(out, field, pieces.iter().map(|piece| piece.len()).sum())?;
        for piece in pieces {
            out.extend_from_slice(piece);
            self.add(piece);
        }
        Ok(())
    }

    fn add(&mut self, bytes: &[u8]) {
        if self.announced != Sum::None {
            self.sum.update(bytes);
        }
        self.offset += bytes.len() as u64;
    }
}
