//! Threads that help with the cipher: packets of a peer keep their order and their counters, also during changes of
//! peers, sessions and the tunnel. Here they help at any load.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

#[path = "common/at_end.rs"]
mod at_end;
mod common;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use at_end::set_at_end;
use common::{PORT, give, ipv4};
use wg_embed::{
    bind::{
        Bind, RecvBatch, SendReport, Transmit, Woken,
        mem::{Action, MemBind, MemNetwork},
    },
    config::{PeerUpdate, Update},
    device::{EndReason, Options, Tunnel},
    key::{PrivateKey, PublicKey},
    random::SystemRandom,
    time::ManualClock,
    tun::mem::{MemHandle, MemTun},
};

/// Only bounds a hang.
const PATIENCE: Duration = Duration::from_secs(300);

/// Enough for the jobs of all workers.
const MEMORY: usize = 64 << 20;

/// Where the sequence number lies in a packet, behind the IPv4 header.
const NUMBER: std::ops::Range<usize> = 20..28;

/// The network of a tunnel, which checks what is sent.
struct Checked {
    bind: Arc<MemBind>,
    /// The last counter for each receiver.
    counters: Mutex<HashMap<u32, u64>>,
    /// The number of transmits to each endpoint.
    sent_to: Mutex<HashMap<SocketAddr, u64>>,
    sends: AtomicU64,
    panics: AtomicBool,
}

impl Checked {
    fn check(&self, datagram: &[u8]) {
        if datagram[0] != 4 {
            return;
        }
        let receiver = u32::from_le_bytes(datagram[4..8].try_into().unwrap());
        let counter = u64::from_le_bytes(datagram[8..16].try_into().unwrap());
        let last = self.counters.lock().unwrap().insert(receiver, counter);
        assert!(last.is_none_or(|last| last < counter), "{counter} after {last:?}");
    }
}

impl Bind for Checked {
    fn send(&self, batch: &[Transmit<'_>]) -> SendReport {
        self.sends.fetch_add(1, SeqCst);
        for transmit in batch {
            *self.sent_to.lock().unwrap().entry(transmit.to.dst).or_default() += 1;
        }
        batch.iter().flat_map(Transmit::segments).for_each(|datagram| self.check(datagram));
        assert!(!self.panics.load(SeqCst), "the app's function panics");
        self.bind.send(batch)
    }

    fn open(&self, port: u16) -> io::Result<u16> {
        self.bind.open(port)
    }

    fn close(&self) {
        self.bind.close();
    }

    fn set_mark(&self, mark: u32) -> io::Result<()> {
        self.bind.set_mark(mark)
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<Woken> {
        self.bind.wait(timeout)
    }

    fn wake(&self) {
        self.bind.wake();
    }

    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        self.bind.recv(batch)
    }
}

struct End {
    clock: Arc<ManualClock>,
    tunnel: Tunnel,
    tun: MemHandle,
    bind: Arc<Checked>,
    inner: IpAddr,
    address: SocketAddr,
    key: PublicKey,
}

impl End {
    /// Adds the other end as a peer.
    fn add(&self, other: &Self) {
        let mut peer = PeerUpdate::new(other.key);
        peer.endpoint = Some(other.address.into());
        peer.allowed_ips = vec![give(&format!("{}/32", other.inner))];
        self.tunnel.apply(Update { peers: vec![peer], ..Update::default() }).unwrap();
    }

    fn remove(&self, other: &Self) {
        let mut peer = PeerUpdate::new(other.key);
        peer.remove = true;
        self.tunnel.apply(Update { peers: vec![peer], ..Update::default() }).unwrap();
    }

    /// Returns the number of transmits to another end.
    fn sent_to(&self, other: &Self) -> u64 {
        self.bind.sent_to.lock().unwrap().get(&other.address).copied().unwrap_or(0)
    }

    fn count(&self, name: &str) -> u64 {
        self.tunnel.device().counters().iter().find(|counter| counter.0 == name).unwrap().1
    }
}

/// Tunnels with this number of workers each, the first of which has all others as peers.
fn star(net: &MemNetwork, ends: u8, workers: usize) -> Vec<End> {
    let clock = Arc::new(ManualClock::new());
    let start = |n: u8| {
        let (tun, handle) = MemTun::new("wg0", 1420);
        let address = IpAddr::from([192, 0, 2, n]);
        let bind = Arc::new(Checked {
            bind: net.bind(address),
            counters: Mutex::default(),
            sent_to: Mutex::default(),
            sends: AtomicU64::new(0),
            panics: AtomicBool::new(false),
        });
        let options = Options { workers: Some(workers), memory: MEMORY, clock: clock.clone(), ..Options::default() };
        let tunnel = Tunnel::start(Arc::new(tun), bind.clone(), options).unwrap();
        tunnel.always_use_workers();
        let key = PrivateKey::generate_with(&SystemRandom);
        let update = Update { private_key: Some(Some(key.clone())), listen_port: Some(PORT), ..Update::default() };
        tunnel.apply(update).unwrap();
        tunnel.up().unwrap();
        let (inner, address) = (IpAddr::from([10, 0, 0, n]), SocketAddr::new(address, PORT));
        End { clock: clock.clone(), tunnel, tun: handle, bind, inner, address, key: key.public_key() }
    };
    let ends: Vec<_> = (1..=ends).map(start).collect();
    for other in &ends[1..] {
        ends[0].add(other);
        other.add(&ends[0]);
    }
    ends
}

/// Numbered packets from the first end to all others and back, as fast as it goes, while `meanwhile` runs. Those that
/// arrive must do so in order. Returns how many have arrived at each end.
fn flood(ends: &[End], meanwhile: impl FnOnce(&[AtomicU64])) -> Vec<u64> {
    let done = AtomicBool::new(false);
    let arrived: Vec<_> = ends.iter().map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        for (index, end) in ends.iter().enumerate() {
            let (done, arrived) = (&done, &arrived[index]);
            let to: Vec<_> = if index == 0 { ends[1..].iter().collect() } else { vec![&ends[0]] };
            scope.spawn(move || {
                let mut packets: Vec<_> = to.iter().map(|to| ipv4(end.inner, to.inner, 1300)).collect();
                for number in 1_u64.. {
                    for packet in &mut packets {
                        packet[NUMBER].copy_from_slice(&number.to_be_bytes());
                        if !end.tun.inject(packet) {
                            thread::yield_now();
                        }
                    }
                    if done.load(SeqCst) {
                        break;
                    }
                }
            });
            scope.spawn(move || {
                let mut last: HashMap<[u8; 4], u64> = HashMap::new();
                while !done.load(SeqCst) {
                    for packet in end.tun.wait_written(Duration::from_millis(20)) {
                        if packet.len() != 1300 {
                            continue; // It says that there is no peer.
                        }
                        let from = packet[12..16].try_into().unwrap();
                        let number = u64::from_be_bytes(packet[NUMBER].try_into().unwrap());
                        let before = last.insert(from, number).unwrap_or(0);
                        assert!(number > before, "{number} after {before} from {from:?}");
                        arrived.fetch_add(1, SeqCst);
                    }
                }
            });
        }
        let _ended = set_at_end(&done);
        meanwhile(&arrived);
    });
    arrived.iter().map(|number| number.load(SeqCst)).collect()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until `number` more packets have arrived at each of these ends. If none arrive at one of them, a handshake may
/// have been lost, or be too early: the clock is turned on. Others may go on receiving in the meantime.
fn until_each_has(ends: &[End], arrived: &[AtomicU64], number: u64) {
    let counts = || arrived.iter().map(|arrived| arrived.load(SeqCst)).collect::<Vec<_>>();
    let mut before = counts();
    let goal: Vec<_> = before.iter().map(|arrived| arrived + number).collect();
    let mut quiet = 0;
    wait_until("packets arrive", || {
        let now = counts();
        let waits = |index: usize| now[index] < goal[index] && now[index] == before[index];
        quiet = if (0..now.len()).any(waits) { quiet + 1 } else { 0 };
        before = now;
        if quiet > 10 {
            quiet = 0;
            ends[0].clock.advance(Duration::from_secs(1));
            ends.iter().for_each(|end| end.bind.wake());
        }
        before.iter().zip(&goal).all(|(arrived, goal)| arrived >= goal)
    });
}

#[test]
fn each_peer_keeps_its_order() {
    for workers in [1, 3] {
        let ends = star(&MemNetwork::new(), 3, workers);
        flood(&ends, |arrived| until_each_has(&ends, arrived, 1000));
        for end in &ends {
            assert_eq!(end.count("in_replayed"), 0);
            assert!(end.tunnel.workers_worked() > Duration::ZERO);
        }
    }
}

/// New sessions bring keepalives and staged packets into the midst of others.
#[test]
fn staged_packets_and_keepalives_keep_the_order() {
    for workers in [1, 3] {
        let ends = star(&MemNetwork::new(), 2, workers);
        flood(&ends, |arrived| {
            for _ in 0..8 {
                until_each_has(&ends, arrived, 100);
                // The sessions end while packets are on their way; the next ones are staged.
                ends[0].tunnel.device().drop_session(None).unwrap();
                until_each_has(&ends, arrived, 100);
                // A new session while packets are on their way with the old one.
                ends[0].clock.advance(Duration::from_secs(6));
                ends[0].tunnel.device().force_handshake(None).unwrap();
                let mut peer = PeerUpdate::new(ends[1].key);
                peer.persistent_keepalive = Some(25);
                ends[0].tunnel.apply(Update { peers: vec![peer], ..Update::default() }).unwrap();
            }
        });
    }
}

#[test]
fn replays_are_not_delivered() {
    for workers in [1, 3] {
        let net = MemNetwork::new();
        let ends = star(&net, 2, workers);
        let mut number = 0_u32;
        net.set_filter(move |datagram| {
            number += u32::from(datagram.payload[0] == 4);
            if datagram.payload[0] == 4 && number.is_multiple_of(3) { Action::Duplicate } else { Action::Deliver }
        });
        flood(&ends, |arrived| until_each_has(&ends, arrived, 1000));
        ends.iter().for_each(|end| assert!(end.count("in_replayed") > 0));
    }
}

/// Its packets that wait to be sent are dropped, and with the last of them go its keys.
#[test]
fn a_peer_is_removed_under_load() {
    for workers in [1, 3] {
        let ends = star(&MemNetwork::new(), 3, workers);
        flood(&ends, |arrived| {
            for _ in 0..5 {
                until_each_has(&ends, arrived, 100);
                let session = ends[0].tunnel.device().current_session(&ends[1].key).map(|s| Arc::downgrade(&s));
                ends[0].remove(&ends[1]);
                let is_gone = || session.as_ref().is_none_or(|session| session.strong_count() == 0);
                wait_until("the keys of a removed peer remain", is_gone);
                let before = ends[0].sent_to(&ends[1]);
                until_each_has(&ends, &arrived[2..], 100);
                assert_eq!(ends[0].sent_to(&ends[1]), before, "sent to a removed peer");
                // The other end takes a new handshake at once only if it has forgotten the last.
                ends[1].remove(&ends[0]);
                ends[1].add(&ends[0]);
                ends[0].add(&ends[1]);
            }
        });
    }
}

#[test]
fn nothing_is_sent_during_a_pause() {
    for workers in [1, 3] {
        let ends = star(&MemNetwork::new(), 2, workers);
        flood(&ends, |arrived| {
            for _ in 0..5 {
                until_each_has(&ends, arrived, 100);
                ends[0].tunnel.pause();
                let before = ends[0].bind.sends.load(SeqCst);
                thread::sleep(Duration::from_millis(5));
                assert_eq!(ends[0].bind.sends.load(SeqCst), before, "sent during a pause");
                ends[0].tunnel.resume().unwrap();
            }
        });
    }
}

#[test]
fn a_tunnel_is_stopped_under_load() {
    for workers in [1, 3] {
        for round in 0..5 {
            let ends = star(&MemNetwork::new(), 2, workers);
            flood(&ends, |arrived| {
                until_each_has(&ends, arrived, 50 + round);
                ends[0].tunnel.stop().unwrap();
            });
            assert_eq!(ends[0].tunnel.wait(), EndReason::Stopped);
        }
    }
}

/// Whichever thread it happens on.
#[test]
fn a_panic_of_the_app_ends_the_tunnel() {
    for workers in [1, 3] {
        let ends = star(&MemNetwork::new(), 2, workers);
        flood(&ends, |arrived| {
            until_each_has(&ends, arrived, 100);
            ends[0].bind.panics.store(true, SeqCst);
            assert_eq!(ends[0].tunnel.wait(), EndReason::Panicked);
            ends[0].tunnel.stop().unwrap();
        });
    }
}

/// Memory for their jobs is taken from that of the tunnel, and given back.
#[test]
fn memory_of_the_jobs_is_released() {
    let ends = star(&MemNetwork::new(), 2, 1);
    let before = ends[0].tunnel.memory_usage().buffers;
    flood(&ends, |arrived| until_each_has(&ends, arrived, 100));
    let during = ends[0].tunnel.memory_usage();
    assert!(during.buffers > before && during.buffers <= during.limit, "{before}, then {during:?}");
    wait_until("the memory is released", || {
        ends[0].tunnel.trim();
        ends[0].tunnel.memory_usage().buffers < before
    });
}
