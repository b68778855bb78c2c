//! The numbers that apps of the originals know tunnels by.

use std::sync::{Mutex, MutexGuard};

use wg_embed::{process::PerProcess, sync};

/// Small numbers, each for a tunnel's handle: always the lowest that is free, from 0 on.
///
/// So they are used again, unlike handles: an app that keeps one of a tunnel that is off may meet another tunnel.
pub(super) struct Handles(PerProcess<Mutex<Vec<Option<i32>>>>);

impl Handles {
    pub(super) const fn new() -> Self {
        Self(PerProcess::new())
    }

    fn places(&self) -> MutexGuard<'_, Vec<Option<i32>>> {
        sync::lock(self.0.get())
    }

    /// Gives a handle a number.
    pub(super) fn add(&self, handle: i32) -> i32 {
        let mut places = self.places();
        let number = places.iter().position(Option::is_none).unwrap_or(places.len());
        if number == places.len() {
            places.push(None);
        }
        places[number] = Some(handle);
        // Each stands for a tunnel with two threads: there are few.
        number as i32
    }

    /// The handle with this number.
    pub(super) fn get(&self, number: i32) -> Option<i32> {
        *self.places().get(usize::try_from(number).ok()?)?
    }

    /// The same, and the number is free again.
    pub(super) fn take(&self, number: i32) -> Option<i32> {
        self.places().get_mut(usize::try_from(number).ok()?)?.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_number_is_given() {
        static HANDLES: Handles = Handles::new();
        let handles = &HANDLES;
        assert_eq!([7, 8, 9].map(|handle| handles.add(handle)), [0, 1, 2]);
        assert_eq!([0, 1, 2, 3, -1, i32::MIN].map(|n| handles.get(n)), [Some(7), Some(8), Some(9), None, None, None]);
        assert_eq!([1, 1, 0, 3, -1].map(|n| handles.take(n)), [Some(8), None, Some(7), None, None]);
        assert_eq!([10, 11, 12].map(|handle| handles.add(handle)), [0, 1, 3]);
        assert_eq!([0, 1, 2, 3].map(|n| handles.get(n)), [Some(10), Some(11), Some(9), Some(12)]);
    }
}
