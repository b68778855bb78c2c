//! Connections of the kernel to any address: accepted, refused, ignored, held back.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream as KernelStream},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use wg_embed_netstack::{Intercept, InterceptOptions, PendingTcp, TcpStream, UdpFlow};

use crate::{
    common::{kind, pattern},
    kernel,
    link::Link,
    netns::{as_root, eventually},
    sockets::{LIMIT, exchange, patient, patient_stream},
};

const ANY: [&str; 4] = ["93.184.216.34:443", "[2001:db8::1]:9", "10.0.0.99:1", "10.0.0.2:65535"];

/// Passes everything on.
struct Handler {
    pending: Mutex<mpsc::Sender<PendingTcp>>,
    streams: Mutex<mpsc::Sender<TcpStream>>,
}

impl Intercept for Handler {
    fn dialled(&self, pending: PendingTcp) {
        self.pending.lock().unwrap().send(pending).unwrap();
    }

    fn connected(&self, stream: TcpStream) {
        self.streams.lock().unwrap().send(patient_stream(stream)).unwrap();
    }

    fn flow(&self, _: UdpFlow) {}
}

struct Intercepted {
    link: Link,
    pending: mpsc::Receiver<PendingTcp>,
    streams: mpsc::Receiver<TcpStream>,
}

fn intercepted() -> Intercepted {
    let link = Link::new();
    link.netns.ip(&format!("route add default dev {}", kernel::NAME));
    link.netns.ip(&format!("-6 route add default dev {}", kernel::NAME));
    let ((pending, get_pending), (streams, get_streams)) = (mpsc::channel(), mpsc::channel());
    let handler = Handler { pending: Mutex::new(pending), streams: Mutex::new(streams) };
    link.stack.intercept(InterceptOptions::default(), Some(Arc::new(handler)));
    Intercepted { link, pending: get_pending, streams: get_streams }
}

impl Intercepted {
    /// Begins to dial, and returns what the handler gets.
    fn dial(&self, to: SocketAddr) -> (std::thread::JoinHandle<std::io::Result<KernelStream>>, PendingTcp) {
        let dial = self.link.spawn(move || KernelStream::connect_timeout(&to, LIMIT).map(patient));
        let pending = self.pending.recv_timeout(LIMIT).unwrap();
        assert_eq!(pending.destination(), to);
        (dial, pending)
    }
}

#[test]
fn connections_to_any_address_are_accepted() {
    as_root(|| {
        let all = intercepted();
        for to in ANY.map(|to| to.parse().unwrap()) {
            let (dial, pending) = all.dial(to);
            let source = pending.source();
            pending.accept();
            let theirs = dial.join().unwrap().unwrap();
            let ours = all.streams.recv_timeout(LIMIT).unwrap();
            assert_eq!((ours.local_addr(), ours.peer_addr()), (to, source));
            assert_eq!(theirs.local_addr().unwrap(), source);
            exchange(&ours, &theirs, &pattern(500_000), &pattern(500_001));
        }
        all.link.await_nothing();
    });
}

#[test]
fn connections_to_any_address_are_refused() {
    as_root(|| {
        let all = intercepted();
        for to in ANY.map(|to| to.parse().unwrap()) {
            let (dial, pending) = all.dial(to);
            pending.refuse();
            assert_eq!(kind(dial.join().unwrap()), ErrorKind::ConnectionRefused);
        }
        all.link.await_nothing();
    });
}

#[test]
fn a_connection_is_held_until_it_is_decided() {
    as_root(|| {
        let all = intercepted();
        let held = |all: &Intercepted| {
            let drops = all.link.stack.drops();
            drops.iter().find(|drop| drop.0 == "tcp_held").unwrap().1
        };
        for (n, to) in ANY.map(|to| to.parse().unwrap()).into_iter().enumerate() {
            let before = held(&all);
            let (dial, pending) = all.dial(to);
            // Until the kernel has sent its SYN again.
            eventually("it asks again", || held(&all) > before);
            assert!(!dial.is_finished() && all.pending.try_recv().is_err());
            if n % 2 == 0 {
                pending.accept();
                let mut theirs = dial.join().unwrap().unwrap();
                let mut ours = all.streams.recv_timeout(LIMIT).unwrap();
                theirs.write_all(b"ping").unwrap();
                let mut buffer = [0; 4];
                ours.read_exact(&mut buffer).unwrap();
                assert_eq!(&buffer, b"ping");
            } else {
                drop(pending);
                assert_eq!(kind(dial.join().unwrap()), ErrorKind::ConnectionRefused);
            }
        }
        all.link.await_nothing();
    });
}

#[test]
fn a_connection_that_is_ignored_gets_no_answer() {
    as_root(|| {
        let all = intercepted();
        let to = ANY[0].parse().unwrap();
        let dial = all.link.spawn(move || KernelStream::connect_timeout(&to, Duration::from_millis(2500)));
        let first = all.pending.recv_timeout(LIMIT).unwrap();
        first.ignore();
        // Its next SYN is a new one to the stack.
        let second = all.pending.recv_timeout(LIMIT).unwrap();
        assert_eq!(second.destination(), to);
        second.ignore();
        assert_eq!(kind(dial.join().unwrap()), ErrorKind::TimedOut);
        // One that has given up may be accepted late: then the kernel resets it.
        let dial = all.link.spawn(move || KernelStream::connect_timeout(&to, Duration::from_millis(100)));
        let mut late = vec![all.pending.recv_timeout(LIMIT).unwrap()];
        assert_eq!(kind(dial.join().unwrap()), ErrorKind::TimedOut);
        late.extend(all.pending.try_iter());
        late.into_iter().for_each(PendingTcp::accept);
        all.link.await_nothing();
        assert!(all.streams.try_recv().is_err());
    });
}
