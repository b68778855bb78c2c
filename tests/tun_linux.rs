//! TUN devices of a real kernel, in network namespaces of the test's own. Needs root; says so if it is not.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, clippy::unwrap_used)]

mod netns;
#[path = "common/skip.rs"]
mod skip;

use self::netns::{Netns, as_root, eventually};
use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use wg_embed::{
    ErrorKind,
    tun::{PacketArena, PacketList, Tun, TunEvent, linux::LinuxTun},
};

const VNET: i32 = libc::IFF_VNET_HDR;

fn arena() -> PacketArena {
    let mut arena = PacketArena::new(256 << 10, 256, |len, _| len.next_multiple_of(16));
    arena.clear(1420);
    arena
}

fn create(netns: &Netns, name: &'static str) -> LinuxTun {
    netns.run(move || LinuxTun::create(name).unwrap())
}

/// The next event, which must come within two seconds.
fn event(tun: &LinuxTun) -> TunEvent {
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        if let Some(event) = tun.event() {
            return event;
        }
        assert!(Instant::now() < deadline, "no event");
        while tun.read(&mut arena()).unwrap() > 0 {}
        tun.wait(Some(Duration::from_secs(300))).unwrap();
    }
}

fn error_kind(result: wg_embed::error::Result<LinuxTun>) -> ErrorKind {
    let err = result.map(|_| ()).unwrap_err();
    println!("{err}");
    err.kind()
}

#[test]
fn an_interface_is_made_told_about_and_removed() {
    as_root(|| {
        let netns = Netns::new();
        let tun = create(&netns, "wgt0");
        assert_eq!((tun.name().as_str(), tun.mtu()), ("wgt0", 1420));
        assert!(netns.ip("link show wgt0").contains("mtu 1420"));
        assert_eq!((tun.event(), tun.event()), (Some(TunEvent::Down), None));
        netns.ip("link set wgt0 up");
        assert_eq!(event(&tun), TunEvent::Up);
        netns.ip("link set wgt0 mtu 1300");
        assert_eq!((event(&tun), tun.mtu()), (TunEvent::Mtu(1300), 1300));
        netns.ip("link set wgt0 down");
        assert_eq!(event(&tun), TunEvent::Down);
        netns.ip("link set wgt0 name other0");
        assert_eq!(tun.name(), "other0");
        netns.ip("link set other0 up mtu 1400");
        assert_eq!(event(&tun), TunEvent::Mtu(1400));
        assert_eq!(event(&tun), TunEvent::Up);
        // Others do not matter.
        let another = create(&netns, "wgt1");
        netns.ip("link set wgt1 up mtu 1280");
        drop(another);
        assert_eq!((tun.event(), tun.mtu()), (None, 1400));
        drop(tun);
        assert!(!netns.ip("link").contains("other0"));
    });
}

#[test]
fn queues_are_as_long_as_those_of_the_kernels_wireguard_unless_their_owner_has_chosen() {
    as_root(|| {
        let netns = Netns::new();
        let length = |name: &str| {
            let told = netns.ip(&format!("link show {name}"));
            told.split_whitespace().skip_while(|word| *word != "qlen").nth(1).unwrap().parse::<u32>().unwrap()
        };
        let _new = create(&netns, "wgt0");
        assert_eq!(length("wgt0"), 1024);
        let _several = netns.run(|| LinuxTun::create_with_queues("wgt1", 2).unwrap());
        assert_eq!(length("wgt1"), 1024);
        netns.ip("tuntap add dev wgt2 mode tun");
        netns.ip("tuntap add dev wgt3 mode tun");
        netns.ip("link set wgt3 txqueuelen 300");
        let _persistent = [create(&netns, "wgt2"), create(&netns, "wgt3")];
        assert_eq!((length("wgt2"), length("wgt3")), (1024, 300));
    });
}

/// A program that had a persistent interface before may have set it to longer headers.
#[test]
fn packets_of_a_persistent_interface_are_read_behind_headers_of_any_length() {
    as_root(|| {
        let netns = Netns::new();
        for queues in [1, 2] {
            let several = if queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
            let before = netns.tun("wgt0", libc::IFF_TUN | VNET | several);
            let length: libc::c_int = 12;
            // SAFETY: TUNSETVNETHDRSZ reads one int, which lives.
            let set = unsafe { libc::ioctl(before.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const length) };
            // SAFETY: TUNSETPERSIST takes a number.
            let kept = unsafe { libc::ioctl(before.as_raw_fd(), libc::TUNSETPERSIST, 1) };
            assert_eq!((set, kept), (0, 0));
            drop(before);
            let tun = netns.run(move || LinuxTun::create_with_queues("wgt0", queues).unwrap());
            netns.ip("addr add 10.7.0.1/24 dev wgt0");
            netns.ip("link set wgt0 up");
            netns.run(|| UdpSocket::bind("10.7.0.1:0").unwrap().send_to(b"hello", "10.7.0.2:7").unwrap());
            let mut arena = arena();
            let further = tun.queues();
            let all: Vec<&dyn Tun> = std::iter::once(&tun as &dyn Tun).chain(further.iter().map(|q| &**q)).collect();
            eventually("the packet is read", || {
                all.iter().any(|queue| {
                    arena.clear(1420);
                    queue.read(&mut arena).unwrap();
                    let mut packets = arena.slots().iter().map(|slot| arena.packet(*slot));
                    packets.any(|packet| packet[0] == 0x45 && packet.ends_with(b"hello"))
                })
            });
            drop((tun, further));
            netns.ip("link delete wgt0");
        }
    });
}

#[test]
fn a_quick_change_there_and_back_is_told_as_both() {
    as_root(|| {
        let netns = Netns::new();
        let tun = create(&netns, "wgt0");
        for _ in 0..3 {
            netns.ip("link set wgt0 up");
            netns.ip("link set wgt0 down");
        }
        let told: Vec<_> = (0..7).map(|_| event(&tun)).collect();
        use TunEvent::{Down, Up};
        assert_eq!(told, [Down, Up, Down, Up, Down, Up, Down]);
    });
}

#[test]
fn more_changes_than_are_kept_lead_to_the_last_state() {
    as_root(|| {
        let netns = Netns::new();
        let tun = create(&netns, "wgt0");
        let path = std::env::temp_dir().join(format!("wg-embed-overrun-{}", std::process::id()));
        let script: String = (0..1500).map(|i| format!("link set wgt0 mtu {}\n", 1300 + i % 50)).collect();
        fs::write(&path, script).unwrap();
        netns.ip(&format!("-batch {}", path.display()));
        netns.ip("link set wgt0 up mtu 1234");
        fs::remove_file(&path).unwrap();
        eventually("the last state", || {
            let _ = tun.wait(Some(Duration::ZERO));
            while tun.event().is_some() {}
            tun.mtu() == 1234
        });
    });
}

#[test]
fn errors_name_the_cause() {
    as_root(|| {
        let netns = Netns::new();
        let tun = create(&netns, "wgt0");
        let kind = |name: &'static str| netns.run(move || error_kind(LinuxTun::create(name)));
        assert_eq!(kind("wgt0"), ErrorKind::Exists);
        assert_eq!(kind("lo"), ErrorKind::Exists);
        assert_eq!(kind("wg%d"), ErrorKind::Invalid);
        drop(tun);
        create(&netns, "wgt0");

        let unprivileged = Netns::new();
        let kind = unprivileged.run(|| {
            // SAFETY: takes numbers; made without libc's wrapper, it concerns this thread only.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534) }, 0);
            error_kind(LinuxTun::create("wgt0"))
        });
        assert_eq!(kind, ErrorKind::Permission);

        let unattached = fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
        assert_eq!(error_kind(LinuxTun::adopt(unattached.into(), 0)), ErrorKind::NotFound);
        let tap = netns.tun("tap0", libc::IFF_TAP);
        assert_eq!(error_kind(LinuxTun::adopt(tap, 0)), ErrorKind::Unsupported);
    });
}

#[test]
fn removal_ends_it() {
    as_root(|| {
        for vnet in [0, VNET] {
            let netns = Netns::new();
            let tun = LinuxTun::adopt(netns.tun("wgt0", libc::IFF_TUN | vnet), 0).unwrap();
            netns.ip("link set wgt0 up");
            thread::scope(|s| {
                let reader = s.spawn(|| {
                    loop {
                        while tun.read(&mut arena())? > 0 {}
                        tun.wait(Some(Duration::from_secs(300)))?;
                        while tun.event().is_some() {}
                    }
                });
                thread::sleep(Duration::from_millis(20));
                netns.ip("link del wgt0");
                let result: std::io::Result<()> = reader.join().unwrap();
                assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EBADFD));
            });
        }
    });
}

#[test]
fn an_adopted_interface_counts_as_up_and_is_watched() {
    as_root(|| {
        for vnet in [0, VNET] {
            let netns = Netns::new();
            let fd = netns.tun("wgt0", libc::IFF_TUN | vnet);
            netns.ip("link set wgt0 mtu 1333");
            // From outside of its namespace.
            let tun = LinuxTun::adopt(fd, 1111).unwrap();
            assert_eq!((tun.name().as_str(), tun.mtu()), ("wgt0", 1333));
            assert_eq!((tun.event(), tun.event()), (Some(TunEvent::Up), None));
            netns.ip("link set wgt0 mtu 1334");
            assert_eq!(event(&tun), TunEvent::Mtu(1334));
            netns.ip("link set wgt0 up");
            netns.ip("link set wgt0 down");
            assert_eq!(event(&tun), TunEvent::Down);
        }
    });
}

#[test]
fn a_socketpair_is_adopted_as_a_plain_descriptor() {
    let _guard = netns::alone();
    let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let tun = LinuxTun::adopt(ours.into(), 1300).unwrap();
    assert_eq!((tun.name().as_str(), tun.mtu(), tun.event()), ("", 1300, Some(TunEvent::Up)));
    theirs.send(&[9; 1300]).unwrap();
    tun.wait(None).unwrap();
    assert_eq!(tun.read(&mut arena()).unwrap(), 1);
    let stream = std::os::unix::net::UnixStream::pair().unwrap().0;
    assert_eq!(error_kind(LinuxTun::adopt(stream.into(), 0)), ErrorKind::Unsupported);
}

#[test]
fn moving_to_another_namespace_is_not_removal() {
    as_root(|| {
        let (from, to) = (Netns::new(), Netns::new());
        let tun = Arc::new(create(&from, "wgt0"));
        from.ip("link set wgt0 up");
        assert_eq!((event(&tun), event(&tun)), (TunEvent::Down, TunEvent::Up));
        from.ip(&format!("link set wgt0 netns {}", to.tid()));
        assert_eq!(event(&tun), TunEvent::Down);
        to.ip("link set wgt0 mtu 1288");
        assert_eq!(event(&tun), TunEvent::Mtu(1288));
        to.ip("addr add 10.7.0.1/24 dev wgt0");
        to.ip("link set wgt0 up");
        assert_eq!(event(&tun), TunEvent::Up);

        // Packets go both ways there.
        let answering = Forwarder::start(Arc::clone(&tun), Arc::clone(&tun), swap_addresses);
        let echoed = to.run(|| {
            let socket = UdpSocket::bind("10.7.0.1:4000").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
            socket.send_to(b"hello", "10.7.0.2:4000").unwrap();
            let mut buffer = [0; 100];
            let (len, peer) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(peer, "10.7.0.2:4000".parse().unwrap());
            buffer[..len].to_vec()
        });
        assert_eq!(echoed, b"hello");
        drop(answering);

        // And on: to a third one, and back to where the process is.
        let third = Netns::new();
        to.ip(&format!("link set wgt0 netns {}", third.tid()));
        assert_eq!(event(&tun), TunEvent::Down);
        third.ip("link set wgt0 up");
        assert_eq!(event(&tun), TunEvent::Up);
        third.ip(&format!("link set wgt0 netns {}", from.tid()));
        assert_eq!(event(&tun), TunEvent::Down);
        from.ip("link del wgt0");
        eventually("removal", || tun.read(&mut arena()).is_err());
    });
}

#[test]
fn a_namespace_that_cannot_be_entered_leaves_it_up() {
    as_root(|| {
        let (from, to) = (Netns::new(), Netns::new());
        let tun = Arc::new(create(&from, "wgt0"));
        assert_eq!(tun.event(), Some(TunEvent::Down));
        from.ip(&format!("link set wgt0 netns {}", to.tid()));
        let unprivileged = Arc::clone(&tun);
        let told = from.run(move || {
            // SAFETY: takes numbers; made without libc's wrapper, it concerns this thread only.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534) }, 0);
            event(&unprivileged)
        });
        assert_eq!((told, tun.mtu()), (TunEvent::Up, 1420));
        to.ip("link set wgt0 up");
        assert!(tun.read(&mut arena()).is_ok());
    });
}

#[test]
fn a_namespace_that_all_have_left_takes_the_interface_along() {
    as_root(|| {
        let (from, to) = (Netns::new(), Netns::new());
        let tun = from.run(|| LinuxTun::create("wgt0").unwrap());
        from.ip(&format!("link set wgt0 netns {}", to.tid()));
        // As a tunnel does, it looks after the interface where it is now.
        assert_eq!(tun.event(), Some(TunEvent::Down));
        to.ip("link set wgt0 up mtu 1300");
        assert_eq!((event(&tun), event(&tun)), (TunEvent::Up, TunEvent::Mtu(1300)));
        drop(to);
        eventually("removal", || tun.read(&mut arena()).is_err());
    });
}

#[test]
fn an_idle_interface_wakes_nobody() {
    as_root(|| {
        let netns = Netns::new();
        let tun = Arc::new(create(&netns, "wgt0"));
        while tun.event().is_some() {}
        tun.wait(Some(Duration::ZERO)).unwrap();
        while tun.event().is_some() {}
        assert_eq!(tun.read(&mut arena()).unwrap(), 0);
        thread::scope(|s| {
            let (tell, tid) = std::sync::mpsc::channel();
            let waiter = s.spawn({
                let tun = &tun;
                move || {
                    // SAFETY: gettid(2) takes nothing.
                    tell.send(unsafe { libc::gettid() }).unwrap();
                    tun.wait(Some(Duration::from_secs(300))).unwrap();
                }
            });
            let status = format!("/proc/self/task/{}/status", tid.recv().unwrap());
            let switches = || {
                let text = fs::read_to_string(&status).unwrap();
                text.lines().find(|l| l.starts_with("voluntary_ctxt")).unwrap().to_owned()
            };
            // It may take a while until it waits at all.
            netns::eventually("the thread sleeps", || {
                let before = switches();
                thread::sleep(Duration::from_millis(500));
                switches() == before
            });
            tun.wake();
            waiter.join().unwrap();
        });
    });
}

#[test]
fn no_descriptor_is_left_behind() {
    as_root(|| {
        let count = || fs::read_dir("/proc/self/fd").unwrap().count();
        let before = count();
        for _ in 0..3 {
            let (from, to) = (Netns::new(), Netns::new());
            let tun = create(&from, "wgt0");
            from.ip("link set wgt0 up");
            from.ip(&format!("link set wgt0 netns {}", to.tid()));
            assert_eq!((event(&tun), event(&tun), event(&tun)), (TunEvent::Down, TunEvent::Up, TunEvent::Down));
            from.run(|| assert!(LinuxTun::create("lo").is_err()));
            let adopted = LinuxTun::adopt(to.tun("wgt1", libc::IFF_TUN), 0).unwrap();
            drop((tun, adopted));
        }
        assert_eq!(count(), before);
    });
}

/// Carries packets from one TUN to another.
struct Forwarder {
    from: Arc<LinuxTun>,
    stop: Arc<AtomicBool>,
    packets: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    fn start(from: Arc<LinuxTun>, to: Arc<LinuxTun>, change: fn(&mut [u8])) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let packets = Arc::new(AtomicU64::new(0));
        let thread = thread::spawn({
            let (from, stop, packets) = (Arc::clone(&from), Arc::clone(&stop), Arc::clone(&packets));
            move || {
                let mut arena = arena();
                let mut ranges = Vec::new();
                while !stop.load(Relaxed) {
                    arena.clear(from.mtu());
                    let count = from.read(&mut arena).unwrap();
                    if count == 0 {
                        from.wait(None).unwrap();
                        while from.event().is_some() {}
                        continue;
                    }
                    packets.fetch_add(count as u64, Relaxed);
                    ranges.clear();
                    let (slots, bytes) = arena.parts_mut();
                    for slot in slots {
                        let range = slot.start..slot.start + slot.len;
                        change(&mut bytes[range.clone()]);
                        ranges.push(range);
                    }
                    to.write(PacketList { buffer: arena.bytes(), ranges: &ranges });
                }
            }
        });
        Self { from, stop, packets, thread: Some(thread) }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.from.wake();
        let result = self.thread.take().unwrap().join();
        if !thread::panicking() {
            result.unwrap();
        }
    }
}

/// Sends an IPv4 packet back; its checksums stay right.
fn swap_addresses(packet: &mut [u8]) {
    if packet[0] >> 4 == 4 {
        let (left, right) = packet[12..20].split_at_mut(4);
        left.swap_with_slice(right);
    }
}

/// Two namespaces, each with a TUN, and packets carried between them.
struct Bridge {
    left: Netns,
    right: Netns,
    forward: Forwarder,
    back: Forwarder,
}

impl Bridge {
    fn new(left_vnet: i32, right_vnet: i32, mtu: u16) -> Self {
        let (left, right) = (Netns::new(), Netns::new());
        let tun = |netns: &Netns, vnet, host| {
            let fd = netns.tun("wgt0", libc::IFF_TUN | vnet);
            let tun = LinuxTun::adopt(fd, 0).unwrap();
            netns.ip(&format!("addr add 10.7.0.{host}/24 dev wgt0"));
            netns.ip(&format!("addr add fd07::{host}/64 dev wgt0 nodad"));
            netns.ip(&format!("link set wgt0 up mtu {mtu}"));
            netns.await_address(&format!("fd07::{host}"));
            Arc::new(tun)
        };
        let (a, b) = (tun(&left, left_vnet, 1), tun(&right, right_vnet, 2));
        Self {
            left,
            right,
            forward: Forwarder::start(Arc::clone(&a), Arc::clone(&b), |_| ()),
            back: Forwarder::start(b, a, |_| ()),
        }
    }

    /// No kernel saw a wrong checksum, and nothing was malformed.
    fn check(&self) {
        for netns in [&self.left, &self.right] {
            assert_eq!(netns.snmp("Tcp", "InCsumErrors"), 0);
            assert_eq!(netns.snmp("Udp", "InCsumErrors"), 0);
            assert_eq!(netns.snmp("Ip", "InHdrErrors"), 0);
        }
        assert_eq!((self.forward.from.read_drops(), self.back.from.read_drops()), (0, 0));
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect()
}

/// Sends `len` bytes from left to right, and has them sent back.
fn transfer(bridge: &Bridge, server: IpAddr, len: usize) -> Duration {
    let listener = bridge.right.run(move || TcpListener::bind((server, 0)).unwrap());
    let address = listener.local_addr().unwrap();
    let echo = bridge.right.start(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut all = vec![0; len];
        stream.read_exact(&mut all).unwrap();
        stream.write_all(&all).unwrap();
    });
    let start = Instant::now();
    bridge.left.run(move || {
        let sent = pattern(len);
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(300)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
        stream.write_all(&sent).unwrap();
        let mut back = vec![0; len];
        stream.read_exact(&mut back).unwrap();
        assert!(sent == back, "other bytes came back");
    });
    echo.recv().unwrap();
    start.elapsed()
}

#[test]
fn tcp_passes_between_all_kinds() {
    as_root(|| {
        const LEN: usize = 8 << 20;
        for (left, right) in [(VNET, VNET), (0, VNET), (VNET, 0), (0, 0)] {
            for mtu in [1280, 1420, 9000] {
                let bridge = Bridge::new(left, right, mtu);
                for server in ["10.7.0.2", "fd07::2"] {
                    let took = transfer(&bridge, server.parse().unwrap(), LEN);
                    let mbit = (2 * LEN * 8) as f64 / took.as_secs_f64() / 1e6;
                    let kinds = (left != 0, right != 0);
                    println!("offloads {kinds:?}, mtu {mtu}, {server}: {mbit:.0} Mbit/s");
                }
                bridge.check();
                // The last ones may still be on their way.
                let counts = || (bridge.forward.packets.load(Relaxed), bridge.right.received("wgt0"));
                if right != 0 && left != 0 {
                    let (segments, received) = counts();
                    assert!(received * 2 < segments, "{received} writes for {segments} segments: not merged");
                } else if right == 0 {
                    eventually(
                        "each segment is a packet",
                        || matches!(counts(), (segments, received) if segments == received),
                    );
                }
            }
        }
    });
}

#[test]
fn udp_in_large_packets_arrives_as_it_was_sent() {
    as_root(|| {
        for (left, right) in [(VNET, VNET), (0, VNET), (VNET, 0)] {
            let bridge = Bridge::new(left, right, 1420);
            for server in ["10.7.0.2", "fd07::2"] {
                let server: IpAddr = server.parse().unwrap();
                let socket = bridge.right.run(move || UdpSocket::bind((server, 0)).unwrap());
                socket.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
                let address: SocketAddr = socket.local_addr().unwrap();
                let sent = pattern(40 * 1000 + 333);
                let text = sent.clone();
                bridge.left.run(move || {
                    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                    let socket = UdpSocket::bind(any).unwrap();
                    let size: libc::c_int = 1000;
                    // SAFETY: UDP_SEGMENT takes one int.
                    let result = unsafe {
                        libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, 103, (&raw const size).cast(), 4)
                    };
                    assert_eq!(result, 0);
                    assert_eq!(socket.send_to(&text, address).unwrap(), text.len());
                });
                let mut buffer = [0; 2000];
                for part in sent.chunks(1000) {
                    let (len, _) = socket.recv_from(&mut buffer).unwrap();
                    assert!(&buffer[..len] == part, "another datagram came");
                }
            }
            bridge.check();
            assert!(bridge.forward.packets.load(Relaxed) >= 82);
        }
    });
}
