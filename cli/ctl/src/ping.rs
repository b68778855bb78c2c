//! ICMP echo requests through a tunnel, for round-trip times, which daemons do not report.

use std::{
    io::{self, ErrorKind, Read},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, Type};
use wg_embed::{
    config::snapshot::PeerSnapshot,
    random::{Random, SystemRandom},
};

use crate::{
    failure::{Failure, Result},
    show::{Echo, Echoes},
    state::State,
};

/// The time limit for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Type, code, checksum, identifier, sequence number, and eight random bytes.
const LEN: usize = 16;

/// Pings each peer that has a single address, one after the other.
pub(crate) fn peers(interface: &str, state: &State, count: u16) -> Result<Vec<Echoes>> {
    let ping = |peer: &PeerSnapshot| address_of(peer).map(|ip| ping(interface, ip, count)).transpose();
    state.peers.iter().map(ping).collect()
}

/// Returns the first prefix of a peer that is a single address.
fn address_of(peer: &PeerSnapshot) -> Option<IpAddr> {
    peer.allowed_ips.iter().find(|net| net.prefix_len() == net.max_prefix_len()).map(IpNet::addr)
}

fn ping(interface: &str, ip: IpAddr, count: u16) -> Result<Echo> {
    let failed = |error: io::Error| Failure::io(format_args!("cannot ping {ip} on {interface}"), &error);
    let (socket, has_header) = open(interface, ip).map_err(failed)?;
    let mut echo = Echo { sent: 0, received: 0, round_trip: None };
    let mut total = Duration::ZERO;
    for number in 0..count {
        echo.sent += 1;
        let mut secret = [0; 8];
        SystemRandom.fill(&mut secret);
        let request = request(ip.is_ipv6(), number, secret);
        let begin = Instant::now();
        // For a peer without a session or an endpoint this fails, which counts as a loss.
        if socket.send_to(&request, &SocketAddr::new(ip, 0).into()).is_err() {
            continue;
        }
        if await_answer(&socket, has_header, &request, begin).map_err(failed)? {
            echo.received += 1;
            total += begin.elapsed();
        }
    }
    echo.round_trip = (echo.received > 0).then(|| total / u32::from(echo.received));
    Ok(echo)
}

/// Opens a socket for echo requests; returns whether it receives IP headers. The kind that needs no privilege is tried
/// first.
fn open(interface: &str, ip: IpAddr) -> io::Result<(Socket, bool)> {
    let (domain, protocol) =
        if ip.is_ipv4() { (Domain::IPV4, Protocol::ICMPV4) } else { (Domain::IPV6, Protocol::ICMPV6) };
    let (socket, has_header) = match Socket::new(domain, Type::DGRAM, Some(protocol)) {
        Ok(socket) => (socket, false),
        Err(_) => (Socket::new(domain, Type::RAW, Some(protocol))?, ip.is_ipv4()),
    };
    socket.bind_device(Some(interface.as_bytes()))?;
    Ok((socket, has_header))
}

fn request(ipv6: bool, number: u16, secret: [u8; 8]) -> [u8; LEN] {
    let mut packet = [0; LEN];
    packet[0] = if ipv6 { 128 } else { 8 };
    packet[4..6].copy_from_slice(&secret[..2]);
    packet[6..8].copy_from_slice(&number.to_be_bytes());
    packet[8..].copy_from_slice(&secret);
    // The kernel fills in the checksum of ICMPv6.
    if !ipv6 {
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// Computes the Internet checksum.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// Waits for the answer to a request; false after the time limit.
fn await_answer(socket: &Socket, has_header: bool, request: &[u8; LEN], begin: Instant) -> io::Result<bool> {
    let (mut socket, mut buffer) = (socket, [0; 256]);
    while let Some(left) = PATIENCE.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left))?;
        let len = match socket.read(&mut buffer) {
            Ok(len) => len,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // An error that the network has reported for the request.
            Err(_) => return Ok(false),
        };
        let packet = buffer.get(..len).unwrap_or_default();
        let header = if has_header { usize::from(packet.first().copied().unwrap_or(0) & 15) * 4 } else { 0 };
        if packet.get(header..).is_some_and(|message| answers(message, request)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns whether a message is the answer to a request. The system may have changed the identifier.
fn answers(message: &[u8], request: &[u8; LEN]) -> bool {
    message.len() == LEN && matches!(message[0], 0 | 129) && message[6..] == request[6..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_right_checksum_and_knows_its_answer() {
        let request = request(false, 7, *b"abcdefgh");
        assert_eq!(checksum(&request), 0);
        let mut answer = request;
        answer[0] = 0;
        assert!(answers(&answer, &request));
        answer[15] ^= 1;
        assert!(!answers(&answer, &request) && !answers(&request, &request) && !answers(&[], &request));
    }
}
