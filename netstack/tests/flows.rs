//! UDP flows that were intercepted: begun, answered, refused, ended.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{
    io::ErrorKind,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{
    Told, World, kind,
    packets::{at, udp},
};
use wg_embed_netstack::{Intercept, InterceptOptions, TcpStream, UdpFlow};

#[derive(Default)]
struct Handler(Mutex<Vec<UdpFlow>>);

impl Intercept for Handler {
    fn connected(&self, _: TcpStream) {}

    fn flow(&self, flow: UdpFlow) {
        self.0.lock().unwrap().push(flow);
    }
}

impl Handler {
    fn pop(&self) -> UdpFlow {
        self.0.lock().unwrap().pop().unwrap()
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

fn intercepting(options: InterceptOptions) -> (World, Arc<Handler>) {
    let world = World::new();
    let handler = Arc::new(Handler::default());
    world.b.stack.intercept(options, Some(handler.clone()));
    (world, handler)
}

fn recv(flow: &UdpFlow) -> Option<Vec<u8>> {
    let mut data = None;
    flow.try_recv_with(&mut |bytes| data = Some(bytes.to_vec())).unwrap()?;
    data
}

#[test]
fn datagrams_to_any_address_are_a_flow_that_answers() {
    let (world, handler) = intercepting(InterceptOptions::default());
    for to in ["8.8.8.8:53", "[2001:db8::1]:443", "10.0.0.2:9"] {
        let client = world.a.stack.bind_udp(at("[::]:0"), Some(at(to))).unwrap();
        client.try_send(b"one", None).unwrap();
        client.try_send(&[7; 5000], None).unwrap();
        world.settle();
        let flow = handler.pop();
        assert_eq!((flow.source(), flow.destination(), handler.len()), (client.local_addr(), at(to), 0));
        let mut buffer = [0; 2];
        assert_eq!(flow.try_recv(&mut buffer).unwrap(), Some(3));
        assert_eq!((&buffer, recv(&flow)), (b"on", Some(vec![7; 5000])));
        assert_eq!(kind(flow.try_recv(&mut buffer)), ErrorKind::WouldBlock);
        let told = Told::new();
        flow.set_notify(Some(told.clone()));
        let before = told.times();
        client.try_send(b"", None).unwrap();
        world.settle();
        assert_eq!((told.times(), recv(&flow)), (before + 1, Some(vec![])));
        flow.try_send(&[9; 3000]).unwrap();
        world.settle();
        let mut buffer = [0; 4000];
        assert_eq!(client.try_recv(&mut buffer).unwrap(), (3000, at(to)));
        // Dropped: the next datagram is a new flow.
        drop(flow);
        client.try_send(b"again", None).unwrap();
        world.settle();
        assert_eq!(recv(&handler.pop()), Some(b"again".to_vec()));
        assert_eq!(world.b.stack.stats().flows, 0);
    }
    // A socket of the stack comes first.
    let socket = world.b.stack.bind_udp(at("10.0.0.2:53"), None).unwrap();
    world.b.give(&[udp(at("10.0.0.1:5"), at("10.0.0.2:53"), b"x"), udp(at("10.0.0.1:5"), at("10.0.0.9:53"), b"x")]);
    assert!(socket.is_readable() && handler.len() == 1);
}

#[test]
fn a_refusal_reaches_the_one_who_sent() {
    let (world, handler) = intercepting(InterceptOptions::default());
    for to in ["8.8.8.8:53", "[2001:db8::1]:443"] {
        let client = world.a.stack.bind_udp(at("[::]:0"), Some(at(to))).unwrap();
        client.try_send(b"one", None).unwrap();
        world.settle();
        handler.pop().refuse();
        world.settle();
        assert_eq!(kind(client.try_recv(&mut [0; 9])), ErrorKind::ConnectionRefused);
        assert_eq!(world.b.stack.stats().flows, 0);
    }
    assert!(world.b.is_empty());
}

#[test]
fn an_icmp_error_about_an_answer_is_reported_once() {
    let (world, handler) = intercepting(InterceptOptions::default());
    for to in ["8.8.8.8:53", "[2001:db8::1]:443"] {
        let client = world.a.stack.bind_udp(at("[::]:0"), Some(at(to))).unwrap();
        let port = client.local_addr();
        client.try_send(b"one", None).unwrap();
        world.settle();
        let flow = handler.pop();
        assert_eq!(recv(&flow), Some(b"one".to_vec()));
        assert!(flow.take_error().is_none());
        let told = Told::new();
        flow.set_notify(Some(told.clone()));
        client.try_send(b"two", None).unwrap();
        world.settle();
        // The program was told, and will read until nothing is left: the error comes before it has.
        assert_eq!(recv(&flow), Some(b"two".to_vec()));
        let before = told.times();
        drop(client);
        flow.try_send(b"nobody reads this").unwrap();
        world.settle();
        assert_eq!(told.times(), before + 1);
        // Reading goes on as if nothing was.
        assert_eq!(kind(flow.try_recv(&mut [])), ErrorKind::WouldBlock);
        assert_eq!(flow.take_error().unwrap().kind(), ErrorKind::ConnectionRefused);
        assert!(flow.take_error().is_none());
        let client = world.a.stack.bind_udp(port, Some(at(to))).unwrap();
        client.try_send(b"back", None).unwrap();
        world.settle();
        assert_eq!((recv(&flow), handler.len()), (Some(b"back".to_vec()), 0));
    }
    assert_eq!(world.b.drops("icmp_unknown"), 0);
}

#[test]
fn flows_end_when_they_are_idle() {
    let options = InterceptOptions { udp_idle: Duration::from_secs(10), ..InterceptOptions::default() };
    let (world, handler) = intercepting(options);
    let give = |port: u16| {
        world.b.give(&[udp(SocketAddr::new([10, 0, 0, 1].into(), port), at("8.8.8.8:53"), b"x")]);
    };
    (1..=3).for_each(give);
    assert_eq!(world.b.stack.stats().flows, 3);
    let (third, second, first) = (handler.pop(), handler.pop(), handler.pop());
    let told = Told::new();
    first.set_notify(Some(told.clone()));
    recv(&first);
    assert!(first.try_recv(&mut []).is_err());
    let before = told.times();
    world.pass_coarsely(Duration::from_secs(9));
    give(2);
    third.try_send(b"traffic, too").unwrap();
    world.pass_coarsely(Duration::from_secs(3));
    // What waits is still to be read, by those that have ended as well.
    assert_eq!((world.b.stack.stats().flows, told.times()), (2, before + 1));
    assert!(first.try_recv(&mut []).unwrap().is_none() && recv(&second).is_some());
    assert_eq!(kind(first.try_send(b"x")), ErrorKind::BrokenPipe);
    world.pass_coarsely(Duration::from_secs(12));
    assert_eq!(world.b.stack.stats().flows, 0);
    assert!(recv(&second).is_some() && second.try_recv(&mut []).unwrap().is_none());
    // The next datagram is a new flow, and the end of the old one does not end it.
    give(2);
    drop(second);
    assert_eq!((world.b.stack.stats().flows, handler.len()), (1, 1));
    drop((first, third));
    let last = handler.pop();
    world.b.stack.close();
    assert!(last.try_recv(&mut []).unwrap().is_none() && world.b.is_empty());
}

#[test]
fn the_flow_that_was_idle_longest_makes_room() {
    let (world, handler) = intercepting(InterceptOptions { max_flows: 100, ..InterceptOptions::default() });
    let give = |port: u16| {
        world.clock.advance(Duration::from_micros(1));
        world.b.give(&[udp(SocketAddr::new([10, 0, 0, 1].into(), port), at("8.8.8.8:53"), b"x")]);
    };
    (1..=100).for_each(give);
    // The first half has traffic again, so the second half goes.
    (1..=50).for_each(give);
    (101..=150).for_each(give);
    assert_eq!((world.b.stack.stats().flows, world.b.drops("udp_flow_evicted")), (100, 50));
    let flows = std::mem::take(&mut *handler.0.lock().unwrap());
    for flow in &flows {
        while recv(flow).is_some() {
            if flow.source().port() > 50 && flow.source().port() <= 100 {
                continue;
            }
            break;
        }
        let ended = flow.try_send(b"x").is_err();
        assert_eq!(ended, (51..=100).contains(&flow.source().port()), "{}", flow.source());
    }
    // 100,000 of them take no more.
    drop(flows);
    for port in 0..1000 {
        give(1 + port);
        handler.0.lock().unwrap().retain(|flow| flow.source().port() % 2 == 0);
    }
    assert!(world.b.stack.stats().flows <= 100);
    handler.0.lock().unwrap().clear();
    assert!(world.b.is_empty() && world.b.stack.stats().flows == 0);
}
