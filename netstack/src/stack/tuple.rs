//! The identity of connections.

use std::{
    hash::{Hash, Hasher},
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

/// The addresses and ports of both sides, in compact form: there may be one for each half-open connection of a flood.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FourTuple([u8; 36]);

impl FourTuple {
    /// Creates a tuple. IPv4 addresses are stored in mapped form: packets with mapped addresses are dropped earlier.
    pub(crate) fn new(local: SocketAddr, remote: SocketAddr) -> Self {
        let mut bytes = [0; 36];
        bytes[..16].copy_from_slice(&mapped(local.ip()));
        bytes[16..32].copy_from_slice(&mapped(remote.ip()));
        bytes[32..34].copy_from_slice(&local.port().to_be_bytes());
        bytes[34..].copy_from_slice(&remote.port().to_be_bytes());
        Self(bytes)
    }

    pub(crate) fn local(&self) -> SocketAddr {
        self.side(0, 32)
    }

    pub(crate) fn remote(&self) -> SocketAddr {
        self.side(16, 34)
    }

    fn side(&self, address: usize, port: usize) -> SocketAddr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.0[address..address + 16]);
        let port = u16::from_be_bytes([self.0[port], self.0[port + 1]]);
        SocketAddr::new(Ipv6Addr::from(octets).to_canonical(), port)
    }

    /// Returns the source to which a half-open connection is attributed: the remote IPv4 address, or the /64 of an IPv6
    /// address, which may belong to one host.
    pub(super) fn source(&self) -> Source {
        let remote = &self.0[16..32];
        let mut source = [0; 8];
        source.copy_from_slice(if self.is_v4() { &remote[8..] } else { &remote[..8] });
        // A mapped address ends with 0xffff and the address; no prefix of hosts begins with zeros.
        Source(source)
    }

    pub(crate) fn is_v4(&self) -> bool {
        self.0[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
    }
}

impl std::fmt::Debug for FourTuple {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} <- {}", self.local(), self.remote())
    }
}

impl Hash for FourTuple {
    fn hash<H: Hasher>(&self, state: &mut H) {
        if self.is_v4() {
            // As one number: bytes that were just written in small parts are slow to read in larger ones.
            let part = |at: usize| u128::from(self.0[at..].first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes)));
            state.write_u128(part(12) | part(28) << 32 | part(32) << 64);
        } else {
            state.write(&self.0);
        }
    }
}

/// See [`FourTuple::source`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Source([u8; 8]);

fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Hash tables that peers cannot fill with collisions.
pub(super) type Map<V> = std::collections::HashMap<FourTuple, V>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_come_back_and_sources_differ() {
        let tuple = |local: &str, remote: &str| FourTuple::new(local.parse().unwrap(), remote.parse().unwrap());
        let (v4, v6) = (tuple("10.0.0.1:80", "10.0.0.2:9"), tuple("[fd00::1]:80", "[fd00::2]:9"));
        assert_eq!((v4.local(), v4.remote()), ("10.0.0.1:80".parse().unwrap(), "10.0.0.2:9".parse().unwrap()));
        assert_eq!((v6.local(), v6.remote()), ("[fd00::1]:80".parse().unwrap(), "[fd00::2]:9".parse().unwrap()));
        assert!(v4.is_v4() && !v6.is_v4());
        assert_eq!(v6.source(), tuple("[fd00::1]:80", "[fd00::ffff]:9").source());
        assert_ne!(v6.source(), tuple("[fd00::1]:80", "[fd00:0:0:1::2]:9").source());
        assert_ne!(v4.source(), tuple("10.0.0.1:80", "10.0.0.3:9").source());
    }
}
