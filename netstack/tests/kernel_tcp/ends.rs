//! How connections end: half closes, resets, refusals; the kernel does the same as the stack.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr},
};

use crate::{
    common::{kind, pattern},
    kernel::{KERNEL, STACK},
    link::{Link, WAYS},
    netns::{as_root, eventually},
    sockets::{End, assert_same, disconnect, is_reset, read_all, reset_by_close, write_and_end},
};

#[test]
fn a_half_close_leaves_the_other_way_open() {
    as_root(|| {
        let link = Link::new();
        let answer = pattern(300_000);
        for way in WAYS {
            for kernel_first in [true, false] {
                let (ours, theirs) = link.connect(way);
                let (first, second): (&dyn End, &dyn End) =
                    if kernel_first { (&theirs, &ours) } else { (&ours, &theirs) };
                write_and_end(first, b"question");
                assert_same("the question", &read_all(second).unwrap(), b"question");
                std::thread::scope(|scope| {
                    scope.spawn(|| write_and_end(second, &answer));
                    assert_same("the answer", &read_all(first).unwrap(), &answer);
                });
            }
        }
        link.await_nothing();
    });
}

#[test]
fn what_was_written_arrives_after_a_close() {
    as_root(|| {
        let link = Link::new();
        let data = pattern(2 << 20);
        for way in WAYS {
            let (mut ours, theirs) = link.connect(way);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    ours.write_all(&data).unwrap();
                    drop(ours);
                });
                assert_same("of the stack", &read_all(&theirs).unwrap(), &data);
            });
            let (ours, mut theirs) = link.connect(way);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    theirs.write_all(&data).unwrap();
                    drop(theirs);
                });
                assert_same("of the kernel", &read_all(&ours).unwrap(), &data);
            });
        }
        link.await_nothing();
    });
}

/// What was received before a reset can still be read, in the stack as in the kernel.
#[test]
fn a_reset_is_an_error_after_what_came_before_it() {
    as_root(|| {
        let link = Link::new();
        for way in WAYS {
            for words in [&b""[..], b"last words"] {
                let (mut ours, mut theirs) = link.connect(way);
                theirs.write_all(words).unwrap();
                eventually("they have arrived", || words.is_empty() || ours.readiness().readable);
                reset_by_close(theirs);
                eventually("so has the reset", || ours.readiness().write_closed);
                let mut buffer = [0; 20];
                if !words.is_empty() {
                    assert_eq!(ours.read(&mut buffer).unwrap(), words.len());
                }
                assert_eq!(kind(ours.read(&mut buffer)), ErrorKind::ConnectionReset);
                assert!(is_reset(&ours.write_all(b"more").unwrap_err()));

                let (mut ours, mut theirs) = link.connect(way);
                ours.write_all(words).unwrap();
                eventually("they have arrived", || ours.unacknowledged() == 0);
                ours.reset();
                if !words.is_empty() {
                    assert_eq!(theirs.read(&mut buffer).unwrap(), words.len());
                }
                assert_eq!(kind(theirs.read(&mut buffer)), ErrorKind::ConnectionReset);
                assert!(is_reset(&theirs.write_all(b"more").unwrap_err()));
            }
        }
        link.await_nothing();
    });
}

#[test]
fn a_reset_ends_transfers_under_way() {
    as_root(|| {
        let link = Link::new();
        for way in WAYS {
            for kernel_resets in [true, false] {
                let (ours, theirs) = link.connect(way);
                // Both send until it fails, and nobody reads.
                let fails = |end: &dyn End| {
                    let chunk = vec![7; 64 << 10];
                    loop {
                        if let Err(err) = end.writer().write_all(&chunk) {
                            break assert!(is_reset(&err), "{err}");
                        }
                    }
                };
                std::thread::scope(|scope| {
                    scope.spawn(|| fails(&ours));
                    scope.spawn(|| fails(&theirs));
                    eventually("both send", || ours.unacknowledged() > 100_000 && ours.readiness().readable);
                    if kernel_resets { disconnect(&theirs) } else { ours.reset() }
                });
            }
        }
        link.await_nothing();
    });
}

#[test]
fn unread_data_make_a_close_a_reset() {
    as_root(|| {
        let link = Link::new();
        for way in WAYS {
            let (mut ours, theirs) = link.connect(way);
            ours.write_all(b"never read").unwrap();
            eventually("they have arrived", || ours.unacknowledged() == 0);
            drop(theirs);
            assert_eq!(kind(read_all(&ours)), ErrorKind::ConnectionReset);

            let (ours, mut theirs) = link.connect(way);
            theirs.write_all(b"never read").unwrap();
            eventually("they have arrived", || ours.readiness().readable);
            drop(ours);
            assert_eq!(kind(read_all(&theirs)), ErrorKind::ConnectionReset);
        }
        link.await_nothing();
    });
}

#[test]
fn data_for_a_closed_connection_are_answered_with_a_reset() {
    as_root(|| {
        let link = Link::new();
        for way in WAYS {
            let (mut ours, theirs) = link.connect(way);
            drop(theirs);
            assert_eq!(ours.read(&mut [0; 9]).unwrap(), 0);
            eventually("writing fails", || ours.write(b"more").is_err_and(|err| is_reset(&err)));

            let (ours, mut theirs) = link.connect(way);
            drop(ours);
            assert_eq!(theirs.read(&mut [0; 9]).unwrap(), 0);
            eventually("writing fails", || theirs.write(b"more").is_err_and(|err| is_reset(&err)));

            // A reader that ended before the writer: the kernel takes what comes, and so does the stack.
            let (ours, mut theirs) = link.connect(way);
            ours.shutdown(Shutdown::Read).unwrap();
            theirs.write_all(&pattern(1 << 20)).unwrap();
            theirs.shutdown(Shutdown::Write).unwrap();
            ours.shutdown(Shutdown::Write).unwrap();
            assert_eq!(theirs.read(&mut [0; 9]).unwrap(), 0);
        }
        link.await_nothing();
    });
}

#[test]
fn closed_ports_refuse() {
    as_root(|| {
        let link = Link::new();
        for (kernel, stack) in KERNEL.into_iter().zip(STACK) {
            let closed = |host: &str| SocketAddr::new(host.parse().unwrap(), 9);
            assert_eq!(kind(link.stack_dials(closed(kernel))), ErrorKind::ConnectionRefused);
            assert_eq!(kind(link.kernel_dials(closed(stack))), ErrorKind::ConnectionRefused);
        }
        link.await_nothing();
    });
}

#[test]
fn a_router_that_reaches_nobody_ends_a_dial() {
    as_root(|| {
        let link = Link::new();
        link.netns.run(|| {
            for family in ["ipv4/conf", "ipv6/conf"] {
                std::fs::write(format!("/proc/sys/net/{family}/all/forwarding"), "1").unwrap();
            }
        });
        let cases = [
            ("unreachable", "192.0.2.0/24", "192.0.2.1:9", ErrorKind::HostUnreachable),
            ("prohibit", "198.51.100.0/24", "198.51.100.1:9", ErrorKind::HostUnreachable),
            ("unreachable", "2001:db8:1::/48", "[2001:db8:1::1]:9", ErrorKind::NetworkUnreachable),
            ("prohibit", "2001:db8:2::/48", "[2001:db8:2::1]:9", ErrorKind::HostUnreachable),
        ];
        for (route, to, address, wanted) in cases {
            link.netns.ip(&format!("route add {route} {to}"));
            assert_eq!(kind(link.stack_dials(address.parse().unwrap())), wanted, "{route} {to}");
        }
        link.await_nothing();
    });
}
