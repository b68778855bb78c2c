//! Ways to a peer over real sockets, in networks without IPv4 or IPv6. They need root, and say so if they are skipped.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod common;
mod netns;
#[path = "common/skip.rs"]
mod skip;

use std::{net::IpAddr, sync::Arc};

use common::{MTU, give, ipv4};
use netns::{Netns, as_root};
use wg_embed::{
    bind::udp::UdpBind,
    config::{PeerEndpoint, PeerUpdate, Update},
    device::{Options, Resolve, Tunnel},
    key::{PrivateKey, PublicKey},
    random::SystemRandom,
    time::ManualClock,
    tun::mem::{MemHandle, MemTun},
};

/// A tunnel, and the app's end of it.
struct End {
    tunnel: Tunnel,
    tun: MemHandle,
    key: PublicKey,
}

fn end(resolve: Option<Resolve>) -> End {
    let (tun, handle) = MemTun::new("wg", MTU);
    let private = PrivateKey::generate_with(&SystemRandom);
    let key = private.public_key();
    let bind = Arc::new(UdpBind::new().unwrap());
    let options = Options { resolve, clock: Arc::new(ManualClock::new()), ..Options::default() };
    let tunnel = Tunnel::start_with(Arc::new(tun), bind, options, |device| {
        device.apply(Update { private_key: Some(Some(private)), ..Update::default() })?;
        device.up()
    });
    End { tunnel: tunnel.unwrap(), tun: handle, key }
}

impl End {
    fn add_peer(&self, other: &Self, endpoint: Option<PeerEndpoint>, prefix: &str) {
        let peer = PeerUpdate { endpoint, allowed_ips: vec![give(prefix)], ..PeerUpdate::new(other.key) };
        self.tunnel.device().apply(Update { peers: vec![peer], ..Update::default() }).unwrap();
    }

    fn endpoint_of(&self, other: &Self) -> String {
        let peer = self.tunnel.device().snapshot().peers.flatten().find(|peer| peer.public_key == other.key);
        peer.unwrap().endpoint.map_or_else(String::new, |endpoint| endpoint.to_string())
    }
}

/// Sends a packet from one end to the other, where `host` is, and returns where the first end found it. The clocks of
/// both stand still, so that nothing is tried a second time.
fn reach(host: &str, resolve: Resolve) -> String {
    let (a, b) = (end(Some(resolve)), end(None));
    let port = b.tunnel.device().snapshot().interface.listen_port;
    b.add_peer(&a, None, "10.0.0.1/32");
    a.add_peer(&b, Some(format!("{host}:{port}").parse().unwrap()), "10.0.0.2/32");
    let packet = ipv4(IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]), 100);
    assert!(a.tun.inject(&packet));
    netns::eventually("the packet arrives", || b.tun.take_written() == [packet.clone()]);
    a.endpoint_of(&b).replace(&format!(":{port}"), "")
}

#[test]
fn an_ipv4_address_in_a_network_of_ipv6_alone() {
    as_root(|| {
        let netns = Netns::new();
        // The translator is the peer itself.
        netns.ip("-6 addr add 2001:db8:64::192.0.2.2/128 dev lo nodad");
        netns::eventually("it has the address", || netns.ip("-6 route show table local").contains("2001:db8:64:"));
        let found = |host: &str| match host {
            "ipv4only.arpa" => Ok(["192.0.0.170", "2001:db8:64::192.0.0.170"].map(|ip| ip.parse().unwrap()).to_vec()),
            "b.example" => Ok(vec![IpAddr::from([192, 0, 2, 2])]),
            _ => panic!("{host}"),
        };
        for host in ["192.0.2.2", "b.example"] {
            let endpoint = netns.run(move || reach(host, Box::new(found)));
            assert_eq!(endpoint, "[2001:db8:64::c000:202]");
        }
    });
}

#[test]
fn a_family_without_a_route_is_skipped_at_once() {
    as_root(|| {
        let netns = Netns::new();
        let found = |_: &str| Ok(["2001:db8::2", "2001:db8::3", "127.0.0.1"].map(|ip| ip.parse().unwrap()).to_vec());
        let endpoint = netns.run(move || reach("b.example", Box::new(found)));
        assert_eq!(endpoint, "127.0.0.1");
    });
}
