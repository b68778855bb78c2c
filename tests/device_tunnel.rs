//! The two threads of a tunnel: how they end, and what callbacks may do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

#[path = "common/at_end.rs"]
mod at_end;
mod common;
#[path = "common/in_time.rs"]
mod in_time;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Condvar, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Sender},
    },
    thread,
    time::Duration,
};

use at_end::set_at_end;
use common::{PORT, give, ipv4};
use in_time::in_time;
use wg_embed::{
    ErrorKind,
    bind::{
        Bind,
        mem::{MemBind, MemNetwork},
    },
    config::{PeerUpdate, Update},
    device::{EndReason, Event, Options, Tunnel},
    key::PrivateKey,
    noise::REKEY_TIMEOUT,
    random::SystemRandom,
    time::ManualClock,
    tun::{
        PacketArena, PacketList, Tun, TunEvent,
        mem::{MemHandle, MemTun},
    },
};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(300);

struct End {
    tunnel: Arc<Tunnel>,
    tun: MemHandle,
    bind: Arc<MemBind>,
    clock: Arc<ManualClock>,
    private: PrivateKey,
    outer: IpAddr,
    inner: IpAddr,
}

fn end(net: &MemNetwork, clock: &Arc<ManualClock>, n: u8, events: impl Fn(Event) + Send + Sync + 'static) -> End {
    let outer = IpAddr::from([192, 0, 2, n]);
    let (tun, handle) = MemTun::new("wg0", 1420);
    let bind = net.bind(outer);
    let options = Options { events: Box::new(events), clock: clock.clone(), ..Options::default() };
    let tunnel = Tunnel::start(Arc::new(tun), bind.clone(), options).unwrap();
    let private = PrivateKey::generate_with(&SystemRandom);
    let update = Update { private_key: Some(Some(private.clone())), listen_port: Some(PORT), ..Update::default() };
    tunnel.device().apply(update).unwrap();
    tunnel.device().up().unwrap();
    let clock = clock.clone();
    End { tunnel: Arc::new(tunnel), tun: handle, bind, clock, private, outer, inner: IpAddr::from([10, 0, 0, n]) }
}

impl End {
    fn peer(&self) -> PeerUpdate {
        let mut peer = PeerUpdate::new(self.private.public_key());
        peer.endpoint = Some(SocketAddr::new(self.outer, PORT).into());
        peer.allowed_ips = vec![give(&format!("{}/32", self.inner))];
        peer
    }

    fn introduce(&self, other: &Self) {
        self.tunnel.device().apply(Update { peers: vec![other.peer()], ..Update::default() }).unwrap();
    }

    /// Lets time pass, for both ends.
    fn advance(&self, time: Duration) {
        self.clock.advance(time);
        self.bind.wake();
    }

    fn send(&self, to: &Self) {
        let packet = ipv4(self.inner, to.inner, 100);
        assert!(self.tun.inject(&packet));
        assert_eq!(to.tun.wait_written(PATIENCE), [packet]);
    }
}

fn pair(events: impl Fn(Event) + Send + Sync + 'static) -> (End, End) {
    let (net, clock) = (MemNetwork::new(), Arc::new(ManualClock::new()));
    let (a, b) = (end(&net, &clock, 1, events), end(&net, &clock, 2, |_| {}));
    a.introduce(&b);
    b.introduce(&a);
    (a, b)
}

/// A TUN that always has a packet, until its events are looked at: that ends only when it is woken, and takes the
/// wake-up.
struct Looked {
    reached: Sender<()>,
    is_woken: Mutex<bool>,
    woken: Condvar,
    has_looked: AtomicBool,
}

impl Looked {
    fn take_wake_up(&self) {
        let woken = self.is_woken.lock().unwrap();
        *self.woken.wait_while(woken, |is_woken| !*is_woken).unwrap() = false;
    }
}

impl Tun for Looked {
    fn name(&self) -> String {
        String::new()
    }

    fn mtu(&self) -> u16 {
        1420
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        if timeout.is_none() || !self.has_looked.swap(true, Ordering::SeqCst) {
            let _ = self.reached.send(());
            self.take_wake_up();
        }
        Ok(())
    }

    fn wake(&self) {
        *self.is_woken.lock().unwrap() = true;
        self.woken.notify_all();
    }

    fn event(&self) -> Option<TunEvent> {
        None
    }

    fn read(&self, arena: &mut PacketArena) -> io::Result<usize> {
        let has_one = !self.has_looked.load(Ordering::SeqCst);
        Ok(usize::from(has_one && arena.push(&ipv4([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 100))))
    }

    fn write(&self, packets: PacketList<'_>) -> usize {
        packets.ranges.len()
    }
}

#[test]
fn a_stop_while_the_events_of_a_busy_tun_are_looked_at_is_not_missed() {
    let (reached, is_reached) = mpsc::channel();
    let has_looked = AtomicBool::new(false);
    let tun = Looked { reached, is_woken: Mutex::default(), woken: Condvar::new(), has_looked };
    let bind = MemNetwork::new().bind(IpAddr::from([192, 0, 2, 1]));
    let tunnel = Tunnel::start(Arc::new(tun), bind, Options::default()).unwrap();
    is_reached.recv_timeout(PATIENCE).unwrap();
    in_time("stopping", move || tunnel.stop().unwrap());
}

#[test]
fn a_tunnel_carries_packets_and_stops() {
    let (a, b) = pair(|_| {});
    a.send(&b);
    b.send(&a);
    in_time("stopping", move || {
        a.tunnel.stop().unwrap();
        a.tunnel.stop().unwrap();
        assert_eq!((a.tunnel.wait(), a.bind.port()), (EndReason::Stopped, None));
        assert_eq!(a.tunnel.device().indices(), 0);
        assert!(b.bind.port().is_some());
        drop(b.tunnel);
        assert_eq!(b.bind.port(), None, "dropping stops");
    });
}

#[test]
fn waiting_ends_with_the_interface() {
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = events.clone();
    let (a, _b) = pair(move |e| sink.lock().unwrap().push(e));
    let tunnel = a.tunnel.clone();
    let waiting = thread::spawn(move || tunnel.wait());
    a.tun.remove();
    let reason = in_time("waiting", move || waiting.join().unwrap());
    assert_eq!(reason, EndReason::failed(ErrorKind::Closed, "the interface was removed"));
    let again = a.tunnel.clone();
    assert_eq!(in_time("waiting again", move || again.wait()), reason);
    let stopping = a.tunnel.clone();
    in_time("stopping", move || stopping.stop().unwrap());
    assert_eq!(*events.lock().unwrap(), [Event::Ended(reason)]);
    assert_eq!(a.bind.port(), None);
}

#[test]
fn a_panic_in_a_callback_ends_the_tunnel_and_nothing_else() {
    let (a, b) = pair(|event| assert!(!matches!(event, Event::HandshakeCompleted(_)), "a bug of the app"));
    assert!(a.tun.inject(&ipv4(a.inner, b.inner, 100)));
    let tunnel = a.tunnel.clone();
    let reason = in_time("waiting", move || tunnel.wait());
    assert_eq!((&reason, reason.to_string().contains("panic")), (&EndReason::Panicked, true));
    in_time("stopping", move || a.tunnel.stop().unwrap());
    assert_eq!(b.tunnel.device().snapshot().peers.flatten().count(), 1);
}

/// The app's callback stops the tunnel, just when another of its threads does so too.
#[test]
fn stopping_from_a_callback_is_refused_and_never_deadlocks() {
    let tunnel: Arc<OnceLock<Arc<Tunnel>>> = Arc::default();
    let (called, was_called) = mpsc::channel();
    let (refused, was_refused) = mpsc::channel();
    let own = tunnel.clone();
    let (a, b) = pair(move |event| {
        if let Event::HandshakeCompleted(_) = event {
            called.send(()).unwrap();
            thread::sleep(Duration::from_millis(200));
            refused.send(own.get().unwrap().stop().unwrap_err().kind()).unwrap();
        }
    });
    tunnel.set(a.tunnel.clone()).unwrap_or_else(|_| unreachable!());
    assert!(a.tun.inject(&ipv4(a.inner, b.inner, 100)));
    was_called.recv_timeout(PATIENCE).unwrap();
    let stopping = a.tunnel.clone();
    in_time("stopping", move || stopping.stop().unwrap());
    assert_eq!(was_refused.recv_timeout(PATIENCE).unwrap(), ErrorKind::Busy);
}

#[test]
fn the_last_owner_may_be_a_callback() {
    let tunnel: Arc<Mutex<Option<Arc<Tunnel>>>> = Arc::default();
    let own = tunnel.clone();
    let (dropped, was_dropped) = mpsc::channel();
    let (net, clock) = (MemNetwork::new(), Arc::new(ManualClock::new()));
    let a = end(&net, &clock, 1, move |event| {
        if let Event::HandshakeCompleted(_) = event {
            let tunnel = own.lock().unwrap().take();
            while Arc::strong_count(tunnel.as_ref().unwrap()) > 1 {
                thread::yield_now();
            }
            drop(tunnel);
            dropped.send(()).unwrap();
        }
    });
    let b = end(&net, &clock, 2, |_| {});
    a.introduce(&b);
    b.introduce(&a);
    let End { tunnel: last, bind, tun, inner, .. } = a;
    *tunnel.lock().unwrap() = Some(last);
    assert!(tun.inject(&ipv4(inner, b.inner, 100)));
    was_dropped.recv_timeout(PATIENCE).unwrap();
    in_time("closing", move || {
        while bind.port().is_some() {
            thread::yield_now();
        }
    });
}

#[test]
fn a_callback_may_change_the_configuration() {
    let tunnel: Arc<OnceLock<Arc<Tunnel>>> = Arc::default();
    let own = tunnel.clone();
    let (done, was_done) = mpsc::channel();
    let (a, b) = pair(move |event| {
        if let Event::HandshakeCompleted(key) = event {
            let device = own.get().unwrap().device();
            let mut peer = PeerUpdate::new(key);
            peer.persistent_keepalive = Some(25);
            device.apply(Update { peers: vec![peer], ..Update::default() }).unwrap();
            device.apply(Update { private_key: Some(None), replace_peers: true, ..Update::default() }).unwrap();
            device.down();
            device.up().unwrap();
            done.send(device.indices()).unwrap();
        }
    });
    tunnel.set(a.tunnel.clone()).unwrap_or_else(|_| unreachable!());
    assert!(a.tun.inject(&ipv4(a.inner, b.inner, 100)));
    assert_eq!(was_done.recv_timeout(PATIENCE).unwrap(), 0);
    in_time("stopping", move || a.tunnel.stop().unwrap());
}

/// Everything at once; then it must still work, and leave nothing behind.
#[test]
fn changes_of_all_kinds_while_packets_flow() {
    const ROUNDS: u32 = 600;
    let (a, b) = pair(|_| {});
    let ends = [Arc::new(a), Arc::new(b)];
    let [a, b] = ends.clone();
    in_time("the commotion", move || {
        let over = [AtomicBool::new(false), AtomicBool::new(false)];
        thread::scope(|scope| {
            for (from, to, over) in [(&a, &b, &over[0]), (&b, &a, &over[1])] {
                scope.spawn(move || {
                    while !over.load(Ordering::SeqCst) {
                        from.tun.inject(&ipv4(from.inner, to.inner, 100));
                        let _ = to.tun.take_written();
                        thread::yield_now();
                    }
                });
                scope.spawn(move || {
                    let device = from.tunnel.device();
                    let _over = set_at_end(over);
                    for round in 0..ROUNDS {
                        // At least a handshake in each round of the six.
                        from.advance(REKEY_TIMEOUT / 5);
                        let (mut peer, mut private_key, mut replace_peers) = (to.peer(), None, false);
                        match round % 6 {
                            0 => peer.remove = true,
                            1 => replace_peers = true,
                            2 => private_key = Some(Some(PrivateKey::generate_with(&SystemRandom))),
                            3 => private_key = Some(Some(from.private.clone())),
                            4 => peer.persistent_keepalive = Some(round as u16 % 3),
                            _ => {
                                device.down();
                                device.up().unwrap();
                            }
                        }
                        let update = Update { private_key, replace_peers, peers: vec![peer], ..Update::default() };
                        device.apply(update).unwrap();
                        assert!(device.snapshot().peers.flatten().count() <= 1);
                    }
                });
            }
        });
    });
    let [a, b] = &ends;
    for (end, other) in [(a, b), (b, a)] {
        let private_key = Some(Some(end.private.clone()));
        let update = Update { private_key, replace_peers: true, peers: vec![other.peer()], ..Update::default() };
        end.tunnel.device().apply(update).unwrap();
    }
    let until = std::time::Instant::now() + PATIENCE;
    let packet = ipv4(a.inner, b.inner, 333);
    let mut arrived = false;
    while !arrived && std::time::Instant::now() < until {
        a.tun.inject(&packet);
        arrived = b.tun.wait_written(Duration::from_millis(20)).contains(&packet);
        ends.iter().for_each(|end| end.advance(Duration::from_secs(1)));
    }
    assert!(arrived);
    for end in &ends {
        end.tunnel.device().apply(Update { replace_peers: true, ..Update::default() }).unwrap();
        assert_eq!(end.tunnel.device().indices(), 0);
        end.tunnel.stop().unwrap();
    }
}

/// Nobody looks at its TUN while a tunnel is paused.
#[test]
fn an_interface_that_went_down_during_a_pause_stays_down() {
    let (a, b) = pair(|_| {});
    a.send(&b);
    let opens = a.bind.opens();
    a.tunnel.pause();
    a.tun.set_up(false);
    a.tunnel.resume().unwrap();
    assert_eq!((a.bind.port(), a.bind.opens()), (None, opens), "not even for a moment");
    a.tunnel.pause();
    a.tun.set_up(true);
    a.tunnel.resume().unwrap();
    assert_eq!(a.bind.port(), Some(PORT));
}

#[test]
fn a_pause_of_the_tunnel_or_the_device_is_ended_by_either() {
    let (a, b) = pair(|_| {});
    a.send(&b);
    for (tunnel_pauses, tunnel_resumes) in [(true, false), (false, true), (false, false), (true, true)] {
        if tunnel_pauses {
            a.tunnel.pause();
        } else {
            a.tunnel.device().pause();
        }
        // No handshake begins sooner after the last.
        a.advance(REKEY_TIMEOUT);
        if tunnel_resumes { a.tunnel.resume() } else { a.tunnel.device().resume() }.unwrap();
        a.send(&b);
    }
}
