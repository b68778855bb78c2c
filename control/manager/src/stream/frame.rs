//! Frames: a length in 4 bytes, big endian, and that many bytes.
//!
//! Memory is taken for bytes that have arrived, never for those that were only announced.

use std::fmt;

/// The longest message.
pub const MAX_MESSAGE: usize = 16 << 20;

/// The length in front of a message.
const PREFIX: usize = 4;

/// What a buffer has room for before the first byte of a message.
const FIRST_ROOM: usize = 4096;

/// Puts a message into a frame.
///
/// # Errors
/// [`FrameError`]: a message without a byte ends the stream at some receivers, one that is too long does so at all.
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
    // A vector has room for everything, so this cannot fail.
    message.encode(&mut frame).map_err(|_| FrameError::TooLong { len })?;
    Ok(frame)
}

/// Takes bytes at any split and finds the frames.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    prefix: [u8; PREFIX],
    /// How much of the prefix has arrived.
    prefix_len: usize,
    message: Vec<u8>,
}

impl FrameDecoder {
    /// One that waits for the first byte of a length.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes from the beginning of `input`, up to the end of a message, which is returned without its length.
    /// Call it until `input` is empty.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] as soon as the length is there, [`FrameError::Memory`]; nothing behind it can be read.
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

    /// Makes room for `more` bytes: what is there at most doubles, and never beyond `len`.
    fn reserve(&mut self, more: usize, len: usize) -> Result<(), FrameError> {
        let needed = self.message.len() + more;
        if needed <= self.message.capacity() {
            return Ok(());
        }
        let room = needed.max(self.message.capacity().saturating_mul(2)).max(FIRST_ROOM).min(len);
        self.message.try_reserve_exact(room - self.message.len()).map_err(|_| FrameError::Memory)
    }

    /// Whether a frame has begun that is not complete: if the stream ends, it has been cut.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        self.prefix_len > 0
    }

    /// Bytes of memory that it holds.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.message.capacity()
    }
}

/// Why there is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The message has no byte.
    Empty,
    /// The message is longer than [`MAX_MESSAGE`].
    TooLong {
        /// How long it is.
        len: usize,
    },
    /// There is no memory for it.
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
