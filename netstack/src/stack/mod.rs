//! The stack itself.

mod budget;
mod connect;
mod connections;
mod counters;
mod datagram;
mod deadlines;
mod decide;
mod egress;
mod fragments;
mod half_open;
pub(crate) mod icmp;
mod ingress;
mod listeners;
mod outbox;
pub(crate) mod packet;
mod path_mtu;
mod segment;
pub(crate) mod shared;
mod socket;
mod starved;
pub(crate) mod tcp_errors;
mod time_wait;
mod tuple;
pub(crate) mod udp;
mod waiter;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Weak, atomic::Ordering},
};

use wg_embed::{
    sync::{lock, read, write},
    tun::TunEvent,
};

pub(crate) use connections::closed;
pub(crate) use deadlines::{Timed, Timer};
pub(crate) use decide::{Decision, decide, stop_listening};
pub(crate) use listeners::Listening;
pub(crate) use shared::{Interception, Shared};
pub(crate) use socket::{State, TcpSocket};
pub(crate) use tuple::FourTuple;

use crate::{Intercept, InterceptOptions, Notify, Options, TcpListener, TcpStream, UdpPort, UdpSocket};

/// A userspace TCP/IP stack: the inner side of a tunnel. Cloning it is cheap and returns the same stack.
///
/// A child of `fork()` may drop its copies of a stack's objects: the connections, sockets, listeners, flows and pings
/// of the parent are not affected. It must not use them otherwise.
#[derive(Clone)]
pub struct Netstack(pub(crate) Arc<Shared>);

impl Netstack {
    /// Creates a stack.
    ///
    /// # Errors
    /// `InvalidInput` for options outside their limits; errors of the system if it has no descriptors left.
    pub fn new(options: Options) -> io::Result<Self> {
        options.check()?;
        let options = Options {
            addresses: canonical(&options.addresses),
            receive_buffer: options.receive_buffer.max(MIN_BUFFER),
            send_buffer: options.send_buffer.max(MIN_BUFFER),
            ..options
        };
        Shared::new(options).map(|shared| Self(Arc::new(shared)))
    }

    /// Returns the [`Tun`](wg_embed::tun::Tun) with which a tunnel is started.
    #[must_use]
    pub fn tun(&self) -> Arc<dyn wg_embed::tun::Tun> {
        Arc::new(egress::StackTun(self.0.clone()))
    }

    /// Returns the options, with the current values of those that can be replaced.
    #[must_use]
    pub fn options(&self) -> Options {
        let network = read(&self.0.network).clone();
        Options {
            addresses: network.addresses,
            mtu: network.mtu,
            dns: network.dns,
            memory: self.0.memory.limit(),
            max_connections: self.0.tcp.max(),
            ..self.0.options.clone()
        }
    }

    /// Replaces the stack's own addresses. Connections from removed addresses are reset.
    pub fn set_addresses(&self, addresses: Vec<IpAddr>) -> io::Result<()> {
        let mut network = write(&self.0.network);
        check(&addresses, network.mtu)?;
        network.addresses = canonical(&addresses);
        drop(network);
        self.addresses_changed();
        Ok(())
    }

    /// Replaces the MTU. If it has become smaller, open connections send smaller segments; they never send larger ones.
    pub fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        let mut network = write(&self.0.network);
        check(&network.addresses, mtu)?;
        if std::mem::replace(&mut network.mtu, mtu) != mtu {
            self.0.mtu.store(mtu, Ordering::Release);
            drop(network);
            tcp_errors::limit_segments(&self.0);
            self.0.events.push(TunEvent::Mtu(mtu));
            self.0.waiter.wake();
        }
        Ok(())
    }

    /// Replaces the DNS servers.
    pub fn set_dns(&self, dns: Vec<IpAddr>) {
        write(&self.0.network).dns = dns;
    }

    /// Replaces the maximum total size of all buffers. If they are larger now, windows shrink, and no connection is
    /// started until they are smaller.
    pub fn set_memory(&self, bytes: usize) {
        self.0.memory.set_limit(bytes);
    }

    /// Replaces [`Options::max_connections`]. Existing connections continue.
    pub fn set_max_connections(&self, max: usize) {
        self.0.tcp.set_max(max);
    }

    /// Starts to connect; the stream is established later.
    ///
    /// # Errors
    /// `AddrNotAvailable` (no own address of the family, or no port is left), `OutOfMemory` at the limit,
    /// `NotConnected` (closed).
    pub fn start_tcp(&self, to: SocketAddr) -> io::Result<TcpStream> {
        connect::start(&self.0, to)
    }

    /// Listens on a port of one own address, or of all with an unspecified one (`[::]`: both families). Port 0: a free
    /// port. While `backlog` connections (at least 1) wait to be accepted, others get no answer; peers try again.
    ///
    /// # Errors
    /// `AddrInUse`, `AddrNotAvailable`.
    pub fn listen_tcp(&self, at: SocketAddr, backlog: usize) -> io::Result<TcpListener> {
        let at = SocketAddr::new(at.ip().to_canonical(), at.port());
        if self.0.is_closed() {
            return Err(closed());
        }
        if !at.ip().is_unspecified() && !self.0.is_own(at.ip()) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        decide::listen(&self.0, at, backlog)
    }

    /// Creates a UDP socket at `at` (as for [`listen_tcp`](Self::listen_tcp)), connected to `to` if that is given.
    ///
    /// Several sockets of one address and port may be connected to different addresses; an unconnected one gets the
    /// datagrams of all others.
    ///
    /// # Errors
    /// `AddrInUse`, `AddrNotAvailable`, `InvalidInput` (`to` is of another family, or not a host's), `NotConnected`
    /// (closed).
    pub fn bind_udp(&self, at: SocketAddr, to: Option<SocketAddr>) -> io::Result<UdpSocket> {
        udp::bind(&self.0, at, to)
    }

    /// Reserves a UDP port at `at` (as for [`listen_tcp`](Self::listen_tcp)) without a socket: datagrams to it are
    /// [intercepted](Self::intercept), and no socket can be bound to it until the result is dropped. A connected socket
    /// at this port still gets its own datagrams.
    ///
    /// # Errors
    /// `AddrInUse`, `AddrNotAvailable`, `NotConnected` (closed).
    pub fn reserve_udp(&self, at: SocketAddr) -> io::Result<UdpPort> {
        udp::reserve(&self.0, at)
    }

    /// Returns whether there is a TCP listener at this port of this address, or of all with an unspecified one.
    #[must_use]
    pub fn is_listening(&self, at: SocketAddr) -> bool {
        let at = SocketAddr::new(at.ip().to_canonical(), at.port());
        read(&self.0.tcp.listeners).conflicts(at)
    }

    /// Sends one datagram from any address (a reply with the source `from`).
    ///
    /// # Errors
    /// `InvalidInput` (addresses of two families, or not of hosts; with EMSGSIZE as its cause: more than 65,507 bytes,
    /// with IPv6 65,487), `WouldBlock` (dropped: the stack's queue is full), `NotConnected` (closed).
    pub fn send_datagram(&self, data: &[u8], from: SocketAddr, to: SocketAddr) -> io::Result<()> {
        udp::send_from_any(&self.0, data, from, to)
    }

    /// Passes all connections and datagrams without a socket of the stack to `handler`, which replaces the previous
    /// one; with `None` they are refused (the default).
    pub fn intercept(&self, options: InterceptOptions, handler: Option<Arc<dyn Intercept>>) {
        let interception = handler.map(|handler| Arc::new(Interception { options, handler }));
        let mut place = write(&self.0.interception);
        // Under the lock: a stack that is closed from now on removes it.
        let before = if self.0.is_closed() { interception } else { std::mem::replace(&mut *place, interception) };
        drop(place);
        drop(before);
    }

    /// Returns statistics: connections, memory, packets. [`drops`](Self::drops) returns those of dropped packets.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = &*self.0;
        Stats {
            connections: shared.tcp.len(),
            half_open: lock(&shared.tcp.half_open).len(),
            time_wait: lock(&shared.tcp.time_wait).len(),
            flows: udp::flows(shared),
            memory: shared.memory.used(),
            packets_in: shared.counters.packets_in.load(Ordering::Relaxed),
            packets_out: shared.counters.packets_out.load(Ordering::Relaxed),
        }
    }

    /// Calls `round`, which handles events of several connections on this thread: the tunnel is woken once at its end
    /// for most of the segments without data that follow from it, such as SYNs and FINs.
    pub fn round<R>(&self, round: impl FnOnce() -> R) -> R {
        self.0.waiter.round(round)
    }

    /// Closes the stack: connections are reset (the peer gets a RST if the tunnel still runs), all calls fail with
    /// `ConnectionAborted` from now on, and waiting threads are woken. The [`Tun`](wg_embed::tun::Tun) reports its end.
    pub fn close(&self) {
        decide::close(&self.0);
    }

    /// Returns whether it was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Sets that `notify` is called once when the stack is closed: immediately if it already is. It is held weakly: a
    /// notifier that was dropped is not called.
    pub fn notify_closed(&self, notify: &Arc<dyn Notify>) {
        let mut closing = lock(&self.0.closing);
        closing.retain(|other| other.strong_count() > 0);
        closing.push(Arc::downgrade(notify));
        drop(closing);
        // It may have been closed before the notifier was added.
        if self.is_closed() {
            let late = std::mem::take(&mut *lock(&self.0.closing));
            late.iter().filter_map(Weak::upgrade).for_each(|notify| notify.notify());
        }
    }
}

impl Netstack {
    /// Returns the number of dropped packets by reason. The reasons and their names may change.
    #[must_use]
    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        self.0.counters.all()
    }

    /// Ends everything that belongs to removed addresses.
    fn addresses_changed(&self) {
        let shared = &self.0;
        let now = shared.now();
        for socket in shared.tcp.all() {
            if !socket.intercepted && !shared.is_own(socket.tuple.local().ip()) {
                socket.end(shared, now, io::ErrorKind::AddrNotAvailable, &mut |packet| shared.send(packet));
            }
        }
        let addresses = read(&shared.network).addresses.clone();
        let is_gone = |address: IpAddr| !addresses.contains(&address);
        lock(&shared.tcp.half_open)
            .remove_where(|tuple, entry| entry.listener.is_some() && is_gone(tuple.local().ip()));
        udp::addresses_changed(shared);
    }
}

impl fmt::Debug for Netstack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Netstack").field("network", &read(&self.0.network)).finish_non_exhaustive()
    }
}

/// The minimum of the limits of a connection's buffers: with a window of zero, nothing could ever arrive.
const MIN_BUFFER: usize = 4096;

/// Checks the addresses of a stack with this MTU. See [`Options::check`].
pub(crate) fn check(addresses: &[IpAddr], mtu: u16) -> io::Result<()> {
    const MIN_MTU: u16 = 576;
    const MIN_MTU_V6: u16 = 1280;
    let invalid = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    let addresses = canonical(addresses);
    if let Some(address) = addresses.iter().find(|address| !packet::is_host(**address)) {
        return invalid(format!("{address} is not the address of a host"));
    }
    let min = if addresses.iter().any(IpAddr::is_ipv6) { MIN_MTU_V6 } else { MIN_MTU };
    if mtu < min {
        return invalid(format!("the MTU {mtu} is less than {min}"));
    }
    Ok(())
}

/// Converts IPv4-mapped addresses to IPv4.
fn canonical(addresses: &[IpAddr]) -> Vec<IpAddr> {
    addresses.iter().map(IpAddr::to_canonical).collect()
}

/// Statistics of a stack. Counters never decrease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Current connections, without half-open ones and those in TIME-WAIT.
    pub connections: usize,
    /// Current half-open connections.
    pub half_open: usize,
    /// Current connections in TIME-WAIT.
    pub time_wait: usize,
    /// Current UDP flows.
    pub flows: usize,
    /// Current size of buffers in bytes.
    pub memory: usize,
    /// Received packets.
    pub packets_in: u64,
    /// Sent packets.
    pub packets_out: u64,
}
