//! Where a datagram goes to or comes from, as C has it.

use std::{
    mem::offset_of,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
};

use crate::{
    bind::Endpoint,
    error::{Error, Result},
};

/// An address family. The numbers are not those of AF_INET and AF_INET6, which differ between systems.
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

/// Where a peer is, and which of our addresses it knows us by. It is plain memory without padding. What wg_ functions fill
/// has zeros in all bytes that do not matter, so that two of those can be compared byte by byte.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct wg_endpoint_t {
    /// WG_IPV4 or WG_IPV6. 0 is no endpoint.
    pub family: u16,
    /// The peer's port, in the byte order of this machine.
    pub port: u16,
    /// The zone of an IPv6 link-local address: the index of an interface. Otherwise 0.
    pub scope_id: u32,
    /// The peer's address, in network byte order. An IPv4 address takes the first four bytes.
    pub address: [u8; 16],
    /// Our address that the peer has sent to, in the same form, from which answers should leave; or all zeros.
    pub source: [u8; 16],
    /// The index of our interface that belongs to the source, or 0.
    pub source_interface: u32,
}

const _: () = {
    assert!(size_of::<wg_endpoint_t>() == 44 && align_of::<wg_endpoint_t>() == 4);
    assert!(offset_of!(wg_endpoint_t, family) == 0);
    assert!(offset_of!(wg_endpoint_t, port) == 2);
    assert!(offset_of!(wg_endpoint_t, scope_id) == 4);
    assert!(offset_of!(wg_endpoint_t, address) == 8);
    assert!(offset_of!(wg_endpoint_t, source) == 24);
    assert!(offset_of!(wg_endpoint_t, source_interface) == 40);
};

impl wg_endpoint_t {
    /// The endpoint that it stands for.
    pub(super) fn read(&self) -> Result<Endpoint> {
        let v4 = |[a, b, c, d, ..]: [u8; 16]| Ipv4Addr::new(a, b, c, d);
        let (dst, src): (SocketAddr, IpAddr) = match self.family {
            family if u32::from(family) == WG_IPV4 as u32 => {
                ((v4(self.address), self.port).into(), v4(self.source).into())
            }
            family if u32::from(family) == WG_IPV6 as u32 => {
                let dst = SocketAddrV6::new(self.address.into(), self.port, 0, self.scope_id);
                (dst.into(), Ipv6Addr::from(self.source).into())
            }
            other => return Err(Error::invalid(format!("the family is {other}, not WG_IPV4 or WG_IPV6"))),
        };
        Ok(Endpoint { src: Some(src).filter(|src| !src.is_unspecified()), ..Endpoint::new(dst) })
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
            source_interface: 0,
        }
    }
}

/// An address, with zeros behind one of IPv4.
fn bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&ip.octets());
            bytes
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_come_back_as_they_went() {
        for (dst, src) in [
            ("192.0.2.1:51820", Some("198.51.100.1")),
            ("0.0.0.0:0", None),
            ("[2001:db8::1]:65535", Some("2001:db8::2")),
            ("[fe80::1%7]:1", None),
            ("[::ffff:192.0.2.1]:2", None),
        ] {
            let src = src.map(|src| src.parse().unwrap());
            let endpoint = Endpoint { src, ..Endpoint::new(dst.parse().unwrap()) };
            assert_eq!(wg_endpoint_t::from(endpoint).read().unwrap(), endpoint);
        }
        let v4 = wg_endpoint_t::from(Endpoint::new(([192, 0, 2, 1], 0x1234).into()));
        assert_eq!((v4.family, v4.port, &v4.address[..5], v4.source), (4, 0x1234, &[192, 0, 2, 1, 0][..], [0; 16]));
    }

    #[test]
    fn other_families_are_refused() {
        for family in [0, 1, 2, 5, 10, 30, u16::MAX] {
            assert!(wg_endpoint_t { family, ..wg_endpoint_t::default() }.read().is_err());
        }
    }
}
