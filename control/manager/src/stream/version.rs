//! Versions of the protocol, and the version that two sides have in common.

use super::HeaderError;
use std::{fmt, str};

/// A version of the protocol. Minor versions of one major version are compatible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The major version; not 0 in a header.
    pub major: u64,
    /// The minor version: additions to the major version.
    pub minor: u64,
}

impl Version {
    /// The first version.
    pub const V1_0: Self = Self { major: 1, minor: 0 };
    /// Adds the fields of [`crate::messages::StartRequest`] other than the descriptor, the URL and the token.
    pub const V1_1: Self = Self { major: 1, minor: 1 };
    /// Adds [`crate::messages::LastPing`].
    pub const V1_2: Self = Self { major: 1, minor: 2 };
    /// Adds [`crate::messages::WakeRequest`].
    pub const V1_3: Self = Self { major: 1, minor: 3 };

    fn parse(text: &[u8]) -> Option<Self> {
        let mut numbers = text.split(|byte| *byte == b'.').map(number);
        let version = Self { major: numbers.next()??, minor: numbers.next()?? };
        (numbers.next().is_none() && version.major != 0).then_some(version)
    }
}

/// Parses decimal digits only: `u64::from_str` also accepts a sign.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(text).ok()?.parse().ok()
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The versions that a side supports: at least one, in ascending order, one for each major version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions(Vec<Version>);

impl Versions {
    /// Checks the order of the versions.
    ///
    /// # Errors
    /// [`HeaderError::Versions`] if the list is empty, a major version is 0, or they do not ascend.
    pub fn new(versions: impl Into<Vec<Version>>) -> Result<Self, HeaderError> {
        let versions = versions.into();
        let mut last = 0;
        let ascending = versions.iter().all(|version| {
            let greater = version.major > last;
            last = version.major;
            greater
        });
        if versions.is_empty() || !ascending { Err(HeaderError::Versions) } else { Ok(Self(versions)) }
    }

    pub(super) fn parse(text: &[u8]) -> Result<Self, HeaderError> {
        let versions: Option<Vec<_>> = text.split(|byte| *byte == b',').map(Version::parse).collect();
        Self::new(versions.ok_or(HeaderError::Versions)?)
    }

    /// Returns all versions, in ascending order.
    #[must_use]
    pub fn as_slice(&self) -> &[Version] {
        &self.0
    }

    /// Returns the version that two sides use: the highest common major version, with the lower of the two minor
    /// versions. `None` without a common one.
    #[must_use]
    pub fn common(&self, other: &Self) -> Option<Version> {
        self.0.iter().rev().find_map(|ours| {
            let theirs = other.0.iter().find(|theirs| theirs.major == ours.major)?;
            Some(*ours.min(theirs))
        })
    }
}

impl From<Version> for Versions {
    /// Returns that version alone; version 0 becomes 1.0, as a header cannot contain it.
    fn from(version: Version) -> Self {
        Self(vec![if version.major == 0 { Version::V1_0 } else { version }])
    }
}

impl Default for Versions {
    /// 1.3, which includes 1.0 to 1.3.
    fn default() -> Self {
        Self(vec![Version::V1_3])
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, version) in self.0.iter().enumerate() {
            write!(f, "{}{version}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}
