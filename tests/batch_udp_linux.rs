//! UDP in batches on Linux: hosts with several ways out, and a system that will not do GSO.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, clippy::unwrap_used)]

mod netns;
#[path = "common/skip.rs"]
mod skip;

use netns::{Netns, as_root};
use std::{
    ffi::CString,
    net::{IpAddr, UdpSocket},
    os::fd::AsRawFd,
    sync::Arc,
    thread,
    time::Duration,
};
use wg_embed::{
    bind::{BatchOptions, BatchUdp, Bind, Endpoint, Family, RecvBatch, SendReport, Transmit, UdpBind},
    error::ErrorKind,
};

/// Two hosts with two cables between them. `home` has an address at each, and one that belongs to neither, like `far`:
///
///     home  v0 10.1.0.1 fd01::1 ------- w0 10.1.0.2 fd01::2  far
///           v1 10.2.0.1 fd02::1 ------- w1 10.2.0.2 fd02::2
///           lo 10.8.0.1 fd08::1         lo 10.9.0.1 fd09::1
///
/// From `home` to 10.9.0.1 the routes prefer the cable at v0, to fd09::1 none.
struct Cables {
    home: Netns,
    far: Netns,
}

impl Cables {
    fn new() -> Self {
        let (home, far) = (Netns::new(), Netns::new());
        for ns in [&home, &far] {
            ns.run(|| {
                for file in ["ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter", "ipv6/conf/default/accept_dad"] {
                    std::fs::write(format!("/proc/sys/net/{file}"), "0").unwrap();
                }
            });
        }
        for i in 0..2 {
            home.ip(&format!("link add v{i} type veth peer name w{i} netns {}", far.tid()));
        }
        for (ns, link, host, lo) in [(&home, "v", 1, 8), (&far, "w", 2, 9)] {
            for i in 0..2 {
                ns.ip(&format!("addr add 10.{}.0.{host}/24 dev {link}{i}", i + 1));
                ns.ip(&format!("addr add fd0{}::{host}/64 dev {link}{i} nodad", i + 1));
                ns.ip(&format!("link set {link}{i} up"));
            }
            ns.ip(&format!("addr add 10.{lo}.0.1/32 dev lo"));
            ns.ip(&format!("addr add fd0{lo}::1/128 dev lo nodad"));
        }
        for i in [0, 1] {
            home.ip(&format!("route add 10.9.0.1 via 10.{}.0.2 metric {}", i + 1, i + 1));
            // Through gateways, equal routes would be one route that the kernel shares out as it likes.
            home.ip(&format!("route append fd09::1 dev v{i} metric 1"));
            far.ip(&format!("addr add fd09::1/128 dev w{i} nodad"));
        }
        far.ip("route add 10.8.0.1 via 10.2.0.1");
        far.ip("route add fd08::1 via fd02::1");
        Self { home, far }
    }

    fn home(&self, options: BatchOptions) -> BatchUdp {
        self.home.run(|| options.open(0).unwrap())
    }

    fn far(&self) -> BatchUdp {
        self.far.run(|| BatchUdp::open(0).unwrap())
    }

    /// The numbers of w0 and w1.
    fn cables(&self) -> [u32; 2] {
        ["w0", "w1"].map(|name| index(&self.far, name))
    }
}

fn index(ns: &Netns, interface: &str) -> u32 {
    let name = CString::new(interface).unwrap();
    // SAFETY: the name ends with a zero.
    ns.run(move || unsafe { libc::if_nametoindex(name.as_ptr()) })
}

fn at(ip: &str, udp: &BatchUdp) -> Endpoint {
    Endpoint::new((ip.parse::<IpAddr>().unwrap(), udp.port().unwrap()).into())
}

fn send(udp: &BatchUdp, to: Endpoint) -> SendReport {
    udp.send(&[Transmit::new(to, b"x")]).unwrap()
}

fn receive(udp: &BatchUdp, family: Family) -> Endpoint {
    let mut from = None;
    let count = udp.receive(family, 1, Some(Duration::from_secs(60)), |datagram| from = Some(datagram.from));
    assert_eq!(count.unwrap(), 1, "nothing came");
    from.unwrap()
}

/// Has `far` ask `home` at one of its addresses, from its own far one, and returns where `home` saw that.
fn ask(far: &BatchUdp, home: &BatchUdp, family: Family, asked: &str) -> Endpoint {
    let own: IpAddr = if family == Family::V4 { "10.9.0.1" } else { "fd09::1" }.parse().unwrap();
    assert_eq!(send(far, Endpoint { src: Some(own), ..at(asked, home) }).stale_source_mask, 0);
    let from = receive(home, family);
    assert_eq!((from.dst.ip(), from.src), (own, asked.parse().ok()));
    from
}

/// Each family with the addresses of `home` at v0, at v1, and at neither.
const HOME: [(Family, [&str; 3]); 2] =
    [(Family::V4, ["10.1.0.1", "10.2.0.1", "10.8.0.1"]), (Family::V6, ["fd01::1", "fd02::1", "fd08::1"])];

#[test]
fn answers_leave_through_the_interface_that_was_asked_unless_any_will_do() {
    as_root(|| {
        let cables = Cables::new();
        let [w0, w1] = cables.cables();
        let far = cables.far();
        let answer = |home: &BatchUdp, family, asked| {
            let report = send(home, ask(&far, home, family, asked));
            assert_eq!((report.sent, report.stale_source_mask), (1, 0));
            let answer = receive(&far, family);
            assert_eq!(answer.dst, at(asked, home).dst);
            answer.src_interface
        };
        let home = cables.home(BatchOptions::new());
        for (family, asked) in HOME {
            assert_eq!(asked.map(|asked| answer(&home, family, asked)), [w0, w1, w1], "{family}");
        }
        let home = cables.home(BatchOptions::new().with_sticky_interface(false));
        let (family, asked) = HOME[0];
        assert_eq!(asked.map(|asked| answer(&home, family, asked)), [w0; 3]);
    });
}

#[test]
fn the_source_is_forgotten_when_its_interface_is_gone() {
    as_root(|| {
        for end in ["link del v1", "link set v1 down"] {
            let cables = Cables::new();
            let (far, home) = (cables.far(), cables.home(BatchOptions::new()));
            let [w0, _] = cables.cables();
            // At an address that goes with its interface, and at one that stays.
            let asked = HOME.map(|(family, [_, at_v1, at_lo])| {
                (family, [ask(&far, &home, family, at_v1), ask(&far, &home, family, at_lo)])
            });
            cables.home.ip(end);
            for (family, endpoints) in asked {
                for mut endpoint in endpoints {
                    let [at_v0, at_v1, at_lo] = HOME[family as usize].1;
                    let report = send(&home, endpoint);
                    assert_eq!((report.sent, report.dropped), (1, 0), "{end}: {endpoint:?}");
                    // The interface is still there, and for IPv6 it is only a wish.
                    let kept = end == "link set v1 down" && endpoint.src == at_lo.parse().ok() && family == Family::V6;
                    assert_eq!(report.stale_source_mask, u128::from(!kept), "{end}: {endpoint:?}");
                    let answer = receive(&far, family);
                    let now = if kept { at_lo } else { at_v0 };
                    assert_eq!((answer.dst, answer.src_interface), (at(now, &home).dst, w0));
                    assert_ne!(answer.dst, at(at_v1, &home).dst);
                    endpoint.clear_source();
                    assert_eq!(send(&home, endpoint).stale_source_mask, 0);
                    assert_eq!(receive(&far, family).dst, at(at_v0, &home).dst);
                }
            }
        }
    });
}

#[test]
fn a_family_can_be_tied_to_an_interface_whatever_its_endpoints_say() {
    as_root(|| {
        let cables = Cables::new();
        let [w0, w1] = cables.cables();
        let [v0, v1] = ["v0", "v1"].map(|name| index(&cables.home, name));
        let far = cables.far();
        for options in [BatchOptions::new(), BatchOptions::new().with_portable_driver()] {
            let home = Arc::new(cables.home(options));
            for (family, [at_v0, ..]) in HOME {
                let far_away = if family == Family::V4 { "10.9.0.1" } else { "fd09::1" };
                let asked_at_v0 = ask(&far, &home, family, at_v0);
                let ways = || {
                    [at(far_away, &far), asked_at_v0].map(|to| {
                        assert_eq!(send(&home, to).sent, 1);
                        receive(&far, family).src_interface
                    })
                };
                home.set_interface(family, v1, false).unwrap();
                assert_eq!(ways(), [w1, w1], "{family}");
                let missing = home.set_interface(family, 4711, true).unwrap_err();
                assert_eq!((missing.kind(), missing.to_string().contains("4711")), (ErrorKind::NotFound, true));
                assert_eq!(ways(), [w1, w1]);
                let (again, port) = (home.clone(), home.port().unwrap());
                assert_eq!(cables.home.run(move || again.reopen(port).unwrap()), port);
                assert_eq!(ways(), [w1, w1]);
                home.set_interface(family, v0, false).unwrap();
                assert_eq!(ways(), [w0, w0]);
                home.set_interface(family, 0, false).unwrap();
                if family == Family::V4 {
                    assert_eq!(ways(), [w0, w0]);
                }
                ask(&far, &home, family, HOME[family as usize].1[1]);
            }
        }
    });
}

#[test]
fn without_permission_new_sockets_are_bound_and_an_adopted_one_is_not() {
    as_root(|| {
        let cables = Cables::new();
        let [v0, v1] = ["v0", "v1"].map(|name| index(&cables.home, name));
        let [w0, w1] = cables.cables();
        let far = cables.far();
        let to = [at("10.9.0.1", &far), at("fd09::1", &far)];
        cables.home.run(move || {
            let test = move || {
                // SAFETY: libc's own wrapper would do it to all threads; the call concerns this thread only, which
                // ends soon.
                assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) }, 0);
                let way = |udp: &BatchUdp, family| {
                    assert_eq!(send(udp, to[family as usize]).sent, 1);
                    receive(&far, family).src_interface
                };
                let udp = BatchUdp::open(0).unwrap();
                let port = udp.port();
                for (interface, expected) in [(v0, w0), (v1, w1), (v0, w0)] {
                    for family in [Family::V4, Family::V6] {
                        udp.set_interface(family, interface, false).unwrap();
                        assert_eq!((way(&udp, family), udp.port()), (expected, port));
                    }
                }
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                let udp = BatchOptions::new().adopt(socket).unwrap();
                udp.set_interface(Family::V4, v1, false).unwrap();
                let refused = udp.set_interface(Family::V4, v0, false).unwrap_err();
                assert_eq!((refused.kind(), way(&udp, Family::V4)), (ErrorKind::Permission, w1));
            };
            thread::spawn(test).join().unwrap();
        });
    });
}

#[test]
fn the_mark_is_that_of_every_socket() {
    as_root(|| {
        let mark_of = |udp: &BatchUdp| {
            [Family::V4, Family::V6].map(|family| {
                // SAFETY: it is open, and nobody closes it meanwhile.
                let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(udp.fd(family).unwrap()) };
                socket2::SockRef::from(&fd).mark().unwrap()
            })
        };
        let udp = BatchOptions::new().with_mark(7).open(0).unwrap();
        assert_eq!(mark_of(&udp), [7; 2]);
        udp.set_mark(8).unwrap();
        udp.reopen(0).unwrap();
        assert_eq!(mark_of(&udp), [8; 2]);
    });
}

/// Such a socket has IPv4 addresses in IPv6 ones.
#[test]
fn a_socket_for_both_families_answers_from_the_address_that_was_asked() {
    let udp = BatchOptions::new().adopt(UdpSocket::bind("[::]:0").unwrap()).unwrap();
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let asked = at("127.0.0.9", &udp).dst;
    peer.send_to(b"x", asked).unwrap();
    let from = receive(&udp, Family::V6);
    assert_eq!(from.src, "::ffff:127.0.0.9".parse().ok());
    let batch = [Transmit::new(from, b"y"); 3];
    let report = udp.send(&batch).unwrap();
    assert_eq!((report.sent, report.stale_source_mask), (3, 0));
    for _ in batch {
        let mut buffer = [0; 9];
        assert_eq!(peer.recv_from(&mut buffer).unwrap(), (1, asked));
    }
}

/// All options of a socket that can be asked for, by level and number.
fn all_options(socket: &UdpSocket) -> Vec<(i32, i32, Vec<u8>)> {
    // Errors, and numbers that depend on what passes.
    const CHANGES: [(i32, i32); 4] = [
        (libc::SOL_SOCKET, libc::SO_ERROR),
        (libc::SOL_SOCKET, libc::SO_INCOMING_CPU),
        (libc::SOL_SOCKET, 55), // SO_MEMINFO
        (libc::SOL_SOCKET, 56), // SO_INCOMING_NAPI_ID
    ];
    let mut options = Vec::new();
    for level in [libc::SOL_SOCKET, libc::IPPROTO_IP, libc::IPPROTO_IPV6, libc::SOL_UDP] {
        // The firewall's begin at 64.
        let names = (0..130).filter(|name| level == libc::SOL_SOCKET || !(64..70).contains(name));
        for name in names.filter(|name| !CHANGES.contains(&(level, *name))) {
            let (mut value, mut len) = ([0u8; 64], 64);
            let fd = socket.as_raw_fd();
            // SAFETY: there is room for as many bytes as are told.
            let result = unsafe { libc::getsockopt(fd, level, name, value.as_mut_ptr().cast(), &raw mut len) };
            if result == 0 {
                options.push((level, name, value[..len as usize].to_vec()));
            }
        }
    }
    // SAFETY: takes no argument.
    let flags = unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_GETFL) };
    options.push((-1, 0, flags.to_ne_bytes().to_vec()));
    options
}

fn assert_same(now: &[(i32, i32, Vec<u8>)], before: &[(i32, i32, Vec<u8>)]) {
    let differ: Vec<_> = now.iter().zip(before).filter(|(now, before)| now != before).collect();
    assert!(differ.is_empty() && now.len() == before.len(), "(level, option, value) now and before: {differ:?}");
}

fn set(socket: &UdpSocket, level: i32, name: i32, value: i32) {
    // SAFETY: the value is a live `int`.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), 4) };
    assert_eq!(set, 0, "option {name} of level {level}");
}

/// Sockets as an app may have them.
fn lent_sockets() -> Vec<UdpSocket> {
    let mut sockets = Vec::new();
    for local in ["127.0.0.1:0", "[::1]:0", "[::]:0", "0.0.0.0:0"] {
        let [plain, changed] = [(); 2].map(|()| UdpSocket::bind(local).unwrap());
        changed.set_nonblocking(true).unwrap();
        for (level, name, value) in [
            (libc::SOL_SOCKET, libc::SO_RCVBUF, 30_000),
            (libc::SOL_SOCKET, libc::SO_SNDBUF, 20_000),
            (libc::SOL_UDP, libc::UDP_SEGMENT, 700),
        ] {
            set(&changed, level, name, value);
        }
        if local.contains('[') {
            set(&changed, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1);
            set(&changed, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO);
        } else {
            set(&changed, libc::IPPROTO_IP, libc::IP_RECVTOS, 1);
            set(&changed, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE);
        }
        sockets.extend([plain, changed]);
    }
    sockets
}

type MakeOptions = fn() -> BatchOptions;

const EACH_DRIVER: [MakeOptions; 3] =
    [BatchOptions::new, || BatchOptions::new().with_offload(false), || BatchOptions::new().with_portable_driver()];

#[test]
fn a_lent_socket_comes_back_as_it_was() {
    as_root(|| {
        Netns::new().run(|| {
            for options in EACH_DRIVER {
                for socket in lent_sockets() {
                    let family = if socket.local_addr().unwrap().is_ipv4() { Family::V4 } else { Family::V6 };
                    let before = all_options(&socket);
                    let udp = options().with_mark(3).adopt(socket.try_clone().unwrap()).unwrap();
                    udp.receive(family, 1, Some(Duration::ZERO), |_| ()).unwrap();
                    udp.set_mark(4).unwrap();
                    udp.set_interface(family, 1, false).unwrap();
                    assert_ne!(all_options(&socket), before);
                    udp.close();
                    assert_same(&all_options(&socket), &before);

                    drop(options().adopt(socket.try_clone().unwrap()).unwrap());
                    assert_same(&all_options(&socket), &before);
                }
            }
        });
    });
}

#[test]
fn a_socket_that_cannot_be_adopted_stays_as_it_was() {
    as_root(|| {
        let test = || {
            // SAFETY: as above.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) }, 0);
            for options in EACH_DRIVER {
                for socket in lent_sockets() {
                    let before = all_options(&socket);
                    let refused = options().with_mark(3).adopt(socket.try_clone().unwrap()).unwrap_err();
                    assert_eq!(refused.kind(), ErrorKind::Permission);
                    assert_same(&all_options(&socket), &before);
                }
            }
        };
        thread::spawn(test).join().unwrap();
    });
}

/// Not even what had come before.
#[test]
fn who_lent_a_socket_receives_no_datagrams_put_together() {
    for options in EACH_DRIVER {
        for host in ["127.0.0.1", "[::1]"] {
            let socket = UdpSocket::bind(format!("{host}:0")).unwrap();
            let to = Endpoint::new(socket.local_addr().unwrap());
            let sender = BatchUdp::open(0).unwrap();
            let batch = [Transmit::new(to, &[7; 100]); 40];
            let udp = options().adopt(socket.try_clone().unwrap()).unwrap();
            udp.receive(Family::of(to.dst), 1, Some(Duration::ZERO), |_| ()).unwrap();
            assert_eq!(sender.send(&batch).unwrap().sent, 40);
            udp.close();
            assert_eq!(sender.send(&batch).unwrap().sent, 40);
            assert_eq!(sender.send(&[Transmit::new(to, b"last")]).unwrap().sent, 1);
            let (mut buffer, mut singles) = ([0; 9000], 0);
            socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            loop {
                match socket.recv(&mut buffer).unwrap() {
                    4 => break,
                    len => assert_eq!(len, 100),
                }
                singles += 1;
            }
            assert!(singles >= 40, "those after the close have come: {singles}");
        }
    }
}

/// That the receiver finds many in one slot shows that they left together.
#[test]
fn neighbours_of_one_size_leave_together() {
    let receiver = UdpBind::new().unwrap();
    let port = receiver.open(0).unwrap();
    let mut batch = RecvBatch::new(16, 65_535);
    assert_eq!(receiver.recv(&mut batch).unwrap(), 0);
    let data: Vec<Vec<u8>> = (0..128).map(|i| vec![i; 1000]).collect();
    for (options, most_slots) in [(BatchOptions::new(), 3), (BatchOptions::new().with_offload(false), 128)] {
        let sender = options.open(0).unwrap();
        for host in ["127.0.0.1", "[::1]"] {
            let to = Endpoint::parse(&format!("{host}:{port}")).unwrap();
            let transmits: Vec<_> = data.iter().map(|contents| Transmit::new(to, contents)).collect();
            assert_eq!(sender.send(&transmits).unwrap().sent, 128);
            let (mut slots, mut got) = (0, Vec::new());
            while got.len() < 128_000 {
                batch.clear();
                if receiver.recv(&mut batch).unwrap() == 0 {
                    receiver.wait(Some(Duration::from_secs(1))).unwrap();
                }
                slots += batch.len();
                got.extend(batch.iter_mut().flat_map(|(_, data)| data.to_vec()));
            }
            assert!(got == data.concat());
            assert!(slots <= most_slots && slots * 64 >= most_slots, "{slots} slots");
        }
    }
}

/// Has every `sendmmsg` of this thread fail with EIO if it is about a single message, as a GSO send is that has the
/// whole batch. So says a real system if a packet has to be encrypted on its way out, for example.
fn refuse_single_messages() {
    const SENDMMSG: u32 = libc::SYS_sendmmsg as u32;
    let op = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |offset| op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
    let unless = |value, skip| op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, skip, value);
    let end = |verdict| op(libc::BPF_RET | libc::BPF_K, 0, 0, verdict);
    let third_argument = if cfg!(target_endian = "little") { 32 } else { 36 };
    let mut filter = [
        load(0),
        unless(SENDMMSG, 3),
        load(third_argument),
        unless(1, 1),
        end(libc::SECCOMP_RET_ERRNO | libc::EIO as u32),
        end(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: concerns this thread only, which ends with the test.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: as above; the program lives through the call.
    let done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(done, 0);
}

#[test]
fn where_gso_cannot_be_done_it_is_given_up_and_nothing_is_lost() {
    let test = || {
        let udp = BatchUdp::open(0).unwrap();
        refuse_single_messages();
        let data: Vec<[u8; 1000]> = (0..40).map(|i| [i; 1000]).collect();
        for (round, (family, home)) in [(Family::V4, "127.0.0.1"), (Family::V6, "::1")].into_iter().enumerate() {
            for again in [false, true] {
                let to = at(home, &udp);
                let batch: Vec<_> = data.iter().map(|data| Transmit::new(to, data)).collect();
                let report = udp.send(&batch).unwrap();
                assert_eq!((report.sent, report.dropped, report.error), (40, 0, None));
                assert_eq!(report.gso_disabled, !again, "it is said once");
                let mut got = Vec::new();
                while got.len() < 40 {
                    let count =
                        udp.receive(family, 40, Some(Duration::from_secs(60)), |d| got.push(d.contents.to_vec()));
                    assert!(count.unwrap() > 0);
                }
                assert!(got.iter().eq(data.iter()));
                // Once for each socket.
                let stats = udp.stats();
                assert_eq!((stats.gso_disabled, stats.gso_refused), (round as u64 + 1, round as u64 + 1));
            }
        }
    };
    thread::spawn(test).join().unwrap();
}
