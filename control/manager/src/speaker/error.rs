//! The reasons for the end of a stream and for the failure of a call.

use crate::stream::{FrameError, HeaderError, Version};
use std::{fmt, io};

/// The reason for the end of a stream. After it nothing is sent or received.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// This side has closed it.
    Closed,
    /// This side has sent its last message.
    Finished,
    /// The other side has closed it, between two messages.
    PeerClosed,
    /// The other side has closed it within a message.
    Truncated,
    /// The other side has announced a message that is too long, or there was not enough memory for one.
    Frame(FrameError),
    /// A message could not be decoded, or would have needed far more memory than its length permits.
    Malformed,
    /// Too many messages have arrived while this side waited for a response.
    Overrun,
    /// Reading or writing has failed.
    Io(io::ErrorKind),
    /// A thread of the stream has ended without a reason, which never happens.
    Broken,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the stream was closed"),
            Self::Finished => f.write_str("the last message was sent"),
            Self::PeerClosed | Self::Truncated => f.write_str("unexpected end"),
            Self::Frame(e) => e.fmt(f),
            Self::Malformed => f.write_str("malformed message"),
            Self::Overrun => f.write_str("too many messages wait to be received"),
            Self::Io(kind) => kind.fmt(f),
            Self::Broken => f.write_str("a thread of the stream has ended"),
        }
    }
}

impl std::error::Error for End {}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Io(error.kind())
    }
}

/// The reason why a stream could not be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// A header is refused: the other side's, or this side's because it is too long.
    Header(HeaderError),
    /// The stream has ended before the other side's header.
    Ended(End),
    /// The headers were not exchanged in time.
    TimedOut,
    /// A thread could not be started.
    Thread(io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("handshake failed: ")?;
        match self {
            Self::Header(e) => write!(f, "validate header: {e}"),
            Self::Ended(e) => write!(f, "read header: {e}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Thread(e) => write!(f, "start a thread: {e}"),
        }
    }
}

impl std::error::Error for OpenError {}

/// The reason why a message was not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// The stream has ended.
    Ended(End),
    /// The message does not fit into a frame.
    Frame(FrameError),
    /// The negotiated version does not have the message.
    Unsupported {
        /// The first version that has it.
        since: Version,
    },
    /// There was no room for it in time, because the other side does not read.
    TimedOut,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(e) => write!(f, "vpn protocol closed: {e}"),
            Self::Frame(e) => e.fmt(f),
            Self::Unsupported { since } => write!(f, "the peer does not speak version {since}"),
            Self::TimedOut => f.write_str("the peer does not read"),
        }
    }
}

impl std::error::Error for SendError {}

/// The reason why a request has no response.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallError {
    /// It was not sent.
    Send(SendError),
    /// The stream has ended before the response.
    Ended(End),
    /// There was no response in time. A later one is dropped.
    TimedOut,
    /// The request is unknown to the other side: its response is empty.
    Unknown,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(e) => e.fmt(f),
            Self::Ended(e) => e.fmt(f),
            Self::TimedOut => f.write_str("no response in time"),
            Self::Unknown => f.write_str("the peer does not know the request"),
        }
    }
}

impl std::error::Error for CallError {}
