//! The head of an HTTP response, as passed to the client (RFC 9110, section 7.6.1).

use std::io::Write as _;

use super::http::{MAX_HEADERS, is_named};

/// Headers that are only between the target and the proxy.
const OWN: [&str; 5] = ["connection", "keep-alive", "proxy-connection", "te", "upgrade"];

/// Headers that determine the end of the body. The body passes through unchanged, and so must these, even if
/// `Connection` lists them.
const FRAMING: [&str; 2] = ["content-length", "transfer-encoding"];

/// The first bytes of a response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// More bytes are needed.
    Partial,
    /// It is not a response.
    Bad,
    Whole {
        /// Its length in bytes.
        length: usize,
        /// The replacement for the client.
        text: Vec<u8>,
        /// Whether the body follows, and not another head.
        is_last: bool,
    },
}

impl Head {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let mut parser = httparse::ParserConfig::default();
        parser.allow_spaces_after_header_name_in_responses(true);
        let length = match parser.parse_response(&mut response, bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Self::Partial,
            Err(_) => return Self::Bad,
        };
        let (Some(version), Some(code)) = (response.version, response.code) else {
            return Self::Bad;
        };
        let is = |name: &str, list: &[&str]| list.iter().any(|other| name.eq_ignore_ascii_case(other));
        let mut text = format!("HTTP/1.{version} {code} {}\r\n", response.reason.unwrap_or("")).into_bytes();
        for header in response.headers.iter() {
            let is_hop = is(header.name, &OWN) || is_named(response.headers, header.name);
            if !is_hop || is(header.name, &FRAMING) {
                // Writing to a vector does not fail.
                let _ = write!(text, "{}: ", header.name);
                text.extend(header.value);
                text.extend(b"\r\n");
            }
        }
        // 101 is not a valid response to a request without `Upgrade`: the following bytes are not HTTP.
        let is_last = code >= 200 || code == 101;
        if is_last {
            text.extend(b"Connection: close\r\n");
        }
        text.extend(b"\r\n");
        Self::Whole { length, text, is_last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(bytes: &str) -> (String, bool) {
        for end in 0..bytes.len() {
            assert_eq!(Head::parse(&bytes.as_bytes()[..end]), Head::Partial);
        }
        match Head::parse(format!("{bytes}body").as_bytes()) {
            Head::Whole { length, text, is_last } => {
                assert_eq!(length, bytes.len());
                (String::from_utf8_lossy(&text).into(), is_last)
            }
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn what_connection_names_is_removed() {
        let named =
            "Connection: Keep-Alive, X-Hop\r\nconnection: other\r\nKeep-Alive: timeout=5\r\nx-hop: 1\r\nOTHER: 2\r\n";
        let answer = whole(&format!("HTTP/1.1 200 Fine\r\n{named}Upgrade: h2c\r\nA: b\r\n\r\n"));
        assert_eq!(answer, ("HTTP/1.1 200 Fine\r\nA: b\r\nConnection: close\r\n\r\n".into(), true));
    }

    #[test]
    fn the_body_keeps_its_end() {
        let framing = "Connection: content-length, transfer-encoding\r\nContent-Length: 4\r\n";
        let (text, _) = whole(&format!("HTTP/1.0 404\r\n{framing}\r\n"));
        assert_eq!(text, "HTTP/1.0 404 \r\nContent-Length: 4\r\nConnection: close\r\n\r\n");
    }

    #[test]
    fn an_answer_may_have_other_heads_first() {
        let early = whole("HTTP/1.1 103 Early Hints\r\nLink: x\r\nConnection: y\r\n\r\n");
        assert_eq!(early, ("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n".into(), false));
        for bytes in ["GET / HTTP/1.1\r\n\r\n", "HTTP/2 200\r\n\r\n", "HTTP/1.1 200\r\na b\r\n\r\n"] {
            assert_eq!(Head::parse(bytes.as_bytes()), Head::Bad, "{bytes}");
        }
    }
}
