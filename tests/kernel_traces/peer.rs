//! The other end of a recording: it makes the datagrams that the trace names and reads those of the node. It does
//! nothing by itself.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use wg_embed::{
    bind::mem,
    key::{PresharedKey, PrivateKey, PublicKey},
    noise::{
        cookie::{CookieChecker, MacStamper, Macs},
        handshake::{Handshake, Identity, OpenedInitiation},
        message::{DATA_OVERHEAD, INITIATION_LEN, Message, RESPONSE_LEN, receiver_index},
        session::Session,
    },
    random::SystemRandom,
    time::Instant,
};

use crate::{
    common::{self, PORT},
    trace::Datagram,
};

/// Wall-clock time at which the peer makes its first initiation.
const WALL: Duration = Duration::from_secs(1_700_000_000);

/// The psk that a trace calls by this name.
pub(crate) fn psk(name: &str) -> Result<PresharedKey, String> {
    match name {
        "none" => Ok(PresharedKey::default()),
        "a" => Ok(PresharedKey::from_bytes([0xaa; 32])),
        "b" => Ok(PresharedKey::from_bytes([0xbb; 32])),
        _ => Err(format!("no psk is called {name}")),
    }
}

/// An initiation that the peer has made.
struct Begun {
    handshake: Handshake,
    index: u32,
}

pub(crate) struct Peer {
    identity: Identity,
    node: PublicKey,
    address: IpAddr,
    inner: IpAddr,
    node_inner: IpAddr,
    checker: CookieChecker,
    /// Sees all initiations of the node, and so whether one is a replay.
    listener: Handshake,
    /// The node's initiations, in the order sent, with where they came from.
    heard: Vec<([u8; INITIATION_LEN], SocketAddr)>,
    begun: HashMap<u64, Begun>,
    sessions: Vec<Arc<Session>>,
    highest_counter: u64,
    sent: HashMap<String, Vec<u8>>,
    indices: u32,
}

impl Peer {
    pub(crate) fn new(node: PublicKey, address: IpAddr, inner: IpAddr, node_inner: IpAddr) -> Self {
        let identity = Identity::new(PrivateKey::generate_with(&SystemRandom));
        Self {
            checker: CookieChecker::new(identity.public()),
            identity,
            node,
            address,
            inner,
            node_inner,
            listener: Handshake::new(node),
            heard: Vec::new(),
            begun: HashMap::new(),
            sessions: Vec::new(),
            highest_counter: 0,
            sent: HashMap::new(),
            indices: 0,
        }
    }

    pub(crate) const fn public(&self) -> &PublicKey {
        self.identity.public()
    }

    /// The node has another key.
    pub(crate) fn set_node(&mut self, node: PublicKey) {
        self.node = node;
        self.listener = Handshake::new(node);
    }

    /// The peer's n-th port.
    pub(crate) fn end(&self, port: u64) -> SocketAddr {
        SocketAddr::new(self.address, PORT + 1000 * (port as u16 - 1))
    }

    fn next_index(&mut self) -> u32 {
        self.indices += 1;
        self.indices
    }

    /// The bytes of a datagram that the trace names.
    pub(crate) fn make(&mut self, wanted: &Datagram, now: Instant) -> Result<Vec<u8>, String> {
        let bytes = if wanted.notes.has("copy") {
            self.sent.get(&wanted.bytes_text).ok_or("there is nothing to copy")?.clone()
        } else {
            match wanted.kind.as_str() {
                "initiation" => self.initiate(wanted.notes.number("number")?, now)?,
                "response" => self.respond(wanted, now)?,
                "cookie" => self.cookie(wanted.notes.number("for")?, now)?,
                "data" => self.data(wanted)?,
                kind => return Err(format!("what is a {kind}?")),
            }
        };
        if bytes.len() != wanted.size {
            return Err(format!("it has {} bytes", bytes.len()));
        }
        self.sent.insert(wanted.bytes_text.clone(), bytes.clone());
        Ok(bytes)
    }

    fn initiate(&mut self, number: u64, now: Instant) -> Result<Vec<u8>, String> {
        let (mut handshake, index) = (Handshake::new(self.node), self.next_index());
        let wall = WALL + Duration::from_secs(number);
        let message = handshake.create_initiation(&self.identity, index, wall, &SystemRandom);
        let mut message = message.ok_or("the node's key is of low order")?;
        MacStamper::default().stamp(&mut message, &self.node, now);
        self.begun.insert(number, Begun { handshake, index });
        Ok(message.to_vec())
    }

    fn initiation_of_node(&self, number: u64) -> Result<&([u8; INITIATION_LEN], SocketAddr), String> {
        self.heard.get(number as usize - 1).ok_or_else(|| format!("the node has not sent initiation {number} yet"))
    }

    fn respond(&mut self, wanted: &Datagram, now: Instant) -> Result<Vec<u8>, String> {
        let initiation = self.initiation_of_node(wanted.notes.number("for")?)?.0;
        let index = self.next_index();
        let mut handshake = Handshake::new(self.node);
        handshake.set_preshared(psk(wanted.notes.text("psk").unwrap_or("none"))?);
        let made = OpenedInitiation::open(&initiation, &self.identity)
            .filter(|opened| opened.remote == self.node)
            .filter(|_| self.sessions.len() + 1 == wanted.notes.number("session").unwrap_or(0) as usize)
            .is_some_and(|opened| handshake.consume_initiation(opened, &initiation, &self.identity, now));
        let response = made.then(|| handshake.create_response(index, &SystemRandom)).flatten();
        let mut response = response.ok_or("it cannot be made")?;
        MacStamper::default().stamp(&mut response, &self.node, now);
        self.sessions.push(handshake.begin_session(now).ok_or("no session")?);
        Ok(response.to_vec())
    }

    fn cookie(&mut self, number: u64, now: Instant) -> Result<Vec<u8>, String> {
        let (initiation, from) = *self.initiation_of_node(number)?;
        Ok(self.checker.reply(&initiation, from, now, &SystemRandom).to_vec())
    }

    fn data(&mut self, wanted: &Datagram) -> Result<Vec<u8>, String> {
        let number = wanted.notes.number("session")?;
        let session = self.sessions.get(number as usize - 1).ok_or("there is no such session")?;
        let bad = wanted.notes.has("bad");
        let counter = if bad { self.highest_counter + 1 } else { wanted.notes.number("counter")? };
        self.highest_counter = counter.max(self.highest_counter);
        let mut message = vec![0; wanted.size.max(DATA_OVERHEAD)];
        let packet = match wanted.notes.optional("inner")? {
            Some(size) => common::ipv4(self.inner, self.node_inner, size as usize),
            None => Vec::new(),
        };
        if !bad && DATA_OVERHEAD + packet.len().next_multiple_of(16) != wanted.size {
            return Err("its inner packet does not make this size".into());
        }
        message[16..][..packet.len()].copy_from_slice(&packet);
        session.seal(counter, &mut message);
        if bad {
            *message.last_mut().ok_or("no bytes")? ^= 1;
        }
        Ok(message)
    }

    /// What a datagram of the node is, in the words of a trace. What is wrong with it makes words that no trace has.
    pub(crate) fn read(&mut self, datagram: &mem::Datagram, now: Instant) -> String {
        let mut bytes = datagram.payload.clone();
        let size = bytes.len();
        let mut text = match Message::parse(&mut bytes) {
            Some(Message::Initiation(m)) => format!("initiation {size} {}", self.read_initiation(m, datagram, now)),
            Some(Message::Response(m)) => format!("response {size} {}", self.read_response(m, datagram, now)),
            Some(Message::CookieReply(_)) => format!("cookie {size}"),
            Some(Message::Data(data)) => {
                let found = (1..).zip(&self.sessions).find(|(_, s)| s.local_index() == data.receiver);
                match found.and_then(|(n, s)| Some((n, s.open(data.counter, data.body)?))) {
                    None => format!("data {size} session=?"),
                    Some((n, len)) => {
                        format!("data {size} session={n} counter={} {}", data.counter, self.inner(&data.body[..len]))
                    }
                }
            }
            None => format!("unknown {size}"),
        };
        if datagram.from.port() != PORT {
            text.push_str(&format!(" from={}", datagram.from));
        }
        match (1..=9).find(|n| self.end(*n) == datagram.to) {
            Some(1) => {}
            Some(n) => text.push_str(&format!(" port={n}")),
            None => text.push_str(&format!(" to={}", datagram.to)),
        }
        format!("tx {text}")
    }

    fn inner(&self, plain: &[u8]) -> String {
        if plain.is_empty() {
            return "keepalive".into();
        }
        let (node, own) = (self.node_inner, self.inner);
        let len = plain.get(2..4).map_or(0, |l| usize::from(u16::from_be_bytes([l[0], l[1]])));
        let whole = plain.split_at_checked(len).is_some_and(|(packet, padding)| {
            len >= 20 && packet == common::ipv4(node, own, len) && padding.iter().all(|b| *b == 0)
        });
        if whole { format!("inner={len}") } else { "inner=?".into() }
    }

    /// What a packet that the node delivered is, in the words of a trace.
    pub(crate) fn read_delivered(&self, packet: &[u8]) -> String {
        let whole = packet.len() >= 20 && packet == common::ipv4(self.inner, self.node_inner, packet.len());
        format!("tun-recv {}{}", packet.len(), if whole { "" } else { " garbled" })
    }

    fn macs(&mut self, datagram: &mem::Datagram, now: Instant) -> &'static str {
        let has_mac2 = datagram.payload[datagram.payload.len() - 16..] != [0; 16];
        match self.checker.check(&datagram.payload, datagram.from, true, now, &SystemRandom) {
            Macs::Invalid => " mac1=?",
            Macs::Mac1AndCookie => " mac2",
            Macs::Mac1 if has_mac2 => " mac2=?",
            Macs::Mac1 => "",
        }
    }

    fn read_initiation(&mut self, m: &[u8; INITIATION_LEN], datagram: &mem::Datagram, now: Instant) -> String {
        self.heard.push((*m, datagram.from));
        let number = self.heard.len();
        let opened = OpenedInitiation::open(m, &self.identity).filter(|opened| opened.remote == self.node);
        let fresh = opened.is_some_and(|opened| self.listener.consume_initiation(opened, m, &self.identity, now));
        format!("number={number}{}{}", self.macs(datagram, now), if fresh { "" } else { " not authentic, or a replay" })
    }

    fn read_response(&mut self, m: &[u8; RESPONSE_LEN], datagram: &mem::Datagram, now: Instant) -> String {
        let macs = self.macs(datagram, now);
        let Some((number, begun)) = self.begun.iter_mut().find(|(_, b)| b.index == receiver_index(m)) else {
            return format!("for=?{macs}");
        };
        for name in ["none", "a", "b"] {
            begun.handshake.set_preshared(psk(name).unwrap_or_default());
            if begun.handshake.consume_response(m, &self.identity) {
                self.sessions.extend(begun.handshake.begin_session(now));
                let note = if name == "none" { String::new() } else { format!(" psk={name}") };
                return format!("for={number} session={}{note}{macs}", self.sessions.len());
            }
        }
        format!("for={number} session=?{macs}")
    }
}
