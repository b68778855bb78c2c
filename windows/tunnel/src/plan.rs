//! Converts a configuration and the network outside to steps, without accessing the system.

use std::{collections::HashSet, fmt, net::IpAddr};

use ipnet::IpNet;
use wg_embed::{
    bind::Family,
    config::{
        PeerEndpoint,
        wgquick::{Conf, Table},
    },
};

use crate::{
    firewall::{self, Filter},
    outside::Outside,
};

/// The size of the tunnel's own headers: IPv6, UDP, and the tunnel's 32 bytes.
const OVERHEAD: u32 = 80;

/// The MTU without a default route: that of Ethernet, less [`OVERHEAD`].
const USUAL_MTU: u32 = 1420;

/// Both families, in the order in which a plan has them.
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// A change to the system. Its `Display` is one line, or for [`Firewall`](Self::Firewall) one for each filter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Adds filters to the firewall. Windows removes them when the process ends.
    Firewall(Vec<Filter>),
    /// Sets properties of the interface for one family. Router discovery is switched off.
    Interface {
        /// The family.
        family: Family,
        /// In bytes.
        mtu: u32,
        /// Whether routes of this interface come first (metric 0); otherwise Windows chooses the metric.
        first: bool,
    },
    /// Adds an address to the interface, without duplicate address detection.
    Address(IpNet),
    /// Adds a route into the tunnel, with metric 0.
    Route(IpNet),
    /// Sets the DNS servers and search domains of the interface for one family.
    Dns {
        /// The family of the servers.
        family: Family,
        /// The servers, at least one.
        servers: Vec<IpAddr>,
        /// Domains that are appended to a name without dots.
        search: Vec<String>,
    },
}

impl Step {
    /// Returns whether performing this step leaves nothing of `other`.
    pub(crate) fn replaces(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Interface { family, .. }, Self::Interface { family: other, .. })
            | (Self::Dns { family, .. }, Self::Dns { family: other, .. }) => family == other,
            _ => false,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Firewall(filters) => {
                f.write_str("firewall")?;
                filters.iter().try_for_each(|filter| write!(f, "\n  {filter}"))
            }
            Self::Interface { family, mtu, first } => {
                write!(f, "interface {family} mtu {mtu} metric {}", if *first { "0" } else { "automatic" })
            }
            Self::Address(address) => write!(f, "address {address}"),
            Self::Route(prefix) => write!(f, "route {prefix}"),
            Self::Dns { family, servers, search } => {
                write!(f, "dns {family}")?;
                servers.iter().try_for_each(|server| write!(f, " {server}"))?;
                search.iter().try_for_each(|domain| write!(f, " search {domain}"))
            }
        }
    }
}

/// Returns the steps for a configuration, in order. Duplicate settings count once.
///
/// The firewall comes first, so that nothing leaves by another way while the rest is set: the plan has one if the
/// configuration has exactly one peer, a default route (`/0`) into the tunnel, and does not say `Table = off`. Windows
/// has one routing table; a number in `Table` stands for that.
///
/// The MTU is that of the configuration, or that of the default routes outside less 80 bytes. Each family has a
/// smallest one, 576 and 1280 bytes.
#[must_use]
pub fn plan(conf: &Conf, outside: &Outside) -> Vec<Step> {
    let addresses = once(conf.interface.addresses.iter().copied());
    let mut routes = once(routes(conf));
    // The longest first: a default route comes when everything else is there.
    routes.sort_by_key(|route| std::cmp::Reverse(route.prefix_len()));
    let has_default = |family| routes.iter().any(|route| route.prefix_len() == 0 && family_of(route.addr()) == family);

    let mut steps = Vec::new();
    if conf.update.peers.len() == 1 && FAMILIES.into_iter().any(has_default) {
        steps.push(Step::Firewall(firewall::kill_switch(&conf.interface.dns)));
    }
    let mtu = conf.interface.mtu.map_or_else(|| derived_mtu(outside), u32::from);
    for family in FAMILIES {
        if addresses.iter().chain(&routes).any(|prefix| family_of(prefix.addr()) == family) {
            steps.push(Step::Interface { family, mtu: mtu.max(least_mtu(family)), first: has_default(family) });
        }
    }
    steps.extend(addresses.into_iter().map(Step::Address));
    steps.extend(routes.into_iter().map(Step::Route));
    steps.extend(FAMILIES.into_iter().filter_map(|family| dns(conf, family)));
    steps
}

/// Returns the MTU of a tunnel whose configuration has none, in bytes.
fn derived_mtu(outside: &Outside) -> u32 {
    let largest = u32::from(u16::MAX);
    outside.mtu().map_or(USUAL_MTU, |mtu| mtu.min(largest).saturating_sub(OVERHEAD))
}

/// Returns whether the tunnel's own packets of a family must be kept out of the tunnel, by binding the sockets to the
/// interface of the default route outside: a route of the tunnel leads to an endpoint, or is a default route.
#[must_use]
pub fn binds(conf: &Conf, family: Family) -> bool {
    let endpoint = |endpoint: &PeerEndpoint| match endpoint {
        PeerEndpoint::Address(address) => Some(address.addr.ip()),
        _ => None,
    };
    let endpoints: Vec<_> = conf.update.peers.iter().filter_map(|peer| endpoint(peer.endpoint.as_ref()?)).collect();
    let leads_to_one = |route: &IpNet| endpoints.iter().any(|endpoint| route.contains(endpoint));
    routes(conf)
        .filter(|route| family_of(route.addr()) == family)
        .any(|route| route.prefix_len() == 0 || leads_to_one(&route))
}

const fn family_of(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

/// Returns the smallest MTU that an interface may have for a family, in bytes.
const fn least_mtu(family: Family) -> u32 {
    match family {
        Family::V4 => 576,
        Family::V6 => 1280,
    }
}

/// Returns the destinations in the tunnel.
fn routes(conf: &Conf) -> impl Iterator<Item = IpNet> {
    let peers = if conf.interface.table == Table::Off { &[][..] } else { &conf.update.peers };
    peers.iter().flat_map(|peer| &peer.allowed_ips).map(|change| change.prefix.trunc())
}

fn dns(conf: &Conf, family: Family) -> Option<Step> {
    let servers: Vec<_> =
        once(conf.interface.dns.iter().copied()).into_iter().filter(|server| family_of(*server) == family).collect();
    (!servers.is_empty()).then(|| Step::Dns {
        family,
        servers,
        search: once(conf.interface.dns_search.iter().cloned()),
    })
}

fn once<T: Clone + Eq + std::hash::Hash>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = HashSet::new();
    values.filter(|value| seen.insert(value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binds_v4(routes: &str, endpoint: &str) -> bool {
        let text = format!(
            "[Interface]\n[Peer]\nPublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\nAllowedIPs = {routes}\n\
             Endpoint = {endpoint}\n"
        );
        binds(&text.parse().unwrap(), Family::V4)
    }

    #[test]
    fn sockets_are_bound_if_the_tunnel_has_a_route_to_an_endpoint() {
        assert!(binds_v4("0.0.0.0/0", "vpn.example.com:1"));
        assert!(binds_v4("128.0.0.0/1", "192.0.2.1:1"));
        assert!(!binds_v4("10.0.0.0/8", "192.0.2.1:1"));
        assert!(!binds_v4("::/0", "192.0.2.1:1"));
        assert!(!binds_v4("128.0.0.0/1", "[2001:db8::1]:1"));
    }
}
