//! The memory for a message, computed before it is decoded.
//!
//! An agent can have two bytes in a frame, and hundreds when decoded. Therefore the memory for a decoded message is
//! limited in proportion to the bytes that the sender has really sent.

use std::mem::size_of;

/// The limit for a decoded message, as a multiple of its length...
const GROWTH: usize = 8;
/// ... or this size, if that is larger.
const ALWAYS: usize = 1 << 20;
/// The overhead of each nested message and text of a message.
const DEEPEST: u32 = 16;

/// The layout of a kind of message: its own memory, and the fields that need more.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The size of the message itself, in bytes.
    pub size: usize,
    /// The numbers and layouts of the fields that are messages.
    pub messages: &'static [(u32, &'static Shape)],
    /// The numbers of the fields that are texts or bytes.
    pub texts: &'static [u32],
}

/// Returns an upper limit of the memory for a message; `None` if it is malformed or needs more than its length permits.
#[must_use]
pub fn weigh(message: &[u8], shape: &Shape) -> Option<usize> {
    let limit = message.len().saturating_mul(GROWTH).max(ALWAYS);
    let mut left = limit;
    walk(message, shape, &mut left, DEEPEST)?;
    Some(limit - left)
}

fn walk(mut message: &[u8], shape: &Shape, left: &mut usize, depth: u32) -> Option<()> {
    *left = left.checked_sub(shape.size)?;
    let depth = depth.checked_sub(1)?;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let number = u32::try_from(key >> 3).ok()?;
        match key & 7 {
            0 => {
                varint(&mut message)?;
            }
            1 => message = message.get(8..)?,
            5 => message = message.get(4..)?,
            2 => {
                let len = usize::try_from(varint(&mut message)?).ok()?;
                let (value, rest) = message.split_at_checked(len)?;
                message = rest;
                if let Some((_, shape)) = shape.messages.iter().find(|(field, _)| *field == number) {
                    walk(value, shape, left, depth)?;
                } else if shape.texts.contains(&number) {
                    *left = left.checked_sub(size_of::<String>() + len)?;
                } else {
                    // Packed numbers take at most four times as much; unknown fields take nothing.
                    *left = left.checked_sub(len.saturating_mul(4))?;
                }
            }
            // The contents of a group are counted as the message's own, which is never too little.
            3 | 4 => {}
            _ => return None,
        }
    }
    Some(())
}

/// Reads a number of up to 64 bits, seven in each byte.
fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
