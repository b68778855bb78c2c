//! The two ends of a tunnel that is measured: an interface and a network without a system behind them.

#![allow(unreachable_pub, reason = "a part of a benchmark")]

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use wg_embed::{
    bind::{Bind, Endpoint, RecvBatch, RecvMeta, SendReport, Transmit, Woken},
    key::{PrivateKey, PublicKey},
    noise::{
        cookie::MacStamper,
        handshake::{Handshake, Identity, OpenedInitiation},
        message::{DATA_OVERHEAD, Message},
        session::Session,
    },
    random::SystemRandom,
    sync::{lock, wait, wait_timeout_while, wait_while},
    time::Instant,
    tun::{PacketArena, PacketList, Tun, TunEvent},
};

/// The length of the inner packets: those of a tunnel with the usual MTU.
pub const PACKET: usize = 1420;
const MESSAGE: usize = PACKET.next_multiple_of(16) + DATA_OVERHEAD;
const FLOWS: u16 = 64;

/// Returns a UDP packet of one of many flows.
fn packet(flow: u16) -> Vec<u8> {
    let mut packet = vec![0x5a; PACKET];
    packet[..20].copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet[2..4].copy_from_slice(&(PACKET as u16).to_be_bytes());
    packet[20..22].copy_from_slice(&(1000 + flow).to_be_bytes());
    packet
}

/// An interface that has packets whenever it is told to, and discards those that are written; or one of its queues,
/// each of which has some of the flows.
pub struct Inside {
    queues: Vec<Arc<Inside>>,
    /// The number of this queue, and how many there are.
    number: usize,
    of: usize,
    state: Mutex<Supply>,
    changed: Condvar,
    supplies: Arc<AtomicBool>,
    flow: AtomicUsize,
    taken: AtomicUsize,
}

#[derive(Default)]
struct Supply {
    woken: bool,
    /// Numbers of packets to be taken, in rising order, and when each was reached: the thread that waits may run later.
    targets: Vec<usize>,
    reached: Vec<std::time::Instant>,
}

impl Inside {
    pub fn new(queues: usize) -> Self {
        let supplies = Arc::new(AtomicBool::new(false));
        let further = (1..queues).map(|number| Arc::new(Self::queue(Vec::new(), number, queues, supplies.clone())));
        Self::queue(further.collect(), 0, queues, supplies.clone())
    }

    fn queue(queues: Vec<Arc<Self>>, number: usize, of: usize, supplies: Arc<AtomicBool>) -> Self {
        let (state, changed) = Default::default();
        Self { queues, number, of, state, changed, supplies, flow: AtomicUsize::new(0), taken: AtomicUsize::new(0) }
    }

    /// Begins or stops to have packets.
    pub fn supply(&self, on: bool) {
        self.supplies.store(on, Relaxed);
        self.wake();
    }

    /// Calls `begin`, then waits for packets to be written. Returns the time at which each of these numbers of further
    /// packets was reached.
    pub fn time<const N: usize>(&self, more: [usize; N], begin: impl FnOnce()) -> [std::time::Instant; N] {
        let before = self.taken.load(Relaxed);
        let mut state = lock(&self.state);
        (state.targets, state.reached) = (more.iter().map(|more| before + more).collect(), Vec::new());
        drop(state);
        begin();
        let mut state = lock(&self.state);
        while state.reached.len() < N {
            state = wait(&self.changed, state);
        }
        std::array::from_fn(|i| state.reached[i])
    }
}

impl Tun for Inside {
    fn name(&self) -> String {
        String::new()
    }

    fn mtu(&self) -> u16 {
        PACKET as u16
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        let mut state = lock(&self.state);
        let sleeps = |state: &mut Supply| !state.woken && !self.supplies.load(Relaxed);
        state = match timeout {
            Some(limit) => wait_timeout_while(&self.changed, state, limit, sleeps),
            None => wait_while(&self.changed, state, sleeps),
        };
        state.woken = false;
        Ok(())
    }

    fn wake(&self) {
        lock(&self.state).woken = true;
        self.changed.notify_all();
        self.queues.iter().for_each(|queue| queue.wake());
    }

    fn queues(&self) -> Vec<Arc<dyn Tun>> {
        self.queues.iter().map(|queue| queue.clone() as Arc<dyn Tun>).collect()
    }

    fn event(&self) -> Option<TunEvent> {
        None
    }

    fn read(&self, arena: &mut PacketArena) -> io::Result<usize> {
        thread_local! {
            static PACKETS: Vec<Vec<u8>> = (0..FLOWS).map(packet).collect();
        }
        if !self.supplies.load(Relaxed) {
            return Ok(0);
        }
        PACKETS.with(|packets| {
            let first = self.flow.fetch_add(1, Relaxed);
            let mut n = 0;
            while arena.push(&packets[((first + n) * self.of + self.number) % packets.len()]) {
                n += 1;
            }
            Ok(n)
        })
    }

    fn write(&self, packets: PacketList<'_>) -> usize {
        let taken = self.taken.fetch_add(packets.ranges.len(), Relaxed) + packets.ranges.len();
        let mut state = lock(&self.state);
        while state.targets.get(state.reached.len()).is_some_and(|target| taken >= *target) {
            state.reached.push(std::time::Instant::now());
            self.changed.notify_all();
        }
        packets.ranges.len()
    }
}

/// The peer, and the network to it.
pub struct Outside {
    state: Mutex<State>,
    changed: Condvar,
    sent: AtomicU64,
}

struct State {
    identity: Identity,
    handshake: Handshake,
    macs: MacStamper,
    device: PublicKey,
    session: Option<Arc<Session>>,
    /// The response to the device.
    response: Option<Vec<u8>>,
    woken: bool,
    /// Sealed datagrams, and how many bytes of them were received; none are received until `replays`.
    sealed: Vec<u8>,
    received: usize,
    replays: bool,
}

impl Outside {
    pub fn new(device: PublicKey, own: PrivateKey) -> Self {
        let state = State {
            identity: Identity::new(own),
            handshake: Handshake::new(device),
            macs: MacStamper::default(),
            device,
            session: None,
            response: None,
            woken: false,
            sealed: Vec::new(),
            received: 0,
            replays: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), sent: AtomicU64::new(0) }
    }

    /// Returns the number of data messages that were sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Waits until the device has a session, which it shows by a message.
    pub fn wait_for_session(&self) {
        let mut state = lock(&self.state);
        while self.sent() == 0 {
            state = wait(&self.changed, state);
        }
    }

    /// Seals datagrams for the device.
    pub fn seal(&self, number: usize) {
        let mut state = lock(&self.state);
        let session = state.session.clone().unwrap();
        let packets: Vec<_> = (0..FLOWS).map(packet).collect();
        state.replays = false;
        state.received = 0;
        state.sealed.resize(number * MESSAGE, 0);
        let first = session.take_counters(number).unwrap();
        for (i, message) in state.sealed.chunks_exact_mut(MESSAGE).enumerate() {
            // The device has 10.0.0.1: packets come from the other address.
            let inner = &mut message[16..];
            inner[..PACKET].copy_from_slice(&packets[i % packets.len()]);
            inner[PACKET..].fill(0);
            session.seal(first + i as u64, message);
        }
    }

    /// Lets them arrive.
    pub fn replay(&self) {
        lock(&self.state).replays = true;
        self.changed.notify_all();
    }
}

impl State {
    /// Answers an initiation.
    fn answer(&mut self, initiation: &[u8]) {
        let mut copy = initiation.to_vec();
        let Some(Message::Initiation(message)) = Message::parse(&mut copy) else { return };
        let now = Instant::from_nanos(1);
        let opened = OpenedInitiation::open(message, &self.identity).unwrap();
        if !self.handshake.consume_initiation(opened, message, &self.identity, now) {
            return;
        }
        let mut response = self.handshake.create_response(7, &SystemRandom).unwrap();
        self.macs.stamp(&mut response, &self.device, now);
        self.session = self.handshake.begin_session(now);
        self.response = Some(response.to_vec());
    }
}

impl Bind for Outside {
    fn open(&self, port: u16) -> io::Result<u16> {
        Ok(port.max(1))
    }

    fn close(&self) {}

    fn set_mark(&self, _mark: u32) -> io::Result<()> {
        Ok(())
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<Woken> {
        let sleeps = |s: &mut State| !s.woken && s.response.is_none() && !(s.replays && s.received < s.sealed.len());
        let state = lock(&self.state);
        let mut state = match timeout {
            Some(limit) => wait_timeout_while(&self.changed, state, limit, sleeps),
            None => wait_while(&self.changed, state, sleeps),
        };
        state.woken = false;
        Ok(Woken { own: true, ..Woken::default() })
    }

    fn wake(&self) {
        lock(&self.state).woken = true;
        self.changed.notify_all();
    }

    /// Receives as a socket of Linux does that coalesces datagrams.
    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        let mut state = lock(&self.state);
        let from = Endpoint::new(SocketAddr::from(([192, 0, 2, 1], 1)));
        Ok(batch.fill(|slot| {
            if let Some(response) = state.response.take() {
                slot[..response.len()].copy_from_slice(&response);
                return Some(RecvMeta::new(from, response.len()));
            }
            let whole = slot.len() / MESSAGE * MESSAGE;
            let waiting = if state.replays { state.sealed.len() - state.received } else { 0 };
            let len = whole.min(waiting);
            if len == 0 {
                return None;
            }
            slot[..len].copy_from_slice(&state.sealed[state.received..][..len]);
            state.received += len;
            let mut meta = RecvMeta::new(from, len);
            meta.segment_size = MESSAGE;
            Some(meta)
        }))
    }

    fn send(&self, batch: &[Transmit<'_>]) -> SendReport {
        let mut report = SendReport::default();
        for transmit in batch {
            report.sent += transmit.datagrams();
            if transmit.contents.first() == Some(&1) {
                lock(&self.state).answer(transmit.contents);
                self.changed.notify_all();
            } else if self.sent.fetch_add(transmit.datagrams() as u64, Relaxed) == 0 {
                drop(lock(&self.state));
                self.changed.notify_all();
            }
        }
        report
    }
}
