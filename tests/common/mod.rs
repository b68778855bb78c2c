//! What device tests share: a clock turned by hand, a network in memory, and nodes that are whole devices without
//! threads.
#![allow(dead_code, unreachable_pub, reason = "each test crate uses a part of it")]

pub mod around;
pub mod raw;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use wg_embed::{
    bind::{
        Bind,
        mem::{Datagram, MemBind, MemNetwork},
    },
    config::{AllowedIpUpdate, PeerUpdate, Update, snapshot::PeerSnapshot},
    device::{Device, Event, Inbound, Options, Outbound},
    key::{PrivateKey, PublicKey},
    random::{Random, SystemRandom},
    time::{Clock, Instant, ManualClock},
    tun::mem::{MemHandle, MemTun},
};

/// The MTU of every node's interface.
pub const MTU: u16 = 1420;
/// The UDP port of every node.
pub const PORT: u16 = 51820;

/// A network, a clock, and what was sent on the network.
pub struct World {
    pub clock: Arc<ManualClock>,
    pub net: MemNetwork,
}

/// A device, its ends, and its configuration.
pub struct Node {
    pub device: Device,
    pub tun: MemHandle,
    pub bind: Arc<MemBind>,
    pub private: PrivateKey,
    pub address: IpAddr,
    pub inner: IpAddr,
    pub events: Arc<Mutex<Vec<Event>>>,
    outbound: Mutex<Outbound>,
    inbound: Mutex<Inbound>,
}

impl World {
    pub fn new() -> Self {
        let net = MemNetwork::new();
        net.record();
        Self { clock: Arc::new(ManualClock::new()), net }
    }

    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// A node that is up, with a key and no peers: number `n` is 192.0.2.n outside and 10.0.0.n inside.
    pub fn node(&self, n: u8) -> Node {
        self.node_with(n, Arc::new(SystemRandom))
    }

    /// A node with a random source of its own.
    pub fn node_with(&self, n: u8, random: Arc<dyn Random>) -> Node {
        self.node_of(n, Options { random, ..Options::default() }, |bind| bind)
    }

    /// A node whose clock and events are the world's, and whose other options are these; the device's bind is what
    /// `wrap` makes of that of the network.
    pub fn node_of(&self, n: u8, options: Options, wrap: impl FnOnce(Arc<MemBind>) -> Arc<dyn Bind>) -> Node {
        self.node_with_key(n, PrivateKey::generate_with(&SystemRandom), options, wrap)
    }

    /// The same with this private key.
    pub fn node_with_key(
        &self,
        n: u8,
        private: PrivateKey,
        options: Options,
        wrap: impl FnOnce(Arc<MemBind>) -> Arc<dyn Bind>,
    ) -> Node {
        let address = IpAddr::from([192, 0, 2, n]);
        let (tun, handle) = MemTun::new(&format!("wg{n}"), MTU);
        let bind = self.net.bind(address);
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = events.clone();
        let options =
            Options { clock: self.clock.clone(), events: Box::new(move |e| sink.lock().unwrap().push(e)), ..options };
        let device = Device::new(Arc::new(tun), wrap(bind.clone()), options);
        let node = Node {
            device,
            tun: handle,
            bind,
            private: private.clone(),
            address,
            inner: IpAddr::from([10, 0, 0, n]),
            events,
            outbound: Mutex::new(Outbound::new()),
            inbound: Mutex::new(Inbound::new()),
        };
        node.apply(Update { private_key: Some(Some(private)), listen_port: Some(PORT), ..Update::default() });
        node.device.up().unwrap();
        node
    }

    /// Two nodes that know each other.
    pub fn pair(&self) -> (Node, Node) {
        let (a, b) = (self.node(1), self.node(2));
        a.add_peer(&b, |_| {});
        b.add_peer(&a, |_| {});
        (a, b)
    }

    /// Lets every node do what it can do now, until nothing is left to do.
    pub fn settle(&self, nodes: &[&Node]) {
        while nodes.iter().map(|n| n.step()).sum::<usize>() > 0 {}
    }

    /// Lets time pass, from deadline to deadline.
    pub fn pass(&self, time: Duration, nodes: &[&Node]) {
        let end = self.now() + time;
        self.settle(nodes);
        while let Some(at) = nodes.iter().filter_map(|n| n.device.next_deadline()).min().filter(|at| *at <= end) {
            self.clock.advance_to(at);
            nodes.iter().for_each(|n| n.device.run_timers());
            self.settle(nodes);
        }
        self.clock.advance_to(end);
    }

    /// The same; what was sent meanwhile, and when, counted from the beginning.
    pub fn watch(&self, time: Duration, nodes: &[&Node]) -> Vec<(Duration, Datagram)> {
        let start = self.now();
        let end = start + time;
        let mut seen = Vec::new();
        loop {
            self.settle(nodes);
            let at = self.now().since(start);
            seen.extend(self.sent().into_iter().map(|d| (at, d)));
            let next = nodes.iter().filter_map(|n| n.device.next_deadline()).min();
            let Some(next) = next.filter(|at| *at <= end) else { break };
            self.clock.advance_to(next);
            nodes.iter().for_each(|n| n.device.run_timers());
        }
        self.clock.advance_to(end);
        seen
    }

    /// What was sent since this was asked last.
    pub fn sent(&self) -> Vec<Datagram> {
        self.net.take_log()
    }

    /// The same, as types: 1 initiation, 2 response, 3 cookie reply, 4 data, 0 keepalive.
    pub fn sent_types(&self) -> Vec<u8> {
        self.sent().iter().map(|d| kind(&d.payload)).collect()
    }
}

/// When, in [`World::watch`], a node sent messages of a type.
pub fn times(seen: &[(Duration, Datagram)], from: &Node, of: u8) -> Vec<Duration> {
    seen.iter().filter(|(_, d)| d.from.ip() == from.address && kind(&d.payload) == of).map(|(at, _)| *at).collect()
}

/// The prefix is given to a peer.
pub fn give(prefix: &str) -> AllowedIpUpdate {
    AllowedIpUpdate::add(prefix.parse().unwrap())
}

/// The prefix is taken from a peer.
pub fn take(prefix: &str) -> AllowedIpUpdate {
    AllowedIpUpdate::remove(prefix.parse().unwrap())
}

/// The type of a message; 0 for a keepalive.
pub fn kind(message: &[u8]) -> u8 {
    if message.len() == 32 { 0 } else { message[0] }
}

impl Node {
    pub fn public(&self) -> PublicKey {
        self.private.public_key()
    }

    pub fn apply(&self, update: Update) {
        self.device.apply(update).unwrap();
    }

    /// Makes `other` a peer: its endpoint, its inner address, and what `change` adds.
    pub fn add_peer(&self, other: &Node, change: impl FnOnce(&mut PeerUpdate)) {
        let mut peer = PeerUpdate::new(other.public());
        peer.endpoint = Some(std::net::SocketAddr::new(other.address, PORT).into());
        peer.allowed_ips = vec![AllowedIpUpdate::add(other.inner.into())];
        change(&mut peer);
        self.apply(Update { peers: vec![peer], ..Update::default() });
    }

    /// Changes a peer that is there.
    pub fn change_peer(&self, other: &Node, change: impl FnOnce(&mut PeerUpdate)) {
        let mut peer = PeerUpdate::new(other.public());
        change(&mut peer);
        self.apply(Update { peers: vec![peer], ..Update::default() });
    }

    /// Does what can be done now; returns how much that was.
    pub fn step(&self) -> usize {
        let out = self.device.outbound(&mut self.outbound.lock().unwrap()).unwrap();
        out + self.receive() + self.device.resolve_names()
    }

    /// The same in one direction only.
    pub fn receive(&self) -> usize {
        self.device.inbound(&mut self.inbound.lock().unwrap()).unwrap()
    }

    /// Hands an inner packet for `other` to the interface.
    pub fn send_to(&self, other: &Node, len: usize) -> Vec<u8> {
        let packet = ipv4(self.inner, other.inner, len);
        assert!(self.tun.inject(&packet));
        packet
    }

    /// The packets that the interface got since this was asked last.
    pub fn received(&self) -> Vec<Vec<u8>> {
        self.tun.take_written()
    }

    /// What the device says about a peer.
    pub fn peer(&self, key: &PublicKey) -> PeerSnapshot {
        self.device.snapshot().peers.flatten().find(|p| p.public_key == *key).expect("the peer is there")
    }

    pub fn stat(&self, name: &str) -> u64 {
        self.device.stats().iter().find(|s| s.0 == name).unwrap_or_else(|| panic!("no counter {name}")).1
    }
}

/// An IPv4 packet of `len` bytes, with protocol number 253 (RFC 3692).
pub fn ipv4(src: IpAddr, dst: IpAddr, len: usize) -> Vec<u8> {
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (src, dst) else { panic!("IPv4 only") };
    let mut packet = vec![0; len.max(20)];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    (packet[8], packet[9]) = (64, 253);
    packet[12..16].copy_from_slice(&src.octets());
    packet[16..20].copy_from_slice(&dst.octets());
    for (i, byte) in packet[20..].iter_mut().enumerate() {
        *byte = i as u8;
    }
    set_tos(&mut packet, 0);
    packet
}

/// An IPv6 packet of `len` bytes, with next header 253.
pub fn ipv6(src: IpAddr, dst: IpAddr, len: usize) -> Vec<u8> {
    let (IpAddr::V6(src), IpAddr::V6(dst)) = (src, dst) else { panic!("IPv6 only") };
    let mut packet = vec![0; len.max(40)];
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&(len as u16 - 40).to_be_bytes());
    (packet[6], packet[7]) = (253, 64);
    packet[8..24].copy_from_slice(&src.octets());
    packet[24..40].copy_from_slice(&dst.octets());
    packet
}

/// Sets the TOS or traffic class of an inner packet.
pub fn set_tos(packet: &mut [u8], tos: u8) {
    if packet[0] >> 4 == 6 {
        packet[0] = 0x60 | tos >> 4;
        packet[1] = packet[1] & 15 | tos << 4;
        return;
    }
    packet[1] = tos;
    packet[10..12].fill(0);
    let sum: u32 = packet[..20].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    packet[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
}
