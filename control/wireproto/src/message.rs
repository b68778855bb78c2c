//! Parses a message in memory, borrowing everything from it.

use std::iter::FusedIterator;

use crate::{
    error::{Error, Field, Problem, Result},
    machine::{Event, Machine, Need},
    options::{Head, ReadOptions},
    readings::ALLOCATORS,
    record::{Record, split_allocators},
    shape::{self, Context},
};

/// A message that was checked from its first byte to its last one.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    head: Head,
    context: Context,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    /// Parses `bytes`, which are one message.
    ///
    /// # Errors
    /// Any error of the message; `Trailing` if there are bytes after it.
    pub fn parse(bytes: &'a [u8], options: &ReadOptions) -> Result<Self> {
        let (message, rest) = Self::parse_first(bytes, options)?;
        if rest.is_empty() {
            return Ok(message);
        }
        let offset = bytes.len() - rest.len();
        Err(Error::new(Problem::Trailing { bytes: rest.len() as u64 }, Field::Rest, offset as u64))
    }

    /// Parses the first message in `bytes`. Returns it, and the bytes after it.
    ///
    /// # Errors
    /// Any error of the message; `Truncated` if it is incomplete.
    pub fn parse_first(bytes: &'a [u8], options: &ReadOptions) -> Result<(Self, &'a [u8])> {
        let mut machine = Machine::with_deferred_sum(*options);
        let mut rest = bytes;
        let mut message = None;
        let mut body_and_rest: &[u8] = &[];
        loop {
            if machine.is_at_body_end() {
                let (body, _) = body_and_rest.split_at(body_and_rest.len() - rest.len());
                machine.sum_body(body);
            }
            let need = machine.need();
            let (Need::Field(len) | Need::Record(len)) = need;
            let Some((piece, after)) = rest.split_at_checked(len) else {
                return Err(machine.truncated(rest.len()));
            };
            rest = after;
            if let Need::Record(_) = need {
                machine.record(piece)?;
                continue;
            }
            match (machine.field(piece)?, message) {
                (Some(Event::Start(head)), _) => {
                    let body_start = bytes.len() - after.len() - ALLOCATORS - 1;
                    body_and_rest = bytes.get(body_start..).unwrap_or_default();
                    // If it is incomplete, the end is not reached.
                    let body = after.get(..head.size as usize).unwrap_or(after);
                    message = Some(Self { head, context: machine.context(), body });
                }
                (Some(Event::End), Some(message)) => return Ok((message, rest)),
                _ => {}
            }
        }
    }

    /// Returns the part before the groups.
    #[must_use]
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// Returns the groups, in order.
    #[must_use]
    pub const fn groups(&self) -> Groups<'a> {
        Groups(Children { count: self.head.groups, bytes: self.body, context: self.context })
    }

    /// Returns the records of all groups, in order.
    pub fn records(&self) -> impl Iterator<Item = Record<'a>> + use<'a> {
        self.groups().flat_map(|group| group.records())
    }
}

/// A group of records.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a>(Children<'a>);

impl<'a> Group<'a> {
    /// Returns the number of records.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.count as usize
    }

    /// Returns whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.count == 0
    }

    /// Returns the records, in order.
    #[must_use]
    pub const fn records(&self) -> Records<'a> {
        Records(self.0)
    }
}

/// An iterator over the groups of a message.
#[derive(Clone, Debug)]
pub struct Groups<'a>(Children<'a>);

/// An iterator over the records of a group.
#[derive(Clone, Debug)]
pub struct Records<'a>(Children<'a>);

impl<'a> Iterator for Groups<'a> {
    type Item = Group<'a>;

    fn next(&mut self) -> Option<Group<'a>> {
        let (count, bytes) = self.0.next()?;
        Some(Group(Children { count, bytes, context: self.0.context }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.0.count as usize, Some(self.0.count as usize))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let (count, bytes) = self.0.next()?;
        shape::split_checked(bytes, count, self.0.context).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.0.count as usize, Some(self.0.count as usize))
    }
}

impl ExactSizeIterator for Groups<'_> {}
impl ExactSizeIterator for Records<'_> {}
impl FusedIterator for Groups<'_> {}
impl FusedIterator for Records<'_> {}

/// Children that were already checked.
#[derive(Clone, Copy, Debug)]
struct Children<'a> {
    count: u32,
    bytes: &'a [u8],
    context: Context,
}

impl<'a> Children<'a> {
    /// Returns the count and the content of the next one.
    fn next(&mut self) -> Option<(u32, &'a [u8])> {
        self.count = self.count.checked_sub(1)?;
        let (count, size, rest) = split_allocators(self.bytes, self.context.order)?;
        let (content, rest) = rest.split_at_checked(size as usize)?;
        self.bytes = rest;
        Some((count, content))
    }
}
