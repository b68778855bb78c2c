//! The limit of descriptors.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The soft limit that macOS accepts if the hard limit is infinite (`OPEN_MAX`): an infinite one is an error there.
const OPEN_MAX: u64 = 10_240;

/// Raises the limit of descriptors to the maximum, since each connection takes one.
pub(super) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    let current = most(&limit, cfg!(target_vendor = "apple"));
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current, ..limit }) {
        tracing::debug!(%error, "the number of descriptors stays as it is");
    }
}

/// Returns the largest soft limit that can be set; `None` is infinite.
fn most(limit: &Rlimit, is_apple: bool) -> Option<u64> {
    match (limit.maximum, limit.current) {
        (None, Some(current)) if is_apple => Some(current.max(OPEN_MAX)),
        (maximum, _) => maximum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_infinite_limit_for_macos() {
        let limit = |current, maximum| Rlimit { current, maximum };
        for is_apple in [false, true] {
            assert_eq!(most(&limit(Some(256), Some(4096)), is_apple), Some(4096));
        }
        assert_eq!(most(&limit(Some(256), None), false), None);
        assert_eq!(most(&limit(Some(256), None), true), Some(OPEN_MAX));
        assert_eq!(most(&limit(Some(65_536), None), true), Some(65_536));
    }
}
