//! The C struct of an endpoint.

use std::{
    mem::offset_of,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
};

use wg_embed::{
    bind::{Endpoint, Family},
    error::{Error, Result},
};

/// Size of a buffer for an endpoint as text, including the terminating zero byte.
///
/// Since: 0.1.0
pub const WG_ENDPOINT_TEXT_LEN: usize = 64;

/// An address family.
///
/// Since: 0.1.0
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum wg_family_t {
    /// IPv4.
    WG_IPV4 = 4,
    /// IPv6.
    WG_IPV6 = 6,
}

pub use wg_family_t::*;

/// Returns the number of a family in C.
pub(crate) fn family_number(family: Family) -> u32 {
    match family {
        Family::V4 => WG_IPV4 as u32,
        Family::V6 => WG_IPV6 as u32,
    }
}

/// A family that C names.
pub(crate) fn family(number: u32) -> Result<Family> {
    match number {
        v4 if v4 == WG_IPV4 as u32 => Ok(Family::V4),
        v6 if v6 == WG_IPV6 as u32 => Ok(Family::V6),
        other => Err(Error::invalid(format!("the family is {other}, not WG_IPV4 or WG_IPV6"))),
    }
}

/// The address of a peer, and the local address that it communicates with. It is plain memory: it can be copied, and
/// its fields can be set directly. It has no padding, and wg_ functions set all unused bytes to zero, so that endpoints
/// which they filled can be compared and hashed byte by byte.
///
/// An endpoint from wg_udp_recv() can be used for sending as it is: the answer leaves from the address that the peer
/// sent to and, on Linux and Android, through the interface that received the datagram (for IPv6, if the routes through
/// it are equally good). If that source no longer exists, sending clears it. When the network changes, call
/// wg_endpoint_clear_source(): the old path may still work, but no longer be the best.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct wg_endpoint_t {
    /// WG_IPV4 or WG_IPV6. 0 means no endpoint.
    pub family: u16,
    /// The peer's port, in host byte order.
    pub port: u16,
    /// The zone of an IPv6 link-local address (an interface index), otherwise 0.
    pub scope_id: u32,
    /// The peer's address, in network byte order. An IPv4 address is in the first four bytes.
    pub address: [u8; 16],
    /// The local address to send from, in the same form. All zeros: the system chooses.
    pub source: [u8; 16],
    /// The index of the local interface to send through if there is a source, or 0.
    pub source_interface: u32,
}

const _: () = {
    assert!(size_of::<wg_endpoint_t>() == 44 && align_of::<wg_endpoint_t>() == 4);
    assert!(offset_of!(wg_endpoint_t, port) == 2 && offset_of!(wg_endpoint_t, scope_id) == 4);
    assert!(offset_of!(wg_endpoint_t, address) == 8 && offset_of!(wg_endpoint_t, source) == 24);
    assert!(offset_of!(wg_endpoint_t, source_interface) == 40);
};

impl wg_endpoint_t {
    /// The endpoint that it stands for.
    pub(crate) fn read(&self) -> Result<Endpoint> {
        let ip = |[a, b, c, d, ..]: [u8; 16]| Ipv4Addr::new(a, b, c, d);
        let (dst, src): (SocketAddr, IpAddr) = match family(self.family.into())? {
            Family::V4 => (SocketAddrV4::new(ip(self.address), self.port).into(), ip(self.source).into()),
            Family::V6 => {
                let dst = SocketAddrV6::new(self.address.into(), self.port, 0, self.scope_id);
                (dst.into(), Ipv6Addr::from(self.source).into())
            }
        };
        let src = Some(src).filter(|src| !src.is_unspecified());
        Ok(Endpoint { dst, src, src_interface: src.map_or(0, |_| self.source_interface) })
    }
}

impl From<Endpoint> for wg_endpoint_t {
    fn from(endpoint: Endpoint) -> Self {
        let (family, scope_id) = match endpoint.dst {
            SocketAddr::V4(_) => (WG_IPV4, 0),
            SocketAddr::V6(dst) => (WG_IPV6, dst.scope_id()),
        };
        Self {
            family: family as u16,
            port: endpoint.dst.port(),
            scope_id,
            address: bytes(endpoint.dst.ip()),
            source: endpoint.src.map_or([0; 16], bytes),
            source_interface: endpoint.src_interface,
        }
    }
}

fn bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V6(ip) => ip.octets(),
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_was_written() {
        let source = |text: &str, src: &str| Endpoint {
            src: Some(src.parse().unwrap()),
            src_interface: 3,
            ..Endpoint::parse(text).unwrap()
        };
        for endpoint in [
            Endpoint::parse("192.0.2.1:51820").unwrap(),
            Endpoint::parse("[fe80::1%7]:1").unwrap(),
            source("192.0.2.1:51820", "192.0.2.2"),
            source("[2001:db8::1]:51820", "2001:db8::2"),
        ] {
            assert_eq!(wg_endpoint_t::from(endpoint).read().unwrap(), endpoint);
        }
    }

    #[test]
    fn the_longest_text_fits() {
        let longest = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535";
        let endpoint = Endpoint::parse(longest).unwrap();
        assert_eq!(endpoint.dst.to_string(), longest);
        assert!(longest.len() < WG_ENDPOINT_TEXT_LEN);
    }
}
