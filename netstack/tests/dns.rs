//! Names are looked up and dialled between two stacks, one of which has a DNS server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;
#[path = "common/dns_server.rs"]
mod dns_server;
#[path = "../src/dns/tests/response.rs"]
#[allow(dead_code, reason = "shared with the unit tests")]
mod response;

use std::{
    collections::HashSet,
    io::{ErrorKind, Read, Write},
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use common::{A, B, B6, Node, Path, Told, World, kind, tunnels};
use dns_server::DnsServer;
use response::{AAAA, Response, TRUNCATED, question};
use wg_embed::time::Clock as _;
use wg_embed_netstack::{
    dial::Dial,
    dns::{Family, Lookup},
};

const LIMIT: Duration = Duration::from_secs(300);
const SECOND: Duration = Duration::from_secs(1);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// `b` is the server of `a`.
fn world() -> World {
    World::with(|a| a.dns = vec![ip(B)], |_| {})
}

fn look_up(world: &World, name: &str) -> Lookup {
    world.a.stack.start_resolve(name, Family::Any, LIMIT).unwrap()
}

/// Lets time pass until the look-up has ended, while `server` answers from `zone`.
fn end_of(
    world: &World,
    server: &mut DnsServer,
    lookup: &Lookup,
    zone: &mut dns_server::Zone<'_>,
) -> Result<Vec<IpAddr>, ErrorKind> {
    let mut outcome = None;
    world.until(LIMIT, || {
        server.step(zone);
        outcome = Some(lookup.try_finish().map_err(|e| e.kind()));
        outcome != Some(Err(ErrorKind::WouldBlock))
    });
    outcome.unwrap()
}

/// `www.example` has both of `b`'s addresses, valid for a minute; there is no other name.
fn small_zone(query: &[u8], _tcp: bool) -> Option<Vec<u8>> {
    let answer = match question(query) {
        (name, _) if name != "www.example" => Response::to(query, 3).soa(60, 60),
        (_, AAAA) => Response::to(query, 0).address(ip(B6), 60),
        _ => Response::to(query, 0).address(ip(B), 60),
    };
    Some(answer.build())
}

#[test]
fn a_name_is_looked_up_and_remembered() {
    let world = world();
    let mut server = DnsServer::new(&world.b.stack);
    let lookup = look_up(&world, "www.example");
    let told = Told::new();
    lookup.set_notify(Some(told.clone()));
    assert_eq!(kind(lookup.try_finish()), ErrorKind::WouldBlock);
    assert_eq!(end_of(&world, &mut server, &lookup, &mut small_zone), Ok(vec![ip(B6), ip(B)]));
    assert_eq!((server.udp_queries.len(), server.tcp_queries.len(), told.times()), (2, 0, 1));
    assert_eq!(look_up(&world, "www.example").try_finish().unwrap(), [ip(B6), ip(B)]);
    world.pass_coarsely(60 * SECOND);
    let again = look_up(&world, "www.example");
    assert_eq!(end_of(&world, &mut server, &again, &mut small_zone), Ok(vec![ip(B6), ip(B)]));
    assert_eq!(server.udp_queries.len(), 4);
    assert_eq!(end_of(&world, &mut server, &look_up(&world, "no.example"), &mut small_zone), Err(ErrorKind::NotFound));
    assert!(world.a.is_empty());
}

#[test]
fn each_query_has_a_port_of_its_own() {
    let world = world();
    let mut server = DnsServer::new(&world.b.stack);
    for n in 0..10 {
        let lookup = look_up(&world, &format!("n{n}.example"));
        assert_eq!(end_of(&world, &mut server, &lookup, &mut small_zone), Err(ErrorKind::NotFound));
    }
    let ports: Vec<u16> = server.udp_queries.iter().map(|from| from.port()).collect();
    assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 20, "{ports:?}");
    let near = ports.windows(2).filter(|two| two[0].abs_diff(two[1]) < 16).count();
    assert!(near < 10, "{ports:?} follow each other");
}

#[test]
fn answers_from_elsewhere_do_not_count() {
    let world = world();
    let mut server = DnsServer::new(&world.b.stack);
    let lookup = look_up(&world, "www.example");
    world.settle();
    let mut buffer = [0; 4096];
    for _ in 0..2 {
        let (len, from) = server.udp.try_recv(&mut buffer).unwrap();
        let forged = Response::to(&buffer[..len], 0).address(ip("192.0.2.66"), 60).address(ip("fd00::66"), 60).build();
        for source in ["10.0.0.2:54", "10.0.0.3:53", "10.0.0.1:53"] {
            world.b.stack.send_datagram(&forged, source.parse().unwrap(), from).unwrap();
        }
    }
    world.settle();
    assert_eq!(kind(lookup.try_finish()), ErrorKind::WouldBlock);
    assert_eq!(end_of(&world, &mut server, &lookup, &mut small_zone), Ok(vec![ip(B6), ip(B)]));
}

#[test]
fn what_does_not_fit_is_asked_for_over_tcp() {
    let world = world();
    let mut server = DnsServer::new(&world.b.stack);
    let lookup = world.a.stack.start_resolve("many.example", Family::Ipv4, LIMIT).unwrap();
    let mut zone = |query: &[u8], tcp: bool| {
        let flags = if tcp { 0 } else { TRUNCATED };
        let all = |r: Response| (0..200).fold(r, |r, n| r.address(IpAddr::from([192, 0, 2, n]), 60));
        Some(if tcp { all(Response::to(query, flags)) } else { Response::to(query, flags) }.build())
    };
    let addresses = end_of(&world, &mut server, &lookup, &mut zone).unwrap();
    assert_eq!(addresses, (0..32).map(|n| IpAddr::from([192, 0, 2, n])).collect::<Vec<_>>());
    assert_eq!((server.udp_queries.len(), server.tcp_queries.len()), (1, 1));
    // The connection is over, on both sides.
    world.until(LIMIT, || {
        server.step(&mut zone);
        world.a.is_empty() && world.b.stack.stats().connections == 0
    });
}

#[test]
fn lost_packets_are_made_up_for() {
    let world = world();
    let mut server = DnsServer::new(&world.b.stack);
    *world.path.lock().unwrap() = Path { delay: Duration::from_millis(40), loss: 200, ..Path::default() };
    let begin = world.clock.now();
    for n in 0..10 {
        let lookup = world.a.stack.start_resolve(&format!("n{n}.example"), Family::Ipv4, LIMIT).unwrap();
        let mut zone = |query: &[u8], _| Some(Response::to(query, 0).address(ip(B), 60).build());
        assert_eq!(end_of(&world, &mut server, &lookup, &mut zone), Ok(vec![ip(B)]));
    }
    assert!(world.clock.now().since(begin) > 2 * SECOND, "nothing was lost");
}

#[test]
fn servers_that_are_not_there_are_passed_over() {
    // Nothing listens there: refused.
    let world = World::with(|a| a.dns = vec![ip(B6), ip(B)], |_| {});
    let lookup = look_up(&world, "www.example");
    world.settle();
    assert_eq!(kind(lookup.try_finish()), ErrorKind::Other);
    // Nothing exists there: silence.
    let mut server = DnsServer::new(&world.b.stack);
    world.a.stack.set_dns(vec![ip("10.0.0.99"), ip(B)]);
    let begin = world.clock.now();
    let lookup = look_up(&world, "www.example");
    assert_eq!(end_of(&world, &mut server, &lookup, &mut small_zone), Ok(vec![ip(B6), ip(B)]));
    assert!(world.clock.now().since(begin) >= 2 * SECOND);
}

#[test]
fn closing_the_stack_ends_look_ups_and_dials() {
    let world = world();
    let _server = DnsServer::new(&world.b.stack);
    let lookup = look_up(&world, "www.example");
    let dials = ["www.example:80", "10.0.0.99:80"].map(|to| world.a.stack.start_dial(to, Family::Any, LIMIT).unwrap());
    let told = Told::new();
    lookup.set_notify(Some(told.clone()));
    dials.iter().for_each(|dial| dial.set_notify(Some(told.clone())));
    world.settle();
    assert_eq!(told.times(), 0);
    world.a.stack.close();
    assert_eq!(told.times(), 3);
    assert_eq!(kind(lookup.try_finish()), ErrorKind::ConnectionAborted);
    for dial in dials {
        assert_eq!(kind(dial.try_finish()), ErrorKind::ConnectionAborted);
    }
    let after = look_up(&world, "www.example");
    assert_eq!(kind(after.try_finish()), ErrorKind::ConnectionAborted);
}

/// Lets time pass until the dial has ended.
fn dialled(
    world: &World,
    server: &mut DnsServer,
    dial: &Dial,
    zone: &mut dns_server::Zone<'_>,
) -> std::io::Result<IpAddr> {
    let mut outcome = None;
    world.until(LIMIT, || {
        server.step(zone);
        match dial.try_finish() {
            Err(e) if e.kind() == ErrorKind::WouldBlock => false,
            other => {
                outcome = Some(other);
                true
            }
        }
    });
    let stream = outcome.unwrap()?;
    assert!(stream.is_established());
    Ok(stream.peer_addr().ip())
}

#[test]
fn a_black_hole_of_one_family_is_got_around() {
    let world = world();
    *world.path.lock().unwrap() = Path { delay: Duration::from_millis(20), ..Path::default() };
    let mut server = DnsServer::new(&world.b.stack);
    let _listener = world.b.stack.listen_tcp("10.0.0.2:80".parse().unwrap(), 8).unwrap();
    let mut zone = |query: &[u8], _| {
        Some(match question(query).1 {
            AAAA => Response::to(query, 0).address(ip("fd00::99"), 60).build(),
            _ => Response::to(query, 0).address(ip(B), 60).build(),
        })
    };
    let dial = world.a.stack.start_dial("www.example:80", Family::Any, LIMIT).unwrap();
    let begin = world.clock.now();
    assert_eq!(dialled(&world, &mut server, &dial, &mut zone).unwrap(), ip(B));
    let took = world.clock.now().since(begin);
    assert!((SECOND / 4..SECOND / 2).contains(&took), "{took:?} of the tests' clock");
    // The attempt that lost is gone, though nobody answers it.
    world.until(LIMIT, || world.a.stack.stats().connections <= 1);
}

#[test]
fn dials_end_as_they_should() {
    let world = world();
    let mut server = DnsServer::new(&world.b.stack);
    let mut dial = |to: &str, timeout| {
        let dial = world.a.stack.start_dial(to, Family::Any, timeout).unwrap();
        dialled(&world, &mut server, &dial, &mut small_zone)
    };
    assert_eq!(kind(dial("www.example:81", LIMIT)), ErrorKind::ConnectionRefused);
    assert_eq!(kind(dial("no.example:80", LIMIT)), ErrorKind::NotFound);
    assert_eq!(kind(dial("10.0.0.99:80", SECOND)), ErrorKind::TimedOut);
    for (bad, error) in [("www.example", ErrorKind::InvalidInput), ("a b:80", ErrorKind::InvalidInput)] {
        assert_eq!(kind(world.a.stack.start_dial(bad, Family::Any, LIMIT)), error);
    }
    assert_eq!(kind(world.a.stack.start_dial("www.example:0", Family::Any, LIMIT)), ErrorKind::InvalidInput);
    let _listener = world.b.stack.listen_tcp("[fd00::2]:80".parse().unwrap(), 8).unwrap();
    assert_eq!(dial("www.example:80", LIMIT).unwrap(), ip(B6));
}

#[test]
fn nothing_is_left_of_dials_that_are_given_up() {
    let world = world();
    let _server = DnsServer::new(&world.b.stack);
    for to in ["www.example:80", "10.0.0.99:80", "[fd00::99]:80"] {
        let dial = world.a.stack.start_dial(to, Family::Any, LIMIT).unwrap();
        world.pass(SECOND / 10);
        drop(dial);
        world.settle();
        assert!(world.a.is_empty(), "{to}: {:?}", world.a.stack.stats());
    }
}

/// Ends the server's thread, also if the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn threads_may_wait_for_names_and_connections() {
    let (a, b) = tunnels::pair(|options| options.dns = vec![ip(B)]);
    let mut server = DnsServer::new(&b.stack);
    let echo = b.stack.bind_udp("[::]:7".parse().unwrap(), None).unwrap();
    let listener = b.stack.listen_tcp("[::]:80".parse().unwrap(), 8).unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                server.answer_one(Duration::from_millis(50), &mut small_zone);
            }
        });
        let _over = Over(&over);
        scope.spawn(|| {
            let mut buffer = [0; 100];
            let (len, from) = echo.recv(&mut buffer, Some(LIMIT)).unwrap();
            echo.try_send(&buffer[..len], Some(from)).unwrap();
            let stream = listener.accept(Some(LIMIT)).unwrap();
            (&stream).write_all(b"hello").unwrap();
        });
        let stack = &a.stack;
        assert_eq!(stack.resolve("www.example", Family::PreferIpv4, LIMIT).unwrap(), [ip(B), ip(B6)]);
        assert_eq!(kind(stack.resolve("no.example", Family::Any, LIMIT)), ErrorKind::NotFound);
        let socket = stack.dial_udp("www.example:7", LIMIT).unwrap();
        assert_eq!(socket.peer_addr(), Some("[fd00::2]:7".parse().unwrap()));
        socket.try_send(b"ping", None).unwrap();
        let mut buffer = [0; 100];
        assert_eq!(socket.recv(&mut buffer, Some(LIMIT)).unwrap().0, 4);
        let mut text = String::new();
        let stream = stack.dial_tcp("www.example:80", LIMIT).unwrap();
        (&stream).read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert_eq!(kind(stack.dial_tcp_addr("10.0.0.2:81".parse().unwrap(), LIMIT)), ErrorKind::ConnectionRefused);
        assert_eq!(kind(stack.dial_tcp_addr("10.0.0.2:0".parse().unwrap(), LIMIT)), ErrorKind::InvalidInput);
    });
}

#[test]
fn waiting_ends_without_a_tunnel() {
    // Nothing drives this stack.
    let options = wg_embed_netstack::Options { addresses: vec![ip(A)], dns: vec![ip(B)], ..Default::default() };
    let node = Node::new(options);
    let short = Duration::from_millis(50);
    assert_eq!(kind(node.stack.resolve("www.example", Family::Any, short)), ErrorKind::TimedOut);
    assert_eq!(kind(node.stack.dial_tcp("www.example:80", short)), ErrorKind::TimedOut);
    assert_eq!(kind(node.stack.dial_tcp("10.0.0.2:80", short)), ErrorKind::TimedOut);
}
