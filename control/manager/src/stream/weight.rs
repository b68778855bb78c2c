//! What a message will take of the memory, before it is decoded.
//!
//! In a frame an agent can be two bytes; decoded it is hundreds. So what can be decoded has a limit that grows with the
//! bytes that the sender has really sent.

use std::mem::size_of;

/// Decoded, a message may take this many times its length...
const GROWTH: usize = 8;
/// ... or this much, however short it is.
const ALWAYS: usize = 1 << 20;
/// Of the nested messages and texts of a message.
const DEEPEST: u32 = 16;

/// What is known of a kind of message: how much memory one takes, and which of its fields do more.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Bytes of the message itself.
    pub size: usize,
    /// Numbers of the fields that are messages, and what these are.
    pub messages: &'static [(u32, &'static Shape)],
    /// Numbers of the fields that are texts or bytes.
    pub texts: &'static [u32],
}

/// The memory for a message, an upper limit; `None` if it is malformed or takes more than its length allows.
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
                    // Packed numbers take four times as much at most; what is unknown takes nothing.
                    *left = left.checked_sub(len.saturating_mul(4))?;
                }
            }
            // What is in a group is taken for the message's own: too much, never too little.
            3 | 4 => {}
            _ => return None,
        }
    }
    Some(())
}

/// A number of up to 64 bits, seven in each byte.
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
