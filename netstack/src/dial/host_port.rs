//! Parses `"host:port"`.

use std::{io, net::Ipv6Addr};

/// Splits `"host:port"`; an IPv6 address is in brackets: `"[::1]:80"`. The host is not parsed.
///
/// ```
/// use wg_embed_netstack::dial::parse_host_port;
///
/// assert_eq!(parse_host_port("[2001:db8::1]:443")?, ("2001:db8::1".into(), 443));
/// assert!(parse_host_port("example.com").is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// `InvalidInput`.
pub fn parse_host_port(text: &str) -> io::Result<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once("]:").ok_or_else(|| invalid("not \"[address]:port\""))?;
            host.parse::<Ipv6Addr>().map_err(|_| invalid("no IPv6 address in the brackets"))?;
            (host, port)
        }
        None => text.rsplit_once(':').ok_or_else(|| invalid("not \"host:port\""))?,
    };
    if host.is_empty() {
        return Err(invalid("no host in front of the port"));
    }
    if host.contains(':') && !text.starts_with('[') {
        return Err(invalid("an IPv6 address with a port must be in brackets"));
    }
    if !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(invalid("a port is a number"));
    }
    let port = port.parse().map_err(|_| invalid("a port is a number up to 65535"))?;
    Ok((host.to_owned(), port))
}

pub(super) fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_split() {
        for (text, host, port) in [
            ("example.com:80", "example.com", 80),
            ("192.0.2.1:65535", "192.0.2.1", 65535),
            ("[::1]:0", "::1", 0),
            ("[2001:db8::192.0.2.1]:443", "2001:db8::192.0.2.1", 443),
            ("a b:007", "a b", 7),
        ] {
            assert_eq!(parse_host_port(text).unwrap(), (host.to_owned(), port), "{text}");
        }
    }

    #[test]
    fn anything_else_is_invalid() {
        for text in [
            "",
            ":",
            ":80",
            "a",
            "a:",
            "a:b",
            "a:+80",
            "a:-1",
            "a:65536",
            "a: 80",
            "a:80 ",
            "::1",
            "::1:80",
            "[::1]",
            "[::1]80",
            "[::1]:",
            "[::1]:x",
            "[]:80",
            "[a]:80",
            "[192.0.2.1]:80",
            "[::1",
            "[fe80::1%eth0]:80",
            "a:99999999999999999999",
        ] {
            assert_eq!(parse_host_port(text).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{text}");
        }
    }
}
