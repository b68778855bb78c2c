//! The interface of a link-local endpoint, which may come and go.

use std::{io, net::Ipv6Addr};

use super::*;
use wg_embed::bind::{Bind, RecvBatch, SendReport, Transmit, Woken, mem::MemBind};

const PEER: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2));

fn endpoint_on_usb0() -> Option<PeerEndpoint> {
    Some(format!("[{PEER}%usb0]:{PORT}").parse().unwrap())
}

/// Sockets of a host whose interfaces have these names and numbers.
struct Interfaces {
    bind: Arc<MemBind>,
    numbers: Arc<Mutex<HashMap<String, u32>>>,
}

impl Bind for Interfaces {
    fn open(&self, port: u16) -> io::Result<u16> {
        self.bind.open(port)
    }

    fn close(&self) {
        self.bind.close();
    }

    fn set_mark(&self, mark: u32) -> io::Result<()> {
        self.bind.set_mark(mark)
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<Woken> {
        self.bind.wait(timeout)
    }

    fn wake(&self) {
        self.bind.wake();
    }

    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        self.bind.recv(batch)
    }

    fn send(&self, batch: &[Transmit<'_>]) -> SendReport {
        self.bind.send(batch)
    }

    fn zone_index(&self, zone: &str) -> Option<u32> {
        self.numbers.lock().unwrap().get(zone).copied()
    }
}

/// A node, and a peer of it behind the interface `usb0`, which does not answer.
struct Host {
    world: World,
    node: Node,
    peer: Node,
    numbers: Arc<Mutex<HashMap<String, u32>>>,
}

impl Host {
    fn new() -> Self {
        let world = World::new();
        let numbers = Arc::<Mutex<HashMap<_, _>>>::default();
        let table = numbers.clone();
        let node = world.node_of(1, Options::default(), |bind| Arc::new(Interfaces { bind, numbers: table }));
        let peer = world.node(2);
        node.bind.add_address("fe80::1".parse().unwrap());
        node.add_peer(&peer, |peer| peer.endpoint = endpoint_on_usb0());
        Self { world, node, peer, numbers }
    }

    /// The interface is created, in place of another one, or removed.
    fn set(&self, number: Option<u32>) {
        let mut numbers = self.numbers.lock().unwrap();
        numbers.clear();
        numbers.extend(number.map(|number| ("usb0".to_owned(), number)));
    }

    /// The interfaces that the node sends to the peer by during this time.
    fn used(&self, time: Duration) -> Vec<u32> {
        let sent = self.world.watch(time, &[&self.node, &self.peer]);
        let to = sent.into_iter().filter(|(_, d)| d.from.ip() != PEER).map(|(_, d)| d.to);
        to.map(|to| if let SocketAddr::V6(to) = to { to.scope_id() } else { 0 }).collect()
    }
}

#[test]
fn an_interface_that_appears_later_is_used_by_the_next_attempt() {
    let host = Host::new();
    host.node.send_to(&host.peer, 100);
    assert_eq!(host.used(S(1)), [0]);
    host.set(Some(7));
    assert_eq!(host.used(S(6)), [7]);
    host.set(None);
    assert_eq!(host.used(S(6)), [7], "there is no better one");
    host.set(Some(9));
    assert_eq!(host.used(S(6)), [9]);
    let zone = host.node.peer(&host.peer.public()).endpoint.unwrap().zone;
    assert_eq!(zone.as_deref(), Some("usb0"), "it is printed as configured");
}

/// Each packet may begin the next attempt, before the timer does.
#[test]
fn traffic_does_not_hide_that_the_interface_is_another_one() {
    let host = Host::new();
    host.set(Some(7));
    host.node.change_peer(&host.peer, |peer| peer.endpoint = endpoint_on_usb0());
    let mut used = Vec::new();
    for second in 0..20 {
        host.set(Some(if second < 3 { 7 } else { 9 }));
        host.node.send_to(&host.peer, 100);
        used.extend(host.used(S(1)));
    }
    let (first, later) = used.split_first().unwrap();
    assert!(*first == 7 && later.len() >= 2 && later.iter().all(|number| *number == 9), "{used:?}");
}

#[test]
fn new_sockets_use_the_interface_at_once() {
    let host = Host::new();
    host.node.change_peer(&host.peer, |peer| peer.persistent_keepalive = Some(25));
    assert_eq!(host.used(S(1)), [0]);
    host.node.device.pause();
    host.set(Some(7));
    host.node.device.resume().unwrap();
    assert_eq!(host.used(S(1)), [7]);
}

#[test]
fn a_session_goes_on_by_another_interface_with_new_sockets() {
    let host = Host::new();
    host.set(Some(7));
    host.peer.bind.add_address(PEER);
    host.peer.add_peer(&host.node, |peer| peer.endpoint = None);
    host.node.change_peer(&host.peer, |peer| peer.endpoint = endpoint_on_usb0());
    // Or else the zone would be that which the peer is heard from.
    host.node.device.disable_roaming();
    host.node.send_to(&host.peer, 100);
    assert_eq!(host.used(S(1)), [7, 7]);
    assert_eq!(host.peer.received().len(), 1);
    host.set(Some(9));
    host.node.device.rebind().unwrap();
    assert_eq!(host.used(S(1)), [9]);
}
