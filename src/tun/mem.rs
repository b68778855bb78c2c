//! A [`Tun`] in memory: for tests, and for programs that make and take the inner packets themselves.
//!
//! [`MemTun::new`] gives the tunnel's end and a [`MemHandle`] for the other side. Both queues are bounded; what does
//! not fit is dropped and counted, as a network interface does it.

use super::{PacketArena, PacketList, Tun, TunEvent};
use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Packets that each direction holds at most.
pub const MAX_QUEUED_PACKETS: usize = 1024;

/// Bytes that each direction holds at most.
pub const MAX_QUEUED_BYTES: usize = 2 << 20;

/// Events that are kept for a tunnel that does not ask; the oldest go first.
const MAX_EVENTS: usize = 64;

#[derive(Debug, Default)]
struct Queue {
    packets: VecDeque<Vec<u8>>,
    bytes: usize,
    dropped: u64,
}

impl Queue {
    fn push(&mut self, packet: &[u8]) -> bool {
        if self.packets.len() == MAX_QUEUED_PACKETS || self.bytes + packet.len() > MAX_QUEUED_BYTES {
            self.dropped += 1;
            return false;
        }
        self.bytes += packet.len();
        self.packets.push_back(packet.to_vec());
        true
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let packet = self.packets.pop_front()?;
        self.bytes -= packet.len();
        Some(packet)
    }
}

#[derive(Debug)]
struct State {
    to_tunnel: Queue,
    from_tunnel: Queue,
    events: VecDeque<TunEvent>,
    mtu: u16,
    up: bool,
    woken: bool,
    removed: bool,
}

impl State {
    fn tell(&mut self, event: TunEvent) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

#[derive(Debug)]
struct Shared {
    name: String,
    state: Mutex<State>,
    /// The tunnel has something to do.
    tunnel: Condvar,
    /// The tunnel wrote something, or the end was removed.
    handle: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits on `condvar` until `ready` or until `timeout` has passed.
fn wait_until<'a>(
    condvar: &Condvar,
    mut state: MutexGuard<'a, State>,
    timeout: Option<Duration>,
    ready: impl Fn(&State) -> bool,
) -> MutexGuard<'a, State> {
    let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
    while !ready(&state) {
        state = match deadline {
            None => condvar.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                condvar.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
            }
        };
    }
    state
}

fn removed() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the in-memory interface was removed")
}

/// The tunnel's end.
#[derive(Debug)]
pub struct MemTun(Arc<Shared>);

impl MemTun {
    /// An interface that is up, and the handle for its other side. The first event is [`TunEvent::Up`].
    #[must_use]
    pub fn new(name: &str, mtu: u16) -> (Self, MemHandle) {
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            state: Mutex::new(State {
                to_tunnel: Queue::default(),
                from_tunnel: Queue::default(),
                events: VecDeque::from([TunEvent::Up]),
                mtu,
                up: true,
                woken: false,
                removed: false,
            }),
            tunnel: Condvar::new(),
            handle: Condvar::new(),
        });
        (Self(Arc::clone(&shared)), MemHandle(shared))
    }
}

impl Tun for MemTun {
    fn name(&self) -> String {
        self.0.name.clone()
    }

    fn mtu(&self) -> u16 {
        self.0.state().mtu
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        let mut state = wait_until(&self.0.tunnel, self.0.state(), timeout, |s| {
            s.woken || s.removed || !s.events.is_empty() || !s.to_tunnel.packets.is_empty()
        });
        state.woken = false;
        if state.removed { Err(removed()) } else { Ok(()) }
    }

    fn wake(&self) {
        self.0.state().woken = true;
        self.0.tunnel.notify_all();
    }

    fn event(&self) -> Option<TunEvent> {
        self.0.state().events.pop_front()
    }

    fn read(&self, arena: &mut PacketArena) -> io::Result<usize> {
        let mut state = self.0.state();
        if state.removed {
            return Err(removed());
        }
        let before = arena.slots().len();
        while let Some(packet) = state.to_tunnel.packets.front() {
            if !arena.push(packet) {
                if !arena.slots().is_empty() {
                    break;
                }
                // It fits into no arena of this size: it must not block those behind it.
                state.to_tunnel.dropped += 1;
            }
            state.to_tunnel.pop();
        }
        Ok(arena.slots().len() - before)
    }

    fn write(&self, packets: PacketList<'_>) -> usize {
        let mut state = self.0.state();
        if state.removed {
            return 0;
        }
        let taken = packets.iter().filter(|p| state.from_tunnel.push(p)).count();
        drop(state);
        self.0.handle.notify_all();
        taken
    }
}

/// The other side of a [`MemTun`].
#[derive(Clone, Debug)]
pub struct MemHandle(Arc<Shared>);

impl MemHandle {
    /// Gives the tunnel a packet to send. Returns false if it was dropped: the queue is full, the interface is down or
    /// removed.
    pub fn inject(&self, packet: &[u8]) -> bool {
        let mut state = self.0.state();
        if state.removed || !state.up {
            state.to_tunnel.dropped += 1;
            return false;
        }
        let taken = state.to_tunnel.push(packet);
        drop(state);
        self.0.tunnel.notify_all();
        taken
    }

    /// Takes all packets that the tunnel has written.
    #[must_use]
    pub fn take_written(&self) -> Vec<Vec<u8>> {
        self.wait_written(Duration::ZERO)
    }

    /// Takes all packets that the tunnel has written; waits for the first one, at most `timeout`.
    #[must_use]
    pub fn wait_written(&self, timeout: Duration) -> Vec<Vec<u8>> {
        let mut state = wait_until(&self.0.handle, self.0.state(), Some(timeout), |s| {
            s.removed || !s.from_tunnel.packets.is_empty()
        });
        let queue = &mut state.from_tunnel;
        queue.bytes = 0;
        queue.packets.drain(..).collect()
    }

    /// Changes the MTU; the tunnel is told if it is another one.
    pub fn set_mtu(&self, mtu: u16) {
        let mut state = self.0.state();
        if state.mtu != mtu {
            state.mtu = mtu;
            state.tell(TunEvent::Mtu(mtu));
        }
        drop(state);
        self.0.tunnel.notify_all();
    }

    /// Brings the interface up or down; the tunnel is told if that is a change.
    pub fn set_up(&self, up: bool) {
        let mut state = self.0.state();
        if state.up != up {
            state.up = up;
            state.tell(if up { TunEvent::Up } else { TunEvent::Down });
        }
        drop(state);
        self.0.tunnel.notify_all();
    }

    /// Removes the interface: the tunnel's next `wait` or `read` fails.
    pub fn remove(&self) {
        self.0.state().removed = true;
        self.0.tunnel.notify_all();
        self.0.handle.notify_all();
    }

    /// How many packets were dropped on their way to and from the tunnel.
    #[must_use]
    pub fn dropped(&self) -> (u64, u64) {
        let state = self.0.state();
        (state.to_tunnel.dropped, state.from_tunnel.dropped)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::thread;

    const SECOND: Duration = Duration::from_secs(1);

    fn arena(bytes: usize) -> PacketArena {
        let mut arena = PacketArena::new(bytes, 64, |len, _| len.next_multiple_of(16));
        arena.clear(1420);
        arena
    }

    #[test]
    fn packets_pass_in_order_both_ways() {
        let (tun, handle) = MemTun::new("mem0", 1420);
        assert!(handle.inject(&[1; 20]) && handle.inject(&[2; 30]));
        tun.wait(None).unwrap();
        let mut arena = arena(4096);
        assert_eq!(tun.read(&mut arena).unwrap(), 2);
        let read: Vec<_> = arena.slots().iter().map(|&s| arena.packet(s).to_vec()).collect();
        assert_eq!(read, [vec![1; 20], vec![2; 30]]);
        assert_eq!(tun.read(&mut arena).unwrap(), 0);

        let ranges = [0..2, 2..5];
        let list = PacketList { buffer: &[1, 2, 3, 4, 5], ranges: &ranges };
        assert_eq!(tun.write(list), 2);
        assert_eq!(handle.take_written(), [vec![1, 2], vec![3, 4, 5]]);
        assert!(handle.take_written().is_empty());
    }

    #[test]
    fn a_full_arena_keeps_the_rest_and_an_impossible_packet_does_not_block() {
        let (tun, handle) = MemTun::new("mem0", 1420);
        for len in [100, 100, 5000, 100] {
            assert!(handle.inject(&vec![7; len]));
        }
        let mut arena = arena(200);
        for _ in 0..3 {
            arena.clear(1420);
            assert_eq!(tun.read(&mut arena).unwrap(), 1);
        }
        assert_eq!(handle.dropped(), (1, 0));
    }

    #[test]
    fn queues_are_bounded() {
        let (tun, handle) = MemTun::new("mem0", 1420);
        let taken = (0..MAX_QUEUED_PACKETS + 3).filter(|_| handle.inject(&[0; 20])).count();
        assert_eq!(taken, MAX_QUEUED_PACKETS);
        let big = vec![0; 60_000];
        let ranges = vec![0..big.len(); 40];
        let list = PacketList { buffer: &big, ranges: &ranges };
        assert_eq!(tun.write(list), MAX_QUEUED_BYTES / 60_000);
        assert_eq!(handle.dropped(), (3, 40 - (MAX_QUEUED_BYTES / 60_000) as u64));
    }

    #[test]
    fn a_wake_is_not_lost_and_ends_one_wait_only() {
        let (tun, _handle) = MemTun::new("mem0", 1420);
        assert_eq!(tun.event(), Some(TunEvent::Up));
        tun.wake();
        tun.wait(None).unwrap();
        let start = Instant::now();
        tun.wait(Some(Duration::from_millis(20))).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(20));
        thread::scope(|s| {
            s.spawn(|| {
                thread::sleep(Duration::from_millis(20));
                tun.wake();
            });
            tun.wait(None).unwrap();
        });
    }

    #[test]
    fn events_are_told_once_and_in_order() {
        let (tun, handle) = MemTun::new("mem0", 1420);
        handle.set_up(true);
        handle.set_mtu(1280);
        handle.set_mtu(1280);
        handle.set_up(false);
        assert!(!handle.inject(&[0; 20]), "a down interface has no packets");
        assert_eq!(tun.mtu(), 1280);
        let told: Vec<_> = std::iter::from_fn(|| tun.event()).collect();
        assert_eq!(told, [TunEvent::Up, TunEvent::Mtu(1280), TunEvent::Down]);
    }

    #[test]
    fn removal_ends_both_sides() {
        let (tun, handle) = MemTun::new("mem0", 1420);
        thread::scope(|s| {
            let waiter = s.spawn(|| handle.wait_written(SECOND));
            handle.remove();
            assert!(waiter.join().unwrap().is_empty());
        });
        assert!(tun.wait(None).is_err());
        assert!(tun.read(&mut arena(4096)).is_err());
        assert!(!handle.inject(&[0; 20]));
    }
}
