//! Linux: reads the state, and performs and undoes steps.

mod dns;
mod firewall;
pub(crate) mod hooks;
pub(crate) mod life;
mod messages;
mod netlink;
pub(crate) mod programs;
mod record;

use std::{fs, io};

use wg_embed::error::{Error, Result};

use crate::{
    applied::System,
    plan::{Family, RouteKind, Rule, State, Step},
    settings::Settings,
};
use messages::Link;
use netlink::Netlink;
use programs::Programs;

/// The setting that includes packet marks in the validation of source addresses. The kernel shows each thread the value
/// of its own network namespace.
const SRC_VALID_MARK: &str = "/proc/sys/net/ipv4/conf/all/src_valid_mark";

/// The default MTU, in bytes.
const ETHERNET_MTU: u32 = 1500;

/// The first mark that is tried: the usual port of WireGuard.
const FIRST_MARK: u32 = 51_820;

/// An interface, and its network namespace. Steps are performed in the namespace of the thread that created this value,
/// which must also call the functions: programs inherit the namespace from the calling thread.
#[derive(Debug)]
pub struct Linux {
    interface: String,
    index: u32,
    netlink: Netlink,
    programs: Programs,
}

impl Linux {
    /// Creates it for an interface in the calling thread's network namespace.
    ///
    /// # Errors
    /// `Invalid` for a name that wg-quick(8) does not accept: up to 15 letters, digits and `_=+.-`; `NotFound` if there
    /// is no such interface.
    pub fn new(interface: &str) -> Result<Self> {
        check_name(interface)?;
        let mut netlink = Netlink::open()?;
        let link = netlink.link(interface)?;
        Ok(Self { interface: interface.into(), index: link.index, netlink, programs: Programs::default() })
    }

    /// Creates it for an interface that had this index and may no longer exist: its steps can be undone.
    pub(crate) fn of_index(interface: &str, index: u32, programs: Programs) -> Result<Self> {
        Ok(Self { interface: interface.into(), index, netlink: Netlink::open()?, programs })
    }

    /// Uses these programs instead of those in the `PATH` of the process.
    #[must_use]
    pub fn with_programs(mut self, programs: Programs) -> Self {
        self.programs = programs;
        self
    }

    /// Returns the interface's index.
    pub(crate) const fn index(&self) -> u32 {
        self.index
    }

    /// Returns whether the interface exists.
    fn exists(&mut self) -> Result<bool> {
        Ok(self.netlink.link_of(self.index)?.is_some_and(|link| link.name == self.interface))
    }

    /// Returns the largest path MTU to an endpoint, or that of the default route.
    fn path_mtu(&mut self, settings: &Settings) -> Result<u32> {
        let mut largest = None;
        for &endpoint in &settings.endpoints {
            if let Some(route) = self.netlink.route_to(endpoint, settings.fwmark)? {
                largest = largest.max(self.mtu_of(route)?);
            }
        }
        if largest.is_none()
            && let Some(route) = self.netlink.default_route()?
        {
            largest = self.mtu_of(route)?;
        }
        Ok(largest.unwrap_or(ETHERNET_MTU))
    }

    fn mtu_of(&mut self, route: messages::Route) -> Result<Option<u32>> {
        if let Some(mtu) = route.mtu.filter(|&mtu| mtu != 0) {
            return Ok(Some(mtu));
        }
        let link: Option<Link> = route.interface.map(|index| self.netlink.link_of(index)).transpose()?.flatten();
        Ok(link.map(|link| link.mtu))
    }

    /// Returns whether a rule other than ours needs marks in the validation.
    fn has_rule_by_mark(&mut self) -> Result<bool> {
        Ok(self.netlink.rules(Family::V4)?.iter().any(|rule| rule.inverted_mark))
    }
}

impl System for Linux {
    fn state(&mut self, settings: &Settings) -> Result<State> {
        let link = self.netlink.link_of(self.index)?.ok_or_else(|| netlink::no_interface(&self.interface))?;
        let mut priorities = |family| Ok::<_, Error>(self.netlink.rules(family)?.iter().map(|r| r.priority).collect());
        let (rules_v4, rules_v6) = (priorities(Family::V4)?, priorities(Family::V6)?);
        Ok(State {
            mtu: link.mtu,
            up: link.up,
            path_mtu: self.path_mtu(settings)?,
            rules_v4,
            rules_v6,
            src_valid_mark: fs::read_to_string(SRC_VALID_MARK).is_ok_and(|value| value.trim() != "0"),
            resolver: dns::resolver(&self.programs),
            firewall: firewall::program(&self.programs),
        })
    }

    fn perform(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Address(address) => self.netlink.add(&messages::address(self.index, *address)),
            Step::Mtu { mtu, .. } => self.netlink.set(&messages::mtu(self.index, *mtu)),
            Step::Up => self.netlink.set(&messages::up(self.index, true)),
            Step::Dns { resolver, dns } => dns::set(&self.programs, &self.interface, resolver, dns),
            Step::Firewall { firewall, family, addresses, mark } => {
                firewall::add(&self.programs, &self.interface, *firewall, *family, addresses, *mark)
            }
            Step::SrcValidMark => fs::write(SRC_VALID_MARK, "1").map_err(|e| Error::io("", e)),
            Step::Route { prefix, table, kind } => {
                self.netlink.add(&messages::route(self.index, *prefix, *table, *kind))
            }
            Step::Rule { family, priority, rule } => self.netlink.add(&messages::rule(*family, *priority, *rule)),
        }
        .map_err(|error| error.at(format_args!("cannot {}", self.describe(step))))
    }

    fn undo(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Address(address) => self.netlink.remove(&messages::address(self.index, *address)),
            Step::Mtu { before, .. } => self.netlink.remove_by(&messages::mtu(self.index, *before)),
            Step::Up => self.netlink.remove_by(&messages::up(self.index, false)),
            Step::Dns { resolver, .. } => match dns::unset(&self.programs, &self.interface, resolver) {
                // Settings of resolved are removed with the interface.
                Err(error) if self.exists()? => Err(error),
                _ => Ok(()),
            },
            Step::Firewall { firewall, family, .. } => {
                firewall::remove(&self.programs, &self.interface, *firewall, *family)
            }
            // Another tunnel was started later, and needs it.
            Step::SrcValidMark if self.has_rule_by_mark()? => Ok(()),
            Step::SrcValidMark => fs::write(SRC_VALID_MARK, "0").map_err(|e| Error::io("", e)),
            Step::Route { prefix, table, kind } => {
                self.netlink.remove(&messages::route(self.index, *prefix, *table, *kind))
            }
            Step::Rule { family, priority, rule } => self.netlink.remove(&messages::rule(*family, *priority, *rule)),
        }
        .map_err(|error| error.at(format_args!("cannot undo: {}", self.describe(step))))
    }
}

impl Linux {
    /// Describes a step, for errors.
    fn describe(&self, step: &Step) -> String {
        let interface = &self.interface;
        match step {
            Step::Address(address) => format!("add the address {address} to {interface}"),
            Step::Mtu { mtu, .. } => format!("set the MTU of {interface} to {mtu}"),
            Step::Up => format!("take {interface} up"),
            Step::Dns { resolver: crate::Resolver::Resolved, .. } => format!("set DNS for {interface} by resolvectl"),
            Step::Dns { .. } => format!("set DNS for {interface} by resolvconf"),
            Step::Firewall { firewall: crate::Firewall::Nft, .. } => format!("set the firewall for {interface} by nft"),
            Step::Firewall { .. } => format!("set the firewall for {interface} by iptables-restore"),
            Step::SrcValidMark => format!("write to {SRC_VALID_MARK}"),
            Step::Route { prefix, table, kind: RouteKind::Tunnel } => {
                format!("add a route to {prefix} by {interface} to table {table}")
            }
            Step::Route { prefix, table, .. } => format!("exclude {prefix} from table {table}"),
            Step::Rule { family, rule: Rule::NotMarked(mark), .. } => {
                format!("add a rule for all but the mark {mark} ({family:?})")
            }
            Step::Rule { family, .. } => format!("add a rule for the main table ({family:?})"),
        }
    }
}

/// Returns a mark for [`Settings::fwmark`] in the calling thread's network namespace: the number of a table without
/// routes that is not used by any rule.
///
/// # Errors
/// Errors of the kernel.
pub fn free_mark() -> Result<u32> {
    let mut netlink = Netlink::open()?;
    let mut named = Vec::new();
    for family in [Family::V4, Family::V6] {
        named.extend(netlink.rules(family)?.iter().map(|rule| rule.table));
    }
    for mark in FIRST_MARK.. {
        let free =
            !named.contains(&mark) && netlink.is_empty(Family::V4, mark)? && netlink.is_empty(Family::V6, mark)?;
        if free {
            return Ok(mark);
        }
    }
    Err(Error::io("there is no free routing table", io::ErrorKind::AlreadyExists.into()))
}

/// Checks the name of an interface as wg-quick(8) does. Such names have no special meaning in the languages of the
/// programs that are run.
fn check_name(interface: &str) -> Result<()> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_=+.-".contains(&b);
    let is_name = (1..=15).contains(&interface.len()) && interface.bytes().all(allowed);
    if is_name && !matches!(interface, "." | "..") && !interface.starts_with('-') {
        return Ok(());
    }
    Err(Error::invalid(format!("{interface:?} is not the name of an interface: up to 15 letters, digits and _=+.-")))
}
