//! ICMP through the tunnels: echoes of all sizes, refusals that quote what was refused, and the path MTU that is
//! learned.

use std::{
    io,
    net::{IpAddr, UdpSocket},
    process::Command,
};

use crate::{
    lab::{End, Kind, Lab, Plan, TUN, join, sysctl, with_program},
    netns::{Netns, as_root},
    sockets::{Dice, receive_error, set_number, udp},
    streams::{self, Stream},
};

/// Sends an echo request, which must be answered as it was.
fn ping(from: &End, to: IpAddr, size: usize) {
    // For a second answer it would not wait as long.
    let words = format!("-q -c 1 -W 10 -p c0ffee -s {size} {to}");
    let out = from.netns.run(move || Command::new("ping").args(words.split(' ')).output().unwrap());
    let text = String::from_utf8_lossy(&out.stdout);
    // It says "wrong data byte" if one is.
    assert!(text.contains(" 0% packet loss") && !text.contains("wrong"), "{size} bytes to {to}: {text}");
}

#[test]
fn echoes_of_all_sizes_come_back() {
    with_program("ping", || {
        for (kind, mtu, link) in
            [(Kind::Vnet, 1420, 1520), (Kind::Plain, 1280, 1380), (Kind::Vnet, 9000, 9100), (Kind::Vnet, 9000, 1500)]
        {
            let lab = Lab::new(Plan { link, ..Plan::new(kind, kind, mtu) });
            for family in [4, 6] {
                let most = usize::from(mtu) - if family == 4 { 28 } else { 48 };
                for size in [0, 1, 56, most, most + 1, 20_001, 65_507] {
                    ping(&lab.a, lab.b.inner(family), size);
                    ping(&lab.b, lab.a.inner(family), size);
                }
            }
            assert_eq!(lab.check(&[]), 0);
        }
    });
}

/// Lets an end send as many ICMP errors as there is reason for.
fn without_limit(end: &End) {
    sysctl(&end.netns, "ipv4/icmp_ratelimit", "0");
    sysctl(&end.netns, "ipv6/icmp/ratelimit", "0");
}

#[test]
fn a_refusal_quotes_what_was_refused() {
    as_root(|| {
        for kind in [Kind::Vnet, Kind::Plain] {
            let lab = Lab::new(Plan::new(kind, kind, 1420));
            let mut dice = Dice::new(3);
            for (from, to) in lab.ways() {
                without_limit(to);
                for family in [4, 6] {
                    // A port that was just closed.
                    let closed = udp(&to.netns, to.inner(family)).local_addr().unwrap();
                    let socket = udp(&from.netns, from.inner(family));
                    socket.connect(closed).unwrap();
                    let (level, name) = recverr(family);
                    set_number(&socket, level, name, 1);
                    for size in [1, 100, 1372, 3000, 40_000] {
                        let sent = dice.bytes(size);
                        socket.send(sent).unwrap();
                        let err = socket.recv(&mut [0; 10]).unwrap_err();
                        assert_eq!(err.kind(), io::ErrorKind::ConnectionRefused, "{size} bytes over IPv{family}");
                        let mut quoted = [0; 2000];
                        let len = receive_error(&socket, &mut quoted).unwrap();
                        assert!(len > 0 && sent.starts_with(&quoted[..len]), "{len} of {size} bytes are quoted");
                    }
                }
            }
            assert_eq!(lab.check(&[]), 0);
        }
    });
}

fn recverr(family: u8) -> (i32, i32) {
    if family == 4 { (libc::IPPROTO_IP, libc::IP_RECVERR) } else { (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) }
}

/// A host behind the second end, over a link that takes less than the tunnel, and that does not know it.
fn host_behind(lab: &Lab, mtu: u16) -> Netns {
    let (host, router) = (Netns::new(), &lab.b.netns);
    join(router, &host, "far0", mtu);
    for (netns, n) in [(router, 1), (&host, 9)] {
        netns.ip(&format!("addr add 10.2.0.{n}/16 dev far0"));
        netns.ip(&format!("addr add fd02::{n}/32 dev far0 nodad"));
        // With which a router asks who has an address.
        netns.ip(&format!("addr add fe80::{n}/64 dev far0 nodad"));
        netns.await_address(&format!("fd02::{n}"));
    }
    // It asks for larger segments than its own link takes.
    host.ip("route add default via 10.2.0.1 advmss 8000");
    host.ip("-6 route add default via fd02::1 advmss 8000");
    sysctl(router, "ipv4/ip_forward", "1");
    sysctl(router, "ipv6/conf/all/forwarding", "1");
    lab.a.netns.ip(&format!("route add 10.2.0.0/16 dev {TUN}"));
    lab.a.netns.ip(&format!("route add fd02::/32 dev {TUN}"));
    host
}

/// Sends datagrams of `size` bytes that must not be fragmented until the kernel knows better.
fn sends_until_refused(socket: &UdpSocket, size: usize) -> usize {
    for sent in 0..100 {
        match socket.send(&vec![0; size]) {
            Ok(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
            Err(err) => {
                assert_eq!(err.raw_os_error(), Some(libc::EMSGSIZE));
                return sent;
            }
        }
    }
    panic!("nobody said that {size} bytes are too many");
}

#[test]
fn a_smaller_path_mtu_behind_the_tunnel_is_learned() {
    as_root(|| {
        for (kind, mtu, link) in [(Kind::Vnet, 1420, 1520), (Kind::Plain, 1420, 1520), (Kind::Vnet, 9000, 1500)] {
            for (family, far) in [(4, "10.2.0.9"), (6, "fd02::9")] {
                let lab = Lab::new(Plan { link, ..Plan::new(kind, kind, mtu) });
                let host = host_behind(&lab, 1300);
                let far: IpAddr = far.parse().unwrap();
                let learned = || lab.a.netns.ip(&format!("route get {far}"));
                assert!(!learned().contains("mtu"), "{}", learned());
                let near = lab.a.inner(family);
                let begin = lab.a.judge.read().packets();
                let stream = Stream { from: (&lab.a.netns, near), to: (&host, far), len: 1_500_000, prepare: &|_| () };
                streams::run(&[stream], &mut Dice::new(5));
                assert!(learned().contains("mtu 1300"), "{}", learned());
                assert!(lab.a.judge.read().packets() - begin > 1150, "segments of 1300 bytes");

                lab.a.netns.ip("route flush cache");
                lab.a.netns.ip("-6 route flush cache");
                let socket = udp(&lab.a.netns, near);
                socket.connect((far, 9)).unwrap();
                let (level, name, value) = if family == 4 {
                    (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)
                } else {
                    (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)
                };
                set_number(&socket, level, name, value);
                let sent = sends_until_refused(&socket, 1350);
                println!("{kind:?} {mtu} over {link}, IPv{family}: refused after {sent} datagrams");
                assert!(sent > 0 && learned().contains("mtu 1300"), "{}", learned());
                // The router tells others of its kind of itself.
                lab.check(&["out_no_peer"]);
            }
        }
    });
}
