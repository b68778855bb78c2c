//! What readers accept and writers write.

use crate::readings;

/// Order of the bytes of allocators (counts and sizes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The most significant byte first.
    #[default]
    Big,
    /// The least significant byte first.
    Little,
}

impl Order {
    /// The number that `bytes` are.
    #[must_use]
    pub const fn read(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Big => u32::from_be_bytes(bytes),
            Self::Little => u32::from_le_bytes(bytes),
        }
    }

    /// The bytes of `number`.
    #[must_use]
    pub const fn write(self, number: u32) -> [u8; 4] {
        match self {
            Self::Big => number.to_be_bytes(),
            Self::Little => number.to_le_bytes(),
        }
    }
}

/// Status of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// All records of the request succeeded.
    Ack,
    /// At least one record of the request failed.
    Nak,
}

impl Status {
    /// The byte of this status.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Ack => readings::ACK,
            Self::Nak => readings::NAK,
        }
    }
}

/// Requests and responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A message of a client.
    Request,
    /// The answer to one.
    Response(Status),
}

/// What precedes the groups of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Whether it is a request or a response.
    pub kind: Kind,
    /// The checksum, as it was announced.
    pub checksum: Option<u32>,
    /// The version of the format.
    pub version: u32,
    /// The order of the allocators.
    pub order: Order,
    /// The number of groups.
    pub groups: u32,
    /// The size of all groups, in bytes.
    pub size: u32,
}

/// Which messages a reader accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accept {
    /// Requests and responses.
    #[default]
    Both,
    /// Requests, as a server does.
    Requests,
    /// Responses, as a client does.
    Responses,
}

/// Deviations that a reader tolerates; none at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tolerance {
    /// Allocators in the other order, if the first two of a message make sense only so. The whole message then has
    /// that order.
    pub other_order: bool,
    /// EOT right after the last group, without ETX.
    pub missing_body_end: bool,
    /// Responses without a checksum.
    pub missing_checksum: bool,
    /// A checksum whose bytes are in the reverse order.
    pub little_endian_checksum: bool,
    /// Copies in responses that are not one record after the pairs: pairs without allocators, also none at all, or
    /// one record after each pair. Whichever of these ends exactly at the size of the record is taken, in this order.
    pub other_copies: bool,
    /// No groups, records or pairs where there should be at least one.
    pub empty: bool,
    /// Version 0.
    pub experimental_version: bool,
}

impl Tolerance {
    /// All of them.
    pub const ALL: Self = Self {
        other_order: true,
        missing_body_end: true,
        missing_checksum: true,
        little_endian_checksum: true,
        other_copies: true,
        empty: true,
        experimental_version: true,
    };
}

/// The largest message that is read or written unless the options have another limit, in bytes.
pub const DEFAULT_LIMIT: usize = 16 << 20;

/// Options of readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// The order of allocators.
    pub order: Order,
    /// The largest message that is read, in bytes, from its first byte to its last one.
    pub limit: usize,
    /// Which messages are accepted.
    pub accept: Accept,
    /// Which deviations are accepted.
    pub tolerance: Tolerance,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            order: Order::default(),
            limit: DEFAULT_LIMIT,
            accept: Accept::default(),
            tolerance: Tolerance::default(),
        }
    }
}

/// Options of writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    /// The order of allocators.
    pub order: Order,
    /// The largest message that is written, in bytes, from its first byte to its last one.
    pub limit: usize,
    /// Whether requests have a checksum. Responses always have one.
    pub checksum: bool,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { order: Order::default(), limit: DEFAULT_LIMIT, checksum: false }
    }
}
