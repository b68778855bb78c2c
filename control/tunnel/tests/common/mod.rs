//! What the tests share: the far ends of tunnels.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::{sync::Arc, time::Duration};

use wg_embed::{
    bind::udp::UdpBind,
    config::{AllowedIpUpdate, PeerUpdate, Update, wgquick::Conf},
    device::{self, Tunnel},
    key::PrivateKey,
    random::SystemRandom,
};
use wg_embed_manager::tunnel::Id;
use wg_embed_netstack::{Netstack, Options};
use wg_embed_tunnel::engine::{Configuration, Peer};

/// Longer than anything takes, on however slow a machine.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Tunnels that answer pings at 10.8.0.1, 10.8.0.2 and 10.8.0.3, each a peer of its own. They know one peer, with
/// 10.8.0.0/16.
pub struct Far {
    key: PrivateKey,
    ends: Vec<(PrivateKey, Tunnel, Netstack)>,
}

impl Far {
    pub fn new() -> Self {
        let key = PrivateKey::generate_with(&SystemRandom);
        let ends = (1..=3).map(|number| end(number, &key)).collect();
        Self { key, ends }
    }
}

fn end(number: u8, key: &PrivateKey) -> (PrivateKey, Tunnel, Netstack) {
    let own = PrivateKey::generate_with(&SystemRandom);
    let addresses = vec![[10, 8, 0, number].into()];
    let stack = Netstack::new(Options { addresses, ..Options::default() }).unwrap();
    let bind = Arc::new(UdpBind::new().unwrap());
    let tunnel = Tunnel::start(stack.tun(), bind, device::Options::default()).unwrap();
    let mut peer = PeerUpdate::new(key.public_key());
    peer.allowed_ips = vec![AllowedIpUpdate::add("10.8.0.0/16".parse().unwrap())];
    let private_key = Some(Some(own.clone()));
    tunnel
        .device()
        .apply(Update { private_key, listen_port: Some(0), peers: vec![peer], ..Update::default() })
        .unwrap();
    tunnel.device().up().unwrap();
    (own, tunnel, stack)
}

/// A configuration with these of the far ends, as 10.8.0.100.
pub fn conf(far: &Far, numbers: &[u8]) -> String {
    let mut text = format!("[Interface]\nPrivateKey = {}\nAddress = 10.8.0.100/24\n", far.key.to_base64().as_str());
    for number in numbers {
        let (key, tunnel, _) = &far.ends[usize::from(*number) - 1];
        let port = tunnel.device().listen_port();
        text += &format!("[Peer]\n# Name = peer {number}\nPublicKey = {}\n", key.public_key());
        text += &format!("Endpoint = 127.0.0.1:{port}\nAllowedIPs = 10.8.0.{number}/32\n");
    }
    text
}

/// The id of the peer whose address has that number.
pub fn id(number: u8) -> Id {
    Id([number; 16])
}

pub fn configuration(text: &str) -> Configuration {
    let conf: Conf = text.parse().unwrap();
    let peers = conf.update.peers.iter().map(|peer| {
        let address = peer.allowed_ips[0].prefix.addr();
        let number = address.to_string().rsplit('.').next().unwrap().parse().unwrap();
        (id(number), Peer { public_key: peer.public_key, address: Some(address) })
    });
    Configuration { peers: peers.collect(), conf: conf.clone(), guard: None }
}
