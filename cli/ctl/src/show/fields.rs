//! A single field, as `wg show NAME FIELD` prints it for scripts.

use std::fmt::{Display, Write as _};

use wg_embed::{config::snapshot::PeerSnapshot, key::PrivateKey};

use crate::{
    arguments::Field,
    state::{State, prefix_text, preshared},
};

const NONE: &str = "(none)";

/// Returns the lines of a field; with `name` in front of each if several tunnels are shown.
pub(super) fn text(state: &State, field: Field, name: Option<&str>) -> String {
    let interface = &state.interface;
    let of_interface = match field {
        Field::PublicKey => Some(or_none(state.public_key())),
        Field::PrivateKey => Some(or_none(interface.private_key.as_ref().map(|key| key.to_base64().to_string()))),
        Field::ListenPort => Some(interface.listen_port.to_string()),
        Field::Fwmark => Some(mark(interface.fwmark)),
        Field::Dump => Some(format!(
            "{}\t{}\t{}\t{}",
            or_none(interface.private_key.as_ref().map(|key: &PrivateKey| key.to_base64().to_string())),
            or_none(state.public_key()),
            interface.listen_port,
            mark(interface.fwmark)
        )),
        _ => None,
    };
    let mut out = String::new();
    let mut line = |text: &str| {
        let _ = match name {
            Some(name) => writeln!(out, "{name}\t{text}"),
            None => writeln!(out, "{text}"),
        };
    };
    if let Some(text) = &of_interface {
        line(text);
    }
    if of_interface.is_none() || field == Field::Dump {
        for peer in &state.peers {
            line(&of_peer(peer, field));
        }
    }
    out
}

fn of_peer(peer: &PeerSnapshot, field: Field) -> String {
    let key = peer.public_key;
    let psk = || or_none(preshared(peer).map(|key| key.to_base64().to_string()));
    let endpoint = || or_none(peer.endpoint.as_ref());
    let prefixes = |between: &str| {
        let list: Vec<_> = peer.allowed_ips.iter().map(prefix_text).collect();
        if list.is_empty() { NONE.to_owned() } else { list.join(between) }
    };
    let keepalive = || match peer.persistent_keepalive {
        0 => "off".to_owned(),
        seconds => seconds.to_string(),
    };
    let handshake = peer.last_handshake.as_secs();
    match field {
        Field::PresharedKeys => format!("{key}\t{}", psk()),
        Field::Endpoints => format!("{key}\t{}", endpoint()),
        Field::AllowedIps => format!("{key}\t{}", prefixes(" ")),
        Field::LatestHandshakes => format!("{key}\t{handshake}"),
        Field::Transfer => format!("{key}\t{}\t{}", peer.rx_bytes, peer.tx_bytes),
        Field::PersistentKeepalive => format!("{key}\t{}", keepalive()),
        Field::Dump => format!(
            "{key}\t{}\t{}\t{}\t{handshake}\t{}\t{}\t{}",
            psk(),
            endpoint(),
            prefixes(","),
            peer.rx_bytes,
            peer.tx_bytes,
            keepalive()
        ),
        _ => key.to_string(),
    }
}

fn or_none(value: Option<impl Display>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| value.to_string())
}

fn mark(mark: u32) -> String {
    if mark == 0 { "off".to_owned() } else { format!("{mark:#x}") }
}
