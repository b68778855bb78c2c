//! `conf show`: the configuration of a running tunnel, as printed by `wg showconf`.

use std::fmt::Write as _;

use wg_embed::config::snapshot::PeerSnapshot;
use zeroize::Zeroizing;

use crate::{
    failure::Result,
    output::print_raw,
    socket::Sockets,
    state::{State, prefix_text, preshared},
};

pub(crate) fn run(sockets: &Sockets, name: &str) -> Result<()> {
    let state = sockets.connect(name)?.get()?;
    print_raw(text(&state).as_bytes())
}

fn text(state: &State) -> Zeroizing<String> {
    // With room for the keys and a dozen prefixes of each peer, so that it is seldom moved and leaves keys behind.
    let mut out = Zeroizing::new(String::with_capacity(1024 * (state.peers.len() + 1)));
    let interface = &state.interface;
    out.push_str("[Interface]\n");
    if interface.listen_port != 0 {
        let _ = writeln!(out, "ListenPort = {}", interface.listen_port);
    }
    if interface.fwmark != 0 {
        let _ = writeln!(out, "FwMark = {:#x}", interface.fwmark);
    }
    if let Some(key) = &interface.private_key {
        let _ = writeln!(out, "PrivateKey = {}", *key.to_base64());
    }
    for peer in &state.peers {
        out.push('\n');
        push_peer(&mut out, peer);
    }
    if state.peers.is_empty() {
        out.push('\n');
    }
    out
}

fn push_peer(out: &mut String, peer: &PeerSnapshot) {
    let _ = writeln!(out, "[Peer]\nPublicKey = {}", peer.public_key);
    if let Some(key) = preshared(peer) {
        let _ = writeln!(out, "PresharedKey = {}", *key.to_base64());
    }
    if !peer.allowed_ips.is_empty() {
        let prefixes: Vec<_> = peer.allowed_ips.iter().map(prefix_text).collect();
        let _ = writeln!(out, "AllowedIPs = {}", prefixes.join(", "));
    }
    if let Some(endpoint) = &peer.endpoint {
        let _ = writeln!(out, "Endpoint = {endpoint}");
    }
    if peer.persistent_keepalive != 0 {
        let _ = writeln!(out, "PersistentKeepalive = {}", peer.persistent_keepalive);
    }
}
