//! Tunnels over a network in memory that carry as much as they can, and what they send and deliver is checked.
#![allow(dead_code, unreachable_pub, reason = "each test crate uses a part of it")]

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

use wg_embed::{
    bind::{
        Bind, RecvBatch, SendReport, Transmit, Woken,
        mem::{MemBind, MemNetwork},
    },
    config::{PeerUpdate, Update},
    device::{Options, Tunnel},
    key::{PrivateKey, PublicKey},
    random::SystemRandom,
    time::ManualClock,
    tun::mem::{MemHandle, MemTun},
};

use crate::{
    at_end::set_at_end,
    common::{PORT, give, ipv4},
    several::Several,
};

/// Only bounds a hang.
const PATIENCE: Duration = Duration::from_secs(300);

/// Enough for the jobs of all workers.
const MEMORY: usize = 64 << 20;

/// Where the sequence number lies in a packet, behind the IPv4 header.
const NUMBER: std::ops::Range<usize> = 20..28;

/// The number of the queue that a packet came from lies behind it.
const QUEUE: usize = 28;

/// The network of a tunnel, which checks what is sent.
pub struct Checked {
    bind: Arc<MemBind>,
    /// The last counter for each receiver.
    counters: Mutex<HashMap<u32, u64>>,
    /// The number of transmits to each endpoint.
    sent_to: Mutex<HashMap<SocketAddr, u64>>,
    pub sends: AtomicU64,
    pub panics: AtomicBool,
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

pub struct End {
    pub clock: Arc<ManualClock>,
    pub tunnel: Tunnel,
    /// Its queues. What is written comes from the first.
    pub tun: Vec<MemHandle>,
    pub bind: Arc<Checked>,
    inner: IpAddr,
    address: SocketAddr,
    pub key: PublicKey,
}

/// The threads of a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Threads {
    pub queues: usize,
    pub workers: usize,
}

impl End {
    /// Adds the other end as a peer.
    pub fn add(&self, other: &Self) {
        let mut peer = PeerUpdate::new(other.key);
        peer.endpoint = Some(other.address.into());
        peer.allowed_ips = vec![give(&format!("{}/32", other.inner))];
        self.tunnel.apply(Update { peers: vec![peer], ..Update::default() }).unwrap();
    }

    pub fn remove(&self, other: &Self) {
        let mut peer = PeerUpdate::new(other.key);
        peer.remove = true;
        self.tunnel.apply(Update { peers: vec![peer], ..Update::default() }).unwrap();
    }

    /// Returns the number of transmits to another end.
    pub fn sent_to(&self, other: &Self) -> u64 {
        self.bind.sent_to.lock().unwrap().get(&other.address).copied().unwrap_or(0)
    }

    pub fn count(&self, name: &str) -> u64 {
        self.tunnel.device().counters().iter().find(|counter| counter.0 == name).unwrap().1
    }
}

/// Tunnels with these threads each, the first of which has all others as peers.
pub fn star(net: &MemNetwork, ends: u8, threads: Threads) -> Vec<End> {
    let clock = Arc::new(ManualClock::new());
    let start = |n: u8| {
        let (tuns, handles): (Vec<_>, Vec<_>) = (0..threads.queues).map(|_| MemTun::new("wg0", 1420)).unzip();
        let address = IpAddr::from([192, 0, 2, n]);
        let bind = Arc::new(Checked {
            bind: net.bind(address),
            counters: Mutex::default(),
            sent_to: Mutex::default(),
            sends: AtomicU64::new(0),
            panics: AtomicBool::new(false),
        });
        let options =
            Options { workers: Some(threads.workers), memory: MEMORY, clock: clock.clone(), ..Options::default() };
        let tunnel = Tunnel::start(Arc::new(Several::new(tuns)), bind.clone(), options).unwrap();
        tunnel.always_use_workers();
        let key = PrivateKey::generate_with(&SystemRandom);
        let update = Update { private_key: Some(Some(key.clone())), listen_port: Some(PORT), ..Update::default() };
        tunnel.apply(update).unwrap();
        tunnel.up().unwrap();
        let (inner, address) = (IpAddr::from([10, 0, 0, n]), SocketAddr::new(address, PORT));
        End { clock: clock.clone(), tunnel, tun: handles, bind, inner, address, key: key.public_key() }
    };
    let ends: Vec<_> = (1..=ends).map(start).collect();
    for other in &ends[1..] {
        ends[0].add(other);
        other.add(&ends[0]);
    }
    ends
}

/// Numbered packets from each queue of the first end to all others and back, as fast as it goes, while `meanwhile`
/// runs, which is given how many have arrived at each end, and of how many queues of other ends. Those of a queue and
/// an end that arrive must do so in order.
pub fn flood(ends: &[End], meanwhile: impl FnOnce(&[AtomicU64], &[AtomicU64])) {
    /// Packets of an earlier flood may still arrive, before those of this one.
    static FIRST: AtomicU64 = AtomicU64::new(1);
    let (done, first) = (AtomicBool::new(false), FIRST.fetch_add(1 << 32, SeqCst));
    let zeros = || ends.iter().map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
    let (arrived, flows) = (zeros(), zeros());
    thread::scope(|scope| {
        for (index, end) in ends.iter().enumerate() {
            let (done, arrived, flows) = (&done, &arrived[index], &flows[index]);
            let to: Vec<_> = if index == 0 { ends[1..].iter().collect() } else { vec![&ends[0]] };
            for (queue, tun) in end.tun.iter().enumerate() {
                let to = to.clone();
                scope.spawn(move || {
                    let mut packets: Vec<_> = to.iter().map(|to| ipv4(end.inner, to.inner, 1300)).collect();
                    packets.iter_mut().for_each(|packet| packet[QUEUE] = queue as u8);
                    for number in first.. {
                        for packet in &mut packets {
                            packet[NUMBER].copy_from_slice(&number.to_be_bytes());
                            if !tun.inject(packet) {
                                thread::yield_now();
                            }
                        }
                        if done.load(SeqCst) {
                            break;
                        }
                    }
                });
            }
            scope.spawn(move || {
                let mut last: HashMap<([u8; 4], u8), u64> = HashMap::new();
                while !done.load(SeqCst) {
                    for packet in end.tun[0].wait_written(Duration::from_millis(20)) {
                        if packet.len() != 1300 {
                            continue; // It says that there is no peer.
                        }
                        let from = (packet[12..16].try_into().unwrap(), packet[QUEUE]);
                        let number = u64::from_be_bytes(packet[NUMBER].try_into().unwrap());
                        let before = last.insert(from, number).unwrap_or(0);
                        assert!(number > before, "{number} after {before} from {from:?}");
                        if before == 0 {
                            flows.fetch_add(1, SeqCst);
                        }
                        arrived.fetch_add(1, SeqCst);
                    }
                }
            });
        }
        let _ended = set_at_end(&done);
        meanwhile(&arrived, &flows);
    });
}

/// Removes the peer that is the second end from the first, during a flood. Its keys are then wiped, and nothing is sent
/// to it, while the third end goes on receiving. Then they are peers again.
pub fn remove_and_add_again(ends: &[End], arrived: &[AtomicU64]) {
    let session = ends[0].tunnel.device().current_session(&ends[1].key).map(|s| Arc::downgrade(&s));
    ends[0].remove(&ends[1]);
    let is_gone = || session.as_ref().is_none_or(|session| session.strong_count() == 0);
    wait_until("the keys of a removed peer remain", is_gone);
    let before = ends[0].sent_to(&ends[1]);
    until_each_has(ends, &arrived[2..], 100);
    assert_eq!(ends[0].sent_to(&ends[1]), before, "sent to a removed peer");
    // The other end takes a new handshake at once only if it has forgotten the last.
    ends[1].remove(&ends[0]);
    ends[1].add(&ends[0]);
    ends[0].add(&ends[1]);
}

pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until `number` more packets have arrived at each of these ends. If none arrive at one of them, a handshake may
/// have been lost, or be too early: the clock is turned on. Others may go on receiving in the meantime.
pub fn until_each_has(ends: &[End], arrived: &[AtomicU64], number: u64) {
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
