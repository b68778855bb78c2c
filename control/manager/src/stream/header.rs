//! The first line of each side: `codervpn ROLE VERSION[,VERSION...]`.
//!
//! An older form has the versions in front of the role. A role has no digits and a version has nothing else, so both
//! forms are accepted.

use super::{Version, Versions};
use std::fmt;

/// The maximum length of a header, including the line feed.
pub const MAX_HEADER: usize = 256;

const PREAMBLE: &[u8] = b"codervpn";

/// The role of one side of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Starts and stops a tunnel, and configures the system for it.
    Manager,
    /// Carries packets.
    Tunnel,
    /// Runs a manager, on Windows.
    Service,
    /// Shows the state of a service, and controls it.
    Client,
}

impl Role {
    const ALL: [Self; 4] = [Self::Manager, Self::Tunnel, Self::Service, Self::Client];

    /// Returns the word for the role in a header.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Manager => "manager",
            Self::Tunnel => "tunnel",
            Self::Service => "service",
            Self::Client => "client",
        }
    }

    /// Returns the role of the other end.
    #[must_use]
    pub const fn peer(self) -> Self {
        match self {
            Self::Manager => Self::Tunnel,
            Self::Tunnel => Self::Manager,
            Self::Service => Self::Client,
            Self::Client => Self::Service,
        }
    }

    fn parse(word: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name().as_bytes() == word)
    }
}

/// The order of the words of a sent header. Both are accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderOrder {
    /// The role, then the versions: the form in use.
    #[default]
    RoleFirst,
    /// The versions, then the role: the original design, and programs from before 2025.
    VersionsFirst,
}

/// The first line of a side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The role of the sender.
    pub role: Role,
    /// The versions that the sender supports.
    pub versions: Versions,
    /// The order of role and versions.
    pub order: HeaderOrder,
}

impl Header {
    /// Returns the line, including the line feed.
    ///
    /// # Errors
    /// [`HeaderError::TooLong`]: there are too many versions.
    pub fn encode(&self) -> Result<Vec<u8>, HeaderError> {
        let (role, versions) = (self.role.name(), &self.versions);
        let line = match self.order {
            HeaderOrder::RoleFirst => format!("codervpn {role} {versions}\n"),
            HeaderOrder::VersionsFirst => format!("codervpn {versions} {role}\n"),
        };
        if line.len() > MAX_HEADER { Err(HeaderError::TooLong) } else { Ok(line.into_bytes()) }
    }

    /// Parses a line without its line feed. Words are separated by one space.
    ///
    /// # Errors
    /// See [`HeaderError`].
    pub fn parse(line: &[u8]) -> Result<Self, HeaderError> {
        if line.len() >= MAX_HEADER {
            return Err(HeaderError::TooLong);
        }
        let mut words = line.split(|byte| *byte == b' ');
        let (Some(preamble), Some(second), Some(third), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(HeaderError::Words);
        };
        if preamble != PREAMBLE {
            return Err(HeaderError::Preamble);
        }
        let (role, versions, order) = match (Role::parse(second), Role::parse(third)) {
            (Some(role), _) => (role, third, HeaderOrder::RoleFirst),
            (None, Some(role)) => (role, second, HeaderOrder::VersionsFirst),
            (None, None) => return Err(HeaderError::UnknownRole),
        };
        Ok(Self { role, versions: Versions::parse(versions)?, order })
    }

    /// Returns the version that a side with this `role` and these `versions` uses with the sender of this header.
    ///
    /// # Errors
    /// [`HeaderError::Role`] and [`HeaderError::NoCommonVersion`].
    pub fn negotiate(&self, role: Role, versions: &Versions) -> Result<Version, HeaderError> {
        if self.role != role.peer() {
            return Err(HeaderError::Role { expected: role.peer(), found: self.role });
        }
        versions
            .common(&self.versions)
            .ok_or_else(|| HeaderError::NoCommonVersion { ours: versions.clone(), theirs: self.versions.clone() })
    }
}

/// Decodes a header byte by byte, so that the bytes behind it stay unread.
#[derive(Debug)]
pub struct HeaderDecoder {
    line: [u8; MAX_HEADER - 1],
    len: usize,
}

impl HeaderDecoder {
    /// Creates a decoder that expects the first byte.
    #[must_use]
    pub const fn new() -> Self {
        Self { line: [0; MAX_HEADER - 1], len: 0 }
    }

    /// Adds the next byte. Returns the header at the end of the line.
    ///
    /// # Errors
    /// See [`HeaderError`]; read no further then.
    pub fn push(&mut self, byte: u8) -> Result<Option<Header>, HeaderError> {
        if byte == b'\n' {
            return Header::parse(self.line.get(..self.len).unwrap_or_default()).map(Some);
        }
        *self.line.get_mut(self.len).ok_or(HeaderError::TooLong)? = byte;
        self.len += 1;
        Ok(None)
    }
}

impl Default for HeaderDecoder {
    fn default() -> Self {
        Self::new()
    }
}

/// The reason why a header is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderError {
    /// It has more than [`MAX_HEADER`] bytes.
    TooLong,
    /// It does not have three words with one space between them.
    Words,
    /// It belongs to another protocol.
    Preamble,
    /// No word is a role.
    UnknownRole,
    /// The other end has the wrong role.
    Role {
        /// The expected role.
        expected: Role,
        /// The role in the header.
        found: Role,
    },
    /// Versions are not numbers `MAJOR.MINOR` from 1.0 up, ascending, with one of each major version.
    Versions,
    /// No major version is in both lists.
    NoCommonVersion {
        /// The versions that this side supports.
        ours: Versions,
        /// The versions that the other side supports.
        theirs: Versions,
    },
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => f.write_str("header malformed or too large"),
            Self::Words => f.write_str("wrong number of parts"),
            Self::Preamble => f.write_str("invalid preamble"),
            Self::UnknownRole => f.write_str("unexpected role"),
            Self::Role { expected, found } => {
                write!(f, "unexpected role: {} in place of {}", found.name(), expected.name())
            }
            Self::Versions => f.write_str("parse version list: not ascending versions MAJOR.MINOR"),
            Self::NoCommonVersion { ours, theirs } => {
                write!(f, "current supported versions \"{ours}\" is not compatible with peer versions \"{theirs}\"")
            }
        }
    }
}

impl std::error::Error for HeaderError {}
