//! What clients say before their bytes are passed through. No I/O.

pub(crate) mod http;
pub(crate) mod sni;
pub(crate) mod socks5;

use std::io;

use crate::Login;

/// The most bytes that a client may send before its connection is there.
pub(crate) const MAX_HEAD: usize = 16 << 10;

/// How a service speaks with its client.
pub(crate) enum Protocol {
    Socks5(socks5::Socks5),
    Http(Option<Login>),
    Sni,
    /// All bytes are for this target.
    Plain(String),
}

/// What is to be done after what was received so far. Bytes for the client are in `out`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// More bytes are needed.
    More,
    /// Dials this target.
    Dial(String),
    /// Dials this target, for a request that is in the input: the client hears the target's own answer.
    Forward(String),
    /// Ends the connection after `out` was sent.
    End,
}

impl Protocol {
    /// Goes on with what was received. What it is done with is taken out of `input`: the rest is for the target.
    pub(crate) fn step(&mut self, input: &mut Vec<u8>, out: &mut Vec<u8>) -> Step {
        match self {
            Self::Socks5(socks5) => socks5.step(input, out),
            Self::Http(login) => http::step(login.as_ref(), input, out),
            Self::Sni => sni::step(input),
            Self::Plain(target) => Step::Dial(target.clone()),
        }
    }

    /// What the client hears when its target is connected (`None`) or cannot be.
    pub(crate) fn answer(&self, error: Option<&io::Error>, was_connect: bool) -> Vec<u8> {
        match (self, error) {
            (Self::Socks5(_), error) => socks5::reply(error),
            (Self::Http(_), None) if was_connect => b"HTTP/1.1 200 Connection established\r\n\r\n".to_vec(),
            (Self::Http(_), Some(error)) => http::failure(error),
            (Self::Http(_) | Self::Sni | Self::Plain(_), _) => Vec::new(),
        }
    }

    /// Whether the client's end of sending, before the connection is there, may be a half close.
    pub(crate) const fn may_half_close(&self) -> bool {
        matches!(self, Self::Plain(_))
    }
}
