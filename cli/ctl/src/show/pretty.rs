//! The output of `wg show` for people, with additions.

use std::{cmp::Reverse, fmt::Write as _};

use anstyle::Style;
use wg_embed::config::snapshot::PeerSnapshot;

use super::{Echoes, units};
use crate::{
    output::{BOLD, CYAN, GREEN, YELLOW, styled},
    state::{State, prefix_text, preshared},
};

/// Returns the lines of one tunnel; `echoes` has one entry for each peer.
pub(super) fn text(name: &str, state: &State, echoes: &[Echoes], hide_keys: bool) -> String {
    let mut out = String::new();
    let hidden = |key: &str| if hide_keys { "(hidden)".to_owned() } else { key.to_owned() };
    title(&mut out, GREEN, "interface", name);
    if let Some(key) = &state.interface.private_key {
        line(&mut out, "public key", key.public_key());
        line(&mut out, "private key", hidden(&key.to_base64()));
    }
    if state.interface.listen_port != 0 {
        line(&mut out, "listening port", state.interface.listen_port);
    }
    if state.interface.fwmark != 0 {
        line(&mut out, "fwmark", format_args!("{:#x}", state.interface.fwmark));
    }
    let mut peers: Vec<_> = state.peers.iter().zip(echoes).collect();
    // The latest handshake first, those without one last.
    peers.sort_by_key(|(peer, _)| Reverse(peer.last_handshake));
    for (peer, echo) in peers {
        out.push('\n');
        title(&mut out, YELLOW, "peer", &peer.public_key.to_string());
        if let Some(key) = preshared(peer) {
            line(&mut out, "preshared key", hidden(&key.to_base64()));
        }
        peer_lines(&mut out, peer, echo);
    }
    out
}

fn peer_lines(out: &mut String, peer: &PeerSnapshot, echo: &Echoes) {
    if let Some(endpoint) = &peer.endpoint {
        line(out, "endpoint", endpoint);
    }
    let prefixes: Vec<_> = peer.allowed_ips.iter().map(prefix_text).collect();
    let prefixes: Vec<_> = prefixes.iter().map(|text| text.replacen('/', &styled(CYAN, "/"), 1)).collect();
    line(out, "allowed ips", if prefixes.is_empty() { "(none)".into() } else { prefixes.join(", ") });
    if peer.last_handshake.as_secs() != 0 {
        line(out, "latest handshake", units::ago(peer.last_handshake, units::now()));
    }
    if peer.rx_bytes != 0 || peer.tx_bytes != 0 {
        let (rx, tx) = (units::bytes(peer.rx_bytes), units::bytes(peer.tx_bytes));
        line(out, "transfer", format_args!("{rx} received, {tx} sent"));
    }
    if peer.persistent_keepalive != 0 {
        line(out, "persistent keepalive", format_args!("every {}", units::span(peer.persistent_keepalive.into())));
    }
    if let Some(echo) = echo {
        match echo.round_trip {
            Some(time) => {
                line(out, "round trip", format_args!("{:.1} {}", time.as_secs_f64() * 1e3, styled(CYAN, "ms")))
            }
            None => line(out, "round trip", "no answer"),
        }
        let lost = echo.sent.saturating_sub(echo.received);
        line(
            out,
            "loss",
            format_args!("{}% ({lost} of {})", u32::from(lost) * 100 / u32::from(echo.sent.max(1)), echo.sent),
        );
    }
}

fn title(out: &mut String, colour: Style, what: &str, name: &str) {
    let _ = writeln!(out, "{}: {}", styled(colour.bold(), what), styled(colour, name));
}

fn line(out: &mut String, what: &str, value: impl std::fmt::Display) {
    let _ = writeln!(out, "  {}: {value}", styled(BOLD, what));
}
