//! `show`: tunnels and their peers, in the forms of wg(8) and as JSON.

mod fields;
pub(crate) mod json;
mod pretty;
pub(crate) mod units;

use std::env;

#[cfg(target_os = "linux")]
use crate::ping;
use crate::{
    arguments::Show,
    failure::{Failure, Result},
    output::{complain, print, print_json, print_raw},
    socket::Sockets,
    state::State,
};

/// The results of pings of a peer, if it was pinged.
pub(crate) type Echoes = Option<Echo>;

/// The results of pings of one peer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Echo {
    pub(crate) sent: u16,
    pub(crate) received: u16,
    /// Returns the mean of the round-trip times.
    pub(crate) round_trip: Option<std::time::Duration>,
}

pub(crate) fn run(sockets: &Sockets, show: &Show) -> Result<()> {
    match show.name.as_deref() {
        Some("interfaces") => interfaces(sockets, show),
        None | Some("all") => all(sockets, show),
        Some(name) => {
            let state = sockets.connect(name)?.get()?;
            match show.field {
                Some(field) => print_field(&fields::text(&state, field, None)),
                None if show.json => print_json(&json::tunnel(name, &state, &echoes(show, name, &state)?)),
                None => print(&pretty::text(name, &state, &echoes(show, name, &state)?, hides_keys())),
            }
        }
    }
}

/// Returns whether secret keys are hidden, by the rules of wg(8).
pub(crate) fn hides_keys() -> bool {
    env::var_os("WG_HIDE_KEYS").is_none_or(|value| value != "never")
}

fn print_field(text: &str) -> Result<()> {
    print_raw(text.as_bytes())
}

#[cfg(target_os = "linux")]
fn echoes(show: &Show, name: &str, state: &State) -> Result<Vec<Echoes>> {
    match show.ping {
        Some(count) => ping::peers(name, state, count),
        None => Ok(vec![None; state.peers.len()]),
    }
}

#[cfg(not(target_os = "linux"))]
fn echoes(_: &Show, _: &str, state: &State) -> Result<Vec<Echoes>> {
    Ok(vec![None; state.peers.len()])
}

fn interfaces(sockets: &Sockets, show: &Show) -> Result<()> {
    if show.field.is_some() {
        return Err(Failure::usage("`show interfaces` takes no field"));
    }
    let names = sockets.answering()?;
    if show.json {
        return print_json(&names);
    }
    if names.is_empty() { Ok(()) } else { print_raw(format!("{}\n", names.join(" ")).as_bytes()) }
}

/// Shows each tunnel. Tunnels that cannot be read are reported; if none can be read, that is a failure.
fn all(sockets: &Sockets, show: &Show) -> Result<()> {
    let names = sockets.answering()?;
    let mut failures = 0;
    let mut shown = Vec::new();
    for name in &names {
        match sockets.connect(name).and_then(|mut client| client.get()) {
            Ok(state) => shown.push((name, state)),
            Err(failure) => {
                failures += 1;
                complain(&format!("wg-embedctl: {name}: {}", failure.text));
            }
        }
    }
    if let Some(field) = show.field {
        let texts: Vec<_> = shown.iter().map(|(name, state)| fields::text(state, field, Some(name))).collect();
        print_field(&texts.concat())?;
    } else {
        let mut tunnels = Vec::new();
        for (name, state) in &shown {
            tunnels.push((name, state, echoes(show, name, state)?));
        }
        if show.json {
            let json: Vec<_> = tunnels.iter().map(|(name, state, echoes)| json::tunnel(name, state, echoes)).collect();
            print_json(&json)?;
        } else {
            let pretty = |(name, state, echoes): &(&&String, &State, Vec<Echoes>)| {
                pretty::text(name, state, echoes, hides_keys())
            };
            let texts: Vec<_> = tunnels.iter().map(pretty).collect();
            print(&texts.join("\n"))?;
        }
    }
    if failures > 0 && shown.is_empty() { Err(Failure::reported()) } else { Ok(()) }
}
