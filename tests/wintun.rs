//! Adapters of Wintun, with the stand-in for wintun.dll (`tests/windows/wintun.c`) in the place of the driver. Its path
//! is in `WG_EMBED_TEST_WINTUN`.
#![cfg(windows)]
#![allow(unsafe_code, clippy::panic, clippy::single_range_in_vec_init, clippy::unwrap_used)]

#[allow(dead_code, unreachable_pub, reason = "a part of it is used")]
#[path = "windows/pipe.rs"]
mod pipe;
#[path = "common/skip.rs"]
mod skip;

use std::{
    ffi::CStr,
    mem,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use skip::skipped;
use wg_embed::{
    ErrorKind,
    bind::UdpBind,
    config::{AllowedIpUpdate, PeerUpdate, Update},
    device::{Event, Options, Tunnel},
    ipc::{self, Listener, Server},
    key::{PrivateKey, PublicKey},
    tun::{
        PacketArena, PacketList, Tun, TunEvent,
        windows::{Adapter, Wintun, WintunTun, guid_of},
    },
};
use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleW, GetProcAddress};

/// Only bounds a hang.
const LIMIT: Duration = Duration::from_secs(300);

type Function = unsafe extern "system" fn() -> isize;
type Give = unsafe extern "system" fn(*const u16, *const u8, u32) -> i32;
type Take = unsafe extern "system" fn(*const u16, *mut u8, u32) -> u32;
type Remove = unsafe extern "system" fn(*const u16) -> i32;
type Faults = unsafe extern "system" fn() -> i32;

/// The other side of the adapters: the test plays Windows.
struct Windows {
    wintun: Arc<Wintun>,
    give: Give,
    take: Take,
    remove: Remove,
    faults: Faults,
}

fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}

impl Windows {
    /// `None`, said why, without the stand-in.
    fn new() -> Option<Self> {
        let Some(path) = std::env::var_os("WG_EMBED_TEST_WINTUN") else {
            skipped("WG_EMBED_TEST_WINTUN does not name the stand-in for wintun.dll");
            return None;
        };
        let wintun = Wintun::load(Path::new(&path)).unwrap();
        // SAFETY: the name ends in a zero; the module stays loaded as long as `wintun`.
        let module = unsafe { GetModuleHandleW(wide(&PathBuf::from(path).display().to_string()).as_ptr()) };
        // SAFETY: the module is loaded, and the name ends in a zero.
        let find = |name: &CStr| unsafe { GetProcAddress(module, name.as_ptr().cast()) }.unwrap();
        // SAFETY: this is its type in the stand-in's source.
        let give = unsafe { mem::transmute::<Function, Give>(find(c"FakeWintunGive")) };
        // SAFETY: as above.
        let take = unsafe { mem::transmute::<Function, Take>(find(c"FakeWintunTake")) };
        // SAFETY: as above.
        let remove = unsafe { mem::transmute::<Function, Remove>(find(c"FakeWintunRemove")) };
        // SAFETY: as above.
        let faults = unsafe { mem::transmute::<Function, Faults>(find(c"FakeWintunFaults")) };
        Some(Self { wintun, give, take, remove, faults })
    }

    fn adapter(&self, name: &str) -> Adapter {
        Adapter::create(&self.wintun, name, Some(guid_of(name))).unwrap()
    }

    /// An adapter's TUN, whose first event was taken.
    fn tun(&self, name: &str) -> WintunTun {
        let tun = WintunTun::start(self.adapter(name), 0).unwrap();
        assert_eq!(tun.event(), Some(TunEvent::Up));
        tun
    }

    fn give(&self, name: &str, packet: &[u8]) -> bool {
        // SAFETY: both live, and the packet's length is given.
        unsafe { (self.give)(wide(name).as_ptr(), packet.as_ptr(), packet.len() as u32) != 0 }
    }

    fn take(&self, name: &str) -> Option<Vec<u8>> {
        let mut packet = vec![0; 65_535];
        // SAFETY: both live, and the room is given.
        let len = unsafe { (self.take)(wide(name).as_ptr(), packet.as_mut_ptr(), packet.len() as u32) };
        packet.truncate(len as usize);
        (len > 0).then_some(packet)
    }

    fn take_soon(&self, name: &str) -> Vec<u8> {
        let begun = Instant::now();
        loop {
            if let Some(packet) = self.take(name) {
                return packet;
            }
            assert!(begun.elapsed() < LIMIT, "no packet came");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn remove(&self, name: &str) -> bool {
        // SAFETY: the name lives.
        unsafe { (self.remove)(wide(name).as_ptr()) != 0 }
    }
}

impl Drop for Windows {
    fn drop(&mut self) {
        if !thread::panicking() {
            // SAFETY: the module is loaded.
            assert_eq!(unsafe { (self.faults)() }, 0, "the library has used what had ended, or kept a packet");
        }
    }
}

fn arena(bytes: usize) -> PacketArena {
    let mut arena = PacketArena::new(bytes, 64, |len, _| len.next_multiple_of(16));
    arena.clear(1420);
    arena
}

fn read(tun: &WintunTun, arena: &mut PacketArena) -> Vec<Vec<u8>> {
    arena.clear(1420);
    let count = tun.read(arena).unwrap();
    assert_eq!(count, arena.slots().len());
    arena.slots().iter().map(|slot| arena.packet(*slot).to_vec()).collect()
}

#[test]
fn an_adapter_is_there_as_long_as_its_value() {
    let Some(windows) = Windows::new() else { return };
    let adapter = windows.adapter("there");
    assert_ne!(adapter.luid(), 0);
    assert_eq!(windows.wintun.driver_version().unwrap(), (0, 14));
    let error = Adapter::create(&windows.wintun, "there", None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exists);
    assert!(error.to_string().contains("there"), "{error}");
    assert_eq!(Adapter::open(&windows.wintun, "there").unwrap().name(), "there");
    drop(adapter);
    assert_eq!(Adapter::open(&windows.wintun, "there").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn the_path_of_the_dll_may_have_slashes() {
    let Some(windows) = Windows::new() else { return };
    let path = windows.wintun.path().to_str().unwrap();
    assert!(!path.contains('/'), "{path}");
    assert_eq!(Wintun::load(Path::new(&path.replace('\\', "/"))).unwrap().path(), Path::new(path));
}

#[test]
fn an_adapter_has_one_session() {
    let Some(windows) = Windows::new() else { return };
    let first = windows.tun("single");
    let other = Adapter::open(&windows.wintun, "single").unwrap();
    assert!(WintunTun::start(other, 0).is_err());
    drop(first);
}

#[test]
fn packets_pass_in_order_whatever_the_size_of_the_arena() {
    let Some(windows) = Windows::new() else { return };
    let tun = windows.tun("order");
    let packets: Vec<_> = (1..=50).map(|i| vec![i; 20 * usize::from(i)]).collect();
    for packet in &packets {
        assert!(windows.give("order", packet));
    }
    tun.wait(None).unwrap();
    // Room for one packet or a few.
    let mut arena = arena(1100);
    let mut came = Vec::new();
    while came.len() < packets.len() {
        let some = read(&tun, &mut arena);
        assert!(!some.is_empty());
        came.extend(some);
    }
    assert_eq!(came, packets);
    assert!(read(&tun, &mut arena).is_empty());
    let buffer = packets.concat();
    let range = |end: &mut usize, packet: &Vec<u8>| {
        let start = *end;
        *end += packet.len();
        Some(start..*end)
    };
    let ranges: Vec<_> = packets.iter().scan(0, range).collect();
    assert_eq!(tun.write(PacketList { buffer: &buffer, ranges: &ranges }), packets.len());
    assert_eq!(std::iter::from_fn(|| windows.take("order")).collect::<Vec<_>>(), packets);
}

#[test]
fn a_packet_that_is_too_large_for_any_arena_is_dropped_and_counted() {
    let Some(windows) = Windows::new() else { return };
    let tun = windows.tun("large");
    for len in [9000, 100] {
        assert!(windows.give("large", &vec![7; len]));
    }
    assert_eq!(read(&tun, &mut arena(2000)), [vec![7; 100]]);
    assert_eq!(tun.read_drops(), 1);
}

#[test]
fn a_full_ring_takes_no_more_and_is_not_waited_for() {
    let Some(windows) = Windows::new() else { return };
    let tun = windows.tun("full");
    let buffer = [1; 60_000];
    let ranges = vec![0..buffer.len(); 200];
    let taken = tun.write(PacketList { buffer: &buffer, ranges: &ranges });
    assert_eq!(taken, (8 << 20) / buffer.len());
    let smaller = [0..100];
    assert_eq!(tun.write(PacketList { buffer: &buffer, ranges: &smaller }), 1, "a smaller one has room");
    assert!(windows.take("full").is_some());
    assert_eq!(tun.write(PacketList { buffer: &buffer, ranges: &ranges }), 1);
}

#[test]
fn a_wait_ends_for_a_packet_a_wake_an_event_and_the_time() {
    let Some(windows) = Windows::new() else { return };
    let tun = windows.tun("waits");
    let wait_while = |act: &(dyn Fn() + Sync)| {
        thread::scope(|s| {
            s.spawn(act);
            tun.wait(None).unwrap();
        });
    };
    wait_while(&|| tun.wake());
    wait_while(&|| assert!(windows.give("waits", &[1; 20])));
    assert_eq!(read(&tun, &mut arena(4096)).len(), 1);
    wait_while(&|| tun.set_mtu(1280).unwrap());
    assert_eq!((tun.event(), tun.mtu()), (Some(TunEvent::Mtu(1280)), 1280));
    assert_eq!(tun.event(), None);
    tun.wait(Some(Duration::from_millis(5))).unwrap();
    // One wake before, one wait.
    tun.wake();
    tun.wait(None).unwrap();
    tun.wait(Some(Duration::ZERO)).unwrap();
}

#[test]
fn an_mtu_that_no_network_has_is_refused() {
    let Some(windows) = Windows::new() else { return };
    assert_eq!(WintunTun::start(windows.adapter("mtu"), 100).unwrap_err().kind(), ErrorKind::Invalid);
    let tun = windows.tun("mtu");
    assert_eq!(tun.mtu(), 1420);
    assert_eq!(tun.set_mtu(575).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(tun.mtu(), 1420);
}

#[test]
fn a_packet_that_waits_for_an_arena_is_released_with_the_session() {
    let Some(windows) = Windows::new() else { return };
    let tun = windows.tun("held");
    for _ in 0..3 {
        assert!(windows.give("held", &[1; 1000]));
    }
    assert_eq!(read(&tun, &mut arena(1500)).len(), 1);
}

#[test]
fn an_adapter_that_is_disabled_ends_its_tun() {
    let Some(windows) = Windows::new() else { return };
    let tun = windows.tun("gone");
    thread::scope(|s| {
        s.spawn(|| assert!(windows.remove("gone")));
        tun.wait(None).unwrap();
    });
    let error = tun.read(&mut arena(2000)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotConnected);
    assert_eq!(tun.write(PacketList { buffer: &[0; 20], ranges: &[0..20] }), 0);
}

/// A tunnel over an adapter, with real UDP sockets.
struct End {
    name: &'static str,
    inner: [u8; 4],
    private: PrivateKey,
    tunnel: Arc<Tunnel>,
    events: mpsc::Receiver<Event>,
}

impl End {
    fn new(windows: &Windows, name: &'static str, inner: [u8; 4]) -> Self {
        let (tell, events) = mpsc::channel();
        let events_of = Box::new(move |event| {
            let _ = tell.send(event);
        });
        let options = Options { events: events_of, ..Options::default() };
        let tun = WintunTun::start(windows.adapter(name), 0).unwrap();
        let tunnel = Tunnel::start(Arc::new(tun), Arc::new(UdpBind::new().unwrap()), options).unwrap();
        let private = PrivateKey::generate().unwrap();
        tunnel.device().apply(Update { private_key: Some(Some(private.clone())), ..Update::default() }).unwrap();
        Self { name, inner, private, tunnel: Arc::new(tunnel), events }
    }

    fn public(&self) -> PublicKey {
        self.private.public_key()
    }

    /// The port of its sockets, once they are open.
    fn address(&self) -> SocketAddr {
        let begun = Instant::now();
        loop {
            let port = self.tunnel.device().snapshot().interface.listen_port;
            if port != 0 {
                return SocketAddr::from(([127, 0, 0, 1], port));
            }
            assert!(begun.elapsed() < LIMIT, "{} is not up", self.name);
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn add_peer(&self, other: &Self) {
        let mut peer = PeerUpdate::new(other.public());
        peer.endpoint = Some(other.address().into());
        peer.allowed_ips.push(AllowedIpUpdate::new(other.inner.into(), 32, false).unwrap());
        self.tunnel.device().apply(Update { peers: vec![peer], ..Update::default() }).unwrap();
    }

    fn packet_to(&self, other: &Self, len: usize) -> Vec<u8> {
        packet(self.inner, other.inner, len)
    }
}

/// An IPv4 packet of an experimental protocol.
fn packet(from: [u8; 4], to: [u8; 4], len: usize) -> Vec<u8> {
    let mut packet = vec![0; len];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    (packet[8], packet[9]) = (64, 253);
    packet[12..16].copy_from_slice(&from);
    packet[16..20].copy_from_slice(&to);
    packet
}

#[test]
fn two_tunnels_exchange_packets_over_udp() {
    let Some(windows) = Windows::new() else { return };
    let (a, b) = (End::new(&windows, "left", [10, 0, 0, 1]), End::new(&windows, "right", [10, 0, 0, 2]));
    a.add_peer(&b);
    b.add_peer(&a);
    for len in [20, 100, 1000, 1420] {
        for (from, to) in [(&a, &b), (&b, &a)] {
            let sent = from.packet_to(to, len);
            assert!(windows.give(from.name, &sent));
            assert_eq!(windows.take_soon(to.name), sent);
        }
    }
    assert!(a.events.iter().any(|event| event == Event::HandshakeCompleted(b.public())));
    // An adapter that is disabled ends the tunnel; the other one goes on.
    assert!(windows.remove("left"));
    let reason = a.tunnel.wait().to_string();
    assert!(reason.contains("disabled or removed"), "{reason}");
    assert!(windows.give("right", &b.packet_to(&a, 100)));
    b.tunnel.stop().unwrap();
}

/// As a user has it: the tunnel is configured and shown through the pipe, by what wg(8) does.
#[test]
fn a_tunnel_is_configured_through_its_pipe() {
    let Some(windows) = Windows::new() else { return };
    let (a, b) = (End::new(&windows, "piped", [10, 0, 0, 3]), End::new(&windows, "peer", [10, 0, 0, 4]));
    b.add_peer(&a);
    let name = format!("wg-embed-test-{}", std::process::id());
    let listener = match Listener::claim(Path::new(ipc::DIRECTORY), &name, Duration::ZERO) {
        Err(error) if error.kind() == ErrorKind::Permission => return skipped(error),
        listener => listener.unwrap(),
    };
    let path = listener.path().unwrap().to_owned();
    let ended = Box::new(|reason| panic!("the pipe has ended: {reason}"));
    let server = Server::start(listener, a.tunnel.clone(), ipc::Options::default(), ended).unwrap();
    let client = pipe::open(&path);
    assert!(pipe::belongs_to_the_system(&client));
    let public = b.public().to_hex();
    let public = public.as_str();
    let request = format!("set=1\npublic_key={public}\nendpoint={}\nallowed_ip=10.0.0.4/32\n\n", b.address());
    assert_eq!(pipe::ask(&client, &request).unwrap(), "errno=0\n\n");
    let sent = a.packet_to(&b, 500);
    assert!(windows.give("piped", &sent));
    assert_eq!(windows.take_soon("peer"), sent);
    // Another client, while the first one is connected.
    let shown = pipe::ask(&pipe::open(&path), "get=1\n\n").unwrap();
    for line in [format!("public_key={public}"), "allowed_ip=10.0.0.4/32".into(), "errno=0".into()] {
        assert!(shown.lines().any(|shown| shown == line), "{line} is not in\n{shown}");
    }
    assert!(!shown.contains("last_handshake_time_sec=0\n"), "{shown}");
    server.stop().unwrap();
}
