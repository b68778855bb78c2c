//! Addresses for the host names of endpoints, which the UAPI does not accept.

use std::net::ToSocketAddrs;

use wg_embed::config::{PeerEndpoint, Update};

use crate::failure::{Failure, Result};

/// Replaces each host name by the first of its addresses.
pub(crate) fn names(update: &mut Update) -> Result<()> {
    for peer in &mut update.peers {
        if let Some(PeerEndpoint::Host(host)) = &peer.endpoint {
            let failed = |reason: String| Failure::new(format!("cannot find the address of {}: {reason}", host.host()));
            let mut addresses =
                (host.host(), host.port()).to_socket_addrs().map_err(|error| failed(error.to_string()))?;
            let address = addresses.next().ok_or_else(|| failed("it has none".into()))?;
            peer.endpoint = Some(address.into());
        }
    }
    Ok(())
}
