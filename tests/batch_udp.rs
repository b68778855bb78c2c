//! UDP in batches, without a tunnel: over loopback, with real threads, through both drivers.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "common/at_end.rs"]
mod at_end;

use at_end::AtEnd;
use std::{
    collections::HashSet,
    io,
    net::UdpSocket,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};
use wg_embed::{
    bind::{BatchOptions, BatchUdp, Endpoint, Family, Received, SendReport, Transmit},
    error::ErrorKind,
};

const SECOND: Duration = Duration::from_secs(1);
const BOTH: [(Family, &str); 2] = [(Family::V4, "127.0.0.1"), (Family::V6, "[::1]")];

/// One with each driver.
fn drivers() -> [BatchUdp; 2] {
    [BatchUdp::open(0).unwrap(), BatchOptions::new().with_portable_driver().open(0).unwrap()]
}

fn to(host: &str, udp: &BatchUdp) -> Endpoint {
    Endpoint::parse(&format!("{host}:{}", udp.port().unwrap())).unwrap()
}

fn one(to: Endpoint, contents: &[u8]) -> Transmit<'_> {
    Transmit::new(to, contents)
}

fn send(udp: &BatchUdp, to: Endpoint, contents: &[&[u8]]) -> SendReport {
    let batch: Vec<_> = contents.iter().map(|contents| one(to, contents)).collect();
    udp.send(&batch).unwrap()
}

/// The next `count` datagrams, with who sent them, `max` at a time.
fn receive(udp: &BatchUdp, family: Family, count: usize, max: usize) -> Vec<(Endpoint, Vec<u8>)> {
    let mut got = Vec::new();
    while got.len() < count {
        let before = got.len();
        let new = udp.receive(family, max, Some(5 * SECOND), |d| got.push((d.from, d.contents.to_vec()))).unwrap();
        assert!(new > 0, "only {before} of {count} datagrams came");
        assert!(new <= max && got.len() == before + new);
    }
    got
}

fn contents(received: Vec<(Endpoint, Vec<u8>)>) -> Vec<Vec<u8>> {
    received.into_iter().map(|(_, contents)| contents).collect()
}

#[test]
fn answers_leave_from_the_address_and_the_interface_that_was_asked() {
    for udp in drivers() {
        for (family, host) in BOTH {
            let peer = UdpSocket::bind(format!("{host}:0")).unwrap();
            peer.set_read_timeout(Some(60 * SECOND)).unwrap();
            // On Linux, all of 127/8 is this host.
            let asked = if cfg!(target_os = "linux") && family == Family::V4 { "127.0.0.9" } else { host };
            let asked = to(asked, &udp).dst;
            peer.send_to(b"ping", asked).unwrap();
            let (from, ping) = receive(&udp, family, 1, 8).remove(0);
            assert_eq!((from.dst, ping.as_slice()), (peer.local_addr().unwrap(), &b"ping"[..]));
            // Wine does not tell it of IPv4.
            assert!(from.src == Some(asked.ip()) || (cfg!(windows) && from.src.is_none()));
            let report = send(&udp, from, &[b"pong"]);
            assert_eq!((report.sent, report.dropped, report.stale_source_mask), (1, 0, 0));
            let mut buffer = [0; 16];
            assert_eq!(peer.recv_from(&mut buffer).unwrap(), (4, asked));
        }
    }
}

#[test]
fn a_full_batch_arrives_whole_and_in_order_however_little_is_taken_at_a_time() {
    let data: Vec<Vec<u8>> = (0..BatchUdp::BATCH_SIZE).map(|i| vec![i as u8; 1200 - i % 3]).collect();
    let refs: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    for udp in drivers() {
        for (family, host) in BOTH {
            for max in [1, 7, 128, 1000] {
                let report = send(&udp, to(host, &udp), &refs);
                assert_eq!((report.sent, report.dropped, report.error), (128, 0, None));
                assert_eq!(contents(receive(&udp, family, 128, max)), data, "{family}, {max} at a time");
            }
        }
        assert_eq!((udp.stats().gso_refused, udp.stats().truncated), (0, 0));
    }
}

#[test]
fn empty_datagrams_and_segments_pass() {
    for udp in drivers() {
        for (family, host) in BOTH {
            assert_eq!(send(&udp, to(host, &udp), &[b"", b"", b"x", b""]).sent, 4);
            assert_eq!(contents(receive(&udp, family, 4, 2)), [&b""[..], b"", b"x", b""]);
            let segments = one(to(host, &udp), b"onetwo6").with_segments(3);
            assert_eq!(udp.send(&[segments]).unwrap().sent, 3);
            assert_eq!(contents(receive(&udp, family, 3, 2)), [&b"one"[..], b"two", b"6"]);
        }
    }
}

#[test]
fn what_cannot_be_sent_is_refused_whole_and_named() {
    for udp in drivers() {
        let home = to("127.0.0.1", &udp);
        let too_many = udp.send(&[one(home, b"x"); 129]).unwrap_err();
        assert_eq!((too_many.kind(), too_many.to_string().contains("129")), (ErrorKind::TooLarge, true));
        let mut mixed = home;
        mixed.src = Some("::1".parse().unwrap());
        let mixed = udp.send(&[one(home, b"x"), one(mixed, b"x")]).unwrap_err();
        assert_eq!((mixed.kind(), mixed.to_string().contains("transmit 1 is IPv4")), (ErrorKind::Invalid, true));
        assert_eq!(udp.receive(Family::V4, 0, None, |_| ()).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(udp.receive(Family::V4, 1, Some(Duration::from_millis(20)), |_| ()).unwrap(), 0);
    }
}

#[test]
fn what_the_system_refuses_costs_no_other_and_is_told() {
    for udp in drivers() {
        let home = to("127.0.0.1", &udp);
        let nowhere = Endpoint::parse("127.0.0.1:0").unwrap();
        let huge = vec![0; 65_508];
        let batch = [one(home, b"abc"), one(home, b"def"), one(nowhere, b"x"), one(home, &huge), one(home, b"ghi")];
        let report = udp.send(&batch).unwrap();
        assert_eq!((report.sent, report.dropped, report.dropped_mask), (3, 2, 0b01100));
        assert!(report.error.is_some());
        assert_eq!(contents(receive(&udp, Family::V4, 3, 8)), [b"abc", b"def", b"ghi"]);
    }
}

/// Also where datagrams were joined, each of them is told apart.
#[test]
fn a_source_that_is_not_ours_is_left_out_and_reported() {
    for udp in drivers() {
        for ((family, host), foreign) in BOTH.into_iter().zip(["192.0.2.77", "2001:db8::77"]) {
            let home = to(host, &udp);
            let stale = Endpoint { src: Some(foreign.parse().unwrap()), ..home };
            let batch = [home, stale, stale, stale, home, home].map(|to| one(to, b"abc"));
            let report = udp.send(&batch).unwrap();
            assert_eq!((report.sent, report.dropped), (6, 0));
            // Wine takes no notice of sources.
            let stale = report.stale_source_mask;
            assert!(stale == 0b00_1110 || (cfg!(windows) && stale == 0), "{stale:b}");
            assert_eq!(receive(&udp, family, 6, 8).len(), 6);
        }
    }
}

#[test]
fn waiting_ends_when_it_should() {
    let udp = BatchUdp::open(0).unwrap();
    assert_eq!(udp.receive(Family::V4, 1, Some(Duration::ZERO), |_| ()).unwrap(), 0);
    let start = Instant::now();
    assert_eq!(udp.receive(Family::V4, 1, Some(SECOND / 10), |_| ()).unwrap(), 0);
    assert!(start.elapsed() >= SECOND / 10);
    // The second one has to wait for the first, which waits for datagrams and gets none before the second has returned.
    thread::scope(|scope| {
        let (is_waiting, waits) = mpsc::channel();
        let first = scope.spawn({
            let udp = &udp;
            move || {
                is_waiting.send(()).unwrap();
                udp.receive(Family::V6, 1, None, |_| ()).unwrap_err().kind()
            }
        });
        let closes = AtEnd(|| udp.close());
        waits.recv().unwrap();
        for timeout in [Duration::ZERO, SECOND / 10] {
            let start = Instant::now();
            assert_eq!(udp.receive(Family::V6, 1, Some(timeout), |_| ()).unwrap(), 0);
            assert!(start.elapsed() >= timeout);
        }
        drop(closes);
        assert_eq!(first.join().unwrap(), ErrorKind::Closed);
    });
}

#[test]
fn closing_ends_every_call_at_once_and_frees_the_port() {
    /// Windows may need a moment to give a port back, if a thread was just in a call on the socket.
    fn is_free(address: &str, port: u16) {
        let mut tries = if cfg!(windows) { 200 } else { 0 };
        while let Err(err) = UdpSocket::bind((address, port)) {
            assert!(tries > 0, "{address}: {err}");
            tries -= 1;
            thread::sleep(Duration::from_millis(50));
        }
    }

    for udp in drivers() {
        let port = udp.port().unwrap();
        thread::scope(|scope| {
            let waiting: Vec<_> = (0..6)
                .map(|i| {
                    scope.spawn({
                        let udp = &udp;
                        move || udp.receive(BOTH[i % 2].0, 1, None, |_| ()).unwrap_err().kind()
                    })
                })
                .collect();
            let closes = AtEnd(|| udp.close());
            thread::sleep(Duration::from_millis(50));
            drop(closes);
            is_free("0.0.0.0", port);
            is_free("::", port);
            for thread in waiting {
                assert_eq!(thread.join().unwrap(), ErrorKind::Closed);
            }
        });
        udp.close();
        let to = Endpoint::parse("127.0.0.1:9").unwrap();
        let kinds = [
            udp.send(&[one(to, b"x")]).unwrap_err().kind(),
            udp.receive(Family::V6, 1, None, |_| ()).unwrap_err().kind(),
            udp.reopen(0).unwrap_err().kind(),
            udp.set_mark(0).unwrap_err().kind(),
            udp.set_interface(Family::V4, 0, true).unwrap_err().kind(),
        ];
        assert_eq!(kinds, [ErrorKind::Closed; 5]);
        assert_eq!((udp.port(), udp.has(Family::V4)), (None, false));
    }
}

/// What was received before is not handed out after.
#[test]
fn what_is_left_when_it_is_closed_is_lost() {
    let udp = BatchUdp::open(0).unwrap();
    send(&udp, to("127.0.0.1", &udp), &[b"one", b"two"]);
    assert_eq!(contents(receive(&udp, Family::V4, 1, 1)), [b"one"]);
    udp.close();
    assert_eq!(udp.receive(Family::V4, 1, None, |_| ()).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn closing_races_with_everything() {
    for round in 0..30 {
        for udp in drivers() {
            let begin = Barrier::new(7);
            thread::scope(|scope| {
                for (family, host) in BOTH {
                    let (udp, begin, home) = (&udp, &begin, to(host, &udp));
                    for _ in 0..2 {
                        scope.spawn(move || {
                            begin.wait();
                            let kind = loop {
                                if let Err(err) = udp.receive(family, 200, None, |_| ()) {
                                    break err.kind();
                                }
                            };
                            assert_eq!(kind, ErrorKind::Closed);
                        });
                    }
                    scope.spawn(move || {
                        begin.wait();
                        let kind = loop {
                            match udp.send(&[one(home, &[7; 500]); 40]) {
                                Ok(report) => assert_eq!(report.sent + report.dropped, 40),
                                Err(err) => break err.kind(),
                            }
                        };
                        assert_eq!(kind, ErrorKind::Closed);
                    });
                }
                begin.wait();
                let _closes = AtEnd(|| udp.close());
                if round % 2 == 0 {
                    // Fails where there is no permission, which is fine.
                    let _ = udp.set_mark(round);
                    udp.set_interface(Family::V6, 0, true).unwrap();
                    udp.reopen(udp.port().unwrap()).unwrap();
                }
                thread::sleep(Duration::from_millis(u64::from(round % 5)));
                thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(|| udp.close()))));
            });
            assert_eq!(udp.stats().recv_errors, 0);
        }
    }
}

#[test]
fn every_datagram_goes_to_one_of_several_receivers() {
    const COUNT: usize = 2000;
    for udp in drivers() {
        let got = Mutex::new(HashSet::new());
        let doubles = AtomicUsize::new(0);
        let home = to("127.0.0.1", &udp);
        thread::scope(|scope| {
            for max in [1, 2, 3, 100] {
                let (udp, got, doubles) = (&udp, &got, &doubles);
                scope.spawn(move || {
                    let take = |datagram: Received<'_>| {
                        if !got.lock().unwrap().insert(datagram.contents.to_vec()) {
                            doubles.fetch_add(1, SeqCst);
                        }
                    };
                    while udp.receive(Family::V4, max, None, take).is_ok() {}
                });
            }
            let _closes = AtEnd(|| udp.close());
            let deadline = Instant::now() + 60 * SECOND;
            for first in (0..COUNT).step_by(20) {
                let data: Vec<_> = (first..first + 20).map(|i| (i as u32).to_be_bytes()).collect();
                let refs: Vec<&[u8]> = data.iter().map(<[u8; 4]>::as_slice).collect();
                assert_eq!(send(&udp, home, &refs).sent, 20);
                // No more than fits a socket's buffer.
                while got.lock().unwrap().len() + 200 < first {
                    assert!(Instant::now() < deadline, "nothing comes any more");
                    thread::yield_now();
                }
            }
            while got.lock().unwrap().len() < COUNT && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
        });
        assert_eq!((got.lock().unwrap().len(), doubles.load(SeqCst)), (COUNT, 0));
    }
}

#[test]
fn a_panic_while_handing_out_stops_nobody() {
    let udp = BatchUdp::open(0).unwrap();
    send(&udp, to("127.0.0.1", &udp), &[b"one", b"two"]);
    let broken = thread::scope(|scope| {
        scope.spawn(|| udp.receive(Family::V4, 9, None, |_| panic!("a bug of the app"))).join().is_err()
    });
    assert!(broken);
    assert_eq!(contents(receive(&udp, Family::V4, 1, 9)), [b"two"]);
}

#[test]
fn reopening_keeps_the_port_and_the_receivers() {
    for udp in drivers() {
        let port = udp.port().unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (udp, count) = (&udp, &AtomicUsize::new(0));
        thread::scope(|scope| {
            let take = |_: Received<'_>| {
                count.fetch_add(1, SeqCst);
            };
            scope.spawn(move || while udp.receive(Family::V4, 9, None, take).is_ok() {});
            let _closes = AtEnd(|| udp.close());
            for i in 0..20 {
                assert_eq!(udp.reopen(port).unwrap(), port);
                peer.send_to(b"x", ("127.0.0.1", port)).unwrap();
                let deadline = Instant::now() + 60 * SECOND;
                while count.load(SeqCst) <= i {
                    assert!(Instant::now() < deadline, "nothing comes any more");
                    thread::sleep(Duration::from_micros(100));
                }
            }
            let other = udp.reopen(0).unwrap();
            assert_ne!(other, port);
            assert_eq!(udp.port(), Some(other));
        });
    }
}

#[test]
fn a_port_in_use_is_said() {
    let taken = UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    assert_eq!(BatchUdp::open(port).unwrap_err().kind(), ErrorKind::AddrInUse);
    let udp = BatchUdp::open(0).unwrap();
    assert_eq!(udp.reopen(port).unwrap_err().kind(), ErrorKind::AddrInUse);
    assert_eq!(send(&udp, to("127.0.0.1", &udp), &[b"x"]).sent, 1);
    receive(&udp, Family::V4, 1, 1);
}

#[test]
fn an_existing_socket_is_taken_over() {
    for options in [BatchOptions::new(), BatchOptions::new().with_portable_driver()] {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let udp = options.adopt(socket).unwrap();
        assert_eq!((udp.port(), udp.has(Family::V4), udp.has(Family::V6)), (Some(port), true, false));
        let data: Vec<[u8; 900]> = (0..100).map(|i| [i; 900]).collect();
        let refs: Vec<&[u8]> = data.iter().map(<[u8; 900]>::as_slice).collect();
        assert_eq!(send(&udp, to("127.0.0.1", &udp), &refs).sent, 100);
        assert_eq!(contents(receive(&udp, Family::V4, 100, 128)), data);

        let to_v6 = udp.send(&[one(to("[::1]", &udp), b"x")]).unwrap_err();
        assert_eq!(
            (to_v6.kind(), to_v6.to_string().as_str()),
            (ErrorKind::Unsupported, "transmit 0: there is no IPv6 socket")
        );
        assert_eq!(udp.receive(Family::V6, 1, None, |_| ()).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(udp.set_interface(Family::V6, 0, false).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(udp.reopen(port).unwrap_err().kind(), ErrorKind::Unsupported);
        udp.close();
    }
}

#[cfg(unix)]
#[test]
fn what_is_no_udp_socket_is_not_taken_over() {
    use std::os::fd::OwnedFd;
    let tcp = UdpSocket::from(OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap()));
    assert_eq!(BatchOptions::new().adopt(tcp).unwrap_err().kind(), ErrorKind::Invalid);
    let unix = UdpSocket::from(OwnedFd::from(std::os::unix::net::UnixDatagram::unbound().unwrap()));
    assert_eq!(BatchOptions::new().adopt(unix).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn the_hook_sees_each_new_socket_and_may_refuse() {
    let refuse = Arc::new(AtomicBool::new(true));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let options = |refuse: &Arc<AtomicBool>| {
        let (refuse, seen) = (refuse.clone(), seen.clone());
        BatchOptions::new().with_socket_hook(Box::new(move |_, family| {
            seen.lock().unwrap().push(family);
            if refuse.load(SeqCst) { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
        }))
    };
    assert_eq!(options(&refuse).open(0).unwrap_err().kind(), ErrorKind::Permission);
    refuse.store(false, SeqCst);
    let udp = options(&refuse).open(0).unwrap();
    udp.reopen(udp.port().unwrap()).unwrap();
    let v46 = [Family::V4, Family::V6];
    let mut expected = [&v46[..1], &v46, &v46].concat();
    if cfg!(not(target_os = "linux")) {
        // Where sockets cannot share a port, another one is made once the old one is closed, for each family in turn.
        expected.extend(v46);
    }
    let mut seen = std::mem::take(&mut *seen.lock().unwrap());
    seen.truncate(expected.len());
    assert_eq!(seen, expected);
    refuse.store(true, SeqCst);
    assert_eq!(udp.reopen(0).unwrap_err().kind(), ErrorKind::Permission);
    send(&udp, to("127.0.0.1", &udp), &[b"x"]);
    receive(&udp, Family::V4, 1, 1);
}

#[test]
fn a_black_hole_swallows_one_family_across_reopening() {
    for udp in drivers() {
        let homes = BOTH.map(|(_, host)| to(host, &udp));
        let sent = |udp: &BatchUdp| {
            let report = udp.send(&homes.map(|home| one(home, b"x"))).unwrap();
            assert_eq!((report.sent + report.dropped, report.error, report.unreachable_mask), (2, None, 0));
            report.dropped_mask
        };
        assert_eq!(sent(&udp), 0);
        udp.set_interface(Family::V6, 0, true).unwrap();
        assert_eq!(sent(&udp), 0b10);
        udp.reopen(udp.port().unwrap()).unwrap();
        assert_eq!(sent(&udp), 0b10);
        udp.set_interface(Family::V6, 0, false).unwrap();
        assert_eq!(sent(&udp), 0);
    }
}
