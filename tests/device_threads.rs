//! Which of a tunnel's threads works: one while that is enough, two under load both ways, and none in between is lost.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

#[path = "common/at_end.rs"]
mod at_end;
mod common;
#[path = "common/several.rs"]
mod several;

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use at_end::set_at_end;
use common::{give, ipv4};
use several::Several;
use wg_embed::{
    bind::udp::UdpBind,
    config::{PeerUpdate, Update},
    device::{Options, Tunnel},
    key::PrivateKey,
    random::SystemRandom,
    tun::fd::FdTun,
};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(300);

/// Where the sequence number lies in a packet, behind the IPv4 header.
const NUMBER: std::ops::Range<usize> = 20..28;

/// The number of the queue that a packet came from lies behind it.
const QUEUE: usize = 28;

/// One test at a time: threads are told apart by when they start, and both want the processors.
static ALONE: Mutex<()> = Mutex::new(());

/// A tunnel each of whose queues is one end of a socketpair; the app has the other.
struct End {
    tunnel: Tunnel,
    /// The first queue, in which packets from the tunnel arrive as well.
    app: UnixDatagram,
    further: Vec<UnixDatagram>,
    inner: IpAddr,
    /// The threads `wg-tunnel` and `wg-outbound`, and `wg-queue` if there is a second queue.
    threads: Vec<u32>,
}

impl End {
    /// How often each of its threads went to sleep so far.
    fn naps(&self) -> Vec<u64> {
        self.threads.iter().map(|thread| naps(*thread)).collect()
    }
}

fn tasks(name: &str) -> BTreeSet<u32> {
    let all = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap());
    let named = all.filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name));
    named.map(|task| task.file_name().to_str().unwrap().parse().unwrap()).collect()
}

/// How often a thread went to sleep so far.
fn naps(thread: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn pair(queues: usize) -> [End; 2] {
    let keys = [(); 2].map(|()| PrivateKey::generate_with(&SystemRandom));
    let names = &["wg-tunnel", "wg-outbound", "wg-queue"][..1 + queues];
    let ends = [1, 2].map(|n: u8| {
        let before: Vec<_> = names.iter().map(|name| tasks(name)).collect();
        let queue = |_| {
            let (ours, app) = UnixDatagram::pair().unwrap();
            (FdTun::new(OwnedFd::from(ours), 0).unwrap(), app)
        };
        let (tuns, mut apps): (Vec<_>, Vec<_>) = (0..queues).map(queue).unzip();
        let tun = Several::new(tuns);
        let tunnel = Tunnel::start(Arc::new(tun), Arc::new(UdpBind::new().unwrap()), Options::default()).unwrap();
        let private_key = Some(Some(keys[usize::from(n) - 1].clone()));
        tunnel.device().apply(Update { private_key, ..Update::default() }).unwrap();
        tunnel.device().up().unwrap();
        let mut started = Vec::new();
        wait_until("the threads have no names", || {
            let new = |(name, before): (&&str, _)| tasks(name).difference(before).next().copied().unwrap_or(0);
            started = names.iter().zip(&before).map(new).collect();
            started.iter().all(|thread| *thread != 0)
        });
        let further = apps.split_off(1);
        End { tunnel, app: apps.remove(0), further, inner: IpAddr::from([10, 0, 0, n]), threads: started }
    });
    for i in [0, 1] {
        let other = &ends[1 - i];
        let port = other.tunnel.device().snapshot().interface.listen_port;
        let mut peer = PeerUpdate::new(keys[1 - i].public_key());
        peer.endpoint = Some(SocketAddr::from(([127, 0, 0, 1], port)).into());
        peer.allowed_ips = vec![give(&format!("{}/32", other.inner))];
        ends[i].tunnel.device().apply(Update { peers: vec![peer], ..Update::default() }).unwrap();
    }
    ends
}

/// One packet each way, one after the other, as an app that speaks only now and then.
fn converse(ends: &[End; 2], rounds: usize) {
    let mut buffer = [0; 2000];
    for end in ends {
        end.app.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    for _ in 0..rounds {
        for (from, to) in [(&ends[0], &ends[1]), (&ends[1], &ends[0])] {
            let packet = ipv4(from.inner, to.inner, 100);
            from.app.send(&packet).unwrap();
            let len = to.app.recv(&mut buffer).unwrap();
            assert!(buffer[..len] == packet, "{len} bytes, {:?}", &buffer[..28]);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Numbered packets both ways, as fast as it goes, until `enough`. Those that arrive must do so in order.
fn flood(ends: &[End; 2], mut enough: impl FnMut() -> bool) {
    let done = AtomicBool::new(false);
    let arrived = [const { AtomicU64::new(0) }; 4];
    thread::scope(|scope| {
        for (index, (from, to)) in [(&ends[0], &ends[1]), (&ends[1], &ends[0])].into_iter().enumerate() {
            let done = &done;
            for (queue, app) in [&from.app].into_iter().chain(&from.further).enumerate() {
                scope.spawn(move || {
                    let mut packet = ipv4(from.inner, to.inner, 1300);
                    packet[QUEUE] = queue as u8;
                    for number in 1_u64.. {
                        packet[NUMBER].copy_from_slice(&number.to_be_bytes());
                        app.send(&packet).unwrap();
                        if done.load(Relaxed) {
                            break;
                        }
                        if queue > 0 {
                            // The first has most of the packets, as wg-outbound would not help otherwise.
                            thread::sleep(Duration::from_millis(1));
                        }
                    }
                });
            }
            let counts = &arrived[2 * index..];
            scope.spawn(move || {
                to.app.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
                let (mut buffer, mut last) = ([0; 2000], [0; 2]);
                loop {
                    let Ok(len) = to.app.recv(&mut buffer) else {
                        if done.load(Relaxed) {
                            break;
                        }
                        continue;
                    };
                    let number = u64::from_be_bytes(buffer[NUMBER].try_into().unwrap());
                    let queue = usize::from(buffer[QUEUE]);
                    assert!(len == 1300 && number > last[queue], "{number} ({len} bytes) after {last:?}, {queue}");
                    last[queue] = number;
                    counts[queue].fetch_add(1, Relaxed);
                }
            });
        }
        let _ended = set_at_end(&done);
        let queues = 1 + ends[0].further.len();
        let has_passed = |queue: usize| [0, 2].iter().all(|end| arrived[end + queue].load(Relaxed) > 100);
        wait_until("enough has passed", || (0..queues).all(has_passed) && enough());
    });
}

#[test]
fn one_thread_serves_a_quiet_tunnel() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for queues in [1, 2] {
        let ends = pair(queues);
        converse(&ends, 3);
        let before = [&ends[0], &ends[1]].map(End::naps);
        converse(&ends, 100);
        for (end, before) in ends.iter().zip(before) {
            let after = end.naps();
            assert_eq!(after[1..], before[1..], "wg-outbound or wg-queue was woken");
            // Four packets a round pass each end.
            assert!((1..=500).contains(&(after[0] - before[0])), "{before:?} {after:?}");
        }
    }
}

#[test]
fn a_packet_in_a_further_queue_wakes_its_thread_only() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let ends = pair(2);
    converse(&ends, 3);
    let before = ends[0].naps();
    for _ in 0..100 {
        let packet = ipv4(ends[0].inner, ends[1].inner, 100);
        ends[0].further[0].send(&packet).unwrap();
        assert_eq!(ends[1].app.recv(&mut [0; 2000]).unwrap(), packet.len());
        thread::sleep(Duration::from_millis(1));
    }
    let after = ends[0].naps();
    assert_eq!(after[1], before[1], "wg-outbound was woken");
    // A timer may run.
    assert!(after[0] - before[0] < 20, "wg-tunnel was woken: {before:?} {after:?}");
    assert!((1..=200).contains(&(after[2] - before[2])), "{before:?} {after:?}");
}

#[test]
fn two_threads_serve_a_busy_tunnel_and_keep_the_order() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for (queues, handovers) in [(1, 3), (2, 1)] {
        let ends = pair(queues);
        converse(&ends, 3);
        for _ in 0..handovers {
            let before = ends[0].naps();
            // It ends only if wg-outbound has helped.
            flood(&ends, || naps(ends[0].threads[1]) > before[1]);
            wait_until("wg-outbound gives the TUN back, and sleeps", || {
                let before = naps(ends[0].threads[1]);
                converse(&ends, 50);
                naps(ends[0].threads[1]) == before
            });
        }
    }
}

#[test]
fn a_paused_tunnel_sleeps_whatever_comes() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for queues in [1, 2] {
        a_paused_tunnel_sleeps(&pair(queues));
    }
}

fn a_paused_tunnel_sleeps(ends: &[End; 2]) {
    converse(ends, 3);
    ends[0].tunnel.pause();
    ends[0].tunnel.pause();
    // Both threads go to sleep once they have seen it.
    wait_until("a paused tunnel sleeps", || {
        let before = ends[0].naps();
        thread::sleep(Duration::from_millis(50));
        ends[0].naps() == before
    });
    let before = ends[0].naps();
    for (from, to) in [(&ends[0], &ends[1]), (&ends[1], &ends[0])] {
        for _ in 0..5 {
            from.app.send(&ipv4(from.inner, to.inner, 100)).unwrap();
            for app in &from.further {
                app.send(&ipv4(from.inner, to.inner, 100)).unwrap();
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
    assert_eq!(ends[0].naps(), before, "something woke a paused tunnel");
    ends[0].tunnel.resume().unwrap();
    // What the app wrote meanwhile is on its way first.
    ends[1].app.set_read_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..5 * (1 + ends[0].further.len()) {
        assert_eq!(ends[1].app.recv(&mut [0; 2000]).unwrap(), 100);
    }
    converse(ends, 3);
    ends[0].tunnel.pause();
    ends[0].tunnel.stop().unwrap();
}
