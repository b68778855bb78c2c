//! `FwMark` without the permission to set it.

use std::io;

use wg_embed::bind::{Bind, udp::UdpBind};

use super::config::Config;

/// Removes the mark from a configuration, with a warning, if this process may not set marks: a file that wg-quick uses
/// as root works here as well.
pub(super) fn permit(config: &mut Config) {
    let mark = &mut config.conf.update.fwmark;
    let Some(wanted) = mark.filter(|mark| *mark != 0) else { return };
    if let Err(error) = set(wanted)
        && error.kind() == io::ErrorKind::PermissionDenied
    {
        tracing::warn!("[Interface] FwMark is ignored: {error}");
        *mark = Some(0);
    }
}

/// Sets a mark of sockets that are used for nothing else.
fn set(mark: u32) -> io::Result<()> {
    let bind = UdpBind::new()?;
    bind.open(0)?;
    bind.set_mark(mark)
}
