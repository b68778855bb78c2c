//! The grammar, one field after the other. Both readers pass it the same pieces, so they agree on every message.

use crate::{
    checksum::Checksum,
    error::{Error, Field, Problem, Result},
    level::{GROUP, GROUPS, Level, RECORD},
    options::{Accept, Head, Kind, ReadOptions, Status},
    readings::{self, ALLOCATORS, TRAILER},
    record::Record,
    shape::{self, Context},
};

/// An event of a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A message has begun.
    Start(Head),
    /// A group has begun.
    Group {
        /// The number of its records.
        records: u32,
        /// The size of all its records, in bytes.
        size: u32,
    },
    /// A record is complete. Only [`Event::End`] verifies its checksum.
    Record(Record<'a>),
    /// The message is complete, and its checksum is valid if it has one.
    End,
}

/// The next required input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// This number of bytes for [`Machine::field`], at most [`ALLOCATORS`].
    Field(usize),
    /// This number of bytes for [`Machine::record`].
    Record(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    First,
    AfterStatus,
    Checksum,
    MessageStart,
    Version,
    BodyStart,
    Groups,
    Group,
    Record,
    Pairs { count: u32, size: u32 },
    BodyEnd,
    MessageEnd,
}

#[derive(Clone, Debug)]
pub(crate) struct Machine {
    options: ReadOptions,
    state: State,
    /// The offset of the next piece.
    offset: u64,
    head: Head,
    checksum_offset: u64,
    sum: Checksum,
    /// Whether the caller computes the sum of the body at once: [`Machine::sum_body`].
    is_sum_deferred: bool,
    groups: Level,
    records: Level,
}

impl Machine {
    pub(crate) fn new(options: ReadOptions) -> Self {
        let head = Head { kind: Kind::Request, checksum: None, version: 0, order: options.order, groups: 0, size: 0 };
        Self {
            options,
            state: State::First,
            offset: 0,
            head,
            checksum_offset: 0,
            sum: Checksum::default(),
            is_sum_deferred: false,
            groups: Level::DONE,
            records: Level::DONE,
        }
    }

    /// Creates a machine whose caller has the whole message, and calls [`Self::sum_body`], which is faster for small
    /// records.
    pub(crate) fn with_deferred_sum(options: ReadOptions) -> Self {
        Self { is_sum_deferred: true, ..Self::new(options) }
    }

    /// Returns whether all groups have been taken, and no more.
    #[inline]
    pub(crate) fn is_at_body_end(&self) -> bool {
        self.state == State::BodyEnd
    }

    /// Computes the sum of the body from STX to here.
    pub(crate) fn sum_body(&mut self, body: &[u8]) {
        self.is_sum_deferred = false;
        if self.head.checksum.is_some() {
            self.sum.update(body);
        }
    }

    #[inline]
    pub(crate) fn need(&self) -> Need {
        match self.state {
            State::First
            | State::AfterStatus
            | State::MessageStart
            | State::BodyStart
            | State::BodyEnd
            | State::MessageEnd => Need::Field(1),
            State::Checksum | State::Version => Need::Field(4),
            State::Groups | State::Group | State::Record => Need::Field(ALLOCATORS),
            State::Pairs { size, .. } => Need::Record(size as usize),
        }
    }

    /// Returns whether no byte of a message has been taken.
    pub(crate) fn is_between(&self) -> bool {
        self.state == State::First
    }

    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the parameters for the shape of the message's records.
    pub(crate) fn context(&self) -> Context {
        Context {
            order: self.head.order,
            is_response: self.head.kind != Kind::Request,
            tolerance: self.options.tolerance,
        }
    }

    /// Returns the error for an input that ends when only `have` of the required bytes are available.
    pub(crate) fn truncated(&self, have: usize) -> Error {
        let (first, second) = match self.state {
            State::First => (Field::Status, None),
            State::AfterStatus => (Field::ChecksumStart, None),
            State::Checksum => (Field::Checksum, None),
            State::MessageStart => (Field::MessageStart, None),
            State::Version => (Field::Version, None),
            State::BodyStart => (Field::BodyStart, None),
            State::Groups => (GROUPS.count, Some(GROUPS.size)),
            State::Group => (GROUP.count, Some(GROUP.size)),
            State::Record => (RECORD.count, Some(RECORD.size)),
            State::Pairs { .. } => (Field::Record, None),
            State::BodyEnd => (Field::BodyEnd, None),
            State::MessageEnd => (Field::MessageEnd, None),
        };
        let (Need::Field(need) | Need::Record(need)) = self.need();
        let (field, before, need) = match second {
            Some(second) if have >= need / 2 => (second, need / 2, need),
            Some(_) => (first, 0, need / 2),
            None => (first, 0, need),
        };
        let missing = need.saturating_sub(have) as u64;
        Error::new(Problem::Truncated { missing }, field, self.offset + before as u64)
    }

    /// Takes a record; `bytes` has the length of [`Need::Record`].
    #[inline]
    pub(crate) fn record<'a>(&mut self, bytes: &'a [u8]) -> Result<Record<'a>> {
        let State::Pairs { count, .. } = self.state else {
            return Err(Error::new(Problem::Sequence, Field::Record, self.offset));
        };
        let record = shape::split(bytes, count, self.context(), self.offset)?;
        self.take(bytes);
        self.state = self.next_child();
        Ok(record)
    }

    /// Takes a field; `bytes` has the length of [`Need::Field`].
    #[inline]
    pub(crate) fn field(&mut self, bytes: &[u8]) -> Result<Option<Event<'static>>> {
        match *bytes {
            [byte] => self.byte(byte),
            [a, b, c, d] => self.number(u32::from_be_bytes([a, b, c, d])).map(|()| None),
            [a, b, c, d, e, f, g, h] => self.allocators([a, b, c, d, e, f, g, h]),
            _ => Err(Error::new(Problem::Sequence, Field::Rest, self.offset)),
        }
    }

    /// Moves past bytes, which are part of the body after STX.
    #[inline]
    fn take(&mut self, bytes: &[u8]) {
        if self.head.checksum.is_some() && !self.is_sum_deferred {
            self.sum.update(bytes);
        }
        self.offset += bytes.len() as u64;
    }

    fn byte(&mut self, byte: u8) -> Result<Option<Event<'static>>> {
        let unexpected = |field| Err(Error::new(Problem::Unexpected { found: byte }, field, self.offset));
        let tolerance = self.options.tolerance;
        self.state = match (self.state, byte) {
            (State::First, readings::ACK | readings::NAK) => {
                self.accept(Accept::Responses)?;
                let status = if byte == readings::ACK { Status::Ack } else { Status::Nak };
                self.head.kind = Kind::Response(status);
                State::AfterStatus
            }
            (State::First, readings::ESC | readings::SOH) => {
                self.accept(Accept::Requests)?;
                self.start(byte)
            }
            (State::First, _) => return unexpected(Field::Status),
            (State::AfterStatus, readings::ESC) => self.start(byte),
            (State::AfterStatus, readings::SOH) if tolerance.missing_checksum => self.start(byte),
            (State::AfterStatus, readings::SOH) => {
                return Err(Error::new(Problem::NoChecksum, Field::ChecksumStart, self.offset));
            }
            (State::AfterStatus, _) => return unexpected(Field::ChecksumStart),
            (State::MessageStart, readings::SOH) => State::Version,
            (State::MessageStart, _) => return unexpected(Field::MessageStart),
            (State::BodyStart, readings::STX) => {
                self.take(&[byte]);
                self.state = State::Groups;
                return Ok(None);
            }
            (State::BodyStart, _) => return unexpected(Field::BodyStart),
            (State::BodyEnd, readings::ETX) => {
                self.take(&[byte]);
                self.verify()?;
                self.state = State::MessageEnd;
                return Ok(None);
            }
            (State::BodyEnd, readings::EOT) if tolerance.missing_body_end => {
                self.verify()?;
                return Ok(Some(self.end()));
            }
            (State::BodyEnd, _) => return unexpected(Field::BodyEnd),
            (State::MessageEnd, readings::EOT) => return Ok(Some(self.end())),
            (State::MessageEnd, _) => return unexpected(Field::MessageEnd),
            _ => return Err(Error::new(Problem::Sequence, Field::Rest, self.offset)),
        };
        self.offset += 1;
        Ok(None)
    }

    /// Fails unless messages of this kind are accepted.
    fn accept(&self, kind: Accept) -> Result<()> {
        if self.options.accept == kind || self.options.accept == Accept::Both {
            return Ok(());
        }
        Err(Error::new(Problem::NotAccepted, Field::Status, self.offset))
    }

    /// Returns the state after ESC or SOH.
    fn start(&mut self, byte: u8) -> State {
        if byte == readings::SOH {
            return State::Version;
        }
        self.checksum_offset = self.offset + 1;
        State::Checksum
    }

    fn number(&mut self, number: u32) -> Result<()> {
        if self.state == State::Checksum {
            self.head.checksum = Some(number);
            self.state = State::MessageStart;
        } else {
            if !readings::is_read(number, &self.options.tolerance) {
                return Err(Error::new(Problem::Version { found: number }, Field::Version, self.offset));
            }
            self.head.version = number;
            self.state = State::BodyStart;
        }
        self.offset += 4;
        Ok(())
    }

    fn allocators(&mut self, bytes: [u8; ALLOCATORS]) -> Result<Option<Event<'static>>> {
        let [a, b, c, d, e, f, g, h] = bytes;
        let (first, second) = ([a, b, c, d], [e, f, g, h]);
        if self.state == State::Groups {
            return self.all_groups(first, second).map(Some);
        }
        let (count, size) = (self.head.order.read(first), self.head.order.read(second));
        let offset = self.offset;
        let event = if self.state == State::Group {
            self.groups.child(size.into()).map_err(|p| GROUP.error(p, offset))?;
            self.records = self.level(count, size, true).map_err(|p| GROUP.error(p, offset))?;
            self.state = self.next_child();
            Some(Event::Group { records: count, size })
        } else {
            self.records.child(size.into()).map_err(|p| RECORD.error(p, offset))?;
            // Checked here, to avoid waiting for bytes that are not a record.
            let is_exact = self.head.kind == Kind::Request;
            self.level(count, size, is_exact).map_err(|p| RECORD.error(p, offset))?;
            self.state = State::Pairs { count, size };
            None
        };
        self.take(&bytes);
        Ok(event)
    }

    /// Handles the allocators of all groups.
    fn all_groups(&mut self, count: [u8; 4], size: [u8; 4]) -> Result<Event<'static>> {
        let limit = self.options.limit as u64;
        let around = self.offset + (ALLOCATORS + TRAILER) as u64;
        if self.options.tolerance.other_order {
            self.head.order = readings::order(count, size, self.options.order, limit.saturating_sub(around));
        }
        let order = self.head.order;
        (self.head.groups, self.head.size) = (order.read(count), order.read(size));
        let total = around + u64::from(self.head.size);
        if total > limit {
            return Err(GROUPS.error(Problem::TooLarge { size: total, limit }, self.offset));
        }
        self.groups = self.level(self.head.groups, self.head.size, true).map_err(|p| GROUPS.error(p, self.offset))?;
        self.take(&count);
        self.take(&size);
        self.state = self.next_child();
        Ok(Event::Start(self.head))
    }

    fn level(&self, count: u32, size: u32, is_exact: bool) -> Result<Level, Problem> {
        Level::new(count, size.into(), is_exact, self.options.tolerance.empty)
    }

    /// Returns the state after a child, or after the allocators of its parent.
    fn next_child(&self) -> State {
        if !self.records.is_done() {
            State::Record
        } else if !self.groups.is_done() {
            State::Group
        } else {
            State::BodyEnd
        }
    }

    /// Fails if the announced checksum does not match the body.
    fn verify(&self) -> Result<()> {
        let Some(announced) = self.head.checksum else { return Ok(()) };
        let computed = self.sum.finish();
        if readings::is_sum(announced, computed, &self.options.tolerance) {
            return Ok(());
        }
        Err(Error::new(Problem::Checksum { announced, computed }, Field::Checksum, self.checksum_offset))
    }

    /// Prepares for the next message.
    fn end(&mut self) -> Event<'static> {
        *self = Self::new(self.options);
        Event::End
    }
}
