//! Borrowed views of records: names and values in the message.

use std::str;

use crate::{options::Order, readings::ALLOCATORS};

/// A name and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair<'a> {
    /// The name.
    pub name: &'a str,
    /// The value.
    pub value: &'a [u8],
}

impl<'a> Pair<'a> {
    /// Creates a pair.
    #[must_use]
    pub const fn new(name: &'a str, value: &'a [u8]) -> Self {
        Self { name, value }
    }
}

/// The pairs of a record or of a copy, which were already checked.
#[derive(Clone, Copy, Debug)]
pub struct Pairs<'a> {
    pub(crate) count: u32,
    pub(crate) bytes: &'a [u8],
    pub(crate) order: Order,
    /// Whether each pair is followed by a copy.
    pub(crate) interleaved: bool,
}

impl<'a> Pairs<'a> {
    /// Returns the number of pairs.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Returns whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the pairs, in order.
    #[must_use]
    pub const fn iter(&self) -> PairIter<'a> {
        PairIter { rest: *self }
    }

    /// Returns the value of the first pair with this name, in time proportional to the number of pairs.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.iter().find(|pair| pair.name == name).map(|pair| pair.value)
    }

    /// Returns the bytes of the pairs, if there are no others.
    pub(crate) fn plain_bytes(&self, order: Order) -> Option<&'a [u8]> {
        (self.order == order && !self.interleaved).then_some(self.bytes)
    }
}

impl PartialEq for Pairs<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Pairs<'_> {}

impl<'a> IntoIterator for Pairs<'a> {
    type Item = Pair<'a>;
    type IntoIter = PairIter<'a>;

    fn into_iter(self) -> PairIter<'a> {
        self.iter()
    }
}

/// An iterator over pairs.
#[derive(Clone, Debug)]
pub struct PairIter<'a> {
    rest: Pairs<'a>,
}

impl<'a> Iterator for PairIter<'a> {
    type Item = Pair<'a>;

    fn next(&mut self) -> Option<Pair<'a>> {
        self.rest.count = self.rest.count.checked_sub(1)?;
        let (name_size, value_size, rest) = split_allocators(self.rest.bytes, self.rest.order)?;
        let (name, rest) = rest.split_at_checked(name_size as usize)?;
        let (value, rest) = rest.split_at_checked(value_size as usize)?;
        self.rest.bytes = rest;
        if self.rest.interleaved {
            let (_, size, rest) = split_allocators(rest, self.rest.order)?;
            self.rest.bytes = rest.get(size as usize..)?;
        }
        Some(Pair { name: str::from_utf8(name).ok()?, value })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.rest.len(), Some(self.rest.len()))
    }
}

impl ExactSizeIterator for PairIter<'_> {}

/// A record: a command in a request, or an answer in a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub(crate) pairs: Pairs<'a>,
    pub(crate) copies: Copies<'a>,
}

impl<'a> Record<'a> {
    /// Returns the pairs of the record, without those of its copies.
    #[must_use]
    pub const fn pairs(&self) -> Pairs<'a> {
        self.pairs
    }

    /// Returns the copy of the request's record; `None` in a request, or if a tolerated response has none; the first
    /// one if there is one for each pair.
    #[must_use]
    pub fn copy(&self) -> Option<Pairs<'a>> {
        self.copies().next()
    }

    /// Returns all copies: none in a request and one in a response, or another number with
    /// [`crate::Tolerance::other_copies`].
    #[must_use]
    pub const fn copies(&self) -> Copies<'a> {
        self.copies
    }
}

/// An iterator over the copies of a record.
#[derive(Clone, Copy, Debug)]
pub struct Copies<'a>(pub(crate) CopyForm<'a>);

/// The positions of copies in a record.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CopyForm<'a> {
    None,
    /// One copy after the pairs.
    One(Pairs<'a>),
    /// One after each of these pairs.
    Each(Pairs<'a>),
}

impl<'a> Iterator for Copies<'a> {
    type Item = Pairs<'a>;

    fn next(&mut self) -> Option<Pairs<'a>> {
        match &mut self.0 {
            CopyForm::None => None,
            CopyForm::One(copy) => {
                let copy = *copy;
                self.0 = CopyForm::None;
                Some(copy)
            }
            CopyForm::Each(pairs) => {
                pairs.count = pairs.count.checked_sub(1)?;
                let order = pairs.order;
                let (name_size, value_size, rest) = split_allocators(pairs.bytes, order)?;
                let rest = rest.get(name_size as usize..)?.get(value_size as usize..)?;
                let (count, size, rest) = split_allocators(rest, order)?;
                let (bytes, rest) = rest.split_at_checked(size as usize)?;
                pairs.bytes = rest;
                Some(Pairs { count, bytes, order, interleaved: false })
            }
        }
    }
}

impl PartialEq for Copies<'_> {
    fn eq(&self, other: &Self) -> bool {
        Iterator::eq(*self, *other)
    }
}

impl Eq for Copies<'_> {}

/// Returns two allocators, and the bytes behind them.
#[inline]
pub(crate) fn split_allocators(bytes: &[u8], order: Order) -> Option<(u32, u32, &[u8])> {
    let (first, rest) = bytes.split_first_chunk()?;
    let (second, rest) = rest.split_first_chunk()?;
    Some((order.read(*first), order.read(*second), rest))
}

/// Returns the bytes of two allocators.
pub(crate) fn allocators(first: u32, second: u32, order: Order) -> [u8; ALLOCATORS] {
    let ([a, b, c, d], [e, f, g, h]) = (order.write(first), order.write(second));
    [a, b, c, d, e, f, g, h]
}
