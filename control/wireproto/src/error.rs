//! Errors: the problem of a message, and its place.

use std::{collections::TryReserveError, error, fmt};

/// A result with this package's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of reading or writing a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// The kind of the problem.
    pub problem: Problem,
    /// The field with the problem.
    pub field: Field,
    /// The offset of the problem: the number of bytes from the beginning of the message.
    pub offset: u64,
}

impl Error {
    pub(crate) const fn new(problem: Problem, field: Field, offset: u64) -> Self {
        Self { problem, field, offset }
    }
}

/// The problem of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// The input ends inside the field.
    Truncated {
        /// How many bytes of the field are missing.
        missing: u64,
    },
    /// There are bytes after the end of the message.
    Trailing {
        /// Their number.
        bytes: u64,
    },
    /// A byte differs from the required one.
    Unexpected {
        /// The actual byte.
        found: u8,
    },
    /// The reader does not accept messages of this kind: [`crate::Accept`].
    NotAccepted,
    /// The version is not supported.
    Version {
        /// The version.
        found: u32,
    },
    /// The checksum does not match the body.
    Checksum {
        /// The checksum in the message.
        announced: u32,
        /// The checksum of the body.
        computed: u32,
    },
    /// A response has no checksum.
    NoChecksum,
    /// The message is larger than the limit of the options, or a size needs more than 32 bits.
    TooLarge {
        /// The size, in bytes.
        size: u64,
        /// The maximum size.
        limit: u64,
    },
    /// There are zero groups, records or pairs instead of at least one.
    Empty,
    /// A count is impossible: its children do not fit in the size.
    Count {
        /// The number of children.
        count: u32,
        /// The size of all children, in bytes.
        size: u64,
    },
    /// A size is impossible: it exceeds the rest of the parent.
    Exceeds {
        /// The size, in bytes.
        size: u64,
        /// The rest of the parent.
        left: u64,
    },
    /// A size is impossible: the parent has no further children, but further bytes.
    LeftOver {
        /// The number of these bytes.
        bytes: u64,
    },
    /// A name is not UTF-8.
    NotUtf8,
    /// A response record has no copy of the request's record.
    NoCopy,
    /// A writer's function was called where the format does not have this field, or before a field is complete.
    Sequence,
    /// There is not enough memory.
    NoMemory,
}

/// The fields of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Field {
    /// ACK or NAK.
    Status,
    /// ESC.
    ChecksumStart,
    /// The checksum.
    Checksum,
    /// SOH.
    MessageStart,
    /// The version of the format.
    Version,
    /// STX.
    BodyStart,
    /// The number of groups.
    GroupCount,
    /// The size of all groups.
    GroupsSize,
    /// All groups.
    Groups,
    /// The number of a group's records.
    RecordCount,
    /// The size of a group's records.
    RecordsSize,
    /// The number of a record's pairs.
    PairCount,
    /// The size of a record's pairs, and of its copy in a response.
    PairsSize,
    /// The pairs of a record, and its copy in a response.
    Record,
    /// The number of a copy's pairs.
    CopyCount,
    /// The size of a copy's pairs.
    CopySize,
    /// The size of a name.
    NameSize,
    /// The size of a value.
    ValueSize,
    /// A name.
    Name,
    /// A value.
    Value,
    /// ETX.
    BodyEnd,
    /// EOT.
    MessageEnd,
    /// The bytes behind the message.
    Rest,
}

impl Field {
    /// Returns the name of the field, for error messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::ChecksumStart => "start of the checksum",
            Self::Checksum => "checksum",
            Self::MessageStart => "start of the message",
            Self::Version => "version",
            Self::BodyStart => "start of the body",
            Self::GroupCount => "number of groups",
            Self::GroupsSize => "size of all groups",
            Self::Groups => "groups",
            Self::RecordCount => "number of records",
            Self::RecordsSize => "size of a group's records",
            Self::PairCount => "number of pairs",
            Self::PairsSize => "size of a record's pairs",
            Self::Record => "record",
            Self::CopyCount => "number of a copy's pairs",
            Self::CopySize => "size of a copy's pairs",
            Self::NameSize => "size of a name",
            Self::ValueSize => "size of a value",
            Self::Name => "name",
            Self::Value => "value",
            Self::BodyEnd => "end of the body",
            Self::MessageEnd => "end of the message",
            Self::Rest => "bytes after the message",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Truncated { missing } => write!(f, "{missing} bytes are missing"),
            Self::Trailing { bytes } => write!(f, "{bytes} bytes too many"),
            Self::Unexpected { found } => write!(f, "unexpected byte 0x{found:02x}"),
            Self::NotAccepted => f.write_str("messages of this kind are not accepted"),
            Self::Version { found } => write!(f, "version {found} is not supported"),
            Self::Checksum { announced, computed } => {
                write!(f, "the body has the checksum {computed:08x}, the message has {announced:08x}")
            }
            Self::NoChecksum => f.write_str("a response must have a checksum"),
            Self::TooLarge { size, limit } => write!(f, "{size} bytes are more than the limit of {limit}"),
            Self::Empty => f.write_str("there must be at least one"),
            Self::Count { count, size } => write!(f, "{count} do not fit in {size} bytes"),
            Self::Exceeds { size, left } => write!(f, "{size} bytes do not fit in {left}"),
            Self::LeftOver { bytes } => write!(f, "{bytes} bytes belong to nothing"),
            Self::NotUtf8 => f.write_str("not UTF-8"),
            Self::NoCopy => f.write_str("a response record must have a copy of the request's"),
            Self::Sequence => f.write_str("not here, or not yet"),
            Self::NoMemory => f.write_str("not enough memory"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}: {}: {}", self.offset, self.field.name(), self.problem)
    }
}

impl error::Error for Error {}

impl From<TryReserveError> for Problem {
    fn from(_: TryReserveError) -> Self {
        Self::NoMemory
    }
}
