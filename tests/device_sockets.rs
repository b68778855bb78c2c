//! Sockets that cannot be opened, networks that change, and a tunnel that is paused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;
#[path = "common/lines.rs"]
mod lines;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    time::Duration,
};

use common::{Node, PORT, World};
use lines::Lines;
use wg_embed::{
    ErrorKind,
    bind::{
        Bind, RecvBatch, SendReport, Transmit, Woken,
        mem::{Action, MemBind, MemNetwork},
    },
    config::Update,
    device::{Event, Options, Tunnel},
    tun::mem::MemTun,
};

const MS: fn(u64) -> Duration = Duration::from_millis;

/// When a node without other timers tries to open its sockets, in a minute.
fn tries(world: &World, node: &Node) -> Vec<Duration> {
    let (start, mut seen) = (world.now(), Vec::new());
    while let Some(at) = node.device.next_deadline().filter(|at| at.since(start) < MS(60_000)) {
        world.clock.advance_to(at);
        node.device.run_timers();
        seen.push(at.since(start));
    }
    seen
}

fn events(node: &Node) -> Vec<Event> {
    std::mem::take(&mut *node.events.lock().unwrap())
}

/// A pair with a session, whose events so far are not of interest.
fn connected(world: &World) -> (Node, Node) {
    let (a, b) = world.pair();
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(b.received().len(), 1);
    events(&a);
    world.sent();
    (a, b)
}

#[test]
fn an_interface_that_cannot_be_brought_up_is_tried_again_and_again() {
    let world = World::new();
    let (a, b) = world.pair();
    a.device.down();
    a.bind.set_open_error(Some(io::ErrorKind::AddrInUse));
    assert_eq!(a.device.keep_up().unwrap_err().kind(), ErrorKind::AddrInUse);
    assert_eq!(tries(&world, &a), [500, 1500, 3500, 7500, 15_500, 31_500].map(MS));
    let told = events(&a);
    assert!(matches!(told.as_slice(), [Event::SocketsLost(reason)] if reason.contains("51820")), "once: {told:?}");

    a.bind.set_open_error(None);
    world.pass(MS(60_000), &[&a, &b]);
    assert_eq!((events(&a), a.device.next_deadline()), (vec![Event::SocketsRecovered(PORT)], None));
    let packet = a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(b.received(), [packet]);
}

#[test]
fn what_was_taken_down_is_not_tried_again() {
    let world = World::new();
    let (a, _b) = world.pair();
    a.device.down();
    a.bind.set_open_error(Some(io::ErrorKind::AddrInUse));
    a.device.keep_up().unwrap_err();
    a.device.down();
    assert_eq!(a.device.next_deadline(), None);
    // Nor is what came up by other means meanwhile.
    a.device.keep_up().unwrap_err();
    a.bind.set_open_error(None);
    a.device.up().unwrap();
    assert_eq!(a.device.next_deadline(), None);
    assert!(matches!(events(&a).as_slice(), [.., Event::SocketsRecovered(PORT)]));
}

#[test]
fn rebinding_keeps_the_port_and_the_session_and_speaks_first() {
    let world = World::new();
    let (a, b) = connected(&world);
    let opens = a.bind.opens();
    a.device.rebind().unwrap();
    assert_eq!((a.bind.opens(), a.bind.port()), (opens + 1, Some(PORT)));
    world.settle(&[&a, &b]);
    assert_eq!(world.sent_types(), [0], "a keepalive on the session that there was");
    assert_eq!(events(&a), []);
    // Without a session nobody is bothered, and while it is down neither.
    let (c, d) = (world.node(3), world.node(4));
    c.add_peer(&d, |_| {});
    c.device.rebind().unwrap();
    assert_eq!(world.sent_types(), []);
    c.device.down();
    c.device.rebind().unwrap();
    assert_eq!(c.bind.port(), None);
}

#[test]
fn sockets_that_cannot_be_renewed_stay_and_are_tried_again() {
    let world = World::new();
    let (a, b) = connected(&world);
    a.bind.set_open_error(Some(io::ErrorKind::PermissionDenied));
    assert_eq!(a.device.rebind().unwrap_err().kind(), ErrorKind::Permission);
    let packet = a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(b.received(), [packet], "the old ones are in use");
    world.sent();
    a.bind.set_open_error(None);
    let seen = world.watch(MS(5_000), &[&a, &b]);
    assert_eq!(common::times(&seen, &a, 0), [MS(500)]);
    assert!(matches!(events(&a).as_slice(), [Event::SocketsLost(_), Event::SocketsRecovered(PORT)]));
}

#[test]
fn renewing_sockets_can_be_left_to_the_timers() {
    let world = World::new();
    let (a, b) = connected(&world);
    let opens = a.bind.opens();
    for _ in 0..3 {
        a.device.rebind_soon();
    }
    assert_eq!((a.bind.opens(), a.device.next_deadline()), (opens, Some(world.now())), "nothing is waited for");
    a.device.run_timers();
    a.device.run_timers();
    assert_eq!((a.bind.opens(), a.bind.port()), (opens + 1, Some(PORT)), "once");
    world.settle(&[&a, &b]);
    assert_eq!((world.sent_types(), events(&a)), (vec![0], vec![]), "nothing was wrong, so nothing is told");

    // If it fails it is tried again, as it would be otherwise.
    a.bind.set_open_error(Some(io::ErrorKind::PermissionDenied));
    a.device.rebind_soon();
    a.device.run_timers();
    a.bind.set_open_error(None);
    let seen = world.watch(MS(5_000), &[&a, &b]);
    assert_eq!(common::times(&seen, &a, 0), [MS(500)]);
    assert!(matches!(events(&a).as_slice(), [Event::SocketsLost(_), Event::SocketsRecovered(PORT)]));

    // What was asked for while sockets were renewed is not forgotten when they are.
    let opens = a.bind.opens();
    a.device.rebind_soon();
    a.device.rebind().unwrap();
    a.device.run_timers();
    assert_eq!(a.bind.opens(), opens + 2);

    // What was done is not done again, when something else is to be tried again and then need not be; nor is what was
    // asked for before or while there were no sockets.
    let nothing_is_left = || {
        a.bind.set_open_error(Some(io::ErrorKind::PermissionDenied));
        a.device.rebind().unwrap_err();
        a.bind.set_open_error(None);
        a.device.rebind().unwrap();
        let opens = a.bind.opens();
        world.pass(MS(1_000), &[&a, &b]);
        assert_eq!(a.bind.opens(), opens);
    };
    nothing_is_left();
    a.device.rebind_soon();
    a.device.down();
    assert_eq!(a.device.next_deadline(), None);
    a.device.up().unwrap();
    nothing_is_left();
    a.device.down();
    a.device.rebind_soon();
    assert_eq!(a.device.next_deadline(), None);
    a.device.up().unwrap();
    nothing_is_left();
}

#[test]
fn only_a_port_that_was_asked_for_is_insisted_on() {
    let world = World::new();
    for (n, asked) in [(1, 0), (2, 7000)] {
        let a = world.node(n);
        a.apply(Update { listen_port: Some(asked), ..Update::default() });
        let port = a.device.snapshot().interface.listen_port;
        a.device.pause();
        let other = world.net.bind(a.address);
        other.open(port).unwrap();
        let resumed = a.device.resume();
        let now = a.device.snapshot().interface.listen_port;
        if asked == 0 {
            resumed.unwrap();
            assert_eq!((now != port, a.bind.port()), (true, Some(now)));
        } else {
            assert_eq!((resumed.unwrap_err().kind(), now, a.bind.port()), (ErrorKind::AddrInUse, port, None));
        }
    }
}

#[test]
fn without_roaming_a_known_endpoint_stays() {
    let world = World::new();
    let (a, b) = connected(&world);
    let c = world.node(3);
    a.add_peer(&c, |peer| peer.endpoint = None);
    c.add_peer(&a, |_| {});
    a.device.disable_roaming();
    let moved: SocketAddr = "192.0.2.77:51820".parse().unwrap();
    let seen = |node: &Node| {
        let peers = a.device.snapshot().peers.flatten().collect::<Vec<_>>();
        peers.into_iter().find(|p| p.public_key == node.public()).unwrap().endpoint.unwrap().addr
    };
    let before = seen(&b);
    world.net.set_filter(move |d| {
        if d.from.ip() != std::net::IpAddr::from([192, 0, 2, 1]) {
            d.from.set_ip(moved.ip());
        }
        Action::Deliver
    });
    b.send_to(&a, 100);
    c.send_to(&a, 100);
    world.settle(&[&a, &b, &c]);
    assert_eq!((a.received().len(), seen(&b)), (1, before));
    assert_eq!(seen(&c), moved, "one that is not known must be learned");
    // What is configured is obeyed.
    a.change_peer(&b, |peer| peer.endpoint = Some(moved.into()));
    assert_eq!(seen(&b), moved);
}

#[test]
fn a_paused_device_is_silent_and_then_makes_new_sessions() {
    let world = World::new();
    let (a, b) = connected(&world);
    let silent = world.node(3);
    a.add_peer(&silent, |_| {});
    world.pass(MS(1000), &[&a, &b]);
    assert!(a.device.pause());
    assert!(!a.device.pause(), "it is paused");
    assert_eq!((a.bind.port(), a.device.next_deadline(), a.device.indices()), (None, None, 0));
    b.send_to(&a, 100);
    a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    world.sent();
    assert_eq!(a.received(), [] as [Vec<u8>; 0]);
    // Its configuration may change meanwhile.
    a.change_peer(&b, |peer| peer.preshared_key = None);

    a.device.resume().unwrap();
    world.settle(&[&a, &b]);
    // And what the app has written to the TUN in the meantime.
    assert_eq!(world.sent_types(), [1, 2, 4], "a handshake with the one that there was a session with");
    a.device.resume().unwrap();
    assert_eq!(world.sent_types(), []);
}

#[test]
fn a_paused_device_that_finds_no_socket_goes_on_trying() {
    let world = World::new();
    let (a, b) = connected(&world);
    a.device.pause();
    a.bind.set_open_error(Some(io::ErrorKind::AddrInUse));
    a.device.resume().unwrap_err();
    a.bind.set_open_error(None);
    world.pass(MS(1000), &[&a, &b]);
    assert!(matches!(events(&a).as_slice(), [Event::SocketsLost(_), Event::SocketsRecovered(PORT), ..]));
    let packet = a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(b.received(), [packet]);
}

#[test]
fn a_refused_port_changes_nothing_not_even_what_a_later_change_does() {
    let world = World::new();
    for (n, asked, refused) in [(1, 0, 7000), (2, 7000, 0), (3, 7000, 7001)] {
        let a = world.node(n);
        a.apply(Update { listen_port: Some(asked), ..Update::default() });
        let port = a.device.snapshot().interface.listen_port;
        a.bind.set_open_error(Some(io::ErrorKind::PermissionDenied));
        a.device.apply(Update { listen_port: Some(refused), ..Update::default() }).unwrap_err();
        assert_eq!((a.device.snapshot().interface.listen_port, a.bind.port()), (port, Some(port)));
        assert_eq!((a.device.next_deadline(), events(&a)), (None, vec![]), "nothing is tried again");
        a.bind.set_open_error(None);
        a.device.pause();
        let other = world.net.bind(a.address);
        other.open(port).unwrap();
        let resumed = a.device.resume();
        assert_eq!(resumed.is_ok(), asked == 0, "{asked}, then {refused}: {resumed:?}");
        assert_eq!(a.bind.port().is_some(), asked == 0);
    }
}

/// Also the one that the system chose, and that is open already.
#[test]
fn a_port_that_is_named_is_insisted_on() {
    let world = World::new();
    for paused in [false, true] {
        let a = world.node(1 + u8::from(paused));
        a.apply(Update { listen_port: Some(0), ..Update::default() });
        let (port, opens) = (a.bind.port().unwrap(), a.bind.opens());
        if paused {
            a.device.pause();
        }
        a.apply(Update { listen_port: Some(port), ..Update::default() });
        assert_eq!(a.bind.opens(), opens, "it is open, or not to be open");
        a.device.pause();
        let other = world.net.bind(a.address);
        other.open(port).unwrap();
        assert_eq!(a.device.resume().unwrap_err().kind(), ErrorKind::AddrInUse);
        // And given up again.
        other.close();
        world.pass(MS(1000), &[&a]);
        assert_eq!(a.bind.port(), Some(port));
        a.device.pause();
        a.apply(Update { listen_port: Some(0), ..Update::default() });
        other.open(port).unwrap();
        a.device.resume().unwrap();
        assert_ne!(a.bind.port(), Some(port));
    }
}

#[test]
fn another_port_is_tried_at_once_although_the_old_one_is_still_being_tried() {
    let world = World::new();
    let (a, b) = connected(&world);
    a.device.pause();
    let other = world.net.bind(a.address);
    other.open(PORT).unwrap();
    a.device.resume().unwrap_err();
    assert_eq!(tries(&world, &a).len(), 6);
    // One that cannot be had either is refused, and the old one is still wanted.
    other.open(7000).unwrap();
    let third = world.net.bind(a.address);
    third.open(PORT).unwrap();
    let refused = a.device.apply(Update { listen_port: Some(7000), ..Update::default() });
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::AddrInUse);
    assert_eq!((a.device.snapshot().interface.listen_port, a.bind.port()), (PORT, None));
    assert!(a.device.next_deadline().is_some());

    a.apply(Update { listen_port: Some(7001), ..Update::default() });
    assert_eq!(a.bind.port(), Some(7001));
    assert!(matches!(events(&a).as_slice(), [Event::SocketsLost(_), Event::SocketsRecovered(7001)]));
    let packet = a.send_to(&b, 100);
    world.settle(&[&a, &b]);
    assert_eq!(b.received(), [packet]);
    let opens = a.bind.opens();
    world.pass(MS(60_000), &[&a, &b]);
    assert_eq!(a.bind.opens(), opens, "nothing is left to be tried");
}

#[test]
fn a_change_of_networks_does_not_wait_for_the_next_try() {
    let world = World::new();
    let (a, _b) = connected(&world);
    a.device.pause();
    a.bind.set_open_error(Some(io::ErrorKind::AddrInUse));
    a.device.resume().unwrap_err();
    a.device.network_changed().unwrap_err();
    a.bind.set_open_error(None);
    a.device.rebind_soon();
    assert_eq!(a.device.next_deadline(), Some(world.now()));
    a.device.run_timers();
    assert_eq!(a.bind.port(), Some(PORT));
    assert!(matches!(events(&a).as_slice(), [Event::SocketsLost(_), Event::SocketsRecovered(PORT)]));
}

#[test]
fn what_is_lost_is_told_recovered_also_after_a_pause() {
    let world = World::new();
    let (a, _b) = connected(&world);
    a.bind.set_open_error(Some(io::ErrorKind::AddrInUse));
    a.device.rebind().unwrap_err();
    a.device.pause();
    assert_eq!(a.device.next_deadline(), None);
    a.device.resume().unwrap_err();
    assert_eq!(events(&a).len(), 1, "it is told once");
    a.device.down();
    a.bind.set_open_error(None);
    a.device.up().unwrap();
    assert_eq!(events(&a), [Event::SocketsRecovered(PORT)]);
}

/// A bind whose `recv` fails again and again.
struct Failing {
    inner: Arc<MemBind>,
    /// How often it will fail.
    left: Arc<AtomicUsize>,
}

impl Bind for Failing {
    fn open(&self, port: u16) -> io::Result<u16> {
        self.inner.open(port)
    }

    fn close(&self) {
        self.inner.close();
    }

    fn set_mark(&self, mark: u32) -> io::Result<()> {
        self.inner.set_mark(mark)
    }

    /// Sockets that are broken can end every wait.
    fn wait(&self, timeout: Option<Duration>) -> io::Result<Woken> {
        match self.left.load(SeqCst) {
            0 => self.inner.wait(timeout),
            _ => Ok(Woken { own: true, ..Woken::default() }),
        }
    }

    fn wake(&self) {
        self.inner.wake();
    }

    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        match self.left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => Err(io::ErrorKind::NotConnected.into()),
            Err(_) => self.inner.recv(batch),
        }
    }

    fn send(&self, batch: &[Transmit<'_>]) -> SendReport {
        self.inner.send(batch)
    }
}

#[test]
fn sockets_that_are_lost_are_renewed_later_and_later_and_told() {
    let world = World::new();
    let left = Arc::new(AtomicUsize::new(0));
    let fails = left.clone();
    let a = world.node_of(1, Options::default(), |inner| Arc::new(Failing { inner, left: fails }));
    let b = world.node(2);
    a.add_peer(&b, |_| {});
    b.add_peer(&a, |_| {});
    b.send_to(&a, 100);
    world.settle(&[&a, &b]);
    assert_eq!(a.received().len(), 1);
    events(&a);
    let opens = a.bind.opens();
    let lines = Lines::collect(tracing::Level::INFO);
    for (n, after) in [500, 1000, 2000].into_iter().enumerate() {
        left.store(1, SeqCst);
        a.step();
        a.device.run_timers();
        let told = events(&a);
        assert!(matches!(told.as_slice(), [Event::SocketsLost(reason)] if reason.contains("lost")), "{told:?}");
        let logged = lines.take();
        let why = "a UDP socket was lost";
        assert!(
            matches!(&logged[..], [line] if line.starts_with("WARN the sockets") && line.contains(why)),
            "{logged:?}"
        );
        let before = a.bind.opens();
        world.pass(MS(after - 1), &[&a, &b]);
        assert_eq!((a.bind.opens(), events(&a)), (before, vec![]), "not yet");
        world.pass(MS(1), &[&a, &b]);
        assert_eq!((a.bind.opens(), events(&a)), (opens + n as u64 + 1, vec![Event::SocketsRecovered(PORT)]));
        assert_eq!(lines.take(), ["INFO the sockets are open again"]);
        let packet = b.send_to(&a, 100);
        world.settle(&[&a, &b]);
        assert_eq!(a.received(), [packet]);
    }
    // What is closed is not missed.
    a.device.down();
    left.store(1, SeqCst);
    a.step();
    a.device.run_timers();
    assert_eq!((events(&a), a.device.next_deadline()), (vec![], None));
}

#[test]
fn a_running_tunnel_survives_any_number_of_failures_and_does_not_spin() {
    const MANY: usize = 1_000_000;
    let net = MemNetwork::new();
    let (tun, _handle) = MemTun::new("wg0", 1420);
    let left = Arc::new(AtomicUsize::new(0));
    let bind = Failing { inner: net.bind("192.0.2.1".parse().unwrap()), left: left.clone() };
    let (told, events) = mpsc::channel();
    let told = Mutex::new(told);
    let options =
        Options { events: Box::new(move |event| drop(told.lock().unwrap().send(event))), ..Options::default() };
    let tunnel = Tunnel::start(Arc::new(tun), Arc::new(bind), options).unwrap();
    tunnel.device().up().unwrap();
    left.store(MANY, SeqCst);
    tunnel.device().rebind_soon();
    let next = || events.recv_timeout(Duration::from_secs(300)).unwrap();
    for _ in 0..2 {
        assert!(matches!(next(), Event::SocketsLost(_)));
        assert!(matches!(next(), Event::SocketsRecovered(_)));
    }
    // At least one and a half seconds have passed, in which a thread that does not rest fails a million times.
    assert!(left.load(SeqCst) > MANY / 2, "{} are left", left.load(SeqCst));
    left.store(0, SeqCst);
    assert!(tunnel.stop().is_ok());
    assert!(events.try_iter().all(|event| !matches!(event, Event::Ended(_))));
}
