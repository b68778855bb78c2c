use super::pair::Wanted;
use super::*;
use crate::bind::{BATCH, Endpoint, Family, plain};
use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Instant,
};

const SECOND: Duration = Duration::from_secs(1);

/// What a test received: from whom, and the datagrams one by one with their TOS bytes.
#[derive(Default)]
struct Inbox {
    from: Vec<Endpoint>,
    datagrams: Vec<(Vec<u8>, u8)>,
}

impl Inbox {
    fn payloads(&self) -> Vec<&[u8]> {
        self.datagrams.iter().map(|(data, _)| data.as_slice()).collect()
    }
}

/// Receives until there are `count` datagrams.
fn receive(bind: &UdpBind, batch: &mut RecvBatch, count: usize) -> Inbox {
    let mut inbox = Inbox::default();
    let deadline = Instant::now() + 30 * SECOND;
    while inbox.datagrams.len() < count {
        assert!(Instant::now() < deadline, "only {} of {count} datagrams came", inbox.datagrams.len());
        batch.clear();
        if bind.recv(batch).unwrap() == 0 {
            bind.wait(Some(SECOND)).unwrap();
        }
        for (meta, data) in batch.iter_mut() {
            inbox.from.push(meta.from);
            let datagrams = data.chunks(meta.segment_size);
            inbox.datagrams.extend(datagrams.map(|data| (data.to_vec(), meta.tos)));
        }
    }
    inbox
}

fn large() -> RecvBatch {
    RecvBatch::new(8, 65_535)
}

fn small() -> RecvBatch {
    RecvBatch::new(8, 2048)
}

/// With the system's driver, with the portable one, and with the one that takes its place where it cannot be had.
fn drivers() -> [UdpBind; 3] {
    let mut plain = UdpBind::new().unwrap();
    plain.pair.options.set_up = |bare, address, _, _| {
        address.map_or(Ok(()), |address| bare.bind(address))?;
        Ok(Box::new(plain::Driver))
    };
    [UdpBind::new().unwrap(), UdpBind::new().unwrap().with_portable_driver(), plain]
}

/// Whether a bind reports which of our addresses a datagram came to. Of those in [`drivers`] only the plain one does
/// not; nor does one that had to fall back on that (Wine).
fn reports_addresses(bind: &UdpBind, to: Endpoint) -> bool {
    bind.send(&[transmit(to, b"probe", 5)]);
    receive(bind, &mut large(), 1).from[0].src.is_some()
}

/// Ends the threads of a test, also if it fails.
struct Stop<'a>(&'a AtomicBool, &'a UdpBind);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
        self.1.wake();
    }
}

fn transmit(to: Endpoint, contents: &[u8], segment_size: usize) -> Transmit<'_> {
    Transmit { to, contents, segment_size, tos: 0 }
}

fn v4(port: u16) -> Endpoint {
    Endpoint::new((Ipv4Addr::LOCALHOST, port).into())
}

fn v6(port: u16) -> Endpoint {
    Endpoint::new((Ipv6Addr::LOCALHOST, port).into())
}

#[test]
fn both_families_share_a_port_and_answer_from_the_address_they_were_reached_at() {
    for (bind, plain) in drivers().into_iter().zip([false, false, true]) {
        let port = bind.open(0).unwrap();
        for (peer, other, home) in [("127.0.0.1:0", "127.0.0.9", v4(port)), ("[::1]:0", "::1", v6(port))] {
            let reports = reports_addresses(&bind, home);
            assert!(cfg!(windows) || reports != plain);
            let local = if reports { other.parse().unwrap() } else { home.dst.ip() };
            let peer = UdpSocket::bind(peer).unwrap();
            peer.set_read_timeout(Some(60 * SECOND)).unwrap();
            peer.send_to(b"ping", (local, port)).unwrap();
            let inbox = receive(&bind, &mut large(), 1);
            assert_eq!(inbox.payloads(), [b"ping"]);
            assert_eq!(inbox.from[0].dst, peer.local_addr().unwrap());
            assert_eq!(inbox.from[0].src, reports.then_some(local));
            let report = bind.send(&[transmit(inbox.from[0], b"pong", 4)]);
            assert_eq!((report.sent, report.dropped), (1, 0));
            let mut buffer = [0; 16];
            let (len, from) = peer.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..len], from), (&b"pong"[..], (local, port).into()));
        }
    }
}

#[test]
fn a_segmented_transmit_arrives_as_its_datagrams_with_large_and_small_slots() {
    let data: Vec<u8> = (0..100 * 1300 + 7).map(|i: u32| i as u8).collect();
    for mut batch in [large(), small()] {
        for (bind, (portable, plain)) in drivers().into_iter().zip([(false, false), (true, false), (false, true)]) {
            if portable && batch.slot_len() < 65_535 {
                continue; // The portable driver always has GRO on.
            }
            let port = bind.open(0).unwrap();
            bind.recv(&mut batch).unwrap();
            for to in [v4(port), v6(port)] {
                let report = bind.send(&[transmit(to, &data, 1300)]);
                assert_eq!((report.sent, report.dropped), (101, 0));
                let inbox = receive(&bind, &mut batch, 101);
                assert!(inbox.payloads().into_iter().eq(data.chunks(1300)));
                let joined = cfg!(target_os = "linux") && !plain && batch.slot_len() == 65_535;
                assert!(inbox.from.len() <= if joined { 3 } else { 101 });
            }
            assert_eq!((bind.stats().gso_refused, bind.stats().truncated), (0, 0));
        }
    }
}

#[test]
fn without_offload_the_same_datagrams_arrive() {
    let bind = UdpBind::new().unwrap().with_offload(false);
    let port = bind.open(0).unwrap();
    assert_eq!(bind.send(&[transmit(v4(port), &[1; 2500], 1000)]).sent, 3);
    let inbox = receive(&bind, &mut large(), 3);
    assert_eq!(inbox.from.len(), 3);
    assert_eq!(inbox.payloads().iter().map(|d| d.len()).collect::<Vec<_>>(), [1000, 1000, 500]);
}

#[test]
fn a_full_batch_for_both_families_is_sent_and_received_whole() {
    let data: Vec<Vec<u8>> = (0..BATCH).map(|i| vec![i as u8; 1 + i]).collect();
    for bind in drivers() {
        let port = bind.open(0).unwrap();
        let to = |i| if i % 3 == 0 { v6(port) } else { v4(port) };
        let batch: Vec<_> = data.iter().enumerate().map(|(i, data)| transmit(to(i), data, 0)).collect();
        let report = bind.send(&batch);
        assert_eq!((report.sent, report.dropped_mask), (BATCH, 0));
        let mut inbox = receive(&bind, &mut large(), BATCH);
        inbox.datagrams.sort_by_key(|(data, _)| data.len());
        assert!(inbox.payloads().into_iter().eq(data.iter().map(Vec::as_slice)));
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[test]
fn the_tos_byte_passes_whole() {
    let bind = UdpBind::new().unwrap();
    let port = bind.open(0).unwrap();
    for to in [v4(port), v6(port)] {
        for tos in [0x88, 0x03, 0] {
            bind.send(&[Transmit { tos, ..transmit(to, b"x", 1) }]);
            assert_eq!(receive(&bind, &mut large(), 1).datagrams[0].1, tos);
        }
    }
}

#[test]
fn the_portable_driver_passes_ecn() {
    let bind = UdpBind::new().unwrap().with_portable_driver();
    let port = bind.open(0).unwrap();
    if cfg!(windows) && !reports_addresses(&bind, v4(port)) {
        return; // It is not to be had here.
    }
    let ecn = Transmit { tos: 0x8a, ..transmit(v4(port), b"x", 1) };
    bind.send(&[ecn]);
    assert_eq!(receive(&bind, &mut large(), 1).datagrams[0].1 & 3, 2);
}

#[test]
fn what_is_too_large_for_a_slot_is_counted_and_empty() {
    let bind = UdpBind::new().unwrap();
    let port = bind.open(0).unwrap();
    bind.send(&[transmit(v4(port), &[1; 3000], 3000), transmit(v4(port), b"x", 1)]);
    let inbox = receive(&bind, &mut small(), 1);
    assert_eq!((inbox.payloads(), bind.stats().truncated), (vec![&b"x"[..]], 1));
}

#[test]
fn a_refused_datagram_is_reported_and_costs_no_other() {
    for bind in drivers() {
        let port = bind.open(0).unwrap();
        let to_nowhere = v4(0);
        let batch = [
            transmit(v4(port), b"a", 1),
            transmit(to_nowhere, b"b", 1),
            transmit(v4(port), &[0; 65_508], 0),
            transmit(v4(port), b"c", 1),
        ];
        let report = bind.send(&batch);
        assert_eq!((report.sent, report.dropped, report.dropped_mask), (2, 2, 0b0110));
        assert_eq!(report.stale_source_mask, 0);
        assert_eq!(receive(&bind, &mut large(), 2).payloads(), [b"a", b"c"]);
    }
}

#[test]
fn a_source_that_is_not_ours_is_left_out_and_reported() {
    for (bind, native) in drivers().into_iter().zip([true, false, false]) {
        let port = bind.open(0).unwrap();
        for (mut to, src) in [(v4(port), "192.0.2.77"), (v6(port), "2001:db8::77")] {
            let reports = reports_addresses(&bind, to);
            to.src = Some(src.parse().unwrap());
            let batch = [transmit(v4(port), b"a", 1), transmit(to, &[2; 300], 100), transmit(v4(port), b"c", 1)];
            let report = bind.send(&batch);
            let stale = if reports { 0b010 } else { 0 };
            assert_eq!((report.sent, report.dropped), (5, 0));
            // Wine reports addresses, but takes no notice of them.
            assert!(report.stale_source_mask == stale || (cfg!(windows) && report.stale_source_mask == 0));
            assert_eq!(receive(&bind, &mut large(), 5).datagrams.len(), 5);
        }
        assert!(!native || bind.stats().gso_disabled == 0);
    }
}

#[test]
fn a_closed_bind_drops_and_receives_nothing() {
    let bind = UdpBind::new().unwrap();
    for _ in 0..2 {
        let report = bind.send(&[transmit(v4(9), &[0; 5], 2), transmit(v6(9), b"x", 1)]);
        assert_eq!((report.sent, report.dropped, report.dropped_mask), (0, 4, 0b11));
        assert_eq!(bind.recv(&mut small()).unwrap(), 0);
        #[cfg(unix)]
        assert_eq!((bind.fd4(), bind.fd6()), (None, None));
        bind.open(0).unwrap();
        #[cfg(unix)]
        assert!(bind.fd4().is_some() && bind.fd6().is_some());
        bind.close();
        bind.close();
    }
}

#[test]
fn a_port_in_use_leaves_the_old_one_open() {
    for bind in drivers() {
        let port = bind.open(0).unwrap();
        for taken in ["0.0.0.0:0", "[::]:0"] {
            let other = UdpSocket::bind(taken).unwrap();
            let err = bind.open(other.local_addr().unwrap().port()).unwrap_err();
            assert_eq!(err.kind(), io::ErrorKind::AddrInUse);
        }
        bind.send(&[transmit(v4(port), b"x", 1), transmit(v6(port), b"x", 1)]);
        assert_eq!(receive(&bind, &mut large(), 2).datagrams.len(), 2);
    }
}

/// Neither by asking for a shared port, nor by asking for one address.
fn no_other_can_have(port: u16) {
    for ip in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST] {
        let thief = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        thief.set_reuse_address(true).unwrap();
        #[cfg(unix)]
        thief.set_reuse_port(true).unwrap();
        thief.bind(&SocketAddr::from((ip, port)).into()).unwrap_err();
    }
}

#[test]
fn the_same_port_gets_new_sockets_and_another_port_others() {
    for bind in drivers() {
        let port = bind.open(0).unwrap();
        let before = UdpSocket::bind("127.0.0.1:0").unwrap();
        before.send_to(b"old", ("127.0.0.1", port)).unwrap();
        assert_eq!(bind.open(port).unwrap(), port);
        before.send_to(b"new", ("127.0.0.1", port)).unwrap();
        assert_eq!(receive(&bind, &mut large(), 1).payloads(), [b"new"]);
        no_other_can_have(port);
        let other = bind.open(0).unwrap();
        assert_ne!(other, port);
        UdpSocket::bind(("0.0.0.0", port)).unwrap();
        UdpSocket::bind(("::", port)).unwrap();
    }
}

#[test]
fn when_new_sockets_fail_on_the_same_port_the_old_ones_stay() {
    for bind in drivers() {
        let ipv4_only = bind.pair.make(&[Family::V4], 0, &Wanted::default()).unwrap();
        let port = ipv4_only.port;
        bind.pair.replace(Some(ipv4_only));
        let other = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::DGRAM, None).unwrap();
        other.set_only_v6(true).unwrap();
        other.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into()).unwrap();
        assert_eq!(bind.open(port).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let report = bind.send(&[transmit(v4(port), b"x", 1), transmit(v6(port), b"y", 1)]);
        assert_eq!((report.sent, report.dropped_mask), (1, 0b10));
        no_other_can_have(port);
        assert_eq!(receive(&bind, &mut large(), 1).payloads(), [b"x"]);
        drop(other);
        assert_eq!(bind.open(port).unwrap(), port);
        assert_eq!(bind.send(&[transmit(v6(port), b"y", 1)]).sent, 1);
    }
}

#[test]
fn the_hook_sees_each_socket_unbound_and_its_refusal_is_final() {
    let refuse = Arc::new(AtomicBool::new(false));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (refuses, record) = (Arc::clone(&refuse), Arc::clone(&seen));
    let bind = UdpBind::new().unwrap().with_socket_hook(Box::new(move |socket, family| {
        // Windows knows no address of a socket that is not bound.
        let bound = socket2::SockRef::from(&socket).local_addr().ok().and_then(|bound| bound.as_socket());
        record.lock().unwrap().push((family, bound.map_or(0, |bound| bound.port())));
        // A kind that would stand for a missing family if it came from the system.
        if refuses.load(SeqCst) { Err(io::ErrorKind::AddrNotAvailable.into()) } else { Ok(()) }
    }));
    refuse.store(true, SeqCst);
    assert_eq!(bind.open(0).unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
    assert_eq!(bind.send(&[transmit(v4(9), b"x", 1)]).dropped, 1);
    refuse.store(false, SeqCst);
    let port = bind.open(0).unwrap();
    refuse.store(true, SeqCst);
    for again in [port, 0] {
        assert!(bind.open(again).is_err());
        bind.send(&[transmit(v4(port), b"x", 1)]);
        assert_eq!(receive(&bind, &mut small(), 1).payloads(), [b"x"]);
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 5);
    assert_eq!(seen[1..3], [(Family::V4, 0), (Family::V6, 0)]);
}

#[test]
fn a_wake_is_not_lost_and_close_ends_a_wait() {
    let bind = UdpBind::new().unwrap();
    bind.wake();
    bind.wait(None).unwrap();
    bind.wait(Some(Duration::from_millis(1))).unwrap();
    bind.open(0).unwrap();
    bind.wait(None).unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| bind.wait(None));
        thread::sleep(Duration::from_millis(20));
        bind.close();
        waiting.join().unwrap().unwrap();
    });
}

#[test]
fn an_idle_wait_lasts_as_long_as_it_should() {
    let bind = UdpBind::new().unwrap();
    bind.open(0).unwrap();
    bind.wait(None).unwrap();
    assert_eq!(bind.recv(&mut small()).unwrap(), 0);
    let start = Instant::now();
    bind.wait(Some(Duration::from_millis(50))).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(50));
}

/// That the port can be bound again and again also proves that no descriptor is left behind.
/// Opens a port that no other test is given in a moment without our sockets: the system chooses higher ones.
fn open_apart(bind: &UdpBind) -> u16 {
    let first = 10_000 + (std::process::id() % 20_000) as u16;
    (first..).find(|port| bind.open(*port).is_ok()).unwrap()
}

#[test]
fn reopening_under_load_loses_nothing_and_never_stalls() {
    for bind in drivers() {
        let port = open_apart(&bind);
        let stop = AtomicBool::new(false);
        let received = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut batch = large();
                while !stop.load(SeqCst) {
                    batch.clear();
                    if bind.recv(&mut batch).unwrap() == 0 {
                        bind.wait(None).unwrap();
                    }
                    received.fetch_add(batch.len(), SeqCst);
                }
            });
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    let report = bind.send(&[transmit(v4(port), &[1; 5000], 1000), transmit(v6(port), b"x", 1)]);
                    // Where sockets cannot share a port, there is a moment without, which has nothing to do with
                    // routes.
                    assert_eq!((report.sent + report.dropped, report.unreachable_mask), (6, 0));
                    assert!(report.dropped == 0 || cfg!(not(target_os = "linux")));
                    thread::sleep(Duration::from_micros(50));
                }
            });
            let _stop = Stop(&stop, &bind);
            for _ in 0..100 {
                assert_eq!(bind.open(port).unwrap(), port);
                // Each time, something must come through before the next.
                let count = received.load(SeqCst);
                let deadline = Instant::now() + 30 * SECOND;
                while received.load(SeqCst) == count {
                    assert!(Instant::now() < deadline, "nothing comes any more");
                    thread::sleep(Duration::from_micros(100));
                }
            }
        });
    }
}

#[test]
fn closing_under_load_disturbs_no_thread() {
    for bind in drivers() {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut batch = large();
                while !stop.load(SeqCst) {
                    batch.clear();
                    if bind.recv(&mut batch).unwrap() == 0 {
                        bind.wait(None).unwrap();
                    }
                }
            });
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(SeqCst) {
                        let report = bind.send(&[transmit(v4(9), &[1; 50], 10), transmit(v6(9), b"x", 1)]);
                        assert_eq!(report.sent + report.dropped, 6);
                    }
                });
            }
            let _stop = Stop(&stop, &bind);
            for _ in 0..100 {
                bind.open(0).unwrap();
                bind.close();
            }
        });
        assert_eq!(bind.stats().recv_errors, 0);
    }
}

/// As a tunnel's thread receives: it waits as soon as it may, and a lost event would leave it asleep.
#[test]
fn no_datagram_is_left_behind_by_a_wait() {
    for bind in drivers() {
        let port = bind.open(0).unwrap();
        let (stop, received) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                // Full after three, so that either socket may have more.
                let mut batch = RecvBatch::new(3, 2048);
                while !stop.load(SeqCst) {
                    batch.clear();
                    let count = bind.recv(&mut batch).unwrap();
                    received.fetch_add(count, SeqCst);
                    if count == 0 || bind.is_drained() {
                        bind.wait(None).unwrap();
                    }
                }
            });
            let _stop = Stop(&stop, &bind);
            let peers = ["127.0.0.1:0", "[::1]:0"].map(|address| UdpSocket::bind(address).unwrap());
            let mut sent = 0;
            for round in 0..300_usize {
                for i in 0..=round % 7 {
                    let family = (round * 5 + i) % 3 % 2;
                    peers[family].send_to(b"x", (["127.0.0.1", "::1"][family], port)).unwrap();
                    sent += 1;
                }
                let deadline = Instant::now() + 300 * SECOND;
                while received.load(SeqCst) < sent {
                    assert!(Instant::now() < deadline, "{} of {sent} were received", received.load(SeqCst));
                    thread::yield_now();
                }
            }
            assert_eq!(received.load(SeqCst), sent);
        });
    }
}

/// Where datagrams to the own host arrive at once.
#[cfg(target_os = "linux")]
#[test]
fn a_batch_that_is_not_full_has_emptied_its_socket() {
    // The portable driver does not know it.
    for (bind, knows) in drivers().into_iter().zip([true, false, true]) {
        let port = bind.open(0).unwrap();
        let mut batch = RecvBatch::new(2, 2048);
        assert_eq!((bind.is_drained(), bind.recv(&mut batch).unwrap(), bind.is_drained()), (false, 0, true));
        for to in [v4(port), v6(port)] {
            bind.wait(Some(Duration::ZERO)).unwrap();
            bind.send(&[transmit(to, b"a", 1), transmit(to, b"bb", 2), transmit(to, b"ccc", 3)]);
            while !bind.wait(None).unwrap().own {}
            let mut counts = Vec::new();
            while counts.last() != Some(&0) {
                batch.clear();
                counts.push(bind.recv(&mut batch).unwrap());
                let is_drained = *counts.last().unwrap() == 0 || (knows && counts == [2, 1]);
                assert_eq!(bind.is_drained(), is_drained, "{counts:?}");
            }
            assert_eq!(counts.iter().sum::<usize>(), 3);
        }
        // Without a wait, datagrams are found as well.
        bind.send(&[transmit(v4(port), b"a", 1)]);
        bind.send(&[transmit(v6(port), b"a", 1)]);
        let found: usize = (0..4).map(|_| bind.recv(&mut large()).unwrap()).sum();
        assert_eq!(found, 2);
    }
}

#[test]
fn zones_are_numbers_or_interfaces() {
    let bind = UdpBind::new().unwrap();
    assert_eq!(bind.zone_index("7"), Some(7));
    for none in ["0", "", "no-such-interface", "lo\0", "-1"] {
        assert_eq!(bind.zone_index(none), None, "{none}");
    }
    if cfg!(target_os = "linux") {
        assert_eq!(bind.zone_index("lo"), Some(1));
    }
}

/// As on a host without IPv6.
#[test]
fn a_family_without_a_socket_is_not_bound_to_an_interface() {
    let bind = UdpBind::new().unwrap().with_address(Ipv4Addr::LOCALHOST.into());
    let set = |family, blackhole| bind.set_interface(family, 0, blackhole).map_err(|err| err.kind());
    assert_eq!([set(Family::V4, false), set(Family::V6, false)], [Ok(()); 2], "there may be a socket later");
    assert!(!bind.has(Family::V4));
    bind.open(0).unwrap();
    assert!(bind.has(Family::V4) && !bind.has(Family::V6));
    for blackhole in [true, false] {
        let expected = [Ok(()), Err(io::ErrorKind::Unsupported)];
        assert_eq!([set(Family::V4, blackhole), set(Family::V6, blackhole)], expected);
    }
    bind.close();
    assert_eq!([set(Family::V4, true), set(Family::V6, true)], [Ok(()); 2]);
}

#[test]
fn an_address_of_its_own_is_the_only_one() {
    let bind = UdpBind::new().unwrap().with_address(Ipv4Addr::LOCALHOST.into());
    let port = bind.open(0).unwrap();
    #[cfg(unix)]
    assert!(bind.fd4().is_some() && bind.fd6().is_none());
    let taken = UdpBind::new().unwrap().with_address(Ipv4Addr::LOCALHOST.into()).open(port);
    assert_eq!(taken.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    if cfg!(windows) {
        println!("other addresses: skipped, since Wine binds UDP sockets to all addresses");
        return;
    }
    let elsewhere = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), port));
    assert!(elsewhere.is_ok(), "another address has the port free");
    let foreign = UdpBind::new().unwrap().with_address(Ipv4Addr::new(192, 0, 2, 1).into()).open(0);
    assert_eq!(foreign.unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
}
