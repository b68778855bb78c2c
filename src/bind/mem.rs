//! An in-memory network: binds that reach each other without sockets, for tests and simulations. It needs the feature
//! `test-util`.
//!
//! It is deterministic and immediate: when `send` returns, a datagram is in its receiver's queue, unless the filter
//! decides otherwise.
//!
//! ```
//! use wg_embed::bind::{Bind, Endpoint, RecvBatch, Transmit, mem::MemNetwork};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let net = MemNetwork::new();
//! let (a, b) = (net.bind("192.0.2.1".parse()?), net.bind("192.0.2.2".parse()?));
//! a.open(51820)?;
//! b.open(51820)?;
//! let to = Endpoint::new("192.0.2.2:51820".parse()?);
//! a.send(&[Transmit::new(to, b"hello")]);
//! let mut batch = RecvBatch::new(4, 2048);
//! assert_eq!(b.recv(&mut batch)?, 1);
//! # Ok(())
//! # }
//! ```

use super::{
    Bind, Endpoint, Family, RecvBatch, SendReport, SourceCheck, Transmit, Woken,
    queue::{DatagramQueue, Origin},
};
use crate::{queue::wait_until, sync::lock};
use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

/// The capacity of a bind's queue in datagrams; more are lost, as with a full socket buffer.
pub const QUEUE: usize = 4096;

/// A datagram in transit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The sender's address and port.
    pub from: SocketAddr,
    /// The destination.
    pub to: SocketAddr,
    /// The IPv4 TOS or IPv6 traffic class byte. A filter may change it, as a router does.
    pub tos: u8,
    /// The payload.
    pub payload: Vec<u8>,
}

/// The treatment of a datagram by the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Delivers it.
    Deliver,
    /// Loses it.
    Drop,
    /// Delivers it twice.
    Duplicate,
    /// Delivers it after the next datagram that is delivered to the same address, or at [`MemNetwork::release`].
    Hold,
}

type Filter = Box<dyn FnMut(&mut Datagram) -> Action + Send>;

/// A network of [`MemBind`]s. Clones are the same network.
#[derive(Clone, Default)]
pub struct MemNetwork {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Separate from `state`, so that a filter may inspect the network and inject datagrams.
    filter: Mutex<Option<Filter>>,
}

#[derive(Default)]
struct State {
    hosts: Vec<Host>,
    held: Vec<Datagram>,
    log: Option<Vec<Datagram>>,
    next_port: u16,
    lost: u64,
}

struct Host {
    addresses: Vec<IpAddr>,
    port: Option<u16>,
    queue: DatagramQueue,
    wake: bool,
    ready: Arc<Condvar>,
    mark: u32,
    gro: bool,
    open_error: Option<io::ErrorKind>,
    blocked: Vec<Family>,
    opens: u64,
    routes: u64,
    astray: Vec<IpAddr>,
    checks: u64,
}

impl Host {
    fn owns(&self, to: SocketAddr) -> bool {
        self.port == Some(to.port()) && self.addresses.contains(&to.ip())
    }

    /// Returns the address that a datagram to `to` leaves from, and whether the requested one no longer exists.
    fn source(&self, to: Endpoint) -> Option<(SocketAddr, bool)> {
        let port = self.port.filter(|_| !self.blocked.contains(&Family::of(to.dst)))?;
        let ours = to.src.filter(|src| self.addresses.contains(src));
        let family = |ip: &&IpAddr| ip.is_ipv4() == to.dst.is_ipv4();
        let ip = ours.or_else(|| self.addresses.iter().find(family).copied())?;
        Some((SocketAddr::new(ip, port), to.src.is_some() && ours.is_none()))
    }
}

impl State {
    /// Puts a datagram into the queue of the owner of its address.
    fn deliver(&mut self, Datagram { from, to, tos, payload }: Datagram) {
        let origin = Origin { from: Endpoint { src: Some(to.ip()), ..Endpoint::new(from) }, tos };
        let host = self.hosts.iter_mut().find(|host| host.owns(to));
        match host.and_then(|host| host.queue.push(origin, &payload).then_some(&host.ready)) {
            Some(ready) => ready.notify_all(),
            None => self.lost += 1,
        }
        let (due, held) = std::mem::take(&mut self.held).into_iter().partition(|d| d.to == to);
        self.held = held;
        for datagram in due {
            self.deliver(datagram);
        }
    }

    /// Returns a port that no host uses: the same sequence in every run.
    fn free_port(&mut self) -> u16 {
        loop {
            let port = 49152 + self.next_port % 16384;
            self.next_port = self.next_port.wrapping_add(1);
            if self.hosts.iter().all(|host| host.port != Some(port)) {
                return port;
            }
        }
    }
}

impl MemNetwork {
    /// Creates a network without binds that delivers everything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a bind, not yet open, at `address`.
    #[must_use]
    pub fn bind(&self, address: IpAddr) -> Arc<MemBind> {
        let ready = Arc::new(Condvar::new());
        let mut state = lock(&self.shared.state);
        state.hosts.push(Host {
            addresses: vec![address],
            port: None,
            queue: DatagramQueue::new(QUEUE, usize::MAX),
            wake: false,
            ready: Arc::clone(&ready),
            mark: 0,
            gro: false,
            open_error: None,
            blocked: Vec::new(),
            opens: 0,
            routes: 0,
            astray: Vec::new(),
            checks: 0,
        });
        Arc::new(MemBind { network: self.clone(), id: state.hosts.len() - 1, ready })
    }

    /// Sets the filter, which decides about every datagram that a bind sends from now on. It runs on the sender's
    /// thread, one datagram at a time; it may [`inject`](Self::inject) but must not send or set a filter.
    pub fn set_filter(&self, filter: impl FnMut(&mut Datagram) -> Action + Send + 'static) {
        *lock(&self.shared.filter) = Some(Box::new(filter));
    }

    /// Removes the filter, so that everything is delivered.
    pub fn clear_filter(&self) {
        *lock(&self.shared.filter) = None;
    }

    /// Delivers the datagrams held back by [`Action::Hold`], oldest first.
    pub fn release(&self) {
        let mut state = lock(&self.shared.state);
        for datagram in std::mem::take(&mut state.held) {
            state.deliver(datagram);
        }
    }

    /// Delivers a datagram without a sending bind, bypassing filter and log.
    pub fn inject(&self, from: SocketAddr, to: SocketAddr, payload: &[u8], tos: u8) {
        let payload = payload.to_vec();
        lock(&self.shared.state).deliver(Datagram { from, to, tos, payload });
    }

    /// Starts recording the datagrams that binds send, before the filter.
    pub fn record(&self) {
        lock(&self.shared.state).log.get_or_insert_default();
    }

    /// Returns the recorded datagrams since the last call. Empty without [`record`](Self::record).
    #[must_use]
    pub fn take_log(&self) -> Vec<Datagram> {
        lock(&self.shared.state).log.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Returns the number of datagrams without a bind at their address, or with a full queue.
    #[must_use]
    pub fn lost(&self) -> u64 {
        lock(&self.shared.state).lost
    }

    fn carry(&self, mut datagram: Datagram) {
        if let Some(log) = &mut lock(&self.shared.state).log {
            log.push(datagram.clone());
        }
        let action = lock(&self.shared.filter).as_mut().map_or(Action::Deliver, |filter| filter(&mut datagram));
        let mut state = lock(&self.shared.state);
        match action {
            Action::Deliver => state.deliver(datagram),
            Action::Drop => {}
            Action::Duplicate => {
                state.deliver(datagram.clone());
                state.deliver(datagram);
            }
            Action::Hold => state.held.push(datagram),
        }
    }
}

impl fmt::Debug for MemNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.shared.state);
        f.debug_struct("MemNetwork")
            .field("binds", &state.hosts.len())
            .field("lost", &state.lost)
            .finish_non_exhaustive()
    }
}

/// A [`Bind`] on a [`MemNetwork`].
#[derive(Debug)]
pub struct MemBind {
    network: MemNetwork,
    id: usize,
    ready: Arc<Condvar>,
}

impl MemBind {
    fn with<R>(&self, act: impl FnOnce(&mut Host) -> R) -> R {
        act(&mut lock(&self.network.shared.state).hosts[self.id])
    }

    /// Moves the bind to another address, as a roaming client does. Its old addresses no longer exist: sending from
    /// them is reported as stale.
    pub fn set_address(&self, address: IpAddr) {
        self.with(|host| host.addresses = vec![address]);
    }

    /// Adds an address, of either family.
    pub fn add_address(&self, address: IpAddr) {
        self.with(|host| host.addresses.push(address));
    }

    /// Returns the port, while open.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.with(|host| host.port)
    }

    /// Returns the mark.
    #[must_use]
    pub fn mark(&self) -> u32 {
        self.with(|host| host.mark)
    }

    /// Returns the number of successful calls of `open`.
    #[must_use]
    pub fn opens(&self) -> u64 {
        self.with(|host| host.opens)
    }

    /// Sets whether `recv` puts datagrams of equal size from one sender into one slot, as GRO does. Initially off.
    pub fn set_gro(&self, on: bool) {
        self.with(|host| host.gro = on);
    }

    /// Makes `open` fail with this kind of error until this is changed.
    pub fn set_open_error(&self, kind: Option<io::ErrorKind>) {
        self.with(|host| host.open_error = kind);
    }

    /// Makes all sends fail and be reported, as without a route.
    pub fn set_send_blocked(&self, blocked: bool) {
        self.set_blocked(if blocked { &[Family::V4, Family::V6] } else { &[] });
    }

    /// Changes the routes: datagrams from these addresses would now leave by another way.
    pub fn change_routes(&self, astray: &[IpAddr]) {
        self.with(|host| {
            host.routes += 1;
            host.astray = astray.to_vec();
        });
    }

    /// Returns the number of checks of source addresses.
    #[must_use]
    pub fn checks(&self) -> u64 {
        self.with(|host| host.checks)
    }

    /// Makes sends fail for addresses of these families only.
    pub fn set_blocked(&self, families: &[Family]) {
        self.with(|host| host.blocked = families.to_vec());
    }
}

impl Bind for MemBind {
    fn open(&self, port: u16) -> io::Result<u16> {
        let mut state = lock(&self.network.shared.state);
        if let Some(kind) = state.hosts[self.id].open_error {
            return Err(kind.into());
        }
        let taken = |(id, host): (usize, &Host)| {
            let shared = |ip| state.hosts[self.id].addresses.contains(ip);
            id != self.id && host.port == Some(port) && host.addresses.iter().any(shared)
        };
        if port != 0 && state.hosts.iter().enumerate().any(taken) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let port = if port == 0 { state.free_port() } else { port };
        let host = &mut state.hosts[self.id];
        host.port = Some(port);
        host.queue.clear();
        host.opens += 1;
        Ok(port)
    }

    fn close(&self) {
        self.with(|host| {
            host.port = None;
            host.queue.clear();
        });
        self.wake();
    }

    fn set_mark(&self, mark: u32) -> io::Result<()> {
        self.with(|host| host.mark = mark);
        Ok(())
    }

    fn routes(&self) -> u64 {
        self.with(|host| host.routes)
    }

    fn check_source(&self, endpoint: &Endpoint, was: SourceCheck) -> SourceCheck {
        self.with(|host| {
            host.checks += 1;
            SourceCheck { keep: !endpoint.src.is_some_and(|src| host.astray.contains(&src)), ..was }
        })
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<Woken> {
        let ready = |state: &State| state.hosts[self.id].wake || !state.hosts[self.id].queue.is_empty();
        let mut state = wait_until(&self.ready, lock(&self.network.shared.state), timeout, ready);
        let own = ready(&state);
        state.hosts[self.id].wake = false;
        Ok(Woken { own, ..Woken::default() })
    }

    fn wake(&self) {
        self.with(|host| host.wake = true);
        self.ready.notify_all();
    }

    fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        Ok(self.with(|host| batch.fill(|slot| host.queue.receive(slot, host.gro))))
    }

    fn send(&self, batch: &[Transmit<'_>]) -> SendReport {
        let mut report = SendReport::default();
        for (i, transmit) in batch.iter().enumerate() {
            let Some((from, stale)) = self.with(|host| host.source(transmit.to)) else {
                report.dropped += transmit.datagrams();
                report.dropped_mask |= 1 << i;
                report.unreachable_mask |= 1 << i;
                continue;
            };
            report.stale_source_mask |= u128::from(stale) << i;
            for payload in transmit.segments() {
                self.network.carry(Datagram {
                    from,
                    to: transmit.to.dst,
                    tos: transmit.tos,
                    payload: payload.to_vec(),
                });
                report.sent += 1;
            }
        }
        report
    }
}

impl Drop for MemBind {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::bind::RecvMeta;
    use std::thread;

    fn pair() -> (MemNetwork, Arc<MemBind>, Arc<MemBind>) {
        let net = MemNetwork::new();
        let a = net.bind("192.0.2.1".parse().unwrap());
        let b = net.bind("192.0.2.2".parse().unwrap());
        assert_eq!(a.open(1).unwrap(), 1);
        assert_eq!(b.open(2).unwrap(), 2);
        (net, a, b)
    }

    fn send(from: &MemBind, to: &str, contents: &[u8], segment_size: usize) -> SendReport {
        let to = Endpoint::new(to.parse().unwrap());
        from.send(&[Transmit { to, contents, segment_size, tos: 0x88 }])
    }

    fn received(bind: &MemBind) -> Vec<(RecvMeta, Vec<u8>)> {
        let mut batch = RecvBatch::new(8, 64);
        bind.recv(&mut batch).unwrap();
        batch.iter_mut().map(|(meta, data)| (*meta, data.to_vec())).collect()
    }

    fn payloads(bind: &MemBind) -> Vec<Vec<u8>> {
        received(bind).into_iter().map(|(_, data)| data).collect()
    }

    #[test]
    fn carries_segments_addresses_and_tos() {
        let (_net, a, b) = pair();
        assert_eq!(send(&a, "192.0.2.2:2", b"aabbc", 2).sent, 3);
        let got = received(&b);
        assert_eq!(got.iter().map(|(_, d)| d.as_slice()).collect::<Vec<_>>(), [&b"aa"[..], b"bb", b"c"]);
        let meta = got[0].0;
        assert_eq!((meta.from.dst, meta.tos), ("192.0.2.1:1".parse().unwrap(), 0x88));
        assert_eq!(meta.from.src, Some("192.0.2.2".parse().unwrap()));
    }

    #[test]
    fn gro_joins_what_is_equal_and_ends_at_the_short_one() {
        let (_net, a, b) = pair();
        b.set_gro(true);
        send(&a, "192.0.2.2:2", b"aabbc", 2);
        send(&a, "192.0.2.2:2", b"dd", 2);
        let got = received(&b);
        assert_eq!((got[0].1.as_slice(), got[0].0.segment_size), (&b"aabbc"[..], 2));
        assert_eq!((got[1].1.as_slice(), got.len()), (&b"dd"[..], 2));
    }

    #[test]
    fn the_filter_drops_doubles_and_reorders_and_the_log_shows_all() {
        let (net, a, b) = pair();
        net.record();
        net.set_filter(|d| match d.payload[0] {
            b'x' => Action::Drop,
            b'2' => Action::Duplicate,
            b'h' => Action::Hold,
            _ => Action::Deliver,
        });
        for payload in [b"h", b"x", b"2", b"a", b"h"] {
            send(&a, "192.0.2.2:2", payload, 1);
        }
        assert_eq!(payloads(&b), [b"2", b"h", b"2", b"a"]);
        net.release();
        assert_eq!(payloads(&b), [b"h"]);
        assert_eq!(net.take_log().len(), 5);
        assert!(net.take_log().is_empty());
    }

    #[test]
    fn roaming_makes_the_old_source_stale() {
        let (net, a, b) = pair();
        send(&b, "192.0.2.1:1", b"x", 1);
        let to = received(&a)[0].0.from;
        a.set_address("198.51.100.1".parse().unwrap());
        let report = a.send(&[Transmit { to, contents: b"y", segment_size: 1, tos: 0 }]);
        assert_eq!((report.sent, report.stale_source_mask), (1, 1));
        assert_eq!(received(&b)[0].0.from.dst, "198.51.100.1:1".parse().unwrap());
        send(&b, "192.0.2.1:1", b"x", 1);
        assert_eq!(net.lost(), 1);
    }

    #[test]
    fn a_family_without_a_route_or_an_address_is_unreachable() {
        let (_net, a, b) = pair();
        assert_eq!(send(&a, "[2001:db8::2]:2", b"x", 1).unreachable_mask, 1);
        a.add_address("2001:db8::1".parse().unwrap());
        b.add_address("2001:db8::2".parse().unwrap());
        a.set_blocked(&[Family::V4]);
        let report = send(&a, "192.0.2.2:2", b"x", 1);
        assert_eq!((report.sent, report.dropped_mask, report.unreachable_mask), (0, 1, 1));
        let report = send(&a, "[2001:db8::2]:2", b"y", 1);
        assert_eq!((report.sent, report.unreachable_mask, payloads(&b)), (1, 0, vec![b"y".to_vec()]));
    }

    #[test]
    fn ports_are_exclusive_and_a_failed_open_changes_nothing() {
        let (net, a, b) = pair();
        b.add_address("192.0.2.1".parse().unwrap());
        assert_eq!(a.open(2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(a.port(), Some(1));
        a.set_open_error(Some(io::ErrorKind::PermissionDenied));
        assert!(a.open(0).is_err());
        a.set_open_error(None);
        assert_ne!(a.open(0).unwrap(), net.bind("::1".parse().unwrap()).open(0).unwrap());
        a.close();
        assert_eq!(send(&a, "192.0.2.2:2", b"x", 1).dropped_mask, 1);
    }

    #[test]
    fn wait_ends_on_data_on_wake_on_close_and_on_time() {
        let (net, a, _b) = pair();
        a.wake();
        a.wait(None).unwrap();
        a.wait(Some(Duration::from_millis(1))).unwrap();
        net.inject("192.0.2.9:9".parse().unwrap(), "192.0.2.1:1".parse().unwrap(), b"x", 0);
        a.wait(None).unwrap();
        assert_eq!(payloads(&a), [b"x"]);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| a.wait(None));
            a.close();
            waiting.join().unwrap().unwrap();
        });
    }

    #[test]
    fn datagrams_larger_than_a_slot_come_as_nothing() {
        let (net, a, _b) = pair();
        for len in [65, 64] {
            net.inject("192.0.2.9:9".parse().unwrap(), "192.0.2.1:1".parse().unwrap(), &[0; 65][..len], 0);
        }
        assert_eq!(payloads(&a).iter().map(Vec::len).collect::<Vec<_>>(), [0, 64]);
    }
}
