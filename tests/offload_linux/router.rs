//! The kernel as the judge: packets that pass both tunnels and a router behind each end must come out as they come out
//! of the same kernel without tunnels.
//!
//! ```text
//! packets -> in0 [kernel] wg0 => tunnels => wg0 [kernel] out0 -> compared
//! packets -> in0 [              kernel                 ] out0 -> with these
//! ```
//!
//! `in0` has virtio-net headers, so that large packets enter the router; `out0` has none, so that the kernel cuts what
//! is still large there. Between the tunnels we cut and put together ourselves.

mod craft;

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Write},
    time::{Duration, Instant},
};

use socket2::SockRef;

use crate::{
    lab::{Kind, Lab, Plan, TUN, sysctl},
    netns::{Netns, as_root},
    packet::{Packet, TCP, UDP, put, word},
    sockets::{Dice, PATIENCE},
};

use craft::{Shot, shots};

/// Hops between `in0` and `out0`: each kernel counts one.
const HOPS: u8 = 2;

/// Packets that wait in front of a TUN.
const QUEUE: usize = 10_000;

/// A TUN of the test's own.
struct Port(File);

impl Port {
    fn new(netns: &Netns, name: &str, flags: i32, addresses: [&str; 2], mtu: u16) -> Self {
        let file = File::from(netns.tun(name, libc::IFF_TUN | flags));
        SockRef::from(&file).set_nonblocking(true).unwrap();
        netns.set_up(name, &format!("mtu {mtu} txqueuelen {QUEUE}"));
        for address in addresses {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            netns.ip(&format!("addr add {address} dev {name} {nodad}"));
        }
        netns.await_address(addresses[1].split('/').next().unwrap());
        Self(file)
    }

    /// What has come, without what the router itself tells others of its kind.
    fn read(&self, into: &mut Vec<Vec<u8>>) {
        let mut buffer = vec![0; 70_000];
        loop {
            match (&self.0).read(&mut buffer) {
                Ok(len) if is_multicast(&buffer[..len]) => {}
                Ok(len) => into.push(buffer[..len].to_vec()),
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return,
                Err(err) => panic!("{err}"),
            }
        }
    }
}

fn is_multicast(packet: &[u8]) -> bool {
    packet[0] >> 4 == 6 && packet[24] == 0xff
}

fn entrance(netns: &Netns) -> Port {
    Port::new(netns, "in0", libc::IFF_VNET_HDR, ["10.1.0.1/16", "fd01::1/32"], 1500)
}

fn exit(netns: &Netns, mtu: u16) -> Port {
    Port::new(netns, "out0", 0, ["10.2.0.1/16", "fd02::1/32"], mtu)
}

fn forward(netns: &Netns) {
    sysctl(netns, "ipv4/ip_forward", "1");
    sysctl(netns, "ipv6/conf/all/forwarding", "1");
    for conf in ["all", "default"] {
        sysctl(netns, &format!("ipv4/conf/{conf}/rp_filter"), "0");
    }
}

/// The way through the tunnels, and the way without.
struct Routes {
    lab: Lab,
    through: (Port, Port),
    without: (Port, Port),
    _netns: Netns,
}

impl Routes {
    fn new(plan: Plan) -> Self {
        let (lab, netns) = (Lab::new(plan), Netns::new());
        [&lab.a.netns, &lab.b.netns, &netns].into_iter().for_each(forward);
        // A whole round is written before anything is waited for.
        lab.a.netns.ip(&format!("link set {TUN} txqueuelen {QUEUE}"));
        for (end, n) in [(&lab.a, 2), (&lab.b, 1)] {
            end.netns.ip(&format!("route add 10.{n}.0.0/16 dev {TUN}"));
            end.netns.ip(&format!("route add fd0{n}::/32 dev {TUN}"));
        }
        let through = (entrance(&lab.a.netns), exit(&lab.b.netns, plan.mtu));
        let without = (entrance(&netns), exit(&netns, plan.mtu));
        lab.meet();
        Self { lab, through, without, _netns: netns }
    }

    /// Sends the same both ways. Returns how many packets came out.
    fn compare(&self, shots: &[Shot]) -> usize {
        let (mut wanted, mut got) = (Vec::new(), Vec::new());
        for shot in shots {
            (&self.without.0.0).write_all(&shot.bytes(HOPS - 1)).unwrap();
            // A kernel forwards within the call that writes.
            self.without.1.read(&mut wanted);
        }
        for shot in shots {
            (&self.through.0.0).write_all(&shot.bytes(HOPS)).unwrap();
        }
        let start = Instant::now();
        while got.len() < wanted.len() && start.elapsed() < PATIENCE {
            self.through.1.read(&mut got);
            std::thread::sleep(Duration::from_micros(200));
        }
        let (wanted, got) = (by_flow(&wanted), by_flow(&got));
        for (flow, wanted) in &wanted {
            let got = got.get(flow).map_or(&[][..], Vec::as_slice);
            for (i, (wanted, got)) in wanted.iter().zip(got).enumerate() {
                assert!(wanted == got, "{flow:?}, packet {i}:\n{wanted:02x?}\nis wanted,\n{got:02x?}\ncame");
            }
            assert_eq!(got.len(), wanted.len(), "packets of {flow:?}: {:02x?}", wanted.get(got.len()));
        }
        let more: Vec<_> = got.iter().filter(|(flow, _)| !wanted.contains_key(*flow)).collect();
        assert!(more.is_empty(), "nobody wants {more:02x?}");
        wanted.values().map(Vec::len).sum()
    }
}

/// The packets of each pair of addresses, in order; without what may differ.
fn by_flow(packets: &[Vec<u8>]) -> HashMap<String, Vec<Vec<u8>>> {
    let mut flows: HashMap<String, Vec<Vec<u8>>> = HashMap::new();
    for bytes in packets {
        let packet = Packet::read_ip(bytes).unwrap_or_else(|err| panic!("{err}: {bytes:02x?}"));
        let mut bytes = bytes.clone();
        if bytes[0] >> 4 == 4 {
            // Was found to be right. Zero has two forms, of which routers make either.
            put(&mut bytes, 10, 0);
            let whole = word(&bytes, 6) & 0x4000 != 0 && !packet.fragment && !packet.extended;
            if whole && matches!(packet.protocol, TCP | UDP) {
                // With "don't fragment" the identification means nothing (RFC 6864).
                put(&mut bytes, 4, 0);
            }
        }
        if packet.protocol == TCP && !packet.fragment && word(&bytes, packet.l4 + 16) == 0xffff {
            put(&mut bytes, packet.l4 + 16, 0);
        }
        flows.entry(format!("{} to {}", packet.src, packet.dst)).or_default().push(bytes);
    }
    flows
}

fn routed_packets_are_the_same(plan: Plan, rounds: u64) {
    let routes = Routes::new(plan);
    for end in routes.lab.ends() {
        end.judge.let_checksums_be_wrong();
        // So that packets come in batches.
        end.judge.delay_reads(Duration::from_micros(300));
    }
    let (mut shot, mut came) = (0, 0);
    for round in 0..rounds {
        let shots = shots(&mut Dice::new(round), usize::from(plan.mtu));
        shot += shots.len();
        came += routes.compare(&shots);
    }
    // The kernel, which is a router now, reports to others of its kind. No peer has their address.
    assert_eq!(routes.lab.check(&["out_no_peer"]), 0);
    let (read, writes) = (routes.lab.a.judge.read(), routes.lab.b.netns.received(TUN));
    let reads = routes.lab.a.netns.sent(TUN);
    println!("{plan:?}: {shot} shots, {came} packets, {reads} reads, {writes} writes; {read:?}");
    assert!(read.extended > 100 && read.fragments > 50 && read.routed > 10, "too little was tried: {read:?}");
    for (kind, calls) in [(plan.a, reads), (plan.b, writes)] {
        let large = calls * 10 < came as u64 * 9;
        assert_eq!(large, kind != Kind::Plain, "{calls} calls for {came} packets");
    }
}

#[test]
fn routed_packets_are_the_same_with_offloads() {
    as_root(|| {
        routed_packets_are_the_same(Plan::new(Kind::Vnet, Kind::Vnet, 1420), 30);
        routed_packets_are_the_same(Plan::new(Kind::LongVnet, Kind::LongVnet, 4000), 20);
        routed_packets_are_the_same(Plan { link: 1500, outer: 6, ..Plan::new(Kind::Vnet, Kind::Vnet, 9000) }, 20);
    });
}

#[test]
fn routed_packets_are_the_same_without_offloads_at_one_end() {
    as_root(|| {
        routed_packets_are_the_same(Plan::new(Kind::Vnet, Kind::Plain, 1420), 20);
        routed_packets_are_the_same(Plan::new(Kind::Plain, Kind::Vnet, 1280), 20);
    });
}
