//! Peers that are known by a host name: when it is looked up, which of its addresses is used, and NAT64; and the zones
//! of link-local addresses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod addresses;
#[path = "../common/mod.rs"]
mod common;
mod names;
mod nat64;
mod zones;

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
