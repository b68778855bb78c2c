//! Received datagrams: for sockets, for flows, or without either.

mod flows;
mod mailbox;
mod sockets;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::AtomicUsize},
};

pub(crate) use self::{
    flows::Flow,
    mailbox::Datagram,
    sockets::{Socket, bind, reserve},
};
use super::{
    closed,
    counters::Dropped,
    datagram::{self, Full, UDP_HEADER},
    icmp,
    packet::{self, Packet, is_host, pseudo_header},
    shared::Shared,
    tuple::FourTuple,
};

/// Sockets and flows.
#[derive(Default)]
pub(crate) struct State {
    sockets: sockets::Sockets,
    flows: flows::Flows,
    /// The bytes of datagrams that wait to be read.
    memory: AtomicUsize,
}

/// A datagram's ports and data.
struct Arrival<'a> {
    source: u16,
    destination: u16,
    data: &'a [u8],
}

/// Handles a UDP packet. Its source is a valid host address; its destination is one of the stack's, or traffic is
/// intercepted.
pub(crate) fn receive(shared: &Arc<Shared>, packet: &Packet<'_>) {
    let arrival = match parse(packet) {
        Ok(arrival) => arrival,
        Err(reason) => return shared.dropped(reason),
    };
    let local = SocketAddr::new(packet.destination, arrival.destination);
    let from = SocketAddr::new(packet.source, arrival.source);
    if shared.is_own(local.ip())
        && let Some(mailbox) = shared.udp.sockets.find(local, from)
    {
        return mailbox.push(shared, from, local, arrival.data);
    }
    let now = shared.now();
    if let Some(interception) = shared.interception() {
        return flows::receive(shared, &interception, FourTuple::new(local, from), arrival.data, now);
    }
    shared.dropped(Dropped::UdpNoSocket);
    icmp::port_unreachable(shared, packet.bytes, now);
}

fn parse<'a>(packet: &Packet<'a>) -> Result<Arrival<'a>, Dropped> {
    let payload = packet.payload();
    let Some(&[s0, s1, d0, d1, l0, l1, c0, c1]) = payload.first_chunk::<UDP_HEADER>() else {
        return Err(Dropped::UdpMalformed);
    };
    let (source, destination) = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
    let len = usize::from(u16::from_be_bytes([l0, l1]));
    // Bytes behind its end do not belong to it.
    let Some(data) = payload.get(UDP_HEADER..len).filter(|_| destination != 0) else {
        return Err(Dropped::UdpMalformed);
    };
    // Without a checksum, which only IPv4 permits (RFC 8200, section 8.1).
    let intact = if [c0, c1] == [0, 0] {
        packet.source.is_ipv4()
    } else {
        pseudo_header(packet.source, packet.destination, packet::UDP, len).bytes(&payload[..len]).is_valid()
    };
    if !intact {
        return Err(Dropped::Checksum);
    }
    Ok(Arrival { source, destination, data })
}

/// See [`Netstack::send_datagram`](crate::Netstack::send_datagram).
pub(crate) fn send_from_any(shared: &Shared, data: &[u8], from: SocketAddr, to: SocketAddr) -> io::Result<()> {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (from, to) = (canonical(from), canonical(to));
    if !is_host(from.ip()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the source is not the address of a host"));
    }
    datagram::check(from, to, data.len())?;
    if shared.is_closed() {
        return Err(closed());
    }
    // A reply in an intercepted flow keeps it active.
    if let Some(flow) = shared.udp.flows.get(&FourTuple::new(from, to)) {
        flow.touch(shared.now());
    }
    if datagram::send_udp(shared, from, to, data, Full::Drop) { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
}

impl Socket {
    /// Sends a datagram to `to`, or to the peer.
    pub(crate) fn send(&self, shared: &Shared, data: &[u8], to: Option<SocketAddr>) -> io::Result<()> {
        let to = match (self.peer, to.map(|to| SocketAddr::new(to.ip().to_canonical(), to.port()))) {
            (Some(peer), None) => peer,
            (Some(peer), Some(to)) if to == peer => peer,
            (None, Some(to)) => to,
            (None, None) => return Err(io::ErrorKind::NotConnected.into()),
            (Some(_), Some(_)) => {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is connected to another address"));
            }
        };
        let from = match self.local.ip() {
            IpAddr::V4(address) if address.is_unspecified() && to.is_ipv6() => None,
            address if address.is_unspecified() => shared.source_for(to.ip()),
            address => Some(address),
        };
        let from = from.ok_or_else(|| io::Error::new(io::ErrorKind::AddrNotAvailable, "no address of the family"))?;
        let from = SocketAddr::new(from, self.local.port());
        datagram::check(from, to, data.len())?;
        if let Some(end) = self.mailbox.end() {
            return Err(end.into());
        }
        let full = Full::Wait(&mut || self.mailbox.wants_room());
        if datagram::send_udp(shared, from, to, data, full) { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    /// Handles its drop by the program.
    pub(crate) fn release(&self, shared: &Shared) {
        shared.udp.sockets.remove(self);
        self.mailbox.release(shared);
    }
}

/// Releases a port that was reserved without a socket.
pub(crate) fn give_back(shared: &Shared, local: SocketAddr) {
    shared.udp.sockets.give_back(local);
}

impl Flow {
    /// Sends a datagram to the peer.
    pub(crate) fn send(&self, shared: &Shared, data: &[u8]) -> io::Result<()> {
        let (from, to) = (self.tuple.local(), self.tuple.remote());
        datagram::check(from, to, data.len())?;
        if let Some(end) = self.mailbox.end() {
            return Err(end.into());
        }
        self.touch(shared.now());
        let full = Full::Wait(&mut || self.mailbox.wants_room());
        if datagram::send_udp(shared, from, to, data, full) { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    /// Handles its drop by the program.
    pub(crate) fn release(self: &Arc<Self>, shared: &Shared) {
        shared.udp.flows.remove(self);
        self.mailbox.release(shared);
    }

    /// Responds to the waiting datagram, or the last one, with ICMP port unreachable.
    pub(crate) fn refuse(&self, shared: &Arc<Shared>) {
        let data = self.mailbox.next_len().unwrap_or(0);
        let refused = datagram::udp_header(self.tuple.remote(), self.tuple.local(), data);
        icmp::port_unreachable(shared, &refused, shared.now());
    }
}

/// Handles an ICMP error about a datagram that the stack sent from `local` to `remote`: it is passed to a socket that
/// is connected so, or else to the flow. Returns whether a program may have sent the datagram.
pub(super) fn unreachable(shared: &Shared, local: SocketAddr, remote: SocketAddr, error: io::ErrorKind) -> bool {
    if let Some(mailbox) = shared.udp.sockets.connected(local, remote) {
        mailbox.fail_once(error);
    } else if let Some(flow) = shared.udp.flows.get(&FourTuple::new(local, remote)) {
        flow.mailbox.fail_once(error);
    } else {
        return has_sent(shared, local, remote);
    }
    true
}

/// Returns whether there is a socket or a flow that sends from `local` to `remote`.
pub(super) fn has_sent(shared: &Shared, local: SocketAddr, remote: SocketAddr) -> bool {
    shared.is_own(local.ip()) && shared.udp.sockets.find(local, remote).is_some()
        || shared.udp.flows.get(&FourTuple::new(local, remote)).is_some()
}

/// Handles the closing of the stack: ends all sockets and flows, and wakes waiters.
pub(crate) fn close(shared: &Arc<Shared>) {
    for mailbox in shared.udp.sockets.remove_where(|_| true) {
        mailbox.finish(io::ErrorKind::ConnectionAborted);
        mailbox.clear(shared);
    }
    for flow in shared.udp.flows.take_all() {
        flow.mailbox.finish(io::ErrorKind::ConnectionAborted);
        flow.mailbox.clear(shared);
    }
}

/// Returns the number of flows.
pub(crate) fn flows(shared: &Shared) -> usize {
    shared.udp.flows.len()
}

/// Ends sockets that are bound to addresses that the stack no longer has.
pub(crate) fn addresses_changed(shared: &Arc<Shared>) {
    let is_gone = |local: SocketAddr| !local.ip().is_unspecified() && !shared.is_own(local.ip());
    for mailbox in shared.udp.sockets.remove_where(is_gone) {
        mailbox.finish(io::ErrorKind::AddrNotAvailable);
    }
}
