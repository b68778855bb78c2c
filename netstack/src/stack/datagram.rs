//! Outgoing datagrams: their headers, and fragments if they are larger than the path's MTU.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering},
};

use super::{
    counters::Dropped,
    outbox::HasRoom,
    packet::{Fragment, IPV4_HEADER, IPV6_HEADER, IpHeader, UDP, header_len, is_host, pseudo_header},
    shared::Shared,
};

pub(crate) const UDP_HEADER: usize = 8;

/// The largest packet, which also limits its payload: an IPv6 packet could be larger by its header.
const MAX_PACKET: usize = 65_535;

/// The number of IPv6's fragment header.
const FRAGMENT_HEADER: u8 = 44;
const FRAGMENT_HEADER_LEN: usize = 8;

/// The treatment of a datagram that does not fit in the outbox.
pub(super) enum Full<'a> {
    /// It is dropped, and counted.
    Drop,
    /// It is not sent: this waiter is notified of room, unless it is already waiting.
    Wait(&'a mut dyn FnMut() -> Option<Arc<dyn HasRoom>>),
}

/// Fails unless `data` and its headers fit in a packet.
pub(crate) fn check_len(to: IpAddr, header: usize, data: usize) -> io::Result<()> {
    #[cfg(windows)]
    const MESSAGE_TOO_LONG: i32 = 10_040;
    #[cfg(not(windows))]
    const MESSAGE_TOO_LONG: i32 = libc::EMSGSIZE;
    if data > MAX_PACKET - header_len(to) - header {
        let cause = io::Error::from_raw_os_error(MESSAGE_TOO_LONG);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, cause));
    }
    Ok(())
}

/// Fails unless a datagram can be sent from `from` to `to`.
pub(super) fn check(from: SocketAddr, to: SocketAddr, data: usize) -> io::Result<()> {
    let invalid = |what| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    if from.is_ipv4() != to.is_ipv4() {
        return invalid("addresses of two families");
    }
    if to.port() == 0 || !(is_host(to.ip()) || to.ip().is_multicast()) {
        return invalid("not an address and port that datagrams can be sent to");
    }
    check_len(to.ip(), UDP_HEADER, data)
}

/// Sends a datagram that [`check`] has passed. Returns false if there is no room for it.
pub(super) fn send_udp(shared: &Shared, from: SocketAddr, to: SocketAddr, data: &[u8], full: Full<'_>) -> bool {
    let start = header_len(to.ip());
    let mut packet = Vec::with_capacity(start + UDP_HEADER + data.len());
    packet.resize(start, 0);
    push_udp_header(&mut packet, from, to, data.len());
    packet.extend_from_slice(data);
    let sum = pseudo_header(from.ip(), to.ip(), UDP, packet.len() - start).bytes(&packet[start..]).finish_nonzero();
    packet[start + 6..start + 8].copy_from_slice(&sum);
    send(shared, &IpHeader::new(from.ip(), to.ip(), UDP), &mut packet, full)
}

/// Appends a header without checksum.
fn push_udp_header(packet: &mut Vec<u8>, from: SocketAddr, to: SocketAddr, data: usize) {
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(((UDP_HEADER + data) as u16).to_be_bytes());
    packet.extend([0, 0]);
}

/// Returns the beginning of a packet that was sent from `from` to `to` with this number of bytes of data: as much as an
/// ICMP error quotes.
pub(super) fn udp_header(from: SocketAddr, to: SocketAddr, data: usize) -> Vec<u8> {
    let start = header_len(to.ip());
    let mut packet = vec![0; start];
    push_udp_header(&mut packet, from, to, data);
    IpHeader::new(from.ip(), to.ip(), UDP).emit(&mut packet, UDP_HEADER + data);
    packet
}

/// Sends a packet that is complete except for the IP header, for which room is left; in fragments, if the path's MTU
/// requires it. Returns false if there is no room for it.
pub(super) fn send(shared: &Shared, header: &IpHeader, packet: &mut [u8], mut full: Full<'_>) -> bool {
    let mtu = shared.icmp.path_mtus.get(header.destination, || shared.now()).unwrap_or(usize::MAX);
    let mtu = mtu.min(usize::from(shared.mtu()));
    let start = header_len(header.destination);
    let (sent, packets) = if packet.len() <= mtu {
        let payload = packet.len() - start;
        header.emit(packet, payload);
        let sent = match full {
            Full::Drop => shared.send(packet),
            Full::Wait(ref mut waiter) => shared.send_or_wait(packet, waiter),
        };
        (sent, 1)
    } else {
        let fragments = fragments(header, &packet[start..], mtu, identification(shared, header));
        let sent = match full {
            Full::Drop => shared.outbox.push_all_or_wait(&fragments, || None),
            Full::Wait(ref mut waiter) => shared.outbox.push_all_or_wait(&fragments, &mut **waiter),
        };
        if sent {
            shared.waiter.signal();
        } else if matches!(full, Full::Drop) {
            shared.counters.add(Dropped::OutFull, fragments.len() as u64);
        }
        (sent, fragments.len() as u64)
    };
    if sent {
        shared.counters.packets_out.fetch_add(packets, Ordering::Relaxed);
    }
    sent
}

/// Returns an identification that differs for packets in transit between two addresses, and is unpredictable for others
/// (RFC 7739).
fn identification(shared: &Shared, header: &IpHeader) -> u32 {
    let start = shared.keyed_hash("identification", &(header.source, header.destination)) as u32;
    start.wrapping_add(shared.icmp.identifications.fetch_add(1, Ordering::Relaxed))
}

/// Returns the fragments of a packet with this payload, each with its header.
fn fragments(header: &IpHeader, payload: &[u8], mtu: usize, identification: u32) -> Vec<Vec<u8>> {
    let start = match header.destination {
        IpAddr::V4(_) => IPV4_HEADER,
        IpAddr::V6(_) => IPV6_HEADER + FRAGMENT_HEADER_LEN,
    };
    let size = (mtu.saturating_sub(start) & !7).max(8);
    let count = payload.len().div_ceil(size);
    let part = |(n, chunk): (usize, &[u8])| {
        let fragment = Fragment { identification, offset: n * size, more: n + 1 < count };
        let mut packet = vec![0; start + chunk.len()];
        packet[start..].copy_from_slice(chunk);
        if header.destination.is_ipv4() {
            IpHeader { fragment: Some(fragment), ..*header }.emit(&mut packet, chunk.len());
        } else {
            let outer = IpHeader { protocol: FRAGMENT_HEADER, ..*header };
            outer.emit(&mut packet, FRAGMENT_HEADER_LEN + chunk.len());
            let extension = &mut packet[IPV6_HEADER..start];
            extension[0] = header.protocol;
            extension[2..4].copy_from_slice(&(fragment.offset as u16 | u16::from(fragment.more)).to_be_bytes());
            extension[4..8].copy_from_slice(&identification.to_be_bytes());
        }
        packet
    };
    payload.chunks(size).enumerate().map(part).collect()
}
