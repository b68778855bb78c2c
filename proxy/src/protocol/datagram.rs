//! The header of a SOCKS5 datagram (RFC 1928, section 7).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header that [`header`] makes.
pub(crate) const MAX_HEADER: usize = 22;

/// The destination of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Host<'a> {
    Address(IpAddr),
    Name(&'a str),
}

/// Returns host, port and data of a client's datagram; `None` if it is malformed or a fragment, and must be dropped.
pub(crate) fn parse(bytes: &[u8]) -> Option<(Host<'_>, u16, &[u8])> {
    let [0, 0, 0, kind, rest @ ..] = bytes else {
        return None;
    };
    let (host, rest) = match kind {
        1 => rest.split_first_chunk::<4>().map(|(a, rest)| (Host::Address(Ipv4Addr::from(*a).into()), rest)),
        4 => rest.split_first_chunk::<16>().map(|(a, rest)| (Host::Address(Ipv6Addr::from(*a).into()), rest)),
        3 => {
            let (length, rest) = rest.split_first()?;
            let (name, rest) = rest.split_at_checked(usize::from(*length))?;
            Some((Host::Name(str::from_utf8(name).ok()?), rest))
        }
        _ => None,
    }?;
    let (port, data) = rest.split_first_chunk::<2>()?;
    Some((host, u16::from_be_bytes(*port), data))
}

/// Returns the header of a datagram to a client.
pub(crate) fn header(from: SocketAddr) -> Vec<u8> {
    let mut header = vec![0, 0, 0];
    put_address(&mut header, from);
    header
}

/// Appends an address and a port with their type, the format of all messages.
pub(crate) fn put_address(out: &mut Vec<u8>, at: SocketAddr) {
    match at.ip() {
        IpAddr::V4(address) => {
            out.push(1);
            out.extend(address.octets());
        }
        IpAddr::V6(address) => {
            out.push(4);
            out.extend(address.octets());
        }
    }
    out.extend(at.port().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kinds_of_addresses() {
        let v4 = ([10, 0, 0, 1], 53).into();
        let v6 = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 7);
        for at in [v4, v6] {
            let mut bytes = header(at);
            assert!(bytes.len() <= MAX_HEADER);
            bytes.extend(b"data");
            assert_eq!(parse(&bytes), Some((Host::Address(at.ip()), at.port(), &b"data"[..])));
        }
        assert_eq!(parse(b"\0\0\0\x03\x03a.b\0\x35x"), Some((Host::Name("a.b"), 53, &b"x"[..])));
    }

    #[test]
    fn fragments_and_what_is_cut_are_dropped() {
        let whole = b"\0\0\0\x01\x0a\0\0\x01\0\x35";
        assert!(parse(whole).is_some());
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), None);
        }
        assert_eq!(parse(b"\0\0\x01\x01\x0a\0\0\x01\0\x35"), None);
        assert_eq!(parse(b"\0\0\0\x03\xff"), None);
        assert_eq!(parse(b"\0\0\0\x02\0\0\0\0\0\0"), None);
    }
}
