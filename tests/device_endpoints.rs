//! Peers that are known by a host name: when it is looked up, which of its addresses is used, and NAT64.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use common::{Node, PORT, World, kind};
use wg_embed::{
    Error, ErrorKind,
    bind::{Family, mem::Datagram},
    config::{EndpointAddr, PeerEndpoint, PeerUpdate, Update},
    device::{Event, Options},
    time::{Clock, Instant},
};

const S: fn(u64) -> Duration = Duration::from_secs;
/// Added to each wait for an answer to a handshake, at most.
const JITTER: Duration = Duration::from_millis(334);

type Asked = (Duration, String);
type Hook = Box<dyn FnOnce() + Send>;

/// A resolver with a list of names, which writes down what it is asked.
#[derive(Clone)]
struct Book(Arc<Mutex<Pages>>);

struct Pages {
    clock: Arc<dyn Clock>,
    start: Instant,
    entries: HashMap<String, Vec<IpAddr>>,
    asked: Vec<Asked>,
    /// What happens during the next look-up.
    meanwhile: Option<Hook>,
}

impl Book {
    fn new(world: &World) -> Self {
        let (clock, start) = (world.clock.clone(), world.now());
        let (entries, asked, meanwhile) = (HashMap::new(), Vec::new(), None);
        Self(Arc::new(Mutex::new(Pages { clock, start, entries, asked, meanwhile })))
    }

    fn set(&self, host: &str, ips: &[&str]) {
        let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        self.0.lock().unwrap().entries.insert(host.into(), ips);
    }

    fn remove(&self, host: &str) {
        self.0.lock().unwrap().entries.remove(host);
    }

    fn meanwhile(&self, hook: impl FnOnce() + Send + 'static) {
        self.0.lock().unwrap().meanwhile = Some(Box::new(hook));
    }

    /// What was asked since this was called last, and when, counted from the beginning.
    fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.0.lock().unwrap().asked)
    }

    fn look_up(&self, host: &str) -> Result<Vec<IpAddr>, Error> {
        let hook = {
            let mut pages = self.0.lock().unwrap();
            let at = pages.clock.now().since(pages.start);
            pages.asked.push((at, host.into()));
            pages.meanwhile.take()
        };
        if let Some(hook) = hook {
            hook();
        }
        let found = self.0.lock().unwrap().entries.get(host).cloned();
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, "no such name"))
    }

    fn options(&self) -> Options {
        let book = self.clone();
        Options { resolve: Some(Box::new(move |host| book.look_up(host))), ..Options::default() }
    }
}

const HOST: &str = "b.example";

fn named(host: &str) -> Option<PeerEndpoint> {
    Some(format!("{host}:{PORT}").parse().unwrap())
}

fn at(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), PORT)
}

/// Node 1, which has a resolver, and node 2, which it knows by its name. Both have both families.
fn pair(world: &World, book: &Book) -> (Node, Node) {
    let (a, b) = (world.node_of(1, book.options(), |bind| bind), world.node(2));
    a.bind.add_address("2001:db8::1".parse().unwrap());
    b.bind.add_address("2001:db8::2".parse().unwrap());
    b.add_peer(&a, |peer| peer.endpoint = None);
    a.add_peer(&b, |peer| peer.endpoint = named(HOST));
    (a, b)
}

/// The same, after a first packet.
fn connected(world: &World, book: &Book, ips: &[&str]) -> (Node, Node) {
    book.set(HOST, ips);
    let (a, b) = pair(world, book);
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(b.received().len(), 1);
    world.sent();
    book.asked();
    events(&a);
    (a, b)
}

fn endpoint(node: &Node, of: &Node) -> Option<SocketAddr> {
    node.peer(&of.public()).endpoint.map(|e: EndpointAddr| e.addr)
}

fn events(node: &Node) -> Vec<Event> {
    std::mem::take(&mut *node.events.lock().unwrap())
}

/// Where messages of a type went to.
fn targets(sent: &[Datagram], of: u8) -> Vec<IpAddr> {
    sent.iter().filter(|d| kind(&d.payload) == of).map(|d| d.to.ip()).collect()
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// When names were asked for, in whole seconds.
fn seconds(asked: &[Asked]) -> Vec<u64> {
    asked.iter().map(|(at, _)| at.as_secs()).collect()
}

#[test]
fn packets_wait_for_the_address_and_the_handshake_begins_with_it() {
    let world = World::new();
    let book = Book::new(&world);
    book.set(HOST, &["192.0.2.2"]);
    let (a, b) = pair(&world, &book);
    assert_eq!(endpoint(&a, &b), None);
    let packets = [a.send_to(&b, 100), a.send_to(&b, 200)];
    world.settle(&[&a, &b]);
    assert_eq!(b.received(), packets);
    assert_eq!((book.asked().len(), endpoint(&a, &b)), (1, Some(at("192.0.2.2"))));
    assert_eq!(events(&a)[0], Event::EndpointChanged(b.public(), at("192.0.2.2")));
    assert_eq!((a.stat("out_no_endpoint"), a.stat("out_unstaged")), (0, 0));
    // And back.
    let packet = b.send_to(&a, 100);
    world.settle(&[&a, &b]);
    assert_eq!(a.received(), [packet]);
    world.pass(S(3600), &[&a, &b]);
    assert_eq!(book.asked(), []);
}

#[test]
fn who_has_nothing_to_send_sends_nothing_and_sleeps() {
    let world = World::new();
    let book = Book::new(&world);
    book.set(HOST, &["192.0.2.2"]);
    let (a, b) = pair(&world, &book);
    world.settle(&[&a, &b]);
    assert_eq!((endpoint(&a, &b), world.sent_types(), a.device.next_deadline()), (Some(at("192.0.2.2")), vec![], None));
    // With a keepalive there is something to send.
    a.change_peer(&b, |peer| peer.persistent_keepalive = Some(25));
    world.settle(&[&a, &b]);
    assert_eq!(world.sent_types(), [1, 2, 0]);
}

#[test]
fn without_a_resolver_a_name_is_refused_whole() {
    let world = World::new();
    let (a, b) = (world.node(1), world.node(2));
    let peer = PeerUpdate { endpoint: named(HOST), ..PeerUpdate::new(b.public()) };
    let update = Update { fwmark: Some(7), peers: vec![peer], ..Update::default() };
    assert_eq!(a.device.apply(update).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!((a.device.snapshot().interface.fwmark, a.device.snapshot().peers.count()), (0, 0));
    assert!(!a.device.resolves_names());
}

#[test]
fn a_failed_look_up_is_repeated_only_while_something_waits() {
    let world = World::new();
    let book = Book::new(&world);
    let (a, b) = pair(&world, &book);
    world.pass(S(600), &[&a, &b]);
    assert_eq!(seconds(&book.asked()), [0]);
    assert!(matches!(events(&a).as_slice(), [Event::ResolveFailed(key, why)]
        if *key == b.public() && why == "b.example: no such name"));
    assert_eq!(a.device.next_deadline(), None);
    // A packet that waits is a reason, for as long as a handshake would be tried.
    a.send_to(&b, 100);
    world.pass(S(600), &[&a, &b]);
    assert_eq!(seconds(&book.asked()), [600, 602, 606, 614, 630, 662, 722]);
    assert_eq!((a.stat("out_unstaged"), a.device.next_deadline(), events(&a)), (1, None, vec![]));
    // A keepalive is one for ever.
    a.change_peer(&b, |peer| peer.persistent_keepalive = Some(25));
    world.pass(S(300), &[&a, &b]);
    assert_eq!(seconds(&book.asked()), [1200, 1260, 1320, 1380, 1440, 1500]);
    book.set(HOST, &["192.0.2.2"]);
    world.pass(S(60), &[&a, &b]);
    assert_eq!((seconds(&book.asked()), world.sent_types()[..3].to_vec()), (vec![1560], vec![1, 2, 0]));
    world.pass(S(600), &[&a, &b]);
    assert_eq!(book.asked(), []);
}

#[test]
fn an_answer_for_a_name_that_was_replaced_is_dropped() {
    let world = World::new();
    let book = Book::new(&world);
    let (a, b) = pair(&world, &book);
    let a = Arc::new(a);
    book.set(HOST, &["192.0.2.66"]);
    book.set("c.example", &["192.0.2.2"]);
    let (during, key) = (Arc::downgrade(&a), b.public());
    book.meanwhile(move || {
        let peer = PeerUpdate { endpoint: named("c.example"), ..PeerUpdate::new(key) };
        Weak::upgrade(&during).unwrap().apply(Update { peers: vec![peer], ..Update::default() });
    });
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(book.asked().len(), 2);
    assert_eq!((endpoint(&a, &b), b.received().len()), (Some(at("192.0.2.2")), 1));
    assert_eq!(events(&a)[0], Event::EndpointChanged(b.public(), at("192.0.2.2")), "and it never was elsewhere");

    // By an address, or with the whole peer.
    for remove in [false, true] {
        let (during, key) = (Arc::downgrade(&a), b.public());
        book.meanwhile(move || {
            let endpoint = Some(at("192.0.2.3").into());
            let peer = PeerUpdate { endpoint, remove, ..PeerUpdate::new(key) };
            Weak::upgrade(&during).unwrap().apply(Update { peers: vec![peer], ..Update::default() });
        });
        a.change_peer(&b, |peer| peer.endpoint = named(HOST));
        world.settle(&[&a, &b]);
        let left: Vec<_> = a.device.snapshot().peers.map(|peer| peer.endpoint).collect();
        assert_eq!(left, if remove { vec![] } else { vec![Some(at("192.0.2.3").into())] });
    }
}

#[test]
fn a_name_is_kept_until_another_endpoint_is_configured() {
    let world = World::new();
    let book = Book::new(&world);
    let (a, b) = connected(&world, &book, &["192.0.2.2"]);
    // The same one again: it is looked up again, and the address is not lost meanwhile, whatever comes of that.
    book.remove(HOST);
    a.change_peer(&b, |peer| peer.endpoint = named(HOST));
    assert_eq!(endpoint(&a, &b), Some(at("192.0.2.2")));
    world.settle(&[&a, &b]);
    assert_eq!((book.asked().len(), endpoint(&a, &b)), (1, Some(at("192.0.2.2"))));
    // Another one: the address of the old one is not its.
    a.change_peer(&b, |peer| peer.endpoint = named("c.example"));
    assert_eq!(endpoint(&a, &b), None);
    let packet = a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(world.sent_types(), []);
    book.set("c.example", &["2001:db8::2"]);
    world.pass(S(1), &[&a, &b]);
    assert_eq!((b.received(), endpoint(&a, &b)), (vec![packet], Some(at("2001:db8::2"))));
    book.asked();
    // An address, even if it is the same.
    a.change_peer(&b, |peer| peer.endpoint = Some(at("2001:db8::2").into()));
    a.device.network_changed().unwrap();
    world.settle(&[&a, &b]);
    assert_eq!(book.asked(), []);
}

#[test]
fn an_address_that_does_not_answer_gives_way_to_the_next_one() {
    let world = World::new();
    let book = Book::new(&world);
    book.set(HOST, &["2001:db8::66", "2001:db8::67", "192.0.2.66"]);
    let (a, b) = pair(&world, &book);
    a.send_to(&b, 100);
    let seen = world.watch(S(120), &[&a, &b]);
    let (times, sent): (Vec<_>, Vec<_>) = seen.into_iter().unzip();
    let (x, y, z) = ("2001:db8::66", "192.0.2.66", "2001:db8::67");
    let round = [x, x, y, y, z, z];
    assert_eq!(targets(&sent, 1), ips(&[&round[..], &round, &round, &[x, x]].concat()), "20 tries, families in turn");
    assert!((S(10)..S(10) + 2 * JITTER).contains(&times[2]), "{times:?}");
    // When the handshake is given up, the name is looked up again.
    let asked = book.asked();
    assert_eq!((asked.len(), asked[0].0), (2, S(0)));
    assert!((S(100)..S(107)).contains(&asked[1].0), "{asked:?}");
    assert!(events(&a).contains(&Event::HandshakeFailed(b.public())));
    assert_eq!(endpoint(&a, &b), Some(at(x)));

    // One that answers stays.
    book.set(HOST, &["2001:db8::66", "192.0.2.2", "2001:db8::67"]);
    a.device.network_changed().unwrap();
    let packet = a.send_to(&b, 100);
    world.pass(S(20), &[&a, &b]);
    assert_eq!((b.received(), endpoint(&a, &b)), (vec![packet], Some(at("192.0.2.2"))));
    world.sent();
    a.change_peer(&b, |peer| peer.persistent_keepalive = Some(25));
    let seen: Vec<_> = world.watch(S(600), &[&a, &b]).into_iter().map(|(_, d)| d).collect();
    assert!(targets(&seen, 1).iter().chain(&targets(&seen, 0)).all(|ip| *ip != at(x).ip()));
    assert!(targets(&seen, 1).len() >= 4, "sessions were renewed");
}

#[test]
fn a_family_that_cannot_be_sent_to_is_skipped_at_once() {
    for (blocked, ip) in [(Family::V6, "192.0.2.2"), (Family::V4, "2001:db8::2")] {
        let world = World::new();
        let book = Book::new(&world);
        book.set(
            HOST,
            if blocked == Family::V6 { &["2001:db8::2", "192.0.2.2"] } else { &["192.0.2.2", "2001:db8::2"] },
        );
        let (a, b) = pair(&world, &book);
        a.bind.set_blocked(&[blocked]);
        let packet = a.send_to(&b, 100);
        world.settle(&[&a, &b]);
        assert_eq!((b.received(), endpoint(&a, &b)), (vec![packet], Some(at(ip))));
        assert_eq!(
            events(&a).iter().filter(|e| matches!(e, Event::EndpointChanged(..))).count(),
            2,
            "named, and skipped"
        );
        assert_eq!(a.stat("out_send_failed"), 0);

        // Later too, and a session goes on elsewhere.
        world.sent();
        a.bind.set_blocked(&[if blocked == Family::V6 { Family::V4 } else { Family::V6 }]);
        let packets = [a.send_to(&b, 100), a.send_to(&b, 100)];
        world.settle(&[&a, &b]);
        assert_eq!((b.received(), world.sent_types()), (packets.to_vec(), vec![4, 4]));
        assert_ne!(endpoint(&a, &b), Some(at(ip)));
    }
}

#[test]
fn without_any_route_nothing_is_lost_but_time() {
    let world = World::new();
    let book = Book::new(&world);
    book.set(HOST, &["2001:db8::2", "192.0.2.2"]);
    let (a, b) = pair(&world, &book);
    a.bind.set_send_blocked(true);
    let packet = a.send_to(&b, 100);
    world.pass(S(12), &[&a, &b]);
    assert_eq!((world.sent_types(), b.received().len()), (vec![], 0));
    a.bind.set_send_blocked(false);
    world.pass(S(6), &[&a, &b]);
    assert_eq!(b.received(), [packet]);
}

#[test]
fn a_changed_network_keeps_the_session_if_the_address_stays() {
    let world = World::new();
    let book = Book::new(&world);
    let (a, b) = connected(&world, &book, &["192.0.2.2"]);
    book.set(HOST, &["192.0.2.66", "192.0.2.2"]);
    let opens = a.bind.opens();
    a.device.network_changed().unwrap();
    world.settle(&[&a, &b]);
    assert_eq!((a.bind.opens(), book.asked().len()), (opens + 1, 1));
    assert_eq!((world.sent_types(), endpoint(&a, &b)), (vec![0], Some(at("192.0.2.2"))), "a keepalive on the session");
    assert_eq!(events(&a), []);
    // Nor does it matter that the name cannot be resolved now.
    book.remove(HOST);
    a.device.network_changed().unwrap();
    world.pass(S(5), &[&a, &b]);
    assert_eq!((world.sent_types(), endpoint(&a, &b)), (vec![0], Some(at("192.0.2.2"))));
    assert_eq!((book.asked().len(), a.device.next_deadline().is_some()), (1, true), "only keys to be wiped");
    // But when nothing can be sent there, it is looked up again.
    a.bind.set_blocked(&[Family::V4]);
    book.set(HOST, &["2001:db8::2"]);
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(book.asked().iter().map(|(_, host)| host.as_str()).collect::<Vec<_>>(), ["ipv4only.arpa", HOST]);
    assert_eq!((world.sent_types(), endpoint(&a, &b)), (vec![1, 2, 0], Some(at("2001:db8::2"))));
}

#[test]
fn a_changed_network_makes_a_session_with_another_address() {
    let world = World::new();
    let book = Book::new(&world);
    let (a, b) = connected(&world, &book, &["192.0.2.2"]);
    b.bind.add_address("198.51.100.2".parse().unwrap());
    book.set(HOST, &["198.51.100.2"]);
    world.pass(S(1), &[&a, &b]);
    a.device.network_changed().unwrap();
    world.settle(&[&a, &b]);
    // The handshake may follow the last one at once, as it goes elsewhere.
    assert_eq!(world.sent_types(), [0, 1, 2, 0]);
    assert_eq!(endpoint(&a, &b), Some(at("198.51.100.2")));
    assert_eq!(
        events(&a),
        [Event::EndpointChanged(b.public(), at("198.51.100.2")), Event::HandshakeCompleted(b.public())]
    );
}

#[test]
fn a_changed_network_ends_the_waiting() {
    let world = World::new();
    let book = Book::new(&world);
    let (a, b) = pair(&world, &book);
    a.send_to(&b, 100);
    world.pass(S(40), &[&a, &b]);
    assert_eq!(seconds(&book.asked()), [0, 1, 3, 7, 15, 31]);
    a.device.network_changed().unwrap();
    world.pass(S(4), &[&a, &b]);
    assert_eq!(seconds(&book.asked()), [40, 41, 43], "at once, and then again as at first");
    book.set(HOST, &["192.0.2.2"]);
    a.device.network_changed().unwrap();
    world.settle(&[&a, &b]);
    assert_eq!(b.received().len(), 1);
}

#[test]
fn a_device_that_is_down_asks_nothing_and_asks_when_it_comes_up() {
    let world = World::new();
    let book = Book::new(&world);
    let (a, b) = connected(&world, &book, &["192.0.2.2"]);
    let c = world.node(3);
    // What is waiting to be looked up is looked up no more.
    a.change_peer(&b, |peer| peer.endpoint = named(HOST));
    a.device.pause();
    a.add_peer(&c, |peer| peer.endpoint = named("c.example"));
    a.device.network_changed().unwrap();
    world.pass(S(600), &[&a, &b, &c]);
    assert_eq!((book.asked(), a.device.next_deadline()), (vec![], None));
    book.set(HOST, &["2001:db8::2"]);
    b.bind.set_address("2001:db8::2".parse().unwrap());
    world.sent();
    a.device.resume().unwrap();
    world.settle(&[&a, &b, &c]);
    assert_eq!(book.asked().iter().map(|(_, host)| host.as_str()).collect::<Vec<_>>(), [HOST, "c.example"]);
    assert_eq!(endpoint(&a, &b), Some(at("2001:db8::2")));
    assert_eq!(world.sent_types(), [1, 1, 2, 0], "with the old address, and then at once with the new one");
}

#[test]
fn a_peer_may_roam_away_from_its_name() {
    let world = World::new();
    let book = Book::new(&world);
    let (a, b) = connected(&world, &book, &["192.0.2.2"]);
    b.bind.set_address("198.51.100.9".parse().unwrap());
    b.send_to(&a, 100);
    world.settle(&[&a, &b]);
    assert_eq!(endpoint(&a, &b), Some(at("198.51.100.9")));
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(b.received().len(), 1);
    // If it is not there any more, it may be where its name says.
    b.bind.set_address("192.0.2.2".parse().unwrap());
    world.pass(S(200), &[&b]);
    world.sent();
    let packet = a.send_to(&b, 100);
    world.pass(S(12), &[&a, &b]);
    assert_eq!((b.received(), endpoint(&a, &b)), (vec![packet], Some(at("192.0.2.2"))));

    // Without roaming the peer stays where the name says, and follows only that.
    a.device.disable_roaming();
    b.bind.set_address("198.51.100.9".parse().unwrap());
    b.send_to(&a, 100);
    world.settle(&[&a, &b]);
    assert_eq!((a.received().len(), endpoint(&a, &b)), (2, Some(at("192.0.2.2"))));
    book.set(HOST, &["198.51.100.9"]);
    a.device.network_changed().unwrap();
    world.settle(&[&a, &b]);
    assert_eq!(endpoint(&a, &b), Some(at("198.51.100.9")));
    book.set("c.example", &["198.51.100.8"]);
    for (name, expected) in [(HOST, "198.51.100.9"), ("c.example", "198.51.100.8")] {
        a.change_peer(&b, |peer| peer.endpoint = named(name));
        world.settle(&[&a]);
        b.bind.set_address("192.0.2.2".parse().unwrap());
        b.send_to(&a, 100);
        world.settle(&[&a, &b]);
        assert_eq!((a.received().len(), endpoint(&a, &b)), (1, Some(at(expected))));
    }
}

#[test]
fn peers_of_one_name_are_looked_up_together() {
    let world = World::new();
    let book = Book::new(&world);
    book.set(HOST, &["192.0.2.2"]);
    let a = world.node_of(1, book.options(), |bind| bind);
    let key = |n| wg_embed::key::PublicKey::from_bytes([n; 32]);
    let peers = (1..9).map(|n| PeerUpdate { endpoint: named(HOST), ..PeerUpdate::new(key(n)) }).collect();
    a.apply(Update { peers, ..Update::default() });
    world.settle(&[&a]);
    assert_eq!(book.asked().len(), 1);
    assert!(a.device.snapshot().peers.all(|peer| peer.endpoint == Some(at("192.0.2.2").into())));
}

/// What DNS64 answers in a network with this prefix.
fn with_nat64(book: &Book, prefix: &str) {
    book.set(
        "ipv4only.arpa",
        &["192.0.0.170", "192.0.0.171", &format!("{prefix}c000:aa"), &format!("{prefix}c000:ab")],
    );
}

/// 192.0.2.2 as an IPv6 address of the usual prefix.
const B64: &str = "64:ff9b::c000:202";

#[test]
fn an_ipv4_address_is_reached_through_nat64() {
    for endpoint_of_b in [Some(at("192.0.2.2").into()), named(HOST)] {
        let world = World::new();
        let book = Book::new(&world);
        with_nat64(&book, "64:ff9b::");
        book.set(HOST, &["192.0.2.2"]);
        let (a, b) = pair(&world, &book);
        b.bind.add_address(B64.parse().unwrap());
        a.change_peer(&b, |peer| peer.endpoint = endpoint_of_b.clone());
        a.bind.set_blocked(&[Family::V4]);
        let packets = [a.send_to(&b, 100), a.send_to(&b, 100)];
        world.settle(&[&a, &b]);
        assert_eq!((b.received(), endpoint(&a, &b)), (packets.to_vec(), Some(at(B64))));
        assert!(events(&a).contains(&Event::EndpointChanged(b.public(), at(B64))));
        assert_eq!(book.asked().last().unwrap(), &(S(0), "ipv4only.arpa".to_owned()));
        // Renewing the session needs no discovery.
        a.change_peer(&b, |peer| peer.persistent_keepalive = Some(25));
        world.pass(S(300), &[&a, &b]);
        assert_eq!((book.asked(), endpoint(&a, &b)), (vec![], Some(at(B64))));

        // The next networks have IPv4.
        for blocked in [&[][..], &[Family::V6]] {
            a.bind.set_blocked(blocked);
            world.sent();
            a.device.network_changed().unwrap();
            assert_eq!(endpoint(&a, &b), Some(at("192.0.2.2")));
            world.settle(&[&a, &b]);
            assert_eq!((world.sent_types(), endpoint(&a, &b)), (vec![0], Some(at("192.0.2.2"))));
        }

        // And the next one has another prefix; the session goes on through that.
        a.bind.set_blocked(&[Family::V4]);
        with_nat64(&book, "2001:db8:64::");
        b.bind.add_address("2001:db8:64::c000:202".parse().unwrap());
        book.asked();
        a.device.network_changed().unwrap();
        world.settle(&[&a, &b]);
        assert!(book.asked().iter().any(|(_, host)| host == "ipv4only.arpa"));
        assert_eq!((world.sent_types(), endpoint(&a, &b)), (vec![0], Some(at("2001:db8:64::c000:202"))));
    }
}

#[test]
fn a_network_without_a_translator_is_asked_now_and_then() {
    let world = World::new();
    let book = Book::new(&world);
    let (a, b) = pair(&world, &book);
    book.set("ipv4only.arpa", &["192.0.0.170", "192.0.0.171"]);
    a.change_peer(&b, |peer| peer.endpoint = Some(at("192.0.2.2").into()));
    a.bind.set_blocked(&[Family::V4]);
    a.send_to(&b, 100);
    world.pass(S(600), &[&a, &b]);
    let asked = seconds(&book.asked());
    assert!((3..8).contains(&asked.len()) && asked.last() < Some(&110), "with tries to send only: {asked:?}");
    assert_eq!(endpoint(&a, &b), Some(at("192.0.2.2")));
    // A prefix that comes late is used by who waits for it.
    with_nat64(&book, "64:ff9b::");
    b.bind.add_address(B64.parse().unwrap());
    let packet = a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!((b.received(), endpoint(&a, &b)), (vec![packet], Some(at(B64))));
}

#[test]
fn a_translator_is_one_way_of_several() {
    // The name has an IPv6 address, which does not answer; what answers is its IPv4 address, behind NAT64.
    let world = World::new();
    let book = Book::new(&world);
    with_nat64(&book, "64:ff9b::");
    book.set(HOST, &["2001:db8::66", "192.0.2.2"]);
    let (a, b) = pair(&world, &book);
    b.bind.add_address(B64.parse().unwrap());
    a.bind.set_blocked(&[Family::V4]);
    let packet = a.send_to(&b, 100);
    world.pass(S(40), &[&a, &b]);
    assert_eq!((b.received(), endpoint(&a, &b)), (vec![packet], Some(at(B64))));
    // The name still has that address, in a way.
    a.change_peer(&b, |peer| peer.endpoint = named(HOST));
    world.sent();
    world.settle(&[&a, &b]);
    assert_eq!((world.sent_types(), endpoint(&a, &b)), (vec![], Some(at(B64))));
    // Without any route, the next attempt begins with IPv4.
    a.bind.set_send_blocked(true);
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!((endpoint(&a, &b), a.stat("out_send_failed")), (Some(at("192.0.2.2")), 1));
    a.bind.set_send_blocked(false);
    let packet = a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!((b.received(), endpoint(&a, &b)), (vec![packet], Some(at("192.0.2.2"))));
}

#[test]
fn without_a_resolver_a_missing_route_is_only_counted() {
    let world = World::new();
    let (a, b) = world.pair();
    a.bind.set_blocked(&[Family::V4]);
    a.send_to(&b, 100);
    world.pass(S(200), &[&a, &b]);
    assert_eq!((a.stat("out_send_failed"), endpoint(&a, &b)), (20, Some(at("192.0.2.2"))));
}
