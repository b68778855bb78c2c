//! The plans of the configurations in `tests/plans/`: for each `NAME.conf` there is the expected `NAME.plan`.
//!
//! Lines `#= FAMILY INDEX METRIC MTU up|down` of a configuration are the default routes outside; the tunnel's LUID is
//! 99. With `UPDATE_PLANS=1` the expected files are written.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{fs, path::Path};

use wg_embed::config::wgquick::Conf;
use wg_embed_windows_tunnel::{
    Family, Step,
    firewall::{Action, Condition, Layer},
    outside::{DefaultRoute, Outside},
    plan,
};

const TUNNEL: u64 = 99;

fn route(line: &str) -> Option<DefaultRoute> {
    let mut words = line.strip_prefix("#= ")?.split(' ');
    let mut next = || words.next().unwrap();
    let family = if next() == "ipv4" { Family::V4 } else { Family::V6 };
    let [index, metric, mtu]: [u32; 3] = [next(), next(), next()].map(|word| word.parse().unwrap());
    Some(DefaultRoute { family, luid: index.into(), index, metric, mtu, up: next() == "up" })
}

fn planned(text: &str) -> Vec<Step> {
    let routes: Vec<_> = text.lines().filter_map(route).collect();
    plan(&text.parse::<Conf>().unwrap(), &Outside::choose(&routes, TUNNEL))
}

#[test]
fn plans_are_as_expected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans");
    let (mut count, mut wrong) = (0, Vec::new());
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "conf") {
            count += 1;
            let plan: String =
                planned(&fs::read_to_string(&path).unwrap()).iter().map(|step| format!("{step}\n")).collect();
            let expected = path.with_extension("plan");
            if std::env::var_os("UPDATE_PLANS").is_some() {
                fs::write(&expected, plan).unwrap();
            } else if fs::read_to_string(&expected).unwrap_or_default().replace('\r', "") != plan {
                wrong.push(format!("{}:\n{plan}", path.display()));
            }
        }
    }
    assert!(count >= 8, "{count}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a packet has, of the properties that conditions are about.
#[derive(Default)]
struct Packet {
    own_program: bool,
    in_tunnel: bool,
    loopback: bool,
    protocol: u8,
    local_port: u16,
    remote_port: u16,
    remote: Option<std::net::IpAddr>,
}

/// Decides as WFP does: the filter with the largest weight that applies; several conditions on one property are
/// alternatives.
fn decide(steps: &[Step], layer: Layer, packet: &Packet) -> Action {
    let Some(Step::Firewall(filters)) = steps.first() else { panic!("there is no firewall") };
    let holds = |condition: &Condition| match *condition {
        Condition::OwnProgram => packet.own_program,
        Condition::TunnelInterface => packet.in_tunnel,
        Condition::Loopback => packet.loopback,
        Condition::Protocol(number) => packet.protocol == number,
        Condition::LocalPort(port) => packet.local_port == port,
        Condition::RemotePort(port) => packet.remote_port == port,
        Condition::IcmpType(_) | Condition::IcmpCode(_) | Condition::LocalAddress(_) => false,
        Condition::RemoteAddress(prefix) => packet.remote.is_some_and(|remote| prefix.contains(&remote)),
    };
    let applies = |conditions: &[Condition]| {
        conditions.iter().all(|one| {
            let kind = std::mem::discriminant(one);
            conditions.iter().any(|other| std::mem::discriminant(other) == kind && holds(other))
        })
    };
    let of_layer = filters.iter().filter(|filter| filter.layer == layer && applies(&filter.conditions));
    of_layer.max_by_key(|filter| filter.weight).map(|filter| filter.action).unwrap()
}

#[test]
fn the_kill_switch_decides_as_documented() {
    let text = "[Interface]\nAddress = 10.0.0.2/32\nDNS = 10.0.0.1\n\
                [Peer]\nPublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\nAllowedIPs = 0.0.0.0/0\n";
    let steps = planned(text);
    let decide = |packet: Packet| decide(&steps, Layer::ConnectV4, &packet);
    let query = |server: &str| Packet {
        protocol: 17,
        remote_port: 53,
        remote: Some(server.parse().unwrap()),
        ..Packet::default()
    };
    assert_eq!(decide(Packet::default()), Action::Block);
    assert_eq!(decide(Packet { own_program: true, ..Packet::default() }), Action::Permit);
    assert_eq!(decide(Packet { in_tunnel: true, protocol: 6, ..Packet::default() }), Action::Permit);
    assert_eq!(decide(Packet { loopback: true, ..Packet::default() }), Action::Permit);
    assert_eq!(decide(Packet { in_tunnel: true, ..query("10.0.0.1") }), Action::Permit);
    assert_eq!(decide(Packet { in_tunnel: true, ..query("8.8.8.8") }), Action::Block);
    assert_eq!(decide(query("10.0.0.1")), Action::Block, "outside of the tunnel");
    assert_eq!(decide(Packet { loopback: true, ..query("127.0.0.53") }), Action::Permit, "on this machine");
    let dhcp = Packet { protocol: 17, local_port: 68, remote_port: 67, ..Packet::default() };
    assert_eq!(decide(Packet { remote: Some("255.255.255.255".parse().unwrap()), ..dhcp }), Action::Permit);
    let elsewhere = Packet { protocol: 17, local_port: 68, remote_port: 67, ..Packet::default() };
    assert_eq!(decide(Packet { remote: Some("192.0.2.1".parse().unwrap()), ..elsewhere }), Action::Block);
}
