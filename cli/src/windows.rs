//! Runs the daemon on Windows: adapter, tunnel and control pipe, until one of them ends or Ctrl-C is pressed.

pub(crate) mod console;

use std::{path::Path, sync::Arc, time::Duration};

use wg_embed::{
    Error,
    error::Result,
    ipc::{DIRECTORY, Listener},
    tun::windows::WintunTun,
};

use crate::{
    arguments::Run,
    log,
    running::{Limits, Running},
    stderr, wireproto,
};

/// How long to wait for a daemon that had this name to release the pipe.
const PATIENCE: Duration = Duration::from_secs(1);

/// Runs the daemon until it ends.
pub(crate) fn start(run: &Run) -> std::result::Result<(), String> {
    let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if let Some(name) = ["WG_TUN_FD", "WG_UAPI_FD"].into_iter().find(is_set) {
        return Err(format!("{name}: descriptors cannot be passed to the daemon on Windows"));
    }
    if run.user.is_some() {
        return Err("--user: the daemon cannot change its user on Windows".into());
    }
    if !run.foreground {
        return Err("the daemon cannot run in the background on Windows: use --foreground, or a service".into());
    }
    serve(run).map_err(|error| error.to_string())
}

fn serve(run: &Run) -> Result<()> {
    let name = &*run.interface;
    let limits = Limits::from_environment()?;
    log::init(name);
    stderr::start().map_err(|e| Error::io("cannot start the log", e))?;
    tracing::debug!(version = env!("CARGO_PKG_VERSION"), "starting");
    let directory = run.socket_directory.as_deref().unwrap_or(Path::new(DIRECTORY));
    // Before there is an adapter: Windows then has nothing to remove if the name is taken.
    let mut listeners = vec![Listener::claim(directory, name, PATIENCE)?];
    if let Some(path) = &run.wireproto_socket {
        listeners.push(wireproto::claim(path, PATIENCE)?);
    }
    let running = Running::start(Arc::new(WintunTun::create(name, 0)?), listeners, limits)?;
    console::watch(running.ends()).map_err(|e| Error::io("cannot wait for Ctrl-C", e))?;
    tracing::debug!(name, "the interface and its control pipe are there");
    if let Some(reason) = running.wait() {
        tracing::debug!(reason, "shutting down");
    }
    running.stop()
}
