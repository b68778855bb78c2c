//! The kill switch: what the Windows Filtering Platform (WFP) is asked to permit and to block, as data.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Where a filter is asked: when a connection is made, or a packet of a new flow received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layer {
    /// `FWPM_LAYER_ALE_AUTH_CONNECT_V4`: outgoing IPv4.
    ConnectV4,
    /// `FWPM_LAYER_ALE_AUTH_CONNECT_V6`: outgoing IPv6.
    ConnectV6,
    /// `FWPM_LAYER_ALE_AUTH_RECV_ACCEPT_V4`: incoming IPv4.
    AcceptV4,
    /// `FWPM_LAYER_ALE_AUTH_RECV_ACCEPT_V6`: incoming IPv6.
    AcceptV6,
}

impl Layer {
    const ALL: [Self; 4] = [Self::ConnectV4, Self::ConnectV6, Self::AcceptV4, Self::AcceptV6];
    const V4: [Self; 2] = [Self::ConnectV4, Self::AcceptV4];
    const V6: [Self; 2] = [Self::ConnectV6, Self::AcceptV6];
}

/// The decision of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Let it pass. Other firewalls can still block it.
    Permit,
    /// Block it.
    Block,
}

/// What a filter applies to. Of several conditions on the same property one must hold, and all on different properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// The socket belongs to the executable file of the tunnel's own process.
    OwnProgram,
    /// The packet is on the tunnel's interface.
    TunnelInterface,
    /// The packet stays on this machine.
    Loopback,
    /// The number of the protocol over IP.
    Protocol(u8),
    /// The local port.
    LocalPort(u16),
    /// The remote port.
    RemotePort(u16),
    /// The type of an ICMP message.
    IcmpType(u8),
    /// The code of an ICMP message.
    IcmpCode(u8),
    /// The local address.
    LocalAddress(IpNet),
    /// The remote address.
    RemoteAddress(IpNet),
}

/// A filter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Its purpose, which tools like `netsh wfp` show.
    pub name: &'static str,
    /// Where it is asked.
    pub layer: Layer,
    /// Its decision.
    pub action: Action,
    /// 0 to 15: of all filters that apply, that with the largest weight decides.
    pub weight: u8,
    /// What it applies to; empty: everything.
    pub conditions: Vec<Condition>,
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, layer, action, weight, conditions } = self;
        write!(f, "{weight:2} {action:?} {layer:?} \"{name}\"")?;
        conditions.iter().try_for_each(|condition| match condition {
            Condition::LocalAddress(prefix) => write!(f, " LocalAddress({prefix})"),
            Condition::RemoteAddress(prefix) => write!(f, " RemoteAddress({prefix})"),
            other => write!(f, " {other:?}"),
        })
    }
}

const UDP: u8 = 17;
const TCP: u8 = 6;
const ICMP_V6: u8 = 58;
const LINK_LOCAL: IpNet = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10));
const BROADCAST: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::BROADCAST, 32));
/// All DHCPv6 relays and servers of the link, and all servers of the site.
const DHCP_V6: [IpNet; 2] = [
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2), 128)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 1, 3), 128)),
];

/// Returns the filters that let nothing pass but the tunnel's own packets, packets in the tunnel, packets that stay on
/// this machine, and what the network outside needs to work: DHCP and neighbour discovery. Name servers outside of the
/// tunnel are not reachable, except on this machine; with `dns`, neither are others than these inside.
#[must_use]
pub fn kill_switch(dns: &[IpAddr]) -> Vec<Filter> {
    let mut filters = Vec::new();
    let mut add = |name, layers: &[Layer], action, weight, conditions: &[Condition]| {
        filters.extend(layers.iter().map(|&layer| Filter {
            name,
            layer,
            action,
            weight,
            conditions: conditions.to_vec(),
        }));
    };
    use Action::{Block, Permit};
    add("packets of the tunnel itself", &Layer::ALL, Permit, 15, &[Condition::OwnProgram]);
    // Queries for names too: to a resolver on this machine.
    add("packets that stay on this machine", &Layer::ALL, Permit, 15, &[Condition::Loopback]);
    if !dns.is_empty() {
        for (layers, is_v4) in [(Layer::V4, true), (Layer::V6, false)] {
            let servers: Vec<_> = dns.iter().filter(|server| server.is_ipv4() == is_v4).collect();
            if !servers.is_empty() {
                let mut conditions = queries();
                conditions.extend(servers.into_iter().map(|server| Condition::RemoteAddress(IpNet::from(*server))));
                conditions.push(Condition::TunnelInterface);
                add("the name servers of the tunnel", &layers, Permit, 15, &conditions);
            }
        }
        add("other name servers", &Layer::ALL, Block, 14, &queries());
    }
    add("packets in the tunnel", &Layer::ALL, Permit, 12, &[Condition::TunnelInterface]);
    for (name, layer, conditions) in dhcp() {
        add(name, &[layer], Permit, 12, &conditions);
    }
    for (name, layer, conditions) in neighbour_discovery() {
        add(name, &[layer], Permit, 12, &conditions);
    }
    add("everything else", &Layer::ALL, Block, 0, &[]);
    filters
}

/// Returns the conditions of queries for names.
fn queries() -> Vec<Condition> {
    vec![Condition::Protocol(UDP), Condition::Protocol(TCP), Condition::RemotePort(53)]
}

fn dhcp() -> Vec<(&'static str, Layer, Vec<Condition>)> {
    let v4 = [Condition::Protocol(UDP), Condition::LocalPort(68), Condition::RemotePort(67)];
    let v6 = [
        Condition::Protocol(UDP),
        Condition::LocalPort(546),
        Condition::RemotePort(547),
        Condition::LocalAddress(LINK_LOCAL),
    ];
    let servers = DHCP_V6.map(Condition::RemoteAddress);
    vec![
        ("DHCP", Layer::ConnectV4, [&v4[..], &[Condition::RemoteAddress(BROADCAST)]].concat()),
        ("DHCP", Layer::AcceptV4, v4.to_vec()),
        ("DHCPv6", Layer::ConnectV6, [&v6[..], &servers].concat()),
        ("DHCPv6", Layer::AcceptV6, [&v6[..], &[Condition::RemoteAddress(LINK_LOCAL)]].concat()),
    ]
}

fn neighbour_discovery() -> Vec<(&'static str, Layer, Vec<Condition>)> {
    let message = |number| vec![Condition::Protocol(ICMP_V6), Condition::IcmpType(number), Condition::IcmpCode(0)];
    let nearby = Condition::RemoteAddress(LINK_LOCAL);
    let with = |mut conditions: Vec<_>, condition| {
        conditions.push(condition);
        conditions
    };
    vec![
        ("router solicitation", Layer::ConnectV6, message(133)),
        ("router advertisement", Layer::AcceptV6, with(message(134), nearby)),
        ("neighbour solicitation", Layer::ConnectV6, message(135)),
        ("neighbour solicitation", Layer::AcceptV6, message(135)),
        ("neighbour advertisement", Layer::ConnectV6, message(136)),
        ("neighbour advertisement", Layer::AcceptV6, message(136)),
        ("redirect", Layer::AcceptV6, with(message(137), nearby)),
    ]
}
