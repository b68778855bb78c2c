//! IPv4 options and IPv6 extension headers, which the kernel also puts on what it wants cut.

use std::os::fd::AsRawFd;

use crate::{
    datagrams,
    lab::{End, Kind, Lab, Plan, TUN, sysctl},
    netns::as_root,
    sockets::{Dice, set_option},
    streams::{self, Stream},
};

/// A socket option: its level, name and value.
type Choice = (i32, i32, Vec<u8>);

fn set(socket: &impl AsRawFd, options: &[Choice]) {
    for (level, name, value) in options {
        set_option(socket, *level, *name, value).unwrap_or_else(|err| panic!("{name}: {err}"));
    }
}

/// Options of sockets of a family, with a name for each set of them.
fn all(family: u8) -> Vec<(&'static str, Vec<Choice>)> {
    let v4 = |value: &[u8]| (libc::IPPROTO_IP, libc::IP_OPTIONS, value.to_vec());
    let v6 = |name, value: &[u8]| (libc::IPPROTO_IPV6, name, value.to_vec());
    let record_route = [&[7, 39, 4][..], &[0; 37]].concat();
    let timestamps = [&[68, 36, 5, 0][..], &[0; 32]].concat();
    let hop_by_hop = v6(libc::IPV6_HOPOPTS, &[0, 0, 1, 4, 0, 0, 0, 0]);
    let destination = v6(libc::IPV6_DSTOPTS, &[0, 1, 0x1e, 12, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 1, 2]);
    match family {
        4 => vec![
            ("no operation", vec![v4(&[1, 1, 1, 0])]),
            ("record route", vec![v4(&record_route)]),
            ("timestamps", vec![v4(&timestamps)]),
        ],
        _ => vec![
            ("hop-by-hop options", vec![hop_by_hop.clone()]),
            ("destination options", vec![destination.clone()]),
            ("both", vec![hop_by_hop, destination]),
        ],
    }
}

/// How many packets with options an end has read, and how many packets of the kernel they were at most.
fn counts(end: &End) -> (usize, u64) {
    (end.judge.read().extended, end.netns.sent(TUN))
}

fn options_pass(plan: Plan) {
    let lab = Lab::new(plan);
    let mut dice = Dice::new(plan.mtu.into());
    for family in [4, 6] {
        for (name, options) in all(family) {
            for (from, to) in lab.ways() {
                let before = counts(from);
                let prepare = |socket: &socket2::Socket| set(socket, &options);
                let ends = ((&from.netns, from.inner(family)), (&to.netns, to.inner(family)));
                streams::run(&[Stream { from: ends.0, to: ends.1, len: 700_000, prepare: &prepare }], &mut dice);
                let (sender, receiver) = datagrams::pair(from, to, family);
                set(&sender, &options);
                datagrams::pass(&sender, &receiver, &[1, 500, 1199, 9001, 20_000], &mut dice);
                for segment in [100, 1111] {
                    let run = dice.bytes(30 * segment + 7);
                    datagrams::send_run(&sender, run, segment);
                    datagrams::expect_run(&receiver, run, segment);
                }
                let after = counts(from);
                let (packets, reads) = (after.0 - before.0, after.1 - before.1);
                println!("{plan:?}: {name}: {packets} packets, {reads} reads");
                // The stream alone has so many.
                assert!(packets > 700_000 / usize::from(plan.mtu) + 31, "{name}: {packets} packets");
                if plan.a == Kind::Vnet && plan.mtu < 4000 {
                    assert!(
                        reads * 4 < packets as u64 * 3,
                        "{name}: {reads} reads for {packets} packets: not cut here"
                    );
                }
            }
        }
    }
    lab.check(&[]);
}

#[test]
fn options_and_extension_headers_pass() {
    as_root(|| {
        for kind in [Kind::Vnet, Kind::Plain] {
            options_pass(Plan::new(kind, kind, 1420));
        }
        options_pass(Plan { outer: 6, ..Plan::new(Kind::Vnet, Kind::Vnet, 1280) });
        options_pass(Plan { link: 1500, ..Plan::new(Kind::Vnet, Kind::Vnet, 9000) });
    });
}

/// A segment routing header (RFC 8754): by way of one address to where the socket is connected to.
fn segments_by(way: std::net::IpAddr) -> Vec<u8> {
    let std::net::IpAddr::V6(way) = way else { panic!("IPv6 only") };
    // Next header, length, type, segments left, last entry, flags, tag; the kernel fills the last stop in.
    [&[0, 4, 4, 1, 1, 0, 0, 0][..], &[0; 16], &way.octets()].concat()
}

#[test]
fn a_routing_header_passes() {
    as_root(|| {
        for kind in [Kind::Vnet, Kind::Plain] {
            let lab = Lab::new(Plan::new(kind, kind, 1420));
            let mut dice = Dice::new(1);
            for conf in ["all", TUN] {
                sysctl(&lab.b.netns, &format!("ipv6/conf/{conf}/seg6_enabled"), "1");
            }
            lab.b.netns.ip(&format!("addr add fd02::9/128 dev {TUN} nodad"));
            lab.b.netns.await_address("fd02::9");
            lab.a.netns.ip(&format!("route add fd02::/32 dev {TUN}"));
            let options = [(libc::IPPROTO_IPV6, libc::IPV6_RTHDR, segments_by(lab.b.inner(6)))];
            let (here, there) = (lab.a.inner(6), "fd02::9".parse().unwrap());
            let prepare = |socket: &socket2::Socket| set(socket, &options);
            let stream =
                Stream { from: (&lab.a.netns, here), to: (&lab.b.netns, there), len: 2_000_000, prepare: &prepare };
            streams::run(&[stream], &mut dice);
            let (sender, receiver) = crate::sockets::udp_pair((&lab.a.netns, here), (&lab.b.netns, there));
            set(&sender, &options);
            datagrams::pass(&sender, &receiver, &[1, 500, 9001, 20_000], &mut dice);
            let run = dice.bytes(30_007);
            datagrams::send_run(&sender, run, 1000);
            datagrams::expect_run(&receiver, run, 1000);
            lab.check(&[]);
            let (read, reads) = (lab.a.judge.read(), lab.a.netns.sent(TUN));
            println!("{kind:?}: {read:?}, {reads} reads");
            assert!(read.routed > 1450, "{read:?}");
            assert!((reads * 2 < read.routed as u64) == (kind == Kind::Vnet), "{reads} reads");
        }
    });
}
