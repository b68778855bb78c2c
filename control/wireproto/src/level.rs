//! Checks counts and sizes: whether children fit, one after the other.

use crate::{
    error::{Error, Field, Problem},
    readings::ALLOCATORS,
};

const HEADER: u64 = ALLOCATORS as u64;

/// The number of remaining children, and the bytes for them. Each takes at least its allocators.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Level {
    children: u32,
    left: u64,
    /// Whether the children must fill the parent.
    exact: bool,
}

impl Level {
    /// No further children.
    pub(crate) const DONE: Self = Self { children: 0, left: 0, exact: true };

    /// Fails with `Empty`, `Count` or `LeftOver`.
    pub(crate) fn new(count: u32, size: u64, exact: bool, may_be_empty: bool) -> Result<Self, Problem> {
        if count == 0 && !may_be_empty {
            return Err(Problem::Empty);
        }
        if u64::from(count) * HEADER > size {
            return Err(Problem::Count { count, size });
        }
        if count == 0 && exact && size > 0 {
            return Err(Problem::LeftOver { bytes: size });
        }
        Ok(Self { children: count, left: size, exact })
    }

    /// Takes a child of `size` bytes without its allocators. Fails with `Sequence`, `Exceeds` or `LeftOver`, and then
    /// changes nothing.
    pub(crate) fn child(&mut self, size: u64) -> Result<(), Problem> {
        let Some(others) = self.children.checked_sub(1) else { return Err(Problem::Sequence) };
        // There is room for the allocators of all children: `new` has checked it, and each child leaves it.
        let left = self.left - HEADER * u64::from(self.children);
        if size > left {
            return Err(Problem::Exceeds { size, left });
        }
        if others == 0 && self.exact && size < left {
            return Err(Problem::LeftOver { bytes: left - size });
        }
        self.children = others;
        self.left -= HEADER + size;
        Ok(())
    }

    /// Takes a pair whose allocators are at `offset`. Returns the size of its content. Fails as [`Self::child`].
    pub(crate) fn pair(&mut self, name: u32, value: u32, offset: u64) -> Result<u64, Error> {
        let size = u64::from(name) + u64::from(value);
        let (problem, field) = match self.child(size) {
            Ok(()) => return Ok(size),
            Err(Problem::Exceeds { left, .. }) => match left.checked_sub(name.into()) {
                Some(left) => (Problem::Exceeds { size: value.into(), left }, Field::ValueSize),
                None => (Problem::Exceeds { size: name.into(), left }, Field::NameSize),
            },
            Err(problem @ Problem::LeftOver { .. }) => (problem, Field::ValueSize),
            Err(problem) => (problem, Field::NameSize),
        };
        Err(Error::new(problem, field, if field == Field::ValueSize { offset + HEADER / 2 } else { offset }))
    }

    /// Returns whether all children have been taken.
    pub(crate) fn is_done(&self) -> bool {
        self.children == 0
    }

    /// Returns the number of bytes behind the last child, once that has been taken.
    pub(crate) fn rest(&self) -> u64 {
        self.left
    }
}

/// The fields of two allocators.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) count: Field,
    pub(crate) size: Field,
}

/// The allocators of all groups.
pub(crate) const GROUPS: Place = Place { count: Field::GroupCount, size: Field::GroupsSize };
/// The allocators of a group.
pub(crate) const GROUP: Place = Place { count: Field::RecordCount, size: Field::RecordsSize };
/// The allocators of a record.
pub(crate) const RECORD: Place = Place { count: Field::PairCount, size: Field::PairsSize };
/// The allocators of a copy.
pub(crate) const COPY: Place = Place { count: Field::CopyCount, size: Field::CopySize };

impl Place {
    /// Returns the error for a problem of the allocators at `offset`, with each other or with their parent.
    pub(crate) const fn error(self, problem: Problem, offset: u64) -> Error {
        match problem {
            Problem::Exceeds { .. } | Problem::LeftOver { .. } | Problem::TooLarge { .. } => {
                Error::new(problem, self.size, offset + HEADER / 2)
            }
            _ => Error::new(problem, self.count, offset),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_fill_a_level_exactly() {
        let mut level = Level::new(2, 30, true, false).unwrap();
        assert_eq!(level.child(15), Err(Problem::Exceeds { size: 15, left: 14 }));
        level.child(4).unwrap();
        assert_eq!(level.child(9), Err(Problem::LeftOver { bytes: 1 }));
        assert!(!level.is_done());
        level.child(10).unwrap();
        assert_eq!((level.is_done(), level.rest()), (true, 0));
        assert_eq!(level.child(0), Err(Problem::Sequence));
    }

    #[test]
    fn a_level_may_have_a_rest() {
        let mut level = Level::new(1, 30, false, false).unwrap();
        level.child(2).unwrap();
        assert_eq!((level.is_done(), level.rest()), (true, 20));
    }

    #[test]
    fn impossible_counts() {
        assert_eq!(Level::new(0, 0, true, false).unwrap_err(), Problem::Empty);
        assert_eq!(Level::new(2, 15, true, false).unwrap_err(), Problem::Count { count: 2, size: 15 });
        assert_eq!(
            Level::new(u32::MAX, u64::from(u32::MAX), true, false).unwrap_err(),
            Problem::Count { count: u32::MAX, size: u64::from(u32::MAX) }
        );
        assert_eq!(Level::new(0, 1, true, true).unwrap_err(), Problem::LeftOver { bytes: 1 });
        assert!(Level::new(0, 1, false, true).unwrap().is_done());
    }
}
