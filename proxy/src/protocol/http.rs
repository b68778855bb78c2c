//! An HTTP proxy: CONNECT, and GET with absolute URLs.

use std::io::{self, ErrorKind, Write as _};

use base64ct::{Base64, Encoding};
use zeroize::Zeroizing;

use super::Step;
use crate::Login;

pub(super) const MAX_HEADERS: usize = 100;

/// Headers that are only between the client and the proxy, or that the proxy writes itself.
const OWN: [&str; 8] =
    ["connection", "host", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "upgrade"];

pub(super) fn step(login: Option<&Login>, input: &mut Vec<u8>, out: &mut Vec<u8>) -> Step {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(input) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Step::More,
        Err(httparse::Error::TooManyHeaders) => return refuse(out, "431 Request Header Fields Too Large", ""),
        Err(_) => return refuse(out, "400 Bad Request", ""),
    };
    let (Some(method), Some(path)) = (request.method, request.path) else {
        return refuse(out, "400 Bad Request", "");
    };
    if let Some(login) = login {
        let header = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("proxy-authorization"));
        match header {
            None => {
                return refuse(
                    out,
                    "407 Proxy Authentication Required",
                    "Proxy-Authenticate: Basic realm=\"Proxy\"\r\n",
                );
            }
            Some(header) if !is_login(login, header.value) => return refuse(out, "401 Unauthorized", ""),
            Some(_) => {}
        }
    }
    match method {
        "CONNECT" => {
            let target = with_port(path, 443);
            input.drain(..length);
            Step::Dial(target)
        }
        "GET" => {
            let Some((host, rest)) = split(path) else {
                return refuse(out, "400 Bad Request", "");
            };
            // Following bytes would go to the same target, whatever they are.
            if has_content(request.headers) || input.len() > length {
                return refuse(out, "400 Bad Request", "");
            }
            let target = with_port(host, 80);
            let version = request.version.unwrap_or(1);
            let mut head = format!("GET {rest} HTTP/1.{version}\r\nHost: {host}\r\n").into_bytes();
            for header in request.headers.iter() {
                let is_own = OWN.iter().any(|own| header.name.eq_ignore_ascii_case(own));
                if !is_own && !is_named(request.headers, header.name) {
                    let _ = write!(head, "{}: ", header.name);
                    head.extend(header.value);
                    head.extend(b"\r\n");
                }
            }
            head.extend(b"Connection: close\r\n\r\n");
            input.splice(..length, head);
            Step::Forward(target)
        }
        _ => refuse(out, "405 Method Not Allowed", "Allow: CONNECT, GET\r\n"),
    }
}

/// Returns whether there is a body after the head.
fn has_content(headers: &[httparse::Header<'_>]) -> bool {
    headers.iter().any(|header| {
        header.name.eq_ignore_ascii_case("transfer-encoding")
            || header.name.eq_ignore_ascii_case("content-length") && header.value.trim_ascii() != b"0"
    })
}

/// Returns whether `Connection` lists a header as hop-by-hop (RFC 9110, section 7.6.1).
pub(super) fn is_named(headers: &[httparse::Header<'_>], name: &str) -> bool {
    let mut connection = headers.iter().filter(|header| header.name.eq_ignore_ascii_case("connection"));
    connection.any(|header| {
        header.value.split(|byte| *byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
    })
}

/// Returns host and path of `http://HOST/PATH`.
fn split(address: &str) -> Option<(&str, String)> {
    let (scheme, rest) = address.split_at_checked(7)?;
    if !scheme.eq_ignore_ascii_case("http://") {
        return None;
    }
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    (!host.is_empty()).then_some((host, path))
}

fn with_port(host: &str, port: u16) -> String {
    let after = host.rsplit_once(']').map_or(host, |(_, rest)| rest);
    if after.contains(':') { host.to_owned() } else { format!("{host}:{port}") }
}

fn is_login(login: &Login, header: &[u8]) -> bool {
    let text = str::from_utf8(header).ok().and_then(|text| text.trim().split_once(' '));
    let Some((_, text)) = text.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic")) else {
        return false;
    };
    let Ok(text) = Base64::decode_vec(text.trim()).map(Zeroizing::new) else {
        return false;
    };
    let colon = text.iter().position(|byte| *byte == b':');
    colon.is_some_and(|colon| login.is(&text[..colon], &text[colon + 1..]))
}

fn refuse(out: &mut Vec<u8>, status: &str, headers: &str) -> Step {
    out.extend(response(status, headers));
    Step::End
}

/// Returns a complete response without a body.
pub(super) fn response(status: &str, headers: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
}

/// Returns the response if the target cannot be connected.
pub(super) fn failure(error: &io::Error) -> Vec<u8> {
    match error.kind() {
        ErrorKind::TimedOut => response("504 Gateway Timeout", ""),
        ErrorKind::InvalidInput => response("400 Bad Request", ""),
        _ => response("502 Bad Gateway", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(login: Option<&Login>, text: &str) -> (Step, String, String) {
        let (mut input, mut out) = (text.as_bytes().to_vec(), Vec::new());
        let step = step(login, &mut input, &mut out);
        (step, String::from_utf8_lossy(&input).into(), String::from_utf8_lossy(&out).into())
    }

    #[test]
    fn connect_and_get() {
        assert_eq!(run(None, "CONNECT a:1 HTTP/1.1\r\n\r\nrest"), (Step::Dial("a:1".into()), "rest".into(), "".into()));
        assert_eq!(run(None, "CONNECT [::1] HTTP/1.1\r\n\r\n").0, Step::Dial("[::1]:443".into()));
        let get = run(None, "GET http://a?b HTTP/1.1\r\nHost: a\r\nProxy-Connection: x\r\n\r\n");
        assert_eq!(get.0, Step::Forward("a:80".into()));
        assert_eq!(get.1, "GET /?b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let named = "Connection: keep-alive, X-Hop\r\nx-hop: 1\r\nUpgrade: h2c\r\nHost: other\r\nA: b\r\n";
        let get = run(None, &format!("GET http://me@a:81/ HTTP/1.1\r\n{named}\r\n"));
        assert_eq!(get.1, "GET / HTTP/1.1\r\nHost: a:81\r\nA: b\r\nConnection: close\r\n\r\n");
        assert_eq!(run(None, "GET http://me:pw@a:1/ HTTP/1.1\r\n\r\n").0, Step::Forward("a:1".into()));
        assert_eq!(run(None, "GET http://a/ HTTP/1.1\r\n").0, Step::More);
    }

    #[test]
    fn statuses() {
        let login = Login::new("me", "a:b");
        let with = |header: &str| run(Some(&login), &format!("CONNECT a:1 HTTP/1.1\r\n{header}\r\n"));
        assert!(with("").2.starts_with("HTTP/1.1 407 "));
        assert!(with("").2.contains("Basic realm=\"Proxy\""));
        assert!(with("Proxy-Authorization: Basic bWU6YTpj\r\n").2.starts_with("HTTP/1.1 401 "));
        assert_eq!(with("Proxy-Authorization: Basic bWU6YTpi\r\n").0, Step::Dial("a:1".into()));
        assert!(run(None, "POST http://a/ HTTP/1.1\r\n\r\n").2.starts_with("HTTP/1.1 405 "));
        for text in ["GET / HTTP/1.1\r\n\r\n", "\x01\r\n\r\n", "GET https://a/ HTTP/1.1\r\n\r\n"] {
            assert!(run(None, text).2.starts_with("HTTP/1.1 400 "), "{text}");
        }
        for rest in ["Content-Length: 1\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n", "\r\nGET "] {
            assert!(run(None, &format!("GET http://a/ HTTP/1.1\r\n{rest}")).2.starts_with("HTTP/1.1 400 "), "{rest}");
        }
        let none = run(None, "GET http://a/ HTTP/1.1\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(none.0, Step::Forward("a:80".into()));
    }
}
