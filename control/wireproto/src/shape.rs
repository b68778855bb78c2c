//! Splits the bytes of a record into pairs and copies.

use std::str;

use crate::{
    error::{Error, Field, Problem, Result},
    level::{COPY, Level, Place, RECORD},
    options::{Order, Tolerance},
    readings::ALLOCATORS,
    record::{Copies, CopyForm, Pairs, Record, split_allocators},
};

/// The parameters for the shape of records.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    pub(crate) order: Order,
    pub(crate) is_response: bool,
    pub(crate) tolerance: Tolerance,
}

/// Splits and checks the `bytes` of a record of `count` pairs, which begin at `offset`.
pub(crate) fn split(bytes: &[u8], count: u32, context: Context, offset: u64) -> Result<Record<'_>> {
    Shape { bytes, count, context, offset, is_checked: false }.split()
}

/// Splits bytes that were already checked.
pub(crate) fn split_checked(bytes: &[u8], count: u32, context: Context) -> Result<Record<'_>> {
    if context.is_response {
        // Whether names are UTF-8 may determine the form of copies.
        let is_checked = !context.tolerance.other_copies;
        return Shape { bytes, count, context, offset: 0, is_checked }.split();
    }
    let pairs = Pairs { count, bytes, order: context.order, interleaved: false };
    Ok(Record { pairs, copies: Copies(CopyForm::None) })
}

#[derive(Clone, Copy)]
struct Shape<'a> {
    bytes: &'a [u8],
    count: u32,
    context: Context,
    offset: u64,
    /// Whether names are known to be UTF-8.
    is_checked: bool,
}

impl<'a> Shape<'a> {
    fn split(&self) -> Result<Record<'a>> {
        if !self.context.is_response {
            return self.without_copy();
        }
        let outcome = self.copy_behind();
        if outcome.is_ok() || !self.context.tolerance.other_copies {
            return outcome;
        }
        self.bare_pairs_behind().or_else(|_| self.copy_after_each()).or(outcome)
    }

    fn walk(&self) -> Walk<'a> {
        Walk { rest: self.bytes, offset: self.offset, context: self.context, is_checked: self.is_checked }
    }

    fn pairs(&self, count: u32, bytes: &'a [u8]) -> Pairs<'a> {
        Pairs { count, bytes, order: self.context.order, interleaved: false }
    }

    fn without_copy(&self) -> Result<Record<'a>> {
        self.walk().pairs(self.count, true, RECORD)?;
        Ok(Record { pairs: self.pairs(self.count, self.bytes), copies: Copies(CopyForm::None) })
    }

    /// Returns the pairs, and the walk behind them.
    fn pairs_first(&self) -> Result<(Pairs<'a>, Walk<'a>)> {
        let mut walk = self.walk();
        walk.pairs(self.count, false, RECORD)?;
        let (pairs, _) = self.bytes.split_at(self.bytes.len() - walk.rest.len());
        Ok((self.pairs(self.count, pairs), walk))
    }

    fn copy_behind(&self) -> Result<Record<'a>> {
        let (pairs, mut walk) = self.pairs_first()?;
        let copy = walk.copy(true)?;
        Ok(Record { pairs, copies: Copies(CopyForm::One(copy)) })
    }

    fn bare_pairs_behind(&self) -> Result<Record<'a>> {
        let (pairs, mut walk) = self.pairs_first()?;
        let bytes = walk.rest;
        let mut count = 0;
        while !walk.rest.is_empty() {
            walk.pairs(1, false, COPY)?;
            count += 1;
        }
        let copies = if count == 0 { CopyForm::None } else { CopyForm::One(self.pairs(count, bytes)) };
        Ok(Record { pairs, copies: Copies(copies) })
    }

    fn copy_after_each(&self) -> Result<Record<'a>> {
        let mut walk = self.walk();
        for _ in 0..self.count {
            walk.pairs(1, false, RECORD)?;
            walk.copy(false)?;
        }
        if !walk.rest.is_empty() {
            return Err(walk.error(Problem::LeftOver { bytes: walk.left() }, Field::Record));
        }
        let pairs = Pairs { interleaved: true, ..self.pairs(self.count, self.bytes) };
        Ok(Record { pairs, copies: Copies(CopyForm::Each(pairs)) })
    }
}

/// A position in a record.
struct Walk<'a> {
    rest: &'a [u8],
    offset: u64,
    context: Context,
    is_checked: bool,
}

impl<'a> Walk<'a> {
    fn left(&self) -> u64 {
        self.rest.len() as u64
    }

    fn error(&self, problem: Problem, field: Field) -> Error {
        Error::new(problem, field, self.offset)
    }

    /// Takes `count` pairs, which end where the walk ends if they are `exact`. Their allocators are directly before
    /// them, at `place`.
    fn pairs(&mut self, count: u32, exact: bool, place: Place) -> Result<()> {
        let mut level = Level::new(count, self.left(), exact, self.context.tolerance.empty)
            .map_err(|problem| place.error(problem, self.offset.saturating_sub(ALLOCATORS as u64)))?;
        while !level.is_done() {
            self.pair(&mut level)?;
        }
        Ok(())
    }

    fn pair(&mut self, level: &mut Level) -> Result<()> {
        let Some((name_size, value_size, rest)) = split_allocators(self.rest, self.context.order) else {
            let problem = Problem::Exceeds { size: ALLOCATORS as u64, left: self.left() };
            return Err(self.error(problem, Field::NameSize));
        };
        let size = level.pair(name_size, value_size, self.offset)?;
        let content = self.offset + ALLOCATORS as u64;
        // It fits: the level has no more than the walk.
        let (name, rest) = rest.split_at(name_size as usize);
        if !self.is_checked
            && let Err(e) = str::from_utf8(name)
        {
            return Err(Error::new(Problem::NotUtf8, Field::Name, content + e.valid_up_to() as u64));
        }
        let (_, rest) = rest.split_at(value_size as usize);
        (self.rest, self.offset) = (rest, content + size);
        Ok(())
    }

    /// Takes a copy, which ends where the walk ends if it is `exact`.
    fn copy(&mut self, exact: bool) -> Result<Pairs<'a>> {
        if self.rest.is_empty() {
            return Err(self.error(Problem::NoCopy, Field::CopyCount));
        }
        let Some((count, size, rest)) = split_allocators(self.rest, self.context.order) else {
            let problem = Problem::Exceeds { size: ALLOCATORS as u64, left: self.left() };
            return Err(self.error(problem, Field::CopyCount));
        };
        Level::new(1, self.left(), exact, false)
            .and_then(|mut parent| parent.child(size.into()))
            .map_err(|problem| COPY.error(problem, self.offset))?;
        let (bytes, rest) = rest.split_at(size as usize);
        let offset = self.offset + ALLOCATORS as u64;
        Walk { rest: bytes, offset, ..*self }.pairs(count, true, COPY)?;
        (self.rest, self.offset) = (rest, offset + u64::from(size));
        Ok(Pairs { count, bytes, order: self.context.order, interleaved: false })
    }
}
