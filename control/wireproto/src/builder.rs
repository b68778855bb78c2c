//! Builds a message whose counts and sizes are known only at its end.

use crate::{
    checksum::Checksum,
    encoder::pair_size,
    error::{Error, Field, Problem, Result},
    options::{Kind, WriteOptions},
    readings::{self, ALLOCATORS, TRAILER},
    record::{Pairs, allocators},
};

/// Writes a message into memory. Counts and sizes are updated with each part that is added.
///
/// [`group`](Self::group), [`record`](Self::record), [`copy`](Self::copy) and [`pair`](Self::pair) each end the part
/// before. A function that fails changes nothing.
#[derive(Clone, Debug)]
pub struct Builder {
    kind: Kind,
    options: WriteOptions,
    out: Vec<u8>,
    /// The message, once it has begun.
    all: Option<Open>,
    group: Option<Open>,
    record: Option<Open>,
    copy: Option<Open>,
    pair: Option<OpenPair>,
}

/// A part to which more may be added.
#[derive(Clone, Copy, Debug)]
struct Open {
    /// The offset of its allocators.
    at: usize,
    children: u32,
}

#[derive(Clone, Copy, Debug)]
struct OpenPair {
    at: usize,
    name_size: u32,
}

impl Builder {
    /// Creates a builder for one message, without an allocation.
    #[must_use]
    pub const fn new(kind: Kind, options: WriteOptions) -> Self {
        Self { kind, options, out: Vec::new(), all: None, group: None, record: None, copy: None, pair: None }
    }

    /// Creates a builder like [`new`](Self::new), with room for this number of bytes: while the message fits, no copies
    /// of its parts are left behind in freed memory.
    ///
    /// # Errors
    /// `NoMemory`.
    pub fn with_room(kind: Kind, options: WriteOptions, bytes: usize) -> Result<Self> {
        let mut builder = Self::new(kind, options);
        builder.out.try_reserve_exact(bytes).map_err(|e| Error::new(e.into(), Field::MessageStart, 0))?;
        Ok(builder)
    }

    /// Begins a group.
    ///
    /// # Errors
    /// `Empty` if the previous group or record is empty, `NoCopy` if a response's record has no copy; `TooLarge` above
    /// the limit; `NoMemory`.
    pub fn group(&mut self) -> Result<&mut Self> {
        self.check_group()?;
        let (head, checksum) = self.head();
        let at = match self.all {
            Some(_) => self.put(Field::RecordCount, &[&[0; ALLOCATORS]])?,
            None => {
                let checksum: &[u8] = if checksum { &[readings::ESC, 0, 0, 0, 0] } else { &[] };
                let version = readings::VERSION.to_be_bytes();
                let rest = [&[readings::SOH][..], &version, &[readings::STX], &[0; ALLOCATORS], &[0; ALLOCATORS]];
                let [soh, version, stx, own, group] = rest;
                self.put(Field::MessageStart, &[head, checksum, soh, version, stx, own, group])?;
                let at = self.out.len() - ALLOCATORS;
                self.all = Some(Open { at: at - ALLOCATORS, children: 0 });
                at
            }
        };
        add_child(&mut self.all);
        self.group = Some(Open { at, children: 0 });
        (self.record, self.copy, self.pair) = (None, None, None);
        self.settle();
        Ok(self)
    }

    /// Begins a record of the group.
    ///
    /// # Errors
    /// As [`group`](Self::group); `Sequence` without a group.
    pub fn record(&mut self) -> Result<&mut Self> {
        if self.group.is_none() {
            return Err(self.error(Problem::Sequence, Field::PairCount));
        }
        self.check_record()?;
        let at = self.put(Field::PairCount, &[&[0; ALLOCATORS]])?;
        add_child(&mut self.group);
        self.record = Some(Open { at, children: 0 });
        (self.copy, self.pair) = (None, None);
        self.settle();
        Ok(self)
    }

    /// Begins the copy of the request's record, to which the following pairs belong.
    ///
    /// # Errors
    /// `Empty` if the record has no pairs; `Sequence` without a record, in a request, or after another copy;
    /// `TooLarge`, `NoMemory`.
    pub fn copy(&mut self) -> Result<&mut Self> {
        self.check_copy()?;
        let at = self.put(Field::CopyCount, &[&[0; ALLOCATORS]])?;
        self.copy = Some(Open { at, children: 0 });
        self.pair = None;
        self.settle();
        Ok(self)
    }

    /// Writes the complete copy of the request's record, whose pairs are `pairs`.
    ///
    /// # Errors
    /// As [`copy`](Self::copy); `Empty` without pairs.
    pub fn copy_of(&mut self, pairs: Pairs<'_>) -> Result<&mut Self> {
        self.check_copy()?;
        if pairs.is_empty() {
            return Err(self.error(Problem::Empty, Field::CopyCount));
        }
        let size: u64 = pairs.iter().map(|pair| pair_size(pair.name.len(), pair.value.len())).sum();
        // Then no failure is possible halfway.
        self.reserve(Field::CopyCount, ALLOCATORS as u64 + size)?;
        self.copy()?;
        if let Some(bytes) = pairs.plain_bytes(self.options.order) {
            self.put(Field::CopySize, &[bytes])?;
            if let Some(copy) = &mut self.copy {
                copy.children = pairs.count;
            }
            self.settle();
        } else {
            for pair in pairs {
                self.pair(pair.name, pair.value)?;
            }
        }
        self.pair = None;
        Ok(self)
    }

    /// Writes a pair of the record, or of its copy once that has begun.
    ///
    /// # Errors
    /// `Sequence` without a record; `TooLarge` above the limit; `NoMemory`.
    pub fn pair(&mut self, name: &str, value: &[u8]) -> Result<&mut Self> {
        if self.record.is_none() {
            return Err(self.error(Problem::Sequence, Field::NameSize));
        }
        let at = self.put(Field::NameSize, &[&[0; ALLOCATORS], name.as_bytes(), value])?;
        // It is below the limit, which `reserve` keeps below 2^32.
        self.pair = Some(OpenPair { at, name_size: name.len() as u32 });
        add_child(if self.copy.is_some() { &mut self.copy } else { &mut self.record });
        self.settle();
        Ok(self)
    }

    /// Appends bytes to the value of the last pair.
    ///
    /// # Errors
    /// `Sequence` unless the last call wrote a pair or a part of one; `TooLarge`, `NoMemory`.
    pub fn value(&mut self, bytes: &[u8]) -> Result<&mut Self> {
        if self.pair.is_none() {
            return Err(self.error(Problem::Sequence, Field::Value));
        }
        self.put(Field::Value, &[bytes])?;
        self.settle();
        Ok(self)
    }

    /// Ends the message and returns it.
    ///
    /// # Errors
    /// As [`group`](Self::group); `Empty` also for a message without a group.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        let Some(all) = self.all else {
            return Err(self.error(Problem::Empty, Field::GroupCount));
        };
        self.check_group()?;
        // `reserve` includes room for the end.
        self.put(Field::BodyEnd, &[])?;
        self.out.extend_from_slice(&[readings::ETX, readings::EOT]);
        let (status, has_checksum) = self.head();
        if has_checksum {
            let body = self.out.get(all.at - 1..self.out.len() - 1).unwrap_or_default();
            let sum = Checksum::of(body);
            overwrite(&mut self.out, status.len() + 1, &sum.to_be_bytes());
        }
        Ok(self.out)
    }

    /// Returns the status, and whether there is a checksum.
    fn head(&self) -> (&'static [u8], bool) {
        match self.kind {
            Kind::Request => (&[], self.options.checksum),
            Kind::Response(crate::Status::Ack) => (&[readings::ACK], true),
            Kind::Response(crate::Status::Nak) => (&[readings::NAK], true),
        }
    }

    /// Fails if the group cannot end here.
    fn check_group(&self) -> Result<()> {
        match self.group {
            Some(Open { children: 0, .. }) => Err(self.error(Problem::Empty, Field::RecordCount)),
            _ => self.check_record(),
        }
    }

    /// Fails if the record cannot end here.
    fn check_record(&self) -> Result<()> {
        match (self.record, self.copy) {
            (Some(Open { children: 0, .. }), _) => Err(self.error(Problem::Empty, Field::PairCount)),
            (Some(_), Some(Open { children: 0, .. })) => Err(self.error(Problem::Empty, Field::CopyCount)),
            (Some(_), None) if self.kind != Kind::Request => Err(self.error(Problem::NoCopy, Field::CopyCount)),
            _ => Ok(()),
        }
    }

    /// Fails if a copy cannot begin here.
    fn check_copy(&self) -> Result<()> {
        match (self.kind, self.record, self.copy) {
            (Kind::Response(_), Some(Open { children: 0, .. }), None) => {
                Err(self.error(Problem::Empty, Field::PairCount))
            }
            (Kind::Response(_), Some(_), None) => Ok(()),
            _ => Err(self.error(Problem::Sequence, Field::CopyCount)),
        }
    }

    /// Fails unless there is room for this number of bytes, and the end of the message.
    fn reserve(&mut self, field: Field, bytes: u64) -> Result<()> {
        let size = self.out.len() as u64 + bytes + TRAILER as u64;
        let limit = (self.options.limit as u64).min(u32::MAX.into());
        if size > limit {
            return Err(self.error(Problem::TooLarge { size, limit }, field));
        }
        let offset = self.out.len() as u64;
        self.out.try_reserve(bytes as usize + TRAILER).map_err(|e| Error::new(e.into(), field, offset))
    }

    /// Appends bytes. Returns their offset.
    fn put(&mut self, field: Field, pieces: &[&[u8]]) -> Result<usize> {
        self.reserve(field, pieces.iter().map(|piece| piece.len() as u64).sum())?;
        let at = self.out.len();
        for piece in pieces {
            self.out.extend_from_slice(piece);
        }
        Ok(at)
    }

    /// Updates the allocators of all open parts.
    fn settle(&mut self) {
        let (end, order) = (self.out.len(), self.options.order);
        for open in [self.all, self.group, self.record, self.copy].into_iter().flatten() {
            let size = (end - open.at - ALLOCATORS) as u32;
            overwrite(&mut self.out, open.at, &allocators(open.children, size, order));
        }
        if let Some(OpenPair { at, name_size }) = self.pair {
            let value_size = (end - at - ALLOCATORS) as u32 - name_size;
            overwrite(&mut self.out, at, &allocators(name_size, value_size, order));
        }
    }

    fn error(&self, problem: Problem, field: Field) -> Error {
        Error::new(problem, field, self.out.len() as u64)
    }
}

fn add_child(part: &mut Option<Open>) {
    if let Some(part) = part {
        // Each takes eight bytes of fewer than 2^32.
        part.children += 1;
    }
}

fn overwrite(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = out.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}
