//! `manager`: the VPN manager protocol.

#[cfg(target_os = "linux")]
mod events;
#[cfg(target_os = "linux")]
mod queue;
#[cfg(target_os = "linux")]
pub(crate) mod run;

use std::ffi::OsString;

use crate::{daemon, failure::Result};

/// Runs the tunnel's side with the daemon.
pub(crate) fn tunnel(arguments: Vec<OsString>) -> Result<()> {
    daemon::become_it(["vpn-daemon".into(), "run".into()].into_iter().chain(arguments))
}
