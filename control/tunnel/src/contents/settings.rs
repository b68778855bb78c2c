//! The settings of the system's network for a configuration.

use std::collections::BTreeSet;

use ipnet::IpNet;
use wg_embed::{
    config::{
        PeerEndpoint,
        wgquick::{Conf, Table},
    },
    tun::DEFAULT_MTU,
};
use wg_embed_manager::messages::{
    NetworkSettingsRequest,
    network_settings_request::{
        DnsSettings, Ipv4Settings, Ipv6Settings, ipv4_settings::Ipv4Route, ipv6_settings::Ipv6Route,
    },
};

/// Returns everything in one request: addresses, routes into the tunnel to all allowed IPs and outside it to the peers
/// themselves, MTU, DNS.
pub(super) fn settings(conf: &Conf) -> NetworkSettingsRequest {
    let interface = &conf.interface;
    let peers = &conf.update.peers;
    let mut included = BTreeSet::new();
    if interface.table != Table::Off {
        let all = peers.iter().flat_map(|peer| &peer.allowed_ips).filter(|change| !change.remove);
        included.extend(all.map(|change| change.prefix));
    }
    let endpoints = peers.iter().filter_map(|peer| match &peer.endpoint {
        Some(PeerEndpoint::Address(endpoint)) => Some(endpoint.addr.ip()),
        // The address of a host name is known only after a look-up.
        _ => None,
    });
    let excluded: BTreeSet<_> =
        endpoints.filter(|at| included.iter().any(|prefix| prefix.contains(at))).map(IpNet::from).collect();
    let of = |set: &BTreeSet<IpNet>, is_v4: bool| {
        set.iter().filter(|prefix| prefix.addr().is_ipv4() == is_v4).copied().collect::<Vec<_>>()
    };
    NetworkSettingsRequest {
        mtu: interface.mtu.unwrap_or(DEFAULT_MTU).into(),
        dns_settings: dns(conf),
        ipv4_settings: ipv4(&interface.addresses, &of(&included, true), &of(&excluded, true)),
        ipv6_settings: ipv6(&interface.addresses, &of(&included, false), &of(&excluded, false)),
        ..NetworkSettingsRequest::default()
    }
}

/// As in wg-quick, all names are looked up with these servers.
fn dns(conf: &Conf) -> Option<DnsSettings> {
    let interface = &conf.interface;
    if interface.dns.is_empty() && interface.dns_search.is_empty() {
        return None;
    }
    Some(DnsSettings {
        servers: interface.dns.iter().map(ToString::to_string).collect(),
        search_domains: interface.dns_search.clone(),
        match_domains: vec![String::new()],
        match_domains_no_search: true,
        ..DnsSettings::default()
    })
}

fn ipv4(addresses: &[IpNet], included: &[IpNet], excluded: &[IpNet]) -> Option<Ipv4Settings> {
    let own: Vec<_> = addresses.iter().filter(|address| address.addr().is_ipv4()).collect();
    if own.is_empty() && included.is_empty() {
        return None;
    }
    let route = |prefix: &IpNet| Ipv4Route {
        destination: prefix.network().to_string(),
        mask: prefix.netmask().to_string(),
        ..Ipv4Route::default()
    };
    Some(Ipv4Settings {
        addrs: own.iter().map(|address| address.addr().to_string()).collect(),
        subnet_masks: own.iter().map(|address| address.netmask().to_string()).collect(),
        included_routes: included.iter().map(route).collect(),
        excluded_routes: excluded.iter().map(route).collect(),
        ..Ipv4Settings::default()
    })
}

fn ipv6(addresses: &[IpNet], included: &[IpNet], excluded: &[IpNet]) -> Option<Ipv6Settings> {
    let own: Vec<_> = addresses.iter().filter(|address| address.addr().is_ipv6()).collect();
    if own.is_empty() && included.is_empty() {
        return None;
    }
    let route = |prefix: &IpNet| Ipv6Route {
        destination: prefix.network().to_string(),
        prefix_length: prefix.prefix_len().into(),
        ..Ipv6Route::default()
    };
    Some(Ipv6Settings {
        addrs: own.iter().map(|address| address.addr().to_string()).collect(),
        prefix_lengths: own.iter().map(|address| address.prefix_len().into()).collect(),
        included_routes: included.iter().map(route).collect(),
        excluded_routes: excluded.iter().map(route).collect(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const KEYS: [&str; 2] =
        ["xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="];

    #[test]
    fn a_file_becomes_one_request() {
        let conf: Conf = format!(
            "[Interface]\nAddress = 10.0.0.2/24, fd00::2/64\nDNS = 10.0.0.53, corp.example\nMTU = 1280\n\
             [Peer]\nPublicKey = {}\nEndpoint = 192.0.2.7:51820\nAllowedIPs = 0.0.0.0/0, fd01::/48\n\
             [Peer]\nPublicKey = {}\nEndpoint = [2001:db8::7]:51820\nAllowedIPs = 10.0.0.9/32\n",
            KEYS[0], KEYS[1]
        )
        .parse()
        .unwrap();
        let settings = settings(&conf);
        assert_eq!(settings.mtu, 1280);
        let ipv4 = settings.ipv4_settings.unwrap();
        assert_eq!(
            (&ipv4.addrs[..], &ipv4.subnet_masks[..]),
            (&["10.0.0.2".into()][..], &["255.255.255.0".into()][..])
        );
        let routes = |routes: &[Ipv4Route]| routes.iter().map(|r| format!("{} {}", r.destination, r.mask)).collect();
        let included: Vec<String> = routes(&ipv4.included_routes);
        let excluded: Vec<String> = routes(&ipv4.excluded_routes);
        assert_eq!(included, ["0.0.0.0 0.0.0.0", "10.0.0.9 255.255.255.255"]);
        assert_eq!(excluded, ["192.0.2.7 255.255.255.255"]);
        let ipv6 = settings.ipv6_settings.unwrap();
        assert_eq!((&ipv6.addrs[..], &ipv6.prefix_lengths[..]), (&["fd00::2".into()][..], &[64][..]));
        assert_eq!((ipv6.included_routes.len(), ipv6.excluded_routes.len()), (1, 0));
        let dns = settings.dns_settings.unwrap();
        assert_eq!(
            (&dns.servers[..], &dns.search_domains[..]),
            (&["10.0.0.53".into()][..], &["corp.example".into()][..])
        );
    }

    #[test]
    fn what_a_file_does_not_say_is_left_out() {
        let conf: Conf = format!(
            "[Interface]\nAddress = 10.0.0.2\nTable = off\n[Peer]\nPublicKey = {}\nAllowedIPs = ::/0\n",
            KEYS[0]
        )
        .parse()
        .unwrap();
        let settings = settings(&conf);
        assert_eq!((settings.mtu, settings.dns_settings, settings.ipv6_settings), (1420, None, None));
        assert_eq!(settings.ipv4_settings.unwrap().subnet_masks, ["255.255.255.255"]);
    }
}
