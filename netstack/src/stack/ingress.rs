//! Received packets: assigns them to connections and sockets.

use std::{
    io,
    ops::ControlFlow,
    sync::{Arc, MutexGuard, atomic::Ordering},
};

use wg_embed::{
    sync::{lock, read},
    time::Instant,
    tun::PacketList,
};

use super::{
    connections::{config, half_open, send_header},
    counters::Dropped,
    fragments, icmp,
    listeners::Listening,
    packet::{self, Malformed, Packet, is_host},
    segment::{self, reset_for},
    shared::{Interception, Shared},
    socket::{State, TcpSocket},
    tcp_errors::lock_limited,
    tuple::FourTuple,
    udp,
};
use crate::{
    PendingTcp, TcpStream,
    tcp::{HalfOpen, Segment, TimeWait, Verdict},
};

/// A received segment that is not yet parsed, and its connection's addresses.
struct Unparsed<'a> {
    tuple: FourTuple,
    segment: segment::Parts<'a>,
}

/// A received segment, and its connection's addresses.
struct Arrival<'a> {
    tuple: FourTuple,
    segment: Segment<'a>,
}

impl<'a> Unparsed<'a> {
    fn parse(&self) -> Arrival<'a> {
        Arrival { tuple: self.tuple, segment: self.segment.parse() }
    }
}

/// Handles packets from the tunnel.
pub(super) fn receive(shared: &Arc<Shared>, packets: PacketList<'_>) {
    let now = shared.now();
    shared.counters.packets_in.fetch_add(packets.ranges.len() as u64, Ordering::Relaxed);
    let mut packets = packets.iter();
    let mut next = segments(shared, &mut packets);
    while let Some(unparsed) = next {
        // A run of segments of one connection takes its lock once.
        next = match shared.tcp.get(&unparsed.tuple) {
            Some(socket) => run(shared, &socket, unparsed, &mut packets, now),
            None => {
                without_connection(shared, &unparsed.parse(), now);
                None
            }
        };
        if next.is_none() {
            next = segments(shared, &mut packets);
        }
    }
}

/// Passes segments to a connection as long as they belong to it. Returns the first other one.
fn run<'a>(
    shared: &Arc<Shared>,
    socket: &Arc<TcpSocket>,
    mut unparsed: Unparsed<'a>,
    packets: &mut impl Iterator<Item = &'a [u8]>,
    now: Instant,
) -> Option<Unparsed<'a>> {
    let mut state: MutexGuard<'_, State> = socket.lock();
    if state.is_gone() {
        drop(state);
        without_connection(shared, &unparsed.parse(), now);
        return None;
    }
    loop {
        state.connection.receive(&unparsed.segment.parse(), now);
        let Some(packet) = packets.next() else {
            socket.settle(shared, state, now);
            return None;
        };
        match parse(shared, packet) {
            Some(Parsed::Segment(next)) if next.tuple == socket.tuple => unparsed = next,
            other => {
                socket.settle(shared, state, now);
                return match other {
                    Some(Parsed::Segment(next)) => Some(next),
                    Some(Parsed::Other(packet)) => {
                        dispatch_other(shared, &packet, now);
                        None
                    }
                    None => None,
                };
            }
        }
    }
}

/// Returns the next segment; packets of other kinds before it are dispatched.
fn segments<'a>(shared: &Arc<Shared>, packets: &mut impl Iterator<Item = &'a [u8]>) -> Option<Unparsed<'a>> {
    loop {
        match parse(shared, packets.next()?) {
            Some(Parsed::Segment(segment)) => return Some(segment),
            Some(Parsed::Other(packet)) => dispatch_other(shared, &packet, shared.now()),
            None => {}
        }
    }
}

enum Parsed<'a> {
    Segment(Unparsed<'a>),
    Other(Packet<'a>),
}

/// Parses a packet. Returns `None` if it is dropped, and counted.
fn parse<'a>(shared: &Shared, bytes: &'a [u8]) -> Option<Parsed<'a>> {
    let packet = match Packet::parse(bytes) {
        Ok(packet) => packet,
        Err(Malformed::Checksum) => {
            shared.dropped(Dropped::Checksum);
            return None;
        }
        Err(Malformed::Header | Malformed::Extensions) => {
            shared.dropped(Dropped::Malformed);
            return None;
        }
    };
    if packet.protocol != packet::TCP || packet.fragment.is_some() {
        return Some(Parsed::Other(packet));
    }
    let Some(segment) = segment::Parts::of(packet.payload()) else {
        shared.dropped(Dropped::TcpMalformed);
        return None;
    };
    let (source, destination) = segment.ports();
    if !packet.has_valid_checksum() {
        shared.dropped(Dropped::Checksum);
        return None;
    }
    if !is_host(packet.source) || !is_host(packet.destination) || source == 0 || destination == 0 {
        shared.dropped(Dropped::Source);
        return None;
    }
    let tuple = FourTuple::new((packet.destination, destination).into(), (packet.source, source).into());
    Some(Parsed::Segment(Unparsed { tuple, segment }))
}

/// Dispatches a packet that is not a whole TCP segment.
fn dispatch_other(shared: &Arc<Shared>, packet: &Packet<'_>, now: Instant) {
    if !is_host(packet.source) {
        return shared.dropped(Dropped::Source);
    }
    let ours = shared.is_own(packet.destination) || is_host(packet.destination) && shared.intercepts();
    if !ours {
        return shared.dropped(Dropped::Destination);
    }
    if packet.fragment.is_some() {
        if let Some(whole) = fragments::receive(shared, packet) {
            whole_packet(shared, &whole, now);
        }
        return;
    }
    match packet.protocol {
        packet::UDP => udp::receive(shared, packet),
        packet::ICMP if packet.source.is_ipv4() => icmp::receive(shared, packet),
        packet::ICMPV6 if packet.source.is_ipv6() => icmp::receive(shared, packet),
        _ => shared.dropped(Dropped::Protocol),
    }
}

/// Dispatches a packet that was reassembled from fragments.
fn whole_packet(shared: &Arc<Shared>, bytes: &[u8], now: Instant) {
    match parse(shared, bytes) {
        Some(Parsed::Segment(unparsed)) => match shared.tcp.get(&unparsed.tuple) {
            Some(socket) => {
                run(shared, &socket, unparsed, &mut std::iter::empty(), now);
            }
            None => without_connection(shared, &unparsed.parse(), now),
        },
        Some(Parsed::Other(packet)) if packet.fragment.is_none() => dispatch_other(shared, &packet, now),
        Some(Parsed::Other(_)) => shared.dropped(Dropped::Malformed),
        None => {}
    }
}

/// Handles a segment without an open connection.
fn without_connection(shared: &Arc<Shared>, arrival: &Arrival<'_>, now: Instant) {
    let flags = arrival.segment.header.flags;
    if flags.syn && flags.fin {
        // No connection begins and ends with one segment: this is a port scan.
        return shared.dropped(Dropped::TcpMalformed);
    }
    if to_half_open(shared, arrival, now) {
        return;
    }
    let ControlFlow::Continue(former) = to_time_wait(shared, arrival, now) else { return };
    let local = arrival.tuple.local();
    let own = shared.is_own(local.ip());
    if flags.syn && !flags.ack && !flags.rst {
        let listener = own.then(|| read(&shared.tcp.listeners).find(local).cloned()).flatten();
        if let Some(listener) = listener {
            return begin(shared, arrival, listener, former, now);
        }
        if let Some(interception) = shared.interception() {
            return intercept(shared, arrival, &interception, former, now);
        }
    }
    if !own && !shared.intercepts() {
        return shared.dropped(Dropped::Destination);
    }
    shared.dropped(Dropped::TcpUnknown);
    refuse(shared, arrival);
}

fn refuse(shared: &Shared, arrival: &Arrival<'_>) {
    if let Some(reset) = reset_for(&arrival.segment) {
        send_header(shared, &arrival.tuple, &reset);
    }
}

/// Returns whether there must be no new connection of this source now; it is then refused.
fn is_over_limit(shared: &Shared, arrival: &Arrival<'_>) -> bool {
    let over = shared.memory.is_short() || shared.tcp.is_full_for(arrival.tuple.source());
    if over {
        shared.dropped(Dropped::TcpLimit);
        refuse(shared, arrival);
    }
    over
}

/// Handles a SYN for a listener.
fn begin(
    shared: &Arc<Shared>,
    arrival: &Arrival<'_>,
    listener: Arc<Listening>,
    former: Option<TimeWait>,
    now: Instant,
) {
    if listener.is_full() {
        return shared.dropped(Dropped::TcpBacklog);
    }
    if is_over_limit(shared, arrival) {
        return;
    }
    let header = &arrival.segment.header;
    let mut half = half_open(shared, &arrival.tuple, header, former, now);
    let answer = half.syn_ack(now);
    let deadline = half.deadline().unwrap_or(now);
    if insert(shared, arrival, half, Some(listener), deadline).is_none() {
        return;
    }
    if former.is_some() {
        // The new connection replaces it.
        lock(&shared.tcp.time_wait).remove(&arrival.tuple);
    }
    send_header(shared, &arrival.tuple, &answer);
}

/// Adds a half-open connection to the table. Returns its number; `None` if there is no room, which is counted, or the
/// stack was closed.
fn insert(
    shared: &Arc<Shared>,
    arrival: &Arrival<'_>,
    half: HalfOpen,
    listener: Option<Arc<Listening>>,
    deadline: Instant,
) -> Option<u64> {
    let mut table = lock(&shared.tcp.half_open);
    let id = table.insert(arrival.tuple, half, listener, deadline);
    let next = table.next_deadline();
    drop(table);
    if id.is_none() {
        shared.dropped(Dropped::TcpHalfOpen);
    } else if shared.is_closed() {
        // It may have been added to the table after all connections were ended.
        lock(&shared.tcp.half_open).remove(&arrival.tuple);
        return None;
    }
    shared.tcp.schedule_half_open(shared, next);
    id
}

/// Handles a SYN that is intercepted: the handshake is delayed until the handler has decided.
fn intercept(
    shared: &Arc<Shared>,
    arrival: &Arrival<'_>,
    interception: &Interception,
    former: Option<TimeWait>,
    now: Instant,
) {
    if is_over_limit(shared, arrival) {
        return;
    }
    let header = &arrival.segment.header;
    let half = half_open(shared, &arrival.tuple, header, former, now);
    let Some(id) = insert(shared, arrival, half, None, now + interception.options.hold) else { return };
    interception.handler.dialled(PendingTcp::new(shared.clone(), arrival.tuple, id));
}

/// The effect of a segment on a half-open connection.
enum Outcome {
    Nothing,
    Answer(crate::tcp::Header),
    Established(Option<Arc<Listening>>, Box<crate::tcp::Connection>),
}

/// Passes a segment to its half-open connection. Returns whether there is one.
fn to_half_open(shared: &Arc<Shared>, arrival: &Arrival<'_>, now: Instant) -> bool {
    let tuple = &arrival.tuple;
    let mut table = lock(&shared.tcp.half_open);
    let Some(entry) = table.get_mut(tuple) else { return false };
    if !entry.is_wanted() {
        // Its listener was dropped. There may be another one by now, which accepts a SYN.
        table.remove(tuple);
        return false;
    }
    let flags = arrival.segment.header.flags;
    if entry.held && !flags.rst {
        // Usually the SYN again.
        drop(table);
        shared.dropped(Dropped::TcpHeld);
        return true;
    }
    if entry.listener.as_ref().is_some_and(|listener| listener.is_full()) && !flags.rst {
        // Its SYN-ACK will be repeated, and so will the response to it.
        drop(table);
        shared.dropped(Dropped::TcpBacklog);
        return true;
    }
    let outcome = match entry.half.receive(&arrival.segment, now) {
        Verdict::Keep => Outcome::Nothing,
        Verdict::Answer(header) => Outcome::Answer(header),
        Verdict::Reset => {
            table.remove(tuple);
            Outcome::Nothing
        }
        Verdict::Established => match table.remove(tuple) {
            Some(entry) => {
                let config = config(shared, tuple.remote());
                let connection = entry.half.establish(config, shared.memory.clone(), now);
                Outcome::Established(entry.listener, Box::new(connection))
            }
            None => Outcome::Nothing,
        },
    };
    if let Some(at) = table.get_mut(tuple).and_then(|entry| entry.half.deadline().filter(|_| !entry.held)) {
        table.set_deadline(tuple, at);
    }
    let next = table.next_deadline();
    drop(table);
    shared.tcp.schedule_half_open(shared, next);
    match outcome {
        Outcome::Nothing => {}
        Outcome::Answer(header) => send_header(shared, tuple, &header),
        Outcome::Established(listener, connection) => establish(shared, arrival, listener, *connection, now),
    }
    true
}

fn establish(
    shared: &Arc<Shared>,
    arrival: &Arrival<'_>,
    listener: Option<Arc<Listening>>,
    connection: crate::tcp::Connection,
    now: Instant,
) {
    let interception = if listener.is_none() { shared.interception() } else { None };
    if listener.is_none() && interception.is_none() {
        // Traffic is no longer intercepted.
        return refuse(shared, arrival);
    }
    if shared.tcp.is_full() {
        // Others were faster.
        shared.dropped(Dropped::TcpLimit);
        return refuse(shared, arrival);
    }
    let socket = TcpSocket::new(arrival.tuple, listener.is_none(), connection);
    if !shared.tcp.insert_new(&socket) {
        // The program has just dialled with the same addresses and ports.
        return refuse(shared, arrival);
    }
    let mut state = lock_limited(shared, &socket);
    state.connection.receive(&arrival.segment, now);
    socket.settle(shared, state, now);
    if shared.is_closed() {
        // It may have been added to the table after all connections were ended.
        socket.end(shared, now, io::ErrorKind::ConnectionAborted, &mut |_| false);
    }
    if let Some(interception) = interception {
        interception.handler.connected(TcpStream::new(shared.clone(), socket));
    } else if let Some(Err(socket)) = listener.map(|listener| listener.push(socket)) {
        // The listener was dropped in between, as if it had never existed.
        TcpStream::new(shared.clone(), socket).reset();
    }
}

/// Responds to a segment for a connection in TIME-WAIT. Continues if there is none, or if the segment may begin a new
/// connection that replaces the returned one.
fn to_time_wait(shared: &Arc<Shared>, arrival: &Arrival<'_>, now: Instant) -> ControlFlow<(), Option<TimeWait>> {
    let tuple = &arrival.tuple;
    let mut table = lock(&shared.tcp.time_wait);
    let Some(state) = table.get(tuple).copied() else { return ControlFlow::Continue(None) };
    let Ok(answer) = state.receive(&arrival.segment, now) else { return ControlFlow::Continue(Some(state)) };
    if answer.is_some() && arrival.segment.header.flags.fin {
        table.restart(tuple, now);
    }
    drop(table);
    if let Some(header) = answer {
        send_header(shared, tuple, &header);
    }
    ControlFlow::Break(())
}

#[cfg(test)]
mod tests;
