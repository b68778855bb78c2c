//! The four messages of section 5.4: their sizes, fields and padding.

/// Bytes of a handshake initiation.
pub const INITIATION_LEN: usize = 148;
/// Bytes of a handshake response.
pub const RESPONSE_LEN: usize = 92;
/// Bytes of a cookie reply.
pub const COOKIE_REPLY_LEN: usize = 64;
/// Bytes of a data message before its encrypted packet: type, receiver index, counter.
pub const DATA_HEADER_LEN: usize = 16;
/// The overhead of a data message over its padded packet, in bytes: header and authentication tag.
pub const DATA_OVERHEAD: usize = DATA_HEADER_LEN + super::aead::TAG_LEN;

/// Each message begins with its type and three zero bytes, which are read as one little-endian number.
pub(super) const TYPE_INITIATION: u32 = 1;
pub(super) const TYPE_RESPONSE: u32 = 2;
pub(super) const TYPE_COOKIE_REPLY: u32 = 3;
pub(super) const TYPE_DATA: u32 = 4;

/// The IPv4 TOS or IPv6 traffic class of initiations and responses: AF41, as in the kernel. Its cookie replies have 0.
pub const HANDSHAKE_TOS: u8 = 0x88;

/// A received datagram in the form of a message, not yet authenticated.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Type 1.
    Initiation(&'a [u8; INITIATION_LEN]),
    /// Type 2.
    Response(&'a [u8; RESPONSE_LEN]),
    /// Type 3.
    CookieReply(&'a [u8; COOKIE_REPLY_LEN]),
    /// Type 4.
    Data(Data<'a>),
}

/// A received data message.
#[derive(Debug, PartialEq, Eq)]
pub struct Data<'a> {
    /// Our index of its session.
    pub receiver: u32,
    /// Its counter.
    pub counter: u64,
    /// The encrypted packet and its tag.
    pub body: &'a mut [u8],
}

/// Reads four bytes at `at` as a little-endian number; 0 if they are not there.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// Returns the sender's index of a handshake message.
#[must_use]
pub fn sender_index(message: &[u8]) -> u32 {
    u32_at(message, 4)
}

/// Returns the receiver's index of a response or a cookie reply.
#[must_use]
pub fn receiver_index(message: &[u8]) -> u32 {
    match u32_at(message, 0) {
        TYPE_RESPONSE => u32_at(message, 8),
        _ => u32_at(message, 4),
    }
}

impl<'a> Message<'a> {
    /// Recognizes a message by its type and length; returns `None` for anything else.
    #[must_use]
    pub fn parse(datagram: &'a mut [u8]) -> Option<Self> {
        match u32_at(datagram, 0) {
            TYPE_INITIATION => (&*datagram).try_into().ok().map(Self::Initiation),
            TYPE_RESPONSE => (&*datagram).try_into().ok().map(Self::Response),
            TYPE_COOKIE_REPLY => (&*datagram).try_into().ok().map(Self::CookieReply),
            TYPE_DATA if datagram.len() >= DATA_OVERHEAD => {
                let (header, body) = datagram.split_at_mut(DATA_HEADER_LEN);
                let counter = header[8..].try_into().map(u64::from_le_bytes).ok()?;
                Some(Self::Data(Data { receiver: u32_at(header, 4), counter, body }))
            }
            _ => None,
        }
    }
}

/// The identity of a message that we may have sent ourselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// An initiation or a response, with our index.
    Handshake {
        /// Its sender's index.
        sender: u32,
    },
    /// A data message, with the other side's index.
    Data {
        /// Its receiver's index.
        receiver: u32,
    },
}

/// Reads the beginning of a message that may be our own; returns `None` for anything else.
#[must_use]
pub fn own(beginning: &[u8]) -> Option<Own> {
    let index = u32_at(beginning, 4);
    match u32_at(beginning, 0) {
        TYPE_INITIATION | TYPE_RESPONSE => Some(Own::Handshake { sender: index }),
        TYPE_DATA => Some(Own::Data { receiver: index }),
        _ => None,
    }
}

/// Writes the header of a data message.
pub(super) fn write_data_header(message: &mut [u8], receiver: u32, counter: u64) {
    message[..4].copy_from_slice(&TYPE_DATA.to_le_bytes());
    message[4..8].copy_from_slice(&receiver.to_le_bytes());
    message[8..DATA_HEADER_LEN].copy_from_slice(&counter.to_le_bytes());
}

/// Returns the length of a packet after padding: a multiple of 16, but not above the MTU (section 5.4.6; the kernel's
/// rule for packets that are longer than the MTU). An `mtu` of 0 means no limit.
#[must_use]
pub fn padded_len(len: usize, mtu: usize) -> usize {
    if mtu == 0 {
        return len.next_multiple_of(16);
    }
    let last = if len > mtu { len % mtu } else { len };
    len + (last.next_multiple_of(16).min(mtu) - last)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn padding_is_bounded_by_the_mtu() {
        for (len, mtu, padded) in
            [(0, 1420, 0), (1, 1420, 16), (16, 1420, 16), (1409, 1420, 1420), (1420, 1420, 1420), (1421, 1420, 1436)]
        {
            assert_eq!(padded_len(len, mtu), padded, "{len} at {mtu}");
        }
        assert_eq!(padded_len(17, 0), 32);
    }

    #[test]
    fn lengths_must_fit_the_type() {
        for (kind, len) in [(1, INITIATION_LEN), (2, RESPONSE_LEN), (3, COOKIE_REPLY_LEN), (4, DATA_OVERHEAD)] {
            let mut m = vec![0; len];
            m[0] = kind;
            assert!(Message::parse(&mut m).is_some());
            assert!(Message::parse(&mut m[..len - 1]).is_none());
            m.push(0);
            assert_eq!(Message::parse(&mut m).is_some(), kind == 4);
            m[2] = 1;
            assert!(Message::parse(&mut m).is_none(), "reserved bytes are zero");
        }
    }

    proptest! {
        #[test]
        fn any_datagram_is_a_message_or_nothing(mut bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..6) {
            if let Some(first) = bytes.first_mut() { *first = kind; }
            let len = bytes.len();
            let zeros = bytes.get(1..4) == Some(&[0; 3]);
            let parsed = Message::parse(&mut bytes);
            let fits = matches!((kind, len), (1, INITIATION_LEN) | (2, RESPONSE_LEN) | (3, COOKIE_REPLY_LEN))
                || (kind == 4 && len >= DATA_OVERHEAD);
            prop_assert_eq!(parsed.is_some(), fits && zeros);
        }

        #[test]
        fn padding_stays_in_its_bounds(len in 0usize..70_000, mtu in 0usize..70_000) {
            let p = padded_len(len, mtu);
            prop_assert!(p >= len && p - len < 16);
            if mtu > 0 && len <= mtu { prop_assert!(p <= mtu); }
        }
    }
}
