//! What comes due while the machine sleeps is done when it wakes: the tunnel waits for a timer that counts sleep.
//!
//! The machine that runs the tests stays awake, so they turn the tunnel's clock on instead and let the timer ring, as
//! the kernel does at wake-up. `tests/interop/suspend.py` suspends a real machine.
#![cfg(target_os = "linux")]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test may fail loudly"
)]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    net::UdpSocket,
    os::{
        fd::{OwnedFd, RawFd},
        unix::net::UnixDatagram,
    },
    ptr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use common::{give, ipv4};
use wg_embed::{
    bind::{
        Bind,
        callback::{CallbackBind, Datagram},
        udp::UdpBind,
    },
    config::{PeerUpdate, Update},
    device::{Options, Tunnel},
    key::{PrivateKey, PublicKey},
    random::SystemRandom,
    time::{Clock, ManualClock, SystemClock},
    tun::fd::FdTun,
};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(300);
/// What a busy machine may put between two looks at one deadline; little beside [`RETRY`].
const A_LITTLE: Duration = Duration::from_secs(1);

/// When a handshake that is not answered is tried again, with the longest jitter.
const RETRY: Duration = Duration::from_millis(5_333);

/// The number that stands for `CLOCK_BOOTTIME` in fdinfo.
const BOOT_CLOCK: i32 = libc::CLOCK_BOOTTIME;

/// One test at a time: they look at the descriptors of the whole process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A tunnel that sends handshakes to a socket that does not answer.
struct Lonely {
    tunnel: Tunnel,
    peer: PublicKey,
    outside: UdpSocket,
    /// The other end of its TUN.
    app: UnixDatagram,
}

impl Lonely {
    /// It has sent its first initiation.
    fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_bind(clock, Arc::new(UdpBind::new().unwrap()))
    }

    fn with_bind(clock: Arc<dyn Clock>, bind: Arc<dyn Bind>) -> Self {
        let outside = UdpSocket::bind("127.0.0.1:0").unwrap();
        outside.set_read_timeout(Some(PATIENCE)).unwrap();
        let (tun, app) = UnixDatagram::pair().unwrap();
        let tun = Arc::new(FdTun::new(OwnedFd::from(tun), 0).unwrap());
        let tunnel = Tunnel::start(tun, bind, Options { clock, ..Options::default() }).unwrap();
        let peer = PrivateKey::generate_with(&SystemRandom).public_key();
        let mut update = PeerUpdate::new(peer);
        update.endpoint = Some(outside.local_addr().unwrap().into());
        update.allowed_ips = vec![give("10.0.0.2/32")];
        let private_key = Some(Some(PrivateKey::generate_with(&SystemRandom)));
        tunnel.device().apply(Update { private_key, peers: vec![update], ..Update::default() }).unwrap();
        tunnel.device().up().unwrap();
        app.send(&ipv4([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 100)).unwrap();
        let lonely = Self { tunnel, peer, outside, app };
        lonely.expect_initiation();
        lonely
    }

    fn expect_initiation(&self) {
        let mut buffer = [0; 2000];
        let (len, _) = self.outside.recv_from(&mut buffer).unwrap();
        assert_eq!((buffer[0], len), (1, 148));
    }

    fn next_deadline(&self) -> Duration {
        self.tunnel.device().peer_stats(&self.peer).unwrap().next_deadline.unwrap()
    }
}

/// What the kernel says of a timer of ours.
#[derive(Debug)]
struct Timer {
    fd: RawFd,
    clock: i32,
    is_closed_by_exec: bool,
    /// When it rings; zero if it does not.
    rings_in: Duration,
}

impl Timer {
    /// `None` if the descriptor is none.
    fn read(fd: RawFd) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
        let fields: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(':')).collect();
        let flags = i32::from_str_radix(fields["flags"].trim(), 8).unwrap();
        let (seconds, nanos) = fields.get("it_value")?.trim().trim_matches(['(', ')']).split_once(", ").unwrap();
        Some(Self {
            fd,
            clock: fields["clockid"].trim().parse().unwrap(),
            is_closed_by_exec: flags & libc::O_CLOEXEC != 0,
            rings_in: Duration::new(seconds.parse().unwrap(), nanos.parse().unwrap()),
        })
    }

    /// The only one there is.
    fn find() -> Self {
        let mut all = descriptors().into_iter().filter_map(Self::read);
        let first = all.next().expect("there is no timer");
        assert!(all.next().is_none(), "there is more than one timer");
        first
    }

    /// Waits until the tunnel has set it for a deadline.
    fn find_set() -> Self {
        Self::find_when(|timer| timer.rings_in > Duration::from_secs(1))
    }

    /// Waits until it is so.
    fn find_when(is_so: impl Fn(&Self) -> bool) -> Self {
        let begin = Instant::now();
        loop {
            let timer = Self::find();
            if is_so(&timer) {
                return timer;
            }
            assert!(begin.elapsed() < PATIENCE, "{timer:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Lets it ring now.
    fn ring(&self) {
        let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let setting = libc::itimerspec { it_interval: never, it_value: libc::timespec { tv_nsec: 1, ..never } };
        // SAFETY: `setting` lives through the call, and the old setting is not asked for.
        assert_eq!(unsafe { libc::timerfd_settime(self.fd, 0, &raw const setting, ptr::null_mut()) }, 0);
    }
}

fn descriptors() -> Vec<RawFd> {
    let all = fs::read_dir("/proc/self/fd").unwrap();
    all.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

#[test]
fn the_next_deadline_is_that_of_a_timer_that_counts_sleep() {
    let _alone = alone();
    let lonely = Lonely::new(Arc::new(SystemClock));
    let timer = Timer::find_set();
    let deadline = lonely.next_deadline();
    assert!(deadline.abs_diff(Timer::find().rings_in) < A_LITTLE, "{deadline:?}");
    assert!(deadline <= RETRY, "{deadline:?}");
    assert_eq!((timer.clock, timer.is_closed_by_exec), (BOOT_CLOCK, true));
}

#[test]
fn what_came_due_during_sleep_is_done_at_wake_up() {
    let _alone = alone();
    let clock = Arc::new(ManualClock::new());
    let lonely = Lonely::new(clock.clone());
    let timer = Timer::find_set();
    // The poll's own limit is as far away as before.
    clock.advance(RETRY);
    let woken = Instant::now();
    timer.ring();
    lonely.expect_initiation();
    assert!(woken.elapsed() < RETRY - A_LITTLE, "it came with the limit of the poll");
    let again = Timer::find_set();
    assert!(again.rings_in.abs_diff(lonely.next_deadline()) < A_LITTLE, "{again:?}");
}

#[test]
fn a_timer_that_rings_too_early_is_set_again() {
    let _alone = alone();
    let lonely = Lonely::new(Arc::new(SystemClock));
    let timer = Timer::find_set();
    timer.ring();
    let again = Timer::find_set();
    assert!(again.rings_in.abs_diff(lonely.next_deadline()) < A_LITTLE, "{again:?}");
    // Long before the deadline, so nothing is sent.
    lonely.outside.set_nonblocking(true).unwrap();
    assert!(lonely.outside.recv_from(&mut [0; 2000]).is_err());
}

#[test]
fn who_waits_for_nothing_stops_the_timer() {
    let _alone = alone();
    let lonely = Lonely::new(Arc::new(SystemClock));
    let before = Timer::find_set();
    lonely.tunnel.device().apply(Update { replace_peers: true, ..Update::default() }).unwrap();
    // There is no deadline any more, which is seen when something else ends the wait.
    lonely.app.send(&[0]).unwrap();
    let begin = Instant::now();
    Timer::find_when(|timer| timer.rings_in.is_zero());
    assert!(begin.elapsed() < before.rings_in - Duration::from_secs(1), "it has rung");
}

/// What an app calls when the machine has woken.
#[test]
fn over_an_apps_own_transport_a_changed_network_does_what_came_due() {
    let _alone = alone();
    let clock = Arc::new(ManualClock::new());
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let bind = CallbackBind::new(1 << 16, move |datagrams: &mut dyn Iterator<Item = Datagram<'_>>| {
        datagrams.filter(|datagram| socket.send_to(datagram.payload, datagram.endpoint.dst).is_ok()).count()
    });
    let lonely = Lonely::with_bind(clock.clone(), Arc::new(bind));
    // It sleeps until the next try.
    thread::sleep(Duration::from_millis(50));
    clock.advance(RETRY);
    let woken = Instant::now();
    lonely.tunnel.device().network_changed().unwrap();
    lonely.expect_initiation();
    assert!(woken.elapsed() < RETRY - A_LITTLE, "it came with the limit of the poll");
}

#[test]
fn no_descriptor_is_left_behind() {
    let _alone = alone();
    let before = descriptors().len();
    for _ in 0..3 {
        let lonely = Lonely::new(Arc::new(SystemClock));
        assert!(descriptors().len() > before);
        drop(lonely);
    }
    assert_eq!(descriptors().len(), before);
}
