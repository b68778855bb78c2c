//! An update as lines, for pipes and files.

use serde::Serialize;

use super::model::{Model, age, clock, short};
use crate::{
    failure::{Failure, Result},
    output::{print, print_raw},
    show::{json, units},
};

/// Returns a line for the tunnel, one for each peer, one for each event.
pub(super) fn print_lines(model: &Model) -> Result<()> {
    print(&lines(model))
}

fn lines(model: &Model) -> String {
    let time = clock(model.time);
    let mut out = String::new();
    let mut line = |text: String| out += &format!("{time} {} {text}\n", model.name);
    if let Some(reason) = &model.lost {
        line(format!("lost: {reason}"));
        return out;
    }
    let (rx, tx) = model.total.latest();
    let counted = model.counters.map(|c| format!(", {} dropped, {} errors", c.dropped, c.errors)).unwrap_or_default();
    let peers = model.state.peers.len();
    line(format!("{peers} peers, received {}/s, sent {}/s{counted}", units::bytes(rx), units::bytes(tx)));
    for peer in &model.state.peers {
        let (rx, tx) = model.peers.get(&peer.public_key).map(super::model::Rates::latest).unwrap_or_default();
        let endpoint = peer.endpoint.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        line(format!(
            "peer {} at {endpoint}: received {}/s, sent {}/s, handshake {}",
            short(&peer.public_key),
            units::bytes(rx),
            units::bytes(tx),
            age(peer, model.time)
        ));
    }
    for event in model.events.iter().skip(model.events.len() - model.news) {
        line(format!("event: {}", event.text));
    }
    out
}

#[derive(Serialize)]
struct Look<'a> {
    /// Seconds since 1970.
    time: u64,
    error: Option<&'a str>,
    rx_bytes_per_second: u64,
    tx_bytes_per_second: u64,
    dropped: Option<u64>,
    errors: Option<u64>,
    tunnel: json::Tunnel,
    events: Vec<&'a str>,
}

pub(super) fn print_json(model: &Model) -> Result<()> {
    let (rx, tx) = model.total.latest();
    let look = Look {
        time: model.time,
        error: model.lost.as_deref(),
        rx_bytes_per_second: rx,
        tx_bytes_per_second: tx,
        dropped: model.counters.map(|counters| counters.dropped),
        errors: model.counters.map(|counters| counters.errors),
        tunnel: json::tunnel(&model.name, &model.state, &vec![None; model.state.peers.len()]),
        events: model.events.iter().skip(model.events.len() - model.news).map(|event| event.text.as_str()).collect(),
    };
    let mut text = serde_json::to_string(&look).map_err(|e| Failure::new(format!("cannot write JSON: {e}")))?;
    text.push('\n');
    print_raw(text.as_bytes())
}
