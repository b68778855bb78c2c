// Two stacks behind two real tunnels, whose datagrams move in memory; each tunnel has its own threads, the time is
// real. The examples in the documentation of the package include this file as well.

use std::net::IpAddr;

use wg_embed::{
    bind::mem::MemNetwork,
    config::{AllowedIpUpdate, PeerUpdate, Update},
    device::{Options as TunnelOptions, Tunnel},
    key::PrivateKey,
    random::SystemRandom,
};
use wg_embed_netstack::{Netstack, Options};

pub const A: &str = "10.0.0.1";
pub const B: &str = "10.0.0.2";
pub const A6: &str = "fd00::1";
pub const B6: &str = "fd00::2";

const PORT: u16 = 51820;

/// A stack behind its tunnel.
pub struct Tunnelled {
    pub stack: Netstack,
    pub tunnel: Tunnel,
}

/// Two of them, 10.0.0.1 with fd00::1 and 10.0.0.2 with fd00::2, that are each other's peers.
pub fn pair(change: impl Fn(&mut Options)) -> (Tunnelled, Tunnelled) {
    let network = MemNetwork::new();
    let keys = [PrivateKey::generate_with(&SystemRandom), PrivateKey::generate_with(&SystemRandom)];
    let outer = |n: usize| IpAddr::from([192, 0, 2, n as u8 + 1]);
    let addresses = [[A, A6], [B, B6]];
    let make = |n: usize| {
        let mut options =
            Options { addresses: addresses[n].iter().map(|a| a.parse().unwrap()).collect(), ..Options::default() };
        change(&mut options);
        let stack = Netstack::new(options).unwrap();
        let tunnel = Tunnel::start(stack.tun(), network.bind(outer(n)), TunnelOptions::default()).unwrap();
        let mut peer = PeerUpdate::new(keys[1 - n].public_key());
        peer.endpoint = Some(std::net::SocketAddr::new(outer(1 - n), PORT).into());
        let allow = |address: &str| AllowedIpUpdate::add(address.parse::<IpAddr>().unwrap().into());
        peer.allowed_ips = addresses[1 - n].iter().map(|address| allow(address)).collect();
        let update = Update {
            private_key: Some(Some(keys[n].clone())),
            listen_port: Some(PORT),
            peers: vec![peer],
            ..Update::default()
        };
        tunnel.device().apply(update).unwrap();
        tunnel.device().up().unwrap();
        Tunnelled { stack, tunnel }
    };
    (make(0), make(1))
}
