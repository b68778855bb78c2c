//! Conversion of a [`wg_manager_state_t`].

use std::{
    collections::{HashMap, HashSet},
    ffi::c_char,
    net::IpAddr,
};

use crate::{
    WG_CONFIG_LEN_MAX, WG_PEERS_MAX,
    plumbing::{
        memory::borrow_up_to,
        sized::{Received, read_sized},
        text::borrow_text,
    },
    types::manager::{wg_manager_agent_t, wg_manager_state_t, wg_manager_workspace_t},
};
use wg_embed::{
    error::{Error, ErrorKind, Result},
    key::PublicKey,
};
use wg_embed_manager::{
    messages::workspace::Status,
    tunnel::{Agent, Id, Workspace},
};
use wg_embed_tunnel::{contents::Contents, engine::Peer, lines};

/// The name of a workspace without one.
const NAME: &str = "wg";

/// Reads what the app has now.
///
/// # Safety
/// As in [`wg_manager_update`](crate::wg_manager_update).
pub(crate) unsafe fn read(state: *const wg_manager_state_t) -> Result<Contents> {
    // SAFETY: the caller's contract is the same.
    let Received { value: state, unknown_fields } = unsafe { read_sized(state, "state") }?;
    unknown_fields?;
    if state.conf.is_null() {
        return Err(Error::new(ErrorKind::Null, "conf is NULL"));
    }
    // SAFETY: there are as many, says the caller.
    let conf = unsafe { borrow_up_to(WG_CONFIG_LEN_MAX, state.conf.cast::<u8>(), state.conf_len, "bytes of conf") }?;
    // SAFETY: NULL or text, says the caller.
    let name = unsafe { optional(state.name, "name") }?.unwrap_or(NAME);
    let mut contents = Contents::of_conf(name.as_bytes(), name, conf)?;
    // SAFETY: as above.
    if let Some(settings) = unsafe { optional(state.settings, "settings") }? {
        contents.settings = lines::parse(settings).map_err(|reason| Error::invalid(format!("settings: {reason}")))?;
    }
    if state.agents.is_null() && state.agent_count == 0 {
        return match state.workspaces.is_null() && state.workspace_count == 0 {
            true => Ok(contents),
            false => Err(Error::new(ErrorKind::Null, "workspaces is set, and agents is NULL")),
        };
    }
    let most = WG_PEERS_MAX as usize;
    // SAFETY: there are as many, says the caller.
    let workspaces = unsafe { borrow_up_to(most, state.workspaces, state.workspace_count, "workspaces") }?;
    // SAFETY: as above.
    let agents = unsafe { borrow_up_to(most, state.agents, state.agent_count, "agents") }?;
    let mut ids = HashSet::new();
    contents.workspaces = Vec::new();
    for (number, given) in workspaces.iter().enumerate() {
        // SAFETY: its text is text, says the caller.
        let workspace = unsafe { workspace(given) }.and_then(|workspace| match ids.insert(workspace.id) {
            true => Ok(workspace),
            false => Err(Error::invalid("its id is that of another one")),
        });
        contents.workspaces.push(workspace.map_err(|e| e.at(format_args!("workspaces[{number}]")))?);
    }
    contents.agents = Vec::new();
    contents.configuration.peers = HashMap::new();
    for (number, given) in agents.iter().enumerate() {
        // SAFETY: its texts are NULL or texts, says the caller.
        let agent = unsafe { agent(given) }.and_then(|(agent, peer)| {
            if !ids.contains(&agent.workspace) {
                return Err(Error::invalid("its workspace is not in workspaces"));
            }
            match contents.configuration.peers.insert(agent.id, peer) {
                None => Ok(agent),
                Some(_) => Err(Error::invalid("its id is that of another one")),
            }
        });
        contents.agents.push(agent.map_err(|e| e.at(format_args!("agents[{number}]")))?);
    }
    Ok(contents)
}

/// # Safety
/// It is NULL or text.
unsafe fn optional<'a>(text: *const c_char, name: &str) -> Result<Option<&'a str>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's contract is the same.
    unsafe { borrow_text(text, name) }.map(Some)
}

/// # Safety
/// Its name is NULL or text.
unsafe fn workspace(given: &wg_manager_workspace_t) -> Result<Workspace> {
    if given.reserved != 0 {
        return Err(Error::invalid("reserved is not 0"));
    }
    // SAFETY: the caller's contract is the same.
    let name = unsafe { borrow_text(given.name, "name") }?.to_owned();
    let status = i32::try_from(given.status).ok().and_then(|status| Status::try_from(status).ok());
    let status = status.ok_or_else(|| Error::invalid(format!("status is {}", given.status)))?;
    Ok(Workspace { id: Id(given.id), name, status })
}

/// # Safety
/// Its texts are NULL or texts.
unsafe fn agent(given: &wg_manager_agent_t) -> Result<(Agent, Peer)> {
    // SAFETY: the caller's contract is the same.
    let name = unsafe { borrow_text(given.name, "name") }?;
    if name.is_empty() {
        return Err(Error::invalid("name is empty"));
    }
    // SAFETY: as above.
    let fqdns = unsafe { optional(given.fqdns, "fqdns") }?;
    // SAFETY: as above.
    let addresses = unsafe { optional(given.addresses, "addresses") }?;
    // SAFETY: as above.
    let ping = unsafe { optional(given.ping, "ping") }?;
    let addresses = items(addresses).map(|text| ip("addresses", text)).collect::<Result<Vec<_>>>()?;
    let address = match ping.map(str::trim) {
        None => addresses.first().copied(),
        Some("") => None,
        Some(text) => Some(ip("ping", text)?),
    };
    let fqdn = items(fqdns).map(str::to_owned).collect();
    let agent = Agent { id: Id(given.id), name: name.to_owned(), workspace: Id(given.workspace), fqdn, addresses };
    Ok((agent, Peer { public_key: PublicKey::from_bytes(given.public_key), address }))
}

/// Returns the items between commas.
fn items(text: Option<&str>) -> impl Iterator<Item = &str> {
    let text = text.map(str::trim).filter(|text| !text.is_empty());
    text.into_iter().flat_map(|text| text.split(',')).map(str::trim)
}

fn ip(name: &str, text: &str) -> Result<IpAddr> {
    text.parse().map_err(|_| Error::invalid(format!("{name}: \"{text}\" is not an IP address")))
}
