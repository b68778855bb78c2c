//! What needs time: lost handshakes, outages, silent peers, addresses and ports that are used again.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream as KernelStream},
    thread,
    time::Duration,
};

use crate::{
    common::{Path, kind, pattern},
    kernel::{KERNEL, STACK},
    link::{Link, WAYS},
    netns::{as_root, eventually},
    relay::Trouble,
    sockets::{
        End, LIMIT, assert_same, exchange, fill, patient, patient_stream, read_all, read_slowly, set_option, tcp_info,
    },
};

const SECOND: Duration = Duration::from_secs(1);

/// Nothing passes.
fn outage(link: &Link) {
    link.set_trouble(Trouble { path: Path { loss: 1000, ..Path::default() }, damaged: 0 });
}

/// A socket of the kernel that is bound, for dialling.
fn bound(link: &Link, at: SocketAddr) -> socket2::Socket {
    link.netns.run(move || {
        let socket = socket2::Socket::new(socket2::Domain::for_address(at), socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&at.into()).unwrap();
        socket
    })
}

#[test]
fn handshakes_and_transfers_outlive_an_outage() {
    as_root(|| {
        let link = Link::new();
        for family in [0, 1] {
            let (kernel, stack) = (link.kernel_listener(family), link.stack_listener(family));
            outage(&link);
            let to = stack.local_addr();
            let dial = link.spawn(move || KernelStream::connect_timeout(&to, LIMIT).map(patient));
            let ours = link.stack.start_tcp(kernel.local_addr().unwrap()).unwrap();
            thread::sleep(SECOND / 2);
            assert!(!ours.is_established() && !dial.is_finished());
            link.set_trouble(Trouble::default());
            ours.wait_established(Some(LIMIT)).unwrap();
            let first = (patient_stream(ours), patient(kernel.accept().unwrap().0));
            let second = (patient_stream(stack.accept(Some(LIMIT)).unwrap()), dial.join().unwrap().unwrap());
            for (ours, theirs) in [first, second] {
                let (up, down) = (pattern(8 << 20), pattern(8 << 20));
                thread::scope(|scope| {
                    scope.spawn(|| exchange(&ours, &theirs, &up, &down));
                    for _ in 0..2 {
                        thread::sleep(SECOND / 20);
                        outage(&link);
                        thread::sleep(SECOND);
                        link.set_trouble(Trouble::default());
                    }
                });
            }
        }
        link.await_nothing();
    });
}

/// Both dial each other, and their SYNs cross.
#[test]
fn dials_that_cross_are_one_connection() {
    as_root(|| {
        let link = Link::new();
        for (n, (kernel, stack)) in KERNEL.into_iter().zip(STACK).enumerate() {
            let theirs = bound(&link, SocketAddr::new(kernel.parse().unwrap(), 4000));
            outage(&link);
            let ours = link.stack.start_tcp(SocketAddr::new(kernel.parse().unwrap(), 4000)).unwrap();
            let to = SocketAddr::new(stack.parse().unwrap(), ours.local_addr().port());
            let dial = link.spawn(move || theirs.connect(&to.into()).map(|()| theirs));
            // Both have sent one that was lost.
            eventually("the kernel dials", || link.netns.sent(crate::kernel::NAME) > 0);
            thread::sleep(SECOND / 2);
            // Both send another one within this time.
            link.set_trouble(Trouble { path: Path { delay: 2 * SECOND, ..Path::default() }, damaged: 0 });
            ours.wait_established(Some(LIMIT)).unwrap();
            let theirs = patient(dial.join().unwrap().unwrap().into());
            link.set_trouble(Trouble::default());
            exchange(&patient_stream(ours), &theirs, &pattern(100_000 + n), &pattern(100_001));
        }
        link.await_nothing();
    });
}

#[test]
fn addresses_and_ports_in_time_wait_are_used_again() {
    as_root(|| {
        let link = Link::new();
        for timestamps in ["1", "0"] {
            link.set("tcp_timestamps", timestamps);
            for family in [0, 1] {
                let listener = link.stack_listener(family);
                let at = SocketAddr::new(KERNEL[family].parse().unwrap(), 4001 + u16::from(timestamps == "0"));
                for round in 0..10 {
                    let mut dialled = None;
                    // Until the last ACK has arrived, the kernel's former connection has the same addresses and ports.
                    eventually("the kernel dials", || {
                        let socket = bound(&link, at);
                        match socket.connect_timeout(&listener.local_addr().into(), LIMIT) {
                            Err(err) if err.kind() == ErrorKind::AddrNotAvailable => {}
                            result => dialled = Some(result.map(|()| socket)),
                        }
                        dialled.is_some()
                    });
                    let mut theirs = patient(dialled.unwrap().unwrap().into());
                    let mut ours = patient_stream(listener.accept(Some(LIMIT)).unwrap());
                    ours.write_all(&pattern(round)).unwrap();
                    // The stack ends first, so it is the one that waits.
                    drop(ours);
                    assert_same("the bytes", &read_all(&theirs).unwrap(), &pattern(round));
                    assert_eq!(theirs.read(&mut [0; 1]).unwrap(), 0);
                    drop(theirs);
                    eventually("it is in TIME-WAIT", || link.stack.stats().connections == 0);
                }
            }
        }
        assert_eq!(link.stack.stats().time_wait, 4);
        link.await_nothing();
    });
}

/// The only segment that says that there is room again is lost: whoever sends must ask.
#[test]
fn a_lost_opening_of_a_window_is_made_good() {
    as_root(|| {
        let link = Link::new();
        let data = pattern(64 << 20);
        for way in WAYS {
            let (ours, theirs) = link.connect(way);
            let written = fill(|bytes| ours.try_write(bytes), &data);
            outage(&link);
            // What is there is read; more may be on its way.
            theirs.set_nonblocking(true).unwrap();
            let mut got = Vec::new();
            assert_eq!(kind((&theirs).read_to_end(&mut got)), ErrorKind::WouldBlock);
            theirs.set_nonblocking(false).unwrap();
            link.set_trouble(Trouble::default());
            got.extend(read_slowly(&theirs, written - got.len()));
            assert_same("the kernel reads", &got, &data[..written]);

            let (ours, theirs) = link.connect(way);
            theirs.set_nonblocking(true).unwrap();
            let written = fill(|bytes| (&theirs).write(bytes), &data);
            outage(&link);
            let (mut got, _) = crate::common::read_all(&ours);
            link.set_trouble(Trouble::default());
            got.extend(read_slowly(&ours, written - got.len()));
            assert_same("the stack reads", &got, &data[..written]);
        }
        link.await_nothing();
    });
}

#[test]
fn probes_keep_connections_and_end_dead_ones() {
    as_root(|| {
        let link = Link::new();
        let (by_kernel, by_stack, unacknowledged) =
            (link.connect(WAYS[0]), link.connect(WAYS[3]), link.connect(WAYS[1]));
        socket2::SockRef::from(&by_kernel.1).set_keepalive(true).unwrap();
        for (option, value) in [(libc::TCP_KEEPIDLE, 1), (libc::TCP_KEEPINTVL, 1), (libc::TCP_KEEPCNT, 3)] {
            set_option(&by_kernel.1, option, value);
        }
        by_stack.0.set_keepalive(Some(SECOND));
        let before = link.netns.received(crate::kernel::NAME);
        thread::sleep(4 * SECOND);
        assert!(link.netns.received(crate::kernel::NAME) > before, "nothing was sent");
        for (ours, theirs) in [&by_kernel, &by_stack] {
            let ends: [&dyn End; 2] = [ours, theirs];
            for (from, to) in [(0, 1), (1, 0)] {
                ends[from].writer().write_all(b"here").unwrap();
                ends[to].reader().read_exact(&mut [0; 4]).unwrap();
            }
        }
        eventually("all is acknowledged", || {
            [&by_kernel, &by_stack]
                .into_iter()
                .all(|(ours, theirs)| ours.unacknowledged() == 0 && tcp_info(theirs).tcpi_unacked == 0)
        });
        outage(&link);
        unacknowledged.0.set_user_timeout(Some(2 * SECOND));
        (&unacknowledged.0).write_all(b"anyone?").unwrap();
        assert_eq!(kind(read_all(&unacknowledged.0)), ErrorKind::TimedOut);
        assert_eq!(kind(read_all(&by_stack.0)), ErrorKind::TimedOut);
        assert_eq!(kind(read_all(&by_kernel.1)), ErrorKind::TimedOut);
        link.set_trouble(Trouble::default());
        // The one of which the kernel alone knows that it has ended.
        by_kernel.0.reset();
        drop((by_kernel, by_stack, unacknowledged));
        link.await_nothing();
    });
}
