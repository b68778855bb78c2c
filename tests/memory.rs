//! What a device says that it takes is what it takes; and at its limit it takes no more. An allocator counts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unsafe_code,
    reason = "a test may fail loudly, and an allocator is unsafe by nature"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use wg_embed::{
    bind::{Bind, RecvBatch, SendReport, Transmit, Woken},
    config::{AllowedIpUpdate, PeerUpdate, Update},
    device::{Device, FIXED_MEMORY, MAX_STAGED, Options, Outbound, STAGED_OVERHEAD},
    key::{PrivateKey, PublicKey},
    tun::{PacketArena, PacketList, Tun, TunEvent},
};

thread_local! {
    /// Bytes that this thread has allocated and not freed, and how often it has allocated.
    static TAKEN: Cell<(isize, usize)> = const { Cell::new((0, 0)) };
}

struct Counting;

fn count(bytes: isize) {
    let _ = TAKEN.try_with(|taken| {
        let (before, times) = taken.get();
        taken.set((before + bytes, times + usize::from(bytes > 0)));
    });
}

// SAFETY: everything is the system allocator's; beside it numbers are added up.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's contract is this one's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's contract is this one's.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that `call` leaves allocated, and how often it allocates.
fn taken_by(call: impl FnOnce()) -> (isize, usize) {
    let before = TAKEN.get();
    call();
    let after = TAKEN.get();
    (after.0 - before.0, after.1 - before.1)
}

/// A network that takes everything and answers nothing.
struct Silence;

impl Bind for Silence {
    fn open(&self, port: u16) -> io::Result<u16> {
        Ok(port.max(1))
    }
    fn close(&self) {}
    fn set_mark(&self, _: u32) -> io::Result<()> {
        Ok(())
    }
    fn wait(&self, _: Option<Duration>) -> io::Result<Woken> {
        Ok(Woken::default())
    }
    fn wake(&self) {}
    fn recv(&self, _: &mut RecvBatch) -> io::Result<usize> {
        Ok(0)
    }
    fn send(&self, batch: &[Transmit<'_>]) -> SendReport {
        let mut report = SendReport::default();
        report.sent = batch.iter().map(Transmit::datagrams).sum();
        report
    }
    fn zone_index(&self, _: &str) -> Option<u32> {
        None
    }
}

/// A TUN from which so many packets come: to 10.0.`x`.`y`, each to the next of the `peers`.
#[derive(Default)]
struct Source(Mutex<Packets>);

#[derive(Default)]
struct Packets {
    left: usize,
    len: usize,
    peers: usize,
}

impl Source {
    fn give(&self, left: usize, len: usize, peers: usize) {
        *self.0.lock().unwrap() = Packets { left, len, peers };
    }
}

impl Tun for Source {
    fn name(&self) -> String {
        String::new()
    }
    fn mtu(&self) -> u16 {
        1420
    }
    fn wait(&self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
    fn wake(&self) {}
    fn event(&self) -> Option<TunEvent> {
        None
    }
    fn read(&self, arena: &mut PacketArena) -> io::Result<usize> {
        let mut packets = self.0.lock().unwrap();
        let mut read = 0;
        while packets.left > 0 {
            let Some(room) = arena.reserve(packets.len) else { break };
            packets.left -= 1;
            room.fill(0);
            room[0] = 0x45;
            room[2..4].copy_from_slice(&(packets.len as u16).to_be_bytes());
            room[16] = 10;
            room[18..20].copy_from_slice(&((packets.left % packets.peers) as u16).to_be_bytes());
            arena.commit(packets.len);
            read += 1;
        }
        Ok(read)
    }
    fn write(&self, packets: PacketList<'_>) -> usize {
        packets.ranges.len()
    }
}

fn key(n: usize) -> PublicKey {
    let mut bytes = [9; 32];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    PublicKey::from_bytes(bytes)
}

fn peer(n: usize) -> PeerUpdate {
    let [x, y] = (n as u16).to_be_bytes();
    let mut peer = PeerUpdate::new(key(n));
    peer.endpoint = Some(SocketAddr::from(([192, 0, 2, 1], 1)).into());
    let prefixes = [format!("10.0.{x}.{y}/32"), format!("fd00:{n:x}::/32")];
    peer.allowed_ips = prefixes.map(|p| AllowedIpUpdate::add(p.parse().unwrap())).into();
    peer
}

fn device(tun: &Arc<Source>, memory: usize) -> Device {
    let device = Device::new(tun.clone(), Arc::new(Silence), Options { memory, ..Options::default() });
    let private_key = Some(Some(PrivateKey::from_bytes([1; 32])));
    device.apply(Update { private_key, ..Update::default() }).unwrap();
    device.up().unwrap();
    device
}

fn send_all(device: &Device, outbound: &mut Outbound) {
    while device.outbound(outbound).unwrap() > 0 {}
}

/// The device says that it takes `said`; it takes `real`.
fn assert_true(what: &str, said: usize, real: isize) {
    let real = usize::try_from(real).unwrap();
    assert!(said.abs_diff(real) <= real / 10 + 500, "{what}: said {said}, took {real}");
}

#[test]
fn what_peers_and_packets_take_is_told_truly() {
    let (tun, mut outbound) = (Arc::<Source>::default(), Outbound::new());
    for peers in [1, 10, 1000] {
        let device = device(&tun, 8 << 20);
        let empty = device.memory_usage();
        let update = || Update { peers: (0..peers).map(peer).collect(), ..Update::default() };
        let mut told = device.memory_usage();
        let (real, _) = taken_by(|| {
            device.apply(update()).unwrap();
            told = device.memory_usage();
        });
        assert_true("peers", told.peers - empty.peers, real);
        assert!(told.peers / peers < 2048 || peers == 1, "an idle peer takes less than 2 KiB");
        // The first packet for each begins a handshake, too.
        for (packets, len) in [(peers, 20), (1000, 1420)] {
            let before = device.memory_usage();
            let (real, _) = taken_by(|| {
                tun.give(packets, len, peers);
                send_all(&device, &mut outbound);
            });
            let after = device.memory_usage();
            assert_true("packets", after.total() - before.total(), real);
            assert_eq!(after.peers > before.peers, len == 20);
            assert!(
                after.staged > before.staged && after.staged < before.staged + packets * (len + 32 + STAGED_OVERHEAD)
            );
        }
        let before = device.memory_usage();
        let (real, _) = taken_by(|| device.apply(Update { replace_peers: true, ..Update::default() }).unwrap());
        let (trimmed, _) = taken_by(|| device.trim());
        let after = device.memory_usage();
        assert_true("what goes with the peers", before.total() - after.total(), -(real + trimmed));
        assert_eq!((after.total(), after.staged), (empty.total(), 0));
    }
}

/// At the limit packets are dropped and counted, and nothing is allocated for them.
#[test]
fn at_the_limit_nothing_is_allocated() {
    const PEERS: usize = 300;
    const ROOM: usize = 1 << 20;
    for len in [20, 100, 1420] {
        let (tun, mut outbound) = (Arc::<Source>::default(), Outbound::new());
        let device = device(&tun, FIXED_MEMORY + ROOM);
        device.apply(Update { peers: (0..PEERS).map(peer).collect(), ..Update::default() }).unwrap();
        let full = || device.counters().iter().find(|c| c.0 == "out_memory_full").unwrap().1;
        let idle = device.memory_usage();
        let (real, _) = taken_by(|| {
            tun.give(PEERS * (MAX_STAGED - 1), len, PEERS);
            send_all(&device, &mut outbound);
        });
        let there_is = device.memory_usage();
        assert!(full() > 1000, "{len}: {} did not fit", full());
        assert!(there_is.staged <= ROOM + PEERS * 200, "{there_is:?}");
        assert!(real - (there_is.peers - idle.peers) as isize <= (ROOM + PEERS * 200) as isize, "{real}");
        let before = full();
        let more = taken_by(|| {
            tun.give(10_000, len, PEERS);
            send_all(&device, &mut outbound);
        });
        assert_eq!((more, full() - before), ((0, 0), 10_000), "{len}");
        assert_eq!(device.memory_usage(), there_is);
        // Room for new packets comes back with the peers that go.
        device.apply(Update { replace_peers: true, peers: vec![peer(0)], ..Update::default() }).unwrap();
        let before = full();
        tun.give(MAX_STAGED, len, 1);
        send_all(&device, &mut outbound);
        assert_eq!((full() - before, device.peer_stats(&key(0)).unwrap().staged_packets), (0, MAX_STAGED));
    }
}
