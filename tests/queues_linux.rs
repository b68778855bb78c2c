//! Interfaces of a real kernel with several queues: all are used, each flow keeps to one and keeps its order, and
//! nothing is lost. Needs root; says so if it is not.
#![cfg(target_os = "linux")]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test may fail loudly"
)]

mod netns;
#[path = "common/skip.rs"]
mod skip;

use std::{
    collections::{BTreeSet, HashMap},
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    ops::Range,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use netns::{Netns, as_root};
use wg_embed::{
    ErrorKind,
    bind::udp::UdpBind,
    config::{AllowedIpUpdate, PeerUpdate, Update},
    device::{Options, Tunnel},
    key::{PrivateKey, PublicKey},
    mio,
    poll::Registered,
    random::SystemRandom,
    tun::{MAX_QUEUES, PacketArena, PacketList, Tun, TunEvent, linux::LinuxTun},
};

/// Bounds what hangs.
const LIMIT: Duration = Duration::from_secs(300);

const MULTI_QUEUE: i32 = libc::IFF_TUN | libc::IFF_MULTI_QUEUE | libc::IFF_VNET_HDR;

const PORT: u16 = 51820;
const UDP: u16 = 7000;
const TCP: u16 = 7001;

/// The first source port of UDP flows. With those that follow it, none of 34 flows shares the place of another one in
/// the table of flows (`src/tun/linux/steering.rs`), as one of them could then change its queue.
const FIRST: u16 = 20_000;

/// The queues from which each UDP flow was read, by its source port.
type Flows = Arc<Mutex<HashMap<u16, BTreeSet<usize>>>>;

/// A queue, or the whole interface, that records what is read from it.
struct Recorded {
    tun: Arc<dyn Tun>,
    number: usize,
    flows: Flows,
}

impl Recorded {
    fn note(&self, packet: &[u8]) {
        if packet[0] == 0x45 && packet[9] == 17 {
            let port = u16::from_be_bytes([packet[20], packet[21]]);
            self.flows.lock().unwrap().entry(port).or_default().insert(self.number);
        }
    }
}

impl Tun for Recorded {
    fn name(&self) -> String {
        self.tun.name()
    }

    fn mtu(&self) -> u16 {
        self.tun.mtu()
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.tun.wait(timeout)
    }

    fn register(&self, registry: &Arc<mio::Registry>, tokens: Registered<mio::Token>) -> io::Result<bool> {
        self.tun.register(registry, tokens)
    }

    fn deregister(&self, registry: &mio::Registry) -> io::Result<()> {
        self.tun.deregister(registry)
    }

    fn wake(&self) {
        self.tun.wake();
    }

    fn queues(&self) -> Vec<Arc<dyn Tun>> {
        let queue = |(number, tun)| Arc::new(Self { tun, number, flows: self.flows.clone() }) as Arc<dyn Tun>;
        (1..).zip(self.tun.queues()).map(queue).collect()
    }

    fn event(&self) -> Option<TunEvent> {
        self.tun.event()
    }

    fn read(&self, arena: &mut PacketArena) -> io::Result<usize> {
        let read = self.tun.read(arena)?;
        arena.slots().iter().for_each(|slot| self.note(arena.packet(*slot)));
        Ok(read)
    }

    fn is_drained(&self) -> bool {
        self.tun.is_drained()
    }

    fn write(&self, packets: PacketList<'_>) -> usize {
        self.tun.write(packets)
    }
}

struct End {
    tunnel: Tunnel,
    flows: Flows,
    netns: Netns,
}

/// Opens the queues of an interface: some of them here, or all by the library.
fn open(netns: &Netns, queues: usize, adopts: bool) -> LinuxTun {
    if adopts {
        let fds: Vec<_> = (0..queues).map(|_| netns.tun("wgq0", MULTI_QUEUE)).collect();
        return netns.run(move || LinuxTun::adopt_queues(fds, 0).unwrap().with_link_state());
    }
    netns.run(move || LinuxTun::create_with_queues("wgq0", queues).unwrap())
}

/// A tunnel in a namespace, the number `n` of two.
fn end(netns: Netns, n: u8, queues: usize, adopts: bool, key: PrivateKey, peer: PublicKey) -> End {
    let flows = Flows::default();
    let tun = Recorded { tun: Arc::new(open(&netns, queues, adopts)), number: 0, flows: flows.clone() };
    let other = 3 - n;
    let tunnel = netns.run(move || {
        let bind = Arc::new(UdpBind::new().unwrap());
        let options = Options { memory: 8 << 20, ..Options::default() };
        Tunnel::start_with(Arc::new(tun), bind, options, |device| {
            let mut peer = PeerUpdate::new(peer);
            peer.endpoint = Some(SocketAddr::from(([10, 77, 1, other], PORT)).into());
            peer.allowed_ips = vec![AllowedIpUpdate::add(format!("10.0.0.{other}/32").parse().unwrap())];
            let private_key = Some(Some(key));
            device.apply(Update { private_key, listen_port: Some(PORT), peers: vec![peer], ..Update::default() })?;
            device.up()
        })
        .unwrap()
    });
    netns.set_up("wgq0", "mtu 1420");
    netns.ip(&format!("address add 10.0.0.{n}/24 dev wgq0"));
    End { tunnel, flows, netns }
}

fn pair(queues: usize, adopts: bool) -> [End; 2] {
    let near = Netns::new();
    let far = near.far_end(1);
    let [a, b] = [(); 2].map(|()| PrivateKey::generate_with(&SystemRandom));
    let (to_a, to_b) = (a.public_key(), b.public_key());
    [end(near, 1, queues, adopts, a, to_b), end(far, 2, queues, adopts, b, to_a)]
}

/// Sends back what comes, until it is an empty datagram.
fn echo_udp(far: &Netns) -> thread::JoinHandle<()> {
    let socket = far.run(|| UdpSocket::bind(("10.0.0.2", UDP)).unwrap());
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 2000];
        loop {
            let (len, from) = socket.recv_from(&mut buffer).unwrap();
            if len == 0 {
                return;
            }
            socket.send_to(&buffer[..len], from).unwrap();
        }
    })
}

/// Numbered datagrams of some flows, a few of each at a time, so that no socket is full: all come back, in order.
fn converse(near: &Netns, ports: Range<u16>, rounds: u64) {
    /// What is on its way of each flow: of all together, no more than the other socket has room for.
    const AT_ONCE: u64 = 2;
    let sockets: Vec<_> = near.run(move || {
        let open = |port| {
            let socket = UdpSocket::bind(("10.0.0.1", port)).unwrap();
            socket.connect(("10.0.0.2", UDP)).unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            socket
        };
        ports.map(open).collect()
    });
    let mut buffer = [0; 2000];
    for round in 0..rounds {
        for socket in &sockets {
            for number in round * AT_ONCE..(round + 1) * AT_ONCE {
                buffer[..8].copy_from_slice(&number.to_be_bytes());
                socket.send(&buffer[..100 + number as usize % 900]).unwrap();
            }
        }
        for socket in &sockets {
            for expected in round * AT_ONCE..(round + 1) * AT_ONCE {
                let len = socket.recv(&mut buffer).unwrap();
                let number = u64::from_be_bytes(buffer[..8].try_into().unwrap());
                assert_eq!((number, len), (expected, 100 + expected as usize % 900), "lost, or out of order");
            }
        }
    }
}

#[test]
fn each_flow_has_a_queue_and_keeps_its_order() {
    as_root(|| {
        for (queues, adopts) in [(2, false), (3, true)] {
            let [near, far] = pair(queues, adopts);
            let echo = echo_udp(&far.netns);
            // The first waits for a session.
            converse(&near.netns, FIRST..FIRST + 1, 1);
            thread::scope(|scope| {
                for first in (FIRST + 1..).step_by(8).take(4) {
                    let near = &near.netns;
                    scope.spawn(move || converse(near, first..first + 8, 500));
                }
            });
            near.netns.run(|| {
                let socket = UdpSocket::bind(("10.0.0.1", FIRST + 33)).unwrap();
                socket.send_to(&[], ("10.0.0.2", UDP)).unwrap();
            });
            echo.join().unwrap();
            let flows = near.flows.lock().unwrap();
            let used: BTreeSet<_> = flows.values().flatten().copied().collect();
            assert_eq!(used, (0..queues).collect(), "a queue had nothing to read");
            assert!(flows.values().all(|queues| queues.len() == 1), "a flow has changed its queue: {flows:?}");
            // Those that come back have one source port, and are spread nevertheless.
            let back = &far.flows.lock().unwrap()[&UDP];
            assert_eq!(back.len(), queues);
        }
    });
}

/// Sends numbers in both directions at the same time.
fn exchange(stream: &TcpStream) {
    const BYTES: usize = 2 << 20;
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let numbers: Vec<u8> = (0..BYTES / 4).flat_map(|n| (n as u32).to_be_bytes()).collect();
            let mut stream = stream;
            stream.write_all(&numbers).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        let (mut stream, mut bytes) = (stream, Vec::new());
        stream.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), BYTES);
        assert!(bytes.chunks_exact(4).zip(0_u32..).all(|(bytes, n)| bytes == n.to_be_bytes()));
    });
}

#[test]
fn connections_carry_data_in_both_directions() {
    const CONNECTIONS: usize = 8;
    as_root(|| {
        let [near, far] = pair(2, false);
        let listener = far.netns.run(|| TcpListener::bind(("10.0.0.2", TCP)).unwrap());
        thread::scope(|scope| {
            scope.spawn(|| {
                for stream in listener.incoming().take(CONNECTIONS) {
                    let stream = stream.unwrap();
                    scope.spawn(move || exchange(&stream));
                }
            });
            for _ in 0..CONNECTIONS {
                let stream = near.netns.run(|| TcpStream::connect(("10.0.0.2", TCP)).unwrap());
                scope.spawn(move || exchange(&stream));
            }
        });
        for end in [&near, &far] {
            let count = |name| end.tunnel.device().counters().iter().find(|(counter, _)| *counter == name).unwrap().1;
            assert_eq!(["in_replayed", "in_write_failed"].map(count), [0, 0]);
        }
    });
}

#[test]
fn only_queues_of_one_interface_are_adopted() {
    as_root(|| {
        let netns = Netns::new();
        let refused = |fds: Vec<_>| {
            let error = netns.run(move || LinuxTun::adopt_queues(fds, 0).map(drop).unwrap_err());
            (error.kind(), error.to_string())
        };
        let queue = |name| netns.tun(name, MULTI_QUEUE);
        for (fds, text) in [
            (Vec::new(), "0 queues"),
            ((0..=MAX_QUEUES).map(|_| queue("wgq0")).collect(), "9 queues"),
            (vec![queue("wgq0"), queue("wgq1")], "is one of wgq1, and not a queue of wgq0"),
            (vec![netns.tun("wgq2", libc::IFF_TUN), queue("wgq0")], "not a queue of an interface with several"),
        ] {
            let (kind, error) = refused(fds);
            assert!(kind == ErrorKind::Invalid && error.contains(text), "{error}");
        }
        // Of one queue alone anything is taken, and replaced; of several nothing is.
        let fd = netns.tun("wgq3", libc::IFF_TUN);
        let one = netns.run(move || LinuxTun::adopt_queues([fd], 0).unwrap());
        assert!(one.queues().is_empty());
        one.replace(netns.tun("wgq4", libc::IFF_TUN), 0).unwrap();
        let several = netns.run(|| LinuxTun::create_with_queues("wgq5", 2).unwrap());
        assert_eq!(several.queues().len(), 1);
        let error = several.replace(netns.tun("wgq6", libc::IFF_TUN), 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        for number in [0, MAX_QUEUES + 1] {
            assert_eq!(LinuxTun::create_with_queues("wgq7", number).map(drop).unwrap_err().kind(), ErrorKind::Invalid);
        }
    });
}

/// The kernel would let a second program join, and take a part of the packets.
#[test]
fn an_interface_with_several_queues_that_is_in_use_is_refused_and_unchanged() {
    as_root(|| {
        let netns = Netns::new();
        netns.ip("tuntap add dev wgq1 mode tun multi_queue");
        for (name, remains) in [("wgq0", false), ("wgq1", true)] {
            let open = || netns.run(move || LinuxTun::create_with_queues(name, 2));
            let first = open().unwrap();
            netns.ip(&format!("link set {name} mtu 1300 txqueuelen 300"));
            let error = open().map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Exists, "{error}");
            let told = netns.ip(&format!("link show {name}"));
            assert!(told.contains("mtu 1300") && told.contains("qlen 300"), "{told}");
            drop(first);
            assert_eq!(netns.ip("link").contains(name), remains);
            open().unwrap();
        }
        // Of another kind.
        let error = netns.run(|| LinuxTun::create_with_queues("lo", 2).map(drop).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Exists);
    });
}

#[test]
fn the_default_memory_is_enough_for_five_queues_and_twice_of_it_for_all() {
    as_root(|| {
        let netns = Netns::new();
        for (queues, memory, suffices) in [(5, 4 << 20, true), (6, 4 << 20, false), (MAX_QUEUES, 8 << 20, true)] {
            let started = netns.run(move || {
                let tun = LinuxTun::create_with_queues("wgq0", queues).unwrap();
                let options = Options { memory, workers: Some(0), ..Options::default() };
                Tunnel::start(Arc::new(tun), Arc::new(UdpBind::new().unwrap()), options).map(drop)
            });
            assert_eq!(started.map_err(|error| error.kind()), if suffices { Ok(()) } else { Err(ErrorKind::Invalid) });
        }
    });
}

/// The end of an interface ends all its queues.
#[test]
fn a_tunnel_whose_interface_is_removed_ends() {
    as_root(|| {
        let [near, far] = pair(4, false);
        near.netns.ip("link delete wgq0");
        assert!(!near.tunnel.wait().to_string().is_empty());
        far.tunnel.stop().unwrap();
    });
}
