//! The timestamp of an initiation: TAI64N, coarse, never repeated.

use std::time::Duration;

/// Bytes of a timestamp.
pub const LEN: usize = 12;

/// The label of 1970-01-01 00:00:10 TAI, as in the kernel and wireguard-go: later leap seconds are ignored.
const BASE: u64 = (1 << 62) + 10;

/// The resolution of timestamps in nanoseconds, so that they do not leak a precise clock: the largest power of two
/// within the minimum of 20 ms between two initiations.
const GRAIN: u32 = 1 << 24;

/// A TAI64N label, in its external form. Later ones compare greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tai64N(pub [u8; LEN]);

impl Tai64N {
    /// Returns the label of a wall-clock time since 1970-01-01 UTC, rounded down to the resolution.
    #[must_use]
    pub fn new(wall: Duration) -> Self {
        Self::from_parts(wall.as_secs(), wall.subsec_nanos() / GRAIN * GRAIN)
    }

    /// Returns the label of `wall`, or the first one after `last` if that is not later: if the wall clock is set back,
    /// our initiations must not be taken for replays.
    #[must_use]
    pub fn after(last: Self, wall: Duration) -> Self {
        let now = Self::new(wall);
        if now > last {
            return now;
        }
        let (secs, nanos) = last.parts();
        match nanos + GRAIN {
            n if n < 1_000_000_000 => Self::from_parts(secs, n),
            _ => Self::from_parts(secs.saturating_add(1), 0),
        }
    }

    fn from_parts(secs: u64, nanos: u32) -> Self {
        let mut b = [0; LEN];
        b[..8].copy_from_slice(&BASE.saturating_add(secs).to_be_bytes());
        b[8..].copy_from_slice(&nanos.to_be_bytes());
        Self(b)
    }

    fn parts(self) -> (u64, u32) {
        let (secs, nanos) = (&self.0[..8], &self.0[8..]);
        let secs = u64::from_be_bytes(secs.try_into().unwrap_or_default());
        (secs.saturating_sub(BASE), u32::from_be_bytes(nanos.try_into().unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_and_grain_are_the_kernels() {
        let t = Tai64N::new(Duration::new(1, GRAIN + 5));
        assert_eq!(t.0, [0x40, 0, 0, 0, 0, 0, 0, 11, 1, 0, 0, 0]);
    }

    #[test]
    fn never_goes_back() {
        let t = Tai64N::new(Duration::new(100, 999_999_999));
        let next = Tai64N::after(t, Duration::new(50, 0));
        assert!(next > t);
        assert_eq!(next, Tai64N::new(Duration::new(101, 0)));
        assert!(Tai64N::after(next, Duration::new(101, 7)) > next);
        assert_eq!(Tai64N::after(next, Duration::new(200, 0)), Tai64N::new(Duration::new(200, 0)));
    }
}
