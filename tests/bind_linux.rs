//! [`UdpBind`] against the Linux kernel: addresses that go away, marks, fragments, a path that refuses GSO. Each test
//! has a network namespace of its own, so most of them need root, and say so if they are skipped.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, clippy::unwrap_used)]

#[path = "common/skip.rs"]
mod skip;

use skip::skipped;
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    fs,
    io::{self, Read},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::BorrowedFd,
    process::Command,
    sync::{Arc, Mutex, OnceLock, Weak},
    thread,
    time::{Duration, Instant},
};
use wg_embed::bind::{Bind, Endpoint, RecvBatch, SendReport, Transmit, UdpBind, udp::SocketHook};

/// Runs a test on a thread with a network namespace of its own, whose loopback is up.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return skipped("a network namespace needs root");
    }
    let run = move || {
        // SAFETY: concerns this thread only, which ends with the test.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
        sh("ip link set lo up");
        test();
    };
    thread::spawn(run).join().unwrap();
}

fn sh(line: &str) {
    let status = Command::new("sh").args(["-c", line]).status().unwrap();
    assert!(status.success(), "{line}");
}

/// Waits until the kernel has made an IPv6 address its own, which it does in its own time.
fn await_addresses(addresses: &[&str]) {
    for address in addresses {
        sh(&format!("until ip -6 route show table local | grep -q '^local {address} '; do sleep 0.01; done"));
    }
}

fn bind() -> (UdpBind, u16) {
    let bind = UdpBind::new().unwrap();
    let port = bind.open(0).unwrap();
    // GRO comes with the first large slots.
    bind.recv(&mut batch()).unwrap();
    (bind, port)
}

fn batch() -> RecvBatch {
    RecvBatch::new(4, 65_535)
}

fn to(ip: &str, port: u16) -> Endpoint {
    Endpoint::new(SocketAddr::new(ip.parse().unwrap(), port))
}

fn send(bind: &UdpBind, to: Endpoint, contents: &[u8], segment_size: usize) -> SendReport {
    bind.send(&[Transmit::new(to, contents).with_segments(segment_size)])
}

/// The next slot: from where to where, and what.
fn receive(bind: &UdpBind) -> (Endpoint, Vec<u8>) {
    let mut batch = RecvBatch::new(1, 65_535);
    let deadline = Instant::now() + Duration::from_secs(300);
    while bind.recv(&mut batch).unwrap() == 0 {
        assert!(Instant::now() < deadline, "nothing came");
        bind.wait(Some(Duration::from_secs(1))).unwrap();
    }
    let (meta, data) = batch.iter_mut().next().unwrap();
    (meta.from, data.to_vec())
}

/// Receives as many bytes as there are in `data`, and compares them.
fn receive_all(bind: &UdpBind, data: &[u8]) {
    let mut got = Vec::new();
    while got.len() < data.len() {
        got.extend(receive(bind).1);
    }
    assert!(got == data);
}

/// A counter of this namespace, as in `/proc/net/snmp6`.
fn snmp6(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/snmp6").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().parse().unwrap()
}

/// How many IPv4 datagrams were cut into fragments in this namespace.
fn fragmented4() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut ip = text.lines().filter(|line| line.starts_with("Ip:")).map(str::split_whitespace);
    let (mut names, mut values) = (ip.next().unwrap(), ip.next().unwrap());
    let at = names.position(|name| name == "FragOKs").unwrap();
    values.nth(at).unwrap().parse().unwrap()
}

#[test]
fn answers_leave_from_the_address_that_was_reached_until_it_goes_away() {
    in_namespace(|| {
        sh("ip addr add 10.0.0.1/32 dev lo; ip addr add 10.0.0.2/32 dev lo");
        sh("ip addr add fd00::1/128 dev lo nodad; ip addr add fd00::2/128 dev lo nodad");
        await_addresses(&["fd00::1", "fd00::2"]);
        let (bind, port) = bind();
        for (near, far, gone) in [
            ("10.0.0.2", "127.0.0.1:0", "ip addr del 10.0.0.2/32 dev lo"),
            ("fd00::2", "[fd00::1]:0", "ip addr del fd00::2/128 dev lo"),
        ] {
            let near: IpAddr = near.parse().unwrap();
            let peer = UdpSocket::bind(far).unwrap();
            peer.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
            peer.send_to(b"x", (near, port)).unwrap();
            let (endpoint, _) = receive(&bind);
            assert_eq!((endpoint.dst, endpoint.src), (peer.local_addr().unwrap(), Some(near)));

            assert_eq!(send(&bind, endpoint, b"y", 1).stale_source_mask, 0);
            let mut buffer = [0; 2000];
            assert_eq!(peer.recv_from(&mut buffer).unwrap(), (1, (near, port).into()));

            sh(gone);
            let report = send(&bind, endpoint, &[7; 2500], 1000);
            assert_eq!((report.sent, report.dropped, report.stale_source_mask), (3, 0, 1));
            for len in [1000, 1000, 500] {
                let (got, from) = peer.recv_from(&mut buffer).unwrap();
                assert_eq!((got, from.port()), (len, port));
                assert_ne!(from.ip(), near);
            }
        }
        assert_eq!(bind.stats().gso_disabled, 0);
    });
}

#[test]
fn link_local_addresses_keep_their_zone_and_a_zone_that_is_gone_is_a_drop() {
    in_namespace(|| {
        sh("echo 1 > /proc/sys/net/ipv6/conf/default/addr_gen_mode");
        sh("ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up");
        sh("ip addr add fe80::1/64 dev v0 nodad; ip addr add fe80::2/64 dev v1 nodad");
        await_addresses(&["fe80::1", "fe80::2"]);
        let (bind, port) = bind();
        let (v0, v1) = (bind.zone_index("v0").unwrap(), bind.zone_index("v1").unwrap());
        let at = |ip: &str, zone| SocketAddr::V6(std::net::SocketAddrV6::new(ip.parse().unwrap(), port, 0, zone));

        assert_eq!(send(&bind, Endpoint::new(at("fe80::2", v0)), b"x", 1).sent, 1);
        let (endpoint, _) = receive(&bind);
        assert_eq!(endpoint.dst, at("fe80::1", v1));
        assert_eq!(endpoint.src, Some("fe80::2".parse().unwrap()));

        let report = send(&bind, endpoint, b"y", 1);
        assert_eq!((report.sent, report.stale_source_mask), (1, 0));
        assert_eq!(receive(&bind).0.dst, at("fe80::2", v0));

        sh("ip link del v0");
        let report = send(&bind, endpoint, b"z", 1);
        assert_eq!((report.sent, report.dropped, report.stale_source_mask), (0, 1, 0));
    });
}

#[test]
fn a_host_with_ipv6_disabled_still_speaks_ipv4() {
    in_namespace(|| {
        sh("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6");
        let (bind, port) = bind();
        let report = send(&bind, to("::1", port), b"x", 1);
        assert_eq!((report.sent, report.dropped, report.unreachable_mask), (0, 1, 1));
        assert_eq!(send(&bind, to("127.0.0.1", port), b"x", 1).sent, 1);
        receive(&bind);
    });
}

#[test]
fn what_has_no_route_is_told_apart_from_what_may_not_pass() {
    in_namespace(|| {
        sh("ip route add unreachable 198.51.100.0/24; ip route add prohibit 203.0.113.0/24");
        for bind in [UdpBind::new().unwrap(), UdpBind::new().unwrap().with_portable_driver()] {
            bind.open(0).unwrap();
            for (ip, unreachable) in [("192.0.2.1", 1), ("2001:db8::1", 1), ("198.51.100.1", 1), ("203.0.113.1", 0)] {
                let mut endpoint = to(ip, 7);
                for src in [None, Some("127.0.0.1".parse().unwrap()).filter(|_| endpoint.dst.is_ipv4())] {
                    endpoint.src = src;
                    let report = send(&bind, endpoint, b"x", 1);
                    assert_eq!((report.dropped, report.unreachable_mask), (1, unreachable), "{ip} from {src:?}");
                }
            }
        }
    });
}

#[test]
fn a_host_without_ipv6_opens_ipv4_only() {
    const SOCKET: u32 = libc::SYS_socket as u32;
    const NO_FAMILY: u32 = libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32;
    let op = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |offset| op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
    let unless = |value, skip| op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, skip, value);
    let end = |verdict| op(libc::BPF_RET | libc::BPF_K, 0, 0, verdict);
    let first_argument = if cfg!(target_endian = "little") { 16 } else { 20 };
    let mut filter = [
        load(0),
        unless(SOCKET, 3),
        load(first_argument),
        unless(libc::AF_INET6 as u32, 1),
        end(NO_FAMILY),
        end(libc::SECCOMP_RET_ALLOW),
    ];
    let test = move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: concerns this thread only, which ends with the test.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
        // SAFETY: as above; the program lives through the call.
        let done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
        assert_eq!(done, 0);

        let (bind, port) = bind();
        assert!(bind.fd4().is_some() && bind.fd6().is_none());
        assert_eq!(send(&bind, to("::1", port), b"x", 1).dropped, 1);
        assert_eq!(bind.open(port).unwrap(), port);
        assert_eq!(send(&bind, to("127.0.0.1", port), b"x", 1).sent, 1);
        receive(&bind);
    };
    thread::spawn(test).join().unwrap();
}

#[test]
fn the_mark_chooses_the_route_and_survives_reopening() {
    in_namespace(|| {
        sh("ip route add 203.0.113.0/24 dev lo; ip -6 route add 2001:db8::/32 dev lo");
        for family in ["-4", "-6"] {
            sh(&format!("ip {family} rule add fwmark 0x1234 unreachable"));
        }
        let bind = UdpBind::new().unwrap();
        let sent = |bind: &UdpBind| {
            let report = ["203.0.113.1", "2001:db8::1"].map(|ip| send(bind, to(ip, 9), b"x", 1).sent);
            assert_eq!(report[0], report[1]);
            report[0]
        };
        bind.set_mark(0x1234).unwrap();
        let port = bind.open(0).unwrap();
        assert_eq!(sent(&bind), 0);
        bind.set_mark(0).unwrap();
        assert_eq!(sent(&bind), 1);
        bind.set_mark(0x1234).unwrap();
        bind.open(port).unwrap();
        assert_eq!(sent(&bind), 0);
        bind.open(0).unwrap();
        assert_eq!(sent(&bind), 0);
    });
}

/// The marks of a bind's sockets.
fn marks(bind: &UdpBind) -> [u32; 2] {
    [bind.fd4(), bind.fd6()].map(|fd| {
        // SAFETY: the bind is open, and is not closed at the same time.
        let fd = unsafe { BorrowedFd::borrow_raw(fd.unwrap()) };
        socket2::SockRef::from(&fd).mark().unwrap()
    })
}

#[test]
fn a_mark_comes_with_the_sockets_of_the_new_port_or_not_at_all() {
    in_namespace(|| {
        let opening = Arc::new(OnceLock::<(Weak<UdpBind>, Mutex<Vec<[u32; 2]>>)>::new());
        let seen = opening.clone();
        // While sockets are opened, the old ones are as before.
        let hook: SocketHook = Box::new(move |_, _| {
            let Some((bind, marks_seen)) = seen.get() else { return Ok(()) };
            marks_seen.lock().unwrap().push(marks(&bind.upgrade().unwrap()));
            Ok(())
        });
        let bind = Arc::new(UdpBind::new().unwrap().with_socket_hook(hook));
        bind.set_mark(7).unwrap();
        let port = bind.open(0).unwrap();
        opening.set((Arc::downgrade(&bind), Mutex::default())).unwrap();
        let seen = || std::mem::take(&mut *opening.get().unwrap().1.lock().unwrap());
        let fds = || (bind.fd4(), bind.fd6(), marks(&bind));
        let before = fds();
        for family in ["0.0.0.0:0", "[::]:0"] {
            let taken = UdpSocket::bind(family).unwrap();
            let busy = taken.local_addr().unwrap().port();
            let err = bind.open_marked(busy, 8, Some(port)).unwrap_err();
            assert_eq!((err.kind(), fds()), (io::ErrorKind::AddrInUse, before));
            assert!(seen().into_iter().all(|marks| marks == [7, 7]));
        }
        // It is not remembered either.
        assert_eq!((bind.open(port).unwrap(), marks(&bind)), (port, [7, 7]));
        let other = bind.open_marked(0, 8, Some(port)).unwrap();
        assert_eq!((marks(&bind), other != port), ([8, 8], true));
        let seen = seen();
        assert!(seen.len() >= 4 && seen.into_iter().all(|marks| marks == [7, 7]));
        assert_eq!((bind.open_marked(other, 9, Some(other)).unwrap(), marks(&bind)), (other, [9, 9]));
        // SAFETY: libc's own wrapper would do it to all threads; the call concerns this thread only, which ends soon.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) }, 0);
        let before = fds();
        let err = bind.open_marked(port, 10, Some(other)).unwrap_err();
        assert_eq!((err.kind(), fds()), (io::ErrorKind::PermissionDenied, before));
    });
}

#[test]
fn without_permission_the_old_mark_stays() {
    in_namespace(|| {
        let (bind, port) = bind();
        bind.set_mark(7).unwrap();
        // SAFETY: libc's own wrapper would do it to all threads; the call concerns this thread only, which ends soon.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) }, 0);
        assert_eq!(bind.set_mark(8).unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
        assert_eq!(marks(&bind), [7, 7]);
        assert_eq!(send(&bind, to("127.0.0.1", port), b"x", 1).sent, 1);
        // New sockets cannot be marked. Unmarked ones would be a leak, so the old ones stay.
        assert!(bind.open(port).is_err());
        assert_eq!(send(&bind, to("127.0.0.1", port), b"x", 1).sent, 1);
    });
}

#[test]
fn what_is_larger_than_the_mtu_is_fragmented_alone_or_in_segments() {
    in_namespace(|| {
        sh("ip link set lo mtu 1400");
        let data: Vec<u8> = (0..8000u32).map(|i| i as u8).collect();
        let (bind, port) = bind();
        for ip in ["127.0.0.1", "::1"] {
            let before = bind.stats().gso_refused;
            let (frag4, frag6) = (fragmented4(), snmp6("Ip6FragOKs"));
            assert_eq!(send(&bind, to(ip, port), &data, 0).sent, 1);
            receive_all(&bind, &data);
            // The kernel does not cut datagrams that are larger than the MTU.
            let report = send(&bind, to(ip, port), &data, 2000);
            assert_eq!((report.sent, report.dropped, report.stale_source_mask), (4, 0, 0));
            receive_all(&bind, &data);
            assert_eq!(bind.stats().gso_refused, before + 1);
            let fragmented = fragmented4() - frag4 + snmp6("Ip6FragOKs") - frag6;
            assert_eq!(fragmented, 5, "{ip}");
            // For others GSO goes on.
            assert_eq!(send(&bind, to(ip, port), &data, 1000).sent, 8);
            receive_all(&bind, &data);
            assert_eq!(bind.stats().gso_refused, before + 1);
        }
        assert_eq!(bind.stats().gso_disabled, 0);
    });
}

#[test]
fn what_the_system_will_not_segment_goes_out_one_by_one() {
    // A socket without checksums is one that Linux refuses to do GSO for, with EINVAL. EIO, which a path with IPsec or
    // without checksum offload is refused with, cannot be had here: see the unit tests of the driver.
    let data: Vec<u8> = (0..50_000u32).map(|i| i as u8).collect();
    let (bind, port) = bind();
    let on: libc::c_int = 1;
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    let fd = bind.fd4().unwrap();
    // SAFETY: the value is a live `int`, and its size is told.
    let done = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_NO_CHECK, (&raw const on).cast(), len) };
    assert_eq!(done, 0);
    let mut endpoint = to("127.0.0.1", port);
    endpoint.src = Some("127.0.0.5".parse().unwrap());
    let report = send(&bind, endpoint, &data, 1000);
    assert_eq!((report.sent, report.dropped, report.stale_source_mask), (50, 0, 0));
    assert_eq!(bind.stats().gso_refused, 1);
    let (from, first) = receive(&bind);
    assert_eq!((from.dst.ip(), first.as_slice()), (endpoint.src.unwrap(), &data[..1000]));
    receive_all(&bind, &data[1000..]);
}

/// Every IPv6 packet on the loopback from now on, from its IP header.
fn capture6() -> Socket {
    let protocol = Protocol::from(i32::from((libc::ETH_P_IPV6 as u16).to_be()));
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
    socket
}

/// Traffic class, flow label and source port of the next UDP datagram. The loopback shows each packet twice.
fn next_header(capture: &mut Socket) -> (u8, u32, u16) {
    let mut packet = vec![0; 70_000];
    loop {
        let len = capture.read(&mut packet).unwrap();
        if len >= 48 && packet[6] == libc::IPPROTO_UDP as u8 {
            let first = u32::from_be_bytes([packet[0], packet[1], packet[2], packet[3]]);
            return ((first >> 20) as u8, first & 0xf_ffff, u16::from_be_bytes([packet[40], packet[41]]));
        }
    }
}

#[test]
fn the_flow_label_is_zero_and_the_traffic_class_what_was_asked_for() {
    in_namespace(|| {
        await_addresses(&["::1"]);
        // The default of Linux: sockets have labels unless they decline.
        sh("sysctl -qw net.ipv6.auto_flowlabels=1");
        let mut capture = capture6();
        let usual = UdpSocket::bind("[::1]:0").unwrap();
        usual.send_to(b"labelled", "[::1]:9").unwrap();
        assert_ne!(next_header(&mut capture).1, 0, "this capture shows labels");
        let (bind, port) = bind();
        for (contents, segment_size, tos) in [(&[1; 148][..], 148, 0x88), (&[3; 64], 64, 0), (&[4; 4000], 1000, 2)] {
            let report = bind.send(&[Transmit::new(to("::1", 9), contents).with_segments(segment_size).with_tos(tos)]);
            assert_eq!(report.dropped, 0);
            let header = loop {
                let header = next_header(&mut capture);
                if header.2 == port && header.0 == tos {
                    break header;
                }
            };
            assert_eq!(header.1, 0, "a label on a datagram of TOS {tos:#x}");
        }
    });
}

/// Waits until these are the ports of all sockets in this namespace. A child process that another test is just about to
/// start holds copies for a moment.
fn await_sockets(table: &str, ports: &[u16]) {
    let port = |line: &str| u16::from_str_radix(line.split_whitespace().nth(1)?.rsplit_once(':')?.1, 16).ok();
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap();
        if text.lines().skip(1).filter_map(port).eq(ports.iter().copied()) {
            return;
        }
        assert!(Instant::now() < deadline, "{text}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn reopening_leaves_no_socket_behind() {
    in_namespace(|| {
        let (bind, mut port) = bind();
        for i in 0..200 {
            port = bind.open(if i % 2 == 0 { 0 } else { port }).unwrap();
        }
        await_sockets("udp", &[port]);
        await_sockets("udp6", &[port]);
        bind.close();
        await_sockets("udp", &[]);
        await_sockets("udp6", &[]);
    });
}
