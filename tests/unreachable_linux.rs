//! A real kernel's sockets learn at once that a tunnel has nobody to send their packets to. Needs root; says so if it
//! is not.
#![cfg(target_os = "linux")]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test may fail loudly"
)]

mod netns;
#[path = "common/skip.rs"]
mod skip;

use std::{
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use netns::{Netns, as_root};
use socket2::{Domain, Protocol, Socket, Type};
use wg_embed::{
    bind::mem::MemNetwork,
    config::{AllowedIpUpdate, PeerUpdate, Update},
    device::{Options, Tunnel},
    key::PrivateKey,
    random::SystemRandom,
    tun::linux::LinuxTun,
};

/// Bounds what hangs. A TCP connection that is not refused tries for longer.
const LIMIT: Duration = Duration::from_secs(300);

/// A tunnel in a namespace, all of whose packets go into it; it has a peer without an endpoint.
fn tunnel(netns: &Netns, vnet: bool) -> Tunnel {
    let fd = netns.tun("wgt0", libc::IFF_TUN | if vnet { libc::IFF_VNET_HDR } else { 0 });
    for command in [
        "link set wgt0 up",
        "address add 10.0.0.1/24 dev wgt0",
        "address add fd00::1/64 dev wgt0 nodad",
        "route add default dev wgt0",
        "-6 route add default dev wgt0",
    ] {
        netns.ip(command);
    }
    netns.await_address("fd00::1");
    let bind = MemNetwork::new().bind(IpAddr::from([192, 0, 2, 1]));
    let tunnel = netns.run(move || {
        let tun = LinuxTun::adopt(fd, 0).unwrap();
        Tunnel::start(Arc::new(tun), bind, Options::default()).unwrap()
    });
    let private = || PrivateKey::generate_with(&SystemRandom);
    let mut peer = PeerUpdate::new(private().public_key());
    let given = |prefix: &str| AllowedIpUpdate::add(prefix.parse().unwrap());
    peer.allowed_ips = vec![given("10.0.0.2/32"), given("fd00::2/128")];
    let update = Update { private_key: Some(Some(private())), peers: vec![peer], ..Update::default() };
    tunnel.device().apply(update).unwrap();
    tunnel.device().up().unwrap();
    tunnel
}

fn counter(tunnel: &Tunnel, name: &str) -> u64 {
    tunnel.device().counters().iter().find(|(counter, _)| *counter == name).unwrap().1
}

#[test]
fn sockets_learn_that_a_host_is_unreachable() {
    as_root(|| {
        for vnet in [false, true] {
            let netns = Netns::new();
            let tunnel = tunnel(&netns, vnet);
            // A peer without an endpoint, and none.
            for to in ["10.0.0.2", "10.0.0.77", "192.0.2.9", "fd00::2", "fd00::77", "2001:db8::9"] {
                let to = SocketAddr::new(to.parse().unwrap(), 80);
                let error = netns.run(move || TcpStream::connect_timeout(&to, LIMIT).unwrap_err());
                assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH), "{to}, with offloads: {vnet}");
            }
            // The last one is counted after it was written.
            let least = [("unreachable_sent", 6), ("out_no_endpoint", 2), ("out_no_peer", 4)];
            netns::eventually("all are counted", || least.iter().all(|(name, least)| counter(&tunnel, name) >= *least));
            tunnel.stop().unwrap();
        }
    });
}

/// Asks for ICMP errors at a UDP socket.
fn ask_for_errors(socket: &UdpSocket) {
    for (level, name) in [(libc::IPPROTO_IP, libc::IP_RECVERR), (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)] {
        let on: libc::c_int = 1;
        let size = size_of_val(&on) as libc::socklen_t;
        // SAFETY: setsockopt(2) reads one int. The one of the other family may fail.
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const on).cast(), size) };
    }
}

#[test]
fn datagrams_and_pings_learn_it() {
    as_root(|| {
        for vnet in [false, true] {
            let netns = Netns::new();
            let tunnel = tunnel(&netns, vnet);
            for (from, to) in
                [("10.0.0.1", "10.0.0.2"), ("10.0.0.1", "192.0.2.9"), ("fd00::1", "fd00::2"), ("fd00::1", "fd00::77")]
            {
                let error = netns.run(move || {
                    let socket = UdpSocket::bind((from, 0)).unwrap();
                    ask_for_errors(&socket);
                    socket.connect((to, 9)).unwrap();
                    socket.set_read_timeout(Some(LIMIT)).unwrap();
                    socket.send(&[7; 100]).unwrap();
                    socket.recv(&mut [0; 10]).unwrap_err()
                });
                assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH), "{to}, with offloads: {vnet}");
                let Ok(output) =
                    netns.run(move || Command::new("ping").args(["-n", "-c", "1", "-W", "60", to]).output())
                else {
                    continue; // There is no ping(8).
                };
                let text = String::from_utf8(output.stdout).unwrap().to_lowercase();
                assert!(text.contains("unreachable"), "{to}, with offloads: {vnet}: {text}");
            }
            tunnel.stop().unwrap();
        }
    });
}

/// With offloads, the checksum of a datagram is left to the interface. The answer quotes it as it would have been sent.
#[test]
fn a_quoted_datagram_has_its_checksum() {
    as_root(|| {
        let netns = Netns::new();
        let tunnel = tunnel(&netns, true);
        let quoted = netns.run(|| {
            let answers = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
            answers.set_read_timeout(Some(LIMIT)).unwrap();
            let socket = UdpSocket::bind("10.0.0.1:0").unwrap();
            socket.send_to(&[7; 100], "10.0.0.77:9").unwrap();
            let mut room = [0; 2000];
            let len = std::io::Read::read(&mut &answers, &mut room).unwrap();
            room[28..len].to_vec()
        });
        assert_eq!(quoted.len(), 128);
        // The pseudo header: addresses, protocol, length of the datagram.
        let words = quoted[12..].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
        let sum = words.sum::<u32>() + 17 + 108;
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        tunnel.stop().unwrap();
    });
}

/// As `icmp_ratelimit` of the kernel: programs of the tunnel's own system are told each time, another host six times at
/// once.
#[test]
fn other_hosts_have_a_rate_of_their_own() {
    const DATAGRAMS: u64 = 12;
    as_root(|| {
        let (router, host) = (Netns::new(), Netns::new());
        let tunnel = tunnel(&router, true);
        router.ip(&format!("link add lan0 type veth peer name lan0 netns {}", host.tid()));
        for (netns, n) in [(&router, 1), (&host, 2)] {
            netns.ip("link set lan0 up");
            netns.ip(&format!("address add 192.168.7.{n}/24 dev lan0"));
            netns.ip(&format!("address add fd07::{n}/64 dev lan0 nodad"));
            netns.await_address(&format!("fd07::{n}"));
        }
        host.ip("route add default via 192.168.7.1");
        host.ip("-6 route add default via fd07::1");
        router.run(|| {
            for file in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{file}"), "1").unwrap();
            }
        });
        // A /64 of IPv6 is told four times as often: one answer in 250 ms.
        for (to, per_second) in [("10.0.0.77:9", 1), ("[fd00::77]:9", 4)] {
            let to: SocketAddr = to.parse().unwrap();
            for (netns, is_own) in [(&router, true), (&host, false)] {
                let before = ["out_no_peer", "unreachable_sent"].map(|name| counter(&tunnel, name));
                let begin = Instant::now();
                netns.run(move || {
                    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
                    let socket = UdpSocket::bind((any, 0)).unwrap();
                    (0..DATAGRAMS).for_each(|_| assert!(socket.send_to(&[7; 100], to).is_ok()));
                });
                netns::eventually("all are read", || counter(&tunnel, "out_no_peer") >= before[0] + DATAGRAMS);
                let answered = || counter(&tunnel, "unreachable_sent") - before[1];
                if is_own {
                    netns::eventually("all are answered", || answered() >= DATAGRAMS);
                } else {
                    netns::eventually("six are answered", || answered() >= 6);
                    // Counted first: later there may be more of them, but also more time.
                    let answered = answered();
                    let most = 7 + begin.elapsed().as_secs_f64() as u64 * per_second + per_second;
                    assert!(answered <= most, "{to}: {answered}");
                }
            }
        }
        tunnel.stop().unwrap();
    });
}
