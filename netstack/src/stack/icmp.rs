//! ICMP: echo, and errors.

mod errors;
mod pings;
mod quote;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, atomic::AtomicU32},
};

use wg_embed::{sync::lock, time::Instant, tun::offload::checksum::Sum};

pub(crate) use self::pings::{Echo, start};
use self::{errors::Meaning, quote::Quoted};
use super::{
    counters::Dropped,
    datagram::{self, Full},
    packet::{self, HOP_LIMIT, IpHeader, Packet, header_len, pseudo_header},
    path_mtu::PathMtus,
    shared::Shared,
    tcp_errors, udp,
};

/// Type, code, checksum, and four bytes that depend on them.
const HEADER: usize = 8;

const ECHO_REPLY_V4: u8 = 0;
const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// Waiting echo requests, path MTUs, and the rate limit of errors.
#[derive(Default)]
pub(crate) struct State {
    pings: pings::Pings,
    pub(super) path_mtus: PathMtus,
    /// The number of packets that were sent in fragments.
    pub(super) identifications: AtomicU32,
    limiter: Mutex<errors::Limiter>,
}

/// Handles an ICMP packet of either version. Its source is a valid host address; its destination is one of the stack's,
/// or traffic is intercepted.
pub(crate) fn receive(shared: &Arc<Shared>, packet: &Packet<'_>) {
    let Some((header, body)) = packet.payload().split_first_chunk::<HEADER>() else {
        return shared.dropped(Dropped::IcmpMalformed);
    };
    let is_v4 = packet.source.is_ipv4();
    let intact = if is_v4 { Sum::default().bytes(packet.payload()).is_valid() } else { packet.has_valid_checksum() };
    if !intact {
        return shared.dropped(Dropped::Checksum);
    }
    match (is_v4, header[0]) {
        (true, ECHO_REQUEST_V4) | (false, ECHO_REQUEST_V6) => answer_echo(shared, packet),
        (true, ECHO_REPLY_V4) | (false, ECHO_REPLY_V6) => {
            let (id, seq) = echo_numbers(header);
            if !shared.icmp.pings.reply(packet.source, id, seq, body, shared.now()) {
                shared.dropped(Dropped::IcmpUnknown);
            }
        }
        _ => match Meaning::of(is_v4, header) {
            Some(meaning) => error(shared, packet, meaning, body),
            None => shared.dropped(Dropped::IcmpUnknown),
        },
    }
}

/// Returns the identifier and the sequence number.
const fn echo_numbers(header: &[u8; HEADER]) -> (u16, u16) {
    (u16::from_be_bytes([header[4], header[5]]), u16::from_be_bytes([header[6], header[7]]))
}

fn answer_echo(shared: &Shared, packet: &Packet<'_>) {
    let answers = || shared.interception().is_some_and(|interception| interception.options.answer_echo);
    if !(shared.is_own(packet.destination) || answers()) {
        return shared.dropped(Dropped::IcmpEcho);
    }
    let start = header_len(packet.source);
    let mut reply = vec![0; start];
    reply.extend_from_slice(packet.payload());
    reply[start] = if packet.source.is_ipv4() { ECHO_REPLY_V4 } else { ECHO_REPLY_V6 };
    // As in Linux, the reply has the same traffic class, without ECN.
    send(shared, packet.destination, packet.source, packet.traffic_class & !3, reply);
}

/// Sends an ICMP message, in front of which room is left for the IP header. Returns false if there is no room for it.
fn send(shared: &Shared, from: IpAddr, to: IpAddr, traffic_class: u8, mut packet: Vec<u8>) -> bool {
    let start = header_len(to);
    let protocol = if to.is_ipv4() { packet::ICMP } else { packet::ICMPV6 };
    packet[start + 2..start + 4].fill(0);
    let sum = match to {
        IpAddr::V4(_) => Sum::default(),
        IpAddr::V6(_) => pseudo_header(from, to, protocol, packet.len() - start),
    };
    let sum = sum.bytes(&packet[start..]).finish();
    packet[start + 2..start + 4].copy_from_slice(&sum);
    let header = IpHeader { traffic_class, hop_limit: HOP_LIMIT, ..IpHeader::new(from, to, protocol) };
    datagram::send(shared, &header, &mut packet, Full::Drop)
}

/// Handles an ICMP error, which counts if it concerns a packet that the stack has sent.
fn error(shared: &Arc<Shared>, packet: &Packet<'_>, meaning: Meaning, body: &[u8]) {
    let Some(quoted) = Quoted::parse(body, packet.source.is_ipv4()) else {
        return shared.dropped(Dropped::IcmpMalformed);
    };
    // The destination of the error is the sender of the packet.
    let known = quoted.source == packet.destination
        && match quoted.protocol {
            packet::TCP => error_of_tcp(shared, &quoted, meaning),
            packet::UDP => error_of_udp(shared, &quoted, meaning),
            packet::ICMP | packet::ICMPV6 => error_of_echo(shared, &quoted, meaning),
            _ => false,
        };
    if !known {
        shared.dropped(Dropped::IcmpUnknown);
    }
}

fn error_of_tcp(shared: &Arc<Shared>, quoted: &Quoted<'_>, meaning: Meaning) -> bool {
    let (local, remote, seq) = (quoted.local(), quoted.remote(), quoted.second_word());
    match meaning {
        Meaning::Unreachable(error) => tcp_errors::unreachable(shared, local, remote, seq, error),
        Meaning::TooBig(mtu) => {
            // Future connections use it as well.
            if let Some(mtu) = smaller_mtu(shared, quoted, mtu)
                && tcp_errors::path_mtu(shared, local, remote, seq, mtu)
            {
                shared.icmp.path_mtus.set(quoted.destination, mtu, shared.now());
            }
        }
        Meaning::Nothing => {}
    }
    true
}

fn error_of_udp(shared: &Shared, quoted: &Quoted<'_>, meaning: Meaning) -> bool {
    let (local, remote): (SocketAddr, SocketAddr) = (quoted.local(), quoted.remote());
    match meaning {
        Meaning::Unreachable(error) => udp::unreachable(shared, local, remote, error),
        Meaning::TooBig(mtu) => udp::has_sent(shared, local, remote) && learn(shared, quoted, mtu),
        Meaning::Nothing => udp::has_sent(shared, local, remote),
    }
}

fn error_of_echo(shared: &Shared, quoted: &Quoted<'_>, meaning: Meaning) -> bool {
    let (expected, to) =
        if quoted.source.is_ipv4() { (ECHO_REQUEST_V4, packet::ICMP) } else { (ECHO_REQUEST_V6, packet::ICMPV6) };
    if quoted.transport[0] != expected || quoted.protocol != to {
        return false;
    }
    let (id, seq) = echo_numbers(quoted.transport);
    let pings = &shared.icmp.pings;
    match meaning {
        Meaning::Unreachable(error) => pings.fail(quoted.destination, id, seq, error),
        Meaning::TooBig(mtu) => pings.has(quoted.destination, id, seq) && learn(shared, quoted, mtu),
        Meaning::Nothing => pings.has(quoted.destination, id, seq),
    }
}

/// Stores the path's MTU for future datagrams.
fn learn(shared: &Shared, quoted: &Quoted<'_>, mtu: usize) -> bool {
    if let Some(mtu) = smaller_mtu(shared, quoted, mtu) {
        shared.icmp.path_mtus.set(quoted.destination, mtu, shared.now());
    }
    true
}

/// Returns an MTU that is smaller than the tunnel's.
fn smaller_mtu(shared: &Shared, quoted: &Quoted<'_>, mtu: usize) -> Option<usize> {
    let mtu = if mtu == 0 { errors::plateau_below(quoted.len) } else { mtu };
    Some(mtu).filter(|mtu| *mtu < usize::from(shared.mtu()))
}

/// Responds to a datagram, or its beginning, with port unreachable, with its destination as the source.
pub(super) fn port_unreachable(shared: &Shared, refused: &[u8], now: Instant) {
    let (v4, v6) = ((3, 3), (1, 4));
    errors::send(shared, refused, v4, v6, now);
}

/// Reports that a packet was not completed in time; `first` is its first fragment.
pub(super) fn reassembly_timeout(shared: &Shared, first: &[u8], now: Instant) {
    let (v4, v6) = ((11, 1), (3, 1));
    errors::send(shared, first, v4, v6, now);
}

/// Returns whether an error may be sent to this host now; if not, it is counted.
fn allows(shared: &Shared, to: IpAddr, now: Instant) -> bool {
    let place = shared.keyed_hash("icmp errors", &to);
    let allowed = lock(&shared.icmp.limiter).take(place, now);
    if !allowed {
        shared.dropped(Dropped::IcmpRate);
    }
    allowed
}

/// Handles the closing of the stack: ends all waiting requests.
pub(crate) fn close(shared: &Arc<Shared>) {
    shared.icmp.pings.finish(io::ErrorKind::ConnectionAborted);
}
