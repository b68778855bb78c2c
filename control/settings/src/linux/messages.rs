//! The rtnetlink messages of steps, and the contents of the kernel's.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    address::{AddressAttribute, AddressMessage, AddressScope},
    link::{LinkAttribute, LinkFlags, LinkMessage},
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType},
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
};

use crate::plan::{Family, RouteKind, Rule};

/// The number of the main table.
pub(super) const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// The messages that create and remove an object.
pub(super) struct Order {
    pub(super) add: Message,
    pub(super) remove: Message,
}

/// An interface.
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mtu: u32,
    pub(super) up: bool,
}

/// The relevant fields of a route.
#[derive(Clone, Copy)]
pub(super) struct Route {
    pub(super) table: u32,
    pub(super) is_default: bool,
    /// The route's own MTU.
    pub(super) mtu: Option<u32>,
    /// The index of its interface.
    pub(super) interface: Option<u32>,
}

/// The relevant fields of a routing rule.
pub(super) struct KernelRule {
    pub(super) priority: u32,
    pub(super) table: u32,
    /// Whether it applies to all packets except those with a mark.
    pub(super) inverted_mark: bool,
}

const fn number(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

const fn of(address: IpAddr) -> (AddressFamily, u8) {
    match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    }
}

/// Returns the number of a table for a header, which has one byte for it: 0 if it does not fit.
fn short(table: u32) -> u8 {
    u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC)
}

pub(super) fn address(index: u32, address: IpNet) -> Order {
    let ip = address.addr();
    let mut message = AddressMessage::default();
    message.header.family = of(ip).0;
    message.header.prefix_len = address.prefix_len();
    message.header.index = index;
    if ip.is_loopback() {
        message.header.scope = AddressScope::Host;
    }
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    Order { add: Message::NewAddress(message.clone()), remove: Message::DelAddress(message) }
}

pub(super) fn mtu(index: u32, mtu: u32) -> Message {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![LinkAttribute::Mtu(mtu)];
    Message::SetLink(message)
}

pub(super) fn up(index: u32, up: bool) -> Message {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.change_mask = LinkFlags::Up;
    if up {
        message.header.flags = LinkFlags::Up;
    }
    Message::SetLink(message)
}

pub(super) fn remove_link(index: u32) -> Message {
    let mut message = LinkMessage::default();
    message.header.index = index;
    Message::DelLink(message)
}

pub(super) fn route(index: u32, prefix: IpNet, table: u32, kind: RouteKind) -> Order {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = of(prefix.addr()).0;
    header.destination_prefix_length = prefix.prefix_len();
    header.table = short(table);
    header.protocol = RouteProtocol::Boot;
    let is_v4 = Family::of(&prefix) == Family::V4;
    (header.kind, header.scope) = match kind {
        RouteKind::Tunnel if is_v4 => (RouteType::Unicast, RouteScope::Link),
        RouteKind::Tunnel => (RouteType::Unicast, RouteScope::Universe),
        RouteKind::Throw => (RouteType::Throw, RouteScope::Universe),
    };
    message.attributes.push(RouteAttribute::Table(table));
    if prefix.prefix_len() != 0 {
        message.attributes.push(RouteAttribute::Destination(prefix.addr().into()));
    }
    if kind == RouteKind::Tunnel {
        message.attributes.push(RouteAttribute::Oif(index));
    }
    Order { add: Message::NewRoute(message.clone()), remove: Message::DelRoute(message) }
}

pub(super) fn rule(family: Family, priority: u32, rule: Rule) -> Order {
    let mut message = RuleMessage::default();
    message.header.family = number(family);
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![RuleAttribute::Priority(priority)];
    let table = match rule {
        Rule::NotMarked(mark) => {
            message.header.flags = RuleFlags::Invert;
            message.attributes.push(RuleAttribute::FwMark(mark));
            mark
        }
        Rule::MainWithoutDefault => {
            message.attributes.push(RuleAttribute::SuppressPrefixLen(0));
            MAIN
        }
    };
    message.header.table = short(table);
    message.attributes.push(RuleAttribute::Table(table));
    Order { add: Message::NewRule(message.clone()), remove: Message::DelRule(message) }
}

pub(super) fn get_link(index: u32) -> Message {
    let mut message = LinkMessage::default();
    message.header.index = index;
    Message::GetLink(message)
}

pub(super) fn get_link_by_name(name: &str) -> Message {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.into())];
    Message::GetLink(message)
}

pub(super) fn get_route(address: IpAddr, mark: u32) -> Message {
    let mut message = RouteMessage::default();
    (message.header.address_family, message.header.destination_prefix_length) = of(address);
    message.attributes = vec![RouteAttribute::Destination(address.into())];
    if mark != 0 {
        message.attributes.push(RouteAttribute::Mark(mark));
    }
    Message::GetRoute(message)
}

pub(super) fn get_routes(family: Family, table: u32) -> Message {
    let mut message = RouteMessage::default();
    message.header.address_family = number(family);
    message.attributes = vec![RouteAttribute::Table(table)];
    Message::GetRoute(message)
}

pub(super) fn get_rules(family: Family) -> Message {
    let mut message = RuleMessage::default();
    message.header.family = number(family);
    Message::GetRule(message)
}

pub(super) fn read_link(message: &Message) -> Option<Link> {
    let Message::NewLink(message) = message else { return None };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            _ => {}
        }
    }
    Some(link)
}

pub(super) fn read_route(message: &Message) -> Option<Route> {
    let Message::NewRoute(message) = message else { return None };
    let mut route = Route {
        table: message.header.table.into(),
        is_default: message.header.destination_prefix_length == 0 && message.header.kind == RouteType::Unicast,
        mtu: None,
        interface: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Oif(index) => route.interface = Some(*index),
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(route)
}

pub(super) fn read_rule(family: Family, message: &Message) -> Option<KernelRule> {
    let Message::NewRule(message) = message else { return None };
    // A kernel without a family returns all rules that it has.
    if message.header.family != number(family) {
        return None;
    }
    let mut rule = KernelRule { priority: 0, table: message.header.table.into(), inverted_mark: false };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::FwMark(mark) if *mark != 0 => {
                rule.inverted_mark = message.header.flags.contains(RuleFlags::Invert);
            }
            _ => {}
        }
    }
    Some(rule)
}
