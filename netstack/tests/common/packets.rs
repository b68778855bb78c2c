//! Packets that smoltcp builds and parses: what ours is compared with.

use std::net::{IpAddr, SocketAddr};

use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        Icmpv4Message, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv4Repr,
        Ipv6Packet, Ipv6Repr, UdpPacket, UdpRepr,
    },
};

pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// An IP packet around a payload.
pub fn ip(from: IpAddr, to: IpAddr, protocol: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let caps = ChecksumCapabilities::default();
    match (from, to) {
        (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
            let repr =
                Ipv4Repr { src_addr, dst_addr, next_header: protocol, payload_len: payload.len(), hop_limit: 61 };
            let mut bytes = vec![0; 20 + payload.len()];
            repr.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[..]), &caps);
            bytes[20..].copy_from_slice(payload);
            bytes
        }
        (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
            let repr =
                Ipv6Repr { src_addr, dst_addr, next_header: protocol, payload_len: payload.len(), hop_limit: 61 };
            let mut bytes = vec![0; 40 + payload.len()];
            repr.emit(&mut Ipv6Packet::new_unchecked(&mut bytes[..]));
            bytes[40..].copy_from_slice(payload);
            bytes
        }
        _ => panic!("two families"),
    }
}

/// A datagram.
pub fn udp(from: SocketAddr, to: SocketAddr, data: &[u8]) -> Vec<u8> {
    let mut payload = vec![0; 8 + data.len()];
    UdpRepr { src_port: from.port(), dst_port: to.port() }.emit(
        &mut UdpPacket::new_unchecked(&mut payload[..]),
        &from.ip().into(),
        &to.ip().into(),
        data.len(),
        |room| room.copy_from_slice(data),
        &ChecksumCapabilities::default(),
    );
    ip(from.ip(), to.ip(), IpProtocol::Udp, &payload)
}

/// Sender, receiver and data of a whole datagram; its checksums are verified.
pub fn parse_udp(packet: &[u8]) -> (SocketAddr, SocketAddr, Vec<u8>) {
    let (from, to, protocol, payload) = parse_ip(packet);
    assert_eq!(protocol, IpProtocol::Udp);
    let datagram = UdpPacket::new_checked(payload).unwrap();
    assert!(datagram.checksum() != 0 && datagram.verify_checksum(&from.into(), &to.into()));
    ((from, datagram.src_port()).into(), (to, datagram.dst_port()).into(), datagram.payload().to_vec())
}

pub fn parse_ip(packet: &[u8]) -> (IpAddr, IpAddr, IpProtocol, &[u8]) {
    if packet[0] >> 4 == 4 {
        let packet = Ipv4Packet::new_checked(packet).unwrap();
        assert!(packet.verify_checksum());
        (packet.src_addr().into(), packet.dst_addr().into(), packet.next_header(), packet.payload())
    } else {
        let packet = Ipv6Packet::new_checked(packet).unwrap();
        (packet.src_addr().into(), packet.dst_addr().into(), packet.next_header(), packet.payload())
    }
}

/// An ICMP message with any type, code and four bytes of rest.
pub fn icmp(from: IpAddr, to: IpAddr, (kind, code): (u8, u8), rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut payload = vec![kind, code, 0, 0];
    payload.extend(rest);
    payload.extend(body);
    if let (IpAddr::V6(from), IpAddr::V6(to)) = (from, to) {
        Icmpv6Packet::new_unchecked(&mut payload[..]).fill_checksum(&from, &to);
        ip(from.into(), to.into(), IpProtocol::Icmpv6, &payload)
    } else {
        Icmpv4Packet::new_unchecked(&mut payload[..]).fill_checksum();
        ip(from, to, IpProtocol::Icmp, &payload)
    }
}

/// Type, code and body of an ICMP message, whose checksum is verified; smoltcp must understand it.
pub fn parse_icmp(packet: &[u8]) -> (IpAddr, IpAddr, (u8, u8), Vec<u8>) {
    let (from, to, protocol, payload) = parse_ip(packet);
    let caps = ChecksumCapabilities::default();
    match (from, to) {
        (IpAddr::V4(_), _) => {
            assert_eq!(protocol, IpProtocol::Icmp);
            let message = Icmpv4Packet::new_checked(payload).unwrap();
            assert!(message.verify_checksum());
            // Of a packet that is quoted it wants all.
            if matches!(message.msg_type(), Icmpv4Message::EchoReply | Icmpv4Message::EchoRequest) {
                Icmpv4Repr::parse(&message, &caps).unwrap();
            }
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            assert_eq!(protocol, IpProtocol::Icmpv6);
            let message = Icmpv6Packet::new_checked(payload).unwrap();
            assert!(message.verify_checksum(&source, &destination));
            Icmpv6Repr::parse(&source, &destination, &message, &caps).unwrap();
        }
        _ => panic!("two families"),
    }
    (from, to, (payload[0], payload[1]), payload[8..].to_vec())
}
