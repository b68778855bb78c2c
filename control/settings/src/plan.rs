//! Converts settings and the state of the system to steps, without accessing the system.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use wg_embed::{
    config::wgquick::Table,
    error::{Error, ErrorKind, Result},
};

use crate::settings::{Dns, Settings};

/// The number of the main table.
const MAIN: u32 = 254;

/// The size of the tunnel's own headers: IPv6, UDP, and the tunnel's 32 bytes, as in wg-quick.
const OVERHEAD: u32 = 80;

/// The size that every IPv4 host can receive. A smaller MTU is set only on request.
const SMALLEST_MTU: u32 = 576;

/// The state on which a plan depends, before the first step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The interface's MTU, in bytes.
    pub mtu: u32,
    /// Whether the interface is up.
    pub up: bool,
    /// The largest path MTU to an endpoint, or that of the default route, in bytes.
    pub path_mtu: u32,
    /// Priorities of the rules for IPv4.
    pub rules_v4: Vec<u32>,
    /// Priorities of the rules for IPv6.
    pub rules_v6: Vec<u32>,
    /// Whether the kernel includes marks in the validation of source addresses.
    pub src_valid_mark: bool,
    /// The program that sets DNS servers, if the system has one.
    pub resolver: Option<Resolver>,
    /// The program that sets the firewall's rules, if the system has one.
    pub firewall: Option<Firewall>,
}

/// A program that sets DNS servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resolver {
    /// systemd-resolved, by `resolvectl`.
    Resolved,
    /// `resolvconf`, in which the interface has a name with this prefix.
    Resolvconf(String),
}

/// A program that sets the firewall's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Firewall {
    /// `nft`.
    Nft,
    /// `iptables-restore` and `ip6tables-restore`.
    Iptables,
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Returns the family of a prefix.
    #[must_use]
    pub const fn of(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }
}

/// The target of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RouteKind {
    /// Into the tunnel.
    Tunnel,
    /// Out of its table: the following rules decide.
    Throw,
}

/// The contents of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rule {
    /// Packets without this mark use the table of the same number.
    NotMarked(u32),
    /// The main table is used first, except its default route.
    MainWithoutDefault,
}

/// A change to the system, with everything needed to undo it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Adds an address to the interface.
    Address(IpNet),
    /// Sets the interface's MTU.
    Mtu {
        /// In bytes.
        mtu: u32,
        /// The previous value, in bytes.
        before: u32,
    },
    /// Brings the interface up.
    Up,
    /// Sets the DNS servers.
    Dns {
        /// The program that sets them.
        resolver: Resolver,
        /// The settings, with at least one server.
        dns: Dns,
    },
    /// Drops packets to the interface's addresses that do not come out of the tunnel, and applies the mark of the
    /// tunnel's own packets to the replies to them.
    Firewall {
        /// The program that sets it.
        firewall: Firewall,
        /// The family of the packets.
        family: Family,
        /// The interface's addresses.
        addresses: Vec<IpAddr>,
        /// The mark of the tunnel's own packets.
        mark: u32,
    },
    /// Includes marks in the kernel's validation of source addresses (IPv4).
    SrcValidMark,
    /// Adds a route.
    Route {
        /// The destination.
        prefix: IpNet,
        /// The number of its table.
        table: u32,
        /// The target.
        kind: RouteKind,
    },
    /// Adds a rule.
    Rule {
        /// The family of the packets.
        family: Family,
        /// Rules with smaller priorities come first.
        priority: u32,
        /// The contents.
        rule: Rule,
    },
}

impl Step {
    /// Returns whether performing this step leaves nothing of `other`.
    pub(crate) const fn replaces(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Mtu { .. }, Self::Mtu { .. }) | (Self::Dns { .. }, Self::Dns { .. }))
    }

    /// Returns whether the kernel may remove this when an address of the interface is removed.
    pub(crate) const fn goes_with_addresses(&self) -> bool {
        matches!(self, Self::Address(_) | Self::Route { kind: RouteKind::Tunnel, .. })
    }
}

/// Returns the steps for these settings, in order. Duplicate settings count once.
///
/// # Errors
/// `Invalid` if a mark is needed and there is none, and for excluded routes in the main table; `Unsupported`, naming
/// what is missing, if there is no program that sets DNS servers or the firewall, or that can limit DNS to some
/// domains.
pub fn plan(settings: &Settings, state: &State) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let addresses = without_repetitions(settings.addresses.iter().copied());
    steps.extend(addresses.iter().map(|&address| Step::Address(address)));
    let mtu = settings.mtu.map_or_else(|| state.path_mtu.saturating_sub(OVERHEAD).max(SMALLEST_MTU), u32::from);
    if mtu != state.mtu {
        steps.push(Step::Mtu { mtu, before: state.mtu });
    }
    if !state.up {
        steps.push(Step::Up);
    }
    if !settings.dns.servers.is_empty() {
        steps.push(dns(&settings.dns, state)?);
    }
    routes(settings, &addresses, state, &mut steps)?;
    Ok(steps)
}

fn dns(dns: &Dns, state: &State) -> Result<Step> {
    let unsupported = |text| Err(Error::new(ErrorKind::Unsupported, text));
    match &state.resolver {
        None => unsupported(
            "DNS servers cannot be set: systemd-resolved does not run with resolvectl, and there is no resolvconf",
        ),
        Some(Resolver::Resolvconf(_)) if !dns.is_for_all() => {
            unsupported("resolvconf cannot limit DNS servers to some domains: systemd-resolved can, and does not run")
        }
        Some(resolver) => Ok(Step::Dns { resolver: resolver.clone(), dns: dns.clone() }),
    }
}

fn routes(settings: &Settings, addresses: &[IpNet], state: &State, steps: &mut Vec<Step>) -> Result<()> {
    let excluded = without_repetitions(settings.excluded.iter().map(IpNet::trunc));
    let mut routes = without_repetitions(settings.routes.iter().map(IpNet::trunc));
    routes.retain(|route| !excluded.contains(route));
    // The longest first: a default route requires everything else to exist.
    routes.sort_by_key(|route| std::cmp::Reverse(route.prefix_len()));
    let route = |prefix, table, kind| Step::Route { prefix, table, kind };
    match settings.table {
        Table::Off => {}
        Table::Main if !excluded.is_empty() => {
            return Err(Error::invalid("routes cannot be excluded in the main table, where others are"));
        }
        Table::Main => steps.extend(routes.into_iter().map(|prefix| route(prefix, MAIN, RouteKind::Tunnel))),
        Table::Number(table) => {
            steps.extend(excluded.into_iter().map(|prefix| route(prefix, table, RouteKind::Throw)));
            steps.extend(routes.into_iter().map(|prefix| route(prefix, table, RouteKind::Tunnel)));
        }
        Table::Auto => {
            if settings.needs_mark() && settings.fwmark == 0 {
                return Err(Error::invalid(
                    "a default route or an excluded one needs a mark of the tunnel's own packets",
                ));
            }
            for family in [Family::V4, Family::V6] {
                let of_family = |prefix: &&IpNet| Family::of(prefix) == family;
                let routes: Vec<_> = routes.iter().filter(of_family).copied().collect();
                let excluded: Vec<_> = excluded.iter().filter(of_family).copied().collect();
                by_rules(family, settings.fwmark, &routes, &excluded, addresses, state, steps)?;
            }
        }
    }
    Ok(())
}

/// Plans the routes of one family in [`Table::Auto`].
fn by_rules(
    family: Family,
    mark: u32,
    routes: &[IpNet],
    excluded: &[IpNet],
    addresses: &[IpNet],
    state: &State,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let has_default = routes.iter().any(|route| route.prefix_len() == 0);
    // With exceptions, everything is in one table, as nothing falls through from the main one.
    let in_main = |route: &IpNet| excluded.is_empty() && route.prefix_len() != 0;
    for &prefix in routes.iter().filter(|route| in_main(route)) {
        if !addresses.iter().any(|address| has_route(address, &prefix)) {
            steps.push(Step::Route { prefix, table: MAIN, kind: RouteKind::Tunnel });
        }
    }
    if routes.is_empty() || (!has_default && excluded.is_empty()) {
        return Ok(());
    }
    steps.extend(excluded.iter().map(|&prefix| Step::Route { prefix, table: mark, kind: RouteKind::Throw }));
    let ruled = routes.iter().filter(|route| !in_main(route));
    steps.extend(ruled.map(|&prefix| Step::Route { prefix, table: mark, kind: RouteKind::Tunnel }));
    let firewall = state.firewall.ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, "the firewall cannot be set: there is neither nft nor iptables-restore")
    })?;
    let of_family = addresses.iter().filter(|address| Family::of(address) == family);
    steps.push(Step::Firewall { firewall, family, addresses: of_family.map(IpNet::addr).collect(), mark });
    if family == Family::V4 && !state.src_valid_mark {
        steps.push(Step::SrcValidMark);
    }
    let priorities = match family {
        Family::V4 => &state.rules_v4,
        Family::V6 => &state.rules_v6,
    };
    let mut priority = free_priority(priorities)?;
    steps.push(Step::Rule { family, priority, rule: Rule::NotMarked(mark) });
    if has_default {
        // Added later, so that it is evaluated first; non-default routes of the main table are more specific.
        priority = priority.checked_sub(1).ok_or_else(no_priority)?;
        steps.push(Step::Rule { family, priority, rule: Rule::MainWithoutDefault });
    }
    Ok(())
}

/// Returns whether the kernel itself adds a route to all of `prefix` for an interface with this address.
fn has_route(address: &IpNet, prefix: &IpNet) -> bool {
    let connected = match address {
        IpNet::V4(v4) => v4.prefix_len() < 32 && v4.network().octets()[0] != 0,
        IpNet::V6(_) => true,
    };
    connected && address.trunc().contains(prefix)
}

/// Returns the priority that the kernel gives to a rule without one: before all but the first.
fn free_priority(priorities: &[u32]) -> Result<u32> {
    let mut sorted = priorities.to_vec();
    sorted.sort_unstable();
    // Without rules, it is derived from the usual ones: `main` has 32766.
    sorted.get(1).map_or(Some(32_765), |second| second.checked_sub(1)).ok_or_else(no_priority)
}

fn no_priority() -> Error {
    Error::new(ErrorKind::Exists, "the routing rules leave no priority for another one")
}

fn without_repetitions(prefixes: impl Iterator<Item = IpNet>) -> Vec<IpNet> {
    let mut seen = std::collections::HashSet::new();
    prefixes.filter(|prefix| seen.insert(*prefix)).collect()
}

#[cfg(test)]
mod tests;
