//! Frames: a length of 4 bytes, big endian, and a message of that length.
//!
//! Memory is allocated for received bytes only, never for announced ones.

use std::fmt;

/// The maximum length of a message, in bytes.
pub const MAX_MESSAGE: usize = 16 << 20;

/// The length in front of a message.
const PREFIX: usize = 4;

/// The initial capacity of a buffer, before the first byte of a message.
const FIRST_ROOM: usize = 4096;

/// Encodes a message as a frame.
///
/// # Errors
/// [`FrameError`]: an empty message ends the stream at some receivers, a message that is too long at all of them.
pub fn encode(message: &impl prost::Message) -> Result<Vec<u8>, FrameError> {
    let len = message.encoded_len();
    if len == 0 {
        return Err(FrameError::Empty);
    }
    if len > MAX_MESSAGE {
        return Err(FrameError::TooLong { len });
    }
    let mut frame = Vec::with_capacity(PREFIX + len);
    frame.extend_from_slice(&u32::try_from(len).map_err(|_| FrameError::TooLong { len })?.to_be_bytes());
    // A vector grows, so this cannot fail.
    message.encode(&mut frame).map_err(|_| FrameError::TooLong { len })?;
    Ok(frame)
}

/// Finds frames in a stream of bytes that may be split anywhere.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    prefix: [u8; PREFIX],
    /// The number of received bytes of the prefix.
    prefix_len: usize,
    message: Vec<u8>,
}

impl FrameDecoder {
    /// Creates a decoder that expects the first byte of a length.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Consumes bytes from the beginning of `input`, up to the end of a message, which is returned without its length.
    /// Call it until `input` is empty.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] as soon as the length is complete, [`FrameError::Memory`]; the rest of the stream cannot
    /// be read then.
    pub fn push(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>, FrameError> {
        while self.prefix_len < PREFIX {
            let Some((byte, rest)) = input.split_first() else { return Ok(None) };
            if let Some(place) = self.prefix.get_mut(self.prefix_len) {
                *place = *byte;
            }
            self.prefix_len += 1;
            *input = rest;
        }
        let len = usize::try_from(u32::from_be_bytes(self.prefix)).unwrap_or(usize::MAX);
        if len > MAX_MESSAGE {
            return Err(FrameError::TooLong { len });
        }
        let (taken, rest) = input.split_at(input.len().min(len - self.message.len()));
        self.reserve(taken.len(), len)?;
        self.message.extend_from_slice(taken);
        *input = rest;
        if self.message.len() < len {
            return Ok(None);
        }
        self.prefix_len = 0;
        Ok(Some(std::mem::take(&mut self.message)))
    }

    /// Makes room for `more` bytes: the buffer at most doubles, and never exceeds `len`.
    fn reserve(&mut self, more: usize, len: usize) -> Result<(), FrameError> {
        let needed = self.message.len() + more;
        if needed <= self.message.capacity() {
            return Ok(());
        }
        let room = needed.max(self.message.capacity().saturating_mul(2)).max(FIRST_ROOM).min(len);
        self.message.try_reserve_exact(room - self.message.len()).map_err(|_| FrameError::Memory)
    }

    /// Returns whether a frame is incomplete: if the stream ends now, it was truncated.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        self.prefix_len > 0
    }

    /// Returns the allocated memory, in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.message.capacity()
    }
}

/// The reason why there is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The message is empty.
    Empty,
    /// The message is longer than [`MAX_MESSAGE`].
    TooLong {
        /// Its length.
        len: usize,
    },
    /// There is not enough memory for it.
    Memory,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("an empty message"),
            Self::TooLong { len } => write!(f, "a message of {len} bytes, more than {MAX_MESSAGE}"),
            Self::Memory => f.write_str("no memory for a message"),
        }
    }
}

impl std::error::Error for FrameError {}
