//! Outgoing connections, and their local ports.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use wg_embed::{
    sync::{lock, read},
    time::Instant,
};

use super::{
    connections::{clock_offset, closed, config, initial_sequence},
    packet::is_host,
    shared::Shared,
    socket::TcpSocket,
    tcp_errors::lock_limited,
    tuple::FourTuple,
};
use crate::{TcpStream, tcp::Connection};

/// The first of the local ports, which extend to the last port.
const FIRST_PORT: u16 = 32_768;
const PORTS: u16 = u16::MAX - FIRST_PORT + 1;

/// The number of ports tried: enough to find one unless nearly all are in use.
const PROBES: u16 = 4096;

/// The number of these before a port of a connection in TIME-WAIT is reused.
const UNUSED_PROBES: u16 = 256;

/// The state of a port for a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    Free,
    /// A connection in TIME-WAIT that may be replaced.
    Reusable,
    Taken,
}

/// Starts a connection.
pub(super) fn start(shared: &Arc<Shared>, to: SocketAddr) -> io::Result<TcpStream> {
    if shared.is_closed() {
        return Err(closed());
    }
    let to = SocketAddr::new(to.ip().to_canonical(), to.port());
    if to.port() == 0 || !is_host(to.ip()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the address and port of a host"));
    }
    let from = shared
        .source_for(to.ip())
        .ok_or_else(|| io::Error::new(io::ErrorKind::AddrNotAvailable, "no address of the family"))?;
    if shared.memory.is_short() || shared.tcp.is_full() {
        return Err(io::Error::new(io::ErrorKind::OutOfMemory, "at the limit of memory or connections"));
    }
    let now = shared.now();
    let socket = loop {
        let port = free_port(shared, to, from, now)
            .ok_or_else(|| io::Error::new(io::ErrorKind::AddrNotAvailable, "no port is free"))?;
        let tuple = FourTuple::new((from, port).into(), to);
        let (sequence, offset) = (initial_sequence(shared, &tuple, now), clock_offset(shared, &tuple));
        let former = lock(&shared.tcp.time_wait).get(&tuple).copied();
        let sequence = former.map_or(sequence, |former| former.successor(sequence));
        let connection = Connection::dial(config(shared, to), shared.memory.clone(), sequence, offset, now);
        let socket = TcpSocket::new(tuple, false, connection);
        // Another thread may have taken the port.
        if shared.tcp.insert_new(&socket) {
            break socket;
        }
    };
    lock(&shared.tcp.time_wait).remove(&socket.tuple);
    socket.settle(shared, lock_limited(shared, &socket), now);
    if shared.is_closed() {
        // It may have been added to the table after all connections were ended.
        socket.end(shared, now, io::ErrorKind::ConnectionAborted, &mut |_| false);
    }
    Ok(TcpStream::new(shared.clone(), socket))
}

/// Returns a port without a connection to `to`: preferably one without a connection in TIME-WAIT (RFC 6056, algorithm
/// 4). No lock is held from one port to the next.
fn free_port(shared: &Shared, to: SocketAddr, from: std::net::IpAddr, now: Instant) -> Option<u16> {
    let hash = shared.keyed_hash("port", &(from, to));
    let counters = &shared.tcp.dialled;
    let counter = counters.get((hash >> 32) as usize % counters.len())?;
    let first = (hash as u16).wrapping_add(counter.fetch_add(1, Ordering::Relaxed));
    let stride = shared.keyed_hash("stride", &(to, first)) as u16;
    find_port(first, stride, |port| {
        let tuple = FourTuple::new((from, port).into(), to);
        if read(&shared.tcp.listeners).has_port(port)
            || shared.tcp.contains(&tuple)
            || lock(&shared.tcp.half_open).contains(&tuple)
        {
            return Port::Taken;
        }
        let time_wait = lock(&shared.tcp.time_wait);
        match time_wait.blocks(&tuple) {
            false => Port::Free,
            true if time_wait.is_reusable(&tuple, now) => Port::Reusable,
            true => Port::Taken,
        }
    })
}

/// Tries ports from the `first` one on. `stride` may be any number: since adjacent ports may all be in use for long,
/// the others are far apart.
fn find_port(first: u16, stride: u16, mut is: impl FnMut(u16) -> Port) -> Option<u16> {
    // With an odd stride each port is tried once, as their number is a power of two.
    let stride = stride | 1;
    let mut reusable = None;
    for step in 0..PROBES {
        let port = FIRST_PORT + first.wrapping_add(step.wrapping_mul(stride)) % PORTS;
        match is(port) {
            Port::Free => return Some(port),
            Port::Reusable => reusable = reusable.or(Some(port)),
            Port::Taken => {}
        }
        if step >= UNUSED_PROBES && reusable.is_some() {
            break;
        }
    }
    reusable
}

/// Returns a port without a listener.
pub(super) fn free_listening_port(shared: &Shared) -> Option<u16> {
    let mut random = [0; 2];
    shared.options.random.fill(&mut random);
    let first = u16::from_ne_bytes(random) % PORTS;
    let listeners = read(&shared.tcp.listeners);
    (0..PORTS).map(|step| FIRST_PORT + (first + step) % PORTS).find(|port| !listeners.has_port(*port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounded_number_of_ports_is_tried() {
        let mut tried = std::collections::HashSet::new();
        assert_eq!(find_port(40_000, 2, |port| if tried.insert(port) { Port::Taken } else { Port::Free }), None);
        assert_eq!(tried.len(), usize::from(PROBES));
        assert!(tried.iter().all(|port| *port >= FIRST_PORT));
        let mut calls = 0;
        let port = find_port(7, 1001, |_| {
            calls += 1;
            if calls < 100 { Port::Taken } else { Port::Reusable }
        });
        assert!(port.is_some() && calls == UNUSED_PROBES + 1, "{calls}");
        assert_eq!(find_port(7, 1001, |_| Port::Free), Some(FIRST_PORT + 7));
    }

    #[test]
    fn one_free_port_in_a_hundred_is_found() {
        for stride in [0, 1, 2, 999, 12_345, 32_768, u16::MAX] {
            for first in (0..u16::MAX).step_by(997) {
                let is = |port: u16| if port.is_multiple_of(100) { Port::Free } else { Port::Taken };
                assert!(find_port(first, stride, is).is_some_and(|port| port.is_multiple_of(100)), "{first} {stride}");
            }
        }
    }
}
