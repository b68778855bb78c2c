//! A start, on its own thread.

use super::{Changes, Engine, Plan, Running, Settings, Source, network::Network};
use crate::messages::StartRequest;
use std::sync::Arc;

/// The result of a start.
pub(super) struct Started<C> {
    /// The result, without the engine's tunnel.
    pub(super) plan: Plan<()>,
    pub(super) running: Up<C>,
    /// Who configures the system's network from now on.
    pub(super) how: Settings,
}

/// A running tunnel, which is stopped when this is dropped, so that none remains if nothing waits for it any more.
pub(super) struct Up<C>(pub(super) Arc<dyn Running<C>>);

impl<C> Drop for Up<C> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Finds the peers, opens the interface, has the network configured for it, and starts the tunnel. The interface is
/// opened first, so that the manager can also configure an interface of the engine.
///
/// # Errors
/// A text for the manager.
pub(super) fn start<E: Engine>(
    network: &Network,
    how: Settings,
    source: &dyn Source<Configuration = E::Configuration>,
    engine: &E,
    request: &StartRequest,
    changes: Changes<E::Configuration>,
) -> Result<Started<E::Configuration>, String> {
    check(request)?;
    let failed = |e| format!("failed to start connection: {e}");
    let Plan { settings, workspaces, agents, configuration } = source.resolve(request, changes).map_err(failed)?;
    let descriptor = Some(request.tunnel_file_descriptor).filter(|descriptor| *descriptor > 0);
    let mut opened = engine.open(descriptor, configuration).map_err(failed)?;
    let how = how.for_engine(opened.configures());
    network.configure(how, &settings, |all| opened.configure(all)).map_err(failed)?;
    let running = Up(opened.start().map_err(failed)?);
    Ok(Started { plan: Plan { settings, workspaces, agents, configuration: () }, running, how })
}

/// Checks the parts of a request that a source need not check.
fn check(request: &StartRequest) -> Result<(), String> {
    let url = &request.coder_url;
    if url.is_empty() {
        return Err("missing coder url".into());
    }
    let reason = if url.contains(|char: char| char.is_ascii_control()) {
        "invalid control character in URL"
    } else if !url.split_once(':').is_some_and(|(scheme, _)| is_scheme(scheme)) {
        "missing protocol scheme"
    } else if request.api_token.is_empty() {
        return Err("missing api token".into());
    } else {
        return Ok(());
    };
    Err(format!("parse url {}: {reason}", super::quote(url.as_bytes())))
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|char: char| char.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}
