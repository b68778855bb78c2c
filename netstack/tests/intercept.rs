//! Connections to any address and port: accepted, refused, ignored, held back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    io::ErrorKind,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{World, kind, read_all};
use wg_embed_netstack::{Intercept, InterceptOptions, PendingTcp, TcpStream, UdpFlow};

/// Keeps what it gets.
#[derive(Default)]
struct Handler {
    /// Keeps connections back in place of accepting them.
    holds: bool,
    pending: Mutex<Vec<PendingTcp>>,
    streams: Mutex<Vec<TcpStream>>,
}

impl Intercept for Handler {
    fn dialled(&self, pending: PendingTcp) {
        if self.holds {
            self.pending.lock().unwrap().push(pending);
        } else {
            pending.accept();
        }
    }

    fn connected(&self, stream: TcpStream) {
        self.streams.lock().unwrap().push(stream);
    }

    fn flow(&self, _: UdpFlow) {}
}

fn intercepting(holds: bool) -> (World, Arc<Handler>) {
    let world = World::new();
    let handler = Arc::new(Handler { holds, ..Handler::default() });
    world.b.stack.intercept(InterceptOptions::default(), Some(handler.clone()));
    (world, handler)
}

fn dial(world: &World, to: &str) -> TcpStream {
    let client = world.a.stack.start_tcp(to.parse().unwrap()).unwrap();
    world.settle();
    client
}

#[test]
fn any_address_and_port_is_accepted() {
    let (world, handler) = intercepting(false);
    for to in ["93.184.216.34:443", "[2001:db8::1]:9", "10.0.0.2:1"] {
        let client = dial(&world, to);
        let stream = handler.streams.lock().unwrap().pop().unwrap();
        assert_eq!(stream.local_addr(), to.parse::<SocketAddr>().unwrap());
        assert_eq!(stream.peer_addr(), client.local_addr());
        client.try_write(b"ping").unwrap();
        world.settle();
        assert_eq!(read_all(&stream).0, b"ping");
        stream.try_write(b"pong").unwrap();
        world.settle();
        assert_eq!(read_all(&client).0, b"pong");
    }
    // A change of its own addresses does not touch them.
    let client = dial(&world, "9.9.9.9:53");
    let stream = handler.streams.lock().unwrap().pop().unwrap();
    world.b.stack.set_addresses(vec![]).unwrap();
    client.try_write(b"still here").unwrap();
    world.settle();
    assert_eq!(read_all(&stream).0, b"still here");
}

#[test]
fn a_listener_of_the_stack_comes_first() {
    let (world, handler) = intercepting(false);
    let listener = world.b.stack.listen_tcp("10.0.0.2:80".parse().unwrap(), 8).unwrap();
    let _client = dial(&world, "10.0.0.2:80");
    assert!(listener.try_accept().is_ok() && handler.streams.lock().unwrap().is_empty());
}

#[test]
fn the_handshake_is_held_back_until_the_program_decides() {
    let (world, handler) = intercepting(true);
    let accepted = dial(&world, "1.1.1.1:80");
    let refused = dial(&world, "1.1.1.1:81");
    let dropped = dial(&world, "1.1.1.1:82");
    let ignored = dial(&world, "1.1.1.1:83");
    // The SYNs that come again are not told twice.
    world.pass(Duration::from_secs(3));
    let mut pending: Vec<_> = handler.pending.lock().unwrap().drain(..).collect();
    assert_eq!(pending.len(), 4);
    assert!(world.b.drops("tcp_held") > 0);
    assert_eq!(pending[0].source(), accepted.local_addr());
    assert_eq!(pending[3].destination(), "1.1.1.1:83".parse().unwrap());
    assert!([&accepted, &refused, &dropped, &ignored].iter().all(|client| !client.is_established()));
    pending.pop().unwrap().ignore();
    drop(pending.pop().unwrap());
    pending.pop().unwrap().refuse();
    pending.pop().unwrap().accept();
    world.settle();
    assert!(accepted.is_established());
    assert_eq!(handler.streams.lock().unwrap().len(), 1);
    for client in [&refused, &dropped] {
        assert_eq!(kind(client.try_read(&mut [0; 9])), ErrorKind::ConnectionRefused);
    }
    assert_eq!(kind(ignored.try_read(&mut [0; 9])), ErrorKind::WouldBlock);
}

#[test]
fn what_nobody_decides_is_dropped_after_a_time() {
    let (world, handler) = intercepting(true);
    world.b.stack.intercept(
        InterceptOptions { hold: Duration::from_millis(500), ..InterceptOptions::default() },
        Some(handler.clone()),
    );
    let client = dial(&world, "1.1.1.1:80");
    world.pass(Duration::from_millis(600));
    assert_eq!(world.b.stack.stats().half_open, 0);
    handler.pending.lock().unwrap().pop().unwrap().accept();
    world.settle();
    assert!(!client.is_established() && handler.streams.lock().unwrap().is_empty());
    // When the SYN comes again, it is a new connection.
    world.until(Duration::from_secs(10), || !handler.pending.lock().unwrap().is_empty());
    handler.pending.lock().unwrap().pop().unwrap().accept();
    world.settle();
    assert!(client.is_established());
}

#[test]
fn one_that_dials_may_give_up() {
    let (world, handler) = intercepting(true);
    let client = dial(&world, "1.1.1.1:80");
    let pending = handler.pending.lock().unwrap().pop().unwrap();
    drop(client);
    world.pass_coarsely(Duration::from_secs(62));
    assert!(world.a.is_empty());
    pending.accept();
    world.settle();
    world.pass_coarsely(Duration::from_secs(62));
    assert!(world.b.is_empty());
}

#[test]
fn without_a_handler_foreign_addresses_are_not_answered() {
    let (world, handler) = intercepting(false);
    let before = dial(&world, "1.1.1.1:80");
    world.b.stack.intercept(InterceptOptions::default(), None);
    let after = dial(&world, "1.1.1.1:80");
    world.pass(Duration::from_secs(2));
    assert!(!after.is_established());
    assert!(world.b.drops("in_destination") > 0);
    // What is there stays.
    let stream = handler.streams.lock().unwrap().pop().unwrap();
    before.try_write(b"x").unwrap();
    world.settle();
    assert_eq!(read_all(&stream).0, b"x");
    drop(stream);
}

#[test]
fn a_handler_may_use_the_stack() {
    struct Closes(wg_embed_netstack::Netstack);
    impl Intercept for Closes {
        fn connected(&self, stream: TcpStream) {
            stream.try_write(b"bye").unwrap();
            self.0.intercept(InterceptOptions::default(), None);
            drop(stream);
            self.0.close();
        }
        fn flow(&self, _: UdpFlow) {}
    }
    let world = World::new();
    world.b.stack.intercept(InterceptOptions::default(), Some(Arc::new(Closes(world.b.stack.clone()))));
    let client = dial(&world, "1.1.1.1:80");
    world.settle();
    assert!(client.is_established());
    assert!(world.b.is_empty());
}
