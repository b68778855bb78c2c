//! The protocols of clients until their bytes are passed through, without I/O.

pub(crate) mod datagram;
pub(crate) mod http;
pub(crate) mod response;
pub(crate) mod sni;
pub(crate) mod socks5;

use std::{io, net::SocketAddr};

use crate::Login;

/// The maximum number of bytes that a client may send before its connection is established.
pub(crate) const MAX_HEAD: usize = 16 << 10;

/// The protocol of a service.
pub(crate) enum Protocol {
    Socks5(socks5::Socks5),
    Http(Option<Login>),
    Sni,
    /// All bytes are for this target.
    Plain(String),
}

/// The action after the bytes received so far. Bytes for the client are in `out`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// More bytes are needed.
    More,
    /// Dials this target.
    Dial(String),
    /// Dials this target, for a request in the input: the client gets the target's own response.
    Forward(String),
    /// Passes datagrams on, from this port of the client if it has specified one.
    Associate(Option<u16>),
    /// Listens in the tunnel for one connection, from this address.
    Bind(SocketAddr),
    /// Ends the connection after `out` was sent.
    End,
}

/// The reason why a client is no longer read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    TooLong,
    TooLate,
}

impl Protocol {
    /// Processes the received bytes. Processed bytes are removed from `input`: the rest is for the target.
    pub(crate) fn step(&mut self, input: &mut Vec<u8>, out: &mut Vec<u8>) -> Step {
        match self {
            Self::Socks5(socks5) => socks5.step(input, out),
            Self::Http(login) => http::step(login.as_ref(), input, out),
            Self::Sni => sni::step(input, out),
            Self::Plain(target) => Step::Dial(target.clone()),
        }
    }

    /// Returns the client's message when its target is connected, when there is a port for it, or when that fails.
    pub(crate) fn answer(&self, outcome: Result<Option<SocketAddr>, &io::Error>) -> Vec<u8> {
        match (self, outcome) {
            (Self::Socks5(_), outcome) => socks5::reply(outcome),
            (Self::Http(_), Ok(_)) => b"HTTP/1.1 200 Connection established\r\n\r\n".to_vec(),
            (Self::Http(_), Err(error)) => http::failure(error),
            (Self::Sni, Err(_)) => sni::INTERNAL_ERROR.to_vec(),
            (Self::Sni | Self::Plain(_), _) => Vec::new(),
        }
    }

    /// Returns the message for a client that sends too much, or too slowly.
    pub(crate) fn complain(&self, trouble: Trouble) -> Vec<u8> {
        match (self, trouble) {
            (Self::Http(_), Trouble::TooLong) => http::response("431 Request Header Fields Too Large", ""),
            (Self::Http(_), Trouble::TooLate) => http::response("408 Request Timeout", ""),
            (Self::Sni, Trouble::TooLong) => sni::DECODE_ERROR.to_vec(),
            // These protocols have no such message.
            (Self::Socks5(_) | Self::Sni | Self::Plain(_), _) => Vec::new(),
        }
    }

    /// Returns whether a client gets a message if its connection fails.
    pub(crate) const fn has_errors(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// Returns whether a client's end of sending, before the connection is established, may be a half close.
    pub(crate) const fn may_half_close(&self) -> bool {
        matches!(self, Self::Plain(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn protocols() -> [Protocol; 6] {
        let login = || Some(Login::new("me", "pw"));
        [
            Protocol::Socks5(socks5::Socks5::new(None, true)),
            Protocol::Socks5(socks5::Socks5::new(login(), false)),
            Protocol::Http(None),
            Protocol::Http(login()),
            Protocol::Sni,
            Protocol::Plain("a:1".into()),
        ]
    }

    /// Beginnings that lead further than random bytes.
    const BEGINNINGS: [&[u8]; 5] = [
        b"",
        b"\x05\x01\0\x05",
        b"\x05\x01\x02\x01\x02me\x02pw\x05",
        b"GET http://",
        b"\x16\x03\x01\0\x30\x01\0\0\x2c",
    ];

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces(
            which in 0..BEGINNINGS.len(),
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            piece in 1..50_usize,
        ) {
            let bytes = [BEGINNINGS[which], &bytes].concat();
            for mut protocol in protocols() {
                let (mut input, mut out) = (Vec::new(), Vec::new());
                let mut rest = bytes.chunks(piece);
                loop {
                    let before = input.len();
                    let step = protocol.step(&mut input, &mut out);
                    prop_assert!(input.len() <= before + 32, "a request grows by a header of ours at most");
                    match (step, rest.next()) {
                        (Step::More, Some(more)) => input.extend(more),
                        _ => break,
                    }
                }
            }
            let _ = (datagram::parse(&bytes), response::Head::parse(&bytes));
        }
    }
}
