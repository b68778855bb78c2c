//! Single TCP segments, and a peer that is made of them.

use std::net::SocketAddr;

use smoltcp::wire::{IpProtocol, TcpPacket};

use super::{
    Node,
    packets::{ip, parse_ip},
};

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;

/// A segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    /// A multiple of four bytes.
    pub options: Vec<u8>,
    pub data: Vec<u8>,
}

impl Tcp {
    /// As a packet.
    pub fn packet(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.from.port().to_be_bytes());
        bytes.extend(self.to.port().to_be_bytes());
        bytes.extend(self.seq.to_be_bytes());
        bytes.extend(self.ack.to_be_bytes());
        bytes.extend([((20 + self.options.len()) as u8 / 4) << 4, self.flags]);
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(&self.options);
        bytes.extend(&self.data);
        TcpPacket::new_unchecked(&mut bytes[..]).fill_checksum(&self.from.ip().into(), &self.to.ip().into());
        ip(self.from.ip(), self.to.ip(), IpProtocol::Tcp, &bytes)
    }

    /// From a packet, whose checksums are verified; `None` if it is of another protocol.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let (from, to, protocol, bytes) = parse_ip(packet);
        if protocol != IpProtocol::Tcp {
            return None;
        }
        let tcp = TcpPacket::new_checked(bytes).unwrap();
        assert!(tcp.verify_checksum(&from.into(), &to.into()));
        let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        Some(Self {
            from: (from, tcp.src_port()).into(),
            to: (to, tcp.dst_port()).into(),
            seq: number(4),
            ack: number(8),
            flags: bytes[13] & 0x1f,
            window: tcp.window_len(),
            options: tcp.options().to_vec(),
            data: tcp.payload().to_vec(),
        })
    }
}

/// The other end of a connection to a node, moved by hand.
#[derive(Clone, Debug)]
pub struct Peer {
    pub from: SocketAddr,
    pub to: SocketAddr,
    /// What it sends next, and what it expects next.
    pub seq: u32,
    pub ack: u32,
    pub options: Vec<u8>,
}

impl Peer {
    /// Its first number is `seq`.
    pub fn new(from: &str, to: &str, seq: u32) -> Self {
        Self { from: from.parse().unwrap(), to: to.parse().unwrap(), seq, ack: 0, options: Vec::new() }
    }

    pub fn segment(&self, flags: u8, data: &[u8]) -> Tcp {
        Tcp {
            from: self.from,
            to: self.to,
            seq: self.seq,
            ack: if flags & ACK == 0 { 0 } else { self.ack },
            flags,
            window: 0xffff,
            options: self.options.clone(),
            data: data.to_vec(),
        }
    }

    /// Sends a segment, and returns what the node answers to it. What it sends next does not change.
    pub fn poke(&self, node: &Node, flags: u8, data: &[u8]) -> Vec<Tcp> {
        node.give(&[self.segment(flags, data).packet()]);
        self.hear(node)
    }

    /// What the node sends to it now.
    pub fn hear(&self, node: &Node) -> Vec<Tcp> {
        let all = node.take();
        let all = all.iter().filter_map(|packet| Tcp::parse(packet));
        all.filter(|tcp| tcp.to == self.from && tcp.from == self.to).collect()
    }

    /// Sends a segment and takes the answers to be received.
    pub fn send(&mut self, node: &Node, flags: u8, data: &[u8]) -> Vec<Tcp> {
        let answers = self.poke(node, flags, data);
        self.seq = self.seq.wrapping_add(data.len() as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0));
        self.take(&answers);
        answers
    }

    /// Takes segments to be received.
    pub fn take(&mut self, segments: &[Tcp]) {
        for tcp in segments {
            let flags = u32::from(tcp.flags & SYN != 0) + u32::from(tcp.flags & FIN != 0);
            self.ack = tcp.seq.wrapping_add(tcp.data.len() as u32 + flags);
        }
    }

    /// Dials.
    pub fn connect(&mut self, node: &Node) {
        let answers = self.send(node, SYN, &[]);
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert_eq!(answers[0].flags, SYN | ACK);
        self.send(node, ACK, &[]);
    }
}
