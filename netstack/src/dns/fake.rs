//! A network for tests, whose time and packets are turned by hand.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use wg_embed::{
    random::Random,
    sync::lock,
    time::{Clock as _, Instant, ManualClock},
};

use super::{
    network::{Datagrams, Network, Stream},
    resolver::Resolver,
};
use crate::{notify::Notify, task::Waker};

#[derive(Clone)]
pub(crate) struct Fake(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    clock: ManualClock,
    random: Numbers,
    alarms: Mutex<BTreeMap<(Instant, u64), Waker>>,
    next: AtomicU64,
    pub(crate) servers: Mutex<Vec<IpAddr>>,
    pub(crate) ipv4: AtomicBool,
    pub(crate) ipv6: AtomicBool,
    resolver: Resolver<Fake>,
    /// All UDP sockets there were.
    pub(crate) udp: Mutex<Vec<Weak<UdpEnd>>>,
    /// All TCP connections there were.
    pub(crate) tcp: Mutex<Vec<Arc<TcpEnd>>>,
    /// Addresses that nothing can be sent to.
    pub(crate) unreachable: Mutex<Vec<(IpAddr, io::ErrorKind)>>,
    /// Whether new UDP sockets find the stack's queue full.
    pub(crate) full: AtomicBool,
}

/// Reproducible random numbers: splitmix64.
#[derive(Default)]
struct Numbers(AtomicU64);

impl Random for Numbers {
    fn fill(&self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
    }
}

impl Fake {
    /// Both families; the servers are `192.0.2.53` and `2001:db8::53`.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            clock: ManualClock::new(),
            random: Numbers(AtomicU64::new(1)),
            alarms: Mutex::default(),
            next: AtomicU64::new(0),
            servers: Mutex::new(vec!["192.0.2.53".parse().unwrap(), "2001:db8::53".parse().unwrap()]),
            ipv4: AtomicBool::new(true),
            ipv6: AtomicBool::new(true),
            resolver: Resolver::new(),
            udp: Mutex::default(),
            tcp: Mutex::default(),
            unreachable: Mutex::default(),
            full: AtomicBool::new(false),
        }))
    }

    /// Time passes; what is due in it happens at its time.
    pub(crate) fn advance(&self, by: Duration) {
        let end = self.now() + by;
        loop {
            let due = {
                let mut alarms = lock(&self.0.alarms);
                match alarms.first_key_value() {
                    Some((&key, _)) if key.0 <= end => alarms.remove(&key).map(|waker| (key.0, waker)),
                    _ => None,
                }
            };
            let Some((at, waker)) = due else { break };
            self.0.clock.advance_to(at);
            waker.notify();
        }
        self.0.clock.advance_to(end);
    }

    /// How many alarms are set.
    pub(crate) fn alarms(&self) -> usize {
        lock(&self.0.alarms).len()
    }

    /// The UDP sockets that are open.
    pub(crate) fn open_udp(&self) -> Vec<Arc<UdpEnd>> {
        lock(&self.0.udp).iter().filter_map(Weak::upgrade).collect()
    }

    /// The UDP socket that was opened last.
    pub(crate) fn last_udp(&self) -> Arc<UdpEnd> {
        lock(&self.0.udp).last().and_then(Weak::upgrade).expect("it is open")
    }

    /// The TCP connection with that number.
    pub(crate) fn tcp(&self, n: usize) -> Arc<TcpEnd> {
        Arc::clone(&lock(&self.0.tcp)[n])
    }

    /// Where the TCP connections there were went.
    pub(crate) fn dialled(&self) -> Vec<SocketAddr> {
        lock(&self.0.tcp).iter().map(|end| end.to).collect()
    }

    fn reachable(&self, to: SocketAddr) -> io::Result<()> {
        match lock(&self.0.unreachable).iter().find(|(ip, _)| *ip == to.ip()) {
            Some((_, kind)) => Err((*kind).into()),
            None => Ok(()),
        }
    }
}

impl Network for Fake {
    type Udp = FakeUdp;
    type Tcp = FakeTcp;
    type Alarm = FakeAlarm;

    fn now(&self) -> Instant {
        self.0.clock.now()
    }
    fn random(&self) -> &dyn Random {
        &self.0.random
    }
    fn alarm(&self, at: Instant, waker: &Waker) -> FakeAlarm {
        let key = (at, self.0.next.fetch_add(1, Ordering::Relaxed));
        lock(&self.0.alarms).insert(key, waker.clone());
        FakeAlarm(self.clone(), key)
    }
    fn resolver(&self) -> &Resolver<Self> {
        &self.0.resolver
    }
    fn servers(&self) -> Vec<IpAddr> {
        lock(&self.0.servers).clone()
    }
    fn has_family(&self, ipv6: bool) -> bool {
        if ipv6 { &self.0.ipv6 } else { &self.0.ipv4 }.load(Ordering::Relaxed)
    }
    fn udp(&self, to: SocketAddr) -> io::Result<FakeUdp> {
        self.reachable(to)?;
        let state = UdpState { full: self.0.full.load(Ordering::Relaxed), ..UdpState::default() };
        let end = Arc::new(UdpEnd { to, state: Mutex::new(state), notify: Mutex::default() });
        lock(&self.0.udp).push(Arc::downgrade(&end));
        Ok(FakeUdp(end))
    }
    fn tcp(&self, to: SocketAddr) -> io::Result<FakeTcp> {
        self.reachable(to)?;
        let end = Arc::new(TcpEnd { to, state: Mutex::default(), notify: Mutex::default() });
        lock(&self.0.tcp).push(Arc::clone(&end));
        Ok(FakeTcp(end))
    }
}

pub(crate) struct FakeAlarm(Fake, (Instant, u64));

impl Drop for FakeAlarm {
    fn drop(&mut self) {
        lock(&self.0.0.alarms).remove(&self.1);
    }
}

type Notifier = Mutex<Option<Arc<dyn Notify>>>;

fn tell(notify: &Notifier) {
    let notify = lock(notify).clone();
    if let Some(notify) = notify {
        notify.notify();
    }
}

fn would_block<T>() -> io::Result<T> {
    Err(io::ErrorKind::WouldBlock.into())
}

pub(crate) struct FakeUdp(Arc<UdpEnd>);

/// The other side of a UDP socket.
pub(crate) struct UdpEnd {
    pub(crate) to: SocketAddr,
    state: Mutex<UdpState>,
    notify: Notifier,
}

#[derive(Default)]
struct UdpState {
    sent: Vec<Vec<u8>>,
    received: VecDeque<Vec<u8>>,
    error: Option<io::ErrorKind>,
    full: bool,
}

impl UdpEnd {
    /// What was sent, which is one message.
    pub(crate) fn message(&self) -> Vec<u8> {
        let state = lock(&self.state);
        assert_eq!(state.sent.len(), 1);
        state.sent[0].clone()
    }
    /// How many messages were sent.
    pub(crate) fn sent(&self) -> usize {
        lock(&self.state).sent.len()
    }
    pub(crate) fn deliver(&self, data: Vec<u8>) {
        lock(&self.state).received.push_back(data);
        tell(&self.notify);
    }
    pub(crate) fn fail(&self, error: io::ErrorKind) {
        lock(&self.state).error = Some(error);
        tell(&self.notify);
    }
    /// The stack's queue has room.
    pub(crate) fn has_room(&self) {
        lock(&self.state).full = false;
        tell(&self.notify);
    }
}

impl Datagrams for FakeUdp {
    fn try_send(&self, data: &[u8]) -> io::Result<()> {
        let mut state = lock(&self.0.state);
        if state.full {
            return would_block();
        }
        state.sent.push(data.to_vec());
        Ok(())
    }
    fn try_recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = lock(&self.0.state);
        if let Some(error) = state.error.take() {
            return Err(error.into());
        }
        let Some(data) = state.received.pop_front() else { return would_block() };
        let len = data.len().min(buf.len());
        buf[..len].copy_from_slice(&data[..len]);
        Ok(data.len())
    }
    fn set_notify(&self, notify: Option<Arc<dyn Notify>>) {
        *lock(&self.0.notify) = notify;
        tell(&self.0.notify);
    }
}

pub(crate) struct FakeTcp(Arc<TcpEnd>);

/// The other side of a TCP connection.
pub(crate) struct TcpEnd {
    pub(crate) to: SocketAddr,
    state: Mutex<TcpState>,
    notify: Notifier,
}

#[derive(Default)]
struct TcpState {
    established: bool,
    error: Option<io::ErrorKind>,
    written: Vec<u8>,
    received: VecDeque<u8>,
    ended: bool,
    reset: bool,
    dropped: bool,
}

impl TcpEnd {
    pub(crate) fn establish(&self) {
        lock(&self.state).established = true;
        tell(&self.notify);
    }
    pub(crate) fn fail(&self, error: io::ErrorKind) {
        lock(&self.state).error = Some(error);
        tell(&self.notify);
    }
    pub(crate) fn deliver(&self, data: &[u8]) {
        lock(&self.state).received.extend(data);
        tell(&self.notify);
    }
    pub(crate) fn end(&self) {
        lock(&self.state).ended = true;
        tell(&self.notify);
    }
    pub(crate) fn written(&self) -> Vec<u8> {
        lock(&self.state).written.clone()
    }
    pub(crate) fn was_reset(&self) -> bool {
        lock(&self.state).reset
    }
    /// Whether this side still has it.
    pub(crate) fn is_held(&self) -> bool {
        !lock(&self.state).dropped
    }
}

impl FakeTcp {
    pub(crate) fn to(&self) -> SocketAddr {
        self.0.to
    }
}

impl Drop for FakeTcp {
    fn drop(&mut self) {
        lock(&self.0.state).dropped = true;
    }
}

impl Stream for FakeTcp {
    fn connected(&self) -> io::Result<()> {
        let state = lock(&self.0.state);
        match state.error {
            Some(error) => Err(error.into()),
            None if state.established => Ok(()),
            None => would_block(),
        }
    }
    fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = lock(&self.0.state);
        match (state.error, state.received.pop_front()) {
            (Some(error), _) => Err(error.into()),
            (None, None) if state.ended => Ok(0),
            (None, None) => would_block(),
            (None, Some(byte)) => {
                buf[0] = byte;
                Ok(1)
            }
        }
    }
    fn try_write(&self, data: &[u8]) -> io::Result<usize> {
        let mut state = lock(&self.0.state);
        if let Some(error) = state.error {
            return Err(error.into());
        }
        state.written.push(data[0]);
        Ok(1)
    }
    fn set_notify(&self, notify: Option<Arc<dyn Notify>>) {
        *lock(&self.0.notify) = notify;
        tell(&self.0.notify);
    }
    fn reset(&self) {
        lock(&self.0.state).reset = true;
    }
}
