//! Options of readers and writers.

use crate::readings;

/// The byte order of allocators (counts and sizes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The most significant byte first.
    #[default]
    Big,
    /// The least significant byte first.
    Little,
}

impl Order {
    /// Returns the number represented by `bytes`.
    #[must_use]
    pub const fn read(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Big => u32::from_be_bytes(bytes),
            Self::Little => u32::from_le_bytes(bytes),
        }
    }

    /// Returns the bytes of `number`.
    #[must_use]
    pub const fn write(self, number: u32) -> [u8; 4] {
        match self {
            Self::Big => number.to_be_bytes(),
            Self::Little => number.to_le_bytes(),
        }
    }
}

/// The status of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// All records of the request succeeded.
    Ack,
    /// At least one record of the request failed.
    Nak,
}

impl Status {
    /// Returns the byte of this status.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Ack => readings::ACK,
            Self::Nak => readings::NAK,
        }
    }
}

/// The kind of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A message of a client.
    Request,
    /// The answer to one.
    Response(Status),
}

/// The part of a message before the groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Whether it is a request or a response.
    pub kind: Kind,
    /// The announced checksum.
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

/// The messages that a reader accepts.
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

/// Deviations that a reader tolerates; none by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tolerance {
    /// Allocators in the other order, if the first two of a message are valid only in it. The whole message then has
    /// that order.
    pub other_order: bool,
    /// EOT directly after the last group, without ETX.
    pub missing_body_end: bool,
    /// Responses without a checksum.
    pub missing_checksum: bool,
    /// A checksum in little endian.
    pub little_endian_checksum: bool,
    /// Copies in responses that are not one record after the pairs: pairs without allocators, or no pairs, or one
    /// record after each pair. The first of these forms that ends exactly at the size of the record is used.
    pub other_copies: bool,
    /// Zero groups, records or pairs instead of at least one.
    pub empty: bool,
    /// Version 0.
    pub experimental_version: bool,
}

impl Tolerance {
    /// All deviations.
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

/// The default limit of messages that are read or written, in bytes.
pub const DEFAULT_LIMIT: usize = 16 << 20;

/// Options of readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// The order of allocators.
    pub order: Order,
    /// The size of the largest message that is read, in bytes, from its first byte to its last one.
    pub limit: usize,
    /// The accepted messages.
    pub accept: Accept,
    /// The tolerated deviations.
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
    /// The size of the largest message that is written, in bytes, from its first byte to its last one.
    pub limit: usize,
    /// Whether requests have a checksum. Responses always have one.
    pub checksum: bool,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { order: Order::default(), limit: DEFAULT_LIMIT, checksum: false }
    }
}
