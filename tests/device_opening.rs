//! What others see while sockets are being opened, and after it was refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use common::{
    Node, PORT, World,
    around::{Around, Changed},
};
use wg_embed::{
    ErrorKind,
    bind::{Bind, mem::MemBind},
    config::Update,
    device::{Event, Options},
};

/// A bind whose `open` waits until it may go on, as a function of the app may.
struct Gate {
    inner: Arc<MemBind>,
    open: Mutex<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>>,
    refuses_marks: AtomicBool,
    /// When it refuses a mark, no port can be opened any more.
    takes_the_port: AtomicBool,
}

impl Around for Gate {
    fn inner(&self) -> &MemBind {
        &self.inner
    }

    fn open(&self, port: u16) -> io::Result<u16> {
        let gate = self.open.lock().unwrap().take();
        if let Some((entered, may_go_on)) = gate {
            entered.send(()).unwrap();
            may_go_on.recv().unwrap();
        }
        self.inner.open(port)
    }
    fn set_mark(&self, mark: u32) -> io::Result<()> {
        if self.takes_the_port.load(SeqCst) {
            self.inner.set_open_error(Some(io::ErrorKind::AddrInUse));
        }
        match self.refuses_marks.load(SeqCst) {
            true => Err(io::ErrorKind::PermissionDenied.into()),
            false => self.inner.set_mark(mark),
        }
    }
}

/// A node with such a bind.
fn node(world: &World) -> (Node, Arc<Changed<Gate>>) {
    let made = Mutex::new(None);
    let node = world.node_of(1, Options::default(), |inner| {
        let (refuses_marks, takes_the_port) = (AtomicBool::new(false), AtomicBool::new(false));
        let gate = Arc::new(Changed(Gate { inner, open: Mutex::default(), refuses_marks, takes_the_port }));
        made.lock().unwrap().insert(gate).clone()
    });
    (node, made.into_inner().unwrap().unwrap())
}

#[test]
fn until_the_port_is_open_nothing_is_sent_with_the_new_mark() {
    for (refused, was_up) in [(true, true), (false, true), (true, false), (false, false)] {
        let world = World::new();
        let (a, gate) = node(&world);
        a.apply(Update { fwmark: Some(3), ..Update::default() });
        if !was_up {
            a.bind.set_open_error(Some(io::ErrorKind::AddrInUse));
            a.device.down();
            a.device.keep_up().unwrap_err();
        }
        let state = || {
            let interface = a.device.snapshot().interface;
            (interface.listen_port, interface.fwmark, a.bind.port(), a.bind.mark())
        };
        let before = (PORT, 3, was_up.then_some(PORT), 3);
        assert_eq!(state(), before);
        let ((entered, has_entered), (go_on, may_go_on)) = (mpsc::channel(), mpsc::channel());
        *gate.open.lock().unwrap() = Some((entered, may_go_on));
        thread::scope(|scope| {
            // Dropped by a failed assertion, so that nothing waits for it for ever.
            let go_on = go_on;
            let update = Update { fwmark: Some(5), listen_port: Some(5000), ..Update::default() };
            let setting = scope.spawn(|| a.device.apply(update));
            has_entered.recv_timeout(Duration::from_secs(300)).unwrap();
            assert_eq!(state(), before, "refused: {refused}");
            a.bind.set_open_error(refused.then_some(io::ErrorKind::AddrInUse));
            go_on.send(()).unwrap();
            assert_eq!(
                setting.join().unwrap().map_err(|error| error.kind()).err(),
                refused.then_some(ErrorKind::AddrInUse)
            );
        });
        assert_eq!(state(), if refused { before } else { (5000, 5, Some(5000), 5) });
        a.bind.set_open_error(None);
        a.device.rebind().unwrap();
        let (port, mark) = if refused { (PORT, 3) } else { (5000, 5) };
        assert_eq!(state(), (port, mark, Some(port), mark), "nor later");
    }
}

#[test]
fn a_refused_mark_leaves_the_port() {
    for was_up in [true, false] {
        let world = World::new();
        let (a, gate) = node(&world);
        if !was_up {
            a.bind.set_open_error(Some(io::ErrorKind::AddrInUse));
            a.device.down();
            a.device.keep_up().unwrap_err();
            a.bind.set_open_error(None);
        }
        gate.refuses_marks.store(true, SeqCst);
        for listen_port in [None, Some(5000), Some(PORT), Some(0)] {
            let update = Update { fwmark: Some(5), listen_port, ..Update::default() };
            assert_eq!(a.device.apply(update).unwrap_err().kind(), ErrorKind::Permission);
            let interface = a.device.snapshot().interface;
            assert_eq!((interface.listen_port, interface.fwmark, a.bind.mark()), (PORT, 0, 0));
            assert_eq!(a.bind.port(), was_up.then_some(PORT));
        }
    }
}

/// The port was taken by another socket at the same moment.
#[test]
fn an_old_port_that_is_gone_after_a_refused_mark_is_opened_again_later() {
    let world = World::new();
    let (a, gate) = node(&world);
    gate.refuses_marks.store(true, SeqCst);
    gate.takes_the_port.store(true, SeqCst);
    a.device.apply(Update { fwmark: Some(5), listen_port: Some(5000), ..Update::default() }).unwrap_err();
    assert_eq!((a.bind.port(), a.device.snapshot().interface.listen_port), (None, PORT));
    a.bind.set_open_error(None);
    world.pass(Duration::from_secs(300), &[&a]);
    assert_eq!(a.bind.port(), Some(PORT));
    let told = a.events.lock().unwrap();
    assert!(matches!(told[..], [Event::SocketsLost(_), Event::SocketsRecovered(PORT)]), "{told:?}");
}

#[test]
fn while_sockets_are_opened_the_configuration_can_be_read_and_changed_and_packets_pass() {
    let world = World::new();
    let (a, gate) = node(&world);
    let b = world.node(2);
    a.add_peer(&b, |_| {});
    b.add_peer(&a, |_| {});
    let changes: [fn(&Node); 4] = [
        |a| a.device.rebind().unwrap(),
        |a| a.device.network_changed().unwrap(),
        |a| {
            a.device.pause();
            a.device.resume().unwrap();
        },
        |a| {
            a.device.rebind_soon();
            a.device.run_timers();
        },
    ];
    for change in changes {
        thread::scope(|scope| {
            // Dropped by a failed assertion, so that nothing waits for them for ever.
            let ((entered, has_entered), (go_on, may_go_on)) = (mpsc::channel(), mpsc::channel());
            *gate.open.lock().unwrap() = Some((entered, may_go_on));
            let changing = scope.spawn(|| change(&a));
            has_entered.recv_timeout(Duration::from_secs(300)).unwrap();
            let snapshot = a.device.snapshot();
            assert_eq!((snapshot.interface.listen_port, snapshot.peers.count()), (PORT, 1));
            // A change that asks for no socket.
            a.apply(Update { fwmark: Some(0), listen_port: Some(PORT), ..Update::default() });
            a.change_peer(&b, |peer| peer.preshared_key = None);
            // Whoever runs the timers is not kept from the packets.
            a.device.rebind_soon();
            a.device.run_timers();
            if gate.inner.port().is_some() {
                let packet = a.send_to(&b, 100);
                world.settle(&[&a, &b]);
                assert!(b.received().contains(&packet));
            }
            go_on.send(()).unwrap();
            changing.join().unwrap();
        });
        let opens = a.bind.opens();
        assert_eq!(a.device.next_deadline(), Some(world.now()), "what was asked for meanwhile is not forgotten");
        a.device.run_timers();
        assert_eq!(a.bind.opens(), opens + 1);
        world.clock.advance(Duration::from_millis(6000));
        world.settle(&[&a, &b]);
    }
}

/// The TUN may be followed by the thread that receives: it does not wait for an app's function.
#[test]
fn the_interface_may_go_down_or_up_while_sockets_are_opened() {
    for last in [false, true] {
        let world = World::new();
        let (a, gate) = node(&world);
        a.device.handle_tun_events();
        thread::scope(|scope| {
            let ((entered, has_entered), (go_on, may_go_on)) = (mpsc::channel(), mpsc::channel());
            *gate.open.lock().unwrap() = Some((entered, may_go_on));
            scope.spawn(|| a.device.rebind().unwrap());
            has_entered.recv_timeout(Duration::from_millis(60_000)).unwrap();
            let (followed, has_followed) = mpsc::channel();
            let device = &a.device;
            [true, false].into_iter().chain(last.then_some(true)).for_each(|up| a.tun.set_up(up));
            scope.spawn(move || {
                device.handle_tun_events();
                followed.send(()).unwrap();
            });
            let followed = has_followed.recv_timeout(Duration::from_millis(30_000));
            go_on.send(()).unwrap();
            followed.expect("it waits for the function");
        });
        assert_eq!(a.device.next_deadline(), Some(world.now()), "the timers go on with it");
        a.device.run_timers();
        assert_eq!((a.bind.port(), a.device.next_deadline()), (last.then_some(PORT), None));
    }
}
