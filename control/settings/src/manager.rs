//! Converts a tunnel's request to its VPN manager to settings. Needs the feature `manager`.

#[cfg(target_os = "linux")]
mod managed;

use std::{
    collections::HashSet,
    fmt::Display,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use wg_embed::error::{Error, Result};
use wg_embed_manager::messages::{
    NetworkSettingsRequest,
    network_settings_request::{
        DnsSettings, Ipv4Settings, Ipv6Settings, ipv4_settings::Ipv4Route, ipv6_settings::Ipv6Route,
    },
};

use crate::settings::{Dns, Settings};
#[cfg(target_os = "linux")]
pub use managed::Managed;

/// Returns the settings of a complete request. `fwmark` is 0: if [`Settings::needs_mark`], the caller chooses one. All
/// routes lead into the tunnel, so that their routers are ignored, as is `tunnel_overhead_bytes`, from which an MTU
/// would be derived.
///
/// # Errors
/// `Invalid`, with the field, for an invalid address, prefix, mask or MTU.
pub fn settings(request: &NetworkSettingsRequest) -> Result<Settings> {
    let mut settings = Settings::default();
    if request.mtu != 0 {
        settings.mtu = Some(u16::try_from(request.mtu).map_err(|_| invalid("mtu", request.mtu))?);
    }
    if !request.tunnel_remote_address.is_empty() {
        // It is only used to find an MTU, and may be a name.
        settings.endpoints.extend(request.tunnel_remote_address.parse::<IpAddr>().ok());
    }
    if let Some(dns) = &request.dns_settings {
        settings.dns = of_dns(dns)?;
    }
    if let Some(ipv4) = &request.ipv4_settings {
        of_ipv4(ipv4, &mut settings)?;
    }
    if let Some(ipv6) = &request.ipv6_settings {
        of_ipv6(ipv6, &mut settings)?;
    }
    Ok(settings)
}

fn of_dns(dns: &DnsSettings) -> Result<Dns> {
    let servers = dns.servers.iter().map(|server| parse("dns_settings.servers", server)).collect::<Result<_>>()?;
    let mut search = dns.search_domains.clone();
    search.extend(Some(&dns.domain_name).filter(|name| !name.is_empty()).cloned());
    if !dns.match_domains_no_search {
        search.extend(dns.match_domains.iter().filter(|domain| !domain.is_empty()).cloned());
    }
    let mut seen = HashSet::new();
    search.retain(|domain| seen.insert(domain.clone()));
    for domain in search.iter().chain(&dns.match_domains) {
        // They become arguments of programs, and words in a file.
        if domain.starts_with('-') || !domain.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c)) {
            return Err(invalid("dns_settings: domain", format_args!("{domain:?}")));
        }
    }
    Ok(Dns { servers, search, only: dns.match_domains.clone() })
}

fn of_ipv4(ipv4: &Ipv4Settings, settings: &mut Settings) -> Result<()> {
    if ipv4.addrs.len() != ipv4.subnet_masks.len() {
        return Err(Error::invalid("ipv4_settings: each address needs one mask"));
    }
    let net = |field: &str, address: &str, mask: &str| -> Result<IpNet> {
        let address: Ipv4Addr = parse(field, address)?;
        let mask: Ipv4Addr = parse(field, mask)?;
        Ipv4Net::with_netmask(address, mask).map(Into::into).map_err(|_| invalid(field, mask))
    };
    for (address, mask) in ipv4.addrs.iter().zip(&ipv4.subnet_masks) {
        settings.addresses.push(net("ipv4_settings.addrs", address, mask)?);
    }
    let routes = |field: &'static str, routes: &[Ipv4Route]| {
        routes.iter().map(|route| net(field, &route.destination, &route.mask)).collect::<Result<Vec<_>>>()
    };
    settings.routes.extend(routes("ipv4_settings.included_routes", &ipv4.included_routes)?);
    settings.excluded.extend(routes("ipv4_settings.excluded_routes", &ipv4.excluded_routes)?);
    Ok(())
}

fn of_ipv6(ipv6: &Ipv6Settings, settings: &mut Settings) -> Result<()> {
    if ipv6.addrs.len() != ipv6.prefix_lengths.len() {
        return Err(Error::invalid("ipv6_settings: each address needs one prefix length"));
    }
    let net = |field: &str, address: &str, length: u32| -> Result<IpNet> {
        let address = parse(field, address)?;
        let net = u8::try_from(length).ok().and_then(|length| Ipv6Net::new(address, length).ok());
        net.map(Into::into).ok_or_else(|| invalid(field, length))
    };
    for (address, length) in ipv6.addrs.iter().zip(&ipv6.prefix_lengths) {
        settings.addresses.push(net("ipv6_settings.addrs", address, *length)?);
    }
    let routes = |field: &'static str, routes: &[Ipv6Route]| {
        routes.iter().map(|route| net(field, &route.destination, route.prefix_length)).collect::<Result<Vec<_>>>()
    };
    settings.routes.extend(routes("ipv6_settings.included_routes", &ipv6.included_routes)?);
    settings.excluded.extend(routes("ipv6_settings.excluded_routes", &ipv6.excluded_routes)?);
    Ok(())
}

fn parse<T: FromStr>(field: &str, text: &str) -> Result<T> {
    text.parse().map_err(|_| invalid(field, format_args!("{text:?}")))
}

fn invalid(field: &str, value: impl Display) -> Error {
    Error::invalid(format!("{field}: {value} is not allowed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use wg_embed::{ErrorKind, config::wgquick::Table};

    fn strings(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn nets(text: &str) -> Vec<IpNet> {
        text.split_whitespace().map(|net| net.parse().unwrap()).collect()
    }

    fn request() -> NetworkSettingsRequest {
        let ipv4_route = |destination: &str, mask: &str| Ipv4Route {
            destination: destination.into(),
            mask: mask.into(),
            router: "10.0.0.9".into(),
        };
        NetworkSettingsRequest {
            tunnel_overhead_bytes: 60,
            mtu: 1280,
            tunnel_remote_address: "192.0.2.1".into(),
            dns_settings: Some(DnsSettings {
                servers: strings("10.0.0.53 fd00::53"),
                search_domains: strings("a.example"),
                domain_name: "b.example".into(),
                match_domains: strings("c.example"),
                match_domains_no_search: false,
            }),
            ipv4_settings: Some(Ipv4Settings {
                addrs: strings("10.0.0.2 10.1.0.2"),
                subnet_masks: strings("255.255.255.0 255.255.255.255"),
                router: "10.0.0.9".into(),
                included_routes: vec![ipv4_route("0.0.0.0", "0.0.0.0")],
                excluded_routes: vec![ipv4_route("192.0.2.1", "255.255.255.255")],
            }),
            ipv6_settings: Some(Ipv6Settings {
                addrs: strings("fd00::2"),
                prefix_lengths: vec![64],
                included_routes: vec![Ipv6Route {
                    destination: "fd01::".into(),
                    prefix_length: 16,
                    router: String::new(),
                }],
                excluded_routes: Vec::new(),
            }),
        }
    }

    #[test]
    fn a_request_becomes_settings() {
        let all = settings(&request()).unwrap();
        let expected = Settings {
            addresses: nets("10.0.0.2/24 10.1.0.2/32 fd00::2/64"),
            routes: nets("0.0.0.0/0 fd01::/16"),
            excluded: nets("192.0.2.1/32"),
            mtu: Some(1280),
            endpoints: vec!["192.0.2.1".parse().unwrap()],
            dns: Dns {
                servers: vec!["10.0.0.53".parse().unwrap(), "fd00::53".parse().unwrap()],
                search: strings("a.example b.example c.example"),
                only: strings("c.example"),
            },
            table: Table::Auto,
            fwmark: 0,
        };
        assert_eq!(all, expected);
        assert!(all.needs_mark());
        assert_eq!(settings(&NetworkSettingsRequest::default()).unwrap(), Settings::default());
        let mut no_search = request();
        no_search.dns_settings.as_mut().unwrap().match_domains_no_search = true;
        assert_eq!(settings(&no_search).unwrap().dns.search, strings("a.example b.example"));
    }

    #[test]
    fn what_cannot_be_is_named() {
        type Spoil = fn(&mut NetworkSettingsRequest);
        let spoiled: [(Spoil, &str); 11] = [
            (|r| r.mtu = 65_536, "mtu: 65536"),
            (|r| r.ipv4_settings.as_mut().unwrap().addrs[0] = "x".into(), "ipv4_settings.addrs: \"x\""),
            (|r| r.ipv4_settings.as_mut().unwrap().subnet_masks[0] = "255.0.255.0".into(), "255.0.255.0"),
            (|r| drop(r.ipv4_settings.as_mut().unwrap().subnet_masks.pop()), "one mask"),
            (|r| r.ipv4_settings.as_mut().unwrap().included_routes[0].mask = String::new(), "included_routes"),
            (|r| r.ipv6_settings.as_mut().unwrap().prefix_lengths[0] = 129, "ipv6_settings.addrs: 129"),
            (|r| r.ipv6_settings.as_mut().unwrap().prefix_lengths.clear(), "one prefix length"),
            (|r| r.ipv6_settings.as_mut().unwrap().included_routes[0].prefix_length = 1 << 20, "included_routes"),
            (|r| r.dns_settings.as_mut().unwrap().servers[0] = "dns".into(), "dns_settings.servers: \"dns\""),
            (|r| r.dns_settings.as_mut().unwrap().search_domains[0] = "a\nnameserver b".into(), "domain"),
            (|r| r.dns_settings.as_mut().unwrap().match_domains[0] = "-x".into(), "domain"),
        ];
        for (spoil, complaint) in spoiled {
            let mut request = request();
            spoil(&mut request);
            let error = settings(&request).unwrap_err();
            assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains(complaint), "{error}");
        }
    }
}
