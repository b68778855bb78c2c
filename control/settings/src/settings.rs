//! Network settings.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use wg_embed::config::{
    PeerEndpoint,
    wgquick::{Conf, Table},
};

/// The network settings of a tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The interface's own addresses, each with its prefix length.
    pub addresses: Vec<IpNet>,
    /// The destinations that are routed into the tunnel. A prefix of length 0 is a default route.
    pub routes: Vec<IpNet>,
    /// Destinations that are not routed into the tunnel although `routes` include them. They are routed as without the
    /// tunnel.
    pub excluded: Vec<IpNet>,
    /// The MTU in bytes. `None`: the largest path MTU to an endpoint, less 80 bytes.
    pub mtu: Option<u16>,
    /// The destinations of the tunnel's own packets, whose routes determine the MTU.
    pub endpoints: Vec<IpAddr>,
    /// The DNS settings.
    pub dns: Dns,
    /// The table of the routes. [`Table::Auto`]: the main table or, if there is a default route or an excluded one,
    /// that of `fwmark`, with rules that send all packets to it except the tunnel's own.
    pub table: Table,
    /// The mark of the tunnel's own packets, which the caller sets in the tunnel; 0 means none. See
    /// [`needs_mark`](Self::needs_mark).
    pub fwmark: u32,
}

/// DNS settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// The servers. Without one, the other fields are ignored.
    pub servers: Vec<IpAddr>,
    /// Domains that are appended to a name without dots.
    pub search: Vec<String>,
    /// The only domains whose names are resolved by these servers; if empty, or if one is empty: all names.
    pub only: Vec<String>,
}

impl Dns {
    /// Returns whether all names are resolved by these servers.
    #[must_use]
    pub fn is_for_all(&self) -> bool {
        self.only.is_empty() || self.only.iter().any(|domain| matches!(domain.as_str(), "" | "."))
    }
}

impl Settings {
    /// Returns the settings of a `.conf` file. Endpoints that are host names count only once they are resolved; those
    /// with a zone do not count, as in wg-quick.
    #[must_use]
    pub fn from_conf(conf: &Conf) -> Self {
        let (interface, update) = (&conf.interface, &conf.update);
        let endpoint = |endpoint: &PeerEndpoint| match endpoint {
            PeerEndpoint::Address(address) if address.zone.is_none() => Some(address.addr.ip()),
            _ => None,
        };
        Self {
            addresses: interface.addresses.clone(),
            routes: update.peers.iter().flat_map(|peer| &peer.allowed_ips).map(|change| change.prefix).collect(),
            excluded: Vec::new(),
            mtu: interface.mtu,
            endpoints: update.peers.iter().filter_map(|peer| endpoint(peer.endpoint.as_ref()?)).collect(),
            dns: Dns { servers: interface.dns.clone(), search: interface.dns_search.clone(), only: Vec::new() },
            table: interface.table,
            fwmark: update.fwmark.unwrap_or_default(),
        }
    }

    /// Returns whether rules must identify the tunnel's own packets by their mark: then `fwmark` must not be 0.
    /// `free_mark` returns an unused one.
    #[must_use]
    pub fn needs_mark(&self) -> bool {
        self.table == Table::Auto
            && !self.routes.is_empty()
            && (!self.excluded.is_empty() || self.routes.iter().any(|route| route.prefix_len() == 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read() {
        let conf: Conf =
            "[Interface]\nAddress = 10.0.0.2/24, fd00::2\nDNS = 1.1.1.1, corp.example\nTable = 7\nFwMark = 3\n\
                          [Peer]\nPublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\nAllowedIPs = 10.1.0.0/16\n\
                          Endpoint = 192.0.2.1:5\n\
                          [Peer]\nPublicKey = gN65BkIKy1eCE9pP1wdc8ROUtkHLF2PfAqYdyYBz6EA=\nAllowedIPs = ::/0\n\
                          Endpoint = [fe80::1%eth0]:5\n"
                .parse()
                .unwrap();
        let settings = Settings::from_conf(&conf);
        let expected = Settings {
            addresses: vec!["10.0.0.2/24".parse().unwrap(), "fd00::2/128".parse().unwrap()],
            routes: vec!["10.1.0.0/16".parse().unwrap(), "::/0".parse().unwrap()],
            endpoints: vec!["192.0.2.1".parse().unwrap()],
            dns: Dns {
                servers: vec!["1.1.1.1".parse().unwrap()],
                search: vec!["corp.example".into()],
                only: Vec::new(),
            },
            table: Table::Number(7),
            fwmark: 3,
            ..Settings::default()
        };
        assert_eq!(settings, expected);
        assert!(!settings.needs_mark());
        assert!(Settings { table: Table::Auto, ..settings }.needs_mark());
    }
}
