//! A peer made of the engine alone: it sends what a test wants, when a test wants it, and keeps no timers.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use wg_embed::{
    config::{AllowedIpUpdate, PeerUpdate, Update},
    key::{PrivateKey, PublicKey},
    noise::{
        cookie::MacStamper,
        handshake::{Handshake, Identity},
        message::{COOKIE_REPLY_LEN, DATA_OVERHEAD, RESPONSE_LEN, padded_len},
        session::Session,
    },
    random::{Random, SystemRandom},
    time::Clock,
};

use super::{Node, PORT, World, kind};

pub struct Raw {
    pub identity: Identity,
    pub handshake: Handshake,
    pub stamper: MacStamper,
    /// Its source of ephemeral keys.
    pub random: Arc<dyn Random>,
    /// Where it sends from.
    pub at: SocketAddr,
    pub inner: IpAddr,
    /// The node that it talks to.
    pub node: PublicKey,
    pub node_at: SocketAddr,
    next_index: u32,
}

impl Raw {
    /// Number `n` is 192.0.2.n outside and 10.0.0.n inside, as nodes are.
    pub fn new(node: &Node, n: u8) -> Self {
        Self::with_key(node, n, PrivateKey::generate_with(&SystemRandom))
    }

    pub fn with_key(node: &Node, n: u8, private: PrivateKey) -> Self {
        Self {
            identity: Identity::new(private),
            handshake: Handshake::new(node.public()),
            stamper: MacStamper::default(),
            random: Arc::new(SystemRandom),
            at: SocketAddr::new(IpAddr::from([192, 0, 2, n]), PORT),
            inner: IpAddr::from([10, 0, 0, n]),
            node: node.public(),
            node_at: SocketAddr::new(node.address, PORT),
            next_index: u32::from(n) << 24,
        }
    }

    /// Makes it a peer of its node.
    pub fn introduce(&self, node: &Node) {
        let mut peer = PeerUpdate::new(*self.identity.public());
        peer.endpoint = Some(self.at.into());
        peer.allowed_ips = vec![AllowedIpUpdate::add(self.inner.into())];
        node.apply(Update { peers: vec![peer], ..Update::default() });
    }

    pub fn send(&self, world: &World, datagram: &[u8]) {
        world.net.inject(self.at, self.node_at, datagram, 0);
    }

    /// Makes an initiation, whole and stamped.
    pub fn initiation(&mut self, world: &World) -> Vec<u8> {
        self.next_index += 1;
        let wall = world.clock.wall();
        let made = self.handshake.create_initiation(&self.identity, self.next_index, wall, &*self.random);
        let mut message = made.unwrap();
        self.stamper.stamp(&mut message, &self.node, world.now());
        message.to_vec()
    }

    /// What the node has sent here since the log was read last. Reads the whole log.
    pub fn heard(&self, world: &World) -> Vec<Vec<u8>> {
        world.sent().into_iter().filter(|d| d.to == self.at).map(|d| d.payload).collect()
    }

    /// Takes the response to the last initiation.
    pub fn take_response(&mut self, world: &World, response: &[u8]) -> Arc<Session> {
        let response: &[u8; RESPONSE_LEN] = response.try_into().unwrap();
        assert!(self.handshake.consume_response(response, &self.identity));
        self.handshake.begin_session(world.now()).unwrap()
    }

    pub fn take_cookie(&mut self, world: &World, reply: &[u8]) {
        let reply: &[u8; COOKIE_REPLY_LEN] = reply.try_into().unwrap();
        assert!(self.stamper.take_reply(reply, &self.node, world.now()));
    }

    /// A handshake with the node, not confirmed yet.
    pub fn shake(&mut self, world: &World, node: &Node) -> Arc<Session> {
        let initiation = self.initiation(world);
        self.send(world, &initiation);
        world.settle(&[node]);
        let response = self.heard(world).into_iter().find(|m| kind(m) == 2).expect("a response");
        self.take_response(world, &response)
    }

    /// A session with the node, confirmed by counter 0.
    pub fn connect(&mut self, world: &World, node: &Node) -> Arc<Session> {
        let session = self.shake(world, node);
        self.send(world, &seal(&session, 0, &[]));
        world.settle(&[node]);
        session
    }
}

/// A data message with this counter.
pub fn seal(session: &Session, counter: u64, packet: &[u8]) -> Vec<u8> {
    let mut message = vec![0; DATA_OVERHEAD + padded_len(packet.len(), 0)];
    message[16..16 + packet.len()].copy_from_slice(packet);
    session.seal(counter, &mut message);
    message
}

/// The padded packet in a data message; `None` if it is not for this session.
pub fn open(session: &Session, message: &[u8]) -> Option<Vec<u8>> {
    let counter = u64::from_le_bytes(message.get(8..16)?.try_into().ok()?);
    let mut body = message[16..].to_vec();
    let len = session.open(counter, &mut body)?;
    body.truncate(len);
    Some(body)
}
