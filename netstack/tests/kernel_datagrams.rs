//! Datagrams, fragments, echo and ICMP errors with Linux at the other end of a TUN interface.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "common/kernel.rs"]
mod kernel;
#[path = "../../tests/netns/mod.rs"]
mod netns;
#[path = "../../tests/common/skip.rs"]
mod skip;

use std::{
    io::{ErrorKind, Read},
    net::{IpAddr, SocketAddr, UdpSocket as KernelSocket},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use common::{
    A, B, Node, kind,
    packets::{at, icmp, parse_icmp, udp},
    pattern,
};
use kernel::{Interface, KERNEL, STACK};
use netns::{Netns, as_root};
use smoltcp::wire::Icmpv4Message;
use wg_embed_netstack::{Intercept, InterceptOptions, TcpStream, UdpFlow};

const MTU: usize = 1420;

/// A kernel and a stack, and the interface between them.
struct Link {
    netns: Netns,
    interface: Interface,
    node: Node,
}

impl Link {
    fn new() -> Self {
        let netns = Netns::new();
        let interface = Interface::new(&netns, MTU as u16);
        Self { netns, interface, node: Node::new(kernel::options(MTU as u16)) }
    }

    /// Moves what waits, and returns what came from the kernel.
    fn step(&self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut buffer = vec![0; 65_536];
        while let Some(len) = self.interface.read(&mut buffer) {
            packets.push(buffer[..len].to_vec());
        }
        self.node.give(&packets);
        for packet in self.node.take() {
            assert!(packet.len() <= MTU);
            assert!(self.interface.write(&packet));
        }
        packets
    }

    fn until<R>(&self, what: &str, mut done: impl FnMut() -> Option<R>) -> R {
        let end = Instant::now() + Duration::from_secs(300);
        loop {
            self.step();
            if let Some(result) = done() {
                return result;
            }
            assert!(Instant::now() < end, "{what}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// The kernel's next ICMP message of this type.
    fn icmp_from_kernel(&self, kind: u8) -> Vec<u8> {
        let end = Instant::now() + Duration::from_secs(300);
        loop {
            let found = self.step().into_iter().find(|packet| match packet[0] >> 4 {
                4 => packet[9] == 1 && packet[20] == kind,
                _ => packet[6] == 58 && packet[40] == kind,
            });
            if let Some(packet) = found {
                return packet;
            }
            assert!(Instant::now() < end, "no ICMP message of type {kind}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn kernel_socket(&self, address: &str) -> KernelSocket {
        let local: IpAddr = address.parse().unwrap();
        let socket = self.netns.run(move || KernelSocket::bind((local, 0)).unwrap());
        socket.set_nonblocking(true).unwrap();
        socket
    }
}

#[test]
fn datagrams_of_all_sizes_pass_both_ways() {
    as_root(|| {
        let link = Link::new();
        for (kernel, stack) in KERNEL.into_iter().zip(STACK) {
            let most = if stack == B { 65_507 } else { 65_487 };
            let theirs = link.kernel_socket(kernel);
            let to = theirs.local_addr().unwrap();
            let ours = link.node.stack.bind_udp(SocketAddr::new(stack.parse().unwrap(), 0), None).unwrap();
            let mut buffer = vec![0; 65_536];
            for size in [0, 1, 1372, 1373, 1392, 1393, 4000, most] {
                let data = pattern(size);
                ours.try_send(&data, Some(to)).unwrap();
                let (len, from) = link.until("theirs", || theirs.recv_from(&mut buffer).ok());
                assert!(from == ours.local_addr() && buffer[..len] == data, "{size}");
                theirs.send_to(&data, ours.local_addr()).unwrap();
                let (len, from) = link.until("ours", || ours.try_recv(&mut buffer).ok());
                assert!(from == to && buffer[..len] == data, "{size}");
            }
        }
        assert!(link.node.is_empty());
    });
}

#[test]
fn echo_is_answered_by_both() {
    as_root(|| {
        let link = Link::new();
        for to in KERNEL {
            for size in [0, 56, 1393, 9000, 65_000] {
                let ping = link.node.stack.start_ping(to.parse().unwrap(), size).unwrap();
                link.until("the kernel answers", || ping.try_reply().ok());
            }
        }
        for (kernel, stack) in KERNEL.into_iter().zip(STACK) {
            let (domain, protocol, kind) = if stack == B {
                (socket2::Domain::IPV4, socket2::Protocol::ICMPV4, 8)
            } else {
                (socket2::Domain::IPV6, socket2::Protocol::ICMPV6, 128)
            };
            let raw = link.netns.run(move || socket2::Socket::new(domain, socket2::Type::RAW, Some(protocol)).unwrap());
            raw.set_nonblocking(true).unwrap();
            for size in [0, 57, 5000] {
                // The kernel fills the sum in for IPv6; for IPv4 it is taken from a packet.
                let packet =
                    icmp(kernel.parse().unwrap(), stack.parse().unwrap(), (kind, 0), [1, 2, 3, 4], &pattern(size));
                let start = if stack == B { 20 } else { 40 };
                raw.send_to(&packet[start..], &SocketAddr::new(stack.parse().unwrap(), 0).into()).unwrap();
                let reply = link.until("the stack answers", || {
                    let mut buffer = vec![0; 65_536];
                    let len = (&raw).read(&mut buffer).ok()?;
                    let message = &buffer[if stack == B { 20 } else { 0 }..len];
                    (message[0] == if stack == B { 0 } else { 129 }).then(|| message.to_vec())
                });
                assert!(reply[4..8] == [1, 2, 3, 4] && reply[8..] == pattern(size), "{size}");
            }
        }
    });
}

#[test]
fn closed_ports_refuse_in_the_same_way() {
    as_root(|| {
        let link = Link::new();
        for (kernel, stack) in KERNEL.into_iter().zip(STACK) {
            let closed = |host: &str| SocketAddr::new(host.parse().unwrap(), 9);
            let ours = link.node.stack.bind_udp(at("[::]:0"), Some(closed(kernel))).unwrap();
            ours.try_send(b"anyone?", None).unwrap();
            let error = link.until("the kernel refuses", || ours.try_recv(&mut [0; 9]).err().filter(not_yet));
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            let theirs = link.kernel_socket(kernel);
            theirs.connect(closed(stack)).unwrap();
            theirs.send(b"anyone?").unwrap();
            let error = link.until("the stack refuses", || theirs.recv(&mut [0; 9]).err().filter(not_yet));
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            // The same packet to both: the answers are alike.
            for size in [10, 1300] {
                let from = SocketAddr::new(stack.parse().unwrap(), 5);
                assert!(link.interface.write(&udp(from, closed(kernel), &pattern(size))));
                let theirs = link.icmp_from_kernel(if stack == B { 3 } else { 1 });
                let from = SocketAddr::new(kernel.parse().unwrap(), 5);
                link.node.give(&[udp(from, closed(stack), &pattern(size))]);
                let ours = link.node.take().remove(0);
                let start = if stack == B { 20 } else { 40 };
                assert_eq!(ours.len(), theirs.len());
                // Of IPv6 without the flow label, which differs with each destination.
                let class = |packet: &[u8]| if stack == B { packet[1] } else { packet[1] >> 4 };
                assert_eq!((class(&ours), parse_icmp(&ours).2), (class(&theirs), parse_icmp(&theirs).2));
                // What depends on no address: the four bytes that are not used, and the quoted ports and data.
                assert_eq!(ours[start + 4..start + 8], theirs[start + 4..start + 8]);
                let quoted = start + 8 + start;
                assert_eq!(ours[quoted..quoted + 6], theirs[quoted..quoted + 6]);
                assert!(ours[quoted + 8..] == theirs[quoted + 8..]);
            }
        }
    });
}

fn not_yet(err: &std::io::Error) -> bool {
    err.kind() != ErrorKind::WouldBlock
}

#[test]
fn a_router_tells_of_a_smaller_path() {
    as_root(|| {
        let link = Link::new();
        link.netns.run(|| {
            for family in ["ipv4/conf", "ipv6/conf"] {
                std::fs::write(format!("/proc/sys/net/{family}/all/forwarding"), "1").unwrap();
            }
        });
        let _narrow = link.netns.tun("narrow", libc::IFF_TUN);
        link.netns.ip("link set narrow mtu 1300 up");
        link.netns.ip("address add 192.168.9.1/24 dev narrow");
        link.netns.ip("address add fd09::1/64 dev narrow nodad");
        link.netns.await_address("fd09::1");
        for (n, to) in ["192.168.9.2:9", "[fd09::2]:9"].into_iter().enumerate() {
            let ours = link.node.stack.bind_udp(at("[::]:0"), Some(at(to))).unwrap();
            ours.try_send(&pattern(1350), None).unwrap();
            let message = link.icmp_from_kernel([u8::from(Icmpv4Message::DstUnreachable), 2][n]);
            assert_eq!(parse_icmp(&message).2, [(3, 4), (2, 0)][n]);
            ours.try_send(&pattern(1350), None).unwrap();
            let packets = link.node.take();
            assert!(packets.len() == 2 && packets.iter().all(|packet| packet.len() <= 1300));
            let others = link.node.stack.bind_udp(at("[::]:0"), Some(SocketAddr::new(A.parse().unwrap(), 9))).unwrap();
            others.try_send(&pattern(1350), None).unwrap();
            assert_eq!(link.node.take().len(), 1);
        }
    });
}

#[test]
fn packets_for_others_are_dropped_and_counted() {
    as_root(|| {
        let link = Link::new();
        let dropped = || link.node.drops("in_destination");
        for (n, host) in ["10.0.0.99", "fd00::99"].into_iter().enumerate() {
            let (theirs, to) = (link.kernel_socket(KERNEL[n]), SocketAddr::new(host.parse().unwrap(), 9));
            // A datagram, one in fragments, and the SYN of a dial; the kernel may send more to multicast addresses.
            for (size, packets) in [(10, 1), (4000, 3)] {
                let before = dropped();
                theirs.send_to(&pattern(size), to).unwrap();
                link.until("it is counted", || (dropped() >= before + packets).then_some(()));
            }
            let before = dropped();
            let dial = link.netns.start(move || std::net::TcpStream::connect_timeout(&to, Duration::from_millis(300)));
            link.until("it is counted", || (dropped() > before).then_some(()));
            let error = link.until("it ends", || dial.try_recv().ok()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut);
        }
        assert_eq!((link.node.stack.stats().packets_out, link.node.is_empty()), (0, true));
    });
}

/// Keeps the flows of what is intercepted.
#[derive(Default)]
struct Flows(Mutex<Vec<UdpFlow>>);

impl Intercept for Flows {
    fn connected(&self, _: TcpStream) {}

    fn flow(&self, flow: UdpFlow) {
        self.0.lock().unwrap().push(flow);
    }
}

#[test]
fn a_flow_learns_that_its_peer_is_gone() {
    as_root(|| {
        let link = Link::new();
        let flows = Arc::new(Flows::default());
        link.node.stack.intercept(InterceptOptions::default(), Some(flows.clone()));
        for (n, host) in ["10.0.0.99", "fd00::99"].into_iter().enumerate() {
            let theirs = link.kernel_socket(KERNEL[n]);
            theirs.send_to(b"hello", (host, 9)).unwrap();
            let flow = link.until("a flow", || flows.0.lock().unwrap().pop());
            let mut buffer = [0; 9];
            flow.try_send(b"HELLO").unwrap();
            assert_eq!(link.until("the answer", || theirs.recv(&mut buffer).ok()), 5);
            drop(theirs);
            flow.try_send(b"HELLO?").unwrap();
            let error = link.until("an error", || flow.take_error());
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            // It goes on: somebody else may have the port next.
            flow.try_send(b"HELLO?").unwrap();
            assert_eq!(
                (flow.try_recv(&mut buffer).unwrap(), kind(flow.try_recv(&mut buffer))),
                (Some(5), ErrorKind::WouldBlock)
            );
        }
    });
}
