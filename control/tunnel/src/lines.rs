//! Network settings as lines of text, for programs without protobuf.
//!
//! | line | meaning |
//! |---|---|
//! | `address=10.0.0.2/24` | an address of the interface with its prefix length |
//! | `route=10.0.0.0/8`, `route=10.0.0.0/8 via 10.0.0.1` | a route into the tunnel |
//! | `exclude=192.0.2.7/32`, also with `via` | a route outside the tunnel |
//! | `router=10.0.0.1` | the IPv4 router |
//! | `mtu=1420` | the MTU; without it the manager leaves it unchanged |
//! | `dns=10.0.0.53` | a DNS server |
//! | `search=corp.example` | a search domain |
//! | `domain=example` | the name of the DNS settings |
//! | `match=corp.example`, `match=` | names that are looked up with these servers: those in a domain, or all |
//! | `match_only=true` | the domains of `match` are not search domains |
//! | `overhead=80` | bytes that the tunnel adds to a packet |
//! | `remote=192.0.2.7` | the address of the tunnel's remote end |

use std::{fmt::Write, net::IpAddr};

use ipnet::IpNet;
use wg_embed_manager::messages::{
    NetworkSettingsRequest,
    network_settings_request::{
        DnsSettings, Ipv4Settings, Ipv6Settings, ipv4_settings::Ipv4Route, ipv6_settings::Ipv6Route,
    },
};

/// Parses lines. Empty ones are skipped.
///
/// # Errors
/// The number of the line, and the reason.
pub fn parse(text: &str) -> Result<NetworkSettingsRequest, String> {
    let mut settings = NetworkSettingsRequest::default();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        set(&mut settings, line.trim()).map_err(|reason| format!("line {}: {reason}", number + 1))?;
    }
    Ok(settings)
}

fn set(settings: &mut NetworkSettingsRequest, line: &str) -> Result<(), String> {
    let (key, value) = line.split_once('=').ok_or("it is not of the form key=value")?;
    match key {
        "address" => match prefix(value)? {
            IpNet::V4(net) => {
                let ipv4 = ipv4(settings);
                ipv4.addrs.push(net.addr().to_string());
                ipv4.subnet_masks.push(net.netmask().to_string());
            }
            IpNet::V6(net) => {
                let ipv6 = ipv6(settings);
                ipv6.addrs.push(net.addr().to_string());
                ipv6.prefix_lengths.push(net.prefix_len().into());
            }
        },
        "route" | "exclude" => match route(value)? {
            (IpNet::V4(net), router) => {
                let (destination, mask) = (net.network().to_string(), net.netmask().to_string());
                let route = Ipv4Route { destination, mask, router };
                let ipv4 = ipv4(settings);
                let routes = if key == "route" { &mut ipv4.included_routes } else { &mut ipv4.excluded_routes };
                routes.push(route);
            }
            (IpNet::V6(net), router) => {
                let (destination, prefix_length) = (net.network().to_string(), net.prefix_len().into());
                let route = Ipv6Route { destination, prefix_length, router };
                let ipv6 = ipv6(settings);
                let routes = if key == "route" { &mut ipv6.included_routes } else { &mut ipv6.excluded_routes };
                routes.push(route);
            }
        },
        "router" => match address(value)? {
            IpAddr::V4(router) => ipv4(settings).router = router.to_string(),
            IpAddr::V6(_) => return Err(format!("\"{value}\" is not an IPv4 address")),
        },
        "mtu" => settings.mtu = number(key, value)?,
        "overhead" => settings.tunnel_overhead_bytes = number(key, value)?,
        "remote" => settings.tunnel_remote_address = address(value)?.to_string(),
        "dns" => dns(settings).servers.push(address(value)?.to_string()),
        "search" => dns(settings).search_domains.push(value.to_owned()),
        "domain" => value.clone_into(&mut dns(settings).domain_name),
        "match" => dns(settings).match_domains.push(value.to_owned()),
        "match_only" => {
            dns(settings).match_domains_no_search =
                value.parse().map_err(|_| format!("{key} is neither true nor false"))?;
        }
        _ => return Err(format!("there is no key \"{key}\"")),
    }
    Ok(())
}

fn ipv4(settings: &mut NetworkSettingsRequest) -> &mut Ipv4Settings {
    settings.ipv4_settings.get_or_insert_default()
}

fn ipv6(settings: &mut NetworkSettingsRequest) -> &mut Ipv6Settings {
    settings.ipv6_settings.get_or_insert_default()
}

fn dns(settings: &mut NetworkSettingsRequest) -> &mut DnsSettings {
    settings.dns_settings.get_or_insert_default()
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("\"{text}\" is not an IP address"))
}

/// Parses an address with a prefix length, or a single address.
fn prefix(text: &str) -> Result<IpNet, String> {
    let host = text.parse::<IpAddr>().map(IpNet::from);
    host.or_else(|_| text.parse()).map_err(|_| format!("\"{text}\" is not an address with a prefix length"))
}

/// Parses `PREFIX`, or `PREFIX via ROUTER`.
fn route(text: &str) -> Result<(IpNet, String), String> {
    let Some((destination, router)) = text.split_once(" via ") else { return Ok((prefix(text)?, String::new())) };
    let (destination, router) = (prefix(destination)?, address(router)?);
    if destination.addr().is_ipv4() != router.is_ipv4() {
        return Err(format!("\"{text}\" has addresses of two families"));
    }
    Ok((destination, router.to_string()))
}

fn number(key: &str, text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("{key} is not a number"))
}

/// Formats settings as lines for [`parse`], each with a line feed at its end. An address without a valid mask has no
/// prefix length.
#[must_use]
pub fn write(settings: &NetworkSettingsRequest) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        // A line feed in a value would begin another line.
        let value: String = value.chars().filter(|c| !c.is_control()).collect();
        // Writing to a String does not fail.
        let _ = writeln!(text, "{key}={value}");
    };
    if let Some(ipv4) = &settings.ipv4_settings {
        for (number, address) in ipv4.addrs.iter().enumerate() {
            line("address", &with_mask(address, ipv4.subnet_masks.get(number).map_or("", String::as_str)));
        }
        if !ipv4.router.is_empty() {
            line("router", &ipv4.router);
        }
        for (key, routes) in [("route", &ipv4.included_routes), ("exclude", &ipv4.excluded_routes)] {
            routes.iter().for_each(|r| line(key, &via(with_mask(&r.destination, &r.mask), &r.router)));
        }
    }
    if let Some(ipv6) = &settings.ipv6_settings {
        for (number, address) in ipv6.addrs.iter().enumerate() {
            let length = ipv6.prefix_lengths.get(number);
            line("address", &length.map_or_else(|| address.clone(), |length| format!("{address}/{length}")));
        }
        for (key, routes) in [("route", &ipv6.included_routes), ("exclude", &ipv6.excluded_routes)] {
            routes.iter().for_each(|r| line(key, &via(format!("{}/{}", r.destination, r.prefix_length), &r.router)));
        }
    }
    if settings.mtu != 0 {
        line("mtu", &settings.mtu.to_string());
    }
    if let Some(dns) = &settings.dns_settings {
        dns.servers.iter().for_each(|server| line("dns", server));
        dns.search_domains.iter().for_each(|domain| line("search", domain));
        if !dns.domain_name.is_empty() {
            line("domain", &dns.domain_name);
        }
        dns.match_domains.iter().for_each(|domain| line("match", domain));
        if dns.match_domains_no_search {
            line("match_only", "true");
        }
    }
    if settings.tunnel_overhead_bytes != 0 {
        line("overhead", &settings.tunnel_overhead_bytes.to_string());
    }
    if !settings.tunnel_remote_address.is_empty() {
        line("remote", &settings.tunnel_remote_address);
    }
    text
}

fn with_mask(address: &str, mask: &str) -> String {
    let length = mask.parse().ok().and_then(|mask| ipnet::ip_mask_to_prefix(mask).ok());
    length.map_or_else(|| address.to_owned(), |length| format!("{address}/{length}"))
}

fn via(destination: String, router: &str) -> String {
    if router.is_empty() { destination } else { format!("{destination} via {router}") }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ALL: &str = "address=10.0.0.2/24\naddress=10.0.1.2/32\nrouter=10.0.0.1\nroute=10.0.0.0/8\n\
        route=0.0.0.0/0 via 10.0.0.1\nexclude=192.0.2.7/32\naddress=fd00::2/64\nroute=fd00::/48\n\
        exclude=2001:db8::/32 via fd00::1\nmtu=1280\ndns=10.0.0.53\ndns=fd00::53\nsearch=corp.example\n\
        domain=example\nmatch=corp.example\nmatch=\nmatch_only=true\noverhead=80\nremote=192.0.2.7\n";

    #[test]
    fn settings_come_back_as_they_went() {
        let settings = parse(ALL).unwrap();
        assert_eq!(write(&settings), ALL);
        assert_eq!(parse(&write(&settings)).unwrap(), settings);
        let ipv4 = settings.ipv4_settings.unwrap();
        assert_eq!(ipv4.subnet_masks, ["255.255.255.0", "255.255.255.255"]);
        assert_eq!((ipv4.included_routes.len(), ipv4.excluded_routes[0].mask.as_str()), (2, "255.255.255.255"));
        assert_eq!(settings.dns_settings.unwrap().match_domains, ["corp.example", ""]);
        assert_eq!(parse("\n").unwrap(), NetworkSettingsRequest::default());
        assert_eq!(write(&NetworkSettingsRequest::default()), "");
    }

    #[test]
    fn hosts_and_routes_are_completed() {
        let settings = parse(" address=10.0.0.2 \nroute=10.1.2.3/8\n").unwrap();
        assert_eq!(write(&settings), "address=10.0.0.2/32\nroute=10.0.0.0/8\n");
    }

    #[test]
    fn what_a_manager_would_not_read_is_not_written_as_more_lines() {
        let settings = NetworkSettingsRequest { tunnel_remote_address: "a\nmtu=1".into(), ..Default::default() };
        assert_eq!(write(&settings), "remote=amtu=1\n");
    }

    #[test]
    fn bad_lines_are_named() {
        for (text, reason) in [
            ("mtu=1280\naddress", "line 2: it is not of the form key=value"),
            ("mtu=x", "line 1: mtu is not a number"),
            ("mtu=-1", "line 1: mtu is not a number"),
            ("address=10.0.0.2/33", "line 1: \"10.0.0.2/33\" is not an address with a prefix length"),
            ("route=10.0.0.0/8 via fd00::1", "line 1: \"10.0.0.0/8 via fd00::1\" has addresses of two families"),
            ("router=fd00::1", "line 1: \"fd00::1\" is not an IPv4 address"),
            ("dns=corp.example", "line 1: \"corp.example\" is not an IP address"),
            ("match_only=1", "line 1: match_only is neither true nor false"),
            ("gateway=10.0.0.1", "line 1: there is no key \"gateway\""),
        ] {
            assert_eq!(parse(text).unwrap_err(), reason);
        }
    }
}
