//! The descriptor of a TUN is replaced while packets pass.
#![cfg(unix)]
#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "common/at_end.rs"]
mod at_end;
mod common;
#[cfg(not(target_os = "linux"))]
#[path = "common/in_time.rs"]
mod in_time;
#[cfg(target_os = "linux")]
mod netns;
#[cfg(target_os = "linux")]
#[path = "common/skip.rs"]
mod skip;

use std::{
    fs::File,
    io::{self, ErrorKind::WouldBlock, Read},
    net::{IpAddr, SocketAddr},
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use at_end::set_at_end;
use common::{PORT, give, ipv4, kind};
#[cfg(target_os = "linux")]
use netns::in_time;
use socket2::{Domain, Socket, Type};
use wg_embed::{
    ErrorKind,
    bind::mem::MemNetwork,
    config::{PeerUpdate, Update},
    device::{Event, Options, Tunnel},
    key::PrivateKey,
    noise::REKEY_TIMEOUT,
    poll::Registered,
    random::SystemRandom,
    time::ManualClock,
    tun::{
        PacketArena, PacketList, Tun, TunEvent,
        fd::FdTun,
        mem::{MemHandle, MemTun},
    },
};

/// One at a time: descriptors are counted.
fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The TUN's end of a socketpair, and the app's.
fn pair(kind: Type) -> (OwnedFd, Socket) {
    let (ours, theirs) = Socket::pair(Domain::UNIX, kind, None).unwrap();
    theirs.set_nonblocking(true).unwrap();
    (ours.into(), theirs)
}

fn arena() -> PacketArena {
    let mut arena = PacketArena::new(256 << 10, 256, |len, _| len.next_multiple_of(16));
    arena.clear(1420);
    arena
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < in_time::LIMIT, "{what}");
        thread::yield_now();
    }
}

/// The next number that was written to the other end; `None` if there is none now, or the end is closed.
fn receive(app: &Socket) -> Option<u32> {
    let mut packet = [0; 100];
    match Read::read(&mut &*app, &mut packet) {
        Ok(0) => None,
        Ok(len) => Some(u32::from_be_bytes(packet[..len].try_into().unwrap())),
        Err(err) if err.kind() == WouldBlock || err.raw_os_error() == Some(libc::ECONNRESET) => None,
        Err(err) => panic!("{err}"),
    }
}

/// Returns false if the other end has no room, or is closed.
fn send(app: &Socket, number: u32) -> bool {
    app.send(&number.to_be_bytes()).is_ok()
}

/// Writes numbers as packets, and returns how many were taken.
fn write(tun: &dyn Tun, first: u32, count: u32) -> usize {
    let buffer: Vec<u8> = (first..first + count).flat_map(u32::to_be_bytes).collect();
    let ranges: Vec<_> = (0..count as usize).map(|i| 4 * i..4 * i + 4).collect();
    tun.write(PacketList { buffer: &buffer, ranges: &ranges })
}

/// The numbers that are there to be read.
fn read(tun: &dyn Tun) -> io::Result<Vec<u32>> {
    let mut arena = arena();
    let mut numbers = Vec::new();
    while tun.read(&mut arena)? > 0 {
        let packets = arena.slots().iter().map(|&slot| arena.packet(slot));
        numbers.extend(packets.map(|packet| u32::from_be_bytes(packet.try_into().unwrap())));
        arena.clear(1420);
    }
    Ok(numbers)
}

fn is_ascending(numbers: &[u32]) -> bool {
    numbers.is_sorted_by(|a, b| a < b)
}

#[test]
fn each_packet_is_written_to_one_of_them_in_order() {
    let _guard = alone();
    for kind in [Type::DGRAM, Type::SEQPACKET] {
        let (ours, mut app) = pair(kind);
        let tun = FdTun::new(ours, 1420).unwrap();
        let (stop, mut received) = (AtomicBool::new(false), Vec::new());
        let taken = thread::scope(|s| {
            let stop_at_end = set_at_end(&stop);
            let writer = s.spawn(|| {
                let (mut next, mut taken) = (0, 0);
                while !stop.load(SeqCst) {
                    taken += write(&tun, next, 8);
                    next += 8;
                }
                taken
            });
            for _ in 0..60 {
                eventually("packets pass", || receive(&app).map(|number| received.push(number)).is_some());
                let (ours, next) = pair(kind);
                tun.replace(ours, 1420).unwrap();
                // All that was ever written to the old one is there now.
                let old = std::mem::replace(&mut app, next);
                received.extend(std::iter::from_fn(|| receive(&old)));
                thread::yield_now();
                assert_eq!(receive(&old), None);
                // Its other end was closed.
                assert!(old.send(&[0]).is_err());
            }
            drop(stop_at_end);
            // It may wait for a reader.
            while !writer.is_finished() {
                received.extend(receive(&app));
            }
            writer.join().unwrap()
        });
        received.extend(std::iter::from_fn(|| receive(&app)));
        assert_eq!(received.len(), taken);
        assert!(is_ascending(&received), "{kind:?}");
    }
}

#[test]
fn what_waits_in_the_new_one_is_read_without_another_packet() {
    let _guard = alone();
    for kind in [Type::DGRAM, Type::SEQPACKET] {
        let (ours, mut app) = pair(kind);
        let tun = FdTun::new(ours, 1420).unwrap();
        let (sender, numbers) = mpsc::channel();
        let stop = AtomicBool::new(false);
        thread::scope(|s| {
            let _stop_at_end = at_end::AtEnd(|| {
                stop.store(true, SeqCst);
                tun.wake();
            });
            s.spawn(|| {
                while !stop.load(SeqCst) {
                    read(&tun).unwrap().into_iter().for_each(|number| sender.send(number).unwrap());
                    tun.wait(None).unwrap();
                }
            });
            let mut last = 0;
            for round in 0..200_u32 {
                // Some of these may be lost with the old one.
                (0..round % 4).for_each(|_| {
                    assert!(send(&app, {
                        last += 1;
                        last
                    }))
                });
                let (ours, next) = pair(kind);
                let first = last + 1;
                (0..3).for_each(|_| {
                    assert!(send(&next, {
                        last += 1;
                        last
                    }))
                });
                tun.replace(ours, 1420).unwrap();
                let mut got = Vec::new();
                while got.last() != Some(&last) {
                    got.push(numbers.recv_timeout(in_time::LIMIT).unwrap());
                }
                assert!(is_ascending(&got) && got.ends_with(&[first, first + 1, first + 2]), "{got:?}");
                app = next;
            }
        });
    }
}

#[test]
fn two_threads_may_replace_it_at_once() {
    let _guard = alone();
    let tun = FdTun::new(pair(Type::SEQPACKET).0, 1000).unwrap();
    assert_eq!((tun.event(), tun.event()), (Some(TunEvent::Up), None));
    for round in 0..200 {
        let ends: Vec<_> = thread::scope(|s| {
            let replace = |mtu| {
                let (ours, app) = pair(Type::SEQPACKET);
                tun.replace(ours, mtu).unwrap();
                (app, mtu)
            };
            let threads = [1281, 1282].map(|mtu| s.spawn(move || replace(mtu)));
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        // One of the two is in use, with its MTU, and the other is closed.
        assert_eq!(write(&tun, round, 1), 1);
        let used: Vec<_> = ends.iter().filter(|(app, _)| receive(app) == Some(round)).collect();
        assert_eq!((used.len(), used[0].1), (1, tun.mtu()));
        assert_eq!(ends.iter().filter(|(app, _)| send(app, round)).count(), 1);
        assert_eq!(read(&tun).unwrap(), [round]);
    }
    assert!(matches!(tun.event(), Some(TunEvent::Mtu(1281 | 1282))));
    assert_eq!(tun.event(), None);
}

#[test]
fn what_cannot_be_used_changes_nothing() {
    let _guard = alone();
    let (ours, app) = pair(Type::DGRAM);
    let tun = FdTun::new(ours, 1300).unwrap();
    assert_eq!(tun.event(), Some(TunEvent::Up));
    let refused: [(OwnedFd, _); 4] = [
        (UnixStream::pair().unwrap().0.into(), ErrorKind::Unsupported),
        (io::pipe().unwrap().0.into(), ErrorKind::Unsupported),
        (File::open("/etc/passwd").unwrap().into(), ErrorKind::Unsupported),
        // Only here it is found that it cannot be waited for.
        (File::open("/dev/null").unwrap().into(), ErrorKind::Permission),
    ];
    for (fd, kind) in refused {
        assert_eq!(tun.replace(fd, 1280).unwrap_err().kind(), kind);
        assert_eq!((tun.mtu(), tun.event()), (1300, None));
        assert_eq!(write(&tun, 1, 1), 1);
        assert_eq!(receive(&app), Some(1));
        assert!(send(&app, 2));
        tun.wait(None).unwrap();
        assert_eq!(read(&tun).unwrap(), [2]);
    }
}

/// As it is with a descriptor that stays open elsewhere: nothing leaves a poll by being closed then.
#[test]
fn an_old_one_that_stays_open_wakes_no_thread() {
    let _guard = alone();
    let (ours, app) = pair(Type::DGRAM);
    let duplicate = ours.try_clone().unwrap();
    let tun = FdTun::new(ours, 1420).unwrap();
    let mut poll = mio::Poll::new().unwrap();
    let registry = Arc::new(poll.registry().try_clone().unwrap());
    let tokens = Registered { packets: mio::Token(7), other: mio::Token(8) };
    assert!(tun.register(&registry, tokens).unwrap());
    let mut wakes = || {
        let mut events = mio::Events::with_capacity(4);
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        tun.wait(Some(Duration::ZERO)).unwrap();
        !events.is_empty()
    };
    let (ours, next) = pair(Type::DGRAM);
    tun.replace(ours, 1420).unwrap();
    assert!(wakes(), "the new one is looked at");
    assert!(!wakes());
    assert!(send(&app, 1));
    assert!(!wakes());
    assert!(send(&next, 2));
    assert!(wakes());
    assert_eq!(read(&tun).unwrap(), [2]);
    drop(duplicate);
}

#[test]
fn no_descriptor_is_left() {
    let _guard = alone();
    let open = || std::fs::read_dir("/dev/fd").unwrap().count();
    let tun = FdTun::new(pair(Type::SEQPACKET).0, 1420).unwrap();
    let before = open();
    for round in 0..1000 {
        let (ours, app) = pair(Type::SEQPACKET);
        tun.replace(ours, 1420).unwrap();
        assert!(tun.replace(UnixStream::pair().unwrap().0.into(), 1420).is_err());
        assert!(send(&app, round));
        assert_eq!((read(&tun).unwrap(), open()), (vec![round], before + 1));
    }
}

/// Of the reader of an old one only what was read is passed on; the counter of drops goes on.
#[test]
fn counters_go_on() {
    let _guard = alone();
    let (ours, app) = pair(Type::DGRAM);
    let tun = FdTun::new(ours, 1420).unwrap();
    app.send(&[]).unwrap();
    assert_eq!((read(&tun).unwrap(), tun.read_drops()), (vec![], 1));
    let (ours, app) = pair(Type::DGRAM);
    tun.replace(ours, 0).unwrap();
    app.send(&[]).unwrap();
    assert_eq!((read(&tun).unwrap(), tun.read_drops()), (vec![], 2));
    // The other end of the old one was gone: that is over.
    drop(app);
    assert_eq!(write(&tun, 1, 1), 0);
    assert!(read(&tun).is_err());
    let (ours, app) = pair(Type::DGRAM);
    tun.replace(ours, 0).unwrap();
    assert_eq!((read(&tun).unwrap(), write(&tun, 1, 1), receive(&app)), (vec![], 1, Some(1)));
}

/// A tunnel over a descriptor, and its peer in memory.
struct Pair {
    net: MemNetwork,
    clock: Arc<ManualClock>,
    tunnel: Tunnel,
    tun: Arc<FdTun>,
    app: Socket,
    peer: Tunnel,
    peer_tun: MemHandle,
    private: [PrivateKey; 2],
    ended: Arc<AtomicU32>,
}

fn outer(n: u8) -> IpAddr {
    [192, 0, 2, n].into()
}

fn inner(n: u8) -> IpAddr {
    [10, 0, 0, n].into()
}

impl Pair {
    fn new() -> Self {
        let (net, clock) = (MemNetwork::new(), Arc::new(ManualClock::new()));
        net.record();
        let private = [(); 2].map(|()| PrivateKey::generate_with(&SystemRandom));
        let ended = Arc::new(AtomicU32::new(0));
        let start = |tun: Arc<dyn Tun>, n: u8| {
            let ended = ended.clone();
            let events = Box::new(move |event| {
                if matches!(event, Event::Ended(_)) {
                    ended.fetch_add(1, SeqCst);
                }
            });
            let options = Options { events, clock: clock.clone(), ..Options::default() };
            let tunnel = Tunnel::start(tun, net.bind(outer(n)), options).unwrap();
            let private_key = Some(Some(private[usize::from(n) - 1].clone()));
            tunnel.device().apply(Update { private_key, listen_port: Some(PORT), ..Update::default() }).unwrap();
            tunnel.device().up().unwrap();
            tunnel
        };
        let (ours, app) = pair(Type::SEQPACKET);
        let tun = Arc::new(FdTun::new(ours, 1420).unwrap());
        let tunnel = start(tun.clone(), 1);
        let (mem, peer_tun) = MemTun::new("wg0", 1420);
        let peer = start(Arc::new(mem), 2);
        let pair = Self { tunnel, tun, app, peer, peer_tun, private, ended, net, clock };
        pair.introduce(&pair.peer, 1, 1);
        pair
    }

    /// Makes `n` a peer of a tunnel, which looks for it at `at`.
    fn introduce(&self, to: &Tunnel, n: u8, at: u8) {
        let mut peer = PeerUpdate::new(self.private[usize::from(n) - 1].public_key());
        peer.endpoint = Some(SocketAddr::new(outer(at), PORT).into());
        peer.allowed_ips = vec![give(&format!("{}/32", inner(n)))];
        to.device().apply(Update { peers: vec![peer], ..Update::default() }).unwrap();
    }

    fn out(&self, len: usize) {
        let packet = ipv4(inner(1), inner(2), len);
        assert_eq!(self.app.send(&packet).unwrap(), len);
        assert_eq!(self.peer_tun.wait_written(in_time::LIMIT), [packet]);
    }

    fn back(&self, len: usize) {
        let packet = ipv4(inner(2), inner(1), len);
        assert!(self.peer_tun.inject(&packet));
        let mut buffer = [0; 2000];
        let mut got = 0;
        eventually("a packet comes out", || {
            Read::read(&mut &self.app, &mut buffer).is_ok_and(|len| {
                got = len;
                true
            })
        });
        assert_eq!(&buffer[..got], packet);
    }

    fn replace(&mut self, mtu: u16) {
        let (ours, app) = pair(Type::SEQPACKET);
        self.tun.replace(ours, mtu).unwrap();
        self.app = app;
    }

    fn initiations(&self) -> usize {
        self.net.take_log().iter().filter(|d| kind(&d.payload) == 1).count()
    }
}

#[test]
fn a_tunnel_goes_on_without_a_handshake() {
    let _guard = alone();
    let mut pair = Pair::new();
    pair.introduce(&pair.tunnel, 2, 2);
    pair.out(100);
    pair.back(100);
    assert_eq!(pair.initiations(), 1);
    for round in 0..50 {
        pair.replace(1300 + round);
        pair.back(200);
        pair.out(300);
        eventually("the device has the MTU", || pair.tunnel.device().mtu() == 1300 + round);
    }
    assert_eq!((pair.initiations(), pair.ended.load(SeqCst)), (0, 0));
}

#[test]
fn what_is_staged_is_sent_afterwards() {
    let _guard = alone();
    let mut pair = Pair::new();
    pair.introduce(&pair.tunnel, 2, 9);
    let packets: Vec<_> = (0..5).map(|i| ipv4(inner(1), inner(2), 100 + i)).collect();
    packets.iter().for_each(|packet| assert!(pair.app.send(packet).is_ok()));
    let peer = pair.private[1].public_key();
    // What has not been read by then is lost with the old descriptor.
    eventually("they are staged", || pair.tunnel.device().peer_stats(&peer).unwrap().staged_packets == packets.len());
    pair.replace(1420);
    // The handshake is the peer's.
    pair.back(100);
    let mut written = Vec::new();
    while written.len() < packets.len() {
        let more = pair.peer_tun.wait_written(in_time::LIMIT);
        assert!(!more.is_empty());
        written.extend(more);
    }
    assert_eq!(written, packets);
}

#[test]
fn a_paused_tunnel_takes_another_one_in_place_of_one_that_is_gone() {
    let _guard = alone();
    let mut pair = Pair::new();
    pair.introduce(&pair.tunnel, 2, 2);
    pair.out(100);
    for _ in 0..3 {
        pair.tunnel.pause();
        pair.app = self::pair(Type::SEQPACKET).1;
        pair.replace(1420);
        // It waits there until the tunnel goes on.
        pair.app.send(&ipv4(inner(1), inner(2), 50)).unwrap();
        // Sooner after the last one there is no handshake.
        pair.clock.advance(REKEY_TIMEOUT);
        pair.tunnel.resume().unwrap();
        assert_eq!(pair.peer_tun.wait_written(in_time::LIMIT), [ipv4(inner(1), inner(2), 50)]);
        pair.out(100);
        pair.back(100);
    }
    assert_eq!(pair.ended.load(SeqCst), 0);
}

#[test]
fn many_replacements_beside_traffic_both_ways_end_nothing() {
    let _guard = alone();
    let mut pair = Pair::new();
    pair.introduce(&pair.tunnel, 2, 2);
    pair.out(100);
    let handle = pair.peer_tun.clone();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let _stop_at_end = set_at_end(&stop);
    let other_way = thread::spawn(move || {
        while !stopped.load(SeqCst) {
            handle.inject(&ipv4(inner(2), inner(1), 500));
            drop(handle.take_written());
            thread::yield_now();
        }
    });
    for _ in 0..500 {
        pair.replace(1420);
        for _ in 0..20 {
            let _ = pair.app.send(&ipv4(inner(1), inner(2), 500));
            let _ = Read::read(&mut &pair.app, &mut [0; 2000]);
        }
    }
    stop.store(true, SeqCst);
    in_time::in_time("the other thread ends", || other_way.join().unwrap());
    pair.replace(1420);
    let last = ipv4(inner(1), inner(2), 77);
    eventually("packets pass", || {
        // Behind others that are still on their way, it may find a queue full.
        let _ = pair.app.send(&last);
        pair.peer_tun.take_written().contains(&last)
    });
    assert_eq!(pair.ended.load(SeqCst), 0);
}

#[cfg(target_os = "linux")]
mod linux {
    use super::*;
    use netns::{Netns, as_root};
    use std::net::UdpSocket;
    use wg_embed::tun::linux::LinuxTun;

    const VNET: i32 = libc::IFF_VNET_HDR;

    /// An interface that is up, with an address and an MTU of its own.
    fn interface(netns: &Netns, n: u16, vnet: i32) -> OwnedFd {
        let fd = netns.tun(&format!("wgt{n}"), libc::IFF_TUN | vnet);
        netns.ip(&format!("addr add 10.{n}.0.1/24 dev wgt{n}"));
        netns.ip(&format!("link set wgt{n} up mtu {}", 1300 + n));
        fd
    }

    /// A datagram goes out through interface `n`, and comes back with its addresses swapped.
    fn echo(netns: &Netns, tun: &LinuxTun, n: u16) {
        let (local, remote) = (format!("10.{n}.0.1:4000"), format!("10.{n}.0.2:4000"));
        let socket = netns.run(move || {
            let socket = UdpSocket::bind(local).unwrap();
            socket.send_to(b"hello", remote).unwrap();
            socket
        });
        let mut arena = arena();
        let mut packet = Vec::new();
        eventually("the datagram is read", || {
            tun.read(&mut arena).unwrap();
            let mut packets = arena.slots().iter().map(|&slot| arena.packet(slot).to_vec());
            packet = packets.find(|p| p[0] == 0x45 && p[9] == 17).unwrap_or_default();
            arena.clear(1420);
            if packet.is_empty() {
                tun.wait(Some(Duration::from_secs(1))).unwrap();
            }
            !packet.is_empty()
        });
        let (source, destination) = packet[12..20].split_at_mut(4);
        source.swap_with_slice(destination);
        assert_eq!(tun.write(PacketList { buffer: &packet, ranges: std::slice::from_ref(&(0..packet.len())) }), 1);
        socket.set_read_timeout(Some(in_time::LIMIT)).unwrap();
        let mut buffer = [0; 100];
        let (len, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], from.to_string()), (&b"hello"[..], format!("10.{n}.0.2:4000")));
    }

    fn events(tun: &LinuxTun) -> Vec<TunEvent> {
        tun.wait(Some(Duration::ZERO)).unwrap();
        std::iter::from_fn(|| tun.event()).collect()
    }

    #[test]
    fn interfaces_with_and_without_virtio_headers_follow_each_other() {
        let _guard = alone();
        as_root(|| {
            let netns = Netns::new();
            let tun = LinuxTun::adopt(interface(&netns, 0, 0), 0).unwrap();
            assert_eq!(events(&tun), [TunEvent::Up]);
            echo(&netns, &tun, 0);
            for (n, vnet) in (1..).zip([VNET, VNET, 0, 0, VNET, 0]) {
                tun.replace(interface(&netns, n, vnet), 0).unwrap();
                assert_eq!((tun.name(), tun.mtu()), (format!("wgt{n}"), 1300 + n));
                assert_eq!(events(&tun), [TunEvent::Mtu(1300 + n)]);
                // The old one was closed, and with it its interface is gone.
                assert!(!netns.ip("link").contains(&format!("wgt{}:", n - 1)));
                echo(&netns, &tun, n);
                // The new one is watched.
                netns.ip(&format!("link set wgt{n} mtu 1290"));
                eventually("its MTU is reported", || events(&tun) == [TunEvent::Mtu(1290)]);
                netns.ip(&format!("link set wgt{n} mtu {}", 1300 + n));
                eventually("its MTU is reported", || events(&tun) == [TunEvent::Mtu(1300 + n)]);
            }
            // And a descriptor that is no TUN.
            let (ours, app) = pair(Type::DGRAM);
            tun.replace(ours, 1234).unwrap();
            assert_eq!((tun.name(), tun.mtu(), events(&tun)), (String::new(), 1234, vec![TunEvent::Mtu(1234)]));
            assert!(send(&app, 5));
            assert_eq!(read(&tun).unwrap(), [5]);
        });
    }

    /// Android takes the old interface down when there is a new one; it is there until its descriptors are closed.
    #[test]
    fn an_interface_that_was_taken_down_is_replaced() {
        let _guard = alone();
        as_root(|| {
            for vnet in [0, VNET] {
                let netns = Netns::new();
                let tun = LinuxTun::adopt(interface(&netns, 0, vnet), 0).unwrap();
                echo(&netns, &tun, 0);
                let next = interface(&netns, 1, vnet);
                netns.ip("link set wgt0 down");
                // Neither end of it fails for good.
                assert_eq!(write(&tun, 0, 1), 0);
                assert!(tun.read(&mut arena()).is_ok());
                eventually("it is down", || events(&tun).contains(&TunEvent::Down));
                tun.replace(next, 0).unwrap();
                assert_eq!(events(&tun), [TunEvent::Up, TunEvent::Mtu(1301)]);
                echo(&netns, &tun, 1);
            }
        });
    }

    #[test]
    fn an_interface_that_cannot_be_used_changes_nothing() {
        let _guard = alone();
        as_root(|| {
            let netns = Netns::new();
            let tun = LinuxTun::adopt(interface(&netns, 0, VNET), 0).unwrap();
            let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
            let before = open();
            let tap = netns.tun("tap0", libc::IFF_TAP);
            let removed = netns.tun("gone0", libc::IFF_TUN);
            netns.ip("link del gone0");
            let unattached = File::options().read(true).write(true).open("/dev/net/tun").unwrap().into();
            let refused = [
                (tap, ErrorKind::Unsupported),
                (removed, ErrorKind::NotFound),
                (unattached, ErrorKind::NotFound),
                (File::open("/dev/null").unwrap().into(), ErrorKind::Permission),
            ];
            for (fd, kind) in refused {
                assert_eq!(tun.replace(fd.try_clone().unwrap(), 0).unwrap_err().kind(), kind);
                assert_eq!((tun.name().as_str(), tun.mtu()), ("wgt0", 1300));
                echo(&netns, &tun, 0);
            }
            assert_eq!(open(), before);
        });
    }
}
