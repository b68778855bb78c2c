//! A tunnel in the tunnel: VXLAN, whose packets are UDP with whole flows inside, and with checksums in two places.

use crate::{
    datagrams,
    lab::{Kind, Lab, Plan, TUN},
    netns::as_root,
    skip::skipped,
    sockets::{Dice, udp_pair},
    streams::{self, Stream},
};

/// Lays a VXLAN through the tunnel, over IPv4 or IPv6. False if the kernel has none.
fn lay(lab: &Lab, family: u8, checksums: &str) -> bool {
    for (n, (here, there)) in (1..).zip(lab.ways()) {
        let (local, remote) = (here.inner(family), there.inner(family));
        let netns = &here.netns;
        let more = format!("id 7 local {local} remote {remote} dstport 4789 dev {TUN} {checksums}");
        if !netns.try_ip(&format!("link add vx0 type vxlan {more}")) {
            return false;
        }
        netns.set_up("vx0", "");
        netns.ip(&format!("addr add 10.8.0.{n}/24 dev vx0"));
        netns.ip(&format!("addr add fd08::{n}/64 dev vx0 nodad"));
        netns.await_address(&format!("fd08::{n}"));
    }
    true
}

#[test]
fn a_tunnel_in_the_tunnel_passes() {
    as_root(|| {
        let plans =
            [(Kind::Vnet, 4, "noudpcsum"), (Kind::Vnet, 4, "udpcsum"), (Kind::Vnet, 6, ""), (Kind::Plain, 6, "")];
        for (kind, family, checksums) in plans {
            let lab = Lab::new(Plan::new(kind, kind, 1420));
            if !lay(&lab, family, checksums) {
                return skipped("the kernel has no VXLAN");
            }
            let mut dice = Dice::new(4);
            for [a, b] in [["10.8.0.1", "10.8.0.2"], ["fd08::1", "fd08::2"]] {
                let (a, b) = ((&lab.a.netns, a.parse().unwrap()), (&lab.b.netns, b.parse().unwrap()));
                let stream = |from, to| Stream { from, to, len: 2_000_000, prepare: &|_| () };
                streams::run(&[stream(a, b), stream(b, a)], &mut dice);
                let (left, right) = udp_pair(a, b);
                datagrams::pass(&left, &right, &[1, 500, 1320, 1400, 20_000], &mut dice);
                datagrams::pass(&right, &left, &[1, 500, 1320, 1400, 20_000], &mut dice);
                let run = dice.bytes(30_007);
                datagrams::send_run(&left, run, 1000);
                datagrams::expect_run(&right, run, 1000);
            }
            lab.check(&[]);
            let read = lab.a.judge.read();
            println!("{kind:?}, {family} {checksums}: {read:?}, {} writes", lab.a.netns.received(TUN));
            assert!(read.udp > 3000, "{read:?}");
        }
    });
}
