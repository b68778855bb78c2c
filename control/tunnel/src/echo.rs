//! Echo requests from inside a tunnel, inserted between its TUN and the tunnel.
//!
//! Therefore they need no privilege, route or socket, and work in the same way over an interface, a manager's
//! descriptor and a userspace network. Their replies are removed from the packets that are written to the TUN.

mod packet;

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{self, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use wg_embed::{
    poll::Registered,
    random::{Random, SystemRandom},
    sync,
    tun::{PacketArena, PacketList, Tun, TunEvent},
};

use packet::Echo;

/// The requests of one tunnel.
#[derive(Default)]
pub(crate) struct Echoes {
    state: Mutex<State>,
    /// Whether `State::unsent` is not empty; a hint, so that packets pass without the lock.
    has_unsent: AtomicBool,
    /// The number of entries in `State::waiting`; also a hint.
    waiting: AtomicUsize,
}

#[derive(Default)]
struct State {
    /// By a nonce in each request that only this process and the peer know.
    waiting: HashMap<u64, Request>,
    unsent: VecDeque<u64>,
    is_closed: bool,
}

struct Request {
    from: IpAddr,
    to: IpAddr,
    /// The time at which the tunnel read it.
    sent: Option<Instant>,
    reply: Sender<(usize, Duration)>,
    /// The caller's number of the request.
    number: usize,
}

/// Removes the requests of one call when it ends.
struct Cleanup<'e> {
    echoes: &'e Echoes,
    nonces: Vec<u64>,
}

impl Drop for Cleanup<'_> {
    fn drop(&mut self) {
        let mut state = self.echoes.state();
        for nonce in &self.nonces {
            state.waiting.remove(nonce);
        }
        let State { waiting, unsent, .. } = &mut *state;
        unsent.retain(|nonce| waiting.contains_key(nonce));
        self.echoes.update_hints(&state);
    }
}

impl Echoes {
    fn state(&self) -> MutexGuard<'_, State> {
        sync::lock(&self.state)
    }

    fn update_hints(&self, state: &State) {
        self.has_unsent.store(!state.unsent.is_empty(), Ordering::Release);
        self.waiting.store(state.waiting.len(), Ordering::Release);
    }

    /// Sends a request from the first to the second address of each pair, and calls `answered` with the pair's number
    /// and the time for each reply. `wake` makes the tunnel read its TUN. Returns when all have answered, after the
    /// time limit, or at [`close`](Self::close).
    pub(crate) fn ping(
        &self,
        pairs: &[(IpAddr, IpAddr)],
        timeout: Duration,
        wake: impl FnOnce(),
        answered: &mut dyn FnMut(usize, Duration),
    ) {
        let deadline = Instant::now().checked_add(timeout);
        let (reply, replies) = mpsc::channel();
        let mut cleanup = Cleanup { echoes: self, nonces: Vec::with_capacity(pairs.len()) };
        {
            let mut state = self.state();
            if state.is_closed {
                return;
            }
            for (number, &(from, to)) in pairs.iter().enumerate() {
                let mut nonce = [0; 8];
                SystemRandom.fill(&mut nonce);
                let nonce = u64::from_ne_bytes(nonce);
                state.waiting.insert(nonce, Request { from, to, sent: None, reply: reply.clone(), number });
                state.unsent.push_back(nonce);
                cleanup.nonces.push(nonce);
            }
            self.update_hints(&state);
        }
        drop(reply);
        wake();
        // With the last request, the last sender is dropped.
        loop {
            let next = match deadline {
                Some(deadline) => replies.recv_timeout(deadline.saturating_duration_since(Instant::now())),
                None => replies.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match next {
                Ok((number, time)) => answered(number, time),
                Err(_) => return,
            }
        }
    }

    /// Ends all requests, and all later ones at once.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        *state = State { is_closed: true, ..State::default() };
        self.update_hints(&state);
    }

    /// Writes requests to the arena. Returns their number.
    fn send(&self, arena: &mut PacketArena) -> usize {
        if !self.has_unsent.load(Ordering::Acquire) {
            return 0;
        }
        let mut state = self.state();
        let mut sent = 0;
        while let Some(nonce) = state.unsent.front().copied() {
            if let Some(request) = state.waiting.get_mut(&nonce) {
                let packet = Echo { from: request.from, to: request.to, nonce }.request();
                if packet.is_some_and(|packet| !arena.push(&packet)) {
                    break;
                }
                request.sent = Some(Instant::now());
                sent += 1;
            }
            state.unsent.pop_front();
        }
        self.update_hints(&state);
        sent
    }

    /// Handles the reply to a waiting request. Returns false for any other packet.
    fn receive(&self, packet: &[u8]) -> bool {
        let Some(echo) = Echo::reply(packet) else { return false };
        let mut state = self.state();
        let request = state.waiting.get(&echo.nonce);
        let Some((sent, true)) = request.and_then(|r| Some((r.sent?, r.to == echo.from && r.from == echo.to))) else {
            return false;
        };
        if let Some(request) = state.waiting.remove(&echo.nonce) {
            // It fails if the call has just ended.
            let _ = request.reply.send((request.number, sent.elapsed()));
        }
        self.update_hints(&state);
        true
    }
}

/// A TUN with the echo requests of a tunnel.
pub(crate) struct EchoTun {
    inner: Arc<dyn Tun>,
    echoes: Arc<Echoes>,
    /// Whether the last read was one of `inner`.
    has_read_inner: AtomicBool,
}

impl EchoTun {
    pub(crate) fn new(inner: Arc<dyn Tun>, echoes: Arc<Echoes>) -> Self {
        Self { inner, echoes, has_read_inner: AtomicBool::new(false) }
    }
}

impl Tun for EchoTun {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn mtu(&self) -> u16 {
        self.inner.mtu()
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.inner.wait(timeout)
    }

    fn register(&self, registry: &Arc<mio::Registry>, tokens: Registered<mio::Token>) -> io::Result<bool> {
        self.inner.register(registry, tokens)
    }

    fn deregister(&self, registry: &mio::Registry) -> io::Result<()> {
        self.inner.deregister(registry)
    }

    fn wake(&self) {
        self.inner.wake();
    }

    fn event(&self) -> Option<TunEvent> {
        self.inner.event()
    }

    fn read(&self, arena: &mut PacketArena) -> io::Result<usize> {
        // Other packets follow in the next read: the reader continues after a read that returned any.
        let sent = self.echoes.send(arena);
        self.has_read_inner.store(sent == 0, Ordering::Relaxed);
        if sent == 0 { self.inner.read(arena) } else { Ok(sent) }
    }

    fn is_drained(&self) -> bool {
        self.has_read_inner.load(Ordering::Relaxed) && self.inner.is_drained()
    }

    fn write(&self, packets: PacketList<'_>) -> usize {
        if self.echoes.waiting.load(Ordering::Acquire) == 0 {
            return self.inner.write(packets);
        }
        let is_other = |range: &&std::ops::Range<usize>| {
            packets.buffer.get((*range).clone()).is_none_or(|packet| !self.echoes.receive(packet))
        };
        let others: Vec<_> = packets.ranges.iter().filter(is_other).cloned().collect();
        let replies = packets.ranges.len() - others.len();
        if others.is_empty() {
            return replies;
        }
        replies + self.inner.write(PacketList { buffer: packets.buffer, ranges: &others })
    }

    fn route_back(&self, sender: IpAddr) -> Option<u8> {
        self.inner.route_back(sender)
    }

    fn read_drops(&self) -> u64 {
        self.inner.read_drops()
    }

    fn memory(&self) -> usize {
        self.inner.memory()
    }

    fn trim(&self) {
        self.inner.trim();
    }

    fn queue_limit(&self) -> usize {
        self.inner.queue_limit()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::thread;
    use wg_embed::tun::mem::MemTun;

    const PATIENCE: Duration = Duration::from_secs(300);

    fn arena() -> PacketArena {
        let mut arena = PacketArena::new(4000, 16, |len, _| len);
        arena.clear(1420);
        arena
    }

    fn pair() -> (IpAddr, IpAddr) {
        ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap())
    }

    #[test]
    fn a_reply_is_taken_and_other_packets_pass() {
        let (inner, handle) = MemTun::new("test", 1420);
        let echoes = Arc::new(Echoes::default());
        let tun = EchoTun::new(Arc::new(inner), echoes.clone());
        assert!(handle.inject(&[0x45, 1]));
        let (from, to) = pair();
        thread::scope(|scope| {
            let pinging = scope.spawn(|| {
                let mut answers = Vec::new();
                echoes.ping(&[(from, to)], PATIENCE, || tun.wake(), &mut |number, _| answers.push(number));
                answers
            });
            let mut arena = arena();
            while arena.slots().is_empty() || arena.packet(arena.slots()[0]).len() < 20 {
                arena.clear(1420);
                tun.wait(Some(PATIENCE)).unwrap();
                tun.read(&mut arena).unwrap();
            }
            let request = arena.packet(arena.slots()[0]).to_vec();
            let reply = packet::tests::answer(&request);
            let foreign = packet::tests::answer(&Echo { from, to, nonce: 7 }.request().unwrap());
            let mut buffer = foreign.clone();
            buffer.extend(&reply);
            let ranges = [0..foreign.len(), foreign.len()..buffer.len()];
            assert_eq!(tun.write(PacketList { buffer: &buffer, ranges: &ranges }), 2);
            assert_eq!(pinging.join().unwrap(), [0]);
            assert_eq!(handle.take_written(), [foreign]);
            // A second one is a packet like others.
            assert_eq!(tun.write(PacketList { buffer: &buffer, ranges: &ranges[1..] }), 1);
            assert_eq!(handle.take_written(), [reply]);
        });
    }

    #[test]
    fn without_a_reply_it_ends_in_time_or_when_it_is_closed_and_nothing_is_left() {
        let echoes = Echoes::default();
        let mut answers = 0;
        echoes.ping(&[pair()], Duration::ZERO, || {}, &mut |_, _| answers += 1);
        assert_eq!((echoes.send(&mut arena()), echoes.waiting.load(Ordering::Relaxed)), (0, 0));
        echoes.ping(&[pair(); 3], PATIENCE, || echoes.close(), &mut |_, _| answers += 1);
        echoes.ping(&[pair()], PATIENCE, || {}, &mut |_, _| answers += 1);
        assert_eq!((echoes.send(&mut arena()), answers), (0, 0));
    }

    #[test]
    fn a_full_arena_takes_the_rest_later() {
        let echoes = Echoes::default();
        let mut sizes = Vec::new();
        let wake = || {
            let mut small = PacketArena::new(4000, 2, |len, _| len);
            for _ in 0..3 {
                small.clear(1420);
                sizes.push(echoes.send(&mut small));
            }
            echoes.close();
        };
        echoes.ping(&[pair(); 5], PATIENCE, wake, &mut |_, _| {});
        assert_eq!(sizes, [2, 2, 1]);
    }
}
