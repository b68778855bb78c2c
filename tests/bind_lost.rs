//! Sockets that the system takes away, and errors that come back for what was sent, on Linux: neither ends anything.
//! Each test has a network namespace of its own, so it needs root, and says so if it is skipped.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, clippy::unwrap_used)]

mod netns;
#[path = "common/skip.rs"]
mod skip;

use netns::{Netns, as_root};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd, RawFd},
    process::Command,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};
use wg_embed::{
    bind::{BatchOptions, BatchUdp, Bind, Endpoint, Family, RecvBatch, Transmit, UdpBind},
    config::Update,
    device::{Event, Options, Tunnel},
    error::ErrorKind,
    tun::mem::MemTun,
};

const HOMES: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
/// Bounds a hang.
const PATIENCE: Duration = Duration::from_secs(300);

/// In a network of its own, as root.
fn in_network(test: impl FnOnce() + Send + 'static) {
    as_root(|| Netns::new().run(test));
}

/// Destroys the sockets of a family on a port, as Android does with those of a network that is gone. False if this
/// kernel cannot.
fn destroy(family: Family, port: u16) -> bool {
    let family = if family == Family::V4 { "-4" } else { "-6" };
    let port = format!(":{port}");
    let out = Command::new("ss").args(["-K", "-u", "-a", "-H", family, "sport", "=", &port]).output();
    let done = out.is_ok_and(|out| !out.stdout.is_empty());
    if !done {
        skip::skipped("this kernel, or its ss(8), destroys no sockets");
    }
    done
}

fn transmit(to: SocketAddr) -> Transmit<'static> {
    Transmit::new(Endpoint::new(to), b"x")
}

/// Passes a datagram to a bind, over loopback.
fn receives_at(bind: &UdpBind, at: SocketAddr) {
    let peer = UdpSocket::bind(SocketAddr::new(at.ip(), 0)).unwrap();
    let mut batch = RecvBatch::new(4, 65_535);
    let begin = Instant::now();
    loop {
        peer.send_to(b"x", at).unwrap();
        if bind.recv(&mut batch).unwrap() > 0 {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "nothing comes");
        bind.wait(Some(Duration::from_millis(10))).unwrap();
    }
}

#[test]
fn a_socket_that_was_taken_away_is_reported_once_and_reopened() {
    in_network(|| {
        for (bind, sends_first) in [
            (UdpBind::new().unwrap(), false),
            (UdpBind::new().unwrap(), true),
            (UdpBind::new().unwrap().with_portable_driver(), false),
        ] {
            let mut batch = RecvBatch::new(4, 65_535);
            for (lost, home, other) in [(Family::V4, HOMES[0], HOMES[1]), (Family::V6, HOMES[1], HOMES[0])] {
                let port = bind.open(0).unwrap();
                while bind.recv(&mut batch).unwrap() > 0 {}
                if !destroy(lost, port) {
                    return;
                }
                if sends_first {
                    // The system reports it to the call that comes first.
                    bind.send(&[transmit(SocketAddr::new(home, 9))]);
                }
                bind.wait(None).unwrap();
                assert!(bind.recv(&mut batch).is_err(), "{lost}");
                for _ in 0..3 {
                    assert_eq!(bind.recv(&mut batch).unwrap(), 0, "it is reported once");
                }
                receives_at(&bind, SocketAddr::new(other, port));
                assert_eq!(bind.open(port).unwrap(), port);
                for home in HOMES {
                    receives_at(&bind, SocketAddr::new(home, port));
                }
            }
        }
    });
}

#[test]
fn udp_without_a_tunnel_is_told_until_it_is_reopened() {
    in_network(|| {
        let udp = BatchUdp::open(0).unwrap();
        let port = udp.port().unwrap();
        if !destroy(Family::V4, port) {
            return;
        }
        for _ in 0..3 {
            let err = udp.receive(Family::V4, 1, Some(PATIENCE), |_| {}).unwrap_err();
            assert_ne!(err.kind(), ErrorKind::Closed);
        }
        let to = SocketAddr::new(HOMES[1], port);
        udp.send(&[transmit(to)]).unwrap();
        assert_eq!(udp.receive(Family::V6, 1, Some(PATIENCE), |_| {}).unwrap(), 1);
        assert_eq!(udp.reopen(port).unwrap(), port);
        udp.send(&[transmit(SocketAddr::new(HOMES[0], port))]).unwrap();
        assert_eq!(udp.receive(Family::V4, 1, Some(PATIENCE), |_| {}).unwrap(), 1);
    });
}

/// A tunnel without peers, and its events.
fn tunnel(bind: &Arc<UdpBind>) -> (Tunnel, mpsc::Receiver<Event>) {
    let (told, events) = mpsc::channel();
    let told = Mutex::new(told);
    let options =
        Options { events: Box::new(move |event| drop(told.lock().unwrap().send(event))), ..Options::default() };
    let tunnel = Tunnel::start(Arc::new(MemTun::new("wg0", 1420).0), bind.clone(), options).unwrap();
    tunnel.device().apply(Update::default()).unwrap();
    tunnel.device().up().unwrap();
    (tunnel, events)
}

/// How many datagrams came that are no messages.
fn malformed(tunnel: &Tunnel) -> u64 {
    tunnel.device().counters().iter().find(|(name, _)| *name == "in_malformed").unwrap().1
}

#[test]
fn a_tunnel_goes_on_with_new_sockets_each_time() {
    in_network(|| {
        let bind = Arc::new(UdpBind::new().unwrap());
        let (tunnel, events) = tunnel(&bind);
        for family in [Family::V4, Family::V6] {
            let port = tunnel.device().snapshot().interface.listen_port;
            if !destroy(family, port) {
                return;
            }
            assert!(matches!(events.recv_timeout(PATIENCE).unwrap(), Event::SocketsLost(_)));
            assert!(matches!(events.recv_timeout(PATIENCE).unwrap(), Event::SocketsRecovered(now) if now == port));
            assert!(bind.fd4().is_some() && bind.fd6().is_some());
            let before = malformed(&tunnel);
            let peer = UdpSocket::bind(SocketAddr::new(HOMES[family as usize], 0)).unwrap();
            peer.send_to(b"x", SocketAddr::new(HOMES[family as usize], port)).unwrap();
            let begin = Instant::now();
            while malformed(&tunnel) == before {
                assert!(begin.elapsed() < PATIENCE, "the tunnel is deaf");
                thread::sleep(Duration::from_millis(5));
            }
        }
        tunnel.stop().unwrap();
    });
}

/// Whether the system is to report errors to a socket, and to keep them for it. Switched off, what was kept is dropped.
fn report_errors(fd: RawFd, family: Family, on: bool) {
    let (level, name) = match family {
        Family::V4 => (libc::IPPROTO_IP, libc::IP_RECVERR),
        Family::V6 => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    };
    let on = libc::c_int::from(on);
    let len = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the value is a live `int`, and its size is told.
    assert_eq!(unsafe { libc::setsockopt(fd, level, name, (&raw const on).cast(), len) }, 0);
}

/// A port that nobody has.
fn closed_port(home: IpAddr) -> SocketAddr {
    UdpSocket::bind(SocketAddr::new(home, 0)).unwrap().local_addr().unwrap()
}

#[test]
fn thousands_of_unreachable_ports_in_a_row_end_nothing() {
    in_network(|| {
        // The kernel limits what it answers.
        for limit in ["ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"] {
            std::fs::write(format!("/proc/sys/net/{limit}"), "0").unwrap();
        }
        let _ = std::fs::write("/proc/sys/net/ipv4/icmp_msgs_per_sec", "1000000");
        let bind = Arc::new(UdpBind::new().unwrap());
        let (tunnel, events) = tunnel(&bind);
        let port = tunnel.device().snapshot().interface.listen_port;
        // Linux reports it only to a socket that has asked for it.
        report_errors(bind.fd4().unwrap(), Family::V4, true);
        report_errors(bind.fd6().unwrap(), Family::V6, true);
        for home in HOMES {
            let nowhere = closed_port(home);
            let before = bind.stats().recv_errors;
            let begin = Instant::now();
            while bind.stats().recv_errors < before + 3000 {
                bind.send(&[transmit(nowhere); 16]);
                assert!(begin.elapsed() < PATIENCE, "{} errors", bind.stats().recv_errors - before);
            }
            // What is kept takes the room of datagrams, and nothing but this test has it kept.
            report_errors(bind.fd4().unwrap(), Family::V4, false);
            report_errors(bind.fd6().unwrap(), Family::V6, home.is_ipv4());
            let before = malformed(&tunnel);
            let peer = UdpSocket::bind(SocketAddr::new(home, 0)).unwrap();
            let begin = Instant::now();
            while malformed(&tunnel) == before {
                assert!(begin.elapsed() < PATIENCE, "the tunnel is deaf");
                peer.send_to(b"x", SocketAddr::new(home, port)).unwrap();
                thread::sleep(Duration::from_millis(5));
            }
        }
        assert_eq!(events.try_iter().count(), 0);
        tunnel.stop().unwrap();
    });
}

#[test]
fn a_lent_socket_that_reports_errors_does_not_drown_in_them() {
    in_network(|| {
        let socket = UdpSocket::bind(SocketAddr::new(HOMES[0], 0)).unwrap();
        let (fd, at) = (socket.as_raw_fd(), socket.local_addr().unwrap());
        report_errors(fd, Family::V4, true);
        let udp = BatchOptions::new().adopt(socket).unwrap();
        std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0").unwrap();
        let nowhere = closed_port(HOMES[0]);
        // Many more than the receive buffer has room for.
        for _ in 0..200 {
            udp.send(&[transmit(nowhere); 128]).unwrap();
        }
        udp.send(&[transmit(at)]).unwrap();
        assert_eq!(udp.receive(Family::V4, 1, Some(PATIENCE), |_| {}).unwrap(), 1);
    });
}
