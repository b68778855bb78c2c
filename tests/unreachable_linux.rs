//! A real kernel's sockets learn at once that a tunnel has nobody to send their packets to. Needs root; says so if it is not.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test may fail loudly")]

mod netns;
#[path = "common/skip.rs"]
mod skip;

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use netns::{Netns, as_root};
use wg_embed::{
    bind::mem::MemNetwork,
    config::{AllowedIpUpdate, PeerUpdate, Update},
    device::{Options, Tunnel},
    key::PrivateKey,
    random::SystemRandom,
    tun::linux::LinuxTun,
};

/// Bounds what hangs. A TCP connection that is not refused tries for longer.
const LIMIT: Duration = Duration::from_secs(60);

/// A tunnel in a namespace, all of whose packets go into it; it has a peer without an endpoint.
fn tunnel(netns: &Netns, vnet: bool) -> Tunnel {
    let fd = netns.tun("wgt0", libc::IFF_TUN | if vnet { libc::IFF_VNET_HDR } else { 0 });
    for command in [
        "link set wgt0 up",
        "address add 10.0.0.1/24 dev wgt0",
        "address add fd00::1/64 dev wgt0 nodad",
        "route add default dev wgt0",
        "-6 route add default dev wgt0",
    ] {
        netns.ip(command);
    }
    netns.await_address("fd00::1");
    let tun = netns.run(move || LinuxTun::adopt(fd, 0).unwrap());
    let bind = MemNetwork::new().bind(IpAddr::from([192, 0, 2, 1]));
    let tunnel = Tunnel::start(Arc::new(tun), bind, Options::default()).unwrap();
    let private = || PrivateKey::generate(&SystemRandom);
    let mut peer = PeerUpdate::new(private().public_key());
    let given = |prefix: &str| AllowedIpUpdate { prefix: prefix.parse().unwrap(), remove: false };
    peer.allowed_ips = vec![given("10.0.0.2/32"), given("fd00::2/128")];
    let update = Update { private_key: Some(Some(private())), peers: vec![peer], ..Update::default() };
    tunnel.device().apply(update).unwrap();
    tunnel.device().up().unwrap();
    tunnel
}

#[test]
fn sockets_learn_that_a_host_is_unreachable() {
    as_root(|| {
        for vnet in [false, true] {
            let netns = Netns::new();
            let tunnel = tunnel(&netns, vnet);
            // A peer without an endpoint, and none.
            for to in ["10.0.0.2", "10.0.0.77", "192.0.2.9", "fd00::2", "fd00::77", "2001:db8::9"] {
                let to = SocketAddr::new(to.parse().unwrap(), 80);
                let error = netns.run(move || TcpStream::connect_timeout(&to, LIMIT).unwrap_err());
                assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH), "{to}, with offloads: {vnet}");
            }
            // The last one is counted after it was written.
            let is_counted = |name: &str, least: u64| {
                tunnel.device().counters().iter().any(|(counter, count)| *counter == name && *count >= least)
            };
            let least = [("unreachable_sent", 6), ("out_no_endpoint", 2), ("out_no_peer", 4)];
            netns::eventually("all are counted", || least.iter().all(|(name, least)| is_counted(name, *least)));
            tunnel.stop().unwrap();
        }
    });
}
