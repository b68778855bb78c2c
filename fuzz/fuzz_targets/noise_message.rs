//! Datagrams: what is recognized as a message has the type, the length and the fields that the paper gives it, and
//! padding is the smallest that the rule allows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wg_embed::noise::message::{Message, Own, own, padded_len, receiver_index, sender_index};

/// Bytes as a little-endian number; `None` if some are missing.
fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + len)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// Counts up to the padded length.
fn padded(len: usize, mtu: usize) -> usize {
    let last = if mtu > 0 && len > mtu { len % mtu } else { len };
    let mut padded = last;
    while padded % 16 != 0 && padded != mtu {
        padded += 1;
    }
    len + padded - last
}

fuzz_target!(|input: &[u8]| {
    let kind = number(input, 0, 4).unwrap_or_default();
    let is_message = match kind {
        1 => input.len() == 148,
        2 => input.len() == 92,
        3 => input.len() == 64,
        4 => input.len() >= 32,
        _ => false,
    };
    let mut datagram = input.to_vec();
    match Message::parse(&mut datagram) {
        None => assert!(!is_message),
        Some(message) => {
            assert!(is_message);
            match message {
                Message::Initiation(bytes) => assert_eq!((kind, &bytes[..]), (1, input)),
                Message::Response(bytes) => assert_eq!((kind, &bytes[..]), (2, input)),
                Message::CookieReply(bytes) => assert_eq!((kind, &bytes[..]), (3, input)),
                Message::Data(data) => {
                    assert_eq!((kind, Some(u64::from(data.receiver))), (4, number(input, 4, 4)));
                    assert_eq!((Some(data.counter), &*data.body), (number(input, 8, 8), &input[16..]));
                }
            }
        }
    }
    assert_eq!(datagram, input, "reading changes nothing");

    let field = |at| number(input, at, 4).unwrap_or_default() as u32;
    assert_eq!(sender_index(input), field(4));
    assert_eq!(receiver_index(input), field(if kind == 2 { 8 } else { 4 }));
    let expected = match kind {
        1 | 2 => Some(Own::Handshake { sender: field(4) }),
        4 => Some(Own::Data { receiver: field(4) }),
        _ => None,
    };
    assert_eq!(own(input), expected);

    let word = |at| number(input, at, 2).unwrap_or_default() as usize;
    assert_eq!(padded_len(word(0), word(2)), padded(word(0), word(2)));
});
