//! Sets of sequence numbers as sorted, separate ranges.

/// Ranges from the first number up to, but not including, the second.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn first(&self) -> Option<(u64, u64)> {
        self.0.first().copied()
    }

    /// Returns the end of the last range.
    pub(super) fn end(&self) -> Option<u64> {
        self.0.last().map(|&(_, end)| end)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }

    /// Returns the range that contains `number`.
    pub(super) fn containing(&self, number: u64) -> Option<(u64, u64)> {
        let at = self.0.partition_point(|&(_, end)| end <= number);
        self.0.get(at).copied().filter(|&(start, _)| start <= number)
    }

    /// Returns whether inserting this range would add a separate range.
    pub(super) fn is_apart(&self, start: u64, end: u64) -> bool {
        let at = self.0.partition_point(|&(_, e)| e < start);
        self.0.get(at).is_none_or(|&(s, _)| s > end)
    }

    /// Adds a range and returns the one that then contains it.
    pub(super) fn insert(&mut self, start: u64, end: u64) -> (u64, u64) {
        let from = self.0.partition_point(|&(_, e)| e < start);
        let to = from + self.0.get(from..).unwrap_or_default().partition_point(|&(s, _)| s <= end);
        let merged = match self.0.get(from..to) {
            Some(&[(s, _), .., (_, e)] | &[(s, e)]) => (s.min(start), e.max(end)),
            _ => (start, end),
        };
        self.0.splice(from..to, [merged]);
        merged
    }

    /// Removes all numbers below `number`.
    pub(super) fn remove_below(&mut self, number: u64) {
        let gone = self.0.partition_point(|&(_, end)| end <= number);
        self.0.drain(..gone);
        if let Some((start, _)) = self.0.first_mut() {
            *start = number.max(*start);
        }
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
    }

    /// Removes and returns the first range.
    pub(super) fn pop_first(&mut self) {
        if !self.0.is_empty() {
            self.0.remove(0);
        }
    }

    pub(super) fn clear(&mut self) {
        self.0 = Vec::new();
    }

    /// Returns the first part of `start..end` that is not in the set.
    pub(super) fn gap(&self, start: u64, end: u64) -> Option<(u64, u64)> {
        let at = self.0.partition_point(|&(_, e)| e <= start);
        let (start, next) = match self.0.get(at) {
            Some(&(s, e)) if s <= start => (e, at + 1),
            _ => (start, at),
        };
        let end = self.0.get(next).map_or(end, |&(s, _)| s.min(end));
        (start < end).then_some((start, end))
    }
}
