//! Marks of explicit congestion notification: from the inner header to the outer one and back (RFC 6040), one by one
//! and within runs.

use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use socket2::Socket;

use crate::{
    datagrams,
    lab::{End, Kind, LINK, Lab, PORT, Plan, TUN, cuts_udp, sysctl, with_program},
    netns::{Netns, as_root},
    packet::{Packet, UDP, word},
    sockets::{Dice, PATIENCE, ask_for_tos, capture, receive, set_tos},
    streams::{self, Stream},
};

/// The marks, by their numbers.
const MARKS: [&str; 4] = ["not-ect", "ect1", "ect0", "ce"];
const ECT_0: u8 = 2;
const CE: u8 = 3;

/// A code point of the other six bits, which never leave the tunnel.
const DSCP: u8 = 0xb8;

/// Lets a rule mark the tunnel's datagrams that come to an end.
fn mark(end: &End, outer: u8, rule: &str) {
    let ip = if outer == 4 { "ip" } else { "ip6" };
    let rule = rule.replace("ECN", &format!("{ip} ecn"));
    let script = format!(
        "add table {ip} marks; delete table {ip} marks; add table {ip} marks; \
         add chain {ip} marks in {{ type filter hook prerouting priority 0; }}; \
         add rule {ip} marks in udp dport {PORT} {rule}"
    );
    end.netns.command("nft", &script);
}

/// The TOS of the data messages from an address that were captured so far.
fn captured(link: &Socket, from: IpAddr) -> Vec<u8> {
    const DATA: u8 = 4;
    const KEEPALIVE: usize = 8 + 32;
    let (mut buffer, mut all) = (vec![0; 70_000], Vec::new());
    while let Ok(got) = receive(link, &mut buffer) {
        // Its checksum may be left to the interface.
        let Ok(packet) = Packet::read_ip(&buffer[..got.len]) else { continue };
        let l4 = &buffer[packet.l4..got.len];
        let is_data = packet.protocol == UDP && word(l4, 2) == PORT && l4.len() > KEEPALIVE && l4[8] == DATA;
        if is_data && packet.src == from {
            all.push(packet.tos);
        }
    }
    all
}

fn awaited(link: &Socket, from: IpAddr) -> Vec<u8> {
    let start = Instant::now();
    loop {
        let all = captured(link, from);
        if !all.is_empty() || start.elapsed() > PATIENCE {
            return all;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn marks_leave_the_tunnel_and_nothing_else_of_the_tos_byte_does() {
    as_root(|| {
        for (kind, outer) in [(Kind::Vnet, 4), (Kind::Vnet, 6), (Kind::Plain, 4)] {
            let lab = Lab::new(Plan { outer, ..Plan::new(kind, kind, 1420) });
            lab.meet();
            for (from, to) in lab.ways() {
                let link = capture(&to.netns, LINK);
                for family in [4, 6] {
                    let (sender, receiver) = datagrams::pair(from, to, family);
                    ask_for_tos(&receiver);
                    for tos in (0..4).flat_map(|ecn| [ecn, DSCP | ecn]) {
                        set_tos(&sender, tos);
                        captured(&link, from.outer_address());
                        // One alone, and several as one.
                        sender.send(&[1; 500]).unwrap();
                        datagrams::send_run(&sender, &[2; 5000], 500);
                        for i in 0..11 {
                            let got = receive(&receiver, &mut [0; 2000]).unwrap();
                            assert_eq!((got.len, got.tos), (500, tos), "datagram {i} over IPv{family}");
                        }
                        let seen = awaited(&link, from.outer_address());
                        assert!(!seen.is_empty() && seen.iter().all(|outer| *outer == tos & 3), "{tos:#x} in {seen:?}");
                        datagrams::set_plain(&sender);
                    }
                }
            }
            assert_eq!(lab.check(&[]), 0);
        }
    });
}

/// The inner mark after the tunnel (RFC 6040, figure 4). A packet that is not ECN-capable passes even if the outer
/// header was marked, as it does with the kernel's WireGuard.
fn carried(inner: u8, outer: u8) -> u8 {
    match (inner, outer) {
        (0, _) => 0,
        (_, 3) | (3, _) => 3,
        (2, 1) => 1,
        _ => inner,
    }
}

#[test]
fn a_batch_of_mixed_marks_leaves_with_each_its_own() {
    const BATCH: usize = 40;
    as_root(|| {
        for (kind, outer) in [(Kind::Vnet, 4), (Kind::Plain, 6)] {
            let lab = Lab::new(Plan { outer, ..Plan::new(kind, kind, 1420) });
            lab.a.judge.delay_reads(Duration::from_millis(5));
            let link = capture(&lab.a.netns, LINK);
            let (sender, receiver) = datagrams::pair(&lab.a, &lab.b, 6);
            ask_for_tos(&receiver);
            // The first batch has to wait for a session.
            for round in 0..3 {
                let marks: Vec<u8> = (0..BATCH).map(|i| (i / 2 + i / 8) as u8 % 4).collect();
                for tos in &marks {
                    set_tos(&sender, *tos);
                    sender.send(&[3; 700]).unwrap();
                }
                for (i, tos) in marks.iter().enumerate() {
                    // A wrong mark outside would have changed this one.
                    let got = receive(&receiver, &mut [0; 2000]).unwrap();
                    assert_eq!((got.len, got.tos), (700, *tos), "datagram {i} of batch {round}");
                }
                // Neighbours with one mark may leave as one.
                let mut seen = awaited(&link, lab.a.outer_address());
                let mut wanted = marks;
                wanted.dedup();
                seen.dedup();
                assert_eq!(seen, wanted, "batch {round}");
            }
            assert_eq!(lab.check(&[]), 0);
        }
    });
}

#[test]
fn marks_made_on_the_way_arrive_inside() {
    with_program("nft", || {
        for (kind, outer) in [(Kind::Vnet, 4), (Kind::Vnet, 6), (Kind::Plain, 4)] {
            let lab = Lab::new(Plan { outer, ..Plan::new(kind, kind, 1420) });
            lab.meet();
            for end in lab.ends() {
                end.judge.let_marks_change();
            }
            for (from, to) in lab.ways() {
                for (made, name) in (0..).zip(MARKS) {
                    mark(to, outer, &format!("ECN set {name}"));
                    for family in [4, 6] {
                        let (sender, receiver) = datagrams::pair(from, to, family);
                        ask_for_tos(&receiver);
                        for inner in 0..4 {
                            set_tos(&sender, DSCP | inner);
                            sender.send(&[1; 500]).unwrap();
                            datagrams::send_run(&sender, &[2; 5000], 500);
                            for i in 0..11 {
                                let got = receive(&receiver, &mut [0; 2000]).unwrap();
                                let wanted = (500, DSCP | carried(inner, made));
                                assert_eq!((got.len, got.tos), wanted, "datagram {i}, {inner} in {name}, IPv{family}");
                            }
                            datagrams::set_plain(&sender);
                        }
                    }
                }
            }
            assert_eq!(lab.check(&[]), 0);
        }
    });
}

#[test]
fn a_run_with_mixed_marks_stays_apart() {
    const RUN: usize = 60;
    with_program("nft", || {
        for outer in [4, 6] {
            // Each datagram is a packet of its own on the way, and so gets a mark of its own.
            let lab = Lab::new(Plan { udp_offload: false, outer, ..Plan::new(Kind::Vnet, Kind::Vnet, 1420) });
            lab.meet();
            lab.ends().iter().for_each(|end| end.judge.let_marks_change());
            let mut dice = Dice::new(8);
            let mut written = 0;
            for family in [4, 6] {
                mark(&lab.b, outer, "udp length > 800 numgen inc mod 3 0 ECN set ce");
                let (sender, receiver) = datagrams::pair(&lab.a, &lab.b, family);
                ask_for_tos(&receiver);
                set_tos(&sender, ECT_0);
                for _ in 0..5 {
                    let before = lab.b.netns.received(TUN);
                    let run = dice.bytes(RUN * 1000);
                    datagrams::send_run(&sender, run, 1000);
                    let mut buffer = [0; 2000];
                    for (i, part) in run.chunks(1000).enumerate() {
                        let got = receive(&receiver, &mut buffer).unwrap();
                        assert!(&buffer[..got.len] == part, "datagram {i} has other bytes");
                        assert_eq!(got.tos, if i % 3 == 0 { CE } else { ECT_0 }, "datagram {i} over IPv{family}");
                    }
                    written += lab.b.netns.received(TUN) - before;
                }
            }
            println!("{} datagrams in {written} writes", 10 * RUN);
            // At best the two between two marks are one.
            assert!(written >= 10 * RUN as u64 * 2 / 3, "{written} writes");
            assert!(written < 10 * RUN as u64 || !cuts_udp(&lab.b.netns), "{written} writes");
            assert_eq!(lab.check(&[]), 0);
        }
    });
}

/// A counter of /proc/net/snmp6.
fn snmp6(netns: &Netns, counter: &str) -> u64 {
    let text = netns.proc_net("snmp6");
    let line = text.lines().find(|l| l.starts_with(&format!("{counter} "))).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn tcp_hears_of_congestion_on_the_way() {
    with_program("nft", || {
        for kind in [Kind::Vnet, Kind::Plain] {
            let lab = Lab::new(Plan::new(kind, kind, 1420));
            lab.meet();
            let mut dice = Dice::new(9);
            for end in lab.ends() {
                end.judge.let_marks_change();
                sysctl(&end.netns, "ipv4/tcp_ecn", "1");
                mark(end, 4, "ECN != not-ect numgen inc mod 10 0 ECN set ce");
            }
            let mut streams = Vec::new();
            for (from, to) in lab.ways() {
                for family in [4, 6] {
                    let (from, to) = ((&from.netns, from.inner(family)), (&to.netns, to.inner(family)));
                    streams.push(Stream { from, to, len: 4_000_000, prepare: &|_| () });
                }
            }
            streams::run(&streams, &mut dice);
            lab.check(&[]);
            for end in lab.ends() {
                // IPv6 is inside only. The sender counts what it was told of.
                let (marked, told) = (snmp6(&end.netns, "Ip6InCEPkts"), end.netns.snmp("TcpExt", "TCPDeliveredCE"));
                let (read, written) = (end.judge.read(), end.judge.written());
                println!("{kind:?}: {marked} marks arrived over IPv6, {told} segments marked; {read:?}; {written:?}");
                assert!(marked > 0 && told > 0, "{marked} marks arrived, the sender was told of {told}");
                assert!(read.ece > 0 && read.cwr > 0 && written.ece > 0 && written.cwr > 0, "{read:?}; {written:?}");
            }
        }
    });
}
