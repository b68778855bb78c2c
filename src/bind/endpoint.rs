//! The address of a peer: as an address, as text, as bytes.

use super::interface;
use crate::error::{Error, ErrorKind, Result};
use std::{
    net::{IpAddr, SocketAddr, SocketAddrV6},
    ops::Deref,
};

/// The address of a peer, and the local address to send from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The peer's address.
    pub dst: SocketAddr,
    /// The local address that the peer last sent to; replies leave from it. It is forgotten when it no longer exists.
    pub src: Option<IpAddr>,
    /// The index of the interface of the peer's last datagram, if replies are to leave through it; 0 lets the system
    /// choose. It has an effect only together with `src`, and only on Linux and Android. For IPv6, Linux considers it
    /// only between routes of equal metric.
    pub src_interface: u32,
}

impl Endpoint {
    /// Creates an endpoint whose source address the system chooses.
    #[must_use]
    pub const fn new(dst: SocketAddr) -> Self {
        Self { dst, src: None, src_interface: 0 }
    }

    /// Reads `192.0.2.1:51820`, `[2001:db8::1]:51820` or `[fe80::1%eth0]:51820`. Host names are not resolved; the zone
    /// is the name or the number of an interface of this host.
    ///
    /// ```
    /// use wg_embed::bind::{Endpoint, Family};
    ///
    /// let to = Endpoint::parse("[2001:db8::1]:51820")?;
    /// assert_eq!((Family::of(to.dst), to.dst.port(), to.src), (Family::V6, 51820, None));
    /// # Ok::<(), wg_embed::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Invalid` for any other text, `NotFound` if there is no such interface.
    pub fn parse(text: &str) -> Result<Self> {
        let malformed = || Error::invalid("an endpoint is 192.0.2.1:51820 or [2001:db8::1]:51820");
        let zoned = text.split_once('%').and_then(|(ip, rest)| Some((ip, rest.split_once(']')?)));
        let Some((ip, (zone, port))) = zoned else {
            return text.parse().map(Self::new).map_err(|_| malformed());
        };
        let mut address: SocketAddrV6 = format!("{ip}]{port}").parse().map_err(|_| malformed())?;
        let index = zone_index(zone);
        let missing = || Error::new(ErrorKind::NotFound, format!("there is no network interface {zone:?}"));
        address.set_scope_id(index.ok_or_else(missing)?);
        Ok(Self::new(address.into()))
    }

    /// Lets the system choose the source address and the interface again. Call this for every endpoint when the network
    /// has changed, since the old choice may no longer work.
    pub const fn clear_source(&mut self) {
        self.src = None;
        self.src_interface = 0;
    }

    /// Returns the peer's address as bytes: 4 or 16 of the address and 2 of the port, in network order. For cookies,
    /// hashes and similar uses.
    #[must_use]
    pub fn dst_bytes(&self) -> DstBytes {
        let mut bytes = [0; 18];
        let len = match self.dst.ip() {
            IpAddr::V4(ip) => put(&mut bytes, &ip.octets()),
            IpAddr::V6(ip) => put(&mut bytes, &ip.octets()),
        };
        let len = len + put(&mut bytes[len..], &self.dst.port().to_be_bytes());
        DstBytes { bytes, len }
    }
}

fn put(room: &mut [u8], bytes: &[u8]) -> usize {
    room[..bytes.len()].copy_from_slice(bytes);
    bytes.len()
}

/// The result of [`Endpoint::dst_bytes`].
#[derive(Clone, Copy, Debug)]
pub struct DstBytes {
    bytes: [u8; 18],
    len: usize,
}

impl Deref for DstBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Returns the scope id of an IPv6 zone on this host: a number, or the index of the interface of that name.
pub(super) fn zone_index(zone: &str) -> Option<u32> {
    match zone.parse() {
        Ok(index) => Some(index).filter(|index| *index != 0),
        Err(_) => interface::index(zone),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_an_address_and_comes_back() {
        for text in ["192.0.2.1:51820", "0.0.0.0:0", "[2001:db8::1]:51820", "[fe80::1%7]:1", "[::ffff:192.0.2.1]:5"] {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!((endpoint.dst.to_string().as_str(), endpoint.src), (text, None));
        }
    }

    #[test]
    fn text_that_is_no_endpoint_is_refused() {
        for text in [
            "",
            ":1",
            "192.0.2.1",
            "192.0.2.1:",
            "192.0.2.1:65536",
            "192.0.2.1:-1",
            " 192.0.2.1:1",
            "192.0.2.1:1 ",
            "[192.0.2.1]:1",
            "192.0.2.1%lo:1",
            "2001:db8::1",
            "[2001:db8::1]",
            "[2001:db8::1:5",
            "example.com:51820",
            "[fe80::1%1",
            "[fe80::1%1]",
            "%1]",
            "[%1]:1",
            "[fe80::1%1%2]]:1",
        ] {
            assert_eq!(Endpoint::parse(text).unwrap_err().kind(), ErrorKind::Invalid, "{text}");
        }
    }

    #[test]
    fn zones_are_looked_up() {
        for text in ["[fe80::1%]:1", "[fe80::1%0]:1", "[fe80::1%no-such-interface]:1", "[fe80::1%1%2]:1"] {
            assert_eq!(Endpoint::parse(text).unwrap_err().kind(), ErrorKind::NotFound, "{text}");
        }
        if cfg!(target_os = "linux") {
            assert_eq!(Endpoint::parse("[fe80::1%lo]:1").unwrap(), Endpoint::parse("[fe80::1%1]:1").unwrap());
        }
    }

    #[test]
    fn bytes_are_the_address_and_the_port() {
        let bytes = |text| Endpoint::parse(text).unwrap().dst_bytes().to_vec();
        assert_eq!(bytes("192.0.2.1:258"), [192, 0, 2, 1, 1, 2]);
        assert_eq!(bytes("[2001:db8::9]:258"), [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 1, 2]);
    }

    #[test]
    fn a_cleared_source_is_none() {
        let mut endpoint = Endpoint::parse("192.0.2.1:1").unwrap();
        let clear = endpoint;
        endpoint.src = Some("192.0.2.2".parse().unwrap());
        endpoint.src_interface = 3;
        endpoint.clear_source();
        assert_eq!(endpoint, clear);
    }
}
