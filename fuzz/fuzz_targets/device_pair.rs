//! Two devices, and a network that loses, doubles, delays, damages and repeats what they send, and forges more: no
//! packet arrives twice or changed, memory stays bounded, and when the network is well again packets flow.
//!
//! The input is a row of operations: a byte that chooses one and a device, and its parameters.
#![no_main]

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use libfuzzer_sys::fuzz_target;
use wg_embed::{
    Options, PresharedKey, PrivateKey, Update,
    bind::mem::{Action, Datagram},
};
use wg_embed_fuzz::{
    Input, Numbers,
    common::{Node, PORT, World, ipv4},
    ip,
};

const MAX_OPERATIONS: usize = 40;
/// The number of datagrams that the attacker remembers.
const MAX_SEEN: usize = 64;

static KEYS: LazyLock<[PrivateKey; 2]> = LazyLock::new(|| {
    let random = Numbers::new(9);
    [(); 2].map(|()| PrivateKey::generate_with(&random))
});

/// What the network does with the datagrams to come, each two bytes; it delivers those behind the end.
type Fates = Arc<Mutex<VecDeque<[u8; 2]>>>;

struct Pair {
    world: World,
    nodes: [Node; 2],
    preshared: Option<PresharedKey>,
    fates: Fates,
    /// What the attacker has seen.
    seen: VecDeque<Datagram>,
    /// Inner packets: each with the device that it is for, and whether it has arrived.
    sent: Vec<(Vec<u8>, usize, bool)>,
}

fn fate(fates: &Fates, datagram: &mut Datagram) -> Action {
    let Some([kind, value]) = fates.lock().unwrap().pop_front() else { return Action::Deliver };
    match kind % 8 {
        0 => Action::Drop,
        1 => Action::Duplicate,
        2 => Action::Hold,
        3 => {
            let len = datagram.payload.len();
            datagram.payload[usize::from(value) % len] ^= kind >> 3 | 1;
            Action::Deliver
        }
        4 => {
            datagram.payload.truncate(usize::from(value));
            Action::Deliver
        }
        5 => {
            datagram.tos = value;
            Action::Deliver
        }
        _ => Action::Deliver,
    }
}

impl Pair {
    fn new() -> Self {
        let world = World::new();
        let mut number = 0;
        let nodes = [(); 2].map(|()| {
            number += 1;
            let options = Options { random: Arc::new(Numbers::new(9 + u64::from(number))), ..Options::default() };
            world.node_with_key(number, KEYS[usize::from(number) - 1].clone(), options, |bind| bind)
        });
        let fates = Fates::default();
        let shared = fates.clone();
        world.net.set_filter(move |datagram| fate(&shared, datagram));
        let pair = Self { world, nodes, preshared: None, fates, seen: VecDeque::new(), sent: Vec::new() };
        (0..2).for_each(|at| pair.introduce(at));
        pair
    }

    /// Makes the other device a peer.
    fn introduce(&self, at: usize) {
        let preshared = self.preshared.clone();
        self.nodes[at].add_peer(&self.nodes[1 - at], |peer| peer.preshared_key = preshared.map(Box::new));
    }

    fn send(&mut self, at: usize, len: usize) {
        let (from, to) = (&self.nodes[at], &self.nodes[1 - at]);
        let mut packet = ipv4(from.inner, to.inner, 24 + len);
        packet[20..24].copy_from_slice(&(self.sent.len() as u32).to_be_bytes());
        from.tun.inject(&packet);
        self.sent.push((packet, 1 - at, false));
    }

    fn pass(&mut self, time: Duration) {
        let [a, b] = &self.nodes;
        self.world.pass(time, &[a, b]);
        self.check();
    }

    /// Lets the devices work, and checks what has arrived.
    fn check(&mut self) {
        let [a, b] = &self.nodes;
        self.world.settle(&[a, b]);
        for (at, node) in self.nodes.iter().enumerate() {
            for packet in node.received() {
                let number = u32::from_be_bytes(packet[20..24].try_into().unwrap());
                let (sent, to, has_arrived) = &mut self.sent[number as usize];
                assert_eq!((&packet, at), (&*sent, *to));
                assert!(!std::mem::replace(has_arrived, true), "packet {number} arrived twice");
            }
            // Three sessions and a handshake.
            assert!(node.device.indices() <= 4);
            let usage = node.device.memory_usage();
            assert!(usage.staged <= usage.limit && usage.peers < 64 << 10, "{usage:?}");
        }
        self.seen.extend(self.world.sent());
        self.seen.drain(..self.seen.len().saturating_sub(MAX_SEEN));
    }

    /// Sends again what was seen, maybe from another address and changed.
    fn replay(&self, number: u8, place: u8, change: u8) {
        let Some(datagram) = self.seen.iter().rev().nth(number.into()) else { return };
        let mut payload = datagram.payload.clone();
        let len = payload.len();
        payload[usize::from(place) % len] ^= change;
        let from = if place & 0x80 == 0 { datagram.from } else { SocketAddr::new(ip("198.51.100.1"), PORT) };
        self.world.net.inject(from, datagram.to, &payload, 0);
    }

    fn run(&mut self, kind: u8, input: &mut Input<'_>) {
        let at = usize::from(kind & 1);
        let (node, other) = (&self.nodes[at], &self.nodes[1 - at]);
        match kind >> 1 & 15 {
            0 | 1 => (0..=kind >> 5).for_each(|_| self.send(at, usize::from(input.byte()) * 4)),
            2 => self.pass(Duration::from_millis(u64::from(input.word()))),
            3 => self.pass(Duration::from_secs(u64::from(input.byte()))),
            4 | 5 => {
                let fates = (0..=kind >> 5).map(|_| [input.byte(), input.byte()]);
                self.fates.lock().unwrap().extend(fates);
            }
            6 => self.world.net.release(),
            7 | 8 => self.replay(input.byte() % 16, input.byte(), if kind & 0x80 == 0 { 0 } else { input.byte() }),
            9 => {
                let len = usize::from(input.byte());
                let to = SocketAddr::new(node.address, PORT);
                self.world.net.inject(SocketAddr::new(other.address, PORT), to, input.bytes(len), kind);
            }
            10 => {
                node.device.down();
                node.device.up().unwrap();
            }
            11 => {
                node.change_peer(other, |peer| peer.remove = true);
                self.introduce(at);
            }
            12 => {
                let key = PresharedKey::from_bytes([input.byte(); 32]);
                for (node, other) in [(node, other), (other, node)] {
                    node.change_peer(other, |peer| peer.preshared_key = Some(Box::new(key.clone())));
                }
                self.preshared = Some(key);
            }
            13 => node.change_peer(other, |peer| peer.persistent_keepalive = Some(u16::from(kind >> 5) * 5)),
            14 => {
                for key in [None, Some(KEYS[at].clone())] {
                    node.apply(Update { private_key: Some(key), ..Update::default() });
                }
            }
            _ => self.world.clock.sleep(Duration::from_secs(u64::from(input.byte()))),
        }
        self.check();
    }

    /// On a network that delivers everything, packets arrive in both directions after a while.
    fn heal(&mut self) {
        self.world.net.clear_filter();
        self.world.net.release();
        let begun = self.sent.len();
        // Not in the same moment: two initiations that cross undo each other.
        for at in [0, 1].repeat(20) {
            self.send(at, 0);
            self.pass(Duration::from_millis(730));
        }
        let last = &self.sent[begun.max(self.sent.len() - 2)..];
        assert!(last.iter().all(|(.., has_arrived)| *has_arrived), "packets do not arrive");
    }
}

fuzz_target!(|input: &[u8]| {
    let mut input = Input(input);
    let mut pair = Pair::new();
    for _ in 0..MAX_OPERATIONS {
        let Some(kind) = input.next_byte() else { break };
        pair.run(kind, &mut input);
    }
    pair.heal();
});
