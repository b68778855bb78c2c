//! Connections that the program dials, and ports to dial from.

use std::{io, net::SocketAddr, sync::Arc};

use wg_embed::{
    sync::{lock, read},
    time::Instant,
};

use super::{
    connections::{clock_offset, closed, config, initial_sequence},
    packet::is_host,
    shared::Shared,
    socket::TcpSocket,
    tuple::FourTuple,
};
use crate::{TcpStream, tcp::Connection};

/// Ports for those who do not ask for one, to the last one.
const FIRST_PORT: u16 = 32_768;
const PORTS: u16 = u16::MAX - FIRST_PORT + 1;

/// How many ports in use are passed before one of a connection in TIME-WAIT is used again.
const PROBES: u16 = 256;

/// Begins to connect.
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
    let mut random = [0; 2];
    let socket = loop {
        shared.options.random.fill(&mut random);
        let first = u16::from_ne_bytes(random) % PORTS;
        let port = free_port(shared, to, from, first, now)
            .ok_or_else(|| io::Error::new(io::ErrorKind::AddrNotAvailable, "no port is free"))?;
        let tuple = FourTuple::new((from, port).into(), to);
        let (sequence, offset) = (initial_sequence(shared, &tuple, now), clock_offset(shared, &tuple));
        let connection = Connection::dial(config(shared, to), shared.memory.clone(), sequence, offset, now);
        let socket = TcpSocket::new(tuple, false, connection);
        // Another thread may have taken the port.
        if shared.tcp.insert_new(&socket) {
            break socket;
        }
    };
    lock(&shared.tcp.time_wait).remove(&socket.tuple);
    socket.settle(shared, socket.lock(), now);
    if shared.is_closed() {
        // It may have come into the table after everything there was ended.
        socket.end(shared, now, io::ErrorKind::ConnectionAborted, &mut |_| false);
    }
    Ok(TcpStream::new(shared.clone(), socket))
}

/// A port from which there is no connection to `to`: by preference one without a connection in TIME-WAIT. It is looked
/// for from a random one on (RFC 6056, algorithm 1).
fn free_port(shared: &Shared, to: SocketAddr, from: std::net::IpAddr, first: u16, now: Instant) -> Option<u16> {
    let listeners = read(&shared.tcp.listeners);
    let time_wait = lock(&shared.tcp.time_wait);
    let half_open = lock(&shared.tcp.half_open);
    let mut reusable = None;
    for step in 0..PORTS {
        let port = FIRST_PORT + (first + step) % PORTS;
        let tuple = FourTuple::new((from, port).into(), to);
        if listeners.has_port(port) || shared.tcp.contains(&tuple) || half_open.contains(&tuple) {
            continue;
        }
        if !time_wait.blocks(&tuple) {
            return Some(port);
        }
        if reusable.is_none() && time_wait.is_reusable(&tuple, now) {
            reusable = Some(port);
        }
        if step >= PROBES && reusable.is_some() {
            break;
        }
    }
    reusable
}

/// A port that no listener has.
pub(super) fn free_listening_port(shared: &Shared) -> Option<u16> {
    let mut random = [0; 2];
    shared.options.random.fill(&mut random);
    let first = u16::from_ne_bytes(random) % PORTS;
    let listeners = read(&shared.tcp.listeners);
    (0..PORTS).map(|step| FIRST_PORT + (first + step) % PORTS).find(|port| !listeners.has_port(*port))
}
