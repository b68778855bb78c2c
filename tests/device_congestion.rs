//! A way out that is full does not cost what comes in: behind a slow uplink that is overloaded, an independent download
//! arrives, and sending never waits.
#![cfg(target_os = "linux")]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test may fail loudly"
)]

#[path = "common/at_end.rs"]
mod at_end;
mod common;
mod netns;
#[path = "common/skip.rs"]
mod skip;

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use at_end::set_at_end;
use common::{give, ipv4};
use netns::{Netns, as_root};
use socket2::SockRef;
use wg_embed::{
    bind::{Bind, Endpoint, Transmit, UdpBind},
    config::{PeerUpdate, Update},
    device::{Device, Options, Tunnel},
    key::PrivateKey,
    random::SystemRandom,
    tun::{Tun, linux::LinuxTun, mem::MemTun},
};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(300);
const CAP_NET_ADMIN: u32 = 12;
/// Packets of the download: several times as many as wait in a socket.
const DOWNLOAD: u64 = 1500;
/// The receive buffer: that much of the download comes in most of a second.
const RECV_BUFFER: usize = 400_000;

/// Two network namespaces: the way from the first one to the other is `rate` wide, and its queue so long.
fn namespaces(rate: &str, queue: &str) -> (Netns, Netns) {
    let (a, b) = (Netns::new(), Netns::new());
    a.ip("link add slow type veth peer name fast");
    a.ip(&format!("link set fast netns {}", b.tid()));
    a.ip("addr add 10.9.0.1/24 dev slow");
    b.ip("addr add 10.9.0.2/24 dev fast");
    a.ip("link set slow up");
    b.ip("link set fast up");
    a.command("tc", &format!("qdisc add dev slow root tbf rate {rate} burst 100kb limit {queue}"));
    (a, b)
}

/// Takes CAP_NET_ADMIN from the calling thread, and from those that it starts.
fn drop_net_admin() {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let mut sets = [[0_u32; 3]; 2];
    // SAFETY: capget(2) and capset(2) read the header, and read or write two sets of three numbers.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw const header, sets.as_mut_ptr()) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    sets[0].iter_mut().for_each(|set| *set &= !(1 << CAP_NET_ADMIN));
    // SAFETY: as above.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// Runs something in a namespace, on a thread of its own, with CAP_NET_ADMIN or without.
fn within<R: Send + 'static>(netns: &Netns, privileged: bool, body: impl FnOnce() -> R + Send + 'static) -> R {
    netns.run(move || {
        let run = move || {
            if !privileged {
                drop_net_admin();
            }
            body()
        };
        thread::spawn(run).join().unwrap()
    })
}

/// Which driver a bind has.
#[derive(Clone, Copy)]
enum Driver {
    Native,
    Portable,
}

impl Driver {
    fn bind(self) -> UdpBind {
        let bind = UdpBind::new().unwrap();
        match self {
            Self::Native => bind,
            Self::Portable => bind.with_portable_driver(),
        }
    }
}

struct End {
    tunnel: Tunnel,
    inner: IpAddr,
    outer: SocketAddr,
    private: PrivateKey,
}

fn end(netns: &Netns, n: u8, tun: Arc<dyn Tun>, privileged: bool, driver: Driver) -> End {
    within(netns, privileged, move || {
        let bind = Arc::new(driver.bind());
        let private = PrivateKey::generate_with(&SystemRandom);
        let update = Update { private_key: Some(Some(private.clone())), listen_port: Some(7000), ..Update::default() };
        let configure = |device: &Device| device.apply(update);
        let tunnel = Tunnel::start_with(tun, bind.clone(), Options::default(), configure).unwrap();
        // It comes up with its interface.
        wait_until("the sockets are not open", || bind.fd4().is_some());
        // SAFETY: the descriptor is the bind's, which lives.
        let socket = unsafe { BorrowedFd::borrow_raw(bind.fd4().unwrap()) };
        SockRef::from(&socket).set_recv_buffer_size(RECV_BUFFER).unwrap();
        let outer = SocketAddr::from(([10, 9, 0, n], 7000));
        End { tunnel, inner: IpAddr::from([10, 0, 0, n]), outer, private }
    })
}

fn introduce(end: &End, other: &End) {
    let mut peer = PeerUpdate::new(other.private.public_key());
    peer.endpoint = Some(other.outer.into());
    peer.allowed_ips = vec![give(&format!("{}/32", other.inner))];
    end.tunnel.device().apply(Update { peers: vec![peer], ..Update::default() }).unwrap();
}

fn counter(end: &End, name: &str) -> u64 {
    end.tunnel.device().counters().into_iter().find(|counter| counter.0 == name).unwrap().1
}

/// Packets that came through the tunnel, also those that the app was too slow for.
fn arrived(end: &End) -> u64 {
    end.tunnel.device().totals().rx_packets + counter(end, "in_write_failed")
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn download_beside_an_overloaded_uplink(privileged: bool, driver: Driver) {
    // Either a queue that is full before the socket is, or one that is longer than what a socket holds without
    // privileges.
    let (netns_a, netns_b) = namespaces("20mbit", if privileged { "1mb" } else { "100mb" });
    let tun = netns_a.run(|| LinuxTun::create("wg0").unwrap());
    netns_a.ip("addr add 10.0.0.1/24 dev wg0");
    netns_a.ip("link set wg0 up");
    let a = end(&netns_a, 1, Arc::new(tun), privileged, driver);
    let (tun, app) = MemTun::new("", 1420);
    let b = end(&netns_b, 2, Arc::new(tun), true, Driver::Native);
    introduce(&a, &b);
    introduce(&b, &a);
    assert!(app.inject(&ipv4(b.inner, a.inner, 100)));
    wait_until("no session", || arrived(&a) == 1);

    let done = AtomicBool::new(false);
    let uploaded = thread::scope(|scope| {
        let ended = set_at_end(&done);
        let upload = scope.spawn(|| {
            let socket = netns_a.run(|| UdpSocket::bind("10.0.0.1:0").unwrap());
            let mut count = 0_u64;
            while !done.load(Relaxed) {
                // Growing, so that hardly any two of them leave in one message.
                let len = 800 + usize::try_from(count % 60).unwrap() * 8;
                count += u64::from(socket.send_to(&[7; 1300][..len], "10.0.0.2:9").is_ok());
            }
            count
        });
        // Until the way out is full: what does not pass is dropped by the socket or by the queue behind it.
        let is_full = || match privileged {
            true => !netns_a.command("tc", "-s qdisc show dev slow").contains("dropped 0,"),
            false => counter(&a, "udp_send_full") > 0,
        };
        wait_until("the way out does not fill", is_full);
        let before = arrived(&a);
        for _ in 0..DOWNLOAD {
            assert!(app.inject(&ipv4(b.inner, a.inner, 1000)));
            thread::sleep(Duration::from_millis(2));
        }
        let begin = Instant::now();
        while arrived(&a) < before + DOWNLOAD && begin.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(5));
        }
        drop(ended);
        upload.join().unwrap()
    });
    let through = arrived(&b);
    assert!(uploaded > 2 * through, "no overload: {through} of {uploaded} packets passed the uplink");
    let downloaded = arrived(&a) - 1;
    assert!(downloaded >= DOWNLOAD * 99 / 100, "{downloaded} of {DOWNLOAD} packets arrived, beside {uploaded} sent");
}

#[test]
fn with_cap_net_admin_the_queueing_discipline_drops_and_the_download_arrives() {
    as_root(|| download_beside_an_overloaded_uplink(true, Driver::Native));
}

#[test]
fn without_cap_net_admin_the_socket_drops_and_the_download_arrives() {
    as_root(|| download_beside_an_overloaded_uplink(false, Driver::Native));
}

#[test]
fn with_the_portable_driver_the_download_arrives() {
    as_root(|| download_beside_an_overloaded_uplink(false, Driver::Portable));
}

/// Nothing leaves the queue of this uplink while the test runs: a wait for room would never end before its time is up.
#[test]
fn what_a_full_socket_does_not_take_is_dropped_and_counted() {
    as_root(|| {
        for driver in [Driver::Native, Driver::Portable] {
            let (a, _b) = namespaces("8bit", "100mb");
            // Until its neighbour is known, a namespace queues hardly anything for it.
            a.ip("neigh replace 10.9.0.2 lladdr 02:00:00:00:00:01 dev slow nud permanent");
            within(&a, false, move || {
                let bind = driver.bind();
                bind.open(0).unwrap();
                let to = Endpoint::new("10.9.0.2:9".parse().unwrap());
                let contents = [7; 12_000];
                let batch = [Transmit::new(to, &contents).with_segments(1200); 16];
                let (mut sent, mut dropped) = (0, 0);
                while dropped < 1000 {
                    let report = bind.send(&batch);
                    (sent, dropped) = (sent + report.sent, dropped + report.dropped);
                    assert_eq!(report.sent + report.dropped, 160);
                    assert!(sent < 100_000, "the socket does not fill");
                }
                assert_eq!(bind.stats().send_full, dropped as u64);
            });
        }
    });
}
