//! DNS: systemd-resolved by `resolvectl`, or else `resolvconf`.

use std::fs;

use wg_embed::error::Result;

use super::programs::Programs;
use crate::{plan::Resolver, settings::Dns};

/// Returns the program that sets DNS servers here.
pub(super) fn resolver(programs: &Programs) -> Option<Resolver> {
    if programs.has_resolved() && programs.has("resolvectl") {
        Some(Resolver::Resolved)
    } else if programs.has("resolvconf") {
        Some(Resolver::Resolvconf(prefix(&fs::read_to_string(&programs.resolvconf_order).unwrap_or_default())))
    } else {
        None
    }
}

/// Returns the prefix for an interface's name by which its servers come first: the first pattern of the order that ends
/// in `*` and has no other special characters.
fn prefix(order: &str) -> String {
    let pattern = |line: &str| {
        let name = line.trim().strip_suffix('*')?;
        let is_plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        is_plain.then(|| format!("{name}."))
    };
    order.lines().find_map(pattern).unwrap_or_default()
}

pub(super) fn set(programs: &Programs, interface: &str, resolver: &Resolver, dns: &Dns) -> Result<()> {
    let result = match resolver {
        Resolver::Resolved => {
            resolved(interface, dns).try_for_each(|call| programs.run("resolvectl", call, "").map(drop))
        }
        Resolver::Resolvconf(prefix) => {
            let name = format!("{prefix}{interface}");
            programs.run("resolvconf", ["-a", &name, "-m", "0", "-x"], &lines(dns)).map(drop)
        }
    };
    // Some of it may have been applied.
    result.inspect_err(|_| {
        if let Err(error) = unset(programs, interface, resolver) {
            tracing::warn!(%error, "DNS settings could not be undone");
        }
    })
}

pub(super) fn unset(programs: &Programs, interface: &str, resolver: &Resolver) -> Result<()> {
    match resolver {
        Resolver::Resolved => programs.run("resolvectl", ["revert", interface], ""),
        Resolver::Resolvconf(prefix) => programs.run("resolvconf", ["-d", &format!("{prefix}{interface}"), "-f"], ""),
    }
    .map(drop)
}

/// Returns the calls of `resolvectl`.
fn resolved(interface: &str, dns: &Dns) -> impl Iterator<Item = Vec<String>> {
    let call = |what: &str, values: Vec<String>| [vec![what.to_owned(), interface.to_owned()], values].concat();
    let servers = dns.servers.iter().map(ToString::to_string).collect();
    // A tilde: not for completing names.
    let only = dns.only.iter().map(|domain| format!("~{}", domain.trim_matches('.')));
    let routed: Vec<String> = if dns.is_for_all() { vec!["~.".into()] } else { only.collect() };
    let is_default = if dns.is_for_all() { "yes" } else { "no" };
    [
        call("dns", servers),
        call("domain", [dns.search.clone(), routed].concat()),
        call("default-route", vec![is_default.into()]),
    ]
    .into_iter()
}

/// Returns the lines of a `resolv.conf`.
fn lines(dns: &Dns) -> String {
    let mut text: String = dns.servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    if !dns.search.is_empty() {
        text += &format!("search {}\n", dns.search.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dns(only: &[&str]) -> Dns {
        Dns {
            servers: vec!["192.0.2.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            search: vec!["a.example".into(), "b.example".into()],
            only: only.iter().map(|&domain| domain.into()).collect(),
        }
    }

    fn calls(dns: &Dns) -> Vec<String> {
        resolved("wg0", dns).map(|call| call.join(" ")).collect()
    }

    #[test]
    fn resolved_is_told_which_names_are_looked_up() {
        let all = ["dns wg0 192.0.2.1 fd00::1", "domain wg0 a.example b.example ~.", "default-route wg0 yes"];
        assert_eq!(calls(&dns(&[])), all);
        assert_eq!(calls(&dns(&["c.example", ""])), all);
        let some = ["dns wg0 192.0.2.1 fd00::1", "domain wg0 a.example b.example ~c.example", "default-route wg0 no"];
        assert_eq!(calls(&dns(&["c.example."])), some);
    }

    #[test]
    fn resolvconf_gets_lines() {
        assert_eq!(lines(&dns(&[])), "nameserver 192.0.2.1\nnameserver fd00::1\nsearch a.example b.example\n");
    }

    #[test]
    fn the_order_of_interfaces_gives_a_prefix() {
        assert_eq!(prefix("# x\nlo.inet*\nlo\ntun*\ntap*\n"), "tun.");
        assert_eq!(prefix("*\n"), "");
    }
}
