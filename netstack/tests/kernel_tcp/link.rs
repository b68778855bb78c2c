//! A stack, a kernel, and connections between them.

use std::{
    net::{SocketAddr, TcpListener as KernelListener, TcpStream as KernelStream},
    thread::{self, JoinHandle},
};

use wg_embed::{
    bind::mem::MemNetwork,
    config::{AllowedIpUpdate, PeerUpdate, Update},
    device::{Options as TunnelOptions, Tunnel},
    key::PrivateKey,
    random::SystemRandom,
    tun::linux::LinuxTun,
};
use wg_embed_netstack::{Netstack, Options, TcpListener, TcpStream};

use crate::{
    common::Node,
    kernel::{self, Interface, KERNEL, STACK},
    netns::{Netns, eventually},
    relay::{Relay, Trouble},
    sockets::{LIMIT, patient, patient_stream},
};

pub(crate) const MTU: u16 = 1420;

/// IPv4 and IPv6, by their place in lists of addresses; and whether the stack dials.
pub(crate) const WAYS: [(usize, bool); 4] = [(0, true), (0, false), (1, true), (1, false)];

/// What carries packets.
enum Carrier {
    Relay(Relay),
    Tunnels { network: MemNetwork, _both: [Tunnel; 2] },
}

/// The kernel's TCP in a namespace, and a stack.
pub(crate) struct Link {
    pub(crate) netns: Netns,
    pub(crate) stack: Netstack,
    carrier: Carrier,
}

impl Link {
    pub(crate) fn new() -> Self {
        Self::with(MTU, kernel::options(MTU))
    }

    /// `mtu` is that of the kernel's side.
    pub(crate) fn with(mtu: u16, options: Options) -> Self {
        let netns = Netns::new();
        let interface = Interface::new(&netns, mtu);
        let node = Node::new(options);
        let stack = node.stack.clone();
        Self { netns, stack, carrier: Carrier::Relay(Relay::start(interface, node)) }
    }

    /// Over two tunnels: the stack behind one, an interface of the kernel behind the other.
    pub(crate) fn tunnel() -> Self {
        const PORT: u16 = 51820;
        let (netns, network) = (Netns::new(), MemNetwork::new());
        let stack = Netstack::new(kernel::options(MTU)).unwrap();
        let interface = netns.run(|| LinuxTun::create(kernel::NAME).unwrap());
        let keys = [PrivateKey::generate_with(&SystemRandom), PrivateKey::generate_with(&SystemRandom)];
        let outer = |n: usize| SocketAddr::from(([192, 0, 2, n as u8 + 1], PORT));
        let begin = |n: usize, tun, inner: [&str; 2]| {
            let tunnel = Tunnel::start(tun, network.bind(outer(n).ip()), TunnelOptions::default()).unwrap();
            let mut peer = PeerUpdate::new(keys[1 - n].public_key());
            peer.endpoint = Some(outer(1 - n).into());
            let allow = |ip: &str| AllowedIpUpdate::add(ip.parse::<std::net::IpAddr>().unwrap().into());
            peer.allowed_ips = inner.into_iter().map(allow).collect();
            let private_key = Some(Some(keys[n].clone()));
            let update = Update { private_key, listen_port: Some(PORT), peers: vec![peer], ..Update::default() };
            tunnel.device().apply(update).unwrap();
            tunnel.device().up().unwrap();
            tunnel
        };
        let both = [begin(0, std::sync::Arc::new(interface), STACK), begin(1, stack.tun(), KERNEL)];
        kernel::bring_up(&netns, kernel::NAME, MTU);
        Self { netns, stack, carrier: Carrier::Tunnels { network, _both: both } }
    }

    pub(crate) fn relay(&self) -> &Relay {
        let Carrier::Relay(relay) = &self.carrier else { panic!("there are tunnels") };
        relay
    }

    /// What is between the tunnels.
    pub(crate) fn network(&self) -> &MemNetwork {
        let Carrier::Tunnels { network, .. } = &self.carrier else { panic!("there are no tunnels") };
        network
    }

    pub(crate) fn set_trouble(&self, trouble: Trouble) {
        self.relay().set_trouble(trouble);
    }

    /// Changes what the kernel's TCP does; both families have these settings.
    pub(crate) fn set(&self, name: &str, value: &'static str) {
        let path = format!("/proc/sys/net/ipv4/{name}");
        self.netns.run(move || std::fs::write(&path, value).unwrap_or_else(|err| panic!("{path}: {err}")));
    }

    /// Starts a thread in the kernel's namespace.
    pub(crate) fn spawn<R: Send + 'static>(&self, body: impl FnOnce() -> R + Send + 'static) -> JoinHandle<R> {
        self.netns.run(move || thread::spawn(body))
    }

    pub(crate) fn kernel_listener(&self, family: usize) -> KernelListener {
        let at = SocketAddr::new(KERNEL[family].parse().unwrap(), 0);
        self.netns.run(move || KernelListener::bind(at).unwrap())
    }

    pub(crate) fn stack_listener(&self, family: usize) -> TcpListener {
        self.stack.listen_tcp(SocketAddr::new(STACK[family].parse().unwrap(), 0), 256).unwrap()
    }

    pub(crate) fn kernel_dials(&self, to: SocketAddr) -> std::io::Result<KernelStream> {
        self.netns.run(move || KernelStream::connect_timeout(&to, LIMIT)).map(patient)
    }

    pub(crate) fn stack_dials(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        let stream = self.stack.start_tcp(to)?;
        stream.wait_established(Some(LIMIT))?;
        Ok(patient_stream(stream))
    }

    /// A connection: the stack's side, and the kernel's.
    pub(crate) fn connect(&self, (family, stack_dials): (usize, bool)) -> (TcpStream, KernelStream) {
        if stack_dials {
            let listener = self.kernel_listener(family);
            let ours = self.stack_dials(listener.local_addr().unwrap()).unwrap();
            (ours, patient(listener.accept().unwrap().0))
        } else {
            let listener = self.stack_listener(family);
            let theirs = self.kernel_dials(listener.local_addr()).unwrap();
            (patient_stream(listener.accept(Some(LIMIT)).unwrap()), theirs)
        }
    }

    /// Waits until nothing is left in the stack, those in TIME-WAIT apart.
    pub(crate) fn await_nothing(&self) {
        eventually("nothing is left", || {
            let stats = self.stack.stats();
            (stats.connections, stats.half_open, stats.memory) == (0, 0, 0)
        });
    }
}
