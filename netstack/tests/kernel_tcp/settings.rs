//! Kernels that are set up differently: without options of TCP, with small buffers, with other MTUs.

use std::{
    io::{Read, Write},
    net::SocketAddr,
};

use crate::{
    common::pattern,
    kernel,
    link::{Link, MTU, WAYS},
    netns::{Netns, as_root},
    relay::Trouble,
    sockets::{LIMIT, assert_same, exchange, patient, patient_stream, read_slowly, set_option, tcp_info},
};

// Of tcpi_options.
const TIMESTAMPS: u8 = 1;
const SACK: u8 = 2;
const WINDOW_SCALE: u8 = 4;
const ECN: u8 = 8;

/// Sends so much each way, and checks which options were agreed on.
fn exchange_with(link: &Link, size: usize, options: u8) {
    for way in WAYS {
        let (ours, theirs) = link.connect(way);
        assert_eq!(tcp_info(&theirs).tcpi_options & (TIMESTAMPS | SACK | WINDOW_SCALE | ECN), options, "{way:?}");
        exchange(&ours, &theirs, &pattern(size), &pattern(size + 1));
    }
    link.await_nothing();
}

#[test]
fn any_options_may_be_missing() {
    as_root(|| {
        let link = Link::new();
        exchange_with(&link, 1 << 20, TIMESTAMPS | SACK | WINDOW_SCALE);
        let settings = [("tcp_sack", SACK), ("tcp_timestamps", TIMESTAMPS), ("tcp_window_scaling", WINDOW_SCALE)];
        for missing in 1..8_u8 {
            let mut options = TIMESTAMPS | SACK | WINDOW_SCALE;
            for (n, (name, option)) in settings.into_iter().enumerate() {
                let is_missing = missing & (1 << n) != 0;
                link.set(name, if is_missing { "0" } else { "1" });
                options &= if is_missing { !option } else { u8::MAX };
            }
            exchange_with(&link, 500_000, options);
        }
    });
}

/// Without SACK and time stamps, losses are found by repeated ACKs alone.
#[test]
fn losses_are_made_good_without_options() {
    as_root(|| {
        let link = Link::new();
        for name in ["tcp_sack", "tcp_timestamps", "tcp_window_scaling"] {
            link.set(name, "0");
        }
        let mut trouble = Trouble::default();
        (trouble.path.delay, trouble.path.loss) = (std::time::Duration::from_millis(2), 20);
        link.set_trouble(trouble);
        exchange_with(&link, 200_000, 0);
    });
}

#[test]
fn a_kernel_that_wants_ecn_does_without() {
    as_root(|| {
        let link = Link::new();
        link.set("tcp_ecn", "1");
        exchange_with(&link, 500_000, TIMESTAMPS | SACK | WINDOW_SCALE);
    });
}

#[test]
fn small_buffers_of_the_kernel_lose_nothing() {
    as_root(|| {
        let link = Link::new();
        let options = TIMESTAMPS | SACK | WINDOW_SCALE;
        link.set("tcp_rmem", "4096 16384 16384");
        link.set("tcp_wmem", "4096 16384 16384");
        exchange_with(&link, 200_000, options);
        // A window that is hardly a segment.
        link.set("tcp_rmem", "2304 2304 2304");
        link.set("tcp_wmem", "4608 4608 4608");
        exchange_with(&link, 20_000, options);
    });
}

#[test]
fn small_buffers_of_the_stack_lose_nothing() {
    as_root(|| {
        for buffer in [4096, 10_000, 65_535, 65_536] {
            let mut options = kernel::options(MTU);
            (options.receive_buffer, options.send_buffer) = (buffer, buffer);
            let link = Link::with(MTU, options);
            exchange_with(&link, 300_000, TIMESTAMPS | SACK | WINDOW_SCALE);
        }
    });
}

/// Its answer to a SYN says less than usual: all that it knows comes back in our ACK.
#[test]
fn a_kernel_with_syn_cookies_is_dialled() {
    as_root(|| {
        let link = Link::new();
        link.set("tcp_syncookies", "2");
        exchange_with(&link, 500_000, TIMESTAMPS | SACK | WINDOW_SCALE);
        link.set("tcp_timestamps", "0");
        for way in WAYS.into_iter().filter(|way| way.1) {
            let (ours, theirs) = link.connect(way);
            assert_eq!(tcp_info(&theirs).tcpi_options & (TIMESTAMPS | SACK | WINDOW_SCALE), 0);
            exchange(&ours, &theirs, &pattern(300_000), &pattern(300_001));
        }
        link.await_nothing();
    });
}

#[test]
fn data_in_a_syn_come_again() {
    /// Of linux/tcp.h: the first write sends the SYN.
    const FASTOPEN_CONNECT: libc::c_int = 30;
    as_root(|| {
        let link = Link::new();
        // For clients, and without a cookie.
        link.set("tcp_fastopen", "5");
        for family in [0, 1] {
            let listener = link.stack_listener(family);
            let at = socket2::SockAddr::from(listener.local_addr());
            let socket = link.netns.run(move || {
                let socket = socket2::Socket::new(at.domain(), socket2::Type::STREAM, None).unwrap();
                set_option(&socket, FASTOPEN_CONNECT, 1);
                socket.connect(&at).unwrap();
                socket
            });
            let mut theirs = patient(socket.into());
            theirs.write_all(b"in the SYN").unwrap();
            let mut ours = patient_stream(listener.accept(Some(LIMIT)).unwrap());
            let mut buffer = [0; 10];
            ours.read_exact(&mut buffer).unwrap();
            assert_eq!(&buffer, b"in the SYN");
            exchange(&ours, &theirs, &pattern(300_000), &pattern(300_001));
        }
        link.await_nothing();
    });
}

/// The kernel takes back a part of the window that it has offered.
#[test]
fn a_window_that_shrinks_loses_nothing() {
    as_root(|| {
        let link = Link::new();
        link.set("tcp_shrink_window", "1");
        link.set("tcp_rmem", "4096 32768 65536");
        let data = pattern(1 << 20);
        for way in WAYS {
            let (ours, theirs) = link.connect(way);
            std::thread::scope(|scope| {
                scope.spawn(|| (&ours).write_all(&data).unwrap());
                assert_same("what shrinks", &read_slowly(&theirs, data.len()), &data);
            });
        }
        link.await_nothing();
    });
}

#[test]
fn a_kernel_with_a_huge_window_and_one_with_small_segments() {
    as_root(|| {
        let link = Link::new();
        link.set("tcp_rmem", "4096 1000000 1000000000");
        link.set("tcp_mtu_probing", "2");
        exchange_with(&link, 4 << 20, TIMESTAMPS | SACK | WINDOW_SCALE);
        link.netns.ip(&format!("route change 10.0.0.0/24 dev {} advmss 100", kernel::NAME));
        link.netns.ip(&format!("-6 route replace fd00::/64 dev {} advmss 100 metric 1", kernel::NAME));
        for way in WAYS {
            let (_ours, theirs) = link.connect(way);
            // Options come off.
            assert!((88..=100).contains(&tcp_info(&theirs).tcpi_advmss));
        }
        exchange_with(&link, 200_000, TIMESTAMPS | SACK | WINDOW_SCALE);
    });
}

#[test]
fn no_packet_is_larger_than_either_mtu() {
    as_root(|| {
        for (theirs, ours) in
            [(576, 1420), (1280, 1420), (1420, 1280), (1500, 1500), (9000, 1420), (9000, 9000), (1420, 9000)]
        {
            let link = Link::with(theirs, kernel::options(ours));
            for way in WAYS.into_iter().filter(|way| way.0 == 0 || theirs >= 1280) {
                let (ours_end, theirs_end) = link.connect(way);
                link.relay().take_longest();
                exchange(&ours_end, &theirs_end, &pattern(300_000), &pattern(300_001));
                assert_eq!(link.relay().take_longest(), u64::from(theirs.min(ours)), "{way:?}");
            }
            link.await_nothing();
        }
    });
    // Such a stack has no IPv6 address.
    as_root(|| {
        let mut options = kernel::options(576);
        options.addresses.retain(std::net::IpAddr::is_ipv4);
        let link = Link::with(1420, options);
        for way in [(0, true), (0, false)] {
            let (ours, theirs) = link.connect(way);
            link.relay().take_longest();
            exchange(&ours, &theirs, &pattern(300_000), &pattern(300_001));
            assert_eq!(link.relay().take_longest(), 576);
        }
    });
}

/// The kernel is a router here, and behind it is another one, to which less fits than both sides believe.
#[test]
fn a_connection_takes_up_the_mtu_of_its_path() {
    as_root(|| {
        let (link, far) = (Link::new(), Netns::new());
        link.netns.run(|| {
            for family in ["ipv4/conf", "ipv6/conf"] {
                std::fs::write(format!("/proc/sys/net/{family}/all/forwarding"), "1").unwrap();
            }
        });
        link.netns.ip(&format!("link add near type veth peer name far netns {}", far.tid()));
        link.netns.ip("link set near mtu 1300 up");
        far.ip("link set far mtu 1500 up");
        for (netns, name, n) in [(&link.netns, "near", 1), (&far, "far", 2)] {
            netns.ip(&format!("address add 192.168.9.{n}/24 dev {name}"));
            netns.ip(&format!("address add fd09::{n}/64 dev {name} nodad"));
            netns.await_address(&format!("fd09::{n}"));
        }
        far.ip("route add 10.0.0.0/24 via 192.168.9.1");
        far.ip("-6 route add fd00::/64 via fd09::1");
        for address in ["192.168.9.2", "fd09::2"] {
            let at = SocketAddr::new(address.parse().unwrap(), 0);
            let listener = far.run(move || std::net::TcpListener::bind(at).unwrap());
            let ours = link.stack_dials(listener.local_addr().unwrap()).unwrap();
            let theirs = patient(listener.accept().unwrap().0);
            // What comes from there is small: the veth drops silently what is larger than its other side takes.
            for wanted in [u64::from(MTU), 1300] {
                link.relay().take_longest();
                let (data, mut got) = (pattern(500_000), vec![0; 500_000]);
                std::thread::scope(|scope| {
                    scope.spawn(|| (&ours).write_all(&data).unwrap());
                    (&theirs).read_exact(&mut got).unwrap();
                });
                assert_same("behind the router", &got, &data);
                assert_eq!(link.relay().take_longest(), wanted);
            }
            exchange(&ours, &theirs, &pattern(100), &pattern(101));
        }
        link.await_nothing();
    });
}
