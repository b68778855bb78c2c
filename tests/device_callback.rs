//! Tunnels whose packets and datagrams are an app's: functions take them, and put them in from any thread.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Condvar, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use common::{PORT, give, ipv4};
use wg_embed::{
    bind::{
        Endpoint,
        callback::{CallbackBind, Datagram, DatagramInlet},
    },
    config::{PeerUpdate, Update},
    device::{Options, Tunnel},
    key::PrivateKey,
    queue::PacketQueue,
    random::SystemRandom,
    tun::{
        PacketList,
        callback::{CallbackTun, PacketInlet, PacketSink},
    },
};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a node's datagrams go into, once there is one.
type Wire = Arc<OnceLock<DatagramInlet>>;

struct Node {
    tunnel: Tunnel,
    packets: PacketInlet,
    datagrams: DatagramInlet,
    private: PrivateKey,
    number: u8,
}

fn outer(number: u8) -> SocketAddr {
    (IpAddr::from([192, 0, 2, number]), PORT).into()
}

fn inner(number: u8) -> IpAddr {
    [10, 0, 0, number].into()
}

/// As many of `n` as `left` allows, and `left` less that number. How often it is called for how many depends on
/// threads, so a limit for each call would not be a limit of anything.
fn allowed(left: &AtomicUsize, n: usize) -> usize {
    left.fetch_update(Relaxed, Relaxed, |left| Some(left.saturating_sub(n))).unwrap().min(n)
}

/// A node whose datagrams go into `wire`, as many as `sends` allows.
fn node(number: u8, wire: Wire, sends: &'static AtomicUsize, sink: impl PacketSink + 'static) -> Node {
    let bind = CallbackBind::new(1 << 20, move |datagrams: &mut dyn Iterator<Item = Datagram<'_>>| {
        let endpoint = Endpoint::new(outer(number));
        let mut arriving: Vec<_> = datagrams.map(|d| Datagram::new(endpoint, d.payload).with_tos(d.tos)).collect();
        arriving.truncate(allowed(sends, arriving.len()));
        wire.get().map_or(0, |wire| wire.deliver(arriving))
    });
    let tun = CallbackTun::with_sink("", 1420, PacketQueue::within(1 << 20), sink);
    let (packets, datagrams) = (tun.inlet(), bind.inlet());
    let private = PrivateKey::generate_with(&SystemRandom);
    let update = Update { private_key: Some(Some(private.clone())), ..Update::default() };
    let tunnel = Tunnel::start_with(Arc::new(tun), Arc::new(bind), Options::default(), |device| {
        device.apply(update)?;
        device.up()
    });
    Node { tunnel: tunnel.unwrap(), packets, datagrams, private, number }
}

impl Node {
    fn meet(&self, other: &Self) {
        let mut peer = PeerUpdate::new(other.private.public_key());
        peer.endpoint = Some(outer(other.number).into());
        peer.allowed_ips = vec![give(&format!("{}/32", inner(other.number)))];
        self.tunnel.device().apply(Update { peers: vec![peer], ..Update::default() }).unwrap();
    }

    fn stat(&self, name: &str) -> u64 {
        self.tunnel.device().stats().iter().find(|s| s.0 == name).unwrap().1
    }
}

/// A packet from node 1 to node 2 with these two numbers in it.
fn packet(from: u8, thread: u8, number: u16) -> Vec<u8> {
    let mut packet = ipv4(inner(from), inner(3 - from), 200);
    packet[20] = thread;
    packet[21..23].copy_from_slice(&number.to_be_bytes());
    packet
}

/// What has come out, for others to wait for.
#[derive(Default)]
struct Counter {
    count: Mutex<usize>,
    changed: Condvar,
}

impl Counter {
    fn add(&self, n: usize) {
        *self.count.lock().unwrap() += n;
        self.changed.notify_all();
    }

    fn get(&self) -> usize {
        *self.count.lock().unwrap()
    }

    fn wait_for(&self, least: usize) {
        let count = self.count.lock().unwrap();
        let (_count, late) = self.changed.wait_timeout_while(count, PATIENCE, |n| *n < least).unwrap();
        assert!(!late.timed_out(), "{least} did not come");
    }
}

static ALL: AtomicUsize = AtomicUsize::new(usize::MAX);

#[test]
fn packets_of_many_threads_come_back_until_the_tunnel_stops() {
    const THREADS: usize = 3;
    const EACH: u16 = 1000;
    let (to_a, to_b) = (Wire::default(), Wire::default());
    let answers: Arc<[Counter; THREADS]> = Arc::default();
    let a = {
        let answers = answers.clone();
        node(1, to_b.clone(), &ALL, move |packets: PacketList<'_>| {
            packets.iter().for_each(|packet| answers[usize::from(packet[20])].add(1));
            packets.ranges.len()
        })
    };
    // Node 2 sends each packet back, from inside its function.
    let back = Arc::new(OnceLock::<PacketInlet>::new());
    let b = {
        let back = back.clone();
        node(2, to_a.clone(), &ALL, move |packets: PacketList<'_>| {
            let answers =
                packets.iter().map(|p| packet(2, p[20], u16::from_be_bytes([p[21], p[22]]))).collect::<Vec<_>>();
            back.get().map_or(0, |inlet| inlet.inject(answers.iter().map(Vec::as_slice)))
        })
    };
    back.set(b.packets.clone()).unwrap();
    to_a.set(a.datagrams.clone()).unwrap();
    to_b.set(b.datagrams.clone()).unwrap();
    a.meet(&b);
    b.meet(&a);
    thread::scope(|s| {
        for (thread, answered) in (0..).zip(&*answers) {
            let inlet = a.packets.clone();
            s.spawn(move || {
                for number in 0..EACH {
                    assert_eq!(inlet.inject([&*packet(1, thread, number)]), 1);
                    // A few on their way, not more than the queues hold.
                    answered.wait_for(usize::from(number.saturating_sub(20)));
                }
                answered.wait_for(usize::from(EACH));
            });
        }
    });
    let flooding = AtomicUsize::new(1);
    thread::scope(|s| {
        for thread in 0..THREADS as u8 {
            let (inlet, flooding) = (a.packets.clone(), &flooding);
            s.spawn(move || {
                while flooding.load(Relaxed) == 1 {
                    inlet.inject([&*packet(1, thread, 0); 64]);
                }
            });
        }
        thread::sleep(Duration::from_millis(30));
        a.tunnel.stop().unwrap();
        let after = answers.each_ref().map(Counter::get);
        thread::sleep(Duration::from_millis(30));
        assert_eq!(answers.each_ref().map(Counter::get), after, "nothing comes after the end");
        flooding.store(0, Relaxed);
    });
}

#[test]
fn what_an_app_does_not_take_is_counted() {
    static SENDS: AtomicUsize = AtomicUsize::new(usize::MAX);
    let (to_a, to_b) = (Wire::default(), Wire::default());
    let (came, takes) = (Arc::<Counter>::default(), Arc::new(AtomicUsize::new(usize::MAX)));
    let a = node(1, to_b.clone(), &SENDS, |packets: PacketList<'_>| packets.ranges.len());
    let b = {
        let (came, takes) = (came.clone(), takes.clone());
        node(2, to_a.clone(), &ALL, move |packets: PacketList<'_>| {
            // In this order: when the first has come, it has used what it uses of `takes`.
            let taken = allowed(&takes, packets.ranges.len());
            came.add(packets.ranges.len());
            taken
        })
    };
    to_a.set(a.datagrams.clone()).unwrap();
    to_b.set(b.datagrams.clone()).unwrap();
    a.meet(&b);
    b.meet(&a);
    let packet = packet(1, 0, 0);
    assert_eq!(a.packets.inject([&*packet]), 1);
    came.wait_for(1);

    // Of 100 datagrams the transport sends 60; of these 60 packets the app takes 10.
    SENDS.store(60, Relaxed);
    takes.store(10, Relaxed);
    assert_eq!(a.packets.inject([&*packet; 100]), 100);
    came.wait_for(61);
    for (node, counter, expected) in [(&a, "out_send_failed", 40), (&b, "in_write_failed", 50)] {
        // It is counted after the function has returned.
        let limit = Instant::now() + PATIENCE;
        while node.stat(counter) != expected {
            assert!(Instant::now() < limit, "{counter} is {}", node.stat(counter));
            thread::sleep(Duration::from_millis(1));
        }
    }
}
