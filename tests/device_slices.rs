//! What concerns many peers, or the interface, is done in slices while packets pass: nothing keeps the thread that
//! moves them for long, and nothing waits until there are none.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use common::{
    World,
    around::{Around, Changed},
    give,
};
use wg_embed::{
    bind::{Bind, Endpoint, RecvBatch, RecvMeta, SendReport, Transmit, Woken, mem::MemBind},
    config::{PeerUpdate, Update},
    device::{Device, Options, Tunnel},
    key::PrivateKey,
    poll::Registered,
    random::SystemRandom,
    time::{Clock, ManualClock},
    tun::{
        PacketArena, PacketList, Tun, TunEvent,
        mem::{MemHandle, MemTun},
    },
};

const PEERS: usize = 200;

/// A bind whose sends take their time, and which counts them.
struct Slow {
    bind: Arc<MemBind>,
    clock: Arc<ManualClock>,
    sends: AtomicUsize,
}

impl Around for Slow {
    fn inner(&self) -> &MemBind {
        &self.bind
    }

    fn send(&self, batch: &[Transmit<'_>]) -> SendReport {
        self.clock.advance(Duration::from_micros(100));
        self.sends.fetch_add(1, Relaxed);
        self.bind.send(batch)
    }
}

/// A device with many peers that are to be kept alive, whose interface was not seen to be up yet.
fn device() -> (Device, Arc<Changed<Slow>>, MemHandle) {
    let world = World::new();
    let bind = world.net.bind([192, 0, 2, 1].into());
    let slow = Arc::new(Changed(Slow { bind, clock: world.clock.clone(), sends: AtomicUsize::new(0) }));
    let (tun, handle) = MemTun::new("", 1420);
    let options = Options { clock: world.clock.clone(), ..Options::default() };
    let device = Device::new(Arc::new(tun), slow.clone(), options);
    let peer = |n: usize| {
        let mut peer = PeerUpdate::new(PrivateKey::generate_with(&SystemRandom).public_key());
        peer.endpoint = Some(SocketAddr::from(([192, 0, 2, 2], 1)).into());
        peer.allowed_ips = vec![give(&format!("10.0.{}.{}/32", n / 256, n % 256))];
        peer.persistent_keepalive = Some(25);
        peer
    };
    let private_key = Some(Some(PrivateKey::generate_with(&SystemRandom)));
    device.apply(Update { private_key, peers: (0..PEERS).map(peer).collect(), ..Update::default() }).unwrap();
    (device, slow, handle)
}

/// Runs the timers until nothing is due, and returns how many sends each time took. Between two of them packets may
/// pass.
fn slices(device: &Device, slow: &Slow) -> Vec<usize> {
    let mut slices = Vec::new();
    let end = slow.clock.now() + Duration::from_secs(1);
    while device.next_deadline().is_some_and(|at| at <= end.min(slow.clock.now())) {
        let before = slow.sends.load(Relaxed);
        device.run_timers();
        slices.push(slow.sends.load(Relaxed) - before);
    }
    slices
}

#[test]
fn timers_that_come_due_at_once_are_run_in_slices() {
    let (device, slow, _handle) = device();
    device.up().unwrap();
    assert_eq!(slow.sends.swap(0, Relaxed), PEERS, "a caller's own thread does all of it");
    // Nobody has answered: each peer's next try is due.
    slow.clock.advance(Duration::from_secs(6));
    let slices = slices(&device, &slow);
    assert_eq!(slices.iter().sum::<usize>(), PEERS);
    assert!(slices.iter().all(|sends| *sends <= 10), "{slices:?}");
}

#[test]
fn an_interface_that_comes_up_greets_its_peers_in_slices() {
    let (device, slow, _handle) = device();
    device.handle_tun_events();
    let first = slow.sends.load(Relaxed);
    assert!((1..=10).contains(&first), "{first}");
    let slices = slices(&device, &slow);
    assert_eq!(first + slices.iter().sum::<usize>(), PEERS);
    assert!(slices.iter().all(|sends| *sends <= 10), "{slices:?}");
}

#[test]
fn peers_that_were_not_greeted_yet_are_not_after_the_interface_went_down() {
    let (device, slow, handle) = device();
    device.handle_tun_events();
    handle.set_up(false);
    device.handle_tun_events();
    let before = slow.sends.load(Relaxed);
    slices(&device, &slow);
    assert_eq!(slow.sends.load(Relaxed), before);
}

/// A TUN and a bind that never run dry. What happens to the interface is seen by `wait` only, as with a kernel's.
#[derive(Default)]
struct Endless {
    waits: AtomicU64,
    reads: AtomicU64,
    told: AtomicU64,
}

impl Tun for Endless {
    fn name(&self) -> String {
        String::new()
    }

    fn mtu(&self) -> u16 {
        1420
    }

    fn wait(&self, _: Option<Duration>) -> io::Result<()> {
        self.waits.fetch_add(1, Relaxed);
        Ok(())
    }

    fn wake(&self) {}

    fn event(&self) -> Option<TunEvent> {
        let new = self.told.load(Relaxed) < self.waits.load(Relaxed).min(1);
        new.then(|| {
            self.told.store(1, Relaxed);
            TunEvent::Mtu(1300)
        })
    }

    fn register(&self, _: &Arc<mio::Registry>, _: Registered<mio::Token>) -> io::Result<bool> {
        Ok(true)
    }

    fn read(&self, arena: &mut PacketArena) -> io::Result<usize> {
        self.reads.fetch_add(1, Relaxed);
        Ok(usize::from(arena.push(&[0x45; 20])))
    }

    fn write(&self, packets: PacketList<'_>) -> usize {
        packets.ranges.len()
    }
}

struct EndlessBind {
    registry: Arc<mio::Registry>,
    waits: AtomicU64,
}

impl Bind for EndlessBind {
    fn open(&self, port: u16) -> io::Result<u16> {
        Ok(port)
    }

    fn close(&self) {}

    fn set_mark(&self, _: u32) -> io::Result<()> {
        Ok(())
    }

    fn wait(&self, _: Option<Duration>) -> io::Result<Woken> {
        self.waits.fetch_add(1, Relaxed);
        Ok(Woken::default())
    }

    fn registry(&self) -> Option<(&Arc<mio::Registry>, Registered<mio::Token>)> {
        Some((&self.registry, Registered { packets: mio::Token(8), other: mio::Token(9) }))
    }

    fn wake(&self) {}

    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        let from = Endpoint::new(SocketAddr::from(([192, 0, 2, 2], 1)));
        Ok(batch.fill(|_| Some(RecvMeta::new(from, 1))))
    }

    fn send(&self, _: &[Transmit<'_>]) -> SendReport {
        SendReport::default()
    }
}

#[test]
fn what_happens_to_a_busy_interface_is_seen() {
    let tun = Arc::<Endless>::default();
    let registry = Arc::new(mio::Poll::new().unwrap().registry().try_clone().unwrap());
    let bind = Arc::new(EndlessBind { registry, waits: AtomicU64::new(0) });
    let tunnel = Tunnel::start(tun.clone(), bind.clone(), Options::default()).unwrap();
    let begin = Instant::now();
    while tunnel.device().mtu() != 1300 {
        assert!(begin.elapsed() < Duration::from_secs(60), "not seen in {} rounds", tun.reads.load(Relaxed));
        thread::sleep(Duration::from_millis(1));
    }
    // So is what the bind waits for other than datagrams: it is asked again and again.
    let waits = bind.waits.load(Relaxed);
    while bind.waits.load(Relaxed) < waits + 2 {
        assert!(begin.elapsed() < Duration::from_secs(60), "the bind is not looked at");
        thread::sleep(Duration::from_millis(1));
    }
    tunnel.stop().unwrap();
}
