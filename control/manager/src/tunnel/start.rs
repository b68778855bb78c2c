//! A start, on a thread of its own.

use super::{Changes, Engine, Plan, Running, Settings, Source};
use crate::{
    messages::{NetworkSettingsRequest, StartRequest, TunnelSide, manager_message, tunnel_message},
    speaker::{CallError, Speaker},
};
use std::sync::Arc;

/// What a start has come to.
pub(super) struct Started<C> {
    /// Without what the engine has got.
    pub(super) plan: Plan<()>,
    pub(super) running: Up<C>,
}

/// A tunnel that runs; when this is dropped, it is stopped. So none is left over that comes when nobody waits for it.
pub(super) struct Up<C>(pub(super) Arc<dyn Running<C>>);

impl<C> Drop for Up<C> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Finds the peers, has the network configured, and starts the engine.
///
/// # Errors
/// A text for the manager.
pub(super) fn start<E: Engine>(
    speaker: &Speaker<TunnelSide>,
    how: Settings,
    source: &dyn Source<Configuration = E::Configuration>,
    engine: &E,
    request: &StartRequest,
    changes: Changes<E::Configuration>,
) -> Result<Started<E::Configuration>, String> {
    check(request)?;
    let failed = |e| format!("failed to start connection: {e}");
    let plan = source.resolve(request, changes).map_err(failed)?;
    configure(speaker, how, engine, &plan.settings).map_err(failed)?;
    let descriptor = Some(request.tunnel_file_descriptor).filter(|descriptor| *descriptor > 0);
    let running = Up(engine.start(descriptor, plan.configuration).map_err(failed)?);
    let plan = Plan { settings: plan.settings, workspaces: plan.workspaces, agents: plan.agents, configuration: () };
    Ok(Started { plan, running })
}

/// What a source need not check.
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

/// Has the system's network configured.
///
/// # Errors
/// A text for the manager.
pub(super) fn configure<E: Engine>(
    speaker: &Speaker<TunnelSide>,
    how: Settings,
    engine: &E,
    all: &[NetworkSettingsRequest],
) -> Result<(), String> {
    for settings in all {
        match how {
            Settings::Ask { timeout } => {
                let request = tunnel_message::Msg::NetworkSettings(settings.clone());
                match speaker.call(request, timeout) {
                    Ok(manager_message::Msg::NetworkSettings(response)) if response.success => {}
                    Ok(manager_message::Msg::NetworkSettings(response)) => {
                        return Err(format!("network settings failed: {}", response.error_message));
                    }
                    Ok(_) => return Err("rpc failure: the response is not that to a request for settings".into()),
                    Err(CallError::TimedOut) => return Err("network settings failed: no response in time".into()),
                    Err(e) => return Err(format!("rpc failure: {e}")),
                }
            }
            Settings::Own => {
                engine.configure(settings).map_err(|e| format!("network settings failed: {e}"))?;
            }
        }
    }
    Ok(())
}
