//! Whatever several threads want of a tunnel at the same time: in the end it is as the last calls have it, and works.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

#[path = "common/at_end.rs"]
mod at_end;
mod common;

use std::{
    net::{IpAddr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use at_end::set_at_end;
use common::{PORT, World, give, ipv4, kind};
use wg_embed::{
    bind::{
        Bind,
        mem::{Action, MemBind, MemNetwork},
    },
    config::{PeerUpdate, Update},
    device::{Event, Options, Tunnel},
    key::PrivateKey,
    random::SystemRandom,
    time::ManualClock,
    tun::mem::{MemHandle, MemTun},
};

/// Only bounds a hang.
const PATIENCE: Duration = Duration::from_secs(300);

struct End {
    tunnel: Tunnel,
    tun: MemHandle,
    bind: Arc<MemBind>,
    clock: Arc<ManualClock>,
    inner: IpAddr,
    events: Arc<Mutex<Vec<Event>>>,
}

fn end(net: &MemNetwork, n: u8, clock: &Arc<ManualClock>, keys: &[PrivateKey; 2]) -> End {
    let (tun, handle) = MemTun::new("wg0", 1420);
    let address = |n: u8| IpAddr::from([192, 0, 2, n]);
    let inner = |n: u8| IpAddr::from([10, 0, 0, n]);
    let bind = net.bind(address(n));
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = events.clone();
    let options = Options {
        clock: clock.clone(),
        events: Box::new(move |event| sink.lock().unwrap().push(event)),
        ..Options::default()
    };
    let tunnel = Tunnel::start(Arc::new(tun), bind.clone(), options).unwrap();
    let (own, other) = (&keys[usize::from(n) - 1], &keys[2 - usize::from(n)]);
    let mut peer = PeerUpdate::new(other.public_key());
    // The first may be at any port, and is learned.
    peer.endpoint = (n == 1).then(|| SocketAddr::new(address(2), PORT).into());
    peer.allowed_ips = vec![give(&format!("{}/32", inner(3 - n)))];
    let private_key = Some(Some(own.clone()));
    let update = Update { private_key, listen_port: Some(PORT), peers: vec![peer], ..Update::default() };
    tunnel.device().apply(update).unwrap();
    tunnel.device().up().unwrap();
    End { tunnel, tun: handle, bind, clock: clock.clone(), inner: inner(n), events }
}

impl End {
    fn port(&self) -> u16 {
        self.tunnel.device().snapshot().interface.listen_port
    }

    fn set_port(&self, port: u16) {
        // A port that is taken is refused; the other calls do not mind.
        let _ = self.tunnel.device().apply(Update { listen_port: Some(port), ..Update::default() });
    }

    /// One of the things that may be asked of a tunnel at any time.
    fn do_something(&self, what: u32) {
        let device = self.tunnel.device();
        match what % 11 {
            0 => self.tunnel.pause(),
            1 => drop(self.tunnel.resume()),
            2 => drop(device.rebind()),
            3 => device.rebind_soon(),
            4 => drop(device.network_changed()),
            5 => self.set_port(7000 + (what / 11 % 4) as u16),
            6 => self.set_port(0),
            7 => self.tun.set_up((what / 11).is_multiple_of(2)),
            8 => drop(device.keep_up()),
            9 => device.down(),
            _ => self.bind.set_open_error((what / 11).is_multiple_of(2).then_some(std::io::ErrorKind::AddrInUse)),
        }
    }

    /// A packet reaches the other end. The clock is turned on, as no handshake may begin within 5 s of the last.
    fn reaches(&self, other: &Self, round: u32) {
        let mut packet = ipv4(self.inner, other.inner, 100);
        packet[20..24].copy_from_slice(&round.to_be_bytes());
        let begin = Instant::now();
        loop {
            // Refused while the interface is just coming up.
            self.tun.inject(&packet);
            if other.tun.wait_written(Duration::from_millis(20)).contains(&packet) {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "round {round}: nothing arrives");
            self.clock.advance(Duration::from_secs(1));
            [self, other].iter().for_each(|end| end.bind.wake());
        }
    }

    fn wait_until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !is_so(self) {
            assert!(begin.elapsed() < PATIENCE, "{what}: {:?}", self.bind.port());
            thread::yield_now();
        }
    }
}

/// Numbers that look random and are the same in each run (xorshift).
struct Numbers(u32);

impl Iterator for Numbers {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        Some(self.0 >> 4)
    }
}

#[test]
fn the_last_calls_count_whatever_happened_at_the_same_time() {
    const ROUNDS: u32 = 150;
    const THREADS: u32 = 4;
    let keys = [(); 2].map(|()| PrivateKey::generate_with(&SystemRandom));
    let (net, clock) = (MemNetwork::new(), Arc::new(ManualClock::new()));
    let (a, b) = (end(&net, 1, &clock, &keys), end(&net, 2, &clock, &keys));
    let (begin, over, stop) =
        (Barrier::new(THREADS as usize + 1), Barrier::new(THREADS as usize + 1), AtomicBool::new(false));
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (a, begin, over, stop) = (&a, &begin, &over, &stop);
            scope.spawn(move || {
                let (mut numbers, mut failed) = (Numbers(thread + 1), None);
                loop {
                    begin.wait();
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    // A thread that fails must not leave the others to wait for it.
                    let round = || numbers.by_ref().take(6).for_each(|what| a.do_something(what));
                    failed = catch_unwind(AssertUnwindSafe(round)).err().or(failed);
                    over.wait();
                }
                if let Some(panic) = failed {
                    resume_unwind(panic);
                }
            });
        }
        let rounds = catch_unwind(AssertUnwindSafe(|| {
            for round in 0..ROUNDS {
                begin.wait();
                over.wait();
                check(&a, &b, round);
            }
        }));
        stop.store(true, Ordering::Relaxed);
        begin.wait();
        rounds.unwrap_or_else(|panic| resume_unwind(panic));
    });
    // Of the same kind, and so in turns, whatever the threads that told them.
    let events = a.events.lock().unwrap();
    let mut lost = false;
    for event in events.iter() {
        match event {
            Event::SocketsLost(_) => assert!(!std::mem::replace(&mut lost, true), "{events:?}"),
            Event::SocketsRecovered(_) => lost = false,
            _ => {}
        }
    }
    assert!(!lost, "the sockets are open in the end: {events:?}");
}

/// Calls that come after all others, and what must be so then.
fn check(a: &End, b: &End, round: u32) {
    let device = a.tunnel.device();
    a.bind.set_open_error(None);
    a.tun.set_up(true);
    let port = 9000 + (round % 2) as u16;
    match round % 4 {
        // It was paused last, and is so until it is resumed.
        0 => {
            a.tunnel.pause();
            a.wait_until("paused", |a| a.bind.port().is_none());
            device.keep_up().unwrap();
            a.set_port(port);
            device.rebind().unwrap();
            assert_eq!((a.bind.port(), a.port()), (None, port));
            a.tunnel.resume().unwrap();
        }
        // The other way round.
        1 => {
            a.tunnel.resume().unwrap();
            a.set_port(port);
            device.keep_up().unwrap();
        }
        2 => {
            a.set_port(port);
            device.keep_up().unwrap();
            a.tunnel.pause();
            a.tunnel.resume().unwrap();
        }
        _ => {
            device.down();
            a.tunnel.resume().unwrap();
            device.keep_up().unwrap();
            a.set_port(port);
        }
    }
    // An event of the TUN from before may still be followed, the last of which says that it is up.
    a.wait_until("up", |a| a.bind.port() == Some(port));
    a.reaches(b, round);
    b.reaches(a, round);
    assert_eq!((a.bind.port(), a.port()), (Some(port), port));
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        thread::yield_now();
    }
}

/// A session is dropped while another thread receives a flood: when the round that it is in has ended, nothing of the
/// session comes through any more, and nothing is left of it.
#[test]
fn nothing_of_a_session_that_is_dropped_in_a_flood_is_accepted() {
    let world = World::new();
    let (a, b) = world.pair();
    for _ in 0..20 {
        world.clock.advance(Duration::from_secs(1));
        a.send_to(&b, 100);
        world.settle(&[&a, &b]);
        let (done, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            let _ended = set_at_end(&done);
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    b.send_to(&a, 100);
                    b.step();
                }
            });
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    a.receive();
                    rounds.fetch_add(1, Ordering::Release);
                }
            });
            wait_until("packets come in", || !a.received().is_empty());
            a.device.drop_session(Some(&b.public())).unwrap();
            let round = rounds.load(Ordering::Acquire);
            wait_until("the round ends", || rounds.load(Ordering::Acquire) > round);
            a.received();
            let unknown = a.stat("in_unknown_index");
            wait_until("others come", || a.stat("in_unknown_index") > unknown);
        });
        assert_eq!(a.received(), Vec::<Vec<u8>>::new());
        assert_eq!((a.device.indices(), a.device.next_deadline()), (0, None));
        let begun = world.sent().iter().filter(|d| d.from.ip() == a.address && kind(&d.payload) == 1).count();
        assert_eq!(begun, 1, "the handshake at the beginning");
    }
}

/// One thread begins handshakes, another forgets them: in the end there is one, which is retried, or nothing.
#[test]
fn a_handshake_that_is_forgotten_as_it_begins_is_not_retried() {
    let world = World::new();
    let (a, b) = world.pair();
    world.net.set_filter(|_| Action::Drop);
    for _ in 0..300 {
        let both = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                both.wait();
                a.device.force_handshake(None).unwrap();
            });
            both.wait();
            a.device.drop_session(Some(&b.public())).unwrap();
        });
        let left = (a.device.indices(), a.device.next_deadline().is_some());
        assert!(matches!(left, (0, false) | (1, true)), "{left:?}");
        a.device.drop_session(None).unwrap();
    }
}
